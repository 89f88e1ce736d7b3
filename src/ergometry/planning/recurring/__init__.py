"""Recurring jobs: batch size and power limit learnt from one recurrence to the next."""

from ergometry.planning.recurring.job import RecurringJob
from ergometry.planning.recurring.keeping import KeptJob, keep
from ergometry.planning.recurring.settings import Settings

__all__ = ["KeptJob", "RecurringJob", "Settings", "keep"]
