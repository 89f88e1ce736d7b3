"""Certified mode: an ensemble of replicas of a network, trained by Langevin dynamics at a known temperature."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ergometry.core.errors import UsageError
from ergometry.langevin.curvature import parabola, steepest_curvature
from ergometry.langevin.minibatch import Minibatches
from ergometry.langevin.modes import exact_modes
from ergometry.langevin.networks import (
    Batch,
    Loss,
    LossPotential,
    Network,
    own_streams,
)
from ergometry.langevin.outcome import Outcome, Setting
from ergometry.langevin.sampler import drive
from ergometry.meter.client import current

if TYPE_CHECKING:
    from ergometry.core.estimate import Estimate

Protocol = Callable[[float], float]

STEEP, UNSTABLE = 0.1, 2.0
"""η·λ_max above which the chain's own temperature is off by some per cent, and at which it diverges."""

_PROTOCOLS: dict[str, Protocol] = {"quench": lambda _s: 1.0, "linear": lambda s: s}


def certified(  # noqa: PLR0913 - what defines an ensemble, all by keyword
    model: torch.nn.Module,
    *,
    loss: Loss,
    data: Batch | Sequence[Batch],
    temperature: float,
    replicas: int = 64,
    prior_std: float | Mapping[str, float] = 1.0,
    learning_rate: float | None = None,
    protocol: str | Protocol = "quench",
    seed: int = 0,
    target_std: float | None = None,
    batch: int | None = None,
) -> Certified:
    """Return an ensemble of replicas of a network, to be trained at a known temperature.

    Each replica starts from 𝒩(0, σ²), independent of the data, which is the Boltzmann state of the prior energy
    Σ Tθ_i²/(2σ_i²). A protocol then switches the loss on, U_λ = λ·L(θ; D) + prior energy, λ from 0, while
    dθ = −∇U_λ dt + √(2T) dW is followed by full-batch Euler–Maruyama steps. With T = 1/n and L the mean of n negative
    log likelihoods, the Boltzmann state at λ = 1 is the Bayes posterior, and ΔF/T is −log evidence.

    The model is copied and not changed; random numbers come from a generator of its own.

    Args:
        model: its trainable parameters are θ; it is used in evaluation mode.
        loss: ``loss(model(inputs), *rest)`` gives the mean loss over examples, a scalar; D is ``(inputs, *rest)``.
        data: one data set, a tuple of tensors; or a list of data sets of equal shapes, drawn independently, over which
            the replicas are divided evenly. The information I(θ; D) is an average over data sets and needs the list.
        temperature: T > 0, loss per nat.
        replicas: R ≥ 2.
        prior_std: σ, for all weights or by parameter's name.
        learning_rate: η, which is the time step; None takes 0.05/λ_max.
        protocol: ``"quench"`` (λ = 1 from the first step), ``"linear"`` (λ rises to 1), or a function λ(s) of the share
            of steps done, s ∈ (0, 1].
        seed: of the ensemble's generator.
        target_std: σ of the teachers θ* ~ 𝒩(0, σ²) that made the data sets, where they did; the bound on the excess
            loss needs it.
        batch: B, to go down gradients of B examples drawn with replacement instead (SGLD), for comparison. That is
            *not certified*: every value says so, what rests on a theorem is null, and ``temperature`` is then that
            of the injected noise alone; the summary's has η·λ²·trΣ/(2BN) added to it. It costs more, not less: work
            and energy are still those of the whole data set.

    Raises:
        UsageError: an argument is not what it must be; the message says which, and the remedy.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> inputs = torch.randn(20, 2)
    >>> ensemble = certified(torch.nn.Linear(2, 1), loss=torch.nn.functional.mse_loss,
    ...     data=(inputs, inputs.sum(1, keepdim=True)), temperature=0.05, replicas=32)
    >>> outcome = ensemble.run(200)
    >>> bound = outcome.summary()["information_most"]
    >>> bound.value > 0, bound.unit
    (True, 'nat')
    """
    if not callable(loss) or not isinstance(temperature, int | float) or not isinstance(data, tuple | list):
        raise UsageError(
            expected="a callable loss, a number as temperature, and a tuple of tensors (or a list of such) as data",
            got=f"{type(loss).__name__}, {type(temperature).__name__}, {type(data).__name__}",
            remedy="as in certified(model, loss=mse_loss, data=(x, y), temperature=0.1)",
        )
    _refuse(temperature, replicas, learning_rate)
    sets = [data] if isinstance(data, tuple) else list(data)
    _refuse_data(sets, replicas)
    network = Network(model, loss, sets, replicas)
    schedule = _PROTOCOLS.get(protocol) if isinstance(protocol, str) else protocol
    if schedule is None:
        raise UsageError(
            expected="a protocol: quench, linear, or a function", got=repr(protocol), remedy="use one of these"
        )
    std = network.layout.spread(prior_std)
    generator = torch.Generator(device=network.layout.device).manual_seed(seed)
    minibatches = None if batch is None else Minibatches(network, temperature / std**2, batch, generator)
    return Certified(network, std, temperature, learning_rate, schedule, generator, target_std, minibatches)


class Certified:
    """An ensemble that can be run, reversed and summed up; every run draws fresh replicas."""

    def __init__(  # noqa: PLR0913 - made by certified() alone
        self,
        network: Network,
        std: torch.Tensor,
        temperature: float,
        learning_rate: float | None,
        protocol: Protocol,
        generator: torch.Generator,
        target_std: float | None,
        minibatches: Minibatches | None = None,
    ) -> None:
        self._network, self._std, self._temperature = network, std, temperature
        self._protocol, self._generator, self._target_std = protocol, generator, target_std
        self._minibatches = minibatches
        self._potential = LossPotential(network, temperature / std**2)
        with own_streams(network.layout.device):
            self._steepest = steepest_curvature(self._potential, self._draw(), 1.0)
            self._parabola = parabola(network, std)
        self.learning_rate = learning_rate if learning_rate is not None else 0.5 * STEEP / self._steepest
        """η, the time step of dθ = −∇U dt + √(2T)dW."""
        self._check_step(self._steepest)
        self._outcome: Outcome | None = None
        self._controls: list[float] = []

    @property
    def batched(self) -> bool:
        """Whether the replicas run as one (torch.func.vmap) or one after the other."""
        return self._network.batched

    def run(self, steps: int) -> Outcome:
        """Draw replicas from the prior, run the protocol over so many steps, and return what came of it.

        Inside ``erg run`` or ``erg.record`` the run keeps the values too, as its label ``certified``; not those of
        minibatches, which are not.

        Raises:
            UsageError: fewer than one step, or a protocol that gives no finite number.
            Diverged: a loss became NaN or infinite; take a smaller learning rate.
        """
        if steps < 1:
            raise UsageError(expected="one step or more", got=f"{steps}", remedy="say how many steps to run")
        controls = [float(self._protocol((k + 1) / steps)) for k in range(steps)]
        if not all(map(math.isfinite, controls)):
            raise UsageError(
                expected="a protocol with finite λ",
                got="NaN or infinity",
                remedy="return a number for every s in (0, 1]",
            )
        began = time.perf_counter()
        with own_streams(self._network.layout.device):
            paths = drive(
                self._potential,
                self._draw(),
                controls,
                ends=(0.0, controls[-1]),
                learning_rate=self.learning_rate,
                temperature=self._temperature,
                generator=self._generator,
                slope=self._minibatches,
            )
            elapsed = time.perf_counter() - began
            self._steepest = max(self._steepest, steepest_curvature(self._potential, paths.end, controls[-1]))
            self._check_step(self._steepest, ran=True)
            chosen, crossed = self._crossed(paths.end)
            first, last = (self._network.losses_and_gradients(theta)[0] for theta in (paths.start, paths.end))
            noise = None if self._minibatches is None else _array(self._minibatches.noise_trace(paths.end))
        setting = Setting(
            temperature=self._temperature,
            learning_rate=self.learning_rate,
            controls=tuple(controls),
            std=_array(self._std),
            data_sets=len(self._network.data_sets),
            steepest=self._steepest,
            seconds_per_step=elapsed / steps,
            target_std=self._target_std,
            batch=None if self._minibatches is None else self._minibatches.batch,
        )
        self._controls = controls
        self._outcome = Outcome.of(
            setting,
            paths,
            losses=(_array(first), _array(last)),
            crossed=(chosen, crossed),
            modes=self._modes(controls),
            noise_trace=noise,
        )
        self._keep()
        return self._outcome

    def reverse(self, equilibrate: int = 0) -> Outcome:
        """Run the last protocol backward from the Boltzmann state of its end, and add ΔF by Bennett's acceptance ratio.

        That state is sampled exactly where the loss is quadratic and the prior isotropic. Elsewhere the last run's
        replicas relax for ``equilibrate`` further steps first, and the estimate is as good as they have equilibrated.

        Raises:
            UsageError: nothing was run, or on minibatches; there are several data sets; or ``equilibrate`` is missing
                where it is needed.
        """
        outcome = self._last()
        if self._minibatches is not None:
            raise UsageError(
                expected="full-batch gradients to reverse",
                got=f"minibatches of {self._minibatches.batch}",
                remedy="leave batch= out: of minibatches the reversed steps have no known probability",
            )
        if len(self._network.data_sets) > 1:
            raise UsageError(
                expected="one data set to reverse",
                got=f"{len(self._network.data_sets)}",
                remedy="ΔF is of one data set",
            )
        last = self._controls[-1]
        exact = outcome.modes is not None
        if not exact and equilibrate < 1:
            raise UsageError(
                expected="steps to equilibrate in before the way back",
                got=f"{equilibrate}",
                remedy="give equilibrate=; the Boltzmann state of this loss has no closed form",
            )
        with own_streams(self._network.layout.device):
            start = self._boltzmann(last) if exact else self._relaxed(outcome.end, last, equilibrate)
            paths = drive(
                self._potential,
                start,
                self._controls[::-1],
                ends=(last, 0.0),
                learning_rate=self.learning_rate,
                temperature=self._temperature,
                generator=self._generator,
            )
        how = "from the exact Boltzmann state" if exact else f"from replicas relaxed for {equilibrate} more steps"
        self._outcome = outcome.with_reverse(_array(paths.path_work), how)
        self._keep()
        return self._outcome

    def summary(self) -> dict[str, Estimate]:
        """Return the values of the last run, name -> estimate."""
        return self._last().summary()

    def equations(self) -> dict[str, dict[str, Estimate]]:
        """Return the values of the last run under the ids and names of the catalogue of equations."""
        return self._last().equations()

    def state_dict(self, replica: int) -> dict[str, torch.Tensor]:
        """Return the trained parameters of one replica of the last run, by name; a draw from the trained ensemble."""
        flat = torch.as_tensor(self._last().end[replica]).to(self._std)
        return self._network.layout.named(flat)

    def _last(self) -> Outcome:
        if self._outcome is None:
            raise UsageError(
                expected="an ensemble that has run", got="one that has not", remedy="call run(steps) first"
            )
        return self._outcome

    def _normal(self) -> torch.Tensor:
        shape = (self._network.replicas, len(self._std))
        return torch.randn(shape, generator=self._generator, device=self._std.device, dtype=self._std.dtype)

    def _draw(self) -> torch.Tensor:
        return self._normal() * self._std

    def _crossed(self, end: torch.Tensor) -> tuple[list[int], np.ndarray[Any, np.dtype[np.float64]] | None]:
        count = len(self._network.data_sets)
        if count < 3:
            return [], None
        blocks = min(count, 64)
        chosen = [-(-b * count // blocks) for b in range(blocks)]  # the first data set of each block
        return chosen, _array(self._network.crossed(end, chosen))

    def _modes(self, controls: Sequence[float]) -> Any:
        if self._parabola is None or self._minibatches is not None or bool(torch.any(self._std != self._std[0])):
            return None
        return exact_modes(self._parabola, float(self._std[0]), self._temperature, self.learning_rate, controls)

    def _boltzmann(self, control: float) -> torch.Tensor:
        assert self._parabola is not None
        stiffness = torch.diag(self._temperature / self._std.cpu().double() ** 2)
        root = torch.linalg.cholesky(control * self._parabola.hessian[0] + stiffness)
        mean = torch.cholesky_solve(control * self._parabola.linear[0, :, None], root)[:, 0]
        noise = torch.linalg.solve_triangular(root.mT, self._normal().cpu().double().mT, upper=True).mT
        return (mean + math.sqrt(self._temperature) * noise).to(self._std)

    def _relaxed(self, end: Any, control: float, steps: int) -> torch.Tensor:
        return drive(
            self._potential,
            torch.as_tensor(end).to(self._std),
            [control] * steps,
            ends=(control, control),
            learning_rate=self.learning_rate,
            temperature=self._temperature,
            generator=self._generator,
        ).end

    def _check_step(self, steepest: float, *, ran: bool = False) -> None:
        """Refuse a step at which the chain diverges, unless it has ``ran`` and did not; warn of one that is coarse."""
        if not math.isfinite(steepest):
            raise UsageError(
                expected="a finite curvature of the loss at draws from the prior",
                got=f"{steepest}",
                remedy="take a smaller prior_std, or look for NaN in the data and the loss",
            )
        stiffness = self.learning_rate * steepest
        if stiffness < STEEP * (1.0 + 1e-9):
            return
        said = {
            "expected": f"learning_rate·λ_max of at most {STEEP}",
            "got": f"{stiffness:.3g} (λ_max {steepest:.3g})",
            "remedy": f"take a learning rate of {0.5 * STEEP / steepest:.2g}, or leave it out",
        }
        if stiffness >= UNSTABLE and not ran:
            raise UsageError(**said)
        line = "the step is coarse for the steepest directions: expected {expected}, got {got}; {remedy}"
        warnings.warn(line.format(**said), stacklevel=3)

    def _keep(self) -> None:
        client = current()
        if client is None or client.ephemeral or self._minibatches is not None:
            return
        found = {
            section: {name: q.to_json() for name, q in values.items()} for section, values in self.equations().items()
        }
        client.meta(certified=found)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(tensor.detach().cpu().double().numpy())


def _refuse(temperature: float, replicas: int, learning_rate: float | None) -> None:
    if not 0.0 < temperature < math.inf:
        raise UsageError(
            expected="a temperature above 0, in loss per nat",
            got=f"{temperature}",
            remedy="1/(number of examples) makes the Boltzmann state the Bayes posterior",
        )
    if replicas < 2:
        raise UsageError(
            expected="two replicas or more", got=f"{replicas}", remedy="error bars need an ensemble, say 64"
        )
    if learning_rate is not None and not 0.0 < learning_rate < math.inf:
        raise UsageError(
            expected="a learning rate above 0", got=f"{learning_rate}", remedy="leave it out to have 0.05/λ_max"
        )


def _refuse_data(sets: Sequence[Batch], replicas: int) -> None:
    wrong = next((batch for batch in sets if not _is_batch(batch)), None)
    if not sets or wrong is not None:
        raise UsageError(
            expected="a tuple of tensors (inputs, targets), or a list of such tuples",
            got=type(wrong).__name__ if sets else "an empty list",
            remedy="write data=(inputs, targets)",
        )
    shapes = {tuple(part.shape for part in batch) for batch in sets}
    if len(shapes) > 1:
        raise UsageError(
            expected="data sets of equal shapes", got=f"{len(shapes)} different ones", remedy="cut them to one size"
        )
    if replicas % len(sets):
        raise UsageError(
            expected=f"replicas that divide evenly over {len(sets)} data sets",
            got=f"{replicas}",
            remedy=f"take {-(-replicas // len(sets)) * len(sets)}",
        )
    lost = sum(
        not bool(torch.all(torch.isfinite(part))) for batch in sets for part in batch if part.is_floating_point()
    )
    if lost:
        raise UsageError(
            expected="finite data", got=f"NaN or infinity in {lost} tensors", remedy="take those examples out"
        )


def _is_batch(batch: Any) -> bool:
    return isinstance(batch, tuple) and len(batch) > 0 and all(isinstance(part, torch.Tensor) for part in batch)
