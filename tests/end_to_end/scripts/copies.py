"""Keeps copies of the model: deep ones, pickled ones, an exponential average, each evaluated beside it."""

import copy
import io
import pickle

import torch
from saving import save
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 2))

    def forward(self, x):
        return self.layers(x)


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@torch.no_grad()
def evaluate(name, model):
    was = model.training
    model.eval()
    x = torch.linspace(-1, 1, 24).reshape(6, 4)
    print(name, model(x).sum().item())
    model.train(was)


def main():
    torch.manual_seed(0)
    model = Network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best = None
    for step in range(8):
        x = torch.randn(6, 4)
        loss = nn.functional.mse_loss(model(x), x[:, :2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        print(f"step {step} loss {loss.item()!r} examples 6")
        if step in (3, 7):
            evaluate("average", average)
            for name, again in (
                ("deep copy", copy.deepcopy(model)),
                ("pickle", pickle.loads(pickle.dumps(model))),
                ("saved", through_a_file(model)),
            ):
                evaluate(name, again)
                print(name, vars(again).keys() == vars(model).keys(), type(again) is Network)
            best = copy.deepcopy(model.state_dict())
    # A copy goes on by itself, and an optimizer that was copied with it.
    twin, optimizer_of_twin = copy.deepcopy((model, optimizer))
    loss = twin(x).square().mean()
    loss.backward()
    optimizer_of_twin.step()
    print(f"step 8 loss {loss.item()!r} examples 6")
    print([name for name in vars(nn.Module) if name.startswith("__call")], nn.Module.__call__.__name__)
    save(model=model, average=average, optimizer=optimizer, twin=twin, best=best)


if __name__ == "__main__":
    main()
