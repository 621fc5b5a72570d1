"""The HTTP backend with this library's server, over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import registry_server
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS: Final = {"http", "https"}

# A response to HEAD has no body, which would distinguish a missing repository from a missing manifest.
_CAN: Final = ~(Can.EMPTY_NAME | Can.MISSING_REPOSITORY)


@pytest.fixture(scope="module")
def memory_registry() -> Iterator[str]:
    with registry_server(MemoryCatalog()) as server:
        yield server.host


@pytest.fixture(scope="module")
def layout_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry_server(LayoutCatalog(tmp_path_factory.mktemp("images"), fsync=False)) as server:
        yield server.host


class TestHttpOverMemory(ContractSuite):
    can = _CAN & ~Can.FLAT_MEMORY

    @pytest.fixture
    def catalog(self, memory_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(memory_registry, HttpSettings(plain_http=True))
        yield catalog
        catalog.close()


class TestHttpOverLayout(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self, layout_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(layout_registry, HttpSettings(plain_http=True))
        yield catalog
        catalog.close()
