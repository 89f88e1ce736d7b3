"""The error tree: every error is one line that says what was expected, what was got, and the remedy."""

from __future__ import annotations


class ErgError(Exception):
    """Base of every error ergometry raises on purpose.

    ``str(error)`` is one line: expected, got, remedy. ``exit_status`` is what the command line returns for it:
    1 for a failure, 2 for a wrong use.
    """

    exit_status = 1

    def __init__(self, *, expected: str, got: str, remedy: str) -> None:
        self.expected, self.got, self.remedy = expected, got, remedy
        line = f"expected {expected}, got {got}; {remedy}"
        super().__init__(" ".join(line.split()))


class UsageError(ErgError):
    """A wrong command line or argument."""

    exit_status = 2


class ScriptNotFound(UsageError):
    """The first word of ``erg run`` is neither a script nor a command."""


class UnitMismatch(ErgError):
    """Two quantities whose units do not close, such as a joule and a loss unit, were combined."""


class DomainOverlap(ErgError):
    """Energies of overlapping domains, such as a package and its own core, were added."""


class InvalidSeries(ErgError):
    """A series that cannot be a trace: unequal lengths, too short, or time running backward."""


class StoreError(ErgError):
    """The store or one of its files cannot be used."""


class RunNotFound(StoreError):
    """No run answers to this id, prefix or path."""


class AmbiguousRun(StoreError):
    """More than one run answers to this prefix."""


class ForeignFile(StoreError):
    """A file that is not a run of ergometry's, or is damaged, or of a newer schema."""


class SensorError(ErgError):
    """A power source cannot be opened or read."""


class RecorderError(ErgError):
    """The recorder process could not be started or has ended."""


class MissingExtra(ErgError):
    """An optional dependency that this call needs is not installed."""


class InvalidCalibration(ErgError):
    """A calibration file that is damaged, of a newer schema, or of another machine or board."""
