"""Certified mode from end to end: linear models against exact chains and evidence, networks against the theorems."""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import ergometry as erg
from ergometry.core import units
from ergometry.core.errors import UsageError
from ergometry.equations.catalogue import CATALOGUE
from ergometry.langevin import ensemble as ensemble_module
from ergometry.langevin.gaussian import Quadratic, State, step
from ergometry.langevin.outcome import Outcome
from ergometry.langevin.sampler import Diverged

torch.set_num_threads(1)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(inputs, bias=False):
    with torch.random.fork_rng():
        return nn.Linear(inputs, 1, bias=bias).double()


def half_squares(out, y):
    return 0.5 * ((out - y) ** 2).mean()


INPUTS, NOISE, TEACHER = normal(0, 10, 2), 0.3, 0.8


def teacher_sets(count, seed=1):
    """Data sets that share their inputs; each has a teacher θ* ~ 𝒩(0, 0.8²) of its own, and noise."""
    teachers, noise = TEACHER * normal(seed, count, 2, 1), NOISE * normal(seed + 1, count, 10, 1)
    return [(INPUTS, INPUTS @ teacher + eps) for teacher, eps in zip(teachers, noise, strict=True)]


def exact_chain(controls, eta, temperature, std):
    """The same ensemble in matrices: L = |Xθ − y|²/2n with y = Xθ* + ε, over all its data sets."""
    x, n = INPUTS.numpy(), len(INPUTS)
    hessian = x.T @ x / n
    tilt = np.hstack((TEACHER * hessian, NOISE * x.T / n))  # Xᵀy/n follows (θ*, ε)
    constant = 0.5 * (TEACHER**2 * np.trace(hessian) + NOISE**2)
    loss, prior = Quadratic(hessian, np.zeros(2), constant, tilt), Quadratic.trap(temperature / std**2 * np.eye(2))
    state = first = State.prior(2, std, tilt.shape[1])
    u, work, heat = prior, 0.0, 0.0
    for control in controls:
        switched = loss.scaled(control).plus(prior)
        work += state.energy(switched) - state.energy(u)
        u = switched
        end = step(state, u, eta, temperature)
        state, heat = end.state, heat + end.heat
    free = u.free_energy(temperature) - prior.free_energy(temperature)
    most = state.entropy - first.entropy + heat / temperature
    return {
        "W": work,
        "Q": heat,
        "delta_U": state.energy(u) - first.energy(prior),
        "delta_F": free,
        "W_dissipated": state.energy(u) - first.energy(prior) + heat - free,
        "delta_S": state.entropy - first.entropy,
        "information": state.information,
        "information_most": most,
        "eta": state.information / most,
        "entropy_production": state.conditional_entropy - first.conditional_entropy + heat / temperature,
        "loss_last": state.energy(loss),
    }


def part(outcome: Outcome, k: int, of: int) -> Outcome:
    """Return the k-th of so many equal parts of an ensemble, as if it had been run alone."""
    replicas, sets = len(outcome.end), outcome.setting.data_sets
    mine = slice(k * replicas // of, (k + 1) * replicas // of)
    per_replica = ("end", "drift", "work", "heat", "path_work", "delta_u", "midpoint_heat")
    modes = outcome.modes
    if sets > 1 and modes is not None:
        some = slice(k * sets // of, (k + 1) * sets // of)
        names = ("mean", "covariance", "entropy_change", "wasserstein_sq", "delta_f", "least_loss")
        modes = replace(modes, **{name: getattr(modes, name)[some] for name in names})
    return replace(
        outcome,
        setting=replace(outcome.setting, data_sets=max(sets // of, 1)),
        losses=tuple(loss[mine] for loss in outcome.losses),
        modes=modes,
        chosen=[],
        crossed=None,
        **{name: getattr(outcome, name)[mine] for name in per_replica},
    )


# an ensemble of linear teachers, against the exact chain

REPEATS, SETS = 120, 32


@pytest.fixture(scope="module")
def teachers():
    return erg.certified(
        linear(2),
        loss=half_squares,
        data=teacher_sets(REPEATS * SETS),
        temperature=0.05,
        replicas=REPEATS * SETS,
        prior_std=1.2,
        protocol="linear",
        learning_rate=0.01,
        target_std=TEACHER,
        seed=3,
    ).run(60)


@pytest.fixture(scope="module")
def truth():
    return exact_chain([(k + 1) / 60 for k in range(60)], 0.01, 0.05, 1.2)


def test_every_value_is_that_of_the_exact_chain(teachers, truth):
    found = teachers.summary()
    for name, exact in truth.items():
        q = found[name]
        assert q.value == pytest.approx(exact, abs=4 * q.stderr), name
        assert q.stderr < 0.05 * abs(exact) + 0.01, name
    assert found["first_law_residual"].value == pytest.approx(0.0, abs=1e-12)


def test_error_bars_of_ensembles_cover_the_truth_nine_times_in_ten(teachers, truth):
    quantile = stats.t(df=SETS - 1).ppf(0.95)
    summaries = [part(teachers, k, REPEATS).summary() for k in range(REPEATS)]
    for name, exact in truth.items():
        hits = [abs(s[name].value - exact) < quantile * s[name].stderr for s in summaries]
        assert 0.85 <= np.mean(hits) <= 0.97, (name, np.mean(hits))


def test_of_one_data_set_error_bars_cover_too():
    data, repeats, replicas = teacher_sets(1)[0], 150, 40
    outcome = erg.certified(
        linear(2), loss=half_squares, data=data, temperature=0.3, replicas=repeats * replicas, learning_rate=0.01
    ).run(50)
    quantile = stats.t(df=replicas - 1).ppf(0.95)
    whole, parts = outcome.summary(), [part(outcome, k, repeats).summary() for k in range(repeats)]
    for name in ("W", "Q", "delta_U", "kl_prior_most", "delta_F_jarzynski", "entropy_production", "W_dissipated"):
        bias = np.mean([p[name].value for p in parts]) - whole[name].value if name == "delta_F_jarzynski" else 0.0
        hits = [abs(p[name].value - bias - whole[name].value) < quantile * p[name].stderr for p in parts]
        assert 0.85 <= np.mean(hits) <= 0.98, (name, np.mean(hits))


def test_bounds_hold_and_are_bounds_of_the_right_quantities(teachers):
    q = teachers.summary()
    assert 0 < q["information"].value < q["information_most"].value
    assert 0 < q["eta"].value < 1
    assert q["information_most"].value < q["kl_prior_most"].value  # ΔS is less than the cross-entropy with the prior
    assert 0 < q["time_least"].value < teachers.setting.time
    assert q["dissipation_least"].value < 0.05 * q["entropy_production"].value
    assert q["W_dissipated"].value > 0.05 * q["entropy_production"].value
    assert 0 < q["excess_loss_least"].value < q["excess_loss"].value
    assert q["excess_loss_as_written"].value < 0


def test_a_slow_protocol_wastes_less_and_learns_the_same():
    found = []
    for steps in (30, 450):
        ensemble = erg.certified(
            linear(2), loss=half_squares, data=teacher_sets(200), temperature=0.05, replicas=200, protocol="linear"
        )
        found.append(ensemble.run(steps).summary())
    quick, slow = found
    assert slow["W_dissipated"].value < 0.3 * quick["W_dissipated"].value
    assert slow["eta"].value > 1.5 * quick["eta"].value
    assert slow["time_least"].value > quick["time_least"].value


# R9: Bayesian regression by annealing


@pytest.fixture(scope="module")
def regression():
    """T = 1/n and L = mean −log 𝒩(y; Xθ, s²): the Boltzmann state is the posterior, ΔF/T = −log evidence."""
    n, s = 12, 1.0
    x = normal(5, n, 3)
    y = x @ normal(6, 3, 1) + s * normal(7, n, 1)
    covariance = s**2 * np.eye(n) + (x @ x.T).numpy()
    evidence = stats.multivariate_normal(np.zeros(n), covariance).logpdf(y[:, 0].numpy())

    def surprise(out, y):
        return 0.5 * ((out - y) ** 2).mean() / s**2 + 0.5 * math.log(2 * math.pi * s**2)

    ensemble = erg.certified(
        linear(3), loss=surprise, data=(x, y), temperature=1 / n, replicas=600, protocol=lambda u: u**2, seed=8
    )
    ensemble.run(400)
    ensemble.reverse()
    return ensemble, -evidence / n, 1 / n


def test_r9_the_free_energy_is_the_log_evidence_by_every_method(regression):
    ensemble, free, temperature = regression
    q = ensemble.summary()
    assert q["delta_F"].value == pytest.approx(free, abs=1e-9)
    assert q["delta_F"].stderr == 0.0
    for name in ("delta_F_jarzynski", "delta_F_bennett"):
        assert abs(q[name].value - free) < 4 * q[name].stderr
        assert q[name].stderr < 0.4 * temperature
    assert "high in the mean" in q["delta_F_jarzynski"].why
    assert q["W"].value > free
    assert q["W_dissipated"].value > temperature * q["entropy_production"].value
    assert q["entropy_production"].value > 0


def test_the_way_back_begins_in_the_boltzmann_state(regression):
    """The Bayes posterior, by its own formulas: precision XᵀX/s² + 1, s = 1."""
    ensemble, _, _ = regression
    x = normal(5, 12, 3)
    y = x @ normal(6, 3, 1) + normal(7, 12, 1)
    draws = torch.cat([ensemble._boltzmann(1.0) for _ in range(20)])
    precision = x.T @ x + torch.eye(3)
    assert torch.allclose(draws.mean(0), torch.linalg.solve(precision, x.T @ y)[:, 0], atol=0.02)
    assert torch.allclose(precision @ torch.cov(draws.T), torch.eye(3, dtype=torch.float64), atol=0.1)


def test_7_2_as_written_exceeds_the_heat_by_the_entropy_of_the_posterior(regression):
    ensemble, _, temperature = regression
    equations, q = ensemble.equations(), ensemble.summary()
    excess = equations["7.2"]["Q_as_written"].value - equations["7.2"]["Q_first_law"].value
    shadow = q["W_shadow"].value
    assert excess - shadow == pytest.approx(q["delta_U"].value - q["delta_F"].value, abs=1e-9)
    # in equilibrium ΔU − ΔF is TΔS
    assert excess == pytest.approx(temperature * q["delta_S"].value, abs=0.3 * temperature)


def test_a_trained_replica_can_be_loaded_and_is_a_draw_from_the_posterior(regression):
    ensemble, _, _ = regression
    model = linear(3)
    model.load_state_dict(ensemble.state_dict(5))
    assert model.weight.tolist()[0] == pytest.approx(ensemble.run(1).end[5].tolist(), abs=10)


# a network, which nothing is exact for


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.fixture(scope="module")
def network():
    return erg.certified(make_net(), loss=half_squares, data=teacher_sets(24), temperature=0.03, replicas=192, seed=4)


@pytest.fixture(scope="module")
def network_summary(network):
    return network.run(500).summary()


def test_of_a_network_every_bound_holds(network, network_summary):
    q = network_summary
    assert network.batched
    assert 0.3 < q["information"].value < math.log(24)
    assert q["information"].value < q["information_most"].value
    assert 0 < q["eta"].value < 1
    assert q["kl_prior_most"].value > q["information"].value
    assert q["entropy_production"].value > 3 * q["entropy_production"].stderr
    assert q["time_least"].value < network.learning_rate * 500 + 3 * q["time_least"].stderr
    assert q["dissipation_least"].value < 0.03 * q["entropy_production"].value
    assert abs(q["first_law_residual"].value) < 0.01 * q["Q"].value
    assert q["loss_last"].value < 0.5 * q["loss_first"].value


def test_what_was_learned_is_at_most_the_drop_of_the_loss_over_the_temperature(network_summary):
    q = network_summary
    drop = (q["loss_first"].value - q["loss_last"].value + q["W_shadow"].value) / 0.03
    assert q["kl_prior_most"].value == pytest.approx(drop, rel=1e-9)  # of a quench, path by path
    assert q["information"].value < drop


def test_of_one_data_set_the_information_is_unknown_and_its_price_is_not():
    ensemble = erg.certified(make_net(), loss=half_squares, data=teacher_sets(1)[0], temperature=0.03, replicas=64)
    q = ensemble.run(200).summary()
    for name in ("information", "eta"):
        assert q[name].value is None
        assert "average over data sets" in q[name].why
    assert q["entropy_production"].value > 0
    assert q["kl_prior_most"].value > 0
    assert q["time_least"].value < ensemble.learning_rate * 200
    assert q["excess_loss_least"].value is None


def test_bennett_on_a_network_says_where_the_way_back_began():
    ensemble = erg.certified(
        make_net(), loss=half_squares, data=teacher_sets(1)[0], temperature=0.3, replicas=200, protocol="linear"
    )
    ensemble.run(250)
    with pytest.raises(UsageError, match=r"expected steps to equilibrate in .*, got 0; give equilibrate="):
        ensemble.reverse()
    q = ensemble.reverse(equilibrate=100).summary()
    assert "relaxed for 100 more steps" in q["delta_F_bennett"].method
    both = math.hypot(q["delta_F_bennett"].stderr, q["delta_F_jarzynski"].stderr)
    assert abs(q["delta_F_bennett"].value - q["delta_F_jarzynski"].value) < 4 * both


def test_few_replicas_say_what_more_would_tell():
    ensemble = erg.certified(make_net(), loss=half_squares, data=teacher_sets(1)[0], temperature=0.03, replicas=2)
    q = ensemble.run(10).summary()
    assert q["W"].stderr > 0
    for name in ("delta_S", "information_most", "entropy_production", "wasserstein_sq", "time_least"):
        assert q[name].value is None
        assert "needs four replicas" in q[name].why


# the catalogue, the store, the user's state


def test_every_value_has_a_place_in_the_catalogue_and_its_unit(network, network_summary):
    found = network.equations()
    for section, values in found.items():
        for name, q in values.items():
            units.factor(q.unit, CATALOGUE[section].names[name])  # raises if they are not of one dimension
            assert q.known or q.why
    certified = {name for section in CATALOGUE.values() for name in section.names if name.endswith("_certified")}
    assert certified <= {name for values in found.values() for name in values}
    first_law = found["7.2"]
    closed = first_law["W_first_law"] - first_law["Q_first_law"] - first_law["delta_U"]
    assert closed.value == pytest.approx(0.0, abs=1e-9)
    json.dumps({s: {n: q.to_json() for n, q in v.items()} for s, v in found.items()}, allow_nan=False)


def test_inside_a_recording_the_run_keeps_the_values(tmp_path):
    ensemble = erg.certified(linear(2), loss=half_squares, data=teacher_sets(1)[0], temperature=0.1, replicas=8)
    with erg.record(store=tmp_path) as recording:
        ensemble.run(5)
    kept = recording.run()
    found = kept.meta["certified"]
    assert found["9.1"]["I_certified"] == ensemble.equations()["9.1"]["I_certified"].to_json()
    assert not [notice for notice in kept.notices if notice.code == "torch.unsupported"]


def test_the_users_model_and_streams_are_untouched_and_a_seed_repeats_the_run():
    model, stream = make_net(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def once(seed):
        arguments = {"loss": half_squares, "data": teacher_sets(1)[0], "temperature": 0.1, "replicas": 4}
        ensemble = erg.certified(model, seed=seed, **arguments)
        return ensemble.run(10), ensemble.run(10)

    a, again = once(1)
    assert torch.equal(torch.get_rng_state(), stream)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # another state of the user's stream changes nothing
        b, _ = once(1)
    c, _ = once(2)
    assert np.array_equal(a.end, b.end)
    assert not np.array_equal(a.end, again.end)
    assert not np.array_equal(a.end, c.end)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_worked_example_of_the_docs_gives_what_they_print(capsys):
    page = (Path(__file__).parents[3] / "docs" / "certified.md").read_text()
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    with torch.random.fork_rng():
        exec(compile(code, "docs/certified.md", "exec"), {})
    found, quoted = (
        {line.split()[0]: line.split()[1] for line in t.splitlines()} for t in (capsys.readouterr().out, printed)
    )
    assert list(found) == list(quoted)
    for name in ("W", "Q", "delta_F", "information", "information_most", "eta", "time_least"):
        assert float(found[name]) == pytest.approx(float(quoted[name]), rel=0.02), name


# bad input


def build(**changes):
    arguments = {"loss": half_squares, "data": teacher_sets(1)[0], "temperature": 0.1, "replicas": 8}
    return erg.certified(changes.pop("model", linear(2)), **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"expected a temperature above 0, .*, got 0.0; 1/\(number of examples\)"),
        ({"temperature": math.nan}, "expected a temperature above 0, .*, got nan"),
        ({"replicas": 1}, "expected two replicas or more, got 1; error bars need an ensemble"),
        ({"learning_rate": -0.1}, "expected a learning rate above 0, got -0.1; leave it out"),
        ({"learning_rate": 50.0}, r"expected learning_rate·λ_max of at most 0.1, got .*; take a learning rate of 0.0"),
        ({"prior_std": 0.0}, "expected a positive prior_std .*, got 0.0 for weight; give one"),
        ({"protocol": "cosine"}, "expected a protocol: quench, linear, or a function, got 'cosine'"),
        ({"data": []}, "expected a tuple of tensors .*, got an empty list; write data="),
        (
            {"data": list(teacher_sets(1)[0])},
            r"expected a tuple of tensors .*, got Tensor; write data=\(inputs, targets\)",
        ),
        ({"data": teacher_sets(3)}, "expected replicas that divide evenly over 3 data sets, got 8; take 9"),
        (
            {"data": [teacher_sets(1)[0], (INPUTS[:5], INPUTS[:5, :1])]},
            "expected data sets of equal shapes, got 2 different ones; cut",
        ),
        ({"data": (INPUTS * math.nan, INPUTS[:, :1])}, "expected finite data, got NaN or infinity in 1 tensors; take"),
        ({"loss": lambda out, y: (out - y) ** 2}, r"expected a scalar loss, got \(10, 1\)"),
    ],
)
def test_bad_input_is_refused_with_its_remedy(changes, message):
    with pytest.raises(UsageError, match=message):
        build(**changes)


def test_a_step_that_is_too_coarse_is_warned_of_with_its_remedy():
    with pytest.warns(
        UserWarning, match=r"expected learning_rate·λ_max of at most 0.1, got 0\..*; take a learning rate of 0.0"
    ):
        build(learning_rate=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build()


def test_a_run_of_nothing_and_a_protocol_of_nan_are_refused():
    with pytest.raises(UsageError, match="expected one step or more, got 0; say how many"):
        build().run(0)
    with pytest.raises(UsageError, match="expected a protocol with finite λ, got NaN or infinity; return"):
        build(protocol=lambda s: math.nan).run(3)
    with pytest.raises(UsageError, match=r"expected an ensemble that has run, got one that has not; call run"):
        build().summary()
    sets = build(data=teacher_sets(2))
    sets.run(2)
    with pytest.raises(UsageError, match="expected one data set to reverse, got 2; ΔF is of one"):
        sets.reverse()


def test_a_loss_that_becomes_nan_on_the_way_is_refused():
    def cliff(out, y):
        loss = half_squares(out, y)
        return torch.where(loss < 0.055, torch.nan, loss)

    ensemble = build(loss=cliff, temperature=0.005)
    with pytest.raises(
        Diverged, match=r"expected finite losses, got NaN or infinity in \d of 8 replicas by step \d+; take"
    ):
        ensemble.run(400)


def test_a_loss_that_is_nan_over_the_prior_is_refused_before_the_run():
    def cliff(out, y):
        return half_squares(out, y) * torch.where(out.abs().max() > 2.0, torch.nan, 1.0)

    with pytest.raises(
        UsageError, match=r"expected a finite curvature .*, got nan; take a smaller prior_std, or look for"
    ):
        build(loss=cliff, prior_std=3.0, model=tiny())


def tiny():
    model = linear(2)
    nn.init.zeros_(model.weight)
    return model


def test_the_default_step_is_small_against_the_steepest_curvature():
    ensemble = build()
    assert ensemble.learning_rate * ensemble._steepest == pytest.approx(0.5 * ensemble_module.STEEP)
