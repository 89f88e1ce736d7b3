"""A stand-in for AMD's binding ``amdsmi``: its names, its units and its ways of having nothing to say.

After ROCm/amdsmi, docs/reference/amdsmi-py-api.md: answers are dictionaries, what a board lacks is the text ``N/A``,
errors are the module's own; ``energy_accumulator`` was called ``power`` before ROCm 6.4, ``clk`` ``cur_clk`` before
that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class AmdSmiException(Exception):
    """The binding's own."""


@dataclass
class Card:
    """One board: its accumulator in ticks (None: not supported), power in W, and how it calls itself."""

    ticks: int | None = 1_000_000
    power_w: float | str = 90.0
    name: str = "AMD Instinct MI300X"
    uuid: str = ""
    hip_id: int | str = "N/A"
    resolution_uj: float = 15.259
    lost: bool = False
    throttle: int | str = 0
    old: bool = False
    calls: list[str] = field(default_factory=list)


class FakeAmdSmi:
    """The module: started, asked and shut down like the real one."""

    AmdSmiException = AmdSmiException

    class AmdSmiClkType:
        GFX, MEM = 1, 4

    class AmdSmiTemperatureType:
        EDGE, HOTSPOT = 0, 1

    class AmdSmiTemperatureMetric:
        CURRENT = 0

    def __init__(self, cards: list[Card], *, driver: bool = True) -> None:
        self.cards, self.driver = cards, driver
        self.started = 0

    def amdsmi_init(self) -> None:
        if not self.driver:
            raise AmdSmiException("AMDSMI_STATUS_DRIVER_NOT_LOADED")
        self.started += 1

    def amdsmi_shut_down(self) -> None:
        self.started -= 1

    def amdsmi_get_processor_handles(self) -> list[Card]:
        return list(self.cards)

    def _card(self, card: Card, call: str) -> Card:
        assert self.started == 1, "asked before amdsmi_init or after amdsmi_shut_down"
        card.calls.append(call)
        if card.lost:
            raise AmdSmiException("AMDSMI_STATUS_NO_DATA")
        return card

    def amdsmi_get_energy_count(self, card: Card) -> dict[str, Any]:
        ticks = self._card(card, "energy").ticks
        if ticks is None:
            raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED")
        name = "power" if card.old else "energy_accumulator"
        return {name: ticks, "counter_resolution": card.resolution_uj, "timestamp": 1}

    def amdsmi_get_power_info(self, card: Card) -> dict[str, Any]:
        power_w = self._card(card, "power").power_w
        mi300 = "MI3" in card.name
        return {
            "socket_power": "N/A",
            "current_socket_power": power_w if mi300 else "N/A",
            "average_socket_power": 0xFFFFFFFF if mi300 else power_w,
            "gfx_voltage": "N/A",
            "power_limit": 750_000_000,
        }

    def amdsmi_get_gpu_asic_info(self, card: Card) -> dict[str, Any]:
        return {"market_name": self._card(card, "asic").name, "vendor_id": "0x1002"}

    def amdsmi_get_gpu_enumeration_info(self, card: Card) -> dict[str, Any]:
        self._card(card, "enumeration")
        if card.old:
            raise AttributeError("module 'amdsmi' has no attribute 'amdsmi_get_gpu_enumeration_info'")
        return {"drm_card": 0, "hip_id": card.hip_id, "hip_uuid": card.uuid or "N/A"}

    def amdsmi_get_gpu_device_uuid(self, card: Card) -> str:
        return f"a6ff-{id(self._card(card, 'uuid')):x}"

    def amdsmi_get_clock_info(self, card: Card, kind: int) -> dict[str, Any]:
        mhz = {self.AmdSmiClkType.GFX: (1320, 2100), self.AmdSmiClkType.MEM: (900, 1300)}[kind]
        return {"cur_clk" if self._card(card, "clock").old else "clk": mhz[0], "max_clk": mhz[1], "min_clk": "N/A"}

    def amdsmi_get_temp_metric(self, card: Card, kind: int, metric: int) -> int:
        self._card(card, "temperature")
        assert (kind, metric) == (self.AmdSmiTemperatureType.HOTSPOT, self.AmdSmiTemperatureMetric.CURRENT)
        return 71

    def amdsmi_get_gpu_activity(self, card: Card) -> dict[str, Any]:
        self._card(card, "activity")
        return {"gfx_activity": 95, "umc_activity": 20, "mm_activity": "N/A"}

    def amdsmi_get_power_cap_info(self, card: Card) -> dict[str, Any]:
        self._card(card, "cap")
        return {"power_cap": 750_000_000, "dpm_cap": 0, "max_power_cap": 750_000_000}

    def amdsmi_get_gpu_metrics_info(self, card: Card) -> dict[str, Any]:
        return {"indep_throttle_status": self._card(card, "metrics").throttle}
