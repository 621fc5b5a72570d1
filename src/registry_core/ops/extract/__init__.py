"""Flatten the layers of an image: list and open files, extract to a directory, or write one tar."""
