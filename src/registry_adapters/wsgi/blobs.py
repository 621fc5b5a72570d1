"""Blobs: whole and in ranges (distribution-spec, "Pulling blobs").

Uploads: in one request, in two, in chunks, or not at all by mounting (distribution-spec, "Pushing blobs").

Upload sessions: each is a file that grows, a count, and a lock.
"""

from __future__ import annotations

import os
import re
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

from registry_adapters.wsgi.messages import Body, Headers, HttpError, Request, Response, Stream
from registry_core.cancellation import checkpoint
from registry_core.content.streams import FileSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.domain.names import RepositoryName
from registry_core.errors import IntegrityError, NotFound
from registry_core.ports.catalog import Repository

__all__ = ["UploadSession", "UploadSessions", "Uploads", "byte_range", "delete", "head", "pull"]


_RANGE: Final = re.compile(r"bytes=\s*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})\s*", re.IGNORECASE)


def head(repository: Repository, digest: Digest) -> Response:
    """Size and type of a blob.

    Raises:
        RegistryError: As ``BlobStore.stat``.
    """
    return Response(HTTPStatus.OK, _headers(digest), length=repository.blobs.stat(digest))


def pull(request: Request, repository: Repository, digest: Digest) -> Response:
    """A blob, or the range that was asked for.

    Raises:
        RegistryError: As ``BlobStore.stat`` and ``BlobStore.open``.
        Refusal: Nothing of the range is in the blob (416).
    """
    size = repository.blobs.stat(digest)
    headers = _headers(digest)
    condition = request.header("If-Range")
    wanted = byte_range(request.header("Range"), size) if condition in ("", _etag(digest)) else None
    if wanted is None:
        reader = repository.blobs.open(digest)
        return Response(HTTPStatus.OK, headers, Stream(reader, size), length=size)
    start, stop = wanted
    reader = repository.blobs.open(digest, start=start)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, Stream(reader, stop - start), length=stop - start)


def delete(repository: Repository, digest: Digest) -> Response:
    """Remove a blob.

    Raises:
        RegistryError: As ``BlobStore.delete``.
    """
    repository.blobs.delete(digest)
    return Response(HTTPStatus.ACCEPTED)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a ``Range`` header asks for, as start and stop, or ``None`` for all (RFC 9110, section 14.2).

    A header that is not understood, or that asks for several ranges, is as good as none.

    Args:
        header: Its value; empty for none.
        size: Of the whole.

    Raises:
        Refusal: The range is understood, but empty (416).
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match["first"] or match["last"]):
        return None
    if match["first"]:
        start = int(match["first"])
        if match["last"] and int(match["last"]) < start:
            return None
        stop = min(size, int(match["last"]) + 1) if match["last"] else size
    else:
        start, stop = max(0, size - int(match["last"])), size
    if start >= stop:
        raise HttpError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            f"the blob has {size} bytes",
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    return start, stop


def _headers(digest: Digest) -> Headers:
    return [
        ("Content-Type", OCTET_STREAM),
        ("Docker-Content-Digest", digest),
        ("ETag", _etag(digest)),
        ("Accept-Ranges", "bytes"),
    ]


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


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
            raise HttpError(
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
                    raise HttpError(
                        HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk is longer than its Content-Range"
                    )
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
                raise HttpError(
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


def _unknown() -> HttpError:
    return HttpError(HTTPStatus.NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")


_CONTENT_RANGE: Final = re.compile(r"(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})")

_ALGORITHMS: Final = ("sha256", "sha512")


class Uploads:
    """The endpoints below ``blobs/uploads/``.

    Args:
        sessions: Where uploads are kept on their way.
        chunk_min_length: The least size of every chunk but the last, as clients are told and held to.
    """

    def __init__(self, sessions: UploadSessions, *, chunk_min_length: int | None = None) -> None:
        self._sessions = sessions
        self._minimum = chunk_min_length

    def start(self, request: Request, repository: Repository, home: str, origin: RepositoryName | None) -> Response:
        """Begin an upload; with ``digest`` it is finished by the same request, with ``mount`` it may not be needed.

        Args:
            request: The POST.
            repository: Where the blob shall go.
            home: The URL of the repository's blobs.
            origin: The repository to mount from, if any.

        Raises:
            RegistryError: As ``BlobStore.mount`` and ``BlobStore.put``.
            Refusal: The digest cannot be used, or there are too many uploads.
        """
        algorithm = request.parameter("digest-algorithm")
        if algorithm is not None and algorithm not in _ALGORITHMS:
            raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{algorithm!r:.80} is not supported")
        mount = request.parameter("mount")
        if mount is not None:
            wanted = _digest(mount)
            if origin is not None and _mounted(repository, wanted, origin):
                return _created(home, wanted)
        given = request.parameter("digest")
        promised = None if given is None else _digest(given)
        session = self._sessions.start(repository.name)
        if promised is None:
            return self._progress(session, home, HTTPStatus.ACCEPTED)
        with session.held():
            try:
                session.append(request.body)
                repository.blobs.put(promised, session.size, FileSource(session.path))
            finally:
                self._sessions.end(session)
        return _created(home, promised)

    def status(self, repository: Repository, identity: str, home: str) -> Response:
        """How far an upload has come.

        Raises:
            Refusal: There is no such upload.
        """
        session = self._sessions.find(repository.name, identity)
        with session.held():
            return self._progress(session, home, HTTPStatus.NO_CONTENT)

    def append(self, request: Request, repository: Repository, identity: str, home: str) -> Response:
        """Take in a chunk, or a stream without a ``Content-Range``.

        Raises:
            Refusal: No such upload, not the chunk that comes next (416), or not as long as announced.
        """
        session = self._sessions.find(repository.name, identity)
        with session.held():
            self._write(request, session, home, required=True)
            return self._progress(session, home, HTTPStatus.ACCEPTED)

    def finish(self, request: Request, repository: Repository, identity: str, home: str) -> Response:
        """Take in what is left and store the blob.

        Raises:
            RegistryError: As ``BlobStore.put``.
            Refusal: As ``append``, or the digest cannot be used.
        """
        session = self._sessions.find(repository.name, identity)
        digest = _digest(request.parameter("digest") or "")
        with session.held():
            self._write(request, session, home, required=False)
            try:
                repository.blobs.put(digest, session.size, FileSource(session.path))
            except IntegrityError:
                # No further bytes could mend what is wrong already.
                self._sessions.end(session)
                raise
            self._sessions.end(session)
        return _created(home, digest)

    def cancel(self, repository: Repository, identity: str) -> Response:
        """Give an upload up.

        Raises:
            Refusal: There is no such upload.
        """
        session = self._sessions.find(repository.name, identity)
        with session.held():
            self._sessions.end(session)
        return Response(HTTPStatus.NO_CONTENT)

    def _write(self, request: Request, session: UploadSession, home: str, *, required: bool) -> None:
        text = request.header("Content-Range")
        length = request.body.length
        if not text:
            if session.short_chunk and length != 0:
                raise _too_short()
            session.append(request.body)
            return
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "BLOB_UPLOAD_INVALID", f"not a Content-Range: {text!r:.80}")
        first, size = int(match["first"]), int(match["last"]) + 1 - int(match["first"])
        if not required and length == 0:
            size = 0
        elif size < 1 or first != session.size:
            raise HttpError(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                f"the next byte is number {session.size}",
                headers=tuple(self._headers(session, home)),
            )
        if length is not None and length != size:
            raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "Content-Range and Content-Length disagree")
        if session.short_chunk and size:
            raise _too_short()
        start = session.size
        session.append(request.body, limit=size)
        if session.size - start != size:
            raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk is shorter than its Content-Range")
        session.short_chunk = required and self._minimum is not None and size < self._minimum

    def _progress(self, session: UploadSession, home: str, status: HTTPStatus) -> Response:
        headers = self._headers(session, home)
        headers.append(("Docker-Upload-UUID", session.identity))
        if self._minimum is not None:
            headers.append(("OCI-Chunk-Min-Length", str(self._minimum)))
        return Response(status, headers)

    def _headers(self, session: UploadSession, home: str) -> Headers:
        # The range is inclusive, so none and one byte look the same: every registry does it like that.
        return [("Location", f"{home}/uploads/{session.identity}"), ("Range", f"0-{max(0, session.size - 1)}")]


def _digest(text: str) -> Digest:
    digest = Digest(text)
    if not digest.verifiable:
        raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{digest.algorithm!r:.80} cannot be verified")
    return digest


def _mounted(repository: Repository, digest: Digest, origin: RepositoryName) -> bool:
    try:
        return repository.blobs.mount(digest, origin)
    except NotFound:
        return False


def _created(home: str, digest: Digest) -> Response:
    return Response(HTTPStatus.CREATED, [("Location", f"{home}/{digest}"), ("Docker-Content-Digest", digest)])


def _too_short() -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk before this one was below OCI-Chunk-Min-Length")
