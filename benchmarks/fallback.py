"""How well the models that stand in for missing sensors predict: the CPU's on machines it has not seen, the memory's.

CPU: public load sweeps of three machines with RAPL (``../shared/data/cpu_load_rapl``) and a table of TDPs
(``../shared/data/hardware``). Power here is each row's ``rapl_energy`` over its ``duration``: the column ``rapl_power``
holds the row before's (shown below), so it pairs no load with its own power. Memory: published figures, listed in
``MODULE_W``, ``GB_W`` and their idle counterparts.

Run: ``python -m benchmarks fallback``. Exit status 1 if the constants of ``ergometry.sensors.cpu_model`` and
``memory_model`` are not those found here.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ergometry.sensors import cpu_model, memory_model
from ergometry.sensors.proc import Processors

Array = npt.NDArray[np.float64]
Check = tuple[str, float, float, float]

DATA = Path(__file__).resolve().parents[2] / "shared/data"

#: file prefix -> (cores, sockets, base clock in GHz, TDP of all sockets in W), from the makers' data sheets
MACHINES = {"AMD_Threadripper": (16, 1, 3.4, 180.0), "E3-1240": (4, 1, 3.4, 69.0), "E5-2620": (12, 2, 2.4, 170.0)}
CORES, _, BASE_GHZ, TDP_W = np.array(list(MACHINES.values())).T
SIZE = CORES * BASE_GHZ

#: upper ends of the bands of load in which errors are shown
BANDS = (0.06, 0.3, 0.6, 0.9, 1.01)

#: 90 % of a normal distribution lie within so many standard errors
Z90 = 1.645

#: W per memory module, as published or measured (source: figure)
MODULE_W = {
    "16 GB DDR4, added, idle, wall (GreenAlgorithms issue 14: 4 modules < 1.5 W)": 1.5 / 4,
    "4 GB DDR3, added, idle, wall (ChannelPartner, 2 Xeon L5520: 6 modules 5 W)": 5 / 6,
    "4 GB DDR4-2666, load (Tom's Hardware 2014)": 1.52,
    "8 GB DDR4-2133, load (Tom's Hardware 2014)": 2.98,
    "any, x86 (CodeCarbon 3, more than 16 modules: its lowest)": 3.5,
    "any, x86 (CodeCarbon 3)": 5.0,
    "4 GB DDR3, added, full load, wall (ChannelPartner: 6 modules 32 W)": 32 / 6,
}
IDLE_MODULE_W = {
    "16 GB DDR4 (GreenAlgorithms issue 14)": 1.5 / 4,
    "4 GB DDR3 (ChannelPartner)": 5 / 6,
    "16 GB (ENERGY STAR servers 3.0 draft 2, allowance of 0.125 W/GB)": 2.0,
}

#: W per GB of DDR4 and later
GB_W = {
    "added, idle, wall (GreenAlgorithms issue 14: 64 GB < 1.5 W)": 1.5 / 64,
    "64 GB modules (CodeCarbon 3: 5 W each)": 5 / 64,
    "idle allowance (ENERGY STAR servers 3.0, draft 2)": 0.125,
    "load (Green Algorithms, from Tom's Hardware 2014)": 0.3725,
    "load (CodeCarbon 2, from Crucial: 3 W per 8 GB)": 0.375,
    "load (Cloud Carbon Footprint)": 0.392,
}
IDLE_GB_W = {
    "wall (GreenAlgorithms issue 14)": 1.5 / 64,
    "allowance (ENERGY STAR servers 3.0, draft 2)": 0.125,
}


class Sweep(NamedTuple):
    """The rows of all machines: which machine, load (0 to 1), power (W) by energy, rapl_power (W), clock / base."""

    machine: npt.NDArray[np.int64]
    load: Array
    power_w: Array
    listed_w: Array
    clock: Array

    def base_clock(self) -> Sweep:
        """Return the rows as they are seen where no clock can be read."""
        return self._replace(clock=np.ones_like(self.clock))


def read_sweeps() -> Sweep:
    rows = []
    for number, name in enumerate(MACHINES):
        for file in sorted((DATA / "cpu_load_rapl").glob(f"{name}_*.csv")):
            with file.open() as lines:
                for row in csv.DictReader(lines):
                    power_w = 3.6e6 * float(row["rapl_energy"]) / float(row["duration"])  # kWh over s
                    clock = float(row["cpu_freq"]) / 1000 / BASE_GHZ[number]
                    rows.append((number, float(row["cpu_load"]) / 100, power_w, float(row["rapl_power"]), clock))
    number, load, power_w, listed_w, clock = np.array(rows).T
    return Sweep(number.astype(np.int64), load, power_w, listed_w, clock)


def shape(load: Array, clock: Array) -> Array:
    return np.asarray((1 - (1 - load) ** 2) * clock)


def fit(sweep: Sweep, rows: npt.NDArray[np.bool_], size: Array, power: float = 1.0) -> tuple[float, float, float]:
    """Return (idle share ι, κ, mean square) that minimise the mean square of log(power / model) over some rows.

    κ is in closed form, ι on a grid; what is dynamic goes with the clock to the given power.
    """
    iota = np.arange(0.01, 0.6, 0.0005)[:, None]
    dynamic = shape(sweep.load, sweep.clock**power)[rows]
    log_ratio = np.log((sweep.power_w / size[sweep.machine])[rows]) - np.log(iota + (1 - iota) * dynamic)
    best = int(np.argmin(log_ratio.var(axis=1)))
    return float(iota[best, 0]), float(np.exp(log_ratio[best].mean())), float(log_ratio[best].var())


def held_out(sweep: Sweep, size: Array, cap_w: Array) -> Array:
    """Return each row's prediction (W) from the two other machines; full power is κ · size, at most ``cap_w``."""
    predicted = np.empty_like(sweep.power_w)
    for number in range(len(MACHINES)):
        test = sweep.machine == number
        iota, kappa, _ = fit(sweep, ~test, size)
        full_w = min(kappa * size[number], cap_w[number])
        power_w = full_w * (iota + (1 - iota) * shape(sweep.load, sweep.clock))
        predicted[test] = np.minimum(power_w, cap_w[number])[test]
    return predicted


def rms_error(sweep: Sweep, predicted: Array) -> float:
    """Return the root mean square of (power - prediction) / prediction."""
    return float(np.sqrt(np.mean((sweep.power_w / predicted - 1) ** 2)))


def covered(sweep: Sweep, predicted: Array, rel_stderr: float) -> npt.NDArray[np.bool_]:
    """Say which rows lie within the 90 % interval of the prediction."""
    return np.asarray(np.abs(sweep.power_w - predicted) <= Z90 * rel_stderr * predicted)


def idle_rows(sweep: Sweep) -> npt.NDArray[np.bool_]:
    lowest = np.array([sweep.load[sweep.machine == i].min() for i in range(len(MACHINES))])
    return np.asarray(sweep.load <= lowest[sweep.machine] + 0.03)


def show(name: str, sweep: Sweep, predicted: Array) -> None:
    """Print one model's row of the table."""
    error, rms = np.abs(predicted / sweep.power_w - 1), rms_error(sweep, predicted)
    machines = [error[sweep.machine == i] for i in range(len(MACHINES))]
    cells = "".join(f"{np.median(e):>12.1%}" for e in machines)
    inside = np.mean(covered(sweep, predicted, rms))
    print(f"{name:<40}{np.median(error):>8.1%}{cells}{rms:>8.2f}{inside:>10.0%}")


def show_bands(sweep: Sweep, predictions: dict[str, Array]) -> None:
    print("\nthe same by load: median |error|, median error (rms) of each model")
    print(f"{'load':<14}{'rows':>6}" + "".join(f"{name:>32}" for name in predictions))
    low = 0.0
    for high in BANDS:
        rows = (sweep.load >= low) & (sweep.load < high)
        cells = ""
        for predicted in predictions.values():
            error = (predicted / sweep.power_w - 1)[rows]
            rms = np.sqrt(np.mean((sweep.power_w / predicted - 1)[rows] ** 2))
            cells += f"{np.median(np.abs(error)):>15.1%}{np.median(error):>+9.1%} ({rms:.2f})"
        print(f"{low:>5.0%} to {min(high, 1):<5.0%}{rows.sum():>6}{cells}")
        low = high


def show_choice(sweep: Sweep) -> None:
    print("\nthe clock's power in what is dynamic, as each fold's two machines fit: rms of log(power / model)")
    powers = (0.0, 0.5, 1.0, 2.0)
    print(f"{'left out':<20}" + "".join(f"{f'clock^{p:g}':>12}" for p in powers))
    for number, name in enumerate(MACHINES):
        rms = [np.sqrt(fit(sweep, sweep.machine != number, SIZE, power)[2]) for power in powers]
        print(f"{name:<20}" + "".join(f"{value:>12.3f}" for value in rms))


def tdp_per_core() -> dict[str, tuple[float, float]]:
    """Return size -> (median W per core, standard deviation of its log) of the table's parts."""
    with (DATA / "hardware/green_algorithms_TDP_cpu.csv").open() as lines:
        parts = [(r[0], float(r[1]), int(r[2])) for r in list(csv.reader(lines))[2:] if r[1]]
    server = [p for p in parts if p[0].startswith(("Xeon", "AMD ")) and "Phi" not in p[0]]
    chosen = {"many": [p for p in server if p[2] >= 16], "few": [p for p in parts if p[2] < 16]}
    logs = {size: np.log([watts / cores for _, watts, cores in ps]) for size, ps in chosen.items()}
    return {size: (float(np.exp(np.median(x))), float(x.std(ddof=1))) for size, x in logs.items()}


def cpu_checks() -> list[Check]:
    """Print the CPU model's errors; return its constants: name, found here, in the code, tolerance."""
    sweep = read_sweeps()
    plain = sweep.base_clock()
    same = sweep.machine[1:] == sweep.machine[:-1]
    lag = np.median(np.abs(sweep.listed_w[1:] / sweep.power_w[:-1] - 1)[same])
    print(f"column rapl_power against the row before's energy/duration: median difference {lag:.1%}\n")
    print(f"leave one machine out: median |error| of power, and coverage of 90 % intervals (±{Z90} rms)")
    names = "".join(f"{n[:10]:>12}" for n in MACHINES)
    print(f"{'full power in proportion to':<40}{'all':>8}{names}     rms  coverage")
    predictions = {"load": held_out(plain, SIZE, TDP_W), "load and clock": held_out(sweep, SIZE, TDP_W)}
    show("cores x base GHz, at most TDP", sweep, predictions["load"])
    show("the same, by the measured clock too", sweep, predictions["load and clock"])
    show("cores", sweep, held_out(plain, CORES, TDP_W))
    show("TDP", sweep, held_out(plain, TDP_W, TDP_W))
    show("(no fit: TDP x load)", sweep, np.maximum(sweep.load, 0.01) * TDP_W[sweep.machine])
    show("(no fit: half of TDP)", sweep, 0.5 * TDP_W[sweep.machine])
    show_bands(sweep, predictions)
    show_choice(sweep)

    machines = [Processors(n, 2 * int(m[0]), m[0], m[1], m[2], False) for n, m in MACHINES.items()]
    stated = [str(m[3] / m[1]) for m in MACHINES.values()]
    models = [cpu_model.model_power(cpu, watts) for cpu, watts in zip(machines, stated, strict=True)]
    in_code = np.array([models[i].power_w(load) for i, load in zip(sweep.machine, sweep.load, strict=True)])
    error = np.median(np.abs(in_code / sweep.power_w - 1))
    print(f"\nthe code's own model on the machines it was fitted on: median |error| {error:.1%}")

    iota, kappa, _ = fit(plain, plain.machine >= 0, SIZE)
    idle_rms = np.sqrt(np.mean((sweep.power_w / predictions["load"] - 1)[idle_rows(sweep)] ** 2))
    checks: list[Check] = [
        ("WATT_PER_CORE_GHZ", kappa, cpu_model.WATT_PER_CORE_GHZ, 0.005),
        ("IDLE_SHARE", iota, cpu_model.IDLE_SHARE, 0.0005),
        ("REL_STDERR", rms_error(sweep, predictions["load"]), cpu_model.REL_STDERR, 0.005),
        ("IDLE_REL_STDERR", float(idle_rms), cpu_model.IDLE_REL_STDERR, 0.005),
    ]
    for size, (watts, log_sd) in tdp_per_core().items():
        checks.append((f"TDP_W_PER_CORE[{size}]", watts, cpu_model.TDP_W_PER_CORE[size], 0.05))
        checks.append((f"TDP_LOG_SD[{size}]", log_sd, cpu_model.TDP_LOG_SD[size], 0.005))
    return checks


def span(figures: dict[str, float]) -> tuple[float, float]:
    """Return the middle of the figures, and the relative standard error whose 90 % interval spans them all."""
    low, high = min(figures.values()), max(figures.values())
    return (low + high) / 2, (high - low) / (high + low) / Z90


def memory_checks() -> list[Check]:
    """Print the published figures of the memory's power; return the model's constants as :func:`cpu_checks` does."""
    tables = {"MODULE": MODULE_W, "IDLE_MODULE": IDLE_MODULE_W, "GB": GB_W, "IDLE_GB": IDLE_GB_W}
    checks: list[Check] = []
    print("\nmemory, as published: W")
    for name, figures in tables.items():
        watts, rel_stderr = span(figures)
        print(f"  {name}: {watts:.3g} W ± {rel_stderr:.0%}: its 90 % interval spans")
        for source, value in figures.items():
            print(f"    {value:>7.3f}  {source}")
        coded = getattr(memory_model, name)
        checks.append((f"{name}.power_w", watts, coded.power_w, 0.005 * watts))
        checks.append((f"{name}.rel_stderr", rel_stderr, coded.rel_stderr, 0.005))
    return checks


def main() -> int:
    if not (DATA / "cpu_load_rapl").is_dir():
        print(f"skipped: the public load sweeps are not at {DATA / 'cpu_load_rapl'}")
        return 0
    wrong = 0
    checks = cpu_checks() + memory_checks()
    print(f"\n{'constant':<34}{'here':>10}{'in code':>10}")
    for name, value, coded, tolerance in checks:
        agrees = abs(value - coded) <= tolerance * 1.001
        wrong += not agrees
        print(f"{name:<34}{value:>10.4f}{coded:>10.4f}{'' if agrees else '  differs'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
