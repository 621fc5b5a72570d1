"""Blobs: pulls, whole or by range, and uploads in one request, in chunks, or by mounting.

See distribution-spec, "Pulling blobs" and "Pushing blobs". An upload session is a file, its size and a lock.
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

from registry_adapters.wsgi.messages import Body, Headers, HttpError, Request, Response, StreamBody
from registry_core.cancellation import checkpoint
from registry_core.content.streams import FileSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.domain.names import RepositoryName
from registry_core.errors import IntegrityError, NotFound
from registry_core.ports.catalog import Repository

__all__ = ["UploadSession", "UploadSessions", "Uploads", "byte_range", "delete", "head", "pull"]

_RANGE: Final = re.compile(r"bytes=\s*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})\s*", re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(r"(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})")
_ALGORITHMS: Final = ("sha256", "sha512")
# Seconds that a request waits for another one on the same session: one whose client is gone may still be blocked.
_LOCK_TIMEOUT: Final = 15.0


def head(repository: Repository, digest: Digest) -> Response:
    """Handle HEAD of a blob.

    Raises:
        RegistryError: See ``BlobStore.stat``.
    """
    return Response(HTTPStatus.OK, _blob_headers(digest), length=repository.blobs.stat(digest))


def pull(request: Request, repository: Repository, digest: Digest) -> Response:
    """Handle GET of a blob, whole or by range.

    Raises:
        RegistryError: See ``BlobStore.stat`` and ``BlobStore.open``.
        HttpError: The range has no byte of the blob (416).
    """
    size = repository.blobs.stat(digest)
    headers = _blob_headers(digest)
    condition = request.header("If-Range")
    requested = byte_range(request.header("Range"), size) if condition in ("", _etag(digest)) else None
    if requested is None:
        reader = repository.blobs.open(digest)
        return Response(HTTPStatus.OK, headers, StreamBody(reader, size), length=size)
    start, stop = requested
    reader = repository.blobs.open(digest, start=start)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, StreamBody(reader, stop - start), length=stop - start)


def delete(repository: Repository, digest: Digest) -> Response:
    """Handle DELETE of a blob.

    Raises:
        RegistryError: See ``BlobStore.delete``.
    """
    repository.blobs.delete(digest)
    return Response(HTTPStatus.ACCEPTED)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the range in a ``Range`` header, or ``None`` for the whole blob (RFC 9110, section 14.2).

    A malformed header and a header with several ranges are ignored.

    Args:
        header: Value of the header; empty if there is none.
        size: Size of the blob.

    Raises:
        HttpError: The range has no byte of the blob (416).
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


def _blob_headers(digest: Digest) -> Headers:
    return [
        ("Content-Type", OCTET_STREAM),
        ("Docker-Content-Digest", digest),
        ("ETag", _etag(digest)),
        ("Accept-Ranges", "bytes"),
    ]


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


class UploadSession:
    """An unfinished upload.

    Args:
        identity: UUID of the session.
        repository: Name of the repository.
        path: File with the bytes received so far.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, identity: str, repository: RepositoryName, path: Path, clock: Callable[[], float]) -> None:
        self.identity = identity
        self.repository = repository
        self.path = path
        self.size = 0
        self.short_chunk = False
        self._ended = False
        self._clock = clock
        self._lock = threading.Lock()
        self._last_used = clock()

    @contextmanager
    def locked(self, timeout: float = _LOCK_TIMEOUT) -> Iterator[UploadSession]:
        """Lock the session for one request.

        Args:
            timeout: Seconds to wait for another request.

        Raises:
            HttpError: Another request holds the lock (503), or has ended the session (404).
        """
        if not self._lock.acquire(timeout=timeout):
            raise HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "another request is using this upload session",
                headers=(("Retry-After", "1"),),
            )
        try:
            if self._ended:
                raise _upload_unknown()
            self._last_used = self._clock()
            yield self
            self._last_used = self._clock()
        finally:
            self._lock.release()

    def append(self, body: Body, *, limit: int | None = None) -> None:
        """Append a request body. If reading it fails, the bytes before are kept, so that the upload can be resumed.

        Args:
            body: Body to read to its end.
            limit: Maximum size of the body; if it is longer, nothing of it is kept.

        Raises:
            HttpError: The body cannot be read to its end, or is longer than the limit.
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
                self._last_used = self._clock()
            file.truncate(self.size)

    def discard(self) -> None:
        """End the session and remove its file."""
        self._ended = True
        self.path.unlink(missing_ok=True)

    def idle_seconds(self, now: float) -> float:
        """Seconds since the last use; 0 while a request holds the lock."""
        return 0.0 if self._lock.locked() else now - self._last_used


class UploadSessions:
    """The upload sessions of a registry, bounded in number and in idle time.

    Args:
        directory: Directory for their files; the system's temporary directory if ``None``.
        limit: Maximum number of sessions.
        lifetime: Seconds without a request after which a session is discarded.
        clock: Monotonic clock in seconds.
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

    def start(self, repository: RepositoryName) -> UploadSession:
        """Start an empty session.

        Raises:
            HttpError: There are too many sessions (429).
        """
        with self._lock:
            self._discard_idle()
            if len(self._sessions) >= self._limit:
                raise HttpError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "TOOMANYREQUESTS",
                    f"there are {self._limit} upload sessions already",
                    headers=(("Retry-After", "5"),),
                )
            identity = str(uuid.uuid4())
            path = self._ensure_directory() / identity
            path.touch(mode=0o600)
            session = UploadSession(identity, repository, path, self._clock)
            self._sessions[identity] = session
            return session

    def find(self, repository: RepositoryName, identity: str) -> UploadSession:
        """Find a session of a repository by its UUID.

        Raises:
            HttpError: The repository has no such session (404).
        """
        with self._lock:
            self._discard_idle()
            session = self._sessions.get(identity)
        if session is None or session.repository != repository:
            raise _upload_unknown()
        return session

    def end(self, session: UploadSession) -> None:
        """End a session whose lock the caller holds."""
        with self._lock:
            self._sessions.pop(session.identity, None)
        session.discard()

    def close(self) -> None:
        """End all sessions and remove their files. Idempotent."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
            removal, self._removal, self._directory = self._removal, None, None
        for session in sessions:
            session.discard()
        if removal is not None:
            removal()

    def _ensure_directory(self) -> Path:
        if self._directory is None:
            if self._parent is not None:
                os.makedirs(self._parent, exist_ok=True)
            self._directory = Path(tempfile.mkdtemp(prefix="uploads-", dir=self._parent))
            self._removal = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def _discard_idle(self) -> None:
        now = self._clock()
        for session in [each for each in self._sessions.values() if each.idle_seconds(now) > self._lifetime]:
            del self._sessions[session.identity]
            session.discard()


class Uploads:
    """The endpoints below ``blobs/uploads/``.

    Args:
        sessions: The upload sessions.
        chunk_min_length: Minimum size of every chunk but the last, announced by ``OCI-Chunk-Min-Length`` and enforced.
    """

    def __init__(self, sessions: UploadSessions, *, chunk_min_length: int | None = None) -> None:
        self._sessions = sessions
        self._chunk_min_length = chunk_min_length

    def start(
        self, request: Request, repository: Repository, blobs_url: str, mount_source: RepositoryName | None
    ) -> Response:
        """Handle POST: mount a blob (``mount``), store the blob in the body (``digest``), or start a session.

        Args:
            request: The request.
            repository: Repository to push to.
            blobs_url: URL of the repository's blobs.
            mount_source: Repository to mount from, if the client may read it.

        Raises:
            RegistryError: See ``BlobStore.mount`` and ``BlobStore.put``.
            HttpError: The digest cannot be verified, or there are too many sessions.
        """
        algorithm = request.parameter("digest-algorithm")
        if algorithm is not None and algorithm not in _ALGORITHMS:
            raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"unsupported digest algorithm {algorithm!r:.80}")
        mount = request.parameter("mount")
        if mount is not None:
            digest = _verifiable_digest(mount)
            if mount_source is not None and _mount(repository, digest, mount_source):
                return _created(blobs_url, digest)
        text = request.parameter("digest")
        expected = None if text is None else _verifiable_digest(text)
        session = self._sessions.start(repository.name)
        if expected is None:
            return self._progress(session, blobs_url, HTTPStatus.ACCEPTED)
        with session.locked():
            try:
                session.append(request.body)
                repository.blobs.put(expected, session.size, FileSource(session.path))
            finally:
                self._sessions.end(session)
        return _created(blobs_url, expected)

    def status(self, repository: Repository, identity: str, blobs_url: str) -> Response:
        """Handle GET: report the size received so far.

        Raises:
            HttpError: There is no such session.
        """
        session = self._sessions.find(repository.name, identity)
        with session.locked():
            return self._progress(session, blobs_url, HTTPStatus.NO_CONTENT)

    def append(self, request: Request, repository: Repository, identity: str, blobs_url: str) -> Response:
        """Handle PATCH: append a chunk, or a stream without ``Content-Range``.

        Raises:
            HttpError: There is no such session, the chunk does not start at the next byte (416), or its size differs
                from its headers.
        """
        session = self._sessions.find(repository.name, identity)
        with session.locked():
            self._append_chunk(request, session, blobs_url, is_last=False)
            return self._progress(session, blobs_url, HTTPStatus.ACCEPTED)

    def finish(self, request: Request, repository: Repository, identity: str, blobs_url: str) -> Response:
        """Handle PUT: append the body, if any, and store the blob.

        Raises:
            RegistryError: See ``BlobStore.put``.
            HttpError: As for ``append``, or the digest cannot be verified.
        """
        session = self._sessions.find(repository.name, identity)
        digest = _verifiable_digest(request.parameter("digest") or "")
        with session.locked():
            self._append_chunk(request, session, blobs_url, is_last=True)
            try:
                repository.blobs.put(digest, session.size, FileSource(session.path))
            except IntegrityError:
                # More bytes cannot correct the wrong ones.
                self._sessions.end(session)
                raise
            self._sessions.end(session)
        return _created(blobs_url, digest)

    def cancel(self, repository: Repository, identity: str) -> Response:
        """Handle DELETE: end the session.

        Raises:
            HttpError: There is no such session.
        """
        session = self._sessions.find(repository.name, identity)
        with session.locked():
            self._sessions.end(session)
        return Response(HTTPStatus.NO_CONTENT)

    def _append_chunk(self, request: Request, session: UploadSession, blobs_url: str, *, is_last: bool) -> None:
        text = request.header("Content-Range")
        length = request.body.length
        if not text:
            if session.short_chunk and length != 0:
                raise _previous_chunk_too_short()
            session.append(request.body)
            return
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "BLOB_UPLOAD_INVALID", f"invalid Content-Range: {text!r:.80}")
        first, size = int(match["first"]), int(match["last"]) + 1 - int(match["first"])
        if is_last and length == 0:
            size = 0
        elif size < 1 or first != session.size:
            raise HttpError(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                f"the next chunk must start at byte {session.size}",
                headers=tuple(self._location_and_range(session, blobs_url)),
            )
        if length is not None and length != size:
            raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "Content-Range and Content-Length disagree")
        if session.short_chunk and size:
            raise _previous_chunk_too_short()
        start = session.size
        session.append(request.body, limit=size)
        if session.size - start != size:
            raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk is shorter than its Content-Range")
        minimum = self._chunk_min_length
        session.short_chunk = not is_last and minimum is not None and size < minimum

    def _progress(self, session: UploadSession, blobs_url: str, status: HTTPStatus) -> Response:
        headers = self._location_and_range(session, blobs_url)
        headers.append(("Docker-Upload-UUID", session.identity))
        if self._chunk_min_length is not None:
            headers.append(("OCI-Chunk-Min-Length", str(self._chunk_min_length)))
        return Response(status, headers)

    def _location_and_range(self, session: UploadSession, blobs_url: str) -> Headers:
        # The range is inclusive, so 0 and 1 bytes are both "0-0", as in every registry.
        return [("Location", f"{blobs_url}/uploads/{session.identity}"), ("Range", f"0-{max(0, session.size - 1)}")]


def _verifiable_digest(text: str) -> Digest:
    digest = Digest(text)
    if not digest.verifiable:
        raise HttpError(
            HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"unsupported digest algorithm {digest.algorithm!r:.80}"
        )
    return digest


def _mount(repository: Repository, digest: Digest, source: RepositoryName) -> bool:
    try:
        return repository.blobs.mount(digest, source)
    except NotFound:
        return False


def _created(blobs_url: str, digest: Digest) -> Response:
    return Response(HTTPStatus.CREATED, [("Location", f"{blobs_url}/{digest}"), ("Docker-Content-Digest", digest)])


def _upload_unknown() -> HttpError:
    return HttpError(HTTPStatus.NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")


def _previous_chunk_too_short() -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the previous chunk was shorter than OCI-Chunk-Min-Length")
