"""Who may do what: the port for guards, and one for HTTP Basic.

A guard for bearer tokens, with a token server of its own at ``/token``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from registry_adapters.wsgi.messages import HttpError, Request, Response, document, json_response
from registry_core.domain import strict_json
from registry_core.domain.auth import Scope

__all__ = [
    "Authorizer",
    "BasicAuthorizer",
    "Policy",
    "TokenAuthorizer",
    "allows",
    "authenticated_only",
    "basic_credentials",
    "denied",
    "matches",
]


Policy = Callable[[str, Scope], Collection[str]]

"""The actions of a scope that a user may carry out; the user is empty for a client without credentials."""


class Authorizer(Protocol):
    """Stands before an application. Its methods may be called from many threads at once."""

    def serve(self, request: Request) -> Response | None:
        """The answer to a request for an endpoint of the guard's own, else ``None``."""

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """``None`` to let a request pass, else what it is answered.

        Args:
            request: What was asked.
            scopes: Every right that it takes; none for the base endpoint, which takes credentials all the same.
        """


class BasicAuthorizer:
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
        return f"BasicAuthorizer({len(self._users)} users)"

    def serve(self, request: Request) -> Response | None:
        """Nothing: there is no endpoint of its own."""
        return None

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """401 without the right password, 403 without the right."""
        given = basic_credentials(request)
        if given is None or not matches(self._users, *given):
            return json_response(
                document(HttpError(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required")),
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
    problem = HttpError(HTTPStatus.FORBIDDEN, "DENIED", "access to the resource is denied")
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


_SCOPE: Final = re.compile(r"(?P<kind>[a-z0-9]+(?:\([a-z0-9]+\))?):(?P<name>.+):(?P<actions>[a-z*,]+)")

_HOST: Final = re.compile(r"[A-Za-z0-9.\-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")

_FORM_LIMIT: Final = 64 << 10


class TokenAuthorizer:
    """Asks for bearer tokens and issues them (distribution's token authentication, and its OAuth2 variant).

    A GET of the token endpoint takes HTTP Basic or nothing; a POST takes the grants ``password`` and ``refresh_token``.
    Tokens are opaque to clients: what they allow, until when, and a signature that only this guard can make.

    Args:
        users: Passwords by name.
        policy: Which of them may do what; by default, all of them everything, and anonymous clients nothing.
        service: What the registry is called.
        realm: The URL of the token endpoint; by default, ``/token`` on the host that a request was sent to.
        lifetime: Seconds for which a token is good.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        policy: Policy | None = None,
        service: str = "registry",
        realm: str = "",
        lifetime: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = dict(users)
        self._policy = policy or authenticated_only
        self._service = service
        self._realm = realm
        self._lifetime = lifetime
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"TokenAuthorizer({len(self._users)} users)"

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """401 with a challenge without a token that fits; 403 where no token of that user ever could."""
        scheme, _, token = request.header("Authorization").partition(" ")
        claims = self._claims(token.strip(), "access") if scheme.lower() == "bearer" else None
        if claims is None:
            return self._challenge(request, scopes, "invalid_token" if token else "")
        granted = {(kind, name): set(actions) for kind, name, actions in claims["access"]}
        if all(set(scope.actions) <= granted.get((scope.kind, scope.name), set()) for scope in scopes):
            return None
        if claims["user"] and not allows(self._policy, claims["user"], scopes):
            return denied()
        return self._challenge(request, scopes, "insufficient_scope")

    def serve(self, request: Request) -> Response | None:
        """The token endpoint."""
        if request.path != "/token":
            return None
        if request.method == "GET":
            return self._simple(request)
        if request.method == "POST":
            return self._oauth(request)
        return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", "GET or POST", [("Allow", "GET, POST")])

    def token(self, user: str, scopes: Iterable[Scope]) -> str:
        """A token for what the policy gives the user of some scopes.

        Args:
            user: Empty for an anonymous client.
            scopes: What it asks for.
        """
        access = [[scope.kind, scope.name, list(scope.actions)] for scope in self._granted(user, scopes)]
        return self._signed({"use": "access", "user": user, "access": access, "until": self._clock() + self._lifetime})

    def _simple(self, request: Request) -> Response:
        user = ""
        if request.header("Authorization"):
            given = basic_credentials(request)
            if given is None or not matches(self._users, *given):
                return _unauthorized()
            user = given[0]
        offline = request.parameter("offline_token") == "true"
        return self._issue(user, request.parameters("scope"), refreshable=offline)

    def _oauth(self, request: Request) -> Response:
        try:
            form = dict(parse_qsl(request.body.read_all(_FORM_LIMIT).decode("utf-8"), keep_blank_values=True))
        except UnicodeDecodeError:
            return _problem(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "not a form")
        scopes = [form["scope"]] if "scope" in form else []
        if form.get("grant_type") == "password":
            user = form.get("username", "")
            if not matches(self._users, user, form.get("password", "")):
                return _unauthorized()
            return self._issue(user, scopes, refreshable=form.get("access_type") == "offline")
        if form.get("grant_type") == "refresh_token":
            claims = self._claims(form.get("refresh_token", ""), "refresh")
            if claims is None or claims["user"] not in self._users:
                return _unauthorized()
            return self._issue(claims["user"], scopes, refreshable=True)
        return _problem(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "no such grant type")

    def _issue(self, user: str, texts: Iterable[str], *, refreshable: bool) -> Response:
        scopes = _scopes(texts)
        token = self.token(user, scopes)
        reply: dict[str, Any] = {
            "token": token,
            "access_token": token,
            "expires_in": int(self._lifetime),
            "issued_at": datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(str(scope) for scope in self._granted(user, scopes)),
        }
        if refreshable and user:
            reply["refresh_token"] = self._signed({"use": "refresh", "user": user})
        return json_response(reply, headers=[("Cache-Control", "no-store")])

    def _granted(self, user: str, scopes: Iterable[Scope]) -> list[Scope]:
        granted = []
        for scope in scopes:
            allowed = set(self._policy(user, scope))
            actions = tuple(action for action in scope.actions if action in allowed)
            if actions:
                granted.append(Scope(scope.kind, scope.name, actions))
        return granted

    def _challenge(self, request: Request, scopes: Collection[Scope], error: str) -> Response:
        parts = [f'realm="{self._realm or _endpoint(request)}"', f'service="{self._service}"']
        if scopes:
            parts.append(f'scope="{" ".join(str(scope) for scope in scopes)}"')
        if error:
            parts.append(f'error="{error}"')
        return _unauthorized([("WWW-Authenticate", f"Bearer {','.join(parts)}")])

    def _signed(self, claims: dict[str, Any]) -> str:
        content = strict_json.encode(claims | {"nonce": secrets.token_hex(8)})
        payload = base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")
        return f"{payload}.{self._signature(payload)}"

    def _claims(self, token: str, use: str) -> dict[str, Any] | None:
        payload, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode("utf-8"), self._signature(payload).encode("ascii")):
            return None
        try:
            claims = strict_json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (binascii.Error, ValueError):
            return None
        if claims["use"] != use or claims.get("until", float("inf")) <= self._clock():
            return None
        return claims

    def _signature(self, payload: str) -> str:
        return hmac.new(self._key, payload.encode("utf-8"), hashlib.sha256).hexdigest()


def _scopes(texts: Iterable[str]) -> list[Scope]:
    merged: dict[tuple[str, str], set[str]] = {}
    for text in (part for each in texts for part in each.split()):
        match = _SCOPE.fullmatch(text)
        if match is not None:
            actions = {action for action in match["actions"].split(",") if action}
            merged.setdefault((match["kind"], match["name"]), set()).update(actions)
    return [Scope(kind, name, tuple(sorted(actions))) for (kind, name), actions in merged.items()]


def _endpoint(request: Request) -> str:
    host = request.header("Host")
    if not _HOST.fullmatch(host):
        host = f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"
    return f"{request.environ['wsgi.url_scheme']}://{host}{request.prefix}/token"


def _unauthorized(headers: list[tuple[str, str]] | None = None) -> Response:
    return _problem(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required", headers)


def _problem(status: HTTPStatus, code: str, message: str, headers: list[tuple[str, str]] | None = None) -> Response:
    return json_response(document(HttpError(status, code, message)), status, headers)
