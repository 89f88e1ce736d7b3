"""Counts the passes of a training: under the mode the first time that a signature comes, from memory afterwards.

A pass is an outermost module call, what the script computes between it and the next event (its loss, mostly), a
backward, or an optimizer's step. Nothing is entered or looked at in a pass that is known.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ergometry.integrations.counting.adding import BACKWARD, EVALUATION, FORWARD, OPTIMIZER, Adder
from ergometry.integrations.counting.ambient import Ambient, Pass
from ergometry.integrations.counting.findings import Findings
from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.counting.places import Place, Places
from ergometry.integrations.counting.profiles import Count, compact, summed, tally
from ergometry.integrations.counting.scopes import Scopes, next_number
from ergometry.integrations.counting.shapes import Fits
from ergometry.integrations.counting.signatures import Key, Signatures
from ergometry.integrations.steps import StepMachine

MAX_SIGNATURES = 2048
MAX_IN_FULL = 64
MAX_GRAPHS = 16

FREE_S = 1.0
SHARE = 0.005
DISPATCH_SHARE = 0.3  # of a counted pass, about what dispatching through Python adds


class WorkCounter:
    """Knows the work of each signature, and adds it to the step and to the profiles' uses when it comes."""

    def __init__(self, machine: StepMachine, now: Callable[[], float]) -> None:
        self._machine, self._now = machine, now
        self.signatures = Signatures()
        self.scopes = Scopes()
        self.adder = Adder(machine)
        self.ambient = Ambient()
        self.passing = False
        """Whether a pass is being counted: then modules within it tell where they begin and end."""
        self.spent_s = 0.0
        """Seconds that counting has added, about."""
        self.findings = Findings()
        self._known: dict[tuple[str, Hashable], Count] = {}
        self.fits = Fits()
        self._places = Places()
        self._first_node: int | None = None
        self._evaluated: list[Key] = []
        self._last: tuple[Place, int] | None = None
        self._over = False  # the backward of the calls since the last one has run
        self._remap = 0
        self._stepping: tuple[int, Count | None] | None = None

    # Outermost calls

    def call_begin(
        self, module: torch.nn.Module, args: Any, kwargs: Any, *, evaluation: bool, starts: bool, step_s: float
    ) -> Pass | None:
        """Begin an outermost call of a module with parameters (one without is part of what the script computes).

        Returns what is to be counted, None if it is known (or must be left unknown).
        """
        if not self.ambient.idle:
            self.end_tail()
        key = self.signatures.call(module, args, kwargs, step_s)
        if evaluation:
            self._first_node = None
            if torch.is_grad_enabled():
                self._evaluated.append(key)
            return self._known_or_pass("call", key, EVALUATION, module)
        if self.adder.taken_back:
            self.adder.flush()
        if starts and self._over:
            self._begin_anew()
        elif not torch.is_grad_enabled():
            self._first_node = None
            return self._known_or_pass("call", key, FORWARD, module)
        place = self._places.go(key)
        self._first_node = next_number()
        if place.call is not None and not self._remap:
            self.adder.passes.append(place.call)
            if self.scopes.mapped:
                self.scopes.unmapped()
            return None
        if place.trained is None:
            place.trained = next((weakref.ref(p) for p in module.parameters() if p.requires_grad), None)
        running = self._known_or_pass("call", key, FORWARD, module)
        place.call = self._number("call", key, FORWARD)
        return running

    def _begin_anew(self) -> None:
        """Begin with the first forward after a backward."""
        self._over = False
        self._last = None
        self._evaluated.clear()
        if self.scopes.mapped:
            self.scopes.clear()

    def _number(self, kind: str, key: Hashable, phase: str) -> int | None:
        """Return the number of a pass among a step's, if it is known, and by modules if it is a backward."""
        count = self._known.get((kind, key))
        return None if count is None or not count.mapped else count.entries.get(phase)

    def call_end(self, running: Pass | None, took_s: float, step_s: float) -> None:
        """End it. If it made another graph than calls like it did, its module is looked at when it is called next."""
        if self._first_node is not None:
            size, self._first_node = next_number() - self._first_node, None
            graphs = self._places.here.graphs
            if size not in graphs and len(graphs) < MAX_GRAPHS:
                if graphs:
                    self.signatures.suspect()
                graphs.add(size)
        if running is not None:
            self._keep(running, took_s, step_s)

    def go_on(self, *, halted: bool, watches: bool) -> None:
        """Go on after a call: with the optimizer's step that it ``halted``, or with what the script computes next."""
        if halted:
            self.ambient.resume()
        elif watches:
            self.begin_tail()

    def begin_tail(self) -> None:
        """Watch what the script computes after a forward, until the next event, if it is not known yet."""
        place = self._places.here
        if place.tail is not None:
            self.adder.passes.append(place.tail)
            return
        if self._places.at_root or self._machine.in_optimizer:
            return
        running = self._known_or_pass("tail", place.calls, FORWARD, None, ambient=True)
        place.tail = self._number("tail", place.calls, FORWARD)
        if running is not None:
            self.ambient.enter(running, within=self.passing)

    def end_tail(self) -> None:
        """Watch it no more."""
        self.ambient.tidy()
        running = self.ambient.running
        if running is not None and running.kind == "tail":
            self.ambient.leave()
            self._keep(running, 0.0, 0.0)

    def evaluation_trains(self) -> None:
        """Take what was called last for training after all: its backward comes."""
        calls = self._places.back().calls
        for key in (*self._evaluated, *calls):
            self._places.go(key)
        self._evaluated.clear()

    def unwound(self) -> None:
        """Forget the calls of a step that raised."""
        self.end_tail()
        self._places.back()
        self._evaluated.clear()
        self.passing = False

    # Backward

    def backward_begin(self, *, double: bool) -> Pass | None:
        """Begin a backward of the calls since the last one, or again of those."""
        if self.adder.taken_back:
            self.adder.flush()
        again = 0
        if not self._places.at_root:
            place = self._places.back()
        elif self._last is not None:
            place, again = self._last
            again += 1
        else:
            for phase in (FORWARD, BACKWARD):  # of what no forward was seen
                self.adder.add(phase, None, None)
            return None
        self._last = (place, again)
        self._over = True
        # Gradients that are there already are added to.
        trained = place.trained() if place.trained is not None else None
        way = (again, double, trained is not None and trained.grad is not None)
        number = place.backward.get(way)
        if number is not None:
            self.adder.passes.append(number)
            return None
        key = (place.calls, way)
        running = self._known_or_pass("backward", key, BACKWARD, None, double=double)
        number = self._number("backward", key, BACKWARD)
        if number is not None:
            place.backward[way] = number
        if running is None and self._remap:
            self._remap -= 1
        return running

    def backward_end(self, running: Pass | None, took_s: float, step_s: float) -> None:
        """End it; one whose modules were not followed is counted once more, when they are."""
        if running is None:
            return
        before = self._known.get(("backward", running.key))
        count = self._keep(running, took_s, step_s)
        if not count.mapped and before is None:
            self._remap = 2
        else:
            count.mapped = True
            self._remap = 0

    # Optimizers

    def optimizer_begin(self, optimizer: Any, *, closure: bool, within: bool) -> None:
        """Begin an optimizer's step; one ``within`` another's is part of it."""
        self.end_tail()
        if within and self._stepping is not None and self._stepping[0] != id(optimizer):
            return
        # With a closure the work depends on how often it is called, and on what came before: counted each time.
        key: Hashable = (object(),) if closure else self.signatures.optimizer(optimizer)
        self.ambient.leave()  # of one that raised
        count = self._known.get((OPTIMIZER, key))
        self._stepping = (id(optimizer), count)
        if count is None:
            kind = "closure" if closure else OPTIMIZER
            running = self._pass(kind, key, OPTIMIZER, None, ambient=True)
            if running is not None:
                running.root = type(optimizer).__name__
                self.ambient.enter(running, within=self.passing)

    def optimizer_end(self, optimizer: Any, step_s: float) -> None:
        """End it, and add its work."""
        if self._stepping is None or self._stepping[0] != id(optimizer):
            return
        count = self._stepping[1]
        self._stepping = None
        running = self.ambient.leave()
        if running is not None:
            self._keep(running, 0.0, step_s)
        else:
            self.adder.add(OPTIMIZER, count, None if count is None else count.totals)

    # What is within a counted pass

    def run(self, running: Pass, original: Callable[..., Any], subject: Any, args: Any, kwargs: Any) -> Any:
        """Run a pass under its mode."""
        self.passing = True
        try:
            if running.module is not None:
                self.scopes.enter_root(running.module)
            with running.mode:
                return original(subject, *args, **kwargs)
        finally:
            self.passing = False
            if running.module is not None:
                self.scopes.leave(0)

    def inner(self, original: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module within a counted pass."""
        depth = self.scopes.depth
        self.scopes.enter(module)
        try:
            return original(module, *args, **kwargs)
        finally:
            self.scopes.leave(depth)

    def stop(self) -> None:
        """Watch nothing any more."""
        self.passing = False
        self.ambient.leave()
        self.ambient.tidy()
        self.signatures.remove()

    # Known, fitted, counted or unknown

    def _known_or_pass(self, kind: str, key: Hashable, phase: str, module: Any, **more: bool) -> Pass | None:
        count = self._known.get((kind, key))
        if count is not None:
            again = (kind == "call" and phase == FORWARD and self._remap > 0) or (
                kind == "backward" and not count.mapped and self.scopes.mapped
            )
            if not again or not self._affordable():
                self.adder.add(phase, count, count.totals)
                if kind == "call" and phase == FORWARD:
                    self.scopes.unmapped()
                return None
        return self._unknown(kind, key, phase, module, **more)

    def _unknown(self, kind: str, key: Hashable, phase: str, module: Any, **more: bool) -> Pass | None:
        if (kind, key) not in self._known:
            guess = self.fits.predict(kind, key, affordable=self._affordable())
            if guess is not None:
                self.findings.passes["fitted"] += 1
                totals, count, uses = guess
                self.adder.add(phase, count, totals, uses)
                self.scopes.unmapped()
                return None
        return self._pass(kind, key, phase, module, **more)

    def _pass(
        self, kind: str, key: Hashable, phase: str, module: Any, *, ambient: bool = False, double: bool = False
    ) -> Pass | None:
        """Return a pass to count, unless counting has cost enough, or a mode of the script's own is in the way."""
        blocked = ambient and self.ambient.blocked(self.passing)
        if blocked and kind == "tail":
            self.adder.incomplete()
            return None
        if blocked or not self._affordable():
            self.findings.passes["unknown"] += 1
            self.adder.add(phase, None, None)
            self.scopes.unmapped()
            return None
        parameters: list[torch.Tensor] = []
        if module is not None:
            parameters = [*module.parameters(), *module.buffers()]
            parameters = [p for p in parameters if not torch.nn.parameter.is_lazy(p)]
        elif phase in (BACKWARD, FORWARD):
            parameters = [p for p in (ref() for ref in self.signatures.parameters()) if p is not None]
        mode = CountingMode(
            None if phase == OPTIMIZER else self.scopes,
            parameters,
            backward=phase == BACKWARD,
            double=double,
            optimizer=phase == OPTIMIZER,
        )
        return Pass(mode, kind, key, phase, module)

    def _affordable(self) -> bool:
        # Shapes that never repeat must not make every step a counted one.
        return self.spent_s <= FREE_S + SHARE * self._now()

    def _keep(self, running: Pass, took_s: float, step_s: float) -> Count:
        """Sum up a pass that has been counted, keep it, and add it."""
        mode = running.mode
        began = time.perf_counter()
        seconds = self.findings.note(running)
        count = tally(mode, fused=self.findings.is_fused(running))
        if running.root is not None:
            for part in count.parts:
                part.root = running.root
        for part in count.parts:
            part.items = compact(part.items) if len(self._known) < MAX_IN_FULL else summed(part.items)
        if running.kind != "closure":
            self._store(running.kind, running.key, count)
        self.adder.add(running.phase, count, count.totals)
        # The first call of a compiled model takes as long as its compilation, which is not ours.
        spent_s = DISPATCH_SHARE * min(took_s or seconds, max(step_s, 0.05))
        self.spent_s += spent_s + time.perf_counter() - began
        return count

    def _store(self, kind: str, key: Hashable, count: Count) -> None:
        known = self._known
        if (kind, key) not in known:
            if len(known) >= MAX_SIGNATURES:
                known.pop(next(iter(known)))
            if kind != OPTIMIZER:
                self.fits.add(kind, key, count)
        known[kind, key] = count
