"""How well the modelled CPU power predicts a machine it has not seen: the fit, and its leave-one-machine-out error.

Data: public load sweeps of three machines with RAPL (``../shared/data/cpu_load_rapl``) and a table of TDPs
(``../shared/data/hardware``). Power here is each row's ``rapl_energy`` over its ``duration``: the column ``rapl_power``
holds the row before's (shown below), so it pairs no load with its own power.

Run: ``python benchmarks/cpu_model.py``. Exit status 1 if the constants of ``ergometry.sensors.cpu_model`` are not
the fit.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.sensors import cpu_model
from ergometry.sensors.proc import Processors

Array = npt.NDArray[np.float64]

DATA = Path(__file__).resolve().parents[2] / "shared/data"

#: file prefix -> (cores, sockets, base clock in GHz, TDP of all sockets in W), from the makers' data sheets
MACHINES = {"AMD_Threadripper": (16, 1, 3.4, 180.0), "E3-1240": (4, 1, 3.4, 69.0), "E5-2620": (12, 2, 2.4, 170.0)}


class Sweep(NamedTuple):
    """The rows of all machines: which machine, load (0 to 1), power (W) by energy, and the column rapl_power (W)."""

    machine: npt.NDArray[np.int64]
    load: Array
    power_w: Array
    listed_w: Array


def read_sweeps() -> Sweep:
    rows = []
    for number, name in enumerate(MACHINES):
        for file in sorted((DATA / "cpu_load_rapl").glob(f"{name}_*.csv")):
            with file.open() as lines:
                for row in csv.DictReader(lines):
                    power_w = 3.6e6 * float(row["rapl_energy"]) / float(row["duration"])  # kWh over s
                    rows.append((number, float(row["cpu_load"]) / 100, power_w, float(row["rapl_power"])))
    number, load, power_w, listed_w = np.array(rows).T
    return Sweep(number.astype(np.int64), load, power_w, listed_w)


def fit(load: Array, watts_per_unit: Array) -> tuple[float, float]:
    """Return (idle share ι, κ) that minimise the mean square of log(power / model): κ in closed form, ι on a grid."""
    iota = np.arange(0.01, 0.6, 0.0005)[:, None]
    log_ratio = np.log(watts_per_unit) - np.log(iota + (1 - iota) * (1 - (1 - load) ** 2))
    best = int(np.argmin(log_ratio.var(axis=1)))
    return float(iota[best, 0]), float(np.exp(log_ratio[best].mean()))


def held_out(sweep: Sweep, size: Array, cap_w: Array) -> Array:
    """Return each row's prediction (W) from the two other machines; full power is κ · size, at most ``cap_w``."""
    predicted = np.empty_like(sweep.power_w)
    for number in range(len(MACHINES)):
        test = sweep.machine == number
        iota, kappa = fit(sweep.load[~test], (sweep.power_w / size[sweep.machine])[~test])
        full_w = min(kappa * size[number], cap_w[number])
        predicted[test] = full_w * (iota + (1 - iota) * (1 - (1 - sweep.load[test]) ** 2))
    return predicted


def show(name: str, sweep: Sweep, predicted: Array) -> float:
    """Print one model's row of the table; return its rms error relative to the prediction."""
    error = np.abs(predicted / sweep.power_w - 1)
    rms = float(np.sqrt(np.mean((sweep.power_w / predicted - 1) ** 2)))
    inside = np.abs(sweep.power_w - predicted) <= 1.645 * rms * predicted
    machines = [error[sweep.machine == i] for i in range(len(MACHINES))]
    cells = "".join(f"{np.median(e):>12.1%}" for e in machines)
    print(f"{name:<34}{np.median(error):>8.1%}{cells}{rms:>8.2f}{np.mean(inside):>10.0%}")
    return rms


def tdp_per_core() -> dict[str, tuple[float, float]]:
    """Return size -> (median W per core, standard deviation of its log) of the table's parts."""
    with (DATA / "hardware/green_algorithms_TDP_cpu.csv").open() as lines:
        parts = [(r[0], float(r[1]), int(r[2])) for r in list(csv.reader(lines))[2:] if r[1]]
    server = [p for p in parts if p[0].startswith(("Xeon", "AMD ")) and "Phi" not in p[0]]
    chosen = {"many": [p for p in server if p[2] >= 16], "few": [p for p in parts if p[2] < 16]}
    logs = {size: np.log([watts / cores for _, watts, cores in ps]) for size, ps in chosen.items()}
    return {size: (float(np.exp(np.median(x))), float(x.std(ddof=1))) for size, x in logs.items()}


def main() -> int:
    if not (DATA / "cpu_load_rapl").is_dir():
        print(f"skipped: the public load sweeps are not at {DATA / 'cpu_load_rapl'}")
        return 0
    sweep = read_sweeps()
    cores, _, ghz, tdp_w = np.array(list(MACHINES.values())).T
    same = sweep.machine[1:] == sweep.machine[:-1]
    lag = np.median(np.abs(sweep.listed_w[1:] / sweep.power_w[:-1] - 1)[same])
    print(f"column rapl_power against the row before's energy/duration: median difference {lag:.1%}\n")

    print("leave one machine out: median |error| of power, and coverage of 90 % intervals (±1.645 rms)")
    print(
        f"{'full power in proportion to':<34}{'all':>8}"
        + "".join(f"{n[:10]:>12}" for n in MACHINES)
        + "     rms  coverage"
    )
    predicted = held_out(sweep, cores * ghz, tdp_w)
    rms = show("cores x base GHz, at most TDP", sweep, predicted)
    show("cores", sweep, held_out(sweep, cores, tdp_w))
    show("TDP", sweep, held_out(sweep, tdp_w, tdp_w))
    show("(no fit: TDP x load)", sweep, np.maximum(sweep.load, 0.01) * tdp_w[sweep.machine])
    show("(no fit: half of TDP)", sweep, 0.5 * tdp_w[sweep.machine])

    idle = np.array([sweep.load[sweep.machine == i].min() for i in range(len(MACHINES))])[sweep.machine]
    at_idle = sweep.load <= idle + 0.03
    idle_rms = float(np.sqrt(np.mean((sweep.power_w / predicted - 1)[at_idle] ** 2)))
    iota, kappa = fit(sweep.load, sweep.power_w / (cores * ghz)[sweep.machine])
    tdp = tdp_per_core()
    machines = [Processors(n, 2 * int(m[0]), m[0], m[1], m[2], False) for n, m in MACHINES.items()]
    stated = [str(m[3] / m[1]) for m in MACHINES.values()]
    models = [cpu_model.model_power(cpu, watts) for cpu, watts in zip(machines, stated, strict=True)]
    in_code = np.array([models[i].power_w(load) for i, load in zip(sweep.machine, sweep.load, strict=True)])
    print(f"\nthe code's own model on the machines it was fitted on: median |error| {_median(sweep, in_code):.1%}")

    checks = [
        ("WATT_PER_CORE_GHZ", kappa, cpu_model.WATT_PER_CORE_GHZ, 0.005),
        ("IDLE_SHARE", iota, cpu_model.IDLE_SHARE, 0.0005),
        ("REL_STDERR", rms, cpu_model.REL_STDERR, 0.005),
        ("IDLE_REL_STDERR", idle_rms, cpu_model.IDLE_REL_STDERR, 0.005),
        *((f"TDP_W_PER_CORE[{s}]", tdp[s][0], cpu_model.TDP_W_PER_CORE[s], 0.05) for s in tdp),
        *((f"TDP_LOG_SD[{s}]", tdp[s][1], cpu_model.TDP_LOG_SD[s], 0.005) for s in tdp),
    ]
    print(f"\n{'constant':<24}{'fit':>10}{'in code':>10}")
    wrong = 0
    for name, value, coded, tolerance in checks:
        agrees = abs(value - coded) <= tolerance * 1.001
        wrong += not agrees
        print(f"{name:<24}{value:>10.4f}{coded:>10.4f}{'' if agrees else '  differs'}")
    return 1 if wrong else 0


def _median(sweep: Sweep, predicted: Array) -> float:
    return float(np.median(np.abs(predicted / sweep.power_w - 1)))


if __name__ == "__main__":
    sys.exit(main())
