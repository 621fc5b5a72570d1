"""Members of a layer's tar, and how much of them is accepted."""

from __future__ import annotations

import enum
import os
from typing import Final

import msgspec

from registry_core.errors import TooLarge

__all__ = ["MAX_DEVICE_NUMBER", "Budget", "ExtractLimits", "FileEntry", "FileKind", "Member", "file_entry", "printable"]

# Major and minor numbers of devices: what seven octal digits hold, and more than any kernel knows.
MAX_DEVICE_NUMBER: Final = 0o7777777


class FileKind(enum.Enum):
    """What a member of a layer is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"


class Member(msgspec.Struct, frozen=True, gc=False):
    """One member, with everything that its headers say about it.

    Args:
        path: Clean, from the root.
        kind: What it is.
        mode: Its permissions, with the setuid, setgid and sticky bits.
        uid: Its owner.
        gid: Its group.
        mtime: When it was changed, in nanoseconds since 1970.
        size: Of the file, holes included, in bytes.
        link: Of a symbolic link its text as it stands; of a hard link the clean path of what it is another name of.
        device: Major and minor number of a device.
        xattrs: Extended attributes, by their names.
        sparse_map: Offset and length of what a sparse file has data for; ``None`` for a file without holes.
    """

    path: bytes
    kind: FileKind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    sparse_map: tuple[tuple[int, int], ...] | None = None


class FileEntry(msgspec.Struct, frozen=True):
    """One file of an image, as ``list_files`` shows it.

    Args:
        path: From the root, without a leading slash; bytes that are not UTF-8 as Python's ``os.fsdecode`` has them.
        kind: What it is.
        size: In bytes, holes included.
        mode: Its permissions, with the setuid, setgid and sticky bits.
        uid: Its owner.
        gid: Its group.
        mtime: When it was changed, in seconds since 1970.
        link: Of a symbolic link its text; of a hard link the path of what it is another name of.
        device: Major and minor number of a device.
        xattrs: Extended attributes, by their names, in their order.
    """

    path: str
    kind: FileKind
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
    link: str
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()


class ExtractLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an image may become when it is unpacked.

    Args:
        total_bytes: Of all layers, unpacked: the tars as they are, and sparse files with their holes.
        file_bytes: Of a single file, holes included.
        entries: Of all layers together, directories that are only implied included.
        name_bytes: Of all their paths, of the texts of links, and of the attributes of all but files, which are kept
            until the end; a deep path implies all that are above it.
        ratio: How many times its stored size a layer may become, once more than ``ratio_floor`` bytes have come.
        ratio_floor: What no ratio is asked for: small layers of zeros are ordinary.
    """

    total_bytes: int = 256 << 30
    file_bytes: int = 256 << 30
    entries: int = 2_000_000
    name_bytes: int = 256 << 20
    ratio: int = 200
    ratio_floor: int = 8 << 30


class Budget:
    """What is left of the limits while an image is read.

    Args:
        limits: Where they stand.
        reference: What is read, for errors.
    """

    def __init__(self, limits: ExtractLimits, *, reference: str = "") -> None:
        self._limits = limits
        self._reference = reference
        self._bytes = 0
        self._entries = 0
        self._held = 0
        self._layer = 0
        self._stored = 0

    def begin_layer(self, stored: int) -> None:
        """Say that a layer of so many bytes, as it is stored, comes next."""
        self._layer = 0
        self._stored = stored

    def add_bytes(self, count: int) -> None:
        """Take in so many bytes of the layer's tar.

        Raises:
            TooLarge: That is beyond a limit.
        """
        self._layer += count
        if self._layer > self._limits.ratio_floor and self._layer > self._limits.ratio * self._stored:
            raise self._beyond(f"a layer of {self._stored} bytes becomes more than {self._limits.ratio} times that")
        self.add_hole(count)

    def add_hole(self, count: int) -> None:
        """Take in so many bytes that are not in the tar: what holes stand for.

        Raises:
            TooLarge: That is beyond a limit.
        """
        self._bytes += count
        if self._bytes > self._limits.total_bytes:
            raise self._beyond(f"more than {self._limits.total_bytes} bytes when unpacked")

    def check_file_size(self, size: int) -> None:
        """Take in a file of some size.

        Raises:
            TooLarge: That is beyond a limit.
        """
        if size > self._limits.file_bytes:
            raise self._beyond(f"a file of {size} bytes")

    def add_entry(self, path: bytes) -> None:
        """Take in a path that is kept until the end.

        Raises:
            TooLarge: That is beyond a limit.
        """
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._beyond(f"more than {self._limits.entries} entries")
        self.add_metadata(len(path))

    def add_metadata(self, count: int) -> None:
        """Take in so many bytes of names and the like that are kept until the end.

        Raises:
            TooLarge: That is beyond a limit.
        """
        self._held += count
        if self._held > self._limits.name_bytes:
            raise self._beyond(f"names and attributes of more than {self._limits.name_bytes} bytes")

    def _beyond(self, reason: str) -> TooLarge:
        return TooLarge(reason, reference=self._reference)


def file_entry(member: Member) -> FileEntry:
    """A member as users see it."""
    return FileEntry(
        path=os.fsdecode(member.path),
        kind=member.kind,
        size=member.size,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=member.mtime / 1e9,
        link=os.fsdecode(member.link),
        device=member.device,
        xattrs=tuple((os.fsdecode(name), value) for name, value in member.xattrs),
    )


def printable(path: bytes) -> str:
    """A path for messages: short, and without anything that a terminal would obey."""
    return f"{path.decode('utf-8', 'backslashreplace')!r:.200}"
