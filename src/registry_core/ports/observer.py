"""What happens, as typed events: for metrics, progress bars and tests."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import msgspec

from registry_core.domain.digest import Digest

__all__ = ["BlobCopied", "BlobMounted", "BlobSkipped", "Event", "Exchange", "Observer", "Retry", "Warned"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. Events hold no secrets."""


class Exchange(Event, frozen=True, kw_only=True):
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


class Retry(Event, frozen=True, kw_only=True):
    """A request will be repeated after a pause in seconds."""

    method: str
    url: str
    attempt: int
    pause: float


class Warned(Event, frozen=True, kw_only=True):
    """A registry sent a warning (R-240); its text is escaped and cut."""

    registry: str
    text: str


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
