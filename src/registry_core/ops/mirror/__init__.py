"""Mirrors: rules that select repositories and tags, copies, and the removal of tags."""
