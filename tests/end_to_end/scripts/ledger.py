"""Trains with one kind of optimizer, and computes for each step what its gradients and moves were, exactly.

Data come as slowly as from a busy disk, so that there is time to follow every step.
"""

import argparse
import time

import torch
from saving import save
from torch import nn


def snapshot(parameters):
    return [p.detach().clone() for p in parameters]


def products(gradients, moves):
    """Return |g|² and −g·Δθ."""
    pairs = [(g.double(), d) for g, d in zip(gradients, moves)]
    return sum((g * g).sum() for g, _ in pairs).item(), -sum((g * d).sum() for g, d in pairs).item()


def told(step, gradients, before, parameters, given=None):
    """Print |g|², |Δθ|² and −g·Δθ of a step, of the loss's own gradients and of those given to the optimizer."""
    moves = [(p.detach() - old).double() for old, p in zip(before, parameters)]
    move_sq = sum((d * d).sum() for d in moves).item()
    gradient_sq, work = products(gradients, moves)
    given_sq, given_work = products(given or gradients, moves)
    print(
        f"step {step} grad_sq {gradient_sq!r} dtheta_sq {move_sq!r} work {work!r} "
        f"given_grad_sq {given_sq!r} given_dtheta_sq {move_sq!r} given_work {given_work!r}"
    )


class Training:
    def __init__(self, width, io):
        self.io, self.step = io, 0
        self.model = nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 5)
        self.parameters = [*self.model.parameters(), *self.head.parameters()]

    def batch(self):
        time.sleep(self.io)
        return torch.randn(16, 20), torch.randint(0, 5, (16,))

    def loss(self):
        x, y = self.batch()
        return nn.functional.cross_entropy(self.head(self.model(x)), y)

    def gradients(self, scale=1.0):
        return [p.grad.clone() / scale for p in self.parameters]

    def follow(self, move, scale=1.0, unclipped=None):
        """Make a step from the gradients as they are, and tell of it."""
        given = self.gradients(scale)
        before = snapshot(self.parameters)
        move()
        told(self.step, unclipped or given, before, self.parameters, given)
        self.step += 1

    def plain(self, optimizer):
        optimizer.zero_grad()
        self.loss().backward()
        unclipped = self.gradients()
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.follow(optimizer.step, unclipped=unclipped)

    def scaled(self, optimizer, scaler):
        optimizer.zero_grad()
        scaler.scale(self.loss()).backward()
        self.follow(lambda: scaler.step(optimizer), scale=scaler.get_scale())
        scaler.update()

    def together(self, optimizers):
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.loss().backward()
        self.follow(lambda: [optimizer.step() for optimizer in optimizers])

    def by_closure(self, optimizer):
        x, y = self.batch()
        first = []

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.head(self.model(x)), y)
            loss.backward()
            if not first:
                first.extend(p.grad.clone() for p in self.parameters)
            return loss

        before = snapshot(self.parameters)
        optimizer.step(closure)
        told(self.step, first, before, self.parameters)
        self.step += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--io", type=float, default=0.1)
    parser.add_argument("--only", choices=["plain"], default=None)
    args = parser.parse_args()
    torch.manual_seed(0)
    training = Training(args.width, args.io)
    parameters = training.parameters
    adam = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    for _ in range(args.steps):
        training.plain(adam)
    if not args.only:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        fused = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)
        for _ in range(args.steps):
            training.scaled(fused, scaler)
        both = [torch.optim.Adam(training.model.parameters()), torch.optim.SGD(training.head.parameters(), lr=0.1)]
        for _ in range(args.steps):
            training.together(both)
        newton = torch.optim.LBFGS(parameters, max_iter=3)
        for _ in range(args.steps):
            training.by_closure(newton)
    save(model=training.model, head=training.head, optimizer=adam)


if __name__ == "__main__":
    main()
