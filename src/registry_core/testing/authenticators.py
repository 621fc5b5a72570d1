"""What every authenticator promises, as tests to inherit.

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

__all__ = ["PULL", "PUSH", "REGISTRY", "AuthenticatorContract", "TokenServer", "concluded", "driven"]

_Result = TypeVar("_Result")

REGISTRY: Final = Origin.of("registry.example.com")
PULL: Final = Scope.repository(RepositoryName("org/app"), ["pull"])
PUSH: Final = Scope.repository(RepositoryName("org/app"), ["pull", "push"])

_OTHERS: Final = (
    Origin.of("evil.example"),
    Origin.of("sub.registry.example.com"),
    Origin.of("registry.example.com:8443"),
    Origin.of("registry.example.com", scheme="http"),
)


class TokenServer:
    """Answers every request with a token of its own, and remembers what it was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: list[TokenRequest] = []

    def __call__(self, request: TokenRequest) -> TokenReply:
        """A token, good for five minutes."""
        with self._lock:
            self.asked.append(request)
            body = {"token": f"t0ken-{len(self.asked)}", "expires_in": 300}
        return TokenReply(status=200, content=strict_json.encode(body))


def driven(
    authenticator: Authenticator,
    server: Callable[[TokenRequest], TokenReply],
    challenges: Sequence[Challenge],
    *scopes: Scope,
    rejected: str | None = None,
) -> str | None:
    """What an authenticator answers, once a token server has answered it.

    Raises:
        RegistryError: What the authenticator raises.
    """
    return concluded(authenticator.handle_challenge(REGISTRY, challenges, scopes, rejected=rejected), server)


def concluded(
    steps: Generator[TokenRequest, TokenReply, _Result], server: Callable[[TokenRequest], TokenReply]
) -> _Result:
    """What comes of asking for tokens, once a token server has answered each request.

    Raises:
        RegistryError: What those steps, or the server, raise.
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
    """One that it has an answer to."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """What it must not show."""

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        """One that has credentials for ``REGISTRY``, and for no other.

        Raises:
            NotImplementedError: Not overridden.
        """
        raise NotImplementedError("an authenticator's test class overrides this fixture")

    @pytest.fixture
    def server(self) -> TokenServer:
        """Where it may get tokens."""
        return TokenServer()

    def test_it_is_an_authenticator(self, authenticator: Authenticator) -> None:
        """The protocol."""
        assert isinstance(authenticator, Authenticator)

    def test_its_answer_is_one_header_value(self, authenticator: Authenticator, server: TokenServer) -> None:
        """R-039: nothing in it ends a header."""
        value = driven(authenticator, server, [self.challenge], PULL)

        assert value is not None
        assert value.isascii()
        assert value.isprintable()

    def test_its_answer_is_remembered(self, authenticator: Authenticator, server: TokenServer) -> None:
        """The next request on the same repository needs no challenge."""
        value = driven(authenticator, server, [self.challenge], PULL)

        assert authenticator.cached_authorization(REGISTRY, [PULL]) == value

    @pytest.mark.parametrize("other", _OTHERS, ids=str)
    def test_it_is_remembered_for_no_other_registry(
        self, authenticator: Authenticator, server: TokenServer, other: Origin
    ) -> None:
        """R-030: another host, another port and the same without TLS are others."""
        driven(authenticator, server, [self.challenge], PULL)

        assert authenticator.cached_authorization(other, [PULL]) is None

    def test_what_was_refused_is_not_offered_again(self, authenticator: Authenticator, server: TokenServer) -> None:
        """R-038."""
        value = driven(authenticator, server, [self.challenge], PULL)

        again = driven(authenticator, server, [self.challenge], PULL, rejected=value)

        assert again is None or again != value

    def test_without_a_challenge_there_is_no_answer(self, authenticator: Authenticator, server: TokenServer) -> None:
        """A 401 that says nothing."""
        assert driven(authenticator, server, [], PULL) is None
        assert server.asked == []

    def test_what_nobody_speaks_is_not_answered(self, authenticator: Authenticator, server: TokenServer) -> None:
        """Either way is clear: no answer, or an ``Unauthorized`` that says why."""
        try:
            value = driven(authenticator, server, [Challenge("x-nobody-speaks-this", {})], PULL)
        except Unauthorized:
            value = None

        assert value is None
        assert server.asked == []

    @pytest.mark.parametrize("error", [Cancelled("by its caller"), Unavailable("down"), None], ids=repr)
    def test_an_answer_given_up_half_way_blocks_nobody(
        self, authenticator: Authenticator, server: TokenServer, error: Exception | None
    ) -> None:
        """Whether it is closed or told of an error."""
        steps = authenticator.handle_challenge(REGISTRY, [self.challenge], [PULL])
        asked = next(steps, None)
        if asked is not None and error is not None:
            with pytest.raises(type(error)):
                steps.throw(error)
        steps.close()

        assert driven(authenticator, server, [self.challenge], PULL) is not None

    def test_many_threads_cause_one_token_request(self, authenticator: Authenticator, server: TokenServer) -> None:
        """R-039: no refresh storm."""
        with ThreadPoolExecutor(16) as pool:
            values = set(pool.map(lambda _: driven(authenticator, server, [self.challenge], PULL), range(32)))

        assert len(values) == 1
        assert len(server.asked) <= 1

    def test_what_it_asks_a_token_server_says_what_for(self, authenticator: Authenticator, server: TokenServer) -> None:
        """Only for the operation, and never with a secret in the URL (R-037, R-043)."""
        driven(authenticator, server, [self.challenge], PULL)

        for request in server.asked:
            assert request.scopes in ((), (PULL,))
            assert not any(secret in request.url for secret in self.secrets)

    def test_neither_repr_nor_pickle_shows_a_secret(self, authenticator: Authenticator, server: TokenServer) -> None:
        """R-043."""
        driven(authenticator, server, [self.challenge], PULL)
        secrets = (*self.secrets, "t0ken-")

        try:
            shown = pickle.dumps(authenticator)
        except TypeError as error:
            shown = str(error).encode()

        texts = [repr(authenticator), str(authenticator), *map(repr, server.asked)]
        assert not any(secret in text for secret in secrets for text in texts)
        assert not any(secret.encode() in shown for secret in secrets)
