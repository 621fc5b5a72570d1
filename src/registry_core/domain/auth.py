"""Access: scopes, challenges, credentials, and what is asked of a token server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, Self

import msgspec

from registry_core.domain.names import RepositoryName

__all__ = [
    "Anonymous",
    "Basic",
    "Challenge",
    "Credential",
    "IdentityToken",
    "RegistryToken",
    "Scope",
    "TokenReply",
    "TokenRequest",
]


class Scope(msgspec.Struct, frozen=True):
    """What a token is asked for, as ``repository:org/app:pull,push``.

    Args:
        kind: ``repository`` or ``registry``.
        name: Of the repository, or ``catalog``.
        actions: Sorted, each once.
    """

    kind: str
    name: str
    actions: tuple[str, ...]

    @classmethod
    def repository(cls, name: RepositoryName, actions: Iterable[str]) -> Self:
        """Some actions on a repository: ``pull``, ``push``, ``delete``."""
        return cls("repository", str(name), tuple(sorted(set(actions))))

    @classmethod
    def catalog(cls) -> Self:
        """The right to list a registry's repositories."""
        return cls("registry", "catalog", ("*",))

    def __str__(self) -> str:
        """As it is written in a token request."""
        return f"{self.kind}:{self.name}:{','.join(self.actions)}"


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110, section 11.6.1).

    Args:
        scheme: In lower case.
        parameters: By names in lower case; the first of a name counts.
    """

    scheme: str
    parameters: dict[str, str]


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange with a token server, to be carried out by the HTTP session. It may hold secrets.

    Args:
        method: The HTTP method.
        url: Where to.
        headers: What to send with it, authorisation included.
        body: What to send, if anything.
        scopes: What the token is to allow, for those who watch.
    """

    method: str
    url: str
    headers: dict[str, str] = {}
    body: bytes | None = None
    scopes: tuple[Scope, ...] = ()

    def __repr__(self) -> str:
        """Without headers, body and query."""
        return f"TokenRequest({self.method} {self.url.partition('?')[0]})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As little as ``repr``."""
        return [("method", self.method), ("url", self.url.partition("?")[0])]

    def __reduce__(self) -> NoReturn:
        raise TypeError("TokenRequest may hold a secret and is not pickled")


class TokenReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a token server answered. It may hold secrets."""

    status: int
    content: bytes

    def __repr__(self) -> str:
        """Without the content."""
        return f"TokenReply({self.status})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As little as ``repr``."""
        return [("status", self.status)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("TokenReply may hold a secret and is not pickled")


class _Secret(msgspec.Struct, frozen=True):
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is not pickled; let each process read its own")


class Basic(_Secret, frozen=True):
    """A user name and a password, or what serves as one."""

    username: str
    password: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"Basic({self.username!r}, ***)"


class IdentityToken(_Secret, frozen=True):
    """An OAuth2 refresh token: exchanged at the token server, never sent to the registry."""

    token: str
    username: str = ""

    def __repr__(self) -> str:
        """Without the token."""
        return "IdentityToken(***)"


class RegistryToken(_Secret, frozen=True):
    """A bearer token that is sent to the registry as it is."""

    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return "RegistryToken(***)"


class Anonymous(msgspec.Struct, frozen=True):
    """No credentials."""


Credential = Basic | IdentityToken | RegistryToken | Anonymous
