from __future__ import annotations

import random
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.blobs import content_range, strong_etag
from registry_core.cancellation import fail_after
from registry_core.content.streams import CHUNK_SIZE, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import BlobNotFound, DeadlineExceeded, DigestMismatch, ProtocolError, Unavailable
from registry_core.ports.observer import Observer, RequestRetried, TransferResumed

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Peer, Received, Recorder, Reply, ScriptedTransport, Wire

    Serve = Callable[[Callable[[Peer], None]], Wire]
    Script = Callable[..., ScriptedTransport]
    Build = Callable[..., Reply]

CONTENT = b"twenty bytes of blob"
DIGEST = Digest.of(CONTENT)
SIZE = len(CONTENT)
HOME = "https://registry.example.com"
BLOB = f"{HOME}/v2/org/app/blobs/{DIGEST}"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The luckiest jitter: each pause has no length."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


class Cutting:
    """A script: a registry with one blob, which breaks off its answers as it is told, one after the other.

    Args:
        content: The blob.
        cuts: After how many bytes of the body; what comes afterwards is whole.
        how: ``end`` closes the connection, ``reset`` resets it, ``stall`` falls silent, and ``chunked`` closes it in
            the middle of a body without ``Content-Length``.
        ranges: Whether it knows ``Range``.
    """

    def __init__(self, content: bytes, *cuts: int, how: str = "end", ranges: bool = True) -> None:
        self._content = content
        self._cuts = deque(cuts)
        self._how = how
        self._ranges = ranges
        self.received: list[Received] = []

    @property
    def asked(self) -> list[str]:
        """The ranges that were asked for."""
        return [request.headers.get("range", "") for request in self.received]

    def __call__(self, peer: Peer) -> None:
        while (request := peer.receive()) is not None:
            self.received.append(request)
            cut = self._cuts.popleft() if self._cuts else None
            peer.send(self._answer(request, cut))
            if cut is None:
                continue
            if self._how == "stall":
                peer.wait()
            if self._how == "reset":
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return

    def _answer(self, request: Received, cut: int | None) -> bytes:
        size, start = len(self._content), 0
        status, fields = 200, ""
        if self._ranges and "range" in request.headers:
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                return f"HTTP/1.1 416 No\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n".encode()
            status, fields = 206, f"Content-Range: bytes {start}-{size - 1}/{size}\r\n"
        body = self._content[start:][:cut]
        if self._how == "chunked":
            fields += "Transfer-Encoding: chunked\r\n"
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if cut is None else b"")
        else:
            fields += f"Content-Length: {size - start}\r\n"
        return f"HTTP/1.1 {status} Said\r\n{fields}\r\n".encode() + body


def connected(
    wire: Wire, *, retries: int = 3, observer: Observer | None = None, read_timeout: float = 5
) -> closing[HttpCatalog]:
    settings = HttpSettings(plain_http=True, proxy="", retries=retries, read_timeout=read_timeout)
    return closing(HttpCatalog(wire.origin.netloc, settings, observer=observer))


def opened(catalog: HttpCatalog, digest: Digest = DIGEST, *, start: int = 0) -> ByteReader:
    return catalog.repository(RepositoryName("org/app")).blobs.open(digest, start=start)


def scripted_reader(transport: ScriptedTransport, *, retries: int = 3, start: int = 0) -> ByteReader:
    return opened(HttpCatalog("registry.example.com", HttpSettings(retries=retries), transport=transport), start=start)


class TestCuts:
    @pytest.mark.parametrize("how", ["end", "reset", "chunked"])
    @pytest.mark.parametrize("cut", range(SIZE + 1))
    def test_a_blob_cut_at_any_byte_arrives_whole(self, serve: Serve, cut: int, how: str) -> None:
        """R-050, R-051: and nothing arrives twice."""
        script = Cutting(CONTENT, cut, how=how)

        with connected(serve(script)) as catalog, opened(catalog) as reader:
            content = reader.read()

        assert content == CONTENT
        assert len(script.asked) <= 2

    @pytest.mark.parametrize("cut", range(1, SIZE))
    def test_only_what_is_missing_is_asked_for(self, serve: Serve, cut: int) -> None:
        """R-051."""
        script = Cutting(CONTENT, cut)

        with connected(serve(script)) as catalog, opened(catalog) as reader:
            reader.read()

        assert script.asked == ["", f"bytes={cut}-"]

    @pytest.mark.parametrize("cut", range(SIZE))
    def test_a_registry_without_ranges_is_skipped_forward(self, serve: Serve, cut: int) -> None:
        """R-051: 200 is the whole again."""
        with connected(serve(Cutting(CONTENT, cut, ranges=False))) as catalog, opened(catalog) as reader:
            content = reader.read()

        assert content == CONTENT

    @pytest.mark.parametrize("start", range(1, SIZE))
    def test_so_does_a_stretch(self, serve: Serve, start: int) -> None:
        """R-051."""
        script = Cutting(CONTENT, (SIZE - start) // 2)

        with connected(serve(script)) as catalog, opened(catalog, start=start) as reader:
            content = reader.read()

        assert content == CONTENT[start:]
        assert script.asked[0] == f"bytes={start}-"

    def test_a_stretch_of_a_registry_without_ranges_may_be_cut_before_it_begins(self, serve: Serve) -> None:
        """R-051."""
        script = Cutting(CONTENT, 3, 12, ranges=False)

        with connected(serve(script)) as catalog, opened(catalog, start=10) as reader:
            content = reader.read()

        assert content == CONTENT[10:]

    def test_silence_is_a_break(self, serve: Serve) -> None:
        """R-052."""
        script = Cutting(CONTENT, 7, how="stall")

        with connected(serve(script), read_timeout=0.3) as catalog, opened(catalog) as reader:
            content = reader.read()

        assert content == CONTENT

    def test_a_large_blob_is_moved_once(self, serve: Serve) -> None:
        """R-051: whatever the size of the pieces that it is read in."""
        content = random.Random(0).randbytes(6 * CHUNK_SIZE)
        script = Cutting(content, 2 * CHUNK_SIZE + 1, 2 * CHUNK_SIZE - 1)

        with connected(serve(script)) as catalog, opened(catalog, Digest.of(content)) as reader:
            arrived = reader.read()

        assert arrived == content
        assert script.asked == ["", f"bytes={2 * CHUNK_SIZE + 1}-", f"bytes={4 * CHUNK_SIZE}-"]

    def test_each_break_is_told(self, serve: Serve, recorder: Recorder) -> None:
        """With the byte from which on it goes on, and how patient we are."""
        wire = serve(Cutting(CONTENT, 5))
        with connected(wire, observer=recorder) as catalog, opened(catalog) as reader:
            reader.read()

        url = f"{wire.origin}/v2/org/app/blobs/{DIGEST}"
        assert [event for event in recorder.events if isinstance(event, TransferResumed | RequestRetried)] == [
            RequestRetried(method="GET", url=url, attempt=1, pause=0.0, reason="Unavailable"),
            TransferResumed(method="GET", url=url, offset=5),
        ]


class TestPatience:
    def test_progress_renews_it(self, serve: Serve) -> None:
        """R-051: one retry is enough, whatever the number of breaks."""
        script = Cutting(CONTENT, *[1] * SIZE)

        with connected(serve(script), retries=1) as catalog, opened(catalog) as reader:
            content = reader.read()

        assert content == CONTENT

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_no_progress_ends_it(self, serve: Serve, retries: int) -> None:
        """R-051: after as many connections in vain as there are retries."""
        script = Cutting(CONTENT, 6, *[0] * 9)

        with connected(serve(script), retries=retries) as catalog, opened(catalog) as reader:
            with pytest.raises(Unavailable, match=r"received 6 of 20 bytes; attempt \d without progress"):
                reader.read()

        assert script.asked == ["", *["bytes=6-"] * retries]

    def test_a_drip_is_no_progress(self, serve: Serve) -> None:
        """R-052: a byte a connection would take a million of them."""
        content = bytes(CHUNK_SIZE)
        script = Cutting(content, *[1] * 9)

        with connected(serve(script), retries=3) as catalog, opened(catalog, Digest.of(content)) as reader:
            with pytest.raises(Unavailable, match="received 4 of"):
                reader.read()

        assert len(script.asked) == 4

    def test_skipping_is_no_progress(self, serve: Serve) -> None:
        """R-051: a registry without ranges that never comes further is given up."""
        script = Cutting(CONTENT, 6, *[6] * 9, ranges=False)

        with connected(serve(script), retries=2) as catalog, opened(catalog) as reader:
            with pytest.raises(Unavailable, match=r"received 6 of 20 bytes; attempt \d without progress"):
                reader.read()

        assert len(script.asked) == 3

    def test_what_has_to_be_skipped_for_it_is_set_against_progress(self, serve: Serve) -> None:
        """R-051: otherwise a registry without ranges could send everything again for each little bit."""
        content = bytes(3 << 20)
        script = Cutting(content, 2 << 20, (2 << 20) + (100 << 10), ranges=False)

        with connected(serve(script), retries=1) as catalog, opened(catalog, Digest.of(content)) as reader:
            with pytest.raises(Unavailable, match="attempt 2 without progress"):
                reader.read()

        assert len(script.asked) == 2

    def test_a_deadline_ends_a_silent_read_and_does_not_spoil_the_reader(self, serve: Serve) -> None:
        """R-051, R-052: whoever reads on later gets the rest."""
        script = Cutting(CONTENT, 7, how="stall")

        with connected(serve(script)) as catalog, opened(catalog) as reader:
            begun = reader.read(3)
            with pytest.raises(DeadlineExceeded), fail_after(0.1):
                reader.read()
            rest = reader.read()

        assert begun + rest == CONTENT
        assert script.asked == ["", "bytes=3-"]

    def test_a_deadline_that_a_pause_would_miss_ends_it_at_once(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-054: nobody sleeps in vain."""
        monkeypatch.setattr(random, "random", lambda: 1e6)
        script = Cutting(CONTENT, 7)

        with connected(serve(script)) as catalog, opened(catalog) as reader:
            with pytest.raises(Unavailable), fail_after(9):
                reader.read()

        assert script.asked == [""]

    def test_a_registry_that_is_busy_then_is_waited_for(self, scripted: Script, reply: Build) -> None:
        """R-054: 503 and 429 are no end of a transfer."""
        transport = scripted(
            reply(200, {"Content-Length": "20"}, CONTENT[:8]),
            reply(503, {"Retry-After": "0"}),
            reply(429, {"Retry-After": "0"}),
            reply(206, {"Content-Range": "bytes 8-19/20"}, CONTENT[8:]),
        )

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_a_blob_that_is_gone_meanwhile_is_reported(self, scripted: Script, reply: Build) -> None:
        transport = scripted(reply(200, {"Content-Length": "20"}, CONTENT[:8]), reply(404))

        with scripted_reader(transport) as reader, pytest.raises(BlobNotFound):
            reader.read()

    def test_a_closed_reader_reads_no_more(self, scripted: Script, reply: Build) -> None:
        reader = scripted_reader(scripted(reply(200, {"Content-Length": "20"}, CONTENT)))

        reader.close()

        with pytest.raises(ValueError, match="closed"):
            reader.read(1)


def broken(reply: Build, **headers: str) -> Reply:
    """The first eight bytes of the blob."""
    return reply(200, {"Content-Length": "20", **headers}, CONTENT[:8])


REST = {"Content-Range": "bytes 8-19/20"}


class TestTrust:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Range": "bytes 7-19/20"},
            {"Content-Range": "bytes 9-19/20"},
            {"Content-Range": "bytes 8-18/20"},
            {"Content-Range": "bytes 8-18/19"},
            {"Content-Range": "bytes 8-20/21"},
            {"Content-Range": "bytes 8-18/*"},
            {"Content-Range": "bytes 8-20/20"},
            {"Content-Range": "8-19/20"},
            {"Content-Range": "items 8-19/20"},
            {"Content-Range": "bytes 8-7/20"},
            {"Content-Range": "bytes -8-19/20"},
            {"Content-Range": "bytes */20"},
            {"Content-Range": "bytes 8-19/20", "Content-Length": "11"},
            {"Content-Type": "multipart/byteranges; boundary=x"},
        ],
    )
    def test_a_part_that_is_not_what_was_asked_for_is_not_used(
        self, scripted: Script, reply: Build, headers: dict[str, str]
    ) -> None:
        """R-051: the whole is asked for, and skipped forward."""
        transport = scripted(broken(reply), reply(206, headers, b"x" * 12), reply(200, {}, CONTENT))

        with scripted_reader(transport) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [sent.headers.get("Range") for sent in transport.sent] == [None, "bytes=8-", None]

    @pytest.mark.parametrize("text", ["bytes 8-19/20", "bytes 8-19/*"])
    def test_one_that_is_right_is_used(self, scripted: Script, reply: Build, text: str) -> None:
        """R-051: the size need not be repeated."""
        transport = scripted(broken(reply), reply(206, {"Content-Range": text}, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_nobody_answers_with_a_part_instead_of_the_whole(self, scripted: Script, reply: Build) -> None:
        """R-051: nor after a part that was wrong."""
        transport = scripted(broken(reply), reply(206, {}, b"x"), reply(206, REST, CONTENT[8:]))

        with scripted_reader(transport) as reader, pytest.raises(ProtocolError):
            reader.read()

    def test_the_whole_must_be_as_long_as_before(self, scripted: Script, reply: Build) -> None:
        """R-051: it is another content."""
        transport = scripted(broken(reply), reply(200, {"Content-Length": "21"}, CONTENT + b"!"))

        with (
            scripted_reader(transport) as reader,
            pytest.raises(ProtocolError, match="had 20 bytes before, and has 21 now"),
        ):
            reader.read()

    def test_another_content_is_found_out(self, scripted: Script, reply: Build) -> None:
        """R-051, R-003: the first bytes were hashed when they came."""
        transport = scripted(broken(reply), reply(206, REST, CONTENT[8:][::-1]))

        with VerifyingReader(scripted_reader(transport), DIGEST, SIZE) as reader, pytest.raises(DigestMismatch):
            reader.read()

    def test_an_encoded_rest_is_refused(self, scripted: Script, reply: Build) -> None:
        """R-056."""
        transport = scripted(broken(reply), reply(206, REST | {"Content-Encoding": "gzip"}, b"x"))

        with scripted_reader(transport) as reader, pytest.raises(ProtocolError, match="encoded"):
            reader.read()

    def test_a_range_refused_within_the_blob_is_an_error(self, scripted: Script, reply: Build) -> None:
        """R-051."""
        transport = scripted(broken(reply), reply(416, {"Content-Range": "bytes */8"}))

        with scripted_reader(transport) as reader, pytest.raises(ProtocolError, match="byte 8"):
            reader.read()

    def test_a_range_refused_at_the_end_is_the_end(self, serve: Serve) -> None:
        """R-051: everything had come but the last chunk's end."""
        script = Cutting(CONTENT, SIZE, how="chunked")

        with connected(serve(script)) as catalog, opened(catalog) as reader:
            content = reader.read(SIZE) + reader.read()

        assert content == CONTENT
        assert script.asked == ["", "bytes=20-"]

    def test_a_short_body_is_no_success_without_retries_either(self, scripted: Script, reply: Build) -> None:
        """R-050."""
        with scripted_reader(scripted(broken(reply)), retries=0) as reader, pytest.raises(Unavailable):
            reader.read()


class TestTags:
    def test_a_strong_one_makes_the_rest_conditional(self, scripted: Script, reply: Build) -> None:
        """R-051: "If-Range" wants a strong validator."""
        transport = scripted(broken(reply, ETag='"abc"'), reply(206, REST, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            reader.read()

        assert transport.sent[1].headers["If-Range"] == '"abc"'

    @pytest.mark.parametrize("tag", ['W/"abc"', "abc", "", '"a"b"', '"a', f'"{"x" * 300}"'])
    def test_any_other_is_not_used(self, scripted: Script, reply: Build, tag: str) -> None:
        """R-051."""
        transport = scripted(broken(reply, ETag=tag), reply(206, REST, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            reader.read()

        assert "If-Range" not in transport.sent[1].headers

    def test_a_part_with_another_tag_is_not_used(self, scripted: Script, reply: Build) -> None:
        """R-051: parts of different things are not put together."""
        transport = scripted(
            broken(reply, ETag='"abc"'), reply(206, REST | {"ETag": '"def"'}, b"x" * 12), reply(200, {}, CONTENT)
        )

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_the_registry_is_asked_again_where_to_go_and_another_hosts_tag_is_not_used(
        self, scripted: Script, reply: Build
    ) -> None:
        """R-030, R-051: the signed URL of the first answer may have run out, and its host may be another one."""
        transport = scripted(
            reply(307, {"Location": "https://one.example.net/x?signature=1"}),
            broken(reply, ETag='"one"'),
            reply(307, {"Location": "https://two.example.net/x?signature=2"}),
            reply(206, REST | {"ETag": '"two"'}, CONTENT[8:]),
        )

        with scripted_reader(transport) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [sent.url for sent in transport.sent[2:]] == [BLOB, "https://two.example.net/x?signature=2"]
        assert transport.sent[3].headers["Range"] == "bytes=8-"
        assert all("If-Range" not in sent.headers for sent in transport.sent)

    def test_what_is_told_has_no_signature(self, scripted: Script, reply: Build, recorder: Recorder) -> None:
        """R-043."""
        redirect = reply(307, {"Location": "https://one.example.net/x?signature=hidden"})
        transport = scripted(redirect, broken(reply), redirect, reply(206, REST, CONTENT[8:]))
        catalog = HttpCatalog("registry.example.com", transport=transport, observer=recorder)

        with opened(catalog) as reader:
            reader.read()

        assert TransferResumed(method="GET", url=BLOB, offset=8) in recorder.events
        assert "hidden" not in repr(recorder.events)


class TestBuffers:
    def test_one_is_filled_across_a_break(self, scripted: Script, reply: Build) -> None:
        transport = scripted(broken(reply), reply(206, REST, CONTENT[8:]))
        buffer = bytearray(SIZE)
        filled = 0

        with scripted_reader(transport) as reader:
            while count := reader.readinto(memoryview(buffer)[filled:]):
                filled += count

        assert bytes(buffer) == CONTENT

    def test_nothing_is_read_where_nothing_is_wanted(self, scripted: Script, reply: Build) -> None:
        with scripted_reader(scripted(broken(reply))) as reader:
            assert reader.read(0) == b""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bytes 0-0/1", (0, 0, 1)),
        ("bytes 5-9/10", (5, 9, 10)),
        ("bytes 5-9/*", (5, 9, None)),
        ("bytes 5-9/9", None),
        ("bytes 9-5/10", None),
        ("Bytes 5-9/10", None),
        ("bytes=5-9/10", None),
        ("bytes 5-9", None),
        ("bytes 5-/10", None),
        ("bytes ²-9/10", None),
        ("bytes 5-9/10, bytes 5-9/10", None),
        (f"bytes 5-{'9' * 30}/*", None),
        ("", None),
    ],
)
def test_content_ranges_are_read_strictly(text: str, told: tuple[int, int, int | None] | None) -> None:
    """R-051."""
    assert content_range(text) == told


def test_a_strong_tag_cannot_break_a_header() -> None:
    """R-063."""
    assert strong_etag('"a\r\nX: y"') == ""
    assert re.fullmatch(r'"[^"]+"', strong_etag('"sha256:abc"'))
