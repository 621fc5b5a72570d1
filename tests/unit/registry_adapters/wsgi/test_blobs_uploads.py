"""Uploads over real sockets (distribution-spec, "Pushing blobs")."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Serve, Wire

CONTENT = b"0123456789"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
SHA512 = f"sha512:{hashlib.sha512(CONTENT).hexdigest()}"
WRONG = "sha256:" + "0" * 64
UPLOADS = "/v2/org/app/blobs/uploads/"


def stored(wire: Wire, digest: str = DIGEST) -> bytes | None:
    reply = wire("GET", f"/v2/org/app/blobs/{digest}")
    return reply.content if reply.status == 200 else None


class TestMonolithic:
    def test_post_then_put(self, wire: Wire) -> None:
        """R-230."""
        location = wire.start("org/app")

        reply = wire("PUT", f"{location}?digest={DIGEST}", CONTENT)

        assert (reply.status, reply.headers["Location"]) == (201, f"/v2/org/app/blobs/{DIGEST}")
        assert reply.headers["Docker-Content-Digest"] == DIGEST
        assert stored(wire) == CONTENT

    def test_the_location_has_a_uuid_and_the_range_is_empty(self, wire: Wire) -> None:
        reply = wire("POST", UPLOADS, headers={"Content-Length": "0"})

        assert reply.status == 202
        assert reply.headers["Location"] == UPLOADS + reply.headers["Docker-Upload-UUID"]
        assert reply.headers["Range"] == "0-0"

    def test_a_single_post(self, wire: Wire) -> None:
        """R-231."""
        reply = wire("POST", f"{UPLOADS}?digest={DIGEST}", CONTENT)

        assert (reply.status, reply.headers["Location"]) == (201, f"/v2/org/app/blobs/{DIGEST}")
        assert stored(wire) == CONTENT

    def test_a_single_post_with_a_chunked_body(self, wire: Wire) -> None:
        reply = wire("POST", f"{UPLOADS}?digest={DIGEST}", iter([CONTENT[:3], CONTENT[3:]]))

        assert reply.status == 201
        assert stored(wire) == CONTENT

    def test_the_connection_stays_open_after_a_chunked_body(self, wire: Wire) -> None:
        wire("POST", f"{UPLOADS}?digest={DIGEST}", iter([CONTENT]))
        sock = wire.connection.sock

        reply = wire("GET", "/v2/")

        assert reply.status == 200
        assert wire.connection.sock is sock

    def test_a_finished_session_is_gone(self, wire: Wire) -> None:
        location = wire.start("org/app")
        wire("PUT", f"{location}?digest={DIGEST}", CONTENT)

        reply = wire("GET", location)

        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")

    @pytest.mark.parametrize("single", [True, False])
    def test_wrong_bytes_are_refused_and_nothing_is_stored(self, wire: Wire, single: bool) -> None:
        target = ("POST", UPLOADS) if single else ("PUT", wire.start("org/app"))

        reply = wire(target[0], f"{target[1]}?digest={WRONG}", CONTENT)

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
        assert stored(wire, WRONG) is None
        assert stored(wire) is None

    @pytest.mark.parametrize("digest", ["", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e"])
    def test_an_unsupported_digest_is_400_and_the_session_continues(self, wire: Wire, digest: str) -> None:
        location = wire.start("org/app")

        reply = wire("PUT", f"{location}?digest={digest}", CONTENT)

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
        assert wire("PUT", f"{location}?digest={DIGEST}", CONTENT).status == 201

    def test_sha512_may_be_announced(self, wire: Wire) -> None:
        """R-233."""
        location = wire("POST", f"{UPLOADS}?digest-algorithm=sha512").headers["Location"]

        reply = wire("PUT", f"{location}?digest={SHA512}", CONTENT)

        assert reply.status == 201
        assert stored(wire, SHA512) == CONTENT

    def test_an_unknown_algorithm_is_rejected_at_the_start(self, wire: Wire) -> None:
        reply = wire("POST", f"{UPLOADS}?digest-algorithm=md5")

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")


class TestChunks:
    def test_chunks_in_order(self, wire: Wire) -> None:
        """R-232."""
        location = wire.start("org/app")

        first = wire("PATCH", location, CONTENT[:4], {"Content-Range": "0-3"})
        second = wire("PATCH", first.headers["Location"], CONTENT[4:7], {"Content-Range": "4-6"})
        last = wire("PUT", f"{second.headers['Location']}?digest={DIGEST}", CONTENT[7:], {"Content-Range": "7-9"})

        assert [(reply.status, reply.headers["Range"]) for reply in (first, second)] == [(202, "0-3"), (202, "0-6")]
        assert last.status == 201
        assert stored(wire) == CONTENT

    def test_the_last_put_needs_no_body(self, wire: Wire) -> None:
        location = wire.start("org/app")
        wire("PATCH", location, CONTENT, {"Content-Range": "0-9"})

        reply = wire("PUT", f"{location}?digest={DIGEST}")

        assert reply.status == 201
        assert stored(wire) == CONTENT

    def test_a_body_without_content_range_is_appended(self, wire: Wire) -> None:
        location = wire.start("org/app")

        wire("PATCH", location, iter([CONTENT[:2], CONTENT[2:5]]))
        reply = wire("PATCH", location, CONTENT[5:])

        assert (reply.status, reply.headers["Range"]) == (202, "0-9")
        assert wire("PUT", f"{location}?digest={DIGEST}").status == 201

    @pytest.mark.parametrize("content_range", ["5-6", "0-1", "3-4"])
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_a_chunk_out_of_order_is_416_with_the_next_position(
        self, wire: Wire, method: str, content_range: str
    ) -> None:
        """R-235."""
        location = wire.start("org/app")
        wire("PATCH", location, CONTENT[:4], {"Content-Range": "0-3"})

        reply = wire(method, f"{location}?digest={DIGEST}", b"xx", {"Content-Range": content_range})

        assert reply.status == 416
        assert (reply.headers["Range"], reply.headers["Location"]) == ("0-3", location)

    def test_an_upload_can_continue_after_a_416(self, wire: Wire) -> None:
        location = wire.start("org/app")
        wire("PATCH", location, CONTENT[:4], {"Content-Range": "0-3"})
        wire("PATCH", location, b"xx", {"Content-Range": "7-8"})

        status = wire("GET", location)
        wire("PATCH", status.headers["Location"], CONTENT[4:], {"Content-Range": "4-9"})

        assert (status.status, status.headers["Range"], status.content) == (204, "0-3", b"")
        assert wire("PUT", f"{location}?digest={DIGEST}").status == 201

    @pytest.mark.parametrize("content_range", ["bytes 0-9/10", "0-", "-9", "a-b", "0-9/10"])
    def test_an_invalid_content_range_is_400(self, wire: Wire, content_range: str) -> None:
        location = wire.start("org/app")

        reply = wire("PATCH", location, CONTENT, {"Content-Range": content_range})

        assert (reply.status, reply.code) == (400, "BLOB_UPLOAD_INVALID")

    @pytest.mark.parametrize("content_range", ["0-3", "0-99"])
    @pytest.mark.parametrize("chunked", [True, False])
    def test_a_chunk_with_another_length_than_its_range_is_400(
        self, wire: Wire, content_range: str, chunked: bool
    ) -> None:
        location = wire.start("org/app")

        reply = wire("PATCH", location, iter([CONTENT]) if chunked else CONTENT, {"Content-Range": content_range})

        assert (reply.status, reply.code) == (400, "SIZE_INVALID")

    def test_nothing_is_kept_of_a_chunk_longer_than_its_range(self, wire: Wire) -> None:
        location = wire.start("org/app")
        wire("PATCH", location, CONTENT[:4])

        wire("PATCH", location, iter([b"45", b"too much"]), {"Content-Range": "4-5"})

        assert wire("GET", location).headers["Range"] == "0-3"
        assert wire("PUT", f"{location}?digest={DIGEST}", CONTENT[4:]).status == 201

    def test_an_incomplete_body_is_400_and_its_bytes_are_kept(self, wire: Wire) -> None:
        location = wire.start("org/app")

        reply = wire.raw(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode() + CONTENT[:6])

        assert reply.status == 400
        assert wire("GET", location).headers["Range"] == "0-5"
        assert wire("PUT", f"{location}?digest={DIGEST}", CONTENT[6:]).status == 201

    def test_an_incomplete_chunked_body_is_400(self, wire: Wire) -> None:
        location = wire.start("org/app")

        reply = wire.raw(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"4\r\n0123\r\n"
        )

        assert reply.status == 400
        assert wire("GET", location).status == 204

    def test_an_incomplete_put_stores_nothing_and_can_be_resumed(self, wire: Wire) -> None:
        location = wire.start("org/app")

        reply = wire.raw(
            f"PUT {location}?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode() + CONTENT[:6]
        )

        assert reply.status == 400
        assert stored(wire) is None
        assert wire("PUT", f"{location}?digest={DIGEST}", CONTENT[6:], {"Content-Range": "6-9"}).status == 201


class TestMinimumChunkLength:
    def test_the_minimum_is_announced(self, serve: Serve) -> None:
        wire = serve(chunk_min_length=5)

        reply = wire("POST", UPLOADS)

        assert reply.headers["OCI-Chunk-Min-Length"] == "5"

    def test_only_the_last_chunk_may_be_shorter(self, serve: Serve) -> None:
        """R-234."""
        wire = serve(chunk_min_length=5)
        location = wire.start("org/app")
        short = wire("PATCH", location, CONTENT[:2], {"Content-Range": "0-1"})

        reply = wire("PATCH", location, CONTENT[2:], {"Content-Range": "2-9"})

        assert short.status == 202
        assert (reply.status, reply.code) == (400, "SIZE_INVALID")

    def test_the_last_chunk_can_be_shorter(self, serve: Serve) -> None:
        wire = serve(chunk_min_length=6)
        location = wire.start("org/app")
        wire("PATCH", location, CONTENT[:6], {"Content-Range": "0-5"})
        wire("PATCH", location, CONTENT[6:], {"Content-Range": "6-9"})

        reply = wire("PUT", f"{location}?digest={DIGEST}")

        assert reply.status == 201


class TestSessions:
    def test_a_cancelled_upload_is_gone(self, wire: Wire) -> None:
        """R-236."""
        location = wire.start("org/app")

        reply = wire("DELETE", location)

        assert (reply.status, reply.content) == (204, b"")
        assert wire("GET", location).status == 404

    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    def test_an_unknown_upload_is_404(self, wire: Wire, method: str) -> None:
        reply = wire(method, f"{UPLOADS}nothing?digest={DIGEST}", b"" if method in ("PATCH", "PUT") else None)

        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")

    def test_a_session_belongs_to_its_repository(self, wire: Wire) -> None:
        location = wire.start("org/app")

        reply = wire("GET", location.replace("org/app", "org/other"))

        assert reply.status == 404

    def test_concurrent_uploads_do_not_mix(self, serve: Serve, wire: Wire) -> None:
        contents = [bytes([letter]) * 300_000 for letter in b"abcdefgh"]
        results: list[tuple[int, bytes | None]] = []

        def push(content: bytes) -> None:
            own = type(wire)(wire.host)
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            location = own.start("org/app")
            own("PATCH", location, content[:1000])
            status = own("PUT", f"{location}?digest={digest}", content[1000:]).status
            results.append((status, stored(own, digest)))
            own.connection.close()

        threads = [threading.Thread(target=push, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(results, key=str) == sorted(((201, content) for content in contents), key=str)


class TestMount:
    def test_a_blob_of_another_repository_is_mounted(self, wire: Wire) -> None:
        """R-237."""
        wire.upload("org/base", CONTENT)

        reply = wire("POST", f"{UPLOADS}?mount={DIGEST}&from=org/base")

        assert (reply.status, reply.headers["Location"]) == (201, f"/v2/org/app/blobs/{DIGEST}")
        assert reply.headers["Docker-Content-Digest"] == DIGEST
        assert stored(wire) == CONTENT

    @pytest.mark.parametrize("origin", ["&from=org/nothing", "&from=org/base", ""])
    def test_a_failed_mount_starts_a_session(self, wire: Wire, origin: str) -> None:
        wire.upload("org/base", b"something else")

        reply = wire("POST", f"{UPLOADS}?mount={DIGEST}{origin}")

        assert reply.status == 202
        assert wire("PUT", f"{reply.headers['Location']}?digest={DIGEST}", CONTENT).status == 201

    @pytest.mark.parametrize(
        ("query", "code"),
        [("mount=nonsense&from=org/base", "DIGEST_INVALID"), (f"mount={DIGEST}&from=Org/Base", "NAME_INVALID")],
    )
    def test_invalid_parameters_are_400(self, wire: Wire, query: str, code: str) -> None:
        reply = wire("POST", f"{UPLOADS}?{query}")

        assert (reply.status, reply.code) == (400, code)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", UPLOADS), ("PATCH", f"{UPLOADS}x"), ("PUT", f"{UPLOADS}x"), ("DELETE", f"{UPLOADS}x")]
)
def test_a_read_only_registry_refuses_uploads(serve: Serve, method: str, path: str) -> None:
    wire = serve(read_only=True)

    reply = wire(method, path, b"")

    assert (reply.status, reply.code) == (405, "UNSUPPORTED")
