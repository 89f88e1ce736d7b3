"""Readings: what the equations read of a run, each quantity read once and shared by the sections."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance, total
from ergometry.core.run import Run
from ergometry.core.series import CURVATURE, LOSSES
from ergometry.equations.points import Point, read_points
from ergometry.equations.priced import Priced, combined, read_priced
from ergometry.estimators.codelength import read_information
from ergometry.estimators.curvature import Curvature, read_curvature
from ergometry.estimators.displacement import GradientWork, read_gradient_work, read_module_work, read_unbiased_work
from ergometry.estimators.equilibration import Equilibration, read_equilibration
from ergometry.estimators.first_law import FirstLaw, read_first_law, standing_in
from ergometry.estimators.information import Information, read_logdet
from ergometry.estimators.noise_scale import NoiseScale, read_noise
from ergometry.estimators.path_cost import PathCost, read_path
from ergometry.estimators.path_length import Length, read_length
from ergometry.estimators.temperatures import Temperatures, read_temperatures
from ergometry.work.accounts import Accounts

BIN_S = 1.0
"""Width of the bins whose largest mean power is taken as P_max, s."""

_BLOCK = 1 << 16

STAND_IN_LOG_SD = math.log(3.0)
"""Standard deviation of ln(B_c/B_noise): the noise scale is a guess at the critical batch size, not a measurement."""

_STAND_IN = "B_noise is a guess at B_c, right to a factor 3 (one standard deviation), which the error holds"


@dataclass(frozen=True)
class Readings:
    """What a run offers to the equations.

    Attributes:
        accounts: the run's books, in joules and counts.
        duration: wall time of the run, s.
        step_rate: ν₀ over the whole run, step/s, evaluation and idle time included.
        peak_power: P_max, W.
        information: I, nat: the prequential codelength gain (E7 ii), else ½logdet of the whole model (E7 i).
        logdet: ½logdet(1 + F/λ) of the whole model and of its modules, nat.
        priced: what the work of a step costs; None without a calibration and counted work.
        gradient: sums over the optimizer's steps, loss units.
        module_work: displacement work of each module, loss units.
        unbiased_work: Σ η|G|², loss units.
        first_law: ΣQ, ΣW and ΔU, loss units; E2 stands in where nothing was replayed.
        loss_change: last minus first loss, loss units.
        noise: |G|², trΣ and B_noise.
        temperatures: of the minibatch noise, virial and configurational, loss/nat.
        equilibration: the two sides of the fluctuation–dissipation relation.
        length: of the path of a probe batch's outputs.
        path: cost of the parameters' path, and the least between its ends.
        curvature: of the loss, as last looked at.
        points: speed and power of the steps under each power limit.
    """

    accounts: Accounts
    duration: Estimate
    step_rate: Estimate
    peak_power: Estimate
    information: Estimate
    logdet: Information
    priced: Priced | None
    gradient: GradientWork
    module_work: Mapping[str, Estimate]
    unbiased_work: Estimate
    first_law: FirstLaw
    loss_change: Estimate
    noise: NoiseScale
    temperatures: Temperatures
    equilibration: Equilibration
    length: Length
    path: PathCost
    curvature: Curvature
    points: tuple[Point, ...]

    def component_power(self, component: str) -> Estimate:
        """Return the mean power of one component, W."""
        return self.accounts.by_component[component] / self.duration

    def from_information(self, found: Estimate, method: str) -> Estimate:
        """Return what was computed from the information, pointing to 1.2 for what was inferred to have it."""
        if found.value is None:
            return found
        negative = "negative, as the information is; " if (self.information.value or 0.0) < 0 else ""
        why = f"{negative}the information is inferred: see information_nat in 1.2"
        return replace(found, method=f"{method}, I: {self.information.method}", why=why)

    @property
    def energy_change(self) -> Estimate:
        """ΔU of the first law, loss: of the same steps as its ΣW and ΣQ where there are any, else last less first."""
        change = self.first_law.energy_change
        return change if change.known else self.loss_change

    @property
    def batch(self) -> Estimate:
        """B, examples per step."""
        return self.accounts.work["examples"] / self.accounts.work["steps"]

    @property
    def critical_batch(self) -> Estimate:
        """B_c, example/step: B_noise stands in for it, true to a factor 3 (one standard deviation of the log)."""
        found = combined(np.exp, [self.log_critical_batch], "example/step", "B_noise stands in for B_c")
        return replace(found, why=_STAND_IN) if found.known else found

    @property
    def log_critical_batch(self) -> Estimate:
        """Ln B_c, with the spread of B_c about B_noise and the error of B_noise in its ``stderr``."""
        noise = self.noise.b_noise
        if noise.value is None or not noise.value > 0:
            why = noise.why if noise.value is None else f"needs a positive B_noise: it is {noise.value:.3g}"
            return Estimate.unknown("", f"needs B_c, for which B_noise stands in: {why}")
        stderr = math.hypot(STAND_IN_LOG_SD, (noise.stderr or 0.0) / noise.value)
        return Estimate(math.log(noise.value), stderr, "", Provenance.MODELLED, noise.method)

    def by_critical_batch(
        self, formula: Callable[..., object], inputs: Sequence[Estimate], unit: str, method: str
    ) -> Estimate:
        """Return what a formula gives for B_c, its first argument, and other inputs, with B_noise for B_c."""
        found = combined(
            lambda log, *rest: formula(np.exp(log), *rest), [self.log_critical_batch, *inputs], unit, method
        )
        if not found.known:
            return found
        return replace(found, method=f"{method}, B_noise for B_c", why=_STAND_IN)


def read(run: Run, accounts: Accounts) -> Readings:
    """Return what the equations read of a run."""
    duration = Estimate(run.duration_s, 0.0, "s", Provenance.MEASURED, "monotonic clock")
    noise, gradient, logdet = read_noise(run), read_gradient_work(run), read_logdet(run)
    information = read_information(run)
    return Readings(
        accounts=accounts,
        duration=duration,
        step_rate=accounts.work["steps"] / duration,
        peak_power=read_peak_power(run, accounts),
        information=logdet.whole if information.value is None and logdet.whole.known else information,
        logdet=logdet,
        priced=read_priced(run, accounts),
        gradient=gradient,
        module_work=read_module_work(run),
        unbiased_work=read_unbiased_work(run),
        first_law=standing_in(read_first_law(run), gradient),
        loss_change=_loss_change(run),
        noise=noise,
        temperatures=read_temperatures(run),
        equilibration=read_equilibration(run),
        length=read_length(run),
        path=read_path(run),
        curvature=read_curvature(run, _grad_sq_then(run)),
        points=read_points(run, accounts),
    )


def read_peak_power(run: Run, accounts: Accounts) -> Estimate:
    """Largest mean power over a whole one-second bin, P_max, in W; of a run too short for two bins, its mean power.

    A largest of many noisy values is biased upward by about their noise; ``stderr`` is that of the one bin.
    """
    traces = list(accounts.metered.cover().values())
    if not traces or not run.duration_s >= 2 * BIN_S:
        return replace(
            accounts.power, why=accounts.power.why or "the run's mean power: it is too short for bins of 1 s"
        )
    bins = int(run.duration_s // BIN_S)
    highest_w, top = -np.inf, 0
    for first in range(0, bins, _BLOCK):
        # In blocks: a run of weeks has millions of bins.
        edges = BIN_S * np.arange(first, min(first + _BLOCK, bins) + 1)
        power_w = np.sum([trace.power_w(edges) for trace in traces], axis=0)
        if power_w.max() > highest_w:
            highest_w, top = power_w.max(), first + int(np.argmax(power_w))
    joules = total(trace.energy(top * BIN_S, (top + 1) * BIN_S) for trace in traces)
    seconds = Estimate(BIN_S, 0.0, "s", Provenance.MEASURED)
    return replace(joules / seconds, method=joules.method, why="taken as the largest mean power over one second")


def _grad_sq_then(run: Run) -> Estimate | None:
    """Return the unbiased |G|² of the run's last tenth before the curvature was last looked at.

    Both must be of one moment: |G|² falls as the run goes on. None where the curvature's own row is free of the
    batch's noise and has it.
    """
    table = run.table(CURVATURE)
    looked = table.rows[np.isfinite(table["along_gradient"])] if len(table) else table.rows
    if not len(looked) or math.isfinite(looked[-1, table.columns.index("noise_trace")]):
        return None
    at = float(looked[-1, 0])
    return read_noise(run, within=(0.9 * at, at)).grad_sq


def _loss_change(run: Run) -> Estimate:
    losses = run.table(LOSSES)["loss"]
    finite = losses[np.isfinite(losses)]
    if len(finite) < 2:
        return Estimate.unknown("loss", "needs two steps with a finite loss")
    why = "between the first and the last batch, whose own noise is in it and is not known"
    return Estimate(float(finite[-1] - finite[0]), None, "loss", Provenance.MEASURED, "minibatch losses", why)
