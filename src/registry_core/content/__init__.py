"""Streams of bytes: where they come from, how they are verified, how much of them is read."""
