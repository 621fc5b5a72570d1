"""Requests to token servers, and the exchange of credentials for tokens."""

from __future__ import annotations

import json
import pickle
import threading
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from registry_adapters.auth.authorization import basic_value
from registry_adapters.auth.token_requests import TokenExchanger, token_form, token_query
from registry_adapters.auth.tokens import Token, TokenKey
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError, Forbidden, ProtocolError, Unauthorized
from registry_core.testing.authenticators import answer_token_requests

REALM = "https://auth.example.com/token"
PULL = Scope.repository(RepositoryName("org/app"), ["pull"])
PUSH = Scope.repository(RepositoryName("org/lib"), ["push", "pull"])
USER = Basic("user", "hunter2")
IDENTITY = IdentityToken("first")


def key_of(credential: Credential) -> TokenKey:
    return TokenKey(Origin.of("registry.example.com"), "https://auth.example.com/token", "registry", credential)


def fetch(
    exchanger: TokenExchanger, server: Callable[[TokenRequest], TokenReply], credential: Credential, scope: Scope = PULL
) -> Token:
    return answer_token_requests(exchanger.fetch(key_of(credential), [scope]), server)


class Rotating:
    """A token server that accepts each identity token once and replaces it in its reply."""

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


def token_server(
    *statuses: int, refresh: object = None
) -> tuple[list[TokenRequest], Callable[[TokenRequest], TokenReply]]:
    requests: list[TokenRequest] = []
    left = list(statuses)

    def server(request: TokenRequest) -> TokenReply:
        requests.append(request)
        body = {"token": f"token-{len(requests)}", "refresh_token": refresh}
        return TokenReply(status=left.pop(0) if left else 200, content=json.dumps(body).encode())

    return requests, server


class TestTokenQuery:
    def test_each_scope_is_a_separate_field(self) -> None:
        request = token_query(REALM, "registry", [PULL, PUSH], None)

        assert request.method == "GET"
        assert parse_qsl(urlsplit(request.url).query) == [
            ("service", "registry"),
            ("scope", "repository:org/app:pull"),
            ("scope", "repository:org/lib:pull,push"),
        ]

    def test_an_anonymous_request_has_no_authorization(self) -> None:
        request = token_query(REALM, "registry", [PULL], None)

        assert "Authorization" not in request.headers

    def test_a_password_is_in_the_header_only(self) -> None:
        request = token_query(REALM, "registry", [PULL], Basic("user", "hunter2"))

        assert request.headers["Authorization"] == basic_value(Basic("user", "hunter2"))
        assert "hunter2" not in request.url
        assert request.body is None

    def test_the_query_of_the_realm_is_kept(self) -> None:
        request = token_query(f"{REALM}?tenant=a%26b#top", "r", [], None)

        assert parse_qs(urlsplit(request.url).query) == {"tenant": ["a&b"], "service": ["r"]}

    def test_a_service_cannot_add_fields(self) -> None:
        request = token_query(REALM, "r&scope=repository:x:push", [], None)

        assert parse_qs(urlsplit(request.url).query) == {"service": ["r&scope=repository:x:push"]}

    def test_without_fields_the_url_is_the_realm(self) -> None:
        assert token_query(REALM, "", [], None).url == REALM


class TestTokenForm:
    def test_an_identity_token_is_in_the_body_only(self) -> None:
        """R-037: identity tokens go only to the token endpoint."""
        request = token_form(REALM, "registry", [PULL, PUSH], IdentityToken("s3cret"))

        assert (request.method, request.url) == ("POST", REALM)
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert request.body is not None
        assert dict(parse_qsl(request.body.decode())) == {
            "grant_type": "refresh_token",
            "refresh_token": "s3cret",
            "client_id": "ociport",
            "service": "registry",
            "scope": "repository:org/app:pull repository:org/lib:pull,push",
        }

    @pytest.mark.parametrize("credential", [Basic("user", "hunter2\ud800"), IdentityToken("hunter2\ud800")])
    def test_text_that_cannot_be_encoded_is_refused_and_not_shown(self, credential: Basic | IdentityToken) -> None:
        """R-062, R-043."""
        with pytest.raises(ConfigError) as caught:
            token_form(REALM, "", [PULL], credential)

        assert "hunter2" not in str(caught.value)

    def test_a_posted_password_is_in_the_body_only(self) -> None:
        request = token_form(REALM, "", [], Basic("user", "pa&ss=wörd"))

        assert "Authorization" not in request.headers
        assert request.body is not None
        assert dict(parse_qsl(request.body.decode())) == {
            "grant_type": "password",
            "username": "user",
            "password": "pa&ss=wörd",
            "client_id": "ociport",
        }

    def test_its_repr_shows_no_secret(self) -> None:
        """R-043."""
        request = token_form(REALM, "", [], IdentityToken("s3cret"))

        assert "s3cret" not in repr(request)


class TestRotation:
    def test_a_replaced_identity_token_is_not_sent_again(self) -> None:
        server = Rotating()
        exchanger = TokenExchanger()

        found = [fetch(exchanger, server, IDENTITY).text for _ in range(3)]

        assert server.seen == ["first", "next-1", "next-2"]
        assert found == ["token-1", "token-2", "token-3"]

    def test_no_two_threads_send_the_same_identity_token(self) -> None:
        server = Rotating()
        exchanger = TokenExchanger()
        other = Scope.repository(RepositoryName("org/other"), ["pull"])
        first = exchanger.fetch(key_of(IDENTITY), [PULL])
        request = next(first)

        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(fetch, exchanger, server, IDENTITY, other)
            while not exchanger._single_flight._changed._waiters:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            with pytest.raises(StopIteration):
                first.send(server(request))
            second.result(30)

        assert server.seen == ["first", "next-1"]

    def test_if_the_new_identity_token_is_refused_the_configured_one_is_tried(self) -> None:
        server = Rotating()
        exchanger = TokenExchanger()
        fetch(exchanger, server, IDENTITY)
        server.current = "first"

        found = fetch(exchanger, server, IDENTITY)

        assert server.seen == ["first", "next-1", "first"]
        assert found.text == "token-3"

    def test_if_both_identity_tokens_are_refused_the_exchange_fails(self) -> None:
        """R-038."""
        server = Rotating()
        exchanger = TokenExchanger()
        fetch(exchanger, server, IDENTITY)
        server.current = "another"

        with pytest.raises(Unauthorized):
            fetch(exchanger, server, IDENTITY)

        assert server.seen == ["first", "next-1", "first"]

    def test_a_new_identity_token_from_the_keychain_is_used_at_once(self) -> None:
        server = Rotating()
        exchanger = TokenExchanger()
        fetch(exchanger, server, IDENTITY)
        server.current = "fresh login"

        fetch(exchanger, server, IdentityToken("fresh login"))

        assert server.seen == ["first", "fresh login"]

    @pytest.mark.parametrize("refresh", [None, "", 5, ["x"], "a b", "a\r\nb", "ä"])
    def test_an_invalid_refresh_token_replaces_nothing(self, refresh: object) -> None:
        """R-039."""
        requests, server = token_server(refresh=refresh)
        exchanger = TokenExchanger()

        fetch(exchanger, server, IDENTITY)
        fetch(exchanger, server, IDENTITY)

        assert [b"refresh_token=first" in (one.body or b"") for one in requests] == [True, True]

    @pytest.mark.parametrize("identity", [USER, Anonymous()])
    def test_a_password_is_not_replaced(self, identity: Basic | Anonymous) -> None:
        requests, server = token_server(refresh="given-unasked")
        exchanger = TokenExchanger()

        fetch(exchanger, server, identity)
        fetch(exchanger, server, identity)

        assert [one.method for one in requests] == ["GET", "GET"]


class TestMethods:
    @pytest.mark.parametrize("status", [404, 405])
    def test_an_identity_token_is_sent_as_a_password_if_post_is_unsupported(self, status: int) -> None:
        requests, server = token_server(status)

        found = fetch(TokenExchanger(), server, IDENTITY)

        assert found.text == "token-2"
        assert [one.method for one in requests] == ["POST", "GET"]
        assert b64decode(requests[1].headers["Authorization"].removeprefix("Basic ")) == b"<token>:first"
        assert "first" not in requests[1].url

    def test_an_identity_token_with_a_user_name_is_sent_under_that_name(self) -> None:
        requests, server = token_server(404)

        fetch(TokenExchanger(), server, IdentityToken("first", "00000000-0000-0000-0000-000000000000"))

        shown = b64decode(requests[1].headers["Authorization"].removeprefix("Basic "))
        assert shown == b"00000000-0000-0000-0000-000000000000:first"

    def test_a_password_is_posted_if_get_is_unsupported(self) -> None:
        requests, server = token_server(405)

        fetch(TokenExchanger(), server, USER)

        assert [one.method for one in requests] == ["GET", "POST"]
        assert b"grant_type=password&username=user&password=hunter2" in (requests[1].body or b"")

    @pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (400, Unauthorized), (403, Forbidden)])
    def test_a_refused_identity_token_is_not_sent_with_the_other_method(
        self, status: int, kind: type[Exception]
    ) -> None:
        requests, server = token_server(status)

        with pytest.raises(kind):
            fetch(TokenExchanger(), server, IDENTITY)

        assert len(requests) == 1

    def test_an_anonymous_request_is_sent_with_get_only(self) -> None:
        requests, server = token_server(404)

        with pytest.raises(ProtocolError):
            fetch(TokenExchanger(), server, Anonymous())

        assert len(requests) == 1

    @pytest.mark.parametrize("identity", [USER, IDENTITY, Anonymous()])
    def test_each_request_carries_its_scopes(self, identity: Credential) -> None:
        requests, server = token_server()

        fetch(TokenExchanger(), server, identity)

        assert requests[0].scopes == (PULL,)


def test_an_exchanger_shows_no_secret_and_cannot_be_pickled() -> None:
    """R-043."""
    requests, server = token_server(refresh="s3cret")
    exchanger = TokenExchanger()
    fetch(exchanger, server, IDENTITY)

    assert "s3cret" not in repr(exchanger)
    with pytest.raises(TypeError):
        pickle.dumps(exchanger)
    for secret in (requests[0], TokenReply(status=200, content=b"s3cret")):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
