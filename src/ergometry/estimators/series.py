"""Series: the thermodynamic ledger along a run, in so few points that a page can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ergometry.core.estimate import total
from ergometry.core.run import Run, Table
from ergometry.core.series import EQUILIBRIUM, FIRST_LAW, LEARNING_RATES, LEDGER, LENGTH, LOSSES, STEPS
from ergometry.estimators.codelength import coded_steps
from ergometry.estimators.displacement import NO_LEDGER, learning_rates_at, read_clipping
from ergometry.estimators.first_law import NO_REPLAY
from ergometry.estimators.noise_scale import noise_series, read_noise
from ergometry.estimators.path_length import read_length
from ergometry.estimators.rows import values_at
from ergometry.estimators.sampling import Array
from ergometry.estimators.tapped import why_none
from ergometry.estimators.temperatures import noise_temperature
from ergometry.work.accounts import Accounts

MOST_POINTS = 200
"""Points of one series at most."""

LEAST_ROWS = 4
"""Rows in one of its stretches at least: fewer tell no error."""

_NONE = np.zeros(0)


@dataclass(frozen=True)
class Series:
    """A quantity along a run, a point for each of so many stretches of it.

    Attributes:
        title: what it is, with its symbol.
        unit: of ``value`` and ``stderr``.
        how_to_read: one sentence.
        step: (k,) middle step of each stretch.
        t_s: (k,) its time, run time.
        value: (k,) mean over the stretch, or what the title says; finite.
        stderr: (k,) its standard error, NaN where it is not known.
        why: why there is no point; or what stands in.
    """

    title: str
    unit: str
    how_to_read: str
    step: Array
    t_s: Array
    value: Array
    stderr: Array
    why: str = ""

    def __len__(self) -> int:
        return len(self.value)

    def to_json(self) -> dict[str, Any]:
        """Return the series as JSON, an unknown error as null."""
        return {
            "title": self.title,
            "unit": self.unit,
            "how_to_read": self.how_to_read,
            "step": self.step.tolist(),
            "t_s": self.t_s.tolist(),
            "value": self.value.tolist(),
            "stderr": [x if np.isfinite(x) else None for x in self.stderr.tolist()],
            "why": self.why,
        }


TITLES = {
    "heat": (
        "Heat per step, Q",
        "loss",
        "What a step takes off the loss of its own batch: it falls as there is less left to learn, and settles where "
        "noise drives it.",
    ),
    "work": (
        "Work per step, W",
        "loss",
        "What the change of batch puts back on: where it meets the heat, the loss no longer falls.",
    ),
    "loss_change": (
        "Loss change since the start, Δℓ",
        "loss",
        "The sum of work less heat so far, with the noise of the first and of the present batch in it.",
    ),
    "b_noise": (
        "Gradient noise scale, B_noise",
        "example",
        "Batches well below it average noise away almost freely, batches well above it waste examples.",
    ),
    "noise_temperature": (
        "Noise temperature, T_a",
        "loss/nat",
        "How hot the minibatch noise keeps each parameter: a lower learning rate or a larger batch cools it.",
    ),
    "length_js": (
        "Length of the outputs' path, 𝓛_JS",
        "",
        "How far the predictions on the probe batch have travelled so far: flat where they no longer change.",
    ),
    "length_fisher": (
        "Length of the outputs' path, 𝓛_F",
        "",
        "The same by the Fisher angle, which is never the shorter one; π takes an output to one that shares no class.",
    ),
    "alignment": (
        "Alignment of the motion with the force, A",
        "",
        "At 1 all motion goes down the gradient of its batch, near 0 momentum, noise and curvature turn it away.",
    ),
    "information_per_joule": (
        "Information per joule",
        "nat/J",
        "What a joule taught in this stretch: it falls as the data hold less that is new to the model.",
    ),
}
"""Name -> title, unit, how to read it."""


def series(run: Run, books: Accounts | None = None) -> dict[str, Series]:
    """Return every series of :data:`TITLES` for a run; one without points says why.

    Args:
        run: a stored run.
        books: ``accounts(run)``, where they are at hand.
    """
    if books is None:
        from ergometry.work.attribution import accounts

        books = accounts(run)
    with np.errstate(all="ignore"):
        heat, work = _first_law(run)
        noise, temperature = _noise(run)
        js, angle = _length(run)
        found = {
            "heat": heat,
            "work": work,
            "loss_change": _loss_change(run),
            "b_noise": noise,
            "noise_temperature": temperature,
            "length_js": js,
            "length_fisher": angle,
            "alignment": _alignment(run),
            "information_per_joule": _information(run, books),
        }
    return {name: found[name] for name in TITLES}


def _made(run: Run, name: str, columns: Sequence[Array], why: str = "") -> Series:
    """Return a series from (step, value, stderr), its values that are not finite left out."""
    step, value, stderr = columns
    kept = np.isfinite(value) & np.isfinite(step)
    if not np.any(kept):
        return _none(name, "needs a finite value: there is none" + (f"; {why}" if why else ""))
    return Series(*TITLES[name], step[kept], _times(run, step[kept]), value[kept], stderr[kept], why)


def _none(name: str, why: str) -> Series:
    return Series(*TITLES[name], _NONE, _NONE, _NONE, _NONE, why)


def _times(run: Run, steps: Array) -> Array:
    table = run.table(STEPS)
    known = np.isfinite(table["step"]) & np.isfinite(table["t1_s"])
    if not np.any(known):
        return np.full(len(steps), np.nan)
    return np.interp(steps, table["step"][known], table["t1_s"][known])


Borders = npt.NDArray[np.intp]


def _stretches(n: int, most: int = MOST_POINTS, rows: int = LEAST_ROWS) -> Borders:
    """Return (k + 1,) the borders of at most ``most`` stretches of n rows, alike and of ``rows`` at least."""
    return np.linspace(0, n, max(min(n // rows, most), 1) + 1).astype(np.intp)


def _sums(x: Array, borders: Borders) -> Array:
    return np.asarray(np.add.reduceat(x, borders[:-1]), dtype=np.float64)


def means(step: Array, x: Array, variances: Array | None = None) -> tuple[Array, Array, Array]:
    """Return (middle step, mean, standard error) of stretches of rows; rows that are not finite are left out.

    The error is that of a mean of independent rows and, with ``variances``, of what each row does not know of itself;
    of one row it is the latter alone, NaN where there is none.
    """
    usable = np.isfinite(x)
    step, x = step[usable], x[usable]
    own = np.full(len(x), np.nan) if variances is None else variances[usable]
    if not len(x):
        return _NONE, _NONE, _NONE
    borders = _stretches(len(x))
    n = np.diff(borders).astype(np.float64)
    mean = _sums(x, borders) / n
    apart = _sums((x - np.repeat(mean, np.diff(borders))) ** 2, borders)
    # The rows differ by their own errors too, so that those are within their spread already.
    stderr = np.where(n > 1, np.sqrt(apart / np.maximum(n - 1, 1) / n), np.sqrt(_sums(own, borders)))
    return step[(borders[:-1] + borders[1:] - 1) // 2], mean, stderr


def _first_law(run: Run) -> tuple[Series, Series]:
    table = run.table(FIRST_LAW)
    if not len(table):
        why, ledger = why_none(run, "first_law", NO_REPLAY), run.table(LEDGER)
        if not len(ledger):
            return _none("heat", why), _none("work", why)
        told = f"displacement work −g·Δθ (E2) stands in for Q, above it by ½ΔθᵀHΔθ; {why}"
        found = means(ledger["step"], ledger["work"], ledger["work_stderr"] ** 2)
        return _made(run, "heat", found, told), _none("work", why)
    every = run.table(STEPS)["step"]
    following = np.append(every, np.nan)[np.searchsorted(every, table["step"], side="right")]
    after = values_at(following, run.table(LOSSES), "loss")
    heat = means(table["step"], table["loss_before"] - table["loss_after"])
    return _made(run, "heat", heat), _made(run, "work", means(table["step"], after - table["loss_after"]))


def _loss_change(run: Run) -> Series:
    losses = run.table(LOSSES)
    finite = np.isfinite(losses["loss"])
    if not np.any(finite):
        return _none("loss_change", "needs a step with a finite loss")
    first = losses["loss"][finite][0]
    return _made(run, "loss_change", means(losses["step"][finite], losses["loss"][finite] - first))


def _alignment(run: Run) -> Series:
    table, ledger = run.table(FIRST_LAW), run.table(LEDGER)
    taken = np.isfinite(table["midpoint"]) & np.isfinite(table["path_midpoint"])
    why = ""
    if np.any(taken):
        step, work, path = (table[name][taken] for name in ("step", "midpoint", "path_midpoint"))
    elif len(ledger):
        usable = np.isfinite(ledger["work"]) & np.isfinite(ledger["path"])
        step, work, path = (ledger[name][usable] for name in ("step", "work", "path"))
        why = "Itô reading, −g·Δθ over |g||Δθ|: above the midpoint's by the curvature term"
    else:
        step = work = path = _NONE
    if not len(step):
        return _none("alignment", NO_LEDGER)
    borders = _stretches(len(step))
    n, above, below = np.diff(borders), _sums(work, borders), _sums(path, borders)
    ratio = above / below
    apart = _sums((work - np.repeat(ratio, n) * path) ** 2, borders)
    stderr = np.where(n > 1, np.sqrt(apart * n / np.maximum(n - 1, 1)) / np.abs(below), np.nan)
    return _made(run, "alignment", (step[(borders[:-1] + borders[1:] - 1) // 2], ratio, stderr), why)


def _noise(run: Run) -> tuple[Series, Series]:
    noise = read_noise(run)
    if noise.trace_cov.value is None:
        return _none("b_noise", noise.b_noise.why), _none("noise_temperature", noise.trace_cov.why)
    found = noise_series(run, MOST_POINTS)
    scale = _made(run, "b_noise", (found.step, found.b_noise, found.b_noise_stderr), noise.trace_cov.why)
    table, examples = run.table(EQUILIBRIUM), run.table(STEPS)["examples"]
    if not len(table) or not np.all(table["eligible"] == 1):
        why = "needs plain SGD with heavy-ball momentum, of which this temperature is stated"
        return scale, _none("noise_temperature", why if len(table) else why_none(run, "equilibrium", why))
    eta, why_not = learning_rates_at(found.step, run.table(LEARNING_RATES))
    if read_clipping(run).altered:
        why_not = "needs gradients that are not clipped: of those that are the noise is another"
    known = examples[np.isfinite(examples)]
    if why_not or not len(known):
        return scale, _none("noise_temperature", why_not or "needs the examples of a step")
    batch = noise.batch if noise.how == 2 else float(np.mean(known))
    factor = np.array([noise_temperature(x, 1.0, batch, noise.parameters, float(table["momentum"][-1])) for x in eta])
    columns = (found.step, factor * found.trace_cov, factor * found.trace_cov_stderr)
    return scale, _made(run, "noise_temperature", columns, noise.trace_cov.why)


def _length(run: Run) -> tuple[Series, Series]:
    length, table = read_length(run), run.table(LENGTH)
    if length.js.value is None:
        return _none("length_js", length.js.why), _none("length_fisher", length.angle.why)
    # Cumulative: the end of each stretch, not its mean.
    at = _stretches(len(length.step), rows=1)[1:] - 1
    step = length.step[at]
    js, angle = (values_at(step, table, name) for name in ("js_stderr", "angle_stderr"))
    return (
        _made(run, "length_js", (step, length.js_path[at], js)),
        _made(run, "length_fisher", (step, length.angle_path[at], angle)),
    )


def _information(run: Run, books: Accounts) -> Series:
    coded, traces = coded_steps(run), list(books.metered.cover().values())
    if not len(coded.step):
        return _none("information_per_joule", coded.why)
    if not traces:
        return _none("information_per_joule", books.total.why or "needs a reading of energy")
    gains = coded.counts * (np.log(coded.classes) - coded.losses)
    steps, times = run.table(STEPS), []
    borders = _stretches(len(gains), MOST_POINTS // 2)
    for name, at in (("t0_s", borders[:-1]), ("t1_s", borders[1:] - 1)):
        times.append(values_at(coded.step[at], Table(steps.columns, steps.rows), name))
    rows = []
    for nat, first, last, t0, t1 in zip(
        _sums(gains, borders), coded.step[borders[:-1]], coded.step[borders[1:] - 1], *times, strict=True
    ):
        joules = total(trace.energy(float(t0), float(t1)) for trace in traces) if t1 > t0 else None
        if joules is not None and (joules.value or 0.0) > 0:
            bought = nat / (joules.value or np.nan)
            error = np.nan if joules.stderr is None else abs(bought) * joules.stderr / (joules.value or np.nan)
            rows.append((0.5 * (first + last), bought, error))
    return _made(run, "information_per_joule", list(np.array(rows).reshape(-1, 3).T), coded.why)
