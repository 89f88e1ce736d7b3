"""What the planner reaches on public traces: batch size, slowdown bound, forecast, predictions, power budget, speed.

Each figure names its data; without ../shared it says so. None of the planner's constants was fitted here, but for two
that are stated: the spread of MFU and the scatter of steps about their law describe the same public tables.
"""

from __future__ import annotations

import csv
import gzip
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from ergometry.core.budget import Budget
from ergometry.core.errors import UsageError
from ergometry.planning.forecast import forecast
from ergometry.planning.machines import machine
from ergometry.planning.operating_points import OperatingPoint, fit_costs
from ergometry.planning.optimum import Mixture, best
from ergometry.planning.power_sharing import CapPoint, share_power
from ergometry.planning.predict import Rate, predict, watts_prior
from ergometry.planning.steps_to_target import fit_steps, from_sizes, ratio

DATA = Path(__file__).parents[2] / "shared" / "data"
ZEUS = DATA / "zeus_nsdi23"
CIFAR_EXAMPLES, CIFAR_TARGET = 50_000, "0.6"
TARGETS = {"cifar100": 0.6, "imagenet": 0.65, "squad": 84.0, "movielens-1m": 0.41}
DEFAULTS = {"cifar100": 1024, "imagenet": 256, "squad": 32, "movielens-1m": 1024}
OPTIMIZERS = {"cifar100": "adadelta", "imagenet": "adadelta", "squad": "adamw", "movielens-1m": "adam"}


def power_rows(gpu: str) -> dict[tuple[str, int], list[tuple[float, float, float]]]:
    """Return (limit, seconds, joules) of an epoch of each (data set, batch size) of a GPU."""
    found = defaultdict(list)
    for row in csv.DictReader((ZEUS / f"summary_power_{gpu}.csv").open()):
        seconds, watts = float(row["time_per_epoch"]), float(row["average_power"])
        if row["optimizer"] == OPTIMIZERS.get(row["dataset"]) and seconds > 0:
            found[row["dataset"], int(row["batch_size"])].append((float(row["power_limit"]), seconds, seconds * watts))
    return found


def batch_size() -> None:
    """R12: B* of CIFAR-100 from the two laws, fitted apart, against the measured optimum."""
    epochs = defaultdict(list)
    for row in csv.DictReader((ZEUS / "summary_train.csv").open()):
        if row["dataset"] == "cifar100" and row["target_metric"] == CIFAR_TARGET:
            epochs[int(row["batch_size"])].append(float(row["target_epoch"] or "inf"))
    reached = {b: e for b, e in epochs.items() if np.all(np.isfinite(e))}
    law = fit_steps(
        [b for b, found in reached.items() for _ in found],
        [e * CIFAR_EXAMPLES / b for b, found in reached.items() for e in found],
    )
    mean = {b: float(np.mean(found)) for b, found in reached.items()}
    rows = power_rows("v100")
    print(
        f"B_c of CIFAR-100 to {CIFAR_TARGET}: {law.critical_batch.median:.0f} within {law.critical_batch.factor:.2f}, "
        f"scatter {law.scatter:.0%} about the law"
    )
    print("limit   B* by the laws   measured optimum   ratio")
    for limit in (100.0, 150.0, 250.0):
        joules = {b: j for b in mean for w, _, j in rows["cifar100", b] if w == limit}
        steps = {b: CIFAR_EXAMPLES / b for b in joules}
        seconds = {b: s for b in mean for w, s, _ in rows["cifar100", b] if w == limit}
        points = [OperatingPoint(b, seconds[b] / steps[b], joules[b] / steps[b]) for b in joules]
        grid = 2.0 ** np.arange(3, 13, 0.125)
        per_step = np.median(fit_costs(points).energy_j(grid)[0], axis=0)
        costs = per_step * np.array([law.steps(b) for b in grid])
        predicted = float(grid[np.argmin(costs)])
        measured = min(joules, key=lambda b: mean[b] * joules[b])
        print(
            f"{limit:4.0f} W {predicted:15.0f} {measured:18d} {predicted / measured:9.2f}   (target: within a factor 2)"
        )


def cheapest(gpu: str) -> dict[str, int]:
    """Return the batch size of least expected energy to the target of each job of a GPU, at its best power limit.

    A batch size of which any run missed the target is left out.
    """
    epochs = defaultdict(list)
    for row in csv.DictReader((ZEUS / "summary_train.csv").open()):
        if (
            row["optimizer"] == OPTIMIZERS.get(row["dataset"])
            and float(row["target_metric"]) == TARGETS[row["dataset"]]
        ):
            epochs[row["dataset"], int(row["batch_size"])].append(float(row["target_epoch"] or "inf"))
    least = {key: min(j for _, _, j in rows) for key, rows in power_rows(gpu).items()}
    costs = {key: float(np.mean(epochs[key])) * j for key, j in least.items() if key in epochs}
    best_of = {}
    for dataset in DEFAULTS:
        known = {b: cost for (of, b), cost in costs.items() if of == dataset and math.isfinite(cost)}
        if known:
            best_of[dataset] = min(known, key=lambda b: known[b])
    return best_of


def own_sizes(gpu: str) -> dict[str, int]:
    """Return the default batch size of each job of a GPU, or the largest that its memory holds."""
    sizes = defaultdict(list)
    for dataset, b in power_rows(gpu):
        sizes[dataset].append(b)
    return {dataset: min(DEFAULTS[dataset], max(found)) for dataset, found in sizes.items()}


def slowdown() -> None:
    """Energy at a slowdown of at most 5 %, over that without a cap, at one batch size."""
    ratios = {}
    for gpu in ("v100", "p100"):
        for key, rows in power_rows(gpu).items():
            limit, s, j = (np.array(column) for column in zip(*sorted(rows), strict=True))
            found = best(s, j, limit, Budget(slowdown=0.05))
            assert isinstance(found, Mixture)
            allowed = s <= 1.05 * s.min()
            chosen = (found.energy_j, j[allowed].min(), j[np.flatnonzero(allowed)[0]])
            ratios[gpu, key] = np.array(chosen) / j[np.argmax(limit)]
    groups = {
        f"all {len(ratios)} (job, batch size, GPU)": list(ratios),
        "the 8 jobs' default batch sizes": [(g, key) for g in ("v100", "p100") for key in own_sizes(g).items()],
        "the 8 jobs' cheapest batch sizes": [(g, key) for g in ("v100", "p100") for key in cheapest(g).items()],
    }
    print("5 % slowdown bound, energy over uncapped, mean    time-sharing  best single limit  least watt")
    for name, keys in groups.items():
        shared, single, least = np.mean([ratios[key] for key in keys], axis=0)
        print(f"{name:<48} {shared:13.3f} {single:18.3f} {least:11.3f}   ({len(keys)})")
    print("(target 0.88, found on 24 public jobs, of which these 8 are shared: 0.877 time-sharing, 0.898, 0.908)")


def speed() -> None:
    """Seconds of one choice among 10 000 operating points."""
    rng = np.random.default_rng(0)
    t = rng.uniform(1, 10, 10_000)
    for name, e in (("scattered", 50 / t + rng.exponential(1.0, len(t))), ("all on the hull", 50 / t)):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            best(t, e, e / t, Budget(time=5.0))
            took.append(time.perf_counter() - began)
        print(f"plan over 10 000 points, {name}: {1e3 * min(took):.1f} ms (target 50)")


def forecasts() -> None:
    """Energy of MLPerf's GPT-3 run, known from its first part."""
    joules = defaultdict(list)
    with gzip.open(DATA / "mlperf_v40_smc" / "total_power_2s.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            joules[row["bench"], row["run"]].append(2.0 * float(row["total_power_w"]))
    for (bench, _), series in joules.items():
        if bench != "gpt3":
            continue
        whole = np.array(series)
        for share in (0.01, 0.05, 0.2):
            early = round(share * len(whole))
            found = forecast(whole[:early], len(whole) - early)
            low, middle, high = np.quantile(found.total, [0.05, 0.5, 0.95]) / whole.sum() - 1
            print(
                f"forecast after {share:.0%} of {bench}: {middle:+.2%} [{low:+.2%}, {high:+.2%}] "
                "(target 2.5 % after 1 %)"
            )


def predictions() -> None:
    """Coverage of the 90 % intervals of GPU-hours before a run, on runs whose FLOP were counted by operations."""
    held, errors = [], []
    for row in csv.DictReader((DATA / "training_tables" / "epoch_training_runs.csv").open()):
        facts = [row[name] for name in ("Training time (hours)", "Hardware quantity", "Training compute (FLOP)")]
        if "Operation counting" not in row["Training compute estimation method"] or not all(facts):
            continue
        try:
            device = machine(row["Training hardware"].split(",")[0])
        except UsageError:
            continue  # not an accelerator of the table
        hours, devices, flop = map(float, facts)
        found = predict(Rate(flop, 0.1, ""), device.peak("bf16"), watts_prior(device.power_w), devices=int(devices))
        held.append(found.time.low <= 3600 * hours <= found.time.high)
        errors.append(abs(math.log(3600 * hours / found.time.value)))
    print(
        f"pre-run 90 % intervals of time hold in {np.mean(held):.0%} of {len(held)} runs (target 80–97 %), median "
        f"error a factor {math.exp(float(np.median(errors))):.2f}"
    )


def sizes() -> None:
    """Steps at every other batch size, from one run and B_c by the size law of the other models."""
    runs = defaultdict(list)
    for row in csv.DictReader((DATA / "training_tables" / "steps_to_target_by_batch_size.csv").open()):
        runs[float(row["model_params_M"])].append((float(row["batch_size_seqs"]), float(row["steps_to_target"])))
    laws = {size: fit_steps(*zip(*rows, strict=True)) for size, rows in runs.items()}
    errors = []
    for size, rows in runs.items():
        others = [other for other in laws if other != size]
        critical = from_sizes(others, [laws[other].critical_batch for other in others], size).median
        errors += [abs(s * float(ratio(to, b, critical)) / true - 1) for b, s in rows for to, true in rows if to != b]
    print(
        f"steps at every other batch size from one run and the size law of {len(laws) - 1} other models: mean error "
        f"{np.mean(errors):.1%}; scatter about the law {', '.join(f'{law.scatter:.1%}' for law in laws.values())}"
    )


def power_budget() -> None:
    """Mean relative speed of the public jobs, at their own batch sizes, under a share of their uncapped power."""
    jobs = {}
    for gpu in ("v100", "p100"):
        rows = power_rows(gpu)
        for dataset, b in own_sizes(gpu).items():
            jobs[f"{dataset} {gpu}"] = [CapPoint(limit, j / s, 1.0 / s) for limit, s, j in rows[dataset, b]]
    uncapped = sum(max(points, key=lambda p: p.cap_w).draw_w for points in jobs.values())
    least = sum(min(p.draw_w for p in points) for points in jobs.values())
    print(
        f"one power budget, {len(jobs)} jobs: their lowest caps draw {least / uncapped:.0%} of what they draw uncapped"
    )
    for share in (0.5, 0.6, 0.7, 0.8):
        if share * uncapped < least:
            print(f"at {share:.0%}: cannot be met")
            continue
        found = share_power(jobs, share * uncapped)
        print(
            f"at {share:.0%}: {found.relative_speed:.3f} of full speed (no choice above {found.upper_bound:.3f}), "
            f"equal caps {_equal_caps(jobs, share * uncapped):.3f}"
        )
    print("(no target; known on all public jobs: 0.946 at half the sum of caps against 0.836 for uniform caps)")


def _equal_caps(jobs: dict[str, list[CapPoint]], budget_w: float) -> float:
    """Return the mean relative speed under the highest cap that all can share, each at its nearest cap below."""

    def under(points: list[CapPoint], cap_w: float) -> CapPoint:
        allowed = [p for p in points if p.cap_w <= cap_w] or [min(points, key=lambda p: p.cap_w)]
        return max(allowed, key=lambda p: p.cap_w)

    reached = math.nan
    for cap_w in sorted({p.cap_w for points in jobs.values() for p in points}):
        chosen = [under(points, cap_w) for points in jobs.values()]
        if sum(p.draw_w for p in chosen) <= budget_w:
            tops = [max(p.speed for p in points) for points in jobs.values()]
            reached = float(np.mean([p.speed / top for p, top in zip(chosen, tops, strict=True)]))
    return reached


def main() -> int:
    speed()
    if not DATA.is_dir():
        print("the rest was skipped: needs the public traces in ../shared/data, which are not here")
        return 0
    for part in (batch_size, slowdown, forecasts, predictions, sizes, power_budget):
        print()
        part()
    return 0


if __name__ == "__main__":
    main()
