"""No needless round trip, counted through the observer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_catalog
from registry_adapters.wsgi import registry_server
from registry_adapters.wsgi.tokens import TokenGuard
from registry_core import Basic, Image, ImageBuilder, RegistryClient
from registry_core.ports.observer import Event, Exchange


class Journal:
    """An observer that keeps the exchanges."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def on(self, event: Event) -> None:
        if isinstance(event, Exchange):
            with self._lock:
                self.exchanges.append(event)

    def take(self) -> list[str]:
        with self._lock:
            taken, self.exchanges = self.exchanges, []
        return [f"{exchange.method} {exchange.url}" for exchange in taken]


@pytest.fixture
def backing() -> MemoryCatalog:
    catalog = MemoryCatalog()
    RegistryClient(catalog, "app").push_image("v1", _image())
    return catalog


def _image() -> Image:
    builder = ImageBuilder(platform="linux/amd64")
    for number in range(5):
        builder = builder.add_files({f"layer-{number}": b"%d" % number})
    return builder.build()


def test_the_digest_of_a_tag_takes_one_exchange(backing: MemoryCatalog) -> None:
    journal = Journal()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=journal), "app")

        client.get_digest("v1")
        client.close()

    assert len(journal.take()) == 1


def test_pulling_five_layers_takes_seven_exchanges(backing: MemoryCatalog, tmp_path: Path) -> None:
    journal = Journal()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=journal), "app")

        client.copy_image("v1", RegistryClient(LayoutCatalog(tmp_path), "app"), "v1")
        client.close()

    assert len(journal.take()) <= 7


def test_tokens_cost_two_exchanges_more_and_the_next_operation_none(backing: MemoryCatalog, tmp_path: Path) -> None:
    journal = Journal()
    with registry_server(backing, guard=TokenGuard({"user": "secret"})) as server:
        catalog = open_catalog(server.url, observer=journal, auth=Basic("user", "secret"))
        client = RegistryClient(catalog, "app")

        client.copy_image("v1", RegistryClient(LayoutCatalog(tmp_path), "app"), "v1")
        pulled = journal.take()
        client.get_digest("v1")
        looked_up = journal.take()
        client.close()

    assert len(pulled) <= 9, pulled
    assert len(looked_up) == 1, looked_up
