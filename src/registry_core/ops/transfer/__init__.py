"""Copies of manifests and everything they consist of between repositories, with or without a plan."""
