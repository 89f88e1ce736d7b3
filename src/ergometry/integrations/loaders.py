"""Waiting for batches: the passes over data loaders, and the time that the training waits for them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils import data

if TYPE_CHECKING:
    from ergometry.integrations.tracer import Tracer


class Loaders:
    """Times what a loader makes the training wait for, and counts the passes over it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._passes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._pass_of: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._loader: weakref.ref[Any] | None = None
        self._loader_of: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()
        self.last_pass = 0
        """Pass of the batch fetched last, from 1; 0 before any, and where a loader draws with replacement."""

    def iterate(self, original: Callable[..., Any], loader: Any) -> Any:
        """Begin a pass over a loader's data, timed: its workers start here."""
        if self._not_waited_for:
            return original(loader)
        iterator = self._waiting(original, loader)
        self._tracer.own(self._begun, loader, iterator)
        return iterator

    def _begun(self, loader: Any, iterator: Any) -> None:
        # One that draws with replacement has no passes: what it brings may have come before.
        samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
        repeats = any(getattr(sampler, "replacement", False) for sampler in samplers)
        number = 0 if repeats else self._passes.get(loader, 0) + 1
        self._passes[loader] = self._pass_of[iterator] = number
        self._loader_of[iterator] = weakref.ref(loader)

    def next_batch(self, original: Callable[..., Any], iterator: Any) -> Any:
        """Wait for a batch, timed."""
        if self._not_waited_for:
            return original(iterator)
        batch = self._waiting(original, iterator)
        self.last_pass = self._pass_of.get(iterator, 1)
        self._loader = self._loader_of.get(iterator)
        return batch

    def drawn_from(self) -> float | None:
        """Return how many examples the last batch was drawn from without replacement; None where that is not known."""
        loader = self._loader() if self._loader is not None else None
        if loader is None or type(loader.batch_sampler) is not data.BatchSampler:
            return None  # it streams, or batches are put together in a way of the script's own
        sampler = loader.sampler
        if isinstance(sampler, data.SubsetRandomSampler):
            return float(len(sampler))
        whole = type(sampler) in (data.SequentialSampler, data.DistributedSampler) or (
            type(sampler) is data.RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)
        )
        return float(len(loader.dataset)) if whole else None

    @property
    def _not_waited_for(self) -> bool:
        tracer = self._tracer
        return tracer.inside or tracer.work.passing or tracer.elsewhere() or tracer.machine.in_data

    def _waiting(self, original: Callable[..., Any], subject: Any) -> Any:
        tracer = self._tracer
        tracer.own(tracer.physics.pause)
        tracer.own(tracer.work.end_tail)
        tracer.own(tracer.machine.data_begin, tracer.now())
        depth = tracer.machine.depth
        try:
            return original(subject)
        finally:
            if tracer.machine.depth == depth:
                tracer.own(tracer.machine.data_end, tracer.now())
            tracer.own(tracer.physics.go_on, None)
