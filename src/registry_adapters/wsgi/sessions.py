"""Upload sessions: each is a file that grows, a count, and a lock."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from registry_adapters.wsgi.messages import Body
from registry_adapters.wsgi.problems import Refusal
from registry_core.domain.names import RepositoryName
from registry_core.scope import checkpoint

__all__ = ["UploadSession", "UploadSessions"]

# How long a request waits for another one on the same session: one whose client has gone may still be blocked.
_PATIENCE: Final = 15.0


class UploadSession:
    """One upload on its way.

    Args:
        identity: Its UUID.
        name: The repository it belongs to.
        path: Where its bytes are kept.
        clock: Seconds that only grow.
    """

    def __init__(self, identity: str, name: RepositoryName, path: Path, clock: Callable[[], float]) -> None:
        self.identity = identity
        self.name = name
        self.path = path
        self.size = 0
        self.finished = False
        self.short_chunk = False
        self._clock = clock
        self._lock = threading.Lock()
        self.used = clock()

    @contextmanager
    def held(self, patience: float = _PATIENCE) -> Iterator[UploadSession]:
        """The session, for one request alone.

        Args:
            patience: Seconds to wait for another request to leave it.

        Raises:
            Refusal: Another one works on it (503), or it has ended meanwhile (404).
        """
        if not self._lock.acquire(timeout=patience):
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "another request works on this upload",
                headers=(("Retry-After", "1"),),
            )
        try:
            if self.finished:
                raise _unknown()
            self.used = self._clock()
            yield self
            self.used = self._clock()
        finally:
            self._lock.release()

    def append(self, body: Body, *, limit: int | None = None) -> None:
        """Write a body behind what is there; what came before it broke off is kept, so that it can be resumed.

        Args:
            body: Read to its end.
            limit: The most bytes it may have; if there are more, none of them is kept.

        Raises:
            Refusal: It broke off, or is too long.
        """
        start = self.size
        with self.path.open("r+b", buffering=0) as file:
            file.seek(start)
            while data := body.read():
                checkpoint()
                if limit is not None and self.size - start + len(data) > limit:
                    self.size = start
                    raise Refusal(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk is longer than its Content-Range")
                view = memoryview(data)
                while len(view):
                    count = file.write(view)
                    view = view[count:]
                    self.size += count
                self.used = self._clock()
            file.truncate(self.size)

    def discard(self) -> None:
        """End it, and forget its bytes."""
        self.finished = True
        self.path.unlink(missing_ok=True)

    def idle(self, now: float) -> float:
        """Seconds since it was last used; none while it is being used."""
        return 0.0 if self._lock.locked() else now - self.used


class UploadSessions:
    """All uploads on their way: a bounded number, each forgotten when nobody has used it for long.

    Args:
        directory: Where the bytes are kept meanwhile; the system's temporary directory if ``None``.
        limit: How many there may be at once.
        lifetime: Seconds after which an unused one is forgotten.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        limit: int = 1024,
        lifetime: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parent = directory
        self._limit = limit
        self._lifetime = lifetime
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, UploadSession] = {}
        self._directory: Path | None = None
        self._removal: weakref.finalize[..., UploadSessions] | None = None

    def start(self, name: RepositoryName) -> UploadSession:
        """A new, empty session.

        Raises:
            Refusal: There are too many (429).
        """
        with self._lock:
            self._expire()
            if len(self._sessions) >= self._limit:
                raise Refusal(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "TOOMANYREQUESTS",
                    f"{self._limit} uploads are on their way already",
                    headers=(("Retry-After", "5"),),
                )
            identity = str(uuid.uuid4())
            path = self._home() / identity
            path.touch(mode=0o600)
            session = UploadSession(identity, name, path, self._clock)
            self._sessions[identity] = session
            return session

    def find(self, name: RepositoryName, identity: str) -> UploadSession:
        """A session by its UUID, in its own repository only.

        Raises:
            Refusal: There is none (404).
        """
        with self._lock:
            self._expire()
            session = self._sessions.get(identity)
        if session is None or session.name != name:
            raise _unknown()
        return session

    def end(self, session: UploadSession) -> None:
        """Forget a session that the caller holds."""
        with self._lock:
            self._sessions.pop(session.identity, None)
        session.discard()

    def close(self) -> None:
        """Forget all sessions and remove their files. Idempotent."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
            removal, self._removal, self._directory = self._removal, None, None
        for session in sessions:
            session.discard()
        if removal is not None:
            removal()

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def _home(self) -> Path:
        if self._directory is None:
            if self._parent is not None:
                os.makedirs(self._parent, exist_ok=True)
            self._directory = Path(tempfile.mkdtemp(prefix="uploads-", dir=self._parent))
            self._removal = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def _expire(self) -> None:
        now = self._clock()
        for session in [each for each in self._sessions.values() if each.idle(now) > self._lifetime]:
            del self._sessions[session.identity]
            session.discard()


def _unknown() -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
