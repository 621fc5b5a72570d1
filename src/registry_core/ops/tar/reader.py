"""A layer's tar, read strictly and to its end.

The standard library's reader stops silently where a header is corrupt, and its filters have been gone around again and
again. This one knows fewer forms of tar, and refuses what it does not understand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry_core.cancellation import checkpoint
from registry_core.content.streams import ByteReader
from registry_core.domain.layer_paths import clean_path
from registry_core.errors import IntegrityError, TooLarge, UnsafeArchive, error_reference
from registry_core.ops.tar.headers import (
    BLOCK_SIZE,
    Header,
    SparseMap,
    padding,
    parse_header,
    parse_number,
    parse_pax_records,
    parse_sparse_header,
    parse_sparse_records,
    parse_sparse_stream,
    pax_number,
    pax_path,
    pax_real_size,
    pax_time,
    pax_xattrs,
    validate_sparse_map,
)
from registry_core.ops.tar.members import MAX_DEVICE_NUMBER, Budget, FileKind, Member, printable

__all__ = ["TarReader"]

# An extended header holds a name or two, and attributes of at most 64 KiB each.
_EXTENDED_LIMIT: Final = 1 << 20
_CHUNK: Final = 1 << 18
_ZEROS: Final = bytes(BLOCK_SIZE)
_KINDS: Final = {
    b"0": FileKind.FILE,
    b"\0": FileKind.FILE,
    b"7": FileKind.FILE,
    b"S": FileKind.FILE,
    b"1": FileKind.HARDLINK,
    b"2": FileKind.SYMLINK,
    b"3": FileKind.CHARACTER_DEVICE,
    b"4": FileKind.BLOCK_DEVICE,
    b"5": FileKind.DIRECTORY,
    b"6": FileKind.FIFO,
}
_DEVICES: Final = (FileKind.CHARACTER_DEVICE, FileKind.BLOCK_DEVICE)
_RECORDS, _SOLARIS, _GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"X", b"g", b"L", b"K"
# Readers that obey these in a global header see other members than those that do not.
_NEVER_GLOBAL: Final = (b"size", b"GNU.sparse.")


class TarReader:
    """The members of a tar, one after the other; each one's content is read before the next is asked for, or skipped.

    Args:
        stream: The uncompressed tar. It is read to its end, so that a verifying reader has verified it.
        budget: What the limits leave.
        reference: What it is, for errors.
    """

    def __init__(self, stream: ByteReader, budget: Budget, *, reference: str = "") -> None:
        self._stream = stream
        self._budget = budget
        self._reference = reference
        self._buffer = b""
        self._at = 0
        self._left = 0
        self._padding = 0
        self._spans: SparseMap | None = None

    def members(self) -> Iterator[Member]:
        """The members in their order, without what stands behind the end of the archive.

        Raises:
            IntegrityError: The archive is corrupt or cut off.
            UnsafeArchive: A name leaves the image.
            TooLarge: It is beyond a limit.
        """
        with error_reference(self._reference):
            while (member := self._next()) is not None:
                yield member
                self._skip()
            self._drain()

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """What is left of the present member's content, each piece with its offset; holes are left out.

        Raises:
            IntegrityError: The archive is cut off.
        """
        for start, length in self._spans or ((0, self._left),):
            position, end = start, start + length
            while position < end:
                piece = self._piece(min(end - position, self._left))
                yield position, piece
                position += len(piece)

    def _next(self) -> Member | None:
        records: list[tuple[bytes, bytes]] | None = None
        name: bytes | None = None
        link: bytes | None = None
        while (block := self._header_block()) is not None:
            header = parse_header(block)
            if header.typeflag in (_RECORDS, _SOLARIS):
                if records is not None:
                    raise IntegrityError("two extended tar headers for one member")
                records = parse_pax_records(self._extended(header))
            elif header.typeflag == _GLOBAL:
                self._check_global(parse_pax_records(self._extended(header)))
            elif header.typeflag == _LONG_NAME:
                if name is not None:
                    raise IntegrityError("two long names for one member")
                name = self._long(header)
            elif header.typeflag == _LONG_LINK:
                if link is not None:
                    raise IntegrityError("two long link names for one member")
                link = self._long(header)
            else:
                return self._member(header, records or [], name, link)
        if records is not None or name is not None or link is not None:
            raise IntegrityError("a tar that ends between a member's headers")
        return None

    def _member(
        self, header: Header, records: list[tuple[bytes, bytes]], long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        kind = _KINDS.get(header.typeflag)
        if kind is None:
            raise IntegrityError(f"a tar member of an unknown type {header.typeflag!r}")
        values = dict(records)
        name, link, size = long_name or header.name, long_link or header.link, header.size
        if values:
            name = pax_path(values, b"path") or name
            link = pax_path(values, b"linkpath") or link
            given = pax_number(values, b"size")
            size = size if given is None else given
        if not name:
            raise UnsafeArchive("a tar member without a name")
        if header.typeflag == b"\0" and name.endswith(b"/"):
            kind = FileKind.DIRECTORY
        if kind is FileKind.HARDLINK:
            # Some archivers give the size of what is linked to; none has content there.
            size = 0
        elif kind is not FileKind.FILE and size:
            raise IntegrityError(f"a tar member with content that cannot have any: {printable(name)}")
        self._left, self._padding, self._spans = size, padding(size), None
        if kind is FileKind.FILE and (values or header.typeflag == b"S"):
            name = pax_path(values, b"GNU.sparse.name") or name
            size = self._sparse(header, records, values)
        elif kind is FileKind.FILE:
            self._budget.check_file_size(size)
        return self._made(kind, header, values, name, link, size)

    def _made(
        self, kind: FileKind, header: Header, values: dict[bytes, bytes], name: bytes, link: bytes, size: int
    ) -> Member:
        path = clean_path(name)
        uid, gid, mtime = (header.uid, header.gid, header.mtime * 10**9)
        if values:
            uid, gid = (
                given if (given := pax_number(values, keyword)) is not None else plain
                for keyword, plain in ((b"uid", uid), (b"gid", gid))
            )
            given_time = pax_time(values, b"mtime")
            mtime = mtime if given_time is None else given_time
        device = (0, 0)
        if kind in _DEVICES:
            device = (parse_number(header.block[329:337], "device"), parse_number(header.block[337:345], "device"))
            if max(device) > MAX_DEVICE_NUMBER:
                raise IntegrityError(f"a device with impossible numbers: {printable(name)}")
        if kind is FileKind.HARDLINK:
            link = clean_path(link)
        elif kind is not FileKind.SYMLINK:
            link = b""
        elif not link or b"\0" in link:
            raise UnsafeArchive(f"a symbolic link to nothing: {printable(name)}")
        if not path and kind is not FileKind.DIRECTORY:
            raise UnsafeArchive(f"a root that is not a directory: {printable(name)}")
        xattrs = pax_xattrs(values) if values else ()
        return Member(path, kind, header.mode, uid, gid, mtime, size, link, device, xattrs, self._spans)

    def _sparse(self, header: Header, records: list[tuple[bytes, bytes]], values: dict[bytes, bytes]) -> int:
        """The size of the file, after whatever map it has was read."""
        real: int | None
        if header.typeflag == b"S":
            spans, real = parse_sparse_header(header, self._block)
        elif values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor") == b"0":
            real = pax_real_size(values)
            spans, taken = parse_sparse_stream(self._block, self._left)
            self._left -= taken
        else:
            found = parse_sparse_records(records)
            if found is None:
                if any(keyword.startswith(b"GNU.sparse.") for keyword in values):
                    raise IntegrityError("a sparse file of an unknown format")
                self._budget.check_file_size(self._left)
                return self._left
            spans, real = found, pax_real_size(values)
        if real is None:
            raise IntegrityError("a sparse file without a size")
        self._budget.check_file_size(real)
        self._spans = validate_sparse_map(spans, real, self._left)
        self._budget.add_hole(real - self._left)
        return real

    def _long(self, header: Header) -> bytes:
        # GNU tar ends them with a NUL; others have been known not to.
        text = self._extended(header)
        text = text[:-1] if text.endswith(b"\0") else text
        if not text or b"\0" in text:
            raise UnsafeArchive("a long name that is empty or has a NUL")
        return text

    def _extended(self, header: Header) -> bytes:
        if header.size > _EXTENDED_LIMIT:
            raise TooLarge(f"an extended tar header of {header.size} bytes")
        whole = header.size + padding(header.size)
        parts = []
        while whole:
            piece = self._piece(whole)
            parts.append(piece)
            whole -= len(piece)
        return b"".join(parts)[: header.size]

    @staticmethod
    def _check_global(records: list[tuple[bytes, bytes]]) -> None:
        # Comments are what they are used for; they change nothing here.
        if any(keyword.startswith(_NEVER_GLOBAL) for keyword, _ in records):
            raise IntegrityError("a global tar header that changes where members begin")

    def _skip(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            checkpoint()
            step = min(left, len(self._buffer) - self._at)
            self._at += step
            left -= step
            if left and not self._more():
                raise self._cut()

    def _piece(self, most: int) -> memoryview:
        """Up to so many bytes, at least one; they count as the present member's."""
        if self._at == len(self._buffer) and not self._more():
            raise self._cut()
        end = min(self._at + most, len(self._buffer))
        piece = memoryview(self._buffer)[self._at : end]
        self._at = end
        self._left = max(0, self._left - len(piece))
        return piece

    def _block(self) -> bytes:
        block = self._header_block(end=False)
        if block is None:
            raise self._cut()
        return block

    def _header_block(self, *, end: bool = True) -> bytes | None:
        """The next block; ``None`` at the end, marked or not: a tar that just stops there has lost nothing."""
        while len(self._buffer) - self._at < BLOCK_SIZE:
            had = len(self._buffer) - self._at
            if not self._more():
                if had:
                    raise self._cut()
                return None
        block = self._buffer[self._at : self._at + BLOCK_SIZE]
        self._at += BLOCK_SIZE
        if not end or block != _ZEROS:
            return block
        second = self._header_block(end=False)
        if second is not None and second != _ZEROS:
            raise IntegrityError("a tar with half an end in its middle")
        return None

    def _more(self) -> bool:
        checkpoint()
        data = self._stream.read(_CHUNK)
        self._budget.add_bytes(len(data))
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        return bool(data)

    def _drain(self) -> None:
        # the layer is verified only when its stream has ended.
        self._at = len(self._buffer)
        while self._more():
            self._at = len(self._buffer)

    def _cut(self) -> IntegrityError:
        return IntegrityError("a tar that is cut off", reference=self._reference)
