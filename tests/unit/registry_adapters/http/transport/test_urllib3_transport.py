from __future__ import annotations

import contextlib
import gc
import gzip
import io
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from registry_adapters.http.messages import Body, Response
from registry_adapters.http.retry import NotConnected, StaleConnection
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import BodyChunks, SourceFailed
from registry_adapters.http.transport.connection import Connection
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.cancellation import CancelScope, fail_after
from registry_core.content.streams import ByteReader, BytesSource, CallableSource, FileObjectReader
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ProtocolError,
    SizeMismatch,
    TLSError,
    TransportError,
    Unavailable,
)

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedResponses, ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]


@pytest.fixture
def transport() -> Iterator[Urllib3Transport]:
    with closing(Urllib3Transport(HttpSettings(plain_http=True, proxy=""))) as transport:
        yield transport


@pytest.fixture
def short_timeout_transport() -> Iterator[Urllib3Transport]:
    settings = HttpSettings(plain_http=True, proxy="", connect_timeout=5.0, read_timeout=0.2)
    with closing(Urllib3Transport(settings)) as transport:
        yield transport


def get(transport: Urllib3Transport, server: ScriptedServer, path: str = "/") -> Response:
    return transport.send("GET", f"{server.origin}{path}", {}, None)


class Canceller:
    """Cancel a scope when the server reports that the client is waiting."""

    def __init__(self, scope: CancelScope, waiting: threading.Event) -> None:
        self.cancelled_at = 0.0
        self._scope = scope
        self._waiting = waiting
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._waiting.wait(10)
        self.cancelled_at = time.monotonic()
        self._scope.cancel()

    def join(self) -> None:
        self._thread.join()


class TestResponses:
    def test_status_headers_and_body_are_unchanged(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        server = start_server(responses(response_bytes(202, b"content", {"X-Fact": "one", "x-fact": "one"})))

        with get(transport, server, "/v2/?n=1") as response:
            content = response.content(100)

        assert (response.status, response.headers.get("X-FACT"), content) == (202, "one", b"content")
        assert response.url == f"{server.origin}/v2/?n=1"

    def test_repeated_headers_are_separate_values(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-040."""
        server = start_server(
            responses(
                b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: Basic\r\nWWW-Authenticate: Bearer\r\n\r\n"
            )
        )

        with get(transport, server) as response:
            values = response.headers.all("www-authenticate")

        assert values == ["Basic", "Bearer"]

    def test_redirects_are_not_followed(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-030."""
        script = responses(response_bytes(302, headers={"Location": "/elsewhere"}), response_bytes(200))
        server = start_server(script)

        with get(transport, server) as response:
            status = response.status

        assert (status, len(script.received)) == (302, 1)

    def test_gzip_is_neither_requested_nor_decoded(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-056."""
        packed = gzip.compress(b"content")
        script = responses(response_bytes(200, packed, {"Content-Encoding": "gzip"}))
        server = start_server(script)

        with get(transport, server) as response:
            content = response.content(1000)

        assert content == packed
        assert script.received[0].headers["accept-encoding"] == "identity"

    def test_chunked_bodies_are_read_to_their_end(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-058."""
        server = start_server(
            responses(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        )

        with get(transport, server) as response:
            content = response.content(100)

        assert content == b"abcde"

    def test_bodies_that_end_with_the_connection_are_read(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-057, R-058: HTTP/1.0."""
        server = start_server(responses(b"HTTP/1.0 200 OK\r\n\r\nold times"))

        with get(transport, server) as response:
            content = response.content(100)

        assert content == b"old times"

    def test_surplus_bytes_are_not_read(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-058, R-061."""
        script = responses(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        )
        server = start_server(script)

        with get(transport, server) as first:
            before = first.content(100)
        with get(transport, server) as second:
            after = second.content(100)

        assert (before, after) == (b"ok", b"good")

    @pytest.mark.parametrize("length", ["nine", "-5"])
    def test_a_malformed_content_length_is_ignored(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], length: str
    ) -> None:
        """R-058."""
        server = start_server(responses(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nbody".encode()))

        with get(transport, server) as response:
            content = response.content(100)

        assert content == b"body"

    @pytest.mark.parametrize("second", ["4", "four", "-1", ""])
    def test_contradicting_content_lengths_are_refused(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], second: str
    ) -> None:
        """R-058."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {second}\r\n\r\n"
        server = start_server(responses(head.encode() + b"body"))

        with pytest.raises(ProtocolError):
            get(transport, server)

    @pytest.mark.parametrize("fields", ["Content-Length: 4, 4", "Content-Length: 4\r\nContent-Length: 4"])
    def test_a_content_length_may_be_repeated(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], fields: str
    ) -> None:
        """R-058."""
        server = start_server(responses(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\nbody".encode()))

        with get(transport, server) as response:
            content = response.content(100)

        assert content == b"body"

    @pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
    def test_interim_responses_are_skipped(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
        interim: bytes,
    ) -> None:
        """R-059."""
        server = start_server(
            responses(b"HTTP/1.1 " + interim + b"\r\nLink: </x>\r\n\r\n" + response_bytes(200, b"final"))
        )

        with get(transport, server) as response:
            content = response.content(100)

        assert (response.status, content) == (200, b"final")

    @pytest.mark.parametrize(
        "garbage",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 103 Hint\r\n\r\n" * 50,
        ],
    )
    def test_a_response_that_is_not_http_is_a_protocol_error(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], garbage: bytes
    ) -> None:
        """R-057."""
        server = start_server(responses(garbage))

        with pytest.raises(ProtocolError):
            get(transport, server)


class TestBrokenResponses:
    @pytest.mark.parametrize(
        "cut",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ],
    )
    def test_a_short_body_is_an_error(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], cut: bytes
    ) -> None:
        """R-050."""
        server = start_server(responses(cut))

        with get(transport, server) as response, pytest.raises(Unavailable):
            response.content(100)

    def test_a_broken_body_does_not_end_at_the_next_read(
        self, transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
    ) -> None:
        """R-050: nor does one whose read was cancelled."""
        server = start_server(responses(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"))

        with get(transport, server) as response:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    response.reader.read(100)

    @pytest.mark.parametrize(
        "cut",
        [
            b"HTTP/1.1 2",
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:ab",
            b"HTTP/1.1 200 OK\r\nX: y\r\n",
            b"HTTP/1.1 103 Hint\r\nLink: x",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_a_truncated_head_is_an_error(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        method: str,
        cut: bytes,
    ) -> None:
        """R-050: it must not count as a response without the missing headers."""
        server = start_server(responses(cut))

        with pytest.raises(Unavailable, match="closed before the end of the response"):
            transport.send(method, f"{server.origin}/", {}, None)

    def test_a_connection_closed_without_a_response_is_unavailable(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        server = start_server(lambda connection: connection.receive() and None)

        with pytest.raises(Unavailable) as caught:
            get(transport, server, "/v2/?secret=1")

        assert "secret" not in str(caught.value)
        assert type(caught.value) is Unavailable

    def test_a_refused_connection_is_not_connected(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        server = start_server(lambda connection: None)
        server.close()

        with pytest.raises(NotConnected, match=r"^connect to 127\.0\.0\.1:\d+: connection refused$"):
            get(transport, server)

    def test_the_read_timeout_limits_the_wait_for_the_head(
        self, short_timeout_transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        """R-052."""
        server = start_server(lambda connection: connection.wait())

        with pytest.raises(Unavailable):
            get(short_timeout_transport, server)

    def test_the_read_timeout_limits_the_wait_for_the_body(
        self, short_timeout_transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        """R-052."""

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            connection.wait()

        server = start_server(script)

        with get(short_timeout_transport, server) as response, pytest.raises(Unavailable):
            response.content(100)


class TestConnections:
    def test_a_connection_is_kept_after_a_whole_body(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-061."""
        server = start_server(responses(response_bytes(200, b"one"), response_bytes(204), response_bytes(200, b"two")))

        for _ in range(3):
            with get(transport, server) as response:
                response.content(100)

        assert server.connections == 1

    def test_a_connection_is_kept_after_a_response_without_a_body(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-061."""
        server = start_server(
            responses(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", response_bytes(201), response_bytes(200))
        )

        transport.send("HEAD", f"{server.origin}/", {}, None).close()
        transport.send("PUT", f"{server.origin}/", {}, None).close()
        get(transport, server).close()

        assert server.connections == 1

    def test_a_connection_is_closed_when_its_body_was_not_read(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-061."""
        server = start_server(responses(response_bytes(200, b"x" * 1000), response_bytes(200)))

        with get(transport, server) as response:
            response.reader.read(10)
        get(transport, server).close()

        assert server.connections == 2

    def test_reading_one_body_does_not_block_other_requests(
        self, start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
    ) -> None:
        """More connections are open at once than the pool keeps."""
        settings = HttpSettings(plain_http=True, proxy="", max_connections=1)
        server = start_server(responses(*[response_bytes(200, b"x" * 100)] * 3))

        with closing(Urllib3Transport(settings)) as transport:
            with get(transport, server) as first, get(transport, server) as second, get(transport, server) as third:
                contents = {first.content(100), second.content(100), third.content(100)}

        assert contents == {b"x" * 100}

    def test_connections_to_the_registry_are_kept_while_it_redirects_to_many_hosts(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        server = start_server(responses(*[response_bytes(200, b"kept")] * 40))

        with contextlib.ExitStack() as stack:
            for _ in range(30):
                get(transport, server).content(100)
                # Bound, but not listening: connections are refused.
                other = stack.enter_context(socket.socket())
                other.bind(("127.0.0.1", 0))
                with pytest.raises(NotConnected):
                    transport.send("GET", f"http://127.0.0.1:{other.getsockname()[1]}/", {}, None)

        assert server.connections == 1

    def test_surplus_connections_are_dropped_without_a_log_record(
        self,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings = HttpSettings(plain_http=True, proxy="", max_connections=1)
        server = start_server(responses(*[response_bytes(200, b"x" * 100)] * 3))

        with closing(Urllib3Transport(settings)) as transport:
            with get(transport, server) as first, get(transport, server) as second, get(transport, server) as third:
                contents = {first.content(100), second.content(100), third.content(100)}

        assert contents == {b"x" * 100}
        assert caplog.record_tuples == []

    def test_a_reader_that_is_dropped_closes_its_connection(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """R-061."""
        closed = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(response_bytes(200, b"x" * 100)[:-50])
            connection.wait()
            closed.set()

        response = get(transport, start_server(script))

        del response
        gc.collect()

        assert closed.wait(10)

    def test_a_kept_connection_that_was_closed_is_stale(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """R-053: the server reads the second request and closes the connection without a response."""

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(response_bytes(200))
            connection.receive()

        server = start_server(script)
        get(transport, server).close()

        with pytest.raises(StaleConnection):
            get(transport, server)

    def test_a_kept_tls_connection_that_ends_while_it_is_written_to_is_stale(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        responses: type[ScriptedResponses],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """R-053: OpenSSL reports it as an error that is no ConnectionError."""
        server = start_server(responses(*[response_bytes(200)] * 2))
        get(transport, server).close()

        def ended(*args: object, **options: object) -> None:
            raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")

        monkeypatch.setattr(Connection, "endheaders", ended)

        with pytest.raises(StaleConnection):
            get(transport, server)

    def test_a_request_for_single_use_has_a_connection_of_its_own(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        responses: type[ScriptedResponses],
    ) -> None:
        """R-053: a new one, which is not kept even if the server keeps it open."""
        server = start_server(responses(*[response_bytes(200)] * 6))

        for headers in ({}, {"Connection": "close"}, {}, {"Connection": "close"}):
            transport.send("GET", str(server.origin), headers, None).close()
        transport.close()
        for headers in ({"Connection": "close"}, {}):
            transport.send("GET", str(server.origin), headers, None).close()

        assert server.connections == 3 + 2


class TestRequests:
    def test_the_transport_sets_the_headers_of_the_connection(
        self, start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
    ) -> None:
        script = responses(response_bytes(200))
        server = start_server(script)

        with closing(Urllib3Transport(HttpSettings(plain_http=True, proxy="", user_agent="me/1"))) as transport:
            transport.send("GET", f"{server.origin}/v2/", {"Accept": "text/x"}, None).close()

        assert script.received[0].headers == {
            "host": server.origin.netloc,
            "accept": "text/x",
            "accept-encoding": "identity",
            "user-agent": "me/1",
        }

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_a_request_without_body_has_content_length_zero(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
        method: str,
    ) -> None:
        """R-232."""
        script = responses(response_bytes(202))
        server = start_server(script)

        transport.send(method, f"{server.origin}/", {}, None).close()

        assert script.received[0].headers["content-length"] == "0"
        assert "transfer-encoding" not in script.received[0].headers

    def test_a_range_of_a_source_is_sent_with_its_length(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-230."""
        content = bytes(range(256)) * 10000
        script = responses(response_bytes(201), response_bytes(201))
        server = start_server(script)

        for _ in range(2):
            transport.send("PUT", f"{server.origin}/", {}, Body(BytesSource(content), 100, 2_500_000)).close()

        assert [request.body for request in script.received] == [content[100:2_500_100]] * 2
        assert script.received[0].headers["content-length"] == "2500000"

    def test_a_source_that_is_too_short_is_a_size_mismatch(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        server = start_server(lambda connection: connection.wait())

        with pytest.raises(SourceFailed) as caught:
            transport.send("PUT", f"{server.origin}/", {}, Body(BytesSource(b"abc"), 0, 5))

        assert isinstance(caught.value.error, SizeMismatch)

    def test_a_source_that_returns_too_much_does_not_overrun_the_body(self) -> None:
        """R-061: otherwise the surplus bytes would be read as the next request."""

        class ReturnsTooMuch(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read()

        source = CallableSource(lambda start: FileObjectReader(ReturnsTooMuch(b"0123456789")))
        sent: list[bytes] = []

        with pytest.raises(SourceFailed) as caught:
            sent.extend(BodyChunks(Body(source, 0, 5)))

        assert isinstance(caught.value.error, SizeMismatch)
        assert sent == []

    def test_an_error_of_the_source_is_source_failed(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        source_error = Unavailable("the other registry is down")

        def fail(start: int) -> ByteReader:
            raise source_error

        server = start_server(lambda connection: connection.wait())

        with pytest.raises(SourceFailed) as caught:
            transport.send("PUT", f"{server.origin}/", {}, Body(CallableSource(fail), 0, 5))

        assert caught.value.error is source_error

    def test_a_response_before_the_end_of_the_request_is_returned(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """R-059."""

        def script(connection: ServerConnection) -> None:
            connection.head()
            connection.send(response_bytes(413, b"too much", {"Connection": "close"}))
            connection.wait()

        server = start_server(script)
        content = bytes(64 << 20)

        with transport.send("PUT", f"{server.origin}/", {}, Body(BytesSource(content), 0, len(content))) as response:
            content = response.content(100)

        assert (response.status, content) == (413, b"too much")

    def test_a_broken_pipe_of_the_source_is_source_failed(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        """A broken pipe of the connection is ignored, because a response may follow."""

        def fail(start: int) -> ByteReader:
            raise BrokenPipeError(32, "the source's own")

        server = start_server(lambda connection: connection.wait())

        with pytest.raises(SourceFailed) as caught:
            transport.send("PUT", f"{server.origin}/", {}, Body(CallableSource(fail), 0, 5))

        assert isinstance(caught.value.error, BrokenPipeError)

    def test_the_error_of_an_invalid_header_does_not_quote_it(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        """R-039, R-043."""
        server = start_server(lambda connection: connection.wait())
        headers = {"Authorization": "Bearer hunter2\r\nEvil: yes"}

        with pytest.raises(ProtocolError) as caught:
            transport.send("GET", f"{server.origin}/", headers, None)

        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_query_values_are_not_logged(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """R-043."""
        caplog.set_level(logging.DEBUG)
        server = start_server(responses(response_bytes(200)))

        get(transport, server, "/blob?sig=hunter2").close()

        assert "hunter2" not in caplog.text

    def test_a_body_after_head_is_not_the_next_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """R-061."""
        server = start_server(
            responses(
                response_bytes(200, b"HTTP/1.1 200 Evil\r\nContent-Length: 4\r\n\r\nevil"), response_bytes(200, b"good")
            )
        )

        transport.send("HEAD", f"{server.origin}/", {}, None).close()
        with get(transport, server) as response:
            content = response.content(100)

        assert content == b"good"


class TestScopes:
    def test_a_cancellation_ends_the_wait_for_a_head(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        waiting = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.receive()
            waiting.set()
            connection.wait()

        server = start_server(script)
        with CancelScope() as scope:
            canceller = Canceller(scope, waiting)

            with pytest.raises(Cancelled):
                get(transport, server)

        canceller.join()
        assert time.monotonic() - canceller.cancelled_at < 0.5

    def test_a_cancellation_ends_the_read_of_a_body(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        waiting = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            waiting.set()
            connection.wait()

        server = start_server(script)
        with CancelScope() as scope, get(transport, server) as response:
            canceller = Canceller(scope, waiting)

            with pytest.raises(Cancelled):
                response.content(100)

        canceller.join()
        assert time.monotonic() - canceller.cancelled_at < 0.5

    def test_a_cancellation_ends_a_stalled_upload(self, transport: Urllib3Transport, start_server: StartServer) -> None:
        waiting = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.head()
            waiting.set()
            released.wait(10)

        released = threading.Event()
        server = start_server(script)
        content = bytes(64 << 20)
        with CancelScope() as scope:
            canceller = Canceller(scope, waiting)

            with pytest.raises(Cancelled):
                transport.send("PUT", f"{server.origin}/", {}, Body(BytesSource(content), 0, len(content)))

        released.set()
        canceller.join()
        assert time.monotonic() - canceller.cancelled_at < 0.5

    @pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
    def test_a_deadline_ends_a_slow_response(
        self, transport: Urllib3Transport, start_server: StartServer, head: bytes
    ) -> None:
        """R-052: each byte comes well within the read timeout."""
        stopped = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(head)
            while not stopped.wait(0.02):
                connection.send(b"x")

        server = start_server(script)
        started = time.monotonic()

        with fail_after(0.3), pytest.raises(DeadlineExceeded), get(transport, server) as response:
            response.content(1 << 20)

        stopped.set()
        assert time.monotonic() - started < 2

    def test_a_deadline_ends_the_wait_for_a_response(
        self, transport: Urllib3Transport, start_server: StartServer
    ) -> None:
        """R-052."""
        server = start_server(lambda connection: connection.wait())

        with fail_after(0.2), pytest.raises(DeadlineExceeded):
            get(transport, server)

    def test_nothing_is_sent_in_a_cancelled_scope(self, transport: Urllib3Transport, start_server: StartServer) -> None:
        server = start_server(lambda connection: connection.wait())

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                get(transport, server)

        assert server.connections == 0


class TestTLS:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def secure(self, start_server: StartServer, authority: trustme.CA, response_bytes: ResponseBytes) -> ScriptedServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)

        def script(connection: ServerConnection) -> None:
            with context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
                while b"\r\n\r\n" in sock.recv(65536):
                    sock.sendall(response_bytes(200, b"secret" * 100_000))

        return start_server(script)

    def test_a_trusted_certificate_is_accepted(
        self, secure: ScriptedServer, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """R-041."""
        ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))

        with closing(Urllib3Transport(HttpSettings(proxy="", ca_file=str(ca_file)))) as transport:
            with transport.send("GET", f"https://localhost:{secure.origin.port}/", {}, None) as response:
                content = response.content(1 << 20)

        assert content == b"secret" * 100_000

    def test_an_unknown_certificate_is_refused(self, secure: ScriptedServer) -> None:
        """R-041."""
        with closing(Urllib3Transport(HttpSettings(proxy=""))) as transport, pytest.raises(TLSError):
            transport.send("GET", f"https://localhost:{secure.origin.port}/", {}, None)

    def test_verification_can_be_off_without_a_python_warning(self, secure: ScriptedServer) -> None:
        with closing(Urllib3Transport(HttpSettings(proxy="", tls_verify=False))) as transport:
            with transport.send("GET", f"https://localhost:{secure.origin.port}/", {}, None) as response:
                status = response.status

        assert status == 200

    def test_a_server_without_tls_is_a_tls_error(self, start_server: StartServer) -> None:
        """R-041."""

        def script(connection: ServerConnection) -> None:
            connection.sock.recv(1)
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = start_server(script)

        with (
            closing(Urllib3Transport(HttpSettings(proxy=""))) as transport,
            pytest.raises(TLSError, match="plain http"),
        ):
            transport.send("GET", f"https://localhost:{server.origin.port}/", {}, None)

    def test_a_cancellation_ends_a_read(self, start_server: StartServer, authority: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        waiting = threading.Event()

        def script(connection: ServerConnection) -> None:
            with context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                waiting.set()
                sock.recv(1)

        server = start_server(script)
        with closing(Urllib3Transport(HttpSettings(proxy="", tls_verify=False))) as transport, CancelScope() as scope:
            with transport.send("GET", f"https://127.0.0.1:{server.origin.port}/", {}, None) as response:
                canceller = Canceller(scope, waiting)

                with pytest.raises(Cancelled):
                    response.content(100)

        canceller.join()
        assert time.monotonic() - canceller.cancelled_at < 0.5

    def test_a_cancellation_ends_a_handshake(self, start_server: StartServer) -> None:
        waiting = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.sock.recv(1)
            waiting.set()
            connection.wait()

        server = start_server(script)
        with closing(Urllib3Transport(HttpSettings(proxy=""))) as transport, CancelScope() as scope:
            canceller = Canceller(scope, waiting)

            with pytest.raises(Cancelled):
                transport.send("GET", f"https://127.0.0.1:{server.origin.port}/", {}, None)

        canceller.join()
        assert time.monotonic() - canceller.cancelled_at < 0.5


class TestProxies:
    def test_plain_http_requests_are_sent_to_the_proxy_with_its_credentials(
        self, start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
    ) -> None:
        script = responses(response_bytes(200, b"by proxy"))
        server = start_server(script)
        settings = HttpSettings(plain_http=True, proxy=f"http://me:pw@{server.origin.netloc}")

        with closing(Urllib3Transport(settings)) as transport:
            with transport.send("GET", "http://registry.example.com/v2/", {}, None) as response:
                content = response.content(100)

        assert content == b"by proxy"
        assert script.received[0].target == "http://registry.example.com/v2/"
        assert script.received[0].headers["proxy-authorization"] == "Basic bWU6cHc="

    @pytest.mark.parametrize(("status", "kind"), [(407, ProtocolError), (502, Unavailable)])
    def test_https_is_tunnelled_and_a_407_is_distinguished_from_an_outage(
        self,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
        status: int,
        kind: type[TransportError],
    ) -> None:
        script = responses(response_bytes(status))
        server = start_server(script)

        with closing(Urllib3Transport(HttpSettings(proxy=f"http://me:pw@{server.origin.netloc}"))) as transport:
            with pytest.raises(kind) as caught:
                transport.send("GET", "https://registry.example.com/v2/", {"Authorization": "Bearer s"}, None)

        assert (script.received[0].method, script.received[0].target) == ("CONNECT", "registry.example.com:443")
        assert "authorization" not in script.received[0].headers
        assert str(status) in str(caught.value)
        assert "pw" not in str(caught.value)

    def test_the_connect_timeout_limits_the_wait_for_a_proxy_with_tls(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        """R-052: the proxy responds neither to CONNECT nor to the second handshake."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)

        def script(connection: ServerConnection) -> None:
            with context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
                while sock.recv(65536):
                    continue

        server = start_server(script)
        settings = HttpSettings(
            ca_file=str(tmp_path / "ca.pem"), proxy=f"https://{server.origin.netloc}", connect_timeout=0.5
        )
        started = time.monotonic()

        with closing(Urllib3Transport(settings)) as transport, pytest.raises(NotConnected, match=r"within 0\.5 s"):
            transport.send("GET", "https://registry.example.com/v2/", {}, None)

        assert time.monotonic() - started < 10
