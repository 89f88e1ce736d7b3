"""Outcome: what one run of an ensemble did, replica by replica, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ergometry.core.estimate import Estimate
from ergometry.langevin import readings
from ergometry.langevin.modes import Modes
from ergometry.langevin.sampler import Paths
from ergometry.langevin.statistics import Array


@dataclass(frozen=True)
class Setting:
    """How an ensemble was run.

    Attributes:
        temperature: T, loss/nat.
        learning_rate: η, the time step.
        controls: λ of each step.
        std: (N,), σ of the prior.
        data_sets: G.
        steepest: λ_max of U, the largest that was met, from below.
        seconds_per_step: wall time of a step of the whole ensemble.
        target_std: σ of the teachers' weights, where the data sets were made by teachers.
        batch: B of the minibatches that it went down; None: of whole data sets, which can be certified.
    """

    temperature: float
    learning_rate: float
    controls: tuple[float, ...]
    std: Array
    data_sets: int
    steepest: float
    seconds_per_step: float
    target_std: float | None
    batch: int | None = None

    @property
    def time(self) -> float:
        """τ = η·steps."""
        return self.learning_rate * len(self.controls)


@dataclass(frozen=True)
class Outcome:
    """What a run did, replica by replica (R,), data set by data set.

    Attributes:
        setting: how it was run.
        end: (R, N) float64, θ at the end.
        drift: (R, N) float64, displacement without the noise (midpoint rule).
        work: (R,) work of the protocol.
        heat: (R,) path heat.
        path_work: (R,) ΔU + path heat.
        delta_u: (R,).
        midpoint_heat: (R,) heat by the midpoint rule.
        losses: (R,) L at the start and at the end, on the replica's own data.
        chosen: data sets of ``crossed``.
        crossed: (c, m, c) losses of their replicas on each of them, or None.
        modes: exact moments, where the loss is quadratic and the prior isotropic.
        reverse: path work of the reversed protocol, or None.
        reverse_how: where its replicas started.
        noise_trace: (R,) trΣ of single examples' gradients at the end, of a run on minibatches.
    """

    setting: Setting
    end: Array
    drift: Array
    work: Array
    heat: Array
    path_work: Array
    delta_u: Array
    midpoint_heat: Array
    losses: tuple[Array, Array]
    chosen: Sequence[int]
    crossed: Array | None
    modes: Modes | None
    reverse: Array | None = None
    reverse_how: str = ""
    noise_trace: Array | None = None

    @classmethod
    def of(
        cls,
        setting: Setting,
        paths: Paths,
        *,
        losses: tuple[Array, Array],
        crossed: tuple[Sequence[int], Array | None],
        modes: Modes | None,
        noise_trace: Array | None = None,
    ) -> Outcome:
        """Return the outcome of paths, on the CPU."""

        def array(tensor: torch.Tensor) -> Array:
            return np.asarray(tensor.detach().cpu().double().numpy())

        return cls(
            setting,
            array(paths.end),
            array(paths.drift),
            array(paths.work),
            array(paths.heat),
            array(paths.path_work),
            array(paths.delta_u),
            array(paths.midpoint_heat),
            losses,
            crossed[0],
            crossed[1],
            modes,
            noise_trace=noise_trace,
        )

    def with_reverse(self, work: Array, how: str) -> Outcome:
        """Return the outcome with the path work of a reversed run."""
        return replace(self, reverse=work, reverse_how=how)

    def summary(self) -> dict[str, Estimate]:
        """Return every quantity, name -> estimate."""
        return readings.summary(self)

    def equations(self) -> dict[str, dict[str, Estimate]]:
        """Return the quantities under the ids and names of :data:`ergometry.equations.CATALOGUE`, in its units."""
        return readings.by_section(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:24} {q}" for name, q in self.summary().items())
