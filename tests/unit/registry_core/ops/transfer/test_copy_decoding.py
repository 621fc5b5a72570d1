"""A manifest is decoded once per read or copy, for any number of views and stores."""

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


def _http_catalog(directory: Path) -> Catalog:
    return HttpCatalog("registry.test", transport=WsgiTransport(RegistryApp(MemoryCatalog())))


BACKENDS: dict[str, Callable[[Path], Catalog]] = {
    "archive": lambda directory: ArchiveCatalog(directory / "archive.tar"),
    "http": _http_catalog,
    "layout": LayoutCatalog,
    "memory": lambda directory: MemoryCatalog(),
}


@pytest.fixture
def decode_counts(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Number of times that each document was decoded."""
    counts: Counter[bytes] = Counter()
    decode = strict_json.decode_any

    def counting(content: bytes) -> Any:
        counts[content] += 1
        return decode(content)

    monkeypatch.setattr(strict_json, "decode_any", counting)
    return counts


@pytest.fixture(params=[name for name in BACKENDS if name != "archive"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    """A repository of each backend that can be read right after writing."""
    catalog = BACKENDS[request.param](tmp_path)
    yield catalog.repository(RepositoryName("app"))
    catalog.close()


def test_a_read_decodes_the_manifest_once(
    repository: Repository, graphs_of: Callable[[Repository], Graphs], decode_counts: Counter[bytes]
) -> None:
    image = graphs_of(repository).image(b"layer")
    index = graphs_of(repository).index(image, platforms=[{"os": "linux", "architecture": "amd64"}])
    repository.manifests.put(index, tags=[V1])
    decode_counts.clear()

    found = RegistryClient(_SingleRepositoryCatalog(repository)).get_image("v1", "linux/amd64")
    views = [found.manifest(), found.layers(), found.config(), found.document.subject, found.platform]

    assert len(views) == 5
    assert decode_counts[index.content] == 1
    assert decode_counts[image.content] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_decodes_each_manifest_once(
    repository: Repository,
    graphs_of: Callable[[Repository], Graphs],
    decode_counts: Counter[bytes],
    backend: str,
    tmp_path: Path,
) -> None:
    image, other = graphs_of(repository).image(b"layer"), graphs_of(repository).image(b"other")
    index = graphs_of(repository).index(image, other, annotations={"index.json": "has none"})
    repository.manifests.put(index, tags=[V1])
    (tmp_path / "target").mkdir()
    catalog = BACKENDS[backend](tmp_path / "target")
    decode_counts.clear()

    copy(repository, catalog.repository(RepositoryName("copy")), "v1", tags=["v1"])

    # The server in this process receives bytes, so it decodes them again.
    for manifest in (index, image, other):
        assert decode_counts[manifest.content] == (2 if backend == "http" else 1)
    catalog.close()


class _SingleRepositoryCatalog(MemoryCatalog):
    """A catalog that returns one repository for every name."""

    def __init__(self, repository: Repository) -> None:
        super().__init__()
        self._repository = repository

    def repository(self, name: str) -> Repository:
        return self._repository
