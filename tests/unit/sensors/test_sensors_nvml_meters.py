"""What can be read of a board, and how well each signal says it is."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from ergometry.sensors.gpu_model import BUSY_SHARE, IDLE_SHARE, REL_STDERR
from ergometry.sensors.nvml_boards import Board, classify
from ergometry.sensors.nvml_meters import Meter, find_meters
from support.fake_nvml.binding import (
    NOT_SUPPORTED,
    POWER_AVERAGE,
    POWER_INSTANT,
    FakeBinding,
    FakeDevice,
    FakeError,
    counting,
)

GPU, MODULE, MEMORY = 0, 1, 2
RATES = SimpleNamespace(gpu=50, memory=10)


def meters(device: FakeDevice, architecture: int = 5, board: Board | None = None) -> dict[str, Meter]:
    binding = FakeBinding(device)
    binding.nvmlInit()
    handle = binding.nvmlDeviceGetHandleByIndex(0)
    found = find_meters(
        binding, handle, board or Board(3, 1, device.uuid), device.name, classify(device.name, architecture)
    )
    return {
        meter.signal.domain: meter._replace(read=lambda _=None, m=meter: m.read(handle))  # type: ignore[misc]
        for meter in found
    }


def test_a_counter_is_what_is_read_where_there_is_one():
    (meter,) = meters(counting(0, GetPowerUsage=1)).values()
    signal = meter.signal
    assert (signal.domain, signal.device, signal.board) == ("node0/gpu3", "cuda:1", "GPU-00aa-0")
    assert (signal.quantity, signal.provenance) == ("energy_j", "measured")
    assert (signal.resolution_j, signal.resolution_w, signal.rel_stderr) == (1e-3, 0.0, 0.05)
    assert signal.wrap_j is None
    assert meter.read(None) == 1000.0


@pytest.mark.parametrize(
    ("name", "architecture", "period_s", "seen_s"),
    [
        ("NVIDIA A100-SXM4-80GB", 7, 0.102, 0.022),
        ("NVIDIA H100 80GB HBM3", 9, 0.1, 0.023),
        ("Tesla V100-SXM2-16GB", 5, 0.02, 0.011),
        ("NVIDIA GeForce RTX 4090", 8, 0.1, 0.0),
        ("unheard of", 77, 0.1, 0.023),
    ],
)
def test_a_counter_says_its_period_and_how_much_of_it_is_seen(name, architecture, period_s, seen_s):
    signal = meters(counting(0, name), architecture)["node0/gpu3"].signal
    assert (signal.update_period_s, signal.averaging_s) == (period_s, seen_s)


@pytest.mark.parametrize(
    ("name", "architecture", "fields", "power_w", "averaging_s"),
    [
        ("Tesla P100-PCIE-16GB", 4, {(POWER_INSTANT, GPU): 120_000}, 120.0, 0.01),
        ("Tesla P100-PCIE-16GB", 4, {}, 250.0, 0.01),
        ("NVIDIA GeForce RTX 3090", 7, {(POWER_INSTANT, GPU): 120_000}, 120.0, 0.105),
        ("NVIDIA GeForce RTX 3090", 7, {}, 250.0, 1.0),
        ("NVIDIA A100-SXM4-80GB", 7, {}, 250.0, 0.022),
        ("NVIDIA H100 80GB HBM3", 9, {}, 250.0, 1.0),
    ],
)
def test_without_a_counter_power_is_read_the_present_one_first(name, architecture, fields, power_w, averaging_s):
    """nvmlDeviceGetPowerUsage is a mean of one second on Ampere and later, GA100 excepted."""
    meter = meters(FakeDevice("GPU-1", name, {"GetPowerUsage": 250_000}, fields), architecture)["node0/gpu3"]
    assert meter.signal.quantity == "power_w"
    assert (meter.signal.averaging_s, meter.signal.resolution_w, meter.signal.resolution_j) == (averaging_s, 1e-3, 0.0)
    assert meter.read(None) == power_w


def test_a_counter_that_stands_at_zero_counts_nothing():
    board = FakeDevice("GPU-1", answers={"GetTotalEnergyConsumption": 0, "GetPowerUsage": 250_000})
    assert meters(board)["node0/gpu3"].signal.quantity == "power_w"


def h100(fields: dict[tuple[int, int], float], name: str = "NVIDIA H100 80GB HBM3") -> dict[str, Meter]:
    board = counting(0, name, GetPowerUsage=400_000)
    board.fields = fields
    return meters(board, 9)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({(POWER_AVERAGE, MEMORY): 70_000}, (70.0, 1.0)),
        ({(POWER_INSTANT, MEMORY): 80_000, (POWER_AVERAGE, MEMORY): 70_000}, (80.0, 0.023)),
        ({(POWER_INSTANT, MEMORY): 0, (POWER_AVERAGE, MEMORY): 70_000}, (70.0, 1.0)),
        ({(POWER_AVERAGE, MEMORY): 0}, None),  # seen on boards that have none
        ({(POWER_AVERAGE, MEMORY): 400_000}, None),  # a driver that ignores the scope
        ({}, None),
    ],
)
def test_memory_power_is_believed_where_it_is_more_than_nothing_and_less_than_the_board(fields, expected):
    meter = h100(fields).get("node0/gpu3/memory")
    if expected is None:
        assert meter is None
        return
    assert meter is not None
    assert (meter.read(None), meter.signal.averaging_s) == expected
    assert (meter.signal.quantity, meter.signal.device, meter.vital) == ("power_w", "cuda:1", False)


def test_a_parts_gain_is_not_the_boards():
    """A calibration of the board by its UUID must not be taken for one of its memory."""
    assert h100({(POWER_AVERAGE, MEMORY): 70_000})["node0/gpu3/memory"].signal.board == ""


@pytest.mark.parametrize(
    ("name", "module_mw", "found"),
    [
        ("NVIDIA GH200 480GB", 650_000, True),
        ("NVIDIA GH200 480GB", 400_000, False),  # no more than the board: the scope was ignored
        ("NVIDIA H100 80GB HBM3", 650_000, False),
        ("NVIDIA GB200", 2_650_000, False),  # several boards to a module would each tell all of it
    ],
)
def test_the_module_is_read_on_a_superchip_with_one_board(name, module_mw, found):
    all_of_it = h100({(POWER_INSTANT, MODULE): module_mw}, name)
    assert ("node0/module3" in all_of_it) == found
    if found:
        assert all_of_it["node0/module3"].read(None) == module_mw / 1e3
        assert all_of_it["node0/module3"].signal.device == ""  # its processor's joules are not the board's phases


def test_a_board_says_which_power_limits_it_can_be_set_to_and_its_parts_do_not():
    ranged = counting(0, GetPowerManagementLimitConstraints=(200_000, 700_000))
    ranged.fields |= {(POWER_INSTANT, GPU): 300_000, (POWER_INSTANT, MEMORY): 50_000}
    found = meters(ranged)
    told = {domain: (m.signal.least_limit_w, m.signal.greatest_limit_w) for domain, m in found.items()}
    assert told == {"node0/gpu3": (200.0, 700.0), "node0/gpu3/memory": (None, None)}
    (silent,) = meters(counting(0)).values()
    assert (silent.signal.least_limit_w, silent.signal.greatest_limit_w) == (None, None)


def test_a_slice_is_the_whole_boards_power_and_said_to_be():
    signals = [
        meters(counting(0), board=Board(0, 0, "GPU-0", sliced=True, slices=3, all_slices=7))["node0/gpu0"].signal,
        meters(counting(0), board=Board(0, 0, "GPU-0", sliced=True))["node0/gpu0"].signal,
    ]
    assert "whole board" in signals[0].method
    assert "3 of 7 compute slices, by which its share would be 43%" in signals[0].method
    assert "whole board" in signals[1].method
    assert "share" not in signals[1].method


def mute(**answers: object) -> FakeDevice:
    return FakeDevice("GPU-1", "Tesla T4", {"GetUtilizationRates": RATES, **answers})


def test_a_board_that_tells_no_power_is_modelled_wide():
    meter = meters(mute(GetEnforcedPowerLimit=200_000))["node0/gpu3"]
    signal = meter.signal
    assert (signal.quantity, signal.provenance, signal.rel_stderr, signal.board) == (
        "power_w",
        "modelled",
        REL_STDERR,
        "",
    )
    assert signal.static_w == pytest.approx(IDLE_SHARE * 200)
    assert meter.read(None) == pytest.approx(200 * (IDLE_SHARE + (BUSY_SHARE - IDLE_SHARE) * 0.5))


def test_the_models_clock_and_cap_are_the_boards():
    clocked = mute(GetEnforcedPowerLimit=200_000, GetClockInfo=lambda _: 700, GetMaxClockInfo=lambda _: 1400)
    assert meters(clocked)["node0/gpu3"].read(None) == pytest.approx(
        200 * (IDLE_SHARE + (BUSY_SHARE - IDLE_SHARE) * 0.5 * 0.25)
    )
    clocked.answers["GetCurrentClocksThrottleReasons"] = 4
    assert meters(clocked)["node0/gpu3"].read(None) == 200.0


def test_a_limit_that_is_not_told_is_the_default_one_or_the_data_sheets():
    assert "power limit 65 W" in meters(mute(GetPowerManagementDefaultLimit=65_000))["node0/gpu3"].signal.method
    assert "data sheet" in meters(mute())["node0/gpu3"].signal.method


def test_a_model_without_utilisation_is_a_gap():
    answers = itertools.chain([RATES], itertools.repeat(None))

    def rates() -> object:
        value = next(answers)
        if value is None:
            raise FakeError(NOT_SUPPORTED)
        return value

    assert meters(mute(GetUtilizationRates=rates))["node0/gpu3"].read(None) is None


def test_a_board_that_tells_nothing_is_no_source():
    with pytest.raises(FakeError, match="Not Supported"):
        meters(FakeDevice("GPU-1"))
