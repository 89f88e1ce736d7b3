"""The taps of a run, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ergometry.integrations.pending import Pending
from ergometry.integrations.physics.conductor import Conductor
from ergometry.integrations.physics.curvature import Curvature
from ergometry.integrations.physics.equilibrium import Equilibrium
from ergometry.integrations.physics.first_law import FirstLaw
from ergometry.integrations.physics.information import Information
from ergometry.integrations.physics.length import Length
from ergometry.integrations.physics.noise import Noise
from ergometry.integrations.physics.path import Path
from ergometry.integrations.physics.tap import Site, Tap
from ergometry.integrations.physics.tapes import Tapes

if TYPE_CHECKING:
    from ergometry.integrations.tracer import Tracer

TAPS: tuple[tuple[str, Callable[[Site, Tapes], Tap]], ...] = (
    ("first_law", FirstLaw),
    ("noise", lambda site, _tapes: Noise(site)),
    ("equilibrium", lambda site, _tapes: Equilibrium(site)),
    ("path", lambda site, _tapes: Path(site)),
    ("length", Length),
    ("curvature", Curvature),
    ("information", Information),
)


def conduct(tracer: Tracer, *, level: str, every: int | None, loss: Callable[..., Any] | None, probe: Any) -> Conductor:
    """Return the conductor of every tap, for a process that ``tracer`` watches."""
    client, pending = tracer.client, Pending()
    site = Site(
        emit=client.write,
        pending=pending,
        machine=tracer.machine,
        now=tracer.now,
        schedule=tracer.optimizers.schedules.of,
        meta=client.meta,
        notice=client.notice,
        level=level,
        every=every,
        loss=loss,
        probe=probe,
        dataset=tracer.loaders.drawn_from,
        loss_scale=lambda tensors: tracer.physics.loss_scale(tensors),
        affords=lambda seconds: tracer.physics.affords(seconds),
    )
    tapes = Tapes(site)
    taps = [make(site, tapes) for _, make in TAPS]
    return Conductor(
        taps,
        meta=client.meta,
        notice=client.notice,
        level=level,
        tapes=tapes,
        pending=pending,
        beside_s=lambda: tracer.optimizers.ledger_s,
    )
