"""Counts of work: FLOP, bytes and messages of each operator that runs, by module and phase, once per signature."""
