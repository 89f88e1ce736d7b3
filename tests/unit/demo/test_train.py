"""The demonstration's script, run as a user would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from ergometry.demo.train import learning_rate, parse_arguments

SMALL = ["--steps", "20", "--seconds", "0", "--batch-size", "4", "--context", "32", "--width", "16", "--layers", "1"]


LINES = ["--device", "cpu", *SMALL, "--evaluate-every", "10"]

#: One training after another in one process, each with arguments of its own.
SEVERAL = """
import json, sys
from ergometry.demo import train
for arguments in json.loads(sys.argv.pop()):
    print("==")
    train.main(arguments)
"""


def ended(*command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout


@pytest.fixture(scope="module")
def output() -> str:
    return ended("-m", "ergometry.demo.train", *LINES)


def test_it_reports_one_line_at_a_time_and_ends_with_the_held_out_loss(output: str) -> None:
    lines = output.splitlines()
    assert re.fullmatch(r"corpus: [\d,]+ bytes to train on, [\d,]+ held out", lines[0])
    assert re.fullmatch(r"model: [\d,]+ parameters on cpu", lines[1])
    evaluations = [line for line in lines if re.fullmatch(r"step \d+ held-out bits/byte \d\.\d{3}", line)]
    assert [line.split()[1] for line in evaluations] == ["10", "20"]
    assert re.fullmatch(r"final: 20 steps, held-out bits/byte \d\.\d{3}", lines[-1])


def test_it_learns(output: str) -> None:
    first, last = (float(bits) for bits in re.findall(r"step \d+ held-out bits/byte ([\d.]+)", output))
    assert last < first < 8.2


def test_equal_seeds_give_equal_losses_and_others_do_not(output: str) -> None:
    _, again, other = ended("-c", SEVERAL, json.dumps([LINES, [*LINES, "--seed", "1"]])).split("==\n")
    assert again == output
    assert other != output


def test_it_knows_nothing_of_the_meter() -> None:
    code = "import sys, ergometry.demo.train; print(*(m for m in sys.modules if m.startswith('ergometry.')))"
    assert set(ended("-c", code).split()) == {
        "ergometry.demo",
        "ergometry.demo.train",
        "ergometry.demo.corpus",
        "ergometry.demo.model",
    }


def test_without_any_limit_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse_arguments(["--seconds", "0"])
    assert refused.value.code == 2
    assert "--steps or --seconds" in capsys.readouterr().err


def test_the_learning_rate_warms_up_and_then_falls_to_a_tenth() -> None:
    rising = [learning_rate(0.0, step, 1.0, warmup=10) for step in range(10)]
    assert rising == pytest.approx([0.1 * (step + 1) for step in range(10)])
    falling = [learning_rate(progress / 10, 100, 1.0) for progress in range(11)]
    assert falling == sorted(falling, reverse=True)
    assert (falling[0], falling[-1], learning_rate(7.0, 100, 1.0)) == pytest.approx((1.0, 0.1, 0.1))
