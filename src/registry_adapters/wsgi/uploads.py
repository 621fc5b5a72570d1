"""Uploads: in one request, in two, in chunks, or not at all by mounting (distribution-spec, "Pushing blobs")."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from registry_adapters.wsgi.messages import Headers, Request, Response
from registry_adapters.wsgi.problems import Refusal
from registry_adapters.wsgi.sessions import UploadSession, UploadSessions
from registry_core.content.source import FileSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import IntegrityError, NotFound
from registry_core.ports.repository import Repository

__all__ = ["Uploads"]

_RANGE: Final = re.compile(r"(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})")
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
            raise Refusal(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{algorithm!r:.80} is not supported")
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
        match = _RANGE.fullmatch(text)
        if match is None:
            raise Refusal(HTTPStatus.BAD_REQUEST, "BLOB_UPLOAD_INVALID", f"not a Content-Range: {text!r:.80}")
        first, size = int(match["first"]), int(match["last"]) + 1 - int(match["first"])
        if not required and length == 0:
            size = 0
        elif size < 1 or first != session.size:
            raise Refusal(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                f"the next byte is number {session.size}",
                headers=tuple(self._headers(session, home)),
            )
        if length is not None and length != size:
            raise Refusal(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "Content-Range and Content-Length disagree")
        if session.short_chunk and size:
            raise _too_short()
        start = session.size
        session.append(request.body, limit=size)
        if session.size - start != size:
            raise Refusal(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk is shorter than its Content-Range")
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
        raise Refusal(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{digest.algorithm!r:.80} cannot be verified")
    return digest


def _mounted(repository: Repository, digest: Digest, origin: RepositoryName) -> bool:
    try:
        return repository.blobs.mount(digest, origin)
    except NotFound:
        return False


def _created(home: str, digest: Digest) -> Response:
    return Response(HTTPStatus.CREATED, [("Location", f"{home}/{digest}"), ("Docker-Content-Digest", digest)])


def _too_short() -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the chunk before this one was below OCI-Chunk-Min-Length")
