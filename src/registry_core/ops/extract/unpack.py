"""Images as file systems: flattened to one tar, or unpacked to a directory.

Where a flattened image goes on disk: below one open directory, and nowhere else.

Whatever is made is made anew: nothing that exists is opened, changed or followed. Directories get their attributes
last, so that what is in them can still be made, and their times stay.
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
    change_mode,
    change_owner,
    make_special_file,
    require_dir_fds,
    set_attribute,
)
from registry_core.content.safe_files import create_file, open_directory, write_all
from registry_core.content.streams import ByteReader
from registry_core.domain.layer_paths import ancestors, parent_of
from registry_core.errors import InvalidValue, UnsafeArchive, Unsupported, error_reference
from registry_core.ops.extract.directory_fds import DirectoryFds
from registry_core.ops.extract.flatten import LayerFlattener, StoredLayer
from registry_core.ops.extract.tar_stream import BATCH_SIZE, GeneratorReader, fill_holes
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, printable
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["DirectorySink", "ExtractOptions", "Extracted", "extract_to", "flat_tar"]


_NO_ID: Final = (1 << 32) - 1

# Seconds that every system's clock calls can take; file systems narrow them further by themselves.
_LATEST: Final = (1 << 33) * 10**9

# What a name in an archive can do wrong by itself, whatever the file system.
_NAMES: Final = {
    errno.ENAMETOOLONG: "a name or link that is too long for the file system",
    errno.EEXIST: "two names that are the same for the file system",
    errno.EILSEQ: "a name that the file system cannot hold",
    errno.ENOTDIR: "a directory that is something else on the file system",
    errno.ELOOP: "a directory that is a symbolic link on the file system",
    errno.EMLINK: "more links to one file than the file system can hold",
    errno.EFBIG: "a file that is too large for the file system",
}

# What an extended attribute can do wrong by itself.
_ATTRIBUTES: Final = (errno.ERANGE, errno.E2BIG, errno.EINVAL)


class ExtractOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of an image's files is kept beyond names, content, times and permissions.

    Args:
        owners: Owner and group, by number.
        special_modes: The setuid and setgid bits.
        devices: Devices and fifos.
        xattrs: Extended attributes.
    """

    owners: bool = False
    special_modes: bool = False
    devices: bool = False
    xattrs: bool = False


class DirectorySink:
    """A directory that members are made in.

    Args:
        root: A descriptor of it. It must be empty, and nobody else's while this works.
        keep: What is kept of the files.
    """

    def __init__(self, root: int, keep: ExtractOptions) -> None:
        self._root = root
        self._keep = keep
        self._made: dict[bytes, Member | None] = {}
        self._handles = DirectoryFds(root, self._note)
        self.count = 0
        self.skipped: list[bytes] = []

    def add(self, member: Member, pieces: Iterable[tuple[int, memoryview]] = ()) -> None:
        """Make one member.

        Args:
            member: What to make.
            pieces: A file's content, each with its offset.

        Raises:
            UnsafeArchive: The file system cannot hold its name, or takes it for another's; an owner or attribute is
                none.
            Unsupported: The file system has no attributes of some kind.
            OSError: The system refuses for reasons of its own.
        """
        with _map_os_errors(member.path):
            if member.kind is FileKind.DIRECTORY:
                self._handles.at(member.path, make=True)
                self._made[member.path] = member
            else:
                folder, _, name = member.path.rpartition(b"/")
                handle = self._handles.at(folder, make=True)
                if member.kind is FileKind.FILE:
                    self._file(handle, name, member, pieces)
                elif member.kind is FileKind.SYMLINK:
                    os.symlink(member.link, name, dir_fd=handle)
                    self._dress_name(handle, name, member)
                elif member.kind is FileKind.HARDLINK:
                    self._link(name, member)
                elif self._keep.devices:
                    self._special(handle, name, member)
                else:
                    self.skipped.append(member.path)
                    return
        self.count += 1

    def finish(self, root: Member | None) -> None:
        """Give the directories their attributes, deepest first.

        Args:
            root: What the image says about its root, where it does.

        Raises:
            UnsafeArchive: An owner or attribute is none.
            Unsupported: The file system has no attributes of some kind.
            OSError: The system refuses.
        """
        for path in self._deepest_first():
            checkpoint()
            member = self._made[path] or Member(path, FileKind.DIRECTORY, 0o755)
            with _map_os_errors(path):
                self._apply_metadata(self._handles.at(path), member)
        if root is not None:
            with _map_os_errors(b""):
                self._apply_metadata(self._root, root)

    def clear(self) -> None:
        """Remove everything that was made, as far as the system lets that happen. Nothing is raised."""
        for path in sorted(self._made):
            # Some may have their modes already, which may keep out whoever is not root.
            with contextlib.suppress(OSError):
                folder, _, last = path.rpartition(b"/")
                change_mode(last, 0o700, inside=self._handles.at(folder))
        for path in (*self._deepest_first(), b""):
            with contextlib.suppress(OSError):
                handle = self._handles.at(path)
                for name in os.listdir(handle):
                    with contextlib.suppress(OSError):
                        _remove(name, handle)

    def close(self) -> None:
        """Let go of what is open; the root stays."""
        self._handles.close()

    def _note(self, path: bytes) -> None:
        self._made[path] = None

    def _deepest_first(self) -> list[bytes]:
        return sorted(self._made, reverse=True)

    def _file(self, handle: int, name: bytes, member: Member, pieces: Iterable[tuple[int, memoryview]]) -> None:
        file = create_file(name, inside=handle)
        try:
            position = 0
            for offset, piece in pieces:
                if offset != position:
                    os.lseek(file, offset, os.SEEK_SET)
                position = offset + len(piece)
                write_all(file, piece)
            if position != member.size:
                os.ftruncate(file, member.size)
            self._apply_metadata(file, member)
        finally:
            os.close(file)

    def _apply_metadata(self, file: int, member: Member) -> None:
        """Set an open file's or directory's attributes; owners first, because changing them drops setuid."""
        if self._keep.owners:
            change_owner(file, *_owner(member))
        if self._keep.xattrs:
            for name, value in member.xattrs:
                _set_attribute(file, name, value)
        os.chmod(file, self._mode(member))
        os.utime(file, ns=_times(member))

    def _dress_name(self, handle: int, name: bytes, member: Member) -> None:
        """Set the attributes of what is never opened, but for its mode: links have none."""
        if self._keep.owners:
            change_owner(name, *_owner(member), inside=handle)
        if self._keep.xattrs:
            for key, value in member.xattrs:
                if key.startswith(b"user."):
                    raise UnsafeArchive(f"an extended attribute that only files have: {printable(key)}")
                _set_attribute(name, key, value, inside=handle)
        os.utime(name, ns=_times(member), dir_fd=handle, follow_symlinks=False)

    def _link(self, name: bytes, member: Member) -> None:
        folder, _, target = member.link.rpartition(b"/")
        # Both directories are needed at once, and asking for one may close the other.
        source = os.dup(self._handles.at(folder))
        try:
            if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise UnsafeArchive(f"a hard link to what is not a file: {printable(member.path)}")
            handle = self._handles.at(member.path.rpartition(b"/")[0], make=True)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=handle, follow_symlinks=False)
        finally:
            os.close(source)

    def _special(self, handle: int, name: bytes, member: Member) -> None:
        kind = {FileKind.CHARACTER_DEVICE: stat.S_IFCHR, FileKind.BLOCK_DEVICE: stat.S_IFBLK}.get(
            member.kind, stat.S_IFIFO
        )
        make_special_file(name, kind | 0o600, member.device, inside=handle)
        self._dress_name(handle, name, member)
        change_mode(name, self._mode(member), inside=handle)

    def _mode(self, member: Member) -> int:
        return member.mode & (0o7777 if self._keep.special_modes else 0o1777)


def _owner(member: Member) -> tuple[int, int]:
    # The highest number means "leave it as it is" to the system.
    if max(member.uid, member.gid) >= _NO_ID:
        raise UnsafeArchive(f"an owner that no system has: {member.uid}:{member.gid}")
    return member.uid, member.gid


def _times(member: Member) -> tuple[int, int]:
    moment = max(-_LATEST, min(member.mtime, _LATEST))
    return moment, moment


def _set_attribute(file: int | bytes, name: bytes, value: bytes, *, inside: int = -1) -> None:
    try:
        set_attribute(file, name, value, inside=inside)
    except OSError as error:
        if error.errno in _ATTRIBUTES:
            raise UnsafeArchive(f"an extended attribute that cannot be: {printable(name)}") from error
        if error.errno == errno.ENOTSUP:
            raise Unsupported(f"the file system has no extended attributes like {printable(name)}") from error
        raise


def _remove(name: str, handle: int) -> None:
    try:
        os.unlink(name, dir_fd=handle)
    except (IsADirectoryError, PermissionError):
        os.rmdir(name, dir_fd=handle)


@contextmanager
def _map_os_errors(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _NAMES.get(error.errno or 0)
        if reason is not None:
            raise UnsafeArchive(f"{reason}: {printable(path)}") from error
        # The system was told descriptors and bare names: what helps is the path in the image.
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error


class Extracted(msgspec.Struct, frozen=True):
    """What was unpacked.

    Args:
        entries: How many files, directories and links were made.
        skipped: The devices and fifos that were not, as nobody had asked for them.
    """

    entries: int
    skipped: tuple[str, ...]


def flat_tar(
    layers: Sequence[StoredLayer], limits: ExtractLimits, *, reference: str = "", root: bool = False
) -> ByteReader:
    """The tar of what layers make together: a stream that is safe for whoever unpacks it naively.

    Names are relative and come once; directories come before what is in them, links behind what they link to; sparse
    files are written out. The same layers give the same bytes. The last read has verified every layer.

    Upper layers come first, so that what is in a directory need not come in one run: GNU tar should be given
    ``--delay-directory-restore``.

    Args:
        layers: Lowest first.
        limits: How much is accepted.
        reference: What is read, for errors.
        root: Whether the root's own entry is there, last, where a layer has one: it is left out for whoever unpacks,
            to whom the directory belongs.

    Returns:
        A reader. Its ``read`` raises ``UnsafeArchive`` where a layer contradicts itself or tries to reach outside,
        ``IntegrityError`` where one is corrupt, cut off, or not what the image says, ``TooLarge`` beyond a limit.
    """
    return GeneratorReader(_chunks(layers, limits, reference, root=root))


def extract_to(
    layers: Sequence[StoredLayer],
    directory: str | os.PathLike[str],
    *,
    keep: ExtractOptions,
    limits: ExtractLimits,
    reference: str = "",
) -> Extracted:
    """Unpack layers to a directory that is empty or does not exist; complete and verified, or not at all.

    A new directory appears under its name when it is complete. One that exists keeps its inode, and is empty again
    after a failure.

    Args:
        layers: Lowest first.
        directory: Its own parent must exist.
        keep: What is kept of the files.
        limits: How much is accepted.
        reference: What is read, for errors.

    Raises:
        InvalidValue: There is something in the directory, or it is none: a symbolic link is not followed.
        UnsafeArchive: A layer contradicts itself, tries to reach outside, or has names that cannot be made.
        IntegrityError: A layer is corrupt, cut off, or not what the image says.
        TooLarge: It is beyond a limit.
        Unsupported: The system has no means to do this safely, or no extended attributes where they are asked for.
        OSError: The system refuses to make something.
    """
    with error_reference(reference):
        require_dir_fds(f"extract to {os.fspath(directory)}")
    target = Path(directory)
    try:
        root = open_directory(target)
    except FileNotFoundError:
        return _extract_new(layers, target, keep, limits, reference)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise InvalidValue(f"not a directory, or a link to one: {target}", reference=reference) from error
    try:
        if os.listdir(root):
            raise InvalidValue(f"not an empty directory: {target}", reference=reference)
        return _extract_into(root, layers, keep, limits, reference)
    finally:
        os.close(root)


def _extract_new(
    layers: Sequence[StoredLayer], target: Path, keep: ExtractOptions, limits: ExtractLimits, reference: str
) -> Extracted:
    temporary = target.with_name(f".{target.name[:50]}.{os.urandom(8).hex()}")
    temporary.mkdir(mode=0o700)
    try:
        root = open_directory(temporary)
        try:
            return _extract_into(root, layers, keep, limits, reference, publish=lambda: os.rename(temporary, target))
        finally:
            os.close(root)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.rmdir()
        raise


def _extract_into(
    root: int,
    layers: Sequence[StoredLayer],
    keep: ExtractOptions,
    limits: ExtractLimits,
    reference: str,
    *,
    publish: Callable[[], None] | None = None,
) -> Extracted:
    flat = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    with contextlib.closing(DirectorySink(root, keep)) as sink, error_reference(reference):
        try:
            for member in flat.members():
                sink.add(member, flat.chunks())
            if flat.root is None and publish is not None:
                os.chmod(root, 0o755)
            sink.finish(flat.root)
            if publish is not None:
                publish()
        except BaseException:
            sink.clear()
            raise
        return Extracted(sink.count, tuple(os.fsdecode(path) for path in sink.skipped))


def _chunks(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Generator[bytes, None, None]:
    """The stream in pieces of a useful size."""
    batch: list[bytes | memoryview] = []
    count = 0
    with error_reference(reference):
        for part in _parts(layers, limits, reference, root=root):
            batch.append(part)
            count += len(part)
            if count >= BATCH_SIZE:
                yield b"".join(batch)
                batch, count = [], 0
        yield b"".join((*batch, END_OF_ARCHIVE))


def _parts(
    layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str, *, root: bool
) -> Iterator[bytes | memoryview]:
    flat = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    folders: dict[bytes, Member] | None = None
    done = {b""}
    for member in flat.members():
        path = member.path
        if parent_of(path) not in done:
            # Its parents are described further down, if at all: the names of all layers are read for that, once.
            if folders is None:
                folders = _folders(layers, limits, reference)
            for above in reversed([above for above in ancestors(path) if above not in done]):
                done.add(above)
                yield encode_header(folders.get(above) or Member(above, FileKind.DIRECTORY, 0o755))
        if member.kind is FileKind.DIRECTORY:
            if path in done:
                continue
            done.add(path)
        yield encode_header(member)
        if member.kind is FileKind.FILE:
            yield from fill_holes(member.size, flat.chunks())
            yield bytes(padding(member.size))
    if root and flat.root is not None:
        yield encode_header(msgspec.structs.replace(flat.root, path=b"."))


def _folders(layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str) -> dict[bytes, Member]:
    flat = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
    return {member.path: member for member in flat.members() if member.kind is FileKind.DIRECTORY}
