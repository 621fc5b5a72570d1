"""When to try again, and after how long: decisions without I/O (R-053, R-054)."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from registry_core.errors import RateLimited, TransportError, Unavailable

__all__ = ["REFUSED", "RetryPolicy", "Stale", "Unreached", "retry_after"]

# These say for a request with a side effect, too, that nothing has been done; but of a body some may have been taken.
REFUSED: Final = frozenset({429, 503})


class Unreached(Unavailable):
    """No byte of the request was sent."""


class Stale(Unavailable):
    """A connection that had been kept turned out to be dead before a byte of the answer came."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient to be; times in seconds.

    Args:
        retries: How often to repeat, beyond the first try.
        base: The first pause is up to this long, each further one up to twice the one before.
        cap: The longest pause of our own choice.
        patience: The longest pause that a registry may ask for; beyond it the error is raised at once, and says so.
    """

    retries: int = 3
    base: float = 0.5
    cap: float = 10.0
    patience: float = 60.0

    def is_worthwhile(self, error: BaseException, *, repeatable: bool, empty: bool = True) -> bool:
        """Whether another attempt may end otherwise and does no harm.

        Args:
            error: How the last one ended.
            repeatable: Whether it does no harm to send the request again after its answer was lost.
            empty: Whether the request has no body: what a registry that refused has kept of one, nobody knows (R-075).
        """
        if not isinstance(error, Unavailable | RateLimited):
            return False
        if error.retry_after is not None and error.retry_after > self.patience:
            return False
        return repeatable or isinstance(error, Unreached) or (empty and error.status in REFUSED)

    def pause(self, attempt: int, error: BaseException, luck: float) -> float:
        """How long to wait before the next attempt.

        Args:
            attempt: The number of attempts so far, from 1.
            error: How the last one ended; what a registry asked for counts.
            luck: A random number from 0 to 1: pauses are spread over their whole range.
        """
        if isinstance(error, TransportError) and error.retry_after is not None:
            return error.retry_after
        return luck * min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))


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
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
