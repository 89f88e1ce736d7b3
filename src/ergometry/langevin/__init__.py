"""Langevin: certified mode, training at a known temperature, where the laws of thermodynamics are theorems."""

from ergometry.core.errors import MissingExtra

try:
    import torch as torch
except ImportError:
    raise MissingExtra(
        expected="torch", got="no such module", remedy="pip install 'ergometry[torch]': certified mode trains networks"
    ) from None
