"""Goes on training after steps that ran out of memory, or whose loss was NaN."""

import torch
from saving import save
from torch import nn


class Greedy(nn.Module):
    """A network that runs out of memory on large batches, where it is told to."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
        self.fails_in = ""

    def forward(self, x):
        hidden = self.layers[0](x)
        if self.fails_in == "forward":
            raise torch.OutOfMemoryError("simulated, in forward")
        if self.fails_in == "backward":
            hidden.register_hook(self.fail)
        return self.layers[1:](hidden)

    def fail(self, gradient):
        raise torch.OutOfMemoryError("simulated, in backward")


class Failing(torch.optim.SGD):
    fails = False

    def step(self, closure=None):
        if self.fails:
            raise torch.OutOfMemoryError("simulated, in the optimizer")
        return super().step(closure)


def main():
    torch.manual_seed(0)
    model = Greedy()
    optimizer = Failing(model.parameters(), lr=0.05, momentum=0.9)
    troubles = {3: "forward", 6: "backward", 9: "optimizer", 12: "nan", 14: "interrupt"}
    step = 0
    for turn in range(16):
        trouble = troubles.get(turn, "")
        model.fails_in, optimizer.fails = trouble, trouble == "optimizer"
        x, y = torch.randn(8, 6), torch.randn(8, 2)
        optimizer.zero_grad()
        try:
            loss = nn.functional.mse_loss(model(x), y)
            if trouble == "interrupt":
                raise KeyboardInterrupt
            if trouble == "nan":
                (loss * torch.nan).backward()
                optimizer.zero_grad()
            else:
                loss.backward()
            optimizer.step()
        except (torch.OutOfMemoryError, KeyboardInterrupt) as error:
            print("caught", type(error).__name__, error)
            continue
        print(f"step {step} loss {'nan' if trouble == 'nan' else repr(loss.item())}")
        step += 1
    save(model=model, optimizer=optimizer)


if __name__ == "__main__":
    main()
