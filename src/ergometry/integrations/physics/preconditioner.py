"""Preconditioner: what an adaptive optimizer divides the gradient by, read from its own state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ergometry.integrations.physics.blocks import Blocks


class Moment(NamedTuple):
    """Of one tensor: v, a mean whose square is taken off it (or None), the correction that v is divided by, and ε."""

    v: torch.Tensor
    mean: torch.Tensor | None
    correction: Any
    epsilon: float

    def inverse(self, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return 1/(√v + ε) of a part of the tensor."""
        variance = part(self.v).float() / self.correction
        if self.mean is not None:
            variance = variance - part(self.mean).float() ** 2
        return 1.0 / (variance.sqrt() + self.epsilon)


class Preconditioner:
    """1/(√v + ε) of Adam, AdamW or RMSprop as they stand now; there is none with any other optimizer.

    Taken before the step, v holds past gradients only: it is independent of the batch that it is to weigh.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self._owner: dict[int, tuple[Any, dict[str, Any]]] = {}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                self._owner.update({id(p): (optimizer, group) for p in group["params"]})

    def moment(self, p: torch.Tensor) -> Moment | None:
        """Return what one tensor's gradient is divided by."""
        if id(p) not in self._owner:
            return None
        optimizer, group = self._owner[id(p)]
        state = optimizer.state.get(p)
        if not state:
            return None
        if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
            v = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
            beta, step = group["betas"][1], state["step"]
            if not isinstance(step, torch.Tensor) or step.device.type == "cpu":
                step = float(step)  # on a device it stays there: reading it would wait
            return Moment(v, None, 1.0 - beta**step, group["eps"])
        if isinstance(optimizer, torch.optim.RMSprop):
            return Moment(state["square_avg"], state["grad_avg"] if group.get("centered") else None, 1.0, group["eps"])
        return None

    def of(self, blocks: Blocks) -> torch.Tensor | None:
        """Return 1/(√v + ε) of blocks, (sampled,); None where a tensor has none."""
        # Of each tensor once, however many blocks lie in it.
        found = {i: self.moment(p) for i, p in blocks.tensors().items()}

        def part(i: int, _: torch.Tensor, at: slice) -> torch.Tensor:
            moment = found[i]
            assert moment is not None
            return moment.inverse(lambda tensor: tensor.reshape(-1)[at])

        return None if any(moment is None for moment in found.values()) else blocks.gather(part)
