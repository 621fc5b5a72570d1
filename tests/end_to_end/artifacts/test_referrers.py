"""Referrers over HTTP, with a referrers API and with the referrers tag that clients maintain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry_adapters import MemoryCatalog, open_catalog
from registry_adapters.wsgi import registry_server
from registry_core import Descriptor, Digest, RawManifest, Repository, RepositoryName, Tag
from registry_core.domain.media_types import EMPTY_JSON
from registry_core.testing.content import image_manifest, push_image, put_blob

NAME = RepositoryName("app")
SIGNATURE = "application/vnd.example.signature.v1+json"


@pytest.fixture
def backing() -> MemoryCatalog:
    return MemoryCatalog()


@pytest.fixture
def without_api(backing: MemoryCatalog) -> Iterator[Repository]:
    with registry_server(backing, referrers_api=False) as server:
        catalog = open_catalog(server.url)
        yield catalog.repository(NAME)
        catalog.close()


def _attach(repository: Repository, subject: RawManifest, label: str) -> Descriptor:
    put_blob(repository, b"{}")
    described = subject.descriptor
    manifest = image_manifest(
        b"{}",
        config_type=EMPTY_JSON,
        artifactType=SIGNATURE,
        subject={"mediaType": described.media_type, "digest": described.digest, "size": described.size},
        annotations={"org.example.label": label},
    )
    return repository.manifests.put(manifest)


def _listed(repository: Repository, subject: Digest) -> dict[Digest, str]:
    return {each.digest: each.annotations["org.example.label"] for each in repository.manifests.referrers(subject)}


def _list_tag(subject: Digest) -> Tag:
    return Tag(str(subject).replace(":", "-"))


def test_the_referrers_tag_is_visible_to_other_clients(backing: MemoryCatalog, without_api: Repository) -> None:
    """R-222, R-223."""
    subject = push_image(without_api, "subject")

    first = _attach(without_api, subject, "first")
    second = _attach(without_api, subject, "second")

    expected = {first.digest: "first", second.digest: "second"}
    kept = backing.repository(NAME).manifests.get(_list_tag(subject.digest))
    assert _listed(without_api, subject.digest) == expected
    assert [each.digest for each in kept.index.manifests] == [first.digest, second.digest]
    assert {each.artifact_type for each in kept.index.manifests} == {SIGNATURE}


def test_a_referrer_attached_twice_is_listed_once(without_api: Repository) -> None:
    """R-222."""
    subject = push_image(without_api, "subject")

    _attach(without_api, subject, "same")
    attached = _attach(without_api, subject, "same")

    assert [each.digest for each in without_api.manifests.referrers(subject.digest)] == [attached.digest]


def test_deleting_a_referrer_removes_only_its_entry(without_api: Repository) -> None:
    """R-224."""
    subject = push_image(without_api, "subject")
    gone = _attach(without_api, subject, "gone")
    kept = _attach(without_api, subject, "kept")

    without_api.manifests.delete(gone.digest)

    assert _listed(without_api, subject.digest) == {kept.digest: "kept"}


def test_no_referrers_tag_is_written_for_a_registry_with_the_api(backing: MemoryCatalog) -> None:
    """R-220, R-222."""
    with registry_server(backing) as server:
        catalog = open_catalog(server.url)
        repository = catalog.repository(NAME)
        subject = push_image(repository, "subject")

        attached = _attach(repository, subject, "only")

        assert _listed(repository, subject.digest) == {attached.digest: "only"}
        catalog.close()
    assert _list_tag(subject.digest) not in list(backing.repository(NAME).manifests.tags())
