"""Kernels do the work that they say; all-reduce goes to every rank and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ergometry.calibration import kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "make",
    [lambda: kernels.product(CPU, "fp32"), lambda: kernels.product(CPU, "bf16"), lambda: kernels.thin_product(CPU, 8)],
)
def test_a_product_has_the_flop_that_torch_counts(make) -> None:
    work = make()
    with FlopCounterMode(display=False) as counted:
        work.once()
    assert counted.get_total_flops() == sum(work.flops.values())


def test_a_copy_moves_its_bytes_and_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "COPY_BYTES", 1 << 20)
    work = kernels.copy(CPU)
    target = work.once()
    assert isinstance(target, torch.Tensor)
    assert torch.equal(target, torch.ones(1 << 18))
    assert (work.flops, work.bytes) == ({}, 2.0 * (1 << 20))


def test_intensity_rises_with_the_columns() -> None:
    intensities = []
    for columns in kernels.THIN:
        work = kernels.thin_product(CPU, columns)
        intensities.append(sum(work.flops.values()) / work.bytes)
    assert intensities == sorted(intensities)
    assert intensities[0] == pytest.approx(0.5, rel=0.01)
    assert intensities[-1] == pytest.approx(60.2, rel=0.01)


def test_repeating_takes_about_as_long_as_asked_and_counts() -> None:
    now, done = [0.0], [0]

    def once() -> None:
        now[0] += 0.004
        done[0] += 1

    count = kernels.repeat(kernels.Work("fake", once, {}, 0.0), 1.0, CPU, clock=lambda: now[0])
    assert count == done[0]
    assert 1.0 <= now[0] < 1.1


def test_every_dtype_that_runs_here_is_there_once() -> None:
    names = [make().name for make in kernels.kernels(CPU)]
    assert len(set(names)) == len(names)
    assert {"copy", "matmul fp32", "matmul fp64"} <= set(names)
    assert "matmul tf32" not in names


RANK = """
import sys, torch
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[1]), world_size=2)
from ergometry.calibration.collectives import AllReduce
together = AllReduce(torch.device("cpu"))
together.message = torch.full((1000,), float(torch.distributed.get_rank()))
if torch.distributed.get_rank():
    together.join()
else:
    print(together.ranks, together.link_bytes, together.repeat(0.05) >= 1)
    together.end()
print(float(together.message.mean()), flush=True)
torch.distributed.destroy_process_group()
"""


def test_ranks_repeat_together_as_often_as_the_first_says(tmp_path: Path) -> None:
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, rank, tmp_path / "ranks"],
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    outputs = [out.split() for out, _ in said]
    assert outputs[0][:3] == ["2", str(2.0 * (1 << 26)), "True"]
    assert outputs[0][-1] == outputs[1][-1] == "0.5"
