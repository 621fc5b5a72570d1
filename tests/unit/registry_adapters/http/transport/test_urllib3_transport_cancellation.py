"""Cancellation and deadlines end every wait at once, and leave no connection in a bad state (R-052)."""

from __future__ import annotations

import gc
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from registry_adapters.http.messages import Body, Response
from registry_adapters.http.retry import NotConnected
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport
from registry_core.cancellation import CancelScope, fail_after
from registry_core.content.streams import BytesSource
from registry_core.errors import Cancelled, DeadlineExceeded, RegistryError, TLSError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

LARGE = bytes(64 << 20)
OPEN = Path("/proc/self/fd")


@pytest.fixture
def transport() -> Iterator[Urllib3Transport]:
    with closing(Urllib3Transport(HttpSettings(plain_http=True, proxy="", max_connections=1))) as transport:
        yield transport


@contextmanager
def cancelled_after(waiting: threading.Event) -> Iterator[None]:
    """Cancel the block when the event is set; it must end within half a second."""
    since: list[float] = []

    def cancel() -> None:
        waiting.wait(10)
        since.append(time.monotonic())
        scope.cancel()

    with CancelScope() as scope:
        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            with pytest.raises(Cancelled):
                yield
            ended = time.monotonic()
        finally:
            waiting.set()
            thread.join()
    assert ended - since[0] < 0.5


def get(transport: Urllib3Transport, server: ScriptedServer, path: str) -> Response:
    return transport.send("GET", f"{server.origin}{path}", {}, None)


class TestConnecting:
    @pytest.fixture
    def blocked_lookup(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """Make look-ups block; the event is set when one has begun."""
        begun, released = threading.Event(), threading.Event()
        threads: list[threading.Thread] = []

        def look_up(*args: object, **options: object) -> list[Any]:
            threads.append(threading.current_thread())
            begun.set()
            released.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "gave up")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        yield begun
        released.set()
        for thread in threads:
            thread.join(5)

    def test_a_cancellation_ends_a_name_lookup(
        self, transport: Urllib3Transport, blocked_lookup: threading.Event
    ) -> None:
        with cancelled_after(blocked_lookup):
            transport.send("GET", "http://registry.example.com/", {}, None)

    def test_a_deadline_ends_a_name_lookup(self, transport: Urllib3Transport, blocked_lookup: threading.Event) -> None:
        with fail_after(0.1), pytest.raises(DeadlineExceeded):
            transport.send("GET", "http://registry.example.com/", {}, None)

    def test_the_connect_timeout_includes_the_name_lookup(self, blocked_lookup: threading.Event) -> None:
        settings = HttpSettings(plain_http=True, proxy="", connect_timeout=0.1)

        with (
            closing(Urllib3Transport(settings)) as transport,
            pytest.raises(NotConnected, match=r"registry\.example\.com: host name not resolved within 0\.1 s$"),
        ):
            transport.send("GET", "http://registry.example.com/", {}, None)

    def test_the_error_of_an_unknown_host_name_has_its_cause(
        self, transport: Urllib3Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look_up(*args: object, **options: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

        with pytest.raises(NotConnected, match="not resolved: name or service not known"):
            transport.send("GET", "http://registry.example.com/", {}, None)

    def test_all_addresses_of_a_name_are_tried(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.send(response_bytes(200, b"second"))

        server = start_server(script)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            unused = listener.getsockname()
        addresses = (unused, ("127.0.0.1", server.origin.port))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

        with transport.send("GET", "http://registry.example.com/", {}, None) as response:
            assert response.content(100) == b"second"

    def test_a_cancellation_ends_the_wait_for_a_proxy(self, start_server: StartServer) -> None:
        asked = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.head()
            asked.set()
            connection.wait()

        server = start_server(script)
        with closing(Urllib3Transport(HttpSettings(proxy=str(server.origin)))) as transport, cancelled_after(asked):
            transport.send("GET", "https://registry.example.com/v2/", {}, None)

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 Connected\r\n\r\n"])
    def test_the_connect_timeout_includes_the_proxy_and_the_handshake(
        self, start_server: StartServer, said: bytes
    ) -> None:
        """R-052."""

        def script(connection: ServerConnection) -> None:
            connection.head()
            connection.send(said)
            connection.wait()

        settings = HttpSettings(proxy=str(start_server(script).origin), connect_timeout=0.2, read_timeout=60.0)
        started = time.monotonic()

        with closing(Urllib3Transport(settings)) as transport, pytest.raises(NotConnected):
            transport.send("GET", "https://registry.example.com/v2/", {}, None)

        assert time.monotonic() - started < 5

    def test_a_handshake_ends_at_the_deadline(self, start_server: StartServer) -> None:
        """R-052."""
        server = start_server(lambda connection: connection.wait())
        started = time.monotonic()

        with closing(Urllib3Transport(HttpSettings(proxy="", connect_timeout=60.0))) as transport:
            with fail_after(0.2), pytest.raises(DeadlineExceeded):
                transport.send("GET", f"https://127.0.0.1:{server.origin.port}/", {}, None)

        assert time.monotonic() - started < 5


class TestNextRequest:
    """The next request gets its own response, even if an earlier one arrives late on a kept connection."""

    @pytest.fixture
    def waiting(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def released(self) -> Iterator[threading.Event]:
        """An event after which the server sends its late response."""
        event = threading.Event()
        yield event
        event.set()

    def script(
        self, response_bytes: ResponseBytes, waiting: threading.Event, released: threading.Event, first_bytes: bytes
    ) -> Callable[[ServerConnection], None]:
        def run(connection: ServerConnection) -> None:
            while (request := connection.head()) is not None:
                if request.target == "/slow":
                    connection.send(first_bytes)
                    waiting.set()
                    released.wait(10)
                    connection.send(response_bytes(200, b"late"))
                    return
                connection.send(response_bytes(200, request.target.encode()))

        return run

    def fetch(self, transport: Urllib3Transport, server: ScriptedServer, path: str) -> bytes:
        with get(transport, server, path) as response:
            return response.content(100)

    def test_the_next_request_after_a_cancelled_wait_for_a_head_gets_its_own_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        waiting: threading.Event,
        released: threading.Event,
    ) -> None:
        server = start_server(self.script(response_bytes, waiting, released, b""))
        assert self.fetch(transport, server, "/before") == b"/before"

        with cancelled_after(waiting):
            get(transport, server, "/slow")
        released.set()

        assert self.fetch(transport, server, "/after") == b"/after"
        assert server.connections == 2

    def test_the_next_request_after_a_cancelled_read_of_a_head_gets_its_own_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        waiting: threading.Event,
        released: threading.Event,
    ) -> None:
        server = start_server(self.script(response_bytes, waiting, released, b"HTTP/1.1 200 OK\r\nContent-"))

        with cancelled_after(waiting):
            get(transport, server, "/slow")
        released.set()

        assert self.fetch(transport, server, "/after") == b"/after"

    @pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
    def test_the_next_request_after_a_cancelled_read_of_a_body_gets_its_own_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        waiting: threading.Event,
        released: threading.Event,
        framing: str,
    ) -> None:
        server = start_server(
            self.script(response_bytes, waiting, released, f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nabc".encode())
        )

        with cancelled_after(waiting), get(transport, server, "/slow") as response:
            response.content(100)
        released.set()

        assert self.fetch(transport, server, "/after") == b"/after"

    def test_the_next_request_after_a_cancelled_upload_gets_its_own_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        waiting: threading.Event,
        released: threading.Event,
    ) -> None:
        server = start_server(self.script(response_bytes, waiting, released, b""))

        with cancelled_after(waiting):
            transport.send("PUT", f"{server.origin}/slow", {}, Body(BytesSource(LARGE), 0, len(LARGE)))
        released.set()

        assert self.fetch(transport, server, "/after") == b"/after"

    def test_the_next_request_after_an_exceeded_deadline_gets_its_own_response(
        self,
        transport: Urllib3Transport,
        start_server: StartServer,
        response_bytes: ResponseBytes,
        waiting: threading.Event,
        released: threading.Event,
    ) -> None:
        """R-052."""
        server = start_server(
            self.script(response_bytes, waiting, released, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        )

        with fail_after(0.1), pytest.raises(DeadlineExceeded), get(transport, server, "/slow") as response:
            response.content(100)
        released.set()

        assert self.fetch(transport, server, "/after") == b"/after"

    def test_the_next_request_after_a_close_opens_a_new_connection(
        self, transport: Urllib3Transport, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """Closing the transport closes its connections, but not the transport for later requests."""

        def script(connection: ServerConnection) -> None:
            while (request := connection.head()) is not None:
                connection.send(response_bytes(200, request.target.encode()))

        server = start_server(script)
        self.fetch(transport, server, "/before")

        transport.close()
        transport.close()

        assert self.fetch(transport, server, "/after") == b"/after"
        assert server.connections == 2


FORKING = """
import os, sys
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Urllib3Transport

transport = Urllib3Transport(HttpSettings(plain_http=True, proxy=""))

def ask(path):
    with transport.send("GET", sys.argv[1] + path, {}, None) as response:
        return response.content(100)

assert ask("/first") == b"/first"
child = os.fork()
if child == 0:
    fine = ask("/child") == b"/child"
    transport.close()
    os._exit(0 if fine else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert ask("/parent") == b"/parent"
transport.close()
"""


def test_a_child_shares_no_connection_with_its_parent(start_server: StartServer, response_bytes: ResponseBytes) -> None:
    """When the child closes its connection, that of the parent stays open."""
    connections: list[list[str]] = []

    def script(connection: ServerConnection) -> None:
        seen: list[str] = []
        connections.append(seen)
        while (request := connection.head()) is not None:
            seen.append(request.target)
            connection.send(response_bytes(200, request.target.encode()))

    server = start_server(script)

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING, str(server.origin)], capture_output=True, timeout=30, text=True
    )

    assert ended.returncode == 0, ended.stderr
    assert connections == [["/first", "/parent"], ["/child"]]


@contextmanager
def no_leaks() -> Iterator[None]:
    """Assert that the block leaves no socket open and no thread running."""
    gc.collect()
    files, threads = len(list(OPEN.iterdir())), threading.active_count()
    yield
    assert len(list(OPEN.iterdir())) <= files
    assert threading.active_count() <= threads


class TestLeaks:
    def test_a_thousand_failed_requests_leave_no_socket_or_thread(
        self, start_server: StartServer, response_bytes: ResponseBytes
    ) -> None:
        """For each kind of failure."""
        responses: dict[str, bytes] = {
            "/good": response_bytes(200, b"fine"),
            "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
            "/garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
            "/nothing": b"",
            "/part": b"HTTP/1.1 200 OK\r\nContent-Le",
            "/chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        }

        def script(connection: ServerConnection) -> None:
            while (request := connection.head()) is not None:
                if request.target == "/silent":
                    connection.wait()
                    return
                connection.send(responses[request.target])
                if request.target != "/good":
                    return

        def count_failures(transport: Urllib3Transport, server: ScriptedServer, path: str) -> int:
            """Send one request and return the number of failures."""
            timeout = 0.01 if path == "/silent" else 30.0
            with fail_after(timeout), CancelScope() as scope:
                timer = threading.Timer(0.002, scope.cancel)
                if path == "/cancelled":
                    path = "/silent"
                    timer.start()
                try:
                    with get(transport, server, path) as response:
                        response.content(1000)
                except RegistryError:
                    return 1
                finally:
                    if timer.is_alive():
                        timer.join()
            return 0

        paths = [*responses, "/silent", "/cancelled"]
        settings = HttpSettings(plain_http=True, proxy="", max_connections=2)
        with no_leaks():
            server = start_server(script)
            with closing(Urllib3Transport(settings)) as transport:
                failed = sum(count_failures(transport, server, paths[number % len(paths)]) for number in range(1000))
            server.close()

        assert failed == 875

    def test_failed_handshakes_leave_no_socket_or_thread(self, start_server: StartServer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

        def script(connection: ServerConnection) -> None:
            context.wrap_socket(connection.sock.dup(), server_side=True).close()

        with no_leaks():
            server = start_server(script)
            with closing(Urllib3Transport(HttpSettings(proxy=""))) as transport:
                for _ in range(100):
                    with pytest.raises(TLSError):
                        transport.send("GET", f"https://127.0.0.1:{server.origin.port}/", {}, None)
            server.close()

    def test_refused_connections_leave_no_socket_or_thread(self, transport: Urllib3Transport) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        with no_leaks():
            for _ in range(100):
                with pytest.raises(NotConnected):
                    transport.send("GET", f"http://localhost:{port}/", {}, None)
