"""A transport without sockets: calls a WSGI application in the same process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from registry_adapters.http.messages import Body, Headers, Response
from registry_adapters.http.transport.body import BodyChunks, SourceFailed
from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, BaseReader
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import Cancelled, DeadlineExceeded, ServerError, Unavailable

__all__ = ["WsgiTransport"]


class WsgiTransport:
    """Calls a WSGI application (PEP 3333) for each request, in the calling thread. Bodies are streamed.

    Args:
        app: WSGI application.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Send one request and return its response, with any status.

        Raises:
            ServerError: The application raised an exception.
            Unavailable: The application sent no response.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
            SourceFailed: The request body could not be read.
        """
        checkpoint()
        body_chunks = BodyChunks(body) if body is not None else None
        head: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, fields: list[tuple[str, str]], exc_info: object = None) -> Callable[..., None]:
            head[:] = [(status, fields)]
            return _no_write

        stream = io.BufferedReader(_RequestBody(iter(body_chunks) if body_chunks is not None else iter(())), CHUNK_SIZE)
        target = redact_url(url)
        try:
            result = self._app(_environ(method, url, headers, body, stream), start_response)
            chunks = iter(result)
            first = next(chunks, b"") if not head else b""
        except (Cancelled, DeadlineExceeded, SourceFailed):
            raise
        except Exception as error:
            if body_chunks is not None and body_chunks.error is not None:
                raise SourceFailed(body_chunks.error) from None
            raise ServerError(
                f"{method} {target}: the application failed ({type(error).__name__})",
                status=500,
                method=method,
                url=target,
            ) from error
        try:
            # The application may have swallowed an error of its input.
            checkpoint()
            if body_chunks is not None and body_chunks.error is not None:
                raise SourceFailed(body_chunks.error)
            if not head:
                raise Unavailable(f"{method} {target}: the application sent no response", method=method, url=target)
        except BaseException:
            _close(result)
            raise
        status = int(head[0][0][:3])
        fields = Headers(head[0][1])
        bodyless = method == "HEAD" or status in (204, 304)
        length = fields.get("content-length")
        reader = _ResponseBody(
            result,
            _chain(first, chunks),
            0 if bodyless else int(length) if length.isascii() and length.isdigit() else None,
            f"{method} {target}",
        )
        return Response(status=status, headers=fields, url=url, reader=reader)

    def close(self) -> None:
        """Do nothing: the transport holds no connections."""


class _RequestBody(io.RawIOBase):
    """The request body as ``wsgi.input``."""

    def __init__(self, body_chunks: Iterator[bytes]) -> None:
        self._chunks = body_chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._left = self._left or next(self._chunks, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        super().close()


class _ResponseBody(BaseReader):
    """The response body; raises if it is shorter than its ``Content-Length``."""

    def __init__(self, result: object, chunks: Iterator[bytes], length: int | None, request: str) -> None:
        self._result = result
        self._chunks = chunks
        self._length = length
        self._request = request
        self._left = memoryview(b"")
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed reader")
        checkpoint()
        wanted = size if self._length is None else min(size, self._length)
        if not wanted:
            return b""
        try:
            while not self._left and (data := next(self._chunks, None)) is not None:
                self._left = memoryview(data)
        except (Cancelled, DeadlineExceeded):
            raise
        except Exception as error:
            raise Unavailable(
                f"{self._request}: the response body ended with an error ({type(error).__name__})"
            ) from error
        if not self._left and self._length:
            raise Unavailable(f"{self._request}: the response body ended {self._length} bytes early")
        data = bytes(self._left[:wanted])
        self._left = self._left[wanted:]
        if self._length is not None:
            self._length -= len(data)
        return data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _close(self._result)


def _environ(
    method: str, url: str, headers: Mapping[str, str], body: Body | None, stream: io.BufferedIOBase
) -> dict[str, Any]:
    origin, parts = Origin.of_url(url), urlsplit(url)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": origin.host,
        "SERVER_PORT": str(origin.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": origin.netloc,
        "HTTP_ACCEPT_ENCODING": "identity",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": origin.scheme,
        "wsgi.input": stream,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    if body is not None or method not in ("GET", "HEAD", "DELETE"):
        environ["CONTENT_LENGTH"] = str(body.length if body is not None else 0)
    return environ


def _no_write(data: bytes) -> None:
    raise NotImplementedError("the write callable of PEP 3333 is for legacy frameworks")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _close(result: object) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()
