"""Process trees and machine facts, on a fake procfs and on this machine's own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ergometry.sensors.proc import (
    RESCAN_READS,
    BusyTime,
    ProcessTree,
    jiffies,
    machine_facts,
    package_cpus,
    processors,
)

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def test_tree_sums_descendants_and_leaves_out_strangers(procfs):
    procfs.process(10, 1, (100, 20, 5, 1), pages=1000, name="py (thon) 3")
    procfs.process(11, 10, (50, 0, 0, 0), pages=10)
    procfs.process(12, 11, (7, 1, 0, 0), pages=1)
    procfs.process(13, 1, (9999, 0, 0, 0), pages=9999)
    assert ProcessTree(10, procfs.root).read() == (pytest.approx(184 * TICK), 1011 * PAGE)


def test_new_children_are_met_within_a_few_reads(procfs):
    procfs.process(10, 1, (100, 0, 0, 0), pages=1)
    tree = ProcessTree(10, procfs.root)
    tree.read()
    procfs.process(11, 10, (50, 0, 0, 0), pages=1)
    procfs.process(12, 11, (25, 0, 0, 0), pages=1)
    assert [tree.read()[0] for _ in range(RESCAN_READS)][-1] == pytest.approx(175 * TICK)


def test_a_child_that_was_waited_for_still_counts(procfs):
    procfs.process(10, 1, (100, 0, 0, 0), pages=1)
    procfs.process(11, 10, (50, 0, 0, 0), pages=1)
    tree = ProcessTree(10, procfs.root)
    before = tree.read()
    procfs.end(11)
    procfs.process(10, 1, (100, 0, 50, 0), pages=1)
    after = tree.read()
    assert after[0] == before[0]
    assert after[1] == PAGE


def test_an_orphan_stays_in_the_tree(procfs):
    procfs.process(10, 1, (100, 0, 0, 0), pages=1)
    procfs.process(11, 10, (50, 0, 0, 0), pages=1)
    procfs.process(12, 11, (25, 0, 0, 0), pages=1)
    tree = ProcessTree(10, procfs.root)
    tree.read()
    procfs.end(11)
    procfs.process(12, 1, (30, 0, 0, 0), pages=1)
    for _ in range(RESCAN_READS + 1):
        cpu_s, rss = tree.read()
    assert rss == 2 * PAGE
    assert cpu_s == pytest.approx(175 * TICK)  # never falls, though the ended child's 50 ticks went unwaited


def test_nan_when_the_root_is_gone(procfs):
    procfs.process(10, 1, (100, 0, 0, 0), pages=1)
    tree = ProcessTree(10, procfs.root)
    tree.read()
    procfs.end(10)
    assert all(map(math.isnan, tree.read()))
    assert all(map(math.isnan, ProcessTree(4, procfs.root / "nothing").read()))


def test_a_real_tree_with_a_child():
    code = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        alone = ProcessTree(child.pid).read()
        together = ProcessTree(os.getpid()).read()
        child.communicate()
    assert alone[1] > 1e6
    assert together[1] > alone[1]
    assert together[0] >= sum(os.times()[:2]) - 2 * TICK


def test_processors_of_a_bare_machine(procfs):
    procfs.processors(threads=24, cores=12, sockets=2, mhz=2400)
    cpu = processors(procfs.root)
    assert (cpu.threads, cpu.cores, cpu.sockets, cpu.base_ghz, cpu.virtual) == (24, 12.0, 2, 2.4, False)


def test_vcpus_are_hardware_threads(procfs):
    procfs.processors(threads=8, cores=8, flags="fpu hypervisor sse")
    cpu = processors(procfs.root)
    assert (cpu.threads, cpu.cores, cpu.virtual) == (8, 4.0, True)


def test_other_than_x86_has_no_base_clock(procfs):
    block = "processor\t: {}\nbogomips\t: 50.00\nFeatures\t: fp asimd\n"
    (procfs.root / "cpuinfo").write_text("\n".join(map(block.format, range(4))))
    cpu = processors(procfs.root)
    assert (cpu.threads, cpu.cores, cpu.base_ghz, cpu.virtual) == (4, 4.0, None, False)


def test_machine_facts(procfs):
    (procfs.root / "meminfo").write_text("MemTotal:       16384 kB\nMemFree: 1 kB\n")
    (procfs.root / "sys/kernel").mkdir(parents=True)
    (procfs.root / "sys/kernel/osrelease").write_text("6.1.0-fake\n")
    assert machine_facts(procfs.root) == {
        "cpu_model": "Fake CPU",
        "logical_cpus": 8,
        "memory_bytes": 16384 * 1024,
        "virtual": False,
        "kernel": "6.1.0-fake",
    }


def test_machine_facts_without_proc(tmp_path: Path):
    facts = machine_facts(tmp_path)
    assert facts["logical_cpus"] == os.cpu_count()
    assert facts["memory_bytes"] is None
    assert facts["kernel"]


def test_the_tree_names_its_processes(procfs):
    procfs.process(10, 1, (1, 0, 0, 0), pages=1)
    procfs.process(11, 10, (1, 0, 0, 0), pages=1)
    procfs.process(12, 1, (1, 0, 0, 0), pages=1)
    tree = ProcessTree(10, procfs.root)
    assert tree.pids == (10,)
    tree.read()
    assert tree.pids == (10, 11)
    procfs.end(11)
    tree.read()
    assert tree.pids == (10,)


def test_ticks_as_the_kernel_counts_them():
    assert jiffies(b"cpu  1 2 4 8 16 32 64 128 256 512\ncpu0 9\n") == (1 + 2 + 4 + 32 + 64, 128, 24)
    assert jiffies(b"cpu  1 2 4 8\n") == (7, 0, 8)
    with pytest.raises(ValueError, match="expected the line 'cpu user"):
        jiffies(b"cpu0 1 2 3 4\n")


def test_ticks_of_some_processors():
    stat = b"cpu  9 9 9 9\ncpu0 1 0 0 5\ncpu1 2 0 0 6\ncpu10 100 0 0 100\nintr 1 2\n"
    assert jiffies(stat, [0, 1]) == (3, 0, 11)
    assert jiffies(stat, (10,)) == (100, 0, 100)
    with pytest.raises(ValueError, match="expected the line 'cpu7 user"):
        jiffies(stat, [0, 7])


def test_busy_time_is_what_the_machines_own_tasks_ran(procfs):
    busy = BusyTime(procfs.root)
    procfs.jiffies(busy=250, idle=9999)
    assert busy.read() == pytest.approx(250 * TICK)
    (procfs.root / "stat").write_text("cpu  1 2 4 8 16 32 64 128 256 512\n")
    assert busy.read() == pytest.approx((1 + 2 + 4 + 32 + 64) * TICK)  # neither idle, nor stolen, nor a guest's twice
    (procfs.root / "stat").write_text("")
    assert math.isnan(busy.read())
    procfs.jiffies(busy=300, idle=0)
    assert busy.read() == pytest.approx(300 * TICK)
    busy.close()
    busy.close()
    assert math.isnan(busy.read())


def test_busy_time_without_proc(tmp_path: Path):
    busy = BusyTime(tmp_path)
    assert math.isnan(busy.read())
    busy.close()


def test_this_machine_is_as_busy_as_this_process_at_least():
    """Time is counted by ticks on one side and by the scheduler on the other: a tenth of allowance."""
    busy, used = BusyTime(), sum(os.times()[:2])
    before = busy.read()
    while sum(os.times()[:2]) - used < 0.3:
        sum(range(20_000))
    used = sum(os.times()[:2]) - used
    rise = busy.read() - before
    busy.close()
    assert 0.9 * used - 2 * TICK < rise < (os.cpu_count() or 1) * 60


def test_the_processors_of_each_package(procfs):
    procfs.processors(threads=4, cores=4, sockets=2)
    assert package_cpus(procfs.root) == {0: (0, 2), 1: (1, 3)}
    (procfs.root / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert package_cpus(procfs.root) == {}
