"""What a run is told of besides its steps: memory, the instrument's own time, profiles, what could not be had."""

from __future__ import annotations

import math
import resource
import sys
from typing import TYPE_CHECKING

import torch

from ergometry.core import series

if TYPE_CHECKING:
    from ergometry.integrations.tracer import Tracer

_PROFILES_S = 2.0


class Teller:
    """Tells it once a second, and at the end."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._profiles, self._profiles_s = 0, -math.inf

    def tell(self, now_s: float) -> None:
        """Emit memory, overhead and the uses of profiles."""
        tracer, emit = self._tracer, self._tracer.client.write
        unit = 1 if sys.platform == "darwin" else 1024
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        emit(series.MEMORY, now_s, -1.0, float(peak_bytes))
        allocated = tracer.models.peak_memory_bytes()
        if allocated is not None:
            emit(series.MEMORY, now_s, *allocated)
        ledger_s = tracer.optimizers.ledger_s + tracer.physics.spent_s
        emit(series.OVERHEAD, now_s, ledger_s, tracer.work.spent_s, tracer.hooks, tracer.hook_s)
        tracer.physics.housekeep()
        self.tell_work(now_s)

    def tell_work(self, now_s: float, *, last: bool = False) -> None:
        """Emit the uses of profiles, and the profiles themselves where there are new ones, ever less often."""
        tracer, adder = self._tracer, self._tracer.work.adder
        for row in adder.rows(now_s, last=last):
            tracer.client.write(series.PROFILE_USES, *row)
        profiles = len(adder.book.entries)
        if profiles > self._profiles and (last or now_s - self._profiles_s > _PROFILES_S * self._profiles):
            self._profiles, self._profiles_s = profiles, now_s
            tracer.client.meta(profiles=adder.book.told())
        if last:
            tracer.client.meta(counting=tracer.work.findings.labels(tracer.work.fits.misfit))

    def finish(self) -> None:
        """Tell all that is left, when the run is over."""
        tracer, client, inference = self._tracer, self._tracer.client, self._tracer.inference
        self.tell_work(tracer.now(), last=True)
        self.tell(tracer.now())
        client.meta(
            inferred=inference.reasons,
            classes=inference.classes,
            label=inference.label,
            threads=torch.get_num_threads(),
            parameters=tracer.models.parameters or None,
        )
        if tracer.machine.steps == 0:
            client.notice("steps.none", "torch was imported, and no optimizer stepped")
        if tracer.machine.skipped:
            client.notice("steps.skipped", str(tracer.machine.skipped))
        if tracer.optimizers.ledger.left_out:
            left_out = f"{tracer.optimizers.ledger.left_out} are complex, or on another device"
            client.notice("ledger.partial", left_out)
        tracer.work.findings.tell(client.notice)
        if tracer.losses.unreadable:
            client.notice("loss.unreadable", str(tracer.losses.unreadable))
