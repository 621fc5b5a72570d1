"""Credentials for as long as the program runs; for tests above all."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from registry_adapters.keychains.names import canonical, same, spellings
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain.access import Anonymous, Credential
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError
from registry_core.ports.keychain import CredentialStore

__all__ = ["MemoryKeychain"]


class MemoryKeychain(Sealed, CredentialStore):
    """A store in memory. Safe for many threads.

    Args:
        credentials: What is in it from the start, by ``host[:port]``.

    Raises:
        InvalidName: A key is anything but ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential] | None = None) -> None:
        self._lock = threading.Lock()
        self._credentials = {canonical(host): one for host, one in (credentials or {}).items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What is kept for that registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        with self._lock:
            found = [self._credentials.get(name) for name in spellings(registry)]
        return next((credential for credential in found if credential is not None), None)

    def store(self, registry: str, credential: Credential) -> None:
        """Keep a credential.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: ``Anonymous`` is nothing to keep.
        """
        name = canonical(registry)
        if isinstance(credential, Anonymous):
            raise ConfigError("no credentials are nothing to keep")
        with self._lock:
            self._credentials = {key: one for key, one in self._credentials.items() if key not in same(name)}
            self._credentials[name] = credential

    def erase(self, registry: str) -> None:
        """Forget what is kept for a registry.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        names = same(registry)
        with self._lock:
            for name in names:
                self._credentials.pop(name, None)

    def __repr__(self) -> str:
        """The registries, without the credentials."""
        with self._lock:
            return f"MemoryKeychain({', '.join(sorted(self._credentials))})"
