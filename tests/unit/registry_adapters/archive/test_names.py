"""Names of images in archives, and their repositories and tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_adapters.archive.names import canonical_name, name_annotations, short_name
from registry_core.domain.image_names import entry_name
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidName, RepositoryNotFound
from registry_core.testing.content import push_image, put_blob

REF = "org.opencontainers.image.ref.name"


@pytest.mark.parametrize(
    ("repository", "docker", "oci"),
    [
        ("debian", "debian:v1", "debian:v1"),
        ("library/debian", "debian:v1", "docker.io/library/debian:v1"),
        ("library/org/app", "library/org/app:v1", "docker.io/library/org/app:v1"),
        ("org/app", "org/app:v1", "docker.io/org/app:v1"),
        ("docker.io/org/app", "org/app:v1", "docker.io/org/app:v1"),
        ("quay.io/org/app", "quay.io/org/app:v1", "quay.io/org/app:v1"),
        ("localhost/app", "localhost/app:v1", "localhost/app:v1"),
    ],
)
def test_names_are_written_as_other_tools_expect_them(repository: str, docker: str, oci: str) -> None:
    name, tag = RepositoryName(repository), Tag("v1")

    assert short_name(name, tag) == docker
    assert name_annotations(ArchiveForm.OCI, name, tag) == {REF: oci}


@pytest.mark.parametrize("form", ArchiveForm)
@pytest.mark.parametrize("repository", ["debian", "library/debian", "org/app", "quay.io/org/app", "localhost/app"])
def test_a_written_name_is_read_back(repository: str, form: ArchiveForm) -> None:
    name, tag = RepositoryName(repository), Tag("v1")

    assert entry_name(name_annotations(form, name, tag))[1:3] == (canonical_name(form, name), tag)


def test_only_a_layout_in_a_tar_can_have_the_empty_name() -> None:
    root, tag = RepositoryName(""), Tag("v1")

    assert name_annotations(ArchiveForm.OCI, root, tag) == {REF: "v1"}
    with pytest.raises(InvalidName):
        name_annotations(ArchiveForm.DOCKER, root, tag)


@pytest.mark.parametrize("repository", ["under_score.example/app", "/".join(["x" * 60] * 5)])
def test_a_name_that_docker_cannot_load_is_refused(repository: str) -> None:
    with pytest.raises(InvalidName):
        name_annotations(ArchiveForm.DOCKER, RepositoryName(repository), Tag("v1"))


@pytest.mark.parametrize(("form", "listed"), [(ArchiveForm.DOCKER, ["library/debian"]), (ArchiveForm.OCI, ["debian"])])
@pytest.mark.parametrize("alias", ["debian", "library/debian", "docker.io/library/debian"])
def test_debian_is_found_by_each_of_its_aliases(
    form: ArchiveForm, listed: list[str], alias: str, tmp_path: Path
) -> None:
    with ArchiveCatalog(tmp_path / "images.tar", form, fsync=False) as catalog:
        pushed = push_image(catalog.repository(RepositoryName("debian")), "one", tags=["12"])

    found = catalog.repository(RepositoryName(alias)).manifests

    assert found.get(Tag("12")) == pushed
    assert list(catalog.repositories()) == listed
    with pytest.raises(RepositoryNotFound):
        catalog.repository(RepositoryName("org/debian")).manifests.resolve(Tag("12"))


def test_a_docker_archive_stores_two_aliases_as_one_repository(tmp_path: Path) -> None:
    with ArchiveCatalog(tmp_path / "images.tar", fsync=False) as catalog:
        push_image(catalog.repository(RepositoryName("debian")), "one", tags=["12"])
        push_image(catalog.repository(RepositoryName("docker.io/library/debian")), "two", tags=["13"])

    assert list(catalog.repository(RepositoryName("library/debian")).manifests.tags()) == ["12", "13"]


def test_a_blob_is_mounted_from_an_alias_of_its_repository(tmp_path: Path) -> None:
    catalog = ArchiveCatalog(tmp_path / "images.tar", fsync=False)
    digest = put_blob(catalog.repository(RepositoryName("debian")), b"content")

    assert catalog.repository(RepositoryName("org/app")).blobs.mount(digest, RepositoryName("debian"))
    catalog.discard()
