"""Authorizers over real sockets: HTTP Basic, and bearer tokens with their token endpoint."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import BasicAuthorizer, TokenAuthorizer
from registry_core.domain.auth import Scope

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Reply, Serve, Wire

USERS = {"ann": "pass:word", "bob": "π"}
CONTENT = b"content"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
UPLOADS = "/v2/org/app/blobs/uploads/"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def only_ann_writes(user: str, scope: Scope) -> tuple[str, ...]:
    if scope.name == "org/secret":
        return ()
    return scope.actions if user == "ann" else ("pull",)


def challenge(reply: Reply) -> dict[str, str]:
    scheme, _, rest = str(reply.headers["WWW-Authenticate"]).partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'(\w+)="([^"]*)"', rest))


def fetch(wire: Wire, *scopes: str, headers: dict[str, str] | None = None, offline: bool = False) -> Reply:
    query = [("service", "registry"), *(("scope", scope) for scope in scopes)]
    if offline:
        query.append(("offline_token", "true"))
    return wire("GET", f"/token?{urlencode(query)}", headers=headers or {})


def form(wire: Wire, **fields: str) -> Reply:
    return wire("POST", "/token", urlencode(fields).encode(), {"Content-Type": "application/x-www-form-urlencoded"})


class TestBasic:
    @pytest.mark.parametrize(("user", "password"), USERS.items())
    def test_the_right_password_is_accepted(self, serve: Serve, user: str, password: str) -> None:
        wire = serve(authorizer=BasicAuthorizer(USERS))

        reply = wire("GET", "/v2/", headers=basic(user, password))

        assert reply.status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            basic("ann", "wrong"),
            basic("ann", ""),
            basic("nobody", ""),
            basic("", ""),
            {"Authorization": "Basic !!!"},
            {"Authorization": "Basic YW5u"},
            {"Authorization": "Bearer x"},
        ],
    )
    def test_anything_else_is_challenged(self, serve: Serve, headers: dict[str, str]) -> None:
        wire = serve(authorizer=BasicAuthorizer(USERS))

        reply = wire("GET", "/v2/", headers=headers)

        assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
        assert reply.headers["WWW-Authenticate"].startswith('Basic realm="registry"')

    def test_a_user_without_permission_is_denied(self, serve: Serve) -> None:
        wire = serve(authorizer=BasicAuthorizer(USERS, policy=only_ann_writes))

        reply = wire("POST", UPLOADS, headers=basic("bob", "π"))

        assert (reply.status, reply.code) == (403, "DENIED")

    def test_a_blob_that_may_not_be_read_is_not_mounted(self, serve: Serve) -> None:
        wire = serve(authorizer=BasicAuthorizer(USERS, policy=only_ann_writes))

        reply = wire("POST", f"{UPLOADS}?mount={DIGEST}&from=org/secret", headers=basic("ann", "pass:word"))

        assert reply.status == 202

    def test_repr_hides_passwords(self) -> None:
        assert "pass:word" not in repr(BasicAuthorizer(USERS)) + repr(TokenAuthorizer(USERS))


class TestChallenge:
    def test_it_names_realm_service_and_scope(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS, service="example"))

        reply = wire("GET", "/v2/org/app/tags/list")

        assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
        assert challenge(reply) == {
            "realm": f"http://{wire.host}/token",
            "service": "example",
            "scope": "repository:org/app:pull",
        }

    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [
            ("GET", "/v2/", None),
            ("GET", "/v2/_catalog", "registry:catalog:*"),
            ("HEAD", "/v2/org/app/manifests/v1", "repository:org/app:pull"),
            ("PUT", "/v2/org/app/manifests/v1", "repository:org/app:pull,push"),
            ("DELETE", "/v2/org/app/manifests/v1", "repository:org/app:delete"),
            ("GET", f"/v2/org/app/blobs/{DIGEST}", "repository:org/app:pull"),
            ("POST", UPLOADS, "repository:org/app:pull,push"),
            ("GET", f"{UPLOADS}x", "repository:org/app:pull,push"),
            ("DELETE", f"{UPLOADS}x", "repository:org/app:pull,push"),
            ("GET", f"/v2/org/app/referrers/{DIGEST}", "repository:org/app:pull"),
        ],
    )
    def test_the_challenge_has_the_scopes_of_the_endpoint(
        self, serve: Serve, method: str, path: str, scope: str | None
    ) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = wire(method, path)

        assert reply.status == 401
        assert challenge(reply).get("scope") == scope

    def test_the_challenge_of_a_mount_has_the_scopes_of_both_repositories(self, serve: Serve) -> None:
        authorizer = TokenAuthorizer(USERS)
        wire = serve(authorizer=authorizer)
        token = authorizer.token("ann", [Scope("repository", "org/app", ("pull", "push"))])

        reply = wire("POST", f"{UPLOADS}?mount={DIGEST}&from=org/base", headers=bearer(token))

        assert reply.status == 401
        assert challenge(reply)["scope"] == "repository:org/app:pull,push repository:org/base:pull"

    def test_a_malformed_host_header_is_not_echoed(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = wire("GET", "/v2/", headers={"Host": 'evil", x="'})

        assert "evil" not in reply.headers["WWW-Authenticate"]

    def test_the_realm_can_be_another_url(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS, realm="https://auth.example.com/token"))

        reply = wire("GET", "/v2/")

        assert challenge(reply)["realm"] == "https://auth.example.com/token"


class TestTokens:
    def test_a_token_allows_its_scopes(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))
        reply = fetch(wire, "repository:org/app:pull,push", headers=basic("ann", "pass:word"))

        done = wire("POST", f"{UPLOADS}?digest={DIGEST}", CONTENT, bearer(reply.json["token"]))

        assert done.status == 201
        assert reply.json["access_token"] == reply.json["token"]
        assert reply.json["expires_in"] == 300

    def test_a_token_allows_no_other_scopes(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))
        token = fetch(wire, "repository:org/app:pull", headers=basic("ann", "pass:word")).json["token"]

        reply = wire("GET", "/v2/org/other/tags/list", headers=bearer(token))

        assert reply.status == 401
        assert challenge(reply)["error"] == "insufficient_scope"
        assert challenge(reply)["scope"] == "repository:org/other:pull"

    def test_several_scopes_can_be_requested_in_both_ways(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        apart = fetch(wire, "repository:a:pull", "repository:b:pull", headers=basic("ann", "pass:word"))
        joined = fetch(wire, "repository:a:pull repository:b:pull", headers=basic("ann", "pass:word"))

        assert apart.json["scope"] == joined.json["scope"] == "repository:a:pull repository:b:pull"

    def test_the_policy_may_grant_less_than_was_requested(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS, policy=only_ann_writes))

        reply = fetch(wire, "repository:org/app:pull,push", headers=basic("bob", "π"))

        assert (reply.status, reply.json["scope"]) == (200, "repository:org/app:pull")

    def test_a_user_without_permission_is_denied_instead_of_challenged(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS, policy=only_ann_writes))
        token = fetch(wire, "repository:org/app:pull,push", headers=basic("bob", "π")).json["token"]

        reply = wire("POST", UPLOADS, headers=bearer(token))

        assert (reply.status, reply.code) == (403, "DENIED")

    def test_an_anonymous_token_allows_what_the_policy_allows_to_all(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS, policy=only_ann_writes))
        token = fetch(wire, "repository:org/app:pull,push").json["token"]

        read = wire("GET", f"/v2/org/app/blobs/{DIGEST}", headers=bearer(token))
        write = wire("POST", UPLOADS, headers=bearer(token))

        assert (read.status, write.status) == (404, 401)

    def test_a_wrong_password_gets_no_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = fetch(wire, "repository:org/app:pull", headers=basic("ann", "wrong"))

        assert reply.status == 401
        assert "token" not in reply.json

    def test_a_token_expires(self, serve: Serve) -> None:
        clock = Clock()
        wire = serve(authorizer=TokenAuthorizer(USERS, lifetime=60, clock=clock))
        token = fetch(wire, headers=basic("ann", "pass:word")).json["token"]
        fresh = wire("GET", "/v2/", headers=bearer(token))
        clock.now += 61

        reply = wire("GET", "/v2/", headers=bearer(token))

        assert (fresh.status, reply.status) == (200, 401)
        assert challenge(reply)["error"] == "invalid_token"

    def test_a_token_cannot_be_forged_or_changed(self, serve: Serve) -> None:
        authorizer = TokenAuthorizer(USERS)
        wire = serve(authorizer=authorizer)
        payload, _, signature = authorizer.token("bob", []).partition(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        forged = base64.urlsafe_b64encode(json.dumps(claims | {"user": "ann"}).encode()).decode().rstrip("=")
        other = TokenAuthorizer(USERS).token("bob", [])

        tokens = [f"{forged}.{signature}", payload, f"{payload}.", "x", other]
        statuses = {wire("GET", "/v2/", headers=bearer(token)).status for token in tokens}

        assert statuses == {401}

    def test_a_password_is_not_a_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = wire("GET", "/v2/", headers=basic("ann", "pass:word"))

        assert reply.status == 401


class TestGrants:
    def test_a_password_for_a_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = form(wire, grant_type="password", username="ann", password="pass:word", scope="repository:org/app:pull")

        assert reply.json["scope"] == "repository:org/app:pull"
        assert wire("GET", "/v2/", headers=bearer(reply.json["access_token"])).status == 200
        assert "refresh_token" not in reply.json

    def test_a_refresh_token_for_a_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))
        refresh = fetch(wire, headers=basic("ann", "pass:word"), offline=True).json["refresh_token"]

        reply = form(wire, grant_type="refresh_token", refresh_token=refresh, scope="repository:org/app:pull,push")

        assert reply.json["scope"] == "repository:org/app:pull,push"
        assert wire("POST", UPLOADS, headers=bearer(reply.json["access_token"])).status == 202

    def test_a_refresh_token_is_not_an_access_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))
        refresh = fetch(wire, headers=basic("ann", "pass:word"), offline=True).json["refresh_token"]

        reply = wire("GET", "/v2/", headers=bearer(refresh))

        assert reply.status == 401

    def test_an_access_token_is_not_a_refresh_token(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))
        token = fetch(wire, headers=basic("ann", "pass:word")).json["token"]

        reply = form(wire, grant_type="refresh_token", refresh_token=token)

        assert reply.status == 401

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"grant_type": "password", "username": "ann", "password": "wrong"}, 401),
            ({"grant_type": "refresh_token", "refresh_token": "x"}, 401),
            ({"grant_type": "refresh_token"}, 401),
            ({"grant_type": "magic"}, 400),
            ({}, 400),
        ],
    )
    def test_invalid_grants_are_rejected(self, serve: Serve, fields: dict[str, str], status: int) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = form(wire, **fields)

        assert reply.status == status

    def test_other_methods_are_not_allowed(self, serve: Serve) -> None:
        wire = serve(authorizer=TokenAuthorizer(USERS))

        reply = wire("PUT", "/token", b"x")

        assert (reply.status, reply.headers["Allow"]) == (405, "GET, POST")


def test_a_mount_with_both_permissions_succeeds(serve: Serve) -> None:
    catalog = MemoryCatalog()
    authorizer = TokenAuthorizer(USERS)
    serve(catalog).upload("org/base", CONTENT)
    token = authorizer.token(
        "ann", [Scope("repository", "org/app", ("pull", "push")), Scope("repository", "org/base", ("pull",))]
    )

    reply = serve(catalog, authorizer=authorizer)(
        "POST", f"{UPLOADS}?mount={DIGEST}&from=org/base", headers=bearer(token)
    )

    assert reply.status == 201
