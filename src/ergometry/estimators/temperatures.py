"""Three temperatures (E5) of the weights, which agree in equilibrium: of the noise, virial, and configurational."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Run, Table
from ergometry.core.series import CURVATURE, EQUILIBRIUM, NOISE, STEPS
from ergometry.estimators.displacement import read_clipping
from ergometry.estimators.equilibration import STRETCHES, last_stretch
from ergometry.estimators.noise_scale import HOW, NoiseScale, read_noise
from ergometry.estimators.stretches import Array, Stretches
from ergometry.estimators.tapped import Rate, last_rate, why_none

UNIT = "loss/nat"
"""Loss per nat: of each parameter, a degree of freedom, as k_B·T is joule per nat of each."""


def noise_temperature(
    learning_rate: float, trace_cov: float, batch: float, parameters: float, momentum: float
) -> float:
    """Temperature of the minibatch noise, T_a = η·trΣ/(2BN)·1/(1−μ), in loss per nat.

    Args:
        learning_rate: η, 1/loss.
        trace_cov: trΣ, loss²·example.
        batch: B, examples per step.
        parameters: N.
        momentum: μ.

    Source: E5; Mandt, Hoffman & Blei 2017 (1704.04289).

    >>> print(f"{noise_temperature(0.1, 8.0, 2.0, 4.0, 0.5):.3f}")
    0.100
    """
    return learning_rate * trace_cov / (2.0 * batch * parameters * (1.0 - momentum))


def configurational_temperature(grad_sq: float, hessian_trace: float) -> float:
    """Configurational temperature ⟨|G|²⟩/trH, in loss per nat (Rugh 1997): that of a Boltzmann distribution e^{−L/T}.

    >>> configurational_temperature(1.0, 10.0)
    0.1
    """
    return grad_sq / hessian_trace


@dataclass(frozen=True)
class Temperatures:
    """Three temperatures of the weights, loss per nat. That they agree is necessary for equilibrium, not sufficient.

    Attributes:
        noise: η·trΣ/(2BN)·1/(1−μ), what minibatch noise would heat a quadratic loss to.
        virial: ⟨(θ−θ̄)·g⟩/N; equal to ``noise`` in any stationary state, to first order in η (that is E4). θ̄ is the mean
            of the steps before, and θ remembers them: over K steps it is short by about 1.4/(ηaK) of itself, a being
            the curvature.
        configurational: ⟨|G|²⟩/trH; joins them where the noise is alike in all directions, as a heat bath's is.
    """

    noise: Estimate
    virial: Estimate
    configurational: Estimate


def read_temperatures(run: Run) -> Temperatures:
    """Return the temperatures over the last stretch of constant learning rate, or why one is not known.

    The noise is that of the later half of the stretch, as its start is far from where the weights come to rest; of a
    learning rate that never stops changing, that of the last quarter of the run, said in ``why``.
    """
    rate = last_rate(run)
    since = rate.since if math.isfinite(rate.since) else 0.0
    first, said = _settled(run, since)
    noise = read_noise(run, within=(first, math.inf))
    table, _ = last_stretch(run)
    return Temperatures(_noise(run, rate, noise, table, said), _virial(run, table), _configurational(run, since))


def _settled(run: Run, since: float) -> tuple[float, str]:
    """Return from which step on the gradient's noise is taken, and what is to be said of it."""
    looks = np.unique(run.table(NOISE)["step"])
    stretch = looks[looks >= since]
    if len(stretch) >= 2:
        return float(stretch[len(stretch) // 2 if len(stretch) >= 4 else 0]), ""
    if len(looks) < 2:
        return since, ""
    return float(
        looks[min(3 * len(looks) // 4, len(looks) - 2)]
    ), "the learning rate never stood still: its last is taken"


def _noise(run: Run, rate: Rate, noise: NoiseScale, table: Table, said: str) -> Estimate:
    trace, method = noise.trace_cov, "E5, η·trΣ/(2BN)·1/(1−μ)"
    why = trace.why if trace.value is None else rate.why
    if not why and not (len(table) and np.all(table["eligible"] == 1)):
        why = why_none(run, "equilibrium", "needs plain SGD, of which this temperature is stated").split(": none were")[
            0
        ]
    if not why and read_clipping(run).altered:
        why = "needs gradients that are not clipped: of those that are the noise is another"
    batch, of_batch = _batch(run, noise, rate.since)
    if why or trace.value is None or math.isnan(batch):
        return Estimate.unknown(UNIT, why or "needs the number of examples of a step, which is not known")
    factor = noise_temperature(rate.eta, 1.0, batch, noise.parameters, float(table["momentum"][-1]))
    found = trace._scaled(factor)
    told = "; ".join(part for part in (f"trΣ from {HOW[noise.how]}", of_batch, said, trace.why) if part)
    return Estimate(found.value, found.stderr, UNIT, Provenance.DERIVED, method, told)


def _batch(run: Run, noise: NoiseScale, since: float) -> tuple[float, str]:
    """Return the examples of an optimizer step, over all ranks where that was seen, and from where that is known."""
    if noise.how == 2:
        return noise.batch, "B over all ranks"
    steps = run.table(STEPS)
    examples = steps["examples"][(steps["step"] >= since) & np.isfinite(steps["examples"])]
    return (float(np.mean(examples)), "B of this process") if len(examples) else (math.nan, "")


def _virial(run: Run, table: Table) -> Estimate:
    """Return it over the later half of the stretch: until then θ̄ is the mean of few steps, which are like this one."""
    known = table.rows[np.isfinite(table["virial"])]
    if len(known) < 2:
        needs = "needs (θ−θ̄)·g of three optimizer steps of one learning rate at least"
        return Estimate.unknown(UNIT, needs if len(run.table(EQUILIBRIUM)) else why_none(run, "equilibrium", needs))
    kept = Table(table.columns, known[len(known) // 2 :])
    per_degree = kept["virial"] / kept["parameters"]
    blocks = float(np.mean(kept["virial_stderr"] / kept["parameters"]))
    found = _mean(kept["step"], per_degree, "E5, ⟨(θ−θ̄)·g⟩/N")
    return replace(found, stderr=None if found.stderr is None else math.hypot(found.stderr, blocks))


def _mean(steps: Array, values: Array, method: str) -> Estimate:
    """Return the mean of a stationary process, with its error."""
    state = Stretches.of(steps, values[:, None], STRETCHES)
    covariance = state.stationary()
    stderr = None if covariance is None else math.sqrt(max(float(covariance[0, 0]), 0.0))
    return Estimate(float(state.mean[0]), stderr, UNIT, Provenance.DERIVED, method)


def _configurational(run: Run, since: float) -> Estimate:
    noise = read_noise(run, within=(since, math.inf))
    table, method = run.table(CURVATURE), "E5, ⟨|G|²⟩/trH"
    rows = table.rows[(table["step"] >= since) & np.isfinite(table["trace"])]
    if not len(rows):
        needs = "needs the Hessian's trace, at the last learning rate"
        taken = "it was not taken there (physics full takes it)"
        return Estimate.unknown(UNIT, f"{needs}: {taken}" if len(table) else why_none(run, "curvature", needs))
    if noise.grad_sq.value is None:
        return Estimate.unknown(UNIT, noise.grad_sq.why)
    traces = Table(table.columns, rows)
    trace = float(np.mean(traces["trace"]))
    if not trace > 0:
        return Estimate.unknown(UNIT, f"needs a Hessian of positive trace: it is {trace:.3g}")
    value = configurational_temperature(noise.grad_sq.value, trace)
    # What probing leaves uncertain of each trace, and what the traces differ by along the stretch.
    probing = float(np.sqrt(np.nansum(traces["trace_stderr"] ** 2))) / len(rows)
    spread = float(np.std(traces["trace"], ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    stderr = None
    if noise.grad_sq.stderr is not None:
        stderr = math.hypot(noise.grad_sq.stderr / trace, value * max(probing, spread) / trace)
    return Estimate(value, stderr, UNIT, Provenance.DERIVED, method, noise.grad_sq.why)
