"""Ends in the way that its argument names."""

import argparse
import atexit
import os
import signal
import sys
import threading
import time
import traceback
import warnings


class NoWords(Exception):
    def __str__(self):
        raise RuntimeError("no words for it")


class Farewell:
    def __init__(self, name):
        self.name = name

    def __del__(self):
        print("gone:", self.name)


def fails(depth=3):
    if depth == 0:
        raise ValueError("a value that is wrong")
    fails(depth - 1)


def raise_from():
    try:
        fails()
    except ValueError as error:
        raise RuntimeError("because of it") from error


def raise_during():
    try:
        fails()
    finally:
        {}["missing"]


def raise_group():
    raise ExceptionGroup("several", [ValueError(1), OSError(2, "no such file")])


def raise_noted():
    error = NoWords("with a note")
    error.add_note("this is the note")
    raise error


def limited():
    sys.tracebacklimit = 1
    fails()


def interrupt():
    raise KeyboardInterrupt


def interrupt_by_signal():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def handle_interrupt():
    try:
        interrupt_by_signal()
    except KeyboardInterrupt:
        print("saving a checkpoint")
        sys.exit(7)


def own_hook(then=lambda: None):
    def hook(kind, error, trace):
        print("hook:", kind.__name__, error, [entry.name for entry in traceback.extract_tb(trace)])
        print("last:", sys.last_type.__name__, sys.last_value is error, sys.last_traceback is trace)
        then()

    sys.excepthook = hook
    fails()


def no_hook():
    del sys.excepthook
    fails()


def in_thread(function):
    thread = threading.Thread(target=function, name="worker")
    thread.start()
    thread.join()
    print("main goes on")


def thread_outlives_main():
    ended = threading.Event()

    def work():
        threading.main_thread().join()
        print("worker ends after main")
        ended.set()

    atexit.register(lambda: print("at exit, the worker has ended:", ended.is_set()))
    threading.Thread(target=work, name="worker").start()
    sys.exit(4)


def exit_handlers():
    for name in "abc":
        atexit.register(print, "at exit:", name)
    atexit.register(fails)
    atexit.register(lambda: print("hook:", sys.excepthook is sys.__excepthook__, hasattr(sys, "last_value")))


def exit_handler_exits():
    atexit.register(sys.exit, 9)


def teardown():
    globals()["kept"] = Farewell("a module's name")
    atexit.register(lambda: print("at exit"))
    Farewell("a local")
    sys.exit(Farewell("an exit status"))


def no_stderr():
    sys.stderr = None
    fails()


def warn():
    warnings.warn("deprecated here", DeprecationWarning)
    fails()


def recurse():
    sys.setrecursionlimit(60)

    def deeper(n):
        return deeper(n + 1)

    try:
        deeper(0)
    except RecursionError as error:
        print(type(error).__name__)
    sys.exit(2)


WAYS = {
    "normally": lambda: None,
    "exit": sys.exit,
    "exit-0": lambda: sys.exit(0),
    "exit-3": lambda: sys.exit(3),
    "exit-256": lambda: sys.exit(256),
    "exit-minus-1": lambda: sys.exit(-1),
    "exit-true": lambda: sys.exit(True),
    "exit-words": lambda: sys.exit("some words"),
    "exit-tuple": lambda: sys.exit((1, 2)),
    "exit-in-thread": lambda: in_thread(lambda: sys.exit(3)),
    "exit-at-once": lambda: os._exit(5),
    "raise": fails,
    "raise-from": raise_from,
    "raise-during": raise_during,
    "raise-group": raise_group,
    "raise-noted": raise_noted,
    "raise-in-thread": lambda: in_thread(fails),
    "limited": limited,
    "interrupt": interrupt,
    "interrupt-by-signal": interrupt_by_signal,
    "handle-interrupt": handle_interrupt,
    "own-hook": own_hook,
    "own-hook-raises": lambda: own_hook(fails),
    "own-hook-exits": lambda: own_hook(lambda: sys.exit(6)),
    "no-hook": no_hook,
    "thread-outlives-main": thread_outlives_main,
    "exit-handlers": exit_handlers,
    "exit-handler-exits": exit_handler_exits,
    "teardown": teardown,
    "no-stderr": no_stderr,
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "abort": os.abort,
    "execute": lambda: os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(8)"]),
    "warn": warn,
    "recurse": recurse,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    print("begins")
    WAYS[parser.parse_args().way]()
    print("ends")
