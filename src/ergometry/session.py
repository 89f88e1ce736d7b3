"""The Python API: ``measure()`` a window of anything, ``record()`` a training loop. This alone wires the rooms."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ergometry.core.errors import ErgError, InvalidSeries, MissingExtra, RecorderError, UsageError
from ergometry.core.series import WINDOWS
from ergometry.meter.client import RecorderClient, current, run_labels
from ergometry.store.folders import create_run_folder, default_store, new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ergometry.core.domain import Domain
    from ergometry.core.estimate import Estimate
    from ergometry.core.run import Run
    from ergometry.core.trace import Trace


def measure(name: str = "window") -> Window:
    """Return a window that meters the energy of whatever runs inside it.

    The first call in a process starts a recorder beside it (some tens of milliseconds); beginning and ending a
    window then takes microseconds and waits for nothing: work still queued on an accelerator at the end is not in it,
    unless you synchronise first.

    Inside ``erg run`` or :func:`record` the window is kept with the run, under its name. With ``ERGOMETRY_DISABLE=1``
    it knows its time, and no energy.

    Raises:
        RecorderError: no recorder could be started; the message says why.

    >>> import ergometry as erg
    >>> with erg.measure("sum") as window:
    ...     total = sum(range(1000))
    >>> window.duration_s > 0
    True
    """
    return Window(name, None if _turned_off() else current() or _start_ephemeral())


class Window:
    """A stretch of time and its energy; a context manager. ``energy`` is asked for after its end."""

    def __init__(self, name: str, client: RecorderClient | None) -> None:
        """Meter with ``client``; None meters no energy."""
        self.name = name
        self._client = client
        self._number = client.window_number(name) if client is not None else 0
        self.t0_s = self.t1_s = float("nan")
        self._cover: dict[Domain, Trace | None] | None = None

    def __enter__(self) -> Window:
        client = self._client
        self._cover = None
        if client is None:
            self.t0_s = time.perf_counter()
        else:
            client.sample()
            self.t0_s = client.now()
        return self

    def __exit__(self, *_: object) -> None:
        client = self._client
        if client is None:
            self.t1_s = time.perf_counter()
            return
        self.t1_s = client.now()
        client.sample()
        client.write(WINDOWS, self._number, self.t0_s, self.t1_s)

    @property
    def duration_s(self) -> float:
        """Length of the window, s."""
        return self.t1_s - self.t0_s

    @property
    def traces(self) -> dict[Domain, Trace]:
        """Energy over time of each domain that covers the machine and was read; they do not overlap."""
        return {domain: trace for domain, trace in self._covered().items() if trace is not None}

    @property
    def by_domain(self) -> dict[str, Estimate]:
        """Energy of each domain that covers the machine, J; they do not overlap.

        The first window may be over before a source that is read once a second was read twice: that is waited for.
        """
        return {str(domain): self._of(domain, trace) for domain, trace in self._covered().items()}

    def _covered(self) -> dict[Domain, Trace | None]:
        if self._cover is None:
            if not self.duration_s >= 0:
                raise UsageError(
                    expected="a window that has ended", got="one that has not", remedy="ask after the with block"
                )
            self._cover = {} if self._client is None else _covered(self._client)
        return self._cover

    @property
    def energy(self) -> Estimate:
        """Energy of the window, J: the sum over :attr:`by_domain`, with its standard error and provenance."""
        from ergometry.core.estimate import Estimate, total

        if not self.by_domain:
            unsampled = "no power source was sampled twice; see the run's warnings"
            return Estimate.unknown("J", unsampled if self._client is not None else "ERGOMETRY_DISABLE=1")
        return total(self.by_domain.values())

    def _of(self, domain: Domain, trace: Trace | None) -> Estimate:
        from ergometry.core.estimate import Estimate

        if trace is None:
            return Estimate.unknown("J", f"{domain} was not read twice yet: ask again a second later")
        return trace.energy(self.t0_s, self.t1_s)

    @property
    def power(self) -> Estimate:
        """Mean power of the window, W."""
        from dataclasses import replace

        energy = self.energy
        return replace(energy * (1.0 / self.duration_s), unit="W")


def record(  # noqa: PLR0913 - labels and overrides, all by keyword
    model: Any = None,
    optimizer: Any = None,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    store: str | Path | None = None,
    sampling_hz: float = 1.0,
    examples: float | None = None,
    tokens: float | None = None,
    classes: int | None = None,
    physics: str = "light",
    physics_every: int | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    probe: Any = None,
) -> Recording:
    """Return a context manager that records the training loop inside it as a run.

    It sees what ``erg run`` sees: outermost module calls, ``backward``, optimizer steps, data loaders; no bit changes.

    Args:
        model: module (or several) whose parameters are counted; what else is called is seen all the same.
        optimizer: optimizer (or several) whose steps are training steps; None follows every optimizer.
        name: label of the run.
        tags: further labels.
        store: folder of runs (default ``$ERGOMETRY_STORE``, or ``erg-runs`` in the working folder).
        sampling_hz: samples per second of each power source.
        examples: examples in one outermost call, where the inference would be wrong.
        tokens: tokens likewise.
        classes: classes of the output likewise.
        physics: the thermodynamic ledger: ``off`` (joules and steps only), ``light`` (all that at most 5 % of the step
            time buys) or ``full`` (dear quantities too, whatever they cost).
        physics_every: steps from one use of each estimator to the next; None: as often as its share of time allows.
        loss: ``loss(model, batch)``, the scalar to call ``backward`` on. The loop then calls :meth:`Recording.loss`, so
            that the batch of a step is known, and the ledger can evaluate it again: with the random streams, buffers,
            training flags and autocast of the call, all of which it leaves as they were.
        probe: a batch, as ``loss`` takes it, on which the thermodynamic length is read, in evaluation mode; None: the
            batch of one training step, in the mode of that step.

    Inside ``erg run``, or another recording, the run under way is continued, not doubled, and its level of physics
    holds.

    Raises:
        MissingExtra: torch is not installed; ``pip install 'ergometry[torch]'``.
        UsageError: an argument cannot be used; the message says which, and what to pass.

    >>> record(physics="lots")
    Traceback (most recent call last):
    ...
    ergometry.core.errors.UsageError: expected physics to be off, light or full, got 'lots'; name one of the three
    """
    options = {"examples": examples, "tokens": tokens, "classes": classes}
    models = list(model) if isinstance(model, (list, tuple)) else [] if model is None else [model]
    ledger = _ledger(models, physics=physics, every=physics_every, loss=loss, probe=probe)
    optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [] if optimizer is None else [optimizer]
    return Recording(
        models,
        optimizers,
        labels={"name": name, "tags": list(tags)},
        store=Path(store) if store is not None else None,
        sampling_hz=sampling_hz,
        options=options,
        ledger=ledger,
    )


def _ledger(models: list[Any], *, physics: Any, every: Any, loss: Any, probe: Any) -> dict[str, Any]:
    """Return what the thermodynamic ledger is asked for, checked before the training begins."""
    if physics not in ("off", "light", "full"):
        raise UsageError(expected="physics to be off, light or full", got=repr(physics), remedy="name one of the three")
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise UsageError(
            expected="physics_every to be a whole number of steps, at least 1",
            got=repr(every),
            remedy="leave it out to have the cadence follow the share of time",
        )
    if loss is not None and not callable(loss):
        raise UsageError(
            expected="loss to be a function loss(model, batch)",
            got=type(loss).__name__,
            remedy="pass the function itself; the loop calls run.loss(batch)",
        )
    if loss is not None and len(models) != 1:
        raise UsageError(
            expected="one model with loss",
            got=f"{len(models)}",
            remedy="pass the one that loss(model, batch) is called with",
        )
    if probe is not None and loss is None:
        raise UsageError(
            expected="loss with probe",
            got="a probe batch alone",
            remedy="pass loss=lambda model, batch: …, which says how the batch meets the model",
        )
    return {"physics": physics, "physics_every": every, "loss": loss, "probe": probe}


class Recording:
    """A run being recorded, and afterwards its summary. It never raises into the loop that it records."""

    def __init__(
        self,
        models: list[Any],
        optimizers: list[Any],
        *,
        labels: dict[str, Any],
        store: Path | None,
        sampling_hz: float,
        options: dict[str, Any],
        ledger: dict[str, Any],
    ) -> None:
        self._models, self._optimizers, self._labels = models, optimizers, labels
        self._store, self._sampling_hz, self._options = store, sampling_hz, options
        self._ledger = ledger
        self._loss: Callable[[Any], Any] | None = None
        if ledger["loss"] is not None:
            self._loss = partial(ledger["loss"], models[0])
        self._client: RecorderClient | None = None
        self._owns = False
        self._problem: ErgError | None = None

    def __enter__(self) -> Recording:
        torch = _torch()
        if _turned_off():
            self._problem = UsageError(
                expected="measuring to be on", got="ERGOMETRY_DISABLE=1", remedy="unset it to record"
            )
            return self
        running = current()
        if running is not None and not running.ephemeral:
            self._client = running
            return self
        try:
            self._start(torch)
        except ErgError as problem:
            self._problem = problem
            sys.stderr.write(f"erg: training goes on without being recorded: {problem}\n")
        return self

    def _start(self, torch: Any) -> None:
        from ergometry.integrations.torch_hooks import instrument

        run_id = new_run_id(time.time())
        folder = create_run_folder((self._store or default_store()).absolute(), run_id)
        client = RecorderClient.start(folder, sampling_hz=self._sampling_hz)
        ledger = dict(self._ledger)
        asked = {"physics": ledger["physics"], "physics_every": ledger["physics_every"]}
        client.meta(**run_labels(run_id, sys.argv, self._sampling_hz), **self._labels, options=self._options | asked)
        if ledger["loss"] is not None:
            from ergometry.integrations.physics.owned_loss import OwnedLoss

            ledger["loss"] = OwnedLoss(ledger["loss"], self._models[0], full=ledger["physics"] == "full")
            self._loss = ledger["loss"]
        only = {id(optimizer) for optimizer in self._optimizers} or None
        instrument(torch, client, only=only, models=self._models, **self._options, **ledger)
        self._client, self._owns = client, True

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if not self._owns or self._client is None:
            return
        from ergometry.integrations import torch_hooks

        torch_hooks.finish()
        if self._ledger["loss"] is not None:
            self._loss = partial(self._ledger["loss"], self._models[0])  # nothing is kept of it any more
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "completed" if kind is None else "interrupted" if interrupted else "failed"
        self._client.finish(status, None)
        if self._client.memory.error:
            sys.stderr.write(f"erg: part of this run could not be stored: {self._client.memory.error}\n")

    def loss(self, batch: Any) -> Any:
        """Return the loss of a batch, to call ``backward`` on: what the function given to ``record`` returns.

        The batch is thereby known to the ledger, which may evaluate it again until the step ends: do not change its
        tensors in place before. It works the same where nothing is recorded.

        Raises:
            UsageError: no loss function was given; pass ``erg.record(model, optimizer, loss=…)``.
        """
        if self._loss is None:
            raise UsageError(
                expected="a loss function", got="none", remedy="pass it: erg.record(model, optimizer, loss=loss)"
            )
        return self._loss(batch)

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self._recorded().file.parent

    @property
    def live(self) -> tuple[float, float, float]:
        """Latest sample: run time (s), energy so far (J), power (W); NaN before the second sample."""
        return self._recorded().memory.live

    def run(self) -> Run:
        """Return the run as plain data, as far as it has got."""
        return _stored(self._recorded())

    def summary(self) -> dict[str, Any]:
        """Return the JSON summary (schema ``ergometry.run/1``) as a dict."""
        from ergometry.report.summary import summary

        return summary(self.run())

    def _recorded(self) -> RecorderClient:
        if self._client is None:
            raise self._problem or RecorderError(
                expected="a recording that has begun", got="one that has not", remedy="use it in a with statement"
            )
        return self._client


def _turned_off() -> bool:
    return os.environ.get("ERGOMETRY_DISABLE") == "1"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtra(
            expected="torch", got="no such module", remedy="pip install 'ergometry[torch]', or use erg.measure"
        ) from None
    return torch


def _start_ephemeral() -> RecorderClient:
    folder = Path(tempfile.mkdtemp(prefix="ergometry-"))
    client = RecorderClient.start(folder, ephemeral=True)
    client.meta(**run_labels(folder.name, sys.argv, 1.0))
    return client


_SECOND_READING_S = 1.5
"""Sources that are read once a second have two readings by then. Without the second one their joules would be left
out of the sum in silence."""


def _covered(client: RecorderClient) -> dict[Domain, Trace | None]:
    """Return the traces that cover the machine; None for a domain that was not read twice, though waited for."""
    from ergometry.core.domain import Domain
    from ergometry.work.meters import metering

    until_s = time.monotonic() + _SECOND_READING_S
    while True:
        run = _stored(client)
        once = {Domain(s.domain) for samples in run.samples if len(samples.table.rows) < 2 for s in samples.signals}
        if not once or client.finished or time.monotonic() > until_s:
            break
        time.sleep(0.1)
        client.sample()
    found: dict[Domain, Trace | None] = dict(metering(run.traces(), run.duration_s).cover())
    return found | {domain: None for domain in once if not any(map(domain.overlaps, found))}


def _stored(client: RecorderClient) -> Run:
    from ergometry.store.reader import load

    if not client.flush():
        raise RecorderError(
            expected="the recorder's answer", got="none in time", remedy="it may have been killed; start a new process"
        )
    try:
        return load(client.file.parent)
    except InvalidSeries as error:
        raise RecorderError(expected="a readable run", got=str(error), remedy="report this as a bug") from None
