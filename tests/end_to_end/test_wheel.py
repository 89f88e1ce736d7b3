"""The built wheel, in an environment where the source tree is not to be found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ERGOMETRY"))}


def call(*command: object, cwd: Path) -> str:
    """Run a command to its end and return what it printed; a failure shows it all."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the source, so that nothing is written into the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index"]
    call(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy, cwd=folder)
    shutil.rmtree(copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel where its dependencies, but not this tree's editable install, can be imported."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--no-index"]
    call(*pip, "--no-deps", wheel, cwd=folder)
    # A line of a .pth file is put on the path, but the .pth files in it, such as an editable install's, are not read.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    written = {p.relative_to(source).as_posix() for p in (source / "ergometry").rglob("*") if p.is_file()}
    expected = {name for name in written if not name.endswith(".pyc")}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert any(name.startswith("ergometry/report/templates/") for name in packed)
    assert "ergometry/py.typed" in packed


def test_the_wheel_carries_its_licence_and_its_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = {Path(entry).name: entry for entry in archive.namelist() if ".dist-info/" in entry}
    assert archive.read(name["LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    assert b"erg = ergometry.cli:main" in archive.read(name["entry_points.txt"])


def test_the_installed_package_is_not_the_source_tree(python: Path, tmp_path: Path) -> None:
    where = call(python, "-c", "import ergometry; print(ergometry.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[1])


def test_the_command_answers(python: Path, tmp_path: Path) -> None:
    words = call(python.with_name("erg"), "--help", cwd=tmp_path)
    for command in ("run", "demo", "report", "compare", "ls", "rm", "export", "equations"):
        assert f" {command} " in words
    assert call(python, "-m", "ergometry", "--help", cwd=tmp_path) != ""


def test_its_data_files_can_be_opened(python: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.resources import files\n"
        "for entry in files('ergometry.report').joinpath('templates').iterdir():\n"
        "    print(entry.name, len(entry.read_bytes()))"
    )
    sizes = dict(line.split() for line in call(python, "-c", code, cwd=tmp_path).splitlines())
    templates = ROOT / "src/ergometry/report/templates"
    assert sizes == {path.name: str(path.stat().st_size) for path in templates.iterdir() if path.is_file()}
    assert sizes
