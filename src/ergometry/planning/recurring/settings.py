"""What the policy for recurring jobs takes for granted: prior widths and how much it looks ahead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Priors and attitudes; lengths are in octaves of batch size, spreads in natural logarithms.

    The defaults are round numbers from what is known of training runs in general; ``benchmarks/recurring.py`` says
    which of them were looked at on jobs, and what leave-one-job-out makes of them.
    """

    knee_octaves: float = 2.0
    """Where the critical batch size is expected, above the user's default."""
    knee_sd: float = 4.0
    no_floor: float = 6.0
    """Odds that the noise floor of small batches lies far below all sizes, against each nearer place."""
    deviation_sd: float = 0.35
    deviation_length: float = 2.0
    own_sd: float = 0.06
    """Of each batch size's own, beyond law and smooth deviation."""
    run_noise: tuple[float, ...] = (0.08, 0.16, 0.3)
    """Spreads of log epochs from run to run between which the data choose."""
    cost_sd: float = 0.15
    cost_length: float = 2.0
    cost_own_sd: float = 0.05

    horizon: float = 30.0
    """Recurrences still to come that are reckoned with at first."""
    horizon_growth: float = 1.0
    """More of them for each that has been: what has gone on for long will."""
    second_looks: float = 0.25
    """How often a size is run for the mere chance that it is better: a size with chance p in p/4 of the recurrences.
    What a trial is worth is reckoned one trial ahead, so that a few unlucky runs could shut the best size out."""
    trial_spend: float = 0.4
    """Share of the best size's cost after which a bad trial is given up, as expected beforehand."""
    finish_horizon: float = 20.0
    """Like ``horizon``, for what finishing a trial teaches."""
    margin: float = 0.1
    """What a restart at another size must gain."""
    margin_same: float = 1.0
    """What a restart at the same size must gain."""
    attempts: int = 4
    """Attempts of one recurrence before it is run at the best size to its end."""

    curve_spread: float = 0.25
    """Spread of a level's log time to the target between distant batch sizes, per log time."""
    curve_length: float = 1.5
    curve_noise: float = 0.1
    """The same from run to run."""
    epoch_blur: float = 0.8
    """Levels are seen at ends of epochs only: spread of a crossing, in epochs."""
    slow_start: float = 0.05
    """Share of runs whose curve says nothing (it stalls and then leaps)."""
    failure: float = 0.05
    """Chance that a run at an untried size never reaches the target."""
    failure_length: float = 0.5
    failure_cost: float = 2.0
    """What a failed run costs, in runs."""

    stretch_s: float = 2.0
    """How long a power limit is tried inside a run."""
    stretch_noise: float = 0.02
    """Relative error of a stretch of one second; falls with the square root of its length."""
    limit_tolerance: float = 0.002
    """Expected relative gain for which another power limit is still tried."""
