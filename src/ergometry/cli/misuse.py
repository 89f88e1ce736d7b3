"""What the command-line library rejects, said as every error here is said: expected / got / remedy, on one line.

The library's errors differ by class, and the classes are its own affair: what they carry (``option_name``, ``param``,
the value that could not be read) is looked at instead, and what carries nothing keeps its own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ergometry.core.errors import UsageError

_KINDS = {"float": "a number", "int": "a whole number", "bool": "yes or no"}
_CHOICES = re.compile(r"is not one of (?P<choices>.+?)\.?$")
_NAMED = re.compile(
    r"No such command '(?P<word>.*?)'(?:\. Did you mean (?P<near>.*)\?)?"
    r"|unexpected extra arguments?\(?s?\)? \((?P<extra>.*)\)"
)


def in_house_form(error: Exception) -> UsageError:
    """Return an error of the command-line library as one of ours."""
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    parameter, message = getattr(error, "param", None), " ".join(str(getattr(error, "message", error)).split())
    command = getattr(context, "command_path", None) or "erg"
    look = f"see {command} --help"
    if option is not None and hasattr(error, "possibilities"):
        near = " or ".join(sorted(error.possibilities or ()))
        remedy = f"did you mean {near}? {command} --help lists all" if near else look
        return UsageError(expected=f"an option of {command}", got=option, remedy=remedy)
    if option is not None:  # its value is missing, or it takes none
        bare = "not take" in message
        return UsageError(
            expected=f"{option} without a value" if bare else f"a value after {option}",
            got="one" if bare else "none",
            remedy=look,
        )
    if parameter is not None and hasattr(error, "param_type"):
        known = _choices(parameter)
        wanted = f"{_name(parameter)}{f' ({known})' if known else ''}"
        return UsageError(expected=wanted, got="nothing", remedy=look)
    if parameter is not None:
        expected, got = _read(error, message)
        return UsageError(expected=f"{_name(parameter)} to be {expected}", got=got, remedy=look)
    if found := _NAMED.search(message):
        if found["word"] is not None:
            near = f"did you mean {found['near']}? " if found["near"] else ""
            return UsageError(expected="a command of erg", got=found["word"], remedy=f"{near}erg --help lists all")
        return UsageError(expected=f"no more words after those of {command}", got=found["extra"], remedy=look)
    return UsageError(expected=f"a call that {command} understands", got=message.rstrip("."), remedy=look)


def _name(parameter: Any) -> str:
    """Return an option as it is typed, an argument as the help shows it."""
    options = [name for name in getattr(parameter, "opts", ()) if name.startswith("-")]
    return str(options[0] if options else parameter.metavar or str(parameter.name).upper())


def _choices(parameter: Any) -> str:
    describe = getattr(parameter, "get_missing_message", None)
    found = describe(ctx=None) if callable(describe) else None
    return " ".join(str(found).split()).removeprefix("Choose from: ").rstrip(".") if found else ""


def _read(error: Exception, message: str) -> tuple[str, str]:
    """Return what a value had to be, and what it was."""
    cause = error.__cause__ or error.__context__
    details: Mapping[str, Any] = (
        next(iter(cause.errors()), {}) if cause is not None and hasattr(cause, "errors") else {}
    )
    got = repr(details["input"]) if "input" in details else message.rstrip(".")
    if found := _CHOICES.search(message):
        return f"one of {found['choices'].replace(chr(39), '')}", got
    return _KINDS.get(str(details.get("type", "")).split("_")[0], "a value that can be read"), got
