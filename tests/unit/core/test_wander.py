"""Wander: what the scatter of powers says of the energy inside an interval."""

from __future__ import annotations

import numpy as np
import pytest

from ergometry.core import wander
from ergometry.core.wander import Sight, Wander

COUNTER = Sight()


@pytest.fixture
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what is not read off the trace."""
    monkeypatch.setattr(wander, "RIPPLE", 0.0)
    monkeypatch.setattr(wander, "UNSEEN", 0.0)


def stderr(one: Wander, t0_s: float | np.ndarray, t1_s: float | np.ndarray) -> np.ndarray:
    return np.sqrt(one.of_windows(np.atleast_1d(t0_s), np.atleast_1d(t1_s)))


def fractional_motion(rng: np.random.Generator, n: int, k: float, hurst: float) -> np.ndarray:
    """Return n + 1 values, one second apart, of a motion whose increments have the variance k·L^2H; by Cholesky."""
    t = np.arange(1.0, n + 1)
    a, b = np.meshgrid(t, t)
    covariance = 0.5 * k * (a ** (2 * hurst) + b ** (2 * hurst) - np.abs(a - b) ** (2 * hurst))
    return np.concatenate(([0.0], np.linalg.cholesky(covariance) @ rng.standard_normal(n)))


@pytest.mark.usefixtures("nothing_hidden")
@pytest.mark.parametrize("half", [0.25, 0.5, 0.75])
def test_what_is_inside_an_interval_is_told_from_what_is_between(half: float) -> None:
    """Known truth: energy strays as the model says (H = ¼), read every eighth of its steps."""
    rng = np.random.default_rng(1)
    found, true = [], []
    for _ in range(12):
        strays = fractional_motion(rng, 1024, 400.0, 0.25)
        t = np.arange(1025.0)
        e = 100.0 * t + strays
        one = Wander(t[::8], e[::8], 0.0, COUNTER)
        inside = t[:-8:8] + 8 * half
        off = e[inside.astype(int)] - np.interp(inside, t[::8], e[::8])
        found.append(np.mean(one.of_edges(inside)[16:-16]))
        true.append(np.mean(off[16:-16] ** 2))
    assert np.sqrt(np.mean(found) / np.mean(true)) == pytest.approx(1.0, abs=0.15)


@pytest.mark.usefixtures("nothing_hidden")
def test_a_jump_inside_an_interval_is_told_by_its_neighbours() -> None:
    """Brute force over the place of the jump and that of the edge."""
    rng = np.random.default_rng(2)
    t = np.arange(64.0)
    found, true = [], []
    for place, edge in rng.uniform(0, 1, (400, 2)):
        e = 100.0 * t + 80.0 * np.maximum(t - 32 - place, 0.0)
        at = 32 + edge
        off = 100.0 * at + 80.0 * max(edge - place, 0.0) - np.interp(at, t, e)
        found.append(Wander(t, e, 0.0, COUNTER).of_edges(np.array([at]))[0])
        true.append(off**2)
        elsewhere = Wander(t, e, 0.0, COUNTER).of_edges(np.array([30.5, 34.5]))
        assert np.all(elsewhere < 2.5)
    assert np.mean(found) == pytest.approx(np.mean(true), rel=0.15)


@pytest.mark.usefixtures("nothing_hidden")
def test_late_updates_are_not_taken_for_a_load_that_strays() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(400.0)
    e = 100.0 * (t - rng.uniform(0, 0.3, 400))
    told, untold = Wander(t, e, 0.3, COUNTER), Wander(t, e, 0.0, COUNTER)
    middles = np.arange(20.5, 380.0)
    strays = told.of_edges(middles) - 0.5 * 30.0**2 / 12
    assert np.median(strays) < 0.25 * np.median(untold.of_edges(middles))


def test_a_hidden_ripple_is_allowed_for() -> None:
    t = np.arange(64.0)
    steady = Wander(t, 100.0 * t, 0.0, COUNTER)
    assert 0.9 * wander.RIPPLE * 100 < stderr(steady, 30.25, 30.75) < 1.1 * wander.RIPPLE * 100


def test_a_stretch_strays_by_no_more_than_power_can_swing() -> None:
    t = np.arange(64.0)
    rng = np.random.default_rng(4)
    for e in (100.0 * t, 100.0 * t + rng.normal(0, 30, 64)):
        for length in (1e-3, 0.01, 0.1):
            within, across = (stderr(Wander(t, e, 0.0, COUNTER), at, at + length) for at in (30.4, 31 - length / 3))
            power = max(np.diff(e)[29:32])
            assert within <= 1.5 * wander.SWING * power * length + np.abs(np.diff(e, 2)).max() * length
            assert across <= 1.5 * wander.SWING * power * length + np.abs(np.diff(e, 2)).max() * length


def test_knots_that_both_edges_hang_on_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force: the spread of what linear interpolation gives when knots are moved at random."""
    monkeypatch.setattr(wander, "SWING", 1e-9)
    rng = np.random.default_rng(5)
    t = np.arange(12.0)
    one = Wander(t, 100.0 * t, 0.1, COUNTER)
    for window in ((5.5, 6.5), (5.2, 5.9), (5.9, 6.1), (5.5, 7.5), (5.0, 6.0), (5.0, 9.3)):
        moved = 100.0 * (t + rng.uniform(-0.05, 0.05, (20_000, 12)))
        spread = np.std([np.diff(np.interp(window, t, e))[0] for e in moved])
        assert stderr(one, *window) == pytest.approx(spread, rel=0.03), window


def test_of_a_few_intervals_little_is_known() -> None:
    t = np.arange(40.0)
    middles = [stderr(Wander(t[:n], 100.0 * t[:n], 0.0, COUNTER), 0.5, 1.0)[0] for n in (2, 3, 4, 6, 40)]
    assert middles[0] == middles[1] == middles[2], "one neighbour or none"
    assert middles[2] > middles[3] > middles[4]
    assert middles[0] < wander.SWING * 25


def test_a_part_time_sensor_s_errors_add_up_over_a_window() -> None:
    t = np.arange(1000.0)
    whole, part = (Wander(t, 100.0 * t, 0.0, Sight(None, skipped, 0.1)) for skipped in (0.0, 0.75))
    assert stderr(whole, 100, 900) == 0
    assert stderr(part, 100, 900) == pytest.approx(wander.UNSEEN * 100 * np.sqrt(0.75 * 0.1 * 800))
    assert stderr(part, 100, 900) == pytest.approx(2 * stderr(part, 100, 300))


@pytest.mark.usefixtures("nothing_hidden")
def test_instants_of_a_power_that_changes_at_once_miss_when_it_did() -> None:
    """One jump between two readings, anywhere: its interval is off by a uniform part of the jump."""
    t = np.arange(64.0)
    power = np.where(t < 32, 100.0, 180.0)
    e = np.concatenate(([0.0], np.cumsum(power)))
    one = Wander(np.arange(65.0), e, 0.0, Sight(0.01))
    with_jump, without = (stderr(one, a, b)[0] ** 2 for a, b in ((20, 60), (36, 60)))
    assert with_jump - without == pytest.approx(80.0**2 / 12, rel=0.2)


def test_instants_miss_less_the_more_of_the_time_each_stands_for() -> None:
    rng = np.random.default_rng(6)
    e = np.concatenate(([0.0], np.cumsum(100 + 20 * rng.standard_normal(200))))
    t = np.arange(201.0)
    errors = [stderr(Wander(t, e, 0.0, Sight(averaging)), 50, 150)[0] for averaging in (0.0, 0.2, 0.45)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] == pytest.approx(np.hypot(20.0, 10.0) * 10, rel=0.25), "a hundred readings, independent"
    assert stderr(Wander(t, e, 0.0, Sight(1.0)), 50, 150) == 0


def test_a_stretch_beside_a_reading_is_better_known_than_one_anywhere() -> None:
    rng = np.random.default_rng(7)
    e = np.concatenate(([0.0], np.cumsum(100 + 20 * rng.standard_normal(200))))
    one = Wander(np.arange(201.0), e, 0.0, Sight(0.01))
    at = np.arange(40.0, 150.0)
    anywhere, beside = (np.median(stderr(one, at + x - 0.05, at + x + 0.05)) for x in (0.45, 0.0))
    assert beside < 0.6 * anywhere


def test_power_that_is_averaged_for_longer_than_between_readings_blurs_edges() -> None:
    rng = np.random.default_rng(8)
    e = np.concatenate(([0.0], np.cumsum(100 + 5 * rng.standard_normal(200))))
    t = np.arange(201.0)
    sharp, blurred = (stderr(Wander(t, e, 0.0, Sight(averaging)), 50.5, 150.5)[0] for averaging in (1.0, 5.0))
    assert blurred > 1.1 * sharp
