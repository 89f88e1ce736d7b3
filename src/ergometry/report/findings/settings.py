"""What a run's settings have to say: its batch size, learning rate, precision and power limit, against better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.equations.budgets import least_energy
from ergometry.equations.points import Point, read_points
from ergometry.estimators.curvature import read_curvature
from ergometry.report.findings.finding import Finding
from ergometry.report.words import grouped, percent, quantity
from ergometry.work.accounts import Accounts
from ergometry.work.profiles import Item, seconds_of

Equations = Mapping[str, Any]
"""The summary's entries: id -> ``as_written`` and ``repair``, name -> Q."""

NINE_IN_TEN = 1.645
"""Standard errors on either side of a 90 % interval."""

WORTH = 0.03
"""A smaller share of the training's energy is not worth a word."""

LOOKS = 3
"""Looks at the curvature, at least: one may have met an odd batch."""

EDGE = 1.1
"""Full-batch training by itself comes to hover at its stability limit (Cohen 2021, 2103.00065), a little above it."""

SHORT = 0.5
"""From this share of the step of steepest descent on, a step takes three quarters of what it could."""

FASTER = 1.5
HALVES = ("bf16", "fp16")

_TRAINING = ("forward", "backward", "optimizer")


def batch_size(_run: Run, books: Accounts, equations: Equations) -> Finding | None:
    """Find that the batch size is not the one of least energy, B* = √(B_c·e0/e1) (6.1), with B_noise for B_c.

    Nothing is said while the 90 % interval of B* holds the batch size that was used: B_noise is a guess at B_c, right
    to a factor 3 (one standard deviation). Nor where the model of a step's energy is off by more than a factor 2.
    """
    told = [_told(equations, "6.1", name) for name in ("B_star", "B_actual", "B_c", "e0", "e1", "E_modelled")]
    star, used, critical, e0, e1, modelled = (_positive(q) for q in told)
    spent = _training(books)
    if not all((star, used, critical, e0, e1, modelled, spent.value, told[0].stderr)):
        return None
    # B* is a power of B_c, whose logarithm is what the error is of.
    spread = (told[0].stderr or 0.0) / star
    apart = math.log(used / star)
    if abs(apart) <= NINE_IN_TEN * spread or not 0.5 <= modelled / (spent.value or math.nan) <= 2.0:
        return None

    def saved(shift: float) -> float:
        """Return 1 − E*/E(B) where B* is ``exp(shift)`` times as large, B_c being what is not known."""
        bound = critical * math.exp(2.0 * shift)
        return 1.0 - float(least_energy(1.0, bound, e0, e1)) / ((1.0 + bound / used) * (e0 + e1 * used))

    away = -math.copysign(NINE_IN_TEN * spread, apart)
    least, likely, most = saved(-away), saved(0.0), saved(away)
    if likely < WORTH:
        return None
    low, high = star * math.exp(-NINE_IN_TEN * spread), star * math.exp(NINE_IN_TEN * spread)
    near = high if apart > 0 else low
    joules = min(modelled, spent.value or 0.0)
    saving = Estimate(
        likely * joules,
        (most - least) / (2.0 * NINE_IN_TEN) * joules,
        "J",
        Provenance.MODELLED,
        "1 − E*/E(B) of the joules of training, B_noise stands in for B_c",
    )
    return Finding(
        "batch.size",
        f"a batch size of {grouped(used)} is {'above' if apart > 0 else 'below'} that of least energy, about"
        f" {_count(star)}",
        f"B* = √(B_c·e0/e1) is {_count(low)} to {_count(high)} nine times in ten; B_noise stands in for B_c, right to a"
        f" factor 3; the same loss would take {percent(least)} to {percent(most)} less energy",
        f"try batches of {_count(min(near, star))} to {_count(max(near, star))} with the learning rate scaled along: "
        "erg plan tells both; with a run at a second batch size it knows B_c",
        saving,
        likely * joules,
    )


def unstable(run: Run, _books: Accounts, equations: Equations) -> Finding | None:
    """Find that SGD's learning rate is above its stability limit 2(1+μ)/λ_max (8.2), by more than the errors."""
    ratio, limit, used = (_told(equations, "8.2", name) for name in ("stability", "eta_stable", "eta_used"))
    if not _is_sgd(run) or ratio.value is None or ratio.stderr is None or limit.value is None:
        return None
    curvature = read_curvature(run)
    looked = np.isfinite(curvature.limit_path) & np.isfinite(curvature.rate_path)
    above = (curvature.rate_path > curvature.limit_path)[looked]
    if ratio.value - NINE_IN_TEN * ratio.stderr <= EDGE or len(above) < LOOKS or above.mean() < SHORT:
        return None
    rate = f"{used.value:.3g}" if used.value is not None else "used"
    return Finding(
        "learning_rate.unstable",
        f"the learning rate is {ratio.value:.2g} times the largest stable one",
        f"η {rate}, 2(1+μ)/λ_max {quantity(limit).removesuffix(' 1/loss')}; above it at {int(above.sum())} of"
        f" {len(above)} looks at the curvature",
        "lower it below the limit, or warm it up: the steps along the sharpest direction undo one another",
        Estimate.unknown("J", "it depends on how much of the steps' work is undone", Provenance.MODELLED),
        0.0,
    )


def short_steps(run: Run, books: Accounts, equations: Equations) -> Finding | None:
    """Find that SGD's steps are much shorter than those that lower the expected loss most, η = |G|²/E[gᵀHg] (8.2).

    Only where the learning rate was the same all along: one that a schedule has lowered is small on purpose. The
    rate advised is no larger than half of the stability limit. A step of x times the best one lowers the loss by
    2x − x² of what the best does, to second order.
    """
    rates = run.table(series.LEARNING_RATES)
    best, limit, used = (_told(equations, "8.2", name) for name in ("eta_descent", "eta_stable", "eta_used"))
    spent = _training(books)
    if not _is_sgd(run) or len(np.unique(rates["lr"])) != 1 or not spent.value:
        return None
    if not all(map(_positive, (best, limit, used))) or best.stderr is None or limit.stderr is None:
        return None
    momentum = float(run.table(series.EQUILIBRIUM)["momentum"][-1])
    eta, top = _positive(used), 0.5 * (_positive(limit) - NINE_IN_TEN * limit.stderr)

    def saved(descent: float) -> float:
        """Return the share of the steps that the better rate saves, where ``descent`` is the best."""
        x, better = (min(rate / ((1.0 - momentum) * descent), 1.0) for rate in (eta, top))
        return 1.0 - (2.0 * x - x * x) / (2.0 * better - better * better)

    low, high = (_positive(best) + sign * NINE_IN_TEN * best.stderr for sign in (-1.0, 1.0))
    if not low > 0 or eta >= SHORT * min((1.0 - momentum) * low, top):
        return None
    least, likely, most = saved(low), saved(_positive(best)), saved(high)
    advised = min((1.0 - momentum) * _positive(best), top)
    error = math.hypot((most - least) / (2.0 * NINE_IN_TEN) * spent.value, likely * (spent.stderr or 0.0))
    return Finding(
        "learning_rate.low",
        f"the learning rate, {eta:.3g}, is {eta / advised:.2g} of one that would lower the loss faster",
        f"steepest descent at {quantity(best).removesuffix(' 1/loss')}, stable up to"
        f" {quantity(limit).removesuffix(' 1/loss')}; the same descent would take {percent(least)} to {percent(most)}"
        " fewer steps",
        f"try {advised:.2g}, with a warm-up, and look at the loss: what is best for one step need not be for many",
        Estimate(
            likely * spent.value,
            error,
            "J",
            Provenance.MODELLED,
            "at most, steps of the descent to second order × joules a step",
        ),
        likely * spent.value,
    )


def precision(_run: Run, books: Accounts, _equations: Equations) -> Finding | None:
    """Find that products were done in fp32 on a board whose 16-bit peak is higher, and what that cost."""
    known = books.calibration
    did = [item for item in books.items if item.phase in _TRAINING and item.dtype == "fp32" and item.flops > 0]
    if known is None or not did:
        return None
    peaks = {dtype: _positive(known.peak_flop_per_s.get(dtype)) for dtype in ("fp32", *HALVES)}
    half = max(HALVES, key=lambda dtype: peaks[dtype])
    if not peaks["fp32"] or peaks[half] < FASTER * peaks["fp32"] or half not in known.e_flop:
        return None
    bound = [item for item in did if item.flops >= item.bytes * known.ridge("fp32")]
    flops = math.fsum(item.flops for item in bound)
    rate = _positive(known.peak_byte_per_s)
    seconds = math.fsum(_gained_s(item, seconds_of(item, known), peaks[half], rate) for item in bound)
    done, gained = Estimate(flops, 0.0, "flop"), Estimate(seconds, 0.0, "s")
    saved = total(((known.e_flop["fp32"] - known.e_flop[half]) * done, known.static_w * gained))
    spent = _training(books)
    if not saved.value or saved.stderr is None or not spent.value or saved.value <= NINE_IN_TEN * saved.stderr:
        return None
    if not WORTH * spent.value <= saved.value <= spent.value:
        return None
    times = peaks[half] / peaks["fp32"]
    return Finding(
        "work.precision",
        f"the products are done in fp32, and the board does {half} {times:.2g} times as fast",
        f"{flops:.3g} FLOP in fp32 above its ridge, in {quantity(spent)} of training;"
        f" {quantity(known.e_flop['fp32'])} against {quantity(known.e_flop[half])}",
        f"torch.autocast(dtype=torch.{'bfloat16' if half == 'bf16' else 'float16'}) for the forward pass, or on boards "
        "that have it TF32: torch.set_float32_matmul_precision('high'); see that the loss falls as before",
        replace(saved, provenance=Provenance.MODELLED, method=f"at {half}'s joules per FLOP and peak"),
        saved.value,
    )


def _gained_s(item: Item, took_s: float, peak: float, byte_per_s: float) -> float:
    """Return the seconds at the roofline that an item gains at another peak, its bytes unchanged."""
    return max(took_s - max(item.flops / peak, item.bytes / byte_per_s if byte_per_s else 0.0), 0.0)


def power_limit(run: Run, books: Accounts, _equations: Equations) -> Finding | None:
    """Find that steps took less energy under one of the power limits that the run saw than under the others."""
    points = [p for p in read_points(run, books) if p.power.known and p.speed.known]
    if len(points) < 2:
        return None
    each = {p.limit_w: p.power / p.speed for p in points}
    best = min(points, key=lambda p: each[p.limit_w].value or math.inf)
    others = [p for p in points if p is not best]
    saved = total((each[p.limit_w] - each[best.limit_w]) * Estimate(float(p.steps), 0.0, "step") for p in others)
    spent = math.fsum((each[p.limit_w].value or 0.0) * p.steps for p in points)
    if saved.value is None or saved.stderr is None or saved.value <= NINE_IN_TEN * saved.stderr:
        return None
    if saved.value < WORTH * spent:
        return None
    usual = max(others, key=lambda p: p.steps)
    less = 1.0 - (each[best.limit_w].value or 0.0) / (each[usual.limit_w].value or math.nan)
    return Finding(
        "board.best_limit",
        f"a step took {percent(less)} less energy at a power limit of {best.limit_w:.0f} W"
        f" than at {usual.limit_w:.0f} W",
        "; ".join(_point_words(p, each[p.limit_w]) for p in points),
        f"nvidia-smi -pl {best.limit_w:.0f}, where the time allows; erg plan weighs both"
        if len(books.boards) == 1
        else "set that limit where the time allows; erg plan weighs both",
        replace(saved, method="the steps at other limits, had they been at this"),
        saved.value,
    )


def _point_words(point: Point, joules: Estimate) -> str:
    return f"{point.limit_w:.0f} W: {quantity(joules).replace('/step', ' a step')}, {quantity(point.speed)}"


def _count(x: float) -> str:
    """Return a count of examples to two digits: what is known no better.

    >>> _count(412.3), _count(28.4)
    ('410', '28')
    """
    return grouped(float(f"{x:.2g}"))


def _told(equations: Equations, section: str, name: str) -> Estimate:
    found = equations.get(section, {}).get("repair", {}).get(name)
    if found is None:
        return Estimate.unknown("", "was not read")
    return found if isinstance(found, Estimate) else Estimate.from_json(found)


def _positive(q: Estimate | None) -> float:
    """Return a value above zero, or 0 where there is none."""
    return q.value if q is not None and q.value is not None and 0.0 < q.value < math.inf else 0.0


def _training(books: Accounts) -> Estimate:
    """Return the joules of the phases that training consists of."""
    return total(books.by_phase[phase] for phase in _TRAINING)


def _is_sgd(run: Run) -> bool:
    """Say whether the optimizer is known to be plain or heavy-ball SGD, of which the limits are stated."""
    table = run.table(series.EQUILIBRIUM)
    return len(table) > 0 and bool(np.all(table["eligible"] == 1)) and math.isfinite(float(table["momentum"][-1]))
