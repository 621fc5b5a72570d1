"""Trading credentials for tokens: the ways, and identity tokens that change."""

from __future__ import annotations

import json
import pickle
import threading
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

import pytest

from registry_adapters.auth.token_requests import TokenExchanger
from registry_adapters.auth.tokens import Token, TokenKey
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import Forbidden, ProtocolError, Unauthorized
from registry_core.testing.authenticators import concluded

PULL = Scope.repository(RepositoryName("org/app"), ["pull"])
USER = Basic("user", "hunter2")
IDENTITY = IdentityToken("first")


def audience(identity: Credential) -> TokenKey:
    return TokenKey(Origin.of("registry.example.com"), "https://auth.example.com/token", "registry", identity)


def drive(
    grants: TokenExchanger, server: Callable[[TokenRequest], TokenReply], identity: Credential, scope: Scope = PULL
) -> Token:
    return concluded(grants.fetch(audience(identity), [scope]), server)


class Rotating:
    """Takes each identity token once, and gives the next one out with each answer."""

    def __init__(self) -> None:
        self.current = "first"
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, request: TokenRequest) -> TokenReply:
        with self.lock:
            shown = parse_qs((request.body or b"").decode())["refresh_token"][0]
            self.seen.append(shown)
            if shown != self.current:
                return TokenReply(status=400, content=b'{"error": "invalid_grant"}')
            self.current = f"next-{len(self.seen)}"
            body = {"access_token": f"token-{len(self.seen)}", "refresh_token": self.current}
            return TokenReply(status=200, content=json.dumps(body).encode())


def said(*statuses: int, refresh: object = None) -> tuple[list[TokenRequest], Callable[[TokenRequest], TokenReply]]:
    asked: list[TokenRequest] = []
    left = list(statuses)

    def server(request: TokenRequest) -> TokenReply:
        asked.append(request)
        body = {"token": f"token-{len(asked)}", "refresh_token": refresh}
        return TokenReply(status=left.pop(0) if left else 200, content=json.dumps(body).encode())

    return asked, server


class TestRotation:
    def test_an_identity_token_that_is_replaced_is_not_shown_again(self) -> None:
        server = Rotating()
        grants = TokenExchanger()

        found = [drive(grants, server, IDENTITY).text for _ in range(3)]

        assert server.seen == ["first", "next-1", "next-2"]
        assert found == ["token-1", "token-2", "token-3"]

    def test_no_two_threads_show_the_same_identity_token(self) -> None:
        server = Rotating()
        grants = TokenExchanger()
        other = Scope.repository(RepositoryName("org/other"), ["pull"])
        first = grants.fetch(audience(IDENTITY), [PULL])
        request = next(first)

        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(drive, grants, server, IDENTITY, other)
            while not grants._turns._changed._waiters:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            with pytest.raises(StopIteration):
                first.send(server(request))
            second.result(30)

        assert server.seen == ["first", "next-1"]

    def test_where_the_new_one_is_refused_the_given_one_is_tried_again(self) -> None:
        server = Rotating()
        grants = TokenExchanger()
        drive(grants, server, IDENTITY)
        server.current = "first"

        found = drive(grants, server, IDENTITY)

        assert server.seen == ["first", "next-1", "first"]
        assert found.text == "token-3"

    def test_where_both_are_refused_it_ends(self) -> None:
        """R-038."""
        server = Rotating()
        grants = TokenExchanger()
        drive(grants, server, IDENTITY)
        server.current = "another"

        with pytest.raises(Unauthorized):
            drive(grants, server, IDENTITY)

        assert server.seen == ["first", "next-1", "first"]

    def test_a_new_identity_token_of_the_keychains_counts_at_once(self) -> None:
        server = Rotating()
        grants = TokenExchanger()
        drive(grants, server, IDENTITY)
        server.current = "fresh login"

        drive(grants, server, IdentityToken("fresh login"))

        assert server.seen == ["first", "fresh login"]

    @pytest.mark.parametrize("refresh", [None, "", 5, ["x"], "a b", "a\r\nb", "ä"])
    def test_what_is_no_token_replaces_nothing(self, refresh: object) -> None:
        """R-039."""
        asked, server = said(refresh=refresh)
        grants = TokenExchanger()

        drive(grants, server, IDENTITY)
        drive(grants, server, IDENTITY)

        assert [b"refresh_token=first" in (one.body or b"") for one in asked] == [True, True]

    @pytest.mark.parametrize("identity", [USER, Anonymous()])
    def test_a_password_is_not_replaced(self, identity: Basic | Anonymous) -> None:
        asked, server = said(refresh="given-unasked")
        grants = TokenExchanger()

        drive(grants, server, identity)
        drive(grants, server, identity)

        assert [one.method for one in asked] == ["GET", "GET"]


class TestWays:
    @pytest.mark.parametrize("status", [404, 405])
    def test_an_identity_token_is_shown_as_a_password_where_post_is_not_served(self, status: int) -> None:
        asked, server = said(status)

        found = drive(TokenExchanger(), server, IDENTITY)

        assert found.text == "token-2"
        assert [one.method for one in asked] == ["POST", "GET"]
        assert b64decode(asked[1].headers["Authorization"].removeprefix("Basic ")) == b"<token>:first"
        assert "first" not in asked[1].url

    def test_it_is_shown_under_its_own_name_where_it_has_one(self) -> None:
        asked, server = said(404)

        drive(TokenExchanger(), server, IdentityToken("first", "00000000-0000-0000-0000-000000000000"))

        shown = b64decode(asked[1].headers["Authorization"].removeprefix("Basic "))
        assert shown == b"00000000-0000-0000-0000-000000000000:first"

    def test_a_password_is_posted_where_get_is_not_served(self) -> None:
        asked, server = said(405)

        drive(TokenExchanger(), server, USER)

        assert [one.method for one in asked] == ["GET", "POST"]
        assert b"grant_type=password&username=user&password=hunter2" in (asked[1].body or b"")

    @pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (400, Unauthorized), (403, Forbidden)])
    def test_a_refused_identity_token_is_not_shown_in_another_way(self, status: int, kind: type[Exception]) -> None:
        asked, server = said(status)

        with pytest.raises(kind):
            drive(TokenExchanger(), server, IDENTITY)

        assert len(asked) == 1

    def test_without_credentials_there_is_one_way(self) -> None:
        asked, server = said(404)

        with pytest.raises(ProtocolError):
            drive(TokenExchanger(), server, Anonymous())

        assert len(asked) == 1

    @pytest.mark.parametrize("identity", [USER, IDENTITY, Anonymous()])
    def test_each_request_says_what_it_is_for(self, identity: Credential) -> None:
        asked, server = said()

        drive(TokenExchanger(), server, identity)

        assert asked[0].scopes == (PULL,)


def test_it_shows_nothing_and_is_not_pickled() -> None:
    """R-043."""
    asked, server = said(refresh="s3cret")
    grants = TokenExchanger()
    drive(grants, server, IDENTITY)

    assert "s3cret" not in repr(grants)
    with pytest.raises(TypeError):
        pickle.dumps(grants)
    for secret in (asked[0], TokenReply(status=200, content=b"s3cret")):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
