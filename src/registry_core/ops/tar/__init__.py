"""Strict reading and deterministic writing of layer tars."""
