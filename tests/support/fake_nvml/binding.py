"""The ``pynvml`` module as an object: boards that answer what a test says, and fail when it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, NOT_FOUND, UNINITIALIZED, LOST = 3, 6, 1, 15
WORDS = {NOT_SUPPORTED: "Not Supported", NOT_FOUND: "Not Found", UNINITIALIZED: "Uninitialized", LOST: "GPU is lost"}
POWER_AVERAGE, POWER_INSTANT, LINK_TX, LINK_RX = 185, 186, 138, 139
ALL_LINKS = 0xFFFFFFFF


class FakeError(Exception):
    """As NVMLError: ``value`` is NVML's number of the outcome."""

    def __init__(self, value: int) -> None:
        super().__init__(WORDS.get(value, f"outcome {value}"))
        self.value = value


@dataclass
class FakeDevice:
    """A board or a MIG instance: ``answers`` holds what each call (less ``nvmlDevice``) gives, or a function of its
    arguments; a call that is not there is not supported. ``fields`` are NVML's fields by (number, scope)."""

    uuid: str
    name: str = "Tesla V100-SXM2-16GB"
    answers: dict[str, Any] = field(default_factory=dict)
    fields: dict[tuple[int, int], float] = field(default_factory=dict)
    lost: bool = False
    instances: list[FakeDevice] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = {"GetUUID": self.uuid, "GetName": self.name, "GetMaxMigDeviceCount": 7 if self.instances else 0}
        self.answers = own | self.answers


class FakeBinding:
    """Stands for ``pynvml``: devices by index, handles that are void once NVML was shut down, counted calls."""

    NVMLError = FakeError
    NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = POWER_AVERAGE, POWER_INSTANT
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = LINK_TX, LINK_RX

    def __init__(self, *devices: FakeDevice, start: int = 0) -> None:
        self.devices, self.start = list(devices), start
        self.started = self.starts = 0
        self.calls: list[tuple[str, str]] = []

    def nvmlInit(self) -> None:
        if self.start:
            raise FakeError(self.start)
        self.started += 1
        self.starts += 1

    def nvmlShutdown(self) -> None:
        if not self.started:
            raise FakeError(UNINITIALIZED)
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.starts, self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        found = [device for device in self.devices if device.uuid == uuid]
        if not found or found[0].lost:
            raise FakeError(LOST if found else NOT_FOUND)
        return self.starts, found[0]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:
        device = self._enter("GetMigDeviceHandleByIndex", handle)
        if index >= len(device.instances):
            raise FakeError(NOT_FOUND)
        return self.starts, device.instances[index]

    def nvmlDeviceGetFieldValues(self, handle: Any, wanted: list[tuple[int, int]]) -> list[Any]:
        device = self._enter("GetFieldValues", handle)
        return [
            SimpleNamespace(nvmlReturn=0, valueType=0, value=SimpleNamespace(dVal=device.fields[key]))
            if key in device.fields
            else SimpleNamespace(nvmlReturn=NOT_SUPPORTED)
            for key in wanted
        ]

    def __getattr__(self, call: str) -> Callable[..., Any]:
        if not call.startswith("nvmlDevice"):
            raise AttributeError(call)
        name = call.removeprefix("nvmlDevice")

        def answer(handle: Any, *arguments: Any) -> Any:
            device = self._enter(name, handle)
            if name not in device.answers:
                raise FakeError(NOT_SUPPORTED)
            value = device.answers[name]
            return value(*arguments) if callable(value) else value

        return answer

    def _enter(self, name: str, handle: Any) -> FakeDevice:
        start, device = handle
        self.calls.append((name, device.uuid))
        if not self.started or start != self.starts:
            raise FakeError(UNINITIALIZED)
        if device.lost:
            raise FakeError(LOST)
        return device

    def asked(self, name: str) -> int:
        """Return how often a call was made."""
        return sum(call == name for call, _ in self.calls)


def counting(number: int, name: str = "Tesla V100-SXM2-16GB", **answers: Any) -> FakeDevice:
    """Return a board whose counter stands at (number + 1) kJ."""
    energy = {"GetTotalEnergyConsumption": (number + 1) * 1_000_000}
    return FakeDevice(f"GPU-{number:02x}aa-{number}", name, energy | answers)
