"""A script under ``erg run`` sees the interpreter that ``python script.py`` gives it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

import pytest

from end_to_end.running import SCRIPTS, Done, Runner


def seen(done: Done) -> dict[str, Any]:
    assert done.status == 0, done.err
    told = json.loads(done.text)
    told["environ"].pop("_", None)  # a shell's, not the interpreter's
    told.pop("session")
    return told


def assert_same(plain: Done, measured: Done) -> None:
    """Compare what both saw; of modules, nothing but the standard library's and our own may come on top."""
    expected, got = seen(plain), seen(measured)
    added = set(got.pop("modules")) - set(expected.pop("modules"))
    tops = {name.partition(".")[0] for name in added}
    assert tops <= {*sys.stdlib_module_names, "ergometry"}
    for key, value in expected.items():
        assert got[key] == value, key
    assert measured.err == plain.err
    assert measured.run.status == "completed"


def test_of_a_script(runner: Runner) -> None:
    words = (SCRIPTS / "identity.py", "--lr", "0.1", "-m", "x y", "--", "--help", "")
    assert_same(runner.plain(*words), runner.erg(*words))


def test_of_a_relative_path_from_another_folder(runner: Runner) -> None:
    words = (os.path.relpath(SCRIPTS / "identity.py", runner.folder), "--quiet")
    assert_same(runner.plain(*words), runner.erg("--", *words))


def test_through_links(runner: Runner) -> None:
    (runner.folder / "link.py").symlink_to(SCRIPTS / "identity.py")
    (runner.folder / "folder").symlink_to(SCRIPTS)
    for word in ("link.py", "./link.py", "folder/identity.py", f"folder/../{SCRIPTS.name}/identity.py"):
        assert_same(runner.plain(word), runner.erg(word))
        shutil.rmtree(runner.store)


def test_of_a_script_without_extension(runner: Runner) -> None:
    shutil.copy(SCRIPTS / "identity.py", runner.folder / "identity")
    assert_same(runner.plain("identity"), runner.erg("identity"))


def test_of_a_module(runner: Runner) -> None:
    shutil.copy(SCRIPTS / "identity.py", runner.folder / "identity.py")
    assert_same(runner.plain("-m", "identity", "a"), runner.erg("identity", "a", options=["-m"]))


@pytest.mark.parametrize("name", ["package", "package.part", "package.inner"])
def test_of_a_package(runner: Runner, name: str) -> None:
    package = runner.folder / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("import sys; print(sys.argv, __name__, file=sys.stderr)")
    (package / "inner/__init__.py").write_text("")
    for path in ("__main__.py", "part.py", "inner/__main__.py"):
        shutil.copy(SCRIPTS / "identity.py", package / path)
    assert_same(runner.plain("-m", name, "-x"), runner.erg(name, "-x", options=["-m"]))


@pytest.mark.parametrize(
    "flags",
    [
        ["-X", "dev"],
        ["-I"],
        ["-P"],
        ["-E", "-s", "-u"],
        ["-OO", "-B", "-b", "-q", "-d"],
        ["-X", "int_max_str_digits=700", "-X", "utf8", "-X", "mine=1", "-W", "error::ResourceWarning"],
    ],
    ids=" ".join,
)
def test_the_interpreter_keeps_its_flags(runner: Runner, flags: list[str]) -> None:
    assert_same(runner.plain(*flags, SCRIPTS / "identity.py"), runner.erg(SCRIPTS / "identity.py", flags=flags))


def test_the_number_of_threads_is_the_scripts_to_choose(runner: Runner) -> None:
    """Whatever read OMP_NUM_THREADS before the script set it would have settled the bits of its products."""
    (runner.folder / "threads.py").write_text(
        "import os\n"
        "os.environ['OMP_NUM_THREADS'] = '1'\n"
        "import hashlib, numpy, torch\n"
        "torch.manual_seed(0)\n"
        "x = torch.randn(300, 300)\n"
        "for product in ((x @ x).numpy(), x.numpy() @ x.numpy(), numpy.linalg.svd(x.numpy())[1]):\n"
        "    print(hashlib.sha256(product.tobytes()).hexdigest())\n"
        "print(torch.get_num_threads())\n"
    )
    plain, measured = (call("threads.py", env={"OMP_NUM_THREADS": None}) for call in (runner.plain, runner.erg))
    assert plain.text.endswith("\n1\n")
    assert measured.text == plain.text


TORCHES = {
    "of-another-kind": "name = 'not the torch you know'",
    "of-another-age": "__version__ = '0.1'\nclass nn: pass\nclass optim: pass",
    "broken": "raise ImportError('libtorch.so: cannot open shared object file')",
    "broken-at-first": "import os\nif not os.path.exists('again'):\n    open('again', 'w')\n    raise OSError('no')",
}


@pytest.mark.parametrize("kind", TORCHES)
def test_a_torch_that_is_none_is_imported_as_it_is(runner: Runner, kind: str) -> None:
    (runner.folder / "torch.py").write_text(TORCHES[kind])
    (runner.folder / "train.py").write_text(
        "import sys\n"
        "for attempt in range(3):\n"
        "    try:\n"
        "        import torch\n"
        "        print('imported', torch.__file__, [name for name in vars(torch) if name[:2] != '__'])\n"
        "    except (ImportError, OSError) as error:\n"
        "        print('caught', repr(error), 'torch' in sys.modules)\n"
    )
    plain = runner.plain("train.py")
    (runner.folder / "again").unlink(missing_ok=True)
    measured = runner.erg("train.py")
    assert (measured.text, measured.err, measured.status) == (plain.text, plain.err, 0)
    assert measured.run.status == "completed"


def test_standard_input_is_the_scripts(runner: Runner) -> None:
    (runner.folder / "echo.py").write_text("import sys\nprint(input() + sys.stdin.read())")
    assert runner.erg("echo.py", input=b"one\ntwo\n").out == b"onetwo\n\n"
