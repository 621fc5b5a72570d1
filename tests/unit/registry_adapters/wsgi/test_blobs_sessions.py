"""Upload sessions: their limits, locks and files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from registry_adapters.wsgi.blobs import UploadSessions
from registry_adapters.wsgi.messages import Body, HttpError
from registry_core import RepositoryName

NAME = RepositoryName("org/app")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow(io.BytesIO):
    """Return one byte per read."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1)


def body(content: bytes) -> Body:
    return Body({"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content))})


def test_the_number_of_sessions_is_limited(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path, limit=2)
    first = sessions.start(NAME)
    sessions.start(NAME)

    with pytest.raises(HttpError) as caught:
        sessions.start(NAME)

    assert caught.value.status == 429
    sessions.end(first)
    sessions.start(NAME)
    sessions.close()


def test_an_idle_session_is_removed_with_its_file(tmp_path: Path) -> None:
    clock = Clock()
    sessions = UploadSessions(tmp_path, lifetime=60, clock=clock)
    session = sessions.start(NAME)
    clock.now += 61

    with pytest.raises(HttpError) as caught:
        sessions.find(NAME, session.identity)

    assert caught.value.status == 404
    assert not session.path.exists()
    sessions.close()


def test_a_session_in_use_is_not_idle(tmp_path: Path) -> None:
    clock = Clock()
    sessions = UploadSessions(tmp_path, lifetime=60, clock=clock)
    session = sessions.start(NAME)

    with session.locked():
        clock.now += 61
        found = sessions.find(NAME, session.identity)

    assert found is session
    assert sessions.find(NAME, session.identity) is session
    sessions.close()


def test_a_request_keeps_a_session_alive(tmp_path: Path) -> None:
    clock = Clock()
    sessions = UploadSessions(tmp_path, lifetime=60, clock=clock)
    session = sessions.start(NAME)
    clock.now += 50
    with session.locked():
        session.append(body(b"x"))
    clock.now += 50

    found = sessions.find(NAME, session.identity)

    assert found is session
    sessions.close()


def test_two_requests_cannot_lock_one_session(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path)
    session = sessions.start(NAME)

    with session.locked(), pytest.raises(HttpError) as caught, session.locked(timeout=0):
        session.append(body(b"never"))

    assert caught.value.status == 503
    assert session.size == 0
    sessions.close()


def test_closing_removes_all_files(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path)
    session = sessions.start(NAME)
    with session.locked():
        session.append(body(b"content"))
    assert session.path.read_bytes() == b"content"

    sessions.close()

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HttpError):
        sessions.find(NAME, session.identity)


def test_garbage_collection_removes_all_files(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path)
    sessions.start(NAME)

    del sessions

    assert list(tmp_path.iterdir()) == []


def test_the_bytes_before_a_failure_are_kept(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path)
    session = sessions.start(NAME)
    short = Body({"wsgi.input": io.BytesIO(b"half"), "CONTENT_LENGTH": "8"})

    with session.locked(), pytest.raises(HttpError):
        session.append(short)

    assert (session.size, session.path.read_bytes()) == (4, b"half")
    sessions.close()


def test_nothing_is_kept_of_a_chunk_that_is_too_long(tmp_path: Path) -> None:
    sessions = UploadSessions(tmp_path)
    session = sessions.start(NAME)

    with session.locked():
        session.append(body(b"kept"))
        with pytest.raises(HttpError):
            session.append(Body({"wsgi.input": Slow(b"too long"), "CONTENT_LENGTH": "8"}), limit=5)
        session.append(body(b"!"))

    assert (session.size, session.path.read_bytes()) == (5, b"kept!")
    sessions.close()
