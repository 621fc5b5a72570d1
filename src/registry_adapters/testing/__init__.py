"""For applications' own tests: registries that fail on demand, and pytest fixtures for them (extra ``testing``)."""
