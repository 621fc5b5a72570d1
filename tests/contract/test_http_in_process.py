"""The HTTP backend with this library's server in the same process, without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import RegistryApp
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
