"""Scopes, challenges, credentials, and the messages exchanged with a token server."""

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
    "NotPicklable",
    "RegistryToken",
    "Scope",
    "TokenReply",
    "TokenRequest",
]


class NotPicklable:
    """Mixin for objects that may hold secrets: they cannot be pickled, and are copied only if they define how."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} may hold secrets and cannot be pickled: create it in each process")


class Scope(msgspec.Struct, frozen=True):
    """A token scope, such as ``repository:org/app:pull,push``.

    Args:
        kind: Resource type: ``repository`` or ``registry``.
        name: Repository name, or ``catalog``.
        actions: Actions, sorted and without duplicates.
    """

    kind: str
    name: str
    actions: tuple[str, ...]

    @classmethod
    def repository(cls, name: RepositoryName, actions: Iterable[str]) -> Self:
        """Return the scope of actions on a repository: ``pull``, ``push``, ``delete``."""
        return cls("repository", str(name), tuple(sorted(set(actions))))

    @classmethod
    def catalog(cls) -> Self:
        """Return the scope for listing the repositories of a registry."""
        return cls("registry", "catalog", ("*",))

    def __str__(self) -> str:
        """Return the form used in token requests."""
        return f"{self.kind}:{self.name}:{','.join(self.actions)}"


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110, section 11.6.1).

    Args:
        scheme: Authentication scheme in lower case.
        parameters: Parameters by lower-case name; the first one counts if a name is repeated.
    """

    scheme: str
    parameters: dict[str, str]


class TokenRequest(NotPicklable, msgspec.Struct, frozen=True, kw_only=True):
    """A request to a token server, sent by the HTTP session. It may hold secrets.

    Args:
        method: HTTP method.
        url: URL of the token server.
        headers: Headers, including ``Authorization``.
        body: Request body, if any.
        scopes: Requested scopes, reported to the observer.
    """

    method: str
    url: str
    headers: dict[str, str] = {}
    body: bytes | None = None
    scopes: tuple[Scope, ...] = ()

    def __repr__(self) -> str:
        """Omit headers, body and query, which may hold secrets."""
        return f"TokenRequest({self.method} {self.url.partition('?')[0]})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more than ``repr``."""
        return [("method", self.method), ("url", self.url.partition("?")[0])]


class TokenReply(NotPicklable, msgspec.Struct, frozen=True, kw_only=True):
    """The response of a token server. It may hold secrets.

    Args:
        status: HTTP status.
        content: Body, raw: no content coding is undone.
        remark: Remark on the response for errors about its content, such as its content coding.
    """

    status: int
    content: bytes
    remark: str = ""

    def __repr__(self) -> str:
        """Omit the content, which may hold secrets."""
        return f"TokenReply({self.status})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more than ``repr``."""
        return [("status", self.status)]


class _Secret(NotPicklable, msgspec.Struct, frozen=True):
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Basic(_Secret, frozen=True):
    """A user name and a password or access token."""

    username: str
    password: str

    def __repr__(self) -> str:
        """Omit the password."""
        return f"Basic({self.username!r}, ***)"


class IdentityToken(_Secret, frozen=True):
    """An OAuth2 refresh token. It is sent to the token server only, never to the registry."""

    token: str
    username: str = ""

    def __repr__(self) -> str:
        """Omit the token."""
        return "IdentityToken(***)"


class RegistryToken(_Secret, frozen=True):
    """A bearer token that is sent to the registry unchanged."""

    token: str

    def __repr__(self) -> str:
        """Omit the token."""
        return "RegistryToken(***)"


class Anonymous(msgspec.Struct, frozen=True):
    """Explicit absence of credentials: requests are anonymous."""


Credential = Basic | IdentityToken | RegistryToken | Anonymous
