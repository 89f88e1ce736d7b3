"""The tap of thermodynamic length: its rows against outputs recomputed at every θ, its refusals, and the same bits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ergometry.core.run import Table
from ergometry.core.series import LENGTH
from ergometry.estimators import path_length
from ergometry.integrations.physics import length
from ergometry.integrations.physics.length import Path
from support.physics_runs import MODELS, batches, cross_entropy, train
from support.synthetic import synthetic_run

KINDS = sorted(MODELS)


def test_the_same_numbers_as_the_estimators():
    stream = np.random.default_rng(0)
    for scale in (1e-9, 1e-3, 1.0, 30.0):
        logits = stream.standard_normal((50, 6)) * 10
        p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (logits, logits + scale))
        q[:5] = np.eye(6)[:5]
        q[5:10] = p[5:10]
        pairs = ((length.js_distance, path_length.js_distance), (length.fisher_angle, path_length.fisher_angle))
        for ours, theirs in pairs:
            found = ours(torch.from_numpy(p), torch.from_numpy(q)).numpy()
            np.testing.assert_allclose(found, theirs(p, q), rtol=1e-13, atol=0)


def outputs_along(trained, x, *, training):
    """Return (probes, predictions, classes) probabilities of x at each θ of a training."""
    model, found = trained.model.train(training), []
    for values in trained.parameters:
        with torch.no_grad():
            for p, value in zip(model.parameters(), values, strict=True):
                p.copy_(value)
            scores = model(x)
        found.append(scores.double().softmax(-1).reshape(-1, scores.shape[-1]).numpy())
    return np.stack(found)


def path_of(probabilities):
    estimator, states = path_length.PathLength(), []
    state = estimator.init()
    for p in probabilities:
        state = estimator.update(state, p)
        states.append(estimator.result(state))
    return states


def assert_rows_are_the_path(rows, probabilities):
    states = path_of(probabilities)
    assert len(rows) == len(states) - 1
    for before, after, row in zip(states[:-1], states[1:], rows, strict=True):
        taken = {name: getattr(before, name).value or 0.0 for name in ("js", "angle")}
        assert row["js"] == pytest.approx(after.js.value - taken["js"], rel=1e-9)
        assert row["angle"] == pytest.approx(after.angle.value - taken["angle"], rel=1e-9)
        assert row["js_ends"] == pytest.approx(after.js_ends.value, rel=1e-9)
        assert row["angle_ends"] == pytest.approx(after.angle_ends.value, rel=1e-9)
        assert row["js_stderr"] == pytest.approx(after.js.stderr, rel=1e-9)
        assert row["angle_stderr"] == pytest.approx(after.angle.stderr, rel=1e-9)
        assert row["js_sq"] >= row["js"] ** 2
        assert row["angle_sq"] >= row["angle"] ** 2
    k = len(rows)
    assert k * sum(row["js_sq"] for row in rows) == pytest.approx(states[-1].energy.value, rel=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_on_the_users_probe_batch_in_evaluation_mode(kind):
    (probe,) = [(x.double() if kind == "mlp" else x, y) for x, y in batches(kind, 1)]
    trained = train(kind, steps=5, physics="light", owned=True, probe=probe, dtype=torch.float64)
    rows = trained.rows(LENGTH)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]  # from before the first step to after the last
    assert {row["examples"] for row in rows} == {8 if kind == "mlp" else 56}
    assert_rows_are_the_path(rows, outputs_along(trained, probe[0], training=False))
    assert trained.tap("length")["why"] == ""


def test_on_a_training_batch_without_a_word_from_the_user():
    """The tape of the script's own operators is the probe: the first step that is not being counted."""
    trained = train("mlp", steps=5, physics="light", repeated=True, dtype=torch.float64)
    rows = trained.rows(LENGTH)
    (batch,) = batches("mlp", 1)
    first = 5 - len(rows)
    assert 0 <= first <= 2
    assert_rows_are_the_path(rows, outputs_along(trained, batch[0].double(), training=True)[first:])


def test_a_run_reads_its_rows_and_the_theorems_hold():
    trained = train("transformer", steps=6, physics="light", lr=2.0)
    rows = [values for kind, values in trained.client.rows if kind is LENGTH]
    run = replace(synthetic_run(2), tables={"length": Table(LENGTH.columns, np.array(rows))})
    found = path_length.read_length(run)
    assert found.js.value == pytest.approx(sum(row[2] for row in rows))
    assert min(found.slacks().values()) >= -1e-12 * found.energy.value
    assert found.angle.value > 1.05 * found.angle_ends.value  # the path is not straight: the test says something


@pytest.mark.parametrize(("owned", "accumulate"), [(False, 1), (True, 1), (False, 2)], ids=["script", "owned", "twice"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_the_same_to_the_bit(kind, owned, accumulate):
    """Every tap at level full, at every step; parameters, buffers, losses and all random streams."""
    probe = batches(kind, 1)[0] if owned else None
    options = {"steps": 3, "accumulate": accumulate, "momentum": 0.9, "weight_decay": 0.01}
    watched = train(kind, physics="full", owned=owned, probe=probe, **options)
    assert watched.same_as(train(kind, **options))
    assert watched.rows(LENGTH)
    assert not [detail for code, detail in watched.client.notices if code == "physics.failed"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.model.modules())


def test_the_batch_of_the_users_loss_where_the_step_cannot_be_recorded():
    """A loss that reads a value on its way has no tape; that its function is known makes up for it."""

    def reading(model, batch):
        scores = model(batch[0])
        return F.cross_entropy(scores * (1.0 if scores.sum().item() > 1e9 else 2.0), batch[1])

    script = train("mlp", physics="light", loss=reading)
    assert script.rows(LENGTH) == []
    assert ".item()" in script.tap("length")["why"]
    owned = train("mlp", physics="light", loss=reading, owned=True)
    assert len(owned.rows(LENGTH)) >= 2


REFUSED = {
    "regression": (lambda m, b: F.mse_loss(m(b[0]), torch.zeros(8, 4)), "no cross-entropy"),
    "logistic": (lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), torch.ones(8, 4)), "no cross-entropy"),
    "over examples": (lambda m, b: -m(b[0]).log_softmax(0).mean(), "not the last dimension"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_outputs_that_are_no_class_scores_are_refused_with_the_reason(name):
    loss, why = REFUSED[name]
    trained = train("mlp", physics="full", loss=loss)
    assert trained.rows(LENGTH) == []
    assert why in trained.tap("length")["why"]
    assert trained.tap("length")["uses"] == 0
    assert trained.client.notices == []


def test_at_most_1024_predictions_are_followed_and_the_same_ones():
    trained = train(
        "transformer", steps=3, physics="light", size=200, owned=True, probe=batches("transformer", 1, 200)[0]
    )
    rows = trained.rows(LENGTH)
    assert {row["examples"] for row in rows} == {1024}
    everyone = path_of(outputs_along(trained, batches("transformer", 1, 200)[0][0], training=False))[-1]
    assert sum(row["angle"] for row in rows) == pytest.approx(everyone.angle.value, abs=4 * everyone.angle.stderr)


def test_what_is_kept_stays_within_the_room():
    logits = torch.randn(100, 10)
    assert Path(logits, 2 * 10 * 4 * 7).predictions == 7
    assert Path(logits.bfloat16(), 2 * 10 * 4 * 7).predictions == 14
    with pytest.raises(ValueError, match="10 classes do not fit into 79 bytes"):
        Path(logits, 79)
    one = Path(logits[:1], 1 << 20).look(logits[1:2])
    assert torch.isnan(one[-2:]).all()  # of one prediction there is no error


def test_a_look_that_is_not_finite_is_passed_over():
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    path, straight = Path(a, 1 << 20), Path(a, 1 << 20)
    bad = b.clone()
    bad[3, 2] = math.inf
    assert path.look(bad)[0] == 0.0
    torch.testing.assert_close(path.look(b), straight.look(b))
    assert Path(bad, 1 << 20).look(b)[0] == 0.0  # nothing to start from
    with pytest.raises(ValueError, match="are now"):
        path.look(b[:3])


def test_a_run_that_diverges_tells_how_many_looks_were_passed_over():
    trained = train("mlp", steps=4, physics="light", lr=3e38, owned=True, probe=batches("mlp", 1)[0])
    assert trained.rows(LENGTH)
    assert "not finite" in trained.tap("length")["why"]


def test_its_share_of_the_step_time_is_kept():
    trained = train("mlp", steps=400, physics="light", every=None, size=256)
    told = trained.tap("length")
    assert told["uses"] <= 40  # a look takes about a third of a step; at 0.3 % one in a hundred
    assert told["steps"] == 400
    assert told["uses"] or "its cadence never came due" in told["why"]


def test_a_probe_whose_outputs_change_their_shape_ends_the_tap_alone():
    def loss(model, batch):
        grown.append(1)
        return cross_entropy(model, [t[: 4 + len(grown) % 2] for t in batch])

    grown: list[int] = []
    trained = train("mlp", physics="light", loss=loss, owned=True, probe=batches("mlp", 1)[0])
    assert "are now" in trained.tap("length")["why"]
    assert [code for code, detail in trained.client.notices if detail.startswith("length")] == ["physics.failed"]
    assert len(trained.losses) == 4
