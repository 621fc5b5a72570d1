from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_core.content.streams import BytesSource, CallableSource
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    Forbidden,
    IntegrityError,
    InvalidName,
    ProtocolError,
    Unavailable,
    Unsupported,
)
from registry_core.ports.blob_store import BlobStore

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Reply, ScriptedTransport

    MakeTransport = Callable[..., ScriptedTransport]
    MakeReply = Callable[..., Reply]

CONTENT = b"some content"
DIGEST = Digest.of(CONTENT)
REGISTRY = "https://registry.example.com"
BLOB = f"{REGISTRY}/v2/org/app/blobs/{DIGEST}"


def blobs(transport: ScriptedTransport, name: str = "org/app", *, retries: int = 0) -> BlobStore:
    settings = HttpSettings(retries=retries, backoff=0.001)
    catalog = HttpCatalog("registry.example.com", settings, transport=transport)
    return catalog.repository(RepositoryName(name)).blobs


def requested(transport: ScriptedTransport) -> list[str]:
    return [f"{sent.method} {sent.url}" for sent in transport.sent]


class TestStat:
    def test_the_size_comes_from_head(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-205."""
        transport = scripted(reply(200, {"Content-Length": "12"}))

        assert blobs(transport).stat(DIGEST) == 12
        assert requested(transport) == [f"HEAD {BLOB}"]

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(405, {}), (501, {}), (200, {}), (200, {"Content-Length": "-1"}), (200, {"Content-Length": "12, 12"})],
    )
    def test_get_is_used_if_head_lacks_the_size(
        self, scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str]
    ) -> None:
        """R-205."""
        transport = scripted(reply(status, headers), reply(200, {"Content-Length": "12"}, CONTENT))

        assert blobs(transport).stat(DIGEST) == 12
        assert requested(transport) == [f"HEAD {BLOB}", f"GET {BLOB}"]

    def test_bytes_are_counted_if_no_response_states_the_size(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-058."""
        assert blobs(scripted(reply(200), reply(200, {}, CONTENT))).stat(DIGEST) == 12

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "text/html; charset=utf-8"},
            {"Content-Type": "application/xhtml+xml"},
            {"Docker-Content-Digest": Digest.of(b"other")},
        ],
    )
    def test_a_blob_is_read_and_verified_if_head_may_be_about_other_content(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str]
    ) -> None:
        """R-205: a login page may have the size of the blob."""
        answers = [reply(200, headers | {"Content-Length": "12"}, content) for content in (b"", CONTENT)]

        assert blobs(scripted(*answers)).stat(DIGEST) == 12
        with pytest.raises(DigestMismatch):
            blobs(scripted(*[reply(200, headers | {"Content-Length": "12"}, b"Please log i")] * 2)).stat(DIGEST)

    def test_a_page_with_the_digest_of_the_blob_is_the_blob(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-205: a blob may be a page."""
        headers = {"Content-Type": "text/html", "Content-Length": "12", "Docker-Content-Digest": DIGEST}

        assert blobs(scripted(reply(200, headers))).stat(DIGEST) == 12

    @pytest.mark.parametrize(("status", "error"), [(404, BlobNotFound), (403, Forbidden)])
    def test_a_refused_head_is_not_repeated_as_get(
        self, scripted: MakeTransport, reply: MakeReply, status: int, error: type[Exception]
    ) -> None:
        transport = scripted(reply(status))

        with pytest.raises(error):
            blobs(transport).stat(DIGEST)

        assert len(transport.sent) == 1

    def test_a_repository_without_a_name_is_refused_on_use(self, scripted: MakeTransport) -> None:
        """R-010."""
        with pytest.raises(InvalidName):
            blobs(scripted(), "").stat(DIGEST)


class TestOpen:
    def test_a_blob_is_requested_and_returned_completely(self, scripted: MakeTransport, reply: MakeReply) -> None:
        transport = scripted(reply(200, {}, CONTENT))

        with blobs(transport).open(DIGEST) as reader:
            assert reader.read() == CONTENT

        assert requested(transport) == [f"GET {BLOB}"]
        assert "Range" not in transport.sent[0].headers

    def test_a_blob_is_requested_and_returned_from_an_offset(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051, R-206."""
        transport = scripted(reply(206, {"Content-Range": "bytes 5-11/12"}, CONTENT[5:]))

        with blobs(transport).open(DIGEST, start=5) as reader:
            assert reader.read() == CONTENT[5:]

        assert transport.sent[0].headers["Range"] == "bytes=5-"

    def test_bytes_are_skipped_if_the_registry_ignores_range(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051."""
        with blobs(scripted(reply(200, {}, CONTENT))).open(DIGEST, start=5) as reader:
            assert reader.read() == CONTENT[5:]

    def test_a_206_without_range_is_refused(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(206, {"Content-Range": "bytes 0-11/12"}, CONTENT))).open(DIGEST)

    def test_reading_from_the_end_gives_no_bytes(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051: registries answer 416."""
        transport = scripted(reply(416), reply(200, {"Content-Length": "12"}))

        with blobs(transport).open(DIGEST, start=12) as reader:
            assert reader.read() == b""

    def test_a_range_refused_within_the_blob_is_an_error(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-051."""
        with pytest.raises(ProtocolError):
            blobs(scripted(reply(416), reply(200, {"Content-Length": "12"}))).open(DIGEST, start=11)

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "aws-chunked", "binary", "identity", "br, gzip"])
    def test_a_content_coding_is_no_error_where_the_digest_fits(
        self, scripted: MakeTransport, reply: MakeReply, coding: str
    ) -> None:
        """R-056: plain web servers label ``.gz`` files with it, and storage keeps what the upload said."""
        transport = scripted(reply(200, {"Content-Encoding": coding, "Content-Length": "12"}, CONTENT))

        with VerifyingReader(blobs(transport).open(DIGEST), DIGEST, 12) as reader:
            assert reader.read() == CONTENT

    @pytest.mark.parametrize("size", [None, 5, 12, 10_000])
    def test_wrong_content_under_a_content_coding_is_an_error_that_names_it(
        self, scripted: MakeTransport, reply: MakeReply, size: int | None
    ) -> None:
        """R-056: the content is not decoded; shorter, longer and of the same size."""
        transport = scripted(reply(200, {"Content-Encoding": "gzip"}, gzip.compress(CONTENT)))

        with (
            VerifyingReader(blobs(transport).open(DIGEST), DIGEST, size) as reader,
            pytest.raises(IntegrityError, match="the response has the Content-Encoding 'gzip'"),
        ):
            reader.read()

    def test_a_content_coding_is_named_where_the_content_is_copied(
        self, scripted: MakeTransport, reply: MakeReply, tmp_path: Path
    ) -> None:
        """R-056: whichever store reads it."""
        digest = Digest.of(b"other")
        source = blobs(scripted(*[reply(200, {"Content-Encoding": "gzip"}, b"wrong")] * 2))

        for target in (MemoryCatalog(), LayoutCatalog(tmp_path)):
            with pytest.raises(DigestMismatch, match="Content-Encoding 'gzip'"):
                target.repository(RepositoryName("a")).blobs.put(
                    digest, 5, CallableSource(lambda _: source.open(digest))
                )

    def test_a_content_coding_is_named_where_the_content_is_uploaded(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-056."""
        digest = Digest.of(b"other")
        source = blobs(scripted(reply(200, {"Content-Encoding": "gzip"}, b"wrong"))).open(digest)
        target = scripted(reply(202, {"Location": "/v2/a/blobs/uploads/1"}), reply(201), reply(204))

        with pytest.raises(DigestMismatch, match="Content-Encoding 'gzip'"):
            blobs(target).put(digest, 5, CallableSource(lambda _: source))

    def test_an_absent_blob_raises_blob_not_found(self, scripted: MakeTransport, reply: MakeReply) -> None:
        with pytest.raises(BlobNotFound):
            blobs(scripted(reply(404))).open(DIGEST)


class TestMount:
    origin = RepositoryName("org/base")

    def test_a_blob_is_mounted_with_one_request(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-077."""
        transport = scripted(reply(201, {"Docker-Content-Digest": DIGEST}))

        assert blobs(transport).mount(DIGEST, self.origin) is True
        assert requested(transport) == [
            f"POST {REGISTRY}/v2/org/app/blobs/uploads/?mount=sha256%3A{DIGEST.encoded}&from=org%2Fbase"
        ]

    def test_the_next_upload_uses_the_session_opened_instead_of_a_mount(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-077: also through another object of the same catalog."""
        transport = scripted(reply(202, {"Location": "/upload/1?s=a", "OCI-Chunk-Min-Length": "9"}), reply(201))
        catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)

        mounted = catalog.repository(RepositoryName("org/app")).blobs.mount(DIGEST, self.origin)
        catalog.repository(RepositoryName("org/app")).blobs.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert mounted is False
        assert requested(transport)[1:] == [f"PUT {REGISTRY}/upload/1?s=a&digest={DIGEST}"]

    def test_the_minimum_chunk_length_of_a_pending_session_is_kept(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-073, R-077."""
        transport = scripted(reply(202, {"Location": "/upload/1", "OCI-Chunk-Min-Length": "9"}), *[reply(202)] * 2)
        transport.replies.append(reply(201))
        catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0, chunk_size=4), transport=transport)
        store = catalog.repository(RepositoryName("org/app")).blobs

        store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert [sent.headers.get("Content-Range") for sent in transport.sent] == [None, "0-8", "9-11", None]

    def test_an_expired_pending_session_is_replaced(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-075, R-077: this does not count as a retry."""
        transport = scripted(
            reply(202, {"Location": "/upload/1"}),
            *[reply(404)] * 3,
            reply(202, {"Location": "/upload/2"}),
            reply(201),
        )
        store = blobs(transport)

        store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert requested(transport)[-1] == f"PUT {REGISTRY}/upload/2?digest={DIGEST}"

    def test_a_pending_session_is_cancelled_once_the_blob_exists(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-236: no session is left open."""
        transport = scripted(reply(202, {"Location": "/upload/1"}), reply(200, {"Content-Length": "12"}), reply(204))
        store = blobs(transport)

        store.mount(DIGEST, self.origin)
        size = store.stat(DIGEST)

        assert size == 12
        assert requested(transport)[2:] == [f"DELETE {REGISTRY}/upload/1"]

    def test_pending_sessions_are_cancelled_when_the_catalog_is_closed(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-236: once, and errors are ignored."""
        refusals = [reply(202, {"Location": f"/upload/{number}"}) for number in range(2)]
        transport = scripted(*refusals, reply(403), reply(204))
        catalog = HttpCatalog("registry.example.com", HttpSettings(retries=0), transport=transport)
        store = catalog.repository(RepositoryName("org/app")).blobs

        store.mount(DIGEST, self.origin)
        store.mount(Digest.of(b"other"), self.origin)
        catalog.close()
        catalog.close()

        assert requested(transport)[2:] == [f"DELETE {REGISTRY}/upload/0", f"DELETE {REGISTRY}/upload/1"]

    def test_a_second_session_for_the_same_blob_replaces_the_first(
        self, scripted: MakeTransport, reply: MakeReply
    ) -> None:
        """R-236."""
        transport = scripted(
            reply(202, {"Location": "/upload/1"}), reply(202, {"Location": "/upload/2"}), reply(204), reply(201)
        )
        store = blobs(transport)

        store.mount(DIGEST, self.origin)
        store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert requested(transport)[2:] == [f"DELETE {REGISTRY}/upload/1", f"PUT {REGISTRY}/upload/2?digest={DIGEST}"]

    def test_the_number_of_pending_sessions_is_limited(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-236: the oldest one is cancelled."""
        transport = scripted(*[reply(202, {"Location": f"/upload/{number}"}) for number in range(65)], reply(204))
        store = blobs(transport)

        for number in range(65):
            store.mount(Digest.of(b"%d" % number), self.origin)

        assert requested(transport)[65:] == [f"DELETE {REGISTRY}/upload/0"]

    def test_a_session_for_another_algorithm_is_not_used(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-233: the session was opened without naming the algorithm."""
        transport = scripted(reply(202, {"Location": "/upload/1"}), reply(204))

        blobs(transport).mount(Digest.of(CONTENT, "sha512"), self.origin)

        assert requested(transport)[1:] == [f"DELETE {REGISTRY}/upload/1"]

    @pytest.mark.parametrize(
        "status",
        [200, 203, 204, 206, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 416, 422, 429, 500, 501, 502, 503, 504],
    )
    def test_a_mount_that_is_not_answered_by_201_becomes_an_upload(
        self, scripted: MakeTransport, reply: MakeReply, status: int
    ) -> None:
        """R-077: a mount never fails a push that an upload would complete."""
        transport = scripted(reply(status), reply(202, {"Location": "/upload/1"}), reply(201))
        store = blobs(transport)

        mounted = store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert mounted is False
        assert requested(transport)[1:] == [
            f"POST {REGISTRY}/v2/org/app/blobs/uploads/",
            f"PUT {REGISTRY}/upload/1?digest={DIGEST}",
        ]

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (201, {"Docker-Content-Digest": Digest.of(b"")}),
            (201, {"Docker-Content-Digest": Digest.of(b"", "sha512")}),
            (201, {"Docker-Content-Digest": "malformed"}),
            (201, {"Location": f"/v2/org/app/blobs/{Digest.of(b'')}"}),
            (201, {"Location": f"/v2/org/app/blobs/{Digest.of(b'')}".replace(":", "%3A")}),
            (202, {}),
            (202, {"Location": "https://elsewhere.example.com/upload/1"}),
            (307, {"Location": "https://elsewhere.example.com/v2/org/app/blobs/uploads/"}),
        ],
    )
    def test_a_mount_of_another_digest_or_without_a_usable_session_becomes_an_upload(
        self, scripted: MakeTransport, reply: MakeReply, status: int, headers: dict[str, str]
    ) -> None:
        """R-077, R-033: no request is sent to another origin."""
        transport = scripted(reply(status, headers), reply(202, {"Location": "/upload/1"}), reply(201))
        store = blobs(transport)

        mounted = store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert mounted is False
        assert requested(transport)[2:] == [f"PUT {REGISTRY}/upload/1?digest={DIGEST}"]

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Location": f"/v2/org/app/blobs/{DIGEST}"},
            {"Location": "/v2/org/app/blobs/uploads/7?state=a", "Docker-Content-Digest": DIGEST},
        ],
    )
    def test_a_201_that_names_no_other_digest_is_a_mount(
        self, scripted: MakeTransport, reply: MakeReply, headers: dict[str, str]
    ) -> None:
        """R-077."""
        assert blobs(scripted(reply(201, headers))).mount(DIGEST, self.origin) is True

    def test_a_mount_whose_connection_breaks_becomes_an_upload(self, scripted: MakeTransport, reply: MakeReply) -> None:
        """R-077: a proxy may refuse the query."""
        transport = scripted(Unavailable("cut"), reply(202, {"Location": "/upload/1"}), reply(201))
        store = blobs(transport)

        mounted = store.mount(DIGEST, self.origin)
        store.put(DIGEST, len(CONTENT), BytesSource(CONTENT))

        assert mounted is False

    @pytest.mark.parametrize("failure", [500, 502, 504, Unavailable("cut")])
    @pytest.mark.parametrize("answer", [201, 202, 404])
    def test_after_a_mount_that_failed_the_next_ones_are_tried_once_until_one_is_answered(
        self, scripted: MakeTransport, reply: MakeReply, failure: int | Unavailable, answer: int
    ) -> None:
        """R-077: a registry that fails at each mount does not cost the pauses of the retries for each blob."""
        failed = reply(failure) if isinstance(failure, int) else failure
        answered = reply(answer, {"Location": "/upload/1"})
        transport = scripted(*[failed] * 3, failed, failed, answered, *[failed] * 3)
        store = blobs(transport, retries=2)
        sent = []

        for _ in range(5):
            store.mount(DIGEST, self.origin)
            sent.append(len(transport.sent))

        # Whether the mount is carried out or refused, the registry answers mounts again.
        assert sent == [3, 4, 5, 6, 9]

    @pytest.mark.parametrize("end", [Cancelled("stop"), DeadlineExceeded("late")])
    def test_the_end_of_a_scope_ends_a_mount(self, scripted: MakeTransport, end: Exception) -> None:
        with pytest.raises(type(end)):
            blobs(scripted(end)).mount(DIGEST, self.origin)


class TestDelete:
    @pytest.mark.parametrize("status", [200, 202, 204])
    def test_a_blob_is_deleted(self, scripted: MakeTransport, reply: MakeReply, status: int) -> None:
        """R-254."""
        transport = scripted(reply(status))

        blobs(transport).delete(DIGEST)

        assert requested(transport) == [f"DELETE {BLOB}"]

    @pytest.mark.parametrize(("status", "error"), [(404, BlobNotFound), (400, Unsupported), (405, Unsupported)])
    def test_a_failed_deletion_raises_the_error_of_its_status(
        self, scripted: MakeTransport, reply: MakeReply, status: int, error: type[Exception]
    ) -> None:
        """R-253."""
        with pytest.raises(error):
            blobs(scripted(reply(status))).delete(DIGEST)
