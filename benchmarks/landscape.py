"""What it costs to look at a landscape: time and peak memory of each quantity, by the number of parameters.

The model is a perceptron of three equal layers with a batch of 64 examples in 10 classes, float32. Time is that of one
core, and is also given in gradients (a forward and a backward of the same batch), which carries over to other models.
Memory is the rise of the process's resident peak while the quantity is taken, the graphs kept included. Each runs in
a process of its own, forked from one that took all of them once on a tiny model: what torch imports when it is first
asked is no part of it. Half a minute of processor time; ``python -m benchmarks.landscape 1e7`` takes other sizes.

Last, ½logdet by stochastic Lanczos at N = 1e7 with 64 examples, against an exact referee that shares no code with it:
the Gram matrix of the outputs' gradients is Σ over layers (a·a' + 1)(δ·δ'), a what goes into a layer and δ the gradient
by what comes out, and has F's non-zero eigenvalues.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

SIZES = (100_000, 1_000_000)
EXAMPLES, CLASSES, PRECISION = 64, 10, 1.0
LARGE, LARGE_EXAMPLES = 10_000_000, 64


def build(size: int, examples: int = EXAMPLES) -> tuple[Any, Any, Any]:
    """Return a model of about so many parameters, inputs and labels."""
    import torch

    width = int(math.sqrt(size / 3))
    torch.manual_seed(0)
    parts: list[Any] = []
    for _ in range(3):
        parts += [torch.nn.Linear(width, width), torch.nn.Tanh()]
    model = torch.nn.Sequential(*parts, torch.nn.Linear(width, CLASSES))
    return model, torch.randn(examples, width), torch.randint(CLASSES, (examples,))


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
    error = ""
    if said and not isinstance(found, dict):
        error = f"≤ {last.value:.4g}" if math.isnan(last.stderr) else f"{last.value:.4g} ± {last.stderr:.2g}"
    return {"s": seconds, "gradient_s": gradient, "bytes": peak[0] - before, "method": said, "value": error}


def gram(model: Any, x: Any) -> Any:
    """Return the Gram matrix (n·C, n·C) of the outputs' gradients, each in the root of its Fisher metric, float64."""
    import torch

    layers, a, entering, slopes = [m for m in model if isinstance(m, torch.nn.Linear)], x.double(), [], []
    for layer in layers:
        entering.append(a)
        z = torch.nn.functional.linear(a, layer.weight.detach().double(), layer.bias.detach().double())
        a = torch.tanh(z)
        slopes.append(1.0 - a.square())
    p = torch.softmax(z, -1)
    root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]  # S, (n, outputs, rows)
    classes, delta = p.shape[1], root.transpose(1, 2).reshape(p.numel(), -1)
    matrix = torch.zeros(p.numel(), p.numel(), dtype=torch.float64)
    for i in reversed(range(len(layers))):
        rows = entering[i].repeat_interleave(classes, 0)
        matrix += (rows @ rows.T + 1.0) * (delta @ delta.T)
        if i:
            delta = (delta @ layers[i].weight.detach().double()) * slopes[i - 1].repeat_interleave(classes, 0)
    return matrix


def large() -> dict[str, Any]:
    """Take ½logdet by stochastic Lanczos at N = 1e7 in this process; return what it cost and the exact value."""
    import torch

    from ergometry.landscape.fisher import fisher
    from ergometry.landscape.information import information

    model, x, _ = build(LARGE, LARGE_EXAMPLES)
    names, parameters = [n for n, _ in model.named_parameters()], list(model.parameters())

    def outputs(p: Any) -> Any:
        return torch.func.functional_call(model, dict(zip(names, p, strict=True)), (x,))

    before = _resident()
    seconds, found = _timed(lambda: information(fisher(outputs, parameters), PRECISION, method="lanczos"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    exact_s, values = _timed(lambda: torch.linalg.eigvalsh(gram(model, x)))
    exact = 0.5 * float(torch.log1p(values.clamp(min=0.0) / PRECISION).sum())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "rows": len(values),
        "nat": found.value,
        "stderr": found.stderr,
        "method": found.method,
        "exact": exact,
        "s": seconds,
        "exact_s": exact_s,
        "bytes": peak - before,
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _forked(take: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what a call gives in a process forked from this one, whose memory is then its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(take, *arguments).result()


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print a table for each size."""
    import torch

    torch.set_num_threads(1)
    for take in quantities(1000).values():
        take()
    for size in sizes:
        print(f"\nN = {size:.0e}, {EXAMPLES} examples, {CLASSES} classes: gradient of the batch, then")
        print(f"{'quantity':<26}{'s':>9}{'gradients':>11}{'MiB':>8}{'× N':>6}  value, method")
        for name in quantities(1000):
            row = _forked(measure, name, size)
            print(
                f"{name:<26}{row['s']:9.3f}{row['s'] / row['gradient_s']:11.0f}{row['bytes'] / 2**20:8.0f}"
                f"{row['bytes'] / 4 / size:6.1f}  {row['value']} {row['method']}",
                flush=True,
            )
    row = _forked(large)
    print(
        f"\n½logdet at N = {row['parameters']:.3g} with {row['rows']} rows: {row['nat']:.1f} ± {row['stderr']:.1f} nat"
    )
    print(f"{row['method']}: {row['s']:.1f} s of one core, {row['bytes'] / 2**20:.0f} MiB beside the model")
    off = (row["nat"] - row["exact"]) / row["stderr"]
    print(f"exact, by layers: {row['exact']:.1f} nat, {off:+.2f} standard errors away, {row['exact_s']:.1f} s")


if __name__ == "__main__":
    main(tuple(int(float(size)) for size in sys.argv[1:]) or SIZES)
