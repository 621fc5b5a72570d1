"""Blobs are transferred completely although every connection is closed after 16 MiB."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from registry_adapters import LayoutCatalog
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.wsgi import registry_server
from registry_core import RepositoryName
from registry_core.content.streams import CHUNK_SIZE, ByteReader, CallableSource
from registry_core.content.verify import VerifyingReader
from registry_core.ports.blob_store import BlobStore
from registry_core.testing.content import PatternSource

SIZE = 256 << 20
CUT = 16 << 20
CONTENT = PatternSource(SIZE)
NAME = RepositoryName("org/big")


class CuttingProxy:
    """Forwards bytes, counts them, and closes each connection after ``cut`` bytes of one side."""

    def __init__(self, host: str, *, cut: int = CUT) -> None:
        address, _, port = host.rpartition(":")
        self._upstream = (address, int(port))
        self._cut = cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.moved = self.cuts = 0

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for sock in sockets:
            self._end(sock)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            with self._lock:
                self._sockets |= {client, server}
            thread = threading.Thread(target=self._forward, args=(client, server))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._copy, args=(server, client))
        back.start()
        self._copy(client, server)
        back.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        left = self._cut
        with contextlib.suppress(OSError):
            while left and (data := source.recv(min(left, 256 << 10))):
                target.sendall(data)
                left -= len(data)
                with self._lock:
                    self.moved += len(data)
        with self._lock:
            self.cuts += not left
        self._end(source)
        self._end(target)

    @staticmethod
    def _end(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


@pytest.fixture(params=["ours", "docker-registry"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """docker-registry, which cannot resume uploads, and the server of this library, which can."""
    if request.param == "ours":
        with registry_server(LayoutCatalog(tmp_path / "served", fsync=False)) as server:
            yield server.host
    else:
        yield request.getfixturevalue("docker_registry").removeprefix("http://")


def connected(host: str, chunk_size: int | None = None) -> closing[HttpCatalog]:
    return closing(HttpCatalog(host, HttpSettings(plain_http=True, proxy="", chunk_size=chunk_size)))


def check(blobs: BlobStore) -> None:
    """Read the blob and verify it."""
    with VerifyingReader(blobs.open(CONTENT.digest), CONTENT.digest, SIZE) as reader:
        while reader.read(CHUNK_SIZE):
            continue


@pytest.mark.parametrize("chunk_size", [None, 4 << 20])
def test_pushing_and_pulling_through_cuts_moves_at_most_15_percent_more(host: str, chunk_size: int | None) -> None:
    """R-051, R-074, R-075: few bytes are sent twice."""
    with CuttingProxy(host) as pushing, connected(pushing.host, chunk_size) as catalog:
        catalog.repository(NAME).blobs.put(CONTENT.digest, SIZE, CONTENT)
    with CuttingProxy(host) as pulling, connected(pulling.host) as catalog:
        check(catalog.repository(NAME).blobs)
    with connected(host) as catalog:
        catalog.repository(NAME).blobs.delete(CONTENT.digest)

    assert pushing.cuts >= 1
    assert SIZE < pushing.moved <= SIZE * 1.15
    assert pulling.cuts >= SIZE // CUT
    assert SIZE < pulling.moved <= SIZE * 1.15


class Restartable:
    """A server of this library that can be restarted on the same port."""

    def __init__(self, backing: LayoutCatalog) -> None:
        self._backing = backing
        self._servers = ExitStack()
        # Port 0 would give an ephemeral port, which cannot be bound again at once.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = int(probe.getsockname()[1])
        self.restarts = -1

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    @property
    def host(self) -> str:
        """The address and port."""
        return f"127.0.0.1:{self._port}"

    def restart(self) -> None:
        """Restart, which drops all upload sessions and connections."""
        self._servers.close()
        self._servers.enter_context(registry_server(self._backing, port=self._port))
        self.restarts += 1


def test_a_pull_continues_after_a_restart_of_the_registry(tmp_path: Path) -> None:
    """R-051."""
    content = PatternSource(8 << 20)
    backing = LayoutCatalog(tmp_path / "served", fsync=False)
    backing.repository(NAME).blobs.put(content.digest, content.size, content)
    with Restartable(backing) as registry, connected(registry.host) as catalog:
        with catalog.repository(NAME).blobs.open(content.digest) as reader:
            begun = reader.read(CHUNK_SIZE)
            registry.restart()
            rest = reader.read()

    assert begun + rest == content.bytes_at(0, content.size)


@pytest.mark.parametrize("chunk_size", [None, CHUNK_SIZE])
def test_a_push_begins_again_after_a_restart_of_the_registry(tmp_path: Path, chunk_size: int | None) -> None:
    """R-075: the restarted registry does not know the upload session."""
    content = PatternSource(24 << 20)
    backing = LayoutCatalog(tmp_path / "served", fsync=False)
    with Restartable(backing) as registry, connected(registry.host, chunk_size) as catalog:

        def opened(start: int) -> ByteReader:
            # Without chunks at the first byte, with chunks after some of them.
            if not registry.restarts and (start or chunk_size is None):
                registry.restart()
            return content.open(start)

        catalog.repository(NAME).blobs.put(content.digest, content.size, CallableSource(opened))

    assert registry.restarts == 1
    assert backing.repository(NAME).blobs.stat(content.digest) == content.size
