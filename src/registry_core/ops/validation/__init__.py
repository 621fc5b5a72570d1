"""Validation of images, indexes and repositories."""
