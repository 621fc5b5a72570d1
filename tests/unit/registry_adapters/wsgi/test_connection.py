"""Access of middleware to the connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import closing
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import registry_server
from registry_adapters.wsgi.connection import Connection, connection

ASK = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"


def middleware_calling(act: Callable[[Connection], None]) -> Callable[[WSGIApplication], WSGIApplication]:
    """A middleware that calls a function with the connection instead of responding."""

    def wrap(app: WSGIApplication) -> WSGIApplication:
        def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            found = connection(environ)
            assert found is not None
            act(found)
            return []

        return middleware

    return wrap


def received(host: str) -> bytes:
    name, _, port = host.rpartition(":")
    with closing(socket.create_connection((name, int(port)), timeout=10)) as sock:
        sock.sendall(ASK)
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_close_gracefully_sends_no_response() -> None:
    with registry_server(MemoryCatalog(), wrap=middleware_calling(lambda found: found.close_gracefully())) as server:
        assert received(server.host) == b""


def test_reset_resets_the_connection() -> None:
    with registry_server(MemoryCatalog(), wrap=middleware_calling(lambda found: found.reset())) as server:
        with pytest.raises(ConnectionResetError):
            received(server.host)


def test_reset_can_be_repeated() -> None:
    def act(found: Connection) -> None:
        found.reset()
        found.reset()

    with registry_server(MemoryCatalog(), wrap=middleware_calling(act)) as server:
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                received(server.host)


def test_send_sends_raw_bytes() -> None:
    def act(found: Connection) -> None:
        found.send(b"hello")
        found.close_gracefully()

    with registry_server(MemoryCatalog(), wrap=middleware_calling(act)) as server:
        assert received(server.host) == b"hello"


def test_connections_are_numbered() -> None:
    numbers: list[int] = []

    def act(found: Connection) -> None:
        numbers.append(found.number)
        found.close_gracefully()

    with registry_server(MemoryCatalog(), wrap=middleware_calling(act)) as server:
        for _ in range(3):
            received(server.host)

    assert numbers == [1, 2, 3]


def test_without_middleware_the_response_is_sent() -> None:
    with registry_server(MemoryCatalog()) as server:
        name, _, port = server.host.rpartition(":")
        with closing(socket.create_connection((name, int(port)), timeout=10)) as sock:
            sock.sendall(ASK)

            assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_another_server_provides_no_connection() -> None:
    assert connection({}) is None
