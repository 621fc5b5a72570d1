"""How a credential is traded for a token, and which identity token counts by now.

Asking for a token with POST: identity tokens, and passwords where GET is not served (distribution, "oauth.md").
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Final, NoReturn
from urllib.parse import urlencode

from registry_adapters.auth.authorization import token_query
from registry_adapters.auth.single_flight import SingleFlight
from registry_adapters.auth.tokens import Token, TokenKey, put_bounded, token
from registry_core.domain.auth import Basic, Credential, IdentityToken, Scope, TokenReply, TokenRequest
from registry_core.errors import ConfigError, Unauthorized

__all__ = ["CLIENT_ID", "TokenExchanger", "token_form"]


CLIENT_ID: Final = "ociport"


def token_form(realm: str, service: str, scopes: Sequence[Scope], credential: Basic | IdentityToken) -> TokenRequest:
    """The POST that trades an identity token, or a password, for a token. The secret stands in the body only.

    Args:
        realm: The token server's URL, judged by ``check_realm``.
        service: As the challenge named it; empty for none.
        scopes: What the token has to allow; one field, with spaces between them.
        credential: Who asks.

    Raises:
        ConfigError: The credential cannot be written down.
    """
    if isinstance(credential, IdentityToken):
        fields = [("grant_type", "refresh_token"), ("refresh_token", credential.token)]
    else:
        fields = [("grant_type", "password"), ("username", credential.username), ("password", credential.password)]
    fields.append(("client_id", CLIENT_ID))
    if service:
        fields.append(("service", service))
    if scopes:
        fields.append(("scope", " ".join(str(scope) for scope in scopes)))
    try:
        body = urlencode(fields, errors="surrogateescape").encode("ascii")
    except UnicodeEncodeError:
        raise ConfigError("user name, password or identity token is not valid text") from None
    return TokenRequest(
        method="POST",
        url=realm.partition("#")[0],
        headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        body=body,
        scopes=tuple(scopes),
    )


_NOT_SERVED: Final = (404, 405)

# The name that credential helpers give to an identity token's owner.
_NAMELESS: Final = "<token>"


class TokenExchanger:
    """Trades credentials for tokens. Any number of threads may use it at once.

    A password is tried with GET and an identity token with POST; where a token server knows only the other way (404,
    405), that is tried. An identity token that a server replaces is replaced here, in memory only, for as long as the
    new one is taken; one exchange at a time, for a server that replaces takes no token twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns = SingleFlight()
        self._current: dict[TokenKey, IdentityToken] = {}

    def fetch(self, audience: TokenKey, scopes: Sequence[Scope]) -> Generator[TokenRequest, TokenReply, Token]:
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
        with self._turns.lock(audience):
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
                    put_bounded(self._current, audience, IdentityToken(fresh.refresh, given.username))
            return fresh

    def __reduce__(self) -> NoReturn:
        raise TypeError("Grants hold secrets and are not pickled")


def _asked(audience: TokenKey, scopes: Sequence[Scope], who: Credential) -> Generator[TokenRequest, TokenReply, Token]:
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
