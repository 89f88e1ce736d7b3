"""The thermodynamic ledger of an unmodified script: its numbers, its levels, and the training's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from end_to_end.running import SCRIPTS, Runner, assert_sound, difference
from ergometry.core.run import Run
from ergometry.core.series import FIRST_LAW, LEARNING_RATES, LEDGER, LOSSES, MODULE_WORK, NOISE


def measured(runner: Runner, *options: object) -> Run:
    """Return the run of the script under these options, which leave the bits of its plain run."""
    plain = runner.forked(SCRIPTS / "physics.py", cwd=runner.folder / "plain")
    done = runner.erg(SCRIPTS / "physics.py", cwd=runner.folder / "measured", options=options)
    assert (plain.status, done.status) == (0, 0), done.err
    states = [torch.load(each.cwd / "state.pt", weights_only=False) for each in (plain, done)]
    assert difference(*states) is None
    assert_sound(done.run)
    return done.run


def test_the_first_law_of_a_script_is_what_checkpoints_say(runner: Runner) -> None:
    run = measured(runner, "--physics-every", 1)
    said = runner.forked(SCRIPTS / "physics.py", "--checkpoints", cwd=runner.folder / "said")
    assert said.status == 0, said.err
    true = {int(words[1]): (float(words[3]), float(words[5])) for words in map(str.split, said.text.splitlines())}
    table = run.table(FIRST_LAW)
    assert len(table) >= 5
    for step, before, after in zip(table["step"], table["loss_before"], table["loss_after"], strict=True):
        assert (before, after) == true[int(step)]
    losses = run.table(LOSSES)
    known = dict(zip(losses["step"], losses["loss"], strict=True))
    assert all(known[step] == before for step, before in zip(table["step"], table["loss_before"], strict=True))
    taken = np.isfinite(table["midpoint"])
    assert taken.sum() >= 4
    assert (abs(table["midpoint"][taken]) <= table["path_midpoint"][taken]).all()
    modules = run.meta["physics_modules"]
    assert modules == ["0", "1", "6"]
    assert set(run.table(MODULE_WORK)["module"]) == {0.0, 1.0, 2.0}
    physics = run.meta["physics"]
    assert physics["level"] == "light"
    assert physics["taps"]["first_law"]["uses"] >= 5
    assert run.meta["options"]["physics_every"] == 1


def test_off_leaves_joules_and_steps_alone(runner: Runner) -> None:
    done = runner.erg(SCRIPTS / "physics.py", options=["--physics", "off"])
    assert done.status == 0, done.err
    run = done.run
    assert all(len(run.table(series)) == 0 for series in (LEDGER, FIRST_LAW, NOISE, MODULE_WORK))
    assert len(run.table(LOSSES)) == 8
    assert len(run.table(LEARNING_RATES)) == 1
    assert run.meta["physics"] == {"level": "off", "taps": {}}
    assert run.meta["options"]["physics"] == "off"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--physics", "some"], ("--physics off, light or full", "some")),
        (["--physics-every", "0"], ("--physics-every of at least 1", "0")),
    ],
)
def test_wrong_words_are_wrong_uses(runner: Runner, options: list[str], words: tuple[str, str]) -> None:
    done = runner.erg(SCRIPTS / "physics.py", options=options)
    assert done.status == 2
    assert f"expected {words[0]}, got {words[1]}; " in " ".join(done.err.split())
    assert done.folders == []
