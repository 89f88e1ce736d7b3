"""Prequential codelength by replay (E7 ii): R8 exactly, the laws, and what cannot be coded."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergometry.core.errors import UsageError
from ergometry.estimators.prequential import Chunk, Prequential, replay


def bayesian_regression(seed=0, n=24, d=5, sigma=0.7, prior=1.3):
    """Chunks (X, y), and the posterior (mean, precision) as a model with its Bayes predictive code and its plug-in."""
    stream = np.random.default_rng(seed)
    x = stream.standard_normal((n, d))
    y = x @ stream.standard_normal(d) + sigma * stream.standard_normal(n)
    sizes = [1, 2, 5, 16]
    ends = np.cumsum([0, *sizes])
    chunks = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(ends)]

    def learn(model, seen):
        mean, precision = model
        x, y = seen[-1]
        after = precision + x.T @ x / sigma**2
        return np.linalg.solve(after, precision @ mean + x.T @ y / sigma**2), after

    def gaussian(residual, covariance):
        _, logdet = np.linalg.slogdet(2 * np.pi * covariance)
        return 0.5 * (logdet + residual @ np.linalg.solve(covariance, residual))

    def predictive(model, chunk):
        mean, precision = model
        x, y = chunk
        return gaussian(y - x @ mean, sigma**2 * np.eye(len(y)) + x @ np.linalg.solve(precision, x.T))

    def plug_in(model, chunk):
        x, y = chunk
        return gaussian(y - x @ model[0], sigma**2 * np.eye(len(y)))

    start = (np.zeros(d), prior * np.eye(d))
    evidence = gaussian(y, sigma**2 * np.eye(n) + x @ x.T / prior)
    mean = np.linalg.solve(x.T @ x / sigma**2 + prior * np.eye(d), x.T @ y / sigma**2)
    half_logdet = 0.5 * np.linalg.slogdet(np.eye(d) + x.T @ x / (sigma**2 * prior))[1]
    return start, learn, predictive, plug_in, chunks, evidence, half_logdet + 0.5 * prior * mean @ mean


@pytest.mark.parametrize("seed", range(4))
def test_r8_the_bayes_predictive_codes_to_minus_log_evidence(seed):
    start, learn, predictive, plug_in, chunks, evidence, occam = bayesian_regression(seed)
    found = replay(start, learn, predictive, chunks, labels=lambda c: len(c[1]), fit=plug_in)
    assert found.total.value == pytest.approx(evidence, abs=1e-8)
    assert found.excess.value == pytest.approx(occam, abs=1e-8)
    assert found.labels == 24
    assert found.gain.value is None  # no classes


def test_the_plug_in_code_pays_more_than_the_bayes_predictive():
    start, learn, _, plug_in, chunks, evidence, _ = bayesian_regression(1)
    assert replay(start, learn, plug_in, chunks).total.value > evidence + 1.0


def test_a_replay_never_shows_the_learner_a_chunk_that_it_has_not_coded():
    seen_at = []

    def learn(model, seen):
        seen_at.append(("learn", *seen))
        return model + 1

    def code(model, chunk):
        seen_at.append(("code", model, chunk))
        return float(10 - model)

    found = replay(0, learn, code, ["a", "b"], classes=2)
    assert seen_at == [
        *[("code", 0, "a"), ("learn", "a"), ("code", 1, "b"), ("learn", "a", "b")],
        *[("code", 2, "a"), ("code", 2, "b")],
    ]
    assert (found.total.value, found.excess.value) == (19.0, 3.0)
    assert found.gain.value == pytest.approx(2 * math.log(2) - 19.0)


def test_a_learner_that_learns_nothing_has_no_excess():
    found = replay(0.25, lambda m, seen: m, lambda m, chunk: -len(chunk) * math.log(m), ["abc", "de"], classes=4)
    assert found.excess.value == 0.0
    assert found.gain.value == pytest.approx(0.0, abs=1e-12)


CHUNKS = st.lists(st.tuples(st.floats(1, 50), st.floats(0, 100), st.floats(0, 100)), max_size=6)


@given(CHUNKS, CHUNKS)
def test_chunks_merge_in_any_order(one, other):
    code = Prequential(classes=3)

    def of(chunks):
        state = code.init()
        for chunk in chunks:
            state = code.update(state, Chunk(*chunk))
        return state

    whole, merged = code.result(of([*one, *other])), code.result(code.merge(of(other), of(one)))
    assert merged.total.known == bool(one or other)
    if one or other:
        for name in ("total", "excess", "gain"):
            assert getattr(merged, name).value == pytest.approx(getattr(whole, name).value, rel=1e-12, abs=1e-9)


def test_what_has_no_code():
    code = Prequential()
    nothing = code.result(code.init())
    assert (nothing.total.value, nothing.total.why) == (None, "needs at least one chunk of data")
    impossible = code.result(code.update(code.init(), Chunk(1, math.inf, 1.0)))
    assert "probability 0" in impossible.total.why
    unfinished = code.result(code.update(code.init(), Chunk(1, 2.0)))
    assert (unfinished.total.value, unfinished.excess.value) == (2.0, None)
    with pytest.raises(UsageError, match="got nan for chunk 1"):
        replay(0, lambda m, seen: m + 1, lambda m, c: math.nan if m == 1 else 1.0, ["a", "b"])
    with pytest.raises(UsageError, match="at least one class"):
        Prequential(classes=0)
