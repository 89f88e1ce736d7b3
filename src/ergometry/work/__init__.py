"""Attribution: what a run spent, by phase, component and domain, and what it did for it. Reads only a Run.

``register_flop`` is here for training scripts: it tells how many FLOP an operator of the script's own does. It needs
torch, and is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ergometry.work.accounts import Accounts
from ergometry.work.attribution import accounts
from ergometry.work.timeline import Timeline

if TYPE_CHECKING:
    from ergometry.integrations.counting.formulas import register_flop

__all__ = ["Accounts", "Timeline", "accounts", "register_flop"]


def __getattr__(name: str) -> Any:
    if name == "register_flop":
        from ergometry.integrations.counting.formulas import register_flop

        return register_flop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
