"""The reference cases, and how they are run: each with random numbers of its own, whatever else is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ergometry.core.errors import ErgError, UsageError
from ergometry.verification import (
    batches,
    first_law,
    noise,
    perceptron,
    regression,
    rotation,
    stationary,
    trap,
)
from ergometry.verification.check import Case, Check, Row

CASES = {
    case.id: case
    for case in (
        Case("R1", f"A trap dragged to a random target, x = 2, τ = 10; {trap.PATHS} paths", trap.trap_drag),
        Case("R2", f"A trap that jumps to a random target, x = 1; {trap.PATHS} paths", trap.quench),
        Case(
            "R3",
            f"Hebbian perceptrons, α = ν = 1; {perceptron.PERCEPTRONS} of {perceptron.WEIGHTS} weights",
            perceptron.perceptron,
        ),
        Case(
            "R4",
            f"Stationary ⟨θ²⟩, a = c = 1; {stationary.CHAINS} chains of {stationary.STEPS} steps",
            stationary.variance,
        ),
        Case(
            "R5",
            f"Fluctuation and dissipation, η = .1, μ = .9; {stationary.CHAINS} chains",
            stationary.fluctuation_dissipation,
        ),
        Case("R6", "First law of a recorded training, against a replay", first_law.first_law),
        Case("R7", f"Entropy production rate of a rotating force; {rotation.PATHS} paths", rotation.rotation),
        Case("R8", "Codelength of Bayesian regression", regression.codelength),
        Case(
            "R9",
            f"Free energy of Bayesian regression by annealing; {regression.PATHS} paths",
            regression.annealed_importance_sampling,
        ),
        Case("R10", "Noise scale from halves of batches drawn without replacement", noise.noise_scale),
        Case("R11", "Batch size and power cap of least energy, against a search", batches.batches),
    )
}


def chosen(ids: Iterable[str]) -> list[Case]:
    """Return the cases of these ids (any case of letters), each once and in order; all of them if there is none.

    Raises:
        UsageError: no case has this id.

    >>> [case.id for case in chosen(["r11", "R2", "R2"])]
    ['R2', 'R11']
    """
    wanted = [name.upper() for name in ids]
    for name in wanted:
        if name not in CASES:
            raise UsageError(
                expected=f"cases among {', '.join(CASES)}", got=name, remedy="leave them out to run every case"
            )
    return [case for case in CASES.values() if case.id in wanted or not wanted]


def verify(
    cases: Iterable[Case], seed: int = 0, progress: Callable[[Case], None] = lambda _case: None
) -> Iterator[Row]:
    """Yield a row for each check of each case, as they are done.

    A case that cannot be run here yields a row without a value, which says why; one that raises, a row that failed.
    Neither keeps the others from being run. The same seed gives the same numbers, whichever cases are chosen.
    """
    for case in cases:
        progress(case)
        checks = case.run(np.random.default_rng([seed, int(case.id[1:])]))
        while True:
            t0_s = time.perf_counter()
            try:
                check = next(checks, None)
            except ErgError as error:
                check, checks = _without_value(None, f"cannot be run here: {error}"), iter(())
            except Exception as error:  # whatever a broken formula raises, the other cases are run
                check, checks = _without_value(float("nan"), f"raised {type(error).__name__}: {error}"), iter(())
            if check is None:
                break
            yield Row(case.id, case.title, check, time.perf_counter() - t0_s)


def _without_value(value: float | None, why: str) -> Check:
    return Check(quantity="the case as a whole", expected=0.0, value=value, tolerance=0.0, why=" ".join(why.split()))
