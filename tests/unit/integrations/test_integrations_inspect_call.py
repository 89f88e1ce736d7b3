"""What can be told of a call from its arguments and its output, and what the user stated, which comes first."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from ergometry.integrations.inspect_call import Inference, batch_size, labels_of

NAN = math.nan
IMAGES = torch.zeros(8, 3, 4, 4)
IDS = torch.zeros(4, 16, dtype=torch.long)
SCALAR = torch.tensor(0.5)


class Batch(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class ModelOutput(OrderedDict[str, Any]):
    """As Hugging Face's: a dictionary that has its entries as attributes as well."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Strict:
    """Raises something of its own where it has no such attribute."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name) if name == "logits" else AttributeError(name)


def sizes(*args: Any, stated: Inference | None = None, **kwargs: Any) -> Any:
    return pytest.approx(batch_size(args, kwargs, stated or Inference()), nan_ok=True)


@pytest.mark.parametrize(
    ("args", "kwargs", "examples", "tokens"),
    [
        ((IMAGES,), {}, 8, NAN),
        ((IDS,), {}, 4, 64),
        ((IDS.int(), IMAGES), {}, 4, 64),
        ((), {"input_ids": IDS, "attention_mask": torch.ones(4, 16)}, 4, 64),
        (({"input_ids": IDS},), {}, 4, 64),
        (([IMAGES, IDS],), {}, 8, NAN),
        ((Batch(IMAGES, IDS),), {}, 8, NAN),
        (([{"a": (IDS,)}],), {}, 4, 64),
        ((None, "mode", 3, IMAGES), {}, 8, NAN),
        ((torch.zeros(5, dtype=torch.long),), {}, 5, NAN),
        ((torch.zeros(5, 6, 7, dtype=torch.long),), {}, 5, NAN),
        ((torch.zeros(5, 6, dtype=torch.complex64),), {}, 5, NAN),
        ((torch.zeros(0, 3),), {}, 0, NAN),
        ((SCALAR,), {}, NAN, NAN),
        ((), {}, NAN, NAN),
        (("a text", 5), {"flag": True}, NAN, NAN),
        ((SimpleNamespace(x=IMAGES),), {}, NAN, NAN),
    ],
)
def test_examples_and_tokens_are_told_by_the_first_tensor(
    args: tuple[Any, ...], kwargs: dict[str, Any], examples: float, tokens: float
) -> None:
    assert sizes(*args, **kwargs) == (examples, tokens)


def test_a_structure_that_holds_itself_is_no_trap() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert sizes(loop) == (NAN, NAN)


def test_what_is_stated_comes_first() -> None:
    assert sizes(IDS, stated=Inference(examples=2.0)) == (2, 64)
    assert sizes(IDS, stated=Inference(tokens=100.0)) == (4, 100)
    assert sizes(IDS, stated=Inference(examples=2.0, tokens=100.0)) == (2, 100)
    assert sizes("nothing", stated=Inference(examples=2.0)) == (2, NAN)
    assert sizes(IDS, stated=Inference(examples=0.0)) == (0, 64)


def test_what_was_inferred_is_said_and_what_was_stated_is_not() -> None:
    stated = Inference(examples=1, tokens=2, classes=3)
    batch_size((IDS,), {}, stated)
    assert stated.reasons == {}
    inferred = Inference()
    batch_size((IMAGES,), {}, inferred)
    assert set(inferred.reasons) == {"examples", "classes"}
    batch_size((IDS,), {}, inferred)
    assert set(inferred.reasons) == {"examples", "tokens", "classes"}
    assert all(reason.startswith("inferred: ") for reason in inferred.reasons.values())


LOGITS = torch.zeros(4, 16, 100)


@pytest.mark.parametrize(
    ("out", "examples", "tokens", "expected"),
    [
        (torch.zeros(8, 10), 8, NAN, (10, "example")),
        (LOGITS, 4, 64, (100, "token")),
        (LOGITS.flatten(0, 1), 4, 64, (100, "token")),
        ({"loss": SCALAR, "logits": LOGITS}, 4, 64, (100, "token")),
        (ModelOutput(loss=SCALAR, logits=LOGITS), 4, 64, (100, "token")),
        (SimpleNamespace(loss=SCALAR, logits=torch.zeros(8, 2)), 8, NAN, (2, "example")),
        ((SCALAR, torch.zeros(8, 10)), 8, NAN, (10, "example")),
        ([torch.zeros(8, dtype=torch.long), {"a": torch.zeros(8, 3)}], 8, NAN, (3, "example")),
        (torch.zeros(5, 7), 8, NAN, (7, None)),
        (torch.zeros(8, 21, 32, 32), 8, NAN, (None, None)),
        (torch.zeros(8), 8, NAN, (None, None)),
        (torch.zeros(8, 0), 8, NAN, (0, None)),
        (torch.zeros(8, 3, dtype=torch.long), 8, NAN, (None, None)),
        (SCALAR, NAN, NAN, (None, None)),
        ({"logits": None}, 8, NAN, (None, None)),
        (None, NAN, NAN, (None, None)),
        ("text", NAN, NAN, (None, None)),
        (Strict(), NAN, NAN, (None, None)),
        ({}, NAN, NAN, (None, None)),
    ],
)
def test_classes_and_what_carries_a_label_are_told_by_the_output(
    out: Any, examples: float, tokens: float, expected: tuple[int | None, str | None]
) -> None:
    assert labels_of(out, examples, tokens) == expected
