"""The landscape of a loss: curvature, its spectrum, and what it says of information. Torch alone, pure functions."""
