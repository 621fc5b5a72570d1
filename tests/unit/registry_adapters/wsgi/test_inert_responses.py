"""Headers of every response, by which a browser neither guesses its type nor runs it; and strict request bodies."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest
import trustme

from registry_adapters.memory import MemoryCatalog
from registry_adapters.testing import faults, faulty_registry
from registry_adapters.wsgi import BasicAuthorizer, RegistryApp, TokenAuthorizer, registry_server
from registry_core.domain.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Reply, Serve, Wire

PAGE = b"<html><script>alert(1)</script></html>"
DIGEST = f"sha256:{hashlib.sha256(PAGE).hexdigest()}"
INDEX = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
ABSENT = "sha256:" + "0" * 64


def get(host: str, path: str) -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse()


def check_inert(reply: Reply | http.client.HTTPResponse) -> None:
    assert reply.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    policies = reply.headers.get_all("Content-Security-Policy")
    assert policies == ["default-src 'none'; frame-ancestors 'none'; sandbox"]


@pytest.mark.parametrize("path", ["/v2/", "/v2/a/tags/list", "/"])
def test_the_application_is_inert_under_any_wsgi_server(path: str) -> None:
    """R-243."""
    sent: list[tuple[str, str]] = []
    written: list[bytes] = []
    environ: WSGIEnvironment = {"PATH_INFO": path}
    setup_testing_defaults(environ)

    def start_response(_: str, headers: list[tuple[str, str]], __: object = None) -> Callable[[bytes], object]:
        sent.extend(headers)
        return written.append

    list(RegistryApp(MemoryCatalog())(environ, start_response))

    assert ("X-Content-Type-Options", "nosniff") in sent
    assert ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox") in sent


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/", 200),
        ("HEAD", "/v2/", 200),
        ("GET", "/v2/_catalog", 200),
        ("GET", "/v2/a/tags/list", 200),
        ("GET", "/v2/a/manifests/v1", 200),
        ("HEAD", "/v2/a/manifests/v1", 200),
        ("GET", f"/v2/a/blobs/{DIGEST}", 200),
        ("HEAD", f"/v2/a/blobs/{DIGEST}", 200),
        ("GET", f"/v2/a/referrers/{DIGEST}", 200),
        ("POST", "/v2/a/blobs/uploads/", 202),
        ("DELETE", f"/v2/a/blobs/{DIGEST}", 202),
        ("GET", "/", 404),
        ("GET", "/v2/a/manifests/absent", 404),
        ("HEAD", "/v2/a/manifests/absent", 404),
        ("GET", f"/v2/a/blobs/{ABSENT}", 404),
        ("GET", "/v2/UPPER/tags/list", 400),
        ("GET", "/v2/_catalog?n=x", 400),
        ("PUT", "/v2/", 405),
        ("BREW", "/v2/", 405),
    ],
)
def test_every_response_is_inert(wire: Wire, method: str, path: str, status: int) -> None:
    """R-243."""
    wire.upload("a", PAGE)
    wire("PUT", "/v2/a/manifests/v1", INDEX, {"Content-Type": OCI_INDEX})

    reply = wire(method, path)

    assert reply.status == status
    check_inert(reply)


def test_ranges_are_inert(wire: Wire) -> None:
    """R-243."""
    wire.upload("a", PAGE)

    for requested, status in (("bytes=1-2", 206), ("bytes=1000-", 416)):
        reply = wire("GET", f"/v2/a/blobs/{DIGEST}", headers={"Range": requested})

        assert reply.status == status
        check_inert(reply)


@pytest.mark.parametrize("authorizer", [BasicAuthorizer({"a": "b"}), TokenAuthorizer({"a": "b"})])
def test_a_401_and_a_token_are_inert(serve: Serve, authorizer: BasicAuthorizer | TokenAuthorizer) -> None:
    """R-243."""
    wire = serve(authorizer=authorizer)

    for path in ("/v2/", "/v2/a/tags/list"):
        reply = wire("GET", path)

        assert reply.status == 401
        check_inert(reply)
    check_inert(wire("GET", "/token"))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nbroken header\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 17) + b"\r\n\r\n", 413),
    ],
)
def test_an_error_that_the_server_finds_before_the_application_is_inert(
    wire: Wire, request_bytes: bytes, status: int
) -> None:
    """R-243."""
    reply = wire.raw(request_bytes)

    assert reply.status == status
    check_inert(reply)


def test_the_error_for_plain_http_on_the_port_of_tls_is_inert(tmp_path: Path) -> None:
    """R-243."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    leaf = trustme.CA().issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)

    with registry_server(MemoryCatalog(), tls=(certificate, key)) as server:
        reply = get(server.host, "/v2/")

    assert reply.status == 400
    check_inert(reply)


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/fails", 500)])
def test_the_responses_of_middleware_are_inert(path: str, status: int) -> None:
    """R-243: it may answer in place of the application, or fail."""

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fails":
            raise RuntimeError
        start_response("200 OK", [("Content-Length", str(len(PAGE)))])
        return [PAGE]

    with registry_server(MemoryCatalog(), wrap=lambda app: middleware) as server:
        reply = get(server.host, path)

    assert reply.status == status
    check_inert(reply)


def test_a_policy_of_middleware_is_kept() -> None:
    """R-243: pages beside the registry may need another one."""

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("content-security-policy", "default-src 'self'"), ("Content-Length", "0")])
        return []

    with registry_server(MemoryCatalog(), wrap=lambda app: middleware) as server:
        reply = get(server.host, "/")

    assert reply.headers.get_all("Content-Security-Policy") == ["default-src 'self'"]
    assert reply.headers.get_all("X-Content-Type-Options") == ["nosniff"]


def test_an_injected_error_is_inert() -> None:
    """R-243."""
    with faulty_registry() as registry:
        registry.inject(faults.status(500))

        with closing(http.client.HTTPConnection(registry.host, timeout=10)) as connection:
            connection.request("GET", "/v2/")
            headers = connection.getresponse().headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "text/html; charset=utf-8",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/plain",
        "application/octet-stream",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.example.layer",
        "application/vnd.in-toto+json",
        "application/vnd.docker.plugin.v1+json",
        "garbage",
        f"{OCI_INDEX}, text/html",
    ],
)
@pytest.mark.parametrize(
    "content", [INDEX, json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()]
)
def test_a_media_type_that_is_no_manifest_is_415(wire: Wire, media_type: str, content: bytes) -> None:
    """R-245: and nothing is stored."""
    reply = wire("PUT", "/v2/a/manifests/v1", content, {"Content-Type": media_type})

    assert (reply.status, reply.code) == (415, "MANIFEST_INVALID")
    assert wire("GET", "/v2/a/manifests/v1").status == 404


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/vnd.oci.image.config.v1+json"])
def test_a_document_that_states_such_a_media_type_is_415(wire: Wire, media_type: str) -> None:
    """R-245."""
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": []}).encode()

    reply = wire("PUT", "/v2/a/manifests/v1", content)

    assert reply.status == 415
    assert wire("GET", "/v2/a/manifests/v1").status == 404


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
    ],
)
def test_a_manifest_of_docker_schema_1_is_415(wire: Wire, media_type: str) -> None:
    """R-245."""
    reply = wire("PUT", "/v2/a/manifests/v1", b'{"schemaVersion":1,"fsLayers":[]}', {"Content-Type": media_type})

    assert (reply.status, reply.code) == (415, "UNSUPPORTED")


@pytest.mark.parametrize("content_type", [None, OCI_INDEX, f"{OCI_INDEX}; a=b", OCI_INDEX.upper()])
def test_the_document_decides_where_no_media_type_is_claimed(wire: Wire, content_type: str | None) -> None:
    """R-029."""
    reply = wire("PUT", "/v2/a/manifests/v1", INDEX, {"Content-Type": content_type} if content_type else {})

    assert reply.status == 201
    assert wire("GET", "/v2/a/manifests/v1").headers["Content-Type"] == OCI_INDEX


@pytest.mark.parametrize("claimed", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_type_that_contradicts_the_document_is_400(wire: Wire, claimed: str) -> None:
    """R-020."""
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()

    assert wire("PUT", "/v2/a/manifests/v1", content, {"Content-Type": claimed}).status == 400


def chunked(target: str, method: str, body: bytes) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "size",
    [
        b"FFFFFFFFFFFFFFFFFFFFFFFF",
        b"10000000000000000",
        b"8000000000000000",
        b"FFFFFFFFFFFFFFFF",
        b"7FFFFFFFFFFFFFFF",
        b"7FFFFFFF0",
        b"-1",
        b"-0",
        b"+4",
        b"0x4",
        b"0_4",
        b" 4",
        b"4 4",
        b"",
        b"g",
        b"4" * 5000,
        b"4;" + b"x" * 5000,
    ],
)
@pytest.mark.parametrize("kind", ["PATCH", "POST", "PUT", "manifest"])
def test_a_chunk_size_out_of_bounds_is_400(wire: Wire, size: bytes, kind: str) -> None:
    """R-246: also one that is announced and not sent; nothing is allocated for it."""
    location = wire.start("a")
    targets = {
        "PATCH": ("PATCH", location),
        "PUT": ("PUT", f"{location}?digest={DIGEST}"),
        "POST": ("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}"),
        "manifest": ("PUT", "/v2/a/manifests/v1"),
    }
    method, target = targets[kind]

    reply = wire.raw(chunked(target, method, size + b"\r\n0123\r\n0\r\n\r\n"))

    assert (reply.status, reply.code) == (400, "SIZE_INVALID")
    check_inert(reply)


@pytest.mark.parametrize("size", [b"FFFFFFFFFFFFFFFFFFFFFFFF", b"FFFFFFFFFFFFFFFF", b"8000000000000000"])
def test_a_chunk_size_beyond_63_bits_is_refused_before_the_chunk_comes(wire: Wire, size: bytes) -> None:
    """R-246."""
    host, _, port = wire.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(chunked(f"/v2/a/blobs/uploads/?digest={DIGEST}", "POST", size + b"\r\n0123"))

        assert client.recv(1 << 10).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("body", [b"4\r\n0123", b"4\r\n0123xx0\r\n\r\n", b"4\n0123\r\n0\r\n\r\n", b"4\r\n01"])
def test_a_malformed_chunk_is_400(wire: Wire, body: bytes) -> None:
    """R-246."""
    reply = wire.raw(chunked(f"/v2/a/blobs/uploads/?digest={DIGEST}", "POST", body))

    assert (reply.status, reply.code) == (400, "SIZE_INVALID")


@pytest.mark.parametrize("extension", [b"", b";name=value", b' ; name="a;b"', b"  "])
def test_sizes_in_either_case_and_extensions_are_read(wire: Wire, extension: bytes) -> None:
    """R-246."""
    assert len(PAGE) == 0x26
    for size in (b"26", b"026", b"0000000000000026"):
        body = size + extension + b"\r\n" + PAGE + b"\r\n0\r\nTrailer: x\r\n\r\n"

        assert wire.raw(chunked(f"/v2/a/blobs/uploads/?digest={DIGEST}", "POST", body)).status == 201


def test_trailers_without_end_close_the_connection(wire: Wire) -> None:
    """R-246: the request was complete."""
    body = b"26\r\n" + PAGE + b"\r\n0\r\n" + b"A: b\r\n" * 20_000

    assert wire.raw(chunked(f"/v2/a/blobs/uploads/?digest={DIGEST}", "POST", body)).status == 201


@pytest.mark.parametrize(
    "content_range",
    ["0-99999999999999999999", "0-9999999999999999999", "9999999999999999999-9999999999999999999", "5-3"],
)
def test_a_range_of_a_chunk_out_of_bounds_is_an_error_of_the_client(wire: Wire, content_range: str) -> None:
    """R-246."""
    reply = wire("PATCH", wire.start("a"), b"0123", {"Content-Range": content_range})

    assert reply.status in (400, 416)


@pytest.mark.parametrize("length", ["99999999999999999999999", "-1", "1e3", "0x4"])
def test_a_content_length_out_of_bounds_is_400(wire: Wire, length: str) -> None:
    """R-246."""
    head = f"POST /v2/a/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"

    assert wire.raw(head.encode() + b"0123").status == 400
