"""Checks that everything is what it says."""
