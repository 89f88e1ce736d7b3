"""A prediction, before a run or of its rest, as text and as JSON (schema ``ergometry.prediction/1``)."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from ergometry.core.errors import UsageError
from ergometry.core.run import Run
from ergometry.planning.machines import machine as named
from ergometry.planning.plan import Range
from ergometry.planning.predict import (
    FLOP_LOG_SD,
    MFU_MEDIAN,
    Prediction,
    Rate,
    Remainder,
    check_costs,
    mfu_prior,
    remainder,
    training_flop,
    watts_prior,
)
from ergometry.planning.predict import predict as predicted
from ergometry.report.plan import Recorded, run_of
from ergometry.report.words import duration
from ergometry.store.calibration_files import stored
from ergometry.store.catalog import default_store
from ergometry.work.attribution import accounts
from ergometry.work.coefficients import Coefficients, parse

SCHEMA = "ergometry.prediction/1"

LEAST_WATTS_LOG_SD = 0.1
"""A calibration's watts are known no better than this for work that was not its own."""


@dataclass(frozen=True)
class Before(Prediction):
    """A run before it is run, by its numbers."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON: s, J, W, g."""
        return {
            "schema": SCHEMA,
            "time": self.time.to_json(),
            "energy": self.energy.to_json(),
            "power": self.power.to_json(),
            "price": None if self.price is None else self.price.to_json(),
            "carbon": None if self.carbon is None else self.carbon.to_json(),
            "variance_share": dict(self.terms),
            "dominant": self.dominant,
            "assumed": dict(self.assumed),
        }

    def __str__(self) -> str:
        lines = [f"  time    {_time(self.time)}", f"  energy  {self.energy}", f"  power   {self.power}"]
        if self.price is not None:
            lines.append(f"  price   {self.price.value:.4g} [{self.price.low:.4g}, {self.price.high:.4g}]")
        if self.carbon is not None:
            kg = self.carbon.value / 1e3, self.carbon.low / 1e3, self.carbon.high / 1e3
            lines.append(f"  carbon  {kg[0]:.4g} kgCO₂ [{kg[1]:.4g}, {kg[2]:.4g}]")
        lines += ["  (medians, and what holds nine times in ten)", ""]
        lines += [f"{name}: {words}" for name, words in self.assumed.items()]
        share = self.terms[self.dominant]
        return "\n".join(
            [*lines, f"most of the interval ({share:.0%}) is {self.dominant}: a 60 s probe of the script tells it"]
        )


@dataclass(frozen=True)
class Rest(Remainder):
    """The rest of a run that has begun, with what the whole costs.

    Attributes:
        pue: of the building; price and carbon have it, time and energy are the meter's own.
        price: of the whole run, in the unit of the price given; None without one, or without a forecast.
        carbon_g: gCO₂ of the whole run, likewise.
    """

    pue: float = 1.0
    price: float | None = None
    carbon_g: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON: s, J, g; what cannot be told is null, with ``why``."""
        ranges = {name: getattr(self, name) for name in ("time", "energy", "time_left", "energy_left")}
        return {
            "schema": SCHEMA,
            "steps_done": self.steps_done,
            "steps": self.steps,
            **{name: None if found is None else found.to_json() for name, found in ranges.items()},
            "pue": self.pue,
            "price": self.price,
            "carbon_g": self.carbon_g,
            "why": self.why,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        head = f"{self.steps_done} of {self.steps} steps made"
        if self.energy is None or self.time is None or self.energy_left is None or self.time_left is None:
            return textwrap.fill(f"{head}; {self.why}", 80)
        lines = [
            head,
            *_pair("  time    ", f"{_time(self.time)} in all", f"{_time(self.time_left)} left"),
            *_pair("  energy  ", f"{self.energy} in all", f"{self.energy_left} left"),
        ]
        low, high = (x / self.energy.value if self.energy.value else 1.0 for x in (self.energy.low, self.energy.high))
        if self.price is not None:
            lines.append(f"  price   {self.price:.4g} [{self.price * low:.4g}, {self.price * high:.4g}] in all")
        if self.carbon_g is not None:
            kg = self.carbon_g / 1e3
            lines.append(f"  carbon  {kg:.4g} kgCO₂ [{kg * low:.4g}, {kg * high:.4g}] in all")
        return "\n".join(
            [*lines, "  (medians, and what holds nine times in ten)", *(f"note: {note}" for note in self.notes)]
        )


@overload
def predict(
    run: Run | Recorded | str | Path,
    *,
    steps: int,
    pue: float = ...,
    price_per_kwh: float | None = ...,
    carbon_g_per_kwh: float | None = ...,
    store: Path | str | None = ...,
) -> Rest: ...
@overload
def predict(
    run: None = None,
    *,
    parameters: float | None = ...,
    tokens: float | None = ...,
    flops: float | None = ...,
    machine: str | None = ...,
    dtype: str = ...,
    devices: int = ...,
    mfu: float | None = ...,
    pue: float = ...,
    price_per_kwh: float | None = ...,
    carbon_g_per_kwh: float | None = ...,
) -> Before: ...
def predict(
    run: Run | Recorded | str | Path | None = None,
    *,
    steps: int | None = None,
    pue: float = 1.0,
    price_per_kwh: float | None = None,
    carbon_g_per_kwh: float | None = None,
    store: Path | str | None = None,
    **numbers: Any,
) -> Before | Rest:
    """Return what a training run takes, as distributions: the rest of one that has begun, or one by its numbers.

    ``predict(run, steps=20_000)`` forecasts a recording, a run, its id, name or path, or ``last``, from its present
    regime. ``predict(parameters=7e9, tokens=2e12, machine="H100", devices=512)`` needs no run: see :func:`before`.

    Args:
        run: that has begun.
        steps: of it in all.
        pue: power usage effectiveness of the building.
        price_per_kwh: any currency.
        carbon_g_per_kwh: gCO₂ per kWh.
        store: the folder of runs; else ``$ERGOMETRY_STORE``, else ``erg-runs``.
        numbers: of :func:`before`.

    Raises:
        UsageError: no steps in all, or fewer than were made; both a run and numbers; numbers that make no sense.
        RunNotFound: no run answers to the name.
    """
    costs: dict[str, Any] = {"pue": pue, "price_per_kwh": price_per_kwh, "carbon_g_per_kwh": carbon_g_per_kwh}
    if run is None:
        if steps is not None:
            raise UsageError(expected="a run to go with steps", got="none", remedy="see erg ls")
        return before(**numbers, **costs)
    if numbers:
        raise UsageError(expected="a run or numbers", got=f"both, {', '.join(numbers)}", remedy="leave out one")
    begun = run_of(run, Path(store) if store is not None else default_store())
    return rest(begun, steps, pue, price_per_kwh, carbon_g_per_kwh)


def checked_steps(steps: int | None) -> int:
    """Return the steps in all.

    Raises:
        UsageError: they are not stated, or none.
    """
    if steps is None or steps < 1:
        raise UsageError(
            expected="the steps in all with --steps",
            got="none" if steps is None else str(steps),
            remedy="state them, before the run or script",
        )
    return steps


def rest(run: Run, steps: int | None, pue: float, price_per_kwh: float | None, carbon_g_per_kwh: float | None) -> Rest:
    """Return the rest of a run. Arguments and errors as of :func:`predict`."""
    check_costs(pue, price_per_kwh, carbon_g_per_kwh)
    told = remainder(run, accounts(run), checked_steps(steps))
    kwh = None if told.energy is None else told.energy.value / 3.6e6 * pue
    return Rest(
        **vars(told),
        pue=pue,
        price=None if price_per_kwh is None or kwh is None else price_per_kwh * kwh,
        carbon_g=None if carbon_g_per_kwh is None or kwh is None else carbon_g_per_kwh * kwh,
    )


def before(
    *,
    parameters: float | None = None,
    tokens: float | None = None,
    flops: float | None = None,
    machine: str | None = None,
    dtype: str = "bf16",
    mfu: float | None = None,
    **numbers: Any,
) -> Before:
    """Return a run by its numbers.

    Args:
        parameters: of the model.
        tokens: or examples, to train on.
        flops: of the whole training, in place of both.
        machine: accelerator by name, such as ``"H100"``; else what ``erg calibrate`` found of this machine.
        dtype: of the products.
        mfu: model FLOP utilisation, where it is known.
        numbers: ``devices``, ``pue``, ``price_per_kwh``, ``carbon_g_per_kwh`` of
            :func:`ergometry.planning.predict.predict`.

    Raises:
        UsageError: the FLOP cannot be told from these, or the machine is not known, or a number makes no sense.
    """
    if flops is not None and 0 < flops < math.inf and parameters is None and tokens is None:
        flop = Rate(flops, FLOP_LOG_SD, "stated")
    elif flops is None and parameters is not None and tokens is not None:
        flop = training_flop(parameters, tokens)
    else:
        given = (("--parameters", parameters), ("--tokens", tokens), ("--flops", flops))
        raise UsageError(
            expected="--parameters and --tokens, or a positive --flops, or a run, or a script",
            got=", ".join(name for name, x in given if x is not None) or "none of them",
            remedy="see erg predict --help",
        )
    peak, watts = _machine(machine, dtype)
    return Before(**vars(predicted(flop, peak, watts, mfu=mfu_prior(mfu), **numbers)))


def _machine(name: str | None, dtype: str) -> tuple[float, Rate]:
    """Return the peak FLOP/s and the watts of a device: by name, or of this machine's calibration."""
    if name is not None:
        found = named(name)
        return found.peak(dtype), watts_prior(found.power_w, found.name)
    known = {device: one for device, one in parse(stored()).items() if isinstance(one, Coefficients)}
    for device in sorted(known, key=lambda name: name == "cpu"):  # the accelerator before the processor
        peak, e_flop = known[device].peak_flop_per_s.get(dtype), known[device].e_flop.get(dtype)
        static = known[device].static_w
        if peak is not None and peak.value and e_flop is not None and e_flop.value and static.value:
            watts = static.value + e_flop.value * peak.value * MFU_MEDIAN
            error = ((static.stderr or 0.0) ** 2 + (peak.value * MFU_MEDIAN * (e_flop.stderr or 0.0)) ** 2) ** 0.5
            return peak.value, Rate(watts, max(error / watts, LEAST_WATTS_LOG_SD), f"calibration of {device}")
    raise UsageError(
        expected=f"a calibration of this machine in {dtype}, or --machine",
        got=f"calibrations of {', '.join(sorted(known))}" if known else "none",
        remedy="run erg calibrate, or name a machine such as H100",
    )


def _pair(name: str, whole: str, left: str) -> list[str]:
    """Return the whole and what is left on one line of 80 columns, or on two."""
    line = f"{name}{whole}, {left}"
    return [line] if len(line) <= 80 else [f"{name}{whole},", f"{' ' * len(name)}{left}"]


def _time(x: Range) -> str:
    return f"{duration(x.value)} [{duration(x.low)}, {duration(x.high)}]"
