"""Tokens in memory: for whom, from whom, for what, and until when (R-037)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Final, NoReturn

import msgspec

from registry_adapters.auth.token import Token
from registry_core.domain.access import Credential, Scope
from registry_core.domain.origin import Origin

__all__ = ["Audience", "TokenCache"]

_MARGIN: Final = 5.0
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
        self._lock = threading.Lock()
        self._tokens: dict[tuple[Audience, frozenset[Scope]], tuple[Token, float]] = {}

    def find(self, audience: Audience, scopes: Collection[Scope]) -> str | None:
        """A token that was given for these scopes or for more, and is still good for some seconds."""
        wanted = frozenset(scopes)
        now = self._clock()
        with self._lock:
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
        with self._lock:
            if len(self._tokens) >= _LIMIT:
                self._tokens = {key: entry for key, entry in self._tokens.items() if now < entry[1]}
            if len(self._tokens) >= _LIMIT:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[audience, frozenset(scopes)] = (token, now + token.lifetime - _MARGIN)

    def forget(self, audience: Audience, scopes: Collection[Scope], text: str) -> None:
        """Drop a token that was refused for these scopes; one that was never given for all of them proves nothing."""
        wanted = frozenset(scopes)
        with self._lock:
            self._tokens = {
                (known, granted): entry
                for (known, granted), entry in self._tokens.items()
                if known != audience or entry[0].text != text or not _covers(granted, wanted)
            }

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
