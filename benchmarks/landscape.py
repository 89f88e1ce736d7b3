"""What it costs to look at a landscape: time and peak memory of each quantity, by the number of parameters.

The model is a perceptron of three equal layers with a batch of 64 examples in 10 classes, float32. Time is that of one
core, and is also given in gradients (a forward and a backward of the same batch), which carries over to other models.
Memory is the rise of the process's resident peak while the quantity is taken, the graphs kept included. Each runs in
a process of its own, after once on a tiny model (what torch imports when it is first asked is no part of it).
``python -m benchmarks.landscape 1e7`` takes other sizes.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (100_000, 1_000_000)
EXAMPLES, CLASSES, PRECISION = 64, 10, 1.0


def build(size: int) -> tuple[Any, Any, Any]:
    """Return a model of about so many parameters, inputs and labels."""
    import torch

    width = int(math.sqrt(size / 3))
    torch.manual_seed(0)
    parts: list[Any] = []
    for _ in range(3):
        parts += [torch.nn.Linear(width, width), torch.nn.Tanh()]
    model = torch.nn.Sequential(*parts, torch.nn.Linear(width, CLASSES))
    return model, torch.randn(EXAMPLES, width), torch.randint(CLASSES, (EXAMPLES,))


def quantities(size: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name."""
    import torch

    from ergometry.landscape.examples import example_gradients
    from ergometry.landscape.fisher import fisher
    from ergometry.landscape.information import Effort, information, information_by_group, module_groups
    from ergometry.landscape.lanczos import largest_eigenvalue
    from ergometry.landscape.learning_coefficient import Sampler, learning_coefficient
    from ergometry.landscape.point import gradient
    from ergometry.landscape.products import hessian
    from ergometry.landscape.trace import noise_trace, trace

    model, x, y = build(size)
    names, parameters = [n for n, _ in model.named_parameters()], list(model.parameters())
    layers, groups = dict(model.named_modules()), module_groups(names, parameters)

    def outputs(p: Any, inputs: Any = x) -> Any:
        return torch.func.functional_call(model, dict(zip(names, p, strict=True)), (inputs,))

    def losses(p: Any) -> Any:
        return torch.nn.functional.cross_entropy(outputs(p), y, reduction="none")

    def loss(p: Any) -> Any:
        return losses(p).mean()

    def example(p: Any, one: Any, label: Any) -> Any:
        return torch.nn.functional.cross_entropy(outputs(p, one[None]), label[None])

    def of_fisher(take: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: take(fisher(outputs, parameters))

    return {
        "one gradient": lambda: gradient(loss, parameters),
        "GᵀHG": lambda: hessian(loss, parameters),
        "GᵀHG by differences": lambda: hessian(loss, parameters, how="differences"),
        "λ_max to 1 %": lambda: largest_eigenvalue(hessian(loss, parameters), tolerance=1e-2),
        "trH, 10 probes": lambda: trace(hessian(loss, parameters)),
        "tr(HΣ), 10 probes": lambda: noise_trace(hessian(loss, parameters), losses, parameters),
        "gradients of 64 examples": lambda: example_gradients(example, parameters, [x, y]),
        "I exact, Gram matrix": of_fisher(lambda f: information(f, PRECISION, method="exact")),
        "I Lanczos, 10 probes": of_fisher(lambda f: information(f, PRECISION, method="lanczos")),
        "I EKFAC": of_fisher(lambda f: information(f, PRECISION, method="kronecker", groups=groups, layers=layers)),
        "I diagonal, 32 passes": of_fisher(
            lambda f: information(f, PRECISION, method="diagonal", effort=Effort(products=32))
        ),
        "I by module": of_fisher(lambda f: information_by_group(f, PRECISION, groups, layers=layers)),
        "SGLD, 2 chains of 20": lambda: learning_coefficient(
            [loss], parameters, examples=EXAMPLES, sampler=Sampler(1e-4, 1.0, burn_in=10, draws=10, chains=2)
        ),
    }


def measure(name: str, size: int) -> dict[str, Any]:
    """Take one quantity in this process; return seconds, those of one gradient, peak bytes and what was said."""
    import torch

    torch.set_num_threads(1)
    quantities(1000)[name]()
    take = quantities(size)
    gradient = min(_timed(take["one gradient"])[0] for _ in range(3))
    before = _resident()
    peak = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, found = _timed(take[name])
    done.set()
    watcher.join()
    last = found[0] if isinstance(found, tuple) else found
    said = getattr(last, "method", "")
    if isinstance(found, dict):
        said = " + ".join(sorted({r.method for r in found.values()}))
    error = f"{last.value:.4g} ± {last.stderr:.2g}" if said and not isinstance(found, dict) else ""
    return {"s": seconds, "gradient_s": gradient, "bytes": peak[0] - before, "method": said, "value": error}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print a table for each size."""
    for size in sizes:
        print(f"\nN = {size:.0e}, {EXAMPLES} examples, {CLASSES} classes: gradient of the batch, then")
        print(f"{'quantity':<26}{'s':>9}{'gradients':>11}{'MiB':>8}{'× N':>6}  value, method")
        for name in quantities(1000):
            run = [sys.executable, "-m", "benchmarks.landscape", "--one", name, str(size)]
            done = subprocess.run(run, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:<26}{row['s']:9.3f}{row['s'] / row['gradient_s']:11.0f}{row['bytes'] / 2**20:8.0f}"
                f"{row['bytes'] / 4 / size:6.1f}  {row['value']} {row['method']}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(tuple(int(float(size)) for size in sys.argv[1:]) or SIZES)
