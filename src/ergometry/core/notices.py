"""Every warning that ergometry can give, in one place: its code, what it says, and the remedy.

Code that finds something sends the code and a detail; the text is made here, once, when a report is written.
"""

from __future__ import annotations

from dataclasses import dataclass

#: code -> (text with ``{detail}``, remedy)
CATALOGUE: dict[str, tuple[str, str]] = {
    "sensor.absent": (
        "no power sensor could be read: {detail}",
        "joules are modelled from load; on bare-metal Linux grant read access to energy_uj, or install a GPU's extra",
    ),
    "sensor.unreadable": (
        "a power source is present but unreadable: {detail}",
        "until that is done its joules are modelled or missing",
    ),
    "sensor.failed": (
        "a sensor failed while the run went on: {detail}",
        "its gap is bridged with a wide error; erg doctor tries each source by itself",
    ),
    "sensor.hung": (
        "a sensor did not answer: {detail}",
        "training was not held up, and the gap is bridged with a wide error; erg doctor tries each source by itself",
    ),
    "sensor.back": ("a sensor that had failed can be read again: {detail}", "what it missed is bridged"),
    "machine.suspended": (
        "the machine was suspended while the run went on, {detail}",
        "that time and its joules are no part of the run",
    ),
    "store.unwritable": (
        "the run could not be stored from here on: {detail}",
        "free some space or choose another folder with --store; training was not affected",
    ),
    "store.damaged": ("part of the stored run could not be read: {detail}", "the rest is reported"),
    "records.dropped": (
        "{detail} records were dropped because the ring was full",
        "the recorder was starved of processor time; leave it some, or use fewer records per second",
    ),
    "run.interrupted": (
        "the process ended without a word (killed, or os._exit): {detail}",
        "all but the last second is here",
    ),
    "steps.none": (
        "no training step was seen: {detail}",
        "steps are seen through torch.nn.Module calls, backward and torch.optim optimizers",
    ),
    "torch.unsupported": (
        "torch could not be instrumented fully: {detail}",
        "energy and time of the whole run are still measured",
    ),
    "flops.uncounted": (
        "no FLOP formula for: {detail}",
        "their FLOP are missing from the totals; erg.work.register_flop(op) tells how many they are",
    ),
    "flops.formula": (
        "a FLOP formula failed: {detail}",
        "its operator was not counted; correct the function that was registered for it",
    ),
    "flops.fused": (
        "kernels that torch.compile has fused are not seen, in {detail}",
        "their products are counted; their bytes are not known, and are NaN",
    ),
    "flops.unknown": (
        "{detail} passes were not counted: their shapes never repeat and do not follow those that were",
        "their steps have no counts; pad or bucket the shapes to have them counted",
    ),
    "ledger.partial": (
        "gradient work was followed for a part of the parameters only: {detail}",
        "it stands for that part; the other quantities are unaffected",
    ),
    "physics.failed": (
        "an estimator of the thermodynamic ledger gave up: {detail}",
        "its entries are null with this reason; the training and the other estimators are unaffected",
    ),
    "physics.unavailable": (
        "a quantity of the thermodynamic ledger could not be taken: {detail}",
        "its entries are null with this reason; the training and the other quantities are unaffected",
    ),
    "loss.unreadable": ("the loss was not a finite scalar in {detail} steps", "those steps have no loss"),
    "value.not_finite": ("a value was NaN or infinite and is null here: {detail}", "see its why"),
    "steps.skipped": (
        "{detail} optimizer steps were skipped by the gradient scaler",
        "expected at the start; often is a sign of divergence",
    ),
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One warning of a run: ``detail`` completes the catalogue's text, ``t_s`` is when (run time)."""

    code: str
    detail: str = ""
    t_s: float | None = None

    @property
    def text(self) -> str:
        """Return what happened, in words."""
        return CATALOGUE[self.code][0].format(detail=self.detail) if self.code in CATALOGUE else self.detail

    @property
    def remedy(self) -> str:
        """Return what to do about it."""
        return CATALOGUE[self.code][1] if self.code in CATALOGUE else ""

    def to_json(self) -> dict[str, str]:
        """Return the entry of the summary's ``warnings``."""
        return {"code": self.code, "text": self.text, "remedy": self.remedy}
