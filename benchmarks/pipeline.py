"""Pipeline plans: how far above the linear program's lower bound, and how long they take, on measured A100 profiles.

The published frontiers (Perseus, SOSP 2024) are compared with the lower bound at their own times. Their energies are of
the planner's fitted curves, not of measured points; the power of a device that waits is read off their slow end, where
only waiting is left to change.
"""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path

from ergometry.planning.pipeline import PipelinePlanner, one_forward_one_backward, read_profile

DATA = Path(__file__).parents[2] / "shared" / "data" / "perseus_sosp24"
MICROBATCHES = (12, 24, 48, 96)


def published(path: Path) -> list[tuple[float, float]]:
    """Return (s, J) of a published frontier, by rising time."""
    with gzip.open(path, "rt") as lines:
        return sorted((float(row["time"]), float(row["energy"])) for row in csv.DictReader(lines))


def main() -> int:
    if not DATA.is_dir():
        print(f"skipped: needs the profiles of Perseus in {DATA.name}, which are not here")
        return 0
    print("model  microbatches  fastest  frontier: plans  worst gap  certified  s   one plan, s   published over bound")
    worst = slowest = 0.0
    for model, short in (("gpt3-175b", "gpt3"), ("bloom", "bloom")):
        profile = read_profile(DATA / f"emulation__stage_profile__{model}+a100_sxm_bf16.csv")
        for microbatches in MICROBATCHES:
            reported = published(
                DATA / f"emulation__iteration_time_energy__a100_sxm__{model}_bf16_mb{microbatches}.csv.gz"
            )
            (t0, e0), (t1, e1) = reported[-2:]
            dag = one_forward_one_backward(profile.stages, microbatches)
            planner = PipelinePlanner(dag, profile, blocking_w=(e1 - e0) / (t1 - t0) / dag.devices)
            began = time.perf_counter()
            frontier = planner.frontier()
            took_s = time.perf_counter() - began
            began = time.perf_counter()
            one = planner.plan(1.05 * planner.fastest_s)
            one_s = time.perf_counter() - began
            assert all(plan.iteration_s <= plan.deadline_s for plan in (*frontier.plans, one))
            feasible = [(t, e) for t, e in reported if t >= planner.fastest_s][:: max(1, len(reported) // 6)]
            above = [e / planner.plan(t).lower_bound_j - 1 for t, e in feasible]
            gap = max(plan.gap for plan in (*frontier.plans, one))
            worst, slowest = max(worst, gap), max(slowest, one_s)
            print(
                f"{short:<6} {microbatches:11}  {planner.fastest_s:6.3f}s {len(frontier.plans):15}  {gap:9.3%}"
                f"  {frontier.certified:8.3%}  {took_s:4.1f}  {one_s:9.2f}      {min(above):+.2%} … {max(above):+.2%}"
            )
    print(f"worst gap of any plan {worst:.3%} (target 0.3 %); slowest single plan {slowest:.2f} s (target 3 s)")
    return 0


if __name__ == "__main__":
    main()
