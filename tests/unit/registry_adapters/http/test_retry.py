from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from registry_adapters.http.retry import (
    TRANSIENT,
    Failure,
    NotConnected,
    RetryDecision,
    RetryPolicy,
    StaleConnection,
    decide,
    error_summary,
    failure_kind,
    retry_after,
)
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    Forbidden,
    ImageNotFound,
    InvalidDocument,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    TLSError,
    TooLarge,
    TransportError,
    Unavailable,
)

POLICY = RetryPolicy()
PAGE = Path(__file__).parents[4] / "docs" / "reference" / "retries.md"


class Kind(NamedTuple):
    """A column of the table."""

    title: str
    method: str
    repeatable: bool
    empty: bool


KINDS = (
    Kind("`GET`, `HEAD`", "GET", True, True),
    Kind("`DELETE`", "DELETE", True, True),
    Kind("`PUT` of a manifest", "PUT", True, False),
    Kind("`POST` to a token server", "POST", True, False),
    Kind("`POST` that starts an upload or mounts", "POST", False, True),
    Kind("`PUT` that completes an upload, without body", "PUT", False, True),
    Kind("`PATCH` or `PUT` with upload data", "PATCH", False, False),
)
CAUSES: tuple[int | Failure, ...] = (408, 429, 499, 500, 502, 503, 504, 522, *Failure)
# One letter for each kind: again, resync, raise.
TABLE: dict[int | Failure, str] = {
    408: "AAAAARR",
    429: "AAAAAAR",
    499: "AAAAARR",
    500: "AAAAARR",
    502: "AAAAARR",
    503: "AAAAAAR",
    504: "AAAAARR",
    522: "AAAAARR",
    Failure.UNREACHED: "AAAAAAA",
    Failure.STALE: "AAAAARR",
    Failure.BROKEN: "AAAAARR",
    Failure.TLS: "-------",
    Failure.PROTOCOL: "-------",
    Failure.CONTENT: "-------",
}
LETTERS = {"A": RetryDecision.AGAIN, "R": RetryDecision.RESUME, "-": RetryDecision.RAISE}
CELLS = [
    pytest.param(kind, cause, LETTERS[letter], id=f"{kind.method}-{cause}")
    for cause in CAUSES
    for kind, letter in zip(KINDS, TABLE[cause], strict=True)
]
OTHERS = [*range(100, 408), *range(409, 429), *range(430, 499), 501, *range(505, 522), *range(523, 600)]


def documented() -> Iterator[str]:
    yield "| | " + " | ".join(kind.title for kind in KINDS) + " |"
    yield "| --- " * (len(KINDS) + 1) + "|"
    for cause in CAUSES:
        verdicts = (decide(kind.method, cause, repeatable=kind.repeatable, empty=kind.empty) for kind in KINDS)
        yield f"| {cause} | " + " | ".join(verdicts) + " |"


class TestDecide:
    @pytest.mark.parametrize(("kind", "cause", "expected"), CELLS)
    def test_the_table(self, kind: Kind, cause: int | Failure, expected: RetryDecision) -> None:
        """R-053, R-054, R-075."""
        assert decide(kind.method, cause, repeatable=kind.repeatable, empty=kind.empty) is expected

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.method)
    def test_no_other_status_is_repeated(self, kind: Kind) -> None:
        """R-054."""
        verdicts = {decide(kind.method, status, repeatable=kind.repeatable, empty=kind.empty) for status in OTHERS}

        assert verdicts == {RetryDecision.RAISE}
        assert set(OTHERS).isdisjoint(TRANSIENT)

    def test_the_documented_table_is_this_one(self) -> None:
        assert "\n".join(documented()) in PAGE.read_text()


class TestFailureKind:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (Unavailable(status=503), 503),
            (ServerError(status=500), 500),
            (RateLimited(status=429), 429),
            (RateLimited(status=400), 429),
            (ProtocolError(status=400), 400),
            (ImageNotFound(transport=ProtocolError(status=404)), 404),
            (Forbidden(transport=ProtocolError(status=403)), 403),
            (NotConnected(), Failure.UNREACHED),
            (StaleConnection(), Failure.STALE),
            (Unavailable(), Failure.BROKEN),
            (TLSError(), Failure.TLS),
            (ProtocolError(), Failure.PROTOCOL),
            (DigestMismatch(), Failure.CONTENT),
            (TooLarge(transport=Unavailable(status=503)), Failure.CONTENT),
            (ImageNotFound(), None),
            (InvalidDocument(), None),
            (Cancelled(), None),
            (DeadlineExceeded(), None),
            (OSError(), None),
            (KeyboardInterrupt(), None),
        ],
        ids=repr,
    )
    def test_an_error_has_a_status_or_a_kind_of_failure(
        self, error: BaseException, expected: int | Failure | None
    ) -> None:
        assert failure_kind(error) == expected

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (Unavailable(status=503), "Unavailable 503"),
            (RateLimited(status=429), "RateLimited 429"),
            (StaleConnection(), "Unavailable"),
            (NotConnected(), "Unavailable"),
            (OSError("secret"), "OSError"),
        ],
    )
    def test_a_summary_is_a_class_and_a_status(self, error: BaseException, expected: str) -> None:
        """R-043: and nothing else of the error."""
        assert error_summary(error) == expected


class TestIsWorthwhile:
    @pytest.mark.parametrize("error", [Unavailable(), ServerError(status=500), RateLimited(status=429), NotConnected()])
    def test_the_policy_follows_the_table(self, error: RegistryError) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize("error", [ServerError(status=501), TLSError(), ImageNotFound(), Cancelled(), OSError()])
    def test_other_errors_are_not_repeated(self, error: BaseException) -> None:
        """R-054."""
        assert not POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize(("method", "expected"), [("POST", True), ("PATCH", False)])
    def test_the_start_of_an_upload_is_repeated_but_not_its_data(self, method: str, expected: bool) -> None:
        """R-053."""
        assert POLICY.is_worthwhile(Unavailable(), method=method, repeatable=False) is expected

    def test_a_pause_beyond_the_maximum_is_not_waited_out(self) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(RateLimited(retry_after=60), repeatable=True)
        assert not POLICY.is_worthwhile(RateLimited(retry_after=61), repeatable=True)


class TestPause:
    def test_it_doubles_up_to_the_cap(self) -> None:
        """R-054."""
        assert [POLICY.pause(attempt, Unavailable(), 1.0) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]

    def test_it_is_spread_over_its_range(self) -> None:
        """R-054."""
        assert [POLICY.pause(3, Unavailable(), luck) for luck in (0.0, 0.25)] == [0.0, 0.5]

    def test_it_is_what_the_registry_asked_for(self) -> None:
        """R-054."""
        assert POLICY.pause(1, RateLimited(retry_after=7.0), 0.5) == 7.0


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("0", 0.0),
            ("120", 120.0),
            (" 1.5 ", 1.5),
            ("Thu, 01 Jan 1970 00:01:30 GMT", 30.0),
            ("Thursday, 01-Jan-70 00:01:30 GMT", 30.0),
            ("Thu, 01 Jan 1970 00:00:30 GMT", 0.0),
        ],
    )
    def test_seconds_and_dates_are_parsed(self, value: str, expected: float) -> None:
        """R-054."""
        assert retry_after(value, 60.0) == expected

    @pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "nan", "inf", "٣", "9" * 400, "Thu, 99 Foo", "."])
    def test_garbage_is_ignored(self, value: str) -> None:
        """R-054."""
        assert retry_after(value, 60.0) is None


@pytest.mark.parametrize("kind", [StaleConnection, NotConnected])
def test_marked_errors_survive_pickling(kind: type[Unavailable]) -> None:
    error: TransportError = pickle.loads(pickle.dumps(kind("gone", method="GET")))

    assert (type(error), error.method, str(error)) == (kind, "GET", "gone")
