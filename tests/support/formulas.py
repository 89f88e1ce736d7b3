"""Every public formula of ``ergometry.equations`` with arguments that it may have, and the units of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ergometry import equations as eq


@dataclass(frozen=True)
class Sample:
    """Arguments of a formula as (value, unit), the unit of its value, and of which kind the arguments are.

    ``unit`` is that of the value as it comes out; of a formula as written, of which the catalogue may claim another.
    A list is an argument that the formula sums over (or otherwise reduces): all others broadcast.
    """

    arguments: tuple[tuple[float | list[Any], str], ...]
    unit: str

    @property
    def values(self) -> list[Any]:
        """The bare arguments: floats, and float64 arrays for lists."""
        return [np.array(value) if isinstance(value, list) else value for value, _ in self.arguments]

    @property
    def units(self) -> list[str]:
        """The arguments' units."""
        return [unit for _, unit in self.arguments]

    @property
    def elementwise(self) -> bool:
        """Whether every argument broadcasts."""
        return not any(isinstance(value, list) for value, _ in self.arguments)


def _sample(unit: str, *arguments: tuple[float | list[Any], str]) -> Sample:
    return Sample(arguments, unit)


RATE, BATCH, CRITICAL = (10.0, "step/s"), (32.0, "example/step"), (100.0, "example/step")
POWER, STATIC, COUNT, E_FLOP = (300.0, "W"), (60.0, "W"), (1e6, "parameter"), (1e-12, "J/flop")
E0D, E1D, TAU0, TAU1 = (2.0, "J/step"), (0.1, "J/example"), (0.02, "s/step"), (0.001, "s/example")
PER_JOULE, ROOM, ETA, NONE = (5.0, "nat/J"), (300.0, "K"), (0.1, "1/loss"), ""
GRADIENTS = [[0.4, -1.0, 2.0], [0.1, 0.3, -0.2]]
NEXT = [[0.3, -0.7, 1.5], [0.2, 0.1, -0.4]]
MOVES = [[-0.1, 0.2, -0.3], [0.05, -0.1, 0.02]]
RATES = [[0.1], [0.3]]

SAMPLES: dict[str, Sample] = {
    # 1
    "landauer_energy": _sample("J/bit", ROOM),
    "useful_work": _sample("J", (1e6, "nat"), ROOM),
    "dissipated_work": _sample("J", (9.0, "J"), (2.5, "J")),
    "gradient_flow_work": _sample("loss", ETA, (2.0, "loss^2")),
    "displacement_work": _sample("loss", (GRADIENTS, "loss"), (MOVES, NONE), (NEXT, "loss")),
    "trap_drag_work": _sample(NONE, (2.0, NONE), (10.0, NONE)),
    "trap_optimal_work": _sample(NONE, (2.0, NONE), (10.0, NONE)),
    "trap_drag_heat": _sample(NONE, (2.0, NONE), (10.0, NONE)),
    # 2
    "total_power": _sample("W", STATIC, (200.0, "W"), (30.0, "W"), (5.0, "W"), (-1.0, "W")),
    "compute_power_as_written": _sample("parameter*step*J/(flop*s)", RATE, COUNT, E_FLOP, (3e-21, "J/flop")),
    "compute_power": _sample("W", RATE, (1e9, "flop/step"), E_FLOP),
    "flop_energy": _sample("J/flop", POWER, (1e14, "flop/s")),
    "memory_power_as_written": _sample("W", (4.0, "1/s"), COUNT, (1e-9, "J/parameter")),
    "memory_power": _sample("W", RATE, (1e6, "byte/step"), (1e-10, "J/byte")),
    # 3
    "thermodynamic_efficiency": _sample(NONE, (1.0, "J"), (4.0, "J")),
    "certified_efficiency": _sample(NONE, (0.3, "nat"), (0.4, "nat"), (0.2, "nat")),
    "power_efficiency": _sample("nat/J", (1e6, "nat"), POWER, (60.0, "s")),
    "quench_information": _sample(NONE, (1.5, NONE), (0.7, NONE)),
    "quench_heat": _sample(NONE, (1.5, NONE), (0.7, NONE)),
    "quench_efficiency": _sample(NONE, (1.5, NONE), (0.7, NONE)),
    "hebbian_accuracy": _sample(NONE, (0.8, NONE), (1.3, NONE)),
    "hebbian_efficiency": _sample(NONE, (0.8, NONE), (1.3, NONE)),
    # 4: an exponent or a logarithm holds the number of nats
    "excess_loss_as_written": _sample("loss", (0.3, "loss"), (2.0, "loss"), (5.0, "loss")),
    "least_squared_error": _sample(NONE, (1.2, NONE), (3.0, NONE), (2.0, NONE)),
    "least_excess_loss": _sample("loss", (1.2, NONE), (2.0, NONE), ([0.5, 1.0, 4.0], "loss")),
    "stationary_loss_floor": _sample("loss", ETA, (9.0, "loss^2*example/step"), BATCH, (0.9, NONE)),
    "stationary_variance": _sample(NONE, ETA, (1.5, "loss"), (0.4, "loss^2"), (0.5, NONE)),
    "optimal_work_as_written": _sample("loss", (0.3, "loss/nat"), (2.0, "nat"), (0.1, NONE)),
    "path_cost": _sample("loss", (MOVES, NONE), (RATES, "1/loss")),
    "least_path_cost": _sample("loss", (MOVES, NONE), (RATES, "1/loss")),
    "least_entropy_production": _sample("loss", (1.6, NONE), (10.0, "s"), (0.7, "loss*s")),
    "path_optimality": _sample(NONE, (2.7, "loss"), (3.0, "loss")),
    "friction_work": _sample("loss", (2.0, "loss*s"), (10.0, "s")),
    # 5
    "max_step_rate_as_written": _sample("flop/(parameter*s)", POWER, COUNT, E_FLOP),
    "step_time": _sample("s/step", BATCH, TAU0, TAU1),
    "max_step_rate": _sample("step/s", POWER, BATCH, E0D, E1D, TAU0, TAU1),
    "least_time_as_written": _sample("s", (1e12, "bit"), POWER, ROOM),
    "least_time": _sample("s", (1.6, NONE), (0.17, "loss"), (0.7, "loss*s")),
    "quench_speed_ratio": _sample(NONE, (0.7, NONE)),
    "energy_optimal_power": _sample("W", STATIC, (2.7, NONE)),
    # 6
    "optimal_batch_as_written": _sample("nat^0.5/step^0.5", (1e4, "J"), PER_JOULE, RATE, (60.0, "s")),
    "steps_to_target": _sample("step", BATCH, (1e3, "step"), CRITICAL),
    "optimal_batch": _sample("example/step", CRITICAL, E0D, E1D),
    "least_energy": _sample("J", (1e3, "step"), CRITICAL, E0D, E1D),
    "roofline_energy": _sample("J/step", BATCH, CRITICAL, E0D, E1D, STATIC, TAU0, TAU1),
    "roofline_batch": _sample("example/step", CRITICAL, E0D, E1D, STATIC, TAU0, TAU1),
    "max_throughput_as_written": _sample("flop/(parameter*s)", POWER, COUNT, E_FLOP),
    "max_throughput": _sample("example/s", POWER, RATE, E0D, E1D),
    "least_power_as_written": _sample("W", (1e12, "bit"), (3600.0, "s"), ROOM),
    "least_mean_power": _sample("W", ([10.0, 20.0, 30.0], "s"), ([100.0, 80.0, 90.0], "J"), (25.0, "s")),
    # 7
    "gradient_path": _sample("loss", (GRADIENTS, "loss"), (MOVES, NONE), (NEXT, "loss")),
    "alignment": _sample(NONE, (1.0, "loss"), (4.0, "loss")),
    "heat_as_written": _sample("loss", (3.0, "loss"), (1.0, "loss")),
    "heat": _sample("loss", (3.0, "loss"), (2.5, "loss")),
    # 8
    "power_schedule": _sample("W", (0.4, NONE), POWER, (0.5, NONE)),
    "schedule_speed_factor": _sample(NONE, (0.4, NONE)),
    "anytime_exponent": _sample(NONE, (0.4, NONE)),
    "curvature_batch": _sample("example/step", (9.0, "loss^3*example/step"), (3.0, "loss^3")),
    "learning_rate_power_as_written": _sample("J/(loss^2*parameter*step)", POWER, RATE, COUNT, (2.0, "loss^2")),
    "optimal_learning_rate": _sample("1/loss", (2.0, "loss^2"), (3.0, "loss^3"), (9.0, "loss^3*example/step"), BATCH),
    "stability_limit": _sample("1/loss", (1.5, "loss"), (0.9, NONE)),
    "efficient_batch_as_written": _sample("(nat*flop/(J*step))^0.5", POWER, PER_JOULE, RATE, E_FLOP),
    "latency_bound_batch": _sample("example/step", STATIC, CRITICAL, RATE, E1D),
    # 9
    "information_as_written": _sample("bit", (1e-9, "J"), ROOM),
    "largest_information": _sample("nat", (0.4, "nat"), (0.2, "nat")),
    "drag_information": _sample(NONE, (2.0, NONE), (10.0, NONE), (4.0, NONE)),
    "drag_information_rate": _sample(NONE, (2.0, NONE), (10.0, NONE), (4.0, NONE)),
    "drag_power": _sample(NONE, (2.0, NONE), (10.0, NONE), (4.0, NONE)),
    "quench_information_rate": _sample(NONE, (1.5, NONE), (0.7, NONE)),
    "quench_heat_rate": _sample(NONE, (1.5, NONE), (0.7, NONE)),
    "logarithmic_allocation": _sample("J", ([1.0, 3.0, 0.5], "nat"), (8.0, "J")),
    "returns_inequality": _sample(NONE, ([1.0, 3.0, 2.0], "nat"), ([2.0, 1.0, 5.0], "J")),
    # information: losses are numbers of nats, beside ln C
    "prequential_gain": _sample("example", ([2.0, 1.5, 1.1], NONE), ([32.0, 32.0, 20.0], "example"), (10.0, NONE)),
}

NOT_FORMULAS = {"BOLTZMANN", "MemoryEnergy", "entries", "memory_energy"}
"""Public names that are no function of numbers to one number; ``memory_energy`` gives two."""

FORMULAS = {name: getattr(eq, name) for name in SAMPLES}
