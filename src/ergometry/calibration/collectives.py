"""All-reduce between ranks as a kernel with known link bytes. Rank 0 calibrates; the others join for this alone."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist

from ergometry.calibration.kernels import synchronise

MESSAGE_BYTES = 1 << 26


class AllReduce:
    """A repeated all-reduce that every rank takes part in, as often as rank 0 says.

    ``link_bytes`` is what one all-reduce sends over links in all: 2(n-1) messages for n ranks, by the ring algorithm.
    """

    def __init__(self, device: torch.device) -> None:
        self._ours = not dist.is_initialized()
        if self._ours:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.device = device
        self.ranks = dist.get_world_size()
        self.message = torch.ones(MESSAGE_BYTES // 4, device=device)
        self._times = torch.zeros(1, dtype=torch.int64, device=device)
        self.link_bytes = 2.0 * (self.ranks - 1) * MESSAGE_BYTES

    def repeat(self, seconds: float) -> int:
        """Have all ranks repeat it for about so long, and return how often; called on rank 0."""
        began = time.perf_counter()
        self._together(3)
        each_s = (time.perf_counter() - began) / 3
        times = max(1, int(seconds / each_s))
        self._together(times)
        return times

    def join(self) -> None:
        """Take part until rank 0 says that it has ended; called on the other ranks."""
        while self._together(0):
            pass
        self._close()

    def end(self) -> None:
        """Let the other ranks go; called on rank 0."""
        self._together(0)
        self._close()

    def _close(self) -> None:
        # Threads that the group left to the interpreter's end can abort it.
        if self._ours:
            dist.destroy_process_group()

    def _together(self, times: int) -> int:
        self._times.fill_(times)
        dist.broadcast(self._times, 0)
        count = int(self._times.item())
        for _ in range(count):
            # The mean, so that repeating it does not overflow.
            dist.all_reduce(self.message)
            self.message.div_(self.ranks)
        synchronise(self.device)
        return count


def ranks() -> int:
    """Return how many ranks a launcher such as torchrun has started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))
