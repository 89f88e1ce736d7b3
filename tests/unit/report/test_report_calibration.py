"""A calibration as text and as a page: its numbers, whatever its errors are."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core.estimate import Estimate, Provenance
from ergometry.report.calibration import coefficient_rows, html, kernel_rows, text
from support.calibrations import FOUND, machine

KERNELS = [kernel.to_json() for kernel in machine()]
MEASURED = replace(FOUND, conditions={"seconds": 90.0, "sensor": "NVML energy counter", "kernels": KERNELS})
WIDE = replace(
    MEASURED,
    static_w=Estimate(2.86, 20.0, "W", Provenance.MODELLED, "share"),
    e_byte=Estimate(4.2e-10, 5e-9, "J/byte", Provenance.MODELLED, "share"),
    e_flop={"fp32": Estimate(1.21e-10, 1.2e-9, "J/flop", Provenance.MODELLED, "share")},
    peak_flop_per_s={"fp32": Estimate(9.4e10, None, "flop/s", method="best")},
    conditions=MEASURED.conditions | {"busy_share": 0.99, "widened": 20.8},
)


def test_a_value_keeps_its_digits_when_its_error_is_larger():
    rows = {row[0]: row[1:] for row in coefficient_rows(WIDE)}
    assert rows["static power"][:2] == ["2.86 W", "7 ×"]
    assert rows["FLOP in fp32"] == ["121 pJ/flop", "10 ×", "94 Gflop/s", "", "modelled"]
    assert rows["byte of memory"] == ["420 pJ/B", "12 ×", "2 TB/s", "0.5 %", "modelled"]


def test_small_errors_are_per_cent():
    rows = {row[0]: row[1:] for row in coefficient_rows(MEASURED)}
    assert rows["FLOP in bf16"] == ["600 fJ/flop", "3.3 %", "400 Tflop/s", "0.2 %", "derived"]
    assert "byte over links" not in rows
    linked = replace(MEASURED, e_link=Estimate(6e-11, 6e-12, "J/byte", Provenance.DERIVED, "fit"))
    assert coefficient_rows(linked)[-1][:3] == ["byte over links", "60 pJ/B", "10 %"]


def test_zero_has_an_error_in_its_own_unit_and_the_unknown_a_dash():
    zero = replace(FOUND, e_byte=Estimate(0.0, 2e-12, "J/byte", Provenance.DERIVED, "fit"))
    assert coefficient_rows(zero)[-1][1:3] == ["0 J/byte", "2 pJ/byte"]
    unknown = replace(FOUND, peak_byte_per_s=Estimate.unknown("byte/s", "no kernel of its kind could run here"))
    assert coefficient_rows(unknown)[-1][3:5] == ["–", ""]


def test_kernels_stand_by_intensity_with_their_best_rates_and_mean_power():
    rows = kernel_rows(MEASURED)
    assert [row[0] for row in rows[:2]] == ["idle", "copy"]
    assert rows[0] == ["idle", "", "", "", "60 W"]
    intensities = [float(row[1]) for row in rows[2:]]
    assert intensities == sorted(intensities)
    best = {row[0]: row for row in rows}["bf16 at 512.0"]
    assert best[2] == "400 Tflop/s"
    slow = [KERNELS[0] | {"joules": 180.0, "seconds": 1.0}, KERNELS[0] | {"joules": 0.0, "seconds": 2.0}]
    assert kernel_rows(replace(FOUND, conditions={"kernels": slow}))[0][-1] == "60 W"


@pytest.mark.parametrize("width", [60, 80, 132])
@pytest.mark.parametrize("found", [FOUND, MEASURED, WIDE], ids=["bare", "measured", "wide"])
def test_text_keeps_within_its_columns(found, width):
    told = text(found, width=width)
    assert max(map(len, told.splitlines())) <= width
    assert told.startswith("A Board (cuda:0), 2026-11-22 10:00:00 UTC")
    assert not re.search(r"\bnan\b|None", told)


def test_text_tells_what_to_know():
    told = " ".join(text(WIDE).split())
    assert "others used 99% of its processors" in told
    assert "may be off by a factor of two" in told
    assert "energy by NVML energy counter" in told


def test_the_page_is_whole_and_asks_nothing_of_the_network():
    hostile = replace(WIDE, board="</script><b>x", conditions=WIDE.conditions | {"rms": np.nan})
    page = html(hostile)
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    stored = page.partition('id="summary">')[2].partition("</script>")[0]
    assert json.loads(stored)["conditions"]["rms"] is None
    plots = json.loads(page.partition('id="plots">')[2].partition("</script>")[0])
    assert {trace["name"] for trace in plots["roofline"][0]["data"]} >= {"fp32", "memory"}
    assert "default-src 'none'" in page
    assert "http://" not in page.partition("<script>")[0]


def test_without_peaks_the_page_has_its_tables_alone():
    page = html(replace(FOUND, peak_flop_per_s={}))
    assert "<figure" not in page
    assert "Coefficients" in page
