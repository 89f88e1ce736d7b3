"""NVIDIA boards: which of them the process may use, and what is known of the sensor on each kind. No power is read.

Visibility follows CUDA's rules for CUDA_VISIBLE_DEVICES (CUDA C++ Programming Guide, environment variables). What the
sensors do was measured by Yang et al., "Part-time Power Measurements" (arXiv 2312.02741; their GPU_Power_Benchmark
has the table): the period of an update, and how long of each period the sensor looks.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

PASCAL, VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = 4, 5, 6, 7, 8, 9, 10
"""NVML's numbers of the architectures (NVML_DEVICE_ARCH_*)."""


def ask(nvml: Any, call: str, *arguments: Any) -> Any:
    """Return what an NVML call answers; None where the board, the driver or an older binding cannot."""
    function = getattr(nvml, call, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def text(value: str | bytes | None) -> str:
    """Return a name or an identity as text: older bindings give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value or "")


class SensorClass(NamedTuple):
    """What is known of the power sensor of one kind of board.

    ``period_s`` passes between two updates, and of each the sensor sees the last ``window_s``: less than the period
    where it looks part of the time. ``slow_usage`` says that nvmlDeviceGetPowerUsage is a mean over one second there
    (Ampere and later except GA100, says NVML), not the sensor's own window. ``quick`` boards bear ten questions a
    second; others may under-read when asked often (an RTX 4090: by 13 % at 10 Hz, second-hand). ``module`` boards have
    a processor of their own on one module with them.
    """

    name: str
    period_s: float
    window_s: float
    slow_usage: bool = False
    quick: bool = False
    module: bool = False

    @property
    def seen_s(self) -> float:
        """Return how long of each period a counter sees, s; 0 where it sees all of it."""
        return self.window_s if self.window_s < self.period_s else 0.0


_MEASURED_AS = (
    # (name on the board, its class), the first that matches
    (r"\bGH200\b", SensorClass("Hopper", 0.1, 0.023, slow_usage=True, quick=True, module=True)),
    (r"\b(H100|H200|H800|H20)\b", SensorClass("Hopper", 0.1, 0.023, slow_usage=True, quick=True)),
    (r"\b(A100|A800|A30)\b", SensorClass("GA100", 0.102, 0.022, quick=True)),
    (r"\bV100S?\b", SensorClass("Volta", 0.02, 0.011, quick=True)),
    (r"\b(P100|P40|P4)\b", SensorClass("Pascal", 0.02, 0.01, quick=True)),
    (r"\b(Quadro RTX|RTX [568]000|T4)\b", SensorClass("Turing, professional", 0.1, 0.02)),
    # Not measured by anyone we know of: taken to look as little of the time as the one before it.
    (r"\bG?B[123]00\b", SensorClass("Blackwell, not measured", 0.1, 0.023, slow_usage=True, quick=True)),
)

_BY_ARCHITECTURE = {
    PASCAL: SensorClass("Pascal", 0.02, 0.01),
    VOLTA: SensorClass("Volta", 0.02, 0.011),
    TURING: SensorClass("Turing", 0.101, 0.104),
    AMPERE: SensorClass("Ampere", 0.1, 0.105, slow_usage=True),
    ADA: SensorClass("Ada", 0.1, 0.105, slow_usage=True),
    HOPPER: SensorClass("Hopper", 0.1, 0.023, slow_usage=True),
}

UNKNOWN = SensorClass("not measured", 0.1, 0.023, slow_usage=True)
"""A board of a kind that nobody measured: the slowest update and the shortest look of those that were."""


def classify(name: str, architecture: int | None) -> SensorClass:
    """Return what is known of a board's sensor.

    >>> classify("NVIDIA A100-SXM4-80GB", 7).name, classify("NVIDIA A40", 7).name
    ('GA100', 'Ampere')
    """
    by_name = next((known for pattern, known in _MEASURED_AS if re.search(pattern, name)), None)
    # "RTX 6000 Ada Generation" and "RTX PRO 6000 Blackwell" bear the name of a Turing board.
    if by_name is not None and (by_name.name != "Turing, professional" or architecture in (TURING, None)):
        return by_name
    return UNKNOWN if architecture is None else _BY_ARCHITECTURE.get(architecture, UNKNOWN)


class Board(NamedTuple):
    """A board that the process may use: NVML's number, torch's ordinal, its identity, and what of it is used.

    ``slices`` are the compute slices of its MIG instances that are visible, of ``all_slices``; both 0 where the whole
    board is used. ``sliced`` where MIG divides it, even if into what is not known.
    """

    number: int
    ordinal: int
    uuid: str = ""
    sliced: bool = False
    slices: int = 0
    all_slices: int = 0


class _Entry(NamedTuple):
    """What an entry of CUDA_VISIBLE_DEVICES names: a board's number, and the handle of a MIG instance on it."""

    number: int
    instance: Any = None


def visible_boards(nvml: Any, visible: str | None) -> list[Board]:
    """Return the boards in torch's order, by the rules of CUDA_VISIBLE_DEVICES.

    Entries are indices, UUIDs or their unambiguous beginnings, or MIG instances (``MIG-<uuid>``, or
    ``MIG-<board's uuid>/<gpu instance>/<compute instance>``), whose board is then read whole and once; the list ends
    at the first entry that names nothing; empty hides all.

    Args:
        nvml: the ``pynvml`` module, started.
        visible: the variable's value; None shows all.

    Raises:
        NVMLError: the boards cannot be counted.
    """
    count = int(nvml.nvmlDeviceGetCount())
    uuids = [_uuid(nvml, number) for number in range(count)]
    named = [_Entry(number) for number in range(count)]
    if visible is not None:
        named = []
        for word in map(str.strip, visible.split(",")):
            entry = _entry(nvml, word, uuids)
            if entry is None:
                break
            named.append(entry)
    boards: dict[int, Board] = {}
    for ordinal, (number, instance) in enumerate(named):
        board = boards.get(number) or Board(number, ordinal, uuids[number], sliced=_divided(nvml, number))
        if instance is not None:
            slices, all_slices = _slices(nvml, number, instance)
            board = board._replace(sliced=True, slices=board.slices + slices, all_slices=all_slices)
        boards[number] = board
    return list(boards.values())


def _entry(nvml: Any, word: str, uuids: list[str]) -> _Entry | None:
    if word.isascii() and word.isdecimal():
        return _Entry(int(word)) if int(word) < len(uuids) else None
    if word.startswith("GPU-"):
        found = [number for number, uuid in enumerate(uuids) if uuid.startswith(word)]
        return _Entry(found[0]) if len(found) == 1 else None
    if not word.startswith("MIG-"):
        return None
    board, *instance = word.removeprefix("MIG-").split("/")
    for number, uuid in enumerate(uuids):
        if instance and uuid != board:
            continue
        for handle in _instances(nvml, number):
            if instance == _place(nvml, handle) or text(ask(nvml, "nvmlDeviceGetUUID", handle)) == word:
                return _Entry(number, handle)
    return None


def _instances(nvml: Any, number: int) -> list[Any]:
    """Return the handles of a board's MIG instances."""
    board = ask(nvml, "nvmlDeviceGetHandleByIndex", number)
    most = 0 if board is None else ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", board) or 0
    handles = [ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", board, index) for index in range(most)]
    return [handle for handle in handles if handle is not None]


def _place(nvml: Any, instance: Any) -> list[str]:
    """Return [gpu instance, compute instance] of a MIG instance, as CUDA_VISIBLE_DEVICES writes them."""
    return [str(ask(nvml, f"nvmlDeviceGet{kind}InstanceId", instance)) for kind in ("Gpu", "Compute")]


def _slices(nvml: Any, number: int, instance: Any) -> tuple[int, int]:
    """Return the compute slices of a MIG instance and of its whole board; (0, 0) where that is not known."""
    attributes = ask(nvml, "nvmlDeviceGetAttributes", instance)
    most = ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", ask(nvml, "nvmlDeviceGetHandleByIndex", number))
    if attributes is None or not most:
        return 0, 0
    return int(attributes.computeInstanceSliceCount), int(most)


def _divided(nvml: Any, number: int) -> bool:
    handle = ask(nvml, "nvmlDeviceGetHandleByIndex", number)
    mode = None if handle is None else ask(nvml, "nvmlDeviceGetMigMode", handle)
    return bool(mode and mode[0])


def _uuid(nvml: Any, number: int) -> str:
    handle = ask(nvml, "nvmlDeviceGetHandleByIndex", number)
    return "" if handle is None else text(ask(nvml, "nvmlDeviceGetUUID", handle))
