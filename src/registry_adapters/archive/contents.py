"""The contents of an archive, as the stores see them: the same for an existing archive and for one being written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from registry_adapters.archive.file_io import FileSlice
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ROOT, ImageName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import DigestMismatch, SizeMismatch
from registry_core.ports.image_names import NamedImage

__all__ = ["ArchiveContents", "StoredManifest"]


class StoredManifest(msgspec.Struct, frozen=True):
    """A manifest in an archive.

    Args:
        descriptor: Descriptor of the manifest.
        content: Position of the manifest in the archive, or its bytes if it was synthesized.
    """

    descriptor: Descriptor
    content: FileSlice | bytes

    def check_size(self) -> Descriptor:
        """Return media type, digest and size after comparing the size with the descriptor.

        Raises:
            SizeMismatch: The size is not the one in the descriptor.
        """
        size = len(self.content) if isinstance(self.content, bytes) else self.content.size
        if size != self.descriptor.size:
            raise SizeMismatch(
                f"the manifest has {size} bytes instead of {self.descriptor.size}",
                expected=self.descriptor.size,
                actual=size,
            )
        return Descriptor(media_type=self.descriptor.media_type, digest=self.descriptor.digest, size=size)

    def resolve(self) -> Descriptor:
        """Return media type, digest and size. The manifest is read if its entry has no media type.

        Raises:
            SizeMismatch: The size is not the one in the descriptor.
            IntegrityError: The manifest was read, and is corrupt.
        """
        return self.check_size() if self.descriptor.media_type else self.read().descriptor

    def read(self) -> RawManifest:
        """Return the verified manifest.

        Raises:
            SizeMismatch: The size is not the one in the descriptor.
            DigestMismatch: The bytes have another digest.
            InvalidDocument: The bytes are not a manifest of the media type.
            TooLarge: The manifest is larger than 8 MiB.
            Unsupported: It is a Docker schema 1 manifest, or the digest cannot be verified.
        """
        expected = self.check_size()
        content = self.content
        if not isinstance(content, bytes):
            content = content.read(MANIFEST_LIMIT, "a manifest")
        algorithm = expected.digest.algorithm
        actual = Digest.of(content, algorithm)
        if actual != expected.digest:
            raise DigestMismatch(
                f"the content has the digest {actual}, expected {expected.digest}",
                expected=str(expected.digest),
                actual=str(actual),
            )
        return RawManifest.of(content, expected=expected.media_type, algorithm=algorithm)


class ArchiveContents(Protocol):
    """Repositories of an archive by their canonical names. Safe for many threads."""

    @property
    def description(self) -> str:
        """The archive in error messages, such as ``this archive``."""
        ...

    def names(self) -> list[RepositoryName]:
        """Return the names of the repositories, in ASCII order."""
        ...

    def images(self, repository: RepositoryName = ROOT) -> Iterator[NamedImage]:
        """Iterate over the images that have a name or are not part of another image, by repository in ASCII order.

        Args:
            repository: Repository to list; all are listed for the empty name.

        Raises:
            LayoutError: An image is malformed.
        """
        ...

    def named(self, name: ImageName, repository: RepositoryName = ROOT) -> StoredManifest | None:
        """Return the manifest that has a name as written, or else one whose name means the same; ``None`` without one.

        Args:
            name: Name to find.
            repository: Repository to search; all are searched for the empty name.

        Raises:
            LayoutError: Several images have the name.
        """
        ...

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """Return the name under which the archive has a repository; ``None`` if the repository does not exist."""
        ...

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Return the position of a blob; ``None`` if the repository does not have it."""
        ...

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """Return a manifest by tag or digest; ``None`` if the repository does not have it.

        Raises:
            LayoutError: Several images have the tag.
        """
        ...

    def tags(self, name: RepositoryName) -> list[Tag]:
        """Return the tags of a repository, in ASCII order."""
        ...

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """Return the descriptors of the manifests that refer to a subject, ordered by digest."""
        ...
