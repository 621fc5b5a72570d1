"""What an archive holds: the one question that the stores ask, of archives that are finished and of such that grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from registry_adapters.archive.file_io import FileSlice
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import DigestMismatch, SizeMismatch

__all__ = ["ArchiveContents", "ArchivedImage", "StoredManifest"]


class ArchivedImage(msgspec.Struct, frozen=True):
    """An image, an index or an artifact in an archive, as one of its repositories has it.

    Args:
        repository: Which one; the empty name for what has no name in the archive.
        tags: What it is called there, in ASCII order; none for what is known by its digest only.
        descriptor: Its type, digest and size.
    """

    repository: RepositoryName
    tags: tuple[Tag, ...]
    descriptor: Descriptor


class StoredManifest(msgspec.Struct, frozen=True):
    """A manifest in an archive.

    Args:
        descriptor: Its type, digest and size.
        content: Where its bytes are, or the bytes themselves where they were made.
    """

    descriptor: Descriptor
    content: FileSlice | bytes

    def check(self) -> Descriptor:
        """Type, digest and size, and nothing else.

        Raises:
            SizeMismatch: It is not as long as it was said to be.
        """
        size = len(self.content) if isinstance(self.content, bytes) else self.content.size
        if size != self.descriptor.size:
            raise SizeMismatch("it has another size", expected=self.descriptor.size, actual=size)
        return Descriptor(media_type=self.descriptor.media_type, digest=self.descriptor.digest, size=size)

    def read(self) -> RawManifest:
        """Its bytes, verified.

        Raises:
            SizeMismatch: It is not as long as it was said to be.
            DigestMismatch: It hashes to something else.
            InvalidDocument: It is no manifest of its type.
            TooLarge: It is larger than 8 MiB.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
        """
        expected = self.check()
        content = self.content
        if not isinstance(content, bytes):
            content = content.content(MANIFEST_LIMIT, "a manifest")
        algorithm = expected.digest.algorithm
        actual = Digest.of(content, algorithm)
        if actual != expected.digest:
            raise DigestMismatch(f"hashes to {actual}", expected=str(expected.digest), actual=str(actual))
        return RawManifest.of(content, expected=expected.media_type, algorithm=algorithm)


class ArchiveContents(Protocol):
    """Repositories by their canonical names. Every method may be called from many threads at once."""

    @property
    def description(self) -> str:
        """What kind of archive it is, for whoever misses something in it."""
        ...

    def names(self) -> list[RepositoryName]:
        """The repositories, in ASCII order."""
        ...

    def images(self) -> Iterator[ArchivedImage]:
        """Whatever has a name or is no part of anything else, by repositories in ASCII order.

        Raises:
            LayoutError: A name is several images', or an image is broken.
        """
        ...

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """A repository's name as the archive spells it; ``None`` if there is no such repository."""
        ...

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Where a blob is."""
        ...

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """A manifest by tag or digest.

        Raises:
            LayoutError: The tag is several manifests'.
        """
        ...

    def tags(self, name: RepositoryName) -> list[Tag]:
        """The tags of a repository, in ASCII order."""
        ...

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """What refers to a manifest, in the order of the digests."""
        ...
