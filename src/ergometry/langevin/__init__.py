"""Langevin: certified mode, training by dynamics of known temperature, where the laws of thermodynamics are theorems."""
