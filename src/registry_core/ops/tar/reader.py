"""A strict reader for layer tars that reads to the end of the stream.

``tarfile`` of the standard library stops silently at a corrupt header, and its extraction filters have been bypassed
repeatedly. This reader supports fewer variants of the format and refuses the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry_core.cancellation import checkpoint
from registry_core.content.streams import ByteReader, reader_remark
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
    pax_override,
    pax_path,
    pax_real_size,
    pax_time,
    pax_xattrs,
    validate_sparse_map,
)
from registry_core.ops.tar.members import MAX_DEVICE_NUMBER, Budget, FileKind, Member, printable

__all__ = ["TarReader"]

# An extended header holds one or two names, and attributes of at most 64 KiB each.
_EXTENDED_LIMIT: Final = 1 << 20
_READ_SIZE: Final = 1 << 18
_ZERO_BLOCK: Final = bytes(BLOCK_SIZE)
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
_PAX, _SOLARIS_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = b"x", b"X", b"g", b"L", b"K"
# A reader that applies these from a global header finds other members than a reader that ignores them.
_REFUSED_GLOBAL_KEYWORDS: Final = (b"size", b"GNU.sparse.")


class TarReader:
    """Iterate over the members of a tar; the content of each is read, or skipped, before the next.

    Args:
        stream: The uncompressed tar. It is read to its end, so that a verifying reader verifies all of it.
        budget: Limits, and what was read so far.
        reference: Reference of the image, for errors.
    """

    def __init__(self, stream: ByteReader, budget: Budget, *, reference: str = "") -> None:
        self._stream = stream
        self._budget = budget
        self._reference = reference
        self._buffer = b""
        self._position = 0
        # Content and padding of the current member that are still to be read.
        self._remaining = 0
        self._padding = 0
        self._sparse_map: SparseMap | None = None

    def members(self) -> Iterator[Member]:
        """The members in order, up to the end-of-archive marker.

        Raises:
            IntegrityError: The archive is corrupt or truncated.
            UnsafeArchive: A path leaves the image, or a name or link is not valid.
            TooLarge: A limit is exceeded.
        """
        with error_reference(self._reference):
            while (member := self._described_member()) is not None:
                yield member
                self._skip_content()
            self._drain()

    def _described_member(self) -> Member | None:
        """The next member; the remark of the stream is added to the error of a corrupt tar."""
        try:
            return self._next_member()
        except IntegrityError as error:
            remark = reader_remark(self._stream)
            if remark not in error.message and not isinstance(error, TooLarge | UnsafeArchive):
                error.message += remark
            raise

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The unread content of the current member, as offsets and data; holes are omitted.

        Raises:
            IntegrityError: The archive is truncated.
        """
        for start, length in self._sparse_map or ((0, self._remaining),):
            position, end = start, start + length
            while position < end:
                chunk = self._read_chunk(min(end - position, self._remaining))
                yield position, chunk
                position += len(chunk)

    def _next_member(self) -> Member | None:
        records: list[tuple[bytes, bytes]] | None = None
        name: bytes | None = None
        link: bytes | None = None
        while (block := self._header_block()) is not None:
            header = parse_header(block)
            if header.typeflag in (_PAX, _SOLARIS_PAX):
                if records is not None:
                    raise IntegrityError("corrupt tar: two PAX headers for one member")
                records = parse_pax_records(self._extended_content(header))
            elif header.typeflag == _GLOBAL_PAX:
                self._check_global(parse_pax_records(self._extended_content(header)))
            elif header.typeflag == _LONG_NAME:
                if name is not None:
                    raise IntegrityError("corrupt tar: two GNU long names for one member")
                name = self._long_name(header)
            elif header.typeflag == _LONG_LINK:
                if link is not None:
                    raise IntegrityError("corrupt tar: two GNU long link names for one member")
                link = self._long_name(header)
            else:
                return self._parse_member(header, records or [], name, link)
        if records is not None or name is not None or link is not None:
            raise IntegrityError("corrupt tar: archive ends between the headers of a member")
        return None

    def _parse_member(
        self, header: Header, records: list[tuple[bytes, bytes]], long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        kind = _KINDS.get(header.typeflag)
        if kind is None:
            raise IntegrityError(f"tar member of unknown type {header.typeflag!r}")
        values = dict(records)
        name, link, size = long_name or header.name, long_link or header.link, header.size
        if values:
            name = pax_override(values, b"path", long_name) or name
            link = pax_override(values, b"linkpath", long_link) or link
            pax_size = pax_number(values, b"size")
            size = size if pax_size is None else pax_size
        if not name:
            raise UnsafeArchive("tar member without a name")
        if header.typeflag == b"\0" and name.endswith(b"/"):
            kind = FileKind.DIRECTORY
        if kind is not FileKind.FILE:
            # only files have content. As in Go's archive/tar, a size that other members state has no effect:
            # some writers state the size of a hard link's target, of a link's text, or of a directory on the disk.
            size = 0
            if any(keyword.startswith(b"GNU.sparse.") for keyword in values):
                raise IntegrityError(f"{kind.value} with the records of a sparse file: {printable(name)}")
        self._remaining, self._padding, self._sparse_map = size, padding(size), None
        if kind is FileKind.FILE and (values or header.typeflag == b"S"):
            name = pax_path(values, b"GNU.sparse.name") or name
            size = self._read_sparse_map(header, records, values)
        elif kind is FileKind.FILE:
            self._budget.check_file_size(size)
        return self._make_member(kind, header, values, name, link, size)

    def _make_member(
        self, kind: FileKind, header: Header, values: dict[bytes, bytes], name: bytes, link: bytes, size: int
    ) -> Member:
        path = clean_path(name)
        uid, gid, mtime = (header.uid, header.gid, header.mtime * 10**9)
        if values:
            uid, gid = (
                given if (given := pax_number(values, keyword)) is not None else default
                for keyword, default in ((b"uid", uid), (b"gid", gid))
            )
            exact_time = pax_time(values, b"mtime")
            mtime = mtime if exact_time is None else exact_time
        device = (0, 0)
        if kind in _DEVICES:
            device = (
                parse_number(header.block[329:337], "device number"),
                parse_number(header.block[337:345], "device number"),
            )
            if max(device) > MAX_DEVICE_NUMBER:
                raise IntegrityError(f"device number out of range: {printable(name)}")
        if kind is FileKind.HARDLINK:
            link = clean_path(link)
        elif kind is not FileKind.SYMLINK:
            link = b""
        elif not link or b"\0" in link:
            raise UnsafeArchive(f"symbolic link whose target is empty or contains a NUL byte: {printable(name)}")
        if not path and kind is not FileKind.DIRECTORY:
            raise UnsafeArchive(f"root of the image is not a directory: {printable(name)}")
        xattrs = pax_xattrs(values) if values else ()
        return Member(path, kind, header.mode, uid, gid, mtime, size, link, device, xattrs, self._sparse_map)

    def _read_sparse_map(self, header: Header, records: list[tuple[bytes, bytes]], values: dict[bytes, bytes]) -> int:
        """Read the sparse map, if the file has one; return the size of the file, holes included."""
        file_size: int | None
        if header.typeflag == b"S":
            sparse_map, file_size = parse_sparse_header(header, self._block)
        elif values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor") == b"0":
            file_size = pax_real_size(values)
            sparse_map, consumed = parse_sparse_stream(self._block, self._remaining)
            self._remaining -= consumed
        else:
            parsed = parse_sparse_records(records)
            if parsed is None:
                if any(keyword.startswith(b"GNU.sparse.") for keyword in values):
                    raise IntegrityError("sparse file of an unknown format")
                self._budget.check_file_size(self._remaining)
                return self._remaining
            sparse_map, file_size = parsed, pax_real_size(values)
        if file_size is None:
            raise IntegrityError("corrupt sparse map: size of the file is missing")
        self._budget.check_file_size(file_size)
        self._sparse_map = validate_sparse_map(sparse_map, file_size, self._remaining)
        self._budget.add_hole(file_size - self._remaining)
        return file_size

    def _long_name(self, header: Header) -> bytes:
        # GNU tar terminates them with a NUL byte; some other writers do not.
        text = self._extended_content(header)
        text = text[:-1] if text.endswith(b"\0") else text
        if not text or b"\0" in text:
            raise UnsafeArchive("GNU long name is empty or contains a NUL byte")
        return text

    def _extended_content(self, header: Header) -> bytes:
        if header.size > _EXTENDED_LIMIT:
            raise TooLarge(f"extended tar header of {header.size} bytes, more than the limit of {_EXTENDED_LIMIT}")
        remaining = header.size + padding(header.size)
        parts = []
        while remaining:
            chunk = self._read_chunk(remaining)
            parts.append(chunk)
            remaining -= len(chunk)
        return b"".join(parts)[: header.size]

    @staticmethod
    def _check_global(records: list[tuple[bytes, bytes]]) -> None:
        # Writers use global headers for comments; all other records are ignored.
        if any(keyword.startswith(_REFUSED_GLOBAL_KEYWORDS) for keyword, _ in records):
            raise IntegrityError("global PAX header that changes the size of members")

    def _skip_content(self) -> None:
        # the last block of an archive may be unfilled, but no content may be missing.
        if not self._skip(self._remaining):
            raise self._truncated()
        self._skip(self._padding)
        self._remaining = self._padding = 0

    def _skip(self, count: int) -> bool:
        """Skip bytes of the stream; ``False`` if it ends before."""
        while count > (available := len(self._buffer) - self._position):
            self._position += available
            count -= available
            if not self._fill():
                return False
        self._position += count
        return True

    def _read_chunk(self, limit: int) -> memoryview:
        """Read 1 to ``limit`` bytes of the current member."""
        if self._position == len(self._buffer) and not self._fill():
            raise self._truncated()
        end = min(self._position + limit, len(self._buffer))
        chunk = memoryview(self._buffer)[self._position : end]
        self._position = end
        self._remaining = max(0, self._remaining - len(chunk))
        return chunk

    def _block(self) -> bytes:
        block = self._header_block(end=False)
        if block is None:
            raise self._truncated()
        return block

    def _header_block(self, *, end: bool = True) -> bytes | None:
        """Read the next block; ``None`` at the end of the archive.

        The marker of two zero blocks may be missing or cut: no content is lost then.

        Args:
            end: Whether a zero block means the end of the archive.
        """
        while (available := len(self._buffer) - self._position) < BLOCK_SIZE:
            if not self._fill():
                if self._buffer[self._position :].strip(b"\0"):
                    raise self._truncated()
                self._position += available
                return None
        block = self._buffer[self._position : self._position + BLOCK_SIZE]
        self._position += BLOCK_SIZE
        if not end or block != _ZERO_BLOCK:
            return block
        second = self._header_block(end=False)
        if second is not None and second != _ZERO_BLOCK:
            raise IntegrityError("corrupt tar: a single zero block between members")
        return None

    def _fill(self) -> bool:
        """Read more of the stream into the buffer; ``False`` at its end."""
        checkpoint()
        data = self._stream.read(_READ_SIZE)
        self._budget.add_bytes(len(data))
        self._buffer = self._buffer[self._position :] + data if self._position < len(self._buffer) else data
        self._position = 0
        return bool(data)

    def _drain(self) -> None:
        # the layer is verified only when its stream has ended.
        self._position = len(self._buffer)
        while self._fill():
            self._position = len(self._buffer)

    def _truncated(self) -> IntegrityError:
        return IntegrityError(f"truncated tar{reader_remark(self._stream)}", reference=self._reference)
