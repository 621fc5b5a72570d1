"""Which requests a fault befalls."""

from __future__ import annotations

import random
import re
import threading
from typing import Literal, get_args
from wsgiref.types import WSGIEnvironment

import msgspec

from registry_adapters.wsgi.app import route
from registry_core.errors import ConfigError

__all__ = ["Endpoint", "RequestMatch", "RequestMatcher", "endpoint"]

Endpoint = Literal[
    "base", "catalog", "tags", "manifest", "blob", "uploads", "upload", "referrers", "token", "other"
]  # fmt: skip
"""What a path stands for: ``uploads`` is where uploads begin, ``upload`` is one of them."""


def endpoint(path: str) -> str:
    """The ``Endpoint`` of a path."""
    if path == "/token":
        return "token"
    found = route(path)
    return "other" if found is None else found.endpoint.value


class RequestMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests, and how many of them.

    Args:
        endpoints: What is asked for; anything if empty.
        methods: ``GET``, ``PUT`` and so on; any if empty.
        path: A regular expression to be found in path and query.
        header: A header that must be there.
        skip: How many of these requests pass first.
        every: Of the others, every how-manieth is meant.
        chance: How likely it is, from 0 to 1.
        seed: For the same luck in every run.
        limit: How many requests at most; ``None`` for no limit.

    Raises:
        ConfigError: No request could ever be meant.
    """

    endpoints: tuple[Endpoint, ...] = ()
    methods: tuple[str, ...] = ()
    path: str = ""
    header: str = ""
    skip: int = 0
    every: int = 1
    chance: float = 1.0
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.skip < 0 or self.every < 1 or not 0 <= self.chance <= 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError("a fault is skipped from 0 times on, limited from 1 on, and likely from 0 to 1")
        unknown = set(self.endpoints) - set(get_args(Endpoint))
        if unknown:
            raise ConfigError(f"no such endpoint: {', '.join(sorted(unknown))}")
        try:
            re.compile(self.path)
        except re.error as error:
            raise ConfigError(f"not a regular expression: {self.path!r}: {error}") from None

    def fits(self, environ: WSGIEnvironment) -> bool:
        """Whether a request is of the right sort, however often that happened before."""
        path = environ.get("PATH_INFO") or "/"
        query = environ.get("QUERY_STRING", "")
        header = f"HTTP_{self.header.upper().replace('-', '_')}"
        return (
            (not self.endpoints or endpoint(path) in self.endpoints)
            and (not self.methods or environ["REQUEST_METHOD"] in self.methods)
            and (not self.header or header in environ)
            and re.search(self.path, f"{path}?{query}" if query else path) is not None
        )

    def __str__(self) -> str:
        """In words; empty for every request."""
        words = [" or ".join(self.methods), " or ".join(self.endpoints)]
        words += [f"with {self.header}"] if self.header else []
        words += [f"matching {self.path}"] if self.path else []
        words += [f"after {self.skip}"] if self.skip else []
        words += [f"every {self.every}."] if self.every > 1 else []
        words += [f"{self.chance:.0%} likely"] if self.chance < 1 else []
        words += [f"at most {self.limit} times" if self.limit > 1 else "once"] if self.limit is not None else []
        return " ".join(filter(None, words))


class RequestMatcher:
    """Counts the requests that fit one occasion.

    Args:
        occasion: Which.
    """

    def __init__(self, occasion: RequestMatch) -> None:
        self._occasion = occasion
        self._random = random.Random(occasion.seed)
        self._lock = threading.Lock()
        self._seen = 0
        self._taken = 0

    def meant(self, environ: WSGIEnvironment) -> bool:
        """Count a request if it fits, and say whether it is meant."""
        occasion = self._occasion
        if not occasion.fits(environ):
            return False
        with self._lock:
            self._seen += 1
            rest = self._seen - occasion.skip
            return (
                rest > 0
                and rest % occasion.every == 0
                and (occasion.limit is None or self._taken < occasion.limit)
                and (occasion.chance == 1 or self._random.random() < occasion.chance)
            )

    def take(self) -> bool:
        """Count that it happened.

        Returns:
            Whether it may: another thread may have been faster with the last one.
        """
        with self._lock:
            if self._occasion.limit is not None and self._taken >= self._occasion.limit:
                return False
            self._taken += 1
            return True

    def skip(self) -> None:
        """Count that it did not happen after all."""
        with self._lock:
            self._taken -= 1
