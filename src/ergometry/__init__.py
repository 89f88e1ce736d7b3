"""ergometry: the ergometer of neural-network training.

``measure`` meters a window of anything, ``record`` a training loop; the command ``erg`` runs whole scripts. Importing
this package imports nothing heavy: what is named here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ergometry import equations, work
    from ergometry.core.budget import Budget
    from ergometry.core.estimate import Estimate, Provenance
    from ergometry.core.run import Run
    from ergometry.langevin.ensemble import certified
    from ergometry.report.plan import plan
    from ergometry.report.prediction import predict
    from ergometry.session import Recording, Window, measure, record
    from ergometry.store.reader import load

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Estimate",
    "Provenance",
    "Recording",
    "Run",
    "Window",
    "certified",
    "equations",
    "load",
    "measure",
    "plan",
    "predict",
    "record",
    "work",
]

_HOMES = {
    "Budget": "ergometry.core.budget",
    "Estimate": "ergometry.core.estimate",
    "Provenance": "ergometry.core.estimate",
    "Run": "ergometry.core.run",
    "Recording": "ergometry.session",
    "Window": "ergometry.session",
    "certified": "ergometry.langevin.ensemble",
    "measure": "ergometry.session",
    "plan": "ergometry.report.plan",
    "predict": "ergometry.report.prediction",
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
