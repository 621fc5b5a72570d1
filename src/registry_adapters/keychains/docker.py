"""Docker's ``config.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry_adapters.keychains.config_file import FileKeychain
from registry_adapters.keychains.places import Place, docker_places

__all__ = ["DockerConfigKeychain"]


class DockerConfigKeychain(FileKeychain):
    """What ``docker login`` keeps: ``$DOCKER_CONFIG/config.json``, or ``~/.docker/config.json``; then ``~/.dockercfg``.

    Args:
        path: One file to use instead.
        environment: Variables; the process's own if not given.
        home: The user's directory; ``HOME`` if not given.
        seconds: How long a credential helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
        seconds: float = 30.0,
    ) -> None:
        variables = os.environ if environment is None else environment
        places = docker_places(variables, home) if path is None else [Place(Path(path))]
        super().__init__(places, variables, seconds)
