"""Messages of exchanges that failed: they say which step failed, and why (R-064)."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from registry_adapters.http.error_mapping import error_from_response
from registry_adapters.http.messages import Headers, Request
from registry_adapters.http.retry import NotConnected
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport import sockets
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.domain.origin import Origin
from registry_core.errors import ProtocolError, TLSError, TransportError, Unavailable

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedServer, ServerConnection

    Script = Callable[[ServerConnection], None]
    StartServer = Callable[[Script], ScriptedServer]

HELLO_REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


def failure(url: str, kind: type[TransportError], **settings: Any) -> str:
    """Send a request that fails, and return the message of the error."""
    options = {"proxy": "", "connect_timeout": 5.0, "read_timeout": 5.0, **settings}
    with closing(Urllib3Transport(HttpSettings(**options), Origin.of_url(url))) as transport:
        with pytest.raises(kind) as caught:
            transport.send("GET", f"{url}/v2/", {}, None).close()
    assert type(caught.value) is kind
    return caught.value.message


def reset(sock: socket.socket) -> None:
    """Close a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def reset_after_reading(connection: ServerConnection) -> None:
    connection.sock.recv(1)
    connection.close()
    reset(connection.sock)


def close_after_reading(connection: ServerConnection) -> None:
    connection.sock.recv(65536)


def wait(connection: ServerConnection) -> None:
    connection.wait()


def answer(content: bytes) -> Script:
    """Return a script that reads what comes first, and answers by some bytes."""

    def script(connection: ServerConnection) -> None:
        connection.sock.recv(65536)
        connection.send(content)

    return script


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "https"])
class TestConnecting:
    def test_a_refused_connection(self, scheme: str, unused_port: int) -> None:
        message = failure(f"{scheme}://127.0.0.1:{unused_port}", NotConnected)

        assert message == f"connect to 127.0.0.1:{unused_port}: connection refused"

    def test_a_refused_connection_to_a_proxy(self, scheme: str, unused_port: int) -> None:
        proxy = f"http://127.0.0.1:{unused_port}"

        message = failure(f"{scheme}://registry.example.com", NotConnected, proxy=proxy)

        assert message == (
            f"connect to registry.example.com through the proxy 127.0.0.1:{unused_port}: connection refused"
        )

    @pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES])
    def test_an_unreachable_address(self, scheme: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def connect_to(*args: object, **options: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(sockets.CancellableTcpSocket, "connect_to", connect_to)

        message = failure(f"{scheme}://10.0.0.5:5000", NotConnected)

        assert message.lower() == f"connect to 10.0.0.5:5000: {os.strerror(code).lower()}"

    @pytest.mark.parametrize(
        ("cause", "expected"),
        [
            (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
            (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "temporary failure in name"),
        ],
    )
    def test_a_name_that_is_not_resolved(
        self, scheme: str, cause: OSError, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look_up(*args: object, **options: object) -> list[Any]:
            raise cause

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

        message = failure(f"{scheme}://registry.example.com", NotConnected)

        assert message.startswith(f"connect to registry.example.com: host name not resolved: {expected}")

    def test_an_address_that_drops_packets(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def connect_to(*args: object, **options: object) -> None:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")

        monkeypatch.setattr(sockets.CancellableTcpSocket, "connect_to", connect_to)

        assert failure(f"{scheme}://10.0.0.5:5000", NotConnected).endswith(": no connection within 5 s")


class TestHandshakes:
    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            (reset_after_reading, "connection reset by peer during the TLS handshake; does the server speak TLS?"),
            (close_after_reading, "closed during the TLS handshake; does the server speak TLS?"),
        ],
    )
    def test_a_connection_that_ends_in_the_handshake(
        self, start_server: StartServer, script: Script, expected: str
    ) -> None:
        origin = start_server(script).origin

        assert failure(f"https://{origin.netloc}", NotConnected) == f"connect to {origin.netloc}: {expected}"

    def test_a_server_that_waits_for_a_request(self, start_server: StartServer) -> None:
        origin = start_server(wait).origin

        message = failure(f"https://{origin.netloc}", NotConnected, connect_timeout=0.2)

        assert message.endswith("the TLS handshake was not finished within 0.2 s; does the server speak TLS?")

    def test_a_server_that_speaks_plain_http(self, start_server: StartServer) -> None:
        origin = start_server(answer(HELLO_REFUSED)).origin

        message = failure(f"https://{origin.netloc}", TLSError)

        assert message.endswith("the server does not speak TLS: for plain http, set plain_http")


class TestProxies:
    @pytest.mark.parametrize(
        ("scheme", "script", "kind", "expected"),
        [
            ("https", answer(HELLO_REFUSED), TLSError, "the proxy does not speak TLS: write its URL with http://"),
            ("https", close_after_reading, NotConnected, "with the proxy; does the proxy speak TLS?"),
            ("https", wait, NotConnected, "with the proxy was not finished within 0.5 s; does the proxy speak TLS?"),
            ("http", answer(ALERT), TLSError, "but the request was plain http: write its URL with https://"),
            ("http", answer(b"hello"), ProtocolError, "the response of the proxy is not valid HTTP"),
            ("http", close_after_reading, NotConnected, "without a response; does the proxy expect TLS?"),
            ("http", reset_after_reading, NotConnected, "lost: connection reset by peer; does the proxy expect TLS?"),
            ("http", wait, NotConnected, "no answer of the proxy within 0.5 s"),
            ("http", answer(b"HTTP/1.1 503 Busy\r\n\r\n"), NotConnected, "the proxy answered 503"),
        ],
    )  # fmt: skip
    def test_a_proxy_that_opens_no_tunnel(
        self, start_server: StartServer, scheme: str, script: Script, kind: type[TransportError], expected: str
    ) -> None:
        proxy = f"{scheme}://{start_server(script).origin.netloc}"

        message = failure("https://registry.example.com", kind, proxy=proxy, connect_timeout=0.5)

        assert message.startswith("connect to registry.example.com through the proxy 127.0.0.1:")
        assert message.endswith(expected)

    @pytest.mark.parametrize(
        ("script", "kind", "expected"),
        [
            (answer(ALERT), TLSError, "the proxy speaks TLS, but the request was plain http: write its URL with https"),
            (reset_after_reading, Unavailable, "connection reset by peer; does the proxy expect TLS?"),
        ],
    )
    def test_a_proxy_for_plain_http_that_speaks_tls(
        self, start_server: StartServer, script: Script, kind: type[TransportError], expected: str
    ) -> None:
        proxy = f"http://{start_server(script).origin.netloc}"

        assert expected in failure("http://registry.example.com", kind, proxy=proxy)

    def test_a_message_about_the_certificate_of_the_proxy_names_the_proxy(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        """R-041."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

        def script(connection: ServerConnection) -> None:
            with suppress(ssl.SSLError), context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
                sock.recv(1)

        proxy = f"https://{start_server(script).origin.netloc}"

        for url in ("https://registry.example.com", "http://registry.example.com"):
            message = failure(url, TLSError, proxy=proxy)

            assert ": TLS with the proxy failed: certificate signed by unknown authority" in message


class TestExchanges:
    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            (reset_after_reading, "connection reset by peer; does the server expect TLS?"),
            (close_after_reading, "closed by the server without a response; does the server expect TLS?"),
        ],
    )
    def test_plain_http_to_a_server_that_answers_nothing(
        self, start_server: StartServer, script: Script, expected: str
    ) -> None:
        origin = start_server(script).origin

        assert failure(str(origin), Unavailable) == f"GET {origin}/v2/: connection lost: {expected}"

    def test_plain_http_to_a_server_that_answers_by_an_alert(self, start_server: StartServer) -> None:
        origin = start_server(answer(ALERT)).origin

        assert failure(str(origin), TLSError).endswith(
            ": the server speaks TLS, but the request was plain http: remove plain_http"
        )

    def test_no_question_about_tls_where_http_was_spoken_before(self, start_server: StartServer) -> None:
        """R-053: the connection had carried an exchange."""

        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            connection.receive()

        origin = start_server(script).origin
        with closing(Urllib3Transport(HttpSettings(proxy=""))) as transport:
            transport.send("GET", f"{origin}/v2/", {}, None).close()
            with pytest.raises(Unavailable) as caught:
                transport.send("GET", f"{origin}/v2/", {}, None)

        assert "TLS" not in caught.value.message

    def test_no_data_in_time(self, start_server: StartServer) -> None:
        origin = start_server(wait).origin

        assert failure(str(origin), Unavailable, read_timeout=0.2) == f"GET {origin}/v2/: no data for 0.2 s"


@pytest.mark.parametrize(
    "content",
    [
        b"The client sent a plain HTTP request, but this server only speaks HTTPS on this port.",
        b"Bad Request\nThis combination of host and port requires TLS.\n",
        b"Client sent an HTTP request to an HTTPS server.\n",
    ],
)
def test_a_tls_server_that_says_so_in_plain_http(content: bytes) -> None:
    request = Request(method="GET", target="/v2/", success=(200,), reference="x", missing="registry")

    error = error_from_response(400, Headers([]), content, request, url="http://registry.example.com/v2/")

    assert type(error) is TLSError
    assert "the server speaks TLS" in error.message


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("minio.corp.lan.", "minio.corp.lan."),
        ("minio.corp.lan.:80", "minio.corp.lan."),
        ("MinIO_1.corp.lan.:9000", "minio_1.corp.lan.:9000"),
        ("minio_1.corp.lan:9000", "minio_1.corp.lan:9000"),
    ],
)
@pytest.mark.parametrize("uses_proxy", [False, True])
def test_a_trailing_dot_of_a_host_stays_in_the_host_header(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, host: str, sent: str, uses_proxy: bool
) -> None:
    """R-042: a signature may include it. The name is looked up without it."""
    received: list[bytes] = []
    looked_up: list[str] = []

    def script(connection: ServerConnection) -> None:
        received.append(connection.sock.recv(65536))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = start_server(script)

    def look_up(name: str, *args: object, **options: object) -> list[Any]:
        looked_up.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.origin.port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    settings = HttpSettings(proxy="http://proxy.corp.lan:3128" if uses_proxy else "")

    with closing(Urllib3Transport(settings)) as transport:
        transport.send("GET", f"http://{host}/b?sig=1", {}, None).close()

    hosts = [line for line in received[0].decode().lower().splitlines() if line.startswith("host:")]
    assert hosts == [f"host: {sent}"]
    # A proxy sends the host of the request line.
    assert received[0].startswith(f"GET {f'http://{sent}' if uses_proxy else ''}/b?sig=1 ".encode())
    assert looked_up == ["proxy.corp.lan" if uses_proxy else host.lower().partition(":")[0].rstrip(".")]


@pytest.mark.parametrize("dot", ["", "."])
def test_a_certificate_is_checked_for_the_name_without_a_trailing_dot(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dot: str
) -> None:
    """R-041, R-042."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("minio.corp.lan").configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, context: names.append(name)

    def script(connection: ServerConnection) -> None:
        with context.wrap_socket(connection.sock.dup(), server_side=True) as sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            sock.recv(1)

    port = start_server(script).origin.port
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

    with closing(Urllib3Transport(HttpSettings(proxy="", ca_file=str(tmp_path / "ca.pem")))) as transport:
        transport.send("GET", f"https://minio.corp.lan{dot}/b", {}, None).close()

    assert names == ["minio.corp.lan"]
