"""Blobs over real sockets (distribution-spec, "Pulling blobs", "Deleting Blobs"; RFC 9110, section 14)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from registry_adapters.wsgi.blobs import byte_range
from registry_adapters.wsgi.messages import HttpError

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Serve, Wire

CONTENT = b"0123456789"
ABSENT = "sha256:" + "0" * 64


class TestPull:
    def test_get_returns_content_and_digest(self, wire: Wire) -> None:
        digest = wire.upload("org/app", CONTENT)

        reply = wire("GET", f"/v2/org/app/blobs/{digest}")

        assert (reply.status, reply.content) == (200, CONTENT)
        assert reply.headers["Docker-Content-Digest"] == digest
        assert reply.headers["Content-Length"] == "10"

    def test_head_returns_size_and_digest_without_a_body(self, wire: Wire) -> None:
        """R-205."""
        digest = wire.upload("org/app", CONTENT)

        reply = wire("HEAD", f"/v2/org/app/blobs/{digest}")

        assert (reply.status, reply.content) == (200, b"")
        assert (reply.headers["Content-Length"], reply.headers["Docker-Content-Digest"]) == ("10", digest)

    def test_a_large_blob_is_complete(self, wire: Wire) -> None:
        content = os.urandom((3 << 20) + 17)
        digest = wire.upload("org/app", content)

        reply = wire("GET", f"/v2/org/app/blobs/{digest}")

        assert reply.content == content

    def test_an_empty_blob_is_a_blob(self, wire: Wire) -> None:
        digest = wire.upload("org/app", b"")

        reply = wire("GET", f"/v2/org/app/blobs/{digest}")

        assert (reply.status, reply.content, reply.headers["Content-Length"]) == (200, b"", "0")

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_an_absent_blob_is_404(self, wire: Wire, method: str) -> None:
        wire.upload("org/app", CONTENT)

        reply = wire(method, f"/v2/org/app/blobs/{ABSENT}")

        assert reply.status == 404
        assert reply.content == b"" if method == "HEAD" else reply.code == "BLOB_UNKNOWN"

    def test_a_blob_of_another_repository_is_404(self, wire: Wire) -> None:
        digest = wire.upload("org/app", CONTENT)

        reply = wire("GET", f"/v2/org/other/blobs/{digest}")

        assert reply.status == 404

    def test_an_invalid_digest_is_400(self, wire: Wire) -> None:
        reply = wire("GET", "/v2/org/app/blobs/sha256:short")

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")


class TestRanges:
    @pytest.mark.parametrize(
        ("header", "part", "content_range"),
        [
            ("bytes=0-0", b"0", "bytes 0-0/10"),
            ("bytes=2-4", b"234", "bytes 2-4/10"),
            ("bytes=7-", b"789", "bytes 7-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=-99", CONTENT, "bytes 0-9/10"),
            ("bytes=8-99", b"89", "bytes 8-9/10"),
        ],
    )
    def test_a_range_returns_exactly_its_bytes(self, wire: Wire, header: str, part: bytes, content_range: str) -> None:
        digest = wire.upload("org/app", CONTENT)

        reply = wire("GET", f"/v2/org/app/blobs/{digest}", headers={"Range": header})

        assert (reply.status, reply.content) == (206, part)
        assert reply.headers["Content-Range"] == content_range
        assert reply.headers["Content-Length"] == str(len(part))

    @pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
    def test_a_range_outside_the_blob_is_416_with_the_size(self, wire: Wire, header: str) -> None:
        digest = wire.upload("org/app", CONTENT)

        reply = wire("GET", f"/v2/org/app/blobs/{digest}", headers={"Range": header})

        assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */10")

    @pytest.mark.parametrize("header", ["bytes=4-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=a-b", "bytes"])
    def test_other_range_headers_return_the_whole_blob(self, wire: Wire, header: str) -> None:
        digest = wire.upload("org/app", CONTENT)

        reply = wire("GET", f"/v2/org/app/blobs/{digest}", headers={"Range": header})

        assert (reply.status, reply.content) == (200, CONTENT)

    @pytest.mark.parametrize(("matching", "status"), [(True, 206), (False, 200)])
    def test_if_range_decides_whether_the_range_applies(self, wire: Wire, matching: bool, status: int) -> None:
        digest = wire.upload("org/app", CONTENT)
        condition = f'"{digest}"' if matching else '"other"'

        reply = wire("GET", f"/v2/org/app/blobs/{digest}", headers={"Range": "bytes=2-", "If-Range": condition})

        assert reply.status == status

    def test_an_empty_blob_has_no_range(self) -> None:
        with pytest.raises(HttpError) as caught:
            byte_range("bytes=0-", 0)

        assert caught.value.status == 416


class TestDelete:
    def test_a_deleted_blob_is_gone(self, wire: Wire) -> None:
        digest = wire.upload("org/app", CONTENT)
        wire.upload("org/app", b"another")

        reply = wire("DELETE", f"/v2/org/app/blobs/{digest}")

        assert reply.status == 202
        assert wire("HEAD", f"/v2/org/app/blobs/{digest}").status == 404

    def test_a_read_only_registry_keeps_the_blob(self, serve: Serve) -> None:
        wire = serve(read_only=True)

        reply = wire("DELETE", f"/v2/org/app/blobs/{ABSENT}")

        assert (reply.status, reply.code) == (405, "UNSUPPORTED")
