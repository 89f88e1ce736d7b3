"""Run the benchmarks: every module here that has a ``main()``, in the order of their names, or those named."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path


def find(names: list[str]) -> dict[str, Callable[[], object]]:
    """Return the ``main`` of each benchmark, by name; all of them when no names are given."""
    here = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_"]
    unknown = set(names) - set(here)
    if unknown:
        sys.exit(f"benchmarks: expected one of {', '.join(here)}, got {', '.join(sorted(unknown))}")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names or here}
    return {name: module.main for name, module in modules.items() if hasattr(module, "main")}


def main() -> None:
    """Run them one after the other; one that fails is named at the end, and the others still run."""
    names, failed = sys.argv[1:], []
    sys.argv[1:] = []  # a benchmark with options of its own takes its defaults
    print(f"{platform.platform()}, Python {platform.python_version()}")
    for name, run in find(names).items():
        print(f"\n## {name}\n", flush=True)
        began = time.perf_counter()
        try:
            if run():
                failed.append(name)
        except (Exception, SystemExit) as error:
            failed.append(name)
            print(f"failed: {type(error).__name__}: {error}")
        print(f"\n({name}: {time.perf_counter() - began:.1f} s)", flush=True)
    if failed:
        sys.exit(f"benchmarks: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
