"""Dimensions: the formulas themselves, run on quantities, close where the catalogue says so and nowhere else."""

import pytest

from ergometry import equations as eq
from ergometry.core import units
from ergometry.equations.catalogue import CATALOGUE

Q = units.registry().Quantity

POWER, RATE, N, E_FLOP = Q(300.0, "W"), Q(10.0, "step/s"), Q(1e6, "parameter"), Q(1e-12, "J/flop")
E0, E1, B_C, BATCH = Q(2.0, "J/step"), Q(0.1, "J/example"), Q(100.0, "example/step"), Q(32.0, "example/step")
NAT_PER_J, ENERGY, TIME, LOSS = Q(5.0, "nat/J"), Q(1e4, "J"), Q(60.0, "s"), Q(1.0, "loss")
ETA, GRAD_SQ, TRACE = Q(0.1, "1/loss"), Q(2.0, "loss^2"), Q(9.0, "loss^2*example/step")

CLOSE = {
    "2.1": (eq.total_power(POWER, POWER, POWER, POWER), "W"),
    "2.2 repaired": (eq.compute_power(RATE, Q(1e9, "flop/step"), E_FLOP), "W"),
    "2.3 as written": (eq.memory_power_as_written(Q(4.0, "1/s"), N, Q(1e-9, "J/parameter")), "W"),
    "2.3 repaired": (eq.memory_power(RATE, Q(1e6, "byte/step"), Q(1e-10, "J/byte")), "W"),
    "3.1": (eq.thermodynamic_efficiency(ENERGY, ENERGY), ""),
    "3.2": (eq.power_efficiency(Q(10.0, "nat"), POWER, TIME), "nat/J"),
    "1.3 as written": (eq.gradient_flow_work(ETA, GRAD_SQ), "loss"),
    "4.1 floor": (eq.stationary_loss_floor(ETA, TRACE, BATCH, 0.9), "loss"),
    "4.2 as written": (eq.optimal_work_as_written(Q(1.0, "loss/nat"), Q(2.0, "nat"), 0.1), "loss"),
    "6.1 repaired": (eq.optimal_batch(B_C, E0, E1), "example/step"),
    "6.1 energy": (eq.least_energy(Q(1e3, "step"), B_C, E0, E1), "J"),
    "6.1 steps": (eq.steps_to_target(BATCH, Q(1e3, "step"), B_C), "step"),
    "6.2 repaired": (eq.max_throughput(POWER, RATE, E0, E1), "example/s"),
    "8.1": (eq.power_schedule(0.5, POWER), "W"),
    "8.2 repaired": (
        eq.optimal_learning_rate(GRAD_SQ, Q(3.0, "loss^3"), Q(9.0, "loss^3*example/step"), BATCH),
        "1/loss",
    ),
    "8.2 limit": (eq.stability_limit(LOSS, 0.9), "1/loss"),
    "8.3 repaired": (eq.latency_bound_batch(POWER, B_C, RATE, E1), "example/step"),
}


@pytest.mark.parametrize("name", CLOSE)
def test_these_close(name):
    value, unit = CLOSE[name]
    assert Q(value).is_compatible_with(unit)


def test_one_flop_per_parameter_and_step_is_what_2_2_leaves_out():
    power = eq.compute_power_as_written(RATE, N, E_FLOP)
    assert not power.is_compatible_with("W")
    assert (power * Q(6.0, "flop/parameter/step")).is_compatible_with("W")


def test_5_1_and_6_2_need_flop_per_parameter_too_and_cannot_both_hold():
    rate = eq.max_step_rate_as_written(POWER, N, E_FLOP)
    assert not rate.is_compatible_with("step/s")
    assert (rate / Q(6.0, "flop/parameter/step")).is_compatible_with("step/s")
    assert eq.max_throughput_as_written(POWER, N, E_FLOP).units == rate.units
    assert not rate.is_compatible_with("example/s")


def test_the_batch_of_6_1_does_not_close_and_its_unit_is_the_catalogues():
    batch = eq.optimal_batch_as_written(ENERGY, NAT_PER_J, RATE, TIME)
    assert not batch.is_compatible_with("example/step") and not batch.is_compatible_with("")
    assert batch.is_compatible_with(CATALOGUE["6.1"].as_written_names["B_opt"])


def test_the_batch_of_8_3_does_not_close_and_its_unit_is_the_catalogues():
    batch = eq.efficient_batch_as_written(POWER, NAT_PER_J, RATE, E_FLOP)
    assert not batch.is_compatible_with("example/step") and not batch.is_compatible_with("")
    assert batch.is_compatible_with(CATALOGUE["8.3"].as_written_names["B_efficient"])


def test_the_learning_rate_of_8_2_closes_up_to_counts_in_loss_but_not_in_joules():
    joules = eq.learning_rate_power_as_written(POWER, RATE, N, GRAD_SQ)
    loss = eq.learning_rate_power_as_written(Q(300.0, "loss/s"), RATE, N, GRAD_SQ)
    counts = Q(1.0, "parameter*step")
    assert joules.is_compatible_with(CATALOGUE["8.2"].as_written_names["power_term"])
    assert not (joules * counts).is_compatible_with("1/loss")
    assert (loss * counts).is_compatible_with("1/loss")


def test_joules_and_loss_never_add():
    from pint import DimensionalityError

    with pytest.raises(DimensionalityError):
        eq.dissipated_work(ENERGY, LOSS)
    with pytest.raises(DimensionalityError):
        eq.heat(LOSS, ENERGY)


def test_the_thermal_price_of_a_nat_is_that_of_a_bit_over_ln_2():
    price = Q(eq.landauer_energy(), "J/bit")
    assert (price * Q(1.0, "nat")).to("J").magnitude == pytest.approx(eq.useful_work(1.0), rel=1e-12)
    assert (price * Q(1.0, "bit") / POWER).is_compatible_with("s")
