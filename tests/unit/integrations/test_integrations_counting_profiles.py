"""Profiles: items keep their sums when they are made fewer, and uses add up when the book is full."""

from __future__ import annotations

import math
import random

import pytest

from ergometry.integrations.counting import profiles
from ergometry.integrations.counting.profiles import Book, Count, Items, Part, Totals, compact, summed


def items(n: int) -> Items:
    stream = random.Random(n)
    return {
        (f"blocks.{i % 40}.layer{i % 7}", f"op{i % 11}", ("fp32", "bf16")[i % 2]): [
            float(stream.randint(1, 10**6)) for _ in range(7)
        ]
        for i in range(n)
    }


def sums(found: Items) -> list[float]:
    return [math.fsum(values[i] for values in found.values()) for i in range(7)]


@pytest.mark.parametrize("n", [0, 1, 199, 200, 201, 3000])
@pytest.mark.parametrize("most", [200, 20, 1])
def test_fewer_items_have_the_same_sums(n: int, most: int) -> None:
    before = items(n)
    copy = {key: list(values) for key, values in before.items()}
    after = compact(before, most)
    assert len(after) <= most + 2, "a dtype each at least"
    assert sums(after) == pytest.approx(sums(before))
    assert before == copy
    if n <= most:
        assert after == before
    by_dtype = {key[2]: values for key, values in summed(before).items()}
    assert {key[2]: values for key, values in summed(after).items()} == by_dtype


def test_the_largest_items_keep_their_names() -> None:
    found = items(1000)
    largest = max(found, key=lambda key: found[key][1] + sum(found[key][2:6]))
    assert compact(found)[largest] == found[largest]


def test_profiles_after_the_first_are_summed_and_past_the_last_another_stands_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "MAX_PROFILES", 40)
    book = Book()
    counts = [
        Count(Totals(), [Part("Model", {("a", "mm", "fp32"): [1, 10.0 * (1 + i), 0, 0, 0, 0, 0.5]})]) for i in range(50)
    ]
    for count in counts:
        book.use(count, "forward", 2.0)
    assert len(book.told()) == 40
    assert book.told()[0]["items"] == [["a", "mm", "fp32", 1, 10, 0, 0, 0, 0, 0.5]]
    assert book.told()[35]["items"] == [["", "*", "fp32", 1, 360, 0, 0, 0, 0, 0.5]]
    told = sum(entry["flops"] * uses for entry, uses in zip(book.told(), book.uses, strict=True))
    assert told == pytest.approx(2 * sum(10.0 * (1 + i) for i in range(50)))


def test_uses_are_told_once_they_have_changed() -> None:
    book, count = Book(), Count(Totals(), [Part("Model"), Part("")])
    book.use(count, "forward")
    book.use(count, "evaluation", 3)
    assert book.changed() == [(0, 1.0), (1, 1.0), (2, 3.0), (3, 3.0)]
    assert book.changed() == []
    book.use(count, "forward")
    assert book.changed() == [(0, 2.0), (1, 2.0)]
    assert [entry["phase"] for entry in book.told()] == ["forward", "forward", "evaluation", "evaluation"]
