"""Section 2, power: the parts of the electrical power, and what arithmetic and memory traffic draw."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ergometry.core.estimate import Estimate, total
from ergometry.equations.priced import combined
from ergometry.equations.readings import Readings
from ergometry.equations.section import COUNTED, Real, Section, Symbol, Values, Verdict


def total_power(static: Real, compute: Real, memory: Real, communication: Real, residual: Real = 0.0) -> Real:
    """Total power, P, in W: the four parts and the residual that closes them on what was measured.

    As written, 2.1 has no static part and no residual: pass ``static=0``.

    Source: 2.1.

    >>> total_power(60.0, 200.0, 30.0, 5.0, residual=1.0)
    296.0
    """
    return static + compute + memory + communication + residual


def compute_power_as_written(step_rate: Real, parameters: Real, e_flop: Real, heat_per_op: Real = 0.0) -> Real:
    """Compute power by 2.2 as written: ν₀·N·(E_FLOP + T·ΔS_op); one operation per parameter and step.

    Too small by FLOP per step over N (6·B·n_tok of a dense transformer), and it counts the same heat twice: E_FLOP
    is all dissipated, T·ΔS_op with it.

    Source: 2.2.

    >>> compute_power_as_written(10.0, 1e9, 1e-12)
    0.01
    """
    return step_rate * parameters * (e_flop + heat_per_op)


def compute_power(step_rate: Real, flop_per_step: Real, e_flop: Real) -> Real:
    """Compute power, P_compute, in W: ν₀·FLOP_per_step·E_FLOP, the FLOP counted from the operations that ran.

    Source: 2.2, repaired.

    >>> print(f"{compute_power(10.0, 6e12, 1e-12):.1f}")
    60.0
    """
    return step_rate * flop_per_step * e_flop


def flop_energy(power_w: Real, flop_per_s: Real) -> Real:
    """Energy of one FLOP, E_FLOP, in J/flop: power over rate. All-in: static power and memory are in it.

    Source: 2.2; an H100 at its 700 W and its dense bf16 peak gives 0.71 pJ/FLOP.

    >>> print(f"{flop_energy(700.0, 989e12):.2e}")
    7.08e-13
    """
    return power_w / flop_per_s


def memory_power_as_written(access_rate: Real, parameters: Real, e_access: Real) -> Real:
    """Memory power by 2.3 as written: f_mem·N·E_access, with f_mem accesses per parameter and second.

    Source: 2.3.

    >>> memory_power_as_written(40.0, 1e9, 1e-10)
    4.0
    """
    return access_rate * parameters * e_access


def memory_power(step_rate: Real, bytes_per_step: Real, e_byte: Real) -> Real:
    """Memory power, P_memory, in W: ν₀·bytes_per_step·E_byte.

    Source: 2.3, repaired.

    >>> print(f"{memory_power(10.0, 1e10, 1e-10):.1f}")
    10.0
    """
    return step_rate * bytes_per_step * e_byte


class MemoryEnergy(NamedTuple):
    """Memory's share of the energy of a step: ``per_step`` of e0d, J/step, and ``per_example`` of e1d, J/example."""

    per_step: Real
    per_example: Real


def memory_energy(
    update_bytes: Real, weight_bytes: Real, activation_bytes: Real, e_byte: Real, micro_batch: Real | None = None
) -> MemoryEnergy:
    """Memory's shares of the dynamic energy per step and per example.

    Args:
        update_bytes: once a step: optimizer state, the update.
        weight_bytes: once a pass: weights read, gradients written.
        activation_bytes: per example.
        e_byte: J/byte.
        micro_batch: examples per pass under accumulation: the weights are read again for every one of them, so that
            their traffic is per example. None: one pass a step.

    Source: 2.3, repaired.

    >>> memory_energy(100.0, 40.0, 3.0, 1.0, micro_batch=8.0)
    MemoryEnergy(per_step=100.0, per_example=8.0)
    """
    if micro_batch is None:
        return MemoryEnergy((update_bytes + weight_bytes) * e_byte, activation_bytes * e_byte)
    return MemoryEnergy(update_bytes * e_byte, (activation_bytes + weight_bytes / micro_batch) * e_byte)


SECTIONS = (
    Section(
        id="2.1",
        title="Power and its parts",
        as_written="P(t) = dW/dt = P_compute + P_memory + P_communication",
        symbols=(
            Symbol("P", "W", "electrical power"),
            Symbol("W", "J", "energy drawn since the start"),
            Symbol("P_compute", "W", "arithmetic"),
            Symbol("P_memory", "W", "memory traffic"),
            Symbol("P_communication", "W", "traffic between devices"),
        ),
        verdict=Verdict.EXACT,
        why="exact once P_static is added: idle silicon, fans and memory refresh draw power that no operation causes; "
        "of BLOOM's published GPU and idle energy 37 % was idle",
        repair="P = P_static + P_compute + P_memory + P_communication + residual, equal to what was measured, the "
        "residual shown",
        as_written_names={"P_sum": "W", "P_compute": "W", "P_memory": "W", "P_communication": "W"},
        repair_names={"P_static": "W", "P_residual": "W", "P_measured": "W"},
        tells="which part to attack: a large static part asks for a faster run, a large residual for a calibration",
        estimator="E8",
        references=("BLOOM (2211.02001)",),
    ),
    Section(
        id="2.2",
        title="Compute power",
        as_written="P_compute = ν₀ N (E_FLOP + T ΔS_op)",
        symbols=(
            Symbol("ν₀", "step/s", "steps per second"),
            Symbol("N", "parameter", "parameters"),
            Symbol("E_FLOP", "J/flop", "energy of one floating-point operation"),
            Symbol("T", "K", "temperature"),
            Symbol("ΔS_op", "J/(K*flop)", "entropy made by one operation"),
        ),
        verdict=Verdict.MODEL,
        why="short by the FLOP per parameter and step, 6·B·n_tok for a dense transformer; the entropic term counts the "
        "same heat twice, and is about 1e-19 J against about 1e-12",
        repair="P_compute = ν₀ · FLOP_per_step · E_FLOP[dtype], FLOP counted from the operations that ran",
        as_written_names={"P_compute": "W"},
        repair_names={
            "P_counted": "W",
            "nu_0": "step/s",
            "flop_per_step": "flop/step",
            "shortfall": "flop/parameter/step",
        },
        needs={"P_compute": COUNTED, "P_counted": COUNTED},
        estimator="E8; FLOP counted from the operators that ran",
        tells="how far the formula as written falls short (shortfall), and the rate of arithmetic that the power buys",
        references=("Kaplan 2020 (2001.08361)",),
    ),
    Section(
        id="2.3",
        title="Memory power",
        as_written="P_memory = f_mem N E_access",
        symbols=(
            Symbol("f_mem", "1/s", "accesses per parameter and second"),
            Symbol("N", "parameter", "parameters"),
            Symbol("E_access", "J/parameter", "energy of one access to one parameter"),
        ),
        verdict=Verdict.MODEL,
        why="right in shape; energy goes with bytes, not with accesses, and activations move too",
        repair="P_memory = ν₀ · bytes_per_step · E_byte, the part ∝ N (weights, gradients, optimizer state: in e0d) "
        "and the part ∝ B (activations: in e1d) kept apart; under accumulation the weights are read for every "
        "micro-batch, which belongs to e1d",
        as_written_names={"P_memory": "W"},
        repair_names={
            "P_bytes": "W",
            "bytes_per_step": "byte/step",
            "e0d_memory": "J/step",
            "e1d_memory": "J/example",
        },
        needs={"P_memory": COUNTED, "P_bytes": COUNTED, "e0d_memory": COUNTED, "e1d_memory": COUNTED},
        tells="whether moving data, not arithmetic, is what the energy buys",
        estimator="E8; bytes counted from the operators that ran",
        references=("Williams, Waterman & Patterson 2009 (the roofline model)",),
    ),
)


def live(readings: Readings) -> Values:
    """Return what a run can say of this section now."""
    part = readings.component_power
    compute, memory, communication = part("compute"), part("memory"), part("communication")
    steps = readings.accounts.work["steps"]
    flop_per_step = readings.accounts.work["flops"] / steps
    priced = _priced(readings)
    return {
        "2.1": {
            "P_sum": replace(total([compute, memory, communication]), method="P_compute + P_memory + P_communication"),
            "P_compute": compute,
            "P_memory": memory,
            "P_communication": communication,
            "P_static": part("static"),
            "P_residual": part("residual"),
            "P_measured": readings.accounts.total / readings.duration,
        },
        "2.2": {
            "nu_0": readings.step_rate,
            "flop_per_step": flop_per_step,
            "shortfall": flop_per_step / readings.accounts.work["parameters"],
            **priced.get("2.2", {}),
        },
        "2.3": {"bytes_per_step": readings.accounts.work["bytes"] / steps, **priced.get("2.3", {})},
    }


def _priced(readings: Readings) -> dict[str, dict[str, Estimate]]:
    """Return the powers of a run whose work has a price; none without."""
    priced, rate, parameters = readings.priced, readings.step_rate, readings.accounts.work["parameters"]
    if priced is None:
        return {}
    written = combined(compute_power_as_written, [rate, parameters, priced.e_flop], "W", "ν₀ N E_FLOP, without T ΔS_op")
    counted = combined(compute_power, [rate, priced.flop_per_step, priced.e_flop], "W", "ν₀ FLOP_per_step E_FLOP")
    accesses = combined(
        memory_power, [rate, priced.parameter_bytes, priced.e_byte], "W", "the traffic of parameters alone"
    )
    moved = combined(memory_power, [rate, priced.bytes_per_step, priced.e_byte], "W", "ν₀ bytes_per_step E_byte")
    parts = {"e0d_memory": priced.e0d_memory, "e1d_memory": priced.e1d_memory}
    found = {
        "2.2": {"P_compute": written, "P_counted": counted},
        "2.3": {"P_memory": accesses, "P_bytes": moved, **parts},
    }
    return {section: {name: q for name, q in each.items() if q.known} for section, each in found.items()}
