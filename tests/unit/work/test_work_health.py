"""Health: a board's state over a run, each sample weighted with the time it stands for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.run import Run
from ergometry.work.health import Board, boards
from support.odd_runs import hot_clock, with_table
from support.synthetic import WELL, synthetic_run, with_health

RUN = replace(synthetic_run(600, evaluate_every=10**6), duration_s=60.0)


def one(each_s: float = 1.0, **told) -> Board:
    (board,) = boards(with_health(RUN, WELL | told, each_s=each_s))
    return board


def test_without_boards_there_are_none():
    assert boards(RUN) == ()
    assert boards(with_table(RUN, series.HEALTH, [])) == ()


def test_boards_come_by_number_with_their_names():
    rows = with_health(RUN, WELL, WELL).table(series.HEALTH).rows.copy()
    rows[rows[:, 1] == 1, 1] = 10
    found = boards(with_table(RUN, series.HEALTH, rows[::-1]))
    assert [board.name for board in found] == ["gpu0", "gpu10"]
    assert np.all(np.diff(found[1].table["t_s"]) > 0)


def test_samples_tile_the_run():
    board = one()
    assert board.begin_s[0] == 0
    np.testing.assert_allclose(board.begin_s[1:], board.end_s[:-1])
    assert board.seconds.sum() == pytest.approx(60.0)


def test_a_sample_stands_for_no_more_than_the_time_around_it_when_others_are_missing():
    rows = with_health(RUN, WELL).table(series.HEALTH).rows
    board = boards(with_table(RUN, series.HEALTH, rows[(rows[:, 0] < 10) | (rows[:, 0] > 50)]))[0]
    assert board.seconds.max() <= 0.5 + 1.5 + 1e-9
    assert board.seconds.sum() == pytest.approx(60.0 - (42.0 - 2 * 1.5), abs=1.1)


def test_heat_holds_a_clock_for_its_share_of_the_time():
    board = one(throttle=lambda t: np.where(t > 20.0, 1.0, 0.0), clock_hz=hot_clock)
    share = board.held_share("heat")
    assert abs(share.value - 40.0 / 60.0) < 2 * share.stderr + 1e-9
    assert share.stderr == pytest.approx(math.sqrt(1 / 12) / 60.0)
    assert board.lost_s("heat") == pytest.approx(share.value * 60.0 * (1 - 1.32 / 1.98))
    assert board.held_share("power_cap").value == 0


def test_time_is_what_counts_and_not_the_number_of_samples():
    # Ten times as many samples in the second half, in which it is throttled.
    rows = np.concatenate(
        [
            with_health(RUN, WELL).table(series.HEALTH).rows[:30],
            with_health(RUN, WELL | {"throttle": 1.0, "clock_hz": 1e9}, each_s=0.1).table(series.HEALTH).rows[300:],
        ]
    )
    board = boards(with_table(RUN, series.HEALTH, rows))[0]
    assert board.held_share("heat").value == pytest.approx(0.5, abs=0.02)


def test_a_board_with_nothing_to_do_is_not_held_down():
    idle = one(throttle=float(series.IDLE | series.HEAT), clock_hz=3e8, utilisation=0.0)
    assert not idle.busy.any()
    assert not idle.held_share("heat").known
    assert idle.held_share("heat").why == "the board was never seen busy"


def test_a_board_that_does_not_tell_its_use_is_busy_unless_its_clock_is_idle():
    told = {"utilisation": math.nan, "clock_hz": 1e9}
    assert one(**told, throttle=float(series.HEAT)).held_share("heat").value == 1
    assert not one(**told, throttle=float(series.IDLE)).busy.any()
    assert not one(**told, throttle=math.nan).busy.any()


def test_at_its_top_clock_nothing_holds_a_board_whatever_the_driver_names():
    assert one(throttle=float(series.POWER_CAP)).held_share("power_cap").value == 0
    unknown = one(throttle=float(series.POWER_CAP), max_clock_hz=math.nan)
    assert unknown.held_share("power_cap").value == 1
    assert math.isnan(unknown.lost_s("power_cap"))


def test_bits_of_several_causes_are_told_apart():
    board = one(throttle=float(series.HEAT | series.OTHER_THROTTLE), clock_hz=1e9)
    told = board.figures()
    shares = {cause: told[f"held_by_{cause}"].value for cause in ("heat", "power_cap", "power_brake", "other")}
    assert shares == {"heat": 1, "power_cap": 0, "power_brake": 0, "other": 1}


def test_what_a_board_does_not_tell_is_unknown_with_why():
    told = one(temperature_c=math.nan, throttle=math.nan, pcie_tx_bytes_per_s=math.nan).figures()
    for name in ("temperature_mean", "temperature_max", "held_by_heat", "pcie_sent", "link_sent"):
        assert not told[name].known, name
        assert told[name].why


def test_the_clock_is_that_of_the_time_it_was_busy():
    board = one(utilisation=lambda t: np.where(t < 30, 0.9, 0.0), clock_hz=lambda t: np.where(t < 30, 1.5e9, 2e8))
    assert board.figures()["clock_mean"].value == pytest.approx(1.5e9)
    assert board.figures()["utilisation"].value == pytest.approx(0.45, abs=0.01)


def test_samples_after_the_run_s_end_are_left_out():
    run: Run = with_health(RUN, WELL)
    rows = np.vstack([run.table(series.HEALTH).rows, run.table(series.HEALTH).rows[-1]])
    rows[-1, 0], rows[-1, 5] = 70.0, 99.0
    assert boards(with_table(run, series.HEALTH, rows))[0].most("temperature_c", "degC").value == 61.0
