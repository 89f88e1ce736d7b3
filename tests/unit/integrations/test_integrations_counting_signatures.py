"""Keys that tell calls apart where their work differs, and are equal where it does not."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from ergometry.integrations.counting.signatures import Signatures, shapes, structure_of
from support.counted import mlp


def key(signatures: Signatures, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return signatures.call(model, args, kwargs)


def test_calls_that_do_the_same_have_one_key() -> None:
    signatures, model = Signatures(), mlp()
    assert key(signatures, model, torch.zeros(3, 12)) == key(signatures, model, torch.ones(3, 12))
    nested = {"a": [torch.zeros(2), (torch.zeros(3), 5)]}
    assert key(signatures, model, nested, flag=True) == key(signatures, model, nested, flag=True)
    hash(key(signatures, model, nested))


@pytest.mark.parametrize(
    "other",
    [
        ((torch.zeros(4, 12),), {}),
        ((torch.zeros(3, 12, dtype=torch.float64),), {}),
        ((torch.zeros(3, 12), 5), {}),
        ((torch.zeros(3, 12), "mean"), {}),
        ((), {"x": torch.zeros(3, 13)}),
        (([torch.zeros(3, 12), torch.zeros(1)],), {}),
        (({"x": torch.zeros(3, 11)},), {}),
        ((torch.zeros(3, 12),), {"flag": False}),
    ],
)
def test_calls_with_other_arguments_have_another_key(other: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    signatures, model = Signatures(), mlp()
    assert signatures.call(model, *other) != signatures.call(model, (torch.zeros(3, 12),), {})


def test_what_changes_the_work_changes_the_key_and_back_again() -> None:
    signatures, model, x = Signatures(), mlp(), torch.zeros(3, 12)
    keys = [key(signatures, model, x)]
    model.eval()
    keys.append(key(signatures, model, x))
    with torch.no_grad():
        keys.append(key(signatures, model, x))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            keys.append(key(signatures, model, x))
    model.train()
    model[0].requires_grad_(False)  # type: ignore[index]
    keys.append(key(signatures, model, x))
    keys.append(key(signatures, mlp(), x))
    assert len(set(keys)) == len(keys)
    model[0].requires_grad_(True)  # type: ignore[index]
    assert key(signatures, model, x) == keys[0]


def test_a_part_that_changes_behind_a_large_model_is_noticed_within_as_many_calls_as_it_has_parts() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    signatures, x = Signatures(), torch.zeros(3, 4)
    before = signatures.call(model, (x,), {}, 0.001)
    model[17].weight.data = torch.zeros(4, 4, dtype=torch.float64)
    after = [signatures.call(model, (x,), {}, 0.001) for _ in range(41)]
    assert before in after, "one part is looked at in each call"
    assert after[-1] != before
    quick = signatures.call(model, (x,), {}, 2.0)
    model[30].eval()
    assert signatures.call(model, (x,), {}, 2.0) != quick, "a long step leaves time for all"


def test_a_module_or_parameter_that_is_set_is_noticed_at_once() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    signatures, x = Signatures(), torch.zeros(3, 4)
    signatures.install()
    try:
        keys = [signatures.call(model, (x,), {}, 0.001)]
        model[20] = nn.Linear(4, 4, bias=False)
        keys.append(signatures.call(model, (x,), {}, 0.001))
        model[21].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
        keys.append(signatures.call(model, (x,), {}, 0.001))
        assert len(set(keys)) == 3
        nn.Linear(7, 7)
        assert signatures.call(model, (x,), {}, 0.001) == keys[-1], "another model is another matter"
    finally:
        signatures.remove()


def test_a_module_at_the_place_of_one_that_is_gone_has_a_key_of_its_own() -> None:
    signatures, x, keys, places = Signatures(), torch.zeros(3, 4), set(), []
    for width in range(50):
        model = nn.Linear(4, 1 + width)
        places.append(id(model))
        keys.add(key(signatures, model, x))
        del model
    assert len(keys) == 50
    assert len(set(places)) < 50, "or nothing was tested"


def test_parameters_of_a_model_that_is_gone_are_not_kept() -> None:
    signatures, model = Signatures(), mlp()
    key(signatures, model, torch.zeros(3, 12))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    signatures.optimizer(optimizer)
    gone = [weakref.ref(p) for p in model.parameters()]
    del model, optimizer
    gc.collect()
    assert [p() for p in gone] == [None] * 4


def test_an_optimizers_key_tells_its_options_state_and_gradients_apart() -> None:
    signatures, model = Signatures(), mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    keys = [signatures.optimizer(optimizer)]
    model(torch.zeros(3, 12)).sum().backward()
    # One in four calls looks at options and gradients.
    keys.append([signatures.optimizer(optimizer) for _ in range(4)][-1])
    optimizer.step()
    keys.append(signatures.optimizer(optimizer))
    optimizer.param_groups[0]["lr"] = 0.0
    assert [signatures.optimizer(optimizer) for _ in range(40)] == [keys[-1]] * 40
    optimizer.param_groups[0]["weight_decay"] = 0.0
    keys.append([signatures.optimizer(optimizer) for _ in range(20)][-1])
    keys.append(signatures.optimizer(torch.optim.AdamW(model.parameters(), 0.1)))
    assert len(set(keys)) == 5


def test_structures_are_keys_without_their_sizes() -> None:
    found = []
    for rows in (3, 8):
        dims: list[int] = []
        found.append(structure_of((7, True, *shapes((torch.zeros(rows, 12), [torch.zeros(rows)], "mean"))), dims))
        assert dims == [rows, 12, rows]
    assert found[0] == found[1]
    assert structure_of(tuple(shapes((torch.zeros(3),))), []) != structure_of(tuple(shapes((torch.zeros(3, 1),))), [])
