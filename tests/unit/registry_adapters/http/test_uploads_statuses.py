"""Uploads whose requests are answered by other success statuses than the specification names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import Cancelled, DigestMismatch, ProtocolError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

CONTENT = b"0123456789"
DIGEST = Digest.of(CONTENT)
FIRST = {"Location": "/u/1"}
PAGE = {"Content-Type": "text/html; charset=utf-8"}
LOGIN = b"<!DOCTYPE html><html><body>Please sign in.</body></html>"
OTHERS = [200, 202, 203, 204, 206, 226]

# Responses to the look-up, HEAD first, that show the blob, and those that do not.
SHOWN: list[list[tuple[Any, ...]]] = [
    [(200, {"Content-Length": "10"})],
    [(200, {"Docker-Content-Digest": DIGEST}), (200, {}, CONTENT)],
    [(200, PAGE | {"Content-Length": "10", "Docker-Content-Digest": DIGEST})],
    [(200, PAGE | {"Content-Length": "10"}), (200, {}, CONTENT)],
    [(200, {}), (200, {}, CONTENT)],
    [(405, {}), (200, {}, CONTENT)],
    [(200, {"Content-Length": "7", "Content-Encoding": "gzip"}), (200, {}, CONTENT)],
]
NOT_SHOWN: list[list[tuple[Any, ...]]] = [
    [(404, {})],
    [(401, {})],
    [(403, {})],
    [(500, {})],
    [(200, {"Content-Length": "54"})],
    [(200, PAGE | {"Content-Length": "54"}), (200, PAGE | {"Content-Length": "54"}, LOGIN)],
    [(200, {"Content-Length": "10", "Docker-Content-Digest": Digest.of(b"")}), (404, {})],
    [(200, PAGE | {"Content-Length": "10"}), (200, PAGE, b"<html>401<")],
    [(200, PAGE), (200, PAGE, LOGIN)],
    [(200, {}), (200, {}, CONTENT + b"more")],
    [(200, {}), (404, {})],
    [(405, {}), (403, {})],
]


def put(transport: ScriptedTransport, *, chunk: int | None = None, retries: int = 0) -> None:
    settings = HttpSettings(retries=retries, backoff=0.001, chunk_size=chunk)
    catalog = HttpCatalog("registry.example.com", settings, transport=transport)
    catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))


def methods(transport: ScriptedTransport) -> list[str]:
    return [sent.method for sent in transport.sent]


class TestClosingPut:
    @pytest.mark.parametrize("status", OTHERS)
    @pytest.mark.parametrize("chunk", [None, 10])
    def test_a_blob_that_is_stored_is_a_success(
        self, scripted: MakeTransport, reply: MakeReply, status: int, chunk: int | None
    ) -> None:
        """R-076."""
        chunks = [] if chunk is None else [reply(202)]
        transport = scripted(reply(202, FIRST), *chunks, reply(status), reply(*SHOWN[0][0]))

        put(transport, chunk=chunk)

        assert methods(transport)[-2:] == ["PUT", "HEAD"]

    @pytest.mark.parametrize("look", SHOWN)
    def test_each_response_that_shows_the_blob_is_a_proof(
        self, scripted: MakeTransport, reply: MakeReply, look: list[tuple[Any, ...]]
    ) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), reply(200), *[reply(*answer) for answer in look])

        put(transport)

        assert methods(transport)[2:] == ["HEAD", "GET"][: len(look)]

    @pytest.mark.parametrize("status", [200, 202, 204])
    @pytest.mark.parametrize("look", NOT_SHOWN)
    def test_a_blob_that_is_not_shown_is_an_error_that_names_the_status(
        self, scripted: MakeTransport, reply: MakeReply, status: int, look: list[tuple[Any, ...]]
    ) -> None:
        """R-076: a login page is no success."""
        answers = [reply(*answer) for answer in look]
        transport = scripted(reply(202, FIRST), reply(status, PAGE, LOGIN), *answers, reply(204))

        with pytest.raises(ProtocolError, match=f"PUT .*: unexpected status {status}") as caught:
            put(transport)

        assert caught.value.status == status
        assert methods(transport)[-1] == "DELETE"
        assert len(transport.replies) == 0

    def test_another_digest_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), reply(202, {"Docker-Content-Digest": Digest.of(b"")}), reply(204))

        with pytest.raises(DigestMismatch):
            put(transport)

    def test_the_end_of_the_scope_ends_the_look_up(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(202, FIRST), reply(202), Cancelled("stop"), reply(204))

        with pytest.raises(Cancelled):
            put(transport)


class TestChunk:
    @pytest.mark.parametrize("status", [200, 203, 206, 226])
    @pytest.mark.parametrize("headers", [FIRST, {"Range": "0-4"}])
    def test_a_response_that_names_the_session_is_followed_by_the_next_chunk(
        self, scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str]
    ) -> None:
        """R-072: the blob is only looked up after the last chunk."""
        transport = scripted(reply(202, FIRST), *[reply(status, headers)] * 2, reply(404), reply(201))

        put(transport, chunk=5)

        assert methods(transport) == ["POST", "PATCH", "PATCH", "HEAD", "PUT"]

    @pytest.mark.parametrize("status", [200, 201, 203, 204, 206])
    def test_a_blob_that_is_stored_with_the_last_chunk_is_a_success(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-076: the session is closed, and a PUT would be refused."""
        transport = scripted(reply(202, FIRST), reply(202), reply(status), reply(*SHOWN[0][0]))

        put(transport, chunk=5)

        assert methods(transport) == ["POST", "PATCH", "PATCH", "HEAD"]

    @pytest.mark.parametrize("location", ["https://inner.example.com:5000/v2/org/app/blobs/1", "http:///", "/u/2"])
    def test_the_location_of_a_blob_that_is_stored_is_not_used(
        self, scripted: MakeTransport, reply: MakeReply, location: str
    ) -> None:
        """R-076: behind a proxy, it may name the inner host."""
        transport = scripted(reply(202, FIRST), reply(202), reply(201, {"Location": location}), reply(*SHOWN[0][0]))

        put(transport, chunk=5)

        assert methods(transport) == ["POST", "PATCH", "PATCH", "HEAD"]

    @pytest.mark.parametrize("status", [200, 201, 202, 204])
    def test_a_session_at_another_host_is_refused(self, scripted: MakeTransport, reply: MakeReply, status: int) -> None:
        """R-033."""
        moved = {"Location": "https://elsewhere.example.com/u/2"}
        transport = scripted(reply(202, FIRST), reply(status, moved), reply(204))

        with pytest.raises(ProtocolError, match="trusted_hosts"):
            put(transport, chunk=5)

        assert methods(transport) == ["POST", "PATCH", "DELETE"]

    @pytest.mark.parametrize("chunk", [5, 10])
    def test_a_page_in_response_to_a_chunk_is_an_error_that_names_the_status(
        self, scripted: MakeTransport, reply: MakeReply, chunk: int
    ) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), *[reply(200, PAGE, LOGIN)] * 3, reply(204))

        with pytest.raises(ProtocolError, match=r"PATCH .*: unexpected status 200"):
            put(transport, chunk=chunk)

        assert methods(transport) == ["POST", "PATCH", "HEAD", "GET", "DELETE"]


class TestLostSession:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (404, ""),
            (404, "BLOB_UPLOAD_UNKNOWN"),
            (404, "BLOB_UPLOAD_INVALID"),
            (404, "NAME_UNKNOWN"),
            (410, ""),
            (400, "BLOB_UPLOAD_UNKNOWN"),
            (409, "BLOB_UPLOAD_UNKNOWN"),
            (410, "BLOB_UPLOAD_UNKNOWN"),
        ],
    )
    @pytest.mark.parametrize("step", [0, 1, 2, None])
    def test_the_upload_begins_anew_wherever_the_session_is_lost(
        self, scripted: MakeTransport, reply: MakeReply, status: int, code: str, step: int | None
    ) -> None:
        """R-075: at a chunk, at the closing PUT, or at the PUT of the whole blob."""
        lost = reply(status, {}, b'{"errors":[{"code":"%s","message":"it has expired"}]}' % code.encode())
        chunks = 0 if step is None else 2
        look_ups = [reply(404)] if step in (2, None) else []
        transport = scripted(
            reply(202, FIRST),
            *[reply(202)] * (step or 0),
            lost,
            *look_ups,
            reply(404),
            reply(202, FIRST),
            *[reply(202)] * chunks,
            reply(201),
        )

        put(transport, chunk=5 if chunks else None, retries=1)

        assert methods(transport)[-chunks - 2 :] == ["POST", *["PATCH"] * chunks, "PUT"]


class TestOpeningPost:
    @pytest.mark.parametrize("status", [200, 201, 204])
    def test_a_response_with_a_location_opens_the_session(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-230."""
        transport = scripted(reply(status, FIRST), reply(404), reply(201))

        put(transport)

        assert methods(transport) == ["POST", "HEAD", "PUT"]

    def test_a_blob_that_is_stored_already_is_a_success(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-230."""
        transport = scripted(reply(201), reply(*SHOWN[0][0]))

        put(transport)

        assert methods(transport) == ["POST", "HEAD"]

    def test_a_login_page_is_an_error_that_names_the_status(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-230."""
        transport = scripted(reply(200, PAGE, LOGIN), reply(404))

        with pytest.raises(ProtocolError, match=r"POST .*: unexpected status 200"):
            put(transport)
