"""The list of all cases."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.case import Case
from tests.benchmarks.implementations import Tool
from tests.benchmarks.moving import MOVED, copy, disk, load, pull, push, wide
from tests.benchmarks.reading import extract_directory, extract_tar, lookups, tags

__all__ = ["WANTED", "cases"]

WANTED: Final = ("crane", "skopeo", "oras", "regctl", "umoci", "curl")


def cases(found: dict[str, list[Tool]], tag_count: int) -> list[Case]:
    """All cases.

    Args:
        found: Installed programs of other tools.
        tag_count: How many tags the repository with many of them has.
    """
    return [
        *(pull(image, found) for image in MOVED),
        *(push(image, found) for image in MOVED),
        *(copy(image, found) for image in MOVED),
        *(load(image, found) for image in MOVED),
        disk("many", found),
        extract_tar(found),
        extract_directory(found),
        tags(found, tag_count),
        lookups(found),
        wide(),
    ]
