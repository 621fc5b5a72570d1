from __future__ import annotations

import pickle

import pytest

from registry_adapters.http.retry import RetryPolicy, Stale, Unreached, retry_after
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageNotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    TLSError,
    Unavailable,
)

POLICY = RetryPolicy()


class TestIsWorthwhile:
    @pytest.mark.parametrize("error", [Unavailable(), Unavailable(status=504), RateLimited(status=429), Unreached()])
    def test_what_may_pass_is_repeated(self, error: RegistryError) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize(
        "error",
        [
            ServerError(status=500),
            ProtocolError(status=400),
            TLSError(),
            ImageNotFound(),
            Cancelled(),
            DeadlineExceeded(),
            KeyboardInterrupt(),
        ],
    )
    def test_what_will_not_pass_is_not(self, error: BaseException) -> None:
        """R-054."""
        assert not POLICY.is_worthwhile(error, repeatable=True)

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (RateLimited(status=429), True),
            (Unavailable(status=503), True),
            (Unreached(), True),
            (Unavailable(status=502), False),
            (Unavailable(status=504), False),
            (Unavailable(), False),
            (Stale(), False),
        ],
    )
    def test_side_effects_are_repeated_only_where_nothing_was_done(self, error: Unavailable, expected: bool) -> None:
        """R-053, R-054."""
        assert POLICY.is_worthwhile(error, repeatable=False) is expected

    @pytest.mark.parametrize(
        ("error", "expected"),
        [(RateLimited(status=429), False), (Unavailable(status=503), False), (Unreached(), True)],
    )
    def test_a_body_is_sent_again_only_if_none_of_it_went_out(self, error: Unavailable, expected: bool) -> None:
        """R-075."""
        assert POLICY.is_worthwhile(error, repeatable=False, empty=False) is expected

    def test_longer_waits_than_our_patience_are_the_callers_choice(self) -> None:
        """R-054."""
        assert POLICY.is_worthwhile(RateLimited(retry_after=60), repeatable=True)
        assert not POLICY.is_worthwhile(RateLimited(retry_after=61), repeatable=True)


class TestPause:
    def test_doubles_up_to_the_cap(self) -> None:
        """R-054."""
        assert [POLICY.pause(attempt, Unavailable(), 1.0) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]

    def test_is_spread_over_its_whole_range(self) -> None:
        """R-054."""
        assert [POLICY.pause(3, Unavailable(), luck) for luck in (0.0, 0.25)] == [0.0, 0.5]

    def test_is_what_the_registry_asked_for(self) -> None:
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
            ("Thu, 01 Jan 1970 00:00:30 GMT", 0.0),
        ],
    )
    def test_seconds_and_dates_are_understood(self, value: str, expected: float) -> None:
        """R-054."""
        assert retry_after(value, 60.0) == expected

    @pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "nan", "inf", "٣", "9" * 400, "Thu, 99 Foo", "."])
    def test_garbage_is_ignored(self, value: str) -> None:
        """R-054."""
        assert retry_after(value, 60.0) is None


@pytest.mark.parametrize("kind", [Stale, Unreached])
def test_marked_errors_survive_pickling(kind: type[Unavailable]) -> None:
    error = pickle.loads(pickle.dumps(kind("gone", method="GET")))

    assert (type(error), error.method, str(error)) == (kind, "GET", "gone")
