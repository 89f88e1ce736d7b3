"""Catalog: the runs of a store by their labels alone, and which one a user's word for a run means."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ergometry.core.errors import AmbiguousRun, ErgError, RunNotFound, StoreError
from ergometry.store.folders import default_store
from ergometry.store.opening import disk_bytes, first_process, heartbeat_s, opened, process_files, status_of

__all__ = ["RunInfo", "default_store", "list_runs", "remove", "resolve"]

LAST = "last"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run in a list. ``status`` is ``unreadable``, and ``error`` says why, for one that cannot be read."""

    id: str
    path: Path
    name: str | None = None
    tags: tuple[str, ...] = ()
    started: str | None = None
    status: str = "unreadable"
    duration_s: float | None = None
    command: tuple[str, ...] = ()
    disk_bytes: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``erg ls --format json``."""
        return {**asdict(self), "path": str(self.path)}


def list_runs(store: Path, tag: str | None = None) -> list[RunInfo]:
    """Return the runs of a store, the first started first; only their labels are read.

    A run that cannot be read is listed with its error. A store that does not exist yet has no runs.

    Args:
        store: the folder.
        tag: if given, only the runs that carry it.

    Raises:
        StoreError: the store is a file, or may not be read; choose another with ``--store``.
    """
    runs = [describe(folder) for folder in _run_folders(store)]
    return sorted((run for run in runs if tag is None or tag in run.tags), key=_when)


def describe(run_folder: Path) -> RunInfo:
    """Return what is known of a run without its data; never raises for a damaged one."""
    size = disk_bytes(run_folder)
    try:
        file = first_process(run_folder)
        with opened(file) as stored:
            meta = stored.meta()
    except ErgError as error:
        return RunInfo(run_folder.name, run_folder, disk_bytes=size, error=str(error))
    if meta is None:
        return RunInfo(run_folder.name, run_folder, disk_bytes=size, error=f"the labels in {file} are damaged")
    name, started = meta.get("name"), meta.get("started")
    return RunInfo(
        id=run_folder.name,
        path=run_folder,
        name=None if name is None else str(name),
        tags=_words(meta.get("tags")),
        started=None if started is None else str(started),
        status=status_of(meta, file),
        duration_s=heartbeat_s(meta),
        command=_words(meta.get("command")),
        disk_bytes=size,
    )


def resolve(reference: str, store: Path) -> Path:
    """Return the folder of the run that is meant (or the process's file, if that is the path given).

    Args:
        reference: a run's id, an unambiguous beginning of one, a name, a path, or ``last``: the newest started.
        store: the folder of runs.

    Raises:
        RunNotFound: no run answers to it; ``erg ls`` lists the runs.
        AmbiguousRun: several do; give more letters.
    """
    folders = {folder.name: folder for folder in _run_folders(store)}
    if reference in folders:
        return folders[reference]
    if reference == LAST:
        readable = [run for run in list_runs(store) if run.error is None]
        if not readable:
            raise RunNotFound(expected="a run", got=f"none in {store}", remedy="record one with erg run")
        return readable[-1].path
    begun = [folder for name, folder in folders.items() if reference and name.startswith(reference)]
    named = [run.path for run in map(describe, folders.values()) if run.name == reference] if not begun else []
    matches = begun or named
    if len(matches) > 1:
        raise AmbiguousRun(
            expected="one run",
            got=f"{reference!r}, which is {_some(sorted(m.name for m in matches))}",
            remedy="use an id",
        )
    if matches:
        return matches[0]
    path = Path(reference).absolute()
    if reference and (_is_file(path) or process_files(path)):
        return path
    raise RunNotFound(
        expected=f"a run of {store}", got=repr(reference), remedy="erg ls lists them; --store names another store"
    )


def remove(path: Path, *, force: bool = False) -> None:
    """Delete a run's folder and all in it.

    Args:
        path: the folder, as :func:`resolve` returns it.
        force: delete it even while it is being recorded, or when it cannot be read.

    Raises:
        RunNotFound: it is not a run's folder, or holds other folders; delete it by other means.
        StoreError: the run is in progress or cannot be read (``--force`` deletes it), or the system refuses.
    """
    files = process_files(path)
    if not files or any(entry.is_dir() for entry in path.iterdir()):
        raise RunNotFound(
            expected="a run's folder, with files alone", got=str(path), remedy="delete other folders by other means"
        )
    if not force:
        for file in files:
            with opened(file) as stored:
                status = status_of(stored.meta() or {}, file)
            if status == "running":
                raise StoreError(
                    expected="a run that has ended", got=f"{path.name}, in progress", remedy="stop it, or use --force"
                )
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(
            expected="a folder that may be deleted", got=f"{path} ({error.strerror})", remedy="check its permissions"
        ) from error


def _run_folders(store: Path) -> list[Path]:
    try:
        return sorted(entry for entry in store.iterdir() if entry.is_dir() and process_files(entry))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            expected="a folder of runs", got=f"{store} ({error.strerror})", remedy="choose another with --store"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, say
        return False


def _when(run: RunInfo) -> tuple[str, str]:
    """Return what runs are sorted by: the digits of the start; of one that has not said it yet, those of its id."""
    return re.sub(r"\D", "", run.started or run.id[:15]), run.id


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, list) else ()


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
