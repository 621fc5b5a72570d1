"""A backend: it lists repositories and hands them out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from registry_core.domain.names import RepositoryName
from registry_core.ports.repository import Repository

__all__ = ["Catalog"]


@runtime_checkable
class Catalog(Protocol):
    """Every backend is one of these, and every wrapper is one around another."""

    @property
    @abstractmethod
    def registry(self) -> str:
        """What this backend is called in references: ``host[:port]``, ``oci:DIRECTORY``, ``memory:``."""

    @abstractmethod
    def repository(self, name: RepositoryName) -> Repository:
        """A repository by name, whether it exists or not: free of I/O, never fails."""

    @abstractmethod
    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """All repositories in ASCII order; the first step raises where listing fails.

        Args:
            after: Start behind this name, whether it exists or not.
            page_size: How many a server should be asked for at a time; changes nothing about what is listed.

        Raises:
            CatalogUnsupported: This backend does not list repositories.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and handles, and finish what is only seen once it is finished. Idempotent."""

    def discard(self) -> None:
        """Close, but throw away what only closing would show, such as a new archive. Idempotent.

        Most backends show at once what they are given, and have nothing to throw away.
        """
        self.close()
