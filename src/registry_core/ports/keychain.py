"""The ports ``Keychain`` and ``CredentialStore``: credentials by registry."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.domain.auth import Credential
from registry_core.domain.names import RepositoryName

__all__ = ["CredentialStore", "Keychain"]


@runtime_checkable
class Keychain(Protocol):
    """Looks up credentials by registry and repository."""

    @abstractmethod
    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential for a repository, or ``None`` if this keychain has none.

        Args:
            registry: ``host[:port]``, without the port if it is 443.
            repository: Repository of the request; ``None`` for requests without one, such as the catalog.
        """


@runtime_checkable
class CredentialStore(Keychain, Protocol):
    """A keychain that can store and erase credentials, for ``login`` and ``logout``."""

    @abstractmethod
    def store(self, registry: str, credential: Credential) -> None:
        """Store the credential for all repositories of a registry, replacing the stored one.

        Args:
            registry: ``host[:port]``.
            credential: Any credential except ``Anonymous``.

        Raises:
            InvalidName: The registry name is malformed.
            ConfigError: The credential cannot be stored here.
        """

    @abstractmethod
    def erase(self, registry: str) -> None:
        """Erase the credential stored for a registry, if there is one.

        Args:
            registry: ``host[:port]``.

        Raises:
            InvalidName: The registry name is malformed.
            ConfigError: The credential cannot be erased here.
        """
