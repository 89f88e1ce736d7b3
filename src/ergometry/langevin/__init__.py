"""Langevin: certified mode, training at a known temperature, where the laws of thermodynamics are theorems."""
