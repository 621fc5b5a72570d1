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
DOCUMENT = Path(__file__).parents[4] / "docs" / "reference" / "retries.md"


class RequestKind(NamedTuple):
    """A column of the table."""

    title: str
    method: str
    repeatable: bool
    empty: bool


REQUEST_KINDS = (
    RequestKind("`GET`, `HEAD`", "GET", True, True),
    RequestKind("`DELETE`", "DELETE", True, True),
    RequestKind("`PUT` of a manifest", "PUT", True, False),
    RequestKind("`POST` to a token server", "POST", True, False),
    RequestKind("`POST` that starts an upload or mounts", "POST", False, True),
    RequestKind("`PUT` that completes an upload, without body", "PUT", False, True),
    RequestKind("`PATCH` or `PUT` with upload data", "PATCH", False, False),
)
CAUSES: tuple[int | Failure, ...] = (408, 429, 499, 500, 502, 503, 504, 522, *Failure)
# One letter for each kind of request: A is AGAIN, R is RESUME, - is RAISE.
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
    for kind, letter in zip(REQUEST_KINDS, TABLE[cause], strict=True)
]
OTHERS = [*range(100, 408), *range(409, 429), *range(430, 499), 501, *range(505, 522), *range(523, 600)]


def documented_table() -> Iterator[str]:
    yield "| | " + " | ".join(kind.title for kind in REQUEST_KINDS) + " |"
    yield "| --- " * (len(REQUEST_KINDS) + 1) + "|"
    for cause in CAUSES:
        verdicts = (decide(kind.method, cause, repeatable=kind.repeatable, empty=kind.empty) for kind in REQUEST_KINDS)
        yield f"| {cause} | " + " | ".join(verdicts) + " |"


class TestDecide:
    @pytest.mark.parametrize(("kind", "cause", "expected"), CELLS)
    def test_each_cell_of_the_table_gives_its_decision(
        self, kind: RequestKind, cause: int | Failure, expected: RetryDecision
    ) -> None:
        """R-053, R-054, R-075."""
        assert decide(kind.method, cause, repeatable=kind.repeatable, empty=kind.empty) is expected

    @pytest.mark.parametrize("kind", REQUEST_KINDS, ids=lambda kind: kind.method)
    def test_other_statuses_are_raised_without_retry(self, kind: RequestKind) -> None:
        """R-054."""
        verdicts = {decide(kind.method, status, repeatable=kind.repeatable, empty=kind.empty) for status in OTHERS}

        assert verdicts == {RetryDecision.RAISE}
        assert set(OTHERS).isdisjoint(TRANSIENT)

    def test_the_documentation_has_the_same_table(self) -> None:
        assert "\n".join(documented_table()) in DOCUMENT.read_text()


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
    def test_an_error_is_classified_by_status_or_kind_of_failure(
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
    def test_a_summary_has_only_class_and_status(self, error: BaseException, expected: str) -> None:
        """R-043: no other text of the error."""
        assert error_summary(error) == expected


class TestIsWorthwhile:
    @pytest.mark.parametrize("error", [Unavailable(), ServerError(status=500), RateLimited(status=429), NotConnected()])
    def test_transient_errors_are_retried(self, error: RegistryError) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize("error", [ServerError(status=501), TLSError(), ImageNotFound(), Cancelled(), OSError()])
    def test_other_errors_are_not_retried(self, error: BaseException) -> None:
        """R-054."""
        assert not POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize(("method", "expected"), [("POST", True), ("PATCH", False)])
    def test_the_start_of_an_upload_is_retried_but_not_its_data(self, method: str, expected: bool) -> None:
        """R-053."""
        assert POLICY.is_worthwhile(Unavailable(), method=method, repeatable=False) is expected

    def test_a_requested_pause_beyond_the_maximum_is_not_retried(self) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(RateLimited(retry_after=60), repeatable=True)
        assert not POLICY.is_worthwhile(RateLimited(retry_after=61), repeatable=True)


class TestPause:
    def test_the_pause_doubles_up_to_the_maximum(self) -> None:
        """R-054."""
        assert [POLICY.pause(attempt, Unavailable(), 1.0) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]

    def test_jitter_spreads_the_pause_from_zero_to_its_full_length(self) -> None:
        """R-054."""
        assert [POLICY.pause(3, Unavailable(), jitter) for jitter in (0.0, 0.25)] == [0.0, 0.5]

    def test_retry_after_replaces_the_pause(self) -> None:
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
    def test_malformed_values_are_ignored(self, value: str) -> None:
        """R-054."""
        assert retry_after(value, 60.0) is None


@pytest.mark.parametrize("kind", [StaleConnection, NotConnected])
def test_subclasses_of_unavailable_survive_pickling(kind: type[Unavailable]) -> None:
    error: TransportError = pickle.loads(pickle.dumps(kind("gone", method="GET")))

    assert (type(error), error.method, str(error)) == (kind, "GET", "gone")
