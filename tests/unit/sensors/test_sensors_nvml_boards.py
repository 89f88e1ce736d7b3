"""Which boards CUDA_VISIBLE_DEVICES leaves, by CUDA's rules; and what is known of each kind's sensor."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from ergometry.sensors.nvml_boards import (
    ADA,
    AMPERE,
    BLACKWELL,
    HOPPER,
    PASCAL,
    TURING,
    UNKNOWN,
    VOLTA,
    ask,
    classify,
    visible_boards,
)
from support.fake_nvml.binding import FakeBinding, FakeDevice, counting

TIMING = Path(__file__).parents[4] / "shared/data/sensors/nvml_power_timing.csv"


def started(*devices: FakeDevice) -> FakeBinding:
    binding = FakeBinding(*devices)
    binding.nvmlInit()
    return binding


def numbers(binding: FakeBinding, visible: str | None) -> list[tuple[int, int]]:
    return [(board.number, board.ordinal) for board in visible_boards(binding, visible)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [(i, i) for i in range(12)]),
        ("10", [(10, 0)]),
        ("1", [(1, 0)]),
        ("10, 2,11", [(10, 0), (2, 1), (11, 2)]),
        ("GPU-0aaa-10", [(10, 0)]),
        ("GPU-0b,0", [(11, 0), (0, 1)]),
        ("3,99,4", [(3, 0)]),
        ("3,-1,4", [(3, 0)]),
        ("5,5", [(5, 0)]),
        *(
            (hides_all, [])
            for hides_all in ("", "-1", "none", "12", "GPU-", "GPU-ffff", "gpu-0aaa-10", "MIG-gone", "٣")
        ),
    ],
)
def test_boards_by_index_uuid_and_unambiguous_beginning(visible, expected):
    assert numbers(started(*map(counting, range(12))), visible) == expected


def test_a_lost_board_hides_no_other():
    binding = started(*map(counting, range(3)))
    binding.devices[1].lost = True
    assert numbers(binding, "GPU-02,GPU-00") == [(2, 0), (0, 1)]


def divided(number: int, *slices: int) -> FakeDevice:
    board = counting(number, "NVIDIA A100-SXM4-80GB", GetMigMode=[1, 1])
    for i, compute in enumerate(slices):
        answers = {
            "GetGpuInstanceId": i + 1,
            "GetComputeInstanceId": 0,
            "GetAttributes": SimpleNamespace(computeInstanceSliceCount=compute),
        }
        board.instances.append(FakeDevice(f"MIG-{number}-{i}", answers=answers))
    board.answers["GetMaxMigDeviceCount"] = 7
    return board


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("MIG-1-1", [(1, 0, 2)]),
        ("MIG-GPU-01aa-1/2/0", [(1, 0, 2)]),
        ("MIG-1-0,MIG-1-1", [(1, 0, 5)]),
        ("MIG-1-1,MIG-0-0,2", [(1, 0, 2), (0, 1, 3), (2, 2, 0)]),
        ("MIG-GPU-01aa-1/2/1", []),
        ("MIG-GPU-00aa-0/3/0", []),
        ("MIG-GPU-01/2/0", []),
        ("MIG-1-1,MIG-9-9,2", [(1, 0, 2)]),
    ],
)
def test_mig_instances_name_their_board_once_by_either_format(visible, expected):
    boards = visible_boards(started(divided(0, 3), divided(1, 3, 2), counting(2)), visible)
    assert [(board.number, board.ordinal, board.slices) for board in boards] == expected
    assert [board.sliced for board in boards] == [board.number != 2 for board in boards]
    assert all(board.all_slices == 7 for board in boards if board.slices)


def test_a_board_in_mig_mode_is_said_to_be_divided_though_named_by_index():
    (board,) = visible_boards(started(divided(0, 3)), "0")
    assert (board.sliced, board.slices) == (True, 0)


def test_a_call_that_an_older_binding_lacks_is_not_supported():
    assert ask(SimpleNamespace(NVMLError=ValueError), "nvmlDeviceGetArchitecture", object()) is None


@pytest.mark.parametrize(
    ("name", "architecture", "known", "quick", "module"),
    [
        ("Tesla V100-SXM2-32GB", VOLTA, "Volta", True, False),
        ("NVIDIA TITAN V", VOLTA, "Volta", False, False),
        ("Tesla P100-PCIE-16GB", PASCAL, "Pascal", True, False),
        ("NVIDIA GeForce GTX 1080 Ti", PASCAL, "Pascal", False, False),
        ("Quadro RTX 8000", TURING, "Turing, professional", False, False),
        ("NVIDIA RTX 6000 Ada Generation", ADA, "Ada", False, False),
        ("NVIDIA RTX PRO 6000 Blackwell", BLACKWELL, UNKNOWN.name, False, False),
        ("NVIDIA GeForce RTX 2080 Ti", TURING, "Turing", False, False),
        ("NVIDIA A30", AMPERE, "GA100", True, False),
        ("NVIDIA A40", AMPERE, "Ampere", False, False),
        ("NVIDIA L40S", ADA, "Ada", False, False),
        ("NVIDIA H100 80GB HBM3", HOPPER, "Hopper", True, False),
        ("NVIDIA GH200 480GB", HOPPER, "Hopper", True, True),
        ("NVIDIA H200", HOPPER, "Hopper", True, False),
        ("NVIDIA B200", BLACKWELL, "Blackwell, not measured", True, False),
        ("NVIDIA GB200", BLACKWELL, "Blackwell, not measured", True, False),
        ("NVIDIA GeForce RTX 5090", BLACKWELL, UNKNOWN.name, False, False),
        ("Something", None, UNKNOWN.name, False, False),
        ("Something", 99, UNKNOWN.name, False, False),
    ],
)
def test_the_class_of_a_board(name, architecture, known, quick, module):
    kind = classify(name, architecture)
    assert (kind.name, kind.quick, kind.module) == (known, quick, module)


@pytest.mark.skipif(not TIMING.exists(), reason=f"the public measurements are not at {TIMING}")
def test_the_classes_are_what_was_measured():
    architectures = {
        "P100": 4,
        "GTX": 4,
        "V100": 5,
        "RTX 2": 6,
        "RTX 8": 6,
        "A100": 7,
        "RTX 3": 7,
        "RTX 4": 8,
        "H100": 9,
    }
    rows = list(csv.DictReader(TIMING.read_text().splitlines()))
    assert len(rows) >= 11
    for row in rows:
        name = re.sub(r" \(.*\)", "", row["gpu"])
        kind = classify(name, next(number for prefix, number in architectures.items() if name.startswith(prefix)))
        period_s, window_s = float(row["update_period_ms"]) / 1e3, float(row["averaging_window_ms"]) / 1e3
        assert kind.period_s == pytest.approx(period_s, abs=0.0011), name
        if window_s == 1.0:
            assert kind.slow_usage, name
        else:
            assert kind.window_s == pytest.approx(window_s, abs=0.0011), name
            # What a counter misses: nothing of a period where the window is as long.
            assert kind.seen_s == (kind.window_s if window_s < period_s else 0.0), name
