from __future__ import annotations

import gzip
import logging
import re
import socket
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http.messages import Body, Headers, Request
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.retry import NotConnected, StaleConnection
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_core.cancellation import CancelScope, fail_after
from registry_core.content.streams import ByteReader, BytesSource, CallableSource
from registry_core.domain import url_policy
from registry_core.domain.auth import Basic, Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.domain.url_policy import RULES, CredentialRule, Rule
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageNotFound,
    NotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    TLSError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.observer import (
    Event,
    Observer,
    RequestCompleted,
    RequestRetried,
    Throttled,
    TokenRequested,
    WarningReceived,
)

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import (
        Recorder,
        Reply,
        ScriptedResponses,
        ScriptedServer,
        ScriptedTransport,
        ServerConnection,
    )

    MakeTransport = Callable[..., ScriptedTransport]
    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

REGISTRY = Origin.of("registry.example.com")
SCOPE = Scope.repository(RepositoryName("a/b"), ["pull"])
SETTINGS = HttpSettings(proxy="")
PLAIN_HTTP = HttpSettings(plain_http=True, proxy="")
# Thu, 01 Jan 2026 00:00:00 GMT
EPOCH = 1767225600.0
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="https://registry.example.com/token",service="s"'}


def make_request(
    method: str = "GET", target: str = "/v2/a/b/manifests/v1", *, repeatable: bool = True, content: bytes | None = None
) -> Request:
    return Request(
        method=method,
        target=target,
        success=(200, 201, 202),
        scopes=(SCOPE,),
        headers={"Accept": "text/x"},
        body=None if content is None else Body(BytesSource(content), 0, len(content)),
        reference="registry.example.com/a/b:v1",
        repeatable=repeatable,
    )


class FetchingAuthenticator:
    """Fetch a token for each challenge; record rejected authorizations and finished generators."""

    def __init__(self, *, known: str | None = None) -> None:
        self.known = known
        self.rejected: list[str | None] = []
        self.challenged: list[Challenge] = []
        self.open_generators = 0

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        return self.known

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        self.rejected.append(rejected)
        self.challenged += challenges
        self.open_generators += 1
        try:
            reply = yield TokenRequest(
                method="POST",
                url="https://registry.example.com/token",
                headers={"X-Secret": "password"},
                body=b"refresh",
            )
            if reply.status != 200:
                raise Unauthorized("the token server refused")
            self.known = f"Bearer {reply.content.decode()}"
            return self.known
        finally:
            self.open_generators -= 1


class Clock:
    """A clock that advances only by ``sleep``, and records the pauses."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session(clock: Clock, recorder: Recorder) -> Callable[..., Session]:
    def build(
        transport: ScriptedTransport,
        authenticator: Authenticator | FetchingAuthenticator | None = None,
        *,
        settings: HttpSettings = SETTINGS,
        middleware: Sequence[Middleware] = (),
        observer: Observer = recorder,
    ) -> Session:
        return Session(
            REGISTRY,
            settings,
            middleware=middleware,
            transport=transport,
            authenticator=authenticator,
            observer=observer,
            sleep=clock.sleep,
            random=lambda: 1.0,
            clock=clock,
            now=lambda: clock.time + EPOCH,
        )

    return build


class SingleResponses:
    """A script: one prepared response on each connection."""

    def __init__(self, *responses: bytes) -> None:
        self._responses = list(responses)
        self.served = 0

    def __call__(self, connection: ServerConnection) -> None:
        if connection.receive() is not None:
            self.served += 1
            connection.send(self._responses.pop(0))


class TestSend:
    def test_a_path_is_requested_from_the_registry(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200, {}, b"content"))

        with session(transport).send(make_request()) as response:
            content = response.content(100)

        assert content == b"content"
        assert transport.sent == [
            ("GET", "https://registry.example.com/v2/a/b/manifests/v1", {"Accept": "text/x"}, None)
        ]

    def test_other_statuses_than_success_are_errors(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-055."""
        transport = scripted(reply(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'))

        with pytest.raises(ImageNotFound) as caught:
            session(transport).send(make_request())

        assert caught.value.reference == "registry.example.com/a/b:v1"
        assert caught.value.transport is not None
        assert caught.value.transport.errors[0].code == "MANIFEST_UNKNOWN"

    @pytest.mark.parametrize("status", [300, 304, 305, 306])
    def test_other_statuses_with_a_location_are_not_followed(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], status: int
    ) -> None:
        """R-041."""
        transport = scripted(reply(status, {"Location": "/on"}), reply(200))

        with pytest.raises(ProtocolError) as caught:
            session(transport).send(make_request())

        assert (caught.value.status, len(transport.sent)) == (status, 1)

    @pytest.mark.parametrize("status", [203, 204, 206, 304])
    def test_other_2xx_statuses_are_errors(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], status: int
    ) -> None:
        """R-055."""
        with pytest.raises(ProtocolError):
            session(scripted(reply(status))).send(make_request())

    def test_an_absolute_target_is_checked_before_a_request_is_sent(
        self, session: Callable[..., Session], scripted: MakeTransport
    ) -> None:
        """R-033, R-046."""
        transport = scripted()

        with pytest.raises(ProtocolError):
            session(transport).send(make_request(target="http://registry.example.com/upload"))

        assert transport.sent == []

    def test_errors_of_the_transport_have_the_reference(
        self, session: Callable[..., Session], scripted: MakeTransport
    ) -> None:
        with pytest.raises(TLSError) as caught:
            session(scripted(TLSError("no"))).send(make_request())

        assert caught.value.reference == "registry.example.com/a/b:v1"

    def test_closing_the_session_closes_the_transport(
        self, session: Callable[..., Session], scripted: MakeTransport
    ) -> None:
        transport = scripted()

        session(transport).close()

        assert transport.closed


class TestAuth:
    def test_a_cached_authorization_is_sent_at_once(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200))

        session(transport, FetchingAuthenticator(known="Bearer old")).send(make_request())

        assert transport.sent[0].headers["Authorization"] == "Bearer old"

    def test_a_challenge_is_answered_and_the_request_repeated_with_its_body(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-038."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"new"), reply(201))
        authenticator = FetchingAuthenticator(known="Bearer old")

        session(transport, authenticator).send(make_request("PUT", content=b"body", repeatable=False))

        assert [(sent.method, sent.url, sent.body) for sent in transport.sent] == [
            ("PUT", "https://registry.example.com/v2/a/b/manifests/v1", b"body"),
            ("POST", "https://registry.example.com/token", b"refresh"),
            ("PUT", "https://registry.example.com/v2/a/b/manifests/v1", b"body"),
        ]
        assert transport.sent[1].headers == {"X-Secret": "password"}
        assert transport.sent[2].headers["Authorization"] == "Bearer new"
        assert authenticator.rejected == ["Bearer old"]
        assert authenticator.challenged[0].parameters["service"] == "s"

    def test_at_most_two_challenges_are_answered(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-038."""
        refusal = reply(401, CHALLENGE)
        transport = scripted(refusal, reply(200, {}, b"1"), refusal, reply(200, {}, b"2"), refusal)
        authenticator = FetchingAuthenticator()

        with pytest.raises(Unauthorized):
            session(transport, authenticator).send(make_request())

        assert authenticator.rejected == [None, "Bearer 1"]
        assert not transport.replies

    def test_an_unchanged_authorization_is_not_sent_again(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-038."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"old"))

        with pytest.raises(Unauthorized, match=r"\(the token was refused\)"):
            session(transport, FetchingAuthenticator(known="Bearer old")).send(make_request())

        assert len(transport.sent) == 2

    def test_without_an_authenticator_a_challenge_raises_unauthorized(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        with pytest.raises(Unauthorized, match=r"\(no credentials were sent\)"):
            session(scripted(reply(401, CHALLENGE))).send(make_request())

    def test_a_403_is_not_answered_as_a_challenge(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-038."""
        authenticator = FetchingAuthenticator()

        with pytest.raises(PermissionError):
            session(scripted(reply(403, CHALLENGE), reply(200)), authenticator).send(make_request())

        assert authenticator.rejected == []

    def test_the_token_request_follows_no_redirect(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-036."""
        transport = scripted(reply(401, CHALLENGE), reply(307, {"Location": "https://evil.example.net/"}))

        with pytest.raises(Unauthorized, match="token server"):
            session(transport, FetchingAuthenticator()).send(make_request())

        assert len(transport.sent) == 2

    def test_an_encoded_token_response_is_an_error_that_names_the_coding(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-056: a response that is JSON counts, whatever the header says."""
        headers, token = {"Content-Encoding": "gzip"}, b'{"token":"t0ken"}'
        authenticator = authenticator_for(Basic("user", "hunter2"))
        encoded = scripted(reply(401, CHALLENGE), reply(200, headers, gzip.compress(token)))
        plain = scripted(reply(401, CHALLENGE), reply(200, headers, token), reply(200))

        with pytest.raises(ProtocolError, match="Content-Encoding 'gzip'"):
            session(encoded, authenticator).send(make_request())
        session(plain, authenticator).send(make_request()).close()

        assert plain.sent[-1].headers["Authorization"] == "Bearer t0ken"

    def test_an_endless_token_response_is_refused(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-039."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"x" * (64 * 1024 + 1)))
        authenticator = FetchingAuthenticator()

        with pytest.raises(ProtocolError):
            session(transport, authenticator).send(make_request())

        assert authenticator.open_generators == 0

    def test_a_transient_error_of_the_token_server_is_retried(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        transport = scripted(reply(401, CHALLENGE), reply(503), reply(200, {}, b"new"), reply(200))

        session(transport, FetchingAuthenticator()).send(make_request())

        assert (len(transport.sent), clock.pauses) == (4, [0.5])

    def test_a_failed_token_request_closes_the_generator_of_the_authenticator(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """Otherwise other threads would wait for that token forever."""
        authenticator = FetchingAuthenticator()

        with pytest.raises(TLSError):
            session(scripted(reply(401, CHALLENGE), TLSError("no")), authenticator).send(make_request())

        assert authenticator.open_generators == 0

    def test_an_error_of_the_authenticator_has_the_refusal_as_transport(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        with pytest.raises(Unauthorized) as caught:
            session(scripted(reply(401, CHALLENGE), reply(400)), FetchingAuthenticator()).send(make_request())

        assert caught.value.transport is not None
        assert (caught.value.transport.status, caught.value.reference) == (401, "registry.example.com/a/b:v1")


class TestUrlPolicy:
    """R-030: the table in the reference documentation is the one that decides where credentials are sent."""

    @pytest.fixture(autouse=True)
    def policy_without_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_credentials = {
            purpose: Rule(cross_origin=rule.cross_origin, credentials=CredentialRule.NONE, hops=rule.hops)
            for purpose, rule in RULES.items()
        }
        monkeypatch.setattr(url_policy, "RULES", without_credentials)

    def test_credentials_that_the_policy_does_not_allow_are_not_sent(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(307, {"Location": "/elsewhere"}), reply(200))

        session(transport, FetchingAuthenticator(known="Bearer t")).send(make_request())

        assert ["Authorization" in sent.headers for sent in transport.sent] == [False, False]

    def test_challenges_that_the_policy_does_not_allow_are_not_answered(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(401, CHALLENGE))

        with pytest.raises(Unauthorized):
            session(transport, FetchingAuthenticator()).send(make_request())

        assert len(transport.sent) == 1

    def test_token_requests_have_no_credentials_that_the_policy_does_not_allow(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        client_session = session(transport := scripted(reply(401, CHALLENGE)), FetchingAuthenticator())
        monkeypatch.setattr(
            client_session,
            "_allowed_origin",
            msgspec.structs.replace(client_session._allowed_origin, credentials=REGISTRY),
        )

        with pytest.raises(ProtocolError, match="credentials must not be sent there"):
            client_session.send(make_request())

        assert len(transport.sent) == 1


class TestRedirects:
    def test_credentials_go_to_the_registry_only(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-030, R-207."""
        transport = scripted(
            reply(307, {"Location": "/elsewhere"}),
            reply(307, {"Location": "https://registry.example.com:8443/x"}),
            reply(307, {"Location": "https://cdn.example.net/x?sig=1"}),
            reply(307, {"Location": "https://REGISTRY.example.com:443/back"}),
            reply(200),
        )

        response = session(transport, FetchingAuthenticator(known="Bearer t")).send(make_request())

        assert [sent.headers.get("Authorization") for sent in transport.sent] == [
            "Bearer t",
            "Bearer t",
            None,
            None,
            "Bearer t",
        ]
        assert response.url == "https://REGISTRY.example.com:443/back"

    def test_a_challenge_from_another_host_is_not_answered(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-031."""
        authenticator = FetchingAuthenticator(known="Bearer t")
        transport = scripted(reply(307, {"Location": "https://cdn.example.net/x"}), reply(401, CHALLENGE))

        with pytest.raises(Unauthorized):
            session(transport, authenticator).send(make_request())

        assert (authenticator.rejected, len(transport.sent)) == ([], 2)

    def test_a_redirect_from_https_to_http_is_refused(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-041."""
        transport = scripted(reply(307, {"Location": "http://registry.example.com/x"}))

        with pytest.raises(ProtocolError, match="https to http") as caught:
            session(transport, FetchingAuthenticator(known="Bearer t")).send(make_request())

        assert (len(transport.sent), caught.value.status) == (1, 307)

    def test_at_most_ten_redirects_are_followed(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-042."""
        redirect = reply(302, {"Location": "/on"})

        with session(scripted(*[redirect] * 10, reply(200))).send(make_request()) as response:
            status = response.status
        endless = scripted(*[redirect] * 11)
        with pytest.raises(ProtocolError, match="redirects"):
            session(endless).send(make_request())

        assert (status, len(endless.sent)) == (200, 11)

    def test_a_307_repeats_the_request_with_its_body(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(308, {"Location": "/on"}), reply(201))

        session(transport).send(make_request("PUT", content=b"body"))

        assert [(sent.method, sent.body) for sent in transport.sent] == [("PUT", b"body")] * 2

    def test_a_delete_does_not_become_a_get(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-254."""
        transport = scripted(reply(302, {"Location": "/on"}))

        with pytest.raises(ProtocolError):
            session(transport).send(make_request("DELETE"))

        assert len(transport.sent) == 1


class TestRetries:
    @pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504, 522])
    def test_transient_failures_are_retried(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock, status: int
    ) -> None:
        """R-054."""
        transport = scripted(reply(status), Unavailable("cut"), reply(200))

        session(transport).send(make_request("PUT", content=b"body"))

        assert [sent.body for sent in transport.sent] == [b"body"] * 3
        assert clock.pauses == [0.5, 1.0]

    def test_the_number_of_attempts_is_limited(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        transport = scripted(*[reply(503)] * 9)

        with pytest.raises(Unavailable) as caught:
            session(transport).send(make_request())

        assert (len(transport.sent), clock.pauses) == (4, [0.5, 1.0, 2.0])
        assert (caught.value.status, caught.value.reference) == (503, "registry.example.com/a/b:v1")

    def test_the_setting_backoff_is_the_length_of_the_first_pause(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        transport = scripted(reply(503), Unavailable("cut"), reply(200))

        session(transport, settings=HttpSettings(proxy="", backoff=0.1)).send(make_request())

        assert clock.pauses == [pytest.approx(0.1), pytest.approx(0.2)]

    def test_permanent_failures_are_raised_at_once(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-054."""
        transport = scripted(reply(501), reply(200))

        with pytest.raises(ServerError):
            session(transport).send(make_request())

        assert len(transport.sent) == 1

    def test_a_pause_that_the_registry_asked_for_is_kept(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        session(scripted(reply(429, {"Retry-After": "7"}), reply(200))).send(make_request())

        assert clock.pauses == [7.0]

    def test_a_pause_beyond_the_maximum_is_an_error(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        with pytest.raises(RateLimited) as caught:
            session(scripted(reply(429, {"Retry-After": "3600"}), reply(200))).send(make_request())

        assert (caught.value.retry_after, clock.pauses) == (3600.0, [])

    @pytest.mark.parametrize(("status", "error"), [(503, Unavailable), (500, ServerError)])
    def test_no_pause_goes_beyond_the_deadline(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        clock: Clock,
        status: int,
        error: type[RegistryError],
    ) -> None:
        """R-052: neither the pause of all requests nor that of a single request."""
        transport = scripted(reply(status, {"Retry-After": "30"}), reply(200))

        with fail_after(20), pytest.raises(error):
            session(transport).send(make_request())

        assert (len(transport.sent), clock.pauses) == (1, [])

    @pytest.mark.parametrize("failure", [Unavailable("cut"), StaleConnection("gone")])
    def test_a_request_with_side_effects_is_not_repeated_after_a_lost_response(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], failure: Unavailable
    ) -> None:
        """R-053."""
        transport = scripted(failure, reply(202))

        with pytest.raises(Unavailable):
            session(transport).send(make_request("PATCH", content=b"chunk", repeatable=False))

        assert len(transport.sent) == 1

    def test_a_request_with_side_effects_is_repeated_if_nothing_was_done(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-054."""
        transport = scripted(NotConnected("no"), reply(429), reply(503), reply(202))

        session(transport).send(make_request("POST", repeatable=False))

        assert len(transport.sent) == 4

    def test_a_stale_connection_is_replaced_silently(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        clock: Clock,
        recorder: Recorder,
    ) -> None:
        """R-053: by a new one, because the other idle connections may have been closed as well."""
        transport = scripted(StaleConnection("gone"), StaleConnection("gone"), reply(200))

        session(transport).send(make_request())

        assert [sent.headers.get("Connection") for sent in transport.sent] == [None, "close", "close"]
        assert clock.pauses == []
        assert not [event for event in recorder.events if isinstance(event, RequestRetried)]

    @pytest.mark.parametrize("end", [Cancelled("stop"), DeadlineExceeded("late")])
    def test_cancellations_and_deadlines_are_not_retried(
        self, session: Callable[..., Session], scripted: MakeTransport, end: Exception
    ) -> None:
        transport = scripted(end)

        with pytest.raises(type(end)):
            session(transport).send(make_request())

        assert len(transport.sent) == 1

    def test_a_date_in_retry_after_is_compared_with_the_time_of_day(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        session(scripted(reply(503, {"Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT"}), reply(200))).send(make_request())

        assert clock.pauses == [9.0]

    def test_a_malformed_retry_after_is_ignored(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        session(scripted(reply(503, {"Retry-After": "soon"}), reply(200))).send(make_request())

        assert clock.pauses == [0.5]

    def test_the_code_toomanyrequests_counts_as_429(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        content = b'{"errors":[{"code":"TOOMANYREQUESTS"}]}'

        session(scripted(reply(400, {}, content), reply(200))).send(make_request())

        assert clock.pauses == [0.5]

    @pytest.mark.parametrize(
        ("failure", "raised", "attempts"),
        [
            (StaleConnection("gone"), StaleConnection, "(1 attempt, 0.00 s)"),
            (NotConnected("no"), Unavailable, "(4 attempts, 3.50 s)"),
        ],
    )
    def test_failed_connections_are_raised_with_the_attempts(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        failure: Unavailable,
        raised: type[Unavailable],
        attempts: str,
    ) -> None:
        """R-053, R-062: an upload tells a closed idle connection from a failure of the registry."""
        failure.method = "PATCH"
        failure.__cause__ = OSError("behind it")
        message = f"{failure.message} {attempts}"

        with pytest.raises(Unavailable) as caught:
            session(scripted(*[failure] * 4)).send(make_request("PATCH", content=b"x", repeatable=False))

        error = caught.value
        assert (type(error), error.message, error.method) == (raised, message, "PATCH")
        assert (error.reference, error.__cause__) == ("registry.example.com/a/b:v1", failure.__cause__)

    def test_an_idle_connection_that_was_closed_is_replaced_for_a_post_without_content(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-053: an upload session that is opened twice expires unused."""
        transport = scripted(StaleConnection("gone"), reply(200))

        session(transport, settings=HttpSettings(retries=0)).send(make_request("POST", repeatable=False))

        assert len(transport.sent) == 2
        assert clock.pauses == []

    def test_a_407_is_not_retried(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-054."""
        transport = scripted(reply(407), reply(200))

        with pytest.raises(ProtocolError, match="proxy") as caught:
            session(transport).send(make_request())

        assert (len(transport.sent), caught.value.status) == (1, 407)

    def test_cancelling_ends_a_pause(self, scripted: MakeTransport, reply: type[Reply]) -> None:
        """R-052."""
        scope = CancelScope()

        class Canceller:
            def on(self, event: Event) -> None:
                if isinstance(event, RequestRetried):
                    scope.cancel()

        client_session = Session(
            REGISTRY, SETTINGS, transport=scripted(reply(429, {"Retry-After": "50"}), reply(200)), observer=Canceller()
        )

        with scope, pytest.raises(Cancelled):
            client_session.send(make_request())

    def test_the_start_of_an_upload_is_repeated_after_a_lost_response(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-053: an unused session expires."""
        transport = scripted(Unavailable("cut"), reply(500), reply(202))

        session(transport).send(make_request("POST", repeatable=False))

        assert len(transport.sent) == 3


class TestDelete:
    @pytest.mark.parametrize("failure", [Unavailable("cut"), StaleConnection("gone"), 500, 502, 503, 504])
    def test_a_404_to_a_repeated_delete_is_a_success(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], failure: Unavailable | int
    ) -> None:
        """R-053."""
        lost = reply(failure) if isinstance(failure, int) else failure

        with session(scripted(lost, reply(404))).send(make_request("DELETE")) as response:
            status = response.status

        assert status == 404

    @pytest.mark.parametrize("failure", [NotConnected("no"), 429, None])
    def test_a_404_is_an_error_if_the_first_attempt_was_never_sent(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        failure: NotConnected | int | None,
    ) -> None:
        """R-053."""
        before = [reply(failure) if isinstance(failure, int) else failure] if failure is not None else []

        with pytest.raises(ImageNotFound):
            session(scripted(*before, reply(404))).send(make_request("DELETE"))

    def test_a_404_is_an_error_if_only_the_token_request_failed(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-053: a 401 carries nothing out."""
        transport = scripted(
            reply(401, CHALLENGE), *[reply(503)] * 4, reply(401, CHALLENGE), reply(200, {}, b"new"), reply(404)
        )

        with pytest.raises(ImageNotFound):
            session(transport, FetchingAuthenticator()).send(make_request("DELETE"))

        assert [sent.method for sent in transport.sent] == ["DELETE", *["POST"] * 4, "DELETE", "POST", "DELETE"]

    def test_a_404_to_the_repetition_of_a_get_is_an_error(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        with pytest.raises(ImageNotFound):
            session(scripted(Unavailable("cut"), reply(404))).send(make_request())


class TestPauses:
    def test_a_429_also_delays_the_next_request(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        client_session = session(
            scripted(reply(503, {"Retry-After": "7"}), reply(200)), settings=HttpSettings(proxy="", retries=0)
        )
        with pytest.raises(Unavailable):
            client_session.send(make_request())
        before = list(clock.pauses)

        client_session.send(make_request())

        assert (before, clock.pauses) == ([], [7.0])

    def test_requests_to_another_host_do_not_wait(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        transport = scripted(
            reply(307, {"Location": "https://cdn.example.net/x"}), reply(429, {"Retry-After": "7"}), reply(200)
        )
        client_session = session(transport, settings=HttpSettings(proxy="", retries=0))
        with pytest.raises(RateLimited):
            client_session.send(make_request())

        client_session.send(make_request())

        assert clock.pauses == []

    def test_a_pause_beyond_the_maximum_does_not_stop_other_requests(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        client_session = session(scripted(reply(429, {"Retry-After": "3600"}), reply(200)))
        with pytest.raises(RateLimited):
            client_session.send(make_request())

        client_session.send(make_request())

        assert clock.pauses == []

    def test_a_pause_beyond_the_deadline_is_an_error_before_the_request(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        """R-052."""
        transport = scripted(reply(503, {"Retry-After": "30"}), reply(200))
        client_session = session(transport, settings=HttpSettings(proxy="", retries=0))
        with pytest.raises(Unavailable):
            client_session.send(make_request())

        with fail_after(20), pytest.raises(Unavailable) as caught:
            client_session.send(make_request())

        assert (caught.value.status, caught.value.retry_after, len(transport.sent)) == (503, 30.0, 1)
        assert (caught.value.reference, clock.pauses) == ("registry.example.com/a/b:v1", [])

    def test_requests_per_second_spreads_requests_evenly(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], clock: Clock
    ) -> None:
        client_session = session(
            scripted(*[reply(200)] * 3), settings=HttpSettings(proxy="", requests_per_second=2.0, max_connections=1)
        )

        for _ in range(3):
            client_session.send(make_request()).close()

        assert clock.pauses == [0.5, 0.5]


class TestFetch:
    def test_a_body_that_breaks_off_is_requested_again(
        self, start_server: StartServer, response_bytes: ResponseBytes, recorder: Recorder
    ) -> None:
        """R-050, R-054."""
        script = SingleResponses(
            response_bytes(200, b"whole content", {"X-Try": "1"})[:-5],
            response_bytes(200, b"whole content", {"X-Try": "2"}),
        )
        server = start_server(script)

        with closing(
            Session(server.origin, PLAIN_HTTP, observer=recorder, sleep=lambda seconds: None, random=lambda: 0.0)
        ) as client_session:
            document = client_session.fetch(make_request(), 100)

        assert (document.content, document.headers.get("X-Try")) == (b"whole content", "2")
        assert document.url == f"{server.origin}/v2/a/b/manifests/v1"
        assert [event.reason for event in recorder.events if isinstance(event, RequestRetried)] == ["Unavailable"]

    def test_a_body_that_always_breaks_off_is_an_error(
        self, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """R-050, R-054."""
        script = SingleResponses(*[response_bytes(200, b"whole content")[:-5]] * 9)
        server = start_server(script)

        with closing(Session(server.origin, PLAIN_HTTP, sleep=lambda seconds: None)) as client_session:
            with pytest.raises(Unavailable) as caught:
                client_session.fetch(make_request(), 100)

        assert (script.served, caught.value.reference) == (4, "registry.example.com/a/b:v1")

    def test_a_body_that_is_too_large_is_not_requested_again(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200, {}, b"12345"), reply(200))

        with pytest.raises(TooLarge, match="the page") as caught:
            session(transport).fetch(make_request(), 4, what="the page")

        assert (len(transport.sent), caught.value.reference) == (1, "registry.example.com/a/b:v1")

    def test_a_body_with_a_content_coding_is_returned_as_it_came(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-056: none is undone; the reader of the body decides."""
        content = gzip.compress(b"123")
        transport = scripted(reply(200, {"Content-Encoding": "gzip"}, content))

        assert session(transport).fetch(make_request(), 100).content == content

    def test_an_error_body_with_a_content_coding_is_read_if_it_is_plain_text_and_named_otherwise(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-056, R-241."""
        body, headers = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone"}]}', {"Content-Encoding": "gzip"}
        transport = scripted(reply(404, headers, body), reply(404, headers, gzip.compress(body)))

        with pytest.raises(NotFound, match=r"404 MANIFEST_UNKNOWN: gone$"):
            session(transport).send(make_request())
        with pytest.raises(NotFound, match=r"404 Not Found \(the response has the Content-Encoding 'gzip'\)"):
            session(transport).send(make_request())


class TestPathPrefix:
    def test_the_prefix_precedes_v2(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200), reply(200))
        client_session = session(transport, settings=HttpSettings(proxy="", path_prefix="/registry"))

        client_session.send(make_request())
        client_session.send(make_request(target="https://registry.example.com/v2/a/b/next"))

        assert [sent.url for sent in transport.sent] == [
            "https://registry.example.com/registry/v2/a/b/manifests/v1",
            "https://registry.example.com/v2/a/b/next",
        ]


class RaisingObserver:
    """An observer that fails at one kind of event."""

    def __init__(self, kind: type[Event]) -> None:
        self._kind = kind
        self.error = RuntimeError("the observer's own")

    def on(self, event: Event) -> None:
        if isinstance(event, self._kind):
            raise self.error


class TestFailingObservers:
    @pytest.mark.parametrize("kind", [RequestCompleted, Throttled, WarningReceived])
    def test_an_error_of_an_observer_is_raised_and_the_response_closed(
        self,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        responses: type[ScriptedResponses],
        kind: type[Event],
    ) -> None:
        """The body is not read and the connection is closed; the client remains usable on a new one."""
        headers = {"Warning": '299 - "careful"', "Retry-After": "0"}
        server = start_server(
            responses(
                response_bytes(503 if kind is Throttled else 200, b"x" * 500_000, headers), response_bytes(200, b"mine")
            )
        )
        observer = RaisingObserver(kind)
        events: list[type[Event]] = []

        class FailingOnce:
            def on(self, event: Event) -> None:
                if type(event) not in events:
                    events.append(type(event))
                    observer.on(event)

        settings = HttpSettings(plain_http=True, proxy="", max_connections=1)
        with closing(Session(server.origin, settings, observer=FailingOnce())) as client_session:
            with pytest.raises(RuntimeError) as caught:
                client_session.send(make_request())
            with client_session.send(make_request()) as response:
                content = response.content(100)

        assert caught.value is observer.error
        assert (content, server.connections) == (b"mine", 2)

    @pytest.mark.parametrize("kind", [RequestRetried, TokenRequested])
    def test_an_error_of_an_observer_at_any_event_is_raised(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], kind: type[Event]
    ) -> None:
        observer = RaisingObserver(kind)
        authenticator = FetchingAuthenticator()
        transport = scripted(reply(502), reply(401, CHALLENGE), reply(200, {}, b"new"), reply(200))

        with pytest.raises(RuntimeError) as caught:
            session(transport, authenticator, observer=observer).send(make_request())

        assert caught.value is observer.error
        assert authenticator.open_generators == 0


class TestHeaders:
    def test_two_different_locations_are_an_error(self) -> None:
        """R-042."""
        headers = Headers([("Location", "/a"), ("location", "/b")])

        with pytest.raises(ProtocolError, match="Location"):
            headers.get("Location")

    def test_a_repeated_identical_location_is_accepted(self) -> None:
        assert Headers([("Location", "/a"), ("location", "/a")]).get("Location") == "/a"

    def test_other_headers_with_two_values_are_ignored(self) -> None:
        """R-058."""
        assert Headers([("Content-Length", "1"), ("Content-Length", "2")]).get("Content-Length") == ""

    def test_a_redirect_with_two_locations_is_an_error(
        self, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-042."""
        server = start_server(
            responses(b"HTTP/1.1 307 Go\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")
        )

        with closing(Session(server.origin, PLAIN_HTTP)) as client_session:
            with pytest.raises(ProtocolError, match="Location") as caught:
                client_session.send(make_request())

        assert (caught.value.status, caught.value.method) == (307, "GET")


class TestReports:
    def test_each_request_is_reported_without_secrets(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        recorder: Recorder,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """R-043."""
        caplog.set_level(logging.DEBUG, "registry_adapters.http")
        transport = scripted(
            reply(401, CHALLENGE),
            reply(200, {}, b"token-secret"),
            reply(307, {"Location": "https://cdn.example.net/x?sig=signed-secret"}),
            reply(200),
        )

        session(transport, FetchingAuthenticator(known="Bearer old-secret")).send(make_request())

        exchanges = [event for event in recorder.events if isinstance(event, RequestCompleted)]
        assert [(event.method, event.status) for event in exchanges] == [
            ("GET", 401),
            ("POST", 200),
            ("GET", 307),
            ("GET", 200),
        ]
        assert len(caplog.records) == 4
        assert "secret" not in f"{recorder.events}{caplog.text}"
        assert "password" not in f"{recorder.events}{caplog.text}"

    def test_retries_are_reported(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], recorder: Recorder
    ) -> None:
        session(scripted(reply(503), reply(200))).send(make_request())

        retries = [event for event in recorder.events if isinstance(event, RequestRetried)]
        assert [(event.attempt, event.pause, event.reason) for event in retries] == [(1, 0.5, "Unavailable 503")]

    def test_tokens_are_reported(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], recorder: Recorder
    ) -> None:
        transport = scripted(reply(401, CHALLENGE), reply(502), reply(200, {}, b"new"), reply(200))

        session(transport, FetchingAuthenticator()).send(make_request())

        tokens = [event for event in recorder.events if isinstance(event, TokenRequested)]
        assert [(event.registry, event.url, event.scopes, event.status) for event in tokens] == [
            ("registry.example.com", "https://registry.example.com/token", ("repository:a/b:pull",), status)
            for status in (502, 200)
        ]

    def test_pauses_are_reported(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], recorder: Recorder
    ) -> None:
        session(scripted(reply(429, {"Retry-After": "7"}), reply(429), reply(200))).send(make_request())

        pauses = [event for event in recorder.events if isinstance(event, Throttled)]
        assert [(event.registry, event.pause, event.limit) for event in pauses] == [
            ("registry.example.com", 7.0, 4),
            ("registry.example.com", 1.0, 2),
        ]

    def test_logs_quote_nothing_from_a_server(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """R-043."""
        caplog.set_level(logging.DEBUG)
        headers = {"Warning": '299 - "written"', "Retry-After": "3", "X-Other": "written"}
        transport = scripted(reply(503, headers, b'{"errors":[{"code":"WRITTEN"}]}'), reply(200, {}, b"written"))

        session(transport).fetch(make_request("GET", "/v2/a/b/manifests/v1?token=written"), 100)

        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == 5
        assert "written" not in caplog.text.lower()
        assert "attempt 1 failed (Unavailable 503), again in 3.000 s" in texts[3]

    def test_logs_give_the_reason_of_each_failed_attempt(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """R-064: of the last attempt too, and of a request that is not repeated."""
        caplog.set_level(logging.DEBUG)
        refused = "connect to registry.example.com: connection refused"
        lost = "GET https://registry.example.com/v2/a/b/manifests/v1: connection lost: connection reset by peer"
        transport = scripted(NotConnected(refused), Unavailable(lost), reply(503), NotConnected(refused))

        with pytest.raises(Unavailable):
            session(transport).send(make_request())

        texts = [record.getMessage() for record in caplog.records]
        assert [text for text in texts if refused in text] == [texts[0], texts[1], texts[-1]]
        assert texts[0].endswith(f"no response ({refused}) after 0.000 s")
        assert f"attempt 1 failed ({refused}), again in" in texts[1]
        assert texts[2].endswith(f"no response ({lost}) after 0.000 s")
        assert f"attempt 2 failed ({lost}), again in" in texts[3]
        assert texts[-1].endswith(f"no response ({refused}) after 0.000 s")

    def test_warnings_are_reported_once_escaped_and_cut(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], recorder: Recorder
    ) -> None:
        """R-240."""
        with_warning = reply(200, {"Warning": '299 - "say \\"hi\\"\x1b[2J"'})
        long = reply(200, {"Warning": f'299 - "{"x" * 1000}"'})
        client_session = session(scripted(with_warning, with_warning, long))

        for _ in range(3):
            client_session.send(make_request())

        texts = [event.text for event in recorder.events if isinstance(event, WarningReceived)]
        assert texts[0] == 'say "hi"\\x1b[2J'
        assert len(texts) == 2
        assert len(texts[1]) <= 500

    @pytest.mark.parametrize("value", ['199 - "other code"', "299 - unquoted", "299", ""])
    def test_other_warnings_are_ignored(
        self,
        session: Callable[..., Session],
        scripted: MakeTransport,
        reply: type[Reply],
        recorder: Recorder,
        value: str,
    ) -> None:
        """R-240."""
        session(scripted(reply(200, {"Warning": value}))).send(make_request())

        assert not [event for event in recorder.events if isinstance(event, WarningReceived)]

    def test_the_number_of_warnings_is_limited(
        self, session: Callable[..., Session], scripted: MakeTransport, reply: type[Reply], recorder: Recorder
    ) -> None:
        """R-240."""
        client_session = session(scripted(*[reply(200, {"Warning": f'299 - "{n}"'}) for n in range(400)]))

        for _ in range(400):
            client_session.send(make_request())

        assert len([event for event in recorder.events if isinstance(event, WarningReceived)]) == 256


class TestScriptedServer:
    def test_credentials_never_reach_another_port(
        self, start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
    ) -> None:
        """R-030."""
        cdn_responses = responses(response_bytes(200, b"blob"))
        cdn = start_server(cdn_responses)
        home = start_server(responses(response_bytes(307, headers={"Location": f"{cdn.origin}/x"})))

        with closing(
            Session(
                home.origin,
                HttpSettings(plain_http=True, proxy=""),
                authenticator=FetchingAuthenticator(known="Bearer t"),
            )
        ) as session:
            with session.send(make_request()) as response:
                content = response.content(100)

        assert content == b"blob"
        assert "authorization" not in cdn_responses.received[0].headers

    def test_the_error_of_a_refused_connection_has_the_number_of_attempts(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        with closing(Session(Origin("http", "127.0.0.1", port), PLAIN_HTTP, sleep=lambda seconds: None)) as session:
            with pytest.raises(Unavailable) as caught:
                session.send(make_request())

        assert re.fullmatch(
            rf"connect to 127\.0\.0\.1:{port}: connection refused \(4 attempts, \d+\.\d\d s\)", caught.value.message
        )

    def test_a_407_to_connect_is_not_retried(
        self, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-054."""
        script = responses(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        server = start_server(script)

        with closing(Session(REGISTRY, HttpSettings(proxy=str(server.origin)))) as session:
            with pytest.raises(ProtocolError, match="proxy wants other credentials"):
                session.send(make_request())

        assert [received.method for received in script.received] == ["CONNECT"]
        assert server.connections == 1

    def test_a_connection_closed_by_the_server_is_replaced(
        self, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """R-053."""

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(response_bytes(200, b"once"))
            connection.receive()

        server = start_server(script)
        contents = []

        with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", retries=0))) as session:
            for _ in range(3):
                with session.send(make_request()) as response:
                    contents.append(response.content(100))

        assert contents == [b"once"] * 3

    def test_an_error_of_the_source_is_raised_unchanged(self, start_server: StartServer) -> None:
        broken = Unavailable("the other registry is down", reference="elsewhere/a:v1")
        client_session = []

        def fail(start: int) -> ByteReader:
            client_session.append(start)
            raise broken

        server = start_server(lambda connection: connection.wait())
        request = Request(method="PUT", target="/v2/", success=(201,), body=Body(CallableSource(fail), 3, 5))

        with closing(Session(server.origin, HttpSettings(plain_http=True, proxy=""))) as session:
            with pytest.raises(Unavailable) as caught:
                session.send(request)

        assert caught.value is broken
        assert client_session == [3]
