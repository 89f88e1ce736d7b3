"""Values that an accelerator has not computed yet: copied without waiting, read when they are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

Read = Callable[[Any], None]


class Pending:
    """Reads tensors' values without synchronising: at once on the CPU, otherwise a step or so later."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Any, torch.Tensor, Read]] = deque()

    def read(self, tensor: torch.Tensor, then: Read) -> None:
        """Call ``then`` with the tensor's value (as ``tolist()`` gives it), now or in a later :meth:`poll`."""
        if tensor.device.type == "cpu":
            then(tensor.tolist())
            return
        host = tensor.to("cpu", non_blocking=True)
        event = torch.get_device_module(tensor.device).Event()
        event.record()
        self._queue.append((event, host, then))

    def poll(self) -> None:
        """Read what has arrived."""
        while self._queue and self._queue[0][0].query():
            _, host, then = self._queue.popleft()
            then(host.tolist())

    def drain(self) -> None:
        """Read everything, waiting for it: only when the run is over."""
        while self._queue:
            event, host, then = self._queue.popleft()
            event.synchronize()
            then(host.tolist())
