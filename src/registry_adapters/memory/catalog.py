"""The memory backend: a catalog whose content lives as long as the object."""

from __future__ import annotations

from collections.abc import Iterator

from registry_adapters.memory.blobs import MemoryBlobs
from registry_adapters.memory.manifests import MemoryManifests
from registry_adapters.memory.state import State
from registry_core.cancellation import checkpoint
from registry_core.domain.names import RepositoryName
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["MemoryCatalog"]


class MemoryCatalog(Catalog):
    """A registry in memory. It supports every operation of the ports.

    A repository exists while it holds a blob or a manifest. A manifest may be stored before its blobs.

    Args:
        registry: Name of the catalog in references and errors.
    """

    def __init__(self, registry: str = "memory:") -> None:
        self._state = State(registry)

    @property
    def registry(self) -> str:
        """Name of the catalog in references and errors."""
        return self._state.registry

    def repository(self, name: str) -> Repository:
        """Return a repository, whether it exists or not.

        Raises:
            InvalidName: The text is not a repository name.
        """
        name = RepositoryName(name)
        return Repository(
            name, MemoryBlobs(self._state, name), MemoryManifests(self._state, name), self._state.registry
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """Iterate over the existing repositories in ASCII order, as of the first step."""
        checkpoint()
        with self._state.lock:
            names = self._state.names()
        for name in names:
            if after is None or name > after:
                checkpoint()
                yield name

    def close(self) -> None:
        """Do nothing: no resources are held, and the content stays readable."""
