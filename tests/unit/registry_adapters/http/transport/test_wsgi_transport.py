from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from registry_adapters.http.messages import Body
from registry_adapters.http.transport.body import SourceFailed
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_core.cancellation import CancelScope
from registry_core.content.streams import BytesSource
from registry_core.errors import Cancelled, ServerError, SizeMismatch, Unavailable

Start = Callable[..., object]
URL = "http://registry.example.com:5000/v2/a%20b/?n=1&last=x"


class ClosableChunks:
    """A response body that counts how often it was closed."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = iter(chunks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self.closed += 1


def transport_for(status: str, headers: list[tuple[str, str]], chunks: Iterable[bytes]) -> WsgiTransport:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start(status, headers)
        return chunks

    return WsgiTransport(app)


def test_it_implements_the_transport_protocol() -> None:
    assert isinstance(transport_for("200 OK", [], []), Transport)


def test_the_application_receives_the_request() -> None:
    received: dict[str, Any] = {}

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        received.update(environ, content=environ["wsgi.input"].read())
        start("201 Created", [("Location", "/x")])
        return []

    headers = {"Content-Type": "text/x", "Content-Range": "0-3"}
    response = WsgiTransport(app).send("PUT", URL, headers, Body(BytesSource(b"xxbody"), 2, 4))

    assert (response.status, response.headers.get("location"), response.url) == (201, "/x", URL)
    assert (received["REQUEST_METHOD"], received["PATH_INFO"], received["QUERY_STRING"]) == (
        "PUT",
        "/v2/a b/",
        "n=1&last=x",
    )
    assert (received["CONTENT_TYPE"], received["HTTP_CONTENT_RANGE"]) == ("text/x", "0-3")
    assert (received["CONTENT_LENGTH"], received["content"]) == ("4", b"body")
    assert (received["HTTP_HOST"], received["wsgi.url_scheme"]) == ("registry.example.com:5000", "http")


def test_the_response_is_read_lazily_and_closed_once() -> None:
    """R-060."""
    chunks = ClosableChunks(b"ab", b"", b"cde", b"f")
    response = transport_for("200 OK", [("Content-Length", "6")], chunks).send("GET", URL, {}, None)

    parts = [response.reader.read(1), response.reader.read(10), response.reader.read()]
    response.close()
    response.close()

    assert (parts, chunks.closed) == ([b"a", b"b", b"cdef"], 1)


def test_a_generator_may_call_start_response_when_it_is_first_read() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", [])
        yield b"late"

    response = WsgiTransport(app).send("GET", URL, {}, None)

    assert response.content(10) == b"late"


def test_a_short_response_is_an_error() -> None:
    """R-050."""
    response = transport_for("200 OK", [("Content-Length", "5")], [b"abc"]).send("GET", URL, {}, None)

    with pytest.raises(Unavailable):
        response.content(10)


def test_bytes_beyond_the_content_length_are_not_read() -> None:
    """R-058."""
    response = transport_for("200 OK", [("Content-Length", "2")], [b"abc"]).send("GET", URL, {}, None)

    assert response.content(10) == b"ab"


def test_head_has_no_body() -> None:
    response = transport_for("200 OK", [("Content-Length", "5")], []).send("HEAD", URL, {}, None)

    assert (response.content(10), response.headers.get("content-length")) == (b"", "5")


def test_an_exception_of_the_application_is_a_server_error() -> None:
    """R-062."""

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        raise KeyError("secret")

    with pytest.raises(ServerError) as caught:
        WsgiTransport(app).send("GET", URL, {}, None)

    assert caught.value.status == 500
    assert "secret" not in str(caught.value)


def test_an_exception_within_the_body_is_a_broken_response() -> None:
    """R-050, R-062."""

    def chunks() -> Iterator[bytes]:
        yield b"ab"
        raise OSError("disk")

    response = transport_for("200 OK", [("Content-Length", "4")], chunks()).send("GET", URL, {}, None)

    with pytest.raises(Unavailable):
        response.content(10)


def test_an_error_of_the_source_is_source_failed() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        start("201 Created", [])
        return []

    with pytest.raises(SourceFailed) as caught:
        WsgiTransport(app).send("PUT", URL, {}, Body(BytesSource(b"abc"), 0, 5))

    assert isinstance(caught.value.error, SizeMismatch)


def test_a_cancellation_is_noticed_between_chunks() -> None:
    response = transport_for("200 OK", [], [b"a", b"b"]).send("GET", URL, {}, None)

    with CancelScope() as scope, response:
        response.reader.read(1)
        scope.cancel()
        with pytest.raises(Cancelled):
            response.reader.read(1)
