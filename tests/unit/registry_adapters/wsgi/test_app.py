"""The application: dispatch, error responses, and request bodies that no handler reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING
from wsgiref.types import WSGIEnvironment

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import BasicAuthorizer, RegistryApp
from registry_core import Catalog, ConfigError, Repository, RepositoryName

if TYPE_CHECKING:
    from tests.unit.registry_adapters.wsgi.conftest import Serve, Wire

ABSENT = "sha256:" + "0" * 64


class Broken(MemoryCatalog):
    """A backend with a bug."""

    def repository(self, name: str) -> Repository:
        raise RuntimeError("the secret inside")

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        raise RuntimeError("the secret inside")


class Endless:
    """A body that counts how much of it was read."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, size: int) -> bytes:
        self.count += size
        return b"\0" * size


def call(app: RegistryApp, method: str, path: str, **environ: object) -> tuple[int, dict[str, str], bytes]:
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> object:
        seen.append((status, headers))
        return None

    path, _, query = path.partition("?")
    complete: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
        **environ,
    }
    body = b"".join(app(complete, start_response))  # type: ignore[arg-type]  # write() is not called
    return int(seen[0][0][:3]), dict(seen[0][1]), body


class TestDispatch:
    def test_the_base_endpoint_is_200(self, wire: Wire) -> None:
        """R-202."""
        reply = wire("GET", "/v2/")

        assert (reply.status, reply.headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")

    @pytest.mark.parametrize("path", ["/", "/v1/", "/v2/a", "/token", "/v2/a/blobs/"])
    def test_other_paths_are_404_with_an_error_document(self, wire: Wire, path: str) -> None:
        reply = wire("GET", path)

        assert reply.status == 404
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.code == "NOT_FOUND"

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/v2/", "GET, HEAD"),
            ("PUT", "/v2/_catalog", "GET, HEAD"),
            ("POST", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
            ("PUT", f"/v2/a/blobs/{ABSENT}", "GET, HEAD, DELETE"),
            ("GET", "/v2/a/blobs/uploads/", "POST"),
            ("POST", "/v2/a/blobs/uploads/x", "GET, PATCH, PUT, DELETE"),
            ("DELETE", "/v2/a/tags/list", "GET, HEAD"),
            ("POST", f"/v2/a/referrers/{ABSENT}", "GET, HEAD"),
        ],
    )
    def test_other_methods_are_405_with_the_allowed_ones(
        self, wire: Wire, method: str, path: str, allowed: str
    ) -> None:
        reply = wire(method, path)

        assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "UNSUPPORTED", allowed)

    @pytest.mark.parametrize("name", ["UPPER", "a//b", "a/../b", "-a", "a%2Fb", "%C3%A9"])
    def test_an_invalid_name_is_400(self, wire: Wire, name: str) -> None:
        reply = wire("GET", f"/v2/{name}/tags/list")

        assert (reply.status, reply.code) == (400, "NAME_INVALID")

    def test_an_application_can_have_a_path_prefix(self) -> None:
        app = RegistryApp(MemoryCatalog())

        status, headers, _ = call(app, "POST", "/v2/org/app/blobs/uploads/", SCRIPT_NAME="/registry")

        assert status == 202
        assert headers["Location"].startswith("/registry/v2/org/app/blobs/uploads/")
        app.close()


class TestFailures:
    @pytest.mark.parametrize("path", ["/v2/a/tags/list", "/v2/_catalog"])
    def test_an_unexpected_error_of_the_backend_is_500_without_details(self, serve: Serve, path: str) -> None:
        wire = serve(Broken())

        reply = wire("GET", path)

        assert (reply.status, reply.code) == (500, "UNKNOWN")
        assert b"secret" not in reply.content

    @pytest.mark.parametrize("length", ["-1", "x", "1 ", "0x1", "1" * 5000])
    def test_an_invalid_content_length_is_400(self, length: str) -> None:
        app = RegistryApp(MemoryCatalog())

        status, headers, _ = call(app, "GET", "/v2/", CONTENT_LENGTH=length)

        assert status == 400
        assert headers["Connection"] == "close"

    @pytest.mark.parametrize(
        "make",
        [
            lambda catalog: RegistryApp(catalog, manifest_limit=0),
            lambda catalog: RegistryApp(catalog, page_limit=0),
            lambda catalog: RegistryApp(catalog, root_name="UPPER"),
        ],
    )
    def test_invalid_options_are_rejected(self, make: type[RegistryApp]) -> None:
        catalog: Catalog = MemoryCatalog()

        with pytest.raises(ConfigError):
            make(catalog)


class TestUnreadBodies:
    def test_a_small_one_is_discarded_and_the_connection_stays_open(self, serve: Serve) -> None:
        wire = serve(authorizer=BasicAuthorizer({"ann": "x"}))
        wire("POST", "/v2/a/blobs/uploads/", b"\0" * (2 << 20))
        sock = wire.connection.sock

        reply = wire("GET", "/v2/")

        assert reply.status == 401
        assert wire.connection.sock is sock

    def test_a_huge_one_is_not_read_at_all(self) -> None:
        app = RegistryApp(MemoryCatalog(), authorizer=BasicAuthorizer({"ann": "x"}))
        body = Endless()

        status, headers, _ = call(app, "PUT", "/v2/a/manifests/v1", CONTENT_LENGTH=str(1 << 40), **{"wsgi.input": body})

        assert (status, headers["Connection"], body.count) == (401, "close", 0)

    def test_an_endless_one_is_read_to_a_limit(self) -> None:
        app = RegistryApp(MemoryCatalog(), authorizer=BasicAuthorizer({"ann": "x"}))
        body = Endless()

        status, headers, _ = call(
            app, "PUT", "/v2/a/manifests/v1", **{"wsgi.input": body, "wsgi.input_terminated": True}
        )

        assert (status, headers["Connection"]) == (401, "close")
        assert body.count < 32 << 20

    def test_an_endless_manifest_is_read_to_the_limit_and_a_little_more(self) -> None:
        app = RegistryApp(MemoryCatalog(), manifest_limit=1000)
        body = Endless()

        status, headers, _ = call(
            app, "PUT", "/v2/a/manifests/v1", **{"wsgi.input": body, "wsgi.input_terminated": True}
        )

        assert (status, headers["Connection"]) == (413, "close")
        assert body.count < 32 << 20


def test_the_root_repository_has_no_path(serve: Serve) -> None:
    wire = serve(MemoryCatalog())

    reply = wire("GET", "/v2//tags/list")

    assert reply.status == 404
