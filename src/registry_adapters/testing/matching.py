"""Select the requests that a fault applies to."""

from __future__ import annotations

import random
import re
import threading
from typing import Literal, get_args
from wsgiref.types import WSGIEnvironment

import msgspec

from registry_adapters.wsgi.app import route
from registry_core.errors import ConfigError

__all__ = ["EndpointName", "RequestMatch", "RequestMatcher", "endpoint_name"]

EndpointName = Literal[
    "base", "catalog", "tags", "manifest", "blob", "uploads", "upload", "referrers", "token", "other"
]  # fmt: skip
"""Endpoint of a path: ``uploads`` starts an upload session, ``upload`` is one session."""


def endpoint_name(path: str) -> str:
    """The ``EndpointName`` of a path."""
    if path == "/token":
        return "token"
    parsed = route(path)
    return "other" if parsed is None else parsed.endpoint.value


class RequestMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on requests, and on their number. A request has to meet all of them.

    Args:
        endpoints: Endpoints of the request; empty for any.
        methods: Methods of the request; empty for any.
        path: Regular expression to search in path and query.
        header: Name of a header that the request must have.
        skip: Number of matching requests to leave alone first.
        every: Apply to every n-th of the matching requests after these.
        chance: Probability to apply, from 0 to 1.
        seed: Seed of the random numbers, which are the same in every run.
        limit: Maximum number of requests to apply to; ``None`` for no maximum.

    Raises:
        ConfigError: A value is out of range, an endpoint is unknown, or ``path`` is not a regular expression.
    """

    endpoints: tuple[EndpointName, ...] = ()
    methods: tuple[str, ...] = ()
    path: str = ""
    header: str = ""
    skip: int = 0
    every: int = 1
    chance: float = 1.0
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.skip < 0 or self.every < 1 or not 0 <= self.chance <= 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError("fault: skip must be 0 or more, every and limit 1 or more, and chance from 0 to 1")
        unknown = set(self.endpoints) - set(get_args(EndpointName))
        if unknown:
            raise ConfigError(f"fault: unknown endpoint: {', '.join(sorted(unknown))}")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ConfigError(f"fault: not a regular expression: {self.path!r}: {error}") from None

    def matches(self, environ: WSGIEnvironment) -> bool:
        """Return whether a request has the right endpoint, method, path and header."""
        path = environ.get("PATH_INFO") or "/"
        query = environ.get("QUERY_STRING", "")
        header = f"HTTP_{self.header.upper().replace('-', '_')}"
        return (
            (not self.endpoints or endpoint_name(path) in self.endpoints)
            and (not self.methods or environ["REQUEST_METHOD"] in self.methods)
            and (not self.header or header in environ)
            and re.search(self.path, f"{path}?{query}" if query else path) is not None
        )

    def __str__(self) -> str:
        """The conditions in words; empty if there are none."""
        words = [" or ".join(self.methods), " or ".join(self.endpoints)]
        words += [f"with {self.header}"] if self.header else []
        words += [f"matching {self.path}"] if self.path else []
        words += [f"after {self.skip}"] if self.skip else []
        words += [f"every {self.every}."] if self.every > 1 else []
        words += [f"{self.chance:.0%} likely"] if self.chance < 1 else []
        words += [f"at most {self.limit} times" if self.limit > 1 else "once"] if self.limit is not None else []
        return " ".join(filter(None, words))


class RequestMatcher:
    """Count the requests that meet some conditions, for one fault of one registry.

    Args:
        match: The conditions.
    """

    def __init__(self, match: RequestMatch) -> None:
        self._match = match
        self._random = random.Random(match.seed)
        self._lock = threading.Lock()
        self._seen = 0
        self._applied = 0

    def applies(self, environ: WSGIEnvironment) -> bool:
        """Count a request if it matches, and decide whether the fault applies to it."""
        match = self._match
        if not match.matches(environ):
            return False
        with self._lock:
            self._seen += 1
            number = self._seen - match.skip
            return (
                number > 0
                and number % match.every == 0
                and (match.limit is None or self._applied < match.limit)
                and (match.chance == 1 or self._random.random() < match.chance)
            )

    def apply(self) -> bool:
        """Count that the fault is applied.

        Returns:
            Whether the limit still allows it: requests of several threads may compete for the last time.
        """
        with self._lock:
            if self._match.limit is not None and self._applied >= self._match.limit:
                return False
            self._applied += 1
            return True

    def skip(self) -> None:
        """Take back the last ``apply``: the fault made no difference to the request."""
        with self._lock:
            self._applied -= 1
