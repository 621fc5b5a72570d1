"""The manifests, tags and referrers of one repository."""

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
    """Manifests by digest and by tag. Every method may be called from many threads at once."""

    @abstractmethod
    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository, where the backend can tell.
        """

    @abstractmethod
    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's exact bytes, verified against the digest where it was asked for by digest.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository, where the backend can tell.
            DigestMismatch: The backend holds other bytes.
            InvalidDocument: What it holds is no manifest.
            TooLarge: It is larger than the backend's limit for manifests.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
        """

    @abstractmethod
    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest under its digest and point tags at it. What a tag pointed at before stays.

        Whoever lists the referrers of the manifest's subject finds it from now on.

        Raises:
            BlobNotFound: A part of it is missing, and the backend insists; nothing is stored.
            InvalidDocument: The bytes are no manifest of their media type; nothing is stored.
            Unsupported: The backend does not take that media type or digest algorithm.
        """

    @abstractmethod
    def untag(self, tag: Tag) -> None:
        """Remove a tag; the manifest stays, with its other tags.

        Raises:
            ImageNotFound: No such tag.
            Unsupported: The backend does not remove tags alone.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Remove a manifest and every tag on it; what it was made of stays.

        Raises:
            ImageNotFound: No such manifest.
            Unsupported: The backend does not delete manifests.
        """

    @abstractmethod
    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags in ASCII order; the first step raises where listing fails.

        Args:
            after: Start behind this tag, whether it exists or not.
            page_size: How many a server should be asked for at a time; changes nothing about what is listed.

        Raises:
            RepositoryNotFound: No such repository.
        """

    @abstractmethod
    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests whose subject is that digest, each once, with artifact type and annotations.

        Args:
            subject: The manifest they point at; it need not exist.
            artifact_type: Only those of this type.
        """
