"""Requests and responses written by hand from the specification, so that client and server cannot share an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX
from registry_core.domain.names import RepositoryName, Tag

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import ScriptedResponses, ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

NAME = RepositoryName("org/app")
BLOB = b"0123456789"
DIGEST = Digest.of(BLOB)
MANIFEST = RawManifest.of(b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}')
MANIFEST_WITH_SUBJECT = RawManifest.of(
    json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "artifactType": "text/x",
            "manifests": [],
            "subject": {"mediaType": OCI_INDEX, "digest": MANIFEST.digest, "size": len(MANIFEST.content)},
        }
    ).encode()
)


def connect(server: ScriptedServer, *, chunk_size: int | None = None) -> closing[HttpCatalog]:
    settings = HttpSettings(plain_http=True, retries=0, proxy="", read_timeout=5, chunk_size=chunk_size)
    return closing(HttpCatalog(server.origin.netloc, settings))


def request_lines(script: ScriptedResponses) -> list[str]:
    return [f"{request.method} {request.target}" for request in script.received]


def test_a_pull_sends_exactly_the_requests_of_the_specification(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-200: "Pulling manifests" and "Pulling blobs", and nothing else.

    No ping is sent first (R-202), no ``Docker-Distribution-API-Version`` (R-203) and no ``ns`` (R-208).
    """
    head = {
        "Content-Type": OCI_INDEX,
        "Content-Length": str(len(MANIFEST.content)),
        "Docker-Content-Digest": MANIFEST.digest,
    }
    script = responses(
        response_bytes(200, b"", head),
        response_bytes(200, MANIFEST.content, {"Content-Type": OCI_INDEX}),
        response_bytes(200, b"", {"Content-Length": "10"}),
        response_bytes(200, BLOB),
    )

    with connect(start_server(script)) as catalog:
        repository = catalog.repository(NAME)
        descriptor = repository.manifests.resolve(Tag("v1"))
        manifest = repository.manifests.get(descriptor.digest)
        size = repository.blobs.stat(DIGEST)
        with repository.blobs.open(DIGEST) as reader:
            content = reader.read()

    assert (manifest, content, size) == (MANIFEST, BLOB, 10)
    assert request_lines(script) == [
        "HEAD /v2/org/app/manifests/v1",
        f"GET /v2/org/app/manifests/{MANIFEST.digest}",
        f"HEAD /v2/org/app/blobs/{DIGEST}",
        f"GET /v2/org/app/blobs/{DIGEST}",
    ]
    assert all("docker-distribution-api-version" not in request.headers for request in script.received)


def test_a_push_in_one_request_follows_the_specification(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-230: "POST then PUT"; the location is relative and has a query."""
    script = responses(
        response_bytes(202, b"", {"Location": "/v2/org/app/blobs/uploads/17?_state=a%3D"}),
        response_bytes(201, b"", {"Location": f"/v2/org/app/blobs/{DIGEST}"}),
    )

    with connect(start_server(script)) as catalog:
        catalog.repository(NAME).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))

    assert request_lines(script) == [
        "POST /v2/org/app/blobs/uploads/",
        f"PUT /v2/org/app/blobs/uploads/17?_state=a%3D&digest={DIGEST}",
    ]
    assert script.received[0].headers["content-length"] == "0"
    assert script.received[1].headers["content-type"] == "application/octet-stream"
    assert script.received[1].headers["content-length"] == "10"
    assert "transfer-encoding" not in script.received[1].headers
    assert script.received[1].body == BLOB


def test_a_push_in_chunks_follows_the_specification(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-232: "Pushing a blob in chunks"."""
    script = responses(
        response_bytes(202, b"", {"Location": "/u/0", "OCI-Chunk-Min-Length": "6"}),
        response_bytes(202, b"", {"Location": "/u/1", "Range": "0-5"}),
        response_bytes(202, b"", {"Location": "/u/2", "Range": "0-9"}),
        response_bytes(201, b"", {"Location": f"/v2/org/app/blobs/{DIGEST}"}),
    )

    with connect(start_server(script), chunk_size=4) as catalog:
        catalog.repository(NAME).blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))

    assert request_lines(script) == [
        "POST /v2/org/app/blobs/uploads/",
        "PATCH /u/0",
        "PATCH /u/1",
        f"PUT /u/2?digest={DIGEST}",
    ]
    assert [request.headers.get("content-range") for request in script.received] == [None, "0-5", "6-9", None]
    assert [request.headers["content-length"] for request in script.received] == ["0", "6", "4", "0"]
    assert [request.body for request in script.received] == [b"", b"012345", b"6789", b""]


def test_a_mount_follows_the_specification(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-237: "Mounting a blob from another repository"."""
    script = responses(response_bytes(201, b"", {"Location": f"/v2/org/app/blobs/{DIGEST}"}))

    with connect(start_server(script)) as catalog:
        mounted = catalog.repository(NAME).blobs.mount(DIGEST, RepositoryName("org/base"))

    assert mounted
    assert request_lines(script) == [f"POST /v2/org/app/blobs/uploads/?mount=sha256%3A{DIGEST.encoded}&from=org%2Fbase"]
    assert script.received[0].headers["content-length"] == "0"


def test_a_manifest_with_subject_updates_the_referrers_tag_of_an_old_registry(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-222: "Pushing Manifests with Subject", "Unavailable Referrers API"."""
    tag = f"sha256-{MANIFEST.digest.encoded}"
    entry = {
        "mediaType": OCI_INDEX,
        "digest": MANIFEST_WITH_SUBJECT.digest,
        "size": len(MANIFEST_WITH_SUBJECT.content),
        "artifactType": "text/x",
    }
    expected = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    written = json.dumps(expected, separators=(",", ":")).encode()
    script = responses(
        response_bytes(201, b"", {"Location": f"/v2/org/app/manifests/{MANIFEST_WITH_SUBJECT.digest}"}),
        response_bytes(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'),
        response_bytes(201, b"", {"Location": f"/v2/org/app/manifests/{tag}"}),
        response_bytes(200, written, {"Content-Type": OCI_INDEX}),
        response_bytes(404),
        response_bytes(200, written, {"Content-Type": OCI_INDEX}),
    )

    with connect(start_server(script)) as catalog:
        manifests = catalog.repository(NAME).manifests
        manifests.put(MANIFEST_WITH_SUBJECT)
        listed = list(manifests.referrers(MANIFEST.digest))

    assert request_lines(script) == [
        f"PUT /v2/org/app/manifests/{MANIFEST_WITH_SUBJECT.digest}",
        f"GET /v2/org/app/manifests/{tag}",
        f"PUT /v2/org/app/manifests/{tag}",
        f"GET /v2/org/app/manifests/{tag}",
        f"GET /v2/org/app/referrers/{MANIFEST.digest}",
        f"GET /v2/org/app/manifests/{tag}",
    ]
    assert script.received[0].headers["content-type"] == OCI_INDEX
    assert script.received[0].body == MANIFEST_WITH_SUBJECT.content
    assert json.loads(script.received[2].body) == expected
    assert [found.digest for found in listed] == [MANIFEST_WITH_SUBJECT.digest]


def test_relative_and_unquoted_links_of_a_tag_list_are_followed(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-211, R-091: "Listing Tags", with links relative and unquoted."""
    script = responses(
        response_bytes(
            200, b'{"name":"org/app","tags":["a","b"]}', {"Link": "</v2/org/app/tags/list?n=2&last=b>; rel=next"}
        ),
        response_bytes(200, b'{"name":"org/app","tags":["c"]}'),
    )

    with connect(start_server(script)) as catalog:
        listed = list(catalog.repository(NAME).manifests.tags(page_size=2, after=Tag("_")))

    assert listed == ["a", "b", "c"]
    assert request_lines(script) == ["GET /v2/org/app/tags/list?n=2&last=_", "GET /v2/org/app/tags/list?n=2&last=b"]


def test_deletions_follow_the_specification(
    start_server: StartServer, responses: type[ScriptedResponses], response_bytes: ResponseBytes
) -> None:
    """R-251, R-253: "Deleting tags" and "Deleting Blobs"."""
    script = responses(response_bytes(202), response_bytes(202))

    with connect(start_server(script)) as catalog:
        repository = catalog.repository(NAME)
        repository.manifests.untag(Tag("v1"))
        repository.blobs.delete(DIGEST)

    assert request_lines(script) == ["DELETE /v2/org/app/manifests/v1", f"DELETE /v2/org/app/blobs/{DIGEST}"]
