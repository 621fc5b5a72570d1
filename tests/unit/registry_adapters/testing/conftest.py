"""A faulty registry with one image, and a plain HTTP client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.testing import Fault, FaultyRegistry, faulty_registry
from registry_adapters.wsgi import Authorizer
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.testing.content import push_image, put_blob

CONTENT = bytes(range(256)) * 4


class Reply:
    """A response, possibly cut short."""

    def __init__(self, response: http.client.HTTPResponse, content: bytes, *, complete: bool) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content = content
        self.complete = complete

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Caller:
    """A keep-alive connection to a registry that has a blob and a tagged image in ``app``."""

    def __init__(self, registry: FaultyRegistry) -> None:
        repository = registry.catalog.repository(RepositoryName("app"))
        self.registry = registry
        self.manifest = push_image(repository, "first", tags=["v1", "v2"])
        self.digest: Digest = put_blob(repository, CONTENT)
        self.blob = f"/v2/app/blobs/{self.digest}"
        self.connection = http.client.HTTPConnection(registry.host, timeout=10)

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        try:
            self.connection.request(method, path, body, dict(headers or {}))
            response = self.connection.getresponse()
        except (http.client.HTTPException, OSError):
            self.connection.close()
            raise
        try:
            return Reply(response, response.read(), complete=True)
        except http.client.IncompleteRead as error:
            self.connection.close()
            return Reply(response, error.partial, complete=False)
        except OSError:
            self.connection.close()
            return Reply(response, b"", complete=False)

    def start(self) -> str:
        """Start an upload session; return its path."""
        reply = self("POST", "/v2/app/blobs/uploads/")
        assert reply.status == 202
        return str(reply.headers["Location"])


class Call:
    """Start registries for one test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *faults: Fault, authorizer: Authorizer | None = None, page_limit: int | None = None) -> Caller:
        registry = self._stack.enter_context(
            faulty_registry(*faults, catalog=MemoryCatalog(), authorizer=authorizer, page_limit=page_limit, threads=4)
        )
        caller = Caller(registry)
        self._stack.callback(caller.connection.close)
        return caller


@pytest.fixture
def call() -> Iterator[Call]:
    """Start registries with faults; they are stopped after the test."""
    with ExitStack() as stack:
        yield Call(stack)
