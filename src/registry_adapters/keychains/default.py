"""The default keychain and the default credential store of a user."""

from __future__ import annotations

import os
from collections.abc import Mapping

from registry_adapters.keychains.docker_config import AuthFileKeychain, DockerConfigKeychain, podman_config_paths
from registry_adapters.keychains.sources import ChainKeychain, EnvironmentKeychain
from registry_core.ports.keychain import CredentialStore, Keychain

__all__ = ["default_keychain", "default_store"]


def default_keychain(
    environment: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None
) -> Keychain:
    """Return the user's keychain: environment variables, then podman's files, then Docker's. Reads nothing yet.

    Args:
        environment: Environment variables; those of the process if not given.
        home: Home directory; ``HOME`` if not given.
    """
    return ChainKeychain(EnvironmentKeychain(environment), AuthFileKeychain(environment=environment, home=home))


def default_store(
    environment: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None
) -> CredentialStore:
    """Return the user's credential store: the first file that ``default_keychain`` reads, or Docker's if none exists.

    So a stored credential is found by ``default_keychain``, and no entry of another file takes precedence.

    Args:
        environment: Environment variables; those of the process if not given.
        home: Home directory; ``HOME`` if not given.
    """
    variables = os.environ if environment is None else environment
    candidates = [candidate for candidate in podman_config_paths(variables, home) if not candidate.legacy]
    for candidate in candidates:
        if len(candidates) == 1 or candidate.path.is_file():
            return AuthFileKeychain(candidate.path, environment=variables)
    return DockerConfigKeychain(environment=variables, home=home)
