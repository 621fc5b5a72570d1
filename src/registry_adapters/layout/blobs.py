"""Blobs of a layout: ``blobs/<algorithm>/<encoded>`` (image-spec image-layout.md, "Blobs").

A caller that has put, mounted or found a blob may go on to store a manifest that needs it. ``put``, ``mount`` and
``stat`` therefore renew the blob's lease: they set the time of its file, and ``prune`` removes no file that is younger
than its grace period. A lock on the file keeps the two apart: a renewal sees that the file was removed, and a removal
sees that the lease was renewed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from registry_adapters.layout.directory import Directory, StagedFile
from registry_adapters.layout.files import FileReader, changed_at
from registry_adapters.layout.layout import BLOBS
from registry_adapters.layout.repository_layouts import OpenLayout, RepositoryLayouts
from registry_core.cancellation import checkpoint, poll_until
from registry_core.content import operating_system
from registry_core.content.operating_system import (
    NO_BLOCK,
    NO_FOLLOW,
    READ_FLAGS,
    UPDATE_FLAGS,
    lock_file,
    touch,
    unlock_file,
)
from registry_core.content.safe_files import temporary_name
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource
from registry_core.content.verify import Verifier, VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.domain.reference import join_reference
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DigestMismatch,
    IntegrityError,
    LayoutError,
    ProtocolError,
    RegistryError,
    SizeMismatch,
    TransportError,
    Unsupported,
    error_reference,
)
from registry_core.ports.blob_store import BlobStore

__all__ = [
    "LayoutBlobs",
    "open_blob",
    "remove_blob",
    "remove_expired",
    "renew_blob_lease",
    "renew_lease",
    "store_blob",
]

# A lease younger than this is not renewed: no grace period is that short.
_FRESH_LEASE: Final = 1.0

_POLL: Final = 0.005

# A blob of this size or less is read again from its start after a failure.
_RESUME_LIMIT: Final = 1 << 20


class LayoutBlobs(BlobStore):
    """Blobs of one repository in an image layout.

    Args:
        layouts: Layouts that hold the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(self, layouts: RepositoryLayouts, label: str) -> None:
        self._layouts = layouts
        self._label = label

    def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes, and renew its lease.

        Raises:
            BlobNotFound: The blob is not in this repository.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> int:
            size = renew_blob_lease(opened.directory, digest)
            if size is None:
                raise BlobNotFound("no such blob")
            return size

        with error_reference(self._at(digest)):
            return self._layouts.first(look, BlobNotFound("no such blob"))

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob for reading at the byte ``start``. The bytes are not verified.

        Raises:
            BlobNotFound: The blob is not in this repository.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> FileReader:
            file = open_blob(opened.directory, digest)
            if file is None:
                raise BlobNotFound("no such blob")
            try:
                file.seek(start)
            except BaseException:
                file.close()
                raise
            return file

        with error_reference(self._at(digest)):
            return self._layouts.first(look, BlobNotFound("no such blob"))

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob after verifying it. The layout is created if it does not exist.

        A blob of more than 1 MiB continues where an earlier attempt was killed or lost its source.

        Raises:
            TransportError: The source could not be read; the bytes received so far are kept for the next attempt.
            DigestMismatch: The content has another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The digest algorithm cannot be verified, or the file system is read-only.
            LayoutError: The layout is malformed; it is left unchanged.
        """
        checkpoint()
        with error_reference(self._at(digest)):
            digest.hasher()
            with self._layouts.open_for_writing() as (layout, directory, _):
                store_blob(directory, digest, size, source, before_commit=lambda: layout.initialize(directory))

    def delete(self, digest: Digest) -> None:
        """Delete a blob from this repository. Other repositories keep it.

        Raises:
            BlobNotFound: The blob is not in this repository.
            LayoutError: The layout is malformed.
            Unsupported: The repository is in a layout that other repositories share.
        """
        checkpoint()

        def look(opened: OpenLayout) -> None:
            if opened.repository:
                file = open_blob(opened.directory, digest)
                if file is not None:
                    file.close()
                    raise Unsupported("other images of the layout may need the blob; prune the layout instead")
            if not remove_blob(opened.directory, digest):
                raise BlobNotFound("no such blob")

        with error_reference(self._at(digest)):
            self._layouts.first(look, BlobNotFound("no such blob"))

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        """Mount a blob from another repository of this catalog, as a hard link. The blob is verified first.

        Returns:
            Whether the blob is in this repository now; ``False`` also if the file system has no hard links.

        Raises:
            LayoutError: One of the layouts is malformed.
        """
        checkpoint()
        if not digest.verifiable:
            return False
        with error_reference(self._at(digest)), suppress(BlobNotFound):
            return self._layouts.of(from_repository).first(
                lambda opened: self._link(digest, opened), BlobNotFound("no blob")
            )
        return False

    def _link(self, digest: Digest, origin: OpenLayout) -> bool:
        with ExitStack() as stack:
            source = stack.enter_context(_open_blob_dir(origin.directory, digest, read_only=True))
            file = None if source is None else source.open(digest.encoded)
            if source is None or file is None:
                raise BlobNotFound("no such blob")
            stack.enter_context(file)
            status = file.status()
            if not _is_intact(file, digest, status.st_size):
                return False
            layout, directory, _ = stack.enter_context(self._layouts.open_for_writing())
            target = stack.enter_context(_make_blob_dir(directory, digest))
            present = target.open(digest.encoded)
            if present is not None:
                with present:
                    is_intact = _is_intact(present, digest, status.st_size)
                    if is_intact and renew_lease(target, digest.encoded, present):
                        layout.initialize(directory)
                        return True
            layout.initialize(directory)
            return target.link(source, digest.encoded, status)

    def _at(self, digest: Digest) -> str:
        return join_reference(self._label, digest)


def open_blob(directory: Directory, digest: Digest) -> FileReader | None:
    """Open a blob of a layout; ``None`` if it does not exist or its digest cannot be verified.

    Raises:
        LayoutError: The blob is not a regular file, or its parent is not a directory.
    """
    if not digest.verifiable:
        return None
    with _open_blob_dir(directory, digest, read_only=True) as blob_dir:
        return None if blob_dir is None else blob_dir.open(digest.encoded)


def store_blob(
    directory: Directory,
    digest: Digest,
    size: int,
    source: ByteSource,
    *,
    before_commit: Callable[[], None] | None = None,
) -> None:
    """Write a blob unless the layout has it. An existing file is hashed, and replaced if it is corrupt.

    Args:
        directory: Directory of the layout.
        digest: Digest of the blob.
        size: Size of the blob in bytes.
        source: Content of the blob.
        before_commit: Function to call after the content was verified and before the file gets its name.

    Raises:
        DigestMismatch: The content has another digest.
        SizeMismatch: The content is shorter or longer than ``size``.
    """
    with _make_blob_dir(directory, digest) as blob_dir:
        present = blob_dir.open(digest.encoded)
        if present is not None:
            with present:
                is_stored = _is_intact(present, digest, size) and renew_lease(blob_dir, digest.encoded, present)
            if is_stored:
                if before_commit is not None:
                    before_commit()
                return
        with blob_dir.resumed(digest.encoded) if size > _RESUME_LIMIT else blob_dir.staged() as file:
            _write_verified(file, digest, size, source)
            if before_commit is not None:
                before_commit()
            file.commit(digest.encoded)


def remove_blob(directory: Directory, digest: Digest) -> bool:
    """Delete a blob of a layout.

    Returns:
        Whether there was one.

    Raises:
        LayoutError: The blob is not a regular file, or its parent is not a directory.
    """
    if not digest.verifiable:
        return False
    with _open_blob_dir(directory, digest) as blob_dir:
        return blob_dir is not None and blob_dir.remove(digest.encoded)


def renew_blob_lease(directory: Directory, digest: Digest) -> int | None:
    """Renew the lease of a blob.

    Returns:
        Size of the blob in bytes; ``None`` if it does not exist.

    Raises:
        LayoutError: The blob is not a regular file, or its parent is not a directory.
    """
    if not digest.verifiable:
        return None
    with _open_blob_dir(directory, digest, read_only=True) as blob_dir:
        file = None if blob_dir is None else blob_dir.open(digest.encoded)
        if blob_dir is None or file is None:
            return None
        with file:
            return file.status().st_size if renew_lease(blob_dir, digest.encoded, file) else None


def renew_lease(directory: Directory, name: str, file: FileReader) -> bool:
    """Renew the lease of an open file, and return whether the file still exists under its name.

    If the operating system refuses to set the time, the file keeps its age. A file that was reached through a link
    keeps it, too: ``prune`` removes neither links nor their targets.

    Args:
        directory: Directory of the file.
        name: Name of the file.
        file: The open file.

    Raises:
        Cancelled: The current scope was cancelled while ``prune`` had locked the file.
        DeadlineExceeded: The deadline passed during that time.
    """
    if file.is_linked:
        return True
    status = file.status()
    # A time in the future was set by another clock, so it says nothing about the age.
    if not 0 <= time.time() - changed_at(status) <= _FRESH_LEASE:
        try:
            with _shared_lock(file.fileno()):
                touch(file.fileno())
        except RegistryError:
            # DeadlineExceeded is an OSError, too, but the lease was not renewed.
            raise
        except OSError:
            pass
    try:
        return os.path.samestat(directory.status(name), status)
    except OSError:
        return False


def remove_expired(directory: Directory, name: str, expiry: float, *, is_dry_run: bool) -> os.stat_result | None:
    """Remove a regular file whose lease has expired.

    Args:
        directory: Directory of the file.
        name: Name of the file.
        expiry: Time in seconds since 1970; a lease renewed before it has expired.
        is_dry_run: Whether to leave the file in place.

    Returns:
        Status of the removed file; ``None`` if the file stays or does not exist.

    Raises:
        Unsupported: The operating system has no file locks.
    """
    try:
        descriptor = _open_for_lock(directory, name)
    except OSError:
        return None
    try:
        if not lock_file(descriptor):
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or changed_at(status) >= expiry:
            return None
        if is_dry_run or _remove_if_same(directory, name, status):
            return status
    except OSError:
        # Another process has removed the file, or the operating system denies access.
        return None
    finally:
        os.close(descriptor)
    return None


def _open_for_lock(directory: Directory, name: str) -> int:
    try:
        # Some network file systems lock only files that are open for writing.
        return os.open(directory.at(name), UPDATE_FLAGS | NO_FOLLOW | NO_BLOCK, dir_fd=directory.fd)
    except PermissionError:
        return os.open(directory.at(name), READ_FLAGS | NO_FOLLOW | NO_BLOCK, dir_fd=directory.fd)


def _remove_if_same(directory: Directory, name: str, status: os.stat_result) -> bool:
    # Renamed first, and removed only if it is the locked file: the blob may have been written again meanwhile.
    temporary = temporary_name()
    os.rename(directory.at(name), directory.at(temporary), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    if not os.path.samestat(directory.status(temporary), status):
        os.rename(directory.at(temporary), directory.at(name), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        return False
    os.unlink(directory.at(temporary), dir_fd=directory.fd)
    return True


@contextmanager
def _shared_lock(descriptor: int) -> Iterator[None]:
    if not operating_system.HAS_FILE_LOCKS:
        yield
        return
    poll_until(lambda: lock_file(descriptor, shared=True), interval=_POLL)
    try:
        yield
    finally:
        unlock_file(descriptor)


def _write_verified(file: StagedFile, digest: Digest, size: int, source: ByteSource) -> None:
    if file.size > size:
        file.clear()
    resumed_size = file.size
    try:
        _append_rest(file, digest, size, source)
    except Cancelled as error:
        # A copy cancels its other transfers when one loses its source; all of them will be resumed.
        if _is_lost_source(error.__cause__):
            file.keep()
        raise
    except (DigestMismatch, SizeMismatch, ProtocolError):
        if not resumed_size:
            raise
        # The kept bytes may be wrong, or the source cannot start in the middle: start again without them.
        file.clear()
        _append_rest(file, digest, size, source)


def _append_rest(file: StagedFile, digest: Digest, size: int, source: ByteSource) -> None:
    verifier = Verifier(digest, size)
    while data := file.read(CHUNK_SIZE):
        checkpoint()
        verifier.update(data)
    if 0 < verifier.count == size:
        return
    with _kept_if_source_is_lost(file):
        reader = source.open(verifier.count)
    verifier.reader = reader
    with reader:
        checkpoint()
        while data := _read_chunk(reader, file):
            verifier.update(data)
            file.write(data)
            checkpoint()
    verifier.finish()


def _read_chunk(reader: ByteReader, file: StagedFile) -> bytes:
    with _kept_if_source_is_lost(file):
        return reader.read(CHUNK_SIZE)


@contextmanager
def _kept_if_source_is_lost(file: StagedFile) -> Iterator[None]:
    try:
        yield
    except TransportError as error:
        if _is_lost_source(error):
            file.keep()
        raise


def _is_lost_source(error: BaseException | None) -> bool:
    return isinstance(error, TransportError) and not isinstance(error, ProtocolError)


def _is_intact(file: FileReader, digest: Digest, size: int) -> bool:
    if file.status().st_size != size:
        return False
    reader = VerifyingReader(file, digest, size)
    try:
        while reader.read(CHUNK_SIZE):
            continue
    except IntegrityError:
        return False
    return True


@contextmanager
def _open_blob_dir(directory: Directory, digest: Digest, *, read_only: bool = False) -> Iterator[Directory | None]:
    with ExitStack() as stack:
        blobs = directory.child(BLOBS, read_only=read_only)
        if blobs is not None:
            stack.enter_context(blobs)
        blob_dir = None if blobs is None else blobs.child(digest.algorithm, read_only=read_only)
        yield None if blob_dir is None else stack.enter_context(blob_dir)


@contextmanager
def _make_blob_dir(directory: Directory, digest: Digest) -> Iterator[Directory]:
    if not digest.verifiable:
        raise LayoutError(f"no directory for {digest.algorithm} blobs is created: the algorithm is not supported")
    with directory.make(BLOBS) as blobs, blobs.make(digest.algorithm) as blob_dir:
        yield blob_dir
