"""Estimators: what the rows of a run say, as state machines that merge, and as read from a stored run."""
