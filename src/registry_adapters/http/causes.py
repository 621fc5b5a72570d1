"""What is behind an error of the network: causes that several layers have wrapped, and words for them."""

from __future__ import annotations

import http.client
from collections.abc import Collection, Iterator

from registry_core.errors import Cancelled, DeadlineExceeded

__all__ = ["causes_of", "os_reason"]


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made of, outermost first, each once."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        parts = [*current.args, current.__cause__]
        if not isinstance(current, Cancelled | DeadlineExceeded):
            waiting += [part for part in parts if isinstance(part, BaseException)]


def os_reason(causes: Collection[BaseException]) -> str:
    """Why a connection broke, or never was."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    for cause in causes:
        if isinstance(cause, http.client.RemoteDisconnected):
            return "closed without an answer"
    return "closed"
