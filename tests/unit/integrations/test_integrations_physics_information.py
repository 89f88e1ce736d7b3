"""The tap of information: ½logdet against the dense Fisher matrix, its prior, what it counts, when it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ergometry.core.series import INFORMATION
from ergometry.integrations import torch_hooks
from ergometry.integrations.physics.information import Owners, Prior, code
from support.clients import Kept
from support.physics_runs import batches, mlp, train

D = torch.float64


def rows_of(client):
    return [dict(zip(kind.columns, values, strict=True)) for kind, values in client.rows if kind is INFORMATION]


def half_logdet(model, x, ratio, names=None):
    """½logdet(1 + ratio·F) of the categorical Fisher matrix, summed over x, by brute force."""
    model = model.eval()
    parameters = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    jacobian = torch.func.jacrev(lambda ps: torch.func.functional_call(model, ps, (x,)))(parameters)
    j = torch.cat([part.reshape(len(x), 4, -1) for part in jacobian.values()], -1)
    p = model(x).softmax(-1).detach()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    f = torch.einsum("nca,ncd,ndb->ab", j, middle, j)
    return 0.5 * float(torch.linalg.slogdet(torch.eye(len(f), dtype=D) + ratio * f)[1].detach())


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_the_whole_and_the_modules_against_the_dense_fisher_matrix(decay):
    x, y = batches("mlp", 1)[0]
    trained = train("mlp", steps=5, physics="full", owned=True, probe=(x.double(), y), dtype=D, weight_decay=decay)
    whole, *modules = rows_of(trained.client)
    n = 5 * 8
    if decay:
        precision = n * decay
    else:
        weights = [trained.parameters[0][i] for i in range(4)]
        squares = sum(float(((w - w.mean()) ** 2).sum()) for w in weights)
        precision = sum(w.numel() for w in weights) / squares
    assert whole["prior_precision"] == pytest.approx(precision, rel=1e-6)
    ratio = n / 8 / precision
    assert whole["nat"] == pytest.approx(half_logdet(trained.model, x.double(), ratio), rel=1e-9)
    assert (whole["part"], whole["how"], whole["examples"], whole["parameters"]) == (-1, 1, 40, 276)
    label = trained.client.labels["information"]
    assert label["modules"] == ["0", "2"]
    assert ("weight decay of most" in label["prior"]) == bool(decay)
    for row in modules:
        path = label["modules"][int(row["part"])]
        alone = half_logdet(trained.model, x.double(), ratio, {f"{path}.weight", f"{path}.bias"})
        assert row["nat"] == pytest.approx(alone, rel=1e-9)
        assert row["how"] == 4
    assert sum(row["nat"] for row in modules) >= whole["nat"]
    assert trained.tap("information")["why"] == ""


def test_a_larger_model_gets_a_cheaper_method_and_it_is_named():
    trained = train("transformer", steps=2, physics="full")
    whole, *modules = rows_of(trained.client)
    assert whole["how"] in (2, 3, 5)
    assert (whole["stderr"] > 0) == (whole["how"] == 2)  # of the others none is known: they are bounds
    assert len(modules) == 8
    errors = np.nan_to_num([row["stderr"] for row in (whole, *modules)])
    # Blocks leave out what the whole has between modules, so that they never come to less.
    assert sum(row["nat"] for row in modules) + sum(errors[1:]) >= (1 - 1e-6) * whole["nat"] - errors[0]


def test_examples_are_counted_on_the_first_pass_only():
    torch.manual_seed(0)
    x, y = (torch.cat([batch[i] for batch in batches("mlp", 3)]) for i in (0, 1))
    model, client = mlp(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch_hooks.instrument(torch, client, physics="full", physics_every=1)
    try:
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
        for _ in range(3):
            for inputs, labels in loader:
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    finally:
        torch_hooks.finish()
    assert {row["examples"] for row in rows_of(client)} == {24}
    assert "the first pass over the data" in client.labels["information"]["prior"]


@pytest.mark.parametrize(
    ("optimizer", "decay", "expected"),
    [
        (torch.optim.SGD, 0.1, 100 * 0.1),
        (torch.optim.Adam, 0.1, 100 * 0.1),
        (torch.optim.AdamW, 0.1, None),
        (torch.optim.SGD, 0.0, None),
    ],
)
def test_the_prior_is_the_penalty_on_the_loss_else_the_start(optimizer, decay, expected):
    torch.manual_seed(0)
    weight, bias = nn.Parameter(3.0 * torch.randn(400) + 5.0), nn.Parameter(torch.zeros(50))
    prior = Prior()
    prior.start([weight, bias])
    prior.decay(optimizer([weight, bias], lr=0.1, weight_decay=decay))
    precision, assumed = prior.precision(100.0)
    if expected is None:
        assert precision == pytest.approx(1 / float(weight.detach().var(correction=0)))  # about its mean; not the bias
        assert "Var(θ_0)" in assumed
    else:
        assert precision == pytest.approx(expected)


def test_the_decay_of_most_parameters_counts():
    weight, bias = nn.Parameter(torch.randn(400)), nn.Parameter(torch.randn(50))
    prior = Prior()
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    prior.decay(torch.optim.SGD(groups, lr=0.1))
    assert prior.precision(10.0)[0] == pytest.approx(1.0)
    constant = Prior()
    constant.start([bias.detach() * 0])
    assert math.isnan(constant.precision(10.0)[0])


def test_the_owners_of_parameters():
    first, second = mlp(), nn.Linear(2, 2)
    owners = Owners()
    assert owners.learn(first)
    assert not owners.learn(first)
    assert owners.learn(second)
    assert owners.names == ["0", "2", "Linear"]
    assert (owners.of(first[2].bias), owners.of(second.weight), owners.of(torch.zeros(1))) == ("2", "Linear", None)


def test_the_numbers_of_the_methods():
    said = [
        "exact, Gram matrix of 8 rows",
        "stochastic Lanczos quadrature, 10 probes",
        "EKFAC, 32 passes, exact diagonal",
    ]
    assert [code(s) for s in (*said, "exact blocks", "exact diagonal", "diagonal, 32 random passes")] == [
        1,
        2,
        3,
        4,
        5,
        5,
    ]


def test_what_it_says_instead():
    light = train("mlp", physics="light")
    assert rows_of(light.client) == []
    assert light.tap("information")["why"] == "needs level full"
    squares = train("mlp", physics="full", loss=lambda m, b: F.mse_loss(m(b[0]), torch.zeros(8, 4)))
    assert rows_of(squares.client) == []
    assert "no cross-entropy" in squares.tap("information")["why"]
    diverged = train("mlp", physics="full", lr=3e38)
    assert rows_of(diverged.client) == []
    assert diverged.tap("information")["why"]


def test_a_script_that_raised_is_not_held_up():
    def failing(model, batch):
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("of the script")
        return F.cross_entropy(model(batch[0]), batch[1])

    calls: list[int] = []
    client = Kept()
    with pytest.raises(ValueError, match="of the script"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.physics_runs.Kept", lambda: client)
        train("mlp", physics="full", loss=failing)
    assert rows_of(client) == []
    assert client.labels["physics"]["taps"]["information"]["why"] == "the script raised"
