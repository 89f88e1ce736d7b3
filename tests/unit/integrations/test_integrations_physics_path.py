"""The tap of path cost against brute force over stored trajectories, in float64."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ergometry.core.series import PATH
from ergometry.equations.work_loss import least_path_cost, path_cost
from ergometry.estimators.path_cost import read_path
from ergometry.integrations.physics import path as path_module
from ergometry.integrations.physics.path import Path
from support.checkpoints import watched
from support.tapped import Training
from support.told import table, told

KINDS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_square(out: torch.Tensor) -> torch.Tensor:
    return (out - 1.0).square().sum(-1).mean()


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


class Trajectory:
    """A training of which every Δθ and η is kept, as (K, N)."""

    def __init__(self, kind=Path, every=1, **site):
        self.training = Training(kind, every, **site)
        self.moves: list[torch.Tensor] = []
        self.rates: list[torch.Tensor] = []
        self._step = 0

    def step(self, model, optimizer, loss=mean_square) -> None:
        self.training.backward(model, data(5, self._step), loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        before = flat(parameters)
        rates = [
            torch.full((p.numel(),), g["lr"], dtype=torch.float64) for g in optimizer.param_groups for p in g["params"]
        ]
        self.rates.append(torch.cat(rates))
        self.training.optimize(optimizer)
        self.moves.append(flat(parameters) - before)
        self._step += 1

    def sums(self, since: int = 0) -> tuple[float, float]:
        moves, rates = (torch.stack(rows[since:]).numpy() for rows in (self.moves, self.rates))
        return float(path_cost(moves, rates)), float(least_path_cost(moves, rates))


def read(rows, **meta):
    columns = {name: [row[name] for row in rows] for name in PATH.columns}
    return read_path(told((PATH, table(PATH, len(rows), **columns)), meta=meta))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(sorted(KINDS)),
    schedule=st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0]), min_size=2, max_size=9),
    split=st.booleans(),
)
def test_looked_at_every_step_it_is_brute_force_over_the_trajectory_and_the_inequality_holds(
    seed, kind, schedule, split
):
    model, one = network(seed), Trajectory()
    parameters = list(model.parameters())
    optimizer = KINDS[kind]([{"params": parameters[:2]}, {"params": parameters[2:]}] if split else parameters)
    first = [group["lr"] for group in optimizer.param_groups]
    for factor in schedule:
        for g, group in enumerate(optimizer.param_groups):
            group["lr"] = first[g] * factor / (1 + g)
        one.step(model, optimizer)
        cost, least = one.sums()
        row = one.training.rows()[-1]
        assert row["cost"] == pytest.approx(cost, rel=1e-12) and row["coarse_cost"] == pytest.approx(cost, rel=1e-12)
        assert row["least_cost"] == pytest.approx(least, rel=1e-12)
        assert row["least_cost"] <= row["cost"] * (1 + 1e-12)
        assert row["cost_stderr"] == row["least_cost_stderr"] == row["optimality_stderr"] == 0.0
    assert [row["steps"] for row in one.training.rows()] == list(range(1, len(schedule) + 1))
    found = read(one.training.rows())
    assert found.cost.value == pytest.approx(cost, rel=1e-12) and found.least.value == pytest.approx(least, rel=1e-12)
    if any(schedule):
        assert 0.0 <= found.optimality.value <= 1.0 + 1e-12 and found.optimality.stderr == 0.0
        assert found.optimality.value == pytest.approx(least / cost, rel=1e-12)
    else:
        assert found.optimality.value is None and "did not move" in found.optimality.why


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("every", [2, 5])
def test_between_looks_the_coarse_path_costs_no_less_than_the_least_and_no_more_than_the_true(kind, every):
    model, one = network(3), Trajectory(every=every)
    optimizer = KINDS[kind](model.parameters())
    for step in range(41):
        optimizer.param_groups[0]["lr"] *= 0.0 if step == 17 else 0.97
        if step == 18:
            optimizer.param_groups[0]["lr"] = 0.03
        one.step(model, optimizer)
    rows = one.training.rows()
    cost, least = one.sums()
    for row in rows:
        assert row["least_cost"] <= row["coarse_cost"] * (1 + 1e-12)
    assert rows[-1]["steps"] == 41 and len(rows) == 1 + 40 // every
    assert rows[-1]["least_cost"] == pytest.approx(least, rel=1e-12)  # the ends and Ση are known whatever was looked at
    moves, rates = torch.stack(one.moves).numpy(), torch.stack(one.rates).numpy()
    cuts = sorted({c for k in range(0, 41, every) for c in (k, k + 1)} - {41})
    coarse = path_cost(np.add.reduceat(moves, cuts), np.add.reduceat(rates, cuts))
    assert rows[-1]["coarse_cost"] == pytest.approx(float(coarse), rel=1e-12)
    assert rows[-1]["coarse_cost"] <= cost * (1 + 1e-12)
    assert 0.5 * cost < rows[-1]["cost"] < 2.0 * cost
    found = read(rows)
    assert 0.0 <= found.optimality.value <= 1.0
    assert f"from {len(rows)} of 41 steps" in found.optimality.why
    if rows[-1]["cost"] < coarse * (1 - 1e-12):  # of a path that is nearly straight
        assert found.optimality.value == pytest.approx(least / float(coarse)) and "from above" in found.optimality.why
    else:
        assert f"at most {least / float(coarse):.3g}" in found.optimality.why
    if every == 2:  # gaps of one step are steps
        assert rows[-1]["cost"] == pytest.approx(cost, rel=1e-12)


class Walk(nn.Module):
    """A loss whose gradient is noise: θ walks at random."""

    def __init__(self, n: int, dtype=torch.float64) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(n, dtype=dtype))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return (noise * self.theta).sum()


def walked(n, steps, every, seed=0, dtype=torch.float64):
    model, training = Walk(n, dtype), Training(Path, every)
    training.tap._stream.seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise, cost = torch.Generator().manual_seed(seed), 0.0
    for _ in range(steps):
        g = torch.randn(n, generator=noise, dtype=dtype)
        cost += 0.1 * float(g.double() @ g.double())
        training.backward(model, g, lambda out: out, examples=1)
        training.optimize(optimizer)
    return training.rows(), cost, float(model.theta.detach().double().square().sum()) / (0.1 * steps)


def test_a_random_walk_of_k_steps_is_1_over_k_direct_and_the_sampled_cost_finds_it():
    rows, cost, least = walked(400, 60, every=7)
    found = read(rows)
    assert found.cost.value == pytest.approx(cost, abs=4 * found.cost.stderr)
    assert 0 < found.cost.stderr < 0.05 * cost
    assert found.optimality.value == pytest.approx(least / cost, abs=4 * found.optimality.stderr)
    assert found.optimality.value == pytest.approx(1 / 60, rel=0.3)
    assert rows[-1]["coarse_cost"] < 0.5 * cost


def test_blocks_stay_the_same_and_their_errors_are_those_made(monkeypatch):
    monkeypatch.setattr(path_module, "KEPT_BYTES", 0)
    errors = []
    for seed in range(60):
        rows, cost, least = walked(2000, 3, every=1, seed=seed)
        (first, *_, last) = rows
        assert first["sampled"] == last["sampled"] <= 0.005 * last["parameters"]  # θ_0 and the θ before: 1 % together
        assert last["least_cost"] <= last["cost"] * (1 + 1e-12)
        found = read(rows)
        assert found.optimality.stderr == pytest.approx(last["optimality_stderr"], rel=1e-6)
        errors.append(
            (
                *(last["cost"] - cost, last["cost_stderr"], last["least_cost"] - least, last["least_cost_stderr"]),
                *(found.optimality.value - least / cost, found.optimality.stderr),
            )
        )
    for made, stated in zip(*[iter(np.array(errors).T)] * 2, strict=True):
        assert abs(made.mean()) < 4 * made.std() / math.sqrt(len(made))
        assert 0.7 < made.std() / math.sqrt(np.mean(stated**2)) < 1.4


def test_blocks_are_drawn_where_the_gradient_is(monkeypatch):
    """A head with all of the gradient and a hundredth of the parameters."""
    monkeypatch.setattr(path_module, "KEPT_BYTES", 0)
    model = nn.Sequential(nn.Linear(40, 100, bias=False), nn.Linear(100, 1, bias=False)).double()
    optimizer, training = torch.optim.SGD(model.parameters(), lr=0.1), Training(Path)
    before = flat(model.parameters())
    training.step(model, optimizer, [torch.randn(5, 40).double()], lambda out: out.mean() + 0 * model[0].weight.sum())
    (row,) = training.rows()
    moved = float((flat(model.parameters()) - before).square().sum()) / 0.1
    (followed,) = training.tap._optimizers.values()
    assert {i for i, _, _ in followed.stretch.blocks.blocks} == {0, 1}
    assert row["cost"] == pytest.approx(moved, abs=4 * row["cost_stderr"]) and row["cost_stderr"] < moved


def test_several_optimizers_go_each_its_own_path_and_their_costs_add(monkeypatch):
    one, two = network(0), network(1)
    training = Training(Path)
    optimizers = torch.optim.SGD(one.parameters(), lr=0.1), torch.optim.Adam(two.parameters(), lr=0.01)
    cost = least = 0.0
    paths: list[list[torch.Tensor]] = [[], []]
    for step in range(5):
        for model in (one, two):
            training.backward(model, data(5, step), mean_square)
        before = [flat(m.parameters()) for m in (one, two)]
        training.optimize(*optimizers)
        for path, model, x in zip(paths, (one, two), before, strict=True):
            path.append(flat(model.parameters()) - x)
    for path, eta in zip(paths, (0.1, 0.01), strict=True):
        moves = torch.stack(path).numpy()
        cost, least = cost + float(path_cost(moves, eta)), least + float(least_path_cost(moves, eta))
    rows = training.rows()
    assert {row["optimizer"] for row in rows} == {0, 1} and len(rows) == 10
    found = read(rows)
    assert found.cost.value == pytest.approx(cost, rel=1e-12) and found.least.value == pytest.approx(least, rel=1e-12)
    assert found.optimality.value == pytest.approx(least / cost, rel=1e-12)
    assert "2 optimizers" in found.optimality.why and (found.steps, found.looks) == (10, 10)


def test_an_optimizer_that_is_stepped_seldom_gives_its_look_when_it_is():
    """Looks are due at steps 0, 2, 4, …; the second optimizer is stepped at odd ones."""
    one, two, training = network(0), network(1), Training(Path, every=2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, two)]
    for step in range(8):
        training.step((one, two)[step % 2], optimizers[step % 2], [data(5, step)], mean_square)
    assert [row["optimizer"] for row in training.rows()] == [0, 1] * 4


def test_a_step_within_anothers_step_is_the_outer_ones():
    model, training = network(), Training(Path)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(3):
        training.backward(model, data(5, step), mean_square)
        training.begin(outer)
        training.begin(inner)
        inner.step()
        training.schedules.of(inner).end()
        training.conductor.optimizer_end(inner, step, skipped=False)
        training.schedules.of(outer).end()
        training.conductor.optimizer_end(outer, step, skipped=False)
        inner.zero_grad()
        training.machine.index += 1
    assert [row["optimizer"] for row in training.rows()] == [0, 0, 0] and not training.tap.lost


def checkpoint(model, _):
    model.load_state_dict({name: x + 1.0 for name, x in model.state_dict().items()})


def clamp(model, _):
    for p in model.parameters():
        p.data.clamp_(-0.1, 0.1)  # leaves no mark on p


def replace_data(model, _):
    model[0].weight.data = model[0].weight.data * 2.0


def regroup(_, optimizer):
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())


def swap(_, optimizer):
    one, other = (group["params"] for group in optimizer.param_groups)
    one[0], other[0] = other[0], one[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (checkpoint, "outside of the optimizer's step"),
        (clamp, "outside of the optimizer's step"),
        (replace_data, "outside of the optimizer's step"),
        (regroup, "parameter groups changed"),
        (swap, "parameter groups changed"),
    ],
)
def test_where_parameters_move_by_themselves_the_path_begins_anew(change, why):
    model, one = network(), Trajectory()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.05}], lr=0.1)
    for step in range(7):
        if step == 3:
            change(model, optimizer)
        one.step(model, optimizer)
    rows = one.training.rows()
    assert [row["since"] for row in rows] == [0, 0, 0, 3, 3, 3, 3]
    assert why in one.training.tap.why() and "(1 times)" in one.training.tap.why()
    cost, least = one.sums(since=3)
    found = read(rows, physics={"taps": {"path": {"why": one.training.tap.why()}}})
    assert found.cost.value == pytest.approx(cost, rel=1e-12) and found.least.value == pytest.approx(least, rel=1e-12)
    assert "since step 3" in found.cost.why and why in found.cost.why and found.steps == 4


def test_parameters_that_join_between_two_looks_begin_a_path():
    model, new, training = network(), nn.Parameter(torch.ones(2, dtype=torch.float64)), Training(Path, every=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(9):
        if step == 6:
            optimizer.add_param_group({"params": [new]})
        training.step(model, optimizer, [data(5, step)], lambda out: mean_square(out) + new.square().sum())
    assert [(row["since"], row["parameters"]) for row in training.rows()] == [(0, 83), (0, 83), (8, 85)]
    assert "parameter groups changed (1 times)" in training.tap.why()


@pytest.mark.parametrize("when", [5, 6, 8])
def test_a_checkpoint_loaded_between_two_looks_is_seen(when):
    model, one = network(), Trajectory(every=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(13):
        if step == when:
            checkpoint(model, optimizer)
        one.step(model, optimizer)
    rows = one.training.rows()
    assert [(row["step"], row["since"]) for row in rows] == [(0, 0), (4, 0), (8, 8), (12, 8)]
    assert rows[-1]["least_cost"] == pytest.approx(one.sums(since=8)[1], rel=1e-12)


def test_where_every_step_begins_a_path_there_is_no_optimality():
    model, one = network(), Trajectory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        one.step(model, optimizer)
        checkpoint(model, optimizer)
    found = read(one.training.rows(), physics={"taps": {"path": {"why": one.training.tap.why()}}})
    assert found.optimality.value is None and "outside of the optimizer's step" in found.optimality.why


def test_a_learning_rate_that_is_not_a_number_is_said():
    class Own(torch.optim.SGD):
        pass

    model, training = network(), Training(Path)
    optimizer = Own(model.parameters(), lr=0.1)
    training.step(model, optimizer, [data(5)], mean_square)
    step = optimizer.step
    optimizer.step = lambda: None  # its own business: the tap reads the rate alone
    for lr in (None, -0.1, math.nan, "fast"):
        optimizer.param_groups[0]["lr"] = lr
        training.step(model, optimizer, [data(5)], mean_square)
    optimizer.step = step
    assert len(training.rows()) == 1 and "learning rate cannot be read" in training.tap.why()
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    training.step(model, optimizer, [data(5)], mean_square)
    assert len(training.rows()) == 2 and training.rows()[-1]["since"] == 5


def test_an_optimizer_that_moves_at_a_rate_of_zero_has_no_path():
    class Free(torch.optim.SGD):
        def step(self):
            for p in self.param_groups[0]["params"]:
                p.data.sub_(0.1 * p.grad)

    model, training = network(), Training(Path)
    optimizer = Free(model.parameters(), lr=0.0)
    for step in range(3):
        training.step(model, optimizer, [data(5, step)], mean_square)
    assert training.rows() == [] and "at a learning rate of 0 (3 times)" in training.tap.why()


def test_skipped_steps_are_not_steps_of_the_path():
    model, one = network(), Trajectory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        if step in (2, 4):
            one.training.backward(model, data(5), mean_square)
            one.training.optimize(optimizer, skipped=True)
        one.step(model, optimizer)
    # of a fused step that finds infinity, both hooks run, and torch has counted a change of the parameters
    one.training.backward(model, data(5), mean_square)
    one.training.machine.optimizer_begin(1.0)
    one.training.begin(optimizer)
    with torch.no_grad():
        [p.add_(0.0) for p in model.parameters()]
    one.training.machine.optimizer_end(1.0, skipped=True)
    one.training.conductor.optimizer_end(optimizer, 0, skipped=True)
    optimizer.zero_grad()
    one.step(model, optimizer)
    cost, least = one.sums()
    last = one.training.rows()[-1]
    assert (last["steps"], last["since"]) == (7, 0) and not one.training.tap.lost
    assert last["cost"] == pytest.approx(cost, rel=1e-12) and last["least_cost"] == pytest.approx(least, rel=1e-12)


def test_parameters_that_are_not_finite_end_the_path():
    model, training = network(), Training(Path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training.step(model, optimizer, [data(5)], mean_square)
    training.step(model, optimizer, [data(5) * math.inf], mean_square)
    assert len(training.rows()) == 1 and "not finite" in training.tap.why()


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_training_has_the_same_bits_and_no_model_is_kept_alive(kind, level, monkeypatch):
    for whole in (2 << 20, 0):
        monkeypatch.setattr(path_module, "KEPT_BYTES", whole)
        found = []
        for watching in (False, True):
            model, training = network(), Training(Path, watched=watching, level=level)
            optimizer, stream = KINDS[kind](model.parameters()), torch.get_rng_state()
            for step in range(5):
                training.step(model, optimizer, [data(5, step)], mean_square)
            assert torch.equal(torch.get_rng_state(), stream)
            found.append([p.detach().clone() for p in model.parameters()])
            found[-1] += [
                x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)
            ]
            refs = [weakref.ref(p) for p in model.parameters()]
            del model, optimizer
        assert len(found[0]) == len(found[1]) and all(map(torch.equal, *found))
    gc.collect()
    assert not any(ref() is not None for ref in refs)


class Restless(torch.optim.SGD):
    """Every third step it pulls its parameters back, as Lookahead does: torch counts one change more."""

    def step(self, closure=None):
        super().step()
        self.stepped = getattr(self, "stepped", 0) + 1
        if self.stepped % 3 == 0:
            with torch.no_grad():
                [p.mul_(0.99) for p in self.param_groups[0]["params"]]


def test_what_a_step_does_to_torchs_count_of_changes_is_learned_from_those_looked_at():
    model, one = network(), Trajectory(every=4)
    optimizer = Restless(model.parameters(), lr=0.1)
    for step in range(41):
        if step == 34:
            for _ in range(10):  # one change could be a step's own
                checkpoint(model, optimizer)
        one.step(model, optimizer)
    rows = one.training.rows()
    # The look at step 8 sees a third step: from then on the path goes on.
    assert [row["since"] for row in rows] == [0, 4, *[8] * 7, 36, 36]
    assert one.training.tap.lost == {"the parameters changed outside of the optimizer's step": 3}


def test_steps_in_which_less_changes_than_in_others_are_no_change_from_outside():
    """A head that is trained in turns: in the other steps it has no gradient."""
    model, training = network(), Training(Path, every=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(21):
        training.backward(model, data(5, step), mean_square)
        if step % 2:
            model[2].weight.grad = model[2].bias.grad = None
        training.optimize(optimizer)
    assert [row["since"] for row in training.rows()] == [0] * 5 and not training.tap.lost


def test_an_optimizer_that_owes_a_look_is_not_waited_for_for_ever():
    one, two, training = network(0), network(1), Training(Path, every=30)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, two)]
    asked = []
    for step in range(60):
        which = 0 if step == 0 else 1
        training.step((one, two)[which], optimizers[which], [data(5, step)], mean_square)
        asked.append("optimizer_begin" in training.conductor.heard)
    assert asked == ([True] * 9 + [False] * 21) * 2


@pytest.mark.parametrize("every", [1, 3])
def test_a_step_that_calls_a_closure_is_a_step_like_others(every):
    """LBFGS: the forward that begins a training step comes within its optimizer's, and each call moves θ."""
    moves, rates = [], []
    with watched("path", physics="light", physics_every=every) as client:
        model = network()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
        for step in range(13):
            x, before = data(16, step % 2), flat(model.parameters())

            def closure(x=x):
                optimizer.zero_grad()
                loss = mean_square(model(x))
                loss.backward()
                return loss

            optimizer.step(closure)
            optimizer.param_groups[0]["lr"] *= 0.9
            moves.append(flat(model.parameters()) - before)
            rates.append(0.5 * 0.9**step)
    rows = client.table(PATH)
    assert client.labels["physics"]["taps"]["path"]["why"] == ""
    assert {row["since"] for row in rows} == {rows[0]["since"]} and len(rows) >= 12 // every
    first, last = int(rows[0]["since"]), int(rows[-1]["step"]) + 1
    path = torch.stack(moves[first:last]).numpy(), np.array(rates[first:last])[:, None]
    assert rows[-1]["steps"] == last - first
    assert rows[-1]["least_cost"] == pytest.approx(float(least_path_cost(*path)), rel=1e-9)
    if every == 1:
        assert rows[-1]["cost"] == pytest.approx(float(path_cost(*path)), rel=1e-9)


@pytest.mark.parametrize("level", ["light", "full"])
def test_on_torchs_own_hooks_it_is_the_same_and_the_training_keeps_its_bits(level):
    found, moves = [], []
    for watching in (False, True):
        with watched("path", physics=level) if watching else contextlib.nullcontext() as client:
            model = network()
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
            for step in range(8):
                before = flat(model.parameters())
                scaler.scale(mean_square(model(data(5, step) * (math.inf if step == 2 else 1.0)))).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if watching and step != 2:  # the scaler skips that step
                    moves.append((flat(model.parameters()) - before, optimizer.param_groups[0]["lr"]))
                schedule.step()
            found.append([p.detach().clone() for p in model.parameters()])
            found[-1] += [torch.get_rng_state(), torch.tensor(scaler.get_scale())]
    assert all(map(torch.equal, *found))
    rows = client.table(PATH)
    assert [row["step"] for row in rows] == [0, 1, 3, 4, 5, 6, 7] and rows[-1]["steps"] == 7
    moved, rates = torch.stack([x for x, _ in moves]).numpy(), np.array([[eta] for _, eta in moves])
    assert rows[-1]["cost"] == pytest.approx(float(path_cost(moved, rates)), rel=1e-12)
    assert rows[-1]["least_cost"] == pytest.approx(float(least_path_cost(moved, rates)), rel=1e-12)
    assert client.labels["physics"]["taps"]["path"]["why"] == ""


def test_small_optimizers_share_the_room_for_whole_copies(monkeypatch):
    models = [nn.Linear(10, 10, bias=False).double() for _ in range(4)]
    monkeypatch.setattr(path_module, "KEPT_BYTES", 2 * 2 * 800)  # θ_0 and the θ before, of two of them
    training = Training(Path)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    for model in models:
        training.backward(model, torch.randn(5, 10).double(), mean_square)
    training.optimize(*optimizers)
    assert [row["sampled"] == row["parameters"] for row in training.rows()] == [True, True, False, False]
