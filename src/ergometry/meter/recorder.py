"""The recorder: a process of its own beside the training, that samples the sensors and keeps everything.

It starts in a few tens of milliseconds (standard library only), in its own session, is no child of the training
process (so ``os.wait()`` there never meets it), learns of that process's end from a pidfd, and then finishes the
run by itself, whatever the end was.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ergometry.core.errors import ErgError, StoreError
from ergometry.core.series import PROCESS
from ergometry.meter import shared
from ergometry.meter.progress import Progress
from ergometry.meter.ring import RingReader
from ergometry.meter.sampler import Sampler, suspended_s
from ergometry.meter.shared import SharedMemory
from ergometry.meter.source import Clocks
from ergometry.sensors.proc import BusyTime, ProcessTree, machine_facts
from ergometry.store import calibration_files
from ergometry.store.liveness import identify, is_alive
from ergometry.store.writer import Writer

COMMIT_S = 1.0
"""Rows wait at most this long: a kill of everything, the recorder too, loses no more."""

DITHER = 0.1
"""Each interval between regular samples is shorter than the period by up to this share, at random. A load in step with
the sampling, such as steps of exactly a second, would else show the same part of itself for ever."""

MAX_HZ = 10.0
"""Sensors are sampled no faster: some boards' counters fall short of the truth when they are."""

PROCESS_S = 2.0
"""The schedule looks at the process tree no more often: a look costs as much as a sample of the sensors, and what it
gives are sums so far. Samples at edges have a look of their own."""

_EDGE_S = 0.01
"""Samples asked for at the edges of windows are taken at most this often."""


class Recorder:
    """One run's recorder: ``loop`` until the training process ends or says that the run has."""

    def __init__(self, config: dict[str, Any], memory: SharedMemory) -> None:
        self.memory = memory
        self.origin_s = float(config["origin_s"])
        self.period_s = 1.0 / min(float(config["sampling_hz"]), MAX_HZ)
        self.writer = Writer(Path(config["file"]))
        self.reader = RingReader(memory)
        self.tree = ProcessTree(int(config["pid"]))
        self.progress = Progress(2, config.get("token", "token")) if config.get("live") else None
        self.busy = BusyTime()
        clocks = Clocks(time.perf_counter, self.origin_s, suspended_s)
        self.sampler = Sampler(self.writer, clocks, pids=lambda: self.tree.pids)
        self.end: dict[str, Any] | None = None
        self.gone = threading.Event()
        self._sampled_s = self._looked_s = -1e9
        self._committed_s = 0.0
        self._next_sample_s = 0.0
        self._dither = random.Random(0)
        self._dither_share = float(config.get("dither", DITHER))
        self._sample_request = self._flush_request = 0
        self._store_error = ""

    def now(self) -> float:
        """Return seconds since the run's origin."""
        return time.perf_counter() - self.origin_s

    def open(self) -> None:
        """Open the sensors, take the first sample and say that the recorder is ready."""
        self.writer.put_meta("machine", {**machine_facts(), "identity": calibration_files.machine_identity()})
        if calibrated := calibration_files.stored():
            self.writer.put_meta(calibration_files.CALIBRATIONS, calibrated)
        self.writer.put_meta("recorder_pid", os.getpid())
        self.writer.commit()
        self.sampler.open()
        self.sampler.sample()
        self._sampled()
        self._look_at_processes()
        self.commit()
        self.memory.set_word(shared.STATE, shared.READY)

    def _sampled(self) -> None:
        self._sampled_s = t_s = self.now()
        self.memory.live = (t_s, self.sampler.tally.energy_j, self.sampler.tally.power_w)

    def _look_at_processes(self) -> None:
        """Note what the measured processes and the whole machine have used so far."""
        self._looked_s = t_s = self.now()
        row = (t_s, *self.tree.read(), time.process_time(), self.busy.read())
        self.writer.add_row(PROCESS.name, PROCESS.columns, row)

    def drain(self, *, last: bool = False) -> None:
        """Take what the training process has written."""
        for item in self.reader.drain(last=last):
            if isinstance(item, dict):
                self._message(item)
                continue
            series, values = item
            self.writer.add_row(series.name, series.columns, values)
            if self.progress is not None:
                self.progress.row(series, values)

    def _message(self, message: dict[str, Any]) -> None:
        for key, value in message.get("meta", {}).items():
            self.writer.put_meta(key, value)
        if "notice" in message:
            code, detail = message["notice"]
            self.writer.notice(str(code), str(detail), self.now())
        if "end" in message:
            self.end = message["end"]

    def commit(self) -> None:
        """Write what waits; a store that cannot be written is said once, and tried again at the next commit."""
        self._committed_s = self.now()
        self.writer.put_meta("dropped", self.reader.dropped)
        try:
            self.writer.commit(self.now())
            self.memory.error = ""
        except StoreError as error:
            self.memory.error = str(error)
            if not self._store_error:
                sys.stderr.write(f"erg: the run cannot be stored at the moment, training goes on: {error}\n")
                self.writer.notice("store.unwritable", error.got, self.now())
            self._store_error = str(error)

    def loop(self) -> None:
        """Sample, drain and commit until the run has ended."""
        self._next_sample_s = self._sampled_s + self.period_s
        while self.end is None and not self.gone.is_set():
            self._wait()
            self._sample_if_due(self.now())
            self._commit_if_due(self.now())
            if self.progress is not None:
                self.progress.show(self.now(), (self.sampler.tally.energy_j, self.sampler.tally.power_w))

    @property
    def _sample_asked(self) -> bool:
        return self.memory.word(shared.SAMPLE_REQUEST) != self._sample_request

    @property
    def _flush_asked(self) -> bool:
        # Whoever asks for both wants the sample in the file; it is due within 10 ms.
        return self.memory.word(shared.FLUSH_REQUEST) != self._flush_request and not self._sample_asked

    def _wait(self) -> None:
        seen = self.memory.word(shared.WAKE)
        due_s = min(self._next_sample_s, self._committed_s + COMMIT_S)
        if self._sample_asked:
            due_s = min(due_s, self._sampled_s + _EDGE_S)
        if not self._flush_asked:
            self.memory.wait(seen, due_s - self.now())

    def _sample_if_due(self, now_s: float) -> None:
        regular = now_s >= self._next_sample_s
        if not regular and not (self._sample_asked and now_s - self._sampled_s >= _EDGE_S):
            return
        self._sample_request = self.memory.word(shared.SAMPLE_REQUEST)
        self.sampler.sample(regular=regular)
        self._sampled()
        if not regular or now_s - self._looked_s >= 0.9 * PROCESS_S:
            self._look_at_processes()
        if regular:
            # Whole periods only: after a suspension there is no burst to catch up.
            missed = int((now_s - self._next_sample_s) / self.period_s)
            self._next_sample_s += self.period_s * (1 + missed - self._dither_share * self._dither.random())

    def _commit_if_due(self, now_s: float) -> None:
        # With the second's sample, where there is one: waking once costs half of waking twice.
        with_sample = self._sampled_s > self._committed_s and now_s - self._committed_s >= 0.85 * COMMIT_S
        if not (self._flush_asked or with_sample or now_s - self._committed_s >= COMMIT_S):
            return
        request = self.memory.word(shared.FLUSH_REQUEST)
        self.sampler.collect()
        self.drain()
        self.commit()
        self._flush_request = request
        self.memory.set_word(shared.FLUSH_DONE, request)

    def finish(self) -> bool:
        """Take the last sample and the last rows, and close the file as one that opens anywhere.

        Returns:
            Whether no sensor hangs; a thread that is in a call of one may not let this process end.
        """
        self.sampler.finish()
        self._sampled()
        self._look_at_processes()
        self.drain(last=True)
        end = self.end or {"status": "interrupted", "exit_status": None}
        if self.end is None:
            self.writer.notice("run.interrupted", f"after {self.now():.1f} s", self.now())
        if self.reader.dropped:
            self.writer.notice("records.dropped", str(self.reader.dropped), self.now())
        self.writer.put_meta("dropped", self.reader.dropped)
        duration_s = float(end.get("t_s", self.now()))
        try:
            self.writer.finish(str(end["status"]), end["exit_status"], duration_s)
        except StoreError as error:
            self.memory.error = str(error)
        if self.progress is not None:
            self.progress.close()
        self.memory.set_word(shared.STATE, shared.FINISHED)
        return self.sampler.close()  # now that nobody waits for us any more

    def watch(self, pidfd: int, pid: int) -> None:
        """Set ``gone`` when the training process has ended, and wake the loop."""
        if pidfd >= 0:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            while not poll.poll():
                pass
        else:
            identity = identify(pid)
            while is_alive(identity):
                time.sleep(0.2)
        self.gone.set()
        self.memory.wake()


def main(config_json: str) -> None:
    """Be the recorder: entered in a new session, leaves its parent at once."""
    if os.fork():
        os._exit(0)
    config = json.loads(config_json)
    sys.path.extend(config["path"])
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when the training does, never before
    memory = SharedMemory.attach(int(config["memory"]))
    memory.set_word(shared.RECORDER_PID, os.getpid())
    try:
        recorder = Recorder(config, memory)
        recorder.open()
    except Exception as error:  # whatever it is, the script is told, and does not wait for a recorder that is gone
        memory.error = str(error) if isinstance(error, (ErgError, OSError)) else repr(error)
        memory.set_word(shared.STATE, shared.FAILED)
        return
    watcher = threading.Thread(target=recorder.watch, args=(int(config["pidfd"]), int(config["pid"])), daemon=True)
    watcher.start()
    recorder.loop()
    all_closed = recorder.finish()
    if config.get("ephemeral"):
        _wait_and_remove(Path(config["file"]), recorder)
    if not all_closed:
        os._exit(0)


def _wait_and_remove(file: Path, recorder: Recorder) -> None:
    # A window's energy may be asked for until the process ends; then nothing is left behind.
    recorder.gone.wait()
    file.unlink(missing_ok=True)
    file.parent.rmdir()
