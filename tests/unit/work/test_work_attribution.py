"""Attribution: energies that are known beforehand, and what is said when one cannot be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Provenance
from ergometry.core.run import Run
from ergometry.work import Timeline, accounts
from support.odd_runs import memory_and_core, with_samples, with_table
from support.synthetic import MODELLED, PACKAGE, PHASES_S, synthetic_run


def test_the_total_is_the_counter_s_with_its_wrap():
    run = synthetic_run(power_w=50.0)
    total = accounts(run).total
    assert total.value == pytest.approx(50.0 * run.duration_s, rel=1e-9)
    assert total.provenance is Provenance.MEASURED
    assert 0 < total.stderr < 5.0


def test_a_power_is_integrated_as_a_counter_would_be():
    power = replace(PACKAGE, quantity="power_w", wrap_j=None)
    assert accounts(synthetic_run(signal=power)).total.value == pytest.approx(accounts(synthetic_run()).total.value)


def test_each_phase_has_the_energy_of_its_seconds():
    books = accounts(synthetic_run(200, power_w=50.0))
    for column, each_s in PHASES_S.items():
        phase = column.removesuffix("_s")
        extra_s = 0.75 if phase == "other" else 0.0  # imports and the tail
        assert books.by_phase[phase].value == pytest.approx(50.0 * (200 * each_s + extra_s), rel=1e-6), phase
    assert books.by_phase["evaluation"].value == pytest.approx(50.0 * 3 * 0.5, rel=1e-6)


def test_an_evaluation_at_twice_the_power_has_twice_the_energy():
    plain = synthetic_run(power_w=50.0)
    stretches = plain.table(series.EVALUATIONS).rows[:, :2]

    def power(t: np.ndarray) -> np.ndarray:
        inside = np.any([(t >= t0) & (t <= t1) for t0, t1 in stretches], axis=0)
        return np.where(inside, 100.0, 50.0)

    evaluation = accounts(synthetic_run(power_w=power, sampling_hz=1000.0)).by_phase["evaluation"]
    assert evaluation.value == pytest.approx(2 * 50.0 * 1.5, rel=2e-3)


def test_phases_of_unequal_power_are_within_the_error_that_is_stated():
    # Within a step of 0.1 s: data at 20 W, forward and backward at 80 W, the optimizer and the rest at 50 W.
    watts = dict(zip(PHASES_S, (20.0, 80.0, 80.0, 50.0, 50.0), strict=True))
    run = synthetic_run(100, evaluate_every=1000, sampling_hz=1.0)
    mean = sum(watts[c] * s for c, s in PHASES_S.items()) / 0.1
    books = accounts(synthetic_run(100, evaluate_every=1000, sampling_hz=1.0, power_w=mean))
    for column, each_s in list(PHASES_S.items())[:-1]:
        estimate = books.by_phase[column.removesuffix("_s")]
        truth = watts[column] * each_s * len(run.table(series.STEPS))
        assert abs(estimate.value - truth) < 2 * estimate.stderr, column


def test_a_split_within_steps_is_derived_and_says_what_it_assumes():
    books = accounts(synthetic_run())
    assert books.by_phase["forward"].provenance is Provenance.DERIVED
    assert "assumed equal across the phases of a step" in books.by_phase["forward"].method
    assert "assumed" not in books.by_phase["evaluation"].method
    assert books.by_phase["forward"].stderr > 0.3 * books.by_phase["forward"].value
    assert books.by_phase["evaluation"].stderr < 0.01 * books.by_phase["evaluation"].value


def test_the_error_within_steps_is_that_of_powers_between_zero_and_twice_the_mean():
    # Two phases of uniform, independent powers, scaled to the step's mean, to first order: E·f(1-f)·√(2/3).
    books = accounts(synthetic_run(100, power_w=50.0, evaluate_every=1000))
    for phase, f in (("data", 0.1), ("forward", 0.2), ("backward", 0.4)):
        assert books.by_phase[phase].stderr == pytest.approx(500.0 * f * (1 - f) * np.sqrt(2 / 3), rel=1e-3), phase


def test_modelled_joules_stay_modelled_in_every_part():
    books = accounts(synthetic_run(signal=MODELLED))
    energies = [books.total, books.power, *books.by_phase.values(), books.by_component["residual"]]
    assert {e.provenance for e in (*energies, *books.by_domain.values())} == {Provenance.MODELLED}
    assert books.total.stderr >= 0.3 * books.total.value


def test_a_known_static_power_is_not_part_of_what_the_phases_may_differ_by():
    known = replace(PACKAGE, static_w=40.0, static_rel_stderr=0.1)
    without, within = (accounts(synthetic_run(signal=s)).by_phase["data"].stderr for s in (PACKAGE, known))
    assert within == pytest.approx(without * (50.0 - 40.0) / 50.0, rel=0.02)


def test_short_evaluations_are_no_less_certain_than_their_own_energy():
    # Twenty evaluations of 5 ms, sampled once a second: the edges alone would leave tens of joules open.
    books = accounts(synthetic_run(200, evaluate_every=10, evaluation_s=0.005, sampling_hz=1.0))
    evaluation = books.by_phase["evaluation"]
    assert evaluation.value == pytest.approx(50.0 * 19 * 0.005, rel=1e-6)
    assert 0 < evaluation.stderr < evaluation.value


def test_an_evaluation_inside_a_step_is_cut_out_of_it():
    run = synthetic_run(3, evaluate_every=1000)
    steps = run.table(series.STEPS).rows.copy()
    t0, t1 = steps[1, 1:3]
    steps[1, 3:8] *= 0.6  # the five phases leave room for the evaluation
    run = with_table(with_table(run, series.STEPS, steps), series.EVALUATIONS, [(t0 + 0.03, t0 + 0.07, 1, 32, 0)])
    books = accounts(run)
    assert t1 - t0 == pytest.approx(0.1)
    assert books.seconds_by_phase["evaluation"].value == pytest.approx(0.04)
    assert books.seconds_by_phase["forward"].value == pytest.approx((2 + 0.6) * 0.02)
    assert books.by_phase["forward"].value == pytest.approx(50.0 * 2.6 * 0.02, rel=1e-6)


def test_a_phase_that_was_not_timed_has_no_energy_and_the_sum_still_closes():
    run = synthetic_run(10)
    steps = run.table(series.STEPS).rows.copy()
    steps[:, 4] = np.nan
    books = accounts(with_table(run, series.STEPS, steps))
    assert books.by_phase["forward"].value == 0
    assert sum(part.value for part in books.by_phase.values()) == pytest.approx(books.total.value)


def test_steps_that_the_stored_time_does_not_reach_are_left_out():
    run = replace(synthetic_run(100, evaluate_every=1000), duration_s=5.5)  # 50 of the steps
    books = accounts(run)
    assert books.seconds_by_phase["forward"].value == pytest.approx(50 * 0.02)
    assert sum(part.value for part in books.by_phase.values()) == pytest.approx(books.total.value)


def on_device(rows: list[tuple[float, ...]]) -> Run:
    signal = replace(PACKAGE, domain="node0/gpu0", device="cuda:1")
    return with_table(synthetic_run(10, signal=signal, evaluate_every=1000), series.DEVICE_STEPS, rows)


def test_an_accelerator_is_split_by_its_own_time():
    # On device 1 the backward pass takes all of every step; device 0 says otherwise and is not asked.
    rows = [(k, d, 0, 0.09 * (d == 0), 0.09 * (d == 1), 0, 0, 0) for k in range(10) for d in (0, 1)]
    books = accounts(on_device(rows))
    assert books.by_phase["backward"].value == pytest.approx(50.0 * 10 * 0.1, rel=1e-6)
    assert books.by_phase["forward"].value == 0
    assert "by device time" in books.by_phase["backward"].method


def test_steps_without_device_times_keep_those_of_the_host():
    books = accounts(on_device([(k, 1, 0, 0, 0.09, 0, 0, 0) for k in range(5)]))
    assert books.by_phase["backward"].value == pytest.approx(50.0 * (5 * 0.1 + 5 * 0.04), rel=1e-6)


def test_an_accelerator_without_times_of_its_own_is_split_by_host_time_and_says_so():
    forward = accounts(on_device([])).by_phase["forward"]
    assert forward.value == pytest.approx(50.0 * 10 * 0.02, rel=1e-6)
    assert "by host time, as there are no times of cuda:1" in forward.method


def test_what_lies_inside_another_domain_is_not_added():
    run = memory_and_core()
    books = accounts(run)
    by = {path: e.value for path, e in books.by_domain.items()}
    assert set(by) == {"node0/package0", "node0/package0/core", "node0/dram0", "node0/gpu0"}
    assert books.total.value == pytest.approx(by["node0/package0"] + by["node0/dram0"] + by["node0/gpu0"])


def test_memory_is_a_component_where_it_is_metered():
    run = memory_and_core()
    components = accounts(run).by_component
    assert components["memory"].value == pytest.approx(4.0 * run.duration_s, rel=1e-6)
    assert components["memory"].provenance is Provenance.MEASURED
    assert not components["static"].known
    assert "node0/package0, node0/gpu0" in components["static"].why


def test_static_energy_is_idle_power_times_duration():
    run = synthetic_run(signal=MODELLED)
    static = accounts(run).by_component["static"]
    assert static.value == pytest.approx(8.0 * run.duration_s)
    assert static.stderr == pytest.approx(0.5 * static.value)
    assert static.provenance is Provenance.MODELLED
    assert "not yet split" in accounts(run).by_component["residual"].method


def test_components_that_need_calibration_say_so():
    components = accounts(synthetic_run()).by_component
    assert components["compute"].why == "needs calibrated joules per FLOP"
    assert "calibrated idle power" in components["static"].why
    assert (components["communication"].value, components["communication"].stderr) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (replace(synthetic_run(5), samples=()), "no power source was read"),
        (with_samples(synthetic_run(5), 1), "at least two samples"),
    ],
)
def test_without_power_every_joule_is_unknown_and_says_why(run, why):
    books = accounts(run)
    energies = [books.total, books.power, *books.by_phase.values(), books.by_component["residual"]]
    energies += [books.rates[name] for name in ("power_w", "j_per_step", "j_per_example", "j_per_flop")]
    assert all(e.value is None and why in e.why for e in energies)
    assert books.seconds_by_phase["forward"].value == pytest.approx(0.1)


def test_a_source_that_never_answered_is_listed_without_a_value():
    run = with_samples(synthetic_run(5), 1)
    (domain,) = accounts(run).by_domain.values()
    assert domain.value is None
    assert domain.why


def test_the_timeline_tiles_the_run():
    run = synthetic_run(30, evaluate_every=7)
    timeline = Timeline.of(run)
    assert timeline.edges_s[0] == 0
    assert timeline.edges_s[-1] == run.duration_s
    assert np.all(np.diff(timeline.edges_s) > 0)
    np.testing.assert_allclose(timeline.shares.sum(axis=1), 1.0)


def test_fractions_of_any_intervals_are_fractions():
    timeline = Timeline.of(synthetic_run(30, evaluate_every=7))
    fractions = timeline.fractions(np.linspace(0.0, timeline.edges_s[-1], 50))
    np.testing.assert_allclose(fractions.sum(axis=1), 1.0)
    assert fractions.min() >= -1e-12
