"""Trains in ways that few do: functional calls, per-example gradients, penalties, threads, wrappers, hooks, scripts."""

import tempfile
import threading

import torch
import torch.distributed
from saving import save
from torch import nn


class Counter:
    def __init__(self):
        self.n = 0

    def step(self, loss, **more):
        words = "".join(f" {key} {value!r}" for key, value in more.items())
        print(f"step {self.n} loss {loss!r}{words}")
        self.n += 1


def network():
    return nn.Sequential(nn.Linear(5, 10), nn.Tanh(), nn.Dropout(0.1), nn.Linear(10, 1))


def gradient_penalty(counter):
    """A second derivative through a first one."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        x = torch.randn(6, 5, requires_grad=True)
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        loss = out.square().mean() + (slope.norm(dim=1) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counter.step(loss.item(), examples=6)
    return model


def two_losses(counter):
    """One graph, two backwards, the second by torch.autograd.backward."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(3):
        out = model(torch.randn(6, 5))
        first, second = out.square().mean(), out.abs().mean()
        optimizer.zero_grad()
        first.backward(retain_graph=True)
        torch.autograd.backward([second])
        optimizer.step()
        counter.step(first.item() + second.item(), examples=6, backwards=2)
    return model


def hooks(counter):
    """Hooks of the user's, on modules, tensors and the optimizer."""
    seen = []
    model = network()
    model[0].register_forward_hook(lambda module, args, out: seen.append("forward"))
    model[3].register_full_backward_hook(lambda module, inner, outer: seen.append("backward"))
    model.register_forward_pre_hook(lambda module, args: (args[0] * 1.0,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer.register_step_post_hook(lambda *args: seen.append("step"))
    for _ in range(3):
        loss = model(torch.randn(6, 5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counter.step(loss.item(), examples=6)
    print(seen)
    return model


def in_a_thread(counter):
    """Trains beside a thread that evaluates another model over and over."""
    done, ready = threading.Event(), threading.Event()
    other, sums = network().eval(), set()

    def evaluate():
        with torch.no_grad():
            while not done.is_set():
                sums.add(other(torch.ones(3, 5)).sum().item())
                ready.set()

    thread = threading.Thread(target=evaluate)
    thread.start()
    ready.wait()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    trainer = threading.Thread(target=loop, args=(model, optimizer, counter, 3))
    trainer.start()
    trainer.join()
    done.set()
    thread.join()
    print(sums)
    return model


def loop(model, optimizer, counter, steps):
    for _ in range(steps):
        loss = model(torch.randn(6, 5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counter.step(loss.item())


def functional(counter):
    """Gradients by transformations, per example too; the optimizer alone is torch's own."""
    model = nn.Sequential(nn.Linear(5, 10), nn.Tanh(), nn.Linear(10, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    parameters = dict(model.named_parameters())

    def loss_of(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().mean()

    for _ in range(2):
        x = torch.randn(6, 5)
        per_example = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0))(parameters, x)
        for name, p in parameters.items():
            p.grad = per_example[name].mean(0)
        optimizer.step()
        counter.step(float("nan"))
    return model


def scripted(counter):
    """TorchScript, and a parametrised weight."""
    model = network()
    nn.utils.parametrizations.weight_norm(model[0])
    whole = nn.ModuleList([model, torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1))])
    optimizer = torch.optim.SGD(whole.parameters(), lr=1e-2)
    for _ in range(3):
        loss = whole[1](whole[0](torch.randn(6, 5))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counter.step(loss.item(), examples=6)
    return model


def distributed(counter):
    """Data parallel over gloo, with one rank; gradients are exchanged at every second backward."""
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        model = nn.parallel.DistributedDataParallel(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            with model.no_sync():
                first = model(torch.randn(6, 5)).square().mean()
                first.backward()
            second = model(torch.randn(6, 5)).square().mean()
            second.backward()
            optimizer.step()
            counter.step(first.item() + second.item(), examples=12, backwards=2)
        torch.distributed.destroy_process_group()
    return model.module


class LookAhead(torch.optim.Optimizer):
    """Steps another optimizer within its own step, and goes half of the way it went."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        loss = self.inner.step(closure)
        with torch.no_grad():
            for old, p in zip(before, (p for group in self.param_groups for p in group["params"])):
                p.lerp_(old, 0.5)
        return loss


def nested_optimizers(counter):
    """An optimizer within an optimizer, with and without a closure."""
    model = network()
    optimizer = LookAhead(torch.optim.Adam(model.parameters(), lr=1e-2))

    def closure():
        optimizer.zero_grad()
        loss = model(torch.randn(6, 5)).square().mean()
        loss.backward()
        return loss

    for k in range(4):
        if k % 2:
            loss = optimizer.step(closure)
        else:
            loss = closure()
            optimizer.step()
        counter.step(loss.item(), examples=6)
    return model


def main():
    torch.manual_seed(0)
    counter = Counter()
    ways = (gradient_penalty, two_losses, hooks, in_a_thread, functional, scripted)
    ways += (distributed, nested_optimizers)
    save(**{way.__name__: way(counter) for way in ways})


if __name__ == "__main__":
    main()
