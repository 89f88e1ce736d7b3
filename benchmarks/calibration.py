"""Calibrate a GPU for real, train a transformer on it under ``erg run``, and keep coefficients, split and residual.

Run: ``python -m benchmarks calibration`` (skipped without a GPU), or ``python -m benchmarks.calibration --device cpu
--seconds 20`` to try it anywhere. The sanity bound: joules per FLOP are at most TDP over dense peak, 0.71 pJ in 16 bit
on H100 and H200 (an upper bound, as static and memory power are in it).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

BOUND_J_PER_FLOP = {"H100": 0.71e-12, "H200": 0.71e-12, "A100": 1.28e-12, "V100": 2.40e-12}
"""TDP over dense peak in 16 bit, by a part of the board's name."""

SCRIPT = """
import sys, time, torch, torch.nn as nn
device, seconds = sys.argv[1], float(sys.argv[2])
width, layers, length, batch = (1024, 12, 1024, 16) if device != "cpu" else (128, 2, 64, 8)
layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True, norm_first=True, dropout=0.0)
encoder = nn.TransformerEncoder(layer, layers)
model = nn.Sequential(nn.Embedding(4096, width), encoder, nn.Linear(width, 4096)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
kind = device.partition(":")[0]
end = time.monotonic() + seconds
while time.monotonic() < end:
    tokens = torch.randint(0, 4096, (batch, length), device=device)
    with torch.autocast(kind, torch.bfloat16):
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if kind == "cuda":
        torch.cuda.synchronize()
"""


def measure(device: str, seconds: float) -> dict[str, Any]:
    """Return the calibration of a device, and the summary of a training run that it explains."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = os.environ | {"ERGOMETRY_CALIBRATION": str(Path(folder, "calibration"))}
        erg = [sys.executable, "-m", "ergometry"]

        def call(*words: str) -> str:
            done = subprocess.run([*erg, *words], env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
            return done.stdout

        found = json.loads(call("calibrate", "--device", device, "--seconds", str(seconds), "--format", "json"))
        script, store = Path(folder, "train.py"), str(Path(folder, "store"))
        script.write_text(SCRIPT)
        call("run", "--quiet", "--store", store, "--", str(script), device, str(seconds))
        summary = json.loads(call("report", "last", "--store", store, "--format", "json"))
    return {"calibration": found, "energy": summary["energy"], "rates": summary["rates"], "run": summary["run"]}


def show(result: dict[str, Any]) -> int:
    """Print coefficients, split and residual; return 1 if a coefficient is above its bound by three errors."""
    found, energy = result["calibration"], result["energy"]
    print(f"{found['board']}: static {found['static_w']['value']:.4g} ± {found['static_w']['stderr']:.2g} W")
    for dtype, q in found["e_flop"].items():
        print(f"  {dtype}: {q['value'] * 1e12:.4g} ± {q['stderr'] * 1e12:.2g} pJ/flop ({q['provenance']})")
    print(f"  memory: {found['e_byte']['value'] * 1e12:.4g} ± {found['e_byte']['stderr'] * 1e12:.2g} pJ/byte")
    total = energy["total"]["value"]
    for name, q in energy["by_component"].items():
        if q["value"] is not None:
            print(f"  {name:<14}{q['value']:>12.4g} J {q['value'] / total:>7.1%}")
    bound = next((b for name, b in BOUND_J_PER_FLOP.items() if name in found["board"]), None)
    halves = [q for dtype, q in found["e_flop"].items() if dtype in ("bf16", "fp16")]
    return int(bound is not None and any(q["value"] - 3 * q["stderr"] > bound for q in halves))


def keep(result: dict[str, Any]) -> Path:
    """Store the readings under the board's name and the date; return the file."""
    board = re.sub(r"[^a-z0-9]+", "-", result["calibration"]["board"].lower()).strip("-")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = RESULTS / f"calibration-{today}-{board}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="")
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args()
    if not options.device:
        import torch

        if not torch.cuda.is_available():
            print("skipped: no GPU that torch can use; --device cpu tries it on the processor")
            return 0
    result = measure(options.device or "cuda:0", options.seconds)
    failed = show(result)
    if not options.device:
        print(f"kept in {keep(result)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
