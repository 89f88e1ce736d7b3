"""A recurring job in its file: killed half way, damaged, changed, and wanted by two processes at once."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ergometry.core.errors import UsageError
from ergometry.planning.recurring import RecurringJob, Settings, keep

IMPORTS = "import os, signal\nfrom ergometry.planning.recurring import RecurringJob, keep"
DOCS = Path(__file__).parents[3] / "docs"


def described(**changes) -> RecurringJob:
    spec = {
        "batch_sizes": (16, 32, 64, 128), "power_limits_w": (100.0, 200.0), "default_batch_size": 64,
        "max_epochs": 50, "metric_levels": 3, "name": "nightly",
    }  # fmt: skip
    return RecurringJob(**{**spec, **changes})


def night(job: RecurringJob, epochs: int = 10) -> int:
    """One recurrence in which every attempt that is not given up reaches the target."""
    while True:
        size, reached, epoch = job.next_batch_size(), False, 0
        while not reached:
            epoch += 1
            limit, _ = job.next_segment(epoch, 0.0)
            job.observe_segment(limit, 60.0 + 600.0 / size, 9000.0, 1.0)
            reached = epoch == epochs
            if not reached and not job.keep_going(epoch, min(2, 3 * epoch // epochs)):
                break
        job.end_attempt(epoch, reached)
        if reached:
            return size


def elsewhere(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in another process, which has ``described``, ``keep`` and the file's ``path``."""
    return subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\n{inspect.getsource(described)}\npath = {str(path)!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_nights_in_a_file_are_those_of_one_long_life(tmp_path) -> None:
    path, lived, kept = tmp_path / "job.json", described(), []
    for _ in range(6):
        with keep(path, described()) as job:
            kept.append(night(job))
    assert kept == [night(lived) for _ in range(6)]
    assert RecurringJob.load(path).to_json() == lived.to_json()


def test_a_night_that_was_killed_is_found_as_far_as_its_last_epoch(tmp_path) -> None:
    path = tmp_path / "job.json"
    killed = elsewhere(
        """
with keep(path, described()) as job:
    job.next_batch_size()
    for epoch in (1, 2, 3):
        limit, _ = job.next_segment(epoch, 0.0)
        job.observe_segment(limit, 60.0, 9000.0, 1.0)
        if epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        job.keep_going(epoch, 0)
""",
        path,
    )
    assert killed.returncode == -signal.SIGKILL
    with keep(path, described()) as job:
        assert job.running is not None
        assert (job.running.batch_size, job.running.epochs) == (64, 2)
        with pytest.raises(UsageError, match="the running attempt to be ended first, got one at batch size 64, 2 epo"):
            job.next_batch_size()
        job.end_attempt(job.running.epochs, reached=False)
        night(job)
    assert "1 run has reached the target, 1 attempt has not" in RecurringJob.load(path).explain()


def test_a_kill_in_the_middle_of_saving_leaves_the_state_before(tmp_path) -> None:
    path = tmp_path / "job.json"
    with keep(path, described()) as job:
        night(job)
    before = path.read_text()
    killed = elsewhere(
        """
with keep(path, described()) as job:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    job.next_batch_size()
""",
        path,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == before
    with keep(path, described()) as job:
        assert job.running is None
        night(job)


def test_two_processes_do_not_get_the_job_at_once(tmp_path) -> None:
    path = tmp_path / "job.json"
    with keep(path, described()) as job:
        size = job.next_batch_size()
        second = elsewhere("with keep(path, described()) as job: job.next_batch_size()", path)
        assert "expected one process at a time with" in second.stderr
        assert "got another that has it; wait until it has ended" in second.stderr
        assert RecurringJob.load(path).running == job.running
    third = elsewhere("with keep(path, described()) as job: print(job.running.batch_size)", path)
    assert third.stdout == f"{size}\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b'{"schema": "ergometry.recurring/1", "spec"', "the JSON of a recurring job"),
        (b"", "the JSON of a recurring job"),
        (b"\xff\xfe\x00", "the JSON of a recurring job"),
        (b'{"schema": "ergometry.recurring/1"}', "a whole state"),
        (b'{"schema": "ergometry.recurring/2"}', "schema ergometry.recurring/1"),
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, damage: bytes, words: str) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(damage)
    with pytest.raises(UsageError, match=f"{words}.*{re.escape(str(path))}"), keep(path, described()):
        pass
    assert path.read_bytes() == damage


def test_a_running_attempt_of_a_size_that_the_job_does_not_have_is_refused() -> None:
    job = described()
    job.next_batch_size()
    state = json.loads(job.to_json())
    state["running"]["batch_size"] = 48
    with pytest.raises(UsageError, match="batch sizes among"):
        RecurringJob.from_json(json.dumps(state))


def test_with_other_sizes_limits_and_weight_it_goes_on_with_the_epochs_it_learnt(tmp_path) -> None:
    path, changes = tmp_path / "job.json", {"batch_sizes": (32, 64, 128, 256), "energy_weight": 1.0}
    with keep(path, described()) as job:
        for _ in range(4):
            night(job)
        known = job._known.epochs(64)
        job.next_batch_size()
        limit, _ = job.next_segment(1, 0.0)
        job.observe_segment(limit, 60.0, 9000.0, 1.0)
        job.keep_going(1, 0)  # and then the machine went down
        begun = len(job._attempts) + 1
    for _ in range(2):
        with keep(path, described(**changes)) as job:
            assert job.running is None
            assert job.spec == described(**changes).spec
            assert job._known.epochs(64) == pytest.approx(known, rel=0.1)
            assert f"{begun} attempts were taken over" in job.explain()
    with keep(path, described(**changes)) as job:
        night(job)
    # Changed once more: what was taken over is handed on, and what came after it too.
    taken = len(job._known.elsewhere.attempts) + len(job._attempts)
    with keep(path, described()) as job:
        assert len(job._known.elsewhere.attempts) == taken


def test_other_settings_hold_for_all_that_was_learnt(tmp_path) -> None:
    path = tmp_path / "job.json"
    with keep(path, described()) as job:
        for _ in range(3):
            night(job)
        loose = described(settings=Settings(run_noise=(0.5,)))
    with keep(path, loose) as changed:
        assert changed.settings == loose.settings
        assert len(changed._attempts) == len(job._attempts)
        assert changed._known.outcomes().noise_var == pytest.approx(0.25)
        assert job._known.outcomes().noise_var < 0.1


def test_a_file_of_another_job_is_refused_and_kept(tmp_path) -> None:
    path = tmp_path / "job.json"
    with keep(path, described()) as job:
        night(job)
    before = path.read_text()
    for change in ({"name": "weekly"}, {"metric_levels": 4}, {"max_epochs": 60}):
        with pytest.raises(UsageError, match="the same job"), keep(path, described(**change)):
            pass
    assert path.read_text() == before


def test_a_folder_that_cannot_be_written_is_told(tmp_path) -> None:
    with (
        pytest.raises(UsageError, match="a folder that can be written"),
        keep(tmp_path / "no" / "job.json", described()),
    ):
        pass


def test_the_worked_example_of_the_docs_runs_night_after_night(tmp_path, monkeypatch, capsys) -> None:
    (code,) = re.findall(
        r"```python\n(# nightly\.py.*?)```", (DOCS / "recurring.md").read_text(encoding="utf-8"), re.DOTALL
    )
    script = tmp_path / "nightly.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for times in (1, 2, 3):
        runpy.run_path(str(script))
        assert capsys.readouterr().out.startswith(f"{times} run{' has' if times == 1 else 's have'} reached the target")
    job = RecurringJob.load(tmp_path / "nightly.json")
    assert job.running is None
    assert len({a.batch_size for a in job._attempts}) > 1
    assert all(meter.joules > 0 for row in job._meters.values() for meter in row.values())
    assert (tmp_path / "model.pt").is_file()
