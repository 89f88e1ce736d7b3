"""Predict: seconds and joules of a training run before it begins, as distributions, and of its rest while it goes on.

Before: seconds = FLOP/(devices · peak · MFU), joules = seconds · devices · watts · PUE. What is not known is drawn:

- MFU: log-normal, median 0.29, σ = 0.55 of its logarithm (a factor 2.5 nine times in ten): published runs, 2018–2024;
- watts of a device, its share of the node included: 1.15 times its board power within a factor 1.2: wall meters of
  MLPerf v4.0 saw 1.22 on H100 nodes, system powers in LLMCarbon's table 1.1 on V100;
- FLOP: 6·parameters·tokens within 10 %: attention, recomputation and embeddings are not in it.

A minute's probe replaces all three by what the run itself does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.core.series import STEPS
from ergometry.planning.forecast import LEAST, Forecast, forecast
from ergometry.planning.plan import Range
from ergometry.work.accounts import Accounts

Array = npt.NDArray[np.float64]

MFU_MEDIAN, MFU_LOG_SD = 0.29, 0.55
WATTS_FACTOR, WATTS_LOG_SD = 1.15, math.log(1.2)
FLOP_LOG_SD = 0.10
DRAWS = 4096
STRETCHES = 400


@dataclass(frozen=True)
class Prediction:
    """A run before it is run.

    Attributes:
        time: s.
        energy: J at the meter, PUE included.
        power: W of all devices together, without PUE.
        terms: share of the variance of ln(energy) by what it comes from.
        assumed: what was taken for each, in words.
        price: in the unit of the price given; None without one.
        carbon: gCO₂; None without an intensity.
    """

    time: Range
    energy: Range
    power: Range
    terms: Mapping[str, float]
    assumed: Mapping[str, str]
    price: Range | None = None
    carbon: Range | None = None

    @property
    def dominant(self) -> str:
        """What most of the interval comes from."""
        return max(self.terms, key=lambda name: self.terms[name])


@dataclass(frozen=True)
class Rate:
    """A quantity by its median and the standard deviation of its logarithm; ``words`` say where it is from."""

    median: float
    log_sd: float
    words: str

    def draws(self, generator: np.random.Generator) -> Array:
        """Return draws of it."""
        return self.median * np.exp(self.log_sd * generator.normal(size=DRAWS))


def mfu_prior(mfu: float | None = None) -> Rate:
    """Return the MFU given, or what published runs reached.

    Raises:
        UsageError: it is not a share.
    """
    if mfu is None:
        return Rate(MFU_MEDIAN, MFU_LOG_SD, "median of published runs, a factor 2.5 nine times in ten")
    if not 0 < mfu <= 1:
        raise UsageError(expected="an MFU above 0 and up to 1", got=f"{mfu:g}", remedy="leave it out to have it drawn")
    return Rate(mfu, 0.05, "stated")


def watts_prior(board_w: float, name: str = "") -> Rate:
    """Return the watts of a device and its share of the node, from its board power."""
    words = f"{WATTS_FACTOR:g} × {board_w:g} W, the board power" + (f" of {name}" if name else "")
    return Rate(WATTS_FACTOR * board_w, WATTS_LOG_SD, words)


def training_flop(parameters: float, tokens: float) -> Rate:
    """Return the FLOP of training a dense model, 6·parameters·tokens.

    Raises:
        UsageError: one of them is not positive.
    """
    if not (math.isfinite(parameters) and parameters > 0 and math.isfinite(tokens) and tokens > 0):
        raise UsageError(
            expected="positive parameters and tokens",
            got=f"{parameters:g}, {tokens:g}",
            remedy="state both, or --flops",
        )
    return Rate(6.0 * parameters * tokens, FLOP_LOG_SD, f"6 × {parameters:.3g} parameters × {tokens:.3g} tokens")


def predict(  # noqa: PLR0913 - what is known of the run, the machine and the meter
    flop: Rate,
    peak_flop_per_s: float,
    watts: Rate,
    *,
    mfu: Rate | None = None,
    devices: int = 1,
    pue: float = 1.0,
    price_per_kwh: float | None = None,
    carbon_g_per_kwh: float | None = None,
    seed: int = 0,
) -> Prediction:
    """Return the distribution of time and energy of a run.

    Args:
        flop: FLOP in all.
        peak_flop_per_s: of one device, dense.
        watts: of one device, its share of the node included, W.
        mfu: model FLOP utilisation; by default :func:`mfu_prior`.
        devices: how many work together.
        pue: of the building, 1 or more.
        price_per_kwh: any currency.
        carbon_g_per_kwh: gCO₂ per kWh.
        seed: of the draws.

    Raises:
        UsageError: no device, a PUE below 1, a negative price or intensity.
    """
    _refuse(("one device or more", devices, devices < 1), _positive("a positive peak FLOP/s", peak_flop_per_s))
    check_costs(pue, price_per_kwh, carbon_g_per_kwh)
    used = mfu_prior() if mfu is None else mfu
    generator = np.random.default_rng(seed)
    drawn = {"FLOP": flop.draws(generator), "MFU": used.draws(generator), "watts": watts.draws(generator)}
    drawn["MFU"] = np.minimum(drawn["MFU"], 1.0)
    seconds = drawn["FLOP"] / (devices * peak_flop_per_s * drawn["MFU"])
    power_w = devices * drawn["watts"]
    joules = seconds * power_w * pue
    variances = {name: float(np.var(np.log(draws))) for name, draws in drawn.items()}
    whole = math.fsum(variances.values()) or 1.0
    kwh = joules / 3.6e6
    return Prediction(
        time=Range.of(seconds, "s"),
        energy=Range.of(joules, "J"),
        power=Range.of(power_w, "W"),
        terms={name: variance / whole for name, variance in variances.items()},
        assumed={"FLOP": flop.words, "MFU": f"{used.median:.3g}, {used.words}", "watts": watts.words},
        price=None if price_per_kwh is None else Range.of(kwh * price_per_kwh, ""),
        carbon=None if carbon_g_per_kwh is None else Range.of(kwh * carbon_g_per_kwh, "g"),
    )


def check_costs(pue: float, price_per_kwh: float | None, carbon_g_per_kwh: float | None) -> None:
    """Refuse a building, a price or a carbon intensity that cannot be.

    Raises:
        UsageError: a PUE below 1, a negative price or intensity.
    """
    price, carbon = (0.0 if x is None else x for x in (price_per_kwh, carbon_g_per_kwh))
    _refuse(
        ("a PUE of 1 or more", pue, not (math.isfinite(pue) and pue >= 1)),
        ("a price of 0 or more", price, not (math.isfinite(price) and price >= 0)),
        ("a carbon intensity of 0 g/kWh or more", carbon, not (math.isfinite(carbon) and carbon >= 0)),
    )


def _positive(expected: str, value: float) -> tuple[str, float, bool]:
    return expected, value, not (math.isfinite(value) and value > 0)


def _refuse(*checked: tuple[str, float, bool]) -> None:
    for expected, got, wrong in checked:
        if wrong:
            raise UsageError(expected=expected, got=f"{got:g}", remedy="correct it")


@dataclass(frozen=True)
class Remainder:
    """The rest of a run that has begun.

    Attributes:
        steps_done: of ``steps``.
        energy: J in all, time: s in all; None with the reason in ``why``.
        energy_left: J still to be spent.
        time_left: s still to go.
    """

    steps_done: int
    steps: int
    energy: Range | None
    time: Range | None
    energy_left: Range | None
    time_left: Range | None
    why: str = ""
    notes: tuple[str, ...] = field(default=())


def remainder(run: Run, books: Accounts, steps: int) -> Remainder:
    """Forecast a run to its last step, from its present regime.

    What lies between steps (evaluation, data) goes with the steps it lies between.

    Raises:
        UsageError: fewer steps in all than were made, or none were seen.
    """
    table = run.table(STEPS)
    done = len(table)
    if not done:
        raise UsageError(
            expected="a run with training steps", got=f"none in {run.id}", remedy="see its warnings in erg report"
        )
    if steps < done:
        raise UsageError(
            expected=f"{done} steps in all or more, as many as were made",
            got=str(steps),
            remedy="state the final number",
        )
    traces = list(books.metered.cover().values())
    size = max(1, done // STRETCHES)
    edges = np.append(table["t0_s"][::size][: done // size], table["t1_s"][done // size * size - 1])
    seconds = forecast(np.diff(edges), (steps - done) / size)
    if not traces:
        return Remainder(done, steps, None, None, None, None, "no power source was sampled twice")
    joules = forecast(np.diff(np.sum([trace.cumulative_j(edges) for trace in traces], axis=0)), (steps - done) / size)
    why = seconds.why or joules.why
    if why:
        steady = size * max(done // size - max(seconds.steady_from, joules.steady_from), 0)
        why = (
            f"no forecast yet: its last {steady} steps go at a steady pace, and {LEAST * size} are needed: "
            "record a longer run, or probe longer"
        )
        return Remainder(done, steps, None, None, None, None, why)
    # The meter's own gain is behind every joule, and no bootstrap sees it.
    total = books.total
    gain = 1.0 + ((total.stderr or 0.0) / total.value if total.value else 0.0) * np.random.default_rng(1).normal(
        size=len(joules.left)
    )
    spent_j, spent_s = total.value or joules.spent, run.duration_s
    return Remainder(
        done,
        steps,
        Range.of(gain * (spent_j + joules.left), "J"),
        Range.of(spent_s + seconds.left, "s"),
        Range.of(gain * joules.left, "J"),
        Range.of(seconds.left, "s"),
        notes=_notes(seconds, joules, size, done),
    )


def _notes(seconds: Forecast, joules: Forecast, size: int, done: int) -> tuple[str, ...]:
    start = max(seconds.steady_from, joules.steady_from) * size
    return (f"from the steps since {start}, when the present regime began; {done - start} of {done}",) if start else ()
