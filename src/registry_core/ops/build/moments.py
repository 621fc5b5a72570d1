"""Moments as image documents write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from registry_core.errors import InvalidValue

__all__ = ["rfc3339", "seconds_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(moment: str | int | datetime) -> str:
    """A moment as text of RFC 3339.

    Args:
        moment: Such text, which is kept as it is; a ``datetime`` with a time zone; or whole seconds since 1970, as
            ``SOURCE_DATE_EPOCH`` has them.

    Raises:
        InvalidValue: It is none of these.
    """
    if isinstance(moment, str):
        _parsed(moment)
        return moment
    return _aware(moment).isoformat().replace("+00:00", "Z")


def seconds_of(moment: str | int | datetime) -> int:
    """A moment in whole seconds since 1970, as tar has it.

    Raises:
        InvalidValue: It is neither RFC 3339 text, nor a ``datetime`` with a time zone, nor seconds.
    """
    return (_aware(moment) - _EPOCH) // timedelta(seconds=1)


def _aware(moment: str | int | datetime) -> datetime:
    if isinstance(moment, str):
        return _parsed(moment)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidValue("a moment without a time zone means another one on each machine")
        return moment.astimezone(UTC)
    try:
        return _EPOCH + timedelta(seconds=moment)
    except (OverflowError, TypeError):
        raise InvalidValue(f"not seconds since 1970: {moment!r:.100}") from None


def _parsed(text: str) -> datetime:
    try:
        parsed = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise InvalidValue(f"not a date of RFC 3339: {text!r:.100}") from None
    if parsed.tzinfo is None:
        raise InvalidValue(f"a date without a time zone: {text!r:.100}")
    return parsed
