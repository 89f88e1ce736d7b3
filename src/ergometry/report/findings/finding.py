"""Finding: one thing worth knowing of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ergometry.core.estimate import Estimate


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: what, how it is known, what to do, and what that would save at most.

    ``expected_saving`` is None where doing so need not save energy, and unknown, with why, where it cannot be told.
    ``stake_j`` is the energy it concerns, in joules: what findings are ordered by.
    """

    code: str
    text: str
    evidence: str
    remedy: str
    expected_saving: Estimate | None
    stake_j: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the summary's ``findings``."""
        return {
            "code": self.code,
            "text": self.text,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "expected_saving": self.expected_saving,
        }
