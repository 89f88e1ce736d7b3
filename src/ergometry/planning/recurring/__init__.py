"""Recurring jobs: batch size and power limit learnt from one recurrence to the next."""

from ergometry.planning.recurring.job import RecurringJob
from ergometry.planning.recurring.settings import Settings

__all__ = ["RecurringJob", "Settings"]
