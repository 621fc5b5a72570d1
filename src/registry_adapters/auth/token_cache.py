"""Tokens in memory: for whom, from whom, for what, and until when (R-037)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import msgspec

from registry_adapters.auth.token import Token
from registry_core import scope
from registry_core.domain.access import Credential, Scope
from registry_core.domain.origin import Origin

__all__ = ["Audience", "TokenCache"]

_MARGIN: Final = 5.0
_POLL: Final = 0.05
_LIMIT: Final = 4096


class Audience(msgspec.Struct, frozen=True):
    """Whom a token speaks for, and to whom.

    Args:
        registry: The only origin it is sent to.
        realm: The token server's URL.
        service: As the challenge named it.
        identity: The credential behind it.
    """

    registry: Origin
    realm: str
    service: str
    identity: Credential


class TokenCache:
    """Tokens by audience and scopes. Any number of threads may use it at once.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._busy: set[tuple[Audience, frozenset[Scope]]] = set()
        self._tokens: dict[tuple[Audience, frozenset[Scope]], tuple[Token, float]] = {}

    def find(self, audience: Audience, scopes: Collection[Scope]) -> str | None:
        """A token that was given for these scopes or for more, and is still good for some seconds."""
        wanted = frozenset(scopes)
        now = self._clock()
        with self._changed:
            exact = self._tokens.get((audience, wanted))
            if exact is not None and now < exact[1]:
                return exact[0].text
            for (known, granted), (token, end) in self._tokens.items():
                if known == audience and now < end and _covers(granted, wanted):
                    return token.text
        return None

    def keep(self, audience: Audience, scopes: Collection[Scope], token: Token) -> None:
        """Remember a token until shortly before its end."""
        now = self._clock()
        with self._changed:
            if len(self._tokens) >= _LIMIT:
                self._tokens = {key: entry for key, entry in self._tokens.items() if now < entry[1]}
            if len(self._tokens) >= _LIMIT:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[audience, frozenset(scopes)] = (token, now + token.lifetime - _MARGIN)

    def forget(self, audience: Audience, text: str) -> None:
        """Drop a token that was refused, whatever it was given for."""
        with self._changed:
            self._tokens = {
                key: entry for key, entry in self._tokens.items() if key[0] != audience or entry[0].text != text
            }

    @contextmanager
    def turn(self, audience: Audience, scopes: Collection[Scope]) -> Iterator[None]:
        """Be the only one to fetch this token; whoever comes later waits here, and should look again afterwards.

        Raises:
            Cancelled: While waiting.
            DeadlineExceeded: While waiting.
        """
        key = (audience, frozenset(scopes))
        with self._changed:
            while key in self._busy:
                scope.checkpoint()
                self._changed.wait(_POLL)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()

    def __reduce__(self) -> NoReturn:
        raise TypeError("TokenCache holds secrets and is not pickled")


def _covers(granted: frozenset[Scope], wanted: frozenset[Scope]) -> bool:
    return all(
        any(
            have.kind == want.kind and have.name == want.name and set(want.actions) <= set(have.actions)
            for have in granted
        )
        for want in wanted
    )
