"""The answers to challenges, driven by hand (R-030 to R-039)."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_adapters.auth.authenticator import ChallengeAuthenticator, authenticator_for
from registry_adapters.auth.authorization import StaticTokenAuthenticator, basic_value
from registry_core.domain.auth import (
    Anonymous,
    Basic,
    Challenge,
    Credential,
    IdentityToken,
    RegistryToken,
    Scope,
    TokenReply,
    TokenRequest,
)
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import (
    Cancelled,
    Forbidden,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unavailable,
)
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.keychain import Keychain
from registry_core.testing.authenticators import answer_token_requests

REGISTRY = Origin.of("registry.example.com")
EVIL = Origin.of("evil.example")
APP = RepositoryName("org/app")
PULL = Scope.repository(APP, ["pull"])
PUSH = Scope.repository(APP, ["pull", "push"])
LIB = Scope.repository(RepositoryName("org/lib"), ["pull"])
USER = Basic("user", "hunter2")
BASIC = Challenge("basic", {"realm": "registry"})
BEARER = Challenge("bearer", {"realm": "https://auth.example.com/token", "service": "registry"})


class TokenServer:
    """Replies with the given statuses, then with numbered tokens."""

    def __init__(self, *statuses: int, expires_in: object = 300) -> None:
        self.statuses = list(statuses)
        self.expires_in = expires_in
        self.requests: list[TokenRequest] = []
        self.lock = threading.Lock()

    def __call__(self, request: TokenRequest) -> TokenReply:
        with self.lock:
            self.requests.append(request)
            status = self.statuses.pop(0) if self.statuses else 200
            body = {"token": f"token-{len(self.requests)}", "expires_in": self.expires_in}
            return TokenReply(status=status, content=json.dumps(body).encode())


class PerRepository(Keychain):
    def __init__(self, credentials: dict[str | None, Credential]) -> None:
        self.credentials = credentials
        self.lookups = 0

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        self.lookups += 1
        return self.credentials.get(repository)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def authorize(
    authenticator: Authenticator,
    server: Callable[[TokenRequest], TokenReply],
    challenges: Sequence[Challenge],
    scopes: Collection[Scope],
    *,
    registry: Origin = REGISTRY,
    rejected: str | None = None,
) -> str | None:
    return answer_token_requests(
        authenticator.handle_challenge(registry, challenges, scopes, rejected=rejected), server
    )


def scopes_of(request: TokenRequest) -> list[str]:
    return parse_qs(urlsplit(request.url).query).get("scope", [])


@pytest.fixture
def server() -> TokenServer:
    return TokenServer()


class TestBasic:
    def test_a_password_answers_a_basic_challenge_and_is_cached(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)

        value = authorize(authenticator, server, [BASIC], [PULL])

        assert value == basic_value(USER)
        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == value
        assert server.requests == []

    def test_nothing_is_sent_before_a_challenge(self) -> None:
        assert authenticator_for(USER).cached_authorization(REGISTRY, [PULL]) is None

    def test_the_number_of_cached_repositories_is_limited(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        scopes = [Scope.repository(RepositoryName(f"r{number}"), ["pull"]) for number in range(4097)]

        for scope in scopes:
            authorize(authenticator, server, [BASIC], [scope])

        assert authenticator.cached_authorization(REGISTRY, [scopes[0]]) is None
        assert (
            authenticator.cached_authorization(REGISTRY, [scopes[1]])
            == authenticator.cached_authorization(REGISTRY, [scopes[-1]])
            == basic_value(USER)
        )

    def test_a_refused_password_is_not_sent_again(self, server: TokenServer) -> None:
        """R-038."""
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BASIC], [PULL])

        assert authorize(authenticator, server, [BASIC], [PULL], rejected=value) is None
        assert authenticator.cached_authorization(REGISTRY, [PULL]) is None

    @pytest.mark.parametrize("credential", [None, Anonymous(), IdentityToken("s3cret"), RegistryToken("s3cret")])
    def test_only_a_password_answers_a_basic_challenge(
        self, server: TokenServer, credential: Credential | None
    ) -> None:
        """R-037: identity tokens go only to the token endpoint."""
        assert (
            authorize(ChallengeAuthenticator(PerRepository({APP: credential or Anonymous()})), server, [BASIC], [PULL])
            is None
        )

    def test_the_password_is_cached_for_the_challenging_registry_only(self, server: TokenServer) -> None:
        """R-030."""
        authenticator = authenticator_for(USER)
        authorize(authenticator, server, [BASIC], [PULL])

        assert authenticator.cached_authorization(EVIL, [PULL]) is None
        assert authenticator.cached_authorization(Origin.of("registry.example.com", scheme="http"), [PULL]) is None
        assert authenticator.cached_authorization(Origin.of("registry.example.com:8443"), [PULL]) is None

    def test_after_a_token_the_password_is_not_sent_to_the_registry(self, server: TokenServer) -> None:
        """R-031."""
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], [PULL])

        assert authorize(authenticator, server, [BASIC], [PULL], rejected=value) == "Bearer token-2"
        assert authorize(authenticator, server, [BASIC], [LIB]) is None

    def test_bearer_is_preferred_to_basic(self, server: TokenServer) -> None:
        assert authorize(authenticator_for(USER), server, [BASIC, BEARER], [PULL]) == "Bearer token-1"

    def test_without_a_challenge_there_is_no_answer(self, server: TokenServer) -> None:
        keychain = PerRepository({APP: USER})

        assert authorize(ChallengeAuthenticator(keychain), server, [], [PULL]) is None
        assert keychain.lookups == 0

    def test_unsupported_schemes_are_named(self, server: TokenServer) -> None:
        keychain = PerRepository({APP: USER})
        windows = [Challenge("ntlm", {}), Challenge("negotiate", {}), Challenge("x" * 5000, {})]

        with pytest.raises(Unauthorized, match="negotiate, ntlm") as caught:
            authorize(ChallengeAuthenticator(keychain), server, windows, [PULL])

        assert len(str(caught.value)) < 300
        assert keychain.lookups == 0


class TestBearer:
    @pytest.mark.parametrize("auth", [None, Anonymous()])
    def test_without_credentials_an_anonymous_token_is_requested(
        self, server: TokenServer, auth: Anonymous | None
    ) -> None:
        value = authorize(authenticator_for(auth), server, [BEARER], [PULL])

        assert value == "Bearer token-1"
        assert "Authorization" not in server.requests[0].headers

    def test_the_password_goes_to_the_token_server(self, server: TokenServer) -> None:
        authorize(authenticator_for(USER), server, [BEARER], [PULL])

        assert server.requests[0].url.startswith("https://auth.example.com/token?")
        assert server.requests[0].headers["Authorization"] == basic_value(USER)

    def test_the_scopes_of_the_operation_are_requested_not_those_of_the_challenge(self, server: TokenServer) -> None:
        """R-037."""
        greedy = Challenge("bearer", {**BEARER.parameters, "scope": "repository:org/app:pull,push,delete"})

        authorize(authenticator_for(USER), server, [greedy], [PULL])

        assert scopes_of(server.requests[0]) == ["repository:org/app:pull"]

    def test_for_an_operation_without_scopes_the_challenge_may_ask_for_pull(self, server: TokenServer) -> None:
        """R-037: and for no more."""
        greedy = Challenge(
            "bearer",
            {**BEARER.parameters, "scope": "repository:org/app:pull,push registry:catalog:* repository:x:push ::"},
        )

        authorize(authenticator_for(USER), server, [greedy], [])

        assert scopes_of(server.requests[0]) == ["registry:catalog:*", "repository:org/app:pull"]

    def test_scopes_of_one_repository_are_merged(self, server: TokenServer) -> None:
        authorize(authenticator_for(USER), server, [BEARER], [PUSH, LIB, PULL])

        assert scopes_of(server.requests[0]) == ["repository:org/app:pull,push", "repository:org/lib:pull"]

    def test_the_second_operation_on_a_repository_uses_the_same_token(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        authorize(authenticator, server, [BEARER], [PUSH])

        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == "Bearer token-1"
        assert authenticator.cached_authorization(REGISTRY, [PULL]) == "Bearer token-1"

    def test_a_token_is_not_used_for_wider_scopes(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        authorize(authenticator, server, [BEARER], [PULL])

        assert authenticator.cached_authorization(REGISTRY, [PUSH]) is None
        assert authenticator.cached_authorization(REGISTRY, [LIB]) is None
        assert authenticator.cached_authorization(EVIL, [PULL]) is None

    def test_an_expired_token_is_replaced(self, server: TokenServer) -> None:
        """R-038."""
        clock = Clock()
        authenticator = ChallengeAuthenticator(PerRepository({APP: USER}), clock=clock)
        first = authorize(authenticator, server, [BEARER], [PULL])
        clock.now += 299.0

        assert authenticator.cached_authorization(REGISTRY, [PULL]) is None
        assert authorize(authenticator, server, [BEARER], [PULL], rejected=first) == "Bearer token-2"

    def test_a_rejected_token_is_replaced_before_it_expires(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        first = authorize(authenticator, server, [BEARER], [PULL])

        second = authorize(authenticator, server, [BEARER], [PULL], rejected=first)

        assert second == "Bearer token-2"
        assert authenticator.cached_authorization(REGISTRY, [PULL]) == second

    def test_after_a_late_rejection_the_token_of_another_thread_is_used(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        first = authorize(authenticator, server, [BEARER], [PULL])
        second = authorize(authenticator, server, [BEARER], [PULL], rejected=first)

        late = authorize(authenticator, server, [BEARER], [PULL], rejected=first)

        assert late == second
        assert len(server.requests) == 2

    def test_each_repository_uses_its_own_credential(self, server: TokenServer) -> None:
        other = Basic("robot", "word")
        authenticator = ChallengeAuthenticator(PerRepository({"org/app": USER, "org/lib": other}))

        authorize(authenticator, server, [BEARER], [PULL])
        authorize(authenticator, server, [BEARER], [LIB])

        assert [one.headers["Authorization"] for one in server.requests] == [basic_value(USER), basic_value(other)]

    def test_a_changed_credential_gets_a_new_token(self, server: TokenServer) -> None:
        keychain = PerRepository({"org/app": USER})
        authenticator = ChallengeAuthenticator(keychain)
        authorize(authenticator, server, [BEARER], [PULL])
        keychain.credentials["org/app"] = Basic("user", "changed")

        authorize(authenticator, server, [BEARER], [PULL])

        assert len(server.requests) == 2

    def test_the_cache_does_not_ask_the_keychain(self, server: TokenServer) -> None:
        keychain = PerRepository({"org/app": USER})
        authenticator = ChallengeAuthenticator(keychain)
        authorize(authenticator, server, [BEARER], [PULL])

        authenticator.cached_authorization(REGISTRY, [PULL])

        assert keychain.lookups == 1

    def test_a_basic_challenge_beside_one_without_a_realm_is_answered(self, server: TokenServer) -> None:
        assert authorize(authenticator_for(USER), server, [Challenge("bearer", {}), BASIC], [PULL]) == basic_value(USER)

    def test_a_challenge_without_a_realm_has_no_answer(self, server: TokenServer) -> None:
        assert authorize(authenticator_for(USER), server, [Challenge("bearer", {"service": "x"})], [PULL]) is None

    @pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (503, Unavailable)])
    def test_each_status_of_the_token_server_raises_its_error(self, status: int, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            authorize(authenticator_for(USER), TokenServer(status), [BEARER], [PULL])

    def test_after_a_failure_the_next_request_is_sent(self) -> None:
        server = TokenServer(503)
        authenticator = authenticator_for(USER)
        with pytest.raises(Unavailable):
            authorize(authenticator, server, [BEARER], [PULL])

        assert authorize(authenticator, server, [BEARER], [PULL]) == "Bearer token-2"

    def test_an_abandoned_exchange_blocks_no_other_thread(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        steps = authenticator.handle_challenge(REGISTRY, [BEARER], [PULL])
        next(steps)
        steps.close()

        assert authorize(authenticator, server, [BEARER], [PULL]) == "Bearer token-1"

    def test_many_threads_fetch_one_token(self, server: TokenServer) -> None:
        """R-039: one token request for all threads."""
        authenticator = authenticator_for(USER)
        start = threading.Barrier(32)

        def work(_: int) -> str | None:
            start.wait(30)
            return authorize(authenticator, server, [BEARER], [PULL])

        with ThreadPoolExecutor(32) as pool:
            values = set(pool.map(work, range(32)))

        assert values == {"Bearer token-1"}
        assert len(server.requests) == 1

    def test_if_the_first_thread_is_cancelled_the_next_one_fetches(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        leading = authenticator.handle_challenge(REGISTRY, [BEARER], [PULL])
        next(leading)

        with ThreadPoolExecutor(31) as pool:
            others = [pool.submit(authorize, authenticator, server, [BEARER], [PULL]) for _ in range(31)]
            with pytest.raises(Cancelled):
                leading.throw(Cancelled("by its caller"))
            values = {one.result(30) for one in others}

        assert values == {"Bearer token-1"}
        assert len(server.requests) == 1

    def test_a_wrong_password_is_not_tried_by_each_thread(self) -> None:
        """R-039: repeated wrong passwords lock accounts."""
        held, go = threading.Event(), threading.Event()
        requests: list[TokenRequest] = []

        def refuse(request: TokenRequest) -> TokenReply:
            requests.append(request)
            held.set()
            go.wait(30)
            return TokenReply(status=401, content=b"")

        authenticator = authenticator_for(USER)
        with ThreadPoolExecutor(4) as pool:
            tries = [pool.submit(authorize, authenticator, refuse, [BEARER], [PULL])]
            held.wait(30)
            waiting = [authenticator.handle_challenge(REGISTRY, [BEARER], [PULL]) for _ in range(3)]
            tries += [pool.submit(next, one) for one in waiting]  # type: ignore[arg-type]
            while len(authenticator._single_flight._changed._waiters) < 3:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            go.set()
            errors = [one.exception(30) for one in tries]

        assert [type(one) for one in errors] == [Unauthorized] * 4
        assert len(requests) == 1

    def test_the_rejected_token_is_not_sent_again_if_the_server_reissues_it(self) -> None:
        """R-039."""
        requests: list[TokenRequest] = []

        def reissue(request: TokenRequest) -> TokenReply:
            requests.append(request)
            return TokenReply(status=200, content=b'{"token": "same"}')

        authenticator = authenticator_for(USER)
        value = authorize(authenticator, reissue, [BEARER], [PULL])

        assert authorize(authenticator, reissue, [BEARER], [PULL], rejected=value) is None
        assert authenticator.cached_authorization(REGISTRY, [PULL]) is None
        assert len(requests) == 2

    @pytest.mark.parametrize("expires_in", [0, -1, 1, "soon", None, 60])
    def test_a_token_with_a_short_lifetime_is_used_for_a_minute(self, expires_in: object) -> None:
        """R-039: otherwise each request would need a token request."""
        clock = Clock()
        server = TokenServer(expires_in=expires_in)
        authenticator = ChallengeAuthenticator(PerRepository({APP: USER}), clock=clock)
        value = authorize(authenticator, server, [BEARER], [PULL])
        clock.now += 54.0

        assert authenticator.cached_authorization(REGISTRY, [PULL]) == value
        clock.now += 2.0
        assert authenticator.cached_authorization(REGISTRY, [PULL]) is None

    def test_an_expired_token_is_replaced_after_a_basic_challenge(self, server: TokenServer) -> None:
        """R-031, R-038: Harbor answers an expired token with a Basic challenge."""
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], [PULL])

        again = authorize(authenticator, server, [BASIC], [PULL], rejected=value)

        assert again == "Bearer token-2"
        assert [urlsplit(one.url).hostname for one in server.requests] == ["auth.example.com"] * 2

    def test_it_is_not_replaced_if_the_credential_has_changed(self, server: TokenServer) -> None:
        keychain = PerRepository({"org/app": USER})
        authenticator = ChallengeAuthenticator(keychain)
        value = authorize(authenticator, server, [BEARER], [PULL])
        keychain.credentials["org/app"] = Basic("user", "changed")

        assert authorize(authenticator, server, [BASIC], [PULL], rejected=value) is None


class TestInsufficientScope:
    def challenge(self, scope: str, error: str = "insufficient_scope") -> Challenge:
        return Challenge("bearer", {**BEARER.parameters, "scope": scope, "error": error})

    @pytest.mark.parametrize("error", ["insufficient_scope", ""])
    def test_read_actions_of_the_challenge_are_added_and_kept(self, server: TokenServer, error: str) -> None:
        """R-037."""
        authenticator = authenticator_for(USER)
        push = Scope.repository(APP, ["push"])
        first = authorize(authenticator, server, [BEARER], [push])

        value = authorize(
            authenticator, server, [self.challenge("repository:org/app:pull,push", error)], [push], rejected=first
        )

        assert [scopes_of(one) for one in server.requests] == [
            ["repository:org/app:push"],
            ["repository:org/app:pull,push"],
        ]
        assert authenticator.cached_authorization(REGISTRY, [push]) == value == "Bearer token-2"

    def test_no_other_actions_are_added(self, server: TokenServer) -> None:
        """R-037: none for another repository, and no write actions for a pull."""
        authenticator = authenticator_for(USER)
        first = authorize(authenticator, server, [BEARER], [PULL])
        greedy = self.challenge("repository:org/app:pull,push,delete,* repository:org/lib:pull registry:catalog:*")

        authorize(authenticator, server, [greedy], [PULL], rejected=first)

        assert scopes_of(server.requests[1]) == ["repository:org/app:pull"]


class TestTwoRepositories:
    """A mount needs scopes for two repositories; if it fails, the upload needs the target only."""

    MOUNT = (PUSH, LIB)

    def challenge(self, error: str) -> Challenge:
        scope = "repository:org/app:pull,push repository:org/lib:pull"
        return Challenge("bearer", {**BEARER.parameters, "scope": scope, "error": error})

    def test_one_token_is_requested_for_both(self, server: TokenServer) -> None:
        authorize(authenticator_for(USER), server, [BEARER], self.MOUNT)

        assert [scopes_of(one) for one in server.requests] == [
            ["repository:org/app:pull,push", "repository:org/lib:pull"]
        ]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 414, 500])
    def test_if_both_are_refused_a_token_for_the_target_is_requested(self, status: int) -> None:
        server = TokenServer(status)
        authenticator = authenticator_for(None)

        value = authorize(authenticator, server, [BEARER], self.MOUNT)

        assert value == "Bearer token-2"
        assert scopes_of(server.requests[1]) == ["repository:org/app:pull,push"]
        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == value

    def test_refused_combinations_are_not_requested_again(self) -> None:
        server = TokenServer(403)
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], self.MOUNT)

        assert authenticator.cached_authorization(REGISTRY, self.MOUNT) == value
        assert (
            authenticator.cached_authorization(REGISTRY, (PUSH, Scope.repository(RepositoryName("org/else"), ["pull"])))
            is None
        )
        assert len(server.requests) == 2

    def test_a_token_for_the_target_rejected_for_the_mount_is_kept_for_the_upload(self) -> None:
        server = TokenServer(403)
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], self.MOUNT)

        again = authorize(authenticator, server, [self.challenge("insufficient_scope")], self.MOUNT, rejected=value)

        assert again == value
        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == value
        assert len(server.requests) == 2

    def test_if_fewer_scopes_are_granted_the_mount_has_no_answer(self, server: TokenServer) -> None:
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], self.MOUNT)

        again = authorize(authenticator, server, [self.challenge("insufficient_scope")], self.MOUNT, rejected=value)

        assert again is None
        assert len(server.requests) == 1
        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == value

    def test_if_the_token_was_for_the_source_the_upload_gets_a_new_one(self, server: TokenServer) -> None:
        """GitLab's token server grants the last of several scopes."""
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], self.MOUNT)
        authorize(authenticator, server, [self.challenge("insufficient_scope")], self.MOUNT, rejected=value)

        alone = authorize(authenticator, server, [self.challenge("insufficient_scope")], [PUSH], rejected=value)

        assert alone == "Bearer token-2"
        assert scopes_of(server.requests[1]) == ["repository:org/app:pull,push"]
        assert authenticator.cached_authorization(REGISTRY, self.MOUNT) == alone

    def test_an_expired_token_for_both_is_replaced(self, server: TokenServer) -> None:
        """R-038."""
        authenticator = authenticator_for(USER)
        value = authorize(authenticator, server, [BEARER], self.MOUNT)

        again = authorize(authenticator, server, [self.challenge("invalid_token")], self.MOUNT, rejected=value)

        assert again == "Bearer token-2"
        assert len(scopes_of(server.requests[1])) == 2

    def test_a_wrong_password_raises_unauthorized(self) -> None:
        with pytest.raises(Unauthorized):
            authorize(authenticator_for(USER), TokenServer(401, 401), [BEARER], self.MOUNT)

    def test_after_a_429_no_other_scopes_are_requested(self) -> None:
        server = TokenServer(429)

        with pytest.raises(RateLimited):
            authorize(authenticator_for(USER), server, [BEARER], self.MOUNT)

        assert len(server.requests) == 1

    @pytest.mark.parametrize("error", [Unavailable("no connection"), Cancelled("by its caller")])
    def test_without_a_response_no_other_scopes_are_requested(self, error: RegistryError) -> None:
        steps = authenticator_for(USER).handle_challenge(REGISTRY, [BEARER], self.MOUNT)
        next(steps)

        with pytest.raises(type(error)):
            steps.throw(error)


class TestOauth:
    def test_an_identity_token_is_sent_with_post(self, server: TokenServer) -> None:
        value = authorize(authenticator_for(IdentityToken("s3cret")), server, [BEARER], [PULL])

        assert value == "Bearer token-1"
        assert server.requests[0].method == "POST"
        assert b"refresh_token=s3cret" in (server.requests[0].body or b"")
        assert "s3cret" not in server.requests[0].url

    @pytest.mark.parametrize("status", [404, 405])
    def test_a_password_is_posted_if_get_is_unsupported(self, status: int) -> None:
        server = TokenServer(status)

        value = authorize(authenticator_for(USER), server, [BEARER], [PULL])

        assert value == "Bearer token-2"
        assert [one.method for one in server.requests] == ["GET", "POST"]
        assert b"grant_type=password" in (server.requests[1].body or b"")

    def test_a_refused_password_is_not_sent_with_the_other_method(self) -> None:
        server = TokenServer(401)

        with pytest.raises(Unauthorized):
            authorize(authenticator_for(USER), server, [BEARER], [PULL])

        assert len(server.requests) == 1

    def test_an_expired_identity_token_raises_unauthorized(self) -> None:
        with pytest.raises(Unauthorized):
            authorize(authenticator_for(IdentityToken("old")), TokenServer(400), [BEARER], [PULL])


class TestScopes:
    def test_a_malformed_repository_scope_belongs_to_the_registry(self, server: TokenServer) -> None:
        keychain = PerRepository({None: USER})
        authenticator = ChallengeAuthenticator(keychain)
        odd = Scope("repository", "No/Repository", ("pull",))

        assert authorize(authenticator, server, [BEARER], [odd]) == "Bearer token-1"
        assert authorize(authenticator, server, [BEARER], [Scope.catalog()]) == "Bearer token-2"
        assert {one.headers["Authorization"] for one in server.requests} == {basic_value(USER)}


class TestRegistryToken:
    def test_a_registry_token_from_a_keychain_answers_a_bearer_challenge_and_is_cached(
        self, server: TokenServer
    ) -> None:
        authenticator = ChallengeAuthenticator(PerRepository({"org/app": RegistryToken("abc")}))

        value = authorize(authenticator, server, [BEARER], [PULL])

        assert value == "Bearer abc"
        assert authenticator.cached_authorization(REGISTRY, [PUSH]) == value
        assert server.requests == []

    def test_a_registry_token_given_directly_is_sent_with_the_first_request(self) -> None:
        authenticator = authenticator_for(RegistryToken("abc"), registry=REGISTRY)

        assert authenticator.cached_authorization(REGISTRY, [PULL]) == "Bearer abc"
        assert authenticator.cached_authorization(EVIL, [PULL]) is None

    def test_a_rejected_registry_token_is_not_sent_again(self, server: TokenServer) -> None:
        authenticator = ChallengeAuthenticator(PerRepository({"org/app": RegistryToken("abc")}))
        value = authorize(authenticator, server, [BEARER], [PULL])

        assert authorize(authenticator, server, [BEARER], [PULL], rejected=value) is None


class TestAuthenticatorFor:
    @pytest.mark.parametrize(
        "other",
        [EVIL, Origin.of("registry.example.com:5000", scheme="http"), Origin.of("registry.example.com")],
        ids=str,
    )
    def test_a_credential_is_sent_to_its_registry_only(self, server: TokenServer, other: Origin) -> None:
        """R-030: not even to the same host and port without TLS."""
        registry = Origin.of("registry.example.com:5000")
        authenticator = authenticator_for(USER, registry=registry)

        assert authorize(authenticator, server, [BASIC], [PULL], registry=other) is None
        assert authorize(authenticator, server, [BASIC], [PULL], registry=registry) == basic_value(USER)

    def test_a_keychain_is_asked_for_port_80_by_its_number(self, server: TokenServer) -> None:
        """An entry without a port is for the port of https as well."""
        names: list[str] = []

        class RecordingKeychain(Keychain):
            def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
                names.append(registry)
                return None

        authenticator = ChallengeAuthenticator(RecordingKeychain())
        for origin in (REGISTRY, Origin.of("registry.example.com", scheme="http")):
            authorize(authenticator, server, [BASIC], [PULL], registry=origin)

        assert names == ["registry.example.com", "registry.example.com:80"]

    def test_an_authenticator_is_returned_unchanged(self) -> None:
        given = StaticTokenAuthenticator(RegistryToken("abc"))

        assert authenticator_for(given) is given

    def test_a_keychain_is_asked(self, server: TokenServer) -> None:
        assert authorize(authenticator_for(PerRepository({"org/app": USER})), server, [BASIC], [PULL]) == basic_value(
            USER
        )

    @pytest.mark.parametrize("auth", [("user", "hunter2"), "hunter2", {"username": "user"}, 5])
    def test_other_types_raise_a_type_error_without_secrets(self, auth: Any) -> None:
        with pytest.raises(TypeError) as caught:
            authenticator_for(auth)

        assert "hunter2" not in str(caught.value)

    def test_an_authenticator_shows_no_secret_and_cannot_be_pickled(self, server: TokenServer) -> None:
        """R-043."""
        authenticator = authenticator_for(USER)
        authorize(authenticator, server, [BEARER], [PULL])

        assert "hunter2" not in repr(authenticator)
        assert "token-1" not in repr(authenticator)
        with pytest.raises(TypeError):
            pickle.dumps(authenticator)
