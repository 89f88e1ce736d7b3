"""Forks, spawns, pickles, closes descriptors and changes folder, as its argument says; prints what came of it."""

import argparse
import concurrent.futures
import dataclasses
import enum
import functools
import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: float
    colour: Colour = Colour.RED

    def doubled(self):
        return Point(2 * self.x, self.colour)


def square(x):
    return x * x


def where_from(point):
    main = sys.modules["__main__"]
    return (
        point.doubled(),
        type(point).__module__,
        main.__name__,
        os.path.basename(main.__file__),
        "torch" in sys.modules,
    )


def fork():
    sys.stdout.flush()
    if os.fork() == 0:
        print("in the child")
        sys.exit(3)
    print("status", os.waitstatus_to_exitcode(os.wait()[1]))
    child = os.fork()
    if child == 0:
        raise ValueError("of the child")
    print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        print("no other child was ever there")


def children():
    code = "import os, sys; print(sys.argv, 'ergometry' in sys.modules); sys.exit(4)"
    done = subprocess.run([sys.executable, "-c", code, "a"], capture_output=True, text=True, check=False)
    print(done)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        print(cat.communicate(b"through a pipe"))
    print(os.system("exit 5"), os.popen("echo popen").read())


def with_method(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        print(pool.map(square, range(5)), pool.map(where_from, [Point(1.0)]))
    queue = context.SimpleQueue()
    process = context.Process(target=queue.put, args=(Point(3.0),))
    process.start()
    print(queue.get())
    process.join()
    print("status", process.exitcode)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        print(executor.submit(where_from, Point(2.0)).result())
    failing = context.Process(target=sys.exit, args=(6,))
    failing.start()
    failing.join()
    print("status", failing.exitcode)


def descriptors():
    os.closerange(3, 256)
    files = [tempfile.TemporaryFile("w+") for _ in range(8)]
    print(sorted(file.fileno() for file in files))
    for n, file in enumerate(files):
        file.write(str(n))
    read, write = os.pipe()
    os.write(write, b"piped")
    os.close(write)
    print(os.read(read, 10), os.read(read, 10))
    for file in files:
        file.seek(0)
    print([file.read() for file in files])


def folders():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("here.txt", "w") as file:
            file.write("written here")
        print(os.listdir("."), os.path.isabs(__file__), os.path.exists(__file__))
    try:
        os.getcwd()
    except FileNotFoundError:
        print("the working folder is gone")


def pickles():
    things = [Point(1.0), Colour.RED, square, Point.doubled, functools.partial(square, 2), Point]
    for thing in things:
        back = pickle.loads(pickle.dumps(thing))
        print(back == thing or type(back).__name__, type(thing).__module__)
    data = pickle.dumps(Point(5.0))
    thread = threading.Thread(target=lambda: print("in a thread", pickle.loads(data)))
    thread.start()
    thread.join()
    import atexit

    atexit.register(lambda: print("at exit", pickle.loads(pickle.dumps(Point(6.0)))))


def probe():
    for name in ("torch", "numpy", "nothing_of_this_name"):
        print(name, importlib.util.find_spec(name) is not None, importlib.util.find_spec(name) is not None)
    print("numpy" in sys.modules, "torch" in sys.modules)
    import torch

    spec = torch.__spec__
    print(spec.name, type(spec.loader).__name__, vars(spec.loader), torch.__loader__ is spec.loader)
    print([finder if isinstance(finder, type) else type(finder) for finder in sys.meta_path])
    print(importlib.util.find_spec("torch") is spec)


WAYS = {
    "fork": fork,
    "children": children,
    "descriptors": descriptors,
    "folders": folders,
    "pickles": pickles,
    "probe": probe,
    **{method: functools.partial(with_method, method) for method in ("spawn", "forkserver")},
    "fork-pool": functools.partial(with_method, "fork"),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", choices=WAYS, nargs="+")
    for way in parser.parse_args().ways:
        print("==", way)
        WAYS[way]()
