"""The operations with ociport, written as a user would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.benchmarks.programs.loop import main

from registry_adapters import open_client

if TYPE_CHECKING:
    from registry_core import Image


def pull(url: str, tag: str, directory: str, jobs: str = "4") -> None:
    """Pull an image into a new layout."""
    with open_client(url) as source, open_client(f"oci:{directory}") as target:
        source.copy_image(tag, target, tag, jobs=int(jobs))


def pull_unsynced(url: str, tag: str, directory: str) -> None:
    """Pull without waiting for the disk, like the other tools."""
    with open_client(url) as source, open_client(f"oci:{directory}", fsync=False) as target:
        source.copy_image(tag, target, tag, jobs=4)


def import_archive(file: str, tag: str, directory: str) -> None:
    """Import an image from an archive into a new layout."""
    with open_client(f"oci-archive:{file}") as source, open_client(f"oci:{directory}") as target:
        source.copy_image(tag, target, tag, jobs=4)


def push(directory: str, tag: str, url: str, jobs: str = "4") -> None:
    """Push the image of a layout to a registry."""
    with open_client(f"oci:{directory}") as source, open_client(url) as target:
        source.copy_image(tag, target, tag, jobs=int(jobs))


def copy(source_url: str, tag: str, target_url: str, jobs: str = "4") -> None:
    """Copy an image from one registry to another."""
    with open_client(source_url) as source, open_client(target_url) as target:
        source.copy_image(tag, target, tag, jobs=int(jobs))


def tags(url: str, count: str) -> None:
    """List all tags."""
    with open_client(url) as client:
        assert len(client.list_tags()) == int(count)


def lookups(url: str, count: str) -> None:
    """Resolve ``count`` tags, one after the other."""
    with open_client(url) as client:
        for number in range(int(count)):
            client.get_digest(f"v0.{number}")


def extract_tar(url: str, tag: str, file: str) -> None:
    """Flatten an image into a tar."""
    with open_client(url) as client, client.get_image(tag, "linux/amd64").extract() as tar, open(file, "wb") as output:
        while piece := tar.read(1 << 20):
            output.write(piece)


def extract_directory(url: str, tag: str, directory: str) -> None:
    """Extract an image into a directory."""
    with open_client(url) as client:
        image: Image = client.get_image(tag, "linux/amd64")
        image.extract_to(directory)


def _with_zlib(*arguments: str) -> None:
    """Run an operation with the zlib of the standard library, even if isal is installed."""
    sys.modules["isal"] = None  # type: ignore[assignment]
    name, *others = arguments
    _WORKS[name](*others)


_WORKS: Final[dict[str, Callable[..., None]]] = {
    "pull": pull,
    "pull_unsynced": pull_unsynced,
    "import": import_archive,
    "push": push,
    "copy": copy,
    "tags": tags,
    "lookups": lookups,
    "extract_tar": extract_tar,
    "extract_directory": extract_directory,
    "zlib": _with_zlib,
}

if __name__ == "__main__":
    main(_WORKS)
