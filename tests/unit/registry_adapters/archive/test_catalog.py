"""Content of an archive is read back byte for byte, before and after the archive is closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters import ArchiveCatalog, ArchiveForm, MemoryCatalog
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.transfer.copy import copy
from registry_core.ops.transfer.options import CopyOptions
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, index_manifest, push_image, put_blob

NAME = RepositoryName("registry.example.com/org/app")


@pytest.fixture
def origin() -> Repository:
    """One image, index or artifact of each kind, each with a tag, and referrers without a tag."""
    repository = MemoryCatalog().repository(NAME)
    oci = push_image(repository, "oci", tags=["oci", "same"], **{"org.example.vendor": {"odd": [1, None]}})
    docker = push_image(repository, "docker", tags=["docker"], docker=True)
    push_image(repository, "sha512", tags=["sha512"], algorithm="sha512")
    docker_list = index_manifest([docker.descriptor], docker=True)
    inner = index_manifest([oci.descriptor, docker.descriptor])
    repository.manifests.put(docker_list, tags=[Tag("list")])
    repository.manifests.put(inner)
    repository.manifests.put(index_manifest([inner.descriptor, docker_list.descriptor]), tags=[Tag("nested")])
    put_blob(repository, b"{}")
    artifact = image_manifest(b"{}", config_type="application/vnd.example+json")
    repository.manifests.put(artifact, tags=[Tag("artifact")])
    for subject in (oci, artifact):
        refers = {"mediaType": subject.media_type, "digest": str(subject.digest), "size": len(subject.content)}
        push_image(repository, f"about {subject.digest}", subject=refers, artifactType="application/vnd.about")
    return repository


def _graph(repository: Repository) -> Iterator[tuple[RawManifest, list[bytes]]]:
    """All manifests, and the blobs of each."""
    waiting: list[Tag | Digest] = list(repository.manifests.tags())
    seen: set[Digest] = set()
    while waiting:
        manifest = repository.manifests.get(waiting.pop())
        if manifest.digest in seen:
            continue
        seen.add(manifest.digest)
        waiting += [found.digest for found in repository.manifests.referrers(manifest.digest)]
        if manifest.is_index:
            waiting += [child.digest for child in manifest.children]
            yield manifest, []
        else:
            yield manifest, [_content(repository, child.digest) for child in manifest.children]


def _content(repository: Repository, digest: Digest) -> bytes:
    with repository.blobs.open(digest) as reader:
        return reader.read(-1)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("form", ArchiveForm)
def test_everything_is_read_back(form: ArchiveForm, is_closed: bool, origin: Repository, tmp_path: Path) -> None:
    """R-026, R-027."""
    with ArchiveCatalog(tmp_path / "images.tar", form, fsync=False) as catalog:
        for tag in origin.manifests.tags():
            copy(origin, catalog.repository(NAME), tag, tags=[tag], options=CopyOptions(referrers=True))
        if is_closed:
            catalog.close()
        found = catalog.repository(NAME)

        assert list(found.manifests.tags()) == list(origin.manifests.tags())
        assert [found.manifests.resolve(tag) for tag in found.manifests.tags()] == [
            origin.manifests.resolve(tag) for tag in origin.manifests.tags()
        ]
        expected = {manifest.digest: (manifest, blobs) for manifest, blobs in _graph(origin)}
        assert {manifest.digest: (manifest, blobs) for manifest, blobs in _graph(found)} == expected
        assert len(expected) == 9


def test_conversion_to_the_other_form_and_back_changes_nothing(origin: Repository, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.tar", "b.tar", "c.tar"))
    forms = (ArchiveForm.DOCKER, ArchiveForm.OCI, ArchiveForm.DOCKER)
    source = origin
    for path, form in zip((first, second, third), forms, strict=True):
        with ArchiveCatalog(path, form, fsync=False) as catalog:
            for tag in source.manifests.tags():
                copy(source, catalog.repository(NAME), tag, tags=[tag], jobs=1)
        source = ArchiveCatalog(path).repository(NAME)

    assert third.read_bytes() == first.read_bytes()
