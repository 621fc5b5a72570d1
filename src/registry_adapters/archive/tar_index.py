"""The positions of the files in a tar, found by reading its headers once; hostile archives are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry_adapters.archive.file_io import FileSlice, RandomAccessFile
from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE
from registry_core.errors import IntegrityError, LayoutError, TooLarge, UnsafeArchive
from registry_core.ops.tar.headers import (
    BLOCK_SIZE,
    Header,
    padding,
    parse_header,
    parse_pax_records,
    pax_number,
    pax_override,
)
from registry_core.ops.tar.members import printable

__all__ = ["clean_member_name", "index_members"]

# A thousand images have about ten thousand members. All names are kept in memory, so their number is limited.
_MEMBER_LIMIT: Final = 200_000
_NAME_LIMIT: Final = 4096
_NAMES_LIMIT: Final = 32 << 20
_EXTENDED_LIMIT: Final = 64 << 10
# ``docker save`` links to files only, but a repacked archive may have hard links to links.
_LINK_DEPTH_LIMIT: Final = 8

# Type flags of POSIX ustar and PAX, and of GNU tar.
_FILE_TYPES: Final = (b"0", b"\0", b"7")
_HARD_LINK, _SYMBOLIC_LINK, _DIRECTORY = b"1", b"2", b"5"
_SPECIAL_TYPES: Final = (b"3", b"4", b"6")
_SPARSE: Final = b"S"
_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENDED_TYPES: Final = (_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK)
# Some readers apply these records of a global header, others do not: they would see different members.
_FORBIDDEN_GLOBAL_RECORDS: Final = (b"size", b"path", b"linkpath", b"GNU.sparse.")


def index_members(file: RandomAccessFile) -> Mapping[str, FileSlice]:
    """Return the files of a tar by their clean names.

    A link, as ``docker save`` writes them, is a second name of a file in the same archive. Dangling and circular links
    are left out. The end-of-archive marker may be missing, and the last block may be unfilled: some archivers write
    neither in full.

    Raises:
        LayoutError: The file is not a tar, is truncated or corrupt, or has two different members of the same name.
        UnsafeArchive: A name or a link leaves the archive, or a member is a device.
        TooLarge: The archive has too many members or too long names.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    try:
        return _TarIndexer(file).index()
    except (LayoutError, UnsafeArchive, TooLarge):
        raise
    except IntegrityError as error:
        raise LayoutError(error.message) from error


def clean_member_name(name: bytes, *, directory: str = "") -> str:
    """Return the path of a name from the root of the archive, without empty components, ``.`` and ``..``.

    Args:
        name: Name or link target, as in the archive.
        directory: Clean path of the directory that a link target is relative to. Without a directory, ``..`` is
            refused.

    Raises:
        UnsafeArchive: The name is absolute, too long, or leaves the archive.
    """
    parts = directory.split("/") if directory else []
    may_ascend = bool(parts)
    for part in name.decode("utf-8", "surrogateescape").split("/"):
        if part == "..":
            if not parts or not may_ascend:
                raise UnsafeArchive(f"tar member name that leaves the archive: {printable(name)}")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith(b"/") or len(name) > _NAME_LIMIT:
        raise UnsafeArchive(f"tar member name that is absolute or longer than {_NAME_LIMIT} bytes: {printable(name)}")
    return "/".join(parts)


class _TarIndexer:
    def __init__(self, file: RandomAccessFile) -> None:
        self._file = file
        self._file_size = file.size
        self._position = 0
        self._member_count = 0
        self._names_size = 0
        self._files: dict[str, FileSlice] = {}
        self._links: dict[str, str] = {}
        self._reset_extensions()

    def index(self) -> Mapping[str, FileSlice]:
        if not self._file_size:
            raise LayoutError("not an archive: the file is empty")
        while (header := self._next_header()) is not None:
            checkpoint()
            if header.typeflag in _EXTENDED_TYPES:
                self._add_extension(header)
            else:
                self._add_member(header)
        if self._pax_records is not None or self._long_name is not None or self._long_link is not None:
            raise LayoutError("corrupt tar: archive ends between the headers of a member")
        linked = {name: self._resolve_link(name) for name in self._links}
        return self._files | {name: content for name, content in linked.items() if content is not None}

    def _resolve_link(self, name: str) -> FileSlice | None:
        for _ in range(_LINK_DEPTH_LIMIT):
            name = self._links.get(name, name)
        return self._files.get(name)

    def _reset_extensions(self) -> None:
        self._pax_records: dict[bytes, bytes] | None = None
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None

    def _next_header(self) -> Header | None:
        block = self._read_block()
        if not block.strip(b"\0"):
            if self._read_block().strip(b"\0"):
                raise LayoutError("corrupt tar: a single zero block between members")
            return None
        if len(block) < BLOCK_SIZE:
            raise LayoutError("not a tar, or truncated: the file ends in the header of a member")
        self._member_count += 1
        if self._member_count > _MEMBER_LIMIT:
            raise TooLarge(f"the archive has more than {_MEMBER_LIMIT} members")
        return parse_header(block)

    def _read_block(self) -> bytes:
        """Read the next block, which is shorter at the end of the file."""
        block = self._file.read_at(self._position, BLOCK_SIZE)
        self._position += BLOCK_SIZE
        return block

    def _add_extension(self, header: Header) -> None:
        if header.size > _EXTENDED_LIMIT:
            raise TooLarge(f"extended tar header of {header.size} bytes, more than the limit of {_EXTENDED_LIMIT}")
        data = self._content(header.size).read(_EXTENDED_LIMIT, "an extended tar header")
        if header.typeflag == _PAX:
            records = parse_pax_records(data)
            if self._pax_records is not None:
                raise LayoutError("corrupt tar: two PAX headers for one member")
            self._pax_records = dict(records)
        elif header.typeflag == _GLOBAL_PAX:
            if any(keyword.startswith(_FORBIDDEN_GLOBAL_RECORDS) for keyword, _ in parse_pax_records(data)):
                raise LayoutError("global PAX header that changes names or sizes of members")
        elif header.typeflag == _LONG_NAME:
            if self._long_name is not None:
                raise LayoutError("corrupt tar: two GNU long names for one member")
            self._long_name = _parse_long_name(data)
        else:
            if self._long_link is not None:
                raise LayoutError("corrupt tar: two GNU long link names for one member")
            self._long_link = _parse_long_name(data)

    def _add_member(self, header: Header) -> None:
        records = self._pax_records or {}
        raw_name = pax_override(records, b"path", self._long_name) or self._long_name or header.name
        link = pax_override(records, b"linkpath", self._long_link) or self._long_link or header.link
        pax_size = pax_number(records, b"size")
        size = header.size if pax_size is None else pax_size
        self._reset_extensions()
        if header.typeflag == _SPARSE or any(keyword.startswith(b"GNU.sparse.") for keyword in records):
            raise LayoutError(f"sparse file in an image archive: {printable(raw_name)}")
        if header.typeflag in _SPECIAL_TYPES:
            raise UnsafeArchive(f"device or fifo in an image archive: {printable(raw_name)}")
        name = clean_member_name(raw_name)
        is_directory = header.typeflag == _DIRECTORY or (header.typeflag == b"\0" and raw_name.endswith(b"/"))
        if header.typeflag in _FILE_TYPES and not is_directory:
            content = self._content(size)
            known = self._files.get(name)
            if known is None or not _is_same(known, content):
                self._check_name(name, raw_name)
                self._files[name] = content
        elif header.typeflag in (_HARD_LINK, _SYMBOLIC_LINK):
            # As in Go's archive/tar, a size that a link or a directory states has no effect: no content follows.
            folder = "" if header.typeflag == _HARD_LINK else name.rpartition("/")[0]
            target = clean_member_name(link, directory=folder)
            if self._links.get(name) != target:
                self._check_name(name, raw_name)
                self._links[name] = target
        elif not is_directory:
            raise LayoutError(f"tar member of unknown type {header.typeflag!r}: {printable(raw_name)}")

    def _check_name(self, name: str, raw_name: bytes) -> None:
        if not name:
            raise UnsafeArchive("tar member without a name")
        if name in self._files or name in self._links:
            raise LayoutError(f"two different members of the archive have the name {printable(raw_name)}")
        self._names_size += len(raw_name)
        if self._names_size > _NAMES_LIMIT:
            raise TooLarge(f"the member names of the archive have more than {_NAMES_LIMIT} bytes in total")

    def _content(self, size: int) -> FileSlice:
        content = FileSlice(self._file, self._position, size)
        self._position += size + padding(size)
        if content.offset + size > self._file_size:
            raise LayoutError("truncated tar: the content of a member exceeds the file")
        return content


def _is_same(first: FileSlice, second: FileSlice) -> bool:
    """Return whether two members have the same content."""
    if first.size != second.size:
        return False
    with first.open() as one, second.open() as other:
        while data := one.read(CHUNK_SIZE):
            checkpoint()
            if data != other.read(len(data)):
                return False
    return True


def _parse_long_name(data: bytes) -> bytes:
    # GNU tar ends these names with a NUL byte, other archivers do not.
    name = data[:-1] if data.endswith(b"\0") else data
    if not name or b"\0" in name:
        raise UnsafeArchive("GNU long name is empty or contains a NUL byte")
    return name
