"""The two rooflines, on kernels whose joules and seconds were made from known coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import InvalidSeries
from ergometry.work.roofline import Kernel, design, fit_energy, peak_rates, roofline_s
from support.calibrations import BANDWIDTH, E_BF16, E_BYTE, E_FP32, PEAKS, STATIC_W, machine


def test_without_noise_the_coefficients_are_found_exactly() -> None:
    fit = fit_energy(machine())
    assert fit.names == ("static_w", "e_flop:bf16", "e_flop:fp32", "e_byte")
    assert fit.values == pytest.approx([STATIC_W, E_BF16, E_FP32, E_BYTE], rel=1e-9)
    assert fit.rms < 1e-9


def test_ninety_percent_intervals_hold_the_truth_nine_times_in_ten() -> None:
    truth = np.array([STATIC_W, E_BF16, E_FP32, E_BYTE])
    inside = np.zeros(4)
    for seed in range(300):
        fit = fit_energy(machine(0.03, seed))
        inside += np.abs(fit.values - truth) <= 1.645 * np.sqrt(np.diag(fit.covariance))
    assert np.all(inside / 300 >= 0.85)
    assert np.all(inside / 300 <= 0.97)


def test_a_shared_gain_scales_every_coefficient_and_is_in_every_error() -> None:
    kernels = machine(0.01)
    alone, shared = fit_energy(kernels), fit_energy(kernels, shared_rel_stderr=0.05)
    assert shared.values == pytest.approx(alone.values)
    for i, name in enumerate(alone.names):
        assert shared.stderr(name) ** 2 == pytest.approx(alone.stderr(name) ** 2 + (0.05 * alone.values[i]) ** 2)


def test_no_coefficient_is_negative_and_one_held_at_zero_keeps_an_error() -> None:
    for seed in range(20):
        fit = fit_energy(machine(0.2, seed, static_w=0.0))
        assert np.all(fit.values >= 0)
        assert np.all(np.diag(fit.covariance) > 0)


def test_where_the_model_does_not_hold_the_errors_are_wider() -> None:
    honest = machine(0.01)
    bent = [
        Kernel(
            k.name,
            k.seconds,
            k.flops,
            k.bytes,
            joules=k.joules * (1.3 if "512" in k.name else 1.0),
            stderr_j=k.stderr_j,
        )
        for k in honest
    ]
    assert fit_energy(bent).chi2_dof > 10 * fit_energy(honest).chi2_dof
    assert fit_energy(bent).stderr("e_byte") > 3 * fit_energy(honest).stderr("e_byte")


def test_kernels_without_joules_are_left_out_and_too_few_are_refused() -> None:
    kernels = machine()
    blind = [Kernel("blind", 1.0, {"fp64": 1e12}, 1e9)]
    assert fit_energy([*kernels, *blind]).names == design(kernels)[0]
    with pytest.raises(InvalidSeries, match="expected at least 4 stretches"):
        fit_energy(kernels[:1] + kernels[2:3] + kernels[7:8])


def test_bytes_over_links_have_a_coefficient_where_there_are_any() -> None:
    extra = Kernel("all-reduce", 1.0, link_bytes=1e10, joules=STATIC_W + 0.5, stderr_j=0.0)
    fit = fit_energy([*machine(), extra])
    assert fit.names[-1] == "e_link"
    assert fit.values[-1] == pytest.approx(5e-11)


def test_peaks_are_those_of_the_fastest_kernels() -> None:
    flop, (byte, error) = peak_rates(machine())
    assert {d: rate for d, (rate, _) in flop.items()} == pytest.approx(PEAKS)
    assert byte == pytest.approx(BANDWIDTH)
    assert error == pytest.approx(0.0, abs=1e-3 * BANDWIDTH)


def test_a_disturbed_stretch_lowers_no_peak_but_widens_it() -> None:
    calm = [Kernel("matmul", 1.0, {"fp32": 1e12}), Kernel("matmul", 1.0, {"fp32": 1e12})]
    (rate, error) = peak_rates([*calm, Kernel("matmul", 4.0, {"fp32": 1e12}), Kernel("matmul", 4.0, {"fp32": 1e12})])[
        0
    ]["fp32"]
    assert rate == 1e12
    assert error == pytest.approx(1e12 - 0.625e12)


def test_no_kernel_no_peak() -> None:
    flop, (byte, _) = peak_rates([Kernel("idle", 1.0)])
    assert flop == {}
    assert np.isnan(byte)


@given(st.floats(1e6, 1e15), st.floats(1e3, 1e12), st.floats(1.1, 10.0))
def test_work_is_at_least_as_slow_as_either_limit(flops: float, moved: float, more: float) -> None:
    once = roofline_s({"fp32": flops}, moved, PEAKS, BANDWIDTH)
    assert once >= flops / PEAKS["fp32"]
    assert once >= moved / BANDWIDTH
    assert roofline_s({"fp32": more * flops}, more * moved, PEAKS, BANDWIDTH) == pytest.approx(more * once)


def test_two_dtypes_share_the_arithmetic_units() -> None:
    assert roofline_s({"bf16": 400e12, "fp32": 50e12}, 0.0, PEAKS, BANDWIDTH) == pytest.approx(2.0)
