"""A recurring job kept in a file: every decision is written before it is acted on, by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ergometry.planning.recurring import records
from ergometry.planning.recurring.job import RecurringJob
from ergometry.planning.recurring.spec import wrong


class KeptJob(RecurringJob):
    """A ``RecurringJob`` that writes itself to its file after every call that ends, begins or continues an attempt."""

    _path: Path | None = None

    def next_batch_size(self) -> int:
        """As of ``RecurringJob``, and saved."""
        size = super().next_batch_size()
        self._keep()
        return size

    def keep_going(self, epoch: int, levels_reached: int) -> bool:
        """As of ``RecurringJob``, and saved."""
        going = super().keep_going(epoch, levels_reached)
        self._keep()
        return going

    def end_attempt(self, epochs: int, reached: bool) -> None:
        """As of ``RecurringJob``, and saved."""
        super().end_attempt(epochs, reached)
        self._keep()

    def _keep(self) -> None:
        if self._path is not None:
            self.save(self._path)


@contextmanager
def keep(path: str | Path, job: RecurringJob) -> Iterator[KeptJob]:
    """The job as its file knows it, for one process at a time.

    Where there is no file yet the job begins as given. Otherwise it goes on from the file. Other ``settings`` then hold
    for all that was learnt. Where sizes, limits, default or weight were changed, the epochs learnt under the old
    description are kept as those of another machine are, and what an epoch costs is read anew.

    An attempt that is ``running`` at the beginning was left by a process that died: the lock is let go by the system
    when a process ends, however it ends. Go on with it from a checkpoint, or end it with the epochs it did.

    Args:
        path: The state's file, JSON. A file of the same name and ``.lock`` stands beside it and is never removed.
        job: The description of the job, as it would begin.

    Raises:
        UsageError: If another process has the job, the file is damaged or of another job, or cannot be written or
            locked. The file is then as it was.
    """
    path = Path(path)
    with _alone(path):
        kept = _found(path, job)
        kept._path = path
        kept.save(path)
        yield kept


def _found(path: Path, job: RecurringJob) -> KeptJob:
    if not path.exists():
        return KeptJob.from_json(job.to_json())
    stored = KeptJob.load(path)
    if stored.spec == job.spec:
        state = records.load(stored.to_json())
        return stored if stored.settings == job.settings else KeptJob.from_state(replace(state, settings=job.settings))
    if stored.running is not None:
        stored.end_attempt(stored.running.epochs, False)
    return KeptJob.from_json(job.to_json()).warm_start(stored.to_json())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the job's lock; the system lets it go when this process ends."""
    beside = path.with_name(f"{path.name}.lock")
    try:
        file = beside.open("a")
    except OSError as error:
        raise wrong("a folder that can be written", error, "name a file in one") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise wrong(
                f"one process at a time with {path}", "another that has it", "wait until it has ended"
            ) from None
        except OSError as error:
            raise wrong("a file system that can lock", error, "keep the job on a local disk") from None
        yield
