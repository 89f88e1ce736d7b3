"""Being called back at an import: once, after it, whatever was asked before, and without a trace afterwards."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ergometry.integrations.imports import when_imported

_numbers = itertools.count()


class Package:
    """A package with a submodule in a folder of its own, under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.name = f"erg_imported_{next(_numbers)}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.write("x = 1\n")
        (self.folder / "sub.py").write_text("y = 2\n")
        self.seen: list[ModuleType] = []

    def write(self, text: str) -> None:
        (self.folder / "__init__.py").write_text(text)

    def watch(self) -> None:
        when_imported(self.name, self.seen.append)

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(sys.meta_path)
    package = Package(tmp_path)
    yield package
    package.forget()
    assert sys.meta_path == before, "the finder is gone"


def load(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


def assert_untouched(module: ModuleType) -> None:
    assert module.__spec__ is not None
    loader = module.__spec__.loader
    assert type(loader) is importlib.machinery.SourceFileLoader
    assert module.__loader__ is loader
    assert set(vars(loader)) == {"name", "path"}


def test_it_is_called_once_after_the_module_has_run(package: Package) -> None:
    ran: list[Any] = []
    when_imported(package.name, lambda module: ran.append((module.x, module is sys.modules[package.name])))
    module = load(package.name)
    assert ran == [(1, True)]
    assert_untouched(module)
    load(package.name)
    importlib.reload(module)
    assert len(ran) == 1


def test_it_is_called_at_once_where_the_module_is_there_already(package: Package) -> None:
    module = load(package.name)
    before = list(sys.meta_path)
    package.watch()
    assert package.seen == [module]
    assert sys.meta_path == before
    importlib.reload(module)
    assert len(package.seen) == 1


def test_probes_of_availability_do_not_use_it_up(package: Package) -> None:
    package.watch()
    for _ in range(5):
        spec = importlib.util.find_spec(package.name)
        assert spec is not None
        assert spec.name == package.name
    assert package.name not in sys.modules
    assert package.seen == []
    module = load(package.name)
    assert package.seen == [module]
    assert_untouched(module)


def test_a_probe_after_the_import_finds_what_it_always_found(package: Package) -> None:
    package.watch()
    module = load(package.name)
    assert importlib.util.find_spec(package.name) is module.__spec__
    assert len(package.seen) == 1


def test_a_submodule_may_be_imported_first(package: Package) -> None:
    package.watch()
    sub = load(f"{package.name}.sub")
    assert sub.y == 2
    assert [module.__name__ for module in package.seen] == [package.name]
    assert_untouched(package.seen[0])
    assert_untouched(sub)


def test_a_submodule_may_be_probed_first(package: Package) -> None:
    package.watch()
    assert importlib.util.find_spec(f"{package.name}.sub") is not None  # imports the package
    assert [module.__name__ for module in package.seen] == [package.name]


def test_an_import_that_fails_may_be_tried_again(package: Package) -> None:
    package.watch()
    package.write("raise ImportError('a library is missing')\n")
    for _ in range(2):
        with pytest.raises(ImportError, match="a library is missing"):
            load(package.name)
    assert package.seen == []
    package.write("x = 'mended'\n")
    module = load(package.name)
    assert package.seen == [module]
    assert_untouched(module)


def test_what_the_module_raises_is_raised_as_without_us(package: Package) -> None:
    package.watch()
    package.write("1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        load(package.name)
    files = [entry.path for entry in caught.traceback]
    assert Path(files[-1]) == package.folder / "__init__.py"
    package.write("")
    load(package.name)


def test_a_module_that_is_not_there_is_not_found_as_ever(package: Package) -> None:
    name = f"{package.name}_absent"
    before = list(sys.meta_path)
    when_imported(name, package.seen.append)
    assert importlib.util.find_spec(name) is None
    with pytest.raises(ModuleNotFoundError, match=name) as caught:
        importlib.import_module(name)
    assert caught.value.name == name
    assert package.seen == []
    sys.meta_path[:] = before


def test_a_module_that_is_blocked_stays_blocked(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.meta_path)
    monkeypatch.setitem(sys.modules, package.name, None)
    package.watch()
    with pytest.raises(ModuleNotFoundError):
        load(package.name)
    assert package.seen == []
    sys.meta_path[:] = before


def test_other_modules_are_none_of_its_business(package: Package, tmp_path: Path) -> None:
    package.watch()
    (tmp_path / f"{package.name}_other.py").write_text("")
    assert_untouched(load(f"{package.name}_other"))
    assert package.seen == []
    load(package.name)


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), ImportError("an old torch")])
def test_a_fault_of_ours_does_not_reach_the_users_import(package: Package, error: Exception) -> None:
    def fail(module: ModuleType) -> None:
        raise error

    when_imported(package.name, fail)
    module = load(package.name)
    assert module.x == 1
    assert sys.modules[package.name] is module
    assert_untouched(module)


def test_ctrl_c_while_we_are_called_is_the_scripts(package: Package) -> None:
    def interrupted(module: ModuleType) -> None:
        raise KeyboardInterrupt

    when_imported(package.name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(package.name)


def test_two_may_wait_for_one_module(package: Package) -> None:
    package.watch()
    package.watch()
    importlib.util.find_spec(package.name)
    module = load(package.name)
    assert package.seen == [module, module]
    assert_untouched(module)


def test_a_spec_that_was_found_earlier_may_be_executed_later(package: Package) -> None:
    """As ``transformers`` and others do that load lazily: find, keep, run when needed."""
    package.watch()
    spec = importlib.util.find_spec(package.name)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[package.name] = module
    spec.loader.exec_module(module)
    assert package.seen == []
    assert module.x == 1
    assert package.seen == [module]


def test_threads_that_import_at_once_call_it_once(package: Package) -> None:
    package.watch()
    package.write("import time\ntime.sleep(0)\n" * 50)
    at_once = threading.Barrier(8)
    found: list[Any] = []

    def work(probes: bool) -> None:
        at_once.wait()
        for _ in range(20 if probes else 1):
            importlib.util.find_spec(package.name)
        found.append(load(package.name))

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert package.seen == found[:1]


def test_a_loader_of_many_modules_serves_the_others_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Package
) -> None:
    archive = tmp_path / "archive.zip"
    names = [f"{package.name}_zipped_{letter}" for letter in "ab"]
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(f"{name}.py", "x = 1\n")
    monkeypatch.syspath_prepend(archive)
    when_imported(names[0], package.seen.append)
    for _ in range(3):
        assert importlib.util.find_spec(names[0]) is not None
    other = load(names[1])
    assert package.seen == []
    module = load(names[0])
    assert package.seen == [module]
    assert "exec_module" not in vars(other.__spec__.loader)  # type: ignore[union-attr]
    for name in names:
        del sys.modules[name]


def test_a_loader_that_takes_no_attributes_loads_as_before(package: Package) -> None:
    class Closed(importlib.abc.Loader):
        __slots__ = ()

        def create_module(self, spec: Any) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            module.x = 3  # type: ignore[attr-defined]

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            return importlib.machinery.ModuleSpec(name, Closed()) if name == package.name else None

    finder = Finder()
    before = list(sys.meta_path)
    sys.meta_path.insert(0, finder)
    package.watch()
    assert load(package.name).x == 3
    sys.meta_path[:] = before


def test_a_module_that_is_built_in_keeps_its_loader(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of built-in modules is a class: what is set on it is set for all of them."""
    name = "xxsubtype"
    assert name in sys.builtin_module_names
    before = vars(importlib.machinery.BuiltinImporter)["exec_module"]
    finders = list(sys.meta_path)
    when_imported(name, package.seen.append)
    importlib.util.find_spec(name)
    assert vars(importlib.machinery.BuiltinImporter)["exec_module"] is before
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module(name)
    assert vars(importlib.machinery.BuiltinImporter)["exec_module"] is before
    sys.meta_path[:] = finders
