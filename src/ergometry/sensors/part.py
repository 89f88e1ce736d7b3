"""A part of a model of the whole: what stands for a package or a memory whose counter cannot be read.

Where the load of one part of several is not known, it is taken as its equal share of the machine's, and the error of
that is added: if every split of the power among n packages is as likely as any other, the share of one has a
standard deviation of √((n-1)/(n+1)) of its mean, 58 % of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ergometry.core.ports import Availability, Machine, Opener, Sensor

PartOpener = Callable[[Machine, Iterable[int]], tuple[Sensor | None, Availability]]
"""Opens the models of some packages, by their numbers."""


class Part:
    """The equal shares of a modelled whole that stand for parts of the machine, one signal per part.

    Args:
        whole: the model; its first signal is of the whole.
        domains: the parts it stands for.
        parts: how many such parts the machine has, with those that are read.
    """

    def __init__(self, whole: Sensor, domains: Sequence[str], parts: int) -> None:
        self._whole, self._share = whole, 1.0 / parts
        self.source, self.min_period_s, self.may_block = whole.source, whole.min_period_s, whole.may_block
        of = whole.signals[0]
        self.signals = tuple(
            replace(
                of,
                domain=domain,
                method=f"one of {parts} equal parts, as it cannot be read: {of.method}",
                resolution_j=of.resolution_j * self._share,
                resolution_w=of.resolution_w * self._share,
                rel_stderr=math.hypot(of.rel_stderr, math.sqrt((parts - 1) / (parts + 1))),
                wrap_j=None if of.wrap_j is None else of.wrap_j * self._share,
                static_w=None if of.static_w is None else of.static_w * self._share,
                board="",
            )
            for domain in domains
        )

    def read(self, now_s: float) -> tuple[float, ...]:
        """Return the share of the whole's reading, once per part."""
        return (self._whole.read(now_s)[0] * self._share,) * len(self.signals)

    def health(self) -> Sequence[tuple[float, ...]]:
        """Return nothing: there is no board."""
        return ()

    def close(self) -> None:
        """Close the model; again is harmless."""
        self._whole.close()


def opener_of(whole: Opener, domains: Sequence[str], parts: int, own: PartOpener | None = None) -> Opener:
    """Return what opens a model for the parts alone that cannot be read.

    Args:
        whole: opens the model of the whole.
        domains: the parts that cannot be read.
        parts: how many such parts the machine has.
        own: opens models of packages by their own load, which is better where the machine says enough for it.
    """

    def open_part(machine: Machine) -> tuple[Sensor | None, Availability]:
        sensor, found = own(machine, _package_numbers(domains)) if own else (None, Availability("", False))
        if sensor is not None and [signal.domain for signal in sensor.signals] != sorted(domains):
            sensor.close()
            sensor = None
        if sensor is None:
            model, found = whole(machine)
            sensor = None if model is None else Part(model, domains, parts)
        if sensor is None:
            return None, found
        return sensor, replace(found, why=f"stands for {', '.join(domains)}; {found.why}")

    return open_part


def _package_numbers(domains: Sequence[str]) -> list[int]:
    """Return the numbers of the packages, of those that are whole packages.

    >>> _package_numbers(["node0/package1", "node0/package0/die1", "node0/dram1"])
    [1]
    """
    heads = (domain.removeprefix("node0/package") for domain in domains)
    return [int(number) for number in heads if number.isdecimal()]
