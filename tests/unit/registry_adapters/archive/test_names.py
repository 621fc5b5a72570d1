"""Names of images in archives, and their repositories and tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_adapters.archive.names import (
    aliases,
    canonical_name,
    name_annotations,
    parse_name,
    parse_name_annotations,
    short_name,
)
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidName, RepositoryNotFound
from registry_core.testing.content import push_image, put_blob

CONTAINERD = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("debian:12", "library/debian", "12"),
        ("debian", "library/debian", "latest"),
        ("library/debian:12", "library/debian", "12"),
        ("docker.io/library/debian:12", "library/debian", "12"),
        ("index.docker.io/debian:12", "library/debian", "12"),
        ("org/app:v1", "org/app", "v1"),
        ("docker.io/org/app:v1", "org/app", "v1"),
        ("quay.io/org/app:v1", "quay.io/org/app", "v1"),
        ("registry.example.com:5000/org/app:v1", "registry.example.com/org/app", "v1"),
        ("localhost/app:v1", "localhost/app", "v1"),
        ("localhost:5000/app:v1", "localhost/app", "v1"),
        ("Registry.Example.Com/app:v1", "registry.example.com/app", "v1"),
        (f"org/app@sha256:{'0' * 64}", "org/app", None),
        (f"org/app:v1@sha256:{'0' * 64}", "org/app", "v1"),
    ],
)
def test_a_name_is_parsed_into_repository_and_tag(text: str, repository: str, tag: str | None) -> None:
    assert parse_name(text) == (repository, tag)


@pytest.mark.parametrize("text", ["", ":", "Debian:12", "<none>:<none>", "a//b:v1", "debian:", "0" * 64, "x" * 300])
def test_an_invalid_name_is_none(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({CONTAINERD: "docker.io/library/debian:12", REF: "12"}, ("library/debian", "12")),
        ({CONTAINERD: "not a name: at all", REF: "v1"}, ("", "v1")),
        ({REF: "v1"}, ("", "v1")),
        ({REF: "debian:12"}, ("debian", "12")),
        ({REF: "docker.io/library/debian:12"}, ("library/debian", "12")),
        ({REF: "quay.io/org/app:v1"}, ("quay.io/org/app", "v1")),
        ({REF: "not a name"}, None),
        ({"title": "x"}, None),
        ({}, None),
    ],
)
def test_the_name_of_an_entry_is_in_its_annotations(annotations: dict[str, str], name: tuple[str, str] | None) -> None:
    """R-307: other names are ignored, and never used as paths."""
    assert parse_name_annotations(annotations) == name


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

    assert parse_name_annotations(name_annotations(form, name, tag)) == (canonical_name(form, name), tag)


def test_only_a_layout_in_a_tar_can_have_the_empty_name() -> None:
    root, tag = RepositoryName(""), Tag("v1")

    assert name_annotations(ArchiveForm.OCI, root, tag) == {REF: "v1"}
    with pytest.raises(InvalidName):
        name_annotations(ArchiveForm.DOCKER, root, tag)


@pytest.mark.parametrize("repository", ["under_score.example/app", "/".join(["x" * 60] * 5)])
def test_a_name_that_docker_cannot_load_is_refused(repository: str) -> None:
    with pytest.raises(InvalidName):
        name_annotations(ArchiveForm.DOCKER, RepositoryName(repository), Tag("v1"))


def test_aliases_of_a_repository() -> None:
    assert list(aliases(RepositoryName("debian"))) == ["debian", "library/debian", "debian"]
    assert list(aliases(RepositoryName("docker.io/org/app"))) == ["docker.io/org/app", "org/app"]


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
