"""The HTTP backend over our own server, through a socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import registry_server
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

BACKENDS: Final = {"http", "https"}

# An answer to HEAD has no body that could tell an absent repository from an absent manifest.
_CAN: Final = ~(Can.EMPTY_NAME | Can.MISSING_REPOSITORY)


def _served(catalog: Catalog) -> Iterator[Catalog]:
    with registry_server(catalog) as server:
        client = HttpCatalog(server.url.removeprefix("http://").rstrip("/"), HttpSettings(plain_http=True))
        yield client
        client.close()


class TestHttpOverMemory(ContractSuite):
    can = _CAN & ~Can.FLAT_MEMORY

    @pytest.fixture
    def catalog(self) -> Iterator[Catalog]:
        yield from _served(MemoryCatalog())


class TestHttpOverLayout(ContractSuite):
    can = _CAN

    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Iterator[Catalog]:
        yield from _served(LayoutCatalog(tmp_path))
