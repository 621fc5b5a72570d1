"""Single blobs: read, saved to a file, pushed."""

from __future__ import annotations

import contextlib
import os
from io import FileIO
from pathlib import Path

from registry_core.content.source import (
    PIECE,
    ByteReader,
    ByteSource,
    BytesSource,
    FileSource,
    LentReader,
    OpenerSource,
    Readable,
)
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.errors import InvalidDigest, InvalidValue, during
from registry_core.ops.progress import ProgressSource
from registry_core.ports.observer import Observer
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["identify", "open_blob", "push_blob", "save_blob", "source_of", "verified"]

_ATTEMPTS = 100


def open_blob(repository: Repository, digest: Digest, size: int | None = None) -> ByteReader:
    """A reader over a blob whose last read raises if the content was wrong (R-003, R-004).

    Whoever stops before the end has verified nothing (R-007).

    Args:
        repository: Where it is.
        digest: Which one.
        size: How long it must be, where that is known.

    Raises:
        BlobNotFound: It is not in this repository.
        InvalidDigest: Not a digest.
        Unsupported: The digest's algorithm cannot be verified (R-002).
    """
    with during("open_blob"):
        return verified(repository, digest, size)


def verified(repository: Repository, digest: Digest, size: int | None = None) -> ByteReader:
    """As ``open_blob``, for operations that have a name of their own.

    Raises:
        BlobNotFound: It is not in this repository.
        InvalidDigest: Not a digest.
        Unsupported: The digest's algorithm cannot be verified.
    """
    digest = _parsed(digest)
    reference = repository.at(digest)
    with during("", reference):
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
    """Write a blob to a file: complete and verified, or not at all (R-006).

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
    with during("save_blob", repository.at(digest)), _told(repository, digest, size, observer) as reader:
        file, temporary = _temporary(target)
        try:
            with file:
                while data := reader.read(PIECE):
                    _write(file, data)
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(target.parent)


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
    source = source_of(content)
    with during("push_blob", str(repository)):
        descriptor = identify(source, media_type, algorithm)
        progress = None
        if observer is not None:
            source = progress = ProgressSource(source, descriptor.digest, descriptor.size, observer)
        with during("push_blob", repository.at(descriptor.digest)):
            repository.blobs.put(descriptor.digest, descriptor.size, source)
        if progress is not None:
            progress.finish()
    return descriptor


def source_of(content: bytes | bytearray | memoryview | os.PathLike[str] | ByteSource | Readable) -> ByteSource:
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

        return Spool.of(LentReader(content))
    if isinstance(content, str):
        raise InvalidValue(f"text could be content or a path; give bytes or a Path: {content!r:.200}")
    if not isinstance(content, ByteSource):
        raise InvalidValue(f"nothing that can be read: {type(content).__name__}")
    return content


def identify(source: ByteSource, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Descriptor:
    """What a source holds: read once, to its end.

    Raises:
        Unsupported: Nobody could verify content under that algorithm.
    """
    hasher = Digest.of(b"", algorithm).hasher()
    size = 0
    with source.open() as reader:
        while data := reader.read(PIECE):
            checkpoint()
            hasher.update(data)
            size += len(data)
    return Descriptor(media_type=media_type, digest=Digest(f"{algorithm}:{hasher.hexdigest()}"), size=size)


def _told(repository: Repository, digest: Digest, size: int | None, observer: Observer | None) -> ByteReader:
    if observer is None:
        return verified(repository, digest, size)
    total = repository.blobs.stat(digest) if size is None else size
    source = OpenerSource(lambda _: verified(repository, digest, size))
    return ProgressSource(source, digest, total, observer).open()


def _parsed(digest: Digest) -> Digest:
    if not isinstance(digest, str):
        raise InvalidDigest(f"not a digest: {digest!r:.200}")
    return digest if isinstance(digest, Digest) else Digest(digest)


def _temporary(target: Path) -> tuple[FileIO, Path]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    for _ in range(_ATTEMPTS):
        # Names may have 255 bytes, and a character up to four of them.
        path = target.with_name(f".{target.name[:50]}.{os.urandom(8).hex()}")
        with contextlib.suppress(FileExistsError):
            return FileIO(os.open(path, flags, 0o600), "w"), path
    raise FileExistsError(f"no free temporary name beside {target}")


def _write(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _sync_directory(directory: Path) -> None:
    # Not every system opens directories; the file is in place either way.
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
