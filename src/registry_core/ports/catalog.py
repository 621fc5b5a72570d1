"""Backends and repositories: ``Catalog``, ``Repository``, and two optional ports of a repository."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import msgspec

from registry_core.content.streams import ByteReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.domain.reference import join_reference
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.image_names import ImageNames
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["BlobLocation", "BlobLocator", "Catalog", "ForeignLayers", "Repository"]


class BlobLocation(msgspec.Struct, frozen=True):
    """The repository of a registry that holds a blob.

    Args:
        registry: Name of the backend; see ``Catalog.registry``.
        name: Name of the repository.
    """

    registry: str
    name: RepositoryName


@runtime_checkable
class BlobLocator(Protocol):
    """Finds the repository that holds a blob. Safe for many threads."""

    @abstractmethod
    def locate(self, digest: Digest) -> BlobLocation | None:
        """Return the repository that holds a blob; ``None`` if it is unknown or not in a registry."""


@runtime_checkable
class ForeignLayers(Protocol):
    """Reads layers from the ``urls`` of their descriptors. Safe for many threads.

    A registry chooses these URLs. They are requested without credentials and only as the URL policy allows.
    """

    @abstractmethod
    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        """Open the content at the byte ``start``. The reader never returns more bytes than the descriptor says.

        A reader that starts at 0 verifies the content. With a later start, the caller has to verify it.

        Raises:
            BlobNotFound: The descriptor has no URLs, or no URL has the content. Raised here, not by the first read.
            ProtocolError: The URL policy allows none of the URLs.
            RegistryError: No URL could be read.
        """


class Repository(msgspec.Struct, frozen=True):
    """A repository of a backend, or anything that can be read or written like one.

    Args:
        name: Path inside the backend.
        blobs: Blob store of the repository.
        manifests: Manifests, tags and referrers of the repository.
        registry: Name of the backend. Repositories with the same registry may mount blobs from each other.
        foreign_layers: Reads layers from the ``urls`` of their descriptors; ``None`` if the backend does not.
        blob_locator: Finds the repository of each blob, for a repository assembled from others; ``None`` for a
            repository that holds its blobs itself.
        names: Names of images as they are written in a layout or archive; ``None`` if the backend has only tags.
    """

    name: RepositoryName
    blobs: BlobStore
    manifests: ManifestStore
    registry: str = ""
    foreign_layers: ForeignLayers | None = None
    blob_locator: BlobLocator | None = None
    names: ImageNames | None = None

    def __str__(self) -> str:
        """Return ``registry/name``."""
        return "/".join(part for part in (self.registry, self.name) if part)

    def at(self, reference: str) -> str:
        """Return the full reference of a tag or digest: ``registry/name:tag`` or ``registry/name@digest``."""
        return join_reference(self, reference)

    def blob_location(self, digest: Digest) -> BlobLocation | None:
        """Return the repository from which a blob can be mounted; ``None`` if there is none."""
        if self.blob_locator is not None:
            return self.blob_locator.locate(digest)
        return BlobLocation(self.registry, self.name) if self.registry else None


@runtime_checkable
class Catalog(Protocol):
    """A backend: lists repositories and returns them by name. Safe for many threads."""

    @property
    @abstractmethod
    def registry(self) -> str:
        """Name of the backend in references: ``host[:port]``, ``oci:DIRECTORY``, ``memory:``."""

    @abstractmethod
    def repository(self, name: str) -> Repository:
        """Return a repository, whether it exists or not. Does no I/O.

        Args:
            name: Repository name; text is parsed as ``RepositoryName``.

        Raises:
            InvalidName: The text is not a repository name.
        """

    @abstractmethod
    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """Iterate over all repositories in ASCII order. The first step raises if listing fails.

        Args:
            after: Start after this name; it need not exist.
            page_size: Page size to request from a server; it does not limit the result.

        Raises:
            CatalogUnsupported: The backend does not list repositories.
        """

    @abstractmethod
    def close(self) -> None:
        """Close connections and files, and publish content that only becomes visible on close. Idempotent."""

    def discard(self) -> None:
        """Close, and drop content that only becomes visible on close, such as a new archive. Idempotent.

        Backends that publish content at once need not override this.
        """
        self.close()
