"""The process's share: known parts give known joules, parts sum and never exceed the whole, errors say the rest."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core import series
from ergometry.core.domain import Domain, cover
from ergometry.core.ports import Signal
from ergometry.core.run import Run, SampleTable, Table
from ergometry.sensors.cgroup import BY_LIMIT
from ergometry.sensors.proc import BusyTime, ProcessTree
from ergometry.work.share import INTENSITY_LOG_SD, busy_shares, process_share, process_shares
from support.synthetic import MODELLED, synthetic_run

MEMORY_BYTES = 8e9


def signal(domain: str, **changes: Any) -> Signal:
    return Signal(domain, "energy_j", "measured", "a counter", **changes)


def power(domain: str, watts: float | np.ndarray, t_s: np.ndarray, **changes: Any) -> SampleTable:
    """Return the samples of a counter at a constant power, or at one power for each stretch between samples."""
    steps = np.broadcast_to(watts, len(t_s) - 1) * np.diff(t_s)
    rows = np.column_stack((t_s, np.concatenate(([0.0], np.cumsum(steps)))))
    return SampleTable("test", (signal(domain, **changes),), Table(("t_s", "c0"), rows))


def process(t_s: np.ndarray, cpu_s: np.ndarray, busy_s: np.ndarray | None, rss_bytes: float = 2e9) -> Table:
    columns = [t_s, cpu_s, np.full(len(t_s), rss_bytes), np.zeros(len(t_s))]
    if busy_s is None:
        return Table(series.PROCESS.columns[:-1], np.column_stack(columns))
    return Table(series.PROCESS.columns, np.column_stack([*columns, busy_s]))


def health(t_s: np.ndarray, board: int, used: np.ndarray | float, own: np.ndarray | float) -> Table:
    rows = np.full((len(t_s), len(series.HEALTH.columns)), np.nan)
    for column, values in (("t_s", t_s), ("board", board), ("utilisation", used), ("process_utilisation", own)):
        rows[:, series.HEALTH.columns.index(column)] = values
    return Table(series.HEALTH.columns, rows)


def run_of(samples: list[SampleTable], duration_s: float, **tables: Table) -> Run:
    meta = {"machine": {"memory_bytes": MEMORY_BYTES}}
    return Run(Path("r"), "completed", duration_s, meta, tables, samples=tuple(samples))


def whole_j(run: Run) -> float:
    return sum(trace.energy(0.0, run.duration_s).value or 0.0 for trace in cover(run.traces()).values())


T = np.arange(11.0)
"""Samples of a run of ten seconds."""


def test_a_quarter_of_the_busy_time_is_a_quarter_of_the_joules():
    run = run_of([power("node0/package0", 80.0, T, static_w=20.0)], 10.0, process=process(T, T, 7 + 4 * T))
    share = process_share(run, run.traces())
    assert share.value == pytest.approx(200.0)
    assert str(share.provenance) == "modelled"
    assert "busy time" in share.method
    static = 200 * math.sqrt(0.25 * 0.75 / 3)
    dynamic = 600 * 0.25 * 0.75 * INTENSITY_LOG_SD
    assert share.stderr == pytest.approx(static + dynamic, rel=1e-3)


def test_joules_go_by_the_busy_time_of_their_own_stretch():
    """Alone for five seconds at 100 W, idle beside a neighbour for five at 20 W."""
    watts = np.repeat([100.0, 20.0], 5)
    cpu_s = np.minimum(T, 5.0)
    run = run_of([power("node0/package0", watts, T)], 10.0, process=process(T, cpu_s, T))
    share = process_share(run)
    assert share.value == pytest.approx(500.0)
    assert share.stderr == pytest.approx(0.0, abs=1e-9)


def test_the_only_process_on_a_machine_has_all_of_it():
    run = synthetic_run(signal=MODELLED)
    t_s = np.linspace(0.0, run.duration_s, 30)
    run = replace(run, tables={**run.tables, "process": process(t_s, 1 + 2 * t_s, 5 + 2 * t_s)})
    share, total = process_share(run), run.traces()[Domain("node0/cpu")].energy(0.0, run.duration_s)
    assert share.value == pytest.approx(total.value)
    assert share.stderr == pytest.approx(total.stderr)


def test_a_process_that_never_ran_has_none():
    run = run_of([power("node0/package0", 80.0, T)], 10.0, process=process(T, 0 * T, T))
    share = process_share(run)
    assert share.value == 0.0
    assert share.stderr == 0.0


def test_the_joules_of_a_stretch_in_which_nobody_ran_go_as_those_of_the_rest():
    busy_s = np.minimum(T, 5.0)
    run = run_of([power("node0/package0", 10.0, T)], 10.0, process=process(T, busy_s / 5, busy_s))
    assert process_share(run).value == pytest.approx(20.0)


def test_a_child_that_is_met_late_is_counted_where_it_ran():
    """Two seconds of it are seen within the last one: they were used before."""
    cpu_s = np.where(T < 10, 0.5 * T, 0.5 * T + 2)
    run = run_of([power("node0/package0", 10.0, T)], 10.0, process=process(T, cpu_s, T))
    assert process_share(run).value == pytest.approx(70.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(1, 300), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=20,
    ),
    st.floats(0.1, 30),
)
def test_parts_sum_and_none_exceeds_its_whole(steps, duration_s):
    own, others, watts, own_use, other_use = np.array(steps).T
    t_s = np.arange(len(steps) + 1.0)
    cpu_s = np.concatenate(([0.0], np.cumsum(own)))
    busy_s = np.concatenate(([0.0], np.cumsum(own + others)))
    run = run_of(
        [
            power("node0/package0", watts, t_s),
            power("node0/package0/core", watts / 2, t_s),
            power("node0/dram0", 7.0, t_s),
            power("node0/gpu1", 2 * watts, t_s),
        ],
        duration_s,
        process=process(t_s, cpu_s, busy_s),
        health=health(t_s[1:], 1, np.minimum(own_use + other_use, 1.0), own_use),
    )
    parts, share = process_shares(run), process_share(run)
    assert sorted(parts) == ["node0/dram0", "node0/gpu1", "node0/package0"]
    for path, part in parts.items():
        whole = run.traces()[Domain(path)].energy(0.0, duration_s).value
        assert part.value is not None
        assert whole is not None
        assert -1e-9 <= part.value <= whole * (1 + 1e-9) + 1e-9
    assert share.value == pytest.approx(sum(part.value or 0.0 for part in parts.values()))
    assert (share.value or 0.0) <= whole_j(run) * (1 + 1e-9) + 1e-9
    assert share.stderr == pytest.approx(sum(part.stderr or 0.0 for part in parts.values()))


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30))
def test_busy_shares_keep_the_trees_time_and_never_exceed_the_machines(steps):
    own, busy = np.array(steps).T
    t_s = np.arange(len(steps) + 1.0)
    cpu_s, busy_s = (np.concatenate(([0.0], np.cumsum(x))) for x in (own, busy))
    shares = busy_shares(run_of([], 1.0, process=process(t_s, cpu_s, busy_s)))
    used_s = np.nan_to_num(shares.share) * busy
    assert np.all((used_s >= 0) & (used_s <= busy + 1e-9))
    # The oracle: from the end backwards, what exceeds a stretch's busy time is carried to the stretch before.
    carried, expected = 0.0, []
    for mine, all_of_it in zip(own[::-1], busy[::-1], strict=True):
        expected.append(min(mine + carried, all_of_it))
        carried += mine - expected[-1]
    assert used_s == pytest.approx(expected[::-1], abs=1e-6)


def test_half_a_share_of_the_static_power_is_open_from_none_to_all():
    run = run_of([power("node0/package0", 30.0, T, static_w=30.0)], 10.0, process=process(T, T, 2 * T))
    share = process_share(run)
    assert share.value == pytest.approx(150.0)
    assert share.stderr == pytest.approx(300 / math.sqrt(12), rel=1e-3)


def test_where_static_power_is_not_known_it_is_at_most_the_least_power():
    watts = np.repeat([100.0, 20.0], 5)
    run = run_of([power("node0/package0", watts, T)], 10.0, process=process(T, T, 2 * T))
    static = 200 / math.sqrt(12)
    assert process_share(run).stderr == pytest.approx(static + 400 / 4 * INTENSITY_LOG_SD, rel=1e-3)


def test_the_readings_own_error_is_in_it():
    samples = power("node0/package0", 80.0, T, rel_stderr=0.3)
    run = run_of([samples], 10.0, process=process(T, T, T))
    assert process_share(run).stderr == pytest.approx(0.3 * 800, rel=1e-3)


def test_memory_goes_by_resident_size_whatever_the_processors_do():
    watts = np.repeat([2.0, 14.0], 5)
    run = run_of([power("node0/dram0", watts, T)], 10.0, process=process(T, T, T, rss_bytes=MEMORY_BYTES / 4))
    share = process_share(run)
    assert share.value == pytest.approx(20.0)
    assert share.stderr == pytest.approx(80 * math.sqrt(0.25 * 0.75 / 3), rel=1e-3)
    assert "resident size" in share.method
    crowded = replace(run, tables={"process": process(T, T, T, rss_bytes=3 * MEMORY_BYTES)})
    assert process_share(crowded).value == pytest.approx(80.0)
    assert process_share(crowded).stderr == pytest.approx(0.0, abs=1e-9)


def test_memory_of_unknown_size_goes_by_busy_time():
    run = run_of([power("node0/dram0", 8.0, T)], 10.0, process=process(T, T, 2 * T))
    share = process_share(replace(run, meta={}))
    assert share.value == pytest.approx(40.0)
    assert "busy time" in share.method


def test_a_board_goes_by_its_utilisation():
    used, own = np.repeat([0.8, 0.5], 5), np.repeat([0.2, 0.5], 5)
    run = run_of([power("node0/gpu1", 100.0, T)], 10.0, health=health(T[1:], 1, used, own))
    share = process_share(run)
    assert share.value == pytest.approx(125 + 500)
    assert "utilisation" in share.method


def test_a_board_never_gives_more_than_it_has():
    """The two utilisations are measured apart: that of the process may be the larger."""
    run = run_of([power("node0/gpu1", 100.0, T)], 10.0, health=health(T[1:], 1, 0.5, 0.6))
    assert process_share(run).value == pytest.approx(1000.0)
    assert process_share(run).stderr == pytest.approx(0.0, abs=1e-9)


def test_a_board_that_idles_at_times_goes_as_at_the_others():
    used, own = np.repeat([0.8, 0.0], 5), np.repeat([0.2, 0.0], 5)
    run = run_of([power("node0/gpu1", 100.0, T)], 10.0, health=health(T[1:], 1, used, own))
    assert process_share(run).value == pytest.approx(250.0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "gpu1 whole, others' use of it not known"),
        (health(T, 1, 0.9, np.nan), "gpu1 whole, others' use of it not known"),
        (health(T, 1, np.nan, 0.5), "gpu1 whole, others' use of it not known"),
        (health(T, 7, 0.9, 0.1), "gpu1 whole, others' use of it not known"),  # another board
        (health(T, 1, 0.0, 0.0), "gpu1 whole, as nobody used it"),
    ],
)
def test_a_board_of_which_nothing_is_known_or_that_nobody_uses_is_whole(table, words):
    run = run_of([power("node0/gpu1", 100.0, T)], 10.0, **({} if table is None else {"health": table}))
    share = process_share(run)
    assert share.value == pytest.approx(1000.0)
    assert share.method == words


def test_the_rest_of_a_node_goes_as_what_is_metered_in_it():
    """A node at 300 W holds a board at 100 W that is half ours, and a package at 50 W of which a fifth is."""
    fine = np.arange(0.0, 10.01, 0.1)
    run = run_of(
        [
            power("node0", 300.0, T, update_period_s=1.0),
            power("node0/gpu0", 100.0, fine, device="cuda:0"),
            power("node0/package0", 50.0, fine),
        ],
        10.0,
        process=process(T, T, 5 * T),
        health=health(T, 0, 0.8, 0.4),
    )
    share = process_share(run)
    inside = 500 + 100
    assert share.value == pytest.approx(inside + 1500 * inside / 1500)
    assert "rest of node0" in share.method
    assert (share.value or 0.0) <= whole_j(run)


def test_a_containers_share_of_its_host_is_not_shared_again():
    samples = power("node0/cpu", 12.0, T)
    limited = replace(samples.signals[0], method=f"share of a host: 2 of 64 CPUs {BY_LIMIT}", provenance="modelled")
    run = run_of([replace(samples, signals=(limited,))], 10.0, process=process(T, T, 50 * T))
    share = process_share(run)
    assert share.value == pytest.approx(120.0)
    assert "container" in share.method


@pytest.mark.parametrize("busy_s", [None, np.full(len(T), np.nan)])
def test_a_run_that_does_not_hold_the_machines_busy_time(busy_s):
    run = run_of([power("node0/package0", 80.0, T)], 10.0, process=process(T, T, busy_s))
    share = process_share(run)
    assert share.value is None
    assert "busy time" in share.why
    assert str(share.provenance) == "modelled"


def test_without_a_power_source_or_samples():
    assert "no power source" in process_share(run_of([], 10.0)).why
    assert "two samples" in process_share(run_of([power("node0/package0", 1.0, T[:1])], 10.0)).why
    once = run_of([power("node0/package0", 1.0, T)], 10.0, process=process(T[:1], T[:1], T[:1]))
    assert "two samples of the process" in process_share(once).why


def test_the_last_reading_of_a_process_that_is_gone_is_left_out():
    cpu_s = np.where(T < 10, T / 2, np.nan)
    run = run_of([power("node0/package0", 10.0, T)], 10.0, process=process(T, cpu_s, T))
    assert process_share(run).value == pytest.approx(50.0)


def test_a_run_of_no_length():
    run = run_of([power("node0/package0", 10.0, T)], 0.0, process=process(T, T, T))
    assert process_share(run).value == 0.0


def burn(seconds: float) -> float:
    """Use so many processor seconds; return how many they were."""
    began = sum(os.times()[:2])
    while sum(os.times()[:2]) - began < seconds:
        sum(range(20_000))
    return sum(os.times()[:2]) - began


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")
def test_beside_a_busy_neighbour_this_process_has_what_it_used():
    """On a machine of 10 J per busy second, ours are 10 J per second that we used, and none of the neighbour's."""
    code = "print(flush=True)\nwhile True: sum(range(20_000))"
    busy, rows, own_s = BusyTime(), [], 0.0
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as neighbour:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        theirs = ProcessTree(neighbour.pid)
        began_s = theirs.read()[0]
        while own_s < 0.5 or theirs.read()[0] - began_s < 0.4:
            rows.append((float(len(rows)), own_s, 1e8, 0.0, busy.read()))
            own_s += burn(0.1)
        rows.append((float(len(rows)), own_s, 1e8, 0.0, busy.read()))
        theirs_s = theirs.read()[0] - began_s
        neighbour.kill()
    busy.close()
    table = Table(series.PROCESS.columns, np.array(rows))
    t_s, busy_s = table["t_s"], table["machine_busy_s"]
    run = run_of([power("node0/package0", 10 * np.diff(busy_s), t_s)], float(t_s[-1]), process=table)
    share_j = process_share(run).value
    assert share_j is not None
    assert share_j == pytest.approx(10 * own_s, rel=0.15)
    assert share_j <= whole_j(run) - 10 * 0.75 * theirs_s
