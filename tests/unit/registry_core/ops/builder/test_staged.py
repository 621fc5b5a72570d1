"""Repositories with content that is not stored yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_MANIFEST
from registry_core.domain.names import Tag
from registry_core.errors import BlobNotFound, DigestMismatch, ImageNotFound, InvalidDocument, SizeMismatch
from registry_core.ops.builder.staged import StagedBlobs, stage_blob, staged_repository
from registry_core.ports.catalog import BlobLocation, Repository

if TYPE_CHECKING:
    Graphs = Any

TRUTH = b"truth"


@pytest.fixture
def staged() -> Repository:
    return staged_repository()


def test_a_blob_is_read_from_anywhere_in_it(staged: Repository) -> None:
    staged.blobs.put(Digest.of(TRUTH), len(TRUTH), BytesSource(TRUTH))

    with staged.blobs.open(Digest.of(TRUTH), start=2) as reader:
        assert reader.read() == b"uth"
    assert staged.blobs.stat(Digest.of(TRUTH)) == len(TRUTH)


def test_wrong_bytes_are_refused_and_nothing_is_left(staged: Repository) -> None:
    with pytest.raises(DigestMismatch):
        staged.blobs.put(Digest.of(TRUTH), len(TRUTH), BytesSource(b"liars"))
    with pytest.raises(SizeMismatch):
        staged.blobs.put(Digest.of(TRUTH), 1, BytesSource(TRUTH))

    with pytest.raises(BlobNotFound):
        staged.blobs.stat(Digest.of(TRUTH))


def test_a_deleted_blob_is_gone(staged: Repository) -> None:
    staged.blobs.put(Digest.of(TRUTH), len(TRUTH), BytesSource(TRUTH))

    staged.blobs.delete(Digest.of(TRUTH))

    for ask in (staged.blobs.stat, staged.blobs.open, staged.blobs.delete):
        with pytest.raises(BlobNotFound):
            ask(Digest.of(TRUTH))


def test_a_staged_blob_stays_where_it_is_until_it_is_read(source: Repository, graphs: Graphs) -> None:
    part = graphs.image(b"layer").children[1]
    blobs = StagedBlobs()

    stage_blob(blobs, source, part)

    assert blobs.stat(part.digest) == part.size
    with blobs.open(part.digest, start=3) as reader:
        assert reader.read() == b"er"
    source.blobs.delete(part.digest)
    with pytest.raises(BlobNotFound):
        blobs.open(part.digest)


def test_an_adopted_blob_has_the_location_of_its_source(source: Repository, graphs: Graphs) -> None:
    part = graphs.image(b"layer").children[1]
    first, second = StagedBlobs(), StagedBlobs()
    stage_blob(first, source, part)

    stage_blob(second, staged_repository(first), part)

    home = BlobLocation(source.registry, source.name)
    assert staged_repository(second).blob_location(part.digest) == source.blob_location(part.digest) == home
    second.delete(part.digest)
    assert second.locate(part.digest) is None


def test_a_new_blob_has_no_location(staged: Repository) -> None:
    staged.blobs.put(Digest.of(TRUTH), len(TRUTH), BytesSource(TRUTH))

    assert staged.blob_location(Digest.of(TRUTH)) is None


def test_manifests_are_found_by_tag_and_digest_until_they_are_deleted(staged: Repository, graphs: Graphs) -> None:
    raw = graphs.image(b"1")

    staged.manifests.put(raw, tags=(Tag("b"), Tag("a"), Tag("c")))
    staged.manifests.untag(Tag("c"))

    assert staged.manifests.get(Tag("a")) is staged.manifests.get(raw.digest) is raw
    assert staged.manifests.resolve(Tag("b")) == raw.descriptor
    assert list(staged.manifests.tags()) == ["a", "b"]
    assert list(staged.manifests.tags(after=Tag("a"))) == ["b"]
    staged.manifests.delete(raw.digest)
    assert list(staged.manifests.tags()) == []
    for ask in (staged.manifests.get, staged.manifests.resolve, staged.manifests.delete):
        with pytest.raises(ImageNotFound):
            ask(raw.digest)
    with pytest.raises(ImageNotFound):
        staged.manifests.untag(Tag("a"))


def test_invalid_manifests_are_refused(staged: Repository) -> None:
    with pytest.raises(InvalidDocument):
        staged.manifests.put(RawManifest(OCI_MANIFEST, b"{}"))


def test_referrers_are_listed(staged: Repository, graphs: Graphs) -> None:
    raw = graphs.image(b"1")
    about = graphs.entry(raw.media_type, raw.content)
    signature = graphs.image(b"2", subject=about, artifactType="application/x-signature")
    for each in (raw, signature):
        staged.manifests.put(each)

    assert [entry.digest for entry in staged.manifests.referrers(raw.digest)] == [signature.digest]
    assert list(staged.manifests.referrers(raw.digest, artifact_type="application/x-other")) == []


def test_errors_say_where_something_is_missing(staged: Repository) -> None:
    """A digest alone could be anywhere."""
    digest = Digest.of(b"absent")

    for reference, ask in (
        (digest, lambda: staged.blobs.stat(digest)),
        (digest, lambda: staged.blobs.delete(digest)),
        (digest, lambda: staged.manifests.get(digest)),
        (Tag("v1"), lambda: staged.manifests.get(Tag("v1"))),
        (Tag("v1"), lambda: staged.manifests.untag(Tag("v1"))),
    ):
        with pytest.raises((BlobNotFound, ImageNotFound)) as caught:
            ask()

        assert caught.value.reference == staged.at(reference)
