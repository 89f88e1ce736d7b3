"""Tapes: the same number again, at the same or at other parameters; nothing moved; and a reason where there is none."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
)

from ergometry.core.series import STEPS, WORK
from ergometry.integrations import torch_hooks
from ergometry.integrations.counting.mode import CountingMode
from ergometry.integrations.physics import tapes as tapes_module
from ergometry.integrations.physics.recording import Recording
from ergometry.integrations.physics.tape import Tape, Unreplayable
from ergometry.integrations.physics.tapes import Tapes
from support.checkpoints import Batch, Script, cross_entropy, rows, watched, why
from support.networks import KINDS, Tokens, images, mlp, of_kind, points, texts


@pytest.fixture(autouse=True)
def no_mode_left() -> Iterator[None]:
    """No test leaves a recording on the stack of modes."""
    yield
    left = _get_current_dispatch_mode_stack()
    for _ in left:
        _pop_mode()
    assert [mode for mode in left if not isinstance(mode, CountingMode)] == []


def keeper() -> Tapes:
    assert torch_hooks._active is not None
    tapes = torch_hooks._active.physics.tapes
    assert tapes is not None
    return tapes


class Training:
    """A model that is trained while it is watched: the tapes of its last step, until ``stop``."""

    def __init__(
        self, model: nn.Module, batch: Callable[[], Any], loss: Any = cross_entropy, *, warm: int = 3, lr: float = 0.05
    ) -> None:
        self.model, self.batch, self.loss = model, batch, loss
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr, momentum=0.9)
        for _ in range(warm):
            self.step()

    def step(self) -> None:
        """Make a step as a script does."""
        self.optimizer.zero_grad()
        self.last = self.batch()
        self.before = copy.deepcopy([list(self.model.buffers()), torch.get_rng_state()])
        self.value = self.loss(self.model, self.last)
        self.value.backward()
        self.optimizer.step()

    def again(self, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (output, loss) of the last batch by the script's own code, with the buffers and the stream of then."""
        moved, now = copy.deepcopy(model), torch.get_rng_state()
        for buffer, old in zip(moved.buffers(), self.before[0], strict=True):
            buffer.data.copy_(old)
        outputs: list[torch.Tensor] = []
        moved.register_forward_hook(lambda _module, _args, out: outputs.append(out))
        torch.set_rng_state(self.before[1])
        loss = self.loss(moved, self.last)
        torch.set_rng_state(now)
        self.moved = list(moved.parameters())
        return outputs[0], loss

    @property
    def tape(self) -> Tape:
        """Return the step's one tape."""
        (tape,) = keeper().current
        return tape

    def everything(self) -> list[Any]:
        """Return all that a replay must leave: bits, versions, gradients, the random stream."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *(t for t in self.last if torch.is_tensor(t))]
        grads = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        return [*(t.detach().clone() for t in tensors), *grads, torch.get_rng_state(), [t._version for t in tensors]]


@contextlib.contextmanager
def training(model: nn.Module, batch: Callable[[], Any], loss: Any = cross_entropy, **more: Any) -> Iterator[Training]:
    torch.manual_seed(1)
    with watched():
        yield Training(model, batch, loss, **more)


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(one, other, strict=True))


def recordings() -> list[Any]:
    return [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Recording)]


def why_of(model: nn.Module, batch: Any, loss: Any = cross_entropy, **more: Any) -> str:
    """Return why the steps of a training have no tapes that can be replayed."""
    with training(model, batch, loss, **more):
        assert all(tape.why for tape in keeper().current)
        return keeper().why_not


# What a replay gives


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_is_the_same_function_of_the_parameters_and_leaves_everything(kind: str) -> None:
    made = of_kind(kind, torch.float64)
    with training(made["make"](), made["batch"]) as one:
        torch.rand(5)  # the script draws on
        tape, before = one.tape, one.everything()
        with torch.no_grad():
            now, again = tape.loss(), tape.loss()
        assert torch.equal(now, again)
        assert now.dim() == 0
        assert same(one.everything(), before)
    out, outside = one.again(one.model)
    with torch.no_grad():
        assert torch.equal(now, outside)
        assert torch.equal(tape.outputs(), out)
        assert torch.equal(tape.loss_and_outputs()[0], now)
    assert {id(p) for p in tape.parameters} == {id(p) for p in one.model.parameters()}
    assert tape.examples == len(one.last[0])
    inputs = sum(t.numel() * t.element_size() for t in one.last)
    assert inputs <= tape.bytes <= inputs + 40_000, "the batch, the state of the random stream, small buffers"


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_is_differentiable_at_replacements_of_the_parameters(kind: str) -> None:
    made = of_kind(kind, torch.float64)
    with training(made["make"](), made["batch"]) as one:
        tape, grads = one.tape, [p.grad.clone() for p in one.model.parameters()]
        other = {p: (p + 0.01 * torch.randn_like(p)).detach().requires_grad_() for p in tape.parameters}
        inside = torch.autograd.grad(tape.loss(other), [other[p] for p in one.model.parameters()])
        live = torch.autograd.grad(tape.loss(), list(one.model.parameters()))
        assert same([p.grad for p in one.model.parameters()], grads)
    assert all(g.isfinite().all() for g in live), "parameters as they are are differentiable too"
    elsewhere = copy.deepcopy(one.model)
    for p, q in zip(elsewhere.parameters(), one.model.parameters(), strict=True):
        p.data.copy_(other[q])
    elsewhere.zero_grad()
    one.again(elsewhere)[1].backward()
    for a, p in zip(inside, one.moved, strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-12, atol=1e-14)


def test_second_derivatives_exist_where_the_operators_have_them() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    with training(make(), points(torch.float64)) as one:
        p = one.tape.parameters
        v = [torch.randn_like(x) for x in p]
        grads = torch.autograd.grad(one.tape.loss(), p, create_graph=True)
        ours = torch.autograd.grad(sum((g * x).sum() for g, x in zip(grads, v, strict=True)), p)
    own = list(one.model.parameters())
    grads = torch.autograd.grad(one.loss(one.model, one.last), own, create_graph=True)
    by_id = {id(x): y for x, y in zip(p, v, strict=True)}
    outside = torch.autograd.grad(sum((g * by_id[id(x)]).sum() for g, x in zip(grads, own, strict=True)), own)
    for x, h in zip(p, ours, strict=True):
        torch.testing.assert_close(h, outside[[id(y) for y in own].index(id(x))], rtol=1e-12, atol=1e-14)


def test_what_a_detach_stops_stays_stopped_and_a_view_does_not() -> None:
    """Autograd makes tensors by ``detach`` itself, which must not stop the replay's gradient."""

    class Stopping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            left, right = h.view(12, 2, 2).transpose(1, 2).unbind(1)
            with torch.no_grad():
                shift = h.mean(0)
            shift *= self.scale
            stopped, kept = h.detach(), torch.zeros(12, 4, dtype=h.dtype)
            stopped = stopped.clone().add_(self.scale)
            kept.copy_(h.detach()).mul_(self.scale)  # part of the graph through the scale alone
            return self.b(torch.cat((left, right * right.detach()), 1) - shift + 0.1 * stopped * kept)

    with training(Stopping().double(), points(torch.float64)) as one:
        inside = torch.autograd.grad(one.tape.loss(), list(one.model.parameters()))
    outside = torch.autograd.grad(one.loss(one.model, one.last), list(one.model.parameters()))
    for a, b in zip(inside, outside, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_intermediate_results_are_let_go_of_after_their_last_use() -> None:
    class Alive(TorchDispatchMode):
        """Counts the results that are alive at once."""

        def __init__(self) -> None:
            super().__init__()
            self.made: list[weakref.ref[torch.Tensor]] = []
            self.most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.made.append(weakref.ref(out))
                self.most = max(self.most, sum(ref() is not None for ref in self.made))
            return out

    deep = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(6, 6), nn.Tanh())])
    with training(deep, lambda: (torch.randn(4, 6), torch.randint(0, 6, (4,)))) as one:
        tape, mode = one.tape, Alive()
        run = tape._run
        tape._run = lambda made, **more: under(mode, run, made, **more)  # type: ignore[method-assign]
        with torch.no_grad():
            tape.loss()
        assert len(mode.made) > 40
        assert mode.most <= 5


def under(mode: Any, run: Any, *args: Any, **more: Any) -> Any:
    with mode:
        return run(*args, **more)


def test_what_does_not_lead_to_the_loss_is_not_run_again() -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        out = model(batch[0])
        (out.argmax(-1) == batch[1]).float().mean()
        value = nn.functional.cross_entropy(out, batch[1])
        value.item()
        return value

    with training(mlp(), points(), loss) as one:
        names = [line.operation.func._schema.name for line in one.tape._lines]
        assert not one.tape.why, "reading the loss itself is no harm"
        assert not {"aten::argmax", "aten::eq", "aten::mean", "aten::_local_scalar_dense"} & set(names)
        assert "aten::add_" not in names, "nor is the count of batches"


def test_micro_batches_have_a_tape_each_with_the_buffers_before_it() -> None:
    torch.manual_seed(1)
    model, batches = mlp().double(), [points(torch.float64)() for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with watched():
        for _ in range(4):
            own = []
            for batch in batches:
                loss = cross_entropy(model, batch)
                loss.backward()
                own.append(loss.item())
            optimizer.step()
        assert [tape.loss().item() for tape in keeper().current] == own


def test_several_backwards_of_one_forward_have_a_tape_each() -> None:
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with watched():
        for _ in range(4):
            x, y = points(torch.float64)()
            out = model(x)
            first = nn.functional.cross_entropy(out, y)
            first.backward(retain_graph=True)
            second = out.square().mean() + first.detach()
            torch.autograd.backward([second, 0.5 * second])
            optimizer.step()
        with torch.no_grad():
            assert [float(tape.loss()) for tape in keeper().current] == [
                first.item(),
                second.item() + 0.5 * second.item(),
            ]


def test_modules_called_one_on_anothers_output_are_on_one_tape() -> None:
    encoder, decoder = nn.Linear(6, 4).double(), nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
    with watched():
        for _ in range(4):
            x, y = points(torch.float64)()
            loss = nn.functional.cross_entropy(decoder(encoder(x).tanh()), y)
            loss.backward()
            optimizer.step()
        (tape,) = keeper().current
        assert len(tape.parameters) == 4
        with torch.no_grad():
            assert torch.equal(tape.loss(), nn.functional.cross_entropy(decoder(encoder(x).tanh()), y))
            assert torch.equal(tape.outputs(), decoder(encoder(x).tanh()))


# What cannot be replayed says why


def read_on_the_way(model: nn.Module, batch: Batch) -> torch.Tensor:
    loss = cross_entropy(model, batch)
    return loss * (2.0 if loss.item() > 100 else 1.0)


class InPlace(nn.Module):
    """Normalises its weight in place in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.linear.weight.div_(self.linear.weight.norm().clamp(min=1.0))
        return self.linear(x)


class Behind(nn.Module):
    """Uses its weight through ``.data``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones(3))
        self.hidden = self.scale.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.hidden


class Own(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator = nn.Linear(6, 3), torch.Generator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x + torch.randn(x.shape, generator=self.generator))


class Outside(nn.Module):
    """Draws from a stream that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.state = nn.Linear(6, 3), 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state += 1
        return self.linear(x) * self.state


class Inferred(nn.Module):
    """Takes a target from a part that runs in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            shift = self.linear(x).mean()
        return self.linear(x) + shift.clone()


def kept_and_read(model: nn.Module, batch: Batch) -> torch.Tensor:
    loss, kept = cross_entropy(model, batch), torch.zeros(2)
    kept[1:] += loss.detach()
    return loss * (2.0 if kept[1].item() > 100 else 1.0)


REASONS = {
    "a value is read": (mlp, read_on_the_way, "is read"),
    "a value written into another is read": (mlp, kept_and_read, "is read"),
    "a parameter is changed": (InPlace, cross_entropy, "changes a parameter in place"),
    "memory is shared": (Behind, cross_entropy, "memory"),
    "a generator of the script's": (Own, cross_entropy, "generator"),
    "inference mode": (Inferred, cross_entropy, "inference_mode"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_repeated_says_why_and_training_goes_on(name: str) -> None:
    make, loss, words = REASONS[name]
    assert words in why_of(make(), points(), loss)
    one = Script(make=make, batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.1), loss=loss)
    with watched() as client:
        seen = one.train()
    assert same(seen.bits, one.train().bits)
    assert client.notices == []


def test_a_value_of_pythons_own_is_part_of_the_function_that_ran() -> None:
    with training(Outside().double(), points(torch.float64)) as one:
        state = one.model.state
        with torch.no_grad():
            assert torch.equal(
                one.tape.loss(), nn.functional.cross_entropy(one.model.linear(one.last[0]) * state, one.last[1])
            )


def test_a_backward_on_no_scalar_has_no_tape() -> None:
    model, optimizer = nn.Linear(6, 3), None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watched():
        for _ in range(4):
            model(torch.randn(5, 6)).backward(torch.ones(5, 3))
            optimizer.step()
        assert "no scalar" in keeper().why_not


def test_what_ran_before_the_first_call_was_not_seen() -> None:
    scale = nn.Parameter(torch.ones(()))
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD([scale, *model.parameters()], 0.1)
    with watched():
        for _ in range(4):
            x, y = points()()
            nn.functional.cross_entropy(model(x * scale), y).backward()
            optimizer.step()
        assert "was not seen" in keeper().why_not


def test_a_mode_of_the_scripts_own_is_left_alone() -> None:
    class Counts(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.n = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.n += 1
            return func(*args, **(kwargs or {}))

    def count(physics: str) -> int:
        torch.manual_seed(0)
        mode = Counts()
        with watched(physics=physics), mode:
            Script(make=mlp, batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.1)).train()
            assert physics == "off" or "mode of the script's own" in keeper().why_not
        return mode.n

    assert count("light") == count("off")


def test_a_mode_that_the_script_puts_on_between_ends_the_recording() -> None:
    class Passes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        out = model(batch[0])
        mode = Passes()
        mode.__enter__()
        value = nn.functional.cross_entropy(out, batch[1])
        value.backward(retain_graph=True)
        mode.__exit__(None, None, None)
        return value * 0

    assert "mode of its own" in why_of(mlp(), points(), loss)
    assert _get_current_dispatch_mode_stack() == []


def test_inputs_and_buffers_that_were_changed_since_are_noticed() -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("shift", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + self.shift

    with training(Buffered(), points()) as one:
        one.tape.loss()
        one.last[0].add_(1.0)
        with pytest.raises(Unreplayable, match="changed in place"):
            one.tape.loss()
        one.step()
        with torch.no_grad():
            one.model.shift.add_(1.0)
        with pytest.raises(Unreplayable, match="changed in place"):
            one.tape.loss()
        one.step()
        assert not one.tape.why


def test_inputs_that_the_forward_itself_changes_are_what_they_were() -> None:
    class Centres(nn.Module):
        """Centres its input in place, through a view of it."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x[:, :3].mul_(2.0)
            x.sub_(x.mean(0))
            return self.linear(x)

    with training(Centres().double(), points(torch.float64)) as one:
        after, version = one.last[0].clone(), one.last[0]._version
        with torch.no_grad():
            assert torch.equal(one.tape.loss(), nn.functional.cross_entropy(one.model.linear(after), one.last[1]))
            assert torch.equal(one.tape.loss(), one.tape.loss())
        assert torch.equal(one.last[0], after)
        assert one.last[0]._version == version


def test_a_shape_that_depends_on_the_parameters_is_checked_at_every_replay() -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        out = model(batch[0])
        return out[out > 0].square().mean()

    with training(nn.Linear(6, 3), points(), loss, lr=0.0) as one:
        tape = one.tape
        tape.loss({p: p.detach() for p in tape.parameters})
        with pytest.raises(Unreplayable, match="shape"):
            tape.loss({p: -p.detach() for p in tape.parameters})


def test_a_model_that_is_gone_cannot_be_replayed_and_is_not_kept_alive() -> None:
    with watched():
        one = Training(Tokens(), texts())
        probe = keeper().probe
        assert probe is not None
        one.step()
        tape, there = one.tape, weakref.ref(one.model.head.weight)
        del one
        gc.collect()
        assert there() is None
        for each in (tape, probe):
            with pytest.raises(Unreplayable, match="gone"):
                each.loss()


@pytest.mark.parametrize(("device", "words"), [("cpu", "meta"), ("meta", "meta")])
def test_on_a_device_without_data_or_on_several_nothing_is_recorded(device: str, words: str) -> None:
    recording, model = Recording(torch.device(device), 1000), nn.Linear(6, 3, device="meta")
    with recording:
        model(torch.randn(4, 6, device="meta"))
    assert words in recording.why
    assert recording.operations == []


def test_a_replay_that_is_not_what_ran_is_refused() -> None:
    """An operator whose result depends on what torch does not see: the first tape of its kind is compared."""

    class Numpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.linear(x)
            doubled = out * 1.0
            doubled.detach().numpy()[...] *= 2.0  # no operator
            return doubled

    assert "and not the script's" in why_of(Numpy(), points())


# The tape kept for the run


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
def test_the_probe_is_the_first_step_for_the_whole_run(kind: str) -> None:
    made, batches = of_kind(kind, torch.float64), []

    def batch() -> Batch:
        batches.append(made["batch"]())
        return batches[-1]

    with training(made["make"](), batch) as one:
        probe = keeper().probe
        assert probe is not None
        assert keeper().probe_why == ""
        values = [probe.loss().item()]
        for _ in range(3):
            for tensor in itertools.chain(*batches):
                tensor.zero_()  # a script may use a batch's memory again: the probe has its own copy
            one.step()
            assert keeper().probe is probe
            values.append(probe.loss().item())
        assert len(set(values)) == 4, "the parameters as they are now"


def test_a_probe_that_would_hold_much_is_not_kept_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapes_module, "_HELD_BYTES", 1000)
    with training(nn.Linear(6, 3), lambda: (torch.randn(100, 6), torch.randint(0, 3, (100,)))) as one:
        assert keeper().probe is None
        assert "more than the 1000" in keeper().probe_why
        assert "erg.record" in keeper().probe_why
        assert not one.tape.why
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watched():
        for _ in range(4):
            for _ in range(4):
                cross_entropy(model, (torch.randn(20, 6), torch.randint(0, 3, (20,)))).backward()
            optimizer.step()
        assert "micro-batches" in keeper().why_not
        assert keeper().current == []


# Together with the counter, with closures, exceptions and threads


def test_the_counter_counts_the_same_with_and_without_recording() -> None:
    """Passes are not called uncounted for our sake, and what we compute is not counted."""
    counts = []
    for options in ({"physics": "off"}, {"physics_every": 1}):
        with watched("first_law", "noise", "equilibrium", **options) as client:
            for closure, optimizer in ((False, torch.optim.SGD), (True, torch.optim.LBFGS)):
                more = {"max_iter": 2} if closure else {}
                make = functools.partial(optimizer, lr=0.1, **more)
                Script(**of_kind("transformer"), optimizer=make, closure=closure, steps=3).train()
        counts.append(
            ([row["flops"] for row in client.table(STEPS)], [list(row.values()) for row in client.table(WORK)])
        )
        assert all(row["uncounted"] == 0 for row in client.table(WORK))
    assert counts[0] == counts[1]


def test_a_step_that_raises_leaves_no_mode_and_no_tape() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.fails = nn.Linear(6, 3), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.linear(x)
            if self.fails:
                raise ValueError("the script's own")
            return out

    with training(Fails(), points()) as one:
        one.model.fails = True
        with pytest.raises(ValueError, match="the script's own"):
            one.step()
        assert recordings() == []
        assert keeper().current == []
        one.model.fails = False
        one.step()
        with torch.no_grad():
            assert torch.equal(one.tape.loss(), one.loss(one.model, one.last))
    assert _get_current_dispatch_mode_stack() == []


def test_a_forward_without_a_backward_leaves_nothing() -> None:
    with training(mlp(), points()) as one:
        one.model(one.batch()[0])  # its loss is not called backward on
        one.optimizer.step()
        assert recordings() == []
        assert keeper().current == []


def test_an_evaluation_is_on_no_tape() -> None:
    with training(mlp(), points()) as one:
        for _ in range(3):
            one.model.eval()
            with torch.no_grad():
                one.model(one.batch()[0])
            assert recordings() == []
            one.model.train()
            one.step()
        names = [line.operation.func._schema.name for line in one.tape._lines]
        assert names.count("aten::native_batch_norm") == 1
        assert len(one.tape._outside) <= len(list(one.model.parameters())) + len(list(one.model.buffers())) + 2


def test_a_part_that_runs_compiled_says_so_and_is_still_compiled() -> None:
    def compiled(graph: Any, _inputs: Any) -> Any:
        """Compile to one kernel, of which no operator is seen."""

        def kernel(*args: Any) -> Any:
            with _disable_current_modes():
                return graph(*args)

        return make_boxed_func(kernel)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model[1] = torch.compile(model[1], backend=aot_autograd(fw_compiler=compiled))
    assert "compile" in why_of(model, points(), warm=4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Straight(torch.autograd.Function):
    """Rounds, and passes the gradient on as if it had not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g


class Same(torch.autograd.Function):
    """Returns what it is given."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g


class Through(nn.Module):
    """Passes what its first layer gives through a function, beside what no gradient is to pass."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        with torch.no_grad():
            scale = h.std()
        return self.last(self.function(h) / scale)


def test_autograd_functions_are_differentiated_by_their_forward_and_named() -> None:
    for function in (Same.apply, torch.exp):
        with training(Through(function).double(), points(torch.float64)) as one:
            inside = torch.autograd.grad(one.tape.loss(), list(one.model.parameters()))
            assert bool(one.tape.gradient_why) == (function is not torch.exp)
        outside = torch.autograd.grad(one.loss(one.model, one.last), list(one.model.parameters()))
        for a, b in zip(inside, outside, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_modules_with_backward_hooks_have_the_gradient_of_their_forward() -> None:
    model = mlp().double()
    model[4].register_full_backward_hook(lambda *_: None)
    with training(model, points(torch.float64), lr=0.0) as one:
        assert one.tape.gradient_why == ""
        inside = torch.autograd.grad(one.tape.loss(), list(model.parameters()))
        for g, p in zip(inside, model.parameters(), strict=True):
            torch.testing.assert_close(g, p.grad, rtol=1e-12, atol=1e-14)


def test_a_backward_of_the_scripts_own_gives_no_midpoint_work_and_the_right_q() -> None:
    one = Script(make=lambda: Through(Straight.apply), batch=points(), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    with watched() as client:
        one.train()
        assert "StraightBackward" in keeper().current[0].gradient_why
    assert "no midpoint work" in why(client)
    losses = one.train(checkpoints=True).losses
    assert rows(client)
    for k, row in rows(client).items():
        assert (row["loss_before"], row["loss_after"]) == losses[k]


def test_unused_draws_and_draws_that_were_not_seen_leave_the_random_numbers_in_place() -> None:
    class Noisy(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.rand(3, dtype=torch.float64)  # in this process, from the stream of the dropout

    class Wastes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(5)
            return x

    first = nn.Sequential(Wastes(), mlp()).double()
    second = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)).double()
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.0)
    loader = iter(torch.utils.data.DataLoader(Noisy(), batch_size=12))
    with watched():
        for _ in range(5):
            x, y = points(torch.float64)()
            out = first(x)
            torch.rand(7)  # no use
            loss = nn.functional.cross_entropy(second(out + next(loader)), y)
            loss.backward()
            optimizer.step()
        (tape,) = keeper().current
        with torch.no_grad():
            assert torch.equal(tape.loss(), loss.detach())


def test_images_in_channels_last_are_replayed_in_their_layout() -> None:
    def batch() -> Batch:
        x, y = images()()
        return x.to(memory_format=torch.channels_last), y

    with training(of_kind("cnn")["make"]().to(memory_format=torch.channels_last), batch) as one, torch.no_grad():
        assert torch.equal(one.tape.loss(), one.tape.loss())
        assert not one.tape.why


def test_a_recording_that_autograd_puts_back_comes_off_again() -> None:
    """A forward within a backward ends what is recorded between calls; autograd then restores the stack of before."""
    inner = nn.Linear(6, 6)

    class Recomputes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            with torch.enable_grad():
                inner(torch.randn(2, 6))
            return g

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        out = model(Recomputes.apply(batch[0].requires_grad_()))
        (slope,) = torch.autograd.grad(out.sum(), batch[0], create_graph=True)
        return cross_entropy(model, (batch[0].detach(), batch[1])) + 0.1 * slope.square().mean()

    with training(mlp(), points(), loss, warm=6):
        assert recordings() == []
    assert recordings() == []


def test_of_a_closure_only_the_first_call_is_recorded() -> None:
    model = mlp().double()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4)
    with watched():
        for _ in range(4):
            batch, own = points(torch.float64)(), []

            def closure(batch: Batch = batch, own: list[float] = own) -> torch.Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model, batch)
                loss.backward()
                own.append(loss.item())
                return loss

            optimizer.step(closure)
            assert len(own) > 1
        (tape,) = keeper().current
        assert float(tape.value) == own[0]
