"""The archive backend: a catalog over one file, and the stores of its repositories."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextvars import Context
from types import TracebackType
from typing import Self

from registry_adapters.archive.contents import ArchiveContents, StoredManifest
from registry_adapters.archive.file_io import FileSlice, open_random_access
from registry_adapters.archive.names import ArchiveForm, check_name
from registry_adapters.archive.reader import ArchiveReader
from registry_adapters.archive.writer import ArchiveWriter
from registry_core.cancellation import CancellableLock, checkpoint
from registry_core.content.streams import ByteReader, ByteSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ImageName
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
from registry_core.ports.image_names import ImageNames, NamedImage
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["ArchiveBlobs", "ArchiveCatalog", "ArchiveManifests"]


class ArchiveBlobs(BlobStore):
    """Blobs of one repository in an archive.

    Args:
        contents: Function that returns the contents of the archive.
        writer: Function that returns the writer; it raises ``Unsupported`` if the archive already exists.
        name: Name of the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(
        self,
        contents: Callable[[], ArchiveContents],
        writer: Callable[[], ArchiveWriter],
        name: RepositoryName,
        label: str,
    ) -> None:
        self._contents = contents
        self._writer = writer
        self._name = name
        self._label = label

    def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes.

        Raises:
            BlobNotFound: The blob is not in this repository.
            LayoutError: The archive is malformed.
        """
        return self._find(digest).size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob for reading at the byte ``start``. The bytes are not verified.

        Raises:
            BlobNotFound: The blob is not in this repository.
            LayoutError: The archive is malformed.
        """
        return self._find(digest).open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Append a blob. Concurrent calls wait for each other; a blob that another repository has is not stored again.

        Raises:
            DigestMismatch: The content has another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The archive already exists, or the digest algorithm cannot be verified.
        """
        checkpoint()
        with error_reference(self._at(digest)):
            self._writer().put_blob(self._name, digest, size, source)

    def delete(self, digest: Digest) -> None:
        """Raise ``Unsupported``: blobs cannot be deleted from an archive.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("blobs cannot be deleted from an archive", reference=self._at(digest))

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        """Mount a blob from another repository of the archive.

        Returns:
            Whether the blob is in this repository now.

        Raises:
            Unsupported: The archive already exists.
        """
        checkpoint()
        with error_reference(self._at(digest)):
            return self._writer().mount(self._name, digest, from_repository)

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
    """Manifests, tags and referrers of one repository in an archive.

    Args:
        contents: Function that returns the contents of the archive.
        writer: Function that returns the writer; it raises ``Unsupported`` if the archive already exists.
        name: Name of the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(
        self,
        contents: Callable[[], ArchiveContents],
        writer: Callable[[], ArchiveWriter],
        name: RepositoryName,
        label: str,
    ) -> None:
        self._contents = contents
        self._writer = writer
        self._name = name
        self._label = label

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Return media type, digest and size of a manifest.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            LayoutError: The archive is malformed, or several images have the tag.
        """
        with error_reference(self._at(reference)):
            return self._find(reference).resolve()

    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the bytes of a manifest, verified. An image that was saved without a manifest gets a synthesized one.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist.
            DigestMismatch: The bytes have another digest.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            InvalidDocument: The bytes are not a manifest of the media type in the entry.
            TooLarge: The manifest is larger than 8 MiB.
            LayoutError: The archive is malformed, or several images have the tag.
            Unsupported: It is a Docker schema 1 manifest, or the digest cannot be verified.
        """
        with error_reference(self._at(reference)):
            return self._find(reference).read()

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Append a manifest and point tags to it. Its blobs and children need not exist.

        Raises:
            InvalidDocument: The bytes are not a manifest of the media type; nothing is stored.
            InvalidName: The format of the archive cannot express the name; nothing is stored.
            TooLarge: The manifest is larger than 8 MiB.
            Unsupported: The archive already exists, or the digest algorithm cannot be verified.
        """
        checkpoint()
        with error_reference(self._label):
            return self._writer().put_manifest(self._name, manifest, tags)

    def untag(self, tag: Tag) -> None:
        """Raise ``Unsupported``: tags cannot be deleted from an archive.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("tags cannot be deleted from an archive", reference=self._at(tag))

    def delete(self, digest: Digest) -> None:
        """Raise ``Unsupported``: manifests cannot be deleted from an archive.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("manifests cannot be deleted from an archive", reference=self._at(digest))

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """Iterate over all tags in ASCII order, as of the first step.

        Raises:
            RepositoryNotFound: The repository does not exist.
            LayoutError: The archive is malformed.
        """
        checkpoint()
        with error_reference(self._label):
            contents, name = self._existing_repository()
            tags = contents.tags(name)
        for tag in tags:
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """Iterate over the descriptors of the manifests that refer to a subject, ordered by digest.

        Raises:
            LayoutError: The archive is malformed.
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
        contents, name = self._existing_repository()
        found = contents.manifest(name, reference)
        if found is None:
            raise ImageNotFound("no such manifest")
        return found

    def _existing_repository(self) -> tuple[ArchiveContents, RepositoryName]:
        contents = self._contents()
        name = contents.canonical_name(self._name)
        if name is None:
            raise RepositoryNotFound(f"no such repository in {contents.description}")
        return contents, name

    def _at(self, reference: Tag | Digest) -> str:
        return join_reference(self._label, reference)


class ArchiveNames(ImageNames):
    """Names of images in an archive as they are written.

    Args:
        contents: Function that returns the contents of the archive.
        writer: Function that returns the writer; it raises ``Unsupported`` if the archive already exists.
        name: Name of the repository.
        label: Repository in errors, as ``registry/name``.
        form: Format of a new archive.
    """

    def __init__(
        self,
        contents: Callable[[], ArchiveContents],
        writer: Callable[[], ArchiveWriter],
        name: RepositoryName,
        label: str,
        form: ArchiveForm,
    ) -> None:
        self._contents = contents
        self._writer = writer
        self._name = name
        self._label = label
        self._form = form

    def images(self) -> Iterator[NamedImage]:
        """Iterate over the images of the repository; over all images for the repository with the empty name.

        Raises:
            RepositoryNotFound: The repository does not exist.
            LayoutError: The archive is malformed.
        """
        checkpoint()
        with error_reference(self._label):
            contents = self._contents()
            name = contents.canonical_name(self._name) if self._name else self._name
            if name is None or not contents.names():
                raise RepositoryNotFound(f"no such repository in {contents.description}")
            for image in contents.images(name):
                checkpoint()
                yield image

    def resolve(self, name: ImageName) -> Descriptor:
        """Return media type, digest and size of the manifest with a name.

        Raises:
            ImageNotFound: No image has the name.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            LayoutError: The archive is malformed, or several images have the name.
        """
        checkpoint()
        with error_reference(join_reference(self._label, name)):
            contents = self._contents()
            repository = contents.canonical_name(self._name) if self._name else self._name
            found = None if repository is None else contents.named(name, repository)
            if found is None:
                raise ImageNotFound(f"no image with this name in {contents.description}")
            return found.resolve()

    def check(self, name: Tag | ImageName) -> None:
        """Check that the format of a new archive can express a tag of the repository, or a name.

        Raises:
            InvalidName: The format cannot express the name.
        """
        check_name(self._form, self._name, name)

    def assign(self, name: ImageName, manifest: Descriptor) -> None:
        """Give a name to a manifest of a new archive.

        Raises:
            ImageNotFound: The repository has no such manifest.
            InvalidName: The format of the archive cannot express the name.
            Unsupported: The archive already exists.
        """
        checkpoint()
        with error_reference(join_reference(self._label, name)):
            self._writer().assign(self._name, name, manifest.digest)

    def remove(self, name: ImageName) -> None:
        """Raise ``Unsupported``: names cannot be removed from an archive.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("names cannot be removed from an archive", reference=join_reference(self._label, name))


class ArchiveCatalog(Catalog):
    """The images in one file: an archive that exists is read, one that does not exist is created.

    A new archive appears in its place when the catalog is closed, complete and at once. Before that, and after
    ``discard``, nothing is visible under its name. A ``with`` block that raises discards the archive. An existing
    archive is never changed: with ``replace``, a new one replaces it.

    Args:
        path: Path of the file.
        form: Format of a new archive. For reading, the content of the file decides.
        replace: Whether to write a new archive although the path exists; a pipe or device is then written to.
        fsync: Whether ``close`` returns only after the disk has the archive.

    Raises:
        ConfigError: The path is empty or contains a NUL byte, or a switch is not a boolean.
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
            raise ConfigError(f"path of an archive that is empty or contains a NUL byte: {text!r:.100}")
        for option, value in (("replace", replace), ("fsync", fsync)):
            if not isinstance(value, bool):
                raise ConfigError(f"{option} must be True or False, not {value!r:.100}")
        self._registry = f"{form.value}:{text}"
        # Absolute, so that it stays the same file when the working directory of the process changes.
        self._path = os.path.abspath(text)
        self._form = form
        self._replace = replace
        self._fsync = fsync
        self._lock = CancellableLock()
        self._reader: ArchiveReader | None = None
        self._writer: ArchiveWriter | None = None

    @property
    def registry(self) -> str:
        """``docker-archive:`` or ``oci-archive:``, and the path."""
        return self._registry

    def repository(self, name: str) -> Repository:
        """Return a repository, whether it exists or not. ``debian`` may be an alias of ``library/debian``.

        Raises:
            InvalidName: The text is not a repository name.
        """
        name = RepositoryName(name)
        label = "/".join(part for part in (self._registry, name) if part)
        return Repository(
            name=name,
            blobs=ArchiveBlobs(self._contents, self._open_writer, name, label),
            manifests=ArchiveManifests(self._contents, self._open_writer, name, label),
            registry=self._registry,
            names=ArchiveNames(self._contents, self._open_writer, name, label, self._form),
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """Iterate over the repositories in the names of the images, in ASCII order, as of the first step.

        Raises:
            RepositoryNotFound: The file does not exist, and nothing was written to a new archive yet.
            LayoutError: The archive is malformed.
        """
        checkpoint()
        with error_reference(self._registry):
            names = self._existing_contents().names()
        for name in names:
            if after is None or name > after:
                checkpoint()
                yield name

    def images(self) -> Iterator[NamedImage]:
        """Iterate over all images by repository, also over those without a name, which can be copied by digest only.

        Raises:
            RepositoryNotFound: The file does not exist, and nothing was written to a new archive yet.
            LayoutError: The archive is malformed.
        """
        checkpoint()
        with error_reference(self._registry):
            for image in self._existing_contents().images():
                checkpoint()
                yield image

    def close(self) -> None:
        """Finish a new archive and put it in place; without an image, nothing is created. Idempotent.

        Afterwards the catalog reads the archive.

        Raises:
            Unsupported: The archive is one for Docker, which could not load an image of it; nothing is left behind.
            Unavailable: The disk is full, or failed; nothing is left behind.
            Forbidden: The operating system denies access.
        """
        with error_reference(self._registry):
            # In an empty context: an archive can also be closed in a cancelled scope.
            Context().run(self._finish, publish=True)

    def discard(self) -> None:
        """Delete a new archive. A file that has its name is left unchanged. Idempotent."""
        Context().run(self._finish, publish=False)

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
        """Return the class and the path."""
        return f"ArchiveCatalog({self._registry!r})"

    def _finish(self, *, publish: bool) -> None:
        with self._lock:
            writer, self._writer, self._reader = self._writer, None, None
            self._replace = self._replace and not (publish and writer is not None)
        # Without the lock: publishing waits for a blob that is being put, whose source may be in this catalog.
        if writer is not None:
            (writer.publish if publish else writer.discard)()

    def _contents(self) -> ArchiveContents:
        with self._lock:
            return self._writer or self._open_reader() or self._new_writer()

    def _existing_contents(self) -> ArchiveContents:
        with self._lock:
            contents = self._writer or self._open_reader()
            if contents is None and not self._replace:
                raise RepositoryNotFound(f"no such file: {self._path}")
        return contents or self._contents()

    def _open_writer(self) -> ArchiveWriter:
        with self._lock:
            if self._writer is None:
                if self._open_reader() is not None:
                    raise Unsupported(
                        "an existing archive cannot be changed; write a new file, or replace this one with replace=True"
                    )
                self._writer = self._new_writer()
            return self._writer

    def _open_reader(self) -> ArchiveReader | None:
        if self._reader is None and not self._replace:
            file = open_random_access(self._path)
            if file is not None:
                self._reader = ArchiveReader(file)
        return self._reader

    def _new_writer(self) -> ArchiveWriter:
        return ArchiveWriter(self._path, self._form, fsync=self._fsync)
