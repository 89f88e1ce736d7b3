"""Recurring jobs on Zeus's own traces: regret in runs, the last quarter, warm starts, and the search of a power limit.

Without ../shared there is nothing to replay. ``python -m benchmarks.recurring --seeds 20`` gives the whole table.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import numpy as np

from benchmarks._recurring_replay import DATASETS, GPUS, HARNESS, TRACES, Score, harness, score, zeus
from ergometry.planning import power_limit
from ergometry.planning.recurring import Settings

SEEDS, SEEDS_LEFT_OUT = 3, 2
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

Jobs = dict[tuple[str, str], object]
Scores = dict[tuple[str, str], Score]


def pooled(scores: Scores) -> tuple[float, float]:
    """Mean regret over jobs, and its standard error."""
    errors = [s.error for s in scores.values()]
    return float(np.mean([s.mean for s in scores.values()])), math.sqrt(sum(e * e for e in errors)) / len(errors)


def table(weight: float, scores: Scores, seeds: int) -> None:
    """Print ours beside Zeus's."""
    theirs = zeus()
    print(f"\nregret in runs, energy weight {weight:g}, {seeds} seeds (Zeus: 20 seeds, in its own simulator)")
    print(f"{'job':<20}{'Zeus':>7}{'ours':>7}{'±':>6}{'last quarter':>14}   targets: ≤ Zeus + 0.3, ≤ 1.01")
    for (gpu, dataset), ours in scores.items():
        reference = theirs[weight, gpu, dataset][0]
        missed = [
            word for word, bad in (("regret", ours.mean > reference + 0.3), ("last quarter", ours.last > 1.01)) if bad
        ]
        note = f"   missed: {', '.join(missed)}" if missed else ""
        print(f"{gpu} {dataset:<15}{reference:>7.2f}{ours.mean:>7.2f}{ours.error:>6.2f}{ours.last:>14.4f}{note}")
    mean, error = pooled(scores)
    reference = float(np.mean([theirs[weight, *job][0] for job in scores]))
    last = float(np.mean([s.last for s in scores.values()]))
    print(f"{'mean':<20}{reference:>7.2f}{mean:>7.2f}{error:>6.2f}{last:>14.4f}   target: ≤ 3.0 ± its error")


def warm(replays, jobs: Jobs, cold: Scores, seeds: int) -> None:
    """Print what a history from the other GPU spares."""
    scores: Scores = {}
    for gpu, dataset in jobs:
        other = cold[GPUS[1 - GPUS.index(gpu)], dataset].histories
        scores[gpu, dataset] = score(replays, jobs[gpu, dataset], seeds, start=lambda seed, other=other: other[seed])
    print(f"\nwarm start from the other GPU's history, weight 0.5, {seeds} seeds")
    for job, got in scores.items():
        print(f"{job[0]} {job[1]:<15}cold {cold[job].mean:6.2f}   warm {got.mean:6.2f} ± {got.error:.2f}")
    before, after = pooled(cold)[0], pooled(scores)[0]
    print(f"{'mean':<20}cold {before:6.2f}   warm {after:6.2f}   ratio {after / before:.2f}   target: ≤ 0.6")


def left_out(replays, jobs: Jobs, seeds: int) -> None:
    """Print what leave-one-job-out chooses, and what its choices come to on the jobs left out."""
    regret: dict[str, dict[tuple[str, str], float]] = {}
    for name, change in VARIANTS.items():
        settings = replace(Settings(), **change)
        regret[name] = {key: score(replays, job, seeds, settings).mean for key, job in jobs.items()}
    print(f"\nleave one job out (both GPUs of a data set), weight 0.5, {seeds} seeds")
    for name, found in regret.items():
        print(f"  {name:<34}{np.mean(list(found.values())):6.2f}")
    held = []
    for dataset in DATASETS:
        others = {n: np.mean([r for (_, d), r in found.items() if d != dataset]) for n, found in regret.items()}
        chosen = min(others, key=lambda n: others[n])
        mine = [r for (_, d), r in regret[chosen].items() if d == dataset]
        held += mine
        print(f"  without {dataset:<15} chosen: {chosen:<34} left-out regret {np.mean(mine):5.2f}")
    print(
        f"  settings as they are {np.mean(list(regret['as they are'].values())):.2f}; best in hindsight "
        f"{min(np.mean(list(f.values())) for f in regret.values()):.2f}; chosen on other jobs {np.mean(held):.2f}"
    )


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


def limits(replays) -> None:
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
    print(f"\npower limit search, probes good to {PROBE_NOISE:.0%}   target: ≤ 3.5 readings, ≤ 0.6 % above the best")
    rng = np.random.default_rng(0)
    by = {t: {k: search_limits(c, t, rng) for k, c in curves.items()} for t in TOLERANCES}
    sizes = {k: len(c) for k, c in curves.items()}

    def mean(found: dict, keys) -> tuple[float, float]:
        weights = [sizes[k] for k in keys]
        return tuple(float(np.average([found[k][i] for k in keys], weights=weights)) for i in (0, 1))  # type: ignore[return-value]

    for weight in (0.5, 1.0):
        readings, excess = mean(by[power_limit.TOLERANCE], [k for k in curves if k[0] == weight])
        print(f"  weight {weight:g}: {readings:.2f} readings, {excess:.2%} above the best")
    readings, excess = mean(by[power_limit.TOLERANCE], list(curves))
    held = []
    for dataset in DATASETS:
        rest = [k for k in curves if k[1] != dataset]
        fit = [t for t in TOLERANCES if mean(by[t], rest)[0] <= 3.5] or [max(TOLERANCES)]
        chosen = min(fit, key=lambda t: mean(by[t], rest)[1])
        held += [(by[chosen][k], sizes[k]) for k in curves if k[1] == dataset]
    out = [float(np.average([h[i] for h, _ in held], weights=[n for _, n in held])) for i in (0, 1)]
    print(f"  both: {readings:.2f} readings, {excess:.2%}; tolerance chosen on other jobs: {out[0]:.2f}, {out[1]:.2%}")


def main(argv: list[str] | None = None) -> None:
    """Replay, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each job (20 for the whole table)")
    parser.add_argument("--seeds-left-out", type=int, default=SEEDS_LEFT_OUT, help="the same for leave-one-job-out")
    options = parser.parse_args(argv)
    replays = harness()
    if replays is None:
        print(f"skipped: {HARNESS} or the traces beside it are absent")
        return
    began = time.perf_counter()
    cold: Scores = {}
    for weight in (0.5, 1.0):
        jobs: Jobs = {(g, d): replays.Job(TRACES, d, g, weight) for g in GPUS for d in DATASETS}
        found = {key: score(replays, job, options.seeds) for key, job in jobs.items()}
        table(weight, found, options.seeds)
        if weight == 0.5:
            half, cold = jobs, found
    warm(replays, half, cold, options.seeds)
    limits(replays)
    left_out(replays, half, options.seeds_left_out)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
