"""R8 and R9: Bayesian linear regression, y = X·θ + unit noise, θ ~ 𝒩(0, 1/λ): evidence, codelength and free energy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ergometry import equations as eq
from ergometry.langevin.statistics import Blocks, jarzynski
from ergometry.verification.check import Array, Check, needed_torch, stderr_of_mean

PATHS, TEMPERATURES = 4_000, 400
LOG_2PI = math.log(2.0 * math.pi)


class Problem(NamedTuple):
    """Inputs (n, d), targets (n,), and the precision λ of the prior."""

    inputs: Array
    targets: Array
    precision: float

    @classmethod
    def drawn(cls, n: int, d: int, precision: float, rng: np.random.Generator) -> Problem:
        """Return a problem drawn from its own prior."""
        inputs = rng.normal(size=(n, d))
        return cls(inputs, inputs @ rng.normal(size=d) / math.sqrt(precision) + rng.normal(size=n), precision)

    def negative_log_evidence(self) -> float:
        """Return −log p(y) in nat, from the n × n covariance of the targets, 1 + XXᵀ/λ."""
        covariance = np.eye(len(self.targets)) + self.inputs @ self.inputs.T / self.precision
        _, logdet = np.linalg.slogdet(covariance)
        quadratic = self.targets @ np.linalg.solve(covariance, self.targets)
        return 0.5 * float(quadratic + logdet + len(self.targets) * LOG_2PI)

    def negative_log_likelihood(self, theta: Array) -> Array:
        """Return −log p(y | θ) of each of θ (..., d), nat."""
        errors = theta @ self.inputs.T - self.targets
        return np.asarray(0.5 * np.sum(errors**2, axis=-1) + 0.5 * len(self.targets) * LOG_2PI)


def codelength(rng: np.random.Generator) -> Iterator[Check]:
    """R8: the Bayes predictive's codelength is the evidence, and its excess over the fit is what the weights hold."""
    problem = Problem.drawn(60, 8, 0.7, rng)
    length, mean = predictive_codelength(problem)
    yield Check(
        quantity="prequential codelength",
        expected=problem.negative_log_evidence(),
        value=length,
        tolerance=1e-8,
        why="against −log evidence of the targets' joint Gaussian",
    )
    _, logdet = np.linalg.slogdet(np.eye(8) + problem.inputs.T @ problem.inputs / problem.precision)
    held = 0.5 * float(logdet)
    yield Check(
        quantity="its excess over the final fit",
        expected=held + 0.5 * problem.precision * float(mean @ mean),
        value=length - float(problem.negative_log_likelihood(mean)),
        tolerance=1e-8,
        why="½·logdet(1 + F/λ) + ½λ|m|²",
    )
    yield Check(
        quantity="½·logdet(1 + F/λ), E7 exact",
        expected=held,
        value=information_of(problem, mean),
        tolerance=1e-8,
        why="the Fisher information of a torch model, against XᵀX",
    )


def information_of(problem: Problem, theta: Array) -> float:
    """Return E7's exact ½·logdet of the regression as a torch model at θ (d,), nat.

    Raises:
        MissingExtra: torch is not installed.
    """
    torch = needed_torch()
    from ergometry.landscape.fisher import GAUSSIAN, fisher
    from ergometry.landscape.information import information

    inputs = torch.from_numpy(problem.inputs)
    factor = fisher(lambda p: inputs @ p[0], [torch.from_numpy(theta).requires_grad_()], GAUSSIAN)
    return float(information(factor, problem.precision, method="exact").value)


def predictive_codelength(problem: Problem) -> tuple[float, Array]:
    """Return Σ −log p(y_t | y_<t) in nat, one example at a time, and the last posterior mean (d,)."""
    d = problem.inputs.shape[1]
    mean, covariance, total = np.zeros(d), np.eye(d) / problem.precision, 0.0
    for x, y in zip(problem.inputs, problem.targets, strict=True):
        spread = covariance @ x
        variance, error = 1.0 + float(x @ spread), float(y - x @ mean)
        total += 0.5 * (error**2 / variance + math.log(variance) + LOG_2PI)
        mean = mean + spread * (error / variance)
        covariance = covariance - np.outer(spread, spread) / variance
    return total, mean


def annealed_importance_sampling(rng: np.random.Generator) -> Iterator[Check]:
    """R9: free energy from the work of switching the likelihood on; work, heat and dissipation of it."""
    problem = Problem.drawn(12, 3, 1.0, rng)
    free_energy = problem.negative_log_evidence()
    work, heat, energy_change = annealed(problem, rng)
    found = jarzynski(work, 1.0, Blocks.of(PATHS, 1))
    yield Check(
        quantity="ΔF = −log⟨e^−W⟩",
        expected=free_energy,
        value=found.value,
        tolerance=0.05,
        stderr=found.stderr,
        why="against −log evidence; Jarzynski's equality",
    )
    yield Check(
        quantity="mean work ⟨W⟩, at least ΔF",
        expected=free_energy,
        value=float(work.mean()),
        tolerance=0.0,
        stderr=stderr_of_mean(work),
        relation="≥",
        why="the second law",
    )
    yield Check(
        quantity="heat less W − ΔU, largest",
        expected=0.0,
        value=float(np.max(np.abs(heat - eq.heat(work, energy_change)))),
        tolerance=1e-9,
        why="7.2 repaired, on every path",
    )
    _, logdet = np.linalg.slogdet(np.eye(3) + problem.inputs.T @ problem.inputs / problem.precision)
    excess = float(np.mean(eq.heat_as_written(work, free_energy) - heat))
    yield Check(
        quantity="W − ΔF (7.2) less the heat: T·ΔS",
        expected=-0.5 * float(logdet),
        value=excess,
        tolerance=3.0 * stderr_of_mean(energy_change),
        stderr=stderr_of_mean(energy_change),
        why="entropy of the posterior less that of the prior; 3 standard errors",
    )


def annealed(problem: Problem, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return work, heat to the bath and energy change of each path (PATHS,), nat, from the prior to the posterior.

    The energy ½λ|θ|² − β·log p(y|θ) is switched by β = (k/K)²; between the switches a Metropolis-adjusted Langevin
    step leaves its Boltzmann distribution exactly as it is, whatever the step.
    """
    inputs, targets, precision = problem
    steepest = float(np.linalg.eigvalsh(inputs.T @ inputs)[-1])
    theta = rng.normal(size=(PATHS, inputs.shape[1])) / math.sqrt(precision)
    surprise = problem.negative_log_likelihood(theta)
    first = 0.5 * precision * np.sum(theta**2, axis=1)
    work, heat, beta = np.zeros(PATHS), np.zeros(PATHS), 0.0

    def state(theta: Array) -> tuple[Array, Array]:
        gradient = precision * theta + beta * (theta @ inputs.T - targets) @ inputs
        return 0.5 * precision * np.sum(theta**2, axis=1) + beta * problem.negative_log_likelihood(theta), gradient

    for k in range(1, TEMPERATURES + 1):
        work += ((k / TEMPERATURES) ** 2 - beta) * surprise
        beta = (k / TEMPERATURES) ** 2
        step = 0.7 / (precision + beta * steepest)
        energy, gradient = state(theta)
        tried = theta - step * gradient + math.sqrt(2.0 * step) * rng.normal(size=theta.shape)
        tried_energy, tried_gradient = state(tried)
        there = np.sum((tried - theta + step * gradient) ** 2, axis=1)
        back = np.sum((theta - tried + step * tried_gradient) ** 2, axis=1)
        accepted = np.log(rng.random(PATHS)) < energy - tried_energy + (there - back) / (4.0 * step)
        heat += np.where(accepted, energy - tried_energy, 0.0)
        theta = np.where(accepted[:, None], tried, theta)
        surprise = problem.negative_log_likelihood(theta)
    last = 0.5 * precision * np.sum(theta**2, axis=1) + surprise
    return work, heat, last - first
