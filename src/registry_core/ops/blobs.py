"""Single blobs: read, saved to a file, pushed.

Content that a repository may leave to others: layers that may not be distributed.

How far a blob has come, as events: told by its source, whatever backends it moves between.
"""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path

from registry_core.cancellation import checkpoint
from registry_core.content.safe_files import StagedFile, write_all
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
)
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.errors import BlobNotFound, InvalidDigest, InvalidValue, error_context, error_reference
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
    """A reader over a layer: of the repository, or of the layer's URLs once the repository said that it is not here.

    Only for whoever was asked to follow URLs. What comes is unverified, as from any blob store.

    Args:
        repository: Where to look first; it knows who follows URLs on its behalf.
        layer: With its URLs.
        start: The first byte.

    Raises:
        BlobNotFound: It is neither here nor there, or nobody follows URLs for this backend.
        RegistryError: The repository, or every URL, fails in another way.
    """
    try:
        return repository.blobs.open(layer.digest, start=start)
    except BlobNotFound:
        if not layer.urls or repository.foreign_layers is None:
            raise
        return repository.foreign_layers.open(layer, start=start)


class ProgressSource:
    """A source that tells how much of it has been read.

    There is a ``BlobProgress`` for each piece, and one at the end. A store that begins behind the first byte, since it
    has the rest, begins with a ``BlobProgress`` there; one that goes back is a ``BlobRestarted``.
    What an observer raises ends the read.

    Args:
        source: The content.
        digest: Of the blob.
        size: Of the blob.
        observer: Who is told, from whichever thread reads.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, observer: Observer) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._observer = observer
        # Held while telling, so that events come in the order in which things happened.
        self._lock = threading.Lock()
        self._done = 0
        self._reported = 0
        self._latest: ByteReader | None = None

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on; the latest one tells, whatever older ones still read."""
        inner = self._source.open(start)
        try:
            reader = _ProgressReader(self, inner, start)
            self._begin(reader, start)
        except BaseException:
            inner.close()
            raise
        return reader

    def finish(self) -> None:
        """Say that the blob is where it should be, however much of it had to be read."""
        with self._lock:
            if self._reported != self._size or not self._size:
                self._tell_progress(self._size)

    def _begin(self, reader: ByteReader, start: int) -> None:
        with self._lock:
            self._latest = reader
            before, self._done = self._done, start
            if start < before:
                self._reported = start
                self._observer.on(BlobRestarted(digest=self._digest, done=start, size=self._size))
            elif start > before:
                self._tell_progress(start)

    def _advance(self, reader: ByteReader, done: int) -> None:
        with self._lock:
            if reader is not self._latest or done > self._size:
                return
            self._done = done
            if done - self._reported >= CHUNK_SIZE or self._reported < done == self._size:
                self._tell_progress(done)

    def _tell_progress(self, done: int) -> None:
        self._reported = done
        self._observer.on(BlobProgress(digest=self._digest, done=done, size=self._size))


class _ProgressReader(BaseReader):
    def __init__(self, source: ProgressSource, reader: ByteReader, position: int) -> None:
        self._source = source
        self._reader = reader
        self._position = position

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


def open_blob(repository: Repository, digest: Digest, size: int | None = None) -> ByteReader:
    """A reader over a blob whose last read raises if the content was wrong.

    Whoever stops before the end has verified nothing.

    Args:
        repository: Where it is.
        digest: Which one.
        size: How long it must be, where that is known.

    Raises:
        BlobNotFound: It is not in this repository.
        InvalidDigest: Not a digest.
        Unsupported: The digest's algorithm cannot be verified.
    """
    with error_context("open_blob"):
        return open_verified(repository, digest, size)


def open_verified(repository: Repository, digest: Digest, size: int | None = None) -> ByteReader:
    """As ``open_blob``, for operations that have a name of their own.

    Raises:
        BlobNotFound: It is not in this repository.
        InvalidDigest: Not a digest.
        Unsupported: The digest's algorithm cannot be verified.
    """
    digest = _parsed(digest)
    reference = repository.at(digest)
    with error_reference(reference):
        digest.hasher()
        return VerifyingReader(repository.blobs.open(digest), digest, size, reference=reference)


def save_blob(
    repository: Repository,
    digest: Digest,
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    observer: Observer | None = None,
) -> None:
    """Write a blob to a file: complete and verified, or not at all.

    What the path held before is replaced at once; until then, and on any failure, it stays.

    Args:
        repository: Where the blob is.
        digest: Which one.
        path: The file; its directory must exist.
        size: How long the blob must be, where that is known.
        observer: Told how far it has come; where the size is not known, the backend is asked for it.

    Raises:
        BlobNotFound: It is not in this repository.
        DigestMismatch: The backend sent something else.
        SizeMismatch: The backend sent more or less than ``size``.
        Unsupported: The digest's algorithm cannot be verified.
        OSError: The file cannot be written.
    """
    digest = _parsed(digest)
    target = Path(path)
    with (
        error_context("save_blob", repository.at(digest)),
        _report_progress(repository, digest, size, observer) as reader,
    ):
        staged = StagedFile(target)
        try:
            with FileIO(staged.descriptor, "w") as file:
                while data := reader.read(CHUNK_SIZE):
                    write_all(file, data)
                os.fsync(file.fileno())
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
    """Store content as a blob, under its digest.

    It is read twice: once for the digest, once to be stored; a file must not change meanwhile.

    Args:
        repository: Where to.
        content: Bytes, a file, anything that can be opened again and again, or a stream of any length, which is kept in
            a temporary file meanwhile.
        media_type: What the descriptor should call it.
        algorithm: Of the digest: ``sha256``, which every registry takes, or ``sha512``.
        observer: Told how far it has come while it is stored.

    Returns:
        The descriptor to refer to it by.

    Raises:
        Unsupported: The repository cannot be written, or does not take that algorithm, or nobody knows it.
        InvalidValue: It is text, which could be content or a path.
        OSError: The file cannot be read.
    """
    source = to_source(content)
    with error_context("push_blob", str(repository)):
        descriptor = describe(source, media_type, algorithm)
        progress = None
        if observer is not None:
            source = progress = ProgressSource(source, descriptor.digest, descriptor.size, observer)
        with error_context("push_blob", repository.at(descriptor.digest)):
            repository.blobs.put(descriptor.digest, descriptor.size, source)
        if progress is not None:
            progress.finish()
    return descriptor


def to_source(content: bytes | bytearray | memoryview | os.PathLike[str] | ByteSource | Readable) -> ByteSource:
    """Content in any of its forms as a source: bytes, a file by its path, or a stream.

    A stream cannot be read again: it is read to its end once, whatever its length, and kept in a temporary file.
    Whoever opened it closes it.

    Raises:
        InvalidValue: It is text, which could be content or a path, or nothing that can be read.
        OSError: The stream cannot be read.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return BytesSource(bytes(content))
    if isinstance(content, os.PathLike):
        return FileSource(content)
    if isinstance(content, Readable):
        # Imported only where it is used: temporary files cost more than everything else here.
        from registry_core.content.spool import Spool

        return Spool.of(BorrowedReader(content))
    if isinstance(content, str):
        raise InvalidValue(f"text could be content or a path; give bytes or a Path: {content!r:.200}")
    if not isinstance(content, ByteSource):
        raise InvalidValue(f"nothing that can be read: {type(content).__name__}")
    return content


def describe(source: ByteSource, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Descriptor:
    """What a source holds: read once, to its end.

    Raises:
        Unsupported: Nobody could verify content under that algorithm.
    """
    hasher = Digest.of(b"", algorithm).hasher()
    size = 0
    with source.open() as reader:
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            hasher.update(data)
            size += len(data)
    return Descriptor(media_type=media_type, digest=Digest(f"{algorithm}:{hasher.hexdigest()}"), size=size)


def _report_progress(repository: Repository, digest: Digest, size: int | None, observer: Observer | None) -> ByteReader:
    if observer is None:
        return open_verified(repository, digest, size)
    total = repository.blobs.stat(digest) if size is None else size
    source = CallableSource(lambda _: open_verified(repository, digest, size))
    return ProgressSource(source, digest, total, observer).open()


def _parsed(digest: Digest) -> Digest:
    if not isinstance(digest, str):
        raise InvalidDigest(f"not a digest: {digest!r:.200}")
    return digest if isinstance(digest, Digest) else Digest(digest)
