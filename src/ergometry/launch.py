"""Runs an unmodified script as ``python script.py`` would, with measuring on. Standard library only.

``erg run`` replaces itself with an interpreter that runs this file. What must be the interpreter's own stays so:
the exception travels up to the top (traceback, status, death by SIGINT), exit handlers run in their order with ours
last, and no signal handler is set.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

_OPTIONS = ("examples", "tokens", "classes", "physics", "physics_every")  # of what is seen of torch
_THIS_FILE = os.path.abspath(__file__)  # noqa: PTH100 - compared with code objects' file names

if __name__ == "__main__":
    # This folder was put on the path because this file is the program; the script must not see it.
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(_THIS_FILE):  # noqa: PTH100, PTH120
        del sys.path[0]
    if importlib.util.find_spec("ergometry") is None:
        sys.path.append(str(Path(_THIS_FILE).parents[1]))

from ergometry.core.errors import ErgError, ScriptNotFound, StoreError  # noqa: E402
from ergometry.integrations.imports import when_imported  # noqa: E402
from ergometry.integrations.tracebacks import trim  # noqa: E402
from ergometry.meter.client import RecorderClient, run_labels, working_folder  # noqa: E402
from ergometry.store.folders import create_run_folder, new_run_id  # noqa: E402


def replace_process(config: dict[str, Any], words: list[str]) -> NoReturn:
    """Replace this process by a clean interpreter, of the same flags, that runs ``words`` being measured.

    ``config`` keys: ``store`` (absolute), ``name``, ``tags``, ``sampling_hz``, ``live``, ``quiet``, ``module`` (the
    first word is a module), ``html``, ``token``, ``examples``, ``tokens``, ``classes``, ``physics``, ``physics_every``,
    ``probe`` (an interruption is expected, and ends it without a traceback).
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever called us
            stream.flush()
    flags = interpreter_flags(sys.orig_argv)
    os.execv(sys.executable, [sys.executable, *flags, _THIS_FILE, json.dumps(config), *words])


def interpreter_flags(command: list[str]) -> list[str]:
    """Return the interpreter's own options in its command line: what stands before the program, as it was typed.

    >>> interpreter_flags(["python", "-X", "dev", "-uWerror", "-Im", "ergometry", "run", "-m", "train"])
    ['-X', 'dev', '-uWerror', '-I']
    """
    flags, words = [], iter(command[1:])
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            flags += [word, next(words, "")]  # --check-hash-based-pycs, the only long one that runs anything
            continue
        for i, letter in enumerate(word):
            if letter in "cm":  # what follows is the program
                return flags + ([word[:i]] if i > 1 else [])
            if letter in "WX":  # what follows is its value
                flags += [word] if word[i + 1 :] else [word, next(words, "")]
                break
        else:
            flags.append(word)
    return flags


def main() -> None:
    """Be the measured process: ``sys.argv`` is [this file, the configuration, the script, its arguments…]."""
    config, words = json.loads(sys.argv[1]), sys.argv[2:]
    module = bool(config.get("module"))
    # As the script would find them, were Python called with it.
    leading = len(sys.orig_argv) - len(sys.argv)
    sys.orig_argv[leading:] = ["-m", *words] if module else words
    sys.argv = ["-m", *words[1:]] if module else list(words)
    session = program = None
    try:
        if not module:
            program = _script_program(words)  # looked at before anything is started
        if os.environ.get("ERGOMETRY_DISABLE") != "1":
            session = Session(config, words)
        if module:
            program = _module_program(words)  # only now, since finding it may run its package
        if program is not None:
            _run_code(program)
    except ScriptNotFound as problem:
        if session is not None:
            session.discard()
        _say(str(problem))
        sys.exit(problem.exit_status)
    except BaseException as error:
        _end_by(error, session)
        raise
    if program is None:
        _run_command(words, session)


class Session:
    """The measuring of this process, from before the script's first line to after its last exit handler."""

    def __init__(self, config: dict[str, Any], words: list[str]) -> None:
        self.config = config
        self.status = "completed"
        self.exit_status: int | None = 0
        self.folder: Path | None = None
        self.client: RecorderClient | None = None
        self._environment = dict(os.environ)
        self._folder_at_start = working_folder()
        try:
            self._start(words)
        except ErgError as error:
            _say(f"the script runs without being measured: {error}")
        # Registered before anything of the script's: exit handlers run in reverse, so this is the last.
        atexit.register(self.end)

    def _start(self, words: list[str]) -> None:
        config = self.config
        run_id = new_run_id(time.time())
        self.folder, fallback = _run_folder(Path(config["store"]), run_id)
        self.client = client = RecorderClient.start(
            self.folder,
            sampling_hz=config["sampling_hz"],
            live=config.get("live", False),
            token=config.get("token", "token"),
        )
        client.meta(
            **run_labels(run_id, [*(["-m"] if config.get("module") else []), *words], config["sampling_hz"]),
            name=config.get("name"),
            tags=config.get("tags", []),
            options={k: config[k] for k in _OPTIONS if config.get(k)},
        )
        if fallback:
            client.notice("store.unwritable", fallback)
        when_imported("torch", self._instrument)

    def _instrument(self, torch: ModuleType) -> None:
        if self.client is None:
            return
        try:
            from ergometry.integrations.torch_hooks import instrument

            instrument(torch, self.client, **{k: self.config.get(k) for k in _OPTIONS})
        except Exception as error:  # a torch that lacks what we import, say: the script imports it all the same
            self.client.notice("torch.unsupported", repr(error))

    def end(self) -> None:
        """Close the run and say where it is. Nothing raised here may reach the script's own end."""
        client = self.client
        if client is None or client.finished:
            return  # not measured, or a forked child that runs its parent's exit handlers
        with contextlib.suppress(Exception):
            tracer = sys.modules.get("ergometry.integrations.torch_hooks")
            if tracer is not None:
                tracer.finish()
            whole = client.finish(self.status, self.exit_status)
            if client.memory.error:
                _say(f"part of this run could not be stored: {client.memory.error}")
            elif not whole:
                _say("the recorder ended before the script did; what it had written is kept")
            self._summarise()

    def discard(self) -> None:
        """Forget the run: there was nothing to run."""
        client, self.client = self.client, None
        if client is not None:
            client.finish("failed", 2)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _summarise(self) -> None:
        if self.config.get("quiet") or sys.stderr is None:
            return
        command = [sys.executable, "-P", "-m", "ergometry.report", str(self.folder)]
        if self.config.get("html"):
            command.append("--html")
        subprocess.run(command, stdout=2, env=self._environment, cwd=self._folder_at_start or "/", check=False)


def _run_folder(store: Path, run_id: str) -> tuple[Path, str]:
    """Return the run's folder, and why it is not in the store asked for ("" if it is)."""
    try:
        return create_run_folder(store, run_id), ""
    except StoreError as error:
        # Training is worth more than the place of its record: keep it where something can be written.
        refuge = Path(tempfile.gettempdir()) / f"erg-runs-{os.getuid()}"
        folder = create_run_folder(refuge, run_id)
        _say(f"{error}; recording into {folder}")
        return folder, f"{error.got}; recorded into {folder}"


def _say(text: str) -> None:
    _write(f"erg: {text}\n")


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


class Program:
    """A script's or module's code, and the ``__main__`` it runs in."""

    def __init__(self, code: CodeType, module: ModuleType, argv: list[str], first_path: str) -> None:
        self.code, self.module, self.argv, self.first_path = code, module, argv, first_path


def is_python_file(word: str) -> bool:
    """Say whether the first word is a script: it ends in .py, or is an existing file of Python source.

    Raises:
        ScriptNotFound: it ends in .py but there is no such file, or it is a folder; give the path of a script.
    """
    path = Path(word)
    if path.is_dir():
        raise ScriptNotFound(expected="a script", got=f"the folder {word}", remedy="name the script in it")
    if word.endswith((".py", ".pyw")):
        if not path.is_file():
            raise ScriptNotFound(expected="a script", got=f"no file {word}", remedy="check the path")
        return True
    if not path.is_file():
        return False
    raw = path.read_bytes()
    if raw.startswith(b"#!"):
        return b"python" in raw.partition(b"\n")[0]
    if b"\0" in raw:
        return False
    try:
        compile(raw, word, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _new_main(**attributes: Any) -> ModuleType:
    module = ModuleType("__main__")
    module.__dict__.update({"__builtins__": builtins, "__annotations__": {}, **attributes})
    return module


def _script_program(words: list[str]) -> Program | None:
    """Return the script, compiled as Python would; None for a command on PATH.

    Raises:
        ScriptNotFound: the first word is neither.
    """
    script = words[0]
    if not is_python_file(script):
        if shutil.which(script) is None:
            raise ScriptNotFound(
                expected="a script or a command", got=script, remedy="check the path, or that it can be executed"
            )
        return None
    # As Python's __file__: absolute, and otherwise as it was typed.
    path = os.path.join(working_folder() or "", script)  # noqa: PTH118
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module = _new_main(__file__=path, __cached__=None, __spec__=None, __loader__=loader, __package__=None)
    first_path = os.path.dirname(os.path.realpath(script))  # noqa: PTH120
    try:
        source = Path(script).read_bytes()
    except OSError as error:
        raise ScriptNotFound(expected="a script", got=str(error), remedy="see that it can be read") from None
    return Program(compile(source, path, "exec", dont_inherit=True), module, words, first_path)


def _module_program(words: list[str]) -> Program:
    name = words[0]
    folder = working_folder()
    if folder is not None and not sys.flags.safe_path:
        sys.path.insert(0, folder)
    spec = _find(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__")
    code = None
    if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        code = spec.loader.get_code(spec.name)
    if spec is None or code is None:
        raise ScriptNotFound(expected="a module", got=f"no module {name}", remedy="check its name and the path")
    module = _new_main(
        __file__=spec.origin,
        __cached__=spec.cached,
        __spec__=spec,
        __loader__=spec.loader,
        __package__=spec.parent,
    )
    return Program(code, module, [str(spec.origin), *words[1:]], "")


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    if not name or name.startswith("."):
        return None
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise  # it is there, and imports something that is not


_own_main = sys.modules["__main__"]  # kept alive: its frames are below the script's until the end


def _run_code(program: Program) -> None:
    sys.argv = program.argv
    if program.first_path and not sys.flags.safe_path:
        sys.path.insert(0, program.first_path)
    sys.modules["__main__"] = program.module
    exec(program.code, program.module.__dict__)


def _end_by(error: BaseException, session: Session | None) -> None:
    """Take note of how the script ends, and see that an exception is shown without our frames."""
    if isinstance(error, SystemExit):
        code = error.code
        status = 0 if code is None else int(code) & 0xFF if isinstance(code, int) else 1
        how = "failed" if status else "completed"
    else:
        interrupted = isinstance(error, KeyboardInterrupt)
        how, status = ("interrupted", 130) if interrupted else ("failed", 1)
        if interrupted and session is not None and session.config.get("probe"):
            sys.excepthook = lambda *_: None  # it was we who interrupted it
        else:
            _show_without_our_frames(error, session)
    if session is not None:
        session.status, session.exit_status = how, status


def _show_without_our_frames(error: BaseException, session: Session | None) -> None:
    """Put a hook before the script's own: the interpreter calls it when the exception has arrived at the top."""
    trim(error)
    trace = error.__traceback__
    hook = getattr(sys, "excepthook", None)

    def show(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        error.__traceback__ = sys.last_traceback = trace
        if hook is None:
            del sys.excepthook
            _write("sys.excepthook is missing\n")
            sys.__excepthook__(kind, error, trace)
            return
        sys.excepthook = hook
        try:
            hook(kind, error, trace)
        except SystemExit as request:
            _end_by(request, session)
            raise
        except BaseException as second:  # said as the interpreter says it, again without our frame
            _write("Error in sys.excepthook:\n")
            below = second.__traceback__.tb_next if second.__traceback__ is not None else None
            sys.__excepthook__(type(second), second.with_traceback(below), below)
            _write("\nOriginal exception was:\n")
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = show


def _run_command(words: list[str], session: Session | None) -> NoReturn:
    """Run a command as a child, measured as a process tree; end as it ended."""
    early: list[int] = []
    pass_on: list[Callable[[int], None]] = [early.append]  # until there is someone to pass it on to
    # Before the child is there, or a signal meant for it could end us and leave it. Handlers, unlike SIG_IGN, are not
    # inherited. The terminal sends Ctrl-C to both, and the child decides; what comes by kill is passed on.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: pass_on[0](received))
    try:
        child = subprocess.Popen(words)
    except OSError as error:
        _say(str(ScriptNotFound(expected="a script or a command", got=str(error), remedy="check the first word")))
        if session is not None:
            session.status, session.exit_status = "failed", 127
        sys.exit(2)
    pass_on[0] = child.send_signal
    for received in early:
        child.send_signal(received)
    status = child.wait()
    if session is not None:
        session.status = "completed" if status == 0 else "interrupted" if status == -signal.SIGINT else "failed"
        session.exit_status = status if status >= 0 else 128 - status
        session.end()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    # The functions that run belong to this module, which stays alive below the script's __main__.
    main()
