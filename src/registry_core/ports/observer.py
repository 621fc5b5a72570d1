"""What happens, as typed events: for metrics, progress bars and tests."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import msgspec

from registry_core.domain.digest import Digest

__all__ = [
    "BlobCopied",
    "BlobMounted",
    "BlobProgress",
    "BlobRestarted",
    "BlobSkipped",
    "Event",
    "Observer",
    "Observers",
    "RequestCompleted",
    "RequestRetried",
    "Throttled",
    "TokenRequested",
    "TransferResumed",
    "WarningReceived",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. Events hold no secrets."""


class RequestCompleted(Event, frozen=True, kw_only=True):
    """One request was answered, or failed.

    Args:
        method: The HTTP method.
        url: Without credentials and query values.
        status: The answer's; 0 where none came.
        seconds: Until the answer's head was read.
    """

    method: str
    url: str
    status: int
    seconds: float


class RequestRetried(Event, frozen=True, kw_only=True):
    """A request will be repeated after a pause in seconds.

    Args:
        method: The HTTP method.
        url: Without credentials and query values.
        attempt: The number of attempts so far, from 1.
        pause: How long until the next one.
        reason: The kind of error, and the status if an answer came: ``Unavailable 503``.
    """

    method: str
    url: str
    attempt: int
    pause: float
    reason: str = ""


class TransferResumed(Event, frozen=True, kw_only=True):
    """A transfer that broke off goes on where it stopped, instead of from its beginning.

    Args:
        method: ``GET`` for a download, ``PATCH`` for an upload.
        url: Without credentials and query values.
        offset: The byte from which on it is continued.
    """

    method: str
    url: str
    offset: int


class Throttled(Event, frozen=True, kw_only=True):
    """A registry asked for less; all threads of the client obey.

    Args:
        registry: ``host[:port]``.
        pause: For how many seconds nothing is sent.
        limit: How many requests may be under way at once from now on.
    """

    registry: str
    pause: float
    limit: int


class TokenRequested(Event, frozen=True, kw_only=True):
    """A token server was asked for a token.

    Args:
        registry: ``host[:port]`` of the registry that the token is for.
        url: The token server's, without credentials and query values.
        scopes: What was asked for, as ``repository:org/app:pull``.
        status: The answer's; 0 where none came.
        seconds: Until it was answered.
    """

    registry: str
    url: str
    scopes: tuple[str, ...]
    status: int
    seconds: float


class WarningReceived(Event, frozen=True, kw_only=True):
    """A registry sent a warning; its text is escaped and cut."""

    registry: str
    text: str


class BlobProgress(Event, frozen=True, kw_only=True):
    """Bytes of a blob have been read from where they come from.

    Args:
        digest: Of the blob.
        done: How many of its bytes have been read so far; less than before after ``BlobRestarted``.
        size: How many there are.
    """

    digest: Digest
    done: int
    size: int


class BlobRestarted(Event, frozen=True, kw_only=True):
    """A blob has to be read again from an earlier byte: progress goes back to ``done``."""

    digest: Digest
    done: int
    size: int


class BlobCopied(Event, frozen=True, kw_only=True):
    """A blob's bytes were moved."""

    digest: Digest
    size: int


class BlobMounted(Event, frozen=True, kw_only=True):
    """A blob was taken over from another repository of the same registry."""

    digest: Digest
    size: int


class BlobSkipped(Event, frozen=True, kw_only=True):
    """A blob, or a whole manifest with its parts, was there already."""

    digest: Digest
    size: int


@runtime_checkable
class Observer(Protocol):
    """Receives events, from whichever thread they happen in. It must be quick, and must not raise."""

    @abstractmethod
    def on(self, event: Event) -> None:
        """Take notice of an event."""


class Observers(Observer):
    """Several observers as one.

    Args:
        *observers: Told in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on(self, event: Event) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.on(event)

    def __repr__(self) -> str:
        """Who is told."""
        return f"Observers({', '.join(map(repr, self._observers))})"
