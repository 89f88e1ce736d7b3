"""Live values of the algorithmic scale, against a training that was simulated exactly; and what is missing says so."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ergometry.core import series
from ergometry.core.estimate import Estimate, Provenance
from ergometry.core.run import Table
from ergometry.equations import entries, returns_inequality
from ergometry.equations.catalogue import CATALOGUE
from ergometry.equations.readings import read
from ergometry.estimators.temperatures import read_temperatures
from ergometry.report import summary
from ergometry.store.reader import load
from ergometry.work import accounts
from support.calibrations import FOUND
from support.physics import MODULES, logdet, parts, with_physics
from support.stored import store_run
from support.synthetic import BOARD, language_model, synthetic_run, with_counts

STEPS = 120
BASE = with_counts(
    synthetic_run(STEPS, power_w=400.0, signal=BOARD, devices=["A Board"], classes=None),
    language_model(blocks=12),
    FOUND,
)
RUN, TRUTH = with_physics(BASE)
BOOKS = accounts(RUN)
LIVE = entries(RUN, BOOKS)
ETA, B, N = TRUTH.learning_rate, TRUTH.batch, TRUTH.theta.shape[1]


def quantity(section_id, name, found=LIVE):
    q = {**found[section_id]["as_written"], **found[section_id]["repair"]}[name]
    return Estimate.from_json(q)


def value(section_id, name, found=LIVE):
    return quantity(section_id, name, found).value


def without(*names):
    run, _ = with_physics(BASE, drop=names)
    return entries(run, accounts(run))


def near(x, rel=1e-9):
    return pytest.approx(x, rel=rel, abs=1e-12)


# Each value against what was true


def test_the_first_law_in_every_section_that_has_it():
    heat, work = TRUTH.heat[:-1].sum(), TRUTH.work[:-1].sum()
    for section_id in ("1.1", "7.2"):
        assert value(section_id, "Q_first_law") == near(heat) and value(section_id, "W_first_law") == near(work)
        assert value(section_id, "delta_U") == near(work - heat)
        assert abs(value(section_id, "first_law_closure")) < 1e-10
    assert value("1.3", "Q_dissipated") == near(heat)
    assert quantity("1.3", "Q_dissipated").provenance is Provenance.DERIVED


def test_dissipated_work_in_its_three_readings():
    squares = np.sum(TRUTH.gradient**2, 1)
    assert value("1.3", "W_diss") == near(ETA * squares.sum())
    assert value("1.3", "W_ito") == value("7.1", "W_ito") == near(-np.sum(TRUTH.gradient * TRUTH.moves))
    assert value("1.3", "W_midpoint") == value("7.1", "W_midpoint") == near(TRUTH.midpoint.sum())
    # the rows hold expectations, so that the unbiased sum is Σ η|G|² itself; as written it is twice that
    assert value("1.3", "W_unbiased") == near(ETA * np.sum(TRUTH.expected**2))
    assert value("1.3", "W_diss") > 1.5 * value("1.3", "W_unbiased")


def test_the_alignment_and_the_path():
    assert value("7.1", "path_midpoint") == near(TRUTH.midpoint_path.sum())
    assert value("7.1", "alignment") == near(TRUTH.midpoint.sum() / TRUTH.midpoint_path.sum())


def settled(truth):
    """Return trΣ of the later half of the steps: the start is far from where the weights come to rest."""
    return truth.trace_cov[len(truth.trace_cov) // 2 :].mean()


def test_temperatures_and_the_floor_that_noise_sets():
    trace = settled(TRUTH)
    temperature = ETA * trace / (2 * B * N)
    assert value("4.1", "T_noise") == near(temperature)
    assert value("4.1", "loss_floor") == near(ETA * trace / (4 * B)) and quantity("4.1", "loss_floor").unit == "loss"
    mean_sq = np.mean(np.sum(TRUTH.expected**2, 1))
    assert value("4.1", "T_configurational") == near(mean_sq / np.trace(TRUTH.hessian))
    assert quantity("4.1", "T_virial") == read_temperatures(RUN).virial
    theta_g = np.mean(np.sum(TRUTH.theta[:-1] * TRUTH.gradient, 1))
    moved = np.mean(np.sum(TRUTH.moves**2, 1))
    assert value("4.1", "equilibrium_ratio") == near(theta_g / (moved / (2 * ETA)))


def test_with_momentum_noise_is_hotter_and_the_floor_higher():
    run, truth = with_physics(BASE, momentum=0.9)
    found = entries(run, accounts(run))
    expected = ETA * settled(truth) / (4 * B * 0.1)
    assert value("4.1", "loss_floor", found) == near(expected)
    assert value("8.2", "eta_stable", found) == near(2 * 1.9 / np.linalg.eigvalsh(truth.hessian)[-1])


def test_the_noise_scale_in_the_summary():
    document = summary(RUN, BOOKS)
    squared, trace = np.mean(np.sum(TRUTH.expected**2, 1)), TRUTH.trace_cov.mean()
    assert document["noise"]["grad_sq"]["value"] == near(squared)
    assert document["noise"]["trace_cov"]["value"] == near(trace)
    assert document["noise"]["b_noise"]["value"] == near(trace / squared)


def test_the_lengths_of_the_outputs_path():
    turned = np.abs(np.diff(TRUTH.angles[:-1]))
    assert value("4.2", "length_fisher") == near(turned.sum())
    ends = abs(TRUTH.angles[-2] - TRUTH.angles[0])
    assert value("4.2", "length_straightness") == near(ends / turned.sum())
    assert value("4.2", "length_js") <= value("4.2", "length_fisher")


def test_curvature_and_the_learning_rates():
    h, g = TRUTH.hessian, TRUTH.expected[-1]
    largest, along, noise = np.linalg.eigvalsh(h)[-1], g @ h @ g, np.trace(h @ TRUTH.covariance)
    assert value("8.2", "lambda_max") == near(largest) and value("8.2", "smoothness_term") == near(1 / largest)
    assert value("8.2", "eta_stable") == near(2 / largest) and value("8.2", "stability") == near(ETA * largest / 2)
    assert value("8.2", "B_H") == near(noise / along)
    assert value("8.2", "eta_descent") == near(g @ g / along / (1 + noise / along / B))
    assert value("8.2", "eta_used") == ETA and value("8.2", "eta_opt") is None


def test_where_the_noise_of_the_curvature_is_not_known_the_gradient_is_that_of_the_same_moment():
    rows = RUN.table(series.CURVATURE).rows.copy()
    rows[:, series.CURVATURE.columns.index("noise_trace")] = math.nan
    run = replace(RUN, tables={**RUN.tables, "curvature": Table(series.CURVATURE.columns, rows)})
    late = np.arange(STEPS) >= 0.9 * (STEPS - 1)
    squared = np.mean(np.sum(TRUTH.expected[late] ** 2, 1))
    g = TRUTH.expected[-1]
    assert value("8.2", "eta_descent", entries(run, accounts(run))) == near(squared / (g @ TRUTH.hessian @ g))


def test_information_is_the_logdet_where_the_loss_is_no_code():
    nats = logdet(TRUTH)
    assert value("1.2", "information_logdet") == value("1.2", "information_nat") == near(nats)
    assert "½logdet" in quantity("1.2", "information_nat").method
    joules = value("1.1", "W_total")
    assert value("3.2", "eta_power") == near(nats / joules) and "½logdet" in quantity("3.2", "eta_power").method


def test_the_algorithmic_readings_of_efficiency_and_bounds():
    temperature, work, nats = value("4.1", "T_noise"), TRUTH.work[:-1].sum(), logdet(TRUTH)
    assert value("3.1", "eta_algorithmic") == near(temperature * nats / work)
    assert "not certified" in quantity("3.1", "eta_algorithmic").why
    bits = work / temperature / math.log(2)
    assert value("9.1", "I_max_algorithmic") == near(bits)
    assert value("9.1", "margin_algorithmic") == near(bits * math.log(2) / nats)
    assert value("9.3", "I_rate_max_algorithmic") == near(bits / RUN.duration_s)


def test_returns_by_module():
    joules = [
        sum(row.energy.value for row in BOOKS.by_module if f"{row.name}.".startswith(f"{module}."))
        for module in MODULES
    ]
    nats = [logdet(TRUTH, part) for part in parts(TRUTH)]
    returns = np.array(nats) / joules
    assert value("9.2", "returns_inequality") == near(float(returns_inequality(np.array(nats), np.array(joules))))
    assert value("9.2", "returns_most") == near(returns.max()) and value("9.2", "returns_least") == near(returns.min())
    assert MODULES[int(returns.argmax())] in quantity("9.2", "returns_most").method
    work = [-np.sum(TRUTH.gradient[:, part] * TRUTH.moves[:, part]) for part in parts(TRUTH)]
    assert value("9.2", "work_inequality") == near(float(returns_inequality(np.array(work), np.array(joules))))


# The energy model, with B_noise for B_c


def test_the_batch_of_least_energy_by_the_stand_in():
    priced = read(RUN, BOOKS).priced
    static = value("2.1", "P_static")
    e0 = priced.e0d.value + static * priced.tau0.value
    e1 = priced.e1d.value + static * priced.tau1.value
    noise = TRUTH.trace_cov.mean() / np.mean(np.sum(TRUTH.expected**2, 1))
    assert value("6.1", "B_c") == near(noise) and value("6.1", "e0") == near(e0) and value("6.1", "e1") == near(e1)
    grid = np.exp(np.linspace(-3, 9, 400_001))
    energy = (1 + noise / grid) * (e0 + e1 * grid)
    assert value("6.1", "B_star") == pytest.approx(grid[np.argmin(energy)], rel=1e-4)
    least_steps = STEPS / (1 + noise / B)
    assert value("6.1", "E_star") == pytest.approx(least_steps * energy.min(), rel=1e-6)
    assert value("6.1", "E_modelled") == near(STEPS * (e0 + e1 * B))
    assert value("6.1", "E_star") <= value("6.1", "E_modelled")
    seconds = np.maximum(priced.tau0.value, grid * priced.tau1.value)
    roofline = (1 + noise / grid) * (priced.e0d.value + priced.e1d.value * grid + static * seconds)
    assert value("6.1", "B_star_roofline") == pytest.approx(grid[np.argmin(roofline)], rel=1e-4)


def test_the_stand_in_is_named_with_its_spread():
    for section_id, name in (("6.1", "B_c"), ("6.1", "B_star"), ("6.1", "E_star"), ("8.3", "B_latency")):
        q = quantity(section_id, name)
        assert q.provenance is Provenance.MODELLED and "B_noise" in q.method and "guess at B_c" in q.why
        assert "factor 3" in q.why
    # one standard deviation of ln B_c is ln 3: half the difference between the ends
    assert quantity("6.1", "B_c").stderr == pytest.approx(0.5 * (3 - 1 / 3) * value("6.1", "B_c"), rel=0.01)
    assert quantity("6.1", "B_star").stderr >= 0.57 * value("6.1", "B_star")


def test_batches_of_section_8_3():
    priced, rate = read(RUN, BOOKS).priced, value("2.2", "nu_0")
    expected = math.sqrt(value("2.1", "P_static") * value("6.1", "B_c") / (rate * priced.e1d.value))
    assert value("8.3", "B_latency") == near(expected)
    per_joule = value("3.2", "eta_power")
    expected = math.sqrt(value("5.1", "P_max") * per_joule / (rate * priced.e_flop.value))
    assert value("8.3", "B_efficient") == near(expected)


def test_times_at_the_roofline_add_up():
    tau0, tau1 = value("5.1", "tau0"), value("5.1", "tau1")
    passes = [item for item in BOOKS.items if item.phase in ("forward", "backward")]
    update = [item for item in BOOKS.items if item.phase == "optimizer"]
    flop_per_s, byte_per_s = 4e14, 2e12  # the calibration's peaks
    per_example = sum(max(i.flops / flop_per_s, i.example_bytes / byte_per_s) for i in passes)
    weights = sum(i.parameter_bytes / byte_per_s for i in passes)
    updating = sum(max(i.flops / flop_per_s, i.bytes / byte_per_s) for i in update)
    assert tau1 == near(per_example / (STEPS * B)) and tau0 == near((updating + weights) / STEPS)
    whole = value("5.2", "t_roofline") / STEPS
    # a step takes at least what its items take together, and at most that of its parts one after the other
    assert max(tau0, B * tau1) <= whole * (1 + 1e-9) and whole <= (tau0 + B * tau1) * (1 + 1e-9)
    assert value("5.2", "t_roofline") < value("5.2", "t_actual")
    memory = value("2.3", "e0d_memory") + B * value("2.3", "e1d_memory")
    assert memory * value("2.2", "nu_0") == near(value("2.3", "P_bytes"))


# What is missing


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("noise", ["4.1 T_noise", "4.1 loss_floor", "1.3 W_unbiased", "6.1 B_c", "6.1 B_star", "8.3 B_latency"]),
        ("equilibrium", ["4.1 T_noise", "4.1 T_virial", "4.1 equilibrium_ratio", "9.1 I_max_algorithmic"]),
        ("length", ["4.2 length_js", "4.2 length_fisher", "4.2 length_straightness"]),
        ("curvature", ["8.2 lambda_max", "8.2 eta_stable", "8.2 eta_descent", "8.2 smoothness_term", "8.2 B_H"]),
        ("information", ["1.2 information_logdet", "1.2 information_nat", "9.2 returns_inequality"]),
        ("first_law", ["1.3 W_midpoint", "7.1 alignment", "7.2 first_law_closure"]),
        ("ledger", ["1.3 W_ito", "7.1 alignment_ito", "4.2 path_cost"]),
        ("module_work", ["9.2 work_inequality"]),
    ],
)
def test_without_a_table_its_values_are_null_and_say_why(table, names):
    found = without(table)
    for name in names:
        q = quantity(*name.split(), found)
        assert q.value is None and q.why.startswith(("needs", "undefined")), name


def test_without_a_replay_displacement_work_stands_in():
    found = without("first_law")
    q = quantity("7.2", "Q_first_law", found)
    assert q.value == near(value("1.3", "W_ito")) and q.provenance is Provenance.MODELLED
    assert "E2 stands in for E1" in q.method and "½Σ ΔθᵀHΔθ" in q.why
    assert value("1.1", "W_first_law", found) == near(q.value + TRUTH.before[-1] - TRUTH.before[0])


def test_an_optimizer_other_than_sgd_has_no_noise_temperature():
    rows = RUN.table(series.EQUILIBRIUM).rows.copy()
    rows[:, series.EQUILIBRIUM.columns.index("eligible")] = 0.0
    run = replace(RUN, tables={**RUN.tables, "equilibrium": Table(series.EQUILIBRIUM.columns, rows)})
    found = entries(run, accounts(run))
    for section_id, name in (("4.1", "T_noise"), ("4.1", "loss_floor"), ("9.1", "I_max_algorithmic")):
        assert "plain SGD" in quantity(section_id, name, found).why
    assert value("6.1", "B_c", found) is not None


def test_a_run_with_physics_off_has_every_name_and_says_so():
    names = [kind.name for kind in series.SENT if kind.code >= series.FIRST_LAW.code] + ["ledger", "learning_rates"]
    run, _ = with_physics(BASE, drop=names)
    run = replace(run, meta={**run.meta, "physics": {"level": "off", "taps": {}}})
    found = entries(run, accounts(run))
    for section_id, entry in CATALOGUE.items():
        assert set(found[section_id]["as_written"]) == set(entry.as_written_names)
        assert set(found[section_id]["repair"]) == set(entry.repair_names)
    for section_id, name in (("1.3", "W_ito"), ("7.1", "alignment"), ("4.1", "T_noise"), ("8.2", "lambda_max")):
        assert value(section_id, name, found) is None and "physics off" in quantity(section_id, name, found).why
    assert value("1.1", "W_total", found) > 0


def test_a_run_stored_before_there_were_these_tables_still_loads(tmp_path):
    old = synthetic_run(30)
    assert "physics" not in old.meta and "first_law" not in old.tables
    run = load(store_run(old, tmp_path))
    document = summary(run)
    assert set(document["equations"]) == set(CATALOGUE)
    json.dumps(document, allow_nan=False)


def test_a_run_with_these_tables_survives_the_store(tmp_path):
    run = load(store_run(RUN, tmp_path))
    assert entries(run, accounts(run)) == LIVE


# Certified mode


def certified(**sections):
    return replace(RUN, meta={**RUN.meta, "certified": sections})


def test_values_of_certified_mode_fill_its_names():
    eta = Estimate(0.41, 0.01, "", Provenance.DERIVED, "I/(ΔS + Q/T)")
    time_s = Estimate(1500.0, 30.0, "s", Provenance.DERIVED, "γW₂²/(TΔS)")
    run = certified(**{"3.1": {"eta_certified": eta.to_json()}, "5.2": {"t_certified": time_s.to_json()}})
    found = entries(run, accounts(run))
    assert quantity("3.1", "eta_certified", found) == eta and quantity("5.2", "t_certified", found) == time_s
    assert value("4.2", "dissipation_least", found) is None
    assert value("3.1", "eta_thermo", found) == value("3.1", "eta_thermo")


@pytest.mark.parametrize(
    "told",
    [
        {"3.1": {"eta_certified": {"value": 1.0}}},
        {"3.1": {"eta_certified": None}},
        {"3.1": {"eta_certified": Estimate(1.0, None, "J").to_json()}},
    ],
)
def test_what_certified_mode_did_not_write_so_is_null_with_a_reason(told):
    found = entries(certified(**told), BOOKS)
    assert value("3.1", "eta_certified", found) is None and quantity("3.1", "eta_certified", found).why


def test_names_that_the_catalogue_does_not_have_are_left_alone():
    run = certified(**{"3.1": {"eta_magic": {}}, "10.1": {"x": {}}, "9.1": "odd"})
    assert entries(run, BOOKS) == LIVE
