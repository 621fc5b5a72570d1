from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http.exchange import Body, Request
from registry_adapters.http.retry import Stale, Unreached
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_core.content.source import ByteReader, BytesSource, OpenerSource
from registry_core.domain.access import Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageNotFound,
    ProtocolError,
    RateLimited,
    ServerError,
    TLSError,
    Unauthorized,
    Unavailable,
)
from registry_core.ports.observer import Exchange, Retry, Warned
from registry_core.scope import fail_after

if TYPE_CHECKING:
    from tests.unit.adapters.http.conftest import Answers, Peer, Recorder, Reply, ScriptedTransport, Wire

    Script = Callable[..., ScriptedTransport]
    Serve = Callable[[Callable[[Peer], None]], Wire]
    Say = Callable[..., bytes]

HOME = Origin.of("registry.example.com")
SCOPE = Scope.repository(RepositoryName("a/b"), ["pull"])
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="https://registry.example.com/token",service="s"'}


def ask(
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


class Fetching:
    """Fetches a token for each challenge; knows what was rejected, and whether each turn was brought to its end."""

    def __init__(self, *, known: str | None = None) -> None:
        self.known = known
        self.rejected: list[str | None] = []
        self.challenged: list[Challenge] = []
        self.open = 0

    def remembered(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        return self.known

    def answer(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        self.rejected.append(rejected)
        self.challenged += challenges
        self.open += 1
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
            self.open -= 1


class Clock:
    """Collects pauses instead of sleeping."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session(clock: Clock, recorder: Recorder) -> Callable[..., Session]:
    def build(transport: ScriptedTransport, authenticator: Fetching | None = None, *, origin: Origin = HOME) -> Session:
        return Session(
            origin,
            HttpSettings(proxy=""),
            transport=transport,
            authenticator=authenticator,
            observer=recorder,
            sleep=clock.sleep,
            random=lambda: 1.0,
        )

    return build


class TestSend:
    def test_a_path_is_asked_of_the_registry(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200, {}, b"content"))

        with session(transport).send(ask()) as answer:
            content = answer.content(100)

        assert content == b"content"
        assert transport.sent == [
            ("GET", "https://registry.example.com/v2/a/b/manifests/v1", {"Accept": "text/x"}, None)
        ]

    def test_other_statuses_than_success_are_errors(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-055."""
        transport = scripted(reply(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'))

        with pytest.raises(ImageNotFound) as caught:
            session(transport).send(ask())

        assert caught.value.reference == "registry.example.com/a/b:v1"
        assert caught.value.transport is not None
        assert caught.value.transport.errors[0].code == "MANIFEST_UNKNOWN"

    @pytest.mark.parametrize("status", [203, 204, 206, 304])
    def test_unasked_kinds_of_success_are_no_success(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], status: int
    ) -> None:
        """R-055."""
        with pytest.raises(ProtocolError):
            session(scripted(reply(status))).send(ask())

    def test_an_absolute_target_is_judged_before_it_is_visited(
        self, session: Callable[..., Session], scripted: Script
    ) -> None:
        """R-033, R-046."""
        transport = scripted()

        with pytest.raises(ProtocolError):
            session(transport).send(ask(target="http://registry.example.com/upload"))

        assert transport.sent == []

    def test_errors_of_the_transport_name_what_it_was_about(
        self, session: Callable[..., Session], scripted: Script
    ) -> None:
        with pytest.raises(TLSError) as caught:
            session(scripted(TLSError("no"))).send(ask())

        assert caught.value.reference == "registry.example.com/a/b:v1"

    def test_close_closes_the_transport(self, session: Callable[..., Session], scripted: Script) -> None:
        transport = scripted()

        session(transport).close()

        assert transport.closed


class TestAuth:
    def test_what_is_remembered_is_sent_at_once(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        transport = scripted(reply(200))

        session(transport, Fetching(known="Bearer old")).send(ask())

        assert transport.sent[0].headers["Authorization"] == "Bearer old"

    def test_a_challenge_is_answered_and_the_request_repeated_with_its_body(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-038."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"new"), reply(201))
        authenticator = Fetching(known="Bearer old")

        session(transport, authenticator).send(ask("PUT", content=b"body", repeatable=False))

        assert [(sent.method, sent.url, sent.body) for sent in transport.sent] == [
            ("PUT", "https://registry.example.com/v2/a/b/manifests/v1", b"body"),
            ("POST", "https://registry.example.com/token", b"refresh"),
            ("PUT", "https://registry.example.com/v2/a/b/manifests/v1", b"body"),
        ]
        assert transport.sent[1].headers == {"X-Secret": "password"}
        assert transport.sent[2].headers["Authorization"] == "Bearer new"
        assert authenticator.rejected == ["Bearer old"]
        assert authenticator.challenged[0].parameters["service"] == "s"

    def test_two_answers_are_enough(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-038."""
        refusal = reply(401, CHALLENGE)
        transport = scripted(refusal, reply(200, {}, b"1"), refusal, reply(200, {}, b"2"), refusal)
        authenticator = Fetching()

        with pytest.raises(Unauthorized):
            session(transport, authenticator).send(ask())

        assert authenticator.rejected == [None, "Bearer 1"]
        assert not transport.replies

    def test_the_same_value_again_is_no_answer(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-038."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"old"))

        with pytest.raises(Unauthorized):
            session(transport, Fetching(known="Bearer old")).send(ask())

        assert len(transport.sent) == 2

    def test_without_an_authenticator_a_challenge_is_a_refusal(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        with pytest.raises(Unauthorized):
            session(scripted(reply(401, CHALLENGE))).send(ask())

    def test_403_is_no_challenge(self, session: Callable[..., Session], scripted: Script, reply: type[Reply]) -> None:
        """R-038."""
        authenticator = Fetching()

        with pytest.raises(PermissionError):
            session(scripted(reply(403, CHALLENGE)), authenticator).send(ask())

        assert authenticator.rejected == []

    def test_the_token_request_follows_no_redirect(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-036."""
        transport = scripted(reply(401, CHALLENGE), reply(307, {"Location": "https://evil.example.net/"}))

        with pytest.raises(Unauthorized, match="token server"):
            session(transport, Fetching()).send(ask())

        assert len(transport.sent) == 2

    def test_an_endless_token_answer_is_refused(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-039."""
        transport = scripted(reply(401, CHALLENGE), reply(200, {}, b"x" * (64 * 1024 + 1)))
        authenticator = Fetching()

        with pytest.raises(ProtocolError):
            session(transport, authenticator).send(ask())

        assert authenticator.open == 0

    def test_a_token_server_out_of_order_is_asked_again(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        transport = scripted(reply(401, CHALLENGE), reply(503), reply(200, {}, b"new"), reply(200))

        session(transport, Fetching()).send(ask())

        assert (len(transport.sent), clock.pauses) == (4, [0.5])

    def test_a_broken_token_exchange_ends_the_authenticators_turn(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """Other threads may be waiting for that token."""
        authenticator = Fetching()

        with pytest.raises(TLSError):
            session(scripted(reply(401, CHALLENGE), TLSError("no")), authenticator).send(ask())

        assert authenticator.open == 0

    def test_what_the_authenticator_raises_leads_to_the_refusal(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        with pytest.raises(Unauthorized) as caught:
            session(scripted(reply(401, CHALLENGE), reply(400)), Fetching()).send(ask())

        assert caught.value.transport is not None
        assert (caught.value.transport.status, caught.value.reference) == (401, "registry.example.com/a/b:v1")


class TestRedirects:
    def test_credentials_stay_with_the_registry(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-030, R-207."""
        transport = scripted(
            reply(307, {"Location": "/elsewhere"}),
            reply(307, {"Location": "https://registry.example.com:8443/x"}),
            reply(307, {"Location": "https://cdn.example.net/x?sig=1"}),
            reply(307, {"Location": "https://REGISTRY.example.com:443/back"}),
            reply(200),
        )

        answer = session(transport, Fetching(known="Bearer t")).send(ask())

        assert [sent.headers.get("Authorization") for sent in transport.sent] == [
            "Bearer t",
            "Bearer t",
            None,
            None,
            "Bearer t",
        ]
        assert answer.url == "https://REGISTRY.example.com:443/back"

    def test_a_challenge_from_elsewhere_is_not_answered(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-031."""
        authenticator = Fetching(known="Bearer t")
        transport = scripted(reply(307, {"Location": "https://cdn.example.net/x"}), reply(401, CHALLENGE))

        with pytest.raises(Unauthorized):
            session(transport, authenticator).send(ask())

        assert (authenticator.rejected, len(transport.sent)) == ([], 2)

    def test_https_is_not_left_for_http(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-041."""
        transport = scripted(reply(307, {"Location": "http://registry.example.com/x"}))

        with pytest.raises(ProtocolError, match="https to http") as caught:
            session(transport, Fetching(known="Bearer t")).send(ask())

        assert (len(transport.sent), caught.value.status) == (1, 307)

    def test_ten_hops_are_followed_and_no_more(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-042."""
        onwards = reply(302, {"Location": "/on"})

        with session(scripted(*[onwards] * 10, reply(200))).send(ask()) as answer:
            status = answer.status
        endless = scripted(*[onwards] * 11)
        with pytest.raises(ProtocolError, match="redirects"):
            session(endless).send(ask())

        assert (status, len(endless.sent)) == (200, 11)

    def test_a_body_goes_along(self, session: Callable[..., Session], scripted: Script, reply: type[Reply]) -> None:
        transport = scripted(reply(308, {"Location": "/on"}), reply(201))

        session(transport).send(ask("PUT", content=b"body"))

        assert [(sent.method, sent.body) for sent in transport.sent] == [("PUT", b"body")] * 2

    def test_a_delete_does_not_become_a_get(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-254."""
        transport = scripted(reply(302, {"Location": "/on"}))

        with pytest.raises(ProtocolError):
            session(transport).send(ask("DELETE"))

        assert len(transport.sent) == 1


class TestRetries:
    @pytest.mark.parametrize("status", [408, 429, 499, 502, 503, 504, 522])
    def test_what_may_pass_is_asked_again(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock, status: int
    ) -> None:
        """R-054."""
        transport = scripted(reply(status), Unavailable("cut"), reply(200))

        session(transport).send(ask("PUT", content=b"body"))

        assert [sent.body for sent in transport.sent] == [b"body"] * 3
        assert clock.pauses == [0.5, 1.0]

    def test_attempts_are_bounded(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        transport = scripted(*[reply(503)] * 9)

        with pytest.raises(Unavailable) as caught:
            session(transport).send(ask())

        assert (len(transport.sent), clock.pauses) == (4, [0.5, 1.0, 2.0])
        assert (caught.value.status, caught.value.reference) == (503, "registry.example.com/a/b:v1")

    def test_failures_that_repeating_does_not_mend_are_raised_at_once(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-054."""
        transport = scripted(reply(500), reply(200))

        with pytest.raises(ServerError):
            session(transport).send(ask())

        assert len(transport.sent) == 1

    def test_the_registry_may_say_how_long(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        session(scripted(reply(429, {"Retry-After": "7"}), reply(200))).send(ask())

        assert clock.pauses == [7.0]

    def test_but_not_for_hours(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock
    ) -> None:
        """R-054."""
        with pytest.raises(RateLimited) as caught:
            session(scripted(reply(429, {"Retry-After": "3600"}), reply(200))).send(ask())

        assert (caught.value.retry_after, clock.pauses) == (3600.0, [])

    def test_no_pause_goes_beyond_the_deadline(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock
    ) -> None:
        """R-052."""
        transport = scripted(reply(503, {"Retry-After": "30"}), reply(200))

        with fail_after(20), pytest.raises(Unavailable):
            session(transport).send(ask())

        assert (len(transport.sent), clock.pauses) == (1, [])

    @pytest.mark.parametrize("failure", [Unavailable("cut"), Stale("gone")])
    def test_side_effects_are_not_repeated_after_a_lost_answer(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], failure: Unavailable
    ) -> None:
        """R-053."""
        transport = scripted(failure, reply(202))

        with pytest.raises(Unavailable):
            session(transport).send(ask("PATCH", content=b"chunk", repeatable=False))

        assert len(transport.sent) == 1

    def test_side_effects_are_repeated_where_nothing_was_done(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply]
    ) -> None:
        """R-054."""
        transport = scripted(Unreached("no"), reply(429), reply(503), reply(202))

        session(transport).send(ask("POST", repeatable=False))

        assert len(transport.sent) == 4

    def test_a_dead_kept_connection_is_replaced_silently(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], clock: Clock, recorder: Recorder
    ) -> None:
        """R-053."""
        session(scripted(Stale("gone"), Stale("gone"), reply(200))).send(ask())

        assert clock.pauses == []
        assert not [event for event in recorder.events if isinstance(event, Retry)]

    @pytest.mark.parametrize("end", [Cancelled("stop"), DeadlineExceeded("late")])
    def test_the_end_of_the_work_is_not_repeated(
        self, session: Callable[..., Session], scripted: Script, end: Exception
    ) -> None:
        transport = scripted(end)

        with pytest.raises(type(end)):
            session(transport).send(ask())

        assert len(transport.sent) == 1


class TestReports:
    def test_each_exchange_is_reported_without_secrets(
        self,
        session: Callable[..., Session],
        scripted: Script,
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

        session(transport, Fetching(known="Bearer old-secret")).send(ask())

        exchanges = [event for event in recorder.events if isinstance(event, Exchange)]
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
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], recorder: Recorder
    ) -> None:
        session(scripted(reply(503), reply(200))).send(ask())

        retries = [event for event in recorder.events if isinstance(event, Retry)]
        assert [(event.attempt, event.pause) for event in retries] == [(1, 0.5)]

    def test_warnings_are_reported_once_escaped_and_cut(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], recorder: Recorder
    ) -> None:
        """R-240."""
        warned = reply(200, {"Warning": '299 - "say \\"hi\\"\x1b[2J"'})
        long = reply(200, {"Warning": f'299 - "{"x" * 1000}"'})
        opened = session(scripted(warned, warned, long))

        for _ in range(3):
            opened.send(ask())

        texts = [event.text for event in recorder.events if isinstance(event, Warned)]
        assert texts[0] == 'say "hi"\\x1b[2J'
        assert len(texts) == 2
        assert len(texts[1]) <= 500

    @pytest.mark.parametrize("value", ['199 - "other code"', "299 - unquoted", "299", ""])
    def test_other_warnings_are_ignored(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], recorder: Recorder, value: str
    ) -> None:
        """R-240."""
        session(scripted(reply(200, {"Warning": value}))).send(ask())

        assert not [event for event in recorder.events if isinstance(event, Warned)]

    def test_warnings_are_bounded(
        self, session: Callable[..., Session], scripted: Script, reply: type[Reply], recorder: Recorder
    ) -> None:
        """R-240."""
        opened = session(scripted(*[reply(200, {"Warning": f'299 - "{n}"'}) for n in range(400)]))

        for _ in range(400):
            opened.send(ask())

        assert len([event for event in recorder.events if isinstance(event, Warned)]) == 256


class TestOverTheWire:
    def test_credentials_never_reach_another_port(self, serve: Serve, answers: type[Answers], say: Say) -> None:
        """R-030."""
        elsewhere = answers(say(200, b"blob"))
        cdn = serve(elsewhere)
        home = serve(answers(say(307, headers={"Location": f"{cdn.origin}/x"})))

        with closing(
            Session(home.origin, HttpSettings(plain_http=True, proxy=""), authenticator=Fetching(known="Bearer t"))
        ) as session:
            with session.send(ask()) as answer:
                content = answer.content(100)

        assert content == b"blob"
        assert "authorization" not in elsewhere.received[0].headers

    def test_a_kept_connection_that_died_is_replaced(self, serve: Serve, say: Say) -> None:
        """R-053."""

        def script(peer: Peer) -> None:
            peer.receive()
            peer.send(say(200, b"once"))
            peer.receive()

        wire = serve(script)
        contents = []

        with closing(Session(wire.origin, HttpSettings(plain_http=True, proxy="", retries=0))) as session:
            for _ in range(3):
                with session.send(ask()) as answer:
                    contents.append(answer.content(100))

        assert contents == [b"once"] * 3

    def test_an_error_of_the_source_is_raised_as_it_is(self, serve: Serve) -> None:
        broken = Unavailable("the other registry is down", reference="elsewhere/a:v1")
        opened = []

        def fail(start: int) -> ByteReader:
            opened.append(start)
            raise broken

        wire = serve(lambda peer: peer.wait())
        request = Request(method="PUT", target="/v2/", success=(201,), body=Body(OpenerSource(fail), 3, 5))

        with closing(Session(wire.origin, HttpSettings(plain_http=True, proxy=""))) as session:
            with pytest.raises(Unavailable) as caught:
                session.send(request)

        assert caught.value is broken
        assert opened == [3]
