"""Tokens in memory: for whom, from whom, for what, and until when.

What a token server answers: a token and how long it lives, or a refusal.

Which scopes a token is asked for: the operation's, and of a challenge only what is no step up.

============================  ==================================================================
The operation names           What a challenge may add to it
============================  ==================================================================
nothing                       reading: ``pull`` of any repository, and the catalog
``pull`` of a repository      reading of the same repository
``push``                      the same
``delete``                    the same, and ``push``: Quay holds that who deletes must push
============================  ==================================================================

Memories that do not grow without end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import Final, NoReturn, TypeVar

import msgspec

from registry_adapters.auth.authorization import is_token
from registry_core.domain.auth import Credential, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import (
    Forbidden,
    InvalidName,
    ProtocolError,
    RateLimited,
    TransportError,
    Unauthorized,
    Unavailable,
)

__all__ = [
    "LIFETIME_LIMIT",
    "REPLY_LIMIT",
    "SHORTEST_LIFETIME",
    "Token",
    "TokenCache",
    "TokenKey",
    "challenge_scopes",
    "merge_scopes",
    "own_repository",
    "put_bounded",
    "repository",
    "token",
    "widen_scopes",
]


REPLY_LIMIT: Final = 64 * 1024

SHORTEST_LIFETIME: Final = 60.0

# A server that counts in nanoseconds must not make a token immortal; an expired one costs a 401, no more.
LIFETIME_LIMIT: Final = 24 * 3600.0


class Token:
    """A token and the seconds it may be relied on, counted from its arrival.

    Args:
        text: The token.
        lifetime: Seconds.
        refresh: The identity token that replaces the one it was asked for with; empty for none.
    """

    __slots__ = ("lifetime", "refresh", "text")

    def __init__(self, text: str, lifetime: float, refresh: str = "") -> None:
        self.text = text
        self.lifetime = lifetime
        self.refresh = refresh

    def __repr__(self) -> str:
        """Without the token."""
        return f"Token(***, {self.lifetime})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Token holds a secret and is not pickled")


def token(request: TokenRequest, reply: TokenReply) -> Token:
    """The token in a token server's answer.

    ``token`` counts, or else ``access_token``. ``issued_at`` is not looked at: clocks differ, and the answer has only
    just arrived. A lifetime that is missing, no number or below the specification's minimum is that minimum.

    Args:
        request: What was asked, for messages.
        reply: What came.

    Raises:
        Unauthorized: The server does not believe who we are.
        Forbidden: It does, and refuses.
        RateLimited: It was asked too often.
        Unavailable: It is out of order.
        ProtocolError: The answer has no usable token.
    """
    if not 200 <= reply.status < 300:
        raise _refusal(request, reply.status)
    where = f"token server {redact_url(request.url)}"
    if len(reply.content) > REPLY_LIMIT:
        raise ProtocolError(f"{where}: the answer is larger than {REPLY_LIMIT} bytes", status=reply.status)
    try:
        body = msgspec.json.decode(reply.content, type=_Body)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{where}: the answer is not a JSON object", status=reply.status) from None
    text = _value(body.token) or _value(body.access_token)
    if not is_token(text):
        raise ProtocolError(f"{where}: the answer has no usable token", status=reply.status)
    refresh = _value(body.refresh_token)
    return Token(text, _lifetime(_value(body.expires_in)), refresh if is_token(refresh) else "")


class _Body(msgspec.Struct, frozen=True):
    """What is looked at in an answer; each field by itself, so that garbage in one harms no other."""

    token: msgspec.Raw = msgspec.Raw()
    access_token: msgspec.Raw = msgspec.Raw()
    expires_in: msgspec.Raw = msgspec.Raw()
    refresh_token: msgspec.Raw = msgspec.Raw()


def _value(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None


def _lifetime(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return SHORTEST_LIFETIME
    return float(min(max(value, SHORTEST_LIFETIME), LIFETIME_LIMIT))


def _refusal(request: TokenRequest, status: int) -> Exception:
    url = redact_url(request.url)
    message = f"token server {url} answered {status}"
    exchange = TransportError(message, status=status, method=request.method, url=url)
    if status == 403:
        return Forbidden(message, transport=exchange)
    # OAuth2 says 400 where a grant is no good (RFC 6749, section 5.2).
    if status == 401 or (status == 400 and request.method == "POST"):
        return Unauthorized(message, transport=exchange)
    if status == 429:
        return RateLimited(message, status=status, method=request.method, url=url)
    if status >= 500 or status == 408:
        return Unavailable(message, status=status, method=request.method, url=url)
    return ProtocolError(message, status=status, method=request.method, url=url)


_MARGIN: Final = 5.0

_MAX_TOKENS: Final = 4096


class TokenKey(msgspec.Struct, frozen=True):
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
        self._tokens: dict[tuple[TokenKey, frozenset[Scope]], tuple[Token, float]] = {}

    def find(self, audience: TokenKey, scopes: Collection[Scope]) -> str | None:
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

    def keep(self, audience: TokenKey, scopes: Collection[Scope], token: Token) -> None:
        """Remember a token until shortly before its end."""
        now = self._clock()
        with self._lock:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens = {key: entry for key, entry in self._tokens.items() if now < entry[1]}
            if len(self._tokens) >= _MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[audience, frozenset(scopes)] = (token, now + token.lifetime - _MARGIN)

    def forget(self, audience: TokenKey, scopes: Collection[Scope], text: str) -> None:
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


_MAX_SCOPES: Final = 16

# Azure has a right of its own to read what is said about content.
_READING: Final = frozenset({"pull", "metadata_read"})


def merge_scopes(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """Each repository once, with all of its actions, in a steady order."""
    actions: dict[tuple[str, str], set[str]] = {}
    for one in scopes:
        actions.setdefault((one.kind, one.name), set()).update(one.actions)
    return tuple(Scope(kind, name, tuple(sorted(some))) for (kind, name), some in sorted(actions.items()))


def own_repository(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """What is asked of the repository that comes first: the operation's own, not one that it only reads beside."""
    first = next(iter(scopes), None)
    return merge_scopes(
        [one for one in scopes if first is not None and (one.kind, one.name) == (first.kind, first.name)]
    )


def repository(scopes: Collection[Scope]) -> RepositoryName | None:
    """The repository that an operation is about; ``None`` where it is about the registry."""
    for one in scopes:
        if one.kind == "repository":
            try:
                return RepositoryName(one.name)
            except InvalidName:
                return None
    return None


def challenge_scopes(text: str) -> tuple[Scope, ...]:
    """What a challenge proposes where the operation named nothing: reading only, whatever it says."""
    found = []
    for kind, name, actions in _read(text):
        if kind == "repository" and "pull" in actions:
            found.append(Scope(kind, name, ("pull",)))
        elif (kind, name, actions) == ("registry", "catalog", ("*",)):
            found.append(Scope.catalog())
    return merge_scopes(found)


def widen_scopes(wanted: Collection[Scope], text: str) -> tuple[Scope, ...]:
    """The operation's scopes, and what a challenge may add to them."""
    named = {(one.kind, one.name): one.actions for one in wanted if one.kind == "repository"}
    added = []
    for kind, name, actions in _read(text):
        mine = named.get((kind, name))
        if mine is not None:
            welcome = _READING | {"push"} if "delete" in mine else _READING
            added.append(Scope(kind, name, tuple(welcome.intersection(actions))))
    return merge_scopes([*wanted, *added])


def _read(text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind, name and actions of each word; a name may have a port in it."""
    found = []
    for word in text.split(None, _MAX_SCOPES)[:_MAX_SCOPES]:
        kind, _, rest = word.partition(":")
        name, _, actions = rest.rpartition(":")
        if name:
            found.append((kind, name, tuple(actions.split(",", _MAX_SCOPES)[:_MAX_SCOPES])))
    return found


_Key = TypeVar("_Key", bound=Hashable)

_Value = TypeVar("_Value")

_MAX_ENTRIES: Final = 4096


def put_bounded(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Remember, and forget what was remembered longest ago where there is too much: that costs a 401, no more."""
    memory.pop(key, None)
    if len(memory) >= _MAX_ENTRIES:
        del memory[next(iter(memory))]
    memory[key] = value
