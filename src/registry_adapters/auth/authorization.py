"""User names and passwords on the wire (RFC 7617).

Bearer tokens: asking for one with GET, and carrying one (distribution, "Token Authentication Specification").
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Generator, Sequence
from typing import Final, NoReturn, TypeGuard
from urllib.parse import quote, urlencode

from registry_core.domain.auth import Basic, Challenge, RegistryToken, Scope, TokenReply, TokenRequest
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError
from registry_core.ports.authenticator import Authenticator

__all__ = ["StaticTokenAuthenticator", "basic_value", "bearer_value", "is_token", "token_query"]


def basic_value(credential: Basic) -> str:
    """The ``Authorization`` value for a user name and a password, as UTF-8.

    Raises:
        ConfigError: The user name has a colon, which the scheme cannot carry, or a part is not text.
    """
    if ":" in credential.username:
        raise ConfigError("a user name for Basic authentication cannot have a colon")
    try:
        pair = f"{credential.username}:{credential.password}".encode()
    except UnicodeEncodeError:
        raise ConfigError("user name or password is not valid text") from None
    return f"Basic {b64encode(pair).decode('ascii')}"


_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


def is_token(text: object) -> TypeGuard[str]:
    """Whether this can be sent in a header: printable ASCII without spaces, and not empty."""
    return isinstance(text, str) and _PRINTABLE.fullmatch(text) is not None


def bearer_value(token: str) -> str:
    """The ``Authorization`` value for a token.

    Raises:
        ConfigError: It is empty or has anything but printable ASCII: it could break out of its header.
    """
    if not is_token(token):
        raise ConfigError("a bearer token is printable ASCII without spaces")
    return f"Bearer {token}"


def token_query(realm: str, service: str, scopes: Sequence[Scope], credential: Basic | None) -> TokenRequest:
    """The GET that asks a token server for a token: with a password, or anonymously.

    Args:
        realm: The token server's URL, judged by ``check_realm``; a query in it is kept.
        service: As the challenge named it; empty for none.
        scopes: What the token has to allow; one ``scope`` for each.
        credential: Who asks.

    Raises:
        ConfigError: The credential cannot be written down.
    """
    fields = [("service", service)] if service else []
    fields += [("scope", str(scope)) for scope in scopes]
    base = realm.partition("#")[0]
    query = urlencode(fields, quote_via=quote, safe=":/,*")
    joint = "" if not query or base.endswith(("?", "&")) else "&" if "?" in base else "?"
    headers = {"Accept": "application/json"}
    if credential is not None:
        headers["Authorization"] = basic_value(credential)
    return TokenRequest(method="GET", url=f"{base}{joint}{query}", headers=headers, scopes=tuple(scopes))


class StaticTokenAuthenticator(Authenticator):
    """Sends a token that the caller brought along, from the first request on, and never asks for another.

    Args:
        credential: The token.
        registry: The one that it goes to; any, where there is none.

    Raises:
        ConfigError: The token has anything but printable ASCII.
    """

    def __init__(self, credential: RegistryToken, *, registry: Origin | None = None) -> None:
        self._value = bearer_value(credential.token)
        self._registry = registry

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """The token, for its registry."""
        return self._value if self._registry in (None, registry) else None

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """The token once more, unless that is what was refused."""
        value = self.cached_authorization(registry, scopes)
        wanted = any(challenge.scheme == "bearer" for challenge in challenges)
        return value if wanted and value != rejected else None
        yield  # a generator by contract, though this one has nothing to ask

    def __reduce__(self) -> NoReturn:
        raise TypeError("GivenToken holds a secret and is not pickled; let each process read its own")
