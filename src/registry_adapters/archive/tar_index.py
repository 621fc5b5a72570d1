"""Where the files of a tar are: one pass over its headers, which refuses whatever an image archive has no use for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry_adapters.archive.file_io import FileSlice, RandomAccessFile
from registry_core.cancellation import checkpoint
from registry_core.errors import IntegrityError, LayoutError, TooLarge, UnsafeArchive
from registry_core.ops.tar.headers import (
    BLOCK_SIZE,
    Header,
    padding,
    parse_header,
    parse_pax_records,
    pax_number,
    pax_path,
)
from registry_core.ops.tar.members import printable

__all__ = ["index_members", "inside"]

# A thousand images have some ten thousand members; names are kept, so there is a bound on them.
_MEMBER_LIMIT: Final = 200_000
_NAME_LIMIT: Final = 4096
_NAMES_LIMIT: Final = 32 << 20
_EXTENDED_LIMIT: Final = 64 << 10
# ``docker save`` links to files only; whoever packs its files anew may make a hard link of a link.
_HOPS: Final = 8
_ZEROS: Final = bytes(BLOCK_SIZE)
_FILES: Final = (b"0", b"\0", b"7")
_HARD, _SOFT, _DIRECTORY = b"1", b"2", b"5"
_DEVICES: Final = (b"3", b"4", b"6")
_RECORDS, _GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENDED: Final = (_RECORDS, _GLOBAL, _LONG_NAME, _LONG_LINK)
# Readers that obey these in a global header see other members than those that do not.
_NEVER_GLOBAL: Final = (b"size", b"path", b"linkpath", b"GNU.sparse.")


def index_members(medium: RandomAccessFile) -> Mapping[str, FileSlice]:
    """The files of a tar, by their names from its root.

    A link is another name of a file of the same archive, as ``docker save`` uses them; what leads to nothing, or in a
    circle, is left out.

    Raises:
        LayoutError: It is no tar, cut off or corrupt, or has the same name twice.
        UnsafeArchive: A name or a link leaves the archive, or a member is a device.
        TooLarge: It has more members, or longer names, than any honest archive.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    try:
        return _Pass(medium).files()
    except (LayoutError, UnsafeArchive, TooLarge):
        raise
    except IntegrityError as error:
        raise LayoutError(error.message) from error


def inside(name: bytes, *, below: str = "") -> str:
    """A name in an archive, cleaned: from the root, without empty parts and dots.

    Args:
        name: As it stands in the archive.
        below: The directory that it starts from; only what does start from one may go up.

    Raises:
        UnsafeArchive: It leaves the archive.
    """
    parts = below.split("/") if below else []
    depth = len(parts)
    for part in name.decode("utf-8", "surrogateescape").split("/"):
        if part == "..":
            if not parts or not depth:
                raise UnsafeArchive(f"a name that leaves the archive: {printable(name)}")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith(b"/") or len(name) > _NAME_LIMIT:
        raise UnsafeArchive(f"not a name inside an archive: {printable(name)}")
    return "/".join(parts)


class _Pass:
    def __init__(self, medium: RandomAccessFile) -> None:
        self._medium = medium
        self._end = medium.size
        self._position = 0
        self._count = 0
        self._held = 0
        self._files: dict[str, FileSlice] = {}
        self._links: dict[str, str] = {}
        self._forget()

    def files(self) -> Mapping[str, FileSlice]:
        if not self._end:
            raise LayoutError("an empty file, not an archive")
        while (header := self._header()) is not None:
            checkpoint()
            if header.typeflag in _EXTENDED:
                self._extend(header)
            else:
                self._member(header)
        if self._records is not None or self._name is not None or self._link is not None:
            raise LayoutError("a tar that ends between a member's headers")
        second = {name: self._behind(name) for name in self._links}
        return self._files | {name: stretch for name, stretch in second.items() if stretch is not None}

    def _behind(self, name: str) -> FileSlice | None:
        for _ in range(_HOPS):
            name = self._links.get(name, name)
        return self._files.get(name)

    def _forget(self) -> None:
        self._records: dict[bytes, bytes] | None = None
        self._name: bytes | None = None
        self._link: bytes | None = None

    def _header(self) -> Header | None:
        block = self._block()
        if block == _ZEROS:
            if self._block() != _ZEROS:
                raise LayoutError("a tar with a block of zeros in its middle")
            return None
        self._count += 1
        if self._count > _MEMBER_LIMIT:
            raise TooLarge(f"an archive of more than {_MEMBER_LIMIT} members")
        return parse_header(block)

    def _block(self) -> bytes:
        block = self._medium.read_at(self._position, BLOCK_SIZE)
        if len(block) < BLOCK_SIZE:
            raise LayoutError("not a tar, or one that is cut off")
        self._position += BLOCK_SIZE
        return block

    def _extend(self, header: Header) -> None:
        if header.size > _EXTENDED_LIMIT:
            raise TooLarge(f"an extended tar header of {header.size} bytes")
        stretch = self._stretch(header.size)
        data = stretch.content(_EXTENDED_LIMIT, "an extended tar header")
        if header.typeflag == _RECORDS:
            records = parse_pax_records(data)
            if self._records is not None:
                raise LayoutError("two extended tar headers for one member")
            self._records = dict(records)
        elif header.typeflag == _GLOBAL:
            if any(keyword.startswith(_NEVER_GLOBAL) for keyword, _ in parse_pax_records(data)):
                raise LayoutError("a global tar header that changes what members are")
        elif header.typeflag == _LONG_NAME:
            if self._name is not None:
                raise LayoutError("two long names for one member")
            self._name = _long(data)
        else:
            if self._link is not None:
                raise LayoutError("two long link names for one member")
            self._link = _long(data)

    def _member(self, header: Header) -> None:
        records = self._records or {}
        raw = pax_path(records, b"path") or self._name or header.name
        link = pax_path(records, b"linkpath") or self._link or header.link
        given = pax_number(records, b"size")
        size = header.size if given is None else given
        self._forget()
        if header.typeflag == b"S" or any(keyword.startswith(b"GNU.sparse.") for keyword in records):
            raise LayoutError(f"a sparse file in an image archive: {printable(raw)}")
        if header.typeflag in _DEVICES:
            raise UnsafeArchive(f"a device or pipe in an image archive: {printable(raw)}")
        name = inside(raw)
        directory = header.typeflag == _DIRECTORY or (header.typeflag == b"\0" and raw.endswith(b"/"))
        if header.typeflag in _FILES and not directory:
            self._hold(name, raw)
            self._files[name] = self._stretch(size)
            return
        if header.typeflag in (_HARD, _SOFT):
            self._hold(name, raw)
            self._links[name] = inside(link, below="" if header.typeflag == _HARD else name.rpartition("/")[0])
            # Some archivers give a hard link the size of what it leads to; none has content there.
            size = 0 if header.typeflag == _HARD else size
        elif not directory:
            raise LayoutError(f"a tar member of an unknown type {header.typeflag!r}")
        if size:
            raise LayoutError(f"a tar member with content that cannot have any: {printable(raw)}")

    def _hold(self, name: str, raw: bytes) -> None:
        if not name:
            raise UnsafeArchive("a tar member without a name")
        if name in self._files or name in self._links:
            raise LayoutError(f"an archive with two members of the name {printable(raw)}")
        self._held += len(raw)
        if self._held > _NAMES_LIMIT:
            raise TooLarge(f"an archive with names of more than {_NAMES_LIMIT} bytes")

    def _stretch(self, size: int) -> FileSlice:
        stretch = FileSlice(self._medium, self._position, size)
        self._position += size + padding(size)
        if stretch.offset + size > self._end:
            raise LayoutError("a tar that is cut off: a member is longer than the archive")
        return stretch


def _long(data: bytes) -> bytes:
    # GNU tar ends them with a NUL; others have been known not to.
    text = data[:-1] if data.endswith(b"\0") else data
    if not text or b"\0" in text:
        raise UnsafeArchive("a long name that is empty or has a NUL")
    return text
