"""What is known of a recurring job: how many epochs a run takes at each batch size, and what an epoch costs there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ergometry.planning.recurring.belief import LawBelief, epoch_cost_laws, epoch_laws
from ergometry.planning.recurring.choice import Choice, Outcomes, knowledge_gradient
from ergometry.planning.recurring.outlook import LearningCurves, Outlook
from ergometry.planning.recurring.records import Attempt, Elsewhere
from ergometry.planning.recurring.settings import Settings
from ergometry.planning.recurring.spec import JobSpec

Array = NDArray[np.float64]

READ_NOISE = 0.02
"""Of a log epoch cost read in a run."""
PROBE_NOISE = 0.05
"""Of one read by a probe, at a limit that need not be the best."""
HALF_EPOCH = 0.29
"""Standard deviation of rounding to whole epochs."""
HUGE = 300.0


class Knowledge:
    """Beliefs about the cost of a run at each batch size; a fold over ended attempts and read epoch costs.

    Args:
        spec: The job.
        settings: Priors and attitudes.
        elsewhere: What the same job learnt on another machine, or None.
    """

    def __init__(self, spec: JobSpec, settings: Settings, elsewhere: Elsewhere | None) -> None:
        self.spec, self.settings, self.elsewhere = spec, settings, elsewhere
        foreign = elsewhere.attempts if elsewhere else ()
        known = {a.batch_size for a in foreign} | set(elsewhere.log_epoch_cost if elsewhere else ())
        self._sizes = sorted(set(spec.batch_sizes) | known)
        self._own = np.array([self._sizes.index(b) for b in spec.batch_sizes])
        self._x = np.log2(np.array(self._sizes, dtype=float))
        self._near = np.exp(-0.5 * ((self._x[:, None] - self._x) / settings.failure_length) ** 2)
        self._finished, self._failed = np.zeros(len(self._x)), np.zeros(len(self._x))
        laws, odds = epoch_laws(
            self._x,
            math.log2(spec.default_batch_size),
            knee=settings.knee_octaves,
            knee_sd=settings.knee_sd,
            no_floor=settings.no_floor,
        )
        self._epochs = LawBelief(
            self._x,
            (laws, odds),
            settings.run_noise,
            origin=self._sizes.index(spec.default_batch_size),
            sd=settings.deviation_sd,
            length=settings.deviation_length,
            own_sd=settings.own_sd,
        )
        self._curves = LearningCurves(self._x, spec.metric_levels, settings)
        self._outlook = Outlook(spec.max_epochs, settings)
        self.log_cost: dict[int, float] = {}
        """Log cost of an epoch at each size, in the order first read."""
        self.probed: list[tuple[int, float]] = []
        self._rate = self._rate_belief()
        self._outcomes: Outcomes | None = None
        for attempt in foreign:
            self.learn(attempt)

    @property
    def successes(self) -> int:
        """Runs that reached the target, here and elsewhere."""
        return int(self._finished.sum())

    @property
    def scale(self) -> float:
        """Log of the first epoch cost read: everything is reckoned relative to it, so that no unit matters."""
        return next(iter(self.log_cost.values()), self.probed[0][1] if self.probed else 0.0)

    def restore(self, log_cost: dict[int, float], probed: list[tuple[int, float]]) -> None:
        """Take over epoch costs as they were saved."""
        self.log_cost, self.probed = log_cost, probed
        self._rate, self._outcomes = self._rate_belief(), None

    def read(self, batch_size: int, log_cost: float) -> None:
        """The cost of an epoch at a size, as its stretches so far tell it."""
        if abs(log_cost - self.log_cost.get(batch_size, math.inf)) > 1e-4:
            self.log_cost[batch_size] = log_cost
            self._rate, self._outcomes = self._rate_belief(), None

    def probe(self, batch_size: int, log_cost: float) -> None:
        """The cost of an epoch at a size, as a probe tells it."""
        self.probed.append((batch_size, log_cost))
        self._rate, self._outcomes = self._rate_belief(), None

    def _rate_belief(self) -> LawBelief:
        """Log cost of an epoch over batch size, relative to ``scale``."""
        s, x = self.settings, self._x
        laws = epoch_cost_laws(x)
        odds = np.zeros(len(laws))
        if self.elsewhere and self.elsewhere.log_epoch_cost:
            # The other machine's profile is a law as good as all others together.
            laws = np.vstack([laws, _profile(x, self.elsewhere.log_epoch_cost)])
            odds = np.append(odds, math.log(len(odds)))
        belief = LawBelief(
            x,
            (laws, odds),
            (READ_NOISE,),
            origin=self._sizes.index(next(iter(self.log_cost), self.spec.default_batch_size)),
            sd=s.cost_sd,
            length=s.cost_length,
            own_sd=s.cost_own_sd,
        )
        for size, value in self.log_cost.items():
            belief.update(self._sizes.index(size), value - self.scale)
        for size, value in self.probed:
            belief.update(self._sizes.index(size), value - self.scale, PROBE_NOISE**2)
        return belief

    def _failure(self) -> Array:
        """Chance that a run fails, at every size: failures and successes counted nearby, and a prior run."""
        failed: Array = self._near @ self._failed
        chance: Array = (self.settings.failure + failed) / (1 + self._near @ self._finished + failed)
        return chance

    def outcomes(self) -> Outcomes:
        """Beliefs about a run at each of the job's own sizes; costs relative to ``scale``."""
        if self._outcomes is None:
            self._outcomes = self._compute_outcomes()
        return self._outcomes

    def _compute_outcomes(self) -> Outcomes:
        mean, cov, noise_var = self._epochs.moments()
        rate, rate_cov, _ = self._rate.moments()
        rate, rate_cov = rate.copy(), rate_cov.copy()
        for size, value in self.log_cost.items():
            i = self._sizes.index(size)
            rate[i] = value - self.scale
            rate_cov[i, :] = rate_cov[:, i] = 0.0
        own = self._own
        return Outcomes(
            (mean + rate)[own],
            (cov + rate_cov)[np.ix_(own, own)],
            noise_var,
            # What an epoch costs is uncertain by orders of magnitude far from what was read: expected, not median.
            (rate + 0.5 * np.diag(rate_cov))[own],
            self._failure()[own],
            self.settings.failure_cost,
        )

    def epoch_costs(self) -> dict[int, float]:
        """Log cost of an epoch at every size, read or by the law, relative to ``scale``."""
        rate = self._rate.moments()[0]
        law = {size: float(rate[i]) for i, size in enumerate(self._sizes)}
        return law | {size: value - self.scale for size, value in self.log_cost.items()}

    def choice(self) -> Choice:
        """The size to run next."""
        horizon = self.settings.horizon + self.settings.horizon_growth * self.successes
        return knowledge_gradient(self.outcomes(), horizon=horizon, spend=self.settings.trial_spend)

    def epochs(self, batch_size: int) -> float:
        """Median of the epochs a run takes there."""
        return math.exp(float(self._epochs.moments()[0][self._sizes.index(batch_size)]))

    def learn(self, attempt: Attempt) -> None:
        """Take one ended attempt into the beliefs."""
        self._outcomes = None
        i, epochs = self._sizes.index(attempt.batch_size), attempt.epochs
        mean, cov, noise_var = self._epochs.moments()
        if attempt.reached:
            # The noise of a size is not known from its first runs, however quiet the others are.
            extra = noise_var / (1 + self._finished[i]) + (HALF_EPOCH / epochs) ** 2
            self._epochs.update(i, math.log(epochs), float(extra))
            self._curves.add(i, attempt.crossed, epochs)
            self._finished[i] += 1
            return
        weights, never = self._ending(attempt)
        before = float(self._failure()[i])
        self._failed[i] += max(0.0, (never - before) / (1 - before))
        # The Gaussian observation that would have brought the same posterior of log epochs.
        log_e = np.minimum(self._outlook.log_grid, math.log(2 * self.spec.max_epochs))
        weights = weights / max(float(weights.sum()), 1e-300)
        centre = float(weights @ log_e)
        var, prior = max(float(weights @ (log_e - centre) ** 2), 0.01), float(cov[i, i]) + noise_var
        if var < 0.98 * prior:
            seen_var = 1 / (1 / var - 1 / prior)
            seen = seen_var * (centre / var - float(mean[i]) / prior)
        else:
            seen_var, seen = 4 * prior, 3 * centre - 2 * float(mean[i])
        self._epochs.update(i, seen, max(seen_var / max(1 - never, 1e-3) - noise_var, 0.0))

    def _ending(self, attempt: Attempt) -> tuple[Array, float]:
        """Weights of the final epoch of an attempt that has not reached the target, and of never reaching it."""
        i = self._sizes.index(attempt.batch_size)
        mean, cov, noise_var = self._epochs.moments()
        curves = self._curves.at(i) if self._curves.known else None
        spread = float(cov[i, i]) + noise_var
        failure = float(self._failure()[i])
        return self._outlook.posterior(float(mean[i]), spread, failure, attempt.epochs, attempt.crossed, curves)

    def worth_continuing(self, attempt: Attempt) -> bool:
        """Whether a running attempt, at a size whose epoch cost was read, is worth more than a restart."""
        s, i = self.settings, self._sizes.index(attempt.batch_size)
        weights, never = self._ending(attempt)
        epoch_cost = math.exp(self.log_cost[attempt.batch_size] - self.scale)
        outcomes = self.outcomes()
        expected = np.exp(np.minimum(outcomes.expected, HUGE))
        here = self.spec.batch_sizes.index(attempt.batch_size)
        others = float(np.delete(expected, here).min(initial=math.inf))
        # What a run at this size would then be expected to cost, had this one ended at each epoch of the grid.
        mean, cov, noise_var = self._epochs.moments()
        var = float(cov[i, i])
        trust = var / (var + noise_var)
        log_e = np.minimum(self._outlook.log_grid, math.log(2 * self.spec.max_epochs))
        after = float(mean[i]) + trust * (log_e - float(mean[i])) + 0.5 * (var * (1 - trust) + noise_var)
        same = epoch_cost * np.exp(after + float(outcomes.log_retry[here]))
        again = np.minimum(others * (1 + s.margin), same * (1 + s.margin_same))
        worth = np.zeros_like(same)
        if expected[here] > others:
            worth = (s.finish_horizon + s.horizon_growth * self.successes) * np.maximum(0.0, others - same)
        return self._outlook.continues(
            (weights, never), attempt.epochs, epoch_cost, again, min(others, float(expected[here])), worth
        )


def _profile(x: Array, log_cost: Mapping[int, float]) -> Array:
    """Another machine's log epoch cost at log₂ sizes x: straight between its sizes, and on beyond them."""
    known = sorted(log_cost.items())
    at, cost = np.log2([b for b, _ in known]), np.array([c for _, c in known])
    found: Array = np.interp(x, at, cost)
    if len(known) > 1:
        low, high = (cost[1] - cost[0]) / (at[1] - at[0]), (cost[-1] - cost[-2]) / (at[-1] - at[-2])
        found = found + low * np.minimum(x - at[0], 0) + high * np.maximum(x - at[-1], 0)
    return found
