"""The referee of ½logdet at N = 1e7: the same matrix as the products give, by another way."""

import torch
from benchmarks.landscape import build, gram

from ergometry.landscape.fisher import fisher


def test_the_gram_matrix_by_layers_is_that_of_the_products():
    model, x, _ = build(300, 5)
    model, x = model.double(), x.double()
    names, parameters = [n for n, _ in model.named_parameters()], list(model.parameters())
    factor = fisher(
        lambda p: torch.func.functional_call(model, dict(zip(names, p, strict=True)), (x,)), parameters
    ).smaller()
    assert factor.size == 50
    torch.testing.assert_close(factor.dense(), gram(model, x), rtol=1e-9, atol=1e-12)
