"""Where credentials come from, and where they are kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.domain.auth import Credential
from registry_core.domain.names import RepositoryName

__all__ = ["CredentialStore", "Keychain"]


@runtime_checkable
class Keychain(Protocol):
    """Credentials by registry and repository."""

    @abstractmethod
    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """The credential for a repository, or ``None`` where this keychain has none.

        Args:
            registry: ``host[:port]``; the port is left out where it is the one of https.
            repository: ``None`` for what belongs to no repository, such as the catalog.
        """


@runtime_checkable
class CredentialStore(Keychain, Protocol):
    """A keychain that can be written to: what ``login`` and ``logout`` need."""

    @abstractmethod
    def store(self, registry: str, credential: Credential) -> None:
        """Keep a credential for all repositories of a registry, in place of the one that was kept before.

        Args:
            registry: ``host[:port]``.
            credential: Anything but ``Anonymous``.

        Raises:
            InvalidName: The registry is none.
            ConfigError: This credential, or any, cannot be kept here.
        """

    @abstractmethod
    def erase(self, registry: str) -> None:
        """Forget what is kept for a registry as a whole; nothing happens where there is nothing.

        Args:
            registry: ``host[:port]``.

        Raises:
            InvalidName: The registry is none.
            ConfigError: It cannot be forgotten here.
        """
