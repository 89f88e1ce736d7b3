"""Laws of the accounts, at whatever layout of steps and whatever power curve."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.domain import Domain, assert_disjoint
from ergometry.core.run import Run, SampleTable, Table
from ergometry.work import Accounts, accounts
from support.synthetic import PACKAGE

SIGNAL = replace(PACKAGE, wrap_j=None, max_power_w=None, static_w=3.0, static_rel_stderr=0.5, rel_stderr=0.02)

seconds = st.floats(0.0, 2.0)
stretch = st.tuples(seconds, st.booleans(), st.lists(seconds, min_size=5, max_size=5))
layouts = st.lists(stretch, max_size=12)
# Of a microwatt or none: what is less than the rounding of a sum is not a power.
power = st.floats(0.0, 400.0).map(lambda p_w: p_w if p_w >= 1e-6 else 0.0)
powers = st.lists(st.lists(power, min_size=3, max_size=30), min_size=1, max_size=3)


def build(layout: list, curves: list, *, watts: float = 1.0, time: float = 1.0) -> Run:
    """Return a run with these stretches and power curves, all watts and all times multiplied by a factor."""
    steps, evaluations, t = [], [], 0.0
    for gap, is_step, parts in layout:
        t += gap
        end = t + sum(parts)
        if is_step:
            steps.append((len(steps), t, end, *parts, 32.0, 64.0, 1.0, 1e9, 1.0, 0.0))
        else:
            evaluations.append((t, end, 1.0, 10.0, len(steps) - 1))
        t = end
    duration = t + 0.5
    scaled_steps = np.array(steps).reshape(-1, len(series.STEPS.columns))
    scaled_steps[:, 1:8] *= time
    scaled_evaluations = np.array(evaluations).reshape(-1, len(series.EVALUATIONS.columns))
    scaled_evaluations[:, :2] *= time
    samples = []
    for i, curve in enumerate(curves):
        at = np.linspace(0.0, duration, len(curve))
        energy = np.concatenate(([0.0], np.cumsum(np.array(curve)[1:] * np.diff(at))))
        signal = replace(
            SIGNAL,
            domain=f"node0/package{i}",
            resolution_j=1e-3 * watts * time,
            update_period_s=1e-3 * time,
            static_w=3.0 * watts,
        )
        rows = np.column_stack((at * time, energy * watts * time))
        samples.append(SampleTable(f"s{i}", (signal,), Table(("t_s", "c0"), rows)))
    tables = {
        "steps": Table(series.STEPS.columns, scaled_steps),
        "evaluations": Table(series.EVALUATIONS.columns, scaled_evaluations),
    }
    return Run(Path("run"), "completed", duration * time, {}, tables, tuple(samples))


def joules(books: Accounts) -> dict[str, tuple[float, float]]:
    """Return every energy of the books that is known, with its error."""
    parts = {
        f"{by}.{name}": e for by in ("phase", "component", "domain") for name, e in getattr(books, f"by_{by}").items()
    }
    return {name: (e.value, e.stderr) for name, e in {"total": books.total, **parts}.items() if e.value is not None}


@given(layouts, powers)
def test_phases_sum_to_the_total(layout, curves):
    books = accounts(build(layout, curves))
    parts = [part.value for part in books.by_phase.values()]
    assert math.fsum(parts) == pytest.approx(books.total.value, rel=1e-12, abs=1e-9)
    assert min(parts) >= -1e-9 * max(books.total.value, 1.0)


@given(layouts, powers)
def test_components_sum_to_the_total(layout, curves):
    books = accounts(build(layout, curves))
    known = [part.value for part in books.by_component.values() if part.known]
    assert books.by_component["residual"].known
    assert math.fsum(known) == pytest.approx(books.total.value, rel=1e-12, abs=1e-9)


@given(layouts, powers)
def test_seconds_sum_to_the_duration(layout, curves):
    run = build(layout, curves)
    assert math.fsum(part.value for part in accounts(run).seconds_by_phase.values()) == pytest.approx(run.duration_s)


@given(layouts, powers, st.floats(1e-3, 1e3))
def test_scaling_power_scales_every_joule_and_its_error(layout, curves, c):
    before, after = (joules(accounts(build(layout, curves, watts=w))) for w in (1.0, c))
    assert before.keys() == after.keys()
    for name, (value, stderr) in before.items():
        assert after[name][0] == pytest.approx(c * value, rel=1e-9, abs=1e-9 * c), name
        assert after[name][1] == pytest.approx(c * stderr, rel=1e-6, abs=1e-7 * c), name


@given(layouts, powers, st.sampled_from([1e-2, 0.5, 3.0, 1e3]))
def test_scaling_time_scales_every_joule_and_its_error_and_leaves_power(layout, curves, b):
    runs = [build(layout, curves, time=x) for x in (1.0, b)]
    # Stretches of a microsecond are one instant to the books; stay clear of them.
    edges = np.concatenate([run.tables[name]["t1_s"] - run.tables[name]["t0_s"] for run in runs for name in run.tables])
    gaps = np.array([gap for gap, _, _ in layout])
    small = 2e-6 / min(b, 1.0)
    assume(not np.any((edges > 0) & (edges < small)) and not np.any((gaps > 0) & (gaps < small)))
    before, after = (joules(accounts(run)) for run in runs)
    for name, (value, stderr) in before.items():
        assert after[name][0] == pytest.approx(b * value, rel=1e-6, abs=1e-6 * b), name
        assert after[name][1] == pytest.approx(b * stderr, rel=1e-4, abs=1e-4 * b), name
    powers_w = [accounts(run).power.value for run in runs]
    assert powers_w[0] == pytest.approx(powers_w[1])


@given(layouts)
def test_at_constant_power_joules_are_seconds(layout):
    run = build(layout, [[20.0] * 5])
    books = accounts(run)
    for phase in series.PHASES:
        assert books.by_phase[phase].value == pytest.approx(20.0 * books.seconds_by_phase[phase].value, abs=1e-6)


PATHS = (
    *("node0", "node0/psys", "node0/psys/package0", "node0/psys/package0/core", "node0/psys/dram0", "node0/gpu0"),
    *("node0/gpu0/memory", "node0/gpu1", "node0/package0", "node0/cpu", "node0/dram", "node0/module0"),
    *("node0/module0/gpu2", "node0/sysio"),
)
readings = st.tuples(
    st.lists(st.floats(1.0, 400.0), min_size=3, max_size=20),
    st.sampled_from([1.0, 1.0, 1.0, 0.95, 0.5]),  # of the run: from then on it was not read
    st.booleans(),  # measured or modelled
    st.lists(st.booleans(), min_size=20, max_size=20),  # whether a sample failed
)
topologies = st.dictionaries(st.sampled_from(PATHS), readings, min_size=1, max_size=8)


def machine(layout: list, topology: dict) -> Run:
    """Return a run whose domains read whatever they read, be it more inside than outside."""
    run = build(layout, [])
    samples = []
    for path, (curve, read, measured, failed) in topology.items():
        at = np.linspace(0.0, read * run.duration_s, len(curve))
        values = np.array(curve)
        values[1:-1][np.array(failed[2 : len(curve)])] = np.nan
        signal = replace(
            SIGNAL,
            domain=path,
            quantity="power_w",
            provenance="measured" if measured else "modelled",
            device="cuda:0" if "gpu" in path else "",
            static_w=None,
        )
        samples.append(SampleTable(path, (signal,), Table(("t_s", "c0"), np.column_stack((at, values)))))
    return replace(run, samples=tuple(samples))


@given(layouts, topologies)
def test_on_any_machine_nothing_counts_twice_and_every_sum_closes(layout, topology):
    run = machine(layout, topology)
    books = accounts(run)
    whole = books.total.value
    chosen = books.metered.cover()
    assert_disjoint(chosen)
    near = pytest.approx(whole, rel=1e-9, abs=1e-9)
    assert math.fsum(trace.energy(0.0, run.duration_s).value for trace in chosen.values()) == near
    assert math.fsum(part.value for part in books.by_phase.values()) == near
    assert math.fsum(part.value for part in books.by_component.values() if part.known) == near
    parts = [part.energy.value for part in books.coverage.parts if part.included and part.energy.known]
    assert math.fsum(parts) == near
    assert 0 <= books.coverage.measured.value <= 1
    # What was read is in the total, unless something outside of it is, or it was refused for what lies inside it.
    for path in topology:
        domain = Domain(path)
        assert domain in books.metered.refused or any(outer.contains(domain) for outer in chosen)


@given(layouts, topologies)
def test_the_parts_that_are_split_sum_to_what_they_are_parts_of(layout, topology):
    run = machine(layout, topology)
    for meter in accounts(run).metered.meters:
        whole = meter.trace.energy(0.0, run.duration_s).value
        leaves = [trace.energy(0.0, run.duration_s).value for _, trace in meter.leaves()]
        assert math.fsum(leaves) == pytest.approx(whole, rel=1e-9, abs=1e-9)
        assert all(joules >= -1e-9 * whole for joules in leaves)


@given(layouts, topologies, st.randoms())
def test_the_order_in_which_sources_were_opened_changes_no_joule(layout, topology, random):
    shuffled = list(topology.items())
    random.shuffle(shuffled)
    one, other = (accounts(machine(layout, dict(items))) for items in (topology.items(), shuffled))
    assert one.total.value == pytest.approx(other.total.value, rel=1e-12)
    for phase in series.PHASES:
        assert one.by_phase[phase].value == pytest.approx(other.by_phase[phase].value, rel=1e-9, abs=1e-9)
