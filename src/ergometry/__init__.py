"""ergometry: the ergometer of neural-network training.

``measure`` meters a window of anything, ``record`` a training loop; the command ``erg`` runs whole scripts. Importing
this package imports nothing heavy: what is named here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ergometry import equations, work
    from ergometry.core.estimate import Estimate, Provenance
    from ergometry.core.run import Run
    from ergometry.session import Recording, Window, measure, record
    from ergometry.store.reader import load

__version__ = "0.1.0"

__all__ = ["Estimate", "Provenance", "Recording", "Run", "Window", "equations", "load", "measure", "record", "work"]

_HOMES = {
    "Estimate": "ergometry.core.estimate",
    "Provenance": "ergometry.core.estimate",
    "Run": "ergometry.core.run",
    "Recording": "ergometry.session",
    "Window": "ergometry.session",
    "measure": "ergometry.session",
    "record": "ergometry.session",
    "load": "ergometry.store.reader",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("equations", "work"):
        return importlib.import_module(f"ergometry.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
