"""Where credentials are looked for, and kept, unless somebody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry_adapters.keychains.docker_config import AuthFileKeychain, DockerConfigKeychain, podman_config_paths
from registry_adapters.keychains.sources import ChainKeychain, EnvironmentKeychain
from registry_core.ports.keychain import CredentialStore, Keychain

__all__ = ["default_keychain", "default_store"]


def default_keychain(environment: Mapping[str, str] | None = None, home: Path | None = None) -> Keychain:
    """What this user has: variables first, then podman's files, then Docker's. Nothing is read yet.

    Args:
        environment: Variables; the process's own if not given.
        home: The user's directory; ``HOME`` if not given.
    """
    return ChainKeychain(EnvironmentKeychain(environment), AuthFileKeychain(environment=environment, home=home))


def default_store(environment: Mapping[str, str] | None = None, home: Path | None = None) -> CredentialStore:
    """Where this user's credentials are kept: the first file that ``default_keychain`` finds, or Docker's if none.

    What is stored there is found there, and not hidden by an older entry of another file.

    Args:
        environment: Variables; the process's own if not given.
        home: The user's directory; ``HOME`` if not given.
    """
    variables = os.environ if environment is None else environment
    places = [place for place in podman_config_paths(variables, home) if not place.legacy]
    found = [place for place in places if len(places) == 1 or place.path.is_file()]
    if found:
        return AuthFileKeychain(found[0].path, environment=variables)
    return DockerConfigKeychain(environment=variables, home=home)
