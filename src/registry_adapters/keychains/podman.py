"""Podman's ``auth.json``, which skopeo and buildah use too (containers-auth.json(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry_adapters.keychains.config_file import FileKeychain
from registry_adapters.keychains.places import Place, podman_places

__all__ = ["AuthFileKeychain"]


class AuthFileKeychain(FileKeychain):
    """What ``podman login`` keeps, and after it what ``docker login`` does.

    ``$REGISTRY_AUTH_FILE``, used alone; else ``$XDG_RUNTIME_DIR/containers/auth.json`` (``/run/containers/UID`` where
    that is not set), ``$XDG_CONFIG_HOME/containers/auth.json`` (``~/.config`` where that is not set), and the files of
    ``DockerConfigKeychain``.

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
        places = podman_places(variables, home) if path is None else [Place(Path(path))]
        super().__init__(places, variables, seconds)
