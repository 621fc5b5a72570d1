"""Dates as RFC 3339 text, in the form that every reader of image configurations accepts.

RFC 3339 also allows a space or a lower-case letter instead of ``T``, and a lower-case ``z``. The JSON decoder of Go
accepts neither, and then fails to read the whole configuration, so these forms are read but never written.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from registry_core.errors import InvalidValue

__all__ = ["is_rfc3339", "normalise_rfc3339", "parse_rfc3339"]

_DAY: Final = r"\d{4}-\d\d-\d\d"
_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
_OFFSET_HOURS, _OFFSET_MINUTES = r"[+-](?:[01]\d|2[0-3])", r"[0-5]\d"

_DATE: Final = re.compile(
    rf"({_DAY})[Tt ]({_TIME})(\.\d{{1,9}})?(?:([Zz])|({_OFFSET_HOURS}):?({_OFFSET_MINUTES}))", re.ASCII
)

# Go ignores the digits of a second beyond the ninth.
_WRITTEN_DATE: Final = re.compile(rf"({_DAY})T{_TIME}(?:\.\d+)?(?:Z|{_OFFSET_HOURS}:{_OFFSET_MINUTES})", re.ASCII)

# Without a time zone, which is the most frequent reason to refuse a date.
_LOCAL_DATE: Final = re.compile(rf"{_DAY}(?:[Tt ]{_TIME}(?:\.\d+)?)?", re.ASCII)


def normalise_rfc3339(text: str) -> str:
    """Write a date with ``T``, and with ``Z`` or an offset ``±hh:mm``; a date in this form is kept unchanged.

    Args:
        text: RFC 3339 text. A space or ``t`` instead of ``T``, ``z`` instead of ``Z``, and an offset without a colon
            are accepted too, as ``str(datetime)`` and ``strftime("%z")`` write them.

    Raises:
        InvalidValue: The text is not a date, has no time zone, or has more than nine digits after the seconds.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise InvalidValue(f"not an RFC 3339 date: {text!r:.100}{_hint(text)}")
    day, time, fraction, utc, hours, minutes = match.groups()
    if not _is_day(day):
        raise InvalidValue(f"not an RFC 3339 date: {text!r:.100}; there is no such day")
    return f"{day}T{time}{fraction or ''}" + ("Z" if utc else f"{hours}:{minutes}")


def parse_rfc3339(text: str) -> datetime:
    """Parse a date, to the microsecond.

    Raises:
        InvalidValue: See ``normalise_rfc3339``.
    """
    return datetime.fromisoformat(normalise_rfc3339(text))


def is_rfc3339(text: object) -> bool:
    """Return whether the value is a date in the form that ``normalise_rfc3339`` returns, with any number of digits."""
    match = _WRITTEN_DATE.fullmatch(text) if isinstance(text, str) else None
    return match is not None and _is_day(match[1])


def _is_day(day: str) -> bool:
    try:
        datetime.fromisoformat(day)
    except ValueError:
        return False
    return True


def _hint(text: str) -> str:
    if text.isdecimal():
        return "; pass seconds since 1970 as an int"
    if _LOCAL_DATE.fullmatch(text):
        return "; it is without a time zone: write it like 2026-01-02T03:04:05Z"
    return "; write it like 2026-01-02T03:04:05Z or 2026-01-02T03:04:05.5+01:00"
