"""Property tests: few examples, and no deadline, since a busy machine is no fault."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("quick", max_examples=40, deadline=None)
settings.load_profile("quick")
