"""Coverage: what of a run's joules was measured, part by part, and what of the node the total leaves out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ergometry.core.run import Run
from ergometry.work import accounts
from ergometry.work.coverage import ABSENT, MEASURED, MODELLED, SEEN, SEEN_STDERR, UNUSED, Coverage, Part
from support.odd_runs import mixed, whole_node, with_samples
from support.synthetic import BOARD, MEMORY_MODEL, NODE, PACKAGE, board, synthetic_run, with_source
from support.synthetic import MODELLED as CPU_MODEL

DRAM = replace(PACKAGE, domain="node0/dram0", method="rapl dram", wrap_j=None)
PSYS = replace(PACKAGE, domain="node0/psys", method="rapl psys", wrap_j=None)


def bare(**meta) -> Run:
    return replace(synthetic_run(50, evaluate_every=1000, **meta), samples=())


def covered(run: Run) -> Coverage:
    return accounts(run).coverage


def parts(run: Run) -> dict[str, Part]:
    return {part.part: part for part in covered(run).parts}


def test_what_sensors_read_is_measured_and_what_models_give_is_not():
    model = replace(CPU_MODEL, rel_stderr=0.1)
    run = with_source(with_source(bare(), "cpu_model", {model: 40.0}), "nvml", {BOARD: 160.0})
    measured = covered(run).measured
    assert measured.value == pytest.approx(0.8, rel=0.01)
    # Each of the two is uncertain by its own error: 10 % of a fifth, 5 % of four fifths, times the other's share.
    assert measured.stderr == pytest.approx(0.8 * 0.2 * math.hypot(0.1, 0.05), rel=0.02)
    assert {name: part.how for name, part in parts(run).items()} == {
        "processors": MODELLED,
        "memory": ABSENT,
        "accelerators": MEASURED,
        "rest of the node": MODELLED,
    }


@pytest.mark.parametrize(("signal", "fraction"), [(PACKAGE, 1.0), (CPU_MODEL, 0.0)])
def test_a_run_is_all_measured_or_all_modelled_where_its_only_source_is(signal, fraction):
    assert covered(with_source(bare(), "one", {replace(signal, wrap_j=None): 40.0})).measured.value == fraction


def test_the_parts_are_the_total_s_and_name_their_domains():
    run = mixed()
    found = parts(run)
    books = accounts(run)
    assert found["accelerators"].domains == ("node0/gpu0", "node0/gpu1")
    assert found["memory"].energy == books.by_component["memory"]
    assert found["memory"].how == MODELLED
    included = [part.energy.value for part in found.values() if part.included]
    assert math.fsum(included) == pytest.approx(books.total.value, rel=1e-12)


def test_a_metered_node_s_rest_is_by_difference_with_its_error():
    run = whole_node()
    found, books = parts(run), accounts(run)
    rest = found["rest of the node"]
    assert (rest.how, rest.included, rest.domains) == (MEASURED, True, ("node0",))
    # The board's counter is read late by half its period: that much of its joules is the rest's.
    assert rest.energy.value == pytest.approx((420.0 - 60.0 - 5.0 - 250.0) * run.duration_s, rel=0.005)
    errors = [books.by_domain[d].stderr for d in ("node0", "node0/gpu0", "node0/package0", "node0/dram0")]
    assert rest.energy.stderr == pytest.approx(math.hypot(*errors), rel=1e-6)
    assert covered(run).wall == books.total


def test_a_metered_node_with_modelled_processors_is_measured_and_its_rest_is_not():
    run = with_source(with_source(bare(), "cpu_model", {CPU_MODEL: 50.0}), "ipmi", {NODE: 300.0})
    assert covered(run).measured.value == 1
    assert parts(run)["processors"].how == MODELLED
    assert parts(run)["rest of the node"].how == MODELLED


def test_a_node_read_alone_is_the_whole_reading():
    run = with_source(bare(devices=["H100"]), "ipmi", {NODE: 300.0})
    found = parts(run)
    assert found["rest of the node"].energy == accounts(run).total
    for name in ("processors", "memory", "accelerators"):
        assert found[name].how == MEASURED
        assert not found[name].energy.known
        assert found[name].why == "in node0, not metered apart"


def test_a_platform_counter_leaves_out_supply_and_fans_and_holds_no_accelerator():
    run = with_source(
        bare(devices=["H100"]), "rapl", {PSYS: 80.0, replace(PACKAGE, domain="node0/psys/package0"): 50.0}
    )
    found = parts(run)
    assert found["rest of the node"].energy.value == pytest.approx(30.0 * run.duration_s, rel=1e-3)
    assert "are not included" in found["rest of the node"].why
    assert found["memory"].why == "in node0/psys, not metered apart"
    assert found["accelerators"].how == ABSENT
    assert not covered(run).wall.known


def test_the_rest_of_a_node_that_is_not_metered_is_modelled_and_not_in_the_total():
    run = with_source(bare(), "rapl", {replace(PACKAGE, wrap_j=None): 60.0})
    rest, wall = parts(run)["rest of the node"], covered(run).wall
    spent = accounts(run).total
    assert not rest.included
    assert wall.value == pytest.approx(spent.value / SEEN)
    assert rest.energy.value == pytest.approx(wall.value - spent.value)
    assert rest.energy.stderr == pytest.approx(wall.value * SEEN_STDERR / SEEN, rel=1e-3)
    assert (rest.how, rest.energy.provenance) == (MODELLED, "modelled")
    low, high = (spent.value / share for share in (0.80, 0.70))
    assert wall.value - wall.stderr < low < high < wall.value + wall.stderr


def test_an_accelerator_in_use_that_nobody_metered_is_missing_and_the_wall_is_not_known():
    run = with_source(bare(devices=["NVIDIA H100"]), "rapl", {replace(PACKAGE, wrap_j=None): 60.0})
    accelerators = parts(run)["accelerators"]
    assert (accelerators.how, accelerators.included) == (ABSENT, False)
    assert "no counter of the accelerators could be read" in accelerators.why
    assert not covered(run).wall.known
    assert "accelerators are missing" in covered(run).wall.why
    assert parts(bare())["accelerators"].why == UNUSED


def test_a_source_that_was_read_too_little_is_named():
    run = with_samples(with_source(bare(), "nvml", {BOARD: 200.0}), 1)
    assert parts(run)["accelerators"].why == "too few readings of node0/gpu0: not in the total"


def test_a_rail_that_is_no_part_by_itself_is_the_rest_of_the_node_s():
    rail = replace(PACKAGE, domain="node0/sysio", wrap_j=None)
    run = with_source(bare(), "hwmon", {rail: 7.0, DRAM: 3.0})
    found = parts(run)
    assert found["rest of the node"].energy.value == pytest.approx(7.0 * run.duration_s, rel=1e-3)
    assert found["processors"].how == ABSENT
    assert found["memory"].energy.value == pytest.approx(3.0 * run.duration_s, rel=1e-3)


def test_of_two_sources_of_one_part_one_modelled_the_part_is_modelled_and_says_which():
    model = board(1, provenance="modelled", method="from utilisation and clocks")
    run = with_source(with_source(bare(), "nvml", {BOARD: 200.0}), "gpu_model", {model: 100.0})
    accelerators = parts(run)["accelerators"]
    assert accelerators.how == MODELLED
    assert accelerators.why.startswith("node0/gpu1 modelled, the others measured")
    assert covered(run).measured.value == pytest.approx(2 / 3, rel=0.01)


def test_memory_on_a_board_is_memory_and_its_joules_stay_the_board_s():
    scope = replace(
        BOARD, domain="node0/gpu0/memory", quantity="power_w", method="NVML memory power", update_period_s=0.0
    )
    run = with_source(bare(), "nvml", {BOARD: 200.0, scope: 60.0})
    books = accounts(run)
    assert books.by_component["memory"].value == pytest.approx(60.0 * run.duration_s, rel=1e-6)
    assert parts(run)["accelerators"].domains == ("node0/gpu0",)
    assert books.coverage.measured.value == 1


def test_the_idle_power_of_a_domain_that_holds_metered_memory_is_not_counted_beside_it():
    psys = replace(PSYS, static_w=20.0, static_rel_stderr=0.1)
    dram = replace(DRAM, domain="node0/psys/dram0")
    static = accounts(with_source(bare(), "rapl", {psys: 80.0, dram: 5.0})).by_component["static"]
    assert not static.known
    assert "node0/psys has that of memory in it" in static.why
    assert accounts(with_source(bare(), "rapl", {psys: 80.0})).by_component["static"].known


def test_modelled_memory_beside_modelled_processors_leaves_an_explicit_residual():
    run = with_source(with_source(bare(), "cpu_model", {CPU_MODEL: 40.0}), "memory_model", {MEMORY_MODEL: 8.0})
    components = accounts(run).by_component
    assert components["memory"].provenance == "modelled"
    assert components["memory"].value == pytest.approx(8.0 * run.duration_s)
    assert components["static"].value == pytest.approx(8.0 * run.duration_s)  # of the processors alone
    assert components["residual"].value == pytest.approx((40.0 + 8.0 - 8.0 - 8.0) * run.duration_s)
    assert "static and memory" in components["residual"].method


def test_nothing_read_is_nothing_measured_and_says_why():
    found = covered(bare())
    assert not found.measured.known
    assert "no power source was read" in found.measured.why
    assert all(part.how == ABSENT for part in found.parts)
