"""From stretches to coefficients: measured where a sensor tells kernels apart, else modelled and marked so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ergometry.calibration import procedure
from ergometry.core.domain import Domain
from ergometry.core.errors import UsageError
from ergometry.core.trace import Trace
from ergometry.work.coefficients import load, machine_identity
from ergometry.work.roofline import Kernel
from support.calibrations import BANDWIDTH, E_BF16, E_BYTE, PEAKS, STATIC_W, machine
from support.synthetic import MODELLED, PACKAGE

CPU = torch.device("cpu")
SECOND = np.array([0.0, 1.0])


def traces(signal=PACKAGE) -> dict[Domain, Trace]:
    return {Domain(signal.domain): Trace(SECOND, SECOND, signal)}


def test_a_sensor_gives_the_coefficients() -> None:
    found = procedure.fit(machine(0.01), traces(), CPU, 0.0, 90.0)
    assert found.static_w.value == pytest.approx(STATIC_W, rel=0.03)
    assert found.e_flop["bf16"].value == pytest.approx(E_BF16, rel=0.03)
    assert found.e_byte.value == pytest.approx(E_BYTE, rel=0.05)
    assert {str(q.provenance) for q in (found.static_w, found.e_byte)} == {"derived"}
    assert {d: q.value for d, q in found.peak_flop_per_s.items()} == pytest.approx(PEAKS)
    assert found.ridge("bf16") == pytest.approx(PEAKS["bf16"] / BANDWIDTH)
    assert found.conditions["threads"] == torch.get_num_threads()


def test_the_sensors_gain_is_in_every_error() -> None:
    board = replace(PACKAGE, rel_stderr=0.05)
    found = procedure.fit(machine(0.0), traces(board), CPU, 0.0, 90.0)
    assert found.static_w.stderr == pytest.approx(0.05 * STATIC_W, rel=0.01)


def test_a_busy_machine_widens_every_error() -> None:
    quiet, busy = (procedure.fit(machine(0.01), traces(), CPU, share, 90.0) for share in (0.01, 0.25))
    assert busy.static_w.stderr == pytest.approx(6 * quiet.static_w.stderr)
    assert busy.covariance == pytest.approx(36 * quiet.covariance)
    assert busy.static_w.value == quiet.static_w.value


def test_without_a_sensor_joules_are_the_modelled_power_over_the_peaks() -> None:
    power_w = 40.0
    kernels = [
        Kernel("idle", 1.0, joules=MODELLED.static_w, stderr_j=0.1),
        Kernel("matmul fp32", 2.0, {"fp32": 2e12}, 1e9, joules=2 * power_w, stderr_j=0.1),
        Kernel("copy", 1.0, {}, 2e10, joules=power_w, stderr_j=0.1),
    ]
    found = procedure.fit(kernels, traces(MODELLED), CPU, 0.0, 90.0)
    assert found.static_w.value == MODELLED.static_w
    assert found.e_flop["fp32"].value == pytest.approx((power_w - MODELLED.static_w) / 1e12)
    assert found.e_byte.value == pytest.approx((power_w - MODELLED.static_w) / 2e10)
    assert str(found.e_byte.provenance) == "modelled"
    assert found.e_byte.stderr >= 0.5 * found.e_byte.value


def test_without_any_power_source_the_rates_stand_and_joules_are_nothing() -> None:
    found = procedure.fit([Kernel("matmul", 1.0, {"fp32": 1e12}, 1e9)], {}, CPU, 0.0, 90.0)
    assert found.peak_flop_per_s["fp32"].value == 1e12
    assert found.e_flop["fp32"].value == 0.0
    assert "no power source" in found.static_w.method


def test_too_little_time_and_unknown_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 10 seconds"):
        procedure.calibrate("cpu", 5.0)
    with pytest.raises(UsageError, match="a device of this machine"):
        procedure.calibrate("toaster", 60.0)


def test_erg_calibrate_keeps_what_it_prints(tmp_path: Path) -> None:
    # All of it, but in less time than what is worth keeping takes.
    program = (
        "from ergometry.calibration import procedure; procedure.LEAST_S = 2.0; import ergometry.cli as c; c.main()"
    )
    command = [sys.executable, "-c", program, "calibrate", "--seconds", "2", "--format", "json", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    kept = load(tmp_path, machine_identity(), "cpu")
    assert kept is not None
    assert kept.to_json() == printed
    assert kept.peak_flop_per_s["fp32"].value > 1e8
    assert kept.peak_byte_per_s.value > 1e8
    assert 0.0 < kept.ridge("fp32") < 1e4
    names = {kernel["name"] for kernel in kept.conditions["kernels"]}
    assert {"idle", "copy", "matmul fp32", "matmul fp32 x1"} <= names
