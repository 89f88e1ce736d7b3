"""Tells as JSON all that a script can see of the interpreter it runs in."""

import sys

BEFORE = sorted(sys.modules)

import gc
import json
import os
import signal
import threading
import warnings


def hidden(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def descriptors() -> dict[str, str]:
    numbers = os.listdir("/proc/self/fd")
    found = {}
    for number in numbers:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the folder itself, that was being listed
        found[number] = target.split(":")[0]
    return found


def what_is_seen() -> dict[str, object]:
    main = sys.modules["__main__"]
    return {
        "main": {
            name: str(getattr(main, name, "absent")) for name in ("__name__", "__file__", "__package__", "__doc__")
        },
        "main_is_here": main.__dict__ is globals(),
        "main_names": sorted(name for name in vars(main) if name.startswith("__")),
        "spec": getattr(main.__spec__, "name", None),
        "cached": main.__cached__,
        "loader": [hidden(main.__loader__), getattr(main.__loader__, "path", None), main.__loader__.name],
        "builtins": hidden(main.__builtins__),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "cwd": os.getcwd(),
        "flags": str(sys.flags),
        "xoptions": sys._xoptions,
        "warnoptions": sys.warnoptions,
        "filters": [str(entry) for entry in warnings.filters],
        "environ": dict(os.environ),
        "descriptors": descriptors(),
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": len(os.listdir("/proc/self/task")),
        "signals": {str(n): str(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "hooks": [hidden(sys.excepthook), hidden(sys.displayhook), hidden(threading.excepthook), str(sys.gettrace())],
        "gc": [gc.isenabled(), gc.get_threshold()],
        "recursion": sys.getrecursionlimit(),
        "umask": os.umask(0o22),
        "session": [os.getsid(0), os.getpgrp()],
        "executable": [sys.executable, sys.prefix, sys.base_prefix],
        "buffering": [sys.stdout.line_buffering, sys.stdout.write_through, sys.stdout.encoding, sys.stderr.errors],
        "annotations": __annotations__,
    }


if __name__ == "__main__":
    print(json.dumps({"modules": BEFORE, **what_is_seen()}, indent=1))
    warnings.warn("of the script's own", DeprecationWarning)
