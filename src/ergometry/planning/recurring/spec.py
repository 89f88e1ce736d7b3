"""What is given of a recurring job, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ergometry.core.errors import UsageError


def wrong(expected: str, got: object, remedy: str) -> UsageError:
    """The error that says what was expected, what was got, and what to do."""
    return UsageError(expected=expected, got=str(got), remedy=remedy)


@dataclass(frozen=True)
class JobSpec:
    """What is given of a job: sizes ascending, the limits each can be run at in W, and how its cost is weighed.

    Cost of s seconds and J joules: w·J + (1 − w)·P_max·s, w = ``energy_weight``.
    """

    batch_sizes: tuple[int, ...]
    default_batch_size: int
    limits_at: tuple[tuple[float, ...], ...]
    max_power_w: float
    energy_weight: float
    max_epochs: int
    metric_levels: int
    name: str = ""

    def cost(self, seconds: float, joules: float) -> float:
        """Cost of so many seconds and joules, J."""
        return self.energy_weight * joules + (1 - self.energy_weight) * self.max_power_w * seconds

    def log_epoch_cost(self, seconds: float, joules: float, fraction: float) -> float:
        """Log cost of an epoch, as a stretch of so much of one tells it.

        Raises:
            UsageError: If the stretch was not metered.
        """
        if not all(math.isfinite(v) and v > 0 for v in (seconds, joules, fraction)):
            raise wrong(
                "finite seconds, joules and fraction of an epoch above 0",
                f"{seconds} s, {joules} J, {fraction}",
                "leave out stretches that were not metered",
            )
        return math.log(self.cost(seconds, joules) / fraction)

    def limits(self, batch_size: int, limit_w: float | None = None) -> tuple[float, ...]:
        """Power limits that can be set at a size; an error if the size, or the limit there, is none of the job's."""
        if batch_size not in self.batch_sizes:
            raise wrong(f"a batch size among {list(self.batch_sizes)}", batch_size, "leave it out")
        limits = self.limits_at[self.batch_sizes.index(batch_size)]
        if limit_w is not None and limit_w not in limits:
            raise wrong(f"a power limit among {list(limits)} W", f"{limit_w:g} W", "set one of these")
        return limits


def checked_spec(  # noqa: PLR0913 - what a user tells of a job, all of it checked together
    batch_sizes: Sequence[int],
    default_batch_size: int | None,
    power_limits_w: Sequence[float],
    max_power_w: float | None,
    energy_weight: float,
    max_epochs: int,
    metric_levels: int,
    limits_at: Sequence[Sequence[float]] | None,
    name: str,
) -> JobSpec:
    """The job's description, sorted by batch size, or an error that says what is wrong with it."""
    sizes = list(batch_sizes)
    if not sizes or any(b != int(b) or b < 1 for b in sizes) or len(set(sizes)) != len(sizes):
        raise wrong("one or more distinct batch sizes of at least 1", sizes, "list each size once")
    default = sizes[0] if default_batch_size is None and len(sizes) == 1 else default_batch_size
    if default not in sizes:
        raise wrong(f"a default among {sorted(sizes)}", default, "name the batch size you run today")
    if not power_limits_w or not all(math.isfinite(p) and p > 0 for p in power_limits_w):
        raise wrong("one or more power limits above 0 W", list(power_limits_w), "give the board's limits")
    board = max(power_limits_w) if max_power_w is None else max_power_w
    if max(power_limits_w) > board:
        raise wrong(f"limits up to the board's {board:g} W", list(power_limits_w), "leave out those above it")
    if not 0 <= energy_weight <= 1:
        raise wrong("an energy weight in [0, 1]", energy_weight, "0 minimises time, 1 energy")
    if max_epochs < 1 or metric_levels < 1:
        raise wrong("max_epochs ≥ 1 and metric_levels ≥ 1", (max_epochs, metric_levels), "count the target as a level")
    per_size = [tuple(power_limits_w)] * len(sizes) if limits_at is None else [tuple(row) for row in limits_at]
    if len(per_size) != len(sizes) or any(not row or not set(row) <= set(power_limits_w) for row in per_size):
        raise wrong("for each batch size, some of the power limits", per_size, "give one row per batch size")
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    return JobSpec(
        tuple(int(sizes[i]) for i in order),
        int(default),
        tuple(tuple(sorted(float(p) for p in per_size[i])) for i in order),
        float(board),
        float(energy_weight),
        int(max_epochs),
        int(metric_levels),
        name,
    )
