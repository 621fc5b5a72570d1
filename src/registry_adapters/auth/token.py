"""What a token server answers: a token and how long it lives, or a refusal (R-039)."""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from registry_adapters.auth.bearer import is_token
from registry_core.domain.access import TokenReply, TokenRequest
from registry_core.domain.origin import redacted
from registry_core.errors import (
    Forbidden,
    ProtocolError,
    RateLimited,
    TransportError,
    Unauthorized,
    Unavailable,
)

__all__ = ["LIFETIME_LIMIT", "REPLY_LIMIT", "SHORTEST_LIFETIME", "Token", "token"]

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
    where = f"token server {redacted(request.url)}"
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
    url = redacted(request.url)
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
