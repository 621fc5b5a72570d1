"""The blobs of one layout: ``blobs/<algorithm>/<encoded>`` (image-spec image-layout.md, "Blobs").

Blobs that somebody counts on, and the removal of those that nobody has counted on for long.

Whoever is told that a blob is here may go on to store a manifest that needs it. So being told renews the blob's time,
and nothing younger than a grace period is removed. A lock on the very file decides who comes first: a renewal
sees whether the file has lost its name, and a removal sees whether the file was renewed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from registry_adapters.layout.directory import Directory, Root, StagedFile
from registry_adapters.layout.files import FileReader
from registry_adapters.layout.layout import BLOBS, Layout
from registry_core.cancellation import checkpoint, poll_until
from registry_core.content import operating_system
from registry_core.content.operating_system import (
    NO_BLOCK,
    NO_FOLLOW,
    READ_FLAGS,
    UPDATE_FLAGS,
    lock_file,
    require_file_locks,
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
    error_reference,
)

__all__ = [
    "LayoutBlobs",
    "changed_at",
    "open_blob",
    "remove_blob",
    "remove_expired",
    "renew_lease",
    "renewed_blob",
    "store_blob",
]


# What is younger need not be renewed: no grace period is that short.
_FRESH: Final = 1.0

_POLL: Final = 0.005


def changed_at(status: os.stat_result) -> float:
    """Since when a file is as it is, in seconds since the epoch: its content or its names."""
    return max(status.st_mtime, status.st_ctime)


def renew_lease(directory: Directory, name: str, file: FileReader) -> bool:
    """Whether an open file still has its name, and will keep it for the grace period.

    Where the system does not let us renew it, it stays as old as it is.

    Args:
        directory: Where it was opened.
        name: By which name.
        file: Open.

    Raises:
        Cancelled: While a garbage collection had it in hand.
        DeadlineExceeded: Likewise.
    """
    status = file.status()
    # A time to come is one of another clock, and tells us nothing.
    if not 0 <= time.time() - changed_at(status) <= _FRESH:
        try:
            with _shared(file.fileno()):
                touch(file.fileno())
        except RegistryError:
            # A deadline is an OSError too, but whoever had no time to renew it must not say that it is renewed.
            raise
        except OSError:
            pass
    try:
        return os.path.samestat(directory.status(name), status)
    except OSError:
        return False


def remove_expired(directory: Directory, name: str, moment: float, *, is_dry_run: bool) -> os.stat_result | None:
    """Remove a regular file that nobody has renewed for long.

    Args:
        directory: Where it is.
        name: What it is called.
        moment: Since when nobody may have, in seconds since the epoch.
        is_dry_run: Whether to leave it where it is.

    Returns:
        What the system said about it, or ``None`` where it stays, or is not there.

    Raises:
        Unsupported: The system does not lock files.
    """
    require_file_locks("prune a layout")
    try:
        descriptor = _opened(directory, name)
    except OSError:
        return None
    try:
        if not lock_file(descriptor):
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or changed_at(status) >= moment:
            return None
        if is_dry_run or _removed(directory, name, status):
            return status
    except OSError:
        # Somebody renews it just now, or has removed it, or we may not.
        return None
    finally:
        os.close(descriptor)
    return None


def _opened(directory: Directory, name: str) -> int:
    try:
        # Some network file systems lock only what is open for writing.
        return os.open(directory.at(name), UPDATE_FLAGS | NO_FOLLOW | NO_BLOCK, dir_fd=directory.fd)
    except PermissionError:
        return os.open(directory.at(name), READ_FLAGS | NO_FOLLOW | NO_BLOCK, dir_fd=directory.fd)


def _removed(directory: Directory, name: str, status: os.stat_result) -> bool:
    # Under another name first: somebody may have written the blob anew since we opened this file.
    temporary = temporary_name()
    os.rename(directory.at(name), directory.at(temporary), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    if not os.path.samestat(directory.status(temporary), status):
        os.rename(directory.at(temporary), directory.at(name), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        return False
    os.unlink(directory.at(temporary), dir_fd=directory.fd)
    return True


@contextmanager
def _shared(descriptor: int) -> Iterator[None]:
    if not operating_system.HAS_FILE_LOCKS:
        yield
        return
    poll_until(lambda: lock_file(descriptor, shared=True), interval=_POLL)
    try:
        yield
    finally:
        unlock_file(descriptor)


# What is read again sooner than somebody could have noticed is not worth going on with.
_SMALL: Final = 1 << 20


class LayoutBlobs:
    """A ``BlobStore`` over the blobs of a layout.

    Args:
        root: Of the catalog.
        place: Of the repository.
        label: The repository in errors, as ``registry/name``.
    """

    def __init__(self, root: Root, place: Layout, label: str) -> None:
        self._root = root
        self._place = place
        self._label = label

    def stat(self, digest: Digest) -> int:
        """The size of a blob's file, which a garbage collection will leave alone for its grace period.

        Raises:
            BlobNotFound: There is none.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._at(digest)), self._place.open() as directory:
            size = None if directory is None else renewed_blob(directory, digest)
            if size is None:
                raise self._missing()
            return size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob's file, unverified.

        Raises:
            BlobNotFound: There is none.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._at(digest)):
            file = self._opened(digest)
            try:
                file.seek(start)
            except BaseException:
                file.close()
                raise
            return file

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob; the first one makes the layout.

        A larger one goes on where a killed process, or a source that could not be reached, stopped.

        Raises:
            TransportError: The source could not be reached; what came is kept for the next attempt.
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The digest's algorithm cannot be verified, or the place cannot be written.
            LayoutError: The layout is broken; it is left as it is.
        """
        checkpoint()
        with error_reference(self._at(digest)):
            digest.hasher()
            with self._place.open_for_writing() as directory:
                store_blob(directory, digest, size, source, before=lambda: self._place.initialize(directory))

    def delete(self, digest: Digest) -> None:
        """Remove a blob's file; other layouts keep theirs.

        Raises:
            BlobNotFound: There is none.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._at(digest)), self._place.open() as directory:
            if directory is None or not remove_blob(directory, digest):
                raise self._missing()

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another layout below the same root, as a hard link where the file system has them.

        The bytes are read once to verify them: a corrupt blob is not passed on.

        Raises:
            LayoutError: One of the layouts is broken.
        """
        checkpoint()
        if not digest.verifiable:
            return False
        with error_reference(self._at(digest)), ExitStack() as stack:
            source = stack.enter_context(Layout(self._root, origin).open())
            shelf = None if source is None else stack.enter_context(_blob_dir(source, digest))
            file = None if shelf is None else shelf.open(digest.encoded)
            if shelf is None or file is None:
                return False
            stack.enter_context(file)
            status = file.status()
            if not _is_intact(file, digest, status.st_size):
                return False
            with self._place.open_for_writing() as directory, _made_shelf(directory, digest) as target:
                present = target.open(digest.encoded)
                if present is not None:
                    with present:
                        intact = _is_intact(present, digest, status.st_size)
                        if intact and renew_lease(target, digest.encoded, present):
                            self._place.initialize(directory)
                            return True
                self._place.initialize(directory)
                return target.link(shelf, digest.encoded, status)

    def _opened(self, digest: Digest) -> FileReader:
        with self._place.open() as directory:
            file = None if directory is None else open_blob(directory, digest)
        if file is None:
            raise self._missing()
        return file

    def _missing(self) -> BlobNotFound:
        return BlobNotFound("no such blob")

    def _at(self, digest: Digest) -> str:
        return join_reference(self._label, digest)


def open_blob(directory: Directory, digest: Digest) -> FileReader | None:
    """A reader over a blob of a layout, or ``None``. Blobs that nobody could verify are not looked for.

    Raises:
        LayoutError: Something else than a regular file stands there, or on the way there.
    """
    if not digest.verifiable:
        return None
    with _blob_dir(directory, digest) as shelf:
        return None if shelf is None else shelf.open(digest.encoded)


def renewed_blob(directory: Directory, digest: Digest) -> int | None:
    """The size of a blob that a garbage collection leaves alone from now on for its grace period, or ``None``.

    Raises:
        LayoutError: Something else than a regular file stands there, or on the way there.
    """
    if not digest.verifiable:
        return None
    with _blob_dir(directory, digest) as shelf:
        file = None if shelf is None else shelf.open(digest.encoded)
        if shelf is None or file is None:
            return None
        with file:
            return file.status().st_size if renew_lease(shelf, digest.encoded, file) else None


def store_blob(
    directory: Directory, digest: Digest, size: int, source: ByteSource, *, before: Callable[[], None] | None = None
) -> None:
    """Write a blob, unless the very same one is there.

    A file is not trusted by its name: what is there is hashed, and written anew if it is something else.

    Args:
        directory: Of the layout.
        digest: Of the blob.
        size: Of the blob.
        source: Its content.
        before: What to do once the content is known to be right, before it is in place.

    Raises:
        DigestMismatch: The content hashes to something else.
        SizeMismatch: It has another size.
    """
    with _made_shelf(directory, digest) as shelf:
        present = shelf.open(digest.encoded)
        if present is not None:
            with present:
                intact = _is_intact(present, digest, size) and renew_lease(shelf, digest.encoded, present)
            if intact:
                if before is not None:
                    before()
                return
        with shelf.continued(digest.encoded) if size > _SMALL else shelf.staged() as file:
            _fill(file, digest, size, source)
            if before is not None:
                before()
            file.commit(digest.encoded)


def _fill(file: StagedFile, digest: Digest, size: int, source: ByteSource) -> None:
    if file.size > size:
        file.clear()
    kept = file.size
    try:
        _complete(file, digest, size, source)
    except Cancelled as error:
        # Given up for a neighbour that could not be reached: it will be tried again together with it.
        if _is_absence(error.__cause__):
            file.keep()
        raise
    except (DigestMismatch, SizeMismatch, ProtocolError):
        if not kept:
            raise
        # What was kept may be to blame, or the other side cannot begin in the middle: once without it.
        file.clear()
        _complete(file, digest, size, source)


def _complete(file: StagedFile, digest: Digest, size: int, source: ByteSource) -> None:
    verifier = Verifier(digest, size)
    while data := file.read(CHUNK_SIZE):
        checkpoint()
        verifier.update(data)
    if 0 < verifier.count == size:
        return
    with _kept_if_unreachable(file):
        reader = source.open(verifier.count)
    with reader:
        checkpoint()
        while data := _next(reader, file):
            verifier.update(data)
            file.write(data)
            checkpoint()
    verifier.finish()


def _next(reader: ByteReader, file: StagedFile) -> bytes:
    with _kept_if_unreachable(file):
        return reader.read(CHUNK_SIZE)


@contextmanager
def _kept_if_unreachable(file: StagedFile) -> Iterator[None]:
    try:
        yield
    except TransportError as error:
        if _is_absence(error):
            file.keep()
        raise


def _is_absence(error: BaseException | None) -> bool:
    return isinstance(error, TransportError) and not isinstance(error, ProtocolError)


def remove_blob(directory: Directory, digest: Digest) -> bool:
    """Remove a blob's file; ``False`` where there is none.

    Raises:
        LayoutError: Something else than a regular file stands there, or on the way there.
    """
    if not digest.verifiable:
        return False
    with _blob_dir(directory, digest) as shelf:
        return shelf is not None and shelf.remove(digest.encoded)


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
def _blob_dir(directory: Directory, digest: Digest) -> Iterator[Directory | None]:
    with ExitStack() as stack:
        blobs = directory.child(BLOBS)
        shelf = None if blobs is None else stack.enter_context(blobs).child(digest.algorithm)
        yield None if shelf is None else stack.enter_context(shelf)


@contextmanager
def _made_shelf(directory: Directory, digest: Digest) -> Iterator[Directory]:
    if not digest.verifiable:
        raise LayoutError(f"no directory is made for {digest.algorithm} blobs")
    with directory.make(BLOBS) as blobs, blobs.make(digest.algorithm) as shelf:
        yield shelf
