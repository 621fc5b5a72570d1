"""Authorization of requests: the ``Authorizer`` protocol, HTTP Basic, and bearer tokens with a token endpoint."""

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

from registry_adapters.wsgi.messages import HttpError, Request, Response, error_response, json_response
from registry_core.domain import strict_json
from registry_core.domain.auth import Scope

__all__ = ["Authorizer", "BasicAuthorizer", "Policy", "TokenAuthorizer", "authenticated_only"]

Policy = Callable[[str, Scope], Collection[str]]
"""Which actions of a scope a user may carry out; the user name of an anonymous client is empty."""

_SCOPE: Final = re.compile(r"(?P<kind>[a-z0-9]+(?:\([a-z0-9]+\))?):(?P<name>.+):(?P<actions>[a-z*,]+)")
_HOST: Final = re.compile(r"[A-Za-z0-9.\-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_FORM_LIMIT: Final = 64 << 10


class Authorizer(Protocol):
    """Decides about each request before the application handles it. Safe for many threads."""

    def serve(self, request: Request) -> Response | None:
        """Handle a request to an endpoint of the authorizer, such as a token endpoint; ``None`` for other paths."""

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """Allow a request by ``None``, or return the error response.

        Args:
            request: Request to check.
            scopes: Scopes that the request needs; empty for ``/v2/``, which needs valid credentials all the same.
        """


def authenticated_only(user: str, scope: Scope) -> Collection[str]:
    """The default policy: users may do everything, anonymous clients nothing."""
    return scope.actions if user else ()


class BasicAuthorizer:
    """Require HTTP Basic credentials.

    Args:
        users: Passwords by user name.
        policy: Actions that each user may carry out; ``authenticated_only`` by default.
        realm: Realm of the challenge, which clients show when they ask for a password.
    """

    def __init__(self, users: Mapping[str, str], *, policy: Policy | None = None, realm: str = "registry") -> None:
        self._users = dict(users)
        self._policy = policy or authenticated_only
        self._realm = realm

    def __repr__(self) -> str:
        return f"BasicAuthorizer({len(self._users)} users)"

    def serve(self, request: Request) -> Response | None:
        """Return ``None``: there is no further endpoint."""
        return None

    def check(self, request: Request, scopes: Collection[Scope]) -> Response | None:
        """Return a 401 for wrong or missing credentials, and a 403 for an action that the policy does not allow."""
        user = _basic_user(request, self._users)
        if user is None:
            return _unauthorized(f'Basic realm="{self._realm}", charset="UTF-8"')
        return None if _allows(self._policy, user, scopes) else _denied()


class TokenAuthorizer:
    """Require bearer tokens, and issue them at ``/token`` (token authentication of distribution/distribution).

    GET takes HTTP Basic credentials or none. POST is the OAuth2 variant, with the grants ``password`` and
    ``refresh_token``. Tokens are opaque to clients: the allowed actions, the time of expiry, and an HMAC.

    Args:
        users: Passwords by user name.
        policy: Actions that each user may carry out; ``authenticated_only`` by default.
        service: Name of the registry in challenges.
        realm: URL of the token endpoint; by default, ``/token`` on the host that the request was sent to.
        lifetime: Validity of a token in seconds.
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
        """Return a 401 with a challenge without a sufficient token, and a 403 if the policy denies the action."""
        scheme, _, token = request.header("Authorization").partition(" ")
        claims = self._verified_claims(token.strip(), "access") if scheme.lower() == "bearer" else None
        if claims is None:
            return self._challenge(request, scopes, "invalid_token" if token else "")
        granted = {(kind, name): set(actions) for kind, name, actions in claims["access"]}
        if all(set(scope.actions) <= granted.get((scope.kind, scope.name), set()) for scope in scopes):
            return None
        if claims["user"] and not _allows(self._policy, claims["user"], scopes):
            return _denied()
        return self._challenge(request, scopes, "insufficient_scope")

    def serve(self, request: Request) -> Response | None:
        """Handle requests to the token endpoint."""
        if request.path != "/token":
            return None
        if request.method == "GET":
            return self._token_by_basic(request)
        if request.method == "POST":
            return self._token_by_grant(request)
        raise HttpError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "the token endpoint supports only GET and POST",
            headers=(("Allow", "GET, POST"),),
        )

    def token(self, user: str, scopes: Iterable[Scope]) -> str:
        """Issue a token with the actions of the scopes that the policy allows.

        Args:
            user: User name; empty for an anonymous client.
            scopes: Requested scopes.
        """
        access = [[scope.kind, scope.name, list(scope.actions)] for scope in self._granted(user, scopes)]
        expires = self._clock() + self._lifetime
        return self._sign({"use": "access", "user": user, "access": access, "expires": expires})

    def _token_by_basic(self, request: Request) -> Response:
        user = _basic_user(request, self._users) if request.header("Authorization") else ""
        if user is None:
            return _unauthorized()
        offline = request.parameter("offline_token") == "true"
        return self._issue(user, request.parameters("scope"), refreshable=offline)

    def _token_by_grant(self, request: Request) -> Response:
        try:
            form = dict(parse_qsl(request.body.read_all(_FORM_LIMIT).decode("utf-8"), keep_blank_values=True))
        except UnicodeDecodeError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "the form is not UTF-8") from None
        scopes = [form["scope"]] if "scope" in form else []
        if form.get("grant_type") == "password":
            user = form.get("username", "")
            if not _password_matches(self._users, user, form.get("password", "")):
                return _unauthorized()
            return self._issue(user, scopes, refreshable=form.get("access_type") == "offline")
        if form.get("grant_type") == "refresh_token":
            claims = self._verified_claims(form.get("refresh_token", ""), "refresh")
            if claims is None or claims["user"] not in self._users:
                return _unauthorized()
            return self._issue(claims["user"], scopes, refreshable=True)
        raise HttpError(HTTPStatus.BAD_REQUEST, "UNSUPPORTED", "grant_type is neither password nor refresh_token")

    def _issue(self, user: str, scope_texts: Iterable[str], *, refreshable: bool) -> Response:
        scopes = _parse_scopes(scope_texts)
        token = self.token(user, scopes)
        reply: dict[str, Any] = {
            "token": token,
            "access_token": token,
            "expires_in": int(self._lifetime),
            "issued_at": datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(str(scope) for scope in self._granted(user, scopes)),
        }
        if refreshable and user:
            reply["refresh_token"] = self._sign({"use": "refresh", "user": user})
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
        parts = [f'realm="{self._realm or _token_endpoint(request)}"', f'service="{self._service}"']
        if scopes:
            parts.append(f'scope="{" ".join(str(scope) for scope in scopes)}"')
        if error:
            parts.append(f'error="{error}"')
        return _unauthorized(f"Bearer {','.join(parts)}")

    def _sign(self, claims: dict[str, Any]) -> str:
        content = strict_json.encode(claims | {"nonce": secrets.token_hex(8)})
        payload = base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")
        return f"{payload}.{self._signature(payload)}"

    def _verified_claims(self, token: str, use: str) -> dict[str, Any] | None:
        payload, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode("utf-8"), self._signature(payload).encode("ascii")):
            return None
        try:
            claims = strict_json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (binascii.Error, ValueError):
            return None
        if claims["use"] != use or claims.get("expires", float("inf")) <= self._clock():
            return None
        return claims

    def _signature(self, payload: str) -> str:
        return hmac.new(self._key, payload.encode("utf-8"), hashlib.sha256).hexdigest()


def _allows(policy: Policy, user: str, scopes: Iterable[Scope]) -> bool:
    return all(set(scope.actions) <= set(policy(user, scope)) for scope in scopes)


def _basic_user(request: Request, users: Mapping[str, str]) -> str | None:
    """The user name of valid HTTP Basic credentials (RFC 7617), else ``None``."""
    scheme, _, encoded = request.header("Authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return name if colon and _password_matches(users, name, password) else None


def _password_matches(users: Mapping[str, str], name: str, password: str) -> bool:
    """Compare a password with the user's in constant time."""
    expected = users.get(name)
    equal = hmac.compare_digest((expected or "").encode("utf-8"), password.encode("utf-8"))
    return equal and expected is not None


def _parse_scopes(texts: Iterable[str]) -> list[Scope]:
    merged: dict[tuple[str, str], set[str]] = {}
    for text in (part for each in texts for part in each.split()):
        match = _SCOPE.fullmatch(text)
        if match is not None:
            actions = {action for action in match["actions"].split(",") if action}
            merged.setdefault((match["kind"], match["name"]), set()).update(actions)
    return [Scope(kind, name, tuple(sorted(actions))) for (kind, name), actions in merged.items()]


def _token_endpoint(request: Request) -> str:
    host = request.header("Host")
    if not _HOST.fullmatch(host):
        host = f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"
    return f"{request.environ['wsgi.url_scheme']}://{host}{request.prefix}/token"


def _unauthorized(challenge: str = "") -> Response:
    headers = (("WWW-Authenticate", challenge),) if challenge else ()
    return error_response(
        HttpError(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "authentication required", headers=headers)
    )


def _denied() -> Response:
    return error_response(HttpError(HTTPStatus.FORBIDDEN, "DENIED", "requested access to the resource is denied"))
