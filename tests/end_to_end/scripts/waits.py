"""Works until a signal comes, as a training script does that a scheduler may stop; ``--on`` says what it does then."""

import argparse
import signal
import sys
import time


class Stopped(Exception):
    pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", choices=["default", "checkpoint", "raise", "ignore"], default="default")
    args = parser.parse_args()
    stop = []

    def handle(number, frame):
        if args.on == "raise":
            raise Stopped(signal.Signals(number).name)
        stop.append(number)

    if args.on != "default":
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, handle)
    deadline = time.monotonic() + 120
    try:
        print("ready", flush=True)
        while not stop and time.monotonic() < deadline:
            time.sleep(0.01)
    except KeyboardInterrupt:
        if args.on == "default":
            raise
        print("interrupted; saving a checkpoint")
        sys.exit(3)
    if args.on == "ignore":
        print("goes on")
        return
    print("stopped by", signal.Signals(stop[0]).name)
    sys.exit(5)


if __name__ == "__main__":
    main()
