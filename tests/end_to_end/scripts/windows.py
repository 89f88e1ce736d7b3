"""Meters windows of its own work; imports no torch."""

import argparse
import json
import os
import statistics
import sys
import time

import ergometry as erg
from ergometry.core.errors import UsageError


def work(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def told(window):
    energy = window.energy
    return {
        "name": window.name,
        "t0_s": window.t0_s,
        "t1_s": window.t1_s,
        "duration_s": window.duration_s,
        "energy_j": energy.value,
        "stderr_j": energy.stderr,
        "power_w": window.power.value,
        "provenance": str(energy.provenance),
    }


def nested():
    with erg.measure("outer") as outer:
        work(0.3)
        with erg.measure("inner") as first:
            work(0.5)
        with erg.measure("inner") as second:
            work(0.1)
    return [told(window) for window in (outer, first, second)]


def raising():
    try:
        with erg.measure("raising") as window:
            work(0.2)
            raise ValueError("of the work")
    except ValueError as error:
        print(error)
    try:
        erg.measure("never begun").energy
    except UsageError as error:
        print(error)
    return [told(window)]


def forked():
    with erg.measure("around") as window:
        work(0.2)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            with erg.measure("of the child") as own:
                work(0.3)
            print(json.dumps({"child": told(own)}))
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    return [told(window)]


def many():
    took_s = []
    for _ in range(2000):
        begun = time.perf_counter()
        with erg.measure("many"):
            pass
        took_s.append(time.perf_counter() - begun)
    print("microseconds", 1e6 * statistics.median(took_s))
    return []


WAYS = {way.__name__: way for way in (nested, raising, forked, many)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    print(json.dumps(WAYS[parser.parse_args().way]()))
