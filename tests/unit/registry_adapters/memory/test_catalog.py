"""Behaviour of the memory backend beyond the contract."""

from __future__ import annotations

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.content.streams import ByteReader, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import DigestMismatch, ImageNotFound, InvalidDocument, RepositoryNotFound, error_context
from registry_core.ports import Repository
from registry_core.testing.content import image_manifest, push_image, put_blob


@pytest.fixture
def catalog() -> MemoryCatalog:
    return MemoryCatalog()


@pytest.fixture
def repository(catalog: MemoryCatalog) -> Repository:
    return catalog.repository(RepositoryName("org/app"))


def test_its_default_name_is_memory() -> None:
    assert MemoryCatalog().registry == "memory:"
    assert MemoryCatalog("staging").registry == "staging"


def test_two_catalogs_share_nothing(repository: Repository) -> None:
    push_image(repository, "here", tags=["v1"])

    other = MemoryCatalog().repository(repository.name)

    with pytest.raises(RepositoryNotFound):
        other.manifests.get(Tag("v1"))


def test_an_emptied_repository_does_not_exist(catalog: MemoryCatalog, repository: Repository) -> None:
    digest = put_blob(repository, b"only")
    manifest = image_manifest(b"only")
    repository.manifests.put(manifest, tags=[Tag("v1")])

    repository.blobs.delete(digest)
    listed_with_manifest = list(catalog.repositories())
    repository.manifests.delete(manifest.digest)

    assert listed_with_manifest == ["org/app"]
    assert list(catalog.repositories()) == []
    with pytest.raises(RepositoryNotFound):
        list(repository.manifests.tags())


def test_a_repository_with_only_a_blob_is_listed_and_has_no_tags(
    catalog: MemoryCatalog, repository: Repository
) -> None:
    put_blob(repository, b"only")

    assert list(catalog.repositories()) == ["org/app"]
    assert list(repository.manifests.tags()) == []


def test_a_failed_put_creates_no_repository(catalog: MemoryCatalog, repository: Repository) -> None:
    with pytest.raises(DigestMismatch):
        repository.blobs.put(Digest.of(b"truth"), 5, BytesSource(b"liars"))

    assert list(catalog.repositories()) == []


def test_the_empty_name_is_listed_first_and_can_be_skipped(catalog: MemoryCatalog, repository: Repository) -> None:
    put_blob(catalog.repository(RepositoryName("")), b"root")
    put_blob(repository, b"other")

    assert list(catalog.repositories()) == ["", "org/app"]
    assert list(catalog.repositories(after=RepositoryName(""))) == ["org/app"]


def test_content_stays_after_close(catalog: MemoryCatalog, repository: Repository) -> None:
    manifest = push_image(repository, "kept", tags=["v1"])

    catalog.close()

    assert repository.manifests.get(Tag("v1")) == manifest


def test_an_open_reader_outlives_the_blob(repository: Repository) -> None:
    digest = put_blob(repository, b"still read")
    reader = repository.blobs.open(digest)

    repository.blobs.delete(digest)

    with reader:
        assert reader.read() == b"still read"


def test_an_existing_blob_counts_as_mounted_from_any_repository(repository: Repository) -> None:
    digest = put_blob(repository, b"here")

    assert repository.blobs.mount(digest, RepositoryName("nowhere"))
    assert repository.blobs.mount(digest, repository.name)


def test_the_source_of_an_existing_blob_is_not_read(repository: Repository) -> None:
    class Unreadable:
        def open(self, start: int = 0) -> ByteReader:
            raise AssertionError("it was opened")

    digest = put_blob(repository, b"here")

    repository.blobs.put(digest, 4, Unreadable())

    assert repository.blobs.stat(digest) == 4


def test_changes_to_returned_objects_do_not_change_the_content(repository: Repository) -> None:
    subject = push_image(repository, "subject")
    manifest = image_manifest(b"{}", subject=_plain(subject), annotations={"key": "value"})
    repository.manifests.put(manifest)

    repository.manifests.get(manifest.digest).mapping["annotations"]["key"] = "changed"
    (listed,) = repository.manifests.referrers(subject.digest)
    listed.annotations["key"] = "changed"
    (listed_again,) = repository.manifests.referrers(subject.digest)

    assert repository.manifests.get(manifest.digest).mapping["annotations"] == {"key": "value"}
    assert listed_again.annotations == {"key": "value"}


def test_a_generic_media_type_is_replaced_by_that_of_the_manifest(repository: Repository) -> None:
    """R-029."""
    content = image_manifest(b"{}").content

    stored = repository.manifests.put(RawManifest("application/json", content))

    assert stored.media_type == OCI_MANIFEST
    assert repository.manifests.get(stored.digest).media_type == OCI_MANIFEST


def test_errors_name_registry_repository_and_tag(repository: Repository) -> None:
    push_image(repository, "other")

    with pytest.raises(ImageNotFound) as caught:
        repository.manifests.untag(Tag("v1"))

    assert caught.value.reference == "memory:/org/app:v1"


def test_errors_of_a_put_name_the_repository(repository: Repository) -> None:
    digest = Digest.of(b"truth")

    with pytest.raises(DigestMismatch) as caught:
        repository.blobs.put(digest, 5, BytesSource(b"liars"))

    assert caught.value.reference == f"memory:/org/app@{digest}"


def test_the_caller_names_the_operation_in_errors_of_a_put(repository: Repository) -> None:
    """An error names the public method that was called, not the method of the store."""
    with pytest.raises(DigestMismatch) as blob, error_context("push_blob"):
        repository.blobs.put(Digest.of(b"truth"), 5, BytesSource(b"liars"))
    with pytest.raises(InvalidDocument) as manifest, error_context("push_image"):
        repository.manifests.put(RawManifest(OCI_MANIFEST, b"{"))

    assert blob.value.operation == "push_blob"
    assert manifest.value.operation == "push_image"


def test_referrers_are_ordered_by_digest(repository: Repository) -> None:
    subject = push_image(repository, "subject")
    for number in range(8):
        repository.manifests.put(image_manifest(b"{}", subject=_plain(subject), annotations={"n": str(number)}))

    listed = [each.digest for each in repository.manifests.referrers(subject.digest)]

    assert listed == sorted(listed)


def _plain(manifest: RawManifest) -> dict[str, object]:
    return {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": len(manifest.content)}
