"""Extract flattened images: to a directory, or as one tar.

All files are created below one open directory. Existing files are never opened, changed or followed. Directories get
their attributes last, so that their content can be created and does not change their times.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import (
    NO_FOLLOW,
    READ_FLAGS,
    change_mode,
    change_owner,
    make_special_file,
    require_dir_fds,
    set_attribute,
)
from registry_core.content.safe_files import create_file, open_directory, os_errors_about, temporary_name, write_all
from registry_core.content.streams import CHUNK_SIZE, ByteReader
from registry_core.domain.layer_paths import ancestors, parent_of
from registry_core.errors import InvalidValue, UnsafeArchive, Unsupported, error_reference
from registry_core.ops.extract.directory_fds import DirectoryFds
from registry_core.ops.extract.flatten import LayerFlattener, StoredLayer
from registry_core.ops.extract.tar_stream import BATCH_SIZE, GeneratorReader, fill_holes
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, printable
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["DirectorySink", "ExtractOptions", "Extracted", "extract_to", "flat_tar"]


# The system takes this ID as "do not change".
_UNCHANGED_ID: Final = (1 << 32) - 1

# Nanoseconds that every system call accepts; file systems may reduce times further.
_MAX_TIME: Final = (1 << 33) * 10**9

# System errors that a name or link in an archive causes.
_NAME_ERRORS: Final = {
    errno.ENAMETOOLONG: "name or link too long for the file system",
    errno.EEXIST: "two names that the file system does not distinguish",
    errno.EILSEQ: "name that the file system does not allow",
    errno.ENOTDIR: "parent is not a directory on the file system",
    errno.ELOOP: "parent is a symbolic link on the file system",
    errno.EMLINK: "more hard links to a file than the file system allows",
    errno.EFBIG: "file too large for the file system",
}

# System errors that an extended attribute in an archive causes.
_XATTR_ERRORS: Final = (errno.ERANGE, errno.E2BIG, errno.EINVAL)


class ExtractOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Optional attributes to extract, in addition to names, content, times and permissions.

    Args:
        owners: Numeric owner and group.
        special_modes: Setuid and setgid bits.
        devices: Devices and fifos.
        xattrs: Extended attributes.
    """

    owners: bool = False
    special_modes: bool = False
    devices: bool = False
    xattrs: bool = False


class DirectorySink:
    """Create members in a directory.

    Args:
        root: Descriptor of the directory. It must be empty, and no other process may change it meanwhile.
        options: Optional attributes to extract.
    """

    def __init__(self, root: int, options: ExtractOptions) -> None:
        self._root = root
        self._options = options
        # Created directories by path; None until their own member arrives.
        self._created: dict[bytes, Member | None] = {}
        self._directories = DirectoryFds(root, self._note_created)
        self.count = 0
        self.skipped: list[bytes] = []

    def add(self, member: Member, chunks: Iterable[tuple[int, memoryview]] = ()) -> None:
        """Create one member.

        Args:
            member: Member to create.
            chunks: Content of a file, as offsets and data.

        Raises:
            UnsafeArchive: The file system cannot represent the name, does not distinguish it from another one, or
                refuses an owner or attribute as invalid.
            Unsupported: The file system does not support the extended attributes.
            OSError: The system refuses for another reason, for example a full disk.
        """
        with _map_os_errors(member.path):
            if member.kind is FileKind.DIRECTORY:
                self._directories.open(member.path, create=True)
                self._created[member.path] = member
            else:
                parent, _, name = member.path.rpartition(b"/")
                directory = self._directories.open(parent, create=True)
                if member.kind is FileKind.FILE:
                    self._create_file(directory, name, member, chunks)
                elif member.kind is FileKind.SYMLINK:
                    os.symlink(member.link, name, dir_fd=directory)
                    self._apply_metadata_by_name(directory, name, member)
                elif member.kind is FileKind.HARDLINK:
                    self._create_hardlink(name, member)
                elif self._options.devices:
                    self._create_special_file(directory, name, member)
                else:
                    self.skipped.append(member.path)
                    return
        self.count += 1

    def has_content(self, path: bytes, chunks: Iterable[tuple[int, memoryview]]) -> bool:
        """Return whether a file that was created has a content.

        Args:
            path: Path of the file.
            chunks: Content, as offsets and data.

        Raises:
            OSError: The file cannot be read.
        """
        parent, _, name = path.rpartition(b"/")
        with _map_os_errors(path):
            directory = self._directories.open(parent)
            # The archive may have made the file unreadable.
            mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            change_mode(name, 0o600, inside=directory)
            file = os.open(name, READ_FLAGS | NO_FOLLOW, dir_fd=directory)
            try:
                return all(_is_at(file, offset, chunk) for offset, chunk in chunks)
            finally:
                os.chmod(file, mode)
                os.close(file)

    def finish(self, root: Member | None) -> None:
        """Set the attributes of the directories, deepest first.

        Args:
            root: Attributes of the root directory; ``None`` to keep them.

        Raises:
            UnsafeArchive: An owner or attribute is invalid.
            Unsupported: The file system does not support the extended attributes.
            OSError: The system refuses for another reason.
        """
        for path in self._deepest_first():
            checkpoint()
            member = self._created[path] or Member(path, FileKind.DIRECTORY, 0o755)
            with _map_os_errors(path):
                self._apply_metadata(self._directories.open(path), member)
        if root is not None:
            with _map_os_errors(b""):
                self._apply_metadata(self._root, root)

    def clear(self) -> None:
        """Remove everything that was created, as far as the system allows. No error is raised."""
        for path in sorted(self._created):
            # Permissions that were already set may deny access to anyone but root.
            with contextlib.suppress(OSError):
                parent, _, name = path.rpartition(b"/")
                change_mode(name, 0o700, inside=self._directories.open(parent))
        for path in (*self._deepest_first(), b""):
            with contextlib.suppress(OSError):
                directory = self._directories.open(path)
                for entry in os.listdir(directory):
                    with contextlib.suppress(OSError):
                        _remove(entry, directory)

    def close(self) -> None:
        """Close all directories except the root."""
        self._directories.close()

    def _note_created(self, path: bytes) -> None:
        self._created[path] = None

    def _deepest_first(self) -> list[bytes]:
        return sorted(self._created, reverse=True)

    def _create_file(
        self, directory: int, name: bytes, member: Member, chunks: Iterable[tuple[int, memoryview]]
    ) -> None:
        file = create_file(name, inside=directory)
        try:
            position = 0
            for offset, chunk in chunks:
                if offset != position:
                    os.lseek(file, offset, os.SEEK_SET)
                position = offset + len(chunk)
                write_all(file, chunk)
            if position != member.size:
                os.ftruncate(file, member.size)
            self._apply_metadata(file, member)
        finally:
            os.close(file)

    def _apply_metadata(self, file: int, member: Member) -> None:
        """Set the attributes of an open file or directory; the owner first, because chown clears setuid."""
        if self._options.owners:
            change_owner(file, *_owner(member))
        if self._options.xattrs:
            for name, value in member.xattrs:
                _set_attribute(file, name, value)
        os.chmod(file, self._mode(member))
        os.utime(file, ns=_times(member))

    def _apply_metadata_by_name(self, directory: int, name: bytes, member: Member) -> None:
        """Set the attributes of a link or special file, except the mode, without opening it."""
        if self._options.owners:
            change_owner(name, *_owner(member), inside=directory)
        if self._options.xattrs:
            for key, value in member.xattrs:
                if key.startswith(b"user."):
                    raise UnsafeArchive(f"extended attribute that only files can have: {printable(key)}")
                _set_attribute(name, key, value, inside=directory)
        os.utime(name, ns=_times(member), dir_fd=directory, follow_symlinks=False)

    def _create_hardlink(self, name: bytes, member: Member) -> None:
        parent, _, target = member.link.rpartition(b"/")
        # Both directories are needed at the same time, but opening one may close the other.
        source = os.dup(self._directories.open(parent))
        try:
            if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise UnsafeArchive(f"hard link whose target is not a file: {printable(member.path)}")
            directory = self._directories.open(member.path.rpartition(b"/")[0], create=True)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _create_special_file(self, directory: int, name: bytes, member: Member) -> None:
        kind = {FileKind.CHARACTER_DEVICE: stat.S_IFCHR, FileKind.BLOCK_DEVICE: stat.S_IFBLK}.get(
            member.kind, stat.S_IFIFO
        )
        make_special_file(name, kind | 0o600, member.device, inside=directory)
        self._apply_metadata_by_name(directory, name, member)
        change_mode(name, self._mode(member), inside=directory)

    def _mode(self, member: Member) -> int:
        return member.mode & (0o7777 if self._options.special_modes else 0o1777)


def _is_at(file: int, offset: int, data: memoryview) -> bool:
    """Return whether a file has some bytes at an offset."""
    os.lseek(file, offset, os.SEEK_SET)
    position, end = 0, len(data)
    while position < end:
        checkpoint()
        found = os.read(file, min(CHUNK_SIZE, end - position))
        if not found or found != data[position : position + len(found)]:
            return False
        position += len(found)
    return True


def _owner(member: Member) -> tuple[int, int]:
    #
    if max(member.uid, member.gid) >= _UNCHANGED_ID:
        raise UnsafeArchive(f"owner out of range: {member.uid}:{member.gid}: {printable(member.path)}")
    return member.uid, member.gid


def _times(member: Member) -> tuple[int, int]:
    mtime = max(-_MAX_TIME, min(member.mtime, _MAX_TIME))
    return mtime, mtime


def _set_attribute(file: int | bytes, name: bytes, value: bytes, *, inside: int = -1) -> None:
    try:
        set_attribute(file, name, value, inside=inside)
    except OSError as error:
        if error.errno in _XATTR_ERRORS:
            raise UnsafeArchive(f"invalid extended attribute {printable(name)}: {error.strerror}") from error
        if error.errno == errno.ENOTSUP:
            raise Unsupported(f"file system does not support the extended attribute {printable(name)}") from error
        raise


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except (IsADirectoryError, PermissionError):
        os.rmdir(name, dir_fd=directory)


@contextmanager
def _map_os_errors(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _NAME_ERRORS.get(error.errno or 0)
        if reason is not None:
            raise UnsafeArchive(f"{reason}: {printable(path)}") from error
        # The system call got a descriptor and a bare name; the path in the image is more useful.
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error


class Extracted(msgspec.Struct, frozen=True):
    """Result of an extraction.

    Args:
        entries: Number of files, directories and links created.
        skipped: Paths of devices and fifos, which are created only on request.
    """

    entries: int
    skipped: tuple[str, ...]


def flat_tar(
    layers: Sequence[StoredLayer], limits: ExtractLimits, *, reference: str = "", root: bool = False
) -> ByteReader:
    """Flatten layers to one tar, as a stream that is safe to unpack with any tool.

    Paths are relative and unique, directories precede their content, hard links follow their targets, and sparse files
    are written in full. Equal layers give equal bytes. The last read has verified every layer.

    Upper layers come first, so the entries of a directory are not necessarily contiguous: use GNU tar with
    ``--delay-directory-restore``.

    Args:
        layers: Layers, lowest first.
        limits: Limits for reading the layers.
        reference: Reference of the image, for errors.
        root: Whether to append the entry of the root directory, if a layer has one. A tool that unpacks the tar would
            apply it to the directory of the user.

    Returns:
        A reader. Its ``read`` raises ``UnsafeArchive`` if members of a layer contradict each other or a path or link
        leaves the image, ``IntegrityError`` if a layer is corrupt, truncated, or does not match its digest, and
        ``TooLarge`` if a limit is exceeded.
    """
    return GeneratorReader(_batches(layers, limits, reference, root=root))


def extract_to(
    layers: Sequence[StoredLayer],
    directory: str | os.PathLike[str],
    *,
    options: ExtractOptions,
    limits: ExtractLimits,
    reference: str = "",
) -> Extracted:
    """Extract layers to a directory that is empty or does not exist: all files, verified, or none.

    A new directory appears under its name when it is complete. An existing directory keeps its inode, and is empty
    again after a failure.

    Args:
        layers: Layers, lowest first.
        directory: Target directory; its parent must exist.
        options: Optional attributes to extract.
        limits: Limits for reading the layers.
        reference: Reference of the image, for errors.

    Raises:
        InvalidValue: The directory is not empty, not a directory, or a symbolic link.
        UnsafeArchive: Members of a layer contradict each other, a path or link leaves the image, or the file system
            cannot represent a name.
        IntegrityError: A layer is corrupt, truncated, or does not match its digest.
        TooLarge: A limit is exceeded.
        Unsupported: The system lacks the functions for safe extraction, or the requested extended attributes.
        OSError: The system refuses for another reason, for example a full disk.
    """
    with error_reference(reference):
        require_dir_fds(f"extract to {os.fspath(directory)}")
    target = Path(directory)
    try:
        root = open_directory(target)
    except FileNotFoundError:
        return _extract_to_new(layers, target, options, limits, reference)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise InvalidValue(f"not a directory, or a symbolic link: {target}", reference=reference) from error
    try:
        if os.listdir(root):
            raise InvalidValue(f"directory is not empty: {target}", reference=reference)
        return _extract_into(root, layers, options, limits, reference)
    finally:
        os.close(root)


def _extract_to_new(
    layers: Sequence[StoredLayer], target: Path, options: ExtractOptions, limits: ExtractLimits, reference: str
) -> Extracted:
    temporary = target.with_name(temporary_name())

    def publish() -> None:
        with os_errors_about(target):
            os.rename(temporary, target)

    with os_errors_about(target):
        temporary.mkdir(mode=0o700)
    try:
        root = open_directory(temporary)
        try:
            return _extract_into(root, layers, options, limits, reference, publish=publish)
        finally:
            os.close(root)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.rmdir()
        raise


def _extract_into(
    root: int,
    layers: Sequence[StoredLayer],
    options: ExtractOptions,
    limits: ExtractLimits,
    reference: str,
    *,
    publish: Callable[[], None] | None = None,
) -> Extracted:
    flattener = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    with contextlib.closing(DirectorySink(root, options)) as sink, error_reference(reference):
        try:
            for member in flattener.members():
                sink.add(member, flattener.chunks())
            if flattener.root is None and publish is not None:
                os.chmod(root, 0o755)
            sink.finish(flattener.root)
            if publish is not None:
                publish()
        except BaseException:
            sink.clear()
            raise
        return Extracted(sink.count, tuple(os.fsdecode(path) for path in sink.skipped))


def _batches(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Generator[bytes, None, None]:
    """The tar in chunks of about ``BATCH_SIZE`` bytes."""
    batch: list[bytes | memoryview] = []
    count = 0
    with error_reference(reference):
        for chunk in _tar_chunks(layers, limits, reference, root=root):
            batch.append(chunk)
            count += len(chunk)
            if count >= BATCH_SIZE:
                yield b"".join(batch)
                batch, count = [], 0
        yield b"".join((*batch, END_OF_ARCHIVE))


def _tar_chunks(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Iterator[bytes | memoryview]:
    flattener = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    directories: dict[bytes, Member] | None = None
    written = {b""}
    for member in flattener.members():
        path = member.path
        if parent_of(path) not in written:
            # A lower layer may have the attributes of the parents: the headers of all layers are read once for them.
            if directories is None:
                directories = _directories(layers, limits, reference)
            for parent in reversed([parent for parent in ancestors(path) if parent not in written]):
                written.add(parent)
                yield encode_header(directories.get(parent) or Member(parent, FileKind.DIRECTORY, 0o755))
        if member.kind is FileKind.DIRECTORY:
            if path in written:
                continue
            written.add(path)
        yield encode_header(member)
        if member.kind is FileKind.FILE:
            yield from fill_holes(member.size, flattener.chunks())
            yield bytes(padding(member.size))
    if root and flattener.root is not None:
        yield encode_header(msgspec.structs.replace(flattener.root, path=b"."))


def _directories(layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str) -> dict[bytes, Member]:
    flattener = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    return {member.path: member for member in flattener.members() if member.kind is FileKind.DIRECTORY}
