"""What the training scripts here have in common: where their whole state goes when they end."""

import random

import numpy as np
import torch

# Every stream is seeded, so that whoever draws from one leaves a trace in the state saved at the end.
random.seed(0)
np.random.seed(0)


def save(path="state.pt", **parts):
    """Save the state of models, optimizers and the like, with that of every random stream."""
    state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
    state["random"] = [torch.get_rng_state(), random.getstate(), np.random.get_state()]
    torch.save(state, path)
