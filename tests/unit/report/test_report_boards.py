"""What a report says of the boards: findings on those held down or little used, and their table in every format."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.run import Run
from ergometry.report import render, summary
from support.odd_runs import hot_clock, mixed
from support.synthetic import BOARD, WELL, board, synthetic_run, with_health, with_source

HEAT = {"throttle": lambda t: np.where(t > 20.0, float(series.HEAT), 0.0), "clock_hz": hot_clock, "temperature_c": 88.0}


def boards(*told, signal=BOARD, **options) -> Run:
    """Return a run of 60 s on boards of 300 W, in this health."""
    run = replace(synthetic_run(597, evaluate_every=10**6, devices=["H100"], **options), samples=())
    signals = [signal, *(board(i) for i in range(1, len(told)))]
    run = with_source(run, "nvml", dict.fromkeys(signals[: len(told)], 300.0))
    return with_health(run, *(WELL | each for each in told))


def found(run: Run):
    """Return the findings on boards, in their order."""
    return {f["code"]: f for f in summary(run)["findings"] if f["code"].startswith("board.")}


def test_boards_that_are_well_are_no_finding():
    assert found(boards({}, {})) == {}


def test_heat_with_the_joules_spent_meanwhile():
    finding = found(boards(HEAT))["board.heat"]
    assert finding["text"] == "heat held gpu0 below its top clock 66 % of the time"
    assert "gpu0 66 %, at 1.32 GHz of 1.98 GHz, up to 88 °C" in finding["evidence"]
    assert "11.98" in finding["evidence"]  # kJ: 300 W from half-way between two samples on
    assert finding["evidence"].endswith("spent meanwhile")


def test_what_heat_costs_is_at_most_the_idle_power_for_the_seconds_it_added():
    known = replace(BOARD, static_w=80.0, static_rel_stderr=0.1)
    saving = found(boards(HEAT, signal=known))["board.heat"]["expected_saving"]
    assert saving["value"] == pytest.approx(80.0 * 40.0 * (1 - 1.32 / 1.98), rel=0.02)
    assert saving["method"].startswith("at most, idle power")
    assert saving["provenance"] == "modelled"


def test_what_heat_costs_is_not_known_without_an_idle_power_and_says_so():
    run = boards(HEAT)
    saving = found(run)["board.heat"]["expected_saving"]
    assert saving["value"] is None
    assert "idle power of gpu0" in saving["why"]
    for form in ("text", "markdown", "html"):
        assert "hat it saves is not known: needs the idle power of gpu0" in " ".join(render(run, form).split()), form


def test_of_several_boards_one_finding_names_each():
    finding = found(boards(HEAT, HEAT, HEAT))["board.heat"]
    assert finding["text"] == "heat held 3 boards below their top clock 66 % of the time"
    assert all(f"gpu{i} 66 %" in finding["evidence"] for i in range(3))


def test_a_power_limit_is_a_fact_and_not_a_cost():
    capped = {"throttle": float(series.POWER_CAP), "clock_hz": 1.6e9, "power_limit_w": 500.0}
    finding = found(boards(capped))["board.power_cap"]
    assert finding["text"] == "the power limit held gpu0 below its top clock 100 % of the time"
    assert "limit 500 W" in finding["evidence"]
    assert finding["expected_saving"] is None
    assert finding["remedy"].startswith("none if the limit is meant")


def test_a_brake_and_another_limit_are_told_apart():
    assert "board.power_brake" in found(boards({"throttle": float(series.POWER_BRAKE), "clock_hz": 1e9}))
    other = found(boards({"throttle": float(series.OTHER_THROTTLE), "clock_hz": 1e9}))
    assert set(other) == {"board.other"}
    assert other["board.other"]["expected_saving"] is None


def test_a_moment_of_heat_is_not_worth_a_word():
    moment = {"throttle": lambda t: np.where(t < 2.0, float(series.HEAT), 0.0), "clock_hz": 1.5e9}
    assert found(boards(moment)) == {}


def test_a_board_with_little_to_do_and_the_joules_of_its_idling():
    idle = lambda t: np.where(t % 10.0 < 7.0, 0.0, 1.0)  # noqa: E731
    run = boards({"utilisation": idle, "throttle": math.nan})
    finding = found(run)["board.little_used"]
    assert finding["text"] == "there was work for gpu0 30 % of the time in training"
    # It was seen idle, at the 300 W it always draws.
    assert finding["expected_saving"]["value"] == pytest.approx(300.0 * 0.7 * 59.7, rel=0.03)
    known = replace(BOARD, static_w=70.0, static_rel_stderr=0.2)
    saving = found(boards({"utilisation": 0.3}, signal=known))["board.little_used"]["expected_saving"]
    assert saving["value"] == pytest.approx(70.0 * 0.7 * 59.7, rel=0.01)
    assert saving["stderr"] == pytest.approx(0.2 * saving["value"])


def test_a_board_that_idles_outside_of_training_alone_is_no_finding():
    run = boards({"utilisation": lambda t: np.where(t < 60.0, 0.9, 0.0)})
    later = replace(run, duration_s=600.0)
    assert "board.little_used" not in found(later)


def test_a_hot_board_is_said_before_heat_slows_it_down_and_not_after():
    assert "board.hot" in found(boards({"temperature_c": 87.0}))
    assert "board.hot" not in found(boards(HEAT))
    assert "board.hot" not in found(boards({"temperature_c": 70.0}))


def test_costs_come_before_facts():
    capped = {"throttle": float(series.POWER_CAP), "clock_hz": 1.6e9}
    assert list(found(boards(capped, HEAT))) == ["board.heat", "board.power_cap"]


def test_a_board_whose_power_was_not_read_still_has_its_finding():
    run = replace(boards(HEAT), samples=())
    finding = found(run)["board.heat"]
    assert "spent meanwhile" not in finding["evidence"]
    assert finding["expected_saving"]["value"] is None


def test_the_summary_has_the_health_of_each_board():
    health = summary(mixed())["health"]
    assert [one["board"] for one in health] == ["gpu0", "gpu1"]
    assert health[0]["temperature_max"]["value"] == 88.0
    assert health[0]["temperature_max"]["unit"] == "degC"
    assert health[0]["held_by_heat"]["value"] == pytest.approx(0.69, abs=0.02)
    assert health[1]["power_limit"]["value"] == 700.0
    assert health[1]["pcie_received"]["value"] == 1.2e9
    assert summary(synthetic_run(3))["health"] == []


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_each_board_has_a_row_in_every_format_and_runs_without_boards_have_no_table(form):
    told = " ".join(render(mixed(), form, width=132).replace("<td", " <td").split())
    for words in ("Boards", "82.1/88 °C", "1.52/1.98 GHz", "heat 69", "power limit 100", "700 W", "1.2/0.4 GB/s"):
        assert words in told.replace("\xa0", " "), words
    assert "Boards" not in render(synthetic_run(3), form).partition("<script")[0]
