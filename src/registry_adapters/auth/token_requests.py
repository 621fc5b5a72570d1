"""Requests to token servers, and the exchange of credentials for tokens.

GET with a password is specified by distribution's "Token Authentication Specification", POST by its "oauth.md".
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from registry_adapters.auth.authorization import basic_value
from registry_adapters.auth.single_flight import SingleFlight
from registry_adapters.auth.tokens import Token, TokenKey, parse_token, put_bounded
from registry_core.domain.auth import Basic, Credential, IdentityToken, NotPicklable, Scope, TokenReply, TokenRequest
from registry_core.errors import ConfigError, Unauthorized

__all__ = ["TokenExchanger", "token_form", "token_query"]


_CLIENT_ID: Final = "ociport"

_METHOD_UNSUPPORTED: Final = (404, 405)

# The user name that credential helpers give to an identity token.
_IDENTITY_TOKEN_USER: Final = "<token>"


def token_query(realm: str, service: str, scopes: Sequence[Scope], credential: Basic | None) -> TokenRequest:
    """Build the GET for a token, with a password or anonymously.

    Args:
        realm: URL of the token server; its query is kept.
        service: ``service`` of the challenge; empty if absent.
        scopes: Scopes to request; each becomes a ``scope`` field.
        credential: User name and password; ``None`` for an anonymous request.

    Raises:
        ConfigError: The credential cannot be encoded.
    """
    fields = [("service", service)] if service else []
    fields += [("scope", str(scope)) for scope in scopes]
    base = realm.partition("#")[0]
    query = urlencode(fields, quote_via=quote, safe=":/,*")
    separator = "" if not query or base.endswith(("?", "&")) else "&" if "?" in base else "?"
    headers = {"Accept": "application/json"}
    if credential is not None:
        headers["Authorization"] = basic_value(credential)
    return TokenRequest(method="GET", url=f"{base}{separator}{query}", headers=headers, scopes=tuple(scopes))


def token_form(realm: str, service: str, scopes: Sequence[Scope], credential: Basic | IdentityToken) -> TokenRequest:
    """Build the POST for a token, with an identity token or a password; the secret is only in the body.

    Args:
        realm: URL of the token server.
        service: ``service`` of the challenge; empty if absent.
        scopes: Scopes to request; joined by spaces in one field.
        credential: Identity token, or user name and password.

    Raises:
        ConfigError: The credential cannot be encoded.
    """
    if isinstance(credential, IdentityToken):
        fields = [("grant_type", "refresh_token"), ("refresh_token", credential.token)]
    else:
        fields = [("grant_type", "password"), ("username", credential.username), ("password", credential.password)]
    fields.append(("client_id", _CLIENT_ID))
    if service:
        fields.append(("service", service))
    if scopes:
        fields.append(("scope", " ".join(str(scope) for scope in scopes)))
    try:
        body = urlencode(fields, errors="surrogateescape").encode("ascii")
    except UnicodeEncodeError:
        raise ConfigError(
            "token request: the user name, password or identity token cannot be encoded as UTF-8"
        ) from None
    return TokenRequest(
        method="POST",
        url=realm.partition("#")[0],
        headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        body=body,
        scopes=tuple(scopes),
    )


class TokenExchanger(NotPicklable):
    """Exchanges credentials for tokens. Safe for many threads.

    A password is sent with GET, an identity token with POST. If the token server does not support that method (404,
    405), the other one is tried.

    A token server may replace an identity token. The new one is kept in memory and used until it is refused. Such a
    server accepts each identity token once, so exchanges of one identity token are not sent at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._single_flight = SingleFlight()
        self._identity_tokens: dict[TokenKey, IdentityToken] = {}

    def fetch(self, key: TokenKey, scopes: Sequence[Scope]) -> Generator[TokenRequest, TokenReply, Token]:
        """Fetch a new token.

        Raises:
            Unauthorized: The token server refused the credential.
            Forbidden: The token server accepted the credential, but refused the scopes.
            TransportError: The token server failed, or its response has no usable token.
            ConfigError: The credential cannot be encoded.
        """
        configured = key.credential
        if not isinstance(configured, IdentityToken):
            return (yield from _exchange(key, scopes, configured))
        with self._single_flight.lock(key):
            with self._lock:
                current = self._identity_tokens.get(key, configured)
            try:
                token = yield from _exchange(key, scopes, current)
            except Unauthorized:
                if current == configured:
                    raise
                with self._lock:
                    self._identity_tokens.pop(key, None)
                token = yield from _exchange(key, scopes, configured)
            if token.refresh_token:
                with self._lock:
                    put_bounded(self._identity_tokens, key, IdentityToken(token.refresh_token, configured.username))
            return token


def _exchange(
    key: TokenKey, scopes: Sequence[Scope], credential: Credential
) -> Generator[TokenRequest, TokenReply, Token]:
    """Request a token; once more with the other method if the server does not support the first one."""
    if isinstance(credential, IdentityToken):
        as_password = Basic(credential.username or _IDENTITY_TOKEN_USER, credential.token)
        attempts = [
            lambda: token_form(key.realm, key.service, scopes, credential),
            lambda: token_query(key.realm, key.service, scopes, as_password),
        ]
    elif isinstance(credential, Basic):
        attempts = [
            lambda: token_query(key.realm, key.service, scopes, credential),
            lambda: token_form(key.realm, key.service, scopes, credential),
        ]
    else:
        attempts = [lambda: token_query(key.realm, key.service, scopes, None)]
    request = attempts[0]()
    reply = yield request
    if reply.status in _METHOD_UNSUPPORTED and len(attempts) > 1:
        request = attempts[1]()
        reply = yield request
    return parse_token(request, reply)
