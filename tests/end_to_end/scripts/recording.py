"""Records parts of its own training, as its argument says; prints where the runs are."""

import argparse
import contextlib
import json
import os
import sys

import torch
from saving import save
from torch import nn

import ergometry as erg
from ergometry.core.errors import ErgError


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    return model, torch.optim.Adam(model.parameters(), lr=1e-2)


def steps(model, optimizer, n):
    for _ in range(n):
        loss = nn.functional.mse_loss(model(torch.randn(6, 5)), torch.zeros(6, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def whole(recorded=True):
    """Train before, within and after a recording."""
    model, optimizer = make()
    call, backward = nn.Module.__call__, torch.Tensor.backward
    steps(model, optimizer, 2)
    with erg.record(model, optimizer, name="part", tags=["a"]) if recorded else contextlib.nullcontext() as run:
        steps(model, optimizer, 5)
        if recorded:
            assert nn.Module.__call__ is not call
            with erg.measure("within"):
                steps(model, optimizer, 1)
            print("steps so far", len(run.run().tables["steps"]))
        else:
            steps(model, optimizer, 1)
    assert (nn.Module.__call__, torch.Tensor.backward) == (call, backward)
    steps(model, optimizer, 3)
    save(model=model, optimizer=optimizer)
    return [run] if recorded else []


def plainly():
    return whole(recorded=False)


def one_of_two():
    """Record one optimizer only, where two train in turns."""
    (first, of_first), (second, of_second) = make(0), make(1)
    with erg.record(first, of_first) as run:
        for _ in range(4):
            steps(first, of_first, 1)
            steps(second, of_second, 1)
    return [run]


def several():
    """Record twice, one after the other, and one within the other."""
    model, optimizer = make()
    with erg.record(model, optimizer) as first:
        steps(model, optimizer, 2)
        with erg.record(model) as within:
            steps(model, optimizer, 2)
        steps(model, optimizer, 1)
    with erg.measure("between"):
        pass
    with erg.record([model], [optimizer]) as second:
        steps(model, optimizer, 3)
    return [first, within, second]


def raising():
    """Raise in recordings."""
    model, optimizer = make()
    runs = []
    for kind in (ValueError, KeyboardInterrupt, SystemExit):
        try:
            with erg.record(model, optimizer) as run:
                runs.append(run)
                steps(model, optimizer, 2)
                raise kind("of the training")
        except kind as error:
            print(type(error).__name__, error)
    return runs


def forked():
    """Fork inside a recording; the child trains too, and leaves by the same way."""
    model, optimizer = make()
    child = None
    with erg.record(model, optimizer) as run:
        steps(model, optimizer, 2)
        child = os.fork()
        steps(model, optimizer, 3 if child else 7)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    if child == 0:
        sys.exit(4)
    return [run]


def refused():
    """Record where nothing can be written: the training goes on."""
    model, optimizer = make()
    with erg.record(model, optimizer, store="a-file/store") as run:
        steps(model, optimizer, 2)
    try:
        run.summary()
    except ErgError as error:
        print(type(error).__name__)
    return []


def compiler_comes_late():
    """Make the optimizer, and with it the compiler, only inside the recording."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    assert "torch._dynamo" not in sys.modules
    with erg.record(model) as run:
        steps(model, torch.optim.Adam(model.parameters()), 2)
        assert "torch._dynamo.utils" in sys.modules
    assert torch._dynamo.utils.unpatched_nn_module_call is nn.Module.__call__
    return [run]


def criterion(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def owned(recorded=True):
    """Have the recording call the loss, with everything that it can take of it."""
    model, optimizer = make()
    probe = {"x": torch.ones(4, 5), "y": torch.tensor([0, 1, 0, 1])}
    recording = erg.record(model, optimizer, physics="full", physics_every=1, loss=criterion, probe=probe)
    with recording if recorded else contextlib.nullcontext():
        for _ in range(4):
            loss = recording.loss({"x": torch.randn(6, 5), "y": torch.randint(2, (6,))})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print("after", recording.loss(probe).shape)
    save(model=model, optimizer=optimizer)
    return [recording] if recorded else []


def owned_plainly():
    return owned(recorded=False)


def left_open():
    """End the process inside a recording."""
    model, optimizer = make()
    run = erg.record(model, optimizer).__enter__()
    steps(model, optimizer, 2)
    return [run]


WAYS = {way.__name__: way for way in (whole, plainly, one_of_two, several, raising, forked, refused)}
WAYS |= {way.__name__: way for way in (compiler_comes_late, left_open, owned, owned_plainly)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ways", nargs="+", choices=WAYS)
    open("a-file", "w").close()
    for way in parser.parse_args().ways:
        print("way", way)
        runs = WAYS[way]()
        print(json.dumps([str(run.path) for run in runs]))
        for run in runs:
            assert run.summary()["schema"] == "ergometry.run/1"
