"""Graphs moved from repository to repository: planned first, or at once."""
