"""What is to be said of a run's counting: what was not counted, and by which conventions the rest was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ergometry.integrations.counting.ambient import Pass

CONVENTIONS = {
    "flop": "a multiply-add is two; a function such as exp or sqrt one; copies, indices and random numbers none",
    "products": "as torch.utils.flop_counter, the bias of a product left out",
    "attention": "dense, as if nothing were masked; causal_flops beside, without what a causal mask leaves out",
    "bytes": "each distinct input once, each output once; nothing for views; touched rows of tables",
}


class Findings:
    """Grows while passes are counted."""

    def __init__(self) -> None:
        self.unknown_s: dict[str, float] = {}
        """Operators without a formula (or with one that failed), and the seconds they took in counted passes."""
        self.failed: dict[str, str] = {}
        """Operators whose formula raised, and what."""
        self.fused: set[str] = set()
        """Phases in which kernels ran that a compiler has fused, so that they were not seen."""
        self.counted_s = 0.0
        """Seconds of all operators in counted passes."""
        self.passes = {"counted": 0, "fitted": 0, "unknown": 0}

    def note(self, running: Pass) -> float:
        """Take in a pass that was counted; return the seconds of its operators."""
        mode = running.mode
        seconds = sum(call.seconds for call in mode.calls)
        self.counted_s += seconds
        self.passes["counted"] += 1
        for name, s in mode.unknown.items():
            self.unknown_s[name] = self.unknown_s.get(name, 0.0) + s
        self.failed.update(mode.failed)
        return seconds

    def is_fused(self, running: Pass) -> bool:
        """Say whether kernels ran that were not seen: a compiled region's, by a compiler that fuses operators."""
        codes = sys.modules.get("torch._inductor.codecache")
        if codes is None or not getattr(codes.PyCodeCache, "modules", None):
            return False
        compiled = running.mode.compiled
        if running.module is not None:
            compiled |= any(
                "_orig_mod" in vars(part).get("_modules", {}) or vars(part).get("_compiled_call_impl") is not None
                for part in running.module.modules()
            )
        if compiled:
            self.fused.add(running.phase)
        return compiled

    def labels(self, misfit: float) -> dict[str, Any]:
        """Return what a run's labels say of its counting."""
        return {
            "passes": dict(self.passes),
            "largest_misfit": misfit,
            "fused": sorted(self.fused),
            "conventions": CONVENTIONS,
        }

    def tell(self, notice: Callable[[str, str], None]) -> None:
        """Give the warnings, each a code of the catalogue and its detail."""
        if self.unknown_s:
            notice("flops.uncounted", self.uncounted())
        if self.failed:
            notice("flops.formula", "; ".join(f"{name}: {why}" for name, why in self.failed.items()))
        if self.fused:
            notice("flops.fused", ", ".join(sorted(self.fused)))
        if self.passes["unknown"]:
            notice("flops.unknown", str(self.passes["unknown"]))

    def uncounted(self) -> str:
        """Return the operators that were not counted, each with its share of the time of the operators counted."""
        shares = sorted(((s / (self.counted_s or 1.0), name) for name, s in self.unknown_s.items()), reverse=True)
        return ", ".join(f"{name} ({100 * share:.2g} % of the counted time)" for share, name in shares)
