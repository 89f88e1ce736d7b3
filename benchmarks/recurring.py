"""Recurring jobs on Zeus's own traces: regret in runs, the last quarter, warm starts, and the search of a power limit.

Regret is shown plain and less luck: a run's epochs are drawn from three to six recorded ones, and what a draw cost
beyond their mean has mean zero, whatever the policy does. Both have the same mean; the verdicts are of the second.
Without ../shared there is nothing to replay. ``--seeds 20 --seeds-left-out 8`` gives the whole table of
``results/``, in a quarter of an hour.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks._recurring_replay import DATASETS, GPUS, HARNESS, TRACES, Score, harness, mean, pooled, score, zeus
from ergometry.planning import power_limit
from ergometry.planning.recurring import Settings

SEEDS, SEEDS_LEFT_OUT = 20, 0
VARIANTS: dict[str, dict[str, float]] = {
    "as they are": {},
    "look half as far ahead": {"horizon": 15.0},
    "look twice as far ahead": {"horizon": 60.0},
    "growing twice as fast": {"horizon_growth": 2.0},
    "narrower deviations from the law": {"deviation_sd": 0.25},
    "wider deviations from the law": {"deviation_sd": 0.5},
    "no second looks": {"second_looks": 0.0},
    "twice as many second looks": {"second_looks": 0.5},
    "failures thrice as likely": {"failure": 0.15},
}
"""What leave-one-job-out may choose among; no other setting was chosen on these jobs by any search."""
PROBE_NOISE = 0.01
PROBE_REPEATS = 5
TOLERANCES = (0.01, 0.015, 0.02, 0.025, 0.03)

Job = tuple[str, str]
Jobs = dict[Job, Any]
Scores = dict[Job, Score]


@dataclass(frozen=True)
class Row:
    """One line of the table: what was to be reached, and what was."""

    what: str
    target: float
    figure: float
    error: float = 0.0
    note: str = ""
    form: str = ".2f"

    @property
    def verdict(self) -> str:
        """Whether the target was met; by less than its error, also if it was missed by less."""
        if self.figure <= self.target:
            return "pass"
        return "within its error" if self.figure - self.error <= self.target else "short"

    def __str__(self) -> str:
        figure = format(self.figure, self.form) + (f" ± {self.error:{self.form}}" if self.error else "")
        return f"{self.what:<58}{'≤ ' + format(self.target, self.form):>9}{figure:>18}  {self.verdict:<17}{self.note}"


def replayed(weight: float, scores: Scores, seeds: int) -> list[Row]:
    """Print ours beside Zeus's, job by job."""
    theirs = zeus()
    print(f"\nregret in runs, energy weight {weight:g}, {seeds} seeds (Zeus: 20 seeds, in its own simulator)")
    print(f"{'':<20}{'':>6}{'':>15}{'less luck:':>12}{'':>24}")
    print(f"{'job':<20}{'Zeus':>6}{'ours':>13}{'ours':>14}{'last quarter':>20}{'plain':>9}")
    for job, s in scores.items():
        (plain, error), (net, net_error), (last, last_error) = mean(s.plain_regret), mean(s.regret), mean(s.last)
        print(
            f"{job[0]} {job[1]:<15}{theirs[weight, *job][0]:>6.2f}{plain:>7.2f} ±{error:>4.2f}"
            f"{net:>8.2f} ±{net_error:>4.2f}{last:>13.4f} ±{last_error:.4f}{mean(s.plain_last)[0]:>9.4f}",
            flush=True,
        )
    reference = float(np.mean([theirs[weight, *job][0] for job in scores]))
    plain, net = pooled(s.plain_regret for s in scores.values()), pooled(s.regret for s in scores.values())
    print(f"{'mean':<20}{reference:>6.2f}{plain[0]:>7.2f} ±{plain[1]:>4.2f}{net[0]:>8.2f} ±{net[1]:>4.2f}")
    above = {job: mean(s.regret)[0] - theirs[weight, *job][0] for job, s in scores.items()}
    worst, latest = max(above, key=lambda j: above[j]), max(scores, key=lambda j: mean(scores[j].last)[0])
    noted, error, end = (
        f"plain {plain[0]:.2f} ± {plain[1]:.2f}",
        mean(scores[worst].regret)[1],
        mean(scores[latest].last),
    )
    return [
        Row(f"mean regret in runs, 8 jobs, weight {weight:g}", 3.0, *net, noted),
        Row(f"worst job less Zeus, in runs, weight {weight:g}", 0.3, above[worst], error, " ".join(worst)),
        Row(f"worst last quarter over the oracle, weight {weight:g}", 1.01, *end, " ".join(latest), ".4f"),
    ]


def warm(replays: ModuleType, jobs: Jobs, cold: Scores, seeds: int) -> Row:
    """Print what a history from the other GPU spares."""
    scores: Scores = {}
    for gpu, dataset in jobs:
        other = cold[GPUS[1 - GPUS.index(gpu)], dataset].histories
        scores[gpu, dataset] = score(replays, jobs[gpu, dataset], seeds, start=lambda seed, other=other: other[seed])
    print(f"\nwarm start from the other GPU's history, weight 0.5, {seeds} seeds, regret less luck")
    for job, got in scores.items():
        (before, error), (after, own) = mean(cold[job].regret), mean(got.regret)
        print(f"{job[0]} {job[1]:<15}cold {before:6.2f} ± {error:.2f}   warm {after:6.2f} ± {own:.2f}", flush=True)
    (before, error), (after, own) = (pooled(s.regret for s in found.values()) for found in (cold, scores))
    ratio = after / before
    return Row("warm start over cold", 0.6, ratio, ratio * math.hypot(error / before, own / after))


def left_out(replays: ModuleType, jobs: Jobs, seeds: int) -> Row:
    """Print what leave-one-job-out chooses, and what its choices come to on the jobs left out."""
    regret: dict[str, dict[Job, Any]] = {}
    for name, change in VARIANTS.items():
        settings = replace(Settings(), **change)
        regret[name] = {key: score(replays, job, seeds, settings).regret for key, job in jobs.items()}
    every = {name: pooled(found.values()) for name, found in regret.items()}
    print(f"\nleave one job out (both GPUs of a data set), weight 0.5, {seeds} seeds, regret less luck")
    for name, (figure, error) in every.items():
        print(f"  {name:<34}{figure:6.2f} ± {error:.2f}")
    held = []
    for dataset in DATASETS:
        others = {n: pooled(r for (_, d), r in found.items() if d != dataset)[0] for n, found in regret.items()}
        chosen = min(others, key=lambda n: others[n])
        mine = [r for (_, d), r in regret[chosen].items() if d == dataset]
        held += mine
        print(f"  without {dataset:<15} chosen: {chosen:<34} left-out regret {pooled(mine)[0]:5.2f}")
    best = min(figure for figure, _ in every.values())
    print(f"  settings as they are {every['as they are'][0]:.2f}; best in hindsight {best:.2f}", flush=True)
    return Row("mean regret, settings chosen on other jobs, weight 0.5", 3.0, *pooled(held), f"{seeds} seeds")


def search_limits(curves, tolerance: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return mean readings and mean excess over the best limit."""
    probes, excess = [], []
    for board, curve in curves:
        low = min(curve.values())
        for _ in range(PROBE_REPEATS):
            found = power_limit.search(
                lambda p, curve=curve: power_limit.Reading(
                    curve[p] + PROBE_NOISE * float(rng.standard_normal()), PROBE_NOISE
                ),
                list(curve),
                max_power_w=board,
                tolerance=tolerance,
            )
            probes.append(found.probes)
            excess.append(math.expm1(curve[found.limit_w] - low))
    return float(np.mean(probes)), float(np.mean(excess))


def limits(replays: ModuleType) -> list[Row]:
    """Print how many limits are read and what is lost, over every batch size of every job and both weights."""
    curves = {
        (weight, dataset): [
            (job.max_power, {p: math.log(job.epoch_cost(b, p)) for p in job.spec.power_limits_w if (b, p) in job.point})
            for gpu in GPUS
            for job in [replays.Job(TRACES, dataset, gpu, weight)]
            for b in job.spec.batch_sizes
        ]
        for weight in (0.5, 1.0)
        for dataset in DATASETS
    }
    print(f"\npower limit search, probes good to {PROBE_NOISE:.0%}")
    rng = np.random.default_rng(0)
    by = {t: {k: search_limits(c, t, rng) for k, c in curves.items()} for t in TOLERANCES}
    sizes = {k: len(c) for k, c in curves.items()}

    def over(found: dict[Any, tuple[float, float]], keys: Sequence[Any]) -> tuple[float, float]:
        weights = [sizes[k] for k in keys]
        probes, excess = (float(np.average([found[k][i] for k in keys], weights=weights)) for i in (0, 1))
        return probes, excess

    for weight in (0.5, 1.0):
        readings, excess = over(by[power_limit.TOLERANCE], [k for k in curves if k[0] == weight])
        print(f"  weight {weight:g}: {readings:.2f} readings, {excess:.2%} above the best")
    readings, excess = over(by[power_limit.TOLERANCE], list(curves))
    held = []
    for dataset in DATASETS:
        rest = [k for k in curves if k[1] != dataset]
        fit = [t for t in TOLERANCES if over(by[t], rest)[0] <= 3.5] or [max(TOLERANCES)]
        chosen = min(fit, key=lambda t: over(by[t], rest)[1])
        held += [(by[chosen][k], sizes[k]) for k in curves if k[1] == dataset]
    out = [float(np.average([h[i] for h, _ in held], weights=[n for _, n in held])) for i in (0, 1)]
    print(f"  both: {readings:.2f} readings, {excess:.2%}; tolerance chosen on other jobs: {out[0]:.2f}, {out[1]:.2%}")
    return [
        Row("power limit search, probes", 3.5, readings, note=f"on other jobs' tolerance {out[0]:.2f}"),
        Row(
            "power limit search, % above the best",
            0.6,
            100 * excess,
            note=f"on other jobs' tolerance {100 * out[1]:.2f}",
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """Replay, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each job")
    parser.add_argument("--seeds-left-out", type=int, default=SEEDS_LEFT_OUT, help="the same for leave-one-job-out (8)")
    options = parser.parse_args(argv)
    replays = harness()
    if replays is None:
        print(f"skipped: {HARNESS} or the traces beside it are absent")
        return
    began = time.perf_counter()
    rows: list[Row] = []
    half: Jobs = {}
    cold: Scores = {}
    for weight in (0.5, 1.0):
        jobs: Jobs = {(g, d): replays.Job(TRACES, d, g, weight) for g in GPUS for d in DATASETS}
        found = {key: score(replays, job, options.seeds) for key, job in jobs.items()}
        rows += replayed(weight, found, options.seeds)
        half, cold = half or jobs, cold or found
    rows.append(warm(replays, half, cold, options.seeds))
    rows += limits(replays)
    if options.seeds_left_out:
        rows.append(left_out(replays, half, options.seeds_left_out))
    print(f"\n{'figure':<58}{'target':>9}{'got':>18}")
    print("\n".join(str(row) for row in rows))
    print(f"\n{options.seeds} seeds, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
