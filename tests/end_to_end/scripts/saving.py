"""What the training scripts here have in common: where their whole state goes when they end."""

import random
import sys

import torch


def save(path="state.pt", **parts):
    """Save the state of models, optimizers and the like, with that of every random stream."""
    state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
    state["random"] = [torch.get_rng_state(), random.getstate()]
    if "numpy" in sys.modules:
        state["random"].append(sys.modules["numpy"].random.get_state())
    torch.save(state, path)
