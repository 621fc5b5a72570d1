from __future__ import annotations

import logging
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
    from tests.unit.registry_adapters.http.conftest import (
        Received,
        Recorder,
        Reply,
        ScriptedServer,
        ScriptedTransport,
        ServerConnection,
    )

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

CONTENT = b"twenty bytes of blob"
DIGEST = Digest.of(CONTENT)
SIZE = len(CONTENT)
REGISTRY = "https://registry.example.com"
BLOB = f"{REGISTRY}/v2/org/app/blobs/{DIGEST}"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each pause between retries zero."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


class CuttingRegistry:
    """A script: a registry with one blob that cuts its responses, one after the other.

    Args:
        content: Content of the blob.
        cuts: Number of body bytes after which each response is cut; later responses are complete.
        cut_mode: ``end`` closes the connection, ``reset`` resets it, ``stall`` stops sending, and ``chunked`` closes it
            in the middle of a body without ``Content-Length``.
        ranges: Whether the registry supports ``Range``.
    """

    def __init__(self, content: bytes, *cuts: int, cut_mode: str = "end", ranges: bool = True) -> None:
        self._content = content
        self._cuts = deque(cuts)
        self._cut_mode = cut_mode
        self._ranges = ranges
        self.received: list[Received] = []

    @property
    def requested_ranges(self) -> list[str]:
        """Values of the ``Range`` headers."""
        return [request.headers.get("range", "") for request in self.received]

    def __call__(self, connection: ServerConnection) -> None:
        while (request := connection.receive()) is not None:
            self.received.append(request)
            cut = self._cuts.popleft() if self._cuts else None
            connection.send(self._response_to(request, cut))
            if cut is None:
                continue
            if self._cut_mode == "stall":
                connection.wait()
            if self._cut_mode == "reset":
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return

    def _response_to(self, request: Received, cut: int | None) -> bytes:
        size, start = len(self._content), 0
        status, fields = 200, ""
        if self._ranges and "range" in request.headers:
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                return f"HTTP/1.1 416 No\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n".encode()
            status, fields = 206, f"Content-Range: bytes {start}-{size - 1}/{size}\r\n"
        body = self._content[start:][:cut]
        if self._cut_mode == "chunked":
            fields += "Transfer-Encoding: chunked\r\n"
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if cut is None else b"")
        else:
            fields += f"Content-Length: {size - start}\r\n"
        return f"HTTP/1.1 {status} Said\r\n{fields}\r\n".encode() + body


def connect(
    server: ScriptedServer, *, retries: int = 3, observer: Observer | None = None, read_timeout: float = 5
) -> closing[HttpCatalog]:
    settings = HttpSettings(plain_http=True, proxy="", retries=retries, read_timeout=read_timeout)
    return closing(HttpCatalog(server.origin.netloc, settings, observer=observer))


def open_blob(catalog: HttpCatalog, digest: Digest = DIGEST, *, start: int = 0) -> ByteReader:
    return catalog.repository(RepositoryName("org/app")).blobs.open(digest, start=start)


def scripted_reader(transport: ScriptedTransport, *, retries: int = 3, start: int = 0) -> ByteReader:
    return open_blob(
        HttpCatalog("registry.example.com", HttpSettings(retries=retries), transport=transport), start=start
    )


class TestResume:
    @pytest.mark.parametrize("cut_mode", ["end", "reset", "chunked"])
    @pytest.mark.parametrize("cut", range(SIZE + 1))
    def test_a_blob_cut_at_any_byte_is_complete(self, start_server: StartServer, cut: int, cut_mode: str) -> None:
        """R-050, R-051: and no byte is returned twice."""
        script = CuttingRegistry(CONTENT, cut, cut_mode=cut_mode)

        with connect(start_server(script)) as catalog, open_blob(catalog) as reader:
            content = reader.read()

        assert content == CONTENT
        assert len(script.requested_ranges) <= 2

    @pytest.mark.parametrize("cut", range(1, SIZE))
    def test_only_missing_bytes_are_requested(self, start_server: StartServer, cut: int) -> None:
        """R-051."""
        script = CuttingRegistry(CONTENT, cut)

        with connect(start_server(script)) as catalog, open_blob(catalog) as reader:
            reader.read()

        assert script.requested_ranges == ["", f"bytes={cut}-"]

    @pytest.mark.parametrize("cut", range(SIZE))
    def test_bytes_are_skipped_if_the_registry_ignores_range(self, start_server: StartServer, cut: int) -> None:
        """R-051: a 200 has the whole blob again."""
        with (
            connect(start_server(CuttingRegistry(CONTENT, cut, ranges=False))) as catalog,
            open_blob(catalog) as reader,
        ):
            content = reader.read()

        assert content == CONTENT

    @pytest.mark.parametrize("start", range(1, SIZE))
    def test_a_blob_read_from_an_offset_is_complete(self, start_server: StartServer, start: int) -> None:
        """R-051."""
        script = CuttingRegistry(CONTENT, (SIZE - start) // 2)

        with connect(start_server(script)) as catalog, open_blob(catalog, start=start) as reader:
            content = reader.read()

        assert content == CONTENT[start:]
        assert script.requested_ranges[0] == f"bytes={start}-"

    def test_a_break_within_skipped_bytes_is_resumed(self, start_server: StartServer) -> None:
        """R-051."""
        script = CuttingRegistry(CONTENT, 3, 12, ranges=False)

        with connect(start_server(script)) as catalog, open_blob(catalog, start=10) as reader:
            content = reader.read()

        assert content == CONTENT[10:]

    def test_a_read_timeout_is_resumed(self, start_server: StartServer) -> None:
        """R-052."""
        script = CuttingRegistry(CONTENT, 7, cut_mode="stall")

        with connect(start_server(script), read_timeout=0.3) as catalog, open_blob(catalog) as reader:
            content = reader.read()

        assert content == CONTENT

    def test_a_large_blob_is_transferred_once(self, start_server: StartServer) -> None:
        """R-051: for any read size."""
        content = random.Random(0).randbytes(6 * CHUNK_SIZE)
        script = CuttingRegistry(content, 2 * CHUNK_SIZE + 1, 2 * CHUNK_SIZE - 1)

        with connect(start_server(script)) as catalog, open_blob(catalog, Digest.of(content)) as reader:
            received = reader.read()

        assert received == content
        assert script.requested_ranges == ["", f"bytes={2 * CHUNK_SIZE + 1}-", f"bytes={4 * CHUNK_SIZE}-"]

    def test_each_resumption_is_reported(self, start_server: StartServer, recorder: Recorder) -> None:
        """The event has the offset and the number of the attempt."""
        server = start_server(CuttingRegistry(CONTENT, 5))
        with connect(server, observer=recorder) as catalog, open_blob(catalog) as reader:
            reader.read()

        url = f"{server.origin}/v2/org/app/blobs/{DIGEST}"
        assert [event for event in recorder.events if isinstance(event, TransferResumed | RequestRetried)] == [
            RequestRetried(method="GET", url=url, attempt=1, pause=0.0, reason="Unavailable"),
            TransferResumed(method="GET", url=url, offset=5),
        ]

    def test_the_log_has_the_reason_of_each_resumption(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """R-064."""
        caplog.set_level(logging.DEBUG, "registry_adapters.http")
        with connect(start_server(CuttingRegistry(CONTENT, 5))) as catalog, open_blob(catalog) as reader:
            reader.read()

        reason = "the connection was closed before the end of the response"
        assert f"/blobs/{DIGEST}: attempt 1 failed ({reason}), again in" in caplog.text


class TestLimits:
    def test_progress_resets_the_count_of_failures(self, start_server: StartServer) -> None:
        """R-051: one retry is enough for any number of breaks."""
        script = CuttingRegistry(CONTENT, *[1] * SIZE)

        with connect(start_server(script), retries=1) as catalog, open_blob(catalog) as reader:
            content = reader.read()

        assert content == CONTENT

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_failures_without_progress_end_the_download(self, start_server: StartServer, retries: int) -> None:
        """R-051: after as many failures as there are retries."""
        script = CuttingRegistry(CONTENT, 6, *[0] * 9)

        with connect(start_server(script), retries=retries) as catalog, open_blob(catalog) as reader:
            with pytest.raises(Unavailable, match=r"received 6 of 20 bytes; attempt \d without progress"):
                reader.read()

        assert script.requested_ranges == ["", *["bytes=6-"] * retries]

    def test_one_byte_per_connection_is_no_progress(self, start_server: StartServer) -> None:
        """R-052: a large blob would need a million connections."""
        content = bytes(CHUNK_SIZE)
        script = CuttingRegistry(content, *[1] * 9)

        with connect(start_server(script), retries=3) as catalog, open_blob(catalog, Digest.of(content)) as reader:
            with pytest.raises(Unavailable, match="received 4 of"):
                reader.read()

        assert len(script.requested_ranges) == 4

    def test_skipped_bytes_are_no_progress(self, start_server: StartServer) -> None:
        """R-051: also if the registry ignores ranges."""
        script = CuttingRegistry(CONTENT, 6, *[6] * 9, ranges=False)

        with connect(start_server(script), retries=2) as catalog, open_blob(catalog) as reader:
            with pytest.raises(Unavailable, match=r"received 6 of 20 bytes; attempt \d without progress"):
                reader.read()

        assert len(script.requested_ranges) == 3

    def test_progress_is_measured_against_skipped_bytes(self, start_server: StartServer) -> None:
        """R-051: otherwise a registry that ignores ranges could send the whole blob again for each small part."""
        content = bytes(3 << 20)
        script = CuttingRegistry(content, 2 << 20, (2 << 20) + (100 << 10), ranges=False)

        with connect(start_server(script), retries=1) as catalog, open_blob(catalog, Digest.of(content)) as reader:
            with pytest.raises(Unavailable, match="attempt 2 without progress"):
                reader.read()

        assert len(script.requested_ranges) == 2

    def test_a_deadline_ends_a_stalled_read_and_the_reader_stays_usable(self, start_server: StartServer) -> None:
        """R-051, R-052: a later read returns the rest."""
        script = CuttingRegistry(CONTENT, 7, cut_mode="stall")

        with connect(start_server(script)) as catalog, open_blob(catalog) as reader:
            begun = reader.read(3)
            with pytest.raises(DeadlineExceeded), fail_after(0.1):
                reader.read()
            rest = reader.read()

        assert begun + rest == CONTENT
        assert script.requested_ranges == ["", "bytes=3-"]

    def test_a_pause_beyond_the_deadline_is_not_begun(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-054: the error is raised at once."""
        monkeypatch.setattr(random, "random", lambda: 1e6)
        script = CuttingRegistry(CONTENT, 7)

        with connect(start_server(script)) as catalog, open_blob(catalog) as reader:
            with pytest.raises(Unavailable), fail_after(9):
                reader.read()

        assert script.requested_ranges == [""]

    def test_a_download_waits_while_the_registry_is_busy(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-054: 503 and 429 do not end a transfer."""
        transport = scripted(
            reply(200, {"Content-Length": "20"}, CONTENT[:8]),
            reply(503, {"Retry-After": "0"}),
            reply(429, {"Retry-After": "0"}),
            reply(206, {"Content-Range": "bytes 8-19/20"}, CONTENT[8:]),
        )

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_a_blob_deleted_during_the_download_raises_blob_not_found(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        transport = scripted(reply(200, {"Content-Length": "20"}, CONTENT[:8]), reply(404))

        with scripted_reader(transport) as reader, pytest.raises(BlobNotFound):
            reader.read()

    def test_a_closed_reader_cannot_be_read(self, scripted: MakeTransport, reply: MakeReply) -> None:
        reader = scripted_reader(scripted(reply(200, {"Content-Length": "20"}, CONTENT)))

        reader.close()

        with pytest.raises(ValueError, match="closed"):
            reader.read(1)


def broken_reply(reply: MakeReply, **headers: str) -> Reply:
    """The first eight bytes of the blob."""
    return reply(200, {"Content-Length": "20", **headers}, CONTENT[:8])


RANGE_OF_REST = {"Content-Range": "bytes 8-19/20"}


class TestChecks:
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
    def test_a_206_with_another_range_is_not_used(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str]
    ) -> None:
        """R-051: the whole blob is requested, and its first bytes are skipped."""
        transport = scripted(broken_reply(reply), reply(206, headers, b"x" * 12), reply(200, {}, CONTENT))

        with scripted_reader(transport) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [sent.headers.get("Range") for sent in transport.sent] == [None, "bytes=8-", None]

    @pytest.mark.parametrize("text", ["bytes 8-19/20", "bytes 8-19/*"])
    def test_a_206_with_the_requested_range_is_used(self, scripted: MakeTransport, reply: MakeReply, text: str) -> None:
        """R-051: the size may be missing."""
        transport = scripted(broken_reply(reply), reply(206, {"Content-Range": text}, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_a_206_to_a_request_without_range_is_refused(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: also after a wrong range."""
        transport = scripted(broken_reply(reply), reply(206, {}, b"x"), reply(206, RANGE_OF_REST, CONTENT[8:]))

        with scripted_reader(transport) as reader, pytest.raises(ProtocolError):
            reader.read()

    def test_a_changed_size_on_resume_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: another size means other content."""
        transport = scripted(broken_reply(reply), reply(200, {"Content-Length": "21"}, CONTENT + b"!"))

        with (
            scripted_reader(transport) as reader,
            pytest.raises(ProtocolError, match="had 20 bytes before, and has 21 now"),
        ):
            reader.read()

    def test_other_content_on_resume_is_an_integrity_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051, R-003: the verifier has hashed the first bytes already."""
        transport = scripted(broken_reply(reply), reply(206, RANGE_OF_REST, CONTENT[8:][::-1]))

        with VerifyingReader(scripted_reader(transport), DIGEST, SIZE) as reader, pytest.raises(DigestMismatch):
            reader.read()

    def test_a_content_coding_on_resume_is_no_error_where_the_digest_fits(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-056."""
        headers = RANGE_OF_REST | {"Content-Encoding": "gzip"}

        with VerifyingReader(
            scripted_reader(scripted(broken_reply(reply), reply(206, headers, CONTENT[8:]))), DIGEST, SIZE
        ) as reader:
            assert reader.read() == CONTENT

    def test_wrong_content_under_a_content_coding_on_resume_is_an_error_that_names_it(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-056."""
        headers = RANGE_OF_REST | {"Content-Encoding": "gzip"}
        source = scripted_reader(scripted(broken_reply(reply), reply(206, headers, CONTENT[8:][::-1])))

        with VerifyingReader(source, DIGEST, SIZE) as reader, pytest.raises(DigestMismatch, match="Encoding 'gzip'"):
            reader.read()

    def test_a_range_refused_within_the_blob_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051."""
        transport = scripted(broken_reply(reply), reply(416, {"Content-Range": "bytes */8"}))

        with scripted_reader(transport) as reader, pytest.raises(ProtocolError, match="byte 8"):
            reader.read()

    def test_a_416_at_the_end_of_the_blob_ends_the_download(self, start_server: StartServer) -> None:
        """R-051: only the end of the chunked body was missing."""
        script = CuttingRegistry(CONTENT, SIZE, cut_mode="chunked")

        with connect(start_server(script)) as catalog, open_blob(catalog) as reader:
            content = reader.read(SIZE) + reader.read()

        assert content == CONTENT
        assert script.requested_ranges == ["", "bytes=20-"]

    def test_a_short_body_is_an_error_without_retries(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-050."""
        with scripted_reader(scripted(broken_reply(reply)), retries=0) as reader, pytest.raises(Unavailable):
            reader.read()


class TestEtags:
    def test_a_strong_etag_is_sent_as_if_range(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: "If-Range" requires a strong validator."""
        transport = scripted(broken_reply(reply, ETag='"abc"'), reply(206, RANGE_OF_REST, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            reader.read()

        assert transport.sent[1].headers["If-Range"] == '"abc"'

    @pytest.mark.parametrize("tag", ['W/"abc"', "abc", "", '"a"b"', '"a', f'"{"x" * 300}"'])
    def test_other_etags_are_not_sent(self, scripted: MakeTransport, reply: MakeReply, tag: str) -> None:
        """R-051."""
        transport = scripted(broken_reply(reply, ETag=tag), reply(206, RANGE_OF_REST, CONTENT[8:]))

        with scripted_reader(transport) as reader:
            reader.read()

        assert "If-Range" not in transport.sent[1].headers

    def test_a_206_with_another_etag_is_not_used(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: parts of different content are not combined."""
        transport = scripted(
            broken_reply(reply, ETag='"abc"'),
            reply(206, RANGE_OF_REST | {"ETag": '"def"'}, b"x" * 12),
            reply(200, {}, CONTENT),
        )

        with scripted_reader(transport) as reader:
            assert reader.read() == CONTENT

    def test_the_registry_is_asked_again_and_the_etag_of_a_storage_host_is_not_used(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-030, R-051: the signed URL of the first redirect may have expired, or the next one has another host."""
        transport = scripted(
            reply(307, {"Location": "https://one.example.net/x?signature=1"}),
            broken_reply(reply, ETag='"one"'),
            reply(307, {"Location": "https://two.example.net/x?signature=2"}),
            reply(206, RANGE_OF_REST | {"ETag": '"two"'}, CONTENT[8:]),
        )

        with scripted_reader(transport) as reader:
            content = reader.read()

        assert content == CONTENT
        assert [sent.url for sent in transport.sent[2:]] == [BLOB, "https://two.example.net/x?signature=2"]
        assert transport.sent[3].headers["Range"] == "bytes=8-"
        assert all("If-Range" not in sent.headers for sent in transport.sent)

    def test_events_have_no_signature(self, scripted: MakeTransport, reply: MakeReply, recorder: Recorder) -> None:
        """R-043."""
        redirect = reply(307, {"Location": "https://one.example.net/x?signature=hidden"})
        transport = scripted(redirect, broken_reply(reply), redirect, reply(206, RANGE_OF_REST, CONTENT[8:]))
        catalog = HttpCatalog("registry.example.com", transport=transport, observer=recorder)

        with open_blob(catalog) as reader:
            reader.read()

        assert TransferResumed(method="GET", url=BLOB, offset=8) in recorder.events
        assert "hidden" not in repr(recorder.events)


class TestBuffers:
    def test_a_buffer_is_filled_across_a_break(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(broken_reply(reply), reply(206, RANGE_OF_REST, CONTENT[8:]))
        buffer = bytearray(SIZE)
        filled = 0

        with scripted_reader(transport) as reader:
            while count := reader.readinto(memoryview(buffer)[filled:]):
                filled += count

        assert bytes(buffer) == CONTENT

    def test_a_read_of_zero_bytes_returns_none(self, scripted: MakeTransport, reply: MakeReply) -> None:
        with scripted_reader(scripted(broken_reply(reply))) as reader:
            assert reader.read(0) == b""


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_content_range_is_parsed_strictly(text: str, expected: tuple[int, int, int | None] | None) -> None:
    """R-051."""
    assert content_range(text) == expected


def test_an_etag_with_a_line_break_is_dropped() -> None:
    """R-063."""
    assert strong_etag('"a\r\nX: y"') == ""
    assert re.fullmatch(r'"[^"]+"', strong_etag('"sha256:abc"'))
