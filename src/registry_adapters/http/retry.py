"""Which failed requests are repeated, and after which pause: decisions without I/O."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import msgspec

from registry_core.cancellation import backoff
from registry_core.errors import (
    IntegrityError,
    ProtocolError,
    RateLimited,
    RegistryError,
    TLSError,
    TransportError,
    Unavailable,
)

__all__ = [
    "REFUSED",
    "TRANSIENT",
    "Failure",
    "NotConnected",
    "RetryDecision",
    "RetryPolicy",
    "StaleConnection",
    "as_unavailable",
    "decide",
    "error_summary",
    "failure_kind",
    "failure_reason",
    "retry_after",
]

# The request was not carried out, but part of its body may have been stored.
REFUSED: Final = frozenset({429, 503})
# 499 and 522 come from nginx and CDNs, and mean the same as 504.
TRANSIENT: Final = REFUSED | {408, 499, 500, 502, 504, 522}


class Failure(StrEnum):
    """Kind of failure of an exchange that brings no complete response."""

    UNREACHED = "no connection"
    STALE = "idle connection closed by the peer"
    BROKEN = "connection lost, or no data in time"
    TLS = "TLS error"
    PROTOCOL = "invalid response"
    CONTENT = "wrong content"


class RetryDecision(StrEnum):
    """Consequence of a failure."""

    AGAIN = "retry"
    RESUME = "resume"
    RAISE = "raise"


class NotConnected(Unavailable):
    """No byte of the request was sent; callers get it as a plain ``Unavailable``."""


class StaleConnection(Unavailable):
    """A kept connection failed before the response began; callers get it as a plain ``Unavailable``.

    The request may have arrived.
    """


def as_unavailable(error: RegistryError) -> RegistryError:
    """Convert an error of a class of this module to a plain ``Unavailable``; return any other unchanged."""
    if not isinstance(error, NotConnected | StaleConnection):
        return error
    plain = Unavailable(error.message, method=error.method, url=error.url, reference=error.reference)
    plain.__cause__ = error.__cause__
    return plain


_CONNECTION: Final = frozenset({Failure.UNREACHED, Failure.STALE, Failure.BROKEN})


def decide(method: str, cause: int | Failure | None, *, repeatable: bool = True, empty: bool = True) -> RetryDecision:
    """Decide whether a failed request is sent again; one table for all requests.

    ``RESUME`` means that the session raises the error, and that the upload asks the registry for the committed offset:
    upload data is never sent again without a check. An upload may be started twice: an unused session expires.

    Args:
        method: HTTP method.
        cause: Status of the response, or kind of failure; ``None`` for an error that is no failure of the exchange.
        repeatable: Whether the request can be sent again after it may have been carried out.
        empty: Whether the request has no body: a registry that refused one may have stored part of it.
    """
    if cause not in TRANSIENT and cause not in _CONNECTION:
        return RetryDecision.RAISE
    if repeatable or cause is Failure.UNREACHED or (empty and (method == "POST" or cause in REFUSED)):
        return RetryDecision.AGAIN
    return RetryDecision.RESUME


def failure_kind(error: BaseException) -> int | Failure | None:
    """Return the failure behind an error: a status or a kind; ``None`` for other errors."""
    if isinstance(error, IntegrityError):
        return Failure.CONTENT
    if isinstance(error, RateLimited):
        # Some registries send another status with the code TOOMANYREQUESTS.
        return 429
    if not isinstance(error, RegistryError) or error.transport is None:
        return None
    if error.transport.status:
        return error.transport.status
    kinds: tuple[tuple[type[TransportError], Failure], ...] = (
        (NotConnected, Failure.UNREACHED),
        (StaleConnection, Failure.STALE),
        (Unavailable, Failure.BROKEN),
        (TLSError, Failure.TLS),
        (ProtocolError, Failure.PROTOCOL),
    )
    return next((failure for kind, failure in kinds if isinstance(error, kind)), None)


def error_summary(error: BaseException) -> str:
    """Class and status of an error, for logs and events: ``Unavailable 503``."""
    kind = Unavailable if isinstance(error, NotConnected | StaleConnection) else type(error)
    status = error.transport.status if isinstance(error, RegistryError) and error.transport is not None else 0
    return f"{kind.__name__} {status}" if status else kind.__name__


def failure_reason(error: BaseException) -> str:
    """The reason of a failed attempt for logs: the message of an exchange without a response, or class and status.

    Messages about responses quote the server, and logs do not.
    """
    if not isinstance(error, TransportError) or error.status:
        return error_summary(error)
    # The line of the log names the request already.
    return error.message.removeprefix(f"{error.method} {error.url}: ")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Number of retries and length of pauses; times in seconds.

    Args:
        retries: Number of repetitions after the first attempt.
        base: Longest pause before the first repetition; it doubles with each further one.
        cap: Longest pause, unless the registry asks for a longer one.
        max_retry_after: Longest pause that a registry may ask for; if it asks for more, the error is raised at once.
    """

    retries: int = 3
    base: float = 0.5
    cap: float = 10.0
    max_retry_after: float = 60.0

    def is_worthwhile(self, error: BaseException, *, repeatable: bool, empty: bool = True, method: str = "GET") -> bool:
        """Return whether the request is sent again.

        Args:
            error: Error of the last attempt.
            repeatable: Whether the request can be sent again after its response was lost.
            empty: Whether the request has no body.
            method: HTTP method.
        """
        if (
            isinstance(error, TransportError)
            and error.retry_after is not None
            and error.retry_after > self.max_retry_after
        ):
            return False
        return decide(method, failure_kind(error), repeatable=repeatable, empty=empty) is RetryDecision.AGAIN

    def pause(self, attempt: int, error: BaseException, jitter: float) -> float:
        """The pause before the next attempt, in seconds.

        Args:
            attempt: Number of attempts so far, from 1.
            error: Error of the last attempt; a pause that the registry asked for counts.
            jitter: Random number from 0 to 1.
        """
        if isinstance(error, TransportError) and error.retry_after is not None:
            return error.retry_after
        return self.backoff(attempt, jitter)

    def backoff(self, failures: int, jitter: float) -> float:
        """The pause where the registry asks for none, in seconds.

        Args:
            failures: Number of failures in a row, from 1.
            jitter: Random number from 0 to 1.
        """
        return backoff(failures, jitter, base=self.base, cap=self.cap)


def retry_after(value: str, now: float) -> float | None:
    """The pause that a ``Retry-After`` asks for, in seconds; ``None`` if it is malformed.

    Args:
        value: Value of the header: a number of seconds, or a date.
        now: Seconds since the epoch.
    """
    text = value.strip()
    if not text or len(text) > 64:
        return None
    if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdecimal():
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError, IndexError, OSError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
