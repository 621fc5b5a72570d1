"""Who may do what: the port for guards, and one for HTTP Basic."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Protocol

from registry_adapters.wsgi.messages import Request, Response, json_response
from registry_adapters.wsgi.problems import Refusal, document
from registry_core.domain.access import Scope

__all__ = ["BasicGuard", "Guard", "Policy", "allows", "authenticated_only", "basic_credentials", "denied", "matches"]

Policy = Callable[[str, Scope], Collection[str]]
"""The actions of a scope that a user may carry out; the user is empty for a client without credentials."""


class Guard(Protocol):
    """Stands before an application. Its methods may be called from many threads at once."""

    def serve(self, request: Request) -> Response | None:
        """The answer to a request for an endpoint of the guard's own, else ``None``."""

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """``None`` to let a request pass, else what it is answered.

        Args:
            request: What was asked.
            scopes: Every right that it takes; none for the base endpoint, which takes credentials all the same.
        """


class BasicGuard:
    """Lets in whoever has a name and a password.

    Args:
        users: Passwords by name.
        policy: Which of them may do what; by default, all of them everything.
        realm: What clients show when they ask for the password.
    """

    def __init__(self, users: Mapping[str, str], *, policy: Policy | None = None, realm: str = "registry") -> None:
        self._users = dict(users)
        self._policy = policy or authenticated_only
        self._realm = realm

    def __repr__(self) -> str:
        return f"BasicGuard({len(self._users)} users)"

    def serve(self, request: Request) -> Response | None:
        """Nothing: there is no endpoint of its own."""
        return None

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """401 without the right password, 403 without the right."""
        given = basic_credentials(request)
        if given is None or not matches(self._users, *given):
            return json_response(
                document(Refusal(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required")),
                HTTPStatus.UNAUTHORIZED,
                [("WWW-Authenticate", f'Basic realm="{self._realm}", charset="UTF-8"')],
            )
        return None if allows(self._policy, given[0], scopes) else denied()


def authenticated_only(user: str, scope: Scope) -> Collection[str]:
    """The policy that gives everything to everyone with a name, and nothing to anyone without."""
    return scope.actions if user else ()


def allows(policy: Policy, user: str, scopes: Iterable[Scope]) -> bool:
    """Whether a policy gives a user every action of every scope."""
    return all(set(scope.actions) <= set(policy(user, scope)) for scope in scopes)


def denied() -> Response:
    """The answer to a client that is known, but may not do that."""
    problem = Refusal(HTTPStatus.FORBIDDEN, "DENIED", "access to the resource is denied")
    return json_response(document(problem), HTTPStatus.FORBIDDEN)


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """Name and password of a request (RFC 7617), or ``None`` where it has none that can be read."""
    scheme, _, encoded = request.header("Authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


def matches(users: Mapping[str, str], name: str, password: str) -> bool:
    """Whether it is that user's password; the time taken tells nothing about how near it was."""
    known = users.get(name)
    equal = hmac.compare_digest((known or "").encode("utf-8"), password.encode("utf-8"))
    return equal and known is not None
