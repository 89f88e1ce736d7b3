"""Accounts: what a run spent and did, as estimates, before any equation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ergometry.core.estimate import Estimate
from ergometry.work.coefficients import Coefficients
from ergometry.work.coverage import Coverage
from ergometry.work.energy_model import EnergyModel
from ergometry.work.health import Board
from ergometry.work.meters import Metering
from ergometry.work.profiles import Item, Share


@dataclass(frozen=True)
class Accounts:
    """The books of one run.

    Attributes:
        total: energy of the run, J, over the domains that cover what is metered, nothing counted twice.
        by_component: J; static, compute, memory, communication, residual. They sum to ``total``, the residual closing.
        by_phase: J; data, forward, backward, optimizer, evaluation, other. They sum to ``total``.
        by_domain: J of every domain with a reading; these may overlap and are never added.
        seconds_by_phase: s, by host time; they sum to the run's duration.
        power: mean power, W.
        work: steps, examples, tokens, parameters, flops, bytes, communication_bytes, peak_memory_bytes.
        rates: step_s, power_w, flop_per_s, byte_per_s, mfu, hfu, j_per_step, j_per_example, j_per_token, j_per_flop,
            j_per_byte, intensity, compute_bound.
        loss: first, last, best (loss units).
        process: J of the total that this process tree caused, modelled; the rest is others' and the idle machine's.
        coverage: what of the total was measured, and what of the node it leaves out.
        boards: the state of each accelerator over the run.
        metered: the readings that make up the total.
        components_by_phase: J of each component in each phase; empty without a model. Over the phases they sum to
            ``by_component``, over the components to ``by_phase``, where both are known.
        calibration: of the device that trained; None without one that can be used.
        model: the calibration's coefficients, refined by the run; None where the run's work was not counted.
        items: what the run was seen to do, operator by operator and module by module.
        by_module: J, work and roofline seconds of each module; with ``by_op`` empty where it cannot be known.
        by_op: the same of each operator. Both sum to the device's joules of the phases in which work was counted.
        attribution_why: why ``by_module`` and ``by_op`` are empty; '' where they are not.
        attribution_remarks: what to know of the calibration before the split is trusted.
    """

    total: Estimate
    by_component: Mapping[str, Estimate]
    by_phase: Mapping[str, Estimate]
    by_domain: Mapping[str, Estimate]
    seconds_by_phase: Mapping[str, Estimate]
    power: Estimate
    work: Mapping[str, Estimate]
    rates: Mapping[str, Estimate]
    loss: Mapping[str, Estimate]
    process: Estimate
    coverage: Coverage
    boards: tuple[Board, ...]
    metered: Metering
    components_by_phase: Mapping[str, Mapping[str, Estimate]]
    calibration: Coefficients | None
    model: EnergyModel | None
    items: tuple[Item, ...]
    by_module: tuple[Share, ...]
    by_op: tuple[Share, ...]
    attribution_why: str
    attribution_remarks: tuple[str, ...]
