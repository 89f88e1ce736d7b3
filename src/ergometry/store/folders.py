"""Names and folders of runs: where a store is, what a run is called. Standard library only, and no SQLite.

The user's process makes the folder before its script starts, so that a store that cannot be used is said at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ergometry.core.errors import StoreError

STORE_VARIABLE = "ERGOMETRY_STORE"
DEFAULT_STORE = "erg-runs"
PROCESS_PATTERN = "process-*.sqlite"

_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # 32, without those that look alike


def default_store() -> Path:
    """Return the absolute path of the store: ``$ERGOMETRY_STORE``, else ``erg-runs`` in the working folder."""
    return Path(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE).absolute()


def new_run_id(now_s: float, random: Callable[[int], bytes] = os.urandom) -> str:
    """Return a run's id: its UTC second, which sorts, and four letters, which tell two runs of one second apart.

    Args:
        now_s: wall-clock time in seconds since 1970.
        random: gives that many random bytes.

    >>> new_run_id(1795362301, lambda n: bytes(range(n)))
    '20261122-154501-abcd'
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    return f"{stamp}-{''.join(_LETTERS[byte % 32] for byte in random(4))}"


def process_file(run_folder: Path, pid: int) -> Path:
    """Return the path of one process's file in a run's folder.

    >>> process_file(Path("erg-runs/20261122-154501-k3fq"), 41).name
    'process-41.sqlite'
    """
    return run_folder / f"process-{pid}.sqlite"


def create_run_folder(store: Path, run_id: str) -> Path:
    """Make the run's folder, and the store around it if need be, and return it. One that exists is kept.

    Raises:
        StoreError: the folder cannot be made or written to; choose another with ``--store``.
    """
    folder = store / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError):
        raise _unusable(f"{store}, which is a file or lies inside one") from None
    except OSError as error:
        raise _unusable(f"{store} ({error.strerror})") from None
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _unusable(f"{folder} (permission denied)")
    return folder


def _unusable(got: str) -> StoreError:
    return StoreError(
        expected="a folder for runs that can be written to",
        got=got,
        remedy="choose another with --store or ERGOMETRY_STORE",
    )
