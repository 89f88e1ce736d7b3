"""Run: plain data, and the traces in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ergometry.core.domain import Domain
from ergometry.core.estimate import Provenance
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.core.series import STEPS, WINDOWS
from support.synthetic import PACKAGE, synthetic_run


def sampled(*columns: tuple[str, str, list[float]]) -> Run:
    """Return a run with one sensor of the (domain, quantity, samples) given, one sample a second."""
    signals = tuple(replace(PACKAGE, domain=d, quantity=q, wrap_j=None) for d, q, _ in columns)
    times = np.arange(len(columns[0][2]), dtype=float)
    rows = np.column_stack((times, *(np.array(values, dtype=float) for _, _, values in columns)))
    table = Table(("t_s", *(f"c{i}" for i in range(len(columns)))), rows)
    return Run(Path("r"), "completed", 3.0, {}, {}, (SampleTable("test", signals, table),))


def test_a_table_is_read_by_its_columns() -> None:
    table = Table(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert (len(table), table["b"].tolist()) == (2, [2, 4])
    with pytest.raises(ValueError, match="not in tuple"):
        table["c"]


def test_a_table_that_a_run_has_not_is_empty() -> None:
    run = synthetic_run(3)
    assert len(run.table(STEPS)) == 3
    assert len(run.table(WINDOWS)) == 0
    assert run.table(WINDOWS).columns == WINDOWS.columns


def test_a_counter_is_preferred_to_a_power_of_the_same_domain() -> None:
    energy, power = ("n/gpu0", "energy_j", [0, 10, 20]), ("n/gpu0", "power_w", [99, 99, 99])
    for run in (sampled(energy, power), sampled(power, energy)):
        assert run.traces()[Domain("n/gpu0")].energy(0, 2).value == 20


def test_a_counter_that_failed_leaves_the_power() -> None:
    nan = float("nan")
    run = sampled(("n/gpu0", "power_w", [10, 10, 10]), ("n/gpu0", "energy_j", [nan, nan, 5]))
    assert run.traces()[Domain("n/gpu0")].energy(0, 2).value == 20


def test_the_cover_of_a_run_counts_nothing_twice() -> None:
    run = sampled(
        ("n/p0", "energy_j", [0, 5, 10]), ("n/p0/core", "energy_j", [0, 4, 8]), ("n/gpu0", "energy_j", [0, 1, 2])
    )
    assert sorted(str(d) for d in run.traces()) == ["n/gpu0", "n/p0", "n/p0/core"]
    assert sum(trace.energy(0, 2).value or 0 for trace in run.cover().values()) == 12


def test_the_synthetic_run_holds_the_energy_it_was_made_with() -> None:
    run = synthetic_run(power_w=50.0)
    (trace,) = run.traces().values()
    assert trace.energy(0, run.duration_s).value == pytest.approx(50 * run.duration_s, rel=1e-6)


def test_the_id_is_the_label_or_the_folder() -> None:
    assert synthetic_run(2, path=Path("x/abc")).id == "abc"
    assert synthetic_run(2, id="other").id == "other"


def test_a_source_that_came_back_as_another_is_one_trace_with_the_time_between_bridged() -> None:
    first = Table(("t_s", "c0"), np.array([[0.0, 100.0], [1.0, 150.0], [2.0, 200.0]]))
    second = Table(("t_s", "c0"), np.array([[4.0, 7.0], [5.0, 37.0], [6.0, 67.0]]))
    board = Signal(domain="node0/gpu0", quantity="energy_j", provenance="measured", method="counter", board="A")
    tables = (SampleTable("nvml", (board,), first), SampleTable("nvml", (replace(board, board="B"),), second))
    for samples in (tables, tables[::-1]):
        trace = replace(synthetic_run(), samples=samples).traces()[Domain("node0/gpu0")]
        assert trace.energy(0.0, 2.0).value == pytest.approx(100.0)
        assert trace.energy(4.0, 6.0).value == pytest.approx(60.0)
        assert trace.bridged_j(0.0, 6.0) == pytest.approx(2 * 40.0)
        whole = trace.energy(0.0, 6.0)
        assert whole.value == pytest.approx(100 + 80 + 60)
        assert whole.provenance is Provenance.MODELLED
        assert whole.stderr >= 20.0
