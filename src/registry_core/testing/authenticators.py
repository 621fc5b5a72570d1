"""Contract tests for authenticators, to inherit.

::

    from registry_core.testing.authenticators import AuthenticatorContract

    class TestMyAuthenticator(AuthenticatorContract):
        challenge = Challenge("bearer", {"realm": "https://registry.example.com/token"})
        secrets = ("hunter2",)

        @pytest.fixture
        def authenticator(self) -> Authenticator:
            return MyAuthenticator("hunter2")
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final, TypeVar

import pytest

from registry_core.domain import strict_json
from registry_core.domain.auth import Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import Cancelled, Unauthorized, Unavailable
from registry_core.ports.authenticator import Authenticator

__all__ = [
    "PULL",
    "PUSH",
    "REGISTRY",
    "AuthenticatorContract",
    "TokenServer",
    "answer_token_requests",
    "authorization_for",
]

_Result = TypeVar("_Result")

REGISTRY: Final = Origin.of("registry.example.com")
PULL: Final = Scope.repository(RepositoryName("org/app"), ["pull"])
PUSH: Final = Scope.repository(RepositoryName("org/app"), ["pull", "push"])

_OTHER_REGISTRIES: Final = (
    Origin.of("evil.example"),
    Origin.of("sub.registry.example.com"),
    Origin.of("registry.example.com:8443"),
    Origin.of("registry.example.com", scheme="http"),
)


class TokenServer:
    """A token server that returns a new token for each request, and records the requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: list[TokenRequest] = []

    def __call__(self, request: TokenRequest) -> TokenReply:
        """Return a token that is valid for five minutes."""
        with self._lock:
            self.requests.append(request)
            body = {"token": f"t0ken-{len(self.requests)}", "expires_in": 300}
        return TokenReply(status=200, content=strict_json.encode(body))


def authorization_for(
    authenticator: Authenticator,
    server: Callable[[TokenRequest], TokenReply],
    challenges: Sequence[Challenge],
    *scopes: Scope,
    rejected: str | None = None,
) -> str | None:
    """The authorization of an authenticator for a challenge; a token server answers its token requests.

    Raises:
        RegistryError: An error of the authenticator.
    """
    return answer_token_requests(
        authenticator.handle_challenge(REGISTRY, challenges, scopes, rejected=rejected), server
    )


def answer_token_requests(
    steps: Generator[TokenRequest, TokenReply, _Result], server: Callable[[TokenRequest], TokenReply]
) -> _Result:
    """Run a generator of token requests to its end; a token server answers them.

    Returns:
        The return value of the generator.

    Raises:
        RegistryError: An error of the generator, or of the server.
    """
    try:
        request = next(steps)
        while True:
            request = steps.send(server(request))
    except StopIteration as stopped:
        result: _Result = stopped.value
        return result
    finally:
        steps.close()


class AuthenticatorContract:
    """A test class overrides ``authenticator``, ``challenge`` and ``secrets``."""

    challenge: ClassVar[Challenge] = Challenge("basic", {"realm": "registry"})
    """A challenge that the authenticator supports."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """Strings that it must not show."""

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        """An authenticator with credentials for ``REGISTRY`` only.

        Raises:
            NotImplementedError: The test class does not override the fixture.
        """
        raise NotImplementedError("the test class of an authenticator must override this fixture")

    @pytest.fixture
    def server(self) -> TokenServer:
        """The token server."""
        return TokenServer()

    def test_it_is_an_authenticator(self, authenticator: Authenticator) -> None:
        """It implements the protocol."""
        assert isinstance(authenticator, Authenticator)

    def test_the_authorization_is_one_header_value(self, authenticator: Authenticator, server: TokenServer) -> None:
        """It has no character that ends a header (R-039)."""
        value = authorization_for(authenticator, server, [self.challenge], PULL)

        assert value is not None
        assert value.isascii()
        assert value.isprintable()

    def test_the_authorization_is_cached(self, authenticator: Authenticator, server: TokenServer) -> None:
        """The next request to the same repository needs no challenge."""
        value = authorization_for(authenticator, server, [self.challenge], PULL)

        assert authenticator.cached_authorization(REGISTRY, [PULL]) == value

    @pytest.mark.parametrize("other", _OTHER_REGISTRIES, ids=str)
    def test_it_is_cached_for_no_other_registry(
        self, authenticator: Authenticator, server: TokenServer, other: Origin
    ) -> None:
        """Another host, another port and plain http are other registries (R-030)."""
        authorization_for(authenticator, server, [self.challenge], PULL)

        assert authenticator.cached_authorization(other, [PULL]) is None

    def test_a_rejected_authorization_is_not_offered_again(
        self, authenticator: Authenticator, server: TokenServer
    ) -> None:
        """R-038."""
        value = authorization_for(authenticator, server, [self.challenge], PULL)

        again = authorization_for(authenticator, server, [self.challenge], PULL, rejected=value)

        assert again is None or again != value

    def test_without_a_challenge_there_is_no_authorization(
        self, authenticator: Authenticator, server: TokenServer
    ) -> None:
        """A response of status 401 may have no challenge."""
        assert authorization_for(authenticator, server, [], PULL) is None
        assert server.requests == []

    def test_an_unknown_scheme_has_no_authorization(self, authenticator: Authenticator, server: TokenServer) -> None:
        """Either the result is ``None``, or ``Unauthorized`` explains it."""
        try:
            value = authorization_for(authenticator, server, [Challenge("x-unknown-scheme", {})], PULL)
        except Unauthorized:
            value = None

        assert value is None
        assert server.requests == []

    @pytest.mark.parametrize("error", [Cancelled("by its caller"), Unavailable("down"), None], ids=repr)
    def test_an_aborted_challenge_does_not_block_others(
        self, authenticator: Authenticator, server: TokenServer, error: Exception | None
    ) -> None:
        """Aborted by ``close``, or by an error of the token request."""
        steps = authenticator.handle_challenge(REGISTRY, [self.challenge], [PULL])
        request = next(steps, None)
        if request is not None and error is not None:
            with pytest.raises(type(error)):
                steps.throw(error)
        steps.close()

        assert authorization_for(authenticator, server, [self.challenge], PULL) is not None

    def test_many_threads_cause_one_token_request(self, authenticator: Authenticator, server: TokenServer) -> None:
        """Concurrent challenges share a token request (R-039)."""
        with ThreadPoolExecutor(16) as pool:
            values = set(
                pool.map(lambda _: authorization_for(authenticator, server, [self.challenge], PULL), range(32))
            )

        assert len(values) == 1
        assert len(server.requests) <= 1

    def test_a_token_request_has_the_scopes_of_the_operation(
        self, authenticator: Authenticator, server: TokenServer
    ) -> None:
        """No others, and never a secret in the URL (R-037, R-043)."""
        authorization_for(authenticator, server, [self.challenge], PULL)

        for request in server.requests:
            assert request.scopes in ((), (PULL,))
            assert not any(secret in request.url for secret in self.secrets)

    def test_neither_repr_nor_pickle_shows_a_secret(self, authenticator: Authenticator, server: TokenServer) -> None:
        """R-043."""
        authorization_for(authenticator, server, [self.challenge], PULL)
        secrets = (*self.secrets, "t0ken-")

        try:
            pickled = pickle.dumps(authenticator)
        except TypeError as error:
            pickled = str(error).encode()

        texts = [repr(authenticator), str(authenticator), *map(repr, server.requests)]
        assert not any(secret in text for secret in secrets for text in texts)
        assert not any(secret.encode() in pickled for secret in secrets)
