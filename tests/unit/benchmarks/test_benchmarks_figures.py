"""The figures of the manual: where points and ticks lie, and that nothing is written unless it is asked for."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmarks import figures
from benchmarks.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, draw

SVG = "{http://www.w3.org/2000/svg}"


def points(drawn: str, kind: str = "polyline") -> np.ndarray:
    found = ElementTree.fromstring(drawn).find(f"{SVG}{kind}")
    assert found is not None
    return np.array([[float(x) for x in pair.split(",")] for pair in found.attrib["points"].split()])


def test_the_ends_of_a_line_lie_in_the_corners_of_its_axes():
    span = (0.0, 2.0)
    drawn = draw(
        "t", Axis("x", span=span), Axis("y", span=span), [Line("a", np.array([0.0, 2.0]), np.array([0.0, 2.0]))]
    )
    assert points(drawn).tolist() == [[LEFT, HEIGHT - BOTTOM], [WIDTH - RIGHT, TOP]]


def test_a_logarithmic_axis_spaces_factors_evenly():
    x = np.array([1.0, 10.0, 100.0])
    drawn = draw("t", Axis("x", log=True), Axis("y", log=True), [Line("a", x, x)])
    assert np.diff(points(drawn), axis=0) == pytest.approx(np.tile(np.diff(points(drawn), axis=0)[:1], (2, 1)), abs=0.2)


def test_a_band_lies_around_its_line():
    x, y = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    span = (0.0, 2.0)
    drawn = draw("t", Axis("x"), Axis("y", span=span), [Line("a", x, y, np.array([0.5, 0.5]))])
    up = HEIGHT - TOP - BOTTOM
    assert sorted(set(points(drawn, "polygon")[:, 1])) == [TOP + up / 4, TOP + 3 * up / 4]
    assert set(points(drawn)[:, 1]) == {TOP + up / 2}


@pytest.mark.parametrize(
    ("axis", "low", "high", "words"),
    [
        (Axis("a"), 0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis("a"), -0.05, 0.05, ["-0.04", "-0.02", "0", "0.02", "0.04"]),
        (Axis("a", log=True), 0.0, 1.0, ["1", "2", "5", "10"]),
        (Axis("a", log=True), -2.0, 4.0, ["0.01", "0.1", "1", "10", "100", "1000", "10000"]),
    ],
)
def test_ticks_are_round_numbers(axis, low, high, words):
    assert [word for _, word in axis.ticks(low, high)] == words


def test_the_closed_forms_are_drawn():
    for name in ("batch-size", "power-schedule", "dragged-trap"):
        assert points(figures.FIGURES[name]()).shape[0] >= 100


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures"])
    figures.main()
    assert list(tmp_path.iterdir()) == []
    assert "first-law.svg" in capsys.readouterr().out


def test_a_named_figure_is_written_into_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["figures", str(tmp_path / "made"), "dragged-trap"])
    figures.main()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["dragged-trap.svg"]


def test_a_small_run_is_stored_and_read_again():
    run = figures.hovering(0.05, steps=40, width=4)
    assert len(run.table(figures.LOSSES)) == 40
    assert len(run.table(figures.LENGTH)) == 0  # no classes, so no outputs to follow
