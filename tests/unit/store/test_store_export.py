"""What is exported comes back bit for bit; nothing is written over unasked."""

import csv
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergometry.core.errors import MissingExtra, StoreError, UsageError
from ergometry.core.notices import Notice
from ergometry.core.run import Run, SampleTable, Table
from ergometry.store import export as export_module
from ergometry.store.export import export
from support.synthetic import MODELLED, PACKAGE, synthetic_run


def read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float).reshape(-1, len(header))


def read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    table = pyarrow.parquet.read_table(path)
    assert all(column.type == pyarrow.float64() for column in table.columns)
    return table.column_names, np.column_stack([column.to_numpy() for column in table.columns])


READ = {"csv": read_csv, "parquet": read_parquet}
formats = pytest.mark.parametrize("to", ["csv", "parquet"])


@formats
def test_every_table_is_a_file_of_its_own(tmp_path, to, monkeypatch):
    monkeypatch.setattr(export_module, "_BLOCK_ROWS", 64)
    run = replace(synthetic_run(200), notices=(Notice("sensor.failed", "gpu0", 1.0),))
    files = export(run, to, tmp_path / "new" / "folder")
    assert {f.name for f in files} == {*(f"{name}.{to}" for name in run.tables), f"samples-rapl.{to}", "run.json"}
    assert sorted(files) == sorted((tmp_path / "new" / "folder").iterdir())
    for name, table in run.tables.items():
        header, rows = READ[to](tmp_path / "new" / "folder" / f"{name}.{to}")
        assert header == list(table.columns)
        np.testing.assert_array_equal(rows, table.rows)
    header, rows = READ[to](tmp_path / "new" / "folder" / f"samples-rapl.{to}")
    assert header == ["t_s", "node0/package0 energy_j"]
    np.testing.assert_array_equal(rows, run.samples[0].table.rows)
    labels = json.loads((tmp_path / "new" / "folder" / "run.json").read_text())
    assert labels["meta"] == run.meta
    assert labels["samples"] == {"rapl": [PACKAGE.to_json()]}
    assert [w["code"] for w in labels["warnings"]] == ["sensor.failed"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20), st.sampled_from(["csv", "parquet"]))
def test_any_float64_comes_back_with_its_value(rows, to):
    run = of_tables({"memory": Table(("t_s", "peak_bytes"), np.array(rows, dtype=float).reshape(-1, 2))})
    with tempfile.TemporaryDirectory() as folder:
        export(run, to, Path(folder))
        _, back = READ[to](Path(folder) / f"memory.{to}")
    np.testing.assert_array_equal(back, run.tables["memory"].rows)
    finite = np.isfinite(back)
    assert np.array_equal(np.signbit(back[finite]), np.signbit(run.tables["memory"].rows[finite]))


def of_tables(tables: dict[str, Table], samples: tuple[SampleTable, ...] = ()) -> Run:
    return Run(Path("a"), "completed", 1.0, {}, tables, samples)


@formats
def test_two_tables_of_one_source_and_odd_names_have_files_of_their_own(tmp_path, to):
    rows = np.zeros((1, 2))
    samples = (
        SampleTable("cpu/0", (PACKAGE,), Table(("t_s", "c0"), rows)),
        SampleTable("cpu/0", (MODELLED,), Table(("t_s", "c0"), rows + 1)),
        SampleTable("two", (PACKAGE, PACKAGE), Table(("t_s", "c0", "c1"), np.zeros((1, 3)))),
    )
    export(of_tables({}, samples), to, tmp_path)
    assert READ[to](tmp_path / f"samples-cpu_0.{to}")[0] == ["t_s", "node0/package0 energy_j"]
    assert READ[to](tmp_path / f"samples-cpu_0-2.{to}")[0] == ["t_s", "node0/cpu energy_j"]
    assert READ[to](tmp_path / f"samples-two.{to}")[0] == [
        "t_s",
        "node0/package0 energy_j 0",
        "node0/package0 energy_j 1",
    ]


@formats
def test_files_are_written_over_only_by_force(tmp_path, to):
    run = synthetic_run(3)
    export(run, to, tmp_path)
    (tmp_path / f"steps.{to}").write_text("precious")
    with pytest.raises(StoreError, match=f"steps.{to}; choose another -o, or use --force"):
        export(run, to, tmp_path)
    assert (tmp_path / f"steps.{to}").read_text() == "precious"
    export(run, to, tmp_path, force=True)
    assert len(READ[to](tmp_path / f"steps.{to}")[1]) == 3


def test_without_pyarrow_the_remedy_is_named_and_csv_works(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ergometry\[parquet\]'"):
        export(synthetic_run(3), "parquet", tmp_path / "p")
    assert not (tmp_path / "p").exists()
    assert export(synthetic_run(3), "csv", tmp_path / "c")


def test_another_format_is_a_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="expected parquet or csv, got 'xlsx'"):
        export(synthetic_run(3), "xlsx", tmp_path)


@formats
def test_a_folder_that_cannot_be_made_is_said_so(tmp_path, to):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another with -o"):
        export(synthetic_run(3), to, tmp_path / "file" / "below")


def test_a_write_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    def write(path: Path, table: Table) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "_write_csv", write)
    with pytest.raises(StoreError, match="No space left on device"):
        export(synthetic_run(3), "csv", tmp_path)
    assert list(tmp_path.iterdir()) == []
