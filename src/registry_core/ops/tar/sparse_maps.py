"""Where sparse files have data: the four ways in which GNU tar has said it (R-135, R-140)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from registry_core.errors import IntegrityError, TooLarge
from registry_core.ops.tar.header import BLOCK, Header, number
from registry_core.ops.tar.records import count_record

__all__ = ["Spans", "map_of_header", "map_of_records", "map_of_stream", "real_size", "sound"]

Spans = tuple[tuple[int, int], ...]

_MOST: Final = 1 << 16
_NUMBER: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_NUMBERS: Final = re.compile(rb"[0-9]{1,19}(?:,[0-9]{1,19})*").fullmatch
_SPAN: Final = 24


def map_of_header(header: Header, block: Callable[[], bytes]) -> tuple[Spans, int]:
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
    return tuple(spans), number(header.block[483:495], "real size")


def map_of_records(records: Sequence[tuple[bytes, bytes]]) -> Spans | None:
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
    blocks = count_record(last, b"GNU.sparse.numblocks")
    if len(numbers) % 2 or (blocks is not None and blocks != len(numbers) // 2):
        raise IntegrityError("a sparse file whose map is incomplete")
    return _pairs(numbers)


def map_of_stream(block: Callable[[], bytes], size: int) -> tuple[Spans, int]:
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
            if taken + BLOCK > size or len(text) > BLOCK:
                raise IntegrityError("a sparse file whose map is cut off")
            text += block()
            taken += BLOCK
            continue
        numbers.append(_count(line))
        text = rest
        if len(numbers) == 1:
            _limit(numbers[0])
            wanted += 2 * numbers[0]
    return _pairs(numbers[1:]), taken


def real_size(records: dict[bytes, bytes]) -> int | None:
    """The size of a sparse file, holes included; ``None`` if the records do not say.

    Raises:
        IntegrityError: It is not a number.
    """
    real = count_record(records, b"GNU.sparse.realsize")
    return count_record(records, b"GNU.sparse.size") if real is None else real


def sound(spans: Spans, real: int, data: int) -> Spans:
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
        spans.append((number(offset, "offset"), number(length, "length")))
    return spans


def _pairs(numbers: Sequence[int]) -> Spans:
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
