"""Dates are written so that every reader of image configurations accepts them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry_core.domain.rfc3339 import is_rfc3339, normalise_rfc3339, parse_rfc3339
from registry_core.errors import InvalidValue

KEPT = [
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05.5Z",
    "2026-01-02T03:04:05.123456789Z",
    "2026-01-02T03:04:05+01:00",
    "2026-01-02T03:04:05-00:00",
    "2026-01-02T03:04:05-23:59",
    "0001-01-01T00:00:00Z",
    "2024-02-29T23:59:59Z",
]

CONVERTED = [
    ("2026-01-02 03:04:05+00:00", "2026-01-02T03:04:05+00:00"),
    ("2026-01-02 03:04:05.123456+02:00", "2026-01-02T03:04:05.123456+02:00"),
    ("2026-01-02t03:04:05z", "2026-01-02T03:04:05Z"),
    ("2026-01-02T03:04:05z", "2026-01-02T03:04:05Z"),
    ("2026-01-02T03:04:05.5+0000", "2026-01-02T03:04:05.5+00:00"),
    ("2026-01-02T03:04:05-0330", "2026-01-02T03:04:05-03:30"),
]

REFUSED = [
    "",
    "now",
    "1700000000",
    "2026-01-02",
    "2026-01-02T03:04:05",
    "2026-01-02T03:04Z",
    "2026-01-02T24:00:00Z",
    "2026-01-02T03:60:05Z",
    "2026-01-02T23:59:60Z",
    "2026-01-02T3:04:05Z",
    "2026-01-02T03:04:05+00",
    "2026-01-02T03:04:05+24:00",
    "2026-01-02T03:04:05+01:60",
    "2026-01-02T03:04:05\N{MINUS SIGN}01:00",
    "2026-01-02T03:04:05.Z",
    "2026-01-02T03:04:05,5Z",
    "2026-01-02T03:04:05.1234567891Z",
    "2026-02-29T03:04:05Z",
    "2026-13-01T03:04:05Z",
    "0000-01-01T00:00:00Z",
    "20260102T030405Z",
    "2026-W01-5T03:04:05Z",
    "2026-01-02_03:04:05Z",
    "2026-01-02T03:04:05Z\n",
    " 2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05 UTC",
    "Fri, 02 Jan 2026 03:04:05 GMT",
    "٢٠٢٦-01-02T03:04:05Z",
    "12026-01-02T03:04:05Z",
]


@pytest.mark.parametrize("text", KEPT)
def test_a_date_in_the_written_form_is_kept(text: str) -> None:
    """R-160."""
    assert normalise_rfc3339(text) == text
    assert is_rfc3339(text)


@pytest.mark.parametrize(("text", "written"), CONVERTED)
def test_other_forms_of_the_same_date_are_converted(text: str, written: str) -> None:
    """R-160."""
    assert normalise_rfc3339(text) == written
    assert parse_rfc3339(text) == parse_rfc3339(written)
    assert not is_rfc3339(text)
    assert is_rfc3339(written)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(text: str) -> None:
    """R-160."""
    with pytest.raises(InvalidValue, match="not an RFC 3339 date"):
        normalise_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("1700000000", "pass seconds since 1970 as an int"),
        ("2026-01-02 03:04:05", "it is without a time zone"),
        ("2026-01-02", "it is without a time zone"),
        ("2026-02-30T03:04:05Z", "there is no such day"),
        ("2026-01-02T24:00:00Z", "write it like 2026-01-02T03:04:05Z"),
    ],
)
def test_the_refusal_says_what_to_write_instead(text: str, advice: str) -> None:
    with pytest.raises(InvalidValue, match=advice):
        normalise_rfc3339(text)


def test_a_date_is_parsed_to_the_microsecond() -> None:
    assert parse_rfc3339("2026-01-02 03:04:05.1234569Z") == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, 1, "", "2026-01-02T03:04:05", "2026-02-30T03:04:05Z"])
def test_other_values_are_no_dates(value: object) -> None:
    assert not is_rfc3339(value)


def test_readers_ignore_digits_beyond_the_ninth() -> None:
    assert is_rfc3339("2026-01-02T03:04:05.1234567891234Z")
