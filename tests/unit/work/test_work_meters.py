"""Meters: of readings that overlap the outermost counts, unless it cannot be trusted; the rest is by difference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.domain import Domain
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Signal
from ergometry.core.run import Run
from ergometry.work import accounts
from ergometry.work.meters import metering, read_share, unread_s
from support.odd_runs import with_table
from support.synthetic import BOARD as LATE_BOARD
from support.synthetic import MODELLED, NODE, PACKAGE, board, synthetic_run, with_source

# Updated at every reading, so that what it tells is the truth.
BOARD = replace(LATE_BOARD, update_period_s=0.0)
PSYS = replace(PACKAGE, domain="node0/psys", method="rapl psys", wrap_j=None)
IN_PSYS = replace(PACKAGE, domain="node0/psys/package0", wrap_j=None)


def bare(**changes) -> Run:
    """Return a run of 100 steps without a sensor."""
    return replace(synthetic_run(100, evaluate_every=1000, **changes), samples=())


def metered(run: Run):
    return metering(run.traces(), run.duration_s)


def names(run: Run) -> list[str]:
    return [str(domain) for domain in metered(run).cover()]


def test_the_outermost_reading_is_the_total_and_what_lies_in_it_is_not_added():
    run = with_source(with_source(bare(), "rapl", {PSYS: 80.0, IN_PSYS: 50.0}), "nvml", {BOARD: 200.0})
    books = accounts(run)
    assert names(run) == ["node0/psys", "node0/gpu0"]
    assert books.total.value == pytest.approx(280.0 * run.duration_s, rel=1e-9)
    assert books.by_domain["node0/psys/package0"].value == pytest.approx(50.0 * run.duration_s, rel=1e-9)


def test_an_outer_reading_that_ended_early_gives_way_to_those_inside_it_and_that_is_said():
    inner = with_source(bare(), "nvml", {BOARD: 200.0})
    run = with_source(inner, "ipmi", {NODE: 300.0}, sampling_hz=1.0, until_s=6.0)
    assert names(run) == ["node0/gpu0"]
    books = accounts(run)
    assert books.total.value == pytest.approx(200.0 * run.duration_s)
    assert books.coverage.notes == ("node0 was read for 56 % of its joules only: what lies inside it counts",)


def test_an_outer_reading_that_ended_a_little_early_still_counts():
    run = with_source(with_source(bare(), "nvml", {BOARD: 200.0}), "ipmi", {NODE: 300.0}, until_s=10.0)
    assert names(run) == ["node0"]
    assert read_share(metered(run).cover()[Domain("node0")], run.duration_s) == pytest.approx(10.0 / run.duration_s)


def test_of_two_readings_that_ended_early_the_one_read_for_longer_counts():
    run = with_source(with_source(bare(), "nvml", {BOARD: 200.0}, until_s=3.0), "ipmi", {NODE: 300.0}, until_s=6.0)
    assert names(run) == ["node0"]


@pytest.mark.parametrize("until_s", [3.0, 9.0, None])
def test_a_board_that_was_lost_does_not_give_way_to_its_memory(until_s):
    memory = replace(BOARD, domain="node0/gpu0/memory", quantity="power_w")
    run = with_source(bare(), "nvml", {BOARD: 200.0}, until_s=2.5)
    run = with_source(run, "memory", {memory: 40.0}, until_s=until_s)
    assert names(run) == ["node0/gpu0"]
    books = accounts(run)
    assert books.total.value == pytest.approx(200.0 * run.duration_s, rel=1e-3)
    assert (books.total.provenance, books.coverage.notes) == (Provenance.MODELLED, ())


def test_an_outer_reading_below_what_lies_inside_it_is_refused():
    run = with_source(
        with_source(bare(), "nvml", {BOARD: 200.0, board(1, update_period_s=0.0): 200.0}), "ipmi", {NODE: 250.0}
    )
    assert names(run) == ["node0/gpu0", "node0/gpu1"]
    assert metered(run).refused == {Domain("node0"): "node0 reads less than what lies inside it, which counts"}


def test_an_outer_reading_below_by_less_than_the_errors_is_all_of_its_parts():
    run = with_source(with_source(bare(), "nvml", {BOARD: 210.0}), "ipmi", {NODE: 200.0})
    (node,) = metered(run).meters
    assert node.rest.energy(0.0, run.duration_s).value == pytest.approx(0.0, abs=1e-6)
    (gpu,) = node.inner
    assert gpu.trace.energy(0.0, run.duration_s).value == pytest.approx(200.0 * run.duration_s)


def test_a_model_never_overrules_a_sensor():
    run = with_source(
        with_source(bare(), "cpu_model", {replace(MODELLED, rel_stderr=0.05): 500.0}), "ipmi", {NODE: 200.0}
    )
    assert names(run) == ["node0"]
    (node,) = metered(run).meters
    assert node.inner == ()


def test_the_rest_of_a_node_is_what_its_boards_leave():
    run = with_source(
        with_source(bare(), "nvml", {BOARD: 200.0, board(1, update_period_s=0.0): 90.0}), "ipmi", {NODE: 420.0}
    )
    (node,) = metered(run).meters
    assert [name for name, _ in node.leaves()] == ["node0/gpu0", "node0/gpu1", "rest of node0"]
    assert node.rest.energy(0.0, run.duration_s).value == pytest.approx(130.0 * run.duration_s, rel=1e-9)
    assert node.rest.signal.provenance == "derived"


def device_steps(run: Run, rows: list[tuple[float, ...]]) -> Run:
    return with_table(run, series.DEVICE_STEPS, rows)


def test_device_time_still_splits_a_board_s_joules_inside_a_node_s():
    # By host time the backward pass has 0.04 of each 0.1 s; by the board's own, all of it.
    run = with_source(with_source(bare(), "nvml", {BOARD: 300.0}), "ipmi", {NODE: 400.0}, sampling_hz=1.0)
    run = device_steps(run, [(k, 0, 0, 0, 0.1, 0, 0, 0) for k in range(100)])
    books = accounts(run)
    assert books.by_phase["backward"].value == pytest.approx(10.0 * 300.0 + 4.0 * 100.0, rel=1e-6)
    assert books.by_phase["forward"].value == pytest.approx(2.0 * 100.0, rel=1e-6)
    assert math.fsum(e.value for e in books.by_phase.values()) == pytest.approx(400.0 * run.duration_s, rel=1e-12)
    assert "NVML energy counter by device time" in books.by_phase["backward"].method
    assert "rest of node0 by host time" in books.by_phase["backward"].method


def test_a_fine_meter_inside_a_slow_one_keeps_its_timing():
    # The board draws 300 W in evaluations and 100 W else; the node is read once a second and the rest is steady.
    plain = replace(synthetic_run(100, evaluate_every=10, evaluation_s=0.3), samples=())
    inside = [(t0, t1) for t0, t1 in plain.table(series.EVALUATIONS).rows[:, :2]]

    def power(t_s):
        return np.where(np.any([(t_s >= t0) & (t_s < t1) for t0, t1 in inside], axis=0), 300.0, 100.0)

    run = with_source(plain, "rapl", {replace(PACKAGE, wrap_j=None): power}, sampling_hz=100.0)
    node = replace(NODE, quantity="energy_j", averaging_s=0.0)
    run = with_source(run, "ipmi", {node: lambda t: power(t) + 50.0}, sampling_hz=1.0)
    evaluation = accounts(run).by_phase["evaluation"]
    truth = 350.0 * 9 * 0.3
    assert abs(evaluation.value - truth) < 0.03 * truth
    alone = accounts(replace(run, samples=run.samples[1:])).by_phase["evaluation"]
    assert alone.value < 0.8 * truth  # the node's own reading cannot tell


def test_the_rest_never_gives_joules_back_where_the_node_s_reading_lags():
    step = lambda t: np.where(t % 4.0 < 2.0, 400.0, 20.0)  # noqa: E731
    run = with_source(bare(), "nvml", {BOARD: step}, sampling_hz=20.0)
    late = replace(NODE, quantity="energy_j", averaging_s=0.0, update_period_s=0.0)
    run = with_source(run, "ipmi", {late: lambda t: step(t - 0.9) + 60.0}, sampling_hz=2.0)
    (node,) = metered(run).meters
    assert np.all(np.diff(node.rest.e_j) >= 0)
    whole = node.trace.energy(0.0, run.duration_s).value
    parts = [trace.energy(0.0, run.duration_s).value for _, trace in node.leaves()]
    assert math.fsum(parts) == pytest.approx(whole, rel=1e-12)


def test_the_error_of_a_board_s_gain_moves_joules_between_phases_and_not_their_sum():
    # All of the board's joules are in one phase and the rest's in proportion to time: what the gain is off by moves.
    quiet = replace(BOARD, rel_stderr=0.0, resolution_j=0.0, update_period_s=0.0)
    node = replace(NODE, rel_stderr=0.0, update_period_s=0.0, resolution_w=0.0, averaging_s=0.0)
    errors = {}
    for gain in (0.0, 0.1):
        run = with_source(bare(), "nvml", {replace(quiet, rel_stderr=gain): 300.0})
        run = with_source(run, "ipmi", {node: 400.0})
        run = device_steps(run, [(k, 0, 0, 0, 0.1, 0, 0, 0) for k in range(100)])
        errors[gain] = accounts(run).by_phase["backward"].stderr
    seconds = run.duration_s
    in_backward, of_rest = 10.0 * 300.0, 4.0 / seconds  # the rest's share of its joules in backward, by host time
    moved = 0.1 * (in_backward - 300.0 * seconds * of_rest)
    assert math.sqrt(errors[0.1] ** 2 - errors[0.0] ** 2) == pytest.approx(moved, rel=0.02)


def test_a_core_inside_its_package_tells_no_more_than_the_package():
    core = replace(PACKAGE, domain="node0/package0/core", wrap_j=None)
    run = with_source(bare(), "rapl", {replace(PACKAGE, wrap_j=None): 50.0, core: 30.0})
    (package,) = metered(run).meters
    assert package.inner == ()


def trace_of(run: Run):
    return run.traces()[Domain("node0/gpu0")]


def test_joules_of_a_time_without_readings_are_not_measured():
    run = with_source(bare(), "nvml", {BOARD: 200.0}, until_s=5.0)
    books = accounts(run)
    assert books.total.provenance is Provenance.MODELLED
    assert books.coverage.measured.value == pytest.approx(5.0 / run.duration_s, rel=1e-6)
    assert read_share(trace_of(run), run.duration_s) == pytest.approx(5.0 / run.duration_s, rel=1e-6)
    assert unread_s(trace_of(run), run.duration_s) == pytest.approx(run.duration_s - 5.0)
    assert books.by_phase["backward"].provenance is Provenance.MODELLED


def test_a_gap_in_a_power_is_seconds_without_a_reading_and_wider_in_the_phases_it_falls_into():
    power = replace(BOARD, quantity="power_w", rel_stderr=0.0)
    whole, gapped = (with_source(bare(), "nvml", {power: 200.0}, failed_s=gap) for gap in ([], [(2.0, 5.0)]))
    assert unread_s(trace_of(whole), whole.duration_s) == pytest.approx(0.0, abs=0.2)
    assert unread_s(trace_of(gapped), gapped.duration_s) == pytest.approx(3.2, abs=0.2)
    assert accounts(gapped).coverage.measured.value == pytest.approx(1 - 3.2 / gapped.duration_s, abs=0.02)
    for phase in ("forward", "backward"):
        assert accounts(gapped).by_phase[phase].stderr > accounts(whole).by_phase[phase].stderr
        assert accounts(gapped).by_phase[phase].value == pytest.approx(accounts(whole).by_phase[phase].value)


def test_a_signal_without_joules_was_read_for_its_seconds():
    nothing = Signal("node0/gpu0", "energy_j", "measured", "a board that is off")
    run = with_source(bare(), "nvml", {nothing: 0.0}, until_s=5.0)
    assert read_share(trace_of(run), run.duration_s) == pytest.approx(5.0 / run.duration_s)
