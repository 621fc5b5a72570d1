"""Values of the ``Authorization`` header."""

from __future__ import annotations

import pickle
from base64 import b64decode

import pytest

from registry_adapters.auth.authorization import StaticTokenAuthenticator, basic_value, bearer_value
from registry_core.domain.auth import Basic, Challenge, RegistryToken, Scope
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

REALM = "https://auth.example.com/token"
PULL = Scope.repository(RepositoryName("org/app"), ["pull"])
REGISTRY = Origin.of("registry.example.com")


class TestBasic:
    def test_user_name_and_password_are_encoded_as_utf8(self) -> None:
        value = basic_value(Basic("Jürgen", "pa:ss wörd"))

        assert b64decode(value.removeprefix("Basic ")).decode() == "Jürgen:pa:ss wörd"

    def test_a_user_name_with_a_colon_is_refused(self) -> None:
        with pytest.raises(ConfigError):
            basic_value(Basic("a:b", "c"))

    def test_text_that_cannot_be_encoded_is_refused_and_not_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            basic_value(Basic("user", "hunter2\ud800"))

        assert "hunter2" not in str(caught.value)


class TestStaticToken:
    def test_it_is_sent_with_the_first_request(self) -> None:
        assert StaticTokenAuthenticator(RegistryToken("abc")).cached_authorization(REGISTRY, [PULL]) == "Bearer abc"

    @pytest.mark.parametrize("other", [Origin.of("evil.example"), Origin.of("registry.example.com", scheme="http")])
    def test_it_is_sent_to_its_registry_only(self, other: Origin) -> None:
        """R-030."""
        static = StaticTokenAuthenticator(RegistryToken("abc"), registry=REGISTRY)

        assert static.cached_authorization(REGISTRY, [PULL]) == "Bearer abc"
        assert static.cached_authorization(other, [PULL]) is None

    def test_it_is_not_sent_again_after_a_rejection(self) -> None:
        static = StaticTokenAuthenticator(RegistryToken("abc"))

        with pytest.raises(StopIteration) as stopped:
            next(
                static.handle_challenge(
                    REGISTRY, [Challenge("bearer", {"realm": REALM})], [PULL], rejected="Bearer abc"
                )
            )

        assert stopped.value.value is None

    @pytest.mark.parametrize("text", ["", "a\r\nX: y", "a b", "ä", "a\0"])
    def test_a_token_that_could_inject_headers_is_refused(self, text: str) -> None:
        """R-039."""
        with pytest.raises(ConfigError):
            bearer_value(text)

    def test_it_shows_no_secret_and_cannot_be_pickled(self) -> None:
        static = StaticTokenAuthenticator(RegistryToken("s3cret"))

        assert "s3cret" not in repr(static)
        with pytest.raises(TypeError):
            pickle.dumps(static)
