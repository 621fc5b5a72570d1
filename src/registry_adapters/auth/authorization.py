"""Values of the ``Authorization`` header: Basic (RFC 7617) and Bearer, and an authenticator for a ready-made token."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Generator, Sequence
from typing import Final, TypeGuard

from registry_core.domain.auth import (
    Basic,
    Challenge,
    NotPicklable,
    RegistryToken,
    Scope,
    TokenReply,
    TokenRequest,
)
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError
from registry_core.ports.authenticator import Authenticator, HoldsCredentials

__all__ = ["StaticTokenAuthenticator", "basic_value", "bearer_value", "is_token"]


def basic_value(credential: Basic) -> str:
    """Return the ``Authorization`` value for a user name and a password, encoded as UTF-8.

    Raises:
        ConfigError: The user name contains a colon, or one of the two cannot be encoded.
    """
    if ":" in credential.username:
        raise ConfigError("Basic authentication: the user name contains a colon")
    try:
        pair = f"{credential.username}:{credential.password}".encode()
    except UnicodeEncodeError:
        raise ConfigError("Basic authentication: the user name or password cannot be encoded as UTF-8") from None
    return f"Basic {b64encode(pair).decode('ascii')}"


_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


def is_token(text: object) -> TypeGuard[str]:
    """Return whether a value can be sent as a bearer token: printable ASCII without spaces, not empty."""
    return isinstance(text, str) and _PRINTABLE.fullmatch(text) is not None


def bearer_value(token: str) -> str:
    """Return the ``Authorization`` value for a bearer token.

    Raises:
        ConfigError: The token is empty or has other characters than printable ASCII, which could inject headers.
    """
    if not is_token(token):
        raise ConfigError("Bearer authentication: the token is empty or has other characters than printable ASCII")
    return f"Bearer {token}"


class StaticTokenAuthenticator(NotPicklable, Authenticator, HoldsCredentials):
    """Sends a token that the caller has already, with each request; never requests another one.

    Args:
        credential: Token to send.
        registry: Registry to send it to; ``None`` for every registry.

    Raises:
        ConfigError: The token has other characters than printable ASCII.
    """

    def __init__(self, credential: RegistryToken, *, registry: Origin | None = None) -> None:
        self._value = bearer_value(credential.token)
        self._registry = registry

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """Return the token for its registry."""
        return self._value if self._registry in (None, registry) else None

    def has_credential(self, registry: Origin, scopes: Collection[Scope]) -> bool:
        """Return whether the token is for the registry."""
        return self.cached_authorization(registry, scopes) is not None

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Return the token again, unless the registry has rejected it."""
        value = self.cached_authorization(registry, scopes)
        offers_bearer = any(challenge.scheme == "bearer" for challenge in challenges)
        return value if offers_bearer and value != rejected else None
        yield  # makes this a generator, as the port requires; there is no token request to yield
