from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.messages import Body, Headers, Response
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

    Script = Callable[..., ScriptedTransport]
    Build = Callable[..., Reply]

CONTENT = b"0123456789"
DIGEST = Digest.of(CONTENT)
HOME = "https://registry.example.com"
START = f"POST {HOME}/v2/org/app/blobs/uploads/"
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


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The luckiest jitter: each pause has no length."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


class HalfSent:
    """A transport that takes half of each body, and then does what another one does."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self._transport = transport

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        half = None if body is None else Body(body.source, body.start, body.length // 2)
        return self._transport.send(method, url, headers, half)

    def close(self) -> None:
        self._transport.close()


class Discarding:
    """A transport that answers from a list, and keeps no bodies."""

    def __init__(self, *replies: Reply | BaseException) -> None:
        self.replies = deque(replies)
        self.sent: list[Sent] = []

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        left = 0 if body is None else body.length
        if body is not None:
            with body.source.open(body.start) as reader:
                while left and (data := reader.read(min(CHUNK_SIZE, left))):
                    left -= len(data)
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
        """The method, and a chunk's stretch in MiB."""
        stretch = self.headers.get("Content-Range")
        if stretch is None:
            return self.method
        first, last = (int(text) for text in stretch.split("-"))
        return f"{self.method} {first / MIB:g}-{(last + 1) / MIB:g}"


def asked(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


def patched(transport: ScriptedTransport) -> list[tuple[str, bytes | None]]:
    return [(sent.headers["Content-Range"], sent.body) for sent in transport.sent if sent.method == "PATCH"]


class TestInOne:
    @pytest.mark.parametrize("status", [201, 204])
    def test_a_session_is_opened_and_closed_with_the_content(self, scripted: Script, reply: Build, status: int) -> None:
        """R-230, R-076."""
        transport = scripted(reply(202, FIRST), reply(status))

        put(transport)

        assert asked(transport) == [START, f"PUT {HOME}/u/1?{QUERY}"]
        assert transport.sent[1].body == CONTENT
        assert transport.sent[1].headers["Content-Type"] == "application/octet-stream"

    @pytest.mark.parametrize(
        ("location", "closing"),
        [
            ("https://registry.example.com/u/1", f"{HOME}/u/1?{QUERY}"),
            ("https://registry.example.com:443/u/1", f"https://registry.example.com:443/u/1?{QUERY}"),
            ("//registry.example.com/u/1", f"{HOME}/u/1?{QUERY}"),
            ("/u/1?state=a%2Fb%3D&x=", f"{HOME}/u/1?state=a%2Fb%3D&x=&{QUERY}"),
            ("1?state=x#part", f"{HOME}/v2/org/app/blobs/uploads/1?state=x&{QUERY}"),
            ("?state=x", f"{HOME}/v2/org/app/blobs/uploads/?state=x&{QUERY}"),
        ],
    )
    def test_the_location_is_kept_as_it_is(self, scripted: Script, reply: Build, location: str, closing: str) -> None:
        """R-071."""
        transport = scripted(reply(202, {"Location": location}), reply(201))

        put(transport)

        assert asked(transport)[1] == f"PUT {closing}"

    @pytest.mark.parametrize(
        "headers", [{}, {"Location": "https://evil.example.com/u"}, {"Location": "http://registry.example.com/u"}]
    )
    def test_another_origin_or_none_is_refused(self, scripted: Script, reply: Build, headers: dict[str, str]) -> None:
        """R-033: nothing is sent there, not even a cancellation."""
        transport = scripted(reply(202, headers))

        with pytest.raises(ProtocolError):
            put(transport)

        assert len(transport.sent) == 1

    def test_another_algorithm_is_announced(self, scripted: Script, reply: Build) -> None:
        """R-233."""
        transport = scripted(reply(202, FIRST), reply(201))

        put(transport, digest=Digest.of(CONTENT, "sha512"))

        assert asked(transport)[0] == f"{START}?digest-algorithm=sha512"

    def test_an_algorithm_that_cannot_be_verified_is_refused(self, scripted: Script) -> None:
        """R-002: before anything is sent."""
        with pytest.raises(Unsupported):
            put(scripted(), digest=Digest("md5:d41d8cd98f00b204e9800998ecf8427e"))

    def test_a_blob_without_bytes(self, scripted: Script, reply: Build) -> None:
        transport = scripted(reply(202, FIRST), reply(201))

        put(transport, content=b"", size=0, digest=Digest.of(b""), chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PUT"]

    def test_more_bytes_than_none_are_refused(self, scripted: Script) -> None:
        with pytest.raises(SizeMismatch):
            put(scripted(), size=0, digest=Digest.of(b""))

    def test_another_digest_in_the_answer_is_an_error(self, scripted: Script, reply: Build) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), reply(201, {"Docker-Content-Digest": Digest.of(b"")}), reply(404))

        with pytest.raises(DigestMismatch):
            put(transport)

    def test_202_is_no_success(self, scripted: Script, reply: Build) -> None:
        """R-076."""
        transport = scripted(reply(202, FIRST), reply(202), reply(204))

        with pytest.raises(ProtocolError):
            put(transport)

    def test_a_refused_upload_is_cancelled(self, scripted: Script, reply: Build) -> None:
        """R-236: whatever comes of that."""
        transport = scripted(reply(202, FIRST), reply(403), reply(500))

        with pytest.raises(Forbidden):
            put(transport)

        assert asked(transport)[2] == f"DELETE {HOME}/u/1"

    def test_a_cancelled_upload_is_cancelled_there_too(self, scripted: Script, reply: Build) -> None:
        """R-236: although the caller's scope is over."""
        transport = scripted(reply(202, FIRST), reply(204))

        with CancelScope() as scope, pytest.raises(RegistryError):

            def opened(start: int) -> ByteReader:
                scope.cancel()
                return BytesSource(CONTENT).open(start)

            catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, CallableSource(opened))

        assert asked(transport) == [START, f"DELETE {HOME}/u/1"]


class TestWrongSources:
    @pytest.mark.parametrize(
        ("content", "error"),
        [(b"0123456789a", SizeMismatch), (b"9876543210", DigestMismatch)],
    )
    @pytest.mark.parametrize("chunk", [None, 10])
    def test_nothing_is_sent_whole(
        self, scripted: Script, reply: Build, content: bytes, error: type[Exception], chunk: int | None
    ) -> None:
        """The error is about the source, and the session is cancelled."""
        transport = scripted(reply(202, FIRST), reply(204))

        with pytest.raises(error):
            put(transport, content=content, chunk=chunk)

        assert asked(transport) == [START, f"DELETE {HOME}/u/1"]

    def test_what_a_source_raises_is_not_taken_for_a_failure_of_the_registry(
        self, scripted: Script, reply: Build
    ) -> None:
        """Nothing is tried again for it."""
        transport = scripted(reply(202, FIRST), reply(204))

        def broken(start: int) -> ByteReader:
            raise Unavailable("the source is gone")

        catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
        with pytest.raises(Unavailable, match="the source is gone"):
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, CallableSource(broken))

        assert asked(transport) == [START, f"DELETE {HOME}/u/1"]

    def test_wrong_bytes_are_found_across_chunks(self, scripted: Script, reply: Build) -> None:
        transport = scripted(reply(202, FIRST), *(reply(202, {"Range": f"0-{end}"}) for end in (3, 7)), reply(204))

        with pytest.raises(DigestMismatch):
            put(transport, content=b"x123456789", chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PATCH", "DELETE"]


class TestLost:
    def test_a_lost_closing_answer_is_looked_up(self, scripted: Script, reply: Build) -> None:
        """R-075: done, if the blob is there."""
        transport = scripted(reply(202, FIRST), Unavailable("cut"), reply(200, {"Content-Length": "10"}))

        put(transport)

        assert asked(transport)[2] == f"HEAD {HOME}/v2/org/app/blobs/{DIGEST}"

    def test_it_is_begun_anew_if_the_blob_is_not_there(self, scripted: Script, reply: Build) -> None:
        """R-075."""
        transport = scripted(
            reply(202, FIRST), reply(500), reply(404), reply(204), reply(202, {"Location": "/u/2"}), reply(201)
        )

        put(transport, retries=1)

        assert asked(transport)[3:] == [f"DELETE {HOME}/u/1", START, f"PUT {HOME}/u/2?{QUERY}"]
        assert transport.sent[-1].body == CONTENT

    def test_a_repository_that_is_not_known_yet_does_not_have_the_blob(self, scripted: Script, reply: Build) -> None:
        """R-075, R-078: looking it up does not replace what went wrong."""
        unknown = b'{"errors":[{"code":"NAME_UNKNOWN"}]}'
        lost = [reply(202, FIRST), reply(500), reply(405), reply(404, {}, unknown), reply(204)]
        transport = scripted(*lost * 3)

        with pytest.raises(ServerError):
            put(transport, retries=2)

        assert len(transport.replies) == 0

    def test_a_lost_session_is_begun_anew(self, scripted: Script, reply: Build) -> None:
        """R-075."""
        transport = scripted(reply(202, FIRST), *[reply(404)] * 3, reply(202, FIRST), reply(201))

        put(transport, retries=1)

        assert [sent.method for sent in transport.sent] == ["POST", "PUT", "HEAD", "DELETE", "POST", "PUT"]

    def test_a_session_that_an_earlier_try_has_closed_is_done(self, scripted: Script, reply: Build) -> None:
        """R-075: the first PUT took effect, though its answer said otherwise."""
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
    def test_content_is_not_sent_again_into_a_session_that_refused_it(
        self, scripted: Script, reply: Build, status: int
    ) -> None:
        """R-075: some of it may have been taken."""
        transport = scripted(
            reply(202, FIRST), reply(status, NOW), reply(404), reply(204), reply(202, {"Location": "/u/2"}), reply(201)
        )

        put(transport, retries=3)

        assert asked(transport)[2:] == [
            f"HEAD {HOME}/v2/org/app/blobs/{DIGEST}",
            f"DELETE {HOME}/u/1",
            START,
            f"PUT {HOME}/u/2?{QUERY}",
        ]

    def test_a_registry_that_goes_on_refusing_is_believed(self, scripted: Script, reply: Build) -> None:
        """R-054: the error is raised with what the registry asked for."""
        transport = scripted(reply(202, FIRST), reply(429, {"Retry-After": "3600"}), reply(404), reply(204))

        with pytest.raises(RateLimited) as caught:
            put(transport)

        assert caught.value.retry_after == 3600

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_refused_end_is_repeated_as_often_as_any_request_and_no_more(
        self, scripted: Script, reply: Build, status: int
    ) -> None:
        """R-054: the retries of an upload do not multiply those of its requests."""
        transport = scripted(reply(202, FIRST), reply(202), *[reply(status, NOW)] * 3, reply(204))

        with pytest.raises((RateLimited, Unavailable)):
            put(transport, chunk=10, retries=2)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PUT", "PUT", "PUT", "DELETE"]

    def test_not_for_ever(self, scripted: Script, reply: Build) -> None:
        """R-075."""
        transport = scripted(*[reply(202, FIRST), reply(500), reply(404), reply(204)] * 3)

        with pytest.raises(ServerError):
            put(transport, retries=2)

        assert len(transport.replies) == 0


class TestChunks:
    def test_they_come_in_order_and_follow_each_location(self, scripted: Script, reply: Build) -> None:
        """R-072, R-232."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Location": "/u/2", "Range": "0-3"}),
            reply(204, {"Location": "/u/3?s=1", "Range": "bytes=0-7"}),
            reply(202, {"Location": "/u/4?s=2"}),
            reply(201),
        )

        put(transport, chunk=4)

        assert patched(transport) == [("0-3", b"0123"), ("4-7", b"4567"), ("8-9", b"89")]
        assert asked(transport)[2:] == [
            f"PATCH {HOME}/u/2",
            f"PATCH {HOME}/u/3?s=1",
            f"PUT {HOME}/u/4?s=2&{QUERY}",
        ]
        assert transport.sent[-1].body is None

    def test_they_are_as_long_as_the_registry_asks_for(self, scripted: Script, reply: Build) -> None:
        """R-073, R-234."""
        transport = scripted(reply(202, FIRST | {"OCI-Chunk-Min-Length": "8"}), reply(202), reply(202), reply(201))

        put(transport, chunk=4)

        assert [stretch for stretch, _ in patched(transport)] == ["0-7", "8-9"]

    @pytest.mark.parametrize(("text", "length"), [("1" * 12, 64 << 20), ("-1", 0), ("x", 0), ("9" * 400, 0), ("²", 0)])
    def test_an_absurd_minimum_is_no_order(self, text: str, length: int) -> None:
        """R-073."""
        assert min_chunk_length(Headers([("OCI-Chunk-Min-Length", text)])) == length

    def test_a_shorter_range_is_believed(self, scripted: Script, reply: Build) -> None:
        """R-074."""
        transport = scripted(reply(202, FIRST), reply(202, {"Range": "0-5"}), reply(202, {"Range": "0-9"}), reply(201))

        put(transport, chunk=8)

        assert [stretch for stretch, _ in patched(transport)] == ["0-7", "6-9"]

    def test_more_than_was_sent_is_an_error(self, scripted: Script, reply: Build) -> None:
        """R-074."""
        transport = scripted(reply(202, FIRST), reply(202, {"Range": "0-8"}), reply(204))

        with pytest.raises(ProtocolError):
            put(transport, chunk=4)

    def test_a_refused_range_is_asked_about(self, scripted: Script, reply: Build) -> None:
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

        assert [stretch for stretch, _ in patched(transport)] == ["0-3", "4-7", "6-9"]
        assert asked(transport)[3:5] == [f"GET {HOME}/u/1", f"PATCH {HOME}/u/9"]

    def test_a_lost_answer_is_asked_about_before_anything_is_sent_again(self, scripted: Script, reply: Build) -> None:
        """R-075: a chunk is never sent again on a guess."""
        transport = scripted(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(204, {"Range": "0-3"}),
            reply(202, {"Range": "0-7"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [stretch for stretch, _ in patched(transport)] == ["0-3", "4-7", "8-9"]

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_refused_chunk_is_asked_about_before_anything_is_sent_again(
        self, scripted: Script, reply: Build, status: int
    ) -> None:
        """R-075: some of it may have been taken."""
        transport = scripted(
            reply(202, FIRST),
            reply(status, NOW),
            reply(204, {"Range": "0-1"}),
            reply(202, {"Range": "0-5"}),
            reply(202, {"Range": "0-9"}),
            reply(201),
        )

        put(transport, chunk=4, retries=3)

        assert [stretch for stretch, _ in patched(transport)] == ["0-3", "2-5", "6-9"]

    def test_chunks_that_are_refused_again_and_again_are_given_up(self, scripted: Script, reply: Build) -> None:
        """R-054."""
        refused = [reply(429, NOW), reply(204, {"Range": "0-3"})] * 3
        transport = scripted(reply(202, FIRST), reply(202), *refused, reply(429, NOW), reply(204))

        with pytest.raises(RateLimited):
            put(transport, chunk=4, retries=3)

        assert len(transport.replies) == 0

    def test_a_session_that_goes_forward_and_back_is_given_up(self, scripted: Script, reply: Build) -> None:
        """R-074: no progress is bounded."""
        circle = [reply(202, {"Range": "0-5"}), reply(202, {"Range": "0-1"})] * 17
        transport = scripted(*[reply(202, FIRST), *circle, reply(204)] * 3)

        with pytest.raises(ProtocolError):
            put(transport, chunk=8, retries=2)

        assert len(transport.replies) == 0

    def test_one_byte_or_none_is_begun_anew(self, scripted: Script, reply: Build) -> None:
        """R-074: 0-0 is ambiguous."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-0"}),
            reply(204),
            reply(202, FIRST),
            *[reply(202)] * 3,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [stretch for stretch, _ in patched(transport)] == ["0-3", "0-3", "4-7", "8-9"]

    def test_a_session_without_progress_is_given_up(self, scripted: Script, reply: Build) -> None:
        """R-074: and begun anew, but not for ever."""
        stuck = [reply(202, FIRST), reply(202, {"Range": "0-3"}), *[reply(202, {"Range": "0-3"})] * 5, reply(204)]
        transport = scripted(*stuck * 3)

        with pytest.raises(ProtocolError):
            put(transport, chunk=4, retries=2)

        assert len(transport.replies) == 0

    def test_a_registry_that_takes_no_chunks_gets_all_in_one(self, scripted: Script, reply: Build) -> None:
        """R-072."""
        transport = scripted(reply(202, FIRST), reply(405), reply(201))

        put(transport, chunk=4)

        assert asked(transport)[2] == f"PUT {HOME}/u/1?{QUERY}"
        assert transport.sent[2].body == CONTENT

    def test_a_registry_that_closes_with_the_last_chunk(self, scripted: Script, reply: Build) -> None:
        """R-076: believed once the blob is there."""
        transport = scripted(reply(202, FIRST), reply(201), reply(201), reply(200, {"Content-Length": "10"}))

        put(transport, chunk=5)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PATCH", "HEAD"]

    def test_another_origin_on_the_way_is_refused(self, scripted: Script, reply: Build) -> None:
        """R-033: checked again on every answer."""
        transport = scripted(reply(202, FIRST), reply(202, {"Location": "https://evil.example.com/u"}), reply(204))

        with pytest.raises(ProtocolError):
            put(transport, chunk=4)

        assert asked(transport)[2] == f"DELETE {HOME}/u/1"


class TestRecovery:
    @pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504, 522])
    def test_every_fault_of_a_chunk_is_asked_about(self, scripted: Script, reply: Build, status: int) -> None:
        """R-054, R-075: what the registry has is kept, what it has not is sent again."""
        transport = scripted(
            reply(202, FIRST),
            reply(202, {"Range": "0-3"}),
            reply(status),
            reply(204, {"Range": "0-4"}),
            *[reply(202)] * 2,
            reply(201),
        )

        put(transport, chunk=4, retries=1)

        assert [stretch for stretch, _ in patched(transport)] == ["0-3", "4-7", "5-8", "9-9"]

    def test_whoever_watches_is_told_where_it_goes_on(self, scripted: Script, reply: Build, recorder: Recorder) -> None:
        transport = scripted(
            reply(202, {"Location": "/u/1?s=secret"}),
            Unavailable("cut"),
            reply(204, {"Range": "0-5"}),
            reply(202),
            reply(201),
        )

        put(transport, chunk=8, retries=1, observer=recorder)

        told: list[Event] = [event for event in recorder.events if isinstance(event, TransferResumed)]
        assert told == [TransferResumed(method="PATCH", url=f"{HOME}/u/1?…", offset=6)]

    def test_without_retries_a_fault_is_final(self, scripted: Script, reply: Build) -> None:
        transport = scripted(reply(202, FIRST), Unavailable("cut"), reply(204))

        with pytest.raises(Unavailable, match="cut"):
            put(transport, chunk=4)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "DELETE"]

    def test_progress_renews_the_patience(self, scripted: Script, reply: Build) -> None:
        """R-051: four faults in all, but never two without a byte between them."""
        faults = [[Unavailable("cut"), reply(204, {"Range": f"0-{end}"})] for end in (1, 3, 5, 9)]
        transport = scripted(reply(202, FIRST), *[part for fault in faults for part in fault], reply(201))

        put(transport, chunk=10, retries=1)

        assert len(transport.replies) == 0

    def test_hardly_any_progress_does_not(self, scripted: Script, reply: Build) -> None:
        """R-074: a byte at a time would never end."""
        content = b"x" * 100
        faults = [[Unavailable("cut"), reply(204, {"Range": f"0-{end}"})] for end in (1, 2)]
        transport = scripted(reply(202, FIRST), *faults[0], *faults[1], Unavailable("cut"), reply(204))

        with pytest.raises(Unavailable, match="cut"):
            put(transport, chunk=100, content=content, size=100, digest=Digest.of(content), retries=2)

        assert len(transport.replies) == 0

    def test_more_than_was_read_from_the_source_is_not_believed(self, scripted: Script, reply: Build) -> None:
        """R-074: the bytes between would never have been verified."""
        catalog = HttpCatalog(
            "registry.example.com",
            HttpSettings(retries=3, chunk_size=10),
            transport=HalfSent(scripted(reply(202, FIRST), reply(500), reply(204, {"Range": "0-9"}), reply(204))),
        )

        with pytest.raises(ProtocolError, match="was sent 5"):
            catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, 10, BytesSource(CONTENT))

    def test_a_lost_end_is_asked_for_again_and_nothing_else_is_sent(self, scripted: Script, reply: Build) -> None:
        """R-075: the session still has everything."""
        transport = scripted(
            reply(202, FIRST), reply(202), Unavailable("cut"), reply(404), reply(204, {"Range": "0-9"}), reply(201)
        )

        put(transport, chunk=10, retries=1)

        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "PUT", "HEAD", "GET", "PUT"]

    def test_a_session_that_is_gone_is_begun_anew(self, scripted: Script, reply: Build) -> None:
        """R-075: from the first byte on."""
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

        assert patched(transport) == [
            ("0-3", b"0123"),
            ("4-7", b"4567"),
            ("0-3", b"0123"),
            ("4-7", b"4567"),
            ("8-9", b"89"),
        ]

    def test_after_a_cut_each_chunk_has_a_connection_of_its_own(self, scripted: Script, reply: Build) -> None:
        """R-053: what was cut once may be cut after the same amount again."""
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

    def test_a_pause_that_nobody_wants_to_wait_for_ends_it(self, scripted: Script, reply: Build) -> None:
        """R-054: beyond what a registry may ask for, the error says it."""
        transport = scripted(reply(202, FIRST), reply(503, {"Retry-After": "3600"}), reply(204))

        with pytest.raises(Unavailable) as caught:
            put(transport, chunk=4, retries=3)

        assert caught.value.retry_after == 3600
        assert [sent.method for sent in transport.sent] == ["POST", "PATCH", "DELETE"]


class Interrupted:
    """A transport that reads some of a body, is interrupted, and closes nothing."""

    def __init__(self) -> None:
        self.kept: list[ByteReader] = []

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        if body is None:
            return Response(status=202, headers=Headers(list(FIRST.items())), url=url, reader=BytesSource(b"").open())
        self.kept.append(body.source.open(body.start))
        self.kept[-1].read(1)
        raise Cancelled("interrupted")

    def close(self) -> None:
        """Nothing is kept open."""


def test_a_source_is_closed_though_the_transport_was_interrupted() -> None:
    """R-060: nobody else knows what it has open."""
    opened: list[ByteReader] = []

    def opener(start: int) -> ByteReader:
        opened.append(BytesSource(CONTENT).open(start))
        return opened[-1]

    catalog = HttpCatalog("registry.example.com", HttpSettings(), transport=Interrupted())
    blobs = catalog.repository(RepositoryName("org/app")).blobs

    with pytest.raises(Cancelled):
        blobs.put(DIGEST, len(CONTENT), CallableSource(opener))

    assert len(opened) == 1
    with pytest.raises(ValueError, match="closed"):
        opened[0].read(1)


def put_pattern(transport: Discarding, size: int, *, retries: int = 3, chunk: int | None = None) -> None:
    source = PatternSource(size)
    settings = HttpSettings(retries=retries, chunk_size=chunk)
    catalog = HttpCatalog("registry.example.com", settings, transport=transport)
    catalog.repository(RepositoryName("org/app")).blobs.put(source.digest, size, source)


def lines(transport: Discarding) -> list[str]:
    return [sent.line for sent in transport.sent]


class TestLarge:
    def test_what_broke_off_in_one_goes_on_in_chunks(self, reply: Build) -> None:
        """R-075: what the session has is not sent again."""
        transport = Discarding(
            reply(202, FIRST),
            Unavailable("cut"),
            reply(404),
            reply(204, {"Range": f"0-{5 * MIB - 1}"}),
            *[reply(202)] * 2,
            reply(201),
        )

        put_pattern(transport, 20 * MIB)

        assert lines(transport) == ["POST", "PUT", "HEAD", "GET", "PATCH 5-13", "PATCH 13-20", "PUT"]

    def test_where_the_session_did_not_survive_a_new_one_gets_chunks(self, reply: Build) -> None:
        """R-075: docker-registry 2 forgets what was cut."""
        transport = Discarding(
            reply(202, FIRST),
            Unavailable("cut"),
            *[reply(404)] * 3,
            reply(202, FIRST),
            *[reply(202)] * 2,
            reply(201),
        )

        put_pattern(transport, 12 * MIB)

        assert lines(transport)[3:] == ["GET", "DELETE", "POST", "PATCH 0-8", "PATCH 8-12", "PUT"]

    def test_chunks_that_are_cut_again_and_leave_nothing_become_smaller(self, reply: Build) -> None:
        """R-075: also where the session survives."""
        here = {"Range": f"0-{MIB - 1}"}
        cuts: list[Reply | BaseException] = [Unavailable("cut"), reply(204, here)] * 2
        transport = Discarding(
            *[reply(202, FIRST)] * 2,
            *cuts,
            *[reply(202)] * 4,
            reply(201),
        )

        put_pattern(transport, 2 * MIB, chunk=MIB)

        assert lines(transport)[2:] == [
            *["PATCH 1-2", "GET"] * 2,
            *[f"PATCH {start / 4:g}-{(start + 1) / 4:g}" for start in range(4, 8)],
            "PUT",
        ]

    def test_chunks_that_are_cut_on_their_own_become_smaller(self, reply: Build) -> None:
        transport = Discarding(
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

        assert lines(transport)[6:] == [
            "PATCH 0-8",
            "GET",
            "DELETE",
            "POST",
            *[f"PATCH {start}-{start + 2}" for start in range(0, 10, 2)],
            "PUT",
        ]

    @pytest.mark.parametrize(("size", "chunk"), [(64, 8), (20, 5), (4, 1), (2, 0.5)])
    def test_too_large_a_request_becomes_several(self, reply: Build, size: int, chunk: float) -> None:
        """R-072: nginx answers 413 beyond its client_max_body_size."""
        count = int(size / chunk)
        transport = Discarding(
            reply(202, FIRST), reply(413), *[reply(404)] * 2, reply(202, FIRST), *[reply(202)] * count, reply(201)
        )

        put_pattern(transport, size * MIB, retries=0)

        assert lines(transport)[:5] == ["POST", "PUT", "GET", "DELETE", "POST"]
        assert lines(transport)[5] == f"PATCH 0-{chunk:g}"
        assert len(transport.replies) == 0

    def test_too_large_a_chunk_is_quartered_where_it_stands(self, reply: Build) -> None:
        """R-074: the session is asked first."""
        transport = Discarding(
            reply(202, FIRST),
            reply(202),
            reply(413),
            reply(204, {"Range": f"0-{4 * MIB - 1}"}),
            *[reply(202)] * 4,
            reply(201),
        )

        put_pattern(transport, 8 * MIB, retries=0, chunk=4 * MIB)

        assert lines(transport) == [
            "POST",
            "PATCH 0-4",
            "PATCH 4-8",
            "GET",
            *[f"PATCH {start}-{start + 1}" for start in range(4, 8)],
            "PUT",
        ]

    def test_no_smaller_than_the_registry_takes(self, reply: Build) -> None:
        """R-073."""
        least = FIRST | {"OCI-Chunk-Min-Length": str(4 * MIB)}
        transport = Discarding(reply(202, least), reply(413), reply(204))

        with pytest.raises(TooLarge):
            put_pattern(transport, 8 * MIB, chunk=4 * MIB)

    def test_a_limit_below_a_quarter_of_a_mebibyte_is_an_error(self, reply: Build) -> None:
        """R-055: it is reported as what it is."""
        session = [reply(413), reply(404), reply(204), reply(202, FIRST)]
        transport = Discarding(reply(202, FIRST), *session, *session, reply(413), reply(204))

        with pytest.raises(TooLarge):
            put_pattern(transport, 3 * MIB, retries=0)

        assert [line for line in lines(transport) if line.startswith("PATCH")] == ["PATCH 0-0.75", "PATCH 0-0.25"]

    def test_a_registry_that_takes_no_chunks_gets_all_in_one_again(self, reply: Build) -> None:
        """R-072."""
        transport = Discarding(
            reply(202, FIRST), reply(405), Unavailable("cut"), *[reply(404)] * 2, reply(202, FIRST), reply(201)
        )

        put_pattern(transport, 9 * MIB, chunk=8 * MIB)

        assert lines(transport) == ["POST", "PATCH 0-8", "PUT", "HEAD", "DELETE", "POST", "PUT"]


def test_a_session_shows_no_secrets() -> None:
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
def test_ranges_are_read_as_registries_write_them(text: str, count: int | None) -> None:
    """R-074."""
    assert committed_bytes(Headers([("Range", text)])) == count


def test_an_odd_digest_is_encoded_in_the_query() -> None:
    """R-010."""
    assert closing_target("/u?a=b", Digest("a+b:c=")) == "/u?a=b&digest=a%2Bb:c%3D"
