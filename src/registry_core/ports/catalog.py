"""A backend: it lists repositories and hands them out.

One repository: a name and its stores.

Where blobs lie that are read through a repository put together from others.

Layers that are kept outside of registries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import msgspec

from registry_core.content.streams import ByteReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["BlobLocation", "BlobLocator", "Catalog", "ForeignLayers", "Repository"]


class BlobLocation(msgspec.Struct, frozen=True):
    """A repository of a registry.

    Args:
        registry: What the backend is called.
        name: Of the repository.
    """

    registry: str
    name: RepositoryName


@runtime_checkable
class BlobLocator(Protocol):
    """Knows where each blob lies. May be called from many threads at once."""

    @abstractmethod
    def home(self, digest: Digest) -> BlobLocation | None:
        """Where a blob lies; ``None`` where it lies in no registry, or nobody knows."""


@runtime_checkable
class ForeignLayers(Protocol):
    """Content at the URLs of its descriptor. May be called from many threads at once.

    A registry says what these URLs are, so they are gone to without credentials, and nowhere that the registry could
    not have meant.
    """

    @abstractmethod
    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        """A reader over the content, from the byte at ``start`` on, and never longer than the descriptor says.

        From the first byte on it is verified; from a later one, it is up to whoever has the bytes before it.

        Raises:
            BlobNotFound: The descriptor has no URLs, or nothing is there; raised by this call, not by the first read.
            ProtocolError: None of them may be gone to.
            RegistryError: None of them answers.
        """


class Repository(msgspec.Struct, frozen=True):
    """A repository of some backend, or anything that can be read or written like one.

    Args:
        name: Its path inside the backend.
        blobs: Its blobs.
        manifests: Its manifests, tags and referrers.
        registry: What the backend is called; repositories of one registry may mount each other's blobs.
        foreign_layers: Who follows the URLs of its layers for those who ask for that; ``None`` for nobody.
        blob_locator: Finds its blobs if it was assembled from other repositories; ``None`` where it holds them itself.
    """

    name: RepositoryName
    blobs: BlobStore
    manifests: ManifestStore
    registry: str = ""
    foreign_layers: ForeignLayers | None = None
    blob_locator: BlobLocator | None = None

    def __str__(self) -> str:
        """``registry/name``."""
        return "/".join(part for part in (self.registry, self.name) if part)

    def at(self, reference: str) -> str:
        """How a tag or digest of it is written: ``registry/name:tag`` or ``registry/name@digest``."""
        return f"{self}{'@' if isinstance(reference, Digest) else ':'}{reference}"

    def blob_location(self, digest: Digest) -> BlobLocation | None:
        """In which repository of which registry a blob lies, for those who could mount it from there."""
        if self.blob_locator is not None:
            return self.blob_locator.home(digest)
        return BlobLocation(self.registry, self.name) if self.registry else None


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
