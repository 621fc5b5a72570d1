"""Requests and responses as the handlers see them, and the table of error codes.

The codes are those of the distribution-spec, "Error Codes"; where it has none, those of distribution/distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, ByteReader
from registry_core.domain import strict_json
from registry_core.errors import (
    AccessDenied,
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    ImageNotFound,
    InvalidDigest,
    InvalidDocument,
    InvalidName,
    InvalidReference,
    InvalidValue,
    NotAnImage,
    NotAnIndex,
    NotFound,
    RateLimited,
    RegistryError,
    RepositoryNotFound,
    SizeMismatch,
    TooLarge,
    TransportError,
    Unavailable,
    Unsupported,
)

__all__ = [
    "INERT_HEADERS",
    "Body",
    "Headers",
    "HttpError",
    "Request",
    "Response",
    "StreamBody",
    "error_response",
    "json_response",
    "to_http_error",
]

Headers = list[tuple[str, str]]

INERT_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
)
"""Headers of every response: a browser that is led to pushed content neither guesses its type nor runs it."""

# An unread body up to this size is read and discarded, so that the connection can be used for the next request.
_DRAIN_LIMIT: Final = 16 << 20


class HttpError(Exception):
    """An error response; the application catches it.

    Args:
        status: HTTP status.
        code: Error code of the distribution-spec.
        message: Message for people; sent to the client, so without secrets and without paths.
        headers: Further headers of the response.
        close: Whether the connection has to be closed after the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = (*headers, ("Connection", "close")) if close else headers


# The first match wins, so subclasses stand before their bases. Where the message is empty, the error's own is sent.
_RESPONSES: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
    (BlobNotFound, HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
    (RepositoryNotFound, HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry"),
    (ImageNotFound, HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown to registry"),
    (NotFound, HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", "not found"),
    (InvalidDigest, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", ""),
    (InvalidName, HTTPStatus.BAD_REQUEST, "NAME_INVALID", ""),
    (InvalidReference, HTTPStatus.BAD_REQUEST, "NAME_INVALID", ""),
    (InvalidDocument, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (NotAnImage, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (NotAnIndex, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
    (AccessDenied, HTTPStatus.FORBIDDEN, "DENIED", "requested access to the resource is denied"),
    (Unsupported, HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", ""),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", ""),
    (RateLimited, HTTPStatus.TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many requests"),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "temporarily unavailable"),
    (Cancelled, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "temporarily unavailable"),
    (DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT, "UNAVAILABLE", "the operation timed out"),
    (TransportError, HTTPStatus.BAD_GATEWAY, "UNAVAILABLE", "the upstream registry failed"),
)

# Errors of the client if the request writes. If it reads, the stored content is wrong: an internal error.
_WRITE_RESPONSES: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
    (DigestMismatch, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", ""),
    (SizeMismatch, HTTPStatus.BAD_REQUEST, "SIZE_INVALID", ""),
    (InvalidValue, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
)

# Codes that an error may carry itself and that replace the one of its class.
_SPECIFIC_CODES: Final = frozenset({"TAG_INVALID", "MANIFEST_BLOB_UNKNOWN"})


def to_http_error(error: Exception, *, writing: bool) -> HttpError:
    """The response to an exception. The client learns no more about it than the tables above say.

    Args:
        error: Exception that a handler raised.
        writing: Whether the request was to change something.
    """
    if isinstance(error, HttpError):
        return error
    for kind, status, code, message in _RESPONSES + (_WRITE_RESPONSES if writing else ()):
        if isinstance(error, kind):
            specific = error.code if error.code in _SPECIFIC_CODES else code
            return HttpError(status, specific, (message or error.message)[:500], headers=_retry_after(error))
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "internal error")


def _retry_after(error: RegistryError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, TransportError) and error.retry_after is not None:
        return (("Retry-After", str(max(0, round(error.retry_after)))),)
    return ()


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Body:
    """The body of a request: read once, in chunks, and never past its end.

    Raises:
        HttpError: ``Content-Length`` is malformed.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._stream: _Input = environ["wsgi.input"]
        self._broken = False
        self._ended = False
        self.length: int | None = None
        if not environ.get("wsgi.input_terminated"):
            text = environ.get("CONTENT_LENGTH") or "0"
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                self._broken = True
                raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "invalid Content-Length", close=True)
            self.length = int(text)
        self.count = 0

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Read up to ``size`` bytes; ``b""`` means the end.

        Raises:
            HttpError: The body is shorter than its ``Content-Length``, or cannot be read.
        """
        if self.length is not None:
            size = min(size, self.length - self.count)
        if self._ended or size <= 0:
            return b""
        try:
            data = self._stream.read(size)
        except (OSError, ValueError):
            self._broken = True
            raise HttpError(
                HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the request body cannot be read to its end", close=True
            ) from None
        except BaseException:
            self._broken = True
            raise
        if not data:
            self._ended = True
            if self.length is not None:
                self._broken = True
                raise HttpError(
                    HTTPStatus.BAD_REQUEST,
                    "SIZE_INVALID",
                    f"the request body ended after {self.count} of {self.length} bytes",
                    close=True,
                )
        self.count += len(data)
        return data

    def read_all(self, limit: int) -> bytes:
        """Read the whole body, if it has at most ``limit`` bytes.

        Raises:
            HttpError: The body is longer (413), or cannot be read to its end (400).
        """
        too_large = HttpError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", f"the request body has more than {limit} bytes"
        )
        if self.length is not None and self.length > limit:
            raise too_large
        parts: list[bytes] = []
        while data := self.read(min(64 << 10, limit + 1 - self.count)):
            checkpoint()
            parts.append(data)
            if self.count > limit:
                raise too_large
        return b"".join(parts)

    def drain(self) -> bool:
        """Read and discard the rest of the body, up to a limit.

        Returns:
            Whether the end was reached; if not, the connection has to be closed.
        """
        if self._broken:
            return False
        if self.length is not None and self.length - self.count > _DRAIN_LIMIT:
            return False
        start = self.count
        try:
            while self.read():
                if self.count - start > _DRAIN_LIMIT:
                    return False
        except HttpError:
            return False
        return True


class Request:
    """One request.

    Raises:
        HttpError: ``Content-Length`` is malformed.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO") or "/"
        self.prefix: str = environ.get("SCRIPT_NAME", "")
        self.query: list[tuple[str, str]] = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        self.body = Body(environ)

    def header(self, name: str) -> str:
        """A header's value, or the empty string."""
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        return str(self.environ.get(key, "")).strip()

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, or ``None``."""
        return next((value for key, value in self.query if key == name), None)

    def parameters(self, name: str) -> list[str]:
        """All values of a query parameter."""
        return [value for key, value in self.query if key == name]


class Response:
    """One response.

    Args:
        status: HTTP status.
        headers: Headers in their order.
        body: Bytes, or a stream that is closed once the response is sent.
        length: ``Content-Length`` of a stream, or of a body that a response to HEAD leaves out.
    """

    def __init__(
        self, status: int, headers: Headers | None = None, body: bytes | StreamBody = b"", *, length: int | None = None
    ) -> None:
        self.status = HTTPStatus(status)
        self.headers = list(headers or ())
        self.body: Iterable[bytes] = body if isinstance(body, StreamBody) else [body] if body else []
        if length is None and isinstance(body, bytes):
            length = len(body)
        if length is not None and self.status != HTTPStatus.NO_CONTENT:
            self.headers.append(("Content-Length", str(length)))

    @property
    def status_line(self) -> str:
        """Status and reason phrase."""
        return f"{self.status.value} {self.status.phrase}"

    def drop_body(self) -> None:
        """Remove the body but keep the headers, for a response to HEAD."""
        if isinstance(self.body, StreamBody):
            self.body.close()
        self.body = []


class StreamBody:
    """A response body that is read from a stream.

    If the stream is too short, an ``EOFError`` breaks the connection, so that the client notices.

    Args:
        reader: Stream to read; closed with the body.
        size: Number of bytes to send.
    """

    def __init__(self, reader: ByteReader, size: int) -> None:
        self._reader = reader
        self._left = size

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            checkpoint()
            data = self._reader.read(min(CHUNK_SIZE, self._left))
            if not data:
                raise EOFError(f"the blob ended {self._left} bytes early")
            self._left -= len(data)
            yield data

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


def json_response(value: Any, status: int = 200, headers: Headers | None = None, media_type: str = "") -> Response:
    """A response with a JSON document.

    Args:
        value: Value to encode.
        status: HTTP status.
        headers: Further headers.
        media_type: Media type, if it is not ``application/json``.
    """
    content_type = ("Content-Type", media_type or "application/json")
    return Response(status, [content_type, *(headers or [])], strict_json.encode(value))


def error_response(error: HttpError) -> Response:
    """The response to an error (distribution-spec, "Error Codes")."""
    document = {"errors": [{"code": error.code, "message": error.message}]}
    return json_response(document, error.status, list(error.headers))
