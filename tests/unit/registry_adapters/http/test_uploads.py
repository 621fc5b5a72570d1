from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Body, Headers, Response
from registry_adapters.http.retry import StaleConnection
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_adapters.http.upload_sessions import PendingUpload, closing_target, committed_bytes, min_chunk_length
from registry_core.cancellation import CancelScope
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource, CallableSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    Cancelled,
    DigestMismatch,
    Forbidden,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    SizeMismatch,
    TooLarge,
    Unavailable,
    Unsupported,
)
from registry_core.ports.observer import Event, Observer, TransferResumed
from registry_core.testing.content import PatternSource

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Recorder, Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

CONTENT = b"0123456789"
DIGEST = Digest.of(CONTENT)
REGISTRY = "https://registry.example.com"
POST_UPLOAD = f"POST {REGISTRY}/v2/org/app/blobs/uploads/"
QUERY = f"digest={DIGEST}"
FIRST = {"Location": "/u/1"}
NOW = {"Retry-After": "0"}
MIB = 1 << 20


def put(
    transport: ScriptedTransport,
    *,
    chunk: int | None = None,
    content: bytes = CONTENT,
    size: int = len(CONTENT),
    digest: Digest = DIGEST,
    retries: int = 0,
    observer: Observer | None = None,
) -> None:
    settings = HttpSettings(retries=retries, chunk_size=chunk)
    catalog = HttpCatalog("registry.example.com", settings, transport=transport, observer=observer)
    catalog.repository(RepositoryName("org/app")).blobs.put(digest, size, BytesSource(content))


def put_with(transport: Transport, *, chunk: int | None = None, retries: int = 0) -> None:
    catalog = HttpCatalog("registry.example.com", HttpSettings(retries=retries, chunk_size=chunk), transport=transport)
    catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each pause between retries zero."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


class HalfSendingTransport:
    """A transport that reads half of each body and then delegates to another one."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self._transport = transport

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        half = None if body is None else Body(body.source, body.start, body.length // 2)
        return self._transport.send(method, url, headers, half)

    def close(self) -> None:
        self._transport.close()


class EarlyRespondingTransport:
    """A transport that reads half of the first body and returns a successful response all the same."""

    def __init__(self, *replies: Reply) -> None:
        self._transport = DiscardingTransport(*replies)
        self._is_first = True
        self.sent = self._transport.sent

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        if body is not None and self._is_first:
            self._is_first = False
            body = Body(body.source, body.start, body.length // 2)
        return self._transport.send(method, url, headers, body)

    def close(self) -> None:
        self._transport.close()


class DiscardingTransport:
    """A transport that replies from a list and does not keep the bodies."""

    def __init__(self, *replies: Reply | BaseException) -> None:
        self.replies = deque(replies)
        self.sent: list[Sent] = []

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        remaining = 0 if body is None else body.length
        if body is not None:
            with body.source.open(body.start) as reader:
                while remaining and (data := reader.read(min(CHUNK_SIZE, remaining))):
                    remaining -= len(data)
        self.sent.append(Sent(method, dict(headers)))
        reply = self.replies.popleft()
        if isinstance(reply, BaseException):
            raise reply
        fields = Headers(list(reply.headers.items()))
        return Response(status=reply.status, headers=fields, url=url, reader=BytesSource(reply.content).open())

    def close(self) -> None:
        self.replies.clear()


class Sent(NamedTuple):
    """A request without its body."""

    method: str
    headers: dict[str, str]

    @property
    def line(self) -> str:
        """The method, and the range of a chunk in MiB."""
        content_range = self.headers.get("Content-Range")
        if content_range is None:
            return self.method
        first, last = (int(text) for text in content_range.split("-"))
        return f"{self.method} {first / MIB:g}-{(last + 1) / MIB:g}"


def requested(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


def sent_chunks(transport: ScriptedTransport) -> list[tuple[str, bytes | None]]:
    return [(sent.headers["Content-Range"], sent.body) for sent in transport.sent if sent.method == "PATCH"]


class TestMonolithic:
    def test_a_session_is_opened_and_closed_with_the_content(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-230, R-076."""
        transport = scripted(reply(202, FIRST), reply(201))

        put(transport)

        assert requested(transport) == [POST_UPLOAD, f"PUT {REGISTRY}/u/1?{QUERY}"]
        assert transport.sent[1].body == CONTENT
        assert transport.sent[1].headers["Content-Type"] == "application/octet-stream"

    @pytest.mark.parametrize(
        ("location", "closing"),
        [
            ("https://registry.example.com/u/1", f"{REGISTRY}/u/1?{QUERY}"),
            ("https://registry.example.com:443/u/1", f"https://registry.example.com:443/u/1?{QUERY}"),
            ("//registry.example.com/u/1", f"{REGISTRY}/u/1?{QUERY}"),
            ("/u/1?state=a%2Fb%3D&x=", f"{REGISTRY}/u/1?state=a%2Fb%3D&x=&{QUERY}"),
            ("1?state=x#part", f"{REGISTRY}/v2/org/app/blobs/uploads/1?state=x&{QUERY}"),
            ("?state=x", f"{REGISTRY}/v2/org/app/blobs/uploads/?state=x&{QUERY}"),
        ],
    )
    def test_the_location_is_kept_byte_for_byte(
        self, scripted: MakeTransport, reply: MakeReply, location: str, closing: str
    ) -> None:
        """R-071."""
        transport = scripted(reply(202, {"Location": location}), reply(201))

        put(transport)

        assert requested(transport)[1] == f"PUT {closing}"

    @pytest.mark.parametrize(
        "headers", [{}, {"Location": "https://evil.example.com/u"}, {"Location": "http://registry.example.com/u"}]
    )
    def test_a_missing_location_or_another_origin_is_refused(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str]
    ) -> None:
        """R-033: no request is sent there, not even to cancel."""
        transport = scripted(reply(202, headers))

        with pytest.raises(ProtocolError):
            put(transport)

        assert len(transport.sent) == 1

    def test_another_digest_algorithm_is_sent_with_the_post(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-233."""
        transport = scripted(reply(202, FIRST), reply(201))

        put(transport, digest=Digest.of(CONTENT, "sha512"))

        assert requested(transport)[0] == f"{POST_UPLOAD}?digest-algorithm=sha512"

    def test_an_algorithm_that_cannot_be_verified_is_refused(self, scripted: MakeTransport) -> None:
        """R-002: before any request."""
        with pytest.raises(Unsupported):
            put(scripted(), digest=Digest("md5:d41d8cd98f00b204e9800998ecf8427e"))

    def test_an_empty_blob_is_uploaded_without_chunks(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(202, FIRST), reply(201))

        put(transport, content=b"", size=0, digest=Digest.of(b""), chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PUT"]

    def test_a_source_longer_than_an_empty_blob_is_refused(self, scripted: MakeTransport) -> None:
        with pytest.raises(SizeMismatch):
            put(scripted(), size=0, digest=Digest.of(b""))

    def test_another_digest_in_the_response_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), reply(201, {"Docker-Content-Digest": Digest.of(b"")}), reply(404))

        with pytest.raises(DigestMismatch):
            put(transport)

    def test_a_refused_upload_is_cancelled(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-236: the result is ignored."""
        transport = scripted(reply(202, FIRST), reply(403), reply(500))

        with pytest.raises(Forbidden):
            put(transport)

        assert requested(transport)[2] == f"DELETE {REGISTRY}/u/1"

    def test_cancelling_the_scope_cancels_the_upload_session(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-236: although the scope has ended."""
        transport = scripted(reply(202, FIRST), reply(204))

        with CancelScope() as scope, pytest.raises(RegistryError):

            def open_source(start: int) -> ByteReader:
                scope.cancel()
                return BytesSource(CONTENT).open(start)

            catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, CallableSource(open_source))

        assert requested(transport) == [POST_UPLOAD, f"DELETE {REGISTRY}/u/1"]


class TestWrongSources:
    @pytest.mark.parametrize(
        ("content", "error"),
        [(b"0123456789a", SizeMismatch), (b"9876543210", DigestMismatch)],
    )
    @pytest.mark.parametrize("chunk", [None, 10])
    def test_an_upload_of_wrong_content_is_never_completed(
        self, scripted: MakeTransport, reply: MakeReply, content: bytes, error: type[Exception], chunk: int | None
    ) -> None:
        """The error is about the source, and the upload session is cancelled."""
        transport = scripted(reply(202, FIRST), reply(204))

        with pytest.raises(error):
            put(transport, content=content, chunk=chunk)

        assert requested(transport) == [POST_UPLOAD, f"DELETE {REGISTRY}/u/1"]

    def test_an_error_of_the_source_is_raised_without_a_retry(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """It is not a failure of the registry."""
        transport = scripted(reply(202, FIRST), reply(204))

        def broken(start: int) -> ByteReader:
            raise Unavailable("the source is gone")

        catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
        with pytest.raises(Unavailable, match="the source is gone"):
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, CallableSource(broken))

        assert requested(transport) == [POST_UPLOAD, f"DELETE {REGISTRY}/u/1"]

    def test_wrong_bytes_are_detected_across_chunks(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(202, FIRST), *(reply(202, {"Range": f"0-{end}"}) for end in (3, 7)), reply(204))

        with pytest.raises(DigestMismatch):
            put(transport, content=b"x123456789", chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PATCH", "DELETE"]


class TestLostResponses:
    def test_after_a_lost_response_to_the_put_the_blob_is_looked_up(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-075: success if the blob exists."""
        transport = scripted(reply(202, FIRST), Unavailable("cut"), reply(200, {"Content-Length": "10"}))

        put(transport)

        assert requested(transport)[2] == f"HEAD {REGISTRY}/v2/org/app/blobs/{DIGEST}"

    def test_the_upload_is_restarted_if_the_blob_does_not_exist(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-075."""
        transport = scripted(
            reply(202, FIRST), reply(500), reply(404), reply(204), reply(202, {"Location": "/u/2"}), reply(201)
        )

        put(transport, retries=1)

        assert requested(transport)[3:] == [f"DELETE {REGISTRY}/u/1", POST_UPLOAD, f"PUT {REGISTRY}/u/2?{QUERY}"]
        assert transport.sent[-1].body == CONTENT

    def test_an_unknown_repository_does_not_have_the_blob(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075, R-078: the look-up does not replace the error."""
        name_unknown = b'{"errors":[{"code":"NAME_UNKNOWN"}]}'
        lost = [reply(202, FIRST), reply(500), reply(405), reply(404, {}, name_unknown), reply(204)]
        transport = scripted(*lost * 3)

        with pytest.raises(ServerError):
            put(transport, retries=2)

        assert len(transport.replies) == 0

    def test_an_unknown_session_restarts_the_upload(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075."""
        transport = scripted(reply(202, FIRST), *[reply(404)] * 3, reply(202, FIRST), reply(201))

        put(transport, retries=1)

        assert [sent.method for sent in transport.sent] == ["POST", "PUT", "HEAD", "DELETE", "POST", "PUT"]

    def test_a_session_closed_by_an_earlier_attempt_is_success(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075: the first PUT took effect although its response was an error."""
        transport = scripted(
            reply(202, FIRST),
            reply(202),
            reply(503, NOW),
            reply(404),
            reply(200, {"Content-Length": "10"}),
        )

        put(transport, chunk=10, retries=1)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PUT", "PUT", "HEAD"]

    @pytest.mark.parametrize("status", [429, 503])
    def test_content_is_not_sent_again_to_a_session_that_refused_it(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-075: the registry may have stored a part of it."""
        transport = scripted(
            reply(202, FIRST), reply(status, NOW), reply(404), reply(204), reply(202, {"Location": "/u/2"}), reply(201)
        )

        put(transport, retries=3)

        assert requested(transport)[2:] == [
            f"HEAD {REGISTRY}/v2/org/app/blobs/{DIGEST}",
            f"DELETE {REGISTRY}/u/1",
            POST_UPLOAD,
            f"PUT {REGISTRY}/u/2?{QUERY}",
        ]

    def test_repeated_refusals_are_raised(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-054: the error has the pause that the registry asked for."""
        transport = scripted(reply(202, FIRST), reply(429, {"Retry-After": "3600"}), reply(404), reply(204))

        with pytest.raises(RateLimited) as caught:
            put(transport)

        assert caught.value.retry_after == 3600

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_refused_closing_put_is_repeated_as_often_as_any_request(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-054: the retries of an upload do not multiply those of its requests."""
        transport = scripted(reply(202, FIRST), reply(202), *[reply(status, NOW)] * 3, reply(204))

        with pytest.raises((RateLimited, Unavailable)):
            put(transport, chunk=10, retries=2)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PUT", "PUT", "PUT", "DELETE"]

    def test_restarts_are_limited(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075."""
        transport = scripted(*[reply(202, FIRST), reply(500), reply(404), reply(204)] * 3)

        with pytest.raises(ServerError):
            put(transport, retries=2)

        assert len(transport.replies) == 0


class TestChunks:
    def test_chunks_are_sent_in_order_to_the_latest_location(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-072, R-232."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Location": "/u/2", "Range": "0-3"}),
            reply(204, {"Location": "/u/3?s=1", "Range": "bytes=0-7"}),
            reply(202, {"Location": "/u/4?s=2"}),
            reply(201),
        )

        put(transport, chunk=4)

        assert sent_chunks(transport) == [("0-3", b"0123"), ("4-7", b"4567"), ("8-9", b"89")]
        assert requested(transport)[2:] == [
            f"PATCH {REGISTRY}/u/2",
            f"PATCH {REGISTRY}/u/3?s=1",
            f"PUT {REGISTRY}/u/4?s=2&{QUERY}",
        ]
        assert transport.sent[-1].body is None

    def test_chunks_have_at_least_the_registry_s_minimum_length(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-073, R-234."""
        transport = scripted(reply(202, FIRST | {"OCI-Chunk-Min-Length": "8"}), reply(202), reply(202), reply(201))

        put(transport, chunk=4)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-7", "8-9"]

    @pytest.mark.parametrize(("text", "length"), [("1" * 12, 64 << 20), ("-1", 0), ("x", 0), ("9" * 400, 0), ("²", 0)])
    def test_an_invalid_minimum_is_ignored_and_a_large_one_limited(self, text: str, length: int) -> None:
        """R-073."""
        assert min_chunk_length(Headers([("OCI-Chunk-Min-Length", text)])) == length

    @pytest.mark.parametrize(
        "ranges",
        [
            ("0-0", "0-0", "0-0"),
            ("0-4", "0-8", "0-10"),
            ("0-1", "0-5", "0-8"),
            ("0-99", "0-99", "0-99"),
            ("bytes=0-3", "bytes 0-7", "bytes 0-9/10"),
            ("0-3", "4-7", "8-9"),
            ("", "", ""),
            ("garbage", "-1", "0-"),
            ("0-3", "0-3", "0-3"),
        ],
    )
    @pytest.mark.parametrize("status", [202, 204, 200])
    def test_a_chunk_that_was_accepted_is_followed_by_the_next_one_whatever_the_range(
        self, scripted: MakeTransport, reply: MakeReply, ranges: tuple[str, ...], status: int
    ) -> None:
        """R-074: ECR and zot, among others, state a range that stays behind, that excludes its end, or none."""
        look = [] if status == 202 else [reply(404)]
        answers = [reply(status, {"Location": "/u/1", "Range": text} if text else FIRST) for text in ranges]
        transport = scripted(reply(202, FIRST), *answers, *look, reply(201))

        put(transport, chunk=4)

        assert sent_chunks(transport) == [("0-3", b"0123"), ("4-7", b"4567"), ("8-9", b"89")]

    def test_a_registry_that_kept_less_answers_the_next_chunk_by_416(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-074."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-5"}),
            reply(416),
            reply(204, {"Range": "0-5"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=8)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-7", "8-9", "6-9"]

    def test_a_registry_that_kept_less_of_the_last_chunk_answers_the_closing_put_by_416(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-074."""
        transport = scripted(
            reply(202, FIRST), reply(202), reply(416), reply(204, {"Range": "0-5"}), reply(202), reply(201)
        )

        put(transport, chunk=10)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-9", "6-9"]

    def test_a_response_before_the_whole_chunk_was_sent_is_treated_as_a_break(self, reply: MakeReply) -> None:
        """R-074, R-059."""
        transport = EarlyRespondingTransport(
            reply(202, FIRST), reply(202), reply(204, {"Range": "0-3"}), reply(202), reply(201)
        )

        put_with(transport, chunk=10, retries=1)

        assert [sent.headers.get("Content-Range") for sent in transport.sent] == [None, "0-9", None, "4-9", None]

    def test_after_a_416_the_session_is_queried(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-074, R-235."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-3"}),
            reply(416),
            reply(204, {"Location": "/u/9", "Range": "0-5"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=4)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-3", "4-7", "6-9"]
        assert requested(transport)[3:5] == [f"GET {REGISTRY}/u/1", f"PATCH {REGISTRY}/u/9"]

    def test_after_a_lost_response_the_session_is_queried_before_sending(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-075: a chunk is not sent again before the session has reported its offset."""
        transport = scripted(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(204, {"Range": "0-3"}),
            reply(202, {"Range": "0-7"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-3", "4-7", "8-9"]

    @pytest.mark.parametrize("status", [429, 503])
    def test_after_a_refused_chunk_the_session_is_queried_before_sending(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-075: the registry may have stored a part of it."""
        transport = scripted(
            reply(202, FIRST),
            reply(status, NOW),
            reply(204, {"Range": "0-1"}),
            reply(202, {"Range": "0-5"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=4, retries=3)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-3", "2-5", "6-9"]

    def test_chunks_refused_too_often_end_the_upload(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-054."""
        refused = [reply(429, NOW), reply(204, {"Range": "0-3"})] * 3
        transport = scripted(reply(202, FIRST), reply(202), *refused, reply(429, NOW), reply(204))

        with pytest.raises(RateLimited):
            put(transport, chunk=4, retries=3)

        assert len(transport.replies) == 0

    def test_a_session_that_loses_bytes_too_often_is_abandoned(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-074: attempts without progress are limited."""
        lost_progress = [reply(202), reply(416), reply(204, {"Range": "0-1"})] * 17
        transport = scripted(*[reply(202, FIRST), *lost_progress, reply(204)] * 3)

        with pytest.raises(ProtocolError, match="no progress"):
            put(transport, chunk=8, retries=2)

        assert len(transport.replies) == 0

    @pytest.mark.parametrize("range_header", [{"Range": "0-0"}, {"Range": "garbage"}, {"Range": "0-7"}, {}])
    def test_a_range_that_tells_nothing_after_a_break_restarts_the_upload(
        self, scripted: MakeTransport, reply: MakeReply, range_header: dict[str, str]
    ) -> None:
        """R-074: 0-0 means one byte or none, and no registry has more than it was sent."""
        transport = scripted(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(204, range_header),
            reply(204),
            reply(202, FIRST),
            *[reply(202)] * 3,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-3", "0-3", "4-7", "8-9"]

    def test_a_session_without_progress_is_abandoned(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-074: the upload is restarted, but not endlessly."""
        no_progress = [reply(202, FIRST), reply(202), *[reply(416), reply(204, {"Range": "0-3"})] * 5, reply(204)]
        transport = scripted(*no_progress * 3)

        with pytest.raises(ProtocolError, match="no progress"):
            put(transport, chunk=4, retries=2)

        assert len(transport.replies) == 0

    def test_a_registry_without_chunks_gets_a_monolithic_upload(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-072."""
        transport = scripted(reply(202, FIRST), reply(405), reply(201))

        put(transport, chunk=4)

        assert requested(transport)[2] == f"PUT {REGISTRY}/u/1?{QUERY}"
        assert transport.sent[2].body == CONTENT

    def test_a_session_closed_by_the_registry_with_the_last_chunk_is_success(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-076: success if the blob exists."""
        transport = scripted(reply(202, FIRST), reply(201), reply(201), reply(200, {"Content-Length": "10"}))

        put(transport, chunk=5)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PATCH", "HEAD"]

    def test_a_later_location_of_another_origin_is_refused(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-033: each response is checked."""
        transport = scripted(reply(202, FIRST), reply(202, {"Location": "https://evil.example.com/u"}), reply(204))

        with pytest.raises(ProtocolError):
            put(transport, chunk=4)

        assert requested(transport)[2] == f"DELETE {REGISTRY}/u/1"


class TestRecovery:
    @pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504, 522])
    def test_after_each_failed_chunk_the_session_is_queried(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-054, R-075: only missing bytes are sent again."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-3"}),
            reply(status),
            reply(204, {"Range": "0-4"}),
            *[reply(202)] * 2,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [range_ for range_, _ in sent_chunks(transport)] == ["0-3", "4-7", "5-8", "9-9"]

    def test_each_resumption_is_reported_as_an_event(
        self, scripted: MakeTransport, reply: MakeReply, recorder: Recorder
    ) -> None:
        transport = scripted(
            reply(202, {"Location": "/u/1?s=secret"}),
            Unavailable("cut"),
            reply(204, {"Range": "0-5"}),
            reply(202),
            reply(201),
        )

        put(transport, chunk=8, retries=1, observer=recorder)

        resumptions: list[Event] = [event for event in recorder.events if isinstance(event, TransferResumed)]
        assert resumptions == [TransferResumed(method="PATCH", url=f"{REGISTRY}/u/1?…", offset=6)]

    def test_without_retries_a_failure_is_final(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(202, FIRST), Unavailable("cut"), reply(204))

        with pytest.raises(Unavailable, match="cut"):
            put(transport, chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "DELETE"]

    def test_progress_resets_the_count_of_failures(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: four failures, but never two without progress between them."""
        faults = [[Unavailable("cut"), reply(204, {"Range": f"0-{end}"})] for end in (1, 3, 5, 9)]
        transport = scripted(reply(202, FIRST), *[part for fault in faults for part in fault], reply(201))

        put(transport, chunk=10, retries=1)

        assert len(transport.replies) == 0

    def test_too_little_progress_does_not_reset_it(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-074: an upload of one byte per request would not end in reasonable time."""
        content = b"x" * 100
        faults = [[Unavailable("cut"), reply(204, {"Range": f"0-{end}"})] for end in (1, 2)]
        transport = scripted(reply(202, FIRST), *faults[0], *faults[1], Unavailable("cut"), reply(204))

        with pytest.raises(Unavailable, match="cut"):
            put(transport, chunk=100, content=content, size=100, digest=Digest.of(content), retries=2)

        assert len(transport.replies) == 0

    def test_a_range_beyond_the_read_bytes_is_not_believed(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-074: the bytes between were never verified."""
        statement = [reply(202, FIRST), reply(416), reply(204, {"Range": "0-9"}), reply(204)]
        catalog = HttpCatalog(
            "registry.example.com",
            HttpSettings(retries=2, chunk_size=10),
            transport=HalfSendingTransport(scripted(*statement * 3)),
        )

        with pytest.raises(ProtocolError, match="was sent 5"):
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, BytesSource(CONTENT))

    @pytest.mark.parametrize("refusal", [(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}'), (400, b""), (422, b"")])
    def test_a_session_that_was_continued_and_is_refused_at_its_end_is_replaced(
        self, scripted: MakeTransport, reply: MakeReply, refusal: tuple[int, bytes]
    ) -> None:
        """R-074: the range that the registry stated may have been wrong by a byte."""
        transport = scripted(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(204, {"Range": "0-2"}),
            *[reply(202)] * 2,
            reply(refusal[0], {}, refusal[1]),
            reply(204),
            reply(202, {"Location": "/u/2"}),
            *[reply(202)] * 3,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert requested(transport)[-1] == f"PUT {REGISTRY}/u/2?{QUERY}"

    def test_a_session_that_was_not_continued_and_is_refused_at_its_end_is_an_error(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        transport = scripted(reply(202, FIRST), reply(202), reply(400), reply(204))

        with pytest.raises(ProtocolError):
            put(transport, chunk=10, retries=3)

        assert len(transport.replies) == 0

    def test_a_lost_response_to_the_closing_put_is_repeated_without_content(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-075: the session still has all bytes."""
        transport = scripted(
            reply(202, FIRST), reply(202), Unavailable("cut"), reply(404), reply(204, {"Range": "0-9"}), reply(201)
        )

        put(transport, chunk=10, retries=1)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PUT", "HEAD", "GET", "PUT"]

    def test_a_lost_session_restarts_the_upload(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075: from the first byte."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-3"}),
            reply(404),
            reply(404),
            reply(202, {"Location": "/u/2"}),
            *[reply(202)] * 3,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert sent_chunks(transport) == [
            ("0-3", b"0123"),
            ("4-7", b"4567"),
            ("0-3", b"0123"),
            ("4-7", b"4567"),
            ("8-9", b"89"),
        ]

    def test_after_a_broken_connection_each_chunk_uses_a_new_one(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-053: a proxy may cut each connection after the same number of bytes."""
        transport = scripted(
            reply(202, FIRST),
            reply(202),
            Unavailable("cut"),
            reply(204, {"Range": "0-3"}),
            *[reply(202)] * 2,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        chunks = [sent.headers.get("Connection") for sent in transport.sent if sent.method == "PATCH"]
        assert chunks == [None, None, "close", "close"]

    def test_a_pause_beyond_the_limit_ends_the_upload(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-054: the error has the pause that the registry asked for."""
        transport = scripted(reply(202, FIRST), reply(503, {"Retry-After": "3600"}), reply(204))

        with pytest.raises(Unavailable) as caught:
            put(transport, chunk=4, retries=3)

        assert caught.value.retry_after == 3600
        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "DELETE"]


class InterruptedTransport:
    """A transport that reads a part of a body, is interrupted, and closes nothing."""

    def __init__(self) -> None:
        self.readers: list[ByteReader] = []

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        if body is None:
            return Response(status=202, headers=Headers(list(FIRST.items())), url=url, reader=BytesSource(b"").open())
        self.readers.append(body.source.open(body.start))
        self.readers[-1].read(1)
        raise Cancelled("interrupted")

    def close(self) -> None:
        """Do nothing: there are no connections."""


def test_the_source_is_closed_if_the_transport_is_interrupted() -> None:
    """R-060: the transport has not closed it."""
    opened: list[ByteReader] = []

    def open_source(start: int) -> ByteReader:
        opened.append(BytesSource(CONTENT).open(start))
        return opened[-1]

    catalog = HttpCatalog("registry.example.com", HttpSettings(), transport=InterruptedTransport())
    blobs = catalog.repository(RepositoryName("org/app")).blobs

    with pytest.raises(Cancelled):
        blobs.put(DIGEST, len(CONTENT), CallableSource(open_source))

    assert len(opened) == 1
    with pytest.raises(ValueError, match="closed"):
        opened[0].read(1)


def put_pattern(transport: DiscardingTransport, size: int, *, retries: int = 3, chunk: int | None = None) -> None:
    source = PatternSource(size)
    settings = HttpSettings(retries=retries, chunk_size=chunk)
    catalog = HttpCatalog("registry.example.com", settings, transport=transport)
    catalog.repository(RepositoryName("org/app")).blobs.put(source.digest, size, source)


def request_lines(transport: DiscardingTransport) -> list[str]:
    return [sent.line for sent in transport.sent]


class TestSmallerRequests:
    def test_a_broken_monolithic_upload_continues_in_chunks(self, reply: MakeReply) -> None:
        """R-075: committed bytes are not sent again."""
        transport = DiscardingTransport(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(404),
            reply(204, {"Range": f"0-{5 * MIB - 1}"}),
            *[reply(202)] * 2,
            reply(201),
        )

        put_pattern(transport, 20 * MIB)

        assert request_lines(transport) == ["POST", "PUT", "HEAD", "GET", "PATCH 5-13", "PATCH 13-20", "PUT"]

    def test_a_closed_idle_connection_does_not_split_a_monolithic_upload(self, reply: MakeReply) -> None:
        """R-053: the size of the request was not the cause."""
        transport = DiscardingTransport(
            reply(202, FIRST), StaleConnection("gone"), *[reply(404)] * 2, reply(202, FIRST), reply(201)
        )

        put_pattern(transport, 12 * MIB, retries=0)

        assert request_lines(transport) == ["POST", "PUT", "HEAD", "DELETE", "POST", "PUT"]
        assert [sent.headers.get("Connection") for sent in transport.sent if sent.method == "PUT"] == [None, "close"]

    def test_if_the_session_is_lost_the_next_one_gets_chunks(self, reply: MakeReply) -> None:
        """R-075: docker-registry 2 forgets a session whose request broke off."""
        transport = DiscardingTransport(
            reply(202, FIRST),
            Unavailable("cut"),
            *[reply(404)] * 3,
            reply(202, FIRST),
            *[reply(202)] * 2,
            reply(201),
        )

        put_pattern(transport, 12 * MIB)

        assert request_lines(transport)[3:] == ["GET", "DELETE", "POST", "PATCH 0-8", "PATCH 8-12", "PUT"]

    def test_chunks_that_break_without_progress_become_smaller(self, reply: MakeReply) -> None:
        """R-075: also if the session survives."""
        committed = {"Range": f"0-{MIB - 1}"}
        cuts: list[Reply | BaseException] = [Unavailable("cut"), reply(204, committed)] * 2
        transport = DiscardingTransport(
            *[reply(202, FIRST)] * 2,
            *cuts,
            *[reply(202)] * 4,
            reply(201),
        )

        put_pattern(transport, 2 * MIB, chunk=MIB)

        assert request_lines(transport)[2:] == [
            *["PATCH 1-2", "GET"] * 2,
            *[f"PATCH {start / 4:g}-{(start + 1) / 4:g}" for start in range(4, 8)],
            "PUT",
        ]

    def test_chunks_that_break_on_new_connections_become_smaller(self, reply: MakeReply) -> None:
        transport = DiscardingTransport(
            reply(202, FIRST),
            Unavailable("cut"),
            *[reply(404)] * 3,
            reply(202, FIRST),
            Unavailable("cut"),
            *[reply(404)] * 2,
            reply(202, FIRST),
            *[reply(202)] * 5,
            reply(201),
        )

        put_pattern(transport, 10 * MIB)

        assert request_lines(transport)[6:] == [
            "PATCH 0-8",
            "GET",
            "DELETE",
            "POST",
            *[f"PATCH {start}-{start + 2}" for start in range(0, 10, 2)],
            "PUT",
        ]

    @pytest.mark.parametrize(("size", "chunk"), [(64, 8), (20, 5), (4, 1), (2, 0.5)])
    def test_a_request_that_is_too_large_is_split(self, reply: MakeReply, size: int, chunk: float) -> None:
        """R-072: nginx answers 413 beyond its client_max_body_size."""
        count = int(size / chunk)
        transport = DiscardingTransport(
            reply(202, FIRST), reply(413), *[reply(404)] * 2, reply(202, FIRST), *[reply(202)] * count, reply(201)
        )

        put_pattern(transport, size * MIB, retries=0)

        assert request_lines(transport)[:5] == ["POST", "PUT", "GET", "DELETE", "POST"]
        assert request_lines(transport)[5] == f"PATCH 0-{chunk:g}"
        assert len(transport.replies) == 0

    def test_a_chunk_that_is_too_large_is_quartered_at_its_offset(self, reply: MakeReply) -> None:
        """R-074: the session is queried first."""
        transport = DiscardingTransport(
            reply(202, FIRST),
            reply(202),
            reply(413),
            reply(204, {"Range": f"0-{4 * MIB - 1}"}),
            *[reply(202)] * 4,
            reply(201),
        )

        put_pattern(transport, 8 * MIB, retries=0, chunk=4 * MIB)

        assert request_lines(transport) == [
            "POST",
            "PATCH 0-4",
            "PATCH 4-8",
            "GET",
            *[f"PATCH {start}-{start + 1}" for start in range(4, 8)],
            "PUT",
        ]

    def test_chunks_do_not_shrink_below_the_registry_s_minimum(self, reply: MakeReply) -> None:
        """R-073."""
        minimum = FIRST | {"OCI-Chunk-Min-Length": str(4 * MIB)}
        transport = DiscardingTransport(reply(202, minimum), reply(413), reply(204))

        with pytest.raises(TooLarge):
            put_pattern(transport, 8 * MIB, chunk=4 * MIB)

    def test_a_chunk_of_a_quarter_of_a_mebibyte_is_not_made_smaller(self, reply: MakeReply) -> None:
        """R-055: the 413 is raised."""
        session = [reply(413), reply(404), reply(204), reply(202, FIRST)]
        transport = DiscardingTransport(reply(202, FIRST), *session, *session, reply(413), reply(204))

        with pytest.raises(TooLarge):
            put_pattern(transport, 3 * MIB, retries=0)

        assert [line for line in request_lines(transport) if line.startswith("PATCH")] == [
            "PATCH 0-0.75",
            "PATCH 0-0.25",
        ]

    def test_a_registry_without_chunks_gets_a_monolithic_upload_again(self, reply: MakeReply) -> None:
        """R-072."""
        transport = DiscardingTransport(
            reply(202, FIRST), reply(405), Unavailable("cut"), *[reply(404)] * 2, reply(202, FIRST), reply(201)
        )

        put_pattern(transport, 9 * MIB, chunk=8 * MIB)

        assert request_lines(transport) == ["POST", "PATCH 0-8", "PUT", "HEAD", "DELETE", "POST", "PUT"]


def test_the_repr_of_a_session_has_no_secret() -> None:
    """R-043."""
    assert "hidden" not in repr(PendingUpload("https://registry.example.com/u?state=hidden"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0-9", 10),
        ("bytes=0-9", 10),
        ("bytes 0-9", 10),
        ("0-0", 1),
        ("1-9", None),
        ("0-", None),
        ("", None),
        ("0--1", None),
    ],
)
def test_ranges_are_parsed_in_all_forms_of_registries(text: str, count: int | None) -> None:
    """R-074."""
    assert committed_bytes(Headers([("Range", text)])) == count


def test_special_characters_of_a_digest_are_encoded_in_the_query() -> None:
    """R-010."""
    assert closing_target("/u?a=b", Digest("a+b:c=")) == "/u?a=b&digest=a%2Bb:c%3D"
