"""Malformed HTTP is refused, and surplus bytes are not read as the next response."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from registry_adapters.http.messages import Body, Request
from registry_adapters.http.retry import StaleConnection
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.connection import Connection, request_target
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.content.streams import BytesSource
from registry_core.errors import ProtocolError, Unavailable

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Received, ScriptedResponses, ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
# Number of decrypted bytes that are read at a time.
BUFFER = 8192


@pytest.fixture
def transport() -> Iterator[Urllib3Transport]:
    with closing(Urllib3Transport(HttpSettings(plain_http=True, proxy="", read_timeout=5.0))) as transport:
        yield transport


def test_a_chunk_of_negative_length_is_not_read_to_the_end_of_the_connection(
    transport: Urllib3Transport, start_server: StartServer
) -> None:
    """R-057, R-060: otherwise all bytes would be held in memory."""

    def script(connection: ServerConnection) -> None:
        connection.receive()
        connection.send(CHUNKED + b"-1\r\n" + b"x" * 100)
        # A client that reads to the end of the connection waits here.
        connection.wait()

    server = start_server(script)

    with (
        transport.send("GET", f"{server.origin}/", {}, None) as response,
        pytest.raises(Unavailable, match="closed before the end"),
    ):
        response.reader.read(10)


@pytest.mark.parametrize("size", [b"0x3", b"+3", b"0_3", b" 3", b"", b"-0", b"3 3", b"3;" + b"x" * 5000, b"0" * 20])
def test_only_digits_are_the_length_of_a_chunk(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], size: bytes
) -> None:
    """R-057, R-058: proxies may read other forms differently."""
    server = start_server(responses(CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n"))

    with transport.send("GET", f"{server.origin}/", {}, None) as response, pytest.raises(Unavailable):
        response.content(100)


def test_a_chunk_longer_than_its_size_is_an_error(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
) -> None:
    """R-057."""
    server = start_server(responses(CHUNKED + b"2\r\nokay0\r\n\r\n"))

    with (
        transport.send("GET", f"{server.origin}/", {}, None) as response,
        pytest.raises(Unavailable),
    ):
        response.content(100)


@pytest.mark.parametrize("size", [b"3", b"03", b"3 ", b"3;name=value", b'3 ; name="value"'])
def test_chunk_extensions_are_ignored(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], size: bytes
) -> None:
    """R-058."""
    server = start_server(responses(CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n"))

    with transport.send("GET", f"{server.origin}/", {}, None) as response:
        content = response.content(100)

    assert content == b"abc"


def test_trailers_are_ignored(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
) -> None:
    """R-058."""
    server = start_server(responses(CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\nZ: z\r\n\r\n", EVIL))

    with transport.send("GET", f"{server.origin}/", {}, None) as response:
        content = response.content(100)
    transport.send("GET", f"{server.origin}/", {}, None).close()

    assert (content, server.connections) == (b"abc", 1)


@pytest.mark.parametrize("trailer", [b"X: y\r\n" * 200, b"X: " + b"y" * 70000])
def test_endless_trailers_are_an_error(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], trailer: bytes
) -> None:
    """R-057."""
    server = start_server(responses(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n"))

    with transport.send("GET", f"{server.origin}/", {}, None) as response, pytest.raises(ProtocolError):
        response.content(100)


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, identity", "chunked, chunked", "xchunked"])
def test_an_unsupported_transfer_coding_is_an_error(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses], coding: str
) -> None:
    """R-056, R-058: otherwise its framing would be read as content."""
    server = start_server(
        responses(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\nContent-Length: 5\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode()
        )
    )

    with pytest.raises(ProtocolError):
        transport.send("GET", f"{server.origin}/", {}, None)


def test_a_second_transfer_encoding_header_is_an_error(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
) -> None:
    """R-058."""
    server = start_server(
        responses(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Length: 5\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
    )

    with pytest.raises(ProtocolError):
        transport.send("GET", f"{server.origin}/", {}, None)


def test_a_connection_whose_response_is_chunked_and_has_a_length_is_not_kept(
    transport: Urllib3Transport,
    start_server: StartServer,
    responses: type[ScriptedResponses],
    response_bytes: ResponseBytes,
) -> None:
    """R-061."""
    server = start_server(
        responses(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            response_bytes(200),
        )
    )

    with transport.send("GET", f"{server.origin}/", {}, None) as response:
        content = response.content(100)
    transport.send("GET", f"{server.origin}/", {}, None).close()

    assert (content, server.connections) == (b"abc", 2)


@pytest.mark.parametrize("head", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hint\r\n\r\n"])
def test_endless_interim_responses_are_an_error(
    transport: Urllib3Transport, start_server: StartServer, head: bytes
) -> None:
    """R-057, R-059."""

    def script(connection: ServerConnection) -> None:
        connection.receive()
        connection.send(head * 17)
        # A client that reads another interim response waits here.
        connection.wait()

    server = start_server(script)

    with pytest.raises(ProtocolError):
        transport.send("GET", f"{server.origin}/", {}, None)


def test_a_switch_of_protocols_is_an_error(
    transport: Urllib3Transport, start_server: StartServer, responses: type[ScriptedResponses]
) -> None:
    """R-059, R-061: the bytes that follow are not HTTP."""
    server = start_server(responses(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"))

    with pytest.raises(ProtocolError):
        transport.send("GET", f"{server.origin}/", {}, None)


class TestSurplus:
    """R-061: surplus bytes are not read as the next response."""

    SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"

    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def secure(self, authority: trustme.CA, tmp_path: Path) -> Iterator[Urllib3Transport]:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        settings = HttpSettings(ca_file=str(tmp_path / "ca.pem"), proxy="", read_timeout=5.0)
        with closing(Urllib3Transport(settings)) as transport:
            yield transport

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "first",
        [
            SHORT,
            SHORT + b"good",
            b"HTTP/1.1 204 Nothing\r\n\r\n",
            b"HTTP/1.1 304 The same\r\n\r\n",
            CHUNKED + b"0\r\n\r\n",
        ],
    )
    def test_bytes_decrypted_after_the_end_are_not_the_next_response(
        self, secure: Urllib3Transport, start_server: StartServer, authority: trustme.CA, method: str, first: bytes
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        # One record, so that its last bytes are buffered in the TLS layer only.
        flood = [first + b"x" * (BUFFER - len(first)) + EVIL]

        def script(connection: ServerConnection) -> None:
            with context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
                while sock.recv(4096):
                    sock.sendall(flood.pop() if flood else self.SHORT + b"good")

        server = start_server(script)
        url = f"https://127.0.0.1:{server.origin.port}/"

        with secure.send(method, url, {}, None) as before:
            before.content(100)
        with secure.send("GET", url, {}, None) as after:
            content = after.content(100)

        assert (content, server.connections) == (b"good", 2)

    def test_a_connection_with_surplus_bytes_is_not_kept(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        responses: type[ScriptedResponses],
        response_bytes: ResponseBytes,
    ) -> None:
        """The surplus arrives with the response, so no unread bytes are left on the connection."""
        server = start_server(responses(response_bytes(200, b"good") + b"x", response_bytes(200, b"good")))

        for _ in range(2):
            with transport.send("GET", f"{server.origin}/", {}, None) as response:
                response.content(100)

        assert server.connections == 2

    def test_the_connection_of_an_incomplete_request_is_not_kept(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """R-061: the server would read the next request as the rest of the body."""
        sent = Connection.send

        def cut(connection: Connection, data: bytes) -> None:
            if data == b"x" * 1000:
                raise BrokenPipeError(errno.EPIPE, "broken pipe")
            sent(connection, data)

        def script(connection: ServerConnection) -> None:
            if (request := connection.head()) is not None:
                connection.send(response_bytes(413 if request.method == "PUT" else 200, b"early"))
                connection.wait()

        monkeypatch.setattr(Connection, "send", cut)
        server = start_server(script)

        with transport.send("PUT", f"{server.origin}/", {}, Body(BytesSource(b"x" * 1000), 0, 1000)) as refused:
            refused.content(100)
        with transport.send("GET", f"{server.origin}/", {}, None) as response:
            response.content(100)

        assert (refused.status, response.status, server.connections) == (413, 200, 2)


class LateSurplus:
    """A script: bytes left from the first response come with the response to the second request."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self._first = first
        self._second = second
        self.requests = 0

    def __call__(self, connection: ServerConnection) -> None:
        surplus = b""
        while connection.receive() is not None:
            self.requests += 1
            connection.send(self._first if self.requests == 1 else surplus + self._second)
            surplus = b'v1"]}'


class TestLateSurplus:
    """R-053, R-061: surplus bytes that arrive after the check of the connection make it stale."""

    def test_late_surplus_bytes_raise_stale_connection(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        server = start_server(LateSurplus(response_bytes(200, b"good"), response_bytes(200, b"next")))
        transport.send("GET", f"{server.origin}/", {}, None).content(100)

        with pytest.raises(StaleConnection, match="bytes left from an earlier response"):
            transport.send("GET", f"{server.origin}/", {}, None)

    def test_a_repeatable_request_is_sent_again_silently(
        self, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        script = LateSurplus(response_bytes(200, b"good"), response_bytes(200, b"next"))
        server = start_server(script)
        request = Request(method="GET", target="/v2/", success=(200,))

        with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", retries=0))) as session:
            contents = [session.send(request).content(100) for _ in range(2)]

        assert contents == [b"good", b"next"]
        assert (script.requests, server.connections) == (3, 2)

    def test_a_request_that_is_not_repeatable_is_not_sent_again(
        self, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        script = LateSurplus(response_bytes(202), response_bytes(202))
        server = start_server(script)
        request = Request(
            method="PATCH", target="/v2/", success=(202,), body=Body(BytesSource(b"x"), 0, 1), repeatable=False
        )

        with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", retries=0))) as session:
            session.send(request).close()
            with pytest.raises(Unavailable):
                session.send(request)

        assert script.requests == 2

    def test_the_same_bytes_on_a_new_connection_are_a_protocol_error(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        server = start_server(LateSurplus(b'v1"]}' + response_bytes(200), b""))

        with pytest.raises(ProtocolError):
            transport.send("GET", f"{server.origin}/", {}, None)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h/u?sig=a%2fb%3D", "/u?sig=a%2fb%3D"),
        ("https://h/u?t=%zz&x=1%", "/u?t=%zz&x=1%"),
        ('https://h/u?a|b="<{}>`^', '/u?a|b="<{}>`^'),
        ("https://h/a/../b//c/./", "/a/../b//c/./"),
        ("https://h/a%2e%2e/b", "/a%2e%2e/b"),
        ("https://h?x=/y?z", "/?x=/y?z"),
        ("https://h", "/"),
        ("https://h/u?#part", "/u?"),
        ("https://h/\xc3\xa9?\xff", "/%C3%A9?%FF"),
        ("https://h/\u20ac", "/%E2%82%AC"),
    ],
)
def test_path_and_query_are_sent_byte_for_byte(url: str, target: str) -> None:
    """R-071."""
    assert request_target(url) == target
    assert request_target(url, is_whole=True) == f"https://h{target}"


@pytest.mark.parametrize("is_proxied", [False, True])
def test_a_signature_in_a_query_is_sent_byte_for_byte(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes, *, is_proxied: bool
) -> None:
    """R-071."""
    script = responses(response_bytes(200))
    server = start_server(script)
    home = "http://registry.example.com" if is_proxied else str(server.origin)
    settings = HttpSettings(plain_http=True, proxy=str(server.origin) if is_proxied else "")

    with closing(Urllib3Transport(settings)) as transport:
        transport.send("PUT", f"{home}/u/../v?sig=a%2fb%zz|", {}, None).close()

    received: Received = script.received[0]
    assert received.target == f"{home if is_proxied else ''}/u/../v?sig=a%2fb%zz|"
