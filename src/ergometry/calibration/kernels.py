"""Kernels with known work: matrix products of graded intensity in each dtype, and copies through memory."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

COPY_BYTES = 1 << 28
"""A copy moves this much each way: more than any cache holds."""

WIDE = 4096
"""Rows and columns of the matrix that graded products multiply: it must be read anew every time."""

THIN = (1, 8, 32, 128)
"""Columns of what it is multiplied with: 0.5 to 60 FLOP a byte in 32 bits."""

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

EMULATED = 20.0
"""A dtype whose products take so many times as long as those of fp32 is emulated: its joules would say nothing of
it."""

SMALL = 256
"""Rows of the products that are timed to see what a device can do."""

LONGEST_S = 0.2
"""One product takes no longer than this, by the time of a small one."""

_SLICE_S = 0.05


class Work(NamedTuple):
    """A kernel that can be repeated: its name, what one repetition does, its FLOP by dtype and its bytes."""

    name: str
    once: Callable[[], object]
    flops: dict[str, float]
    bytes: float


def kernels(device: torch.device) -> Iterator[Callable[[], Work]]:
    """Yield a maker of each kernel that the device can run; one that it cannot is left out.

    Each is made when its turn comes, so that only one holds memory.
    """
    yield functools.partial(copy, device)
    slowest_s = EMULATED * _product_s(device, "fp32")
    for dtype in DTYPES:
        # fp32 is never emulated, however long it takes on a busy machine.
        if dtype == "fp32" or _product_s(device, dtype) <= slowest_s:
            yield functools.partial(product, device, dtype)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        yield functools.partial(product, device, "tf32")
    for columns in THIN:
        yield functools.partial(thin_product, device, columns)


def copy(device: torch.device) -> Work:
    """Return a copy from memory to memory: no FLOP, each byte read once and written once."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return Work("copy", lambda: target.copy_(source), {}, 2.0 * COPY_BYTES)


def product(device: torch.device, dtype: str) -> Work:
    """Return a square matrix product, as large as compute-bound ones are: 2n³ FLOP, 3n² elements moved."""
    n = 8192 if device.type == "cuda" else 1536
    small_s = _product_s(device, "fp32" if dtype == "tf32" else dtype)
    while n > SMALL and small_s * (n / SMALL) ** 3 > LONGEST_S:
        n //= 2  # so that a stretch ends in time where the dtype is slow
    kind = torch.float32 if dtype == "tf32" else DTYPES[dtype]
    # Zeros would draw less power than data do.
    a, b = (torch.randn(n, n, device=device, generator=_random(device)).to(kind) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=kind)

    def once() -> None:
        with _tf32(dtype):
            torch.mm(a, b, out=out)

    return Work(f"matmul {dtype}", once, {dtype: 2.0 * n**3}, 3.0 * n * n * a.element_size())


def thin_product(device: torch.device, columns: int) -> Work:
    """Return the product of a large matrix with a thin one, whose intensity rises with its columns."""
    a = torch.randn(WIDE, WIDE, device=device, generator=_random(device))
    b = torch.randn(WIDE, columns, device=device, generator=_random(device))
    out = torch.empty(WIDE, columns, device=device)

    def once() -> None:
        with _tf32("fp32"):
            torch.mm(a, b, out=out)

    moved = 4.0 * (WIDE * WIDE + 2 * WIDE * columns)
    return Work(f"matmul fp32 x{columns}", once, {"fp32": 2.0 * WIDE * WIDE * columns}, moved)


def repeat(work: Work, seconds: float, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> int:
    """Repeat a kernel for about so long, the device never idle, and return how often; the device is done then."""
    count, batch = 0, 1
    end = clock() + seconds
    while (now := clock()) < end:
        for _ in range(batch):
            work.once()
        synchronise(device)
        count += batch
        took = max(clock() - now, 1e-6)
        batch = max(1, min(int(batch * _SLICE_S / took), 1 << 16))
    return count


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def _product_s(device: torch.device, dtype: str) -> float:
    """Return how long a small matrix product of a dtype takes, infinite where the device has none."""
    best_s = math.inf
    try:
        x = torch.ones(SMALL, SMALL, device=device, dtype=DTYPES[dtype])
        for _ in range(10):
            synchronise(device)
            began = time.perf_counter()
            torch.mm(x, x)
            synchronise(device)
            best_s = min(best_s, time.perf_counter() - began)
    except (RuntimeError, TypeError):
        return math.inf
    return best_s


def _random(device: torch.device) -> torch.Generator:
    generator = torch.Generator(device=device)
    generator.manual_seed(0)
    return generator


@contextlib.contextmanager
def _tf32(dtype: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
