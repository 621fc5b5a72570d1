"""The port ``Observer`` and its events, for metrics, progress bars and tests."""

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
    "CopyWarning",
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
    """Base class of events. Events hold no secrets."""


class RequestCompleted(Event, frozen=True, kw_only=True):
    """One request got a response, or failed.

    Args:
        method: HTTP method.
        url: URL without credentials and query values.
        status: Status of the response; 0 if there was none.
        seconds: Time until the response headers were read.
    """

    method: str
    url: str
    status: int
    seconds: float


class RequestRetried(Event, frozen=True, kw_only=True):
    """A request failed and will be sent again.

    Args:
        method: HTTP method.
        url: URL without credentials and query values.
        attempt: Number of attempts so far, from 1.
        pause: Seconds until the next attempt.
        reason: Error class, and the status of the response if there was one: ``Unavailable 503``.
    """

    method: str
    url: str
    attempt: int
    pause: float
    reason: str = ""


class TransferResumed(Event, frozen=True, kw_only=True):
    """An interrupted transfer continues where it stopped.

    Args:
        method: ``GET`` for a download, ``PATCH`` for an upload.
        url: URL without credentials and query values.
        offset: First byte of the continued transfer.
    """

    method: str
    url: str
    offset: int


class Throttled(Event, frozen=True, kw_only=True):
    """A registry asked for fewer requests; all threads of the client comply.

    Args:
        registry: ``host[:port]``.
        pause: Seconds during which no request is sent.
        limit: Maximum number of concurrent requests from now on.
    """

    registry: str
    pause: float
    limit: int


class TokenRequested(Event, frozen=True, kw_only=True):
    """A token was requested from a token server.

    Args:
        registry: ``host[:port]`` of the registry that the token is for.
        url: URL of the token server, without credentials and query values.
        scopes: Requested scopes, as ``repository:org/app:pull``.
        status: Status of the response; 0 if there was none.
        seconds: Time until the response.
    """

    registry: str
    url: str
    scopes: tuple[str, ...]
    status: int
    seconds: float


class WarningReceived(Event, frozen=True, kw_only=True):
    """A registry sent a warning. The text is escaped and truncated."""

    registry: str
    text: str


class BlobProgress(Event, frozen=True, kw_only=True):
    """Bytes of a blob have been read from its source.

    Args:
        digest: Digest of the blob.
        done: Bytes read so far; fewer than before after ``BlobRestarted``.
        size: Size of the blob in bytes.
    """

    digest: Digest
    done: int
    size: int


class BlobRestarted(Event, frozen=True, kw_only=True):
    """A blob must be read again from an earlier byte; progress goes back to ``done``."""

    digest: Digest
    done: int
    size: int


class BlobCopied(Event, frozen=True, kw_only=True):
    """A blob was copied."""

    digest: Digest
    size: int


class BlobMounted(Event, frozen=True, kw_only=True):
    """A blob was mounted from another repository of the same registry."""

    digest: Digest
    size: int


class BlobSkipped(Event, frozen=True, kw_only=True):
    """A blob, or a manifest with all its parts, already existed at the target."""

    digest: Digest
    size: int


class CopyWarning(Event, frozen=True, kw_only=True):
    """A copy lacks something: an attestation that the source does not have, or the parts of content of unknown kind.

    Args:
        reference: Content in the source.
        text: What the copy lacks.
    """

    reference: str
    text: str


@runtime_checkable
class Observer(Protocol):
    """Receives events, on the thread in which they occur. It must return fast and must not raise."""

    @abstractmethod
    def on(self, event: Event) -> None:
        """Receive an event."""


class Observers(Observer):
    """Passes each event to several observers.

    Args:
        *observers: Observers in the order in which they receive events.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on(self, event: Event) -> None:
        """Pass the event to each observer."""
        for observer in self._observers:
            observer.on(event)

    def __repr__(self) -> str:
        return f"Observers({', '.join(map(repr, self._observers))})"
