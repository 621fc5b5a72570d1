"""Requests and responses, between WSGI and the handlers.

How errors look on the wire (distribution-spec, "Error Codes"): one table.
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

__all__ = ["Body", "Headers", "HttpError", "Request", "Response", "Stream", "document", "json_response", "refusal"]


class HttpError(Exception):
    """An answer other than success; it never leaves this package.

    Args:
        status: The HTTP status.
        code: The specification's word.
        message: For people.
        headers: What else belongs to it.
        close: Whether the connection cannot be used again.
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


# The first that fits counts: leaves stand before what they grow on. An empty message means the error's own.
_TABLE: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
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
    (AccessDenied, HTTPStatus.FORBIDDEN, "DENIED", "access to the resource is denied"),
    (Unsupported, HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", ""),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", ""),
    (RateLimited, HTTPStatus.TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many requests"),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "not available just now"),
    (Cancelled, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "not available just now"),
    (DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT, "UNAVAILABLE", "took too long"),
    (TransportError, HTTPStatus.BAD_GATEWAY, "UNAVAILABLE", "the registry behind this one failed"),
)

# What a client sent wrongly when it writes; when it reads, what is stored here is wrong, and that is our fault.
_WRITING: Final[tuple[tuple[type[RegistryError], HTTPStatus, str, str], ...]] = (
    (DigestMismatch, HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", ""),
    (SizeMismatch, HTTPStatus.BAD_REQUEST, "SIZE_INVALID", ""),
    (InvalidValue, HTTPStatus.BAD_REQUEST, "MANIFEST_INVALID", ""),
)

# Two words that an error may carry itself, instead of the one of its class.
_FINER: Final = frozenset({"TAG_INVALID", "MANIFEST_BLOB_UNKNOWN"})


def refusal(error: Exception, *, writing: bool) -> HttpError:
    """What is answered for an error; nobody learns more of the inside than the table says.

    Args:
        error: Whatever a handler raised.
        writing: Whether the request was to change something.
    """
    if isinstance(error, HttpError):
        return error
    for kind, status, code, message in _TABLE + (_WRITING if writing else ()):
        if isinstance(error, kind):
            finer = error.code if error.code in _FINER else code
            return HttpError(status, finer, (message or error.message)[:500], headers=_headers(error))
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "internal error")


def document(problem: HttpError) -> dict[str, Any]:
    """The JSON of a refusal."""
    return {"errors": [{"code": problem.code, "message": problem.message}]}


def _headers(error: RegistryError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, TransportError) and error.retry_after is not None:
        return (("Retry-After", str(max(0, round(error.retry_after)))),)
    return ()


Headers = list[tuple[str, str]]

# An unread body up to this size is read and dropped, so that the connection stays usable; beyond, it is closed.
_DRAIN_LIMIT: Final = 16 << 20


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Body:
    """The body of a request, read once and in pieces, never beyond its end.

    Raises:
        HttpError: ``Content-Length`` is no length.
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
                raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "Content-Length is not a length", close=True)
            self.length = int(text)
        self.count = 0

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Up to ``size`` bytes; ``b""`` only at the end.

        Raises:
            HttpError: The body ended before its time, or broke.
        """
        if self.length is not None:
            size = min(size, self.length - self.count)
        if self._ended or size <= 0:
            return b""
        try:
            data = self._stream.read(size)
        except (OSError, ValueError):
            self._broken = True
            raise HttpError(HTTPStatus.BAD_REQUEST, "SIZE_INVALID", "the body broke off", close=True) from None
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
                    f"{self.count} bytes came of the {self.length} that were announced",
                    close=True,
                )
        self.count += len(data)
        return data

    def read_all(self, limit: int) -> bytes:
        """All of it, where that is no more than ``limit`` bytes; a longer one is not read on.

        Raises:
            HttpError: It is longer (413), or broke off (400).
        """
        too_large = HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "SIZE_INVALID", f"more than {limit} bytes")
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
        """Drop what nobody read, within reason.

        Returns:
            Whether the body is at its end now; if not, the connection cannot be used again.
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
        HttpError: Its length is no length.
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
        status: The HTTP status.
        headers: In their order.
        body: Bytes, or pieces that are closed when the response has been sent.
        length: Of the body, where it is not the bytes given: of a stream, or of what HEAD leaves out.
    """

    def __init__(
        self, status: int, headers: Headers | None = None, body: bytes | Stream = b"", *, length: int | None = None
    ) -> None:
        self.status = HTTPStatus(status)
        self.headers = list(headers or ())
        self.body: Iterable[bytes] = body if isinstance(body, Stream) else [body] if body else []
        if length is None and isinstance(body, bytes):
            length = len(body)
        if length is not None and self.status != HTTPStatus.NO_CONTENT:
            self.headers.append(("Content-Length", str(length)))

    @property
    def line(self) -> str:
        """Status and reason."""
        return f"{self.status.value} {self.status.phrase}"

    def without_body(self) -> Response:
        """The same without its body, headers unchanged: the answer to HEAD."""
        if isinstance(self.body, Stream):
            self.body.close()
        self.body = []
        return self


class Stream:
    """A stretch of a stream, in pieces; too short a stream breaks the connection instead of passing for whole.

    Args:
        reader: Closed with the stream.
        size: How many bytes are sent.
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
        """Let go of the reader."""
        self._reader.close()


def json_response(value: Any, status: int = 200, headers: Headers | None = None, kind: str = "") -> Response:
    """A JSON document as a response.

    Args:
        value: What is encoded.
        status: The HTTP status.
        headers: Further headers.
        kind: The media type, where it is not plain JSON.
    """
    return Response(status, [("Content-Type", kind or "application/json"), *(headers or [])], strict_json.encode(value))
