"""Tracebacks as they are without us: what is called from a hook of ours is shown as the script's own call."""

from __future__ import annotations

import os
import sys
from types import TracebackType

# Code objects carry their file's name as text, so names are compared and no paths.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_THE_PROGRAM = os.path.join(_PACKAGE, "launch.py")  # noqa: PTH118
_OUR_FOLDERS = tuple(os.path.join(_PACKAGE, name, "") for name in ("core", "integrations", "meter"))  # noqa: PTH118
_OUR_FRAMES = (_THE_PROGRAM, "<frozen importlib.util>", "<frozen importlib._bootstrap>")
_WRAPPERS = tuple(os.path.join("torch", *path) for path in (("_compile.py",), ("_dynamo", "eval_frame.py")))  # noqa: PTH118


def trim(error: BaseException) -> None:
    """Take our frames out of an exception's traceback, and out of those of what it came of."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _without_our_frames(one.__traceback__)
        pending += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback as it is without us: neither our frames nor those of torch that we have called for ourselves.

    What a function of ours calls is the script's where that was handed to it as ``original``.
    """
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    torchs = os.path.dirname(torch) + os.sep if torch else None  # noqa: PTH120
    while trace is not None and trace.tb_frame.f_code.co_filename in _OUR_FRAMES:
        trace = trace.tb_next
    kept: list[TracebackType] = []
    for_us = False
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == _THE_PROGRAM or code.co_filename.startswith(_OUR_FOLDERS):
            if code.co_name == "__torch_dispatch__":  # torch puts it into wrappers of its own
                while kept and kept[-1].tb_frame.f_code.co_filename.endswith(_WRAPPERS):
                    kept.pop()
            for_us = not {"original", "_original"} & {*code.co_varnames, *code.co_freevars}
        elif not (for_us and torchs and code.co_filename.startswith(torchs)):
            for_us = False
            kept.append(trace)
        trace = trace.tb_next
    found = None
    for entry in reversed(kept):
        found = TracebackType(found, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return found
