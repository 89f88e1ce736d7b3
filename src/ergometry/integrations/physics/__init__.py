"""The thermodynamic ledger's taps: what is read of a training process beyond its phases, each within its share of time."""
