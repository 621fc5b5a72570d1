"""Where Docker and podman keep credentials; nothing is looked at here (containers-auth.json(5))."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["Place", "docker_places", "podman_places"]


class Place(msgspec.Struct, frozen=True):
    """A file that may be there.

    Args:
        path: Of the file.
        legacy: Whether it is a ``.dockercfg``.
    """

    path: Path
    legacy: bool = False


def docker_places(environment: Mapping[str, str], home: Path | None) -> list[Place]:
    """Docker's files, in the order in which they are read; the first is the one that is written.

    Args:
        environment: ``DOCKER_CONFIG`` names a directory.
        home: The user's directory; ``HOME`` of the environment, or what the system says, if not given.
    """
    directory = environment.get("DOCKER_CONFIG")
    house = _home(environment, home)
    places = [Place(Path(directory, "config.json"))] if directory else []
    if house is not None:
        if not directory:
            places.append(Place(house / ".docker" / "config.json"))
        places.append(Place(house / ".dockercfg", legacy=True))
    return places


def podman_places(environment: Mapping[str, str], home: Path | None) -> list[Place]:
    """Podman's files and then Docker's, in the order in which they are read; the first is the one that is written.

    Args:
        environment: ``REGISTRY_AUTH_FILE`` names a file that is used alone; else ``XDG_RUNTIME_DIR``,
            ``XDG_CONFIG_HOME`` and ``DOCKER_CONFIG`` name directories.
        home: The user's directory; ``HOME`` of the environment, or what the system says, if not given.
    """
    alone = environment.get("REGISTRY_AUTH_FILE")
    if alone:
        return [Place(Path(alone))]
    house = _home(environment, home)
    found = [_runtime(environment)]
    directory = _absolute(environment.get("XDG_CONFIG_HOME")) or (house / ".config" if house else None)
    found.append(directory / "containers" / "auth.json" if directory else None)
    return [Place(path) for path in found if path is not None] + docker_places(environment, home)


def _runtime(environment: Mapping[str, str]) -> Path | None:
    """Where credentials of a session are; only Linux has such a place for everyone."""
    named = _absolute(environment.get("XDG_RUNTIME_DIR"))
    if named is not None:
        return named / "containers" / "auth.json"
    return Path("/run/containers", str(os.getuid()), "auth.json") if sys.platform.startswith("linux") else None


def _absolute(text: str | None) -> Path | None:
    """A relative path in an XDG variable is to be ignored, says its specification."""
    return Path(text) if text and os.path.isabs(text) else None


def _home(environment: Mapping[str, str], home: Path | None) -> Path | None:
    if home is not None:
        return home
    named = environment.get("HOME")
    if named:
        return Path(named)
    try:
        return Path.home()
    except RuntimeError:  # a user whom the system does not know, as in many containers
        return None
