"""We read layouts of skopeo, and skopeo reads ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ports.catalog import Repository
from registry_core.testing.content import index_manifest, push_image

NAME = RepositoryName("org/app")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path).repository(NAME)


def _copy(skopeo: str, source: str, target: str) -> None:
    command = [skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests", source, target]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_skopeo_copies_an_image_from_our_layout(tmp_path: Path, repository: Repository, skopeo: str) -> None:
    """R-307."""
    manifest = push_image(repository, "one", tags=["v1", "v2"])
    push_image(repository, "two", tags=["v1"])

    _copy(skopeo, f"oci:{tmp_path / NAME}:v2", f"oci:{tmp_path / 'copied'}:theirs")

    copied = LayoutCatalog(tmp_path / "copied").repository(RepositoryName(""))
    assert copied.manifests.get(Tag("theirs")) == manifest


def test_skopeo_copies_an_index_from_our_layout(tmp_path: Path, repository: Repository, skopeo: str) -> None:
    """R-306: the children are found in the copy, although only the index lists them."""
    children = [push_image(repository, label) for label in ("one", "two")]
    index = index_manifest([child.descriptor for child in children])
    repository.manifests.put(index, tags=[Tag("v1")])

    _copy(skopeo, f"oci:{tmp_path / NAME}:v1", f"oci:{tmp_path / 'copied'}:v1")

    copied = LayoutCatalog(tmp_path / "copied").repository(RepositoryName(""))
    assert len(json.loads((tmp_path / "copied" / "index.json").read_bytes())["manifests"]) == 1
    assert copied.manifests.get(Tag("v1")) == index
    assert [copied.manifests.get(child.digest) for child in children] == children


def test_skopeo_reads_its_layout_after_we_wrote_to_it(tmp_path: Path, repository: Repository, skopeo: str) -> None:
    """R-313."""
    push_image(repository, "one", tags=["v1"])
    _copy(skopeo, f"oci:{tmp_path / NAME}:v1", f"oci:{tmp_path / 'theirs'}:v1")
    theirs = LayoutCatalog(tmp_path).repository(RepositoryName("theirs"))
    second = push_image(theirs, "two", tags=["v2"])

    _copy(skopeo, f"oci:{tmp_path / 'theirs'}:v2", f"oci:{tmp_path / 'theirs'}:v3")

    assert list(theirs.manifests.tags()) == ["v1", "v2", "v3"]
    assert theirs.manifests.get(Tag("v3")) == second
