"""Backends for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import RegistryClient


@pytest.fixture(params=["memory", "layout", "http"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryClient]:
    """An empty backend of each kind."""
    if request.param == "memory":
        with open_client("memory:") as opened:
            yield opened
    elif request.param == "layout":
        with open_client(f"oci:{tmp_path / 'images'}") as opened:
            yield opened
    else:
        with registry_server(MemoryCatalog()) as server, open_client(server.url) as opened:
            yield opened


@pytest.fixture
def layout_server(tmp_path: Path) -> Iterator[str]:
    """The URL of this library's server over a layout directory."""
    with registry_server(LayoutCatalog(tmp_path / "served")) as server:
        yield server.url
