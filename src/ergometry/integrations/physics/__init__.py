"""The thermodynamic ledger's taps: what is read of a training process, each within its share of time."""
