"""Single headers of a tar, read strictly: what is not plainly right is refused.

Plain ustar, GNU and the old v7 form. Nothing is guessed: readers that disagree about a header disagree about
everything behind it.

Extended headers of a tar (POSIX pax), read strictly.

Where sparse files have data: the four ways in which GNU tar has said it.
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
    "pax_number",
    "header_checksum",
    "pax_path",
    "parse_number",
    "padding",
    "parse_header",
    "parse_pax_records",
    "parse_sparse_header",
    "parse_sparse_records",
    "parse_sparse_stream",
    "pax_real_size",
    "pax_time",
    "validate_sparse_map",
    "pax_xattrs",
]


BLOCK_SIZE: Final = 512

# Mode, owner, group, size, time and checksum as nearly everybody writes them.
_USUAL: Final = re.compile(
    rb"([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{11})[\0 ]([0-7]{11})[\0 ]([0-7]{6})[\0 ]{2}"
).fullmatch

_OCTAL: Final = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*").fullmatch

_POSIX, _GNU = b"ustar\0", b"ustar "


class Header(msgspec.Struct, frozen=True, gc=False):
    """What one block says.

    Args:
        block: The block itself.
        typeflag: One byte, as tar has it.
        name: With the prefix, where there is one.
        mode: The lower twelve bits.
        uid: The owner.
        gid: The group.
        size: Of what follows, in bytes.
        mtime: In seconds since 1970.
        link: The link's text.
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
    """How many bytes fill up the last block of so many."""
    return -size % BLOCK_SIZE


def header_checksum(block: bytes) -> int:
    """The sum of a block's bytes, or of fewer of them.

    The lower half of Adler-32 is one more than the sum, modulo a prime that half a block does not reach: ten times as
    fast as adding them one by one.
    """
    half = BLOCK_SIZE // 2
    return (adler32(block[:half]) & 0xFFFF) + (adler32(block[half:]) & 0xFFFF) - 2


def parse_header(block: bytes) -> Header:
    """One block of 512 bytes as a header.

    Raises:
        IntegrityError: It is corrupt: a wrong checksum, bad numbers, or negative ones where none can be.
    """
    usual = _USUAL(block, 100, 156)
    if usual is not None:
        digits = usual.groups()
        mode, uid, gid = int(digits[0], 8), int(digits[1], 8), int(digits[2], 8)
        size, mtime, checksum = int(digits[3], 8), int(digits[4], 8), int(digits[5], 8)
    else:
        checksum = parse_number(block[148:156], "checksum")
        _check(block, checksum)
        mode = parse_number(block[100:108], "mode")
        uid = parse_number(block[108:116], "owner")
        gid = parse_number(block[116:124], "group")
        size = parse_number(block[124:136], "size")
        mtime = parse_number(block[136:148], "time", signed=True)
    _check(block, checksum)
    name = _text(block, 0, 100)
    if block.startswith(_POSIX, 257) and block[345]:
        name = _text(block, 345, 500) + b"/" + name
    return Header(block, block[156:157], name, mode & 0o7777, uid, gid, size, mtime, _text(block, 157, 257))


def parse_number(field: bytes, what: str, *, signed: bool = False) -> int:
    """A number in octal, or in base 256 where its first bit says so.

    Raises:
        IntegrityError: It is neither, or negative where it must not be.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True) if field[0] & 0x40 else _positive(field)
        if value < 0 and not signed:
            raise IntegrityError(f"a tar header with a negative {what}")
        if abs(value) >= 1 << 63:
            raise IntegrityError(f"a tar header whose {what} is out of range")
        return value
    match = _OCTAL(field)
    if match is None:
        raise IntegrityError(f"a tar header whose {what} is not a number: {field!r}")
    return int(match[1] or b"0", 8)


def _positive(field: bytes) -> int:
    return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")


def _check(block: bytes, checksum: int) -> None:
    # The checksum counts itself as eight spaces. Some systems once summed signed bytes.
    total = header_checksum(block) - sum(block[148:156]) + 8 * 0x20
    if checksum != total and checksum != total - 256 * sum(byte >> 7 for byte in block[:148] + block[156:]):
        raise IntegrityError("a tar header with a wrong checksum")


def _text(block: bytes, start: int, end: int) -> bytes:
    stop = block.find(b"\0", start, end)
    return block[start:end] if stop < 0 else block[start:stop]


_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,7}) ").match

_COUNT: Final = re.compile(rb"[0-9]{1,19}").fullmatch

_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{0,64}))?").fullmatch

_XATTR: Final = b"SCHILY.xattr."


def parse_pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in their order; keywords may come more than once.

    Raises:
        IntegrityError: A record is not exactly as long as it says, or has no keyword.
    """
    records = []
    position = 0
    while position < len(data):
        match = _LENGTH(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1] != 0x0A:
            raise IntegrityError("an extended tar header with a record of another length than it says")
        keyword, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals or not keyword:
            raise IntegrityError("an extended tar header with a record without a keyword")
        records.append((keyword, value))
        position = end
    return records


def pax_path(records: dict[bytes, bytes], keyword: bytes) -> bytes | None:
    """A path among the records; ``None`` if it is not there.

    Raises:
        UnsafeArchive: It is empty or has a NUL.
    """
    value = records.get(keyword)
    if value is not None and (not value or b"\0" in value):
        raise UnsafeArchive(f"an extended tar header whose {keyword.decode('ascii', 'replace')} is empty or has a NUL")
    return value


def pax_number(records: dict[bytes, bytes], keyword: bytes) -> int | None:
    """A number among the records; ``None`` if it is not there.

    Raises:
        IntegrityError: It is not a number, or out of range.
    """
    value = records.get(keyword)
    if value is None:
        return None
    if _COUNT(value) is None or int(value) >= 1 << 63:
        raise IntegrityError(f"an extended tar header whose {keyword.decode('ascii', 'replace')} is {value!r:.50}")
    return int(value)


def pax_time(records: dict[bytes, bytes], keyword: bytes) -> int | None:
    """A time among the records, in nanoseconds; ``None`` if it is not there.

    Raises:
        IntegrityError: It is not a time.
    """
    value = records.get(keyword)
    if value is None:
        return None
    match = _TIME(value)
    if match is None:
        raise IntegrityError(f"an extended tar header whose {keyword.decode('ascii', 'replace')} is {value!r:.50}")
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    nanoseconds = int(match[2]) * 10**9 + int(fraction)
    return -nanoseconds if match[1] else nanoseconds


def pax_xattrs(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes among the records, by name.

    Raises:
        UnsafeArchive: A name is empty or has a NUL.
    """
    found = []
    for keyword, value in records.items():
        if keyword.startswith(_XATTR):
            name = keyword[len(_XATTR) :]
            if not name or b"\0" in name:
                raise UnsafeArchive("an extended attribute without a proper name")
            found.append((name, value))
    return tuple(sorted(found))


SparseMap = tuple[tuple[int, int], ...]

_MOST: Final = 1 << 16

_NUMBER: Final = re.compile(rb"[0-9]{1,19}").fullmatch

_NUMBERS: Final = re.compile(rb"[0-9]{1,19}(?:,[0-9]{1,19})*").fullmatch

_SPAN: Final = 24


def parse_sparse_header(header: Header, block: Callable[[], bytes]) -> tuple[SparseMap, int]:
    """The map and the real size of an old GNU sparse file, whose map begins in its header.

    Args:
        header: Of the file.
        block: Gives the next block of the archive.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: It has more parts than any honest one.
    """
    spans = _old_spans(header.block[386:482])
    extended = header.block[482]
    while extended:
        more = block()
        spans += _old_spans(more[:504])
        extended = more[504]
        _limit(len(spans))
    return tuple(spans), parse_number(header.block[483:495], "real size")


def parse_sparse_records(records: Sequence[tuple[bytes, bytes]]) -> SparseMap | None:
    """The map of a sparse file in the formats 0.0 and 0.1; ``None`` if the records have none.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: It has more parts than any honest one.
    """
    last = dict(records)
    numbers: list[int] = []
    if b"GNU.sparse.map" in last:
        numbers = _counts(last[b"GNU.sparse.map"])
    elif b"GNU.sparse.numblocks" in last:
        expected = b"GNU.sparse.offset"
        for keyword, value in records:
            if keyword in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                if keyword != expected:
                    raise IntegrityError("a sparse file whose offsets and lengths do not take turns")
                numbers.append(_count(value))
                expected = b"GNU.sparse.numbytes" if keyword == b"GNU.sparse.offset" else b"GNU.sparse.offset"
    else:
        return None
    blocks = pax_number(last, b"GNU.sparse.numblocks")
    if len(numbers) % 2 or (blocks is not None and blocks != len(numbers) // 2):
        raise IntegrityError("a sparse file whose map is incomplete")
    return _pairs(numbers)


def parse_sparse_stream(block: Callable[[], bytes], size: int) -> tuple[SparseMap, int]:
    """The map of a sparse file in the format 1.0, which stands before its data, and how many bytes it took.

    Args:
        block: Gives the next block of the archive.
        size: How many bytes there are of map and data together.

    Raises:
        IntegrityError: The map is malformed.
        TooLarge: It has more parts than any honest one.
    """
    text = b""
    taken = 0
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        line, end, rest = text.partition(b"\n")
        if not end:
            if taken + BLOCK_SIZE > size or len(text) > BLOCK_SIZE:
                raise IntegrityError("a sparse file whose map is cut off")
            text += block()
            taken += BLOCK_SIZE
            continue
        numbers.append(_count(line))
        text = rest
        if len(numbers) == 1:
            _limit(numbers[0])
            wanted += 2 * numbers[0]
    return _pairs(numbers[1:]), taken


def pax_real_size(records: dict[bytes, bytes]) -> int | None:
    """The size of a sparse file, holes included; ``None`` if the records do not say.

    Raises:
        IntegrityError: It is not a number.
    """
    real = pax_number(records, b"GNU.sparse.realsize")
    return pax_number(records, b"GNU.sparse.size") if real is None else real


def validate_sparse_map(spans: SparseMap, real: int, data: int) -> SparseMap:
    """A map without empty parts, if it is in order, within the file, and for as much data as there is.

    Raises:
        IntegrityError: It is not.
    """
    position = total = 0
    for offset, length in spans:
        if offset < position or offset + length > real:
            raise IntegrityError("a sparse file whose parts overlap or stand beyond its end")
        position = offset + length
        total += length
    if total != data:
        raise IntegrityError(f"a sparse file with a map for {total} bytes, but {data} bytes of data")
    return tuple(span for span in spans if span[1])


def _old_spans(area: bytes) -> list[tuple[int, int]]:
    spans = []
    for start in range(0, len(area) - _SPAN + 1, _SPAN):
        offset, length = area[start : start + 12], area[start + 12 : start + _SPAN]
        if not offset.strip(b"\0 ") and not length.strip(b"\0 "):
            break
        spans.append((parse_number(offset, "offset"), parse_number(length, "length")))
    return spans


def _pairs(numbers: Sequence[int]) -> SparseMap:
    _limit(len(numbers) // 2)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _count(text: bytes) -> int:
    if _NUMBER(text) is None or int(text) >= 1 << 63:
        raise IntegrityError(f"a sparse file whose map is not made of numbers: {text!r:.50}")
    return int(text)


def _counts(text: bytes) -> list[int]:
    if not text:
        return []
    _limit((text.count(b",") + 1) // 2)
    if _NUMBERS(text) is None:
        raise IntegrityError(f"a sparse file whose map is not made of numbers: {text!r:.50}")
    numbers = list(map(int, text.split(b",")))
    if max(numbers) >= 1 << 63:
        raise IntegrityError("a sparse file whose map is out of range")
    return numbers


def _limit(count: int) -> None:
    if count > _MOST:
        raise TooLarge(f"a sparse file of more than {_MOST} parts")
