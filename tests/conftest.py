"""Settings of the whole suite."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadlines: a slow machine is no failure. Where CI is set the examples are the same on every run.
settings.register_profile("here", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("here")
