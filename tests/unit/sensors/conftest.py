"""Builders of fake sysfs and procfs trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Powercap = Callable[[dict[str, tuple[str, int]]], Path]


class FakeProc:
    """A procfs in a folder: set the processors, the jiffies and the processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processors(threads=8, cores=4)
        self.jiffies(0, 0)

    def processors(
        self, threads: int, cores: int, *, sockets: int = 1, mhz: int = 2000, flags: str = "fpu sse"
    ) -> None:
        blocks = [
            f"processor\t: {i}\nmodel name\t: Fake CPU\nphysical id\t: {i % sockets}\n"
            f"core id\t\t: {i // sockets % (cores // sockets)}\nflags\t\t: {flags}\nbogomips\t: {2 * mhz}.00\n"
            for i in range(threads)
        ]
        (self.root / "cpuinfo").write_text("\n".join(blocks))

    def jiffies(self, busy: int, idle: int) -> None:
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\n")

    def process(
        self, pid: int, parent: int, ticks: tuple[int, int, int, int], pages: int, name: str = "python"
    ) -> None:
        fields = ["S", parent, *[0] * 9, *ticks, *[0] * 6, pages, *[0] * 20]
        (self.root / str(pid)).mkdir(exist_ok=True)
        (self.root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "stat").unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def procfs(tmp_path: Path) -> FakeProc:
    (tmp_path / "proc").mkdir()
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def powercap(tmp_path: Path) -> Iterator[Powercap]:
    """Make a flat powercap class folder from {zone key: (name, energy in µJ)}; call again to move the counters."""

    def make(zones: dict[str, tuple[str, int]]) -> Path:
        for key, (name, energy_uj) in zones.items():
            folder = tmp_path / "sys/class/powercap" / key
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text("262143328850\n")
            (folder / "energy_uj").write_text(f"{energy_uj}\n")
        return tmp_path / "sys"

    yield make
