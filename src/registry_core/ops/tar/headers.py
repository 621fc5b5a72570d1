"""Headers of a tar, parsed strictly: ustar, GNU and v7 header blocks, PAX records, and GNU sparse maps.

Malformed fields are refused and never guessed: two readers that disagree about one header disagree about every member
after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from zlib import adler32

import msgspec

from registry_core.errors import IntegrityError, TooLarge, UnsafeArchive

__all__ = [
    "BLOCK_SIZE",
    "Header",
    "SparseMap",
    "header_checksum",
    "padding",
    "parse_header",
    "parse_number",
    "parse_pax_records",
    "parse_sparse_header",
    "parse_sparse_records",
    "parse_sparse_stream",
    "pax_number",
    "pax_override",
    "pax_path",
    "pax_real_size",
    "pax_time",
    "pax_xattrs",
    "validate_sparse_map",
]


BLOCK_SIZE: Final = 512

# Mode, uid, gid, size, mtime and checksum in the form that most writers use.
_COMMON_FIELDS: Final = re.compile(
    rb"([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{11})[\0 ]([0-7]{11})[\0 ]([0-7]{6})[\0 ]{2}"
).fullmatch

_OCTAL: Final = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*").fullmatch

_USTAR_MAGIC: Final = b"ustar\0"

_PAX_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,7}) ").match

_DECIMAL: Final = re.compile(rb"[0-9]{1,19}").fullmatch

_DECIMAL_LIST: Final = re.compile(rb"[0-9]{1,19}(?:,[0-9]{1,19})*").fullmatch

_PAX_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{0,64}))?").fullmatch

_XATTR_PREFIX: Final = b"SCHILY.xattr."

# A segment in an old GNU header: 12 bytes of offset, 12 bytes of length.
_SEGMENT_SIZE: Final = 24

_MAX_SEGMENTS: Final = 1 << 16

# Offset and length of each segment of a sparse file that has data; holes lie between them.
SparseMap = tuple[tuple[int, int], ...]


class Header(msgspec.Struct, frozen=True, gc=False):
    """The fields of one header block.

    Args:
        block: The 512 bytes of the block.
        typeflag: Type of the entry, one byte.
        name: Name, with the ustar prefix if there is one.
        mode: Permissions, setuid, setgid and sticky bit.
        uid: Owner.
        gid: Group.
        size: Bytes of content after the header.
        mtime: Modification time in seconds since 1970.
        link: Target of a symbolic or hard link.
    """

    block: bytes
    typeflag: bytes
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes


def padding(size: int) -> int:
    """The number of bytes that fill the last block after ``size`` bytes of content."""
    return -size % BLOCK_SIZE


def header_checksum(block: bytes) -> int:
    """The sum of the bytes of a block, or of a part of one.

    The lower half of Adler-32 is the sum plus one, modulo a prime that half a block cannot reach. This is ten times
    faster than a loop.
    """
    half = BLOCK_SIZE // 2
    return (adler32(block[:half]) & 0xFFFF) + (adler32(block[half:]) & 0xFFFF) - 2


def parse_header(block: bytes) -> Header:
    """Parse a header block of 512 bytes.

    Raises:
        IntegrityError: The checksum is wrong, a field is not a number, or a field is negative that must not be.
    """
    common = _COMMON_FIELDS(block, 100, 156)
    if common is not None:
        digits = common.groups()
        mode, uid, gid = int(digits[0], 8), int(digits[1], 8), int(digits[2], 8)
        size, mtime, checksum = int(digits[3], 8), int(digits[4], 8), int(digits[5], 8)
    else:
        checksum = parse_number(block[148:156], "checksum")
        _check_checksum(block, checksum)
        mode = parse_number(block[100:108], "mode")
        uid = parse_number(block[108:116], "uid")
        gid = parse_number(block[116:124], "gid")
        size = parse_number(block[124:136], "size")
        mtime = parse_number(block[136:148], "mtime", signed=True)
    _check_checksum(block, checksum)
    name = _text(block, 0, 100)
    if block.startswith(_USTAR_MAGIC, 257) and block[345]:
        name = _text(block, 345, 500) + b"/" + name
    return Header(block, block[156:157], name, mode & 0o7777, uid, gid, size, mtime, _text(block, 157, 257))


def parse_number(field: bytes, name: str, *, signed: bool = False) -> int:
    """Parse a header field: octal digits, or base 256 if the first bit is set.

    Args:
        field: Bytes of the field.
        name: Name of the field, for errors.
        signed: Whether negative numbers are allowed.

    Raises:
        IntegrityError: The field is not a number, negative without ``signed``, or out of range.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True) if field[0] & 0x40 else _positive(field)
        if value < 0 and not signed:
            raise IntegrityError(f"corrupt tar header: {name} is negative")
        if abs(value) >= 1 << 63:
            raise IntegrityError(f"corrupt tar header: {name} is out of range")
        return value
    match = _OCTAL(field)
    if match is None:
        raise IntegrityError(f"not a tar, or corrupt: {name} in a header is not a number: {field!r}")
    return int(match[1] or b"0", 8)


def _positive(field: bytes) -> int:
    return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")


def _check_checksum(block: bytes, checksum: int) -> None:
    # The checksum field counts as eight spaces. Some old systems summed signed bytes.
    total = header_checksum(block) - sum(block[148:156]) + 8 * 0x20
    if checksum != total and checksum != total - 256 * sum(byte >> 7 for byte in block[:148] + block[156:]):
        raise IntegrityError("not a tar, or corrupt: wrong checksum of a header")


def _text(block: bytes, start: int, end: int) -> bytes:
    stop = block.find(b"\0", start, end)
    return block[start:end] if stop < 0 else block[start:stop]


def parse_pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Parse the content of a PAX extended header: keywords and values in order; a keyword may be repeated.

    Raises:
        IntegrityError: The stated length of a record is wrong, or a record has no keyword.
    """
    records = []
    position = 0
    while position < len(data):
        match = _PAX_LENGTH(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1] != 0x0A:
            raise IntegrityError("corrupt PAX header: a record has the wrong length")
        keyword, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals or not keyword:
            raise IntegrityError("corrupt PAX header: a record has no keyword")
        records.append((keyword, value))
        position = end
    return records


def pax_path(records: dict[bytes, bytes], keyword: bytes) -> bytes | None:
    """The value of a record that holds a path; ``None`` if there is no such record.

    Raises:
        UnsafeArchive: The path is empty or contains a NUL byte.
    """
    value = records.get(keyword)
    if value is not None and (not value or b"\0" in value):
        raise UnsafeArchive(f"unsafe PAX header: {_keyword(keyword)} is empty or contains a NUL byte")
    return value


def pax_override(records: dict[bytes, bytes], keyword: bytes, long_name: bytes | None) -> bytes | None:
    """The value of a record that holds a path; ``None`` if there is no such record.

    Readers disagree about the order of PAX records and GNU long names. The name of an old header also decides whether
    it is of a directory, which has no content, so the two must not differ.

    Args:
        records: PAX records of the member.
        keyword: ``path`` or ``linkpath``.
        long_name: GNU long name of the member, or long name of its link; ``None`` if it has none.

    Raises:
        UnsafeArchive: The path is empty or contains a NUL byte, or the member has a GNU long name that differs.
    """
    value = pax_path(records, keyword)
    if value is not None and long_name is not None and value != long_name:
        raise UnsafeArchive(f"unsafe tar: PAX record {_keyword(keyword)} and GNU long name of one member differ")
    return value


def pax_number(records: dict[bytes, bytes], keyword: bytes) -> int | None:
    """The value of a record that holds a number; ``None`` if there is no such record.

    Raises:
        IntegrityError: The value is not a number, or out of range.
    """
    value = records.get(keyword)
    if value is None:
        return None
    if _DECIMAL(value) is None or int(value) >= 1 << 63:
        raise IntegrityError(f"corrupt PAX header: {_keyword(keyword)} is not a number in range: {value!r:.50}")
    return int(value)


def pax_time(records: dict[bytes, bytes], keyword: bytes) -> int | None:
    """The value of a record that holds a time, in nanoseconds since 1970; ``None`` if there is no such record.

    Raises:
        IntegrityError: The value is not a time.
    """
    value = records.get(keyword)
    if value is None:
        return None
    match = _PAX_TIME(value)
    if match is None:
        raise IntegrityError(f"corrupt PAX header: {_keyword(keyword)} is not a time: {value!r:.50}")
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    nanoseconds = int(match[2]) * 10**9 + int(fraction)
    return -nanoseconds if match[1] else nanoseconds


def pax_xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes in the records, sorted by name.

    Raises:
        UnsafeArchive: The name of an attribute is empty or contains a NUL byte.
    """
    xattrs = []
    for keyword, value in records.items():
        if keyword.startswith(_XATTR_PREFIX):
            name = keyword[len(_XATTR_PREFIX) :]
            if not name or b"\0" in name:
                raise UnsafeArchive("unsafe PAX header: the name of an attribute is empty or contains a NUL byte")
            xattrs.append((name, value))
    return tuple(sorted(xattrs))


def _keyword(keyword: bytes) -> str:
    return keyword.decode("ascii", "replace")


def parse_sparse_header(header: Header, read_block: Callable[[], bytes]) -> tuple[SparseMap, int]:
    """Parse the map of a sparse file in the old GNU format (typeflag ``S``), which begins in the header block.

    Args:
        header: Header of the file.
        read_block: Returns the next block of the archive.

    Returns:
        The map and the size of the file, holes included.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: The map has too many segments.
    """
    segments = _old_gnu_segments(header.block[386:482])
    extended = header.block[482]
    while extended:
        block = read_block()
        segments += _old_gnu_segments(block[:504])
        extended = block[504]
        _check_segment_count(len(segments))
    return tuple(segments), parse_number(header.block[483:495], "real size")


def parse_sparse_records(records: Sequence[tuple[bytes, bytes]]) -> SparseMap | None:
    """Parse the map of a sparse file in the PAX formats 0.0 and 0.1; ``None`` if the records have no map.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: The map has too many segments.
    """
    values = dict(records)
    numbers: list[int] = []
    if b"GNU.sparse.map" in values:
        numbers = _decimal_list(values[b"GNU.sparse.map"])
    elif b"GNU.sparse.numblocks" in values:
        expected = b"GNU.sparse.offset"
        for keyword, value in records:
            if keyword in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                if keyword != expected:
                    raise IntegrityError("corrupt sparse map: offsets and lengths do not alternate")
                numbers.append(_decimal(value))
                expected = b"GNU.sparse.numbytes" if keyword == b"GNU.sparse.offset" else b"GNU.sparse.offset"
    else:
        return None
    count = pax_number(values, b"GNU.sparse.numblocks")
    if len(numbers) % 2 or (count is not None and count != len(numbers) // 2):
        raise IntegrityError("corrupt sparse map: incomplete")
    return _pairs(numbers)


def parse_sparse_stream(read_block: Callable[[], bytes], size: int) -> tuple[SparseMap, int]:
    """Parse the map of a sparse file in the PAX format 1.0, which precedes the data of the file.

    Args:
        read_block: Returns the next block of the archive.
        size: Bytes of map and data together.

    Returns:
        The map and the number of bytes that it takes in the archive.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: The map has too many segments.
    """
    text = b""
    consumed = 0
    numbers: list[int] = []
    needed = 1
    while len(numbers) < needed:
        line, newline, rest = text.partition(b"\n")
        if not newline:
            if consumed + BLOCK_SIZE > size or len(text) > BLOCK_SIZE:
                raise IntegrityError("corrupt sparse map: truncated")
            text += read_block()
            consumed += BLOCK_SIZE
            continue
        numbers.append(_decimal(line))
        text = rest
        if len(numbers) == 1:
            _check_segment_count(numbers[0])
            needed += 2 * numbers[0]
    return _pairs(numbers[1:]), consumed


def pax_real_size(records: dict[bytes, bytes]) -> int | None:
    """The size of a sparse file, holes included; ``None`` if no record states it.

    Raises:
        IntegrityError: The value is not a number.
    """
    size = pax_number(records, b"GNU.sparse.realsize")
    return pax_number(records, b"GNU.sparse.size") if size is None else size


def validate_sparse_map(sparse_map: SparseMap, file_size: int, data_size: int) -> SparseMap:
    """Check that the segments are in order, inside the file, and as long as the data; drop empty segments.

    Args:
        sparse_map: The map as parsed.
        file_size: Size of the file, holes included.
        data_size: Bytes of data in the archive.

    Raises:
        IntegrityError: The map fails a check.
    """
    position = total = 0
    for offset, length in sparse_map:
        if offset < position or offset + length > file_size:
            raise IntegrityError("corrupt sparse map: segments overlap or exceed the file")
        position = offset + length
        total += length
    if total != data_size:
        raise IntegrityError(f"corrupt sparse map: segments of {total} bytes, but {data_size} bytes of data")
    return tuple(segment for segment in sparse_map if segment[1])


def _old_gnu_segments(area: bytes) -> list[tuple[int, int]]:
    segments = []
    for start in range(0, len(area) - _SEGMENT_SIZE + 1, _SEGMENT_SIZE):
        offset, length = area[start : start + 12], area[start + 12 : start + _SEGMENT_SIZE]
        if not offset.strip(b"\0 ") and not length.strip(b"\0 "):
            break
        segments.append((parse_number(offset, "sparse offset"), parse_number(length, "sparse length")))
    return segments


def _pairs(numbers: Sequence[int]) -> SparseMap:
    _check_segment_count(len(numbers) // 2)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _decimal(text: bytes) -> int:
    if _DECIMAL(text) is None or int(text) >= 1 << 63:
        raise IntegrityError(f"corrupt sparse map: not a number in range: {text!r:.50}")
    return int(text)


def _decimal_list(text: bytes) -> list[int]:
    if not text:
        return []
    _check_segment_count((text.count(b",") + 1) // 2)
    if _DECIMAL_LIST(text) is None:
        raise IntegrityError(f"corrupt sparse map: not a list of numbers: {text!r:.50}")
    numbers = list(map(int, text.split(b",")))
    if max(numbers) >= 1 << 63:
        raise IntegrityError("corrupt sparse map: a number is out of range")
    return numbers


def _check_segment_count(count: int) -> None:
    if count > _MAX_SEGMENTS:
        raise TooLarge(f"sparse file with more than {_MAX_SEGMENTS} segments")
