"""What the thermodynamic ledger costs: per estimator, as a share of the step time, and in memory.

Runs of one model are trained in one process in interleaved stretches of steps: watched without the ledger (twice:
identical runs show what this machine can resolve) and with it. All of them draw the same numbers, and their parameters,
buffers and random streams must be the same bits after every round. Costs are in the processor's time of the thread,
which another process takes little of; wall time stands beside it. The account is what the taps themselves say they
spent. It is checked from outside: by the whole of a run, and by runs in which one tap alone is used every other step.

Not a figure is an assertion, but for the bits, and the bytes that the default level keeps of a model.
``python -m benchmarks.physics mlp`` takes some of the models; by default each is given 40 s, so that all of it takes
some three minutes; with ``--long`` all that it needs, the taps one by one, and short runs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.ledger_runs import CASES, Arm, Case, between, excess, held, interleave, scripts
from ergometry.integrations.physics import taps as rooms

TAPS = tuple(name for name, *_ in rooms.TAPS if name != "information")  # that one computes at the end alone
NEVER = 10**9
BUDGET_S = 40.0
ALLOWED = 0.05
SHARE, FLOOR_BYTES = 0.02, 4 << 20
SHORT = (("mlp", 200), ("mlp", 2000), ("cnn", 200))


# What a use costs


@dataclass
class Price:
    """What one use of a tap costs, in training steps: as its cadence pays, as the conductor's clock has it, outside.

    The conductor's clock has the calls that pass events on too, and so has what is seen from outside.
    """

    account: float
    clocked: float
    outside: float
    low: float
    high: float


def prices(case: Case) -> dict[str, Price]:
    """Use each tap alone every other step (the steps between tell what a step takes), beside a run without."""
    found = {}
    for name in TAPS:
        off, on = Arm(case, "off"), Arm(case, "light", taps=[name], every=2)
        steps = 2 if name == "curvature" else case.price_steps
        interleave((off, on), 2, 2)  # what the first uses cost is no price
        before, told_s = on.account()[name], on.tracer.physics.spent_s
        off.forget(), on.forget()
        interleave((off, on), case.price_rounds, steps)
        after = on.account()[name]
        uses = after["uses"] - before["uses"]
        if not uses:
            continue
        a_round = uses / case.price_rounds
        plain_s = statistics.median(off.cpu_s) / steps
        added = [(x - y) / a_round / plain_s for x, y in zip(on.cpu_s, off.cpu_s, strict=True)]
        stream = random.Random(0)
        medians = sorted(statistics.median(stream.choices(added, k=len(added))) for _ in range(500))
        # These two are in wall time, and so is what they are divided by.
        wall_s = uses * sum(off.wall_s) / case.price_rounds / steps
        account, clocked = after["cost_s"] - before["cost_s"], on.tracer.physics.spent_s - told_s
        found[name] = Price(account / wall_s, clocked / wall_s, statistics.median(added), medians[12], medians[487])
    return found


# What a run costs


@dataclass
class Cost:
    """What watching cost a run: shares of the time of its steps."""

    outside: tuple[float, float, float]
    wall: float
    account: float
    taps: dict[str, dict[str, Any]]


def cost_of(on: Arm, off: Arm, again: Arm) -> Cost:
    """Compare a run with two identical ones; ``account`` is that of the taps' calls and of recording."""
    wall_s = sum(between(off, again, "wall_s"))
    taps = on.account()
    for tap in taps.values():
        tap["taken"] = tap["cost_s"] / wall_s if tap["cost_s"] is not None else None
    outside = excess(on.cpu_s, between(off, again, "cpu_s"))
    return Cost(outside, sum(on.wall_s) / wall_s - 1, spent_s(on) / wall_s, taps)


def spent_s(arm: Arm) -> float:
    """Return what the instrument itself says the ledger has cost so far, as the run's table of overhead has it."""
    return arm.tracer.physics.spent_s + arm.tracer.optimizers.ledger_s


def running(name: str, *, long: bool) -> list[str]:
    """Measure what the levels cost a run from its first step on; return a line for each level.

    A ``long`` one goes on for all its rounds, and prints what each tap costs too.
    """
    case = CASES[name]
    off, again = Arm(case, "off"), Arm(case, "off")
    watched = {"light": Arm(case, "light"), "full": Arm(case, "full")}
    if long:
        watched["idle"] = Arm(case, "light", every=NEVER)
    arms = (off, *watched.values(), again)
    for arm in arms:
        arm.stretch(1)  # the idle run has its one use here, and the counter its passes
        arm.forget()
    before = {level: spent_s(arm) for level, arm in watched.items()}
    rounds = interleave(arms, case.rounds, case.steps, math.inf if long else BUDGET_S)
    plain, wall_s = between(off, again, "cpu_s"), sum(between(off, again, "wall_s"))
    size, steps = sum(p.numel() for p in off.model.parameters()), rounds * case.steps
    step_s = statistics.median(plain) / case.steps
    _, low, high = excess(off.cpu_s, again.cpu_s)
    lines = []
    costs = {level: cost_of(arm, off, again) for level, arm in watched.items()}
    for level, cost in costs.items():
        cost.account -= before[level] / wall_s
        middle, least, most = cost.outside
        lines.append(
            f"{name:<12}{level:<6}{size:>9.3g}{1e3 * step_s:>8.2f} ms{steps:>6}{100 * cost.account:>8.2f} %"
            f"{100 * middle:>8.2f} %  [{100 * least:+6.2f}, {100 * most:+6.2f}] %  "
            f"[{100 * low:+5.2f}, {100 * high:+5.2f}] %  {verdict(least, most) if level == 'light' else ''}"
        )
        print(lines[-1], flush=True)
    if long:
        told = prices(case) if name == "mlp" else {}
        # Round by round: what the first steps of the ledger cost is in few.
        idle = statistics.median(x / y - 1 for x, y in zip(watched["idle"].cpu_s, plain, strict=True))
        by_tap(costs["light"].taps, told)
        print(f"{'events alone':<12}{'':<73}{100 * idle:>7.2f} %")
        light = watched["light"]
        events_s, gradient_s = light.client.labels["physics"]["events_s"], light.tracer.optimizers.ledger_s
        print(f"passing events on: {100 * events_s / wall_s:.2f} %, gradient work: {100 * gradient_s / wall_s:.2f} %")
    return lines


def by_tap(taps: dict[str, dict[str, Any]], told: dict[str, Price]) -> None:
    """Print what each tap cost a run, and its price where that is ``told``; of one that was not used, why."""
    print(f"\n{'':<41}a use, in steps{'':<29}long run")
    print(
        f"{'tap':<12}{'uses':>5}{'cost':>10}{'share':>8}{'of':>6}   {'paid':>7}{'clocked':>8}{'outside':>8}  interval"
    )
    for tap, row in taps.items():
        if row["cost_s"] is None:
            print(f"{tap:<12}    –  {row['why']}"[:100])
            continue
        line = (
            f"{tap:<12}{row['uses']:>5}{1e3 * row['cost_s']:>7.1f} ms{100 * row['taken']:>6.2f} %"
            f"{100 * row['share']:>4.1f} %"
        )
        if (at := told.get(tap)) is not None:
            line += f"   {at.account:>7.2f}{at.clocked:>8.2f}{at.outside:>8.2f}  {f'[{at.low:.2f}, {at.high:.2f}]':<16}"
            line += f"{100 * at.outside / at.account * row['share']:>7.2f} %"
        print(line)
        if not row["uses"] and row["why"]:
            print(f"  {row['why']}")


def verdict(low: float, high: float) -> str:
    """Say of an interval whether it is within what is allowed."""
    return "holds" if high <= ALLOWED else "exceeded" if low > ALLOWED else "not resolved by this machine"


# Short runs, in a process of their own: what is imported and made ready at a first use is part of them


def short(name: str, steps: int) -> dict[str, Any]:
    """Return what the default level costs a run of so many steps, its end included."""
    case = CASES[name]
    warm = Arm(case, "off")
    warm.stretch(10)  # what torch itself makes ready
    off, again, light = Arm(case, "off"), Arm(case, "off"), Arm(case, "light")
    interleave((off, light, again), steps // 10, 10)
    end_s, plain_s = {}, sum(between(off, again, "cpu_s"))
    for level, arm in (("off", off), ("light", light)):
        arm.finish()
        end_s[level] = arm.end_s
    cost = cost_of(light, off, again)
    return {
        "steps": steps,
        "outside": cost.outside,
        "identical": excess(off.cpu_s, again.cpu_s)[1:],
        "account": cost.account,
        "end": (end_s["light"] - end_s["off"]) / plain_s,
        "taps": {tap: [row["uses"], row["taken"], row["share"]] for tap, row in cost.taps.items()},
    }


def shorts(runs: Sequence[tuple[str, int]]) -> None:
    """Print what it costs short runs, from the first step to what is done when they end."""
    print("\nshort runs, each in a process of its own; of each tap uses and share of the step time")
    print(f"{'run':<17}{'outside':>8}  interval        {'at end':>7}{'account':>9}   taps")
    for name, steps in runs:
        row = _apart("--short", name, str(steps))
        middle, low, high = row["outside"]
        print(
            f"{name + ' ' + str(steps):<17}{100 * middle:>6.1f} %  [{100 * low:+5.1f}, {100 * high:+5.1f}] %"
            f"{100 * row['end']:>6.1f} %{100 * row['account']:>7.1f} %   identical"
            f" [{100 * row['identical'][0]:+.1f}, {100 * row['identical'][1]:+.1f}] %"
        )
        for tap, (uses, taken, share) in row["taps"].items():
            if taken is not None:
                over = "  over" if taken > share else ""
                print(f"{'':<19}{tap:<13}{uses:>4} uses{100 * taken:>7.2f} % of {100 * share:.1f} %{over}")


# Memory


def memory(name: str, taps: Sequence[str] = TAPS) -> dict[str, dict[str, int]]:
    """Return, by tap used every other step, the bytes kept within and between steps, and the resident peak's rise."""
    case, found = CASES[name], {}
    plain = Arm(case, "off")
    plain.stretch(2)
    rise = _peak(lambda: plain.stretch(3))
    for tap in (*taps, ""):
        arm = Arm(case, "light", taps=[tap] if tap else None, every=2)
        arm.stretch(2)
        bytes_ = {"within": 0, "between": 0}

        def look(*_: Any, arm: Arm = arm, kept: dict[str, int] = bytes_) -> None:
            kept["within"] = max(kept["within"], held(arm.tracer.physics, scripts(arm)))

        handle = register_optimizer_step_post_hook(look)  # it comes before the tracer's: nothing is let go of yet
        for _ in range(2):
            arm.stretch(1)
            bytes_["between"] = max(bytes_["between"], held(arm.tracer.physics, scripts(arm)))
        handle.remove()
        bytes_["peak"] = _peak(lambda arm=arm: arm.stretch(3)) - rise
        found[tap or "light"] = bytes_
    found["light"]["model"] = sum(p.numel() * p.element_size() for p in plain.model.parameters())
    return found


def _peak(call: Callable[[], None]) -> int:
    """Return by how much the resident peak rises over what is resident before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def memories(names: Sequence[str], *, long: bool) -> None:
    """Print the memory of each tap, and check what the default level keeps against its rule."""
    if not names:
        return
    if not sys.platform.startswith("linux"):
        print("\nmemory: needs /proc")
        return
    print("\nmemory, MiB: tensors kept within and between steps, and the rise of the resident peak over none; all taps")
    print(f"used every other step, and each alone; the rule between steps: {100 * SHARE:.0f} % of the model or 4 MiB")
    print(f"{'':<14}" + "".join(f"{name:>28}" for name in names))
    print(f"{'':<14}" + f"{'within':>10}{'between':>9}{'peak':>9}" * len(names))
    taps = TAPS if long else ()
    rows = {name: _apart("--memory", name, *taps) for name in names}
    for tap in (*taps, "light"):
        cells = (rows[name][tap] for name in names)
        print(f"{tap:<14}" + "".join(f"{_mib(c['within'])}{_mib(c['between'], 9)}{_mib(c['peak'], 9)}" for c in cells))
    for name in names:
        light = rows[name]["light"]
        room = max(SHARE * light["model"], FLOOR_BYTES)
        assert light["between"] <= room, f"{name}: level light keeps {light['between']} bytes of {room:.0f} allowed"


def _mib(size: int, width: int = 10) -> str:
    return f"{size / 2**20:>{width}.2f}"


# All of it


def _apart(*arguments: str) -> Any:
    """Return what this file says in a process of its own, which gives back memory when it is let go of."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"} if "--memory" in arguments else None
    run = [sys.executable, "-m", "benchmarks.physics", *arguments]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main(names: Sequence[str] = ()) -> int:
    """Print the tables; return 1 where training was disturbed or more was kept than is allowed."""
    long = "--long" in names
    names = [name for name in names if name != "--long"] or list(CASES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print("The thermodynamic ledger: its cost as a share of the step time; one thread; the same bits in all runs")
        print(f"level light is to take at most {100 * ALLOWED:.0f} %\n")
        head = f"{'run':<12}{'level':<6}{'N':>9}{'step':>11}{'steps':>6}{'account':>10}{'outside':>10}"
        print(f"{head}  {'95 % interval':<19}identical runs")
        lines = []
        for name in names:
            lines += running(name, long=long)
            gc.collect()
        if long:
            print(f"\n{head}  {'95 % interval':<19}identical runs", *lines, sep="\n")
            shorts([run for run in SHORT if run[0] in names])
        memories([name for name in names if name == "transformer" or (long and name != "cnn")], long=long)
    except AssertionError as error:
        print(f"broken: {error}")
        return 1
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] in (["--short"], ["--memory"]):
        torch.set_num_threads(1)
        name, rest = sys.argv[2], sys.argv[3:]
        print(json.dumps(short(name, int(rest[0])) if sys.argv[1] == "--short" else memory(name, rest)))
    else:
        sys.exit(main(sys.argv[1:]))
