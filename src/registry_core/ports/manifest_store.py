"""The port ``ManifestStore``: manifests, tags and referrers of one repository."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from typing import Protocol, runtime_checkable

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag

__all__ = ["ManifestStore"]


@runtime_checkable
class ManifestStore(Protocol):
    """Stores manifests by digest and tag. Safe for many threads."""

    @abstractmethod
    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Return media type, digest and size of a manifest.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist, if the backend can tell.
        """

    @abstractmethod
    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the exact bytes of a manifest, verified if it was requested by digest.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist, if the backend can tell.
            DigestMismatch: The bytes have another digest.
            InvalidDocument: The bytes are not a manifest.
            TooLarge: The manifest is larger than the limit of the backend.
            Unsupported: The manifest is a Docker schema 1 manifest, or its digest cannot be verified.
        """

    @abstractmethod
    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest under its digest and point tags to it. A manifest that loses a tag is kept.

        If the manifest has a subject, ``referrers`` of that subject lists it from now on.

        Args:
            manifest: Manifest to store.
            tags: Tags to set.

        Returns:
            Descriptor of the manifest.

        Raises:
            BlobNotFound: A part is missing and the backend requires it; nothing is stored.
            InvalidDocument: The bytes are not a manifest of the media type; nothing is stored.
            Unsupported: The backend does not accept the media type or the digest algorithm.
        """

    @abstractmethod
    def untag(self, tag: Tag) -> None:
        """Delete a tag. The manifest and its other tags stay.

        Raises:
            ImageNotFound: The tag does not exist.
            Unsupported: The backend cannot delete a tag without its manifest.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Delete a manifest and every tag that points to it. Its blobs and child manifests stay.

        Raises:
            ImageNotFound: The manifest does not exist.
            Unsupported: The backend does not delete manifests.
        """

    @abstractmethod
    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """Iterate over all tags in ASCII order. The first step raises if listing fails.

        Args:
            after: Start after this tag; it need not exist.
            page_size: Page size to request from a server; it does not limit the result.

        Raises:
            RepositoryNotFound: The repository does not exist.
        """

    @abstractmethod
    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """Iterate over the descriptors of the manifests that refer to a subject, each once.

        The descriptors hold artifact type and annotations.

        Args:
            subject: Digest of the subject; it need not exist.
            artifact_type: List only referrers of this type; empty lists all.
        """
