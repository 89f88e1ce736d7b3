"""The live line: within 80 columns whatever the numbers, rewritten on a terminal and said seldom elsewhere."""

from __future__ import annotations

import itertools
import math
import os
import pty
from collections.abc import Iterator

import pytest

from ergometry.core.series import LEDGER, LOSSES, STEPS
from ergometry.meter.progress import Progress

NAN = math.nan


def step(n: int, examples: float = NAN, tokens: float = NAN) -> tuple[float, ...]:
    values = dict.fromkeys(STEPS.columns, 0.0) | {"step": float(n), "examples": examples, "tokens": tokens}
    return tuple(values.values())


class End:
    """The reading end of what a progress line writes to."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def text(self) -> str:
        os.set_blocking(self.reading, False)
        found = b""
        while True:
            try:
                part = os.read(self.reading, 65536)
            except OSError:
                break
            if not part:
                break
            found += part
        return found.decode().replace("\r\n", "\n")


@pytest.fixture(params=["terminal", "pipe"])
def end(request: pytest.FixtureRequest) -> Iterator[End]:
    end = End(*(pty.openpty() if request.param == "terminal" else os.pipe()))
    yield end
    os.close(end.reading)
    os.close(end.writing)


def trained(progress: Progress, steps: int = 3, loss: float = 2.0, examples: float = 10.0, tokens: float = NAN) -> None:
    for n in range(steps):
        progress.row(STEPS, step(n, examples, tokens))
        progress.row(LOSSES, (float(n), 0.0, loss))


def test_the_line_says_step_loss_watts_joules_and_joules_per_example(end: End) -> None:
    progress = Progress(end.writing)
    trained(progress)
    progress.row(LEDGER, (0.0,) * 12)
    assert progress.line(125.9, 600.0, 42.25) == "02:05 · step 3 · loss 2.000 · 42.2 W · 600 J · 20 J/example"


def test_losses_are_in_bits_per_token_where_there_are_tokens(end: End) -> None:
    progress = Progress(end.writing, "character")
    trained(progress, loss=math.log(2), tokens=640.0)
    assert progress.line(1.0, 0.0, NAN) == "00:01 · step 3 · loss 0.693 · 1.00 bit/character"


def test_what_is_not_known_is_left_out(end: End) -> None:
    progress = Progress(end.writing)
    assert progress.line(0.0, 0.0, NAN) == "00:00 · step 0"
    progress.row(STEPS, step(0))
    progress.row(LOSSES, (0.0, 0.0, NAN))
    progress.row(LOSSES, (0.0, 0.0, math.inf))
    assert progress.line(0.0, 5.0, 10.0) == "00:00 · step 1 · 10.0 W · 5 J"


def test_a_loss_is_smoothed_and_a_step_that_is_told_twice_counts_once(end: End) -> None:
    progress = Progress(end.writing)
    progress.row(LOSSES, (0.0, 0.0, 1.0))
    progress.row(LOSSES, (1.0, 0.0, 2.0))
    assert "loss 1.050" in progress.line(0.0, 0.0, NAN)
    progress.row(STEPS, step(0, examples=10.0))
    progress.row(STEPS, step(1, examples=10.0))
    progress.row(STEPS, step(1, examples=10.0))  # a second optimizer joined it
    assert "step 2 · " in progress.line(0.0, 40.0, 1.0)
    assert "2 J/example" in progress.line(0.0, 40.0, 1.0)


def test_the_line_fits_a_narrow_terminal_whatever_the_numbers() -> None:
    loads = (0.0, 359999.0, 1e8), (1, 123_456_789), (1e-9, 2.5, 123456.7, 1e30, 1e300), (0.0, 9999.9, 1e9, 1e15)
    for seconds, steps, loss, joules in itertools.product(*loads):
        progress = Progress(2, "character")
        trained(progress, steps=1, loss=loss, examples=123.0, tokens=456.0)
        progress._steps = steps
        line = progress.line(seconds, joules, 12345.6)
        assert len(line) <= 80
        assert f"step {steps} · loss " in line
        if loss < 1e3 and joules < 1e12 and seconds < 1e6:
            assert "12345.6 W" in line, "only what is at the end is left out"


@pytest.mark.parametrize(
    ("joules", "said"), [(0, "0 J"), (9999, "9999 J"), (1e4, "10.0 kJ"), (1.234e7, "12.3 MJ"), (5e10, "50.0 GJ")]
)
def test_joules_are_said_in_the_unit_that_suits_them(joules: float, said: str) -> None:
    assert Progress(2).line(0.0, joules, 1.0) == f"00:00 · step 0 · 1.0 W · {said}"


def test_a_terminal_has_one_line_that_is_rewritten_and_a_file_a_line_now_and_then(end: End) -> None:
    progress = Progress(end.writing)
    for tenth in range(205):
        progress.show(tenth / 10, (100.0, 10.0))
    progress.close()
    said = end.text()
    if os.isatty(end.writing):
        lines = said.split("\r\x1b[2K")
        assert len(lines) == 1 + 21
        assert lines[0] == ""
        assert said.count("\n") == 1 and said.endswith("\n"), "the prompt that follows has a line of its own"
    else:
        lines = said.splitlines()
        assert [line.split(" · ")[0] for line in lines] == ["erg: 00:00", "erg: 00:10", "erg: 00:20"]
        assert "\x1b" not in said


def test_nothing_is_written_where_nothing_was_shown(end: End) -> None:
    progress = Progress(end.writing)
    progress.close()
    assert end.text() == ""
    progress.show(0.0, (0.0, NAN))
    progress.close()
    progress.close()
    assert end.text().count("\n") == 1


def test_a_terminal_that_is_gone_is_left_alone() -> None:
    reading, writing = pty.openpty()
    progress = Progress(writing)
    os.close(reading)
    os.close(writing)
    progress.show(0.0, (0.0, NAN))
    progress.show(5.0, (0.0, NAN))
    progress.close()
