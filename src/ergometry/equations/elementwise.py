"""Element-wise functions on whatever the formulas are given: floats, NumPy arrays, torch tensors, pint quantities.

Operators work on all of these by themselves, broadcasting included. A function does not, so the formulas call these:
a torch tensor among the arguments goes to torch's own (gradients, devices and dtypes are kept), anything else to
NumPy's. torch is looked for among the modules already loaded, never imported.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np


def _library(*values: Any) -> Any:
    """Return torch if one of the values is a tensor, else NumPy."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", ())
    return sys.modules["torch"] if any(isinstance(value, tensor) for value in values) else np


def sqrt(x: Any) -> Any:
    """Return √x."""
    return _library(x).sqrt(x)


def exp(x: Any) -> Any:
    """Return e^x."""
    return _library(x).exp(x)


def log(x: Any) -> Any:
    """Return ln x."""
    return _library(x).log(x)


def log1p(x: Any) -> Any:
    """Return ln(1 + x)."""
    return _library(x).log1p(x)


def expm1(x: Any) -> Any:
    """Return e^x − 1."""
    return _library(x).expm1(x)


def tanh(x: Any) -> Any:
    """Return tanh x."""
    return _library(x).tanh(x)


def erf(x: Any) -> Any:
    """Return the error function of x."""
    library = _library(x)
    if library is not np:
        return library.special.erf(x)
    return math.erf(x) if np.ndim(x) == 0 else np.vectorize(math.erf, otypes=[np.float64])(x)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two, element by element; NaN where one is."""
    library = _library(a, b)
    return np.maximum(a, b) if library is np else library.maximum(*_alike(library, a, b))


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two, element by element; NaN where one is."""
    library = _library(a, b)
    return np.minimum(a, b) if library is np else library.minimum(*_alike(library, a, b))


def _alike(torch: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return a tensor and a number as two tensors."""
    like = a if isinstance(a, torch.Tensor) else b
    kind = {"dtype": like.dtype, "device": like.device}
    return tuple(x if isinstance(x, torch.Tensor) else torch.as_tensor(x, **kind) for x in (a, b))


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds, else b."""
    library = _library(condition, a, b)
    return library.where(condition, a, b)


def ones_like(x: Any) -> Any:
    """Return ones in the shape of an array or a tensor."""
    return _library(x).ones_like(x)


def divided(a: Any, b: Any) -> Any:
    """Return a/b without a warning: infinite or NaN where b is 0, as arrays and tensors have it."""
    if _library(a, b) is not np:
        return a / b
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(a, b)


def norm(x: Any) -> Any:
    """Return the Euclidean norm over the last axis."""
    return sqrt((x * x).sum(-1))
