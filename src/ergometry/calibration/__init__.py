"""Calibration: kernels with known work, measured on this machine, and what is fitted to them."""
