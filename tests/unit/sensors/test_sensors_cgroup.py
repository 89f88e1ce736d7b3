"""Control groups: the tightest limit from a process's own group up, as versions 1 and 2 of the kernel lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ergometry.core.ports import Machine
from ergometry.sensors.cgroup import CpuLimit, cpu_limit, memory_limit_bytes, read_usage_s
from ergometry.sensors.load import GroupLoad

GIB = 1 << 30
NO_LIMIT_V1 = "9223372036854771712\n"


class Groups:
    """A sysfs and a procfs in a folder, with the control groups that are put into them."""

    def __init__(self, root: Path, cgroup: str) -> None:
        self.machine = Machine(root / "sys", root / "proc", {})
        self.root = root / "sys/fs/cgroup"
        self.root.mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(cgroup)

    def put(self, group: str, **files: str) -> Path:
        folder = self.root / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return folder


def test_no_groups_no_limit(tmp_path):
    machine = Machine(tmp_path, tmp_path, {})
    assert cpu_limit(machine) is None
    assert memory_limit_bytes(machine) is None


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path):
    groups = Groups(tmp_path, "0::/\n")
    groups.put(".", cpu__max="250000 100000\n", memory__max=f"{3 * GIB}\n", cpu__stat="usage_usec 5\n")
    assert cpu_limit(groups.machine) == CpuLimit(2.5, groups.root / "cpu.stat", 1e-6)
    assert memory_limit_bytes(groups.machine) == 3 * GIB


def test_max_is_no_limit(tmp_path):
    groups = Groups(tmp_path, "0::/job\n")
    groups.put("job", cpu__max="max 100000\n", memory__max="max\n")
    assert cpu_limit(groups.machine) is None
    assert memory_limit_bytes(groups.machine) is None


@pytest.mark.parametrize("tightest", ["a", "a/b", "a/b/c"])
def test_the_tightest_limit_up_the_tree_binds_and_its_group_is_metered(tmp_path, tightest):
    groups = Groups(tmp_path, "0::/a/b/c\n")
    for group in ("a", "a/b", "a/b/c"):
        tight = group == tightest
        groups.put(
            group, cpu__max=f"{150_000 if tight else 400_000} 100000", memory__max=f"{(1 if tight else 4) * GIB}"
        )
    groups.put("other", cpu__max="1000 100000", memory__max="1")
    assert cpu_limit(groups.machine) == CpuLimit(1.5, groups.root / tightest / "cpu.stat", 1e-6)
    assert memory_limit_bytes(groups.machine) == GIB


def test_version_1_with_both_controllers_in_one_mount(tmp_path):
    groups = Groups(tmp_path, "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/box\n0::/box\n")
    folder = groups.put("cpu,cpuacct/box", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000", cpuacct__usage="7")
    groups.put("memory/box", memory__limit_in_bytes=f"{2 * GIB}\n")
    groups.put("memory", memory__limit_in_bytes=NO_LIMIT_V1)
    assert cpu_limit(groups.machine) == CpuLimit(3.0, folder / "cpuacct.usage", 1e-9)
    assert memory_limit_bytes(groups.machine) == 2 * GIB


def test_version_1_with_the_controllers_apart(tmp_path):
    groups = Groups(tmp_path, "2:cpuacct:/x/box\n1:cpu:/x/box\n")
    groups.put("cpu/x/box", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    groups.put("cpu/x", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    usage = groups.put("cpuacct/x", cpuacct__usage="7") / "cpuacct.usage"
    groups.put("cpuacct/x/box", cpuacct__usage="7")
    assert cpu_limit(groups.machine) == CpuLimit(0.5, usage, 1e-9)


def test_a_group_that_only_the_host_can_see_is_the_root_of_the_mount(tmp_path):
    groups = Groups(tmp_path, "3:cpu:/docker/0123456789ab\n2:memory:/docker/0123456789ab\n")
    folder = groups.put("cpu", cpu__cfs_quota_us="100000", cpu__cfs_period_us="50000", cpuacct__usage="1")
    groups.put("memory", memory__limit_in_bytes=f"{GIB}")
    assert cpu_limit(groups.machine) == CpuLimit(2.0, folder / "cpuacct.usage", 1e-9)
    assert memory_limit_bytes(groups.machine) == GIB


def test_version_2_beside_version_1_keeps_its_own_mount(tmp_path):
    groups = Groups(tmp_path, "1:cpu:/\n0::/job\n")
    groups.put("cpu")
    folder = groups.put("unified/job", cpu__max="100000 100000")
    assert cpu_limit(groups.machine) == CpuLimit(1.0, folder / "cpu.stat", 1e-6)


@pytest.mark.parametrize("text", ["", "much", "1000", "0 100000", "100000 0", "-5 100000", "max"])
def test_nonsense_is_no_limit(tmp_path, text):
    groups = Groups(tmp_path, "no colons\n0::/../../etc\n0::/\n")
    groups.put(".", cpu__max=text, memory__max="much")
    groups.put("../../etc", cpu__max="100000 100000", memory__max="1")  # no group of this mount
    assert cpu_limit(groups.machine) is None
    assert memory_limit_bytes(groups.machine) is None


def test_what_a_group_used(tmp_path):
    v2, v1 = CpuLimit(2.0, tmp_path / "cpu.stat", 1e-6), CpuLimit(2.0, tmp_path / "cpuacct.usage", 1e-9)
    assert read_usage_s(v2, b"usage_usec 1500000\nuser_usec 9\n") == pytest.approx(1.5)
    assert read_usage_s(v1, b"1500000000\n") == pytest.approx(1.5)
    for text in (b"", b"user_usec 9\nusage_usec 1\n", b"usage_usec\n"):
        with pytest.raises(ValueError, match="invalid literal"):
            read_usage_s(v2, text)


def test_the_load_of_a_group_is_of_what_its_limit_allows(tmp_path):
    file = tmp_path / "cpuacct.usage"
    file.write_text("4000000000\n")
    load = GroupLoad(CpuLimit(2.5, file, 1e-9))
    assert load.threads == 2.5
    assert load.read(10.0) == (pytest.approx(4.0), pytest.approx(25.0))
    load.close()
    load.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        load.read(11.0)


def test_this_process_is_in_some_group_and_reading_it_never_raises():
    limit = cpu_limit(Machine.here())
    assert limit is None or limit.cpus > 0
    assert (memory_limit_bytes(Machine.here()) or 1) > 0
