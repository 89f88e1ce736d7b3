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
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

_THIS_FILE = os.path.abspath(__file__)  # noqa: PTH100 - compared with code objects' file names

if __name__ == "__main__":
    # This folder was put on the path because this file is the program; the script must not see it.
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(_THIS_FILE):  # noqa: PTH100, PTH120
        del sys.path[0]
    if importlib.util.find_spec("ergometry") is None:
        sys.path.append(str(Path(_THIS_FILE).parents[1]))

from ergometry.core.errors import ErgError, ScriptNotFound, StoreError  # noqa: E402
from ergometry.integrations.imports import when_imported  # noqa: E402
from ergometry.meter.client import RecorderClient, run_labels  # noqa: E402
from ergometry.store.writer import create_run_folder, new_run_id  # noqa: E402


def replace_process(config: dict[str, Any], words: list[str]) -> NoReturn:
    """Replace this process by a clean interpreter, of the same flags, that runs ``words`` being measured.

    ``config`` keys: ``store`` (absolute), ``name``, ``tags``, ``sampling_hz``, ``live``, ``quiet``, ``module`` (the
    first word is a module), ``html``, ``token``, ``examples``, ``tokens``, ``classes``.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *flags, _THIS_FILE, json.dumps(config), *words])


def main() -> None:
    """Be the measured process: ``sys.argv`` is [this file, the configuration, the script, its arguments…]."""
    config, words = json.loads(sys.argv[1]), sys.argv[2:]
    module = bool(config.get("module"))
    sys.argv = list(words)
    # A script is looked at before anything is started; a module only after, since finding it may run its package.
    program = None if module else _script_program(words)
    session = None if os.environ.get("ERGOMETRY_DISABLE") == "1" else Session(config, words)
    if module:
        try:
            program = _module_program(words)
        except ScriptNotFound:
            if session is not None:
                session.discard()
            raise
    if program is None:
        _run_command(words, session)
    else:
        _run_code(program, session)


class Session:
    """The measuring of this process, from before the script's first line to after its last exit handler."""

    def __init__(self, config: dict[str, Any], words: list[str]) -> None:
        self.config = config
        self.status = "completed"
        self.exit_status: int | None = 0
        self.folder: Path | None = None
        self.client: RecorderClient | None = None
        self._environment = dict(os.environ)
        self._folder_at_start = os.getcwd()  # noqa: PTH109 - kept as the user typed it
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
            options={k: config[k] for k in ("examples", "tokens", "classes") if config.get(k)},
        )
        if fallback:
            client.notice("store.unwritable", fallback)
        when_imported("torch", self._instrument)

    def _instrument(self, torch: ModuleType) -> None:
        from ergometry.integrations.torch_hooks import instrument

        if self.client is not None:
            options = {k: self.config.get(k) for k in ("examples", "tokens", "classes")}
            instrument(torch, self.client, **options)

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
        if self.config.get("quiet"):
            return
        command = [sys.executable, "-P", "-m", "ergometry.report", str(self.folder)]
        if self.config.get("html"):
            command.append("--html")
        subprocess.run(command, stdout=2, env=self._environment, cwd="/", check=False)


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
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"erg: {text}\n")
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
    path = os.path.abspath(script)  # noqa: PTH100 - __file__ keeps the links that were typed, as Python's does
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module = _new_main(__file__=path, __cached__=None, __spec__=None, __loader__=loader, __package__=None)
    first_path = os.path.dirname(os.path.realpath(script))  # noqa: PTH120
    program = Program(_no_code, module, words, first_path)
    program.code = _compiled(Path(script).read_bytes(), path)
    return program


def _module_program(words: list[str]) -> Program:
    name = words[0]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    spec = _find(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__")
    code = None
    if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        try:
            code = spec.loader.get_code(spec.name)
        except SyntaxError:
            _show_exception(*sys.exc_info())
            sys.exit(1)
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
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _compiled(source: bytes, path: str) -> CodeType:
    try:
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        _show_exception(*sys.exc_info())
        sys.exit(1)
    return code


_no_code = compile("", "", "exec")
_own_main = sys.modules["__main__"]  # kept alive: its frames are below the script's until the end


def _run_code(program: Program, session: Session | None) -> None:
    sys.argv = program.argv
    if program.first_path and not sys.flags.safe_path:
        sys.path.insert(0, program.first_path)
    sys.modules["__main__"] = program.module
    try:
        exec(program.code, program.module.__dict__)
    except SystemExit as request:
        if session is not None and request.code not in (None, 0, False):
            session.status = "failed"
            session.exit_status = request.code if isinstance(request.code, int) else 1
        raise
    except BaseException as error:
        if session is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            session.status = "interrupted" if interrupted else "failed"
            session.exit_status = 130 if interrupted else 1
        _show_exception(type(error), error, error.__traceback__)
        # Shown already: let it travel on in silence, so that the interpreter ends as it would have.
        sys.excepthook = lambda *_: None
        raise


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Call the script's own exception hook, with our frames taken off the top."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (_THIS_FILE, "<frozen importlib._bootstrap>"):
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.excepthook(kind, error, trace)


def _run_command(words: list[str], session: Session | None) -> NoReturn:
    """Run a command as a child, measured as a process tree; end as it ended."""
    try:
        child = subprocess.Popen(words)
    except OSError as error:
        _say(str(ScriptNotFound(expected="a script or a command", got=str(error), remedy="check the first word")))
        if session is not None:
            session.status, session.exit_status = "failed", 127
        sys.exit(2)
    # The terminal sends Ctrl-C to both; the child decides. What comes by kill is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
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
    try:
        # The functions that run belong to this module, which stays alive below the script's __main__.
        main()
    except ErgError as problem:
        _say(str(problem))
        sys.exit(problem.exit_status)
