"""Predictions before a run and of its rest, and the table of machines."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ergometry as erg_
from ergometry.cli import app
from ergometry.core import series
from ergometry.core.errors import ErgError, UsageError
from ergometry.core.run import Table
from ergometry.planning.machines import MACHINES, machine
from ergometry.planning.predict import (
    Rate,
    mfu_prior,
    predict,
    remainder,
    training_flop,
    watts_prior,
)
from ergometry.work.attribution import accounts
from support.stored import store_run
from support.synthetic import synthetic_run

RUNS = Path(__file__).parents[4] / "shared" / "data" / "training_tables" / "epoch_training_runs.csv"


def sure(value: float) -> Rate:
    return Rate(value, 0.0, "known")


def test_what_is_known_gives_time_and_energy_by_arithmetic() -> None:
    found = predict(
        sure(1e20), 1e15, sure(500.0), mfu=sure(0.5), devices=4, pue=1.2, price_per_kwh=0.2, carbon_g_per_kwh=400
    )
    assert found.time.value == pytest.approx(1e20 / (4 * 1e15 * 0.5))
    assert found.energy.value == pytest.approx(found.time.value * 4 * 500 * 1.2)
    assert found.energy.low == pytest.approx(found.energy.high)
    assert found.power.value == pytest.approx(2000.0)
    assert found.price is not None
    assert found.price.value == pytest.approx(found.energy.value / 3.6e6 * 0.2)
    assert found.carbon is not None
    assert found.carbon.value == pytest.approx(found.energy.value / 3.6e6 * 400)


def test_the_interval_is_that_of_the_log_normal_product_and_the_largest_term_is_named() -> None:
    found = predict(training_flop(7e9, 2e12), 989e12, watts_prior(700.0), devices=64)
    log_sd = math.sqrt(0.1**2 + 0.55**2 + math.log(1.2) ** 2)
    assert math.log(found.energy.high / found.energy.low) == pytest.approx(2 * 1.645 * log_sd, rel=0.08)
    assert found.dominant == "MFU"
    assert sum(found.terms.values()) == pytest.approx(1.0)
    stated = predict(training_flop(7e9, 2e12), 989e12, watts_prior(700.0), mfu=mfu_prior(0.4))
    assert stated.dominant == "watts"
    assert stated.energy.high / stated.energy.low < 0.5 * found.energy.high / found.energy.low


def test_more_devices_take_less_time_and_the_same_energy() -> None:
    one = predict(sure(1e20), 1e15, sure(500.0), devices=1)
    many = predict(sure(1e20), 1e15, sure(500.0), devices=10)
    assert many.time.value == pytest.approx(one.time.value / 10)
    assert many.energy.value == pytest.approx(one.energy.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 0}, "one device or more"),
        ({"pue": 0.9}, "PUE of 1 or more"),
        ({"price_per_kwh": -1.0}, "price of 0 or more"),
        ({"carbon_g_per_kwh": -1.0}, "carbon intensity"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        predict(sure(1e20), 1e15, sure(500.0), **options)


def test_an_mfu_or_a_model_that_is_none_is_refused() -> None:
    for mfu in (0.0, 1.2, math.nan):
        with pytest.raises(UsageError, match="an MFU above 0"):
            mfu_prior(mfu)
    with pytest.raises(UsageError, match="positive parameters"):
        training_flop(0.0, 1e9)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 SXM5 80GB", "H100 SXM"),
        ("h100 pcie", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM"),
        ("A100", "A100 SXM"),
        ("Google TPU v4", "TPU v4"),
        ("NVIDIA Tesla V100 DGXS 32 GB", "V100 SXM2"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H200", "H200 SXM"),
    ],
)
def test_machines_are_known_by_the_names_that_drivers_and_tables_give_them(name: str, found: str) -> None:
    assert machine(name).name == found


@pytest.mark.parametrize("name", ["Quadro RTX 4000", "TPU", "", "Foo"])
def test_a_machine_that_is_not_listed_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="H100 SXM"):
        machine(name)


def test_every_machine_is_found_by_its_own_name_and_has_a_peak_worth_its_watts() -> None:
    for one in MACHINES:
        assert machine(one.name) == one
        assert 0.02e12 < max(one.peak_flop_per_s.values()) / one.power_w < 3e12
    assert machine("V100").peak("bf16") == machine("V100").peak("fp16")
    with pytest.raises(UsageError, match="on V100 SXM2"):
        machine("V100").peak("int8")


@pytest.mark.skipif(not RUNS.is_file(), reason="needs the public table of training runs")
def test_the_intervals_cover_the_hours_of_published_runs_that_were_counted_by_operations() -> None:
    held = total = 0
    for row in csv.DictReader(RUNS.open()):
        facts = [row[name] for name in ("Training time (hours)", "Hardware quantity", "Training compute (FLOP)")]
        if "Operation counting" not in row["Training compute estimation method"] or not all(facts):
            continue
        try:
            device = machine(row["Training hardware"].split(",")[0])
        except UsageError:
            continue
        hours, devices, flop = map(float, facts)
        found = predict(
            Rate(flop, 0.1, "counted"), device.peak("bf16"), watts_prior(device.power_w), devices=int(devices)
        )
        held, total = held + (found.time.low <= hours * 3600 <= found.time.high), total + 1
    assert total >= 15
    assert 0.8 <= held / total <= 0.97


# The rest of a run


def test_the_rest_of_a_run_goes_on_as_its_present_regime() -> None:
    run = synthetic_run(300, power_w=50.0, evaluate_every=10**6)
    found = remainder(run, accounts(run), 1000)
    assert found.energy is not None
    assert found.time is not None
    assert found.energy.value == pytest.approx(50.0 * (run.duration_s + 70.0), rel=0.01)
    assert found.time.value == pytest.approx(run.duration_s + 70.0, rel=0.01)
    assert found.energy.low < found.energy.value < found.energy.high  # the meter's gain, if nothing else
    assert found.notes == ()


def test_evaluations_between_steps_go_on_with_the_steps() -> None:
    run = synthetic_run(400, power_w=50.0, evaluate_every=20, evaluation_s=1.0)
    found = remainder(run, accounts(run), 800)
    assert found.time_left is not None
    assert found.time_left.value == pytest.approx(400 * 0.1 + 20 * 1.0, rel=0.05)


def test_a_run_that_has_just_begun_has_no_forecast_yet() -> None:
    run = synthetic_run(5)
    found = remainder(run, accounts(run), 1000)
    assert found.energy is None
    assert "no forecast yet" in found.why


def test_steps_that_were_made_already_or_none_at_all_are_refused() -> None:
    run = synthetic_run(50)
    with pytest.raises(UsageError, match="50 steps in all or more"):
        remainder(run, accounts(run), 10)
    none = replace(run, tables={**run.tables, "steps": Table.empty(series.STEPS.columns)})
    with pytest.raises(UsageError, match="training steps"):
        remainder(none, accounts(none), 10)


# As a user calls it


def erg(*words: object) -> str:
    done = CliRunner().invoke(app, ["predict", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


NUMBERS = ("--parameters", "7e9", "--tokens", "2e12", "--machine", "H100", "--devices", "512")


def test_a_run_by_its_numbers_is_told_within_80_columns_and_as_json() -> None:
    text = erg(*NUMBERS, "--pue", "1.1", "--price", "0.2", "--carbon", "400")
    assert max(map(len, text.splitlines())) <= 80, max(text.splitlines(), key=len)
    for words in ("time", "energy", "price", "kgCO₂", "MFU"):
        assert words in text
    found = json.loads(erg(*NUMBERS, "--format", "json"))
    assert found["schema"] == "ergometry.prediction/1"
    assert found["energy"]["low"] < found["energy"]["value"] < found["energy"]["high"]
    assert found["dominant"] == "MFU"
    assert found["price"] is None


def test_the_rest_of_a_stored_run_is_told(tmp_path: Path) -> None:
    run = synthetic_run(300, evaluate_every=10**6)
    store_run(run, tmp_path)
    text = erg("--steps", "600", "--store", tmp_path, run.id)
    assert "300 of 600 steps made" in text
    assert "left" in text
    found = json.loads(erg("--steps", "600", "--store", tmp_path, "--price", "0.1", "--format", "json", run.id))
    assert found["steps_done"] == 300
    assert found["price"] == pytest.approx(found["energy"]["value"] / 3.6e6 * 0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "got none of them"),
        (("--parameters", "7e9"), "got --parameters"),
        (("--flops", "1e21", "--tokens", "1"), "got --tokens, --flops"),
        (("--flops", "inf", "--machine", "V100"), "a positive --flops"),
        (("--flops", "1e21", "--machine", "Foo"), "got 'Foo'"),
        (("--flops", "1e21", "--machine", "V100", "--dtype", "int8"), "on V100 SXM2"),
        (("--flops", "1e21", "--machine", "V100", "--mfu", "3"), "an MFU above 0"),
        (("--flops", "1e21", "last"), "leave out --parameters"),
        (("last",), "--steps"),
        (("--steps", "9", "one", "two"), "one run, or a script"),
        (("--steps", "9", "--probe", "5 J", "train.py"), "in s, such as 2 h"),
        (("--steps", "9", "--probe", "0.1", "train.py"), "a probe of 1 s or more"),
        (("--steps", "9", "no-such-script.py"), "no file no-such-script.py"),
    ],
)
def test_wrong_uses_are_told_in_one_line(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("ERGOMETRY_CALIBRATION", str(tmp_path))
    done = CliRunner().invoke(app, ["predict", *words])
    assert isinstance(done.exception, ErgError), done.output
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


def test_without_a_machine_or_a_calibration_there_is_no_prediction(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERGOMETRY_CALIBRATION", str(tmp_path))
    done = CliRunner().invoke(app, ["predict", "--flops", "1e21"])
    assert "erg calibrate" in str(done.exception)


def test_the_medians_of_draws_are_those_stated() -> None:
    assert float(np.median(Rate(3.0, 0.5, "x").draws(np.random.default_rng(0)))) == pytest.approx(3.0, rel=0.05)


def test_in_python_a_run_or_numbers_are_predicted_as_on_the_command_line() -> None:
    run = synthetic_run(400, evaluate_every=10**6)
    rest = erg_.predict(run, steps=800, pue=1.5, price_per_kwh=0.2, carbon_g_per_kwh=300.0)
    assert rest.energy is not None
    assert rest.price == pytest.approx(1.5 * 0.2 * rest.energy.value / 3.6e6)
    assert rest.carbon_g == pytest.approx(1.5 * 300.0 * rest.energy.value / 3.6e6)
    assert rest.to_json()["schema"] == "ergometry.prediction/1"
    assert str(rest).startswith("400 of 800 steps made")
    before = erg_.predict(parameters=7e9, tokens=2e12, machine="H100", devices=512)
    assert before.dominant == "MFU"
    assert before.to_json()["energy"]["value"] == before.energy.value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"run": "a", "steps": 5, "machine": "H100"}, "got both, machine"),
        ({"steps": 5}, "a run to go with steps"),
        ({"flops": 1e20, "machine": "H100", "carbon_g_per_kwh": math.nan}, "a carbon intensity of 0"),
        ({"run": synthetic_run(50), "steps": 100, "pue": 0.5}, "a PUE of 1 or more, got 0.5"),
        ({"run": 7, "steps": 100}, "a run, a recording"),
    ],
)
def test_in_python_wrong_uses_are_told_in_one_line(words: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        erg_.predict(**words)


def test_long_times_and_prices_stay_within_80_columns_each_with_its_interval() -> None:
    run = synthetic_run(300, evaluate_every=10**6)
    text = str(erg_.predict(run, steps=123_456, price_per_kwh=0.2, carbon_g_per_kwh=300.0))
    assert max(map(len, text.splitlines())) <= 80, text
    for name in ("price", "carbon"):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
        assert "[" in line


def test_a_probe_that_is_interrupted_shows_no_traceback_and_any_other_run_shows_it(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n")
    said = {}
    for words in (("--as-probe",), ()):
        command = [
            sys.executable,
            "-m",
            "ergometry",
            "run",
            *words,
            "-q",
            "--store",
            str(tmp_path / "runs"),
            str(script),
        ]
        said[words] = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
    assert "KeyboardInterrupt" in said[()]
    assert said[("--as-probe",)] == ""
