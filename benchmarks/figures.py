"""The figures of docs/equations: small runs, trained and stored here, and closed forms, drawn as SVG.

Without an argument this only says what it would write, so that `make bench` leaves the documentation alone;
`python -m benchmarks.figures docs/figures` trains the runs (about a minute or two, no download) and writes the files.
Text and axes are mid grey and lines of middle brightness, to be read on a light page and on a dark one.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ergometry as erg
from ergometry import equations as eq
from ergometry.core.run import Run
from ergometry.core.series import LENGTH, LOSSES
from ergometry.equations.live import entries
from ergometry.estimators.curvature import read_curvature
from ergometry.estimators.series import Series, series
from ergometry.work.attribution import accounts

Array = npt.NDArray[np.float64]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
GREY, COLOURS = "#808080", ("#2f7fc1", "#d9772b", "#3c9a5f", "#a35fb5")
MOST_BYTES = 60_000


@dataclass(frozen=True)
class Line:
    """One line of a figure: its name, x and y (k,), a band of ± ``spread`` (k,) about it, dashed or not, its colour."""

    name: str
    x: Array
    y: Array
    spread: Array | None = None
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """An axis: its words, ``log``arithmic or not, and its (least, largest) value, None: what the lines need."""

    label: str
    log: bool = False
    span: tuple[float, float] | None = None

    def at(self, value: Array) -> Array:
        """Return where values lie before they are scaled to the page."""
        return np.log10(np.where(value > 0, value, np.nan)) if self.log else np.asarray(value, dtype=np.float64)

    def ends(self, values: Sequence[Array]) -> tuple[float, float]:
        """Return the ends of the axis, scaled as :meth:`at` does."""
        if self.span is not None:
            low, high = self.at(np.array(self.span))
            return float(low), float(high)
        found = np.concatenate([self.at(v) for v in values])
        found = found[np.isfinite(found)]
        low, high = float(found.min()), float(found.max())
        return low - 0.04 * (high - low), high + 0.04 * (high - low)

    def ticks(self, low: float, high: float) -> Iterator[tuple[float, str]]:
        """Yield the place of each tick, and its words: a round number."""
        if self.log:
            marks = [
                (math.log10(m) + d, m * 10.0**d) for d in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)
            ]
            shown = [(place, value) for place, value in marks if low <= place <= high]
            few = shown if len(shown) < 9 else [(place, value) for place, value in shown if place == round(place)]
            yield from ((place, f"{value:g}") for place, value in few)
            return
        step = 10.0 ** math.floor(math.log10((high - low) / 3.0))
        step *= next(m for m in (5, 2, 1) if (high - low) / (m * step) >= 3.0)
        first = math.ceil(low / step)
        for n in range(first, math.floor(high / step) + 1):
            yield n * step, f"{n * step:.6g}"


def draw(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return a figure as SVG."""
    x_low, x_high = x.ends([line.x for line in lines])
    spreads = [np.zeros_like(line.y) if line.spread is None else np.nan_to_num(line.spread) for line in lines]
    around = [line.y + s * d for line, s in zip(lines, spreads, strict=True) for d in (-1, 1)]
    y_low, y_high = y.ends([a[a > 0] if y.log else a for a in around])
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(px: Array, py: Array) -> str:
        a = LEFT + across * (x.at(px) - x_low) / (x_high - x_low)
        b = TOP + up * (1.0 - (y.at(np.asarray(py)) - y_low) / (y_high - y_low))
        return " ".join(f"{i:.1f},{j:.1f}" for i, j in zip(a, np.clip(b, TOP, TOP + up), strict=True))

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="12" fill="{GREY}">',
        f"<title>{escape(title)}</title>",
    ]
    for where, words in x.ticks(x_low, x_high):
        at = LEFT + across * (where - x_low) / (x_high - x_low)
        out.append(f'<path d="M{at:.1f} {TOP}V{TOP + up}" stroke="{GREY}" stroke-opacity="0.2"/>')
        out.append(f'<text x="{at:.1f}" y="{TOP + up + 16}" text-anchor="middle">{words}</text>')
    for where, words in y.ticks(y_low, y_high):
        at = TOP + up * (1.0 - (where - y_low) / (y_high - y_low))
        out.append(f'<path d="M{LEFT} {at:.1f}H{LEFT + across}" stroke="{GREY}" stroke-opacity="0.2"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{words}</text>')
    out.append(f'<path d="M{LEFT} {TOP}V{TOP + up}H{LEFT + across}" fill="none" stroke="{GREY}"/>')
    out.append(f'<text x="{LEFT + across}" y="{HEIGHT - 8}" text-anchor="end">{escape(x.label)}</text>')
    out.append(f'<text x="{LEFT - 50}" y="{TOP - 20}">{escape(y.label)}</text>')
    legend = LEFT + 8.0
    for i, line in enumerate(lines):
        colour = COLOURS[i if line.colour is None else line.colour]
        if line.spread is not None:
            known = np.isfinite(line.spread)
            upper, lower = (line.y + d * line.spread for d in (1, -1))
            band = (
                np.concatenate([line.x[known], line.x[known][::-1]]),
                np.concatenate([upper[known], lower[known][::-1]]),
            )
            out.append(f'<polygon points="{place(*band)}" fill="{colour}" fill-opacity="0.2"/>')
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.8"{dash}'
        out.append(f'<polyline points="{place(line.x, line.y)}" {stroke}/>')
        out.append(f'<path d="M{legend:.0f} {TOP - 8}h18" {stroke}/>')
        out.append(f'<text x="{legend + 23:.0f}" y="{TOP - 4}" fill="{colour}">{escape(line.name)}</text>')
        legend += 36.0 + 6.8 * len(line.name)
    return "\n".join([*out, "</svg>", ""])


# The runs


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterator[Sequence[Tensor]] | DataLoader[tuple[Tensor, ...]],
    *,
    every: int,
    level: str = "full",
) -> Run:
    """Train under ``erg.record`` and return the stored run."""
    with tempfile.TemporaryDirectory() as folder:
        with erg.record(model, optimizer, store=folder, physics=level, physics_every=every) as recording:
            for x, y in batches:
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
        return recording.run()


@cache
def labelled(n: int = 38_400) -> TensorDataset:
    """Return examples labelled by a random network, not without error."""
    stream = torch.Generator().manual_seed(1)
    teacher = [torch.randn(20, 32, generator=stream) / 20**0.5, torch.randn(32, 5, generator=stream)]
    x = torch.randn(n, 20, generator=stream)
    scores = torch.tanh(x @ teacher[0]) @ teacher[1] + 0.5 * torch.randn(n, 5, generator=stream)
    return TensorDataset(x, scores.argmax(1))


def classifier() -> nn.Sequential:
    """Return an untrained network of 1669 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))


@cache
def classified(optimizer: str, batch: int = 32, every: int = 4) -> Run:
    """Return a run of one pass over the labelled examples."""
    model = classifier()
    made = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum 0.9": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.003),
    }[optimizer](model.parameters())
    loader = DataLoader(labelled(), batch_size=batch, shuffle=True, generator=torch.Generator().manual_seed(2))
    return trained(model, made, nn.functional.cross_entropy, loader, every=every)


def hovering(rate: float, steps: int = 4000, batch: int = 8, width: int = 100) -> Run:
    """Return a run of least squares on streaming data: unit inputs, labels with unit noise, so that L* = ½."""
    stream = torch.Generator().manual_seed(3)
    target = torch.randn(width, 1, generator=stream)
    torch.manual_seed(0)
    model = nn.Linear(width, 1, bias=False)
    model.weight.data.copy_(target.T)  # from the least loss up, so that trΣ is that of the floor nearly all along

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            x = torch.randn(batch, width, generator=stream)
            yield x, x @ target + torch.randn(batch, 1, generator=stream)

    return trained(
        model,
        torch.optim.SGD(model.parameters(), lr=rate),
        lambda out, y: 0.5 * nn.functional.mse_loss(out, y),
        batches(),
        every=8,
        level="light",
    )


def descending(rate: float, steps: int = 1500) -> Run:
    """Return a run of full-batch gradient descent on 200 of the examples, by squared error."""
    x, y = labelled().tensors
    x, y = x[:200], nn.functional.one_hot(y[:200], 5).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return trained(model, optimizer, nn.functional.mse_loss, ((x, y) for _ in range(steps)), every=25)


# The figures


def along(name: str, found: Series) -> Line:
    """Return a series of a run as a line, with ± one standard error about it."""
    return Line(name, found.step, found.value, np.nan_to_num(found.stderr))


def first_law() -> str:
    """1.1, 7.2: heat and work per step."""
    found = series(classified("SGD"))
    lines = [along("heat Q", found["heat"]), along("work W", found["work"])]
    return draw("Heat and work per step", Axis("step"), Axis("loss per step"), lines)


def information_per_joule() -> str:
    """3.2: what a joule taught."""
    found = series(classified("SGD"))["information_per_joule"]
    return draw("Information per joule", Axis("step"), Axis("nat/J"), [along("information per joule", found)])


def floor() -> str:
    """4.1: the loss at which SGD hovers, and the floor that the run's own noise predicts."""
    lines = []
    for colour, rate in enumerate((0.05, 0.02)):
        run = hovering(rate)
        losses = run.table(LOSSES)["loss"]
        groups = (losses[: len(losses) // 200 * 200] - 0.5).reshape(-1, 200)
        middle = 200.0 * np.arange(len(groups)) + 100.0
        predicted = entries(run, accounts(run))["4.1"]["repair"]["loss_floor"]
        lines.append(Line(f"η = {rate}", middle, groups.mean(1), groups.std(1) / 200**0.5, colour=colour))
        level = np.full(2, predicted["value"])
        ends = np.array([0.0, float(len(losses))])
        error = np.full(2, predicted["stderr"])
        lines.append(Line("its floor, η trΣ/(4B)", ends, level, error, dashed=True, colour=colour))
    return draw("Excess loss", Axis("step"), Axis("loss above its least", span=(0.0, 0.35)), lines)


def path_length() -> str:
    """4.2: the path of the outputs."""
    found = series(classified("SGD"))
    lines = [along("𝓛_F", found["length_fisher"]), along("𝓛_JS", found["length_js"])]
    ends = classified("SGD").table(LENGTH)
    lines.append(Line("angle between the ends", ends["step"], ends["angle_ends"]))
    return draw("Length of the outputs' path", Axis("step"), Axis("length"), lines)


def batch_size() -> str:
    """6.1: the energy to a given loss, at three idle powers."""
    size = np.geomspace(4.0, 4096.0, 200)
    lines = []
    for static in (0.0, 60.0, 240.0):
        model = {"critical_batch": 500.0, "e0d": 2.0, "e1d": 0.05, "static_w": static, "tau0": 0.02, "tau1": 1e-4}
        best = float(eq.roofline_batch(**model))
        joules = eq.roofline_energy(size, **model)
        lines.append(Line(f"{static:.0f} W idle: B* = {best:.0f}", size, np.asarray(joules) / joules.min()))
    axes = Axis("batch size B", log=True), Axis("energy to the loss, over its least", log=True)
    return draw("Energy to a given loss", *axes, lines)


def noise_scale() -> str:
    """6.1, E3: the noise scale along a run."""
    found = series(classified("SGD", batch=256, every=1))["b_noise"]
    kept = found.value > 0
    shown = Line("B_noise", found.step[kept], found.value[kept], np.nan_to_num(found.stderr[kept]))
    return draw("Gradient noise scale", Axis("step"), Axis("examples", log=True), [shown])


def alignment() -> str:
    """7.1: how far the motion goes along the force."""
    lines = [along(name, series(classified(name))["alignment"]) for name in ("SGD", "momentum 0.9", "Adam")]
    return draw("Alignment A", Axis("step"), Axis("A"), lines)


def stability() -> str:
    """8.2: the edge of stability."""
    lines = []
    for rate in (0.5, 0.25):
        found = read_curvature(descending(rate), None)
        lines.append(Line(f"η = {rate}", found.step, found.rate_path / found.limit_path))
    ends = np.array([0.0, float(lines[0].x[-1])])
    lines.append(Line("the edge", ends, np.ones(2), dashed=True))
    return draw("η over its stability limit", Axis("step"), Axis("η λ_max/2"), lines)


def schedule() -> str:
    """8.1: the steps that the schedule makes, of those of constant power."""
    alpha = np.linspace(0.0, 1.0, 101)
    line = Line("1.5^α/(1 + α/2)", alpha, np.asarray(eq.schedule_speed_factor(alpha)))
    return draw("Steps of the schedule", Axis("α, speed ∝ P^α"), Axis("of constant power's steps"), [line])


def drag() -> str:
    """9.1: the dragged trap breaks the bound as written, and keeps the repaired one."""
    t = np.linspace(1e-3, 10.0, 200)
    x, tau = 2.0, 10.0
    nat = eq.drag_information(x, tau, t)
    work = x / tau**2 * (t - 1.0 + np.exp(-t))
    lag = -np.expm1(-t) / tau
    heat = work - 0.5 * x * lag**2
    lines = [
        Line("ΔS + Q/T", t, np.asarray(eq.largest_information(nat, heat))),
        Line("I", t, np.asarray(nat)),
        Line("W/T, 'the bound'", t, work, dashed=True),
    ]
    return draw("The dragged trap", Axis("time t"), Axis("nat"), lines)


FIGURES: dict[str, Callable[[], str]] = {
    "first-law": first_law,
    "information-per-joule": information_per_joule,
    "loss-floor": floor,
    "path-length": path_length,
    "batch-size": batch_size,
    "noise-scale": noise_scale,
    "alignment": alignment,
    "stability": stability,
    "power-schedule": schedule,
    "dragged-trap": drag,
}


def main() -> None:
    """Write every figure into the folder that is named, or say what would be written."""
    if len(sys.argv) < 2:
        names = ", ".join(f"{name}.svg" for name in FIGURES)
        print(f"writes nothing without a folder; `python -m benchmarks.figures docs/figures` makes {names}")
        return
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or FIGURES:
        made = FIGURES[name]()
        assert len(made.encode()) <= MOST_BYTES, name
        (folder / f"{name}.svg").write_text(made, encoding="utf-8")
        print(f"wrote {folder / name}.svg, {len(made.encode()) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
