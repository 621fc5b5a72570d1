"""Manifests over real sockets (distribution-spec, "Pulling manifests", "Pushing Manifests", "Content Management")."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Reply, Serve, Wire

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# Bytes that no encoder would make again: they have to survive as they are.
EMPTY = b'{ "schemaVersion":2,\n  "mediaType": "' + INDEX.encode() + b'", "manifests": [ ] , "x-unknown": 1.50 }\n'
ABSENT = "sha256:" + "0" * 64
HOME = "/v2/org/app/manifests"
SUBJECT = {"mediaType": MANIFEST, "digest": ABSENT, "size": 7}


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def index(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []} | fields).encode()


def put(wire: Wire, reference: str, content: bytes = EMPTY, kind: str = INDEX) -> Reply:
    return wire("PUT", f"{HOME}/{reference}", content, {"Content-Type": kind})


class TestPush:
    def test_put_of_a_tag_is_201_with_location_and_digest(self, wire: Wire) -> None:
        reply = put(wire, "v1")

        assert reply.status == 201
        assert reply.headers["Docker-Content-Digest"] == sha256(EMPTY)
        assert wire("GET", reply.headers["Location"]).content == EMPTY

    def test_put_of_a_digest_sets_no_tag(self, wire: Wire) -> None:
        reply = put(wire, sha256(EMPTY))

        assert reply.status == 201
        assert wire("GET", "/v2/org/app/tags/list").json["tags"] == []

    def test_a_sha512_digest_is_kept(self, wire: Wire) -> None:
        digest = f"sha512:{hashlib.sha512(EMPTY).hexdigest()}"

        reply = put(wire, digest)

        assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, digest)
        assert wire("GET", f"{HOME}/{digest}").headers["Docker-Content-Digest"] == digest

    def test_many_tags_in_one_request(self, wire: Wire) -> None:
        """R-238."""
        tags = [f"1.{number}" for number in range(12)]
        query = "&".join(f"tag={tag}" for tag in tags)

        reply = put(wire, f"{sha256(EMPTY)}?{query}")

        assert reply.status == 201
        assert reply.headers.get_all("OCI-Tag") == tags
        assert wire("GET", "/v2/org/app/tags/list").json["tags"] == sorted(tags)

    def test_a_digest_that_does_not_match_is_400(self, wire: Wire) -> None:
        reply = put(wire, ABSENT)

        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"", MANIFEST),
            (b"not json", MANIFEST),
            (b"[]", MANIFEST),
            (b"{}", MANIFEST),
            (EMPTY, MANIFEST),
            (b'{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}', INDEX),
            (b'{"schemaVersion":2,"schemaVersion":2,"manifests":[]}', INDEX),
        ],
    )
    def test_an_invalid_manifest_is_400(self, wire: Wire, content: bytes, kind: str) -> None:
        reply = put(wire, "v1", content, kind)

        assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")
        assert wire("HEAD", f"{HOME}/v1").status == 404

    @pytest.mark.parametrize("reference", ["-v1", "a" * 129, "v1?tag=-x"])
    def test_an_invalid_tag_is_400(self, wire: Wire, reference: str) -> None:
        reply = put(wire, reference)

        assert (reply.status, reply.code) == (400, "TAG_INVALID")

    def test_parameters_of_the_content_type_are_ignored(self, wire: Wire) -> None:
        put(wire, "v1", kind=f"{INDEX}; charset=utf-8")

        reply = wire("GET", f"{HOME}/v1")

        assert reply.headers["Content-Type"] == INDEX

    @pytest.mark.parametrize("chunked", [True, False])
    def test_a_manifest_above_the_limit_is_413(self, serve: Serve, chunked: bool) -> None:
        """R-239."""
        wire = serve(manifest_limit=len(EMPTY) - 1)

        body = iter([EMPTY]) if chunked else EMPTY
        reply = wire("PUT", f"{HOME}/v1", body, {"Content-Type": INDEX})

        assert (reply.status, reply.code) == (413, "SIZE_INVALID")

    def test_a_manifest_of_exactly_the_limit_is_accepted(self, serve: Serve) -> None:
        wire = serve(manifest_limit=len(EMPTY))

        reply = put(wire, "v1")

        assert reply.status == 201

    def test_an_incomplete_manifest_is_not_stored(self, wire: Wire) -> None:
        reply = wire.raw(f"PUT {HOME}/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n".encode() + EMPTY)

        assert reply.status == 400
        assert wire("HEAD", f"{HOME}/v1").status == 404


class TestSubject:
    def test_a_subject_is_acknowledged(self, wire: Wire) -> None:
        """R-222."""
        reply = put(wire, "v1", index(subject=SUBJECT))

        assert (reply.status, reply.headers["OCI-Subject"]) == (201, ABSENT)

    def test_without_the_referrers_api_a_subject_is_not_acknowledged(self, serve: Serve) -> None:
        wire = serve(referrers_api=False)

        reply = put(wire, "v1", index(subject=SUBJECT))

        assert (reply.status, reply.headers["OCI-Subject"]) == (201, None)

    def test_without_a_subject_nothing_is_acknowledged(self, wire: Wire) -> None:
        reply = put(wire, "v1")

        assert reply.headers["OCI-Subject"] is None


class TestPull:
    @pytest.mark.parametrize("reference", ["v1", sha256(EMPTY)])
    def test_get_returns_the_exact_bytes(self, wire: Wire, reference: str) -> None:
        put(wire, "v1")

        reply = wire("GET", f"{HOME}/{reference}")

        assert (reply.status, reply.content) == (200, EMPTY)
        assert reply.headers["Content-Type"] == INDEX
        assert reply.headers["Docker-Content-Digest"] == sha256(EMPTY)

    @pytest.mark.parametrize("reference", ["v1", sha256(EMPTY)])
    def test_head_returns_the_same_headers(self, wire: Wire, reference: str) -> None:
        """R-205."""
        put(wire, "v1")

        reply = wire("HEAD", f"{HOME}/{reference}")

        assert (reply.status, reply.content) == (200, b"")
        assert reply.headers["Content-Length"] == str(len(EMPTY))
        assert (reply.headers["Content-Type"], reply.headers["Docker-Content-Digest"]) == (INDEX, sha256(EMPTY))

    @pytest.mark.parametrize("reference", ["v2", ABSENT])
    def test_an_absent_manifest_is_404(self, wire: Wire, reference: str) -> None:
        put(wire, "v1")

        reply = wire("GET", f"{HOME}/{reference}")

        assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")

    def test_an_unknown_repository_is_404(self, wire: Wire) -> None:
        reply = wire("GET", "/v2/nothing/here/manifests/v1")

        assert reply.status == 404
        assert reply.code in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN")


class TestDelete:
    def test_deleting_a_tag_keeps_the_manifest(self, wire: Wire) -> None:
        """R-251."""
        put(wire, "v1")

        reply = wire("DELETE", f"{HOME}/v1")

        assert reply.status == 202
        assert wire("HEAD", f"{HOME}/v1").status == 404
        assert wire("HEAD", f"{HOME}/{sha256(EMPTY)}").status == 200

    def test_deleting_a_manifest_removes_its_tags(self, wire: Wire) -> None:
        """R-252."""
        put(wire, "v1")
        put(wire, "other", index(annotations={"a": "b"}))

        reply = wire("DELETE", f"{HOME}/{sha256(EMPTY)}")

        assert reply.status == 202
        assert wire("GET", "/v2/org/app/tags/list").json["tags"] == ["other"]

    @pytest.mark.parametrize("reference", ["v2", ABSENT])
    def test_deleting_an_absent_manifest_is_404(self, wire: Wire, reference: str) -> None:
        put(wire, "v1")

        reply = wire("DELETE", f"{HOME}/{reference}")

        assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_read_only_registry_changes_nothing(serve: Serve, method: str) -> None:
    wire = serve(read_only=True)

    reply = wire(method, f"{HOME}/v1", EMPTY)

    assert (reply.status, reply.code) == (405, "UNSUPPORTED")
    assert "PUT" not in reply.headers["Allow"]
