"""Tokens: the scopes to request, the reply of a token server, and a cache.

The scopes of a request come from the operation. A challenge may add only these:

==========================  =======================================================================
Scopes of the operation     Scopes that a challenge may add
==========================  =======================================================================
none                        ``pull`` of any repository, and the catalog
``pull`` of a repository    read actions on the same repository
``push``                    read actions on the same repository
``delete``                  read actions and ``push``: Quay requires ``push`` from clients that delete
==========================  =======================================================================
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from registry_adapters.auth.authorization import is_token
from registry_core.domain.auth import Credential, NotPicklable, Scope, TokenReply, TokenRequest
from registry_core.domain.error_bodies import error_text, refuses_plain_http
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import (
    Forbidden,
    InvalidName,
    ProtocolError,
    RateLimited,
    RegistryError,
    TLSError,
    TransportError,
    Unauthorized,
    Unavailable,
)

__all__ = [
    "MAX_LIFETIME",
    "MAX_REPLY_BYTES",
    "MIN_LIFETIME",
    "Token",
    "TokenCache",
    "TokenKey",
    "challenge_scopes",
    "merge_scopes",
    "own_repository",
    "parse_token",
    "put_bounded",
    "repository_of",
    "widen_scopes",
]


_MAX_SCOPES: Final = 16

# Azure has a separate action for reading metadata.
_READ_ACTIONS: Final = frozenset({"pull", "metadata_read"})


def merge_scopes(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """Merge the actions on each repository into one scope, and sort the scopes."""
    actions: dict[tuple[str, str], set[str]] = {}
    for scope in scopes:
        actions.setdefault((scope.kind, scope.name), set()).update(scope.actions)
    return tuple(Scope(kind, name, tuple(sorted(merged))) for (kind, name), merged in sorted(actions.items()))


def own_repository(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """Select the scopes of the repository that the operation is for: the first one, without a mount's source."""
    first = next(iter(scopes), None)
    return merge_scopes(
        [scope for scope in scopes if first is not None and (scope.kind, scope.name) == (first.kind, first.name)]
    )


def repository_of(scopes: Collection[Scope]) -> RepositoryName | None:
    """Return the repository that the operation is for; ``None`` for an operation on the registry."""
    for scope in scopes:
        if scope.kind == "repository":
            try:
                return RepositoryName(scope.name)
            except InvalidName:
                return None
    return None


def challenge_scopes(text: str) -> tuple[Scope, ...]:
    """Take scopes from a challenge, for an operation without scopes: only read actions."""
    found = []
    for kind, name, actions in _parse_scopes(text):
        if kind == "repository" and "pull" in actions:
            found.append(Scope(kind, name, ("pull",)))
        elif (kind, name, actions) == ("registry", "catalog", ("*",)):
            found.append(Scope.catalog())
    return merge_scopes(found)


def widen_scopes(scopes: Collection[Scope], text: str) -> tuple[Scope, ...]:
    """Add the actions to an operation's scopes that its challenge may add.

    Args:
        scopes: Scopes of the operation.
        text: ``scope`` of the challenge.
    """
    actions_of = {(scope.kind, scope.name): scope.actions for scope in scopes if scope.kind == "repository"}
    added = []
    for kind, name, actions in _parse_scopes(text):
        requested = actions_of.get((kind, name))
        if requested is not None:
            allowed = _READ_ACTIONS | {"push"} if "delete" in requested else _READ_ACTIONS
            added.append(Scope(kind, name, tuple(allowed.intersection(actions))))
    return merge_scopes([*scopes, *added])


def _parse_scopes(text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Split scopes into kind, name and actions; a name may contain a colon before a port."""
    found = []
    for word in text.split(None, _MAX_SCOPES)[:_MAX_SCOPES]:
        kind, _, rest = word.partition(":")
        name, _, actions = rest.rpartition(":")
        if name:
            found.append((kind, name, tuple(actions.split(",", _MAX_SCOPES)[:_MAX_SCOPES])))
    return found


MAX_REPLY_BYTES: Final = 64 * 1024

MIN_LIFETIME: Final = 60.0

# some servers state the lifetime in nanoseconds. The limit keeps such a token from being used for years; a
# token that expires earlier than stated only costs one 401.
MAX_LIFETIME: Final = 24 * 3600.0


class Token(NotPicklable):
    """A token and its lifetime.

    Args:
        text: Text of the token.
        lifetime: Seconds from its arrival for which it is valid.
        refresh_token: Identity token that replaces the one used for the request; empty for none.
    """

    __slots__ = ("lifetime", "refresh_token", "text")

    def __init__(self, text: str, lifetime: float, refresh_token: str = "") -> None:
        self.text = text
        self.lifetime = lifetime
        self.refresh_token = refresh_token

    def __repr__(self) -> str:
        """Representation without the token."""
        return f"Token(***, {self.lifetime})"


def parse_token(request: TokenRequest, reply: TokenReply) -> Token:
    """Read the token from the reply of a token server.

    ``token`` is preferred to ``access_token``. ``issued_at`` is ignored because clocks differ. A missing, malformed or
    too short lifetime becomes 60 seconds, the minimum of the specification.

    Args:
        request: Request that was sent; for error messages.
        reply: Reply of the token server.

    Raises:
        Unauthorized: The token server refused the credential.
        Forbidden: The token server accepted the credential, but refused the scopes, or a policy of it does.
        RateLimited: The token server answered 429.
        TLSError: The token server speaks TLS, and its URL is one of plain http.
        Unavailable: The token server answered 408 or 5xx.
        ProtocolError: The reply has no usable token.
    """
    if not 200 <= reply.status < 300:
        raise _refusal(request, reply)
    operation = f"token request to {redact_url(request.url)}"
    if len(reply.content) > MAX_REPLY_BYTES:
        raise ProtocolError(f"{operation}: the reply has more than {MAX_REPLY_BYTES} bytes", status=reply.status)
    try:
        body = msgspec.json.decode(reply.content, type=_Body)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{operation}: the reply is not a JSON object{reply.remark}", status=reply.status) from None
    text = _decode(body.token) or _decode(body.access_token)
    if not is_token(text):
        raise ProtocolError(f"{operation}: the reply has no usable token", status=reply.status)
    refresh_token = _decode(body.refresh_token)
    return Token(text, _lifetime(_decode(body.expires_in)), refresh_token if is_token(refresh_token) else "")


class _Body(msgspec.Struct, frozen=True):
    """The fields of a reply; decoded one by one, so that a malformed field does not affect the others."""

    token: msgspec.Raw = msgspec.Raw()
    access_token: msgspec.Raw = msgspec.Raw()
    expires_in: msgspec.Raw = msgspec.Raw()
    refresh_token: msgspec.Raw = msgspec.Raw()


def _decode(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None


def _lifetime(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MIN_LIFETIME
    return float(min(max(value, MIN_LIFETIME), MAX_LIFETIME))


def _refusal(request: TokenRequest, reply: TokenReply) -> RegistryError:
    url, status = redact_url(request.url), reply.status
    message = f"token request to {url}: {_describe(status)}"
    words = _words(request, reply) if status in _FORBIDDEN else ""
    message += f": {words}" if words else ""
    transport = TransportError(message, status=status, method=request.method, url=url)
    has_credential = request.method == "POST" or "Authorization" in request.headers
    if status in _FORBIDDEN:
        return Forbidden(message, transport=transport)
    if status == 400 and url.startswith("http:") and refuses_plain_http(reply.content):
        reason = (
            "the token server speaks TLS, but the registry names it by a plain http URL: correct the registry's realm"
        )
        return TLSError(f"token request to {url}: {reason}", status=status, method=request.method, url=url)
    # OAuth2 answers 400 to an invalid grant (RFC 6749, section 5.2).
    if status == 401 or (status == 400 and request.method == "POST"):
        reason = "the token server refused the credentials" if has_credential else "no credentials were given"
        return Unauthorized(f"{message}: {reason}", transport=transport)
    if 300 <= status < 400:
        message += ": redirects of token requests are not followed, because the request may hold credentials"
    if status == 429:
        return RateLimited(message, status=status, method=request.method, url=url)
    if status >= 500 or status == 408:
        return Unavailable(message, status=status, method=request.method, url=url)
    return ProtocolError(message, status=status, method=request.method, url=url)


def _words(request: TokenRequest, reply: TokenReply) -> str:
    """The reason of a refusal in the words of the token server, without the secrets of the request."""
    content = reply.content
    for secret in _secrets(request):
        content = content.replace(secret, b"***")
    return error_text(content)


def _secrets(request: TokenRequest) -> list[bytes]:
    """The secrets of a request that a server may repeat; shorter ones may occur in a text by chance."""
    value = request.headers.get("Authorization", "").partition(" ")[2]
    found = [value.encode(), *(each for name, each in parse_qsl(request.body or b"") if name in _SECRET_FIELDS)]
    with suppress(binascii.Error):
        found.append(base64.b64decode(value, validate=True).partition(b":")[2])
    return [secret for secret in found if len(secret) >= _MIN_SECRET]


def _describe(status: int) -> str:
    """Return the status with its reason phrase, if it is a known one."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


# The statuses of policies as well: Payment Required, Precondition Failed, Locked, Unavailable For Legal Reasons.
_FORBIDDEN: Final = frozenset({402, 403, 412, 423, 451})

_SECRET_FIELDS: Final = (b"password", b"refresh_token")

_MIN_SECRET: Final = 8

_EXPIRY_MARGIN: Final = 5.0

_MAX_TOKENS: Final = 4096


class TokenKey(msgspec.Struct, frozen=True):
    """Identifies the tokens that one credential gets from one token server for one registry.

    Args:
        registry: Registry that the token is sent to, and no other.
        realm: URL of the token server.
        service: ``service`` of the challenge.
        credential: Credential that is exchanged for the token.
    """

    registry: Origin
    realm: str
    service: str
    credential: Credential


class TokenCache(NotPicklable):
    """Tokens by key and scopes. Safe for many threads.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[tuple[TokenKey, frozenset[Scope]], tuple[Token, float]] = {}

    def get(self, key: TokenKey, scopes: Collection[Scope]) -> str | None:
        """Return an unexpired token that was issued for these scopes or wider ones."""
        needed = frozenset(scopes)
        now = self._clock()
        with self._lock:
            exact = self._tokens.get((key, needed))
            if exact is not None and now < exact[1]:
                return exact[0].text
            for (other, granted), (token, expires_at) in self._tokens.items():
                if other == key and now < expires_at and _covers(granted, needed):
                    return token.text
        return None

    def put(self, key: TokenKey, scopes: Collection[Scope], token: Token) -> None:
        """Keep a token until shortly before it expires."""
        now = self._clock()
        with self._lock:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens = {tokens_key: entry for tokens_key, entry in self._tokens.items() if now < entry[1]}
            if len(self._tokens) >= _MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[key, frozenset(scopes)] = (token, now + token.lifetime - _EXPIRY_MARGIN)

    def discard(self, key: TokenKey, scopes: Collection[Scope], text: str) -> None:
        """Remove a token that the registry refused for these scopes, if it was issued for all of them."""
        refused = frozenset(scopes)
        with self._lock:
            self._tokens = {
                (other, granted): entry
                for (other, granted), entry in self._tokens.items()
                if other != key or entry[0].text != text or not _covers(granted, refused)
            }


def _covers(granted: frozenset[Scope], needed: frozenset[Scope]) -> bool:
    return all(
        any(
            grant.kind == need.kind and grant.name == need.name and set(need.actions) <= set(grant.actions)
            for grant in granted
        )
        for need in needed
    )


_Key = TypeVar("_Key", bound=Hashable)

_Value = TypeVar("_Value")

_MAX_ENTRIES: Final = 4096


def put_bounded(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Put an entry into a cache of at most 4096 entries, and remove the oldest one if it is full."""
    cache.pop(key, None)
    if len(cache) >= _MAX_ENTRIES:
        del cache[next(iter(cache))]
    cache[key] = value
