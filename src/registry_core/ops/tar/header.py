"""Single headers of a tar, read strictly: what is not plainly right is refused (R-135, R-143).

Plain ustar, GNU and the old v7 form. Nothing is guessed: readers that disagree about a header disagree about
everything behind it.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import adler32

import msgspec

from registry_core.errors import IntegrityError

__all__ = ["BLOCK", "Header", "byte_sum", "number", "padding", "parse_header"]

BLOCK: Final = 512

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
        type: One byte, as tar has it.
        name: With the prefix, where there is one.
        mode: The lower twelve bits.
        uid: The owner.
        gid: The group.
        size: Of what follows, in bytes.
        mtime: In seconds since 1970.
        link: The link's text.
    """

    block: bytes
    type: bytes
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes


def padding(size: int) -> int:
    """How many bytes fill up the last block of so many."""
    return -size % BLOCK


def byte_sum(block: bytes) -> int:
    """The sum of a block's bytes, or of fewer of them.

    The lower half of Adler-32 is one more than the sum, modulo a prime that half a block does not reach: ten times as
    fast as adding them one by one.
    """
    half = BLOCK // 2
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
        checksum = number(block[148:156], "checksum")
        _check(block, checksum)
        mode = number(block[100:108], "mode")
        uid = number(block[108:116], "owner")
        gid = number(block[116:124], "group")
        size = number(block[124:136], "size")
        mtime = number(block[136:148], "time", signed=True)
    _check(block, checksum)
    name = _text(block, 0, 100)
    if block.startswith(_POSIX, 257) and block[345]:
        name = _text(block, 345, 500) + b"/" + name
    return Header(block, block[156:157], name, mode & 0o7777, uid, gid, size, mtime, _text(block, 157, 257))


def number(field: bytes, what: str, *, signed: bool = False) -> int:
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
    total = byte_sum(block) - sum(block[148:156]) + 8 * 0x20
    if checksum != total and checksum != total - 256 * sum(byte >> 7 for byte in block[:148] + block[156:]):
        raise IntegrityError("a tar header with a wrong checksum")


def _text(block: bytes, start: int, end: int) -> bytes:
    stop = block.find(b"\0", start, end)
    return block[start:end] if stop < 0 else block[start:stop]
