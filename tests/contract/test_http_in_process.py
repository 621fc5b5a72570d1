"""The HTTP backend with this library's server in the same process, without a socket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from registry_adapters.auth import authenticator_for
from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import BasicAuthorizer, RegistryApp
from registry_core.domain.auth import Basic
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS: Final = {"http", "https"}

# A response to HEAD has no body, which would distinguish a missing repository from a missing manifest.
_CAN: Final = ~(Can.EMPTY_NAME | Can.MISSING_REPOSITORY | Can.FLAT_MEMORY)


class TestHttpInProcess(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self) -> Iterator[Catalog]:
        catalog = HttpCatalog("registry.test", transport=WsgiTransport(RegistryApp(MemoryCatalog())))
        yield catalog
        catalog.close()


class TestHttpInProcessInChunks(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self) -> Iterator[Catalog]:
        settings = HttpSettings(chunk_size=700_000)
        catalog = HttpCatalog("registry.test", settings, transport=WsgiTransport(RegistryApp(MemoryCatalog())))
        yield catalog
        catalog.close()


class TestHttpRegistryThatHidesItsContent(ContractSuite):
    """Anonymous requests get 404, and a challenge at ``/v2/`` only."""

    can = _CAN

    @pytest.fixture
    def catalog(self) -> Iterator[Catalog]:
        app = RegistryApp(MemoryCatalog(), authorizer=BasicAuthorizer({"user": "hunter2"}))

        def hiding(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if "HTTP_AUTHORIZATION" in environ or environ["PATH_INFO"] == "/v2/":
                return app(environ, start_response)
            start_response("404 Not Found", [])
            return []

        authenticator = authenticator_for(Basic("user", "hunter2"))
        catalog = HttpCatalog("registry.test", authenticator=authenticator, transport=WsgiTransport(hiding))
        yield catalog
        catalog.close()
