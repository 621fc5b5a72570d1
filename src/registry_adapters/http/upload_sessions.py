"""Upload sessions: their location, their progress, and sessions kept for a later upload (distribution-spec, "Push").

Also the source of an upload, verified while it is sent: the last byte of wrong content never leaves.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import threading
from typing import Final, Self

import msgspec

from registry_adapters.http.endpoint import RepositoryEndpoint
from registry_adapters.http.messages import Headers, Request, Response
from registry_adapters.http.session import Session
from registry_core.cancellation import checkpoint, fail_after
from registry_core.content.streams import BaseReader, ByteReader, ByteSource, reader_remark
from registry_core.content.verify import Verifier
from registry_core.domain.digest import Digest
from registry_core.domain.origin import redact_url, resolve_url
from registry_core.domain.url_policy import UrlPurpose
from registry_core.errors import ProtocolError, RegistryError, SizeMismatch

__all__ = [
    "PendingUpload",
    "PendingUploads",
    "VerifyingSource",
    "cancel_upload",
    "closing_target",
    "committed_bytes",
    "min_chunk_length",
    "upload_location",
]


# a registry may ask for longer chunks, but not for arbitrarily long ones.
_MAX_CHUNK: Final = 64 << 20

_CANCEL_SECONDS: Final = 5.0

# If the caller's scope has ended already, the request is sent, but its response is hardly waited for.
_CANCEL_SECONDS_AFTER_DEADLINE: Final = 0.3

_RANGE: Final = re.compile(r"(?:bytes[= ])?0-(?P<last>[0-9]{1,19})")


class PendingUpload(msgspec.Struct, frozen=True):
    """An upload session into which nothing has been sent yet.

    Args:
        location: URL for the next request; it may contain a signature and is a secret.
        min_chunk: Shortest chunk that the registry accepts, in bytes; 0 for any.
    """

    location: str
    min_chunk: int = 0

    @classmethod
    def from_response(cls, session: Session, response: Response) -> Self:
        """Read the upload session that a 202 opened.

        Args:
            session: HTTP session with the registry.
            response: Response to the POST.

        Raises:
            ProtocolError: The response has no usable ``Location``.
        """
        return cls(upload_location(session, response), min_chunk_length(response.headers))

    def __repr__(self) -> str:
        """Representation without the query, which may be a signature."""
        return f"PendingUpload({redact_url(self.location)!r}, min_chunk={self.min_chunk})"


class PendingUploads:
    """Sessions that a registry opened instead of mounting a blob, kept until the blob is put; thread-safe.

    Args:
        limit: Greatest number of sessions; beyond it, the oldest one is cancelled.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._uploads: dict[tuple[RepositoryEndpoint, Digest], PendingUpload] = {}

    def add(self, session: Session, endpoint: RepositoryEndpoint, digest: Digest, upload: PendingUpload) -> None:
        """Keep an upload session for a blob, and cancel the one that it displaces."""
        displaced = []
        with self._lock:
            key = (endpoint, digest)
            if key in self._uploads:
                displaced.append((endpoint, self._uploads.pop(key)))
            elif len(self._uploads) >= self._limit:
                oldest = next(iter(self._uploads))
                displaced.append((oldest[0], self._uploads.pop(oldest)))
            self._uploads[key] = upload
        for repository, old in displaced:
            cancel_upload(session, repository, old.location)

    def take(self, endpoint: RepositoryEndpoint, digest: Digest) -> PendingUpload | None:
        """Remove and return the upload session for a blob; the caller uses or cancels it."""
        with self._lock:
            return self._uploads.pop((endpoint, digest), None)

    def close(self, session: Session) -> None:
        """Cancel all upload sessions, within a few seconds in total. Idempotent."""
        with self._lock:
            uploads, self._uploads = self._uploads, {}

        def cancel_all() -> None:
            with fail_after(_CANCEL_SECONDS):
                for (endpoint, _), upload in uploads.items():
                    with contextlib.suppress(RegistryError):
                        checkpoint()
                        session.send(_cancel_request(endpoint, upload.location)).close()

        contextvars.Context().run(cancel_all)


def closing_target(location: str, digest: Digest) -> str:
    """Append the digest to an upload location; the query that it has is kept byte for byte."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest.replace('+', '%2B').replace('=', '%3D')}"


def min_chunk_length(headers: Headers) -> int:
    """The shortest chunk that the registry accepts, from ``OCI-Chunk-Min-Length``; 0 if absent or malformed."""
    text = headers.get("OCI-Chunk-Min-Length")
    length = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return min(length, _MAX_CHUNK)


def committed_bytes(headers: Headers) -> int | None:
    """The number of bytes that the registry has, from ``Range``; ``None`` if absent or malformed.

    ``0-0`` gives 1, but some registries send it for an empty session.
    """
    match = _RANGE.fullmatch(headers.get("Range"))
    return int(match["last"]) + 1 if match else None


def upload_location(session: Session, response: Response, *, current: str = "") -> str:
    """The URL for the next request of an upload session.

    Args:
        session: HTTP session with the registry, which knows where uploads may go.
        response: Latest response of the session.
        current: Location so far; used if the response has no ``Location``.

    Raises:
        ProtocolError: The response has no usable ``Location``, or one that the URL policy refuses.
    """
    text = response.headers.get("Location")
    if not text and current:
        return current
    location = resolve_url(response.url, text)
    try:
        session.check_url(UrlPurpose.UPLOAD, location)
    except ProtocolError as error:
        error.status = response.status
        raise
    return location


def cancel_upload(session: Session, endpoint: RepositoryEndpoint, location: str) -> None:
    """Cancel an upload session; errors are ignored, and an ended scope of the caller leaves it a moment."""
    try:
        checkpoint()
        seconds = _CANCEL_SECONDS
    except RegistryError:
        seconds = _CANCEL_SECONDS_AFTER_DEADLINE

    def attempt() -> None:
        with contextlib.suppress(RegistryError), fail_after(seconds):
            session.send(_cancel_request(endpoint, location)).close()

    contextvars.Context().run(attempt)


def _cancel_request(endpoint: RepositoryEndpoint, location: str) -> Request:
    return Request(
        method="DELETE",
        target=location,
        success=(200, 202, 204, 404),
        scopes=endpoint.scopes("pull", "push"),
        reference=str(endpoint),
        missing="upload",
        repeatable=False,
    )


class VerifyingSource:
    """A source whose readers raise before they return the last bytes of wrong content.

    Chunks are opened in order; one that was read before may be opened again. Opening at 0 restarts the
    verification.

    Args:
        source: Content of the blob.
        digest: Expected digest.
        size: Expected size in bytes.
        reference: Name of the blob in errors.

    Attributes:
        failure: Error from the source; a transport may have reported it as another one.
        position: Offset after the last byte that the reader opened last has returned.

    Raises:
        Unsupported: The digest's algorithm cannot be verified.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, *, reference: str) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._reference = reference
        self._verifier = Verifier(digest, size, reference=reference)
        self.failure: BaseException | None = None
        self.position = 0
        self._reader: ByteReader | None = None

    @property
    def bytes_read(self) -> int:
        """The number of bytes read so far, from the first one; the registry cannot have received more."""
        return self._verifier.count

    def open(self, start: int = 0) -> ByteReader:
        """Open the source at ``start``.

        Raises:
            SizeMismatch: From a read: the source is shorter or longer than expected.
            DigestMismatch: From a read: the source has other bytes.
        """
        self.failure = None
        self.position = start
        if start == 0:
            self._verifier = Verifier(self._digest, self._size, reference=self._reference)
        try:
            self._reader = self._source.open(start)
        except BaseException as error:
            self.failure = error
            raise
        self._verifier.reader = self._reader
        return _VerifyingSourceReader(self, self._reader, start)

    def close(self) -> None:
        """Close the reader that was opened last; its user may have been interrupted before closing it."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def check_empty(self) -> None:
        """Verify an empty source, which is never read because no byte of it is sent; ignore any other.

        Raises:
            SizeMismatch: The source is not empty.
            DigestMismatch: The digest is not that of empty content.
        """
        if self._size == 0:
            with self._source.open() as reader:
                self._verifier.update(reader.read(1))
            self._verifier.finish()

    def verify(self, data: bytes | memoryview, position: int, reader: ByteReader) -> None:
        """Verify the bytes read at ``position``; after the last expected byte, check that the reader has no more.

        Raises:
            SizeMismatch: The source is shorter or longer than expected.
            DigestMismatch: The source has other bytes.
        """
        verified = self._verifier.count - position
        if len(data) > verified:
            new = memoryview(data)[max(verified, 0) :]
            if self._verifier.count + len(new) == self._size and reader.read(1):
                raise SizeMismatch(
                    f"upload: the source is longer than the expected {self._size} bytes{reader_remark(reader)}",
                    expected=self._size,
                    actual=self._size + 1,
                    reference=self._reference,
                )
            self._verifier.update(new)
            if self._verifier.count == self._size:
                self._verifier.finish()
        elif not len(data) and position < self._size:
            self._verifier.finish()


class _VerifyingSourceReader(BaseReader):
    def __init__(self, source: VerifyingSource, reader: ByteReader, position: int) -> None:
        self._source = source
        self._reader = reader
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        try:
            checkpoint()
            data = self._reader.read(size)
            if size:
                self._source.verify(data, self._position, self._reader)
        except BaseException as error:
            self._source.failure = error
            raise
        self._position += len(data)
        self._source.position = self._position
        return data

    def close(self) -> None:
        self._reader.close()
