"""What is asked of token servers, and what is carried without asking."""

from __future__ import annotations

import pickle
from base64 import b64decode
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from registry_adapters.auth.authorization import StaticTokenAuthenticator, basic_value, bearer_value, token_query
from registry_adapters.auth.token_requests import token_form
from registry_core.domain.auth import Basic, Challenge, IdentityToken, RegistryToken, Scope
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

REALM = "https://auth.example.com/token"
PULL = Scope.repository(RepositoryName("org/app"), ["pull"])
PUSH = Scope.repository(RepositoryName("org/lib"), ["push", "pull"])
REGISTRY = Origin.of("registry.example.com")


class TestBasic:
    def test_name_and_password_travel_as_utf8(self) -> None:
        value = basic_value(Basic("Jürgen", "pa:ss wörd"))

        assert b64decode(value.removeprefix("Basic ")).decode() == "Jürgen:pa:ss wörd"

    def test_a_colon_in_the_name_is_refused_for_it_would_move_into_the_password(self) -> None:
        with pytest.raises(ConfigError):
            basic_value(Basic("a:b", "c"))

    def test_text_that_is_none_is_refused_without_being_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            basic_value(Basic("user", "hunter2\ud800"))

        assert "hunter2" not in str(caught.value)


class TestQuery:
    def test_each_scope_is_a_field_of_its_own(self) -> None:
        request = token_query(REALM, "registry", [PULL, PUSH], None)

        assert request.method == "GET"
        assert parse_qsl(urlsplit(request.url).query) == [
            ("service", "registry"),
            ("scope", "repository:org/app:pull"),
            ("scope", "repository:org/lib:pull,push"),
        ]

    def test_without_a_credential_nothing_is_authorised(self) -> None:
        request = token_query(REALM, "registry", [PULL], None)

        assert "Authorization" not in request.headers

    def test_a_password_stands_in_the_header_only(self) -> None:
        request = token_query(REALM, "registry", [PULL], Basic("user", "hunter2"))

        assert request.headers["Authorization"] == basic_value(Basic("user", "hunter2"))
        assert "hunter2" not in request.url
        assert request.body is None

    def test_a_query_of_the_realm_is_kept(self) -> None:
        request = token_query(f"{REALM}?tenant=a%26b#top", "r", [], None)

        assert parse_qs(urlsplit(request.url).query) == {"tenant": ["a&b"], "service": ["r"]}

    def test_a_service_cannot_smuggle_fields_in(self) -> None:
        request = token_query(REALM, "r&scope=repository:x:push", [], None)

        assert parse_qs(urlsplit(request.url).query) == {"service": ["r&scope=repository:x:push"]}

    def test_with_nothing_to_ask_the_realm_is_asked_as_it_is(self) -> None:
        assert token_query(REALM, "", [], None).url == REALM


class TestForm:
    def test_an_identity_token_is_traded_in_the_body_only(self) -> None:
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
    def test_text_that_is_none_is_not_traded_and_not_shown(self, credential: Basic | IdentityToken) -> None:
        """R-062, R-043."""
        with pytest.raises(ConfigError) as caught:
            token_form(REALM, "", [PULL], credential)

        assert "hunter2" not in str(caught.value)

    def test_a_password_is_traded_in_the_body_only(self) -> None:
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


class TestGivenToken:
    def test_it_is_sent_from_the_first_request_on(self) -> None:
        assert StaticTokenAuthenticator(RegistryToken("abc")).cached_authorization(REGISTRY, [PULL]) == "Bearer abc"

    @pytest.mark.parametrize("other", [Origin.of("evil.example"), Origin.of("registry.example.com", scheme="http")])
    def test_it_goes_to_its_own_registry_only(self, other: Origin) -> None:
        """R-030."""
        given = StaticTokenAuthenticator(RegistryToken("abc"), registry=REGISTRY)

        assert given.cached_authorization(REGISTRY, [PULL]) == "Bearer abc"
        assert given.cached_authorization(other, [PULL]) is None

    def test_it_is_not_repeated_once_refused(self) -> None:
        given = StaticTokenAuthenticator(RegistryToken("abc"))

        with pytest.raises(StopIteration) as stopped:
            next(
                given.handle_challenge(REGISTRY, [Challenge("bearer", {"realm": REALM})], [PULL], rejected="Bearer abc")
            )

        assert stopped.value.value is None

    @pytest.mark.parametrize("text", ["", "a\r\nX: y", "a b", "ä", "a\0"])
    def test_a_token_that_could_break_out_of_its_header_is_refused(self, text: str) -> None:
        """R-039."""
        with pytest.raises(ConfigError):
            bearer_value(text)

    def test_it_shows_nothing_and_is_not_pickled(self) -> None:
        given = StaticTokenAuthenticator(RegistryToken("s3cret"))

        assert "s3cret" not in repr(given)
        with pytest.raises(TypeError):
            pickle.dumps(given)
