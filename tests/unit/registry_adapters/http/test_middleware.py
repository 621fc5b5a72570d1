from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Headers, Request, Response
from registry_adapters.http.middleware import Middleware, OutgoingRequest, RequestHeaders, Send, apply_middleware
from registry_adapters.http.session import Session
from registry_core.content.streams import FileObjectReader
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import (
        Reply,
        ScriptedResponses,
        ScriptedServer,
        ScriptedTransport,
        ServerConnection,
    )

    MakeTransport = Callable[..., ScriptedTransport]
    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

REGISTRY = "https://registry.example.com/v2/"
DIGEST = Digest.of(b"content")
SIGNED = "https://cdn.example.net/x?sig=secret"


class CountingReader(FileObjectReader):
    """A body that counts how often it was closed."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(b"body"))
        self.closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


class RecordingSender:
    """Answer every request with 200, and record it."""

    def __init__(self) -> None:
        self.sent: list[OutgoingRequest] = []
        self.reader = CountingReader()

    def __call__(self, request: OutgoingRequest) -> Response:
        self.sent.append(request)
        return Response(status=200, headers=Headers([]), url=request.url, reader=self.reader)


def outgoing(
    headers: dict[str, str] | None = None, *, url: str = REGISTRY, to_registry: bool = True
) -> OutgoingRequest:
    return OutgoingRequest(method="GET", url=url, headers=RequestHeaders(headers or {}), to_registry=to_registry)


def pass_through(request: OutgoingRequest, send: Send) -> Response:
    return send(request)


class TestApplyMiddleware:
    def test_without_middleware_the_request_is_sent_unchanged(self) -> None:
        server, request = RecordingSender(), outgoing({"Accept": "a"})

        apply_middleware([], request, server)

        assert server.sent == [request]

    def test_the_first_middleware_is_outermost(self) -> None:
        steps: list[str] = []

        def layer(name: str) -> Middleware:
            def step(request: OutgoingRequest, send: Send) -> Response:
                steps.append(f"{name} in")
                response = send(request)
                steps.append(f"{name} out")
                return response

            return step

        apply_middleware([layer("a"), layer("b")], outgoing(), RecordingSender())

        assert steps == ["a in", "b in", "b out", "a out"]

    def test_headers_are_added_and_replaced_in_any_case(self) -> None:
        server = RecordingSender()

        def change(request: OutgoingRequest, send: Send) -> Response:
            return send(request.with_headers({"X-Trace": "1", "accept": "b"}))

        apply_middleware([change], outgoing({"Accept": "a", "Range": "bytes=1-"}), server)

        assert dict(server.sent[0].headers) == {"Range": "bytes=1-", "X-Trace": "1", "accept": "b"}

    @pytest.mark.parametrize("name", ["Authorization", "cookie", "PROXY-AUTHORIZATION"])
    def test_secrets_added_by_middleware_go_to_the_registry_only(self, name: str) -> None:
        """R-030."""
        registry, cdn = RecordingSender(), RecordingSender()

        def add(request: OutgoingRequest, send: Send) -> Response:
            return send(request.with_headers({name: "secret", "X-Trace": "1"}))

        apply_middleware([add], outgoing(), registry)
        apply_middleware([add], outgoing(url=SIGNED, to_registry=False), cdn)

        assert dict(registry.sent[0].headers) == {name: "secret", "X-Trace": "1"}
        assert dict(cdn.sent[0].headers) == {"X-Trace": "1"}

    def test_the_authorization_of_a_token_request_is_kept(self) -> None:
        """R-030."""
        server = RecordingSender()

        def replace(request: OutgoingRequest, send: Send) -> Response:
            return send(request.with_headers({"authorization": "mine"}))

        apply_middleware([replace], outgoing({"Authorization": "Basic ours"}, to_registry=False), server)

        assert dict(server.sent[0].headers) == {"Authorization": "Basic ours"}

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "DELETE"},
            {"url": "https://registry.example.com/v2/other/"},
            {"length": 7},
            {"to_registry": False},
            {"headers": RequestHeaders({"X-Trace": "a\r\nHost: b"})},
            {"headers": RequestHeaders({"Host": "b"})},
            {"headers": {"authorization": "mine", "Authorization": "ours"}},
        ],
    )
    def test_a_change_of_anything_but_headers_is_an_error(self, change: dict[str, Any]) -> None:
        server = RecordingSender()

        with pytest.raises(ConfigError):
            apply_middleware(
                [lambda request, send: send(msgspec.structs.replace(request, **change))], outgoing(), server
            )

        assert server.sent == []

    def test_sending_twice_is_an_error(self) -> None:
        """R-053: middleware does not decide about retries."""
        server = RecordingSender()

        def twice(request: OutgoingRequest, send: Send) -> Response:
            send(request)
            return send(request)

        with pytest.raises(ConfigError):
            apply_middleware([twice], outgoing(), server)

        assert (len(server.sent), server.reader.closed) == (1, True)

    def test_sending_again_after_a_failure_is_an_error(self) -> None:
        """R-053."""
        tries: list[OutgoingRequest] = []

        def fail(request: OutgoingRequest) -> Response:
            tries.append(request)
            raise Unavailable("cut")

        def send_again(request: OutgoingRequest, send: Send) -> Response:
            try:
                return send(request)
            except Unavailable:
                return send(request)

        with pytest.raises(ConfigError):
            apply_middleware([send_again], outgoing(), fail)

        assert len(tries) == 1

    def test_returning_another_response_is_an_error(self) -> None:
        server = RecordingSender()

        def other(request: OutgoingRequest, send: Send) -> Response:
            send(request)
            return Response(status=200, headers=Headers([]), url=request.url, reader=CountingReader())

        with pytest.raises(ConfigError):
            apply_middleware([other], outgoing(), server)

        assert server.reader.closed

    def test_an_error_of_middleware_is_raised_and_the_response_closed(self) -> None:
        server, error = RecordingSender(), LookupError("mine")

        def failing(request: OutgoingRequest, send: Send) -> Response:
            send(request)
            raise error

        with pytest.raises(LookupError) as caught:
            apply_middleware([pass_through, failing], outgoing(), server)

        assert caught.value is error
        assert server.reader.closed

    def test_middleware_can_wrap_the_reader_of_the_body(self) -> None:
        class MeasuringReader(CountingReader):
            count = 0

            def read(self, size: int = -1, /) -> bytes:
                data = super().read(size)
                MeasuringReader.count += len(data)
                return data

        def record(request: OutgoingRequest, send: Send) -> Response:
            response = send(request)
            response.reader = MeasuringReader()
            return response

        content = apply_middleware([record], outgoing(), RecordingSender()).content(100)

        assert (content, MeasuringReader.count) == (b"body", 4)


class TestOutgoingRequest:
    @pytest.mark.parametrize(
        "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "Accept-Encoding", "User-Agent", "Expect"]
    )
    def test_headers_of_the_connection_cannot_be_set(self, name: str) -> None:
        with pytest.raises(ConfigError, match=name):
            outgoing().with_headers({name: "1"})

    @pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä"])
    def test_names_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError):
            outgoing().with_headers({name: "1"})

    @pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0", "€"])
    def test_values_are_checked_and_not_quoted(self, value: str) -> None:
        """R-039: header injection."""
        with pytest.raises(ConfigError) as caught:
            outgoing().with_headers({"X-Trace": value})

        assert value not in str(caught.value)

    def test_headers_are_found_in_any_case(self) -> None:
        fields = outgoing({"Accept": "a"}).headers

        assert (fields["ACCEPT"], "accept" in fields, fields.get("x"), len(fields)) == ("a", True, None, 1)

    @pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization"])
    def test_the_repr_has_no_secret(self, name: str) -> None:
        """R-043."""
        request = outgoing({name: "Bearer secret", "Accept": "a"}, url=SIGNED)

        shown = f"{request} {request!r} {request.headers} {request.__rich_repr__()} {[request.headers]}"

        assert "secret" not in shown
        assert "'Accept': 'a'" in shown
        assert request.headers[name] == "Bearer secret"


class TestInASession:
    def test_middleware_is_called_for_each_attempt_redirect_and_token_request(
        self, scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        seen: list[tuple[str, bool, int]] = []

        def record(request: OutgoingRequest, send: Send) -> Response:
            response = send(request.with_headers({"X-Trace": "1"}))
            seen.append((request.url, request.to_registry, response.status))
            return response

        transport = scripted(
            reply(503, {"Retry-After": "0"}), reply(307, {"Location": SIGNED}), reply(200, {}, b"content")
        )
        catalog = HttpCatalog("registry.example.com", HttpSettings(), transport=transport, middleware=[record])

        with catalog.repository(RepositoryName("a")).blobs.open(DIGEST) as reader:
            reader.read(1)

        assert [(url.partition("?")[0], to_registry, status) for url, to_registry, status in seen] == [
            (f"{REGISTRY}a/blobs/{DIGEST}", True, 503),
            (f"{REGISTRY}a/blobs/{DIGEST}", True, 307),
            ("https://cdn.example.net/x", False, 200),
        ]
        assert all(sent.headers["X-Trace"] == "1" for sent in transport.sent)

    def test_an_error_of_middleware_leaves_no_connection_open(
        self, start_server: StartServer, response_bytes: ResponseBytes, responses: type[ScriptedResponses]
    ) -> None:
        """The connection is closed with its body unread; the next request gets its own response on a new one."""
        script = responses(response_bytes(200, b"x" * 500_000), response_bytes(200, b"mine"))
        server = start_server(script)
        failures = [RuntimeError("mine")]

        def fail_once(request: OutgoingRequest, send: Send) -> Response:
            response = send(request)
            if failures:
                raise failures.pop()
            return response

        settings = HttpSettings(plain_http=True, proxy="", max_connections=1)
        request = Request(method="GET", target="/v2/", success=(200,))
        with closing(Session(server.origin, settings, middleware=[fail_once])) as session:
            with pytest.raises(RuntimeError, match="mine"):
                session.send(request)
            with session.send(request) as response:
                content = response.content(100)

        assert (content, server.connections) == (b"mine", 2)

    def test_a_transient_error_raised_by_middleware_is_retried(
        self, scripted: MakeTransport, reply: type[Reply]
    ) -> None:
        """R-054."""
        failures = [Unavailable("the proxy of the house is busy", retry_after=0.0)]

        def fail_once(request: OutgoingRequest, send: Send) -> Response:
            if failures:
                raise failures.pop()
            return send(request)

        transport = scripted(reply(404))
        catalog = HttpCatalog("registry.example.com", HttpSettings(), transport=transport, middleware=[fail_once])

        with pytest.raises(LookupError):
            catalog.repository(RepositoryName("a")).manifests.get(Tag("v1"))

        assert len(transport.sent) == 1
