"""Where credentials come from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName

__all__ = ["Keychain"]


@runtime_checkable
class Keychain(Protocol):
    """Credentials by registry and repository."""

    @abstractmethod
    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """The credential for a repository, or ``None`` where this keychain has none.

        Args:
            registry: ``host[:port]``.
            repository: ``None`` for what belongs to no repository, such as the catalog.
        """
