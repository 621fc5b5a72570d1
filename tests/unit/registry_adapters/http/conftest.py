"""A scripted server on loopback, and a scripted transport that needs no server."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from registry_adapters.http.messages import Body, Headers, Response
from registry_core.content.streams import FileObjectReader
from registry_core.domain.origin import Origin
from registry_core.ports.observer import Event


class Received(NamedTuple):
    """A request as the server received it; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class ServerConnection:
    """Server side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def head(self) -> Received | None:
        """Read the head of the next request, not its body; ``None`` once the client has closed the connection."""
        line = self._file.readline()
        if not line:
            return None
        method, target, _ = line.decode().split(" ", 2)
        headers = {}
        while (field := self._file.readline().strip()) != b"":
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Received(method, target, headers, b"")

    def receive(self) -> Received | None:
        """Read the next request with its body."""
        request = self.head()
        if request is None:
            return None
        return request._replace(body=self._file.read(int(request.headers.get("content-length", "0"))))

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.sock.sendall(data)

    def wait(self) -> None:
        """Send nothing until the client closes the connection or the test ends."""
        while self._file.read(1 << 16):
            continue

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class ScriptedServer:
    """A server on loopback that runs a script on each connection."""

    def __init__(self, script: Callable[[ServerConnection], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.origin = Origin("http", "127.0.0.1", self._listener.getsockname()[1])
        self.connections = 0
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = ServerConnection(sock)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            self._script(connection)

    def close(self) -> None:
        """Close all connections and wait for their threads."""
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()


class ScriptedResponses:
    """A script: one prepared response to each request, on any connection; then the connection is closed."""

    def __init__(self, *responses: bytes) -> None:
        self._responses = deque(responses)
        self.received: list[Received] = []

    def __call__(self, connection: ServerConnection) -> None:
        while self._responses and (request := connection.receive()) is not None:
            self.received.append(request)
            connection.send(self._responses.popleft())


def encode_response(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a response with ``Content-Length``."""
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    return (
        f"HTTP/1.1 {status} Test\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    ).encode() + body


class Sent(NamedTuple):
    """A request that was passed to a transport."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


class Reply(NamedTuple):
    """A response of a scripted transport."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    content: bytes = b""


class ScriptedTransport:
    """Return responses from a list, and raise the exceptions in it."""

    def __init__(self, *replies: Reply | BaseException) -> None:
        self.replies = deque(replies)
        self.sent: list[Sent] = []
        self.readers: list[FileObjectReader] = []
        self.closed = False

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        content = None
        if body is not None:
            with body.source.open(body.start) as reader:
                content = reader.read(body.length)
        self.sent.append(Sent(method, url, dict(headers), content))
        reply = self.replies.popleft()
        if isinstance(reply, BaseException):
            raise reply
        return Response(
            status=reply.status,
            headers=Headers(list(reply.headers.items())),
            url=url,
            reader=FileObjectReader(io.BytesIO(reply.content)),
        )

    def close(self) -> None:
        self.closed = True


class Recorder:
    """An observer that records all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def start_server() -> Iterator[Callable[[Callable[[ServerConnection], None]], ScriptedServer]]:
    """Start servers, and stop them after the test."""
    servers: list[ScriptedServer] = []

    def start(script: Callable[[ServerConnection], None]) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def response_bytes() -> Callable[..., bytes]:
    """Return the bytes of a response."""
    return encode_response


@pytest.fixture
def responses() -> type[ScriptedResponses]:
    """Build scripts of prepared responses."""
    return ScriptedResponses


@pytest.fixture
def scripted() -> type[ScriptedTransport]:
    """Build transports with prepared replies."""
    return ScriptedTransport


@pytest.fixture
def reply() -> type[Reply]:
    """Build replies."""
    return Reply


@pytest.fixture
def recorder() -> Recorder:
    """Return an observer that records all events."""
    return Recorder()
