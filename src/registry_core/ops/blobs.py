"""Single blobs: open, save to a file, push, and report their progress."""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path

from registry_core.cancellation import checkpoint
from registry_core.content.safe_files import AtomicFile, os_errors_about, write_all
from registry_core.content.streams import (
    CHUNK_SIZE,
    BaseReader,
    BorrowedReader,
    ByteReader,
    ByteSource,
    BytesSource,
    CallableSource,
    FileSource,
    Readable,
    reader_remark,
)
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.errors import BlobNotFound, InvalidValue, error_context, error_reference
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import BlobProgress, BlobRestarted, Observer

__all__ = [
    "ProgressSource",
    "describe",
    "open_blob",
    "open_blob_or_foreign",
    "open_verified",
    "push_blob",
    "save_blob",
    "to_source",
]


def open_blob_or_foreign(repository: Repository, layer: Descriptor, *, start: int = 0) -> ByteReader:
    """Open a layer in the repository, or at the URLs of its descriptor if the repository does not have it.

    Call this only if the user asked for foreign layers. The content is unverified, as from any blob store.

    Args:
        repository: Repository to look in first.
        layer: Descriptor of the layer.
        start: Offset of the first byte.

    Raises:
        BlobNotFound: Neither the repository nor a URL has the layer, or the backend does not follow URLs.
        RegistryError: The repository failed, or every URL did.
    """
    try:
        return repository.blobs.open(layer.digest, start=start)
    except BlobNotFound:
        if not layer.urls or repository.foreign_layers is None:
            raise
        return repository.foreign_layers.open(layer, start=start)


class ProgressSource:
    """A source that reports how much of it has been read.

    It emits a ``BlobProgress`` for each chunk and one at the end. If a store opens it at a later offset, because it has
    the bytes before that, it emits a ``BlobProgress`` with the offset; at an earlier offset than was read, it emits a
    ``BlobRestarted``. An exception of the observer ends the read.

    Args:
        source: Content of the blob.
        digest: Digest of the blob.
        size: Size of the blob in bytes.
        observer: Observer that receives the events, in the thread that reads.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, observer: Observer) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._observer = observer
        # Held while an event is emitted, so that events keep their order.
        self._lock = threading.Lock()
        self._done = 0
        self._reported = 0
        self._latest: ByteReader | None = None

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader; only the reader that was opened last reports progress."""
        inner = self._source.open(start)
        try:
            reader = _ProgressReader(self, inner, start)
            self._begin(reader, start)
        except BaseException:
            inner.close()
            raise
        return reader

    def finish(self) -> None:
        """Report that the blob is stored, even if not all of it had to be read."""
        with self._lock:
            if self._reported != self._size or not self._size:
                self._report(self._size)

    def _begin(self, reader: ByteReader, start: int) -> None:
        with self._lock:
            self._latest = reader
            before, self._done = self._done, start
            if start < before:
                self._reported = start
                self._observer.on(BlobRestarted(digest=self._digest, done=start, size=self._size))
            elif start > before:
                self._report(start)

    def _advance(self, reader: ByteReader, done: int) -> None:
        with self._lock:
            if reader is not self._latest or done > self._size:
                return
            self._done = done
            if done - self._reported >= CHUNK_SIZE or self._reported < done == self._size:
                self._report(done)

    def _report(self, done: int) -> None:
        self._reported = done
        self._observer.on(BlobProgress(digest=self._digest, done=done, size=self._size))


class _ProgressReader(BaseReader):
    def __init__(self, source: ProgressSource, reader: ByteReader, position: int) -> None:
        self._source = source
        self._reader = reader
        self._position = position

    @property
    def remark(self) -> str:
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        data = self._reader.read(min(size, CHUNK_SIZE))
        self._count(len(data))
        return data

    def close(self) -> None:
        self._reader.close()

    def _count(self, count: int) -> None:
        if count:
            self._position += count
            self._source._advance(self, self._position)


def open_blob(repository: Repository, digest: Digest | str, size: int | None = None) -> ByteReader:
    """Open a blob for reading; the read that reaches the end raises an error if the content is wrong.

    Content that is not read to the end is not verified.

    Args:
        repository: Repository of the blob.
        digest: Digest of the blob.
        size: Size of the blob in bytes, if it is known.

    Raises:
        BlobNotFound: The repository does not have the blob.
        InvalidDigest: The digest is malformed.
        Unsupported: The digest's algorithm cannot be verified.
    """
    with error_context("open_blob"):
        return open_verified(repository, digest, size)


def open_verified(repository: Repository, digest: Digest | str, size: int | None = None) -> ByteReader:
    """Open a blob like ``open_blob``, for operations with other names.

    Raises:
        BlobNotFound: The repository does not have the blob.
        InvalidDigest: The digest is malformed.
        Unsupported: The digest's algorithm cannot be verified.
    """
    digest = digest if isinstance(digest, Digest) else Digest(digest)
    reference = repository.at(digest)
    with error_reference(reference):
        digest.hasher()
        return VerifyingReader(repository.blobs.open(digest), digest, size, reference=reference)


def save_blob(
    repository: Repository,
    digest: Digest | str,
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    observer: Observer | None = None,
) -> None:
    """Write a blob to a file: completely and verified, or not at all.

    An existing file is replaced when the blob is complete, and kept on any error.

    Args:
        repository: Repository of the blob.
        digest: Digest of the blob.
        path: Path of the file; its directory must exist.
        size: Size of the blob in bytes, if it is known.
        observer: Observer of the progress; if ``size`` is not given, the backend is asked for it.

    Raises:
        BlobNotFound: The repository does not have the blob.
        DigestMismatch: The backend sent other content.
        SizeMismatch: The backend sent more or less than ``size`` bytes.
        InvalidDigest: The digest is malformed.
        Unsupported: The digest's algorithm cannot be verified.
        OSError: The file cannot be written.
    """
    digest = digest if isinstance(digest, Digest) else Digest(digest)
    target = Path(path)
    with (
        error_context("save_blob", repository.at(digest)),
        _open_observed(repository, digest, size, observer) as reader,
    ):
        with os_errors_about(target):
            staged = AtomicFile(target)
        try:
            with FileIO(staged.descriptor, "w") as file:
                while data := reader.read(CHUNK_SIZE):
                    with os_errors_about(target):
                        write_all(file, data)
                with os_errors_about(target):
                    os.fsync(file.fileno())
            with os_errors_about(target):
                staged.commit()
        finally:
            staged.discard()


def push_blob(
    repository: Repository,
    content: bytes | os.PathLike[str] | ByteSource | Readable,
    *,
    media_type: str = OCTET_STREAM,
    algorithm: str = "sha256",
    observer: Observer | None = None,
) -> Descriptor:
    """Store content as a blob.

    The content is read twice, first for its digest; a file must not change in between.

    Args:
        repository: Repository to store the blob in.
        content: Bytes, path of a file, source, or stream of any length, which is kept in a temporary file meanwhile.
        media_type: Media type for the descriptor.
        algorithm: Algorithm of the digest: ``sha256``, which every registry accepts, or ``sha512``.
        observer: Observer of the progress.

    Returns:
        The descriptor of the blob.

    Raises:
        Unsupported: The repository is read-only, or it or this library does not support the algorithm.
        InvalidValue: The content is text, which could be content or a path.
        OSError: The file cannot be read.
    """
    source = to_source(content)
    with error_context("push_blob", str(repository)):
        descriptor = describe(source, media_type, algorithm)
        progress = None
        if observer is not None:
            source = progress = ProgressSource(source, descriptor.digest, descriptor.size, observer)
        with error_reference(repository.at(descriptor.digest)):
            repository.blobs.put(descriptor.digest, descriptor.size, source)
        if progress is not None:
            progress.finish()
    return descriptor


def to_source(content: bytes | bytearray | memoryview | os.PathLike[str] | ByteSource | Readable) -> ByteSource:
    """Return bytes, the file at a path, or a stream as a source.

    A stream can be read only once: it is read to its end and kept in a temporary file. The caller closes it.

    Raises:
        InvalidValue: The content is text, which could be content or a path, or cannot be read.
        OSError: The stream cannot be read.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return BytesSource(bytes(content))
    if isinstance(content, os.PathLike):
        return FileSource(content)
    if isinstance(content, Readable):
        # Imported on use, because the import of `tempfile` takes longer than that of this module.
        from registry_core.content.spool import Spool

        return Spool.of(BorrowedReader(content))
    if isinstance(content, str):
        raise InvalidValue(f"text could be content or a path; pass bytes or a Path instead of {content!r:.200}")
    if not isinstance(content, ByteSource):
        raise InvalidValue(f"content must be bytes, a path, a source or a stream, not {type(content).__name__}")
    return content


def describe(source: ByteSource, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Descriptor:
    """Read a source to its end, and return the descriptor of its content.

    Raises:
        Unsupported: The algorithm is neither ``sha256`` nor ``sha512``.
    """
    hasher = Digest.of(b"", algorithm).hasher()
    size = 0
    with source.open() as reader:
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            hasher.update(data)
            size += len(data)
    return Descriptor(media_type=media_type, digest=Digest(f"{algorithm}:{hasher.hexdigest()}"), size=size)


def _open_observed(repository: Repository, digest: Digest, size: int | None, observer: Observer | None) -> ByteReader:
    if observer is None:
        return open_verified(repository, digest, size)
    total = repository.blobs.stat(digest) if size is None else size
    source = CallableSource(lambda _: open_verified(repository, digest, size))
    return ProgressSource(source, digest, total, observer).open()
