"""Units: joule, watt, nat, bit, loss unit and counts, in which a joule and a loss unit never add.

Arithmetic on units is the work of pint, with a registry of our own that holds only what training needs. It is
built at the first use, never at import: equal units, the common case, do not need it.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING, Any

from ergometry.core.errors import UnitMismatch, UsageError

if TYPE_CHECKING:
    from pint import UnitRegistry

#: The loss scale (``loss``) and the joule are two base dimensions: no conversion between them exists.
_DEFINITIONS = """
second = [time] = s
joule = [energy] = J
loss = [loss]
parameter = [parameter]
kelvin = [temperature] = K
nat = [information]
bit = 0.6931471805599453 * nat
flop = [operation]
byte = [data] = B
example = [example]
token = [token]
step = [step]
watt = joule / second = W
hertz = 1 / second = Hz
minute = 60 * second = min
hour = 3600 * second = h
day = 86400 * second
watt_hour = 3600 * joule = Wh
electronvolt = 1.602176634e-19 * joule = eV
kilo- = 1e3 = k-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
milli- = 1e-3 = m-
micro- = 1e-6 = u-
nano- = 1e-9 = n-
pico- = 1e-12 = p-
femto- = 1e-15 = f-
"""

_PREFIXES = ("f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")


@functools.cache
def registry() -> UnitRegistry[Any]:
    """Return the pint registry of ergometry's own units, built once."""
    import pint

    units: UnitRegistry[Any] = pint.UnitRegistry(None)
    units.load_definitions(_DEFINITIONS.strip().splitlines())
    units.formatter.default_format = "~C"
    return units


def factor(unit: str, to: str) -> float:
    """Return the factor that turns a value in ``unit`` into one in ``to``.

    Raises:
        UnitMismatch: the two are not of one dimension, such as a joule and a loss unit; convert neither.

    >>> factor("kJ", "J")
    1000.0
    """
    if unit == to:
        return 1.0
    import pint

    try:
        return float(_one(unit).to(_one(to).units).magnitude)
    except pint.DimensionalityError:
        raise UnitMismatch(
            expected=f"a quantity in {to or '1'}", got=f"one in {unit or '1'}", remedy="there is no factor between them"
        ) from None


def _one(unit: str) -> Any:
    """Return the pint quantity 1 in a unit.

    Raises:
        UnitMismatch: there is no such unit.
    """
    import pint

    try:
        return registry().Quantity(1.0, unit)
    except pint.UndefinedUnitError as error:
        names = error.unit_names
        unknown = names if isinstance(names, str) else ", ".join(names)
        raise UnitMismatch(
            expected="a unit such as J, W, s, nat, loss, example",
            got=unknown,
            remedy="use a unit of ergometry.core.units",
        ) from None


def product(a: str, b: str, *, inverse: bool = False) -> tuple[float, str]:
    """Return (factor, unit) of ``a·b``, or of ``a/b`` when ``inverse``; watt-seconds come back as joules.

    Raises:
        UnitMismatch: one of the two is no unit.

    >>> product("W", "s")
    (1.0, 'J')
    >>> product("J", "example", inverse=True)
    (1.0, 'J/example')
    """
    left, right = _one(a), _one(b)
    result = (left / right if inverse else left * right).to_base_units()
    for name in ("W", "J", "s"):
        if result.is_compatible_with(name) and not result.dimensionless:
            result = result.to(name)
    return float(result.magnitude), f"{result.units:~C}".replace("**", "^")


def parse(text: str | float, unit: str, what: str = "a quantity") -> float:
    """Return what a user wrote ("20 kJ", "1.5h", "300 W") as a number in ``unit``; a bare number is in it already.

    Raises:
        UsageError: it is no number, or its unit is none of this kind: write it as a number with a unit.

    >>> parse("20 kJ", "J"), parse("2h", "s"), parse("0.5 kWh", "J")
    (20000.0, 7200.0, 1800000.0)
    """
    if isinstance(text, int | float):
        return float(text)
    found = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*", text)
    try:
        if found is not None:
            return float(found[1]) * (factor(found[2], unit) if found[2] else 1.0)
    except UnitMismatch:
        pass  # said below, with what was asked for
    example = {"J": "20 kJ", "W": "250 W", "s": "2 h", "byte": "80 GB"}.get(unit, f"5 {unit}")
    raise UsageError(
        expected=f"{what} in {unit}, such as {example}", got=repr(text), remedy="give a number and its unit"
    )


def human(value: float, unit: str, digits: int = 4) -> str:
    """Return a value for a reader: SI prefix, few digits. Only at the edges; inside, everything is SI.

    >>> human(20480.0, "J")
    '20.48 kJ'
    >>> human(0.00032, "s")
    '320 µs'
    >>> human(1.5, "nat/J")
    '1.5 nat/J'
    """
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    head = unit.partition("/")[0]
    if head not in {"J", "W", "s", "flop", "B", "byte", "Hz"} or value == 0:
        return f"{value:.{digits}g} {unit}".strip()
    if head == "s" and abs(value) >= 1:
        return f"{value:.{digits}g} {unit}"
    exponent = min(max(math.floor(math.log10(abs(value)) / 3), -5), 6)
    scaled = value / 1000.0**exponent
    if abs(float(f"{scaled:.{digits}g}")) >= 1000 and exponent < 6:
        exponent += 1
        scaled = value / 1000.0**exponent
    return f"{scaled:.{digits}g} {_PREFIXES[exponent + 5]}{unit}"
