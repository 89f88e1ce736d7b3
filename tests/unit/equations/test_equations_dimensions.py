"""Dimensions: every formula is run on quantities and under a change of units; what the catalogue claims closes, the
rest does not.

Two ways, since some formulas take logarithms of what has a unit and only their difference has none: with pint's own
quantities, and by Buckingham's definition, that a change of base units changes the value as its unit says.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from pint import DimensionalityError

from ergometry import equations as eq
from ergometry.core import units
from ergometry.equations import thermodynamic_work
from ergometry.equations.catalogue import CATALOGUE
from ergometry.equations.section import Verdict
from support.formulas import FORMULAS, NOT_FORMULAS, SAMPLES

REGISTRY = units.registry()
Q = REGISTRY.Quantity
K_B = "J/(K*nat)"
BASES = ("J", "loss", "s", "K", "nat", "flop", "B", "parameter", "example", "token", "step")


def dimensions(unit: str) -> dict[str, float]:
    return dict(Q(1.0, unit).dimensionality)


def rescaling(seed: int) -> dict[str, float]:
    """Return by what each base unit of the registry is made smaller, at random."""
    rng = np.random.default_rng(seed)
    return {base: float(rng.uniform(0.3, 3.0)) for unit in BASES for base in dimensions(unit)}


def factor(unit: str, scales: dict[str, float]) -> float:
    return math.prod(scales[base] ** float(power) for base, power in dimensions(unit).items())


def closes(name: str, unit: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str] | None = None) -> bool:
    """Say whether a formula's value changes as a quantity in ``unit`` does when the base units change."""
    sample, agreed = SAMPLES[name], []
    for seed in range(5):
        scales, factors = rescaling(seed), np.random.default_rng(seed).lognormal(sigma=2.0, size=len(sample.values))
        # values over powers of ten, so that every branch of a least, a largest or a median is met
        values = [x * (k if u else 1.0) for x, u, k in zip(sample.values, sample.units, factors, strict=True)]
        scaled = [x * factor(u, scales) for x, u in zip(values, arguments or sample.units, strict=True)]
        with monkeypatch.context() as patch:
            patch.setattr(thermodynamic_work, "BOLTZMANN", thermodynamic_work.BOLTZMANN * factor(K_B, scales))
            changed = np.asarray(FORMULAS[name](*scaled))
        expected = np.asarray(FORMULAS[name](*values)) * factor(unit, scales)
        agreed.append(np.allclose(changed, expected, rtol=1e-9, atol=0.0, equal_nan=True))
    return all(agreed)


def test_every_public_formula_is_here():
    assert set(SAMPLES) == set(eq.__all__) - NOT_FORMULAS


@pytest.mark.parametrize("name", SAMPLES)
def test_a_change_of_units_changes_the_value_as_its_unit_says(name, monkeypatch):
    assert closes(name, SAMPLES[name].unit, monkeypatch)


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if dimensions(sample.unit)])
def test_and_not_as_another_unit_would(name, monkeypatch):
    """A check that any unit passes would be none."""
    assert not closes(name, f"({SAMPLES[name].unit})*loss", monkeypatch)
    assert not closes(name, "", monkeypatch)


# Formulas that sum take bare arrays, and pint asks radians of a hyperbolic tangent: the other way tests them alone.
BY_PINT = [name for name, sample in SAMPLES.items() if sample.elementwise and name != "quench_speed_ratio"]


@pytest.mark.parametrize("name", BY_PINT)
def test_on_quantities_the_formula_gives_a_quantity_of_its_unit(name, monkeypatch):
    sample = SAMPLES[name]
    monkeypatch.setattr(thermodynamic_work, "BOLTZMANN", Q(thermodynamic_work.BOLTZMANN, K_B))
    found = Q(FORMULAS[name](*(Q(value, unit) for value, unit in zip(sample.values, sample.units, strict=True))))
    assert found.is_compatible_with(sample.unit), f"{found.units} is not {sample.unit}"


def test_memory_energy_is_per_step_and_per_example():
    update, weights, activations, e_byte = (
        Q(9.0, "byte/step"),
        Q(4.0, "byte/step"),
        Q(3.0, "byte/example"),
        Q(2.0, "J/B"),
    )
    for micro_batch in (None, Q(8.0, "example/step")):
        found = eq.memory_energy(update, weights, activations, e_byte, micro_batch)
        assert found.per_step.is_compatible_with("J/step")
        assert found.per_example.is_compatible_with("J/example")


AS_WRITTEN = {
    "1.1": ("dissipated_work", "J"),
    "1.2": ("landauer_energy", "J/bit"),
    "1.3": ("gradient_flow_work", "loss"),
    "2.1": ("total_power", "W"),
    "2.2": ("compute_power_as_written", "W"),
    "2.3": ("memory_power_as_written", "W"),
    "3.1": ("thermodynamic_efficiency", ""),
    "3.2": ("power_efficiency", "nat/J"),
    "4.1": ("excess_loss_as_written", "loss"),
    "4.2": ("optimal_work_as_written", "loss"),
    "5.1": ("max_step_rate_as_written", "step/s"),
    "5.2": ("least_time_as_written", "s"),
    "6.1": ("optimal_batch_as_written", "example/step"),
    "6.2": ("max_throughput_as_written", "example/s"),
    "6.3": ("least_power_as_written", "W"),
    "7.1": ("gradient_path", "loss"),
    "7.2": ("heat_as_written", "loss"),
    "8.1": ("power_schedule", "W"),
    "8.2": ("learning_rate_power_as_written", "1/loss"),
    "8.3": ("efficient_batch_as_written", "example/step"),
    "9.1": ("information_as_written", "bit"),
    "9.3": ("information_as_written", "bit/s"),
}
"""Section -> its formula as written, and the unit of its left side. 9.2 has neither: |∇I| of a matrix is undefined."""

ARGUMENTS = {"9.3": ["W", "K"]}

COUNTS = {"[operation]", "[parameter]", "[step]", "[example]", "[token]"}


def test_every_formula_as_written_is_here_but_the_one_that_is_undefined():
    assert set(CATALOGUE) - set(AS_WRITTEN) == {"9.2"}
    assert "undefined" in CATALOGUE["9.2"].needs["dW_dt"]


def test_exactly_these_do_not_close_as_written(monkeypatch):
    open_ended = {
        section
        for section, (name, unit) in AS_WRITTEN.items()
        if not closes(name, unit, monkeypatch, ARGUMENTS.get(section))
    }
    assert open_ended == {"2.2", "5.1", "6.1", "6.2", "8.2", "8.3"}


def test_inconsistent_are_exactly_those_that_do_not_close_even_when_counts_are_pure_numbers(monkeypatch):
    """2.2, 5.1 and 6.2 lack but a factor of FLOP per parameter and step (or example): a model, not an inconsistency."""

    def counted(unit: str) -> dict[str, float]:
        return {base: power for base, power in dimensions(unit).items() if base not in COUNTS}

    found = {
        section
        for section, (name, unit) in AS_WRITTEN.items()
        if section not in ARGUMENTS and counted(SAMPLES[name].unit) != counted(unit)
    }
    assert found == {entry.id for entry in CATALOGUE.values() if entry.verdict is Verdict.INCONSISTENT}
    assert found == {"6.1", "8.2", "8.3"}


@pytest.mark.parametrize(("section", "value"), [("6.1", "B_opt"), ("8.2", "power_term"), ("8.3", "B_efficient")])
def test_the_unit_that_the_catalogue_gives_an_inconsistent_value_is_the_one_that_it_has(section, value, monkeypatch):
    name, claimed = AS_WRITTEN[section]
    assert closes(name, CATALOGUE[section].as_written_names[value], monkeypatch)
    assert not closes(name, claimed, monkeypatch)


@pytest.mark.parametrize("section", [s for s in AS_WRITTEN if s not in {"6.1", "8.2", "8.3"}])
def test_the_catalogue_claims_of_the_left_side_the_unit_tested_here(section):
    claimed = AS_WRITTEN[section][1]
    assert Q(1.0, CATALOGUE[section].unit).is_compatible_with(claimed)


def test_one_flop_per_parameter_and_step_is_what_2_2_5_1_and_6_2_leave_out():
    lacking = Q(6.0, "flop/parameter/step")
    sample = {name: Q(1.0, SAMPLES[name].unit) for name in SAMPLES}
    assert (sample["compute_power_as_written"] * lacking).is_compatible_with("W")
    assert (sample["max_step_rate_as_written"] / lacking).is_compatible_with("step/s")
    per_example = Q(6.0, "flop/parameter/example")
    assert (sample["max_throughput_as_written"] / per_example).is_compatible_with("example/s")
    # one number for a step rate and for a throughput: both cannot be right
    assert SAMPLES["max_step_rate_as_written"].unit == SAMPLES["max_throughput_as_written"].unit


def test_8_2_closes_up_to_counts_with_power_in_loss_per_second(monkeypatch):
    in_loss = ["loss/s", *SAMPLES["learning_rate_power_as_written"].units[1:]]
    assert closes("learning_rate_power_as_written", "1/(loss*parameter*step)", monkeypatch, in_loss)


def test_the_repair_of_8_3_is_what_its_symbols_become():
    """P_static for P_max, B_c for η_power and J/example for E_FLOP: the same square root closes."""
    static, critical, rate, e1d = (Q(value, unit) for value, unit in SAMPLES["latency_bound_batch"].arguments)
    assert eq.efficient_batch_as_written(static, critical, rate, e1d).is_compatible_with("example/step")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: eq.dissipated_work(Q(1.0, "J"), Q(1.0, "loss")),
        lambda: eq.heat(Q(1.0, "loss"), Q(1.0, "J")),
        lambda: eq.heat_as_written(Q(1.0, "J"), Q(1.0, "loss")),
        lambda: eq.total_power(Q(1.0, "W"), Q(1.0, "W"), Q(1.0, "loss/s"), Q(1.0, "W")),
        lambda: eq.least_energy(Q(1.0, "step"), Q(1.0, "example/step"), Q(1.0, "J/step"), Q(1.0, "loss/example")),
        lambda: eq.certified_efficiency(Q(1.0, "nat"), Q(1.0, "nat"), Q(1.0, "J")),
        lambda: eq.thermodynamic_efficiency(Q(1.0, "J"), Q(1.0, "loss")).to(""),
    ],
)
def test_joules_and_loss_never_add(mixed):
    with pytest.raises(DimensionalityError):
        mixed()


def test_no_unit_of_the_catalogue_mixes_the_two_scales_but_the_inconsistent_one():
    mixed = {
        name
        for entry in CATALOGUE.values()
        for name, unit in [*entry.names.items(), *((s.symbol, s.unit) for s in entry.symbols)]
        if {"[energy]", "[loss]"} <= set(dimensions(unit))
    }
    assert mixed == {"power_term"}


NATURAL = [name for name in BY_PINT if name.partition("_")[0] in {"trap", "quench", "drag", "hebbian"}]


@pytest.mark.parametrize("name", NATURAL)
def test_a_formula_in_natural_units_refuses_seconds(name):
    """With k = γ = T = 1 time is a pure number: an exponential or a logarithm of seconds is refused."""
    values = SAMPLES[name].values
    with pytest.raises((DimensionalityError, TypeError)):
        FORMULAS[name](*values[:-1], Q(values[-1], "s"))


def test_the_thermal_price_of_a_nat_is_that_of_a_bit_over_ln_2():
    price = Q(eq.landauer_energy(), "J/bit")
    assert (price * Q(1.0, "nat")).to("J").magnitude == pytest.approx(eq.useful_work(1.0), rel=1e-12)
    assert (price * Q(1.0, "bit") / Q(300.0, "W")).is_compatible_with("s")
