"""Whether a model's outputs are class scores, read off the graph of its loss."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ergometry.integrations.physics.scores import Scores, logits_of, why_not_scores


def made(*shape):
    return torch.randn(*shape, requires_grad=True) * 1.0


T3 = torch.randint(5, (2, 3), generator=torch.Generator().manual_seed(0))
IMAGE = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(0))

SCORES = {
    "cross-entropy": ((6, 5), lambda z: F.cross_entropy(z, T3.reshape(-1))),
    "of tokens, flattened": ((2, 3, 5), lambda z: F.cross_entropy(z.view(-1, 5), T3.view(-1))),
    "of tokens, transposed": ((2, 3, 5), lambda z: F.cross_entropy(z.transpose(1, 2), T3)),
    "of all tokens but the last": ((2, 4, 5), lambda z: F.cross_entropy(z[:, :-1].reshape(-1, 5), T3.view(-1))),
    "smoothed": ((6, 5), lambda z: F.cross_entropy(z, T3.view(-1), label_smoothing=0.1)),
    "of log-probabilities": ((6, 5), lambda z: F.nll_loss(z, T3.view(-1))),
    "scaled, with a penalty": ((6, 5), lambda z: 1024 * (F.cross_entropy(z, T3.view(-1)) + 0.1 * z.square().mean())),
    "divergence from a teacher": (
        (6, 5),
        lambda z: F.kl_div(z.log_softmax(-1), torch.full((6, 5), 0.2), reduction="sum"),
    ),
    "squares of probabilities": ((6, 5), lambda z: (z.softmax(-1) - F.one_hot(T3.view(-1), 5)).square().sum()),
}
NONE = {
    "squares": ((6, 5), lambda z: F.mse_loss(z, torch.zeros(6, 5)), "no cross-entropy"),
    "logistic": ((6, 5), lambda z: F.binary_cross_entropy_with_logits(z, torch.ones(6, 5)), "no cross-entropy"),
    "one output": ((6, 1), lambda z: F.mse_loss(z, torch.zeros(6, 1)), "no classes"),
    "images, classes first": ((2, 5, 3, 4), lambda z: F.cross_entropy(z, IMAGE), "not the last dimension"),
    "images as wide as they have classes": (
        (2, 5, 3, 5),
        lambda z: F.cross_entropy(z, T3[..., None].expand(2, 3, 5)),
        "not the last",
    ),
    "over examples": ((6, 6), lambda z: -z.log_softmax(0).diagonal().mean(), "not the last"),
}


@pytest.mark.parametrize("name", SCORES)
def test_class_scores(name):
    shape, loss = SCORES[name]
    z = made(*shape)
    assert why_not_scores(loss(z), z) == ""


@pytest.mark.parametrize("name", NONE)
def test_what_is_none(name):
    shape, loss, why = NONE[name]
    z = made(*shape)
    assert why in why_not_scores(loss(z), z)


def test_another_models_output():
    z = made(6, 5)
    assert "does not come from" in why_not_scores(F.cross_entropy(made(6, 5), T3.view(-1)), z)
    assert "without a gradient" in why_not_scores(torch.ones(()), z)


def test_where_an_output_holds_them():
    z = made(2, 5)
    assert logits_of(z) is z
    assert logits_of({"loss": z.sum(), "logits": z}) is z
    assert logits_of(SimpleNamespace(loss=z.sum(), logits=z)) is z
    assert logits_of((z.sum(), [z])) is z
    assert logits_of(torch.zeros(3)) is None
    assert logits_of(torch.zeros(2, 3, dtype=torch.int64)) is None


def test_it_is_settled_by_the_first_backward_whose_outputs_were_seen():
    scores = Scores()
    z = made(6, 5)
    scores.loss(F.cross_entropy(z, T3.view(-1)))
    assert scores.known is None
    scores.output(z)
    scores.forget()
    scores.loss(F.cross_entropy(z, T3.view(-1)))
    assert scores.known is None
    scores.output(z)
    scores.loss([F.cross_entropy(z, T3.view(-1))])
    assert scores.known
    scores.output(z)
    scores.loss(z.sum())
    assert scores.known
    wrong = Scores()
    wrong.output(z)
    wrong.loss("loss")
    assert (wrong.known, wrong.why) == (False, "the loss is not a tensor")
