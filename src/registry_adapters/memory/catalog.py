"""The catalog of a registry in memory."""

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
    """A registry that lives as long as this object. It can do everything the ports know.

    A repository exists as long as it holds a blob or a manifest. Manifests may be stored before their parts.

    Args:
        registry: What it is called in references and errors.
    """

    def __init__(self, registry: str = "memory:") -> None:
        self._state = State(registry)

    @property
    def registry(self) -> str:
        """What this backend is called."""
        return self._state.registry

    def repository(self, name: str) -> Repository:
        """A repository by name, whether it exists or not."""
        name = RepositoryName(name)
        return Repository(
            name, MemoryBlobs(self._state, name), MemoryManifests(self._state, name), self._state.registry
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """The repositories that hold something, in ASCII order, as they were at the first step."""
        checkpoint()
        with self._state.lock:
            names = self._state.names()
        for name in names:
            if after is None or name > after:
                checkpoint()
                yield name

    def close(self) -> None:
        """Nothing: there are no handles to let go of, and the content stays readable."""
