"""Members of a layer tar, and the limits for reading them."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import msgspec

from registry_core.errors import InvalidValue, TooLarge
from registry_core.ops.tar.headers import SparseMap

__all__ = [
    "MAX_DEVICE_NUMBER",
    "Budget",
    "ExtractLimits",
    "FileEntry",
    "FileKind",
    "Member",
    "file_entry",
    "fingerprint",
    "printable",
]

# Major and minor device numbers: the most that seven octal digits hold, and more than any kernel uses.
MAX_DEVICE_NUMBER: Final = 0o7777777


class FileKind(enum.Enum):
    """The type of a file in an image."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"


class Member(msgspec.Struct, frozen=True, gc=False):
    """One member of a tar, with all attributes that its headers state.

    Args:
        path: Clean path from the root.
        kind: Type of the file.
        mode: Permissions, setuid, setgid and sticky bit.
        uid: Owner.
        gid: Group.
        mtime: Modification time in nanoseconds since 1970.
        size: Size of a file in bytes, holes included.
        link: Target of a symbolic link, unchanged; clean path of the target of a hard link.
        device: Major and minor number of a device.
        xattrs: Extended attributes, sorted by name.
        sparse_map: Segments of a sparse file that have data; ``None`` for a file without holes.
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
    sparse_map: SparseMap | None = None


class FileEntry(msgspec.Struct, frozen=True):
    """One file of an image, as listed by ``list_files``.

    Args:
        path: Path from the root, without a leading slash; bytes that are not UTF-8 are decoded as by ``os.fsdecode``.
        kind: Type of the file.
        size: Size in bytes, holes included.
        mode: Permissions, setuid, setgid and sticky bit.
        uid: Owner.
        gid: Group.
        mtime: Modification time in seconds since 1970.
        link: Target of a symbolic link; path of the target of a hard link.
        device: Major and minor number of a device.
        xattrs: Extended attributes, sorted by name.
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
    """Limits for reading the layers of an image.

    Args:
        total_bytes: Bytes of all layers, uncompressed: the tars, and the holes of sparse files.
        file_bytes: Bytes of one file, holes included.
        entries: Entries of all layers, implied directories included.
        name_bytes: Bytes of metadata kept in memory: paths, link targets, and extended attributes of anything but
            files. A deep path counts once for each implied parent directory.
        ratio: Uncompressed size of a layer divided by its stored size, checked above ``ratio_floor``.
        ratio_floor: Uncompressed bytes of a layer below which ``ratio`` is not checked: small layers of zeros are
            legitimate.

    Raises:
        InvalidValue: A limit is not a whole number, or negative.
    """

    total_bytes: int = 256 << 30
    file_bytes: int = 256 << 30
    entries: int = 2_000_000
    name_bytes: int = 256 << 20
    ratio: int = 200
    ratio_floor: int = 8 << 30

    def __post_init__(self) -> None:
        """Check the types and ranges."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidValue(f"{name} must be a number of at least 0, not {value!r:.50}")


class Budget:
    """Count what is read of an image against the limits.

    Args:
        limits: The limits.
        reference: Reference of the image, for errors.
    """

    def __init__(self, limits: ExtractLimits, *, reference: str = "") -> None:
        self._limits = limits
        self._reference = reference
        self._bytes = 0
        self._entries = 0
        self._metadata_bytes = 0
        self._layer_bytes = 0
        self._stored_size = 0

    def begin_layer(self, stored_size: int) -> None:
        """Begin a new layer.

        Args:
            stored_size: Size of the layer as stored, usually compressed.
        """
        self._layer_bytes = 0
        self._stored_size = stored_size

    def add_bytes(self, count: int) -> None:
        """Count bytes of the uncompressed tar.

        Raises:
            TooLarge: A limit is exceeded.
        """
        self._layer_bytes += count
        if self._layer_bytes > self._limits.ratio_floor and self._layer_bytes > self._limits.ratio * self._stored_size:
            raise self._too_large(
                f"layer of {self._stored_size} bytes expands to more than {self._limits.ratio} times its size"
            )
        self.add_hole(count)

    def add_hole(self, count: int) -> None:
        """Count bytes of holes, which are not in the tar.

        Raises:
            TooLarge: A limit is exceeded.
        """
        self._bytes += count
        if self._bytes > self._limits.total_bytes:
            raise self._too_large(f"more than {self._limits.total_bytes} uncompressed bytes")

    def check_file_size(self, size: int) -> None:
        """Check the size of a file.

        Raises:
            TooLarge: The limit is exceeded.
        """
        if size > self._limits.file_bytes:
            raise self._too_large(f"file of {size} bytes, more than the limit of {self._limits.file_bytes}")

    def add_entry(self, path: bytes) -> None:
        """Count an entry whose path is kept in memory.

        Raises:
            TooLarge: A limit is exceeded.
        """
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._too_large(f"more than {self._limits.entries} entries")
        self.add_metadata(len(path))

    def add_metadata(self, count: int) -> None:
        """Count bytes of metadata that are kept in memory.

        Raises:
            TooLarge: A limit is exceeded.
        """
        self._metadata_bytes += count
        if self._metadata_bytes > self._limits.name_bytes:
            raise self._too_large(f"more than {self._limits.name_bytes} bytes of names and attributes")

    def _too_large(self, reason: str) -> TooLarge:
        return TooLarge(reason, reference=self._reference)


def file_entry(member: Member) -> FileEntry:
    """Convert a member to the public type."""
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


def fingerprint(member: Member, chunks: Iterable[tuple[int, memoryview]] = ()) -> bytes:
    """A digest of all attributes of a member and of its content: equal for members that are the same to the byte.

    Args:
        member: The member.
        chunks: Content of a file, as offsets and data; it is read to its end.
    """
    hasher = sha256(repr(msgspec.structs.astuple(member)).encode())
    for _, chunk in chunks:
        hasher.update(chunk)
    return hasher.digest()


def printable(path: bytes) -> str:
    """A path for error messages: quoted, shortened, without control characters."""
    return f"{path.decode('utf-8', 'backslashreplace')!r:.200}"
