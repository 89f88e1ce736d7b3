"""What importing brings along: nothing heavy, and only the standard library into the user's process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "pint", "plotly", "jinja2", "pyarrow"}

HELP = """
from ergometry.cli import main
sys.argv = ["erg", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter holds after running the code."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('\\nmodules:', *set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.rpartition("modules:")[2].split()}


@pytest.mark.parametrize("code", ["import ergometry", HELP], ids=["import", "help"])
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    modules = modules_after(code)
    assert "ergometry" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize("room", ["launch", "meter.recorder"])
def test_what_runs_beside_or_before_the_script_is_standard_library_only(room: str) -> None:
    modules = modules_after(f"import ergometry.{room}")
    assert modules - {"ergometry"} - sys.stdlib_module_names == set()
