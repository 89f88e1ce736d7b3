"""Learning rate at another batch size: three rules, and which one an optimizer follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ergometry.core.errors import UsageError

ADAPTIVE = frozenset(
    {"adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "lion", "adafactor"}
)
"""Optimizers whose step does not grow with the gradient's scale: their rate follows the square root."""


OF_SGD = frozenset({"sgd", "asgd"})
"""Optimizers whose step grows with the gradient's scale."""


SEARCHING = frozenset({"lbfgs"})
"""Optimizers that build a direction from the differences of gradients of one and the same batch."""


@dataclass(frozen=True)
class LearningRate:
    """A learning rate for a new batch size.

    Attributes:
        value: what to set.
        rule: ``linear``, ``square root`` or ``noise scale``; ``unchanged`` where no rule is known to hold.
        others: what the other rules give.
        limit: the stability limit; None where the curvature is not known.
        remark: what holds it, or what to know.
        scale: ``value`` over the rate gone on from.
        several: the run's groups or optimizers have rates of their own: each is to be scaled, and ``value`` is none's.
    """

    value: float
    rule: str
    others: dict[str, float]
    limit: float | None
    remark: str = ""
    scale: float = 1.0
    several: bool = False


def rescaled(
    learning_rate: float,
    batch: float,
    new_batch: float,
    *,
    optimizer: str = "sgd",
    b_noise: float | None = None,
    limit: float | None = None,
) -> LearningRate:
    """Return the learning rate of a new batch size, from one that was good at another.

    linear: η·B'/B, for SGD far below the noise scale. square root: η·√(B'/B), for Adam and its kin (the noise that
    their normalised step lets through falls as 1/√B). noise scale: η·(1 + B_noise/B)/(1 + B_noise/B'), which is linear
    far below B_noise and constant far above; it is chosen for SGD where B_noise is known.

    Args:
        learning_rate: η at ``batch``, 1/loss for SGD.
        batch: B, example/step.
        new_batch: B', example/step.
        optimizer: name of its class; of one that is not known, or '', SGD's rule is taken and said.
        b_noise: the noise scale, example/step.
        limit: no rate above, 2(1+μ)/λ_max; where the rule asks for more, half of it is taken and said.

    Raises:
        UsageError: a rate or batch size that is not positive.

    >>> rescaled(0.1, 32, 128).value
    0.4
    >>> round(rescaled(1e-3, 32, 128, optimizer="AdamW").value, 6)
    0.002
    >>> print(f"{rescaled(0.1, 100, 10_000, b_noise=100.0).value:.3f}")
    0.198
    """
    if not all(math.isfinite(x) and x > 0 for x in (learning_rate, batch, new_batch)):
        raise UsageError(
            expected="a positive learning rate and positive batch sizes",
            got=f"{learning_rate:g}, {batch:g}, {new_batch:g}",
            remedy="give those of a run that trained well",
        )
    grown = new_batch / batch
    rules = {"linear": learning_rate * grown, "square root": learning_rate * math.sqrt(grown)}
    if b_noise is not None and b_noise > 0:
        rules["noise scale"] = learning_rate * (1 + b_noise / batch) / (1 + b_noise / new_batch)
    if optimizer.lower() in SEARCHING:
        remark = (
            f"{optimizer} compares gradients of one batch: batches drawn anew mislead it, and no rule scales its rate"
        )
        return LearningRate(learning_rate, "unchanged", rules, limit, remark)
    adaptive = optimizer.lower().removeprefix("fused") in ADAPTIVE
    rule = "square root" if adaptive else "noise scale" if "noise scale" in rules else "linear"
    value, remark = rules[rule], ""
    if limit is not None and value >= limit and not adaptive:
        value = 0.5 * limit
        remark = f"the rule gives {rules[rule]:.3g}, beyond the stability limit {limit:.3g}: half of that is taken"
    elif rule == "linear" and grown > 1:
        remark = "the linear rule holds only far below the noise scale, which is not known here"
    if not adaptive and optimizer.lower().removeprefix("fused") not in OF_SGD:
        who = f"{optimizer} is none of {', '.join(sorted(OF_SGD | ADAPTIVE))}" if optimizer else "it was not seen"
        remark = "; ".join(
            filter(None, (f"which rule the optimizer follows is not known ({who}): SGD's is taken", remark))
        )
    others = {name: x for name, x in rules.items() if name != rule}
    return LearningRate(value, rule, others, limit, remark, value / learning_rate)
