"""Calls back when a module has been imported, without importing it and without changing what the importer sees."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]


class _Finder:
    """Passes the search on to the finders behind it and lends the loader found an ``exec_module`` that calls back.

    A probe of availability (``find_spec``) only searches; the finder leaves after the module has really run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.callbacks: list[Callback] = []
        self._searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name or self._searching:
            return None
        self._searching = True  # others that pass the search on, as this one does, may ask here again
        try:
            finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            specs = (finder.find_spec(name, path, target) for finder in finders)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self._searching = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._lend(spec.loader)
        return spec

    def _lend(self, loader: Any) -> None:
        # The loader of built-in modules is a class: what is set on it is set for all of them. That of an archive
        # serves all its modules, and is found again at every probe.
        if isinstance(loader, type) or "exec_module" in getattr(loader, "__dict__", {}):
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != self.name:
                execute(module)
                return
            vars(loader).pop("exec_module", None)  # the loader is again what it was
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                for callback in self.callbacks:
                    with contextlib.suppress(Exception):  # the import is the script's
                        callback(module)

        with contextlib.suppress(AttributeError):  # a loader that takes no attributes
            loader.exec_module = exec_module


def when_imported(name: str, callback: Callback) -> None:
    """Call ``callback(module)`` once the module ``name`` has been imported; at once if it has been already.

    What the callback raises after an import is dropped, so that the import succeeds as it would have.
    """
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
        return
    finder = next((known for known in sys.meta_path if isinstance(known, _Finder) and known.name == name), None)
    if finder is None:
        finder = _Finder(name)
        sys.meta_path.insert(0, finder)
    finder.callbacks.append(callback)
