"""Attribution: what a run spent, by phase, component and domain, and what it did for it. Reads only a Run."""

from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts
from ergometry.work.timeline import Timeline

__all__ = ["Accounts", "Timeline", "accounts"]
