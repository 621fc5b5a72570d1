"""Uploads to registries that close kept connections without notice, over real sockets."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.streams import ByteReader, ByteSource, BytesSource, CallableSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import Unavailable
from registry_core.ports.blob_store import BlobStore
from registry_core.testing.content import PatternSource

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Received, ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]

REPOSITORY: Final = RepositoryName("org/app")
SIZE: Final = 300_000
CHUNK: Final = 100_000


def closed(connection: ServerConnection) -> bool:
    """Close the connection after a response."""
    return True


def reset(connection: ServerConnection) -> bool:
    """Reset the connection after a response."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def closed_at_the_next_head(connection: ServerConnection) -> bool:
    """Close the connection when the head of the next request has come; the rest of it may be underway."""
    connection.head()
    return True


def closed_after_the_next_request(connection: ServerConnection) -> bool:
    """Close the connection when the next request has come completely, without carrying it out."""
    connection.receive()
    return True


def reset_at_the_next_head(connection: ServerConnection) -> bool:
    """Reset the connection when the head of the next request has come."""
    connection.head()
    return reset(connection)


def closed_when_idle(connection: ServerConnection) -> bool:
    """Close the connection if no request comes at once."""
    connection.sock.settimeout(0.001)
    try:
        return not connection.sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        connection.sock.settimeout(None)


CLOSINGS: Final = [
    closed,
    reset,
    closed_at_the_next_head,
    closed_after_the_next_request,
    reset_at_the_next_head,
    closed_when_idle,
]


class ClosingRegistry:
    """A registry that stores blobs and closes connections silently.

    Args:
        closing: Ends a connection after a response; returns whether the connection is over.
        after: Methods after whose responses connections end; by default all.
        session_status: Status of the response to a GET of an upload session.
        stated_range: Replaces the number of stored bytes in ``Range``.
    """

    def __init__(
        self,
        closing: Callable[[ServerConnection], bool],
        *,
        after: str = "POST PATCH PUT GET HEAD DELETE",
        session_status: int = 204,
        stated_range: Callable[[int], str] = lambda count: f"0-{max(0, count - 1)}",
    ) -> None:
        self._closing = closing
        self._after = after.split()
        self._session_status = session_status
        self._stated_range = stated_range
        self._lock = threading.Lock()
        self._sessions: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.carried_out: list[str] = []

    def __call__(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        while (request := connection.receive()) is not None:
            if len(request.body) < int(request.headers.get("content-length", "0")):
                return
            with self._lock:
                status, headers = self._answer(request)
                self.carried_out.append(request.method)
            lines = [f"HTTP/1.1 {status} Test", *(f"{name}: {value}" for name, value in headers.items())]
            connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
            if request.method in self._after and self._closing(connection):
                return

    def _answer(self, request: Received) -> tuple[int, dict[str, str]]:
        url = urlsplit(request.target)
        name = url.path.rpartition("/")[2]
        if "/blobs/uploads/" not in url.path:
            length = len(self.blobs.get(name, b""))
            return (200 if name in self.blobs else 404), {"Content-Length": str(length)}
        if request.method == "POST":
            name = str(len(self._sessions))
            self._sessions[name] = b""
            return 202, self._session_headers(name)
        if name not in self._sessions:
            return 404, {"Content-Length": "0"}
        if request.method == "DELETE":
            del self._sessions[name]
            return 204, {}
        if request.method == "GET":
            return self._session_status, self._session_headers(name) if self._session_status < 300 else {
                "Content-Length": "0"
            }
        if request.method == "PATCH":
            match = re.fullmatch("([0-9]+)-([0-9]+)", request.headers["content-range"])
            assert match is not None
            if int(match[1]) != len(self._sessions[name]):
                return 416, self._session_headers(name)
        content = self._sessions[name] + request.body
        if request.method == "PUT":
            digest = parse_qs(url.query)["digest"][0]
            if Digest.of(content) != digest:
                return 400, {"Content-Length": "0"}
            del self._sessions[name]
            self.blobs[digest] = content
            return 201, {"Content-Length": "0"}
        self._sessions[name] = content
        return 202, self._session_headers(name)

    def _session_headers(self, name: str) -> dict[str, str]:
        stated = self._stated_range(len(self._sessions[name]))
        return {"Location": f"/v2/org/app/blobs/uploads/{name}", "Content-Length": "0", "Range": stated}


def blobs_of(server: ScriptedServer, *, chunk: int | None, retries: int = 0) -> BlobStore:
    settings = HttpSettings(retries=retries, chunk_size=chunk, backoff=0.01, plain_http=True)
    return HttpCatalog(server.origin.netloc, settings).repository(REPOSITORY).blobs


def content_of(source: ByteSource) -> bytes:
    with source.open() as reader:
        return reader.read()


class TestClosedBetweenRequests:
    @pytest.mark.parametrize("closing", CLOSINGS)
    @pytest.mark.parametrize("chunk", [None, CHUNK], ids=["monolithic", "chunks"])
    @pytest.mark.parametrize("after", ["POST PATCH PUT GET HEAD DELETE", "POST", "PATCH", "POST PATCH", "PUT"])
    def test_an_upload_without_retries_succeeds(
        self, start_server: StartServer, closing: Callable[[ServerConnection], bool], chunk: int | None, after: str
    ) -> None:
        """R-053, R-075: the session is asked how far it has come, or replaced; no retry is needed."""
        registry = ClosingRegistry(closing, after=after)
        source = PatternSource(SIZE)
        store = blobs_of(start_server(registry), chunk=chunk)

        store.put(source.digest, SIZE, source)

        assert registry.blobs == {source.digest: content_of(source)}

    @pytest.mark.parametrize("closing", CLOSINGS)
    @pytest.mark.parametrize("chunk", [None, CHUNK], ids=["monolithic", "chunks"])
    def test_many_uploads_over_the_same_pool_succeed(
        self, start_server: StartServer, closing: Callable[[ServerConnection], bool], chunk: int | None
    ) -> None:
        """R-053: the POST of each upload may find a closed connection, and so may the HEAD before it."""
        registry = ClosingRegistry(closing)
        store = blobs_of(start_server(registry), chunk=chunk)
        contents = [bytes([number]) * 150_000 for number in range(5)]

        for content in contents:
            store.put(Digest.of(content), len(content), BytesSource(content))

        assert list(registry.blobs.values()) == contents

    @pytest.mark.parametrize("closing", [closed_at_the_next_head, reset_at_the_next_head])
    @pytest.mark.parametrize("session_status", [400, 404, 405, 500])
    def test_where_sessions_cannot_be_asked_the_upload_begins_anew(
        self, start_server: StartServer, closing: Callable[[ServerConnection], bool], session_status: int
    ) -> None:
        """R-075."""
        registry = ClosingRegistry(closing, after="PATCH", session_status=session_status)
        source = PatternSource(SIZE)
        store = blobs_of(start_server(registry), chunk=CHUNK)

        store.put(source.digest, SIZE, source)

        assert registry.blobs == {source.digest: content_of(source)}
        assert registry.carried_out.count("POST") == 2

    @pytest.mark.parametrize(
        "stated_range",
        [lambda count: "0-0", lambda count: f"0-{count}", lambda count: "garbage", lambda count: "0-999999"],
        ids=["stuck", "exclusive", "garbage", "ahead"],
    )
    @pytest.mark.parametrize("after", ["POST", "PATCH"])
    def test_a_wrong_range_after_a_closed_connection_does_not_fail_the_upload(
        self, start_server: StartServer, stated_range: Callable[[int], str], after: str
    ) -> None:
        """R-074."""
        registry = ClosingRegistry(closed_at_the_next_head, after=after, stated_range=stated_range)
        source = PatternSource(SIZE)
        store = blobs_of(start_server(registry), chunk=CHUNK)

        store.put(source.digest, SIZE, source)

        assert registry.blobs == {source.digest: content_of(source)}

    def test_only_what_was_not_stored_is_sent_again(self, start_server: StartServer) -> None:
        """R-075."""
        registry = ClosingRegistry(closed_at_the_next_head, after="PATCH")
        source = PatternSource(SIZE)
        store = blobs_of(start_server(registry), chunk=CHUNK)

        store.put(source.digest, SIZE, source)

        assert registry.carried_out == ["POST", "PATCH", "GET", "PATCH", "PATCH", "PUT"]

    def test_a_request_that_was_carried_out_before_the_connection_was_closed_is_not_repeated(
        self, start_server: StartServer
    ) -> None:
        """R-075: the blob is looked up before it is sent again."""
        registry = ClosingRegistry(lambda connection: False)
        put_seen = threading.Event()

        def lose_response(connection: ServerConnection) -> None:
            original = connection.send

            def send(data: bytes) -> None:
                if registry.carried_out[-1] == "PUT" and not put_seen.is_set():
                    put_seen.set()
                    raise OSError("closed instead of a response")
                original(data)

            connection.send = send  # type: ignore[method-assign]  # this test ends the connection
            registry(connection)

        source = PatternSource(SIZE)
        store = blobs_of(start_server(lose_response), chunk=None)

        store.put(source.digest, SIZE, source)

        assert registry.carried_out == ["POST", "PUT", "HEAD"]


def test_a_source_that_can_be_read_only_once_reports_why_the_upload_failed(start_server: StartServer) -> None:
    """R-053: its bytes went into a closed connection, and nothing else is stored."""
    registry = ClosingRegistry(closed_at_the_next_head, after="POST")
    pattern = PatternSource(SIZE)
    opened: list[int] = []

    def once(start: int) -> ByteReader:
        opened.append(start)
        if len(opened) > 1:
            raise OSError("the stream was read already")
        return pattern.open(start)

    store = blobs_of(start_server(registry), chunk=None, retries=3)

    with pytest.raises(OSError, match="the stream was read already"):
        store.put(pattern.digest, SIZE, CallableSource(once))

    assert registry.blobs == {}


def test_a_registry_that_breaks_each_new_connection_is_still_an_error(start_server: StartServer) -> None:
    """R-054: only a kept connection may be closed without a failure of the registry."""

    def broken(connection: ServerConnection) -> None:
        request = connection.head()
        if request is not None and request.method == "POST":
            connection.send(b"HTTP/1.1 202 Test\r\nLocation: /u/1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    source = PatternSource(SIZE)
    server = start_server(broken)

    with pytest.raises(Unavailable):
        blobs_of(server, chunk=CHUNK).put(source.digest, SIZE, source)
