"""One archive as a catalog.

The blobs and the manifests of one repository in an archive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextvars import Context
from types import TracebackType
from typing import Self

from registry_adapters.archive.contents import ArchiveContents, ArchivedImage, StoredManifest
from registry_adapters.archive.file_io import FileSlice, open_random_access
from registry_adapters.archive.names import ArchiveForm
from registry_adapters.archive.reader import ArchiveReader
from registry_adapters.archive.writer import ArchiveWriter
from registry_core.cancellation import CancellableLock, checkpoint
from registry_core.content.streams import ByteReader, ByteSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import join_reference
from registry_core.domain.referrers import filter_by_artifact_type
from registry_core.errors import (
    BlobNotFound,
    ConfigError,
    ImageNotFound,
    RepositoryNotFound,
    Unsupported,
    error_reference,
)
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["ArchiveBlobs", "ArchiveCatalog", "ArchiveManifests"]


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
        contents: Callable[[], ArchiveContents],
        growing: Callable[[], ArchiveWriter],
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
        with error_reference(self._at(digest)):
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
        with error_reference(self._at(digest)):
            return self._growing().mount(self._name, digest, origin)

    def _find(self, digest: Digest) -> FileSlice:
        checkpoint()
        with error_reference(self._at(digest)):
            contents = self._contents()
            name = contents.canonical_name(self._name)
            found = None if name is None else contents.blob(name, digest)
            if found is None:
                raise BlobNotFound("no such blob")
            return found

    def _at(self, digest: Digest) -> str:
        return join_reference(self._label, digest)


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
        contents: Callable[[], ArchiveContents],
        growing: Callable[[], ArchiveWriter],
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
        with error_reference(self._at(reference)):
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
        with error_reference(self._at(reference)):
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
        with error_reference(self._label):
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
        with error_reference(self._label):
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
        with error_reference(self._at(subject)):
            contents = self._contents()
            name = contents.canonical_name(self._name)
            found = [] if name is None else contents.referrers(name, subject)
        for entry in filter_by_artifact_type(found, artifact_type):
            checkpoint()
            yield entry

    def _find(self, reference: Tag | Digest) -> StoredManifest:
        checkpoint()
        contents, name = self._existing()
        found = contents.manifest(name, reference)
        if found is None:
            raise ImageNotFound("no such manifest")
        return found

    def _existing(self) -> tuple[ArchiveContents, RepositoryName]:
        contents = self._contents()
        name = contents.canonical_name(self._name)
        if name is None:
            raise RepositoryNotFound(f"no such repository in {contents.description}")
        return contents, name

    def _at(self, reference: Tag | Digest) -> str:
        return join_reference(self._label, reference)


class ArchiveCatalog(Catalog):
    """The images in one file: read where the file exists, written where it does not.

    A new archive takes its place when the catalog is closed, at once and whole; until then, and after ``discard``,
    nobody sees anything of it. As a context manager, it is discarded where the block raises. What is finished is
    never changed: write a new one, with ``replace`` in the old one's place.

    Args:
        path: The file.
        form: How a new archive is written; reading goes by what is in the file.
        replace: Begin a new archive, even where there is one; a pipe or a device is written to then, not read.
        fsync: Whether ``close`` returns only once the disk has it.

    Raises:
        ConfigError: The path is empty, or no path at all.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        form: ArchiveForm = ArchiveForm.DOCKER,
        *,
        replace: bool = False,
        fsync: bool = True,
    ) -> None:
        text = os.fspath(path)
        if not text or "\0" in text:
            raise ConfigError(f"not a file: {text!r:.100}")
        self._registry = f"{form.value}:{text}"
        # Made absolute now: the place must not move with the process's working directory.
        self._path = os.path.abspath(text)
        self._form = form
        self._replace = replace
        self._fsync = fsync
        self._lock = CancellableLock()
        self._finished: ArchiveReader | None = None
        self._new: ArchiveWriter | None = None

    @property
    def registry(self) -> str:
        """``docker-archive:`` or ``oci-archive:``, and the file."""
        return self._registry

    def repository(self, name: str) -> Repository:
        """A repository by name, whether it exists or not; ``debian`` may be another spelling of ``library/debian``."""
        name = RepositoryName(name)
        label = "/".join(part for part in (self._registry, name) if part)
        return Repository(
            name=name,
            blobs=ArchiveBlobs(self._contents, self._growing, name, label),
            manifests=ArchiveManifests(self._contents, self._growing, name, label),
            registry=self._registry,
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """The repositories that images of the archive are named by, in ASCII order, as they were at the first step.

        Raises:
            LayoutError: The archive is broken.
        """
        checkpoint()
        with error_reference(self._registry):
            names = self._contents().names()
        for name in names:
            if after is None or name > after:
                checkpoint()
                yield name

    def images(self) -> Iterator[ArchivedImage]:
        """Whatever the archive lists, by repositories; also what has no tag, and can be asked for by digest only.

        Raises:
            LayoutError: The archive is broken, or a name in it is several images'.
        """
        checkpoint()
        with error_reference(self._registry):
            for image in self._contents().images():
                checkpoint()
                yield image

    def close(self) -> None:
        """Give a new archive its name, if an image was put into it. Whoever asks after that reads it. Idempotent.

        Raises:
            Unavailable: The disk is full, or failed; nothing is left behind.
            Forbidden: The system does not let us.
        """
        with error_reference(self._registry):
            # Even cancelled work may be closed: outside of its scope.
            Context().run(self._settle, publish=True)

    def discard(self) -> None:
        """Throw a new archive away, and leave what had its name as it is. Idempotent."""
        Context().run(self._settle, publish=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __repr__(self) -> str:
        """With the file."""
        return f"ArchiveCatalog({self._registry!r})"

    def _settle(self, *, publish: bool) -> None:
        with self._lock:
            new, self._new, self._finished = self._new, None, None
            self._replace = self._replace and not (publish and new is not None)
        # Not before others may go on: the source of a blob that is being put may be this very catalog.
        if new is not None:
            (new.publish if publish else new.discard)()

    def _contents(self) -> ArchiveContents:
        with self._lock:
            return self._new or self._read() or self._fresh()

    def _growing(self) -> ArchiveWriter:
        with self._lock:
            if self._new is None:
                if self._read() is not None:
                    raise Unsupported("an archive that is finished is not changed: write a new one")
                self._new = self._fresh()
            return self._new

    def _read(self) -> ArchiveReader | None:
        if self._finished is None and not self._replace:
            medium = open_random_access(self._path)
            if medium is not None:
                self._finished = ArchiveReader(medium)
        return self._finished

    def _fresh(self) -> ArchiveWriter:
        return ArchiveWriter(self._path, self._form, fsync=self._fsync)
