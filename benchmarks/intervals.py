"""How often an estimator's 90 % interval holds the truth, E1 to E8, where the truth is known.

``python -m benchmarks intervals``, about a minute of one core. Each cell is the share (%) of some hundred repetitions
in which the truth lay within ± 1.645 standard errors, and the median standard error, relative to the truth. The truths:

- E1, E2, E3: perceptrons in NumPy trained by SGD, momentum and Adam (:mod:`benchmarks._trainings`), of which every
  step is known and some are shown, 40 or 20 of 400, at random phase. *whole* is from the first step on, where the loss
  falls by a factor of ten within 50 steps; *later* begins at step 200. *learnt*: the loss ends near 0, so that the
  last gradients are of few examples and as skewed as they get; *noisy*: it cannot.
- E4, E5: SGD and heavy ball on a quadratic loss, whose stationary variance is known in closed form.
- E6: predictions drawn from many, whose mean length is known.
- E7 and the landscape: matrices with a known spectrum, quadratic losses.
- E8: simulated boards; ``python -m benchmarks coverage`` has all of them.

What is a bound and not an estimate is said to hold or not: the share of repetitions in which it did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks._trainings import LEARNT, NOISY, Trainings, train
from ergometry.core import series
from ergometry.core.estimate import Estimate
from ergometry.core.run import Run, Table
from ergometry.estimators.displacement import Displacement
from ergometry.estimators.equilibration import read_equilibration
from ergometry.estimators.first_law import StochasticFirstLaw
from ergometry.estimators.noise_scale import NoiseScaleEstimator
from ergometry.estimators.path_length import PathLength
from ergometry.estimators.sampling import Observations
from ergometry.estimators.temperatures import read_temperatures

Array = npt.NDArray[np.float64]

LEAST, MOST, Z90 = 85.0, 97.0, 1.645
RATES = {"sgd": 0.3, "momentum": 0.05, "adam": 0.02}
STRETCHES = {"whole": (0, 400), "later": (200, 600)}
REPEATS = 300
SEED = 1101
"""Not one of those that the forms were chosen on, 0, 11, 12 and 21."""
TASKS = {"learnt": (LEARNT, REPEATS, (10, 20)), "noisy": (NOISY, REPEATS // 2, (10,))}
"""What is learnt, by how many replicas, and how many steps there are to one look."""
_FEW = 40
"""Intervals below which a share says too little."""


class Cell(NamedTuple):
    """One quantity of one case: coverage (%), median relative error (NaN of a bound), and repetitions."""

    estimator: str
    quantity: str
    case: str
    coverage: float
    error: float
    n: int
    bound: bool = False

    @property
    def out(self) -> bool:
        """Whether it is out of bounds by more than chance, two standard deviations of a share."""
        slack = 200.0 * math.sqrt(0.9 * 0.1 / self.n)
        return not self.bound and not LEAST - slack < self.coverage < MOST + slack / 2


class Hits:
    """Counts, by quantity, how often an interval held the truth."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[bool, float]]] = {}

    def add(self, quantity: str, value: float | None, stderr: float | None, truth: float) -> None:
        """Take one interval; a value that is not known, or has no error, is not one."""
        if value is not None and stderr is not None:
            held = abs(value - truth) <= Z90 * stderr
            self._found.setdefault(quantity, []).append((held, stderr / abs(truth)))

    def interval(self, quantity: str, low: float, high: float, truth: float) -> None:
        """Take one interval by its ends; half its width is its error, infinite where it has no upper end."""
        half = 0.5 * (high - low) / Z90 if high < math.inf else math.inf
        self._found.setdefault(quantity, []).append((low <= truth <= high, half / abs(truth)))

    def cells(self, estimator: str, case: str) -> Iterator[Cell]:
        """Yield a cell for each quantity."""
        for quantity, found in self._found.items():
            held, error = zip(*found, strict=True)
            if len(held) >= _FEW:
                yield Cell(estimator, quantity, case, 100.0 * float(np.mean(held)), float(np.median(error)), len(held))


def looks(rng: np.random.Generator, steps: int, every: int) -> npt.NDArray[np.intp]:
    """Return the steps that a cadence of about one in ``every`` looks at, at random phase."""
    gaps = every * rng.uniform(0.8, 1.2, 2 * steps // every)
    at = np.unique((rng.uniform(0, every) + np.concatenate(([0.0], np.cumsum(gaps)))).astype(np.intp))
    return at[at < steps]


def of_training(how: str, told: Trainings, stretch: str, every: int) -> Iterator[Cell]:
    """Yield the cells of E1, E2 and E3 of one stretch of many trainings."""
    rng, (first, end) = np.random.default_rng(7), STRETCHES[stretch]
    one, two, three, steps = Hits(), Hits(), Hits(), np.arange(float(end - first))
    for r in range(len(told.before)):
        x = {name: getattr(told, name)[r, first:end] for name in Trainings.__annotations__ if name != "batch"}
        at = looks(rng, end - first, every)
        _law(one, two, x, steps, at)
        _displacement(two, x, steps, at)
        _noise(three, x, told.batch, steps, at)
    case = f"{how}, {stretch}, 1 in {every}"
    for name, hits in {"E1": one, "E2": two, "E3": three}.items():
        yield from hits.cells(name, case)


def _law(one: Hits, two: Hits, x: dict[str, Array], steps: Array, at: npt.NDArray[np.intp]) -> None:
    zero, following = 0.0 * steps, np.append(x["before"][1:], np.nan)
    columns = (steps, x["before"], x["after"], following, x["midpoint"], zero, x["midpoint_path"], zero)
    law = StochasticFirstLaw(steps, following - x["before"], losses=x["before"])
    found = law.result(Observations(np.column_stack(columns)[at]))
    one.add("heat ΣQ", found.heat.value, found.heat.stderr, float(np.sum((x["before"] - x["after"])[:-1])))
    one.add("work ΣW", found.work.value, found.work.stderr, float(np.sum((following - x["after"])[:-1])))
    middle, path = float(x["midpoint"].sum()), float(x["midpoint_path"].sum())
    two.add("midpoint work", found.midpoint.value, found.midpoint.stderr, middle)
    two.add("alignment A", found.alignment.value, found.alignment.stderr, middle / path)


def _displacement(two: Hits, x: dict[str, Array], steps: Array, at: npt.NDArray[np.intp]) -> None:
    columns = (steps, x["rate"], x["grad_sq"], x["dtheta_sq"], x["work"], x["path"])
    rows = np.column_stack((*columns, *(0.0 * steps,) * 4, 1.0 + 0.0 * steps))[at]
    found = Displacement(steps, losses=x["before"]).result(Observations(rows))
    truths = {
        "Itô work": (found.ito, x["work"].sum()),
        "path": (found.path, x["path"].sum()),
        "flow Ση|g|²": (found.flow, np.sum(x["rate"] * x["grad_sq"])),
        "path cost": (found.path_cost, np.sum(x["dtheta_sq"] / x["rate"])),
        "mean |g|²": (found.mean_grad_sq, np.mean(x["grad_sq"])),
    }
    for name, (estimate, truth) in truths.items():
        two.add(name, estimate.value, estimate.stderr, float(truth))


def _noise(three: Hits, x: dict[str, Array], batch: int, steps: Array, at: npt.NDArray[np.intp]) -> None:
    estimator, n = NoiseScaleEstimator(population=steps, losses=x["before"]), len(at)
    batches, dataset = (np.full(n, batch / 2), np.full(n, float(batch))), np.full(n, np.nan)
    pairs = (steps[at], *batches, x["half_sq"][at], x["grad_sq"][at], dataset)
    found = estimator.result(estimator.of(np.column_stack(pairs)))
    g2, trace = float(x["true_grad_sq"].mean()), float(x["true_trace"].mean())
    three.add("|G|²", found.grad_sq.value, found.grad_sq.stderr, g2)
    three.add("trΣ", found.trace_cov.value, found.trace_cov.stderr, trace)
    three.interval("B_noise", *found.b_noise_interval, trace / g2)


def of_quadratic(momentum: float) -> Iterator[Cell]:
    """Yield the cells of E4 and E5: loss ½|θ|², noise of variance 1 in six parameters, 1 step in 5 looked at."""
    rng, eta, n, batch, steps, every, runs = np.random.default_rng(3), 0.1, 6, 4.0, 4000, 5, 150
    four, five = Hits(), Hits()
    variance = eta * (1 + momentum) / ((1 - momentum) * (2 * (1 + momentum) - eta))
    theta, velocity = math.sqrt(variance) * rng.normal(size=(runs, n)), np.zeros((runs, n))
    mean, kept = np.zeros((runs, n)), []
    for k in range(-300, steps):
        noise, halves = rng.normal(size=(2, runs, n))
        g = theta + noise
        if k >= 0 and k % every == 0:
            small = np.sum(g * g + halves * halves, 1)
            moved = momentum * velocity - eta * g
            virial = np.sum((theta - mean) * g, 1) if k else np.full(runs, np.nan)
            sums = (np.sum(theta * g, 1), np.sum(moved**2, 1), virial, small, np.sum(g * g, 1))
            kept.append(np.stack((np.full(runs, float(k)), *sums)))
        if k >= 0:
            mean += (theta - mean) / (k + 1)
        velocity = momentum * velocity - eta * g
        theta = theta + velocity
    rows = np.array(kept).transpose(2, 0, 1)
    side, temperature = n * variance, eta / (2 * (1 - momentum))
    for r in range(runs):
        run = _stationary(rows[r], eta, momentum, batch, n, steps)
        found, three = read_equilibration(run), read_temperatures(run)
        four.add("θ·g", found.theta_g.value, found.theta_g.stderr, side)
        four.add("(1+μ)/(2η)·|Δθ|²", found.dissipation.value, found.dissipation.stderr, side)
        four.add("ratio", found.ratio.value, found.ratio.stderr, 1.0)
        five.add("noise", three.noise.value, three.noise.stderr, temperature)
        five.add("virial", three.virial.value, three.virial.stderr, variance)
        five.add("configurational", three.configurational.value, three.configurational.stderr, variance)
    case = f"quadratic, μ = {momentum:g}"
    yield from four.cells("E4", case)
    yield from five.cells("E5", case)


def _stationary(rows: Array, eta: float, momentum: float, batch: float, n: int, steps: int) -> Run:
    step, theta_g, dtheta_sq, virial, small, big = rows.T
    blank = np.full(len(step), np.nan)

    def table(kind: series.Series, count: int, **columns: object) -> Table:
        values = [np.broadcast_to(columns.get(name, np.nan), count) for name in kind.columns]  # type: ignore[call-overload]
        return Table(kind.columns, np.column_stack(values).astype(np.float64))

    one = {"sampled": n, "parameters": n}
    sides = {"theta_g": theta_g, "dtheta_sq": dtheta_sq, "virial": virial}
    errors = {f"{name}_stderr": 0.0 for name in sides}
    pairs = {"small_batch": batch / 2, "big_batch": batch, "small_sq": small, "big_sq": big, "dataset": blank}
    tables = (
        (series.STEPS, steps, {"step": np.arange(float(steps)), "examples": batch, "flags": 0}),
        (series.LEARNING_RATES, 1, {"step": 0, "optimizer": 0, "group": 0, "lr": eta}),
        (series.EQUILIBRIUM, len(step), {"step": step, **sides, **errors, "momentum": momentum, "eligible": 1, **one}),
        (series.NOISE, len(step), {"step": step, "how": 1, **pairs, **one}),
        (series.CURVATURE, 1, {"step": steps - 1, "trace": n, "trace_stderr": 0, "how": 1}),
    )
    made = {kind.name: table(kind, count, **columns) for kind, count, columns in tables}
    return Run(Path(), "finished", 1.0, {"parameters": n}, made)


def of_predictions() -> Iterator[Cell]:
    """Yield the cells of E6: 64 of 4000 predictions of five classes, on walks of very unequal lengths."""
    rng, hits, reader = np.random.default_rng(4), Hits(), PathLength()
    scale = 0.1 * np.exp(rng.normal(size=(4000, 1)))
    scores = np.cumsum(scale * rng.normal(size=(25, 4000, 5)), 0)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)

    def length(which: npt.NDArray[np.intp]) -> dict[str, Estimate]:
        state = reader.init()
        for outputs in p:
            state = reader.update(state, outputs[which])
        found = reader.result(state)
        return {"𝓛_JS": found.js, "𝓛_F": found.angle, "angle of the ends": found.angle_ends, "K·Σ8JS": found.energy}

    truth = length(np.arange(4000))
    for _ in range(REPEATS):
        for name, estimate in length(rng.integers(4000, size=64)).items():
            hits.add(name, estimate.value, estimate.stderr, truth[name].value or 0.0)
    yield from hits.cells("E6", "64 predictions")


def of_landscapes() -> Iterator[Cell]:
    """Yield the cells of E7 and of the curvature, on matrices and losses that are known."""
    import torch

    from ergometry.landscape.fisher import Factor
    from ergometry.landscape.information import Effort, information
    from ergometry.landscape.lanczos import largest_eigenvalue
    from ergometry.landscape.learning_coefficient import Sampler, learning_coefficient
    from ergometry.landscape.products import Operator
    from ergometry.landscape.trace import noise_trace, trace

    torch.set_num_threads(1)
    stream, seven, curved = torch.Generator().manual_seed(5), Hits(), Hits()
    rows = torch.randn(60, 150, generator=stream, dtype=torch.float64) * torch.logspace(0, -2, 150, dtype=torch.float64)
    factor, matrix = Factor.of(rows), rows.T @ rows
    values = torch.linalg.eigvalsh(matrix)
    nats = 0.5 * float(torch.log1p(values.clamp(min=0) / 0.1).sum())
    diagonal = 0.5 * float(torch.log1p(matrix.diagonal() / 0.1).sum())
    centre = torch.zeros(150, dtype=torch.float64, requires_grad=True)
    true_noise = float(((rows @ matrix) * rows).sum()) / 60 - float(rows.mean(0) @ matrix @ rows.mean(0))
    held, below = [], []
    for seed in range(100):
        found = information(factor, 0.1, method="lanczos", effort=Effort(probes=5, seed=seed))
        seven.add("½logdet, Lanczos", found.value, found.stderr, nats)
        guess = information(factor, 0.1, method="diagonal", effort=Effort(products=32, seed=seed))
        held.append(guess.value >= nats)
        operator = Operator.of(matrix)
        read = trace(operator, seed=seed)
        curved.add("trH", read.value, read.stderr, float(values.sum()))
        top, krylov = largest_eigenvalue(operator, steps=12, tolerance=1e-2, seed=seed + 1000)
        below.append(abs(top.value - float(values[-1])) <= top.stderr)
        read = trace(operator, krylov=krylov, seed=seed)
        curved.add("trH beside λ_max", read.value, read.stderr, float(values.sum()))
        read = noise_trace(operator, lambda w: rows @ w[0], [centre], seed=seed)
        curved.add("tr(HΣ)", read.value, read.stderr, true_noise)
    curvatures = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)
    minimum, step = torch.zeros(10, dtype=torch.float64, requires_grad=True), 0.02
    true = 0.5 * float((1 / (1 - 0.25 * step * 10 * curvatures)).sum())
    for seed in range(40):
        sampler = Sampler(step, 0.0, burn_in=50, draws=250)
        read = learning_coefficient(
            [lambda w: 0.5 * (curvatures * w[0] ** 2).sum()],
            [minimum],
            examples=100,
            inverse_temperature=0.1,
            sampler=sampler,
            seed=seed,
        )
        seven.add("learning coefficient", read.value, read.stderr, true)
    yield from seven.cells("E7", "known spectrum")
    case = f"{diagonal / nats:.1f} times I in truth"
    yield Cell("E7", "diagonal, a bound of I", case, 100.0 * float(np.mean(held)), math.nan, len(held), True)
    yield from curved.cells("–", "known spectrum")
    yield Cell("–", "λ_max, residual's bound", "", 100.0 * float(np.mean(below)), math.nan, len(below), True)


def of_joules() -> Iterator[Cell]:
    """Yield a cell of E8: simulated boards of one class, each with a gain of its own."""
    from benchmarks.coverage import BOARDS, CLASSES, sampled, windows

    cell = sampled(CLASSES["A100 (PCIe and SXM)"], 3.0, [1, 4, 5])
    yield Cell(
        "E8", "joules of a window", "A100's counter, 3 s", cell.coverage, cell.error / 100.0, BOARDS * windows(3.0)
    )


def cells() -> Iterator[Cell]:
    """Yield all cells."""
    for name, (task, replicas, cadences) in TASKS.items():
        for how, rate in RATES.items():
            told = train(how, rate=rate, steps=600, replicas=replicas, task=task, seed=SEED)
            for stretch in STRETCHES:
                for every in cadences:
                    yield from of_training(f"{name}, {how}", told, stretch, every)
    for momentum in (0.0, 0.9):
        yield from of_quadratic(momentum)
    parts: tuple[Callable[[], Iterator[Cell]], ...] = (of_predictions, of_landscapes, of_joules)
    for part in parts:
        yield from part()


def main() -> None:
    """Print the table, in Markdown."""
    print(f"share of 90 % intervals that hold the truth (%, {LEAST:.0f} to {MOST:.0f} wanted; * outside)\n")
    print("| | quantity | case | held | stderr, median | of |\n|---|---|---|---|---|---|")
    out = 0
    for cell in cells():
        out += cell.out
        error = "bound" if cell.bound else "no upper end" if math.isinf(cell.error) else f"{100 * cell.error:.2g} %"
        star = " *" if cell.out else ""
        quantity = cell.quantity.replace("|", "\\|")
        print(
            f"| {cell.estimator} | {quantity} | {cell.case} | {cell.coverage:.0f}{star} | {error} | {cell.n} |",
            flush=True,
        )
    print(f"\n{out} outside")


if __name__ == "__main__":
    main()
