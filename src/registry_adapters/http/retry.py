"""When to try again, and after how long: decisions without I/O."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import msgspec

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
    "decide",
    "error_summary",
    "failure_kind",
    "retry_after",
]

# These say for a request with a side effect, too, that nothing has been done; but of a body some may have been taken.
REFUSED: Final = frozenset({429, 503})
# 499 and 522 come from nginx and from CDNs, and mean what 504 means.
TRANSIENT: Final = REFUSED | {408, 499, 500, 502, 504, 522}


class Failure(StrEnum):
    """How an exchange fails that brings no answer, or not the whole of one."""

    UNREACHED = "no connection"
    STALE = "idle connection closed by the peer"
    BROKEN = "connection lost, or no data in time"
    TLS = "TLS error"
    PROTOCOL = "invalid response"
    CONTENT = "wrong content"


class RetryDecision(StrEnum):
    """What follows from a failure."""

    AGAIN = "retry"
    RESUME = "resume"
    RAISE = "raise"


class NotConnected(Unavailable):
    """No byte of the request was sent; leaves the session as a plain ``Unavailable``."""


class StaleConnection(Unavailable):
    """A kept connection turned out to be dead before a byte of the answer came; leaves the session as ``Unavailable``.

    Its request may have arrived.
    """


_CONNECTION: Final = frozenset({Failure.UNREACHED, Failure.STALE, Failure.BROKEN})


def decide(method: str, cause: int | Failure | None, *, repeatable: bool = True, empty: bool = True) -> RetryDecision:
    """Whether a failed request is sent again: the one table of that, and the same for all requests.

    ``RESUME`` means that the session raises, and that the upload asks the registry how far it has come: bytes of an
    upload are never sent again on a guess. An upload may be begun twice, though: a session that nobody uses expires.

    Args:
        method: The HTTP method.
        cause: The status that came, or what happened instead of one; ``None`` for what is no failure of the exchange.
        repeatable: Whether it does no harm to send the request again after it may have been carried out.
        empty: Whether the request has no body: what a registry that refused has kept of one, nobody knows.
    """
    if cause not in TRANSIENT and cause not in _CONNECTION:
        return RetryDecision.RAISE
    if repeatable or cause is Failure.UNREACHED or (empty and (method == "POST" or cause in REFUSED)):
        return RetryDecision.AGAIN
    return RetryDecision.RESUME


def failure_kind(error: BaseException) -> int | Failure | None:
    """What an error says about its exchange: a status, a fault, or nothing at all."""
    if isinstance(error, IntegrityError):
        return Failure.CONTENT
    if isinstance(error, RateLimited):
        # Some registries say it by another status, and a code.
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
    return next((fault for kind, fault in kinds if isinstance(error, kind)), None)


def error_summary(error: BaseException) -> str:
    """An error in two words, fit for logs and events: ``Unavailable 503``."""
    kind = Unavailable if isinstance(error, NotConnected | StaleConnection) else type(error)
    status = error.transport.status if isinstance(error, RegistryError) and error.transport is not None else 0
    return f"{kind.__name__} {status}" if status else kind.__name__


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient to be; times in seconds.

    Args:
        retries: How often to repeat, beyond the first try.
        base: The first pause is up to this long, each further one up to twice the one before.
        cap: The longest pause of our own choice.
        max_retry_after: The longest pause that a registry may ask for; beyond it the error is raised at once.
    """

    retries: int = 3
    base: float = 0.5
    cap: float = 10.0
    max_retry_after: float = 60.0

    def is_worthwhile(self, error: BaseException, *, repeatable: bool, empty: bool = True, method: str = "GET") -> bool:
        """Whether another attempt may end otherwise and does no harm.

        Args:
            error: How the last one ended.
            repeatable: Whether it does no harm to send the request again after its answer was lost.
            empty: Whether the request has no body.
            method: The HTTP method.
        """
        if (
            isinstance(error, TransportError)
            and error.retry_after is not None
            and error.retry_after > self.max_retry_after
        ):
            return False
        return decide(method, failure_kind(error), repeatable=repeatable, empty=empty) is RetryDecision.AGAIN

    def pause(self, attempt: int, error: BaseException, jitter: float) -> float:
        """How long to wait before the next attempt.

        Args:
            attempt: The number of attempts so far, from 1.
            error: How the last one ended; what a registry asked for counts.
            jitter: A random number from 0 to 1: pauses are spread over their whole range.
        """
        if isinstance(error, TransportError) and error.retry_after is not None:
            return error.retry_after
        return self.backoff(attempt, jitter)

    def backoff(self, failures: int, jitter: float) -> float:
        """A pause of our own choice: longer with each failure in a row, and spread over its whole range.

        Args:
            failures: How many there have been, from 1.
            jitter: A random number from 0 to 1.
        """
        return jitter * min(self.cap, self.base * 2.0 ** min(failures - 1, 30))


def retry_after(value: str, now: float) -> float | None:
    """Seconds to wait as a ``Retry-After`` says, in seconds or as a date; ``None`` where it makes no sense.

    Args:
        value: The header's value.
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
