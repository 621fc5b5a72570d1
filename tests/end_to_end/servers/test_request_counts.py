"""The number of requests of each operation, counted by an observer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_catalog
from registry_adapters.wsgi import registry_server
from registry_adapters.wsgi.auth import TokenAuthorizer
from registry_core import Basic, Image, ImageBuilder, RegistryClient
from registry_core.ports.observer import Event, RequestCompleted


class Requests:
    """An observer that collects completed requests."""

    def __init__(self) -> None:
        self.exchanges: list[RequestCompleted] = []
        self._lock = threading.Lock()

    def on(self, event: Event) -> None:
        if isinstance(event, RequestCompleted):
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


def test_the_digest_of_a_tag_takes_one_request(backing: MemoryCatalog) -> None:
    requests = Requests()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=requests), "app")

        client.get_digest("v1")
        client.close()

    assert len(requests.take()) == 1


@pytest.mark.parametrize(
    ("exchanges", "operation"),
    [
        (1, lambda client: client.get_manifest("v1")),
        (1, lambda client: client.image_exists("v1")),
        (1, lambda client: client.image_exists("absent")),
        (1, lambda client: client.list_tags()),
        (1, lambda client: client.iter_tags().__next__()),
        (2, lambda client: client.get_image_config("v1")),
        (2, lambda client: client.tag_image("v1", "v2")),
    ],
    ids=["get_manifest", "image_exists", "image_is_absent", "list_tags", "iter_tags", "get_image_config", "tag_image"],
)
def test_each_operation_takes_the_fewest_requests(
    backing: MemoryCatalog, exchanges: int, operation: Callable[[RegistryClient], object]
) -> None:
    requests = Requests()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=requests), "app")

        operation(client)
        client.close()

    taken = requests.take()
    assert len(taken) <= exchanges, taken


def test_a_tag_is_resolved_once_and_its_digest_is_used_afterwards(backing: MemoryCatalog, tmp_path: Path) -> None:
    """R-012: a tag that moves during a copy does not mix two images."""
    requests = Requests()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=requests), "app")

        client.copy_image("v1", RegistryClient(LayoutCatalog(tmp_path), "app"), "v1")
        client.close()

    assert len([line for line in requests.take() if line.endswith("/manifests/v1")]) == 1


def test_existing_blobs_are_not_pulled_again(backing: MemoryCatalog, tmp_path: Path) -> None:
    requests = Requests()
    target = RegistryClient(LayoutCatalog(tmp_path), "app")
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=requests), "app")
        client.copy_image("v1", target, "v1")
        requests.take()

        client.copy_image("v1", target, "v1")
        client.close()

    taken = requests.take()
    assert all("/blobs/" not in line for line in taken)
    assert len(taken) <= 2, taken


def test_pulling_five_layers_takes_seven_requests(backing: MemoryCatalog, tmp_path: Path) -> None:
    requests = Requests()
    with registry_server(backing) as server:
        client = RegistryClient(open_catalog(server.url, observer=requests), "app")

        client.copy_image("v1", RegistryClient(LayoutCatalog(tmp_path), "app"), "v1")
        client.close()

    assert len(requests.take()) <= 7


def test_a_token_takes_two_more_requests_and_none_in_the_next_operation(backing: MemoryCatalog, tmp_path: Path) -> None:
    requests = Requests()
    with registry_server(backing, authorizer=TokenAuthorizer({"user": "secret"})) as server:
        catalog = open_catalog(server.url, observer=requests, auth=Basic("user", "secret"))
        client = RegistryClient(catalog, "app")

        client.copy_image("v1", RegistryClient(LayoutCatalog(tmp_path), "app"), "v1")
        pulled = requests.take()
        client.get_digest("v1")
        looked_up = requests.take()
        client.close()

    assert len(pulled) <= 9, pulled
    assert len(looked_up) == 1, looked_up
