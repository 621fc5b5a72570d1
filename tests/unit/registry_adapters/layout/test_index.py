"""``index.json`` is decoded once for the same bytes, and a change is always seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog, layout
from registry_adapters.layout.index import IndexFile
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import LayoutError
from registry_core.ports.catalog import Repository
from registry_core.testing.content import push_image

NAME = RepositoryName("org/app")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the path of each index that is decoded."""
    paths: list[str] = []
    really_parse: Callable[[bytes, str], IndexFile] = IndexFile.parse

    def parse(content: bytes, where: str) -> IndexFile:
        paths.append(where)
        return really_parse(content, where)

    monkeypatch.setattr(IndexFile, "parse", parse)
    return paths


@pytest.fixture
def repository(tmp_path: Path, parsed: list[str]) -> Repository:
    repository = LayoutCatalog(tmp_path).repository(NAME)
    push_image(repository, "one", tags=["v1"])
    parsed.clear()
    return repository


def test_the_same_bytes_are_decoded_once(tmp_path: Path, parsed: list[str], repository: Repository) -> None:
    catalog = LayoutCatalog(tmp_path)

    for _ in range(3):
        catalog.repository(NAME).manifests.resolve(Tag("v1"))
        list(catalog.repository(NAME).manifests.tags())

    assert parsed == ["org/app/index.json"]


def test_a_change_with_the_same_time_and_size_is_seen(tmp_path: Path, repository: Repository) -> None:
    """R-313: other programs write, too, and file times are coarse."""
    path = tmp_path / NAME / "index.json"
    before = path.stat()
    assert list(repository.manifests.tags()) == ["v1"]

    with path.open("r+b") as file:
        content = file.read().replace(b'"v1"', b'"v2"')
        file.seek(0)
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert list(repository.manifests.tags()) == ["v2"]


def test_a_malformed_index_raises_each_time(tmp_path: Path, repository: Repository) -> None:
    list(repository.manifests.tags())
    (tmp_path / NAME / "index.json").write_bytes(b"{")

    for _ in range(2):
        with pytest.raises(LayoutError, match=r"org/app/index\.json"):
            list(repository.manifests.tags())


def test_edits_do_not_change_a_cached_index(tmp_path: Path, repository: Repository) -> None:
    """R-313."""
    path = tmp_path / NAME / "index.json"
    first = path.read_bytes()
    push_image(repository, "two", tags=["v1", "v2"])
    repository.manifests.untag(Tag("v2"))
    path.write_bytes(first)

    push_image(repository, "three", tags=["v3"])

    entries = json.loads(path.read_bytes())["manifests"]
    assert entries[0] == json.loads(first)["manifests"][0]
    assert list(repository.manifests.tags()) == ["v1", "v3"]


def test_a_large_index_is_not_cached(
    parsed: list[str], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_CACHE_LIMIT", 10)

    for _ in range(2):
        list(repository.manifests.tags())

    assert len(parsed) == 2
