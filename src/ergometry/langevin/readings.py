"""Readings: the quantities of one run of an ensemble, each with its error, its unit and what it is.

All are found on the same blocks of replicas (:mod:`ergometry.langevin.statistics`), so that an error takes account of
what its terms share. ``_most`` is an upper bound and ``_least`` a lower one: where a network's entropy cannot be had, a
bound that keeps the theorem stands for it, and ``method`` says which. The derivations are in docs/certified.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.equations.efficiency import certified_efficiency
from ergometry.equations.information import largest_information
from ergometry.equations.power_speed import least_time
from ergometry.equations.work_loss import excess_loss_as_written, least_entropy_production, least_excess_loss
from ergometry.langevin.statistics import (
    Array,
    Blocks,
    Jackknife,
    bennett,
    contrast,
    cross_entropy,
    jarzynski,
    squared_mean,
)

if TYPE_CHECKING:
    from ergometry.langevin.outcome import Outcome

ENOUGH_PATHS = 8
"""Paths of one data set below which Jarzynski's average over them says nothing."""

NOT_CERTIFIED = "not certified: the noise of minibatches is no heat bath; leave batch= out"

_OF_ANY_PATH = (
    *("W", "Q_first_law", "delta_U", "first_law_residual"),
    *("loss_first", "loss_last", "eta_lambda_max"),
)

_FEW_SETS = "needs an ensemble: I(θ; D) is an average over data sets, of which data= can list three or more"


def summary(outcome: Outcome) -> dict[str, Estimate]:
    """Return every quantity of a run, name -> estimate."""
    r = _Readings(outcome)
    found = r.first_law() | r.free_energy() | r.information() | r.speed() | r.excess_loss()
    return found if outcome.noise_trace is None else _uncertified(r, found, outcome.noise_trace)


def _uncertified(r: _Readings, found: dict[str, Estimate], noise_trace: Array) -> dict[str, Estimate]:
    """Return what is left of the quantities on minibatches: the first law, which is exact; and the temperature."""
    s, trace = r.s, r.blocks.mean(noise_trace)
    left = {
        name: replace(q, why=NOT_CERTIFIED) if name in _OF_ANY_PATH else Estimate.unknown(q.unit, NOT_CERTIFIED)
        for name, q in found.items()
    }
    added = trace * (s.learning_rate * s.controls[-1] ** 2 / (2.0 * (s.batch or 1) * len(s.std)))
    method = "T + η·λ²·trΣ/(2BN), mean over directions"
    return left | {
        "trace_cov": _known(trace, "loss^2*example/step", "trΣ of single examples at the end", why=NOT_CERTIFIED),
        "temperature": _known(added + s.temperature, "loss/nat", method, why=NOT_CERTIFIED),
    }


def by_section(outcome: Outcome) -> dict[str, dict[str, Estimate]]:
    """Return the quantities that the catalogue of equations names: section id -> name -> estimate, in its units.

    The catalogue's times are in seconds: a time of the motion, η·steps, is turned into them at this run's seconds per
    step.
    """
    q, s = summary(outcome), outcome.setting
    first_law = {"W_first_law": q["W"], "Q_first_law": q["Q_first_law"], "delta_U": q["delta_U"]}
    if s.batch is not None:
        return {"1.1": first_law, "7.2": first_law}
    seconds = s.seconds_per_step * len(s.controls)
    rate = replace(q["information_most"] * (1.0 / seconds), unit="nat/s", method="(ΔS + Q/T)/t, mean over the run")
    limit = replace(q["time_least"] * (seconds / s.time), unit="s", method="W₂²/(T·ΔS_tot), in this run's seconds")
    return {
        "1.1": first_law,
        "3.1": {"eta_certified": q["eta"]},
        "4.1": {"excess_loss_bound": q["excess_loss_as_written"], "excess_loss_certified": q["excess_loss_least"]},
        "4.2": {"dissipation_least": q["dissipation_least"]},
        "5.2": {"t_certified": limit},
        "7.2": {**first_law, "Q_as_written": q["W_dissipated"], "W_dissipated": q["W_dissipated"]},
        "9.1": {"I_certified": q["information_most"]},
        "9.3": {"I_rate_certified": rate},
    }


class _Readings:
    def __init__(self, outcome: Outcome) -> None:
        self.o, self.s, self.modes = outcome, outcome.setting, outcome.modes
        replicas, sets = len(outcome.end), outcome.setting.data_sets
        self.blocks = Blocks.of(replicas, sets)
        self.per_set = replicas // sets
        self.set_of = np.repeat(np.arange(sets, dtype=np.int64), self.per_set)
        self.temperature = self.s.temperature
        self.shadow = abs(float(np.mean(outcome.path_work - outcome.work)))

    # the first law

    def first_law(self) -> dict[str, Estimate]:
        """Work, heat and energy: means over paths. Those of the continuous motion carry the step's error too."""
        o, mean = self.o, self.blocks.mean
        energy = o.work - o.delta_u
        return {
            "W": _known(mean(o.work), "loss", "mean work of the protocol's switches", discretisation=self.shadow),
            "Q": _known(mean(o.heat), "loss", "mean path heat"),
            "Q_first_law": _known(mean(energy), "loss", "mean of W − ΔU", discretisation=self.shadow),
            "delta_U": _known(mean(o.delta_u), "loss", "mean", discretisation=self.shadow),
            "first_law_residual": _known(mean(o.midpoint_heat - energy), "loss", "midpoint heat less W − ΔU"),
            "W_shadow": _known(mean(o.path_work - o.work), "loss", "path heat less W − ΔU"),
            "loss_first": _known(mean(o.losses[0]), "loss", "mean L over the prior"),
            "loss_last": _known(
                mean(o.losses[1]), "loss", "mean L over the trained replicas", discretisation=self.shadow
            ),
            "eta_lambda_max": Estimate(
                self.s.learning_rate * self.s.steepest, None, "", Provenance.DERIVED, "power iteration, from below"
            ),
        }

    # free energy

    def free_energy(self) -> dict[str, Estimate]:
        """ΔF by each method that can be had, and the dissipated work W − ΔF with the best of them."""
        by_paths, back, exact = self._jarzynski, self._bennett, self._exact_free_energy
        best = next((free for free in (exact, back, by_paths) if free.known), by_paths)
        work = self.blocks.mean(self.o.path_work)
        if exact.known and self.modes is not None:
            dissipated = _known(work - self._over_sets(self.modes.delta_f), "loss", f"W − ΔF; {exact.method}")
        elif best is by_paths and self._free_by_paths is not None:
            dissipated = _known(work - self._free_by_paths[0], "loss", f"W − ΔF; {best.method}", why=best.why)
        else:
            dissipated = _known(work, "loss", "W − ΔF") - best
        return {
            "delta_F": best,
            "delta_F_jarzynski": by_paths,
            "delta_F_bennett": back,
            "W_dissipated": dissipated,
        }

    @property
    def _exact_free_energy(self) -> Estimate:
        if self.modes is None:
            return Estimate.unknown("loss", "needs a quadratic loss and one prior_std")
        return _known(self._over_sets(self.modes.delta_f), "loss", "exact, quadratic loss")

    @cached_property
    def _free_by_paths(self) -> tuple[Jackknife, float] | None:
        """ΔF by Jarzynski's equality for each data set, averaged over them, and its bias."""
        if self.s.data_sets == 1:
            free = jarzynski(self.o.path_work, self.temperature, self.blocks)
            return free, free.bias
        if self.per_set < ENOUGH_PATHS:
            return None
        alone = Blocks.of(self.per_set, 1)
        works = self.o.path_work.reshape(self.s.data_sets, self.per_set)
        each = [jarzynski(work, self.temperature, alone) for work in works]
        return self._over_sets(np.array([free.value for free in each])), float(np.mean([free.bias for free in each]))

    @cached_property
    def _jarzynski(self) -> Estimate:
        if self._free_by_paths is None:
            why = f"needs {ENOUGH_PATHS} replicas of each data set, or one data set: ΔF is of one"
            return Estimate.unknown("loss", why)
        free, bias = self._free_by_paths
        why = f"high in the mean, by about {bias:.2g} (jackknife), not subtracted"
        if self.s.data_sets == 1:
            weight = np.exp((self.o.path_work.min() - self.o.path_work) / self.temperature)
            alive = float(weight.sum() ** 2 / np.sum(weight**2))
            why += f"; {alive:.3g} of {len(weight)} paths carry the average"
        return _known(free, "loss", "Jarzynski's equality", why=why)

    @property
    def _bennett(self) -> Estimate:
        o = self.o
        if o.reverse is None:
            return Estimate.unknown("loss", "needs the reversed protocol: call reverse() after run()")
        ends = (self.blocks, Blocks.of(len(o.reverse), 1))
        value, stderr = bennett(o.path_work, o.reverse, self.temperature, ends)
        return Estimate(
            value, stderr, "loss", Provenance.DERIVED, f"Bennett's acceptance ratio, reverse {o.reverse_how}"
        )

    # information and entropy

    def information(self) -> dict[str, Estimate]:
        """I(θ; D), what bounds it, and the efficiency."""
        spread, how = self._entropy_change
        gained, gained_how = self._information
        heat = self.blocks.mean(self.o.heat) * (1.0 / self.temperature)
        learned = (self.o.path_work - self.s.controls[-1] * self.o.losses[1]) / self.temperature
        found = {
            "delta_S": _or_unknown(spread, "nat", how),
            "information_most": _or_unknown(self._most, "nat", "ΔS + Q/T" if self._most else how, why=how),
            "kl_prior_most": _known(
                self.blocks.mean(learned),
                "nat",
                "(W − λL)/T, at least the divergence from the prior",
            ),
            "information": _or_unknown(gained, "nat", gained_how),
            "heat_over_T": _known(heat, "nat", "path heat over T"),
            "entropy_production": _or_unknown(*self._production_in_nat),
        }
        if gained is None or spread is None:
            found["eta"] = Estimate.unknown("", gained_how if gained is None else how)
        else:
            eta = gained.with_(certified_efficiency, spread, heat)
            found["eta"] = _known(eta, "", "I/(ΔS + Q/T)", why=f"{gained_how}; {how}")
        return found

    @cached_property
    def _prior_entropy(self) -> float:
        return float(np.sum(0.5 * math.log(2.0 * math.pi * math.e) + np.log(self.s.std)))

    @cached_property
    def _gaussian_ensemble(self) -> bool:
        """Whether the data sets share one exact covariance of the weights, and suffice for the spread of the means."""
        n = len(self.s.std)
        return self.modes is not None and self.modes.hessian is not None and self.s.data_sets >= 4 * (n + 1)

    @cached_property
    def _marginal_change(self) -> Jackknife:
        assert self.modes is not None
        return self.modes.marginal(self.blocks, self.set_of) - self._prior_entropy

    @cached_property
    def _entropy_change(self) -> tuple[Jackknife | None, str]:
        """ΔS of the weights' distribution over noise and data sets: exact, or an upper bound."""
        if self.modes is not None and self.s.data_sets == 1:
            return self._over_sets(self.modes.entropy_change), "ΔS exact, Gaussian"
        if self._gaussian_ensemble:
            return self._marginal_change, "ΔS Gaussian, exact given the data"
        if self.blocks.count < 4:
            what = "replicas" if self.s.data_sets == 1 else "data sets"
            return None, f"needs four {what} or more to bound the entropy of the weights"
        bound = self.blocks.mean(cross_entropy(self.o.end, self.blocks)) - self._prior_entropy
        return bound, "ΔS from above: cross-entropy with a density fitted to the others"

    @cached_property
    def _most(self) -> Jackknife | None:
        spread, _ = self._entropy_change
        heat = self.blocks.mean(self.o.heat) * (1.0 / self.temperature)
        return None if spread is None else spread.with_(largest_information, heat)

    @cached_property
    def _information(self) -> tuple[Jackknife | None, str]:
        if self._gaussian_ensemble:
            assert self.modes is not None
            given = self._over_sets(self.modes.entropy_change)
            how = "I exact for Gaussian targets, else from above"
            return self._marginal_change - given, how
        if self.o.crossed is None:
            return None, _FEW_SETS
        found = contrast(self.o.crossed * (-self.s.controls[-1] / self.temperature))
        how = f"I from below: which of {len(self.o.chosen)} data sets was θ trained on?"
        return found, how

    @cached_property
    def _production(self) -> tuple[Jackknife | None, str]:
        """⟨ΔS_tot⟩ given the data: exact entropy and sampled heat, or from above."""
        if self.modes is not None:
            change = self.modes.entropy_change[self.set_of]
            return self.blocks.mean(change + self.o.heat / self.temperature), "ΔS_tot given the data, its entropy exact"
        if self._most is None:
            return None, self._entropy_change[1]
        gained, _ = self._information
        if gained is None:
            return self._most, "ΔS_tot from above: ΔS + Q/T"
        return self._most - gained, "ΔS_tot from above: ΔS + Q/T − I, both bounds"

    @property
    def _production_in_nat(self) -> tuple[Jackknife | None, str, str]:
        found, how = self._production
        return found, "nat", how

    # transport

    def speed(self) -> dict[str, Estimate]:
        """W₂² from below, and the dissipation and the time that it asks for."""
        moved, how, continuous = self._moved
        relative = self.s.learning_rate * self.s.steepest if continuous else 0.0
        tau = self.s.time
        produced, produced_how = self._production
        if moved is None:
            unknown = Estimate.unknown("loss", how)
            return {
                "wasserstein_sq": replace(unknown, unit=""),
                "dissipation_least": unknown,
                "time_least": replace(unknown, unit="1/loss"),
            }
        least = moved.with_(lambda w: least_entropy_production(w, tau))
        found = {
            "wasserstein_sq": _known(moved, "", how),
            "dissipation_least": _known(
                least, "loss", "W₂²/τ ≤ T·ΔS_tot", discretisation=relative * abs(least.value), why=how
            ),
        }
        if produced is None:
            return found | {"time_least": Estimate.unknown("1/loss", produced_how)}
        time = moved.with_(lambda w, s: least_time(w, self.temperature * s), produced)
        method, why = f"W₂²/(T·ΔS_tot) ≤ τ = {tau:.4g}", f"{how}; {produced_how}"
        stepped = relative * abs(time.value)
        return found | {"time_least": _known(time, "1/loss", method, discretisation=stepped, why=why)}

    @cached_property
    def _moved(self) -> tuple[Jackknife | None, str, bool]:
        """W₂² between the prior and the weights given the data; its name; whether it is of the continuous motion."""
        drift = self.o.drift
        if self.modes is not None:
            return self._over_sets(self.modes.wasserstein_sq), "W₂ exact, Gaussian", True
        if self.s.data_sets == 1 or self.per_set == 1:
            if self.blocks.count < 4:
                return None, "needs four replicas or more", False
            both = squared_mean(drift, self.blocks).with_(np.add, self._spread_moved)
            pooled = "" if self.s.data_sets == 1 else ", pooled over data sets"
            return both, f"W₂ from below: mean displacement, and change of each weight's spread{pooled}", True
        m = self.per_set
        parts = drift.reshape(self.s.data_sets, m, -1)
        pairs = np.sum(parts.sum(1) ** 2, 1) - np.sum(parts**2, (1, 2))
        each = pairs / (m * (m - 1))
        return self._over_sets(each), "W₂ from below: mean displacement given the data", False

    @cached_property
    def _spread_moved(self) -> Jackknife:
        """Σ(s_i − σ_i)², s_i the spread of weight i at the end, less its bias."""
        end, std = self.o.end, self.s.std

        def moved(kept: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
            return float(np.sum((np.std(end[kept], axis=0, ddof=1) - std) ** 2))

        return self.blocks.left_out(moved).corrected

    # loss

    def excess_loss(self) -> dict[str, Estimate]:
        """The excess loss reached, and what bounds it."""
        modes, s = self.modes, self.s
        work, free = float(np.mean(self.o.work)), self.free_energy()["delta_F"]
        if free.value is not None and min(work, free.value) > 0.0:
            bound = excess_loss_as_written(self.temperature, free.value, work)
            as_written = Estimate(float(bound), None, "loss", Provenance.DERIVED, "(T/2)·ln(ΔF/W), W_min = ΔF")
        else:
            as_written = Estimate.unknown(
                "loss", "its logarithm needs ΔF > 0 and W > 0, and both move with the loss's zero"
            )
        if modes is None or not np.all(np.isfinite(modes.least_loss)):
            why = "needs a quadratic loss with one least point, and one prior_std"
            return {
                "excess_loss": Estimate.unknown("loss", why),
                "excess_loss_least": Estimate.unknown("loss", why),
                "excess_loss_as_written": as_written,
            }
        reached = _known(self.blocks.mean(self.o.losses[1] - modes.least_loss[self.set_of]), "loss", "mean L − min L")
        least = Estimate.unknown(
            "loss", "needs target_std, inputs that all data sets share, and four data sets or more"
        )
        if s.target_std is not None and modes.hessian is not None and self._most is not None and s.data_sets >= 4:
            eigenvalues = np.linalg.eigvalsh(modes.hessian)
            variance = s.target_std**2
            bound_of = self._most.with_(lambda i: least_excess_loss(i, variance, eigenvalues))
            least = _known(bound_of, "loss", "(N/2)σ²·det(H)^{1/N}·e^{−2(ΔS+Q/T)/N}")
        return {"excess_loss": reached, "excess_loss_least": least, "excess_loss_as_written": as_written}

    def _over_sets(self, values: Array) -> Jackknife:
        """Mean over data sets of values (G,)."""
        if self.s.data_sets == 1:
            return Jackknife(float(values[0]), np.full(self.blocks.count, values[0]))
        return self.blocks.mean(values[self.set_of])


def _known(found: Jackknife, unit: str, method: str, *, discretisation: float = 0.0, why: str = "") -> Estimate:
    stderr = math.hypot(found.stderr, discretisation)
    return Estimate(float(found.value), stderr, unit, Provenance.DERIVED, method, why)


def _or_unknown(found: Jackknife | None, unit: str, how: str, why: str = "") -> Estimate:
    return Estimate.unknown(unit, how) if found is None else _known(found, unit, how, why=why)
