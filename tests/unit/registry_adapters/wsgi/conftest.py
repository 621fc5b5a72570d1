"""A registry in memory, and a plain HTTP client."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import Authorizer, registry_server
from registry_core import Catalog


class Reply:
    """A response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        """The code of the first error."""
        return str(self.json["errors"][0]["code"])


class Wire:
    """A keep-alive connection to a server."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.connection = http.client.HTTPConnection(host, timeout=20)

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        chunked = body is not None and not isinstance(body, bytes)
        given = dict(headers or {}) | ({"Transfer-Encoding": "chunked"} if chunked else {})
        self.connection.request(method, path, body, given, encode_chunked=chunked)
        return Reply(self.connection.getresponse())

    def raw(self, data: bytes) -> Reply:
        """Send exactly these bytes, and then no more."""
        self.connection.close()
        self.connection.connect()
        sock = self.connection.sock
        sock.sendall(data)
        sock.shutdown(1)
        response = http.client.HTTPResponse(sock)
        response.begin()
        reply = Reply(response)
        response.close()
        self.connection.close()
        return reply

    def upload(self, name: str, content: bytes) -> str:
        """Push a blob; return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        reply = self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", content)
        assert reply.status == 201
        return digest

    def start(self, name: str) -> str:
        """Start an upload session; return its path."""
        reply = self("POST", f"/v2/{name}/blobs/uploads/")
        assert reply.status == 202
        return str(reply.headers["Location"])


class Serve:
    """Start servers for one test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self,
        catalog: Catalog | None = None,
        *,
        read_only: bool = False,
        authorizer: Authorizer | None = None,
        manifest_limit: int = 1 << 20,
        page_limit: int | None = None,
        referrers_api: bool = True,
        chunk_min_length: int | None = None,
        root_name: str = "",
    ) -> Wire:
        server = self._stack.enter_context(
            registry_server(
                catalog if catalog is not None else MemoryCatalog(),
                read_only=read_only,
                authorizer=authorizer,
                manifest_limit=manifest_limit,
                page_limit=page_limit,
                referrers_api=referrers_api,
                chunk_min_length=chunk_min_length,
                root_name=root_name,
                threads=4,
            )
        )
        wire = Wire(server.host)
        self._stack.callback(wire.connection.close)
        return wire


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with options; they are stopped after the test."""
    with ExitStack() as stack:
        yield Serve(stack)


@pytest.fixture
def wire(serve: Serve) -> Wire:
    """A connection to an empty registry in memory."""
    return serve()
