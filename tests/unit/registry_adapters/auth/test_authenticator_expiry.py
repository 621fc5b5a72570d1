"""Tokens that run out in the middle of things, against a registry that means it (R-038)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from registry_adapters import open_catalog
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import TokenAuthorizer, registry_server
from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Basic
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.ports.observer import Event, RequestCompleted

NAME = RepositoryName("org/app")
BLOB = bytes(range(256)) * 4096
DIGEST = Digest.of(BLOB)
USER = Basic("user", "secret")


class FastClock:
    """A clock that advances by a fixed step on each call."""

    def __init__(self, step: float) -> None:
        self._step = step
        self._now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self._now += self._step
            return self._now


class RequestRecorder:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lines: list[tuple[str, int]] = []

    def on(self, event: Event) -> None:
        if isinstance(event, RequestCompleted):
            with self._lock:
                self.lines.append((f"{event.method} {'/token' if '/token' in event.url else '/v2'}", event.status))

    def count(self, line: str, status: int) -> int:
        return self.lines.count((line, status))


def guard(looks: int) -> TokenAuthorizer:
    return TokenAuthorizer({"user": "secret"}, lifetime=60, clock=FastClock(60 / looks))


def test_a_token_that_expires_between_chunks_is_replaced() -> None:
    backing, recorder = MemoryCatalog(), RequestRecorder()

    with (
        registry_server(backing, authorizer=guard(5)) as server,
        closing(open_catalog(server.url, auth=USER, observer=recorder, chunk_size=128 * 1024)) as catalog,
    ):
        catalog.repository(NAME).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))

    with backing.repository(NAME).blobs.open(DIGEST) as reader:
        assert reader.read() == BLOB
    assert recorder.count("PATCH /v2", 401) >= 1
    assert recorder.count("PATCH /v2", 202) == 8
    assert recorder.count("GET /token", 200) >= 3


def test_a_token_that_expires_between_blobs_is_replaced() -> None:
    backing, recorder = MemoryCatalog(), RequestRecorder()
    contents = [bytes([number]) * 1000 for number in range(20)]
    for content in contents:
        backing.repository(NAME).blobs.put(Digest.of(content), len(content), BytesSource(content))

    with (
        registry_server(backing, authorizer=guard(7)) as server,
        closing(open_catalog(server.url, auth=USER, observer=recorder)) as catalog,
    ):
        blobs = catalog.repository(NAME).blobs
        found = []
        for content in contents:
            with blobs.open(Digest.of(content)) as reader:
                found.append(reader.read())

    assert found == contents
    assert recorder.count("GET /v2", 200) == 20
    assert recorder.count("GET /v2", 401) >= 2


def test_a_token_that_expires_in_many_threads_is_replaced_once() -> None:
    """R-039: one token request for all threads."""
    backing, recorder = MemoryCatalog(), RequestRecorder()
    backing.repository(NAME).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))
    moment = [0.0]
    server_guard = TokenAuthorizer({"user": "secret"}, lifetime=60, clock=lambda: moment[0])

    with (
        registry_server(backing, authorizer=server_guard) as server,
        closing(open_catalog(server.url, auth=USER, observer=recorder)) as catalog,
        ThreadPoolExecutor(16) as pool,
    ):
        blobs = catalog.repository(NAME).blobs
        first = list(pool.map(lambda _: blobs.stat(DIGEST), range(32)))
        moment[0] += 61.0
        second = list(pool.map(lambda _: blobs.stat(DIGEST), range(32)))

    assert first == second == [len(BLOB)] * 32
    assert recorder.count("GET /token", 200) == 2


@pytest.mark.parametrize("server_time", [0.0, 4_000_000_000.0])
def test_the_clock_of_the_server_does_not_matter(server_time: float) -> None:
    """R-039: even if it is wrong by decades."""
    backing, recorder = MemoryCatalog(), RequestRecorder()
    backing.repository(NAME).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))
    strange = TokenAuthorizer({"user": "secret"}, lifetime=60, clock=lambda: server_time)

    with (
        registry_server(backing, authorizer=strange) as server,
        closing(open_catalog(server.url, auth=USER, observer=recorder)) as catalog,
    ):
        for _ in range(5):
            catalog.repository(NAME).blobs.stat(DIGEST)

    assert recorder.count("GET /token", 200) == 1
    assert recorder.count("HEAD /v2", 401) == 1


def test_a_mount_from_a_repository_without_pull_access_becomes_an_upload() -> None:
    backing = MemoryCatalog()
    hidden = RepositoryName("org/hidden")
    backing.repository(hidden).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))
    choosy = TokenAuthorizer({"user": "secret"}, policy=lambda user, scope: scope.actions if scope.name == NAME else ())

    with registry_server(backing, authorizer=choosy) as server, closing(open_catalog(server.url, auth=USER)) as catalog:
        blobs = catalog.repository(NAME).blobs
        mounted = blobs.mount(DIGEST, hidden)
        blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))
        size = blobs.stat(DIGEST)

    assert not mounted
    assert size == len(BLOB)
