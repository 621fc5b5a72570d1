"""The blobs and the manifests of one repository in an archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from registry_adapters.archive.contents import Contents, Held
from registry_adapters.archive.growing import GrowingArchive
from registry_adapters.archive.medium import Stretch
from registry_core.content.source import ByteReader, ByteSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import selected
from registry_core.errors import BlobNotFound, ImageNotFound, RepositoryNotFound, Unsupported, during
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.manifest_store import ManifestStore
from registry_core.scope import checkpoint

__all__ = ["ArchiveBlobs", "ArchiveManifests"]


class ArchiveBlobs(BlobStore):
    """The blobs of one repository.

    Args:
        contents: What to read.
        growing: What to write; raises ``Unsupported`` for an archive that is finished.
        name: The repository's.
        label: The repository in errors, as ``registry/name``.
    """

    def __init__(
        self,
        contents: Callable[[], Contents],
        growing: Callable[[], GrowingArchive],
        name: RepositoryName,
        label: str,
    ) -> None:
        self._contents = contents
        self._growing = growing
        self._name = name
        self._label = label

    def stat(self, digest: Digest) -> int:
        """The size of a blob.

        Raises:
            BlobNotFound: It is not in this repository.
            LayoutError: The archive is broken.
        """
        return self._find(digest).size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob's stretch of the archive, unverified.

        Raises:
            BlobNotFound: It is not in this repository.
            LayoutError: The archive is broken.
        """
        return self._find(digest).open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Append a blob, after those that are being put. Other repositories' blobs are not stored twice.

        Raises:
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The archive is finished, or the digest's algorithm cannot be verified.
        """
        checkpoint()
        with during("", self._at(digest)):
            self._growing().put_blob(self._name, digest, size, source)

    def delete(self, digest: Digest) -> None:
        """Never: an archive only grows.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("nothing is removed from an archive", reference=self._at(digest))

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another repository of the archive.

        Raises:
            Unsupported: The archive is finished.
        """
        checkpoint()
        with during("", self._at(digest)):
            return self._growing().mount(self._name, digest, origin)

    def _find(self, digest: Digest) -> Stretch:
        checkpoint()
        with during("", self._at(digest)):
            contents = self._contents()
            name = contents.called(self._name)
            found = None if name is None else contents.blob(name, digest)
            if found is None:
                raise BlobNotFound("no such blob")
            return found

    def _at(self, digest: Digest) -> str:
        return f"{self._label}@{digest}"


class ArchiveManifests(ManifestStore):
    """The manifests of one repository.

    Args:
        contents: What to read.
        growing: What to write; raises ``Unsupported`` for an archive that is finished.
        name: The repository's.
        label: The repository in errors, as ``registry/name``.
    """

    def __init__(
        self,
        contents: Callable[[], Contents],
        growing: Callable[[], GrowingArchive],
        name: RepositoryName,
        label: str,
    ) -> None:
        self._contents = contents
        self._growing = growing
        self._name = name
        self._label = label

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository.
            SizeMismatch: It is not as long as its entry says.
            LayoutError: The archive is broken, or ambiguous about the tag.
        """
        with during("", self._at(reference)):
            return self._find(reference).check()

    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's bytes, verified; made, where an image was saved without one.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository.
            DigestMismatch: It hashes to something else.
            SizeMismatch: It is not as long as its entry says.
            InvalidDocument: It is no manifest of the type that its entry says.
            TooLarge: It is larger than 8 MiB.
            LayoutError: The archive is broken, or ambiguous about the tag.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
        """
        with during("", self._at(reference)):
            return self._find(reference).read()

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Append a manifest and point tags at it; its parts need not be there.

        Raises:
            InvalidDocument: The bytes are no manifest of their media type; nothing is stored.
            InvalidName: The archive's form has no names for these tags; nothing is stored.
            TooLarge: It is larger than 8 MiB.
            Unsupported: The archive is finished, or the digest's algorithm cannot be verified.
        """
        checkpoint()
        with during("", self._label):
            return self._growing().put_manifest(self._name, manifest, tags)

    def untag(self, tag: Tag) -> None:
        """Never: an archive only grows.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("no tag is removed from an archive", reference=self._at(tag))

    def delete(self, digest: Digest) -> None:
        """Never: an archive only grows.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("nothing is removed from an archive", reference=self._at(digest))

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags in ASCII order, as they were at the first step.

        Raises:
            RepositoryNotFound: No such repository.
            LayoutError: The archive is broken.
        """
        checkpoint()
        with during("", self._label):
            contents, name = self._existing()
            tags = contents.tags(name)
        for tag in tags:
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests whose subject is that digest, ordered by their own digests.

        Raises:
            LayoutError: The archive is broken.
        """
        checkpoint()
        with during("", self._at(subject)):
            contents = self._contents()
            name = contents.called(self._name)
            found = [] if name is None else contents.referrers(name, subject)
        for entry in selected(found, artifact_type):
            checkpoint()
            yield entry

    def _find(self, reference: Tag | Digest) -> Held:
        checkpoint()
        contents, name = self._existing()
        found = contents.manifest(name, reference)
        if found is None:
            raise ImageNotFound("no such manifest")
        return found

    def _existing(self) -> tuple[Contents, RepositoryName]:
        contents = self._contents()
        name = contents.called(self._name)
        if name is None:
            raise RepositoryNotFound(f"no such repository in {contents.nature}")
        return contents, name

    def _at(self, reference: Tag | Digest) -> str:
        return f"{self._label}{'@' if isinstance(reference, Digest) else ':'}{reference}"
