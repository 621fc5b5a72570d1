"""A manifest is decoded once, however many views of it are read and however many stores it goes through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.archive import ArchiveCatalog
from registry_adapters.http import HttpCatalog
from registry_adapters.http.transport.wsgi_transport import WsgiTransport
from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_adapters.wsgi import RegistryApp
from registry_core.client import RegistryClient
from registry_core.domain import strict_json
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.transfer.copy import copy
from registry_core.ports.catalog import Catalog, Repository

if TYPE_CHECKING:
    Graphs = Any

V1 = Tag("v1")


def _http(directory: Path) -> Catalog:
    return HttpCatalog("registry.test", transport=WsgiTransport(RegistryApp(MemoryCatalog())))


BACKENDS: dict[str, Callable[[Path], Catalog]] = {
    "archive": lambda directory: ArchiveCatalog(directory / "archive.tar"),
    "http": _http,
    "layout": LayoutCatalog,
    "memory": lambda directory: MemoryCatalog(),
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each document was decoded."""
    counts: Counter[bytes] = Counter()
    decode = strict_json.decode_any

    def counting(content: bytes) -> Any:
        counts[content] += 1
        return decode(content)

    monkeypatch.setattr(strict_json, "decode_any", counting)
    return counts


@pytest.fixture(params=[name for name in BACKENDS if name != "archive"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    """A repository of each backend that is written and read at once."""
    catalog = BACKENDS[request.param](tmp_path)
    yield catalog.repository(RepositoryName("app"))
    catalog.close()


def test_a_read_decodes_the_manifest_once(
    stored: Repository, graphs_of: Callable[[Repository], Graphs], decoded: Counter[bytes]
) -> None:
    image = graphs_of(stored).image(b"layer")
    index = graphs_of(stored).index(image, platforms=[{"os": "linux", "architecture": "amd64"}])
    stored.manifests.put(index, tags=[V1])
    decoded.clear()

    found = RegistryClient(_Only(stored)).get_image("v1", "linux/amd64")
    views = [found.manifest(), found.layers(), found.config(), found.document.subject, found.platform]

    assert len(views) == 5
    assert decoded[index.content] == 1
    assert decoded[image.content] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_decodes_each_manifest_once(
    stored: Repository,
    graphs_of: Callable[[Repository], Graphs],
    decoded: Counter[bytes],
    backend: str,
    tmp_path: Path,
) -> None:
    image, other = graphs_of(stored).image(b"layer"), graphs_of(stored).image(b"other")
    index = graphs_of(stored).index(image, other, annotations={"index.json": "has none"})
    stored.manifests.put(index, tags=[V1])
    (tmp_path / "target").mkdir()
    catalog = BACKENDS[backend](tmp_path / "target")
    decoded.clear()

    copy(stored, catalog.repository(RepositoryName("copy")), "v1", tags=["v1"])

    # The server in this process receives bytes, and has to decode them again.
    for manifest in (index, image, other):
        assert decoded[manifest.content] == (2 if backend == "http" else 1)
    catalog.close()


class _Only(MemoryCatalog):
    """A catalog that returns one repository for every name."""

    def __init__(self, repository: Repository) -> None:
        super().__init__()
        self._repository = repository

    def repository(self, name: str) -> Repository:
        return self._repository
