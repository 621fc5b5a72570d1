"""Entries of new layers: files given by content, and files and directories on disk.

Equal files with equal modes give equal entries on every machine: owners, times, link counts and the order of the disk
are not used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import user_id
from registry_core.content.streams import ByteSource, BytesSource, FileSource
from registry_core.domain.layer_paths import Whiteout, whiteout_of
from registry_core.errors import InvalidName, InvalidValue, UnsafeArchive
from registry_core.ops.builder.patterns import NO_PATTERNS, PathFilter
from registry_core.ops.tar.members import FileKind

__all__ = [
    "DEFAULT_ATTRIBUTES",
    "Attributes",
    "Entry",
    "directory_entries",
    "file_entries",
    "image_path",
    "whiteout_entry",
]

# The first bytes of scripts and ELF programs.
_EXECUTABLE_MAGIC: Final = (b"#!", b"\x7fELF")

_SPECIAL_BITS: Final = stat.S_ISUID | stat.S_ISGID

# The largest number means "unchanged" in ``chown``.
_MAX_OWNER: Final = (1 << 32) - 2


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Attributes(msgspec.Struct, frozen=True):
    """Attributes of new entries.

    Args:
        mode: Permissions of all files and directories; ``None`` keeps those on disk, or is 0644 on a system without
            permissions. Directories and executable files also get the permission to execute for everyone who may read.
        owner: Numeric owner and group.
        special_modes: Whether files on disk keep their setuid and setgid bits.

    Raises:
        InvalidValue: The mode or the owner is malformed.
    """

    mode: int | None = None
    owner: tuple[int, int] = (0, 0)
    special_modes: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mode is not None and (not _is_number(self.mode) or not 0 <= self.mode <= 0o777):
            raise InvalidValue(f"mode must be a number from 0 to 0o777, such as 0o644, not {self.mode!r:.50}")
        owner: object = self.owner
        if (
            not isinstance(owner, tuple)
            or len(owner) != 2
            or not all(_is_number(number) and 0 <= number <= _MAX_OWNER for number in owner)
        ):
            raise InvalidValue(
                f"owner must be the numbers of a user and a group, such as (1000, 1000), not {owner!r:.100}"
            )

    def mode_of(self, mode: int, *, executable: bool) -> int:
        """The mode of an entry.

        Args:
            mode: Mode on disk.
            executable: Whether the entry is a directory, or a file that its owner may execute.
        """
        special = mode & _SPECIAL_BITS if self.special_modes else 0
        wanted = self.mode
        if wanted is None:
            # Windows has neither users nor permissions, and reports 0666 for every file.
            if user_id() is not None:
                return mode & (0o777 | stat.S_ISVTX) | special
            wanted = 0o644
        return wanted | special | ((wanted & 0o444) >> 2 if executable else 0)


DEFAULT_ATTRIBUTES: Final = Attributes()


class Entry(msgspec.Struct, frozen=True):
    """A file, directory or symbolic link of a new layer.

    Args:
        kind: Type of the file.
        mode: Permissions, setuid, setgid and sticky bit.
        size: Size of the content in bytes.
        content: Source of the content of a file.
        link: Target of a symbolic link.
        owner: Numeric owner and group.
    """

    kind: FileKind
    mode: int
    size: int = 0
    content: ByteSource | None = None
    link: str = ""
    owner: tuple[int, int] = (0, 0)


def image_path(path: str | os.PathLike[str]) -> str:
    """Clean a path in an image: relative, without empty parts and dots; the root is the empty string.

    Raises:
        InvalidName: The path contains ``..`` or a NUL byte, is not a string, or is not UTF-8.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        raise InvalidName(f"not a path in an image: {text!r:.200}")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"path leaves the image: {text!r:.200}")
    _check_utf8(text)
    return "/".join(parts)


def file_entries(
    files: Mapping[str, bytes | str | os.PathLike[str]],
    attributes: Attributes = DEFAULT_ATTRIBUTES,
) -> dict[str, Entry]:
    """Entries for single files, by path in the image.

    A file on disk keeps its permissions. Bytes and text have the mode 0644, or 0755 if they begin with ``#!`` or an ELF
    header.

    Args:
        files: Content by path in the image: bytes, text (encoded as UTF-8), or the path of a file on disk.
        attributes: Attributes of all files.

    Raises:
        InvalidName: A path leaves the image, names its root, or is given twice.
        InvalidValue: A value is neither content nor a regular file on disk, or ``files`` is not a mapping.
        OSError: A file cannot be read.
    """
    if not isinstance(files, Mapping):
        raise InvalidValue(f"files must be a mapping of paths to content, not {type(files).__name__}")
    entries: dict[str, Entry] = {}
    for name, content in files.items():
        path = image_path(name)
        if not path:
            raise InvalidName(f"not the path of a file: {name!r:.200}")
        if path in entries:
            raise InvalidName(f"two files with the same path: {path!r:.200}")
        if isinstance(content, os.PathLike):
            disk = Path(content)
            status = disk.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InvalidValue(f"not a regular file: {disk}")
            entries[path] = _file_on_disk(disk, status, attributes)
        elif isinstance(content, bytes | bytearray | memoryview | str):
            data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
            executable = data.startswith(_EXECUTABLE_MAGIC)
            mode = attributes.mode_of(0o755 if executable else 0o644, executable=executable)
            entries[path] = Entry(FileKind.FILE, mode, len(data), BytesSource(data), owner=attributes.owner)
        else:
            raise InvalidValue(f"content of {path!r:.200} must be bytes, text or a Path, not {type(content).__name__}")
    return entries


def directory_entries(
    directory: str | os.PathLike[str],
    target: str | os.PathLike[str] = "",
    attributes: Attributes = DEFAULT_ATTRIBUTES,
    *,
    exclude: PathFilter = NO_PATTERNS,
    skipped: list[str] | None = None,
) -> dict[str, Entry]:
    """Entries for the content of a directory on disk. Symbolic links are stored as links and never followed.

    The target is an entry too, unless it is the root.

    Args:
        directory: Directory on disk.
        target: Directory in the image that receives the content; the root by default.
        attributes: Attributes of all entries.
        exclude: Paths below the directory to leave out. A directory is left out only if everything below it is.
        skipped: List to which the paths of sockets on disk are added; by default sockets are refused.

    Raises:
        InvalidName: The target leaves the image, or the name of a file is not UTF-8.
        InvalidValue: The directory contains a device or fifo, or a socket that is not skipped.
        OSError: A file or directory cannot be read.
    """
    root = image_path(target)
    entries: dict[str, Entry] = {}
    if root:
        mode = attributes.mode_of(0o755, executable=True)
        entries[root] = Entry(FileKind.DIRECTORY, mode, owner=attributes.owner)
    left_out: dict[str, Entry] = {}
    pending = [(Path(directory), "")]
    while pending:
        checkpoint()
        folder, prefix = pending.pop()
        with os.scandir(folder) as items:
            names = [item.name for item in items]
        for name in names:
            disk, below = folder / name, f"{prefix}{name}"
            status = disk.lstat()
            is_directory = stat.S_ISDIR(status.st_mode)
            excluded = exclude.excludes(f"{below}/" if is_directory else below)
            if excluded and (exclude.prunes or not is_directory):
                continue
            if stat.S_ISSOCK(status.st_mode) and skipped is not None:
                skipped.append(str(disk))
                continue
            entry = _entry_on_disk(disk, status, attributes)
            if is_directory:
                pending.append((disk, f"{below}/"))
            if excluded:
                left_out[below] = entry
                continue
            entries[image_path(f"{root}/{below}")] = entry
            while (below := below.rpartition("/")[0]) in left_out:
                entries[image_path(f"{root}/{below}")] = left_out.pop(below)
    return entries


def whiteout_entry(path: str, entry: Entry) -> Whiteout | None:
    """Return the whiteout that an entry is, or ``None`` for an ordinary entry.

    Raises:
        InvalidName: The whiteout names nothing, is not a file, or the entry is below one.
    """
    try:
        return whiteout_of(path.encode(), regular=entry.kind is FileKind.FILE)
    except UnsafeArchive as error:
        raise InvalidName(error.message) from None


def _entry_on_disk(path: Path, status: os.stat_result, attributes: Attributes) -> Entry:
    if stat.S_ISLNK(status.st_mode):
        link = os.fspath(path.readlink())
        _check_utf8(link)
        return Entry(FileKind.SYMLINK, 0o777, link=link, owner=attributes.owner)
    if stat.S_ISDIR(status.st_mode):
        mode = attributes.mode_of(stat.S_IMODE(status.st_mode), executable=True)
        return Entry(FileKind.DIRECTORY, mode, owner=attributes.owner)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidValue(f"not a file, directory or symbolic link, which must be left out: {path}")
    return _file_on_disk(path, status, attributes)


def _file_on_disk(path: Path, status: os.stat_result, attributes: Attributes) -> Entry:
    mode = attributes.mode_of(stat.S_IMODE(status.st_mode), executable=bool(status.st_mode & stat.S_IXUSR))
    return Entry(FileKind.FILE, mode, status.st_size, FileSource(path), owner=attributes.owner)


def _check_utf8(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"path or link is not UTF-8: {text!r:.200}") from None
