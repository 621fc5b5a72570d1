"""Extended headers of a tar (POSIX pax), read strictly (R-135)."""

from __future__ import annotations

import re
from typing import Final

from registry_core.errors import IntegrityError, UnsafeArchive

__all__ = ["count_record", "name_record", "parse_records", "time_record", "xattrs_of"]

_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,7}) ").match
_COUNT: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{0,64}))?").fullmatch
_XATTR: Final = b"SCHILY.xattr."


def parse_records(data: bytes) -> list[tuple[bytes, bytes]]:
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


def name_record(records: dict[bytes, bytes], keyword: bytes) -> bytes | None:
    """A path among the records; ``None`` if it is not there.

    Raises:
        UnsafeArchive: It is empty or has a NUL.
    """
    value = records.get(keyword)
    if value is not None and (not value or b"\0" in value):
        raise UnsafeArchive(f"an extended tar header whose {keyword.decode('ascii', 'replace')} is empty or has a NUL")
    return value


def count_record(records: dict[bytes, bytes], keyword: bytes) -> int | None:
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


def time_record(records: dict[bytes, bytes], keyword: bytes) -> int | None:
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


def xattrs_of(records: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
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
