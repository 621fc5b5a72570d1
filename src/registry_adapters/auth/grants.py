"""How a credential is traded for a token, and which identity token counts by now."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Final, NoReturn

from registry_adapters.auth.bearer import token_query
from registry_adapters.auth.bounded import remember
from registry_adapters.auth.oauth import token_form
from registry_adapters.auth.token import Token, token
from registry_adapters.auth.token_cache import Audience
from registry_adapters.auth.turns import Turns
from registry_core.domain.access import Basic, Credential, IdentityToken, Scope, TokenReply, TokenRequest
from registry_core.errors import Unauthorized

__all__ = ["Grants"]

_NOT_SERVED: Final = (404, 405)
# The name that credential helpers give to an identity token's owner.
_NAMELESS: Final = "<token>"


class Grants:
    """Trades credentials for tokens. Any number of threads may use it at once.

    A password is tried with GET and an identity token with POST; where a token server knows only the other way (404,
    405), that is tried. An identity token that a server replaces is replaced here, in memory only, for as long as the
    new one is taken; one exchange at a time, for a server that replaces takes no token twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns = Turns()
        self._current: dict[Audience, IdentityToken] = {}

    def fetch(self, audience: Audience, scopes: Sequence[Scope]) -> Generator[TokenRequest, TokenReply, Token]:
        """A new token.

        Raises:
            Unauthorized: The token server does not believe who we are.
            Forbidden: It does, and refuses.
            TransportError: It is out of order, or its answer makes no sense.
            ConfigError: The credential cannot be written down.
        """
        given = audience.identity
        if not isinstance(given, IdentityToken):
            return (yield from _asked(audience, scopes, given))
        with self._turns.turn(audience):
            with self._lock:
                current = self._current.get(audience, given)
            try:
                fresh = yield from _asked(audience, scopes, current)
            except Unauthorized:
                if current == given:
                    raise
                with self._lock:
                    self._current.pop(audience, None)
                fresh = yield from _asked(audience, scopes, given)
            if fresh.refresh:
                with self._lock:
                    remember(self._current, audience, IdentityToken(fresh.refresh, given.username))
            return fresh

    def __reduce__(self) -> NoReturn:
        raise TypeError("Grants hold secrets and are not pickled")


def _asked(audience: Audience, scopes: Sequence[Scope], who: Credential) -> Generator[TokenRequest, TokenReply, Token]:
    if isinstance(who, IdentityToken):
        ways = [
            lambda: token_form(audience.realm, audience.service, scopes, who),
            lambda: token_query(audience.realm, audience.service, scopes, Basic(who.username or _NAMELESS, who.token)),
        ]
    elif isinstance(who, Basic):
        ways = [
            lambda: token_query(audience.realm, audience.service, scopes, who),
            lambda: token_form(audience.realm, audience.service, scopes, who),
        ]
    else:
        ways = [lambda: token_query(audience.realm, audience.service, scopes, None)]
    request = ways[0]()
    reply = yield request
    if reply.status in _NOT_SERVED and len(ways) > 1:
        request = ways[1]()
        reply = yield request
    return token(request, reply)
