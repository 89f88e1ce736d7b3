"""Probe: the one batch on which outputs are looked at along a run, and when it ends."""

from __future__ import annotations

from typing import Any

from ergometry.integrations.physics.owned_loss import OwnedLoss
from ergometry.integrations.physics.tap import Site


class Probe:
    """The user's probe batch in evaluation mode; else the tape kept of a training step; else a batch of their loss.

    ``what`` says which in words, ``why`` why there is none.
    """

    def __init__(self, site: Site, tapes: Any) -> None:
        self._site, self._tapes = site, tapes
        self._owned = site.loss if isinstance(site.loss, OwnedLoss) else None
        self.tape: Any = None
        self.what = "one training batch, in the mode of its step"
        self.why = "no training step was seen yet"

    def want(self) -> bool:
        """Ask for a step's tape to be kept, if that is what is needed; say whether the step is recorded for it."""
        given = self._owned is not None and self._site.probe is not None
        return self.tape is None and not given and bool(self._tapes.want_probe())

    @property
    def cost_s(self) -> float:
        """Seconds that recording this step has cost."""
        return float(self._tapes.cost_s)

    def find(self) -> Any:
        """Return the tape, None where there is none (yet)."""
        if self.tape is None:
            self.tape = self._found()
        return self.tape

    def _found(self) -> Any:
        owned, found = self._owned, None
        if owned is not None and self._site.probe is not None:
            self.what, found = "the probe batch, in evaluation mode", owned.kept(self._site.probe, training=False)
        elif self._tapes.probe is not None:
            found = self._tapes.probe
        elif owned is not None and owned.batch is not None:
            found = owned.kept(owned.batch, training=True)
        why = found.why if found is not None else self._tapes.probe_why
        self.why = f"needs a batch that can be evaluated again: {why}" if why else ""
        return None if why else found

    def stop(self) -> None:
        """Let go of it."""
        self.tape = None
