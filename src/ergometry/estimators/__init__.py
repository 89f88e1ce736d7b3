"""Estimators: what the rows of a run say, as small state machines whose states merge, and their reading of a stored run."""
