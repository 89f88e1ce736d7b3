"""The operations of one training iteration on a pipeline, what each waits for, and the usual orders of them.

An iteration is a directed acyclic graph. Every operation runs on one stage at one of several measured points
(frequency, time, energy); it begins when all that it waits for has ended. The orders here only say
what waits for what: any other graph is planned alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from ergometry.core.errors import UsageError

FORWARD, BACKWARD = "forward", "backward"


class Point(NamedTuple):
    """One measured way to run an operation: clock in MHz, seconds, joules."""

    frequency_mhz: float
    time_s: float
    energy_j: float


class Operation(NamedTuple):
    """One operation: the stage it runs on, what it is, and of which microbatch."""

    stage: int
    instruction: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.instruction} of microbatch {self.microbatch} on stage {self.stage}"


@dataclass(frozen=True)
class Dag:
    """Operations in an order in which each comes after all that it waits for.

    Attributes:
        operations: every operation of the iteration.
        edges: (before, after), as positions in ``operations``, before < after.
        devices: how many run side by side; each blocks at its blocking power when it does not compute.
    """

    operations: tuple[Operation, ...]
    edges: tuple[tuple[int, int], ...]
    devices: int

    @classmethod
    def of(cls, after: Mapping[Operation, Iterable[Operation]], devices: int) -> Dag:
        """Return the graph in which each operation waits for those that it names.

        Raises:
            UsageError: operations wait for each other in a circle.
        """
        try:
            order = tuple(TopologicalSorter(after).static_order())
        except CycleError as error:
            circle = " waits for ".join(str(operation) for operation in error.args[1])
            raise UsageError(
                expected="an order without circles", got=circle, remedy="leave out one of these dependencies"
            ) from None
        place = {operation: i for i, operation in enumerate(order)}
        edges = {(place[before], place[one]) for one, befores in after.items() for before in befores}
        return cls(order, tuple(sorted(edges)), devices)

    @cached_property
    def before(self) -> tuple[tuple[int, ...], ...]:
        """Return what each operation waits for."""
        found: list[list[int]] = [[] for _ in self.operations]
        for u, v in self.edges:
            found[v].append(u)
        return tuple(map(tuple, found))

    @cached_property
    def after(self) -> tuple[tuple[int, ...], ...]:
        """Return what waits for each operation."""
        found: list[list[int]] = [[] for _ in self.operations]
        for u, v in self.edges:
            found[u].append(v)
        return tuple(map(tuple, found))

    def starts(self, durations_s: Sequence[float]) -> list[float]:
        """Return when each operation begins at the earliest."""
        starts = [0.0] * len(self.operations)
        for v, befores in enumerate(self.before):
            for u in befores:
                starts[v] = max(starts[v], starts[u] + durations_s[u])
        return starts

    def iteration_s(self, durations_s: Sequence[float]) -> float:
        """Return when the last operation ends.

        >>> one_forward_one_backward(2, 3).iteration_s([1.0] * 12)
        8.0
        """
        return max(start + took for start, took in zip(self.starts(durations_s), durations_s, strict=True))


def gpipe(stages: int, microbatches: int) -> Dag:
    """Return GPipe's order: each stage runs all forwards, then all backwards."""
    _check(stages, microbatches)
    order = [(FORWARD, m) for m in range(microbatches)] + [(BACKWARD, m) for m in range(microbatches)]
    return _pipeline([[(stage, *one) for one in order] for stage in range(stages)], stages)


def one_forward_one_backward(stages: int, microbatches: int) -> Dag:
    """Return the 1F1B order: after a warm-up of forwards, backward and forward in turn.

    Stage s of S begins with min(S − 1 − s, M) forwards, so that no stage holds more than S microbatches.

    >>> [str(o) for o in one_forward_one_backward(1, 2).operations][:2]
    ['forward of microbatch 0 on stage 0', 'backward of microbatch 0 on stage 0']
    """
    _check(stages, microbatches)
    rows = []
    for stage in range(stages):
        warm_up = min(stages - 1 - stage, microbatches)
        row = [(stage, FORWARD, m) for m in range(warm_up)]
        for m in range(microbatches - warm_up):
            row += [(stage, FORWARD, warm_up + m), (stage, BACKWARD, m)]
        rows.append(row + [(stage, BACKWARD, m) for m in range(microbatches - warm_up, microbatches)])
    return _pipeline(rows, stages)


def interleaved(devices: int, microbatches: int, chunks: int) -> Dag:
    """Return the interleaved 1F1B order: each device runs ``chunks`` stages, device d of D those d, d + D, and so on.

    The order is that of Narayanan et al. 2021 (arXiv 2104.04473): microbatches go through a device's stages in groups
    of as many as there are devices.

    Raises:
        UsageError: the microbatches are not a multiple of the devices.
    """
    _check(devices, microbatches)
    if chunks < 1 or microbatches % devices:
        raise UsageError(
            expected=f"one chunk or more and microbatches in multiples of the {devices} devices",
            got=f"{chunks} chunks, {microbatches} microbatches",
            remedy="round the microbatches up, or use the 1f1b order",
        )
    total, group = microbatches * chunks, devices * chunks

    def nth(device: int, k: int, instruction: str) -> tuple[int, str, int]:
        chunk = k % group // devices
        if instruction == BACKWARD:
            chunk = chunks - 1 - chunk
        return chunk * devices + device, instruction, k // group * devices + k % devices

    rows = []
    for device in range(devices):
        warm_up = total if microbatches == devices else min(2 * (devices - 1 - device) + (chunks - 1) * devices, total)
        row = [nth(device, k, FORWARD) for k in range(warm_up)]
        for k in range(total - warm_up):
            row += [nth(device, warm_up + k, FORWARD), nth(device, k, BACKWARD)]
        rows.append(row + [nth(device, k, BACKWARD) for k in range(total - warm_up, total)])
    return _pipeline(rows, devices * chunks)


def _check(stages: int, microbatches: int) -> None:
    if stages < 1 or microbatches < 1:
        raise UsageError(
            expected="one stage and one microbatch at least",
            got=f"{stages} stages, {microbatches} microbatches",
            remedy="give positive numbers",
        )


def _pipeline(rows: Sequence[Sequence[tuple[int, str, int]]], stages: int) -> Dag:
    """Return the graph of what each device runs in order (a row), on a pipeline of so many stages."""
    after: dict[Operation, list[Operation]] = {}
    for row in rows:
        operations = [Operation(*one) for one in row]
        for operation in operations:
            stage, instruction, microbatch = operation
            waits = after.setdefault(operation, [])
            if instruction == FORWARD and stage > 0:
                waits.append(Operation(stage - 1, FORWARD, microbatch))
            if instruction == BACKWARD:
                last = stage == stages - 1
                waits.append(Operation(stage, FORWARD, microbatch) if last else operation._replace(stage=stage + 1))
        for one, following in itertools.pairwise(operations):
            after[following].append(one)
    return Dag.of(after, len(rows))
