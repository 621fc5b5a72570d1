"""Copying images, indexes and artifacts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import CancelScope, checkpoint
from registry_core.content.streams import ByteReader, ByteSource, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DigestMismatch,
    ImageNotFound,
    InvalidValue,
    SizeMismatch,
    Unavailable,
)
from registry_core.ops.transfer.copy import copy
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Repository
from registry_core.ports.manifest_store import ManifestStore
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobSkipped, Event

if TYPE_CHECKING:
    Graphs = Any

V1 = Tag("v1")
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


class Events:
    """An observer that records all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)

    def digests(self, kind: type[BlobCopied] | type[BlobMounted] | type[BlobSkipped]) -> list[str]:
        return [event.digest for event in self.events if isinstance(event, kind)]


class Calls:
    """A repository that records its calls and runs a hook before some."""

    def __init__(self, repository: Repository) -> None:
        self.made: list[tuple[str, str]] = []
        self.before_open: Callable[[Digest], None] = lambda digest: None
        self.before_put: Callable[[Digest], None] = lambda digest: None
        self.before_manifest: Callable[[RawManifest], None] = lambda manifest: None
        self.repository = msgspec.structs.replace(
            repository, blobs=_Blobs(repository.blobs, self), manifests=_Manifests(repository.manifests, self)
        )

    def named(self, *names: str) -> list[tuple[str, str]]:
        return [call for call in self.made if call[0] in names]


class _Blobs(BlobStore):
    def __init__(self, inner: BlobStore, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    def stat(self, digest: Digest) -> int:
        self._calls.made.append(("stat", digest))
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        self._calls.made.append(("open", digest))
        self._calls.before_open(digest)
        return self._inner.open(digest, start=start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        self._calls.made.append(("put", digest))
        self._calls.before_put(digest)
        self._inner.put(digest, size, source)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        self._calls.made.append(("mount", digest))
        return self._inner.mount(digest, from_repository)


class _Manifests(ManifestStore):
    def __init__(self, inner: ManifestStore, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        self._calls.made.append(("resolve", reference))
        return self._inner.resolve(reference)

    def get(self, reference: Tag | Digest) -> RawManifest:
        self._calls.made.append(("get", reference))
        return self._inner.get(reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        self._calls.made.append(("put manifest", manifest.digest))
        self._calls.before_manifest(manifest)
        return self._inner.put(manifest, tags=tags)

    def untag(self, tag: Tag) -> None:
        self._inner.untag(tag)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Any:
        return self._inner.tags(after=after, page_size=page_size)

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Any:
        return self._inner.referrers(subject, artifact_type=artifact_type)


class TestContent:
    def test_an_image_is_copied_byte_for_byte_and_tagged(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-026: unusual white space and unknown fields are kept."""
        image = graphs.image(b"layer one", b"layer two")
        unusual = RawManifest(OCI_MANIFEST, image.content.replace(b":2,", b': 2 , "vendor" : null,'))
        source.manifests.put(unusual, tags=(V1,))

        copied = copy(source, target, V1, tags=(Tag("v2"), Tag("v3")))

        assert copied == unusual.descriptor
        assert target.manifests.get(Tag("v2")).content == unusual.content
        assert target.manifests.get(Tag("v3")).content == unusual.content
        for part in unusual.children:
            with target.blobs.open(part.digest) as actual, source.blobs.open(part.digest) as expected:
                assert actual.read() == expected.read()

    def test_an_index_is_copied_completely(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        root = graphs.index(graphs.index(one), two)

        copy(source, target, root.digest)

        for image in (one, two):
            assert target.manifests.get(image.digest).content == image.content
            assert all(target.blobs.stat(part.digest) == part.size for part in image.children)
        assert list(target.manifests.tags()) == []

    def test_the_reference_may_be_text_of_a_tag_or_a_digest(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"1")
        source.manifests.put(root, tags=(V1,))

        assert copy(source, target, "v1").digest == copy(source, target, str(root.digest)).digest == root.digest

    def test_nondistributable_layers_are_not_copied(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-032."""
        foreign = graphs.entry(FOREIGN, b"windows", urls=["https://example.com/layer"])
        root = graphs.image(b"1", layers=[foreign, graphs.entry("application/x-layer", b"1")])
        graphs.blob(b"windows")

        copy(source, target, root.digest)

        with pytest.raises(BlobNotFound):
            target.blobs.stat(Digest.of(b"windows"))
        assert target.blobs.stat(Digest.of(b"1")) == 1

    def test_embedded_content_needs_no_fetch(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-009."""
        config = graphs.entry(OCI_CONFIG, b"{}", data="e30=")
        root = graphs.image(b"1", layers=[], overrides={"config": config})

        copy(source, target, root.digest)

        assert target.blobs.stat(Digest.of(b"{}")) == 2

    def test_an_entry_of_unknown_type_is_copied(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-027: as a blob, where the source has no such manifest."""
        graphs.blob(b"unknown")
        root = graphs.index(graphs.image(b"1"), manifests=[graphs.entry("application/x-unknown", b"unknown")])

        copy(source, target, root.digest)

        assert target.blobs.stat(Digest.of(b"unknown")) == 7

    def test_sha512_content_keeps_its_digests(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        strong = graphs.store(RawManifest(OCI_MANIFEST, graphs.image(b"1").content, "sha512"))

        copied = copy(source, target, strong.digest, tags=(V1,))

        assert copied.digest == strong.digest
        assert target.manifests.get(strong.digest).content == strong.content


class TestCalls:
    def test_an_empty_target_costs_one_request_per_blob_or_manifest_of_the_source(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-012: five layers, one configuration, one manifest; nothing is requested twice or in advance."""
        root = graphs.image(*(bytes([number]) * 10 for number in range(5)))
        source.manifests.put(root, tags=(V1,))
        calls = Calls(source)

        copy(calls.repository, target, V1, tags=(V1,))

        assert len(calls.made) == 7
        assert calls.named("get") == [("get", "v1")]
        assert sorted(calls.named("open")) == sorted(("open", part.digest) for part in root.children)

    def test_a_blob_shared_by_several_images_is_copied_once(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.index(graphs.image(b"shared", b"1"), graphs.image(b"2", b"shared", b"shared"))
        calls = Calls(source)

        copy(calls.repository, target, root.digest)

        assert calls.named("open").count(("open", Digest.of(b"shared"))) == 1

    def test_the_largest_blob_is_copied_first(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        root = graphs.image(b"1" * 50, b"2" * 500, b"3" * 100)
        calls = Calls(source)

        copy(calls.repository, target, root.digest, jobs=1)

        assert calls.named("open")[0] == ("open", Digest.of(b"2" * 500))

    def test_blobs_are_stored_before_manifests_and_tags_last(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-070."""
        one = graphs.image(b"1")
        root = graphs.index(one)
        calls = Calls(target)

        copy(source, calls.repository, root.digest, tags=(V1,))

        stored = [digest for _, digest in calls.named("put", "put manifest")]
        assert stored[2:] == [one.digest, root.digest]
        assert set(stored[:2]) == {part.digest for part in one.children}

    def test_existing_blobs_are_not_copied(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        copy(source, target, graphs.image(b"shared", b"1").digest)
        calls, events = Calls(source), Events()

        copy(calls.repository, target, graphs.image(b"shared", b"2").digest, observer=events)

        assert [digest for _, digest in calls.named("open")] == [Digest.of(b"2")]
        assert Digest.of(b"shared") in events.digests(BlobSkipped)
        assert events.digests(BlobCopied) == [Digest.of(b"2")]

    def test_an_existing_image_is_only_tagged(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        root = graphs.image(b"1")
        copy(source, target, root.digest)
        calls = Calls(target)

        copy(source, calls.repository, root.digest, tags=(V1,))

        assert calls.made == [("resolve", root.digest), ("put manifest", root.digest)]
        assert target.manifests.resolve(V1).digest == root.digest

    def test_an_existing_child_is_skipped_with_its_descendants(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        existing, new = graphs.image(b"1"), graphs.image(b"2")
        copy(source, target, existing.digest)
        calls = Calls(source)

        copy(calls.repository, target, graphs.index(existing, new).digest)

        assert ("get", existing.digest) not in calls.made
        assert ("get", new.digest) in calls.made

    def test_a_blob_of_the_same_registry_is_mounted(self) -> None:
        catalog = MemoryCatalog("one.test")
        source, target = (catalog.repository(RepositoryName(name)) for name in ("a", "b"))
        root = _image(source, b"layer")
        calls, events = Calls(source), Events()

        copy(calls.repository, target, root.digest, observer=events)

        assert calls.named("open", "stat") == []
        assert set(events.digests(BlobMounted)) == {part.digest for part in root.children}

    def test_a_blob_that_cannot_be_mounted_is_copied(self) -> None:
        source = MemoryCatalog("one.test").repository(RepositoryName("a"))
        target = MemoryCatalog("one.test").repository(RepositoryName("b"))
        root = _image(source, b"layer")

        copy(source, target, root.digest)

        assert all(target.blobs.stat(part.digest) == part.size for part in root.children)

    def test_a_blob_of_another_registry_is_not_mounted(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        calls = Calls(target)

        copy(source, calls.repository, graphs.image(b"1").digest)

        assert calls.named("mount") == []


class TestFailures:
    @pytest.mark.parametrize("jobs", [1, 4])
    def test_the_first_error_ends_the_copy_and_no_tag_is_set(
        self, source: Repository, target: Repository, graphs: Graphs, jobs: int
    ) -> None:
        layers = [bytes([number]) * 10 for number in range(8)]
        root = graphs.image(*layers)
        broken = Digest.of(layers[3])
        calls = Calls(source)

        def fail(digest: Digest) -> None:
            if digest == broken:
                raise Unavailable("cut off")

        calls.before_open = fail

        with pytest.raises(Unavailable) as caught:
            copy(calls.repository, target, root.digest, tags=(V1,), jobs=jobs)

        assert caught.value.operation == "copy"
        assert caught.value.reference == source.at(broken)
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(V1)

    def test_copies_of_other_blobs_are_cancelled_after_a_failure(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"slow" * 10, b"bad", config=b"{}")
        calls, waiting = Calls(source), threading.Event()
        ended: list[type[BaseException]] = []

        def hook(digest: Digest) -> None:
            if digest == Digest.of(b"bad"):
                assert waiting.wait(20)
                raise Unavailable("cut off")
            if digest == Digest.of(b"slow" * 10):
                waiting.set()
                try:
                    while True:
                        checkpoint()
                except Cancelled as error:
                    ended.append(type(error))
                    raise

        calls.before_open = hook

        with pytest.raises(Unavailable):
            copy(calls.repository, target, root.digest, jobs=3)

        assert ended == [Cancelled]

    def test_an_error_about_wrong_content_names_the_source(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-003."""
        image = graphs.image(b"truth")
        wrong = msgspec.structs.replace(source, blobs=_WrongBlobs(source.blobs, Calls(source)))

        with pytest.raises((DigestMismatch, SizeMismatch)) as caught:
            copy(wrong, target, image.digest, tags=(V1,))

        assert caught.value.operation == "copy"
        assert caught.value.reference in {source.at(part.digest) for part in image.children}
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(image.digest)

    def test_an_error_of_the_target_names_the_target(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root, calls = graphs.image(b"1"), Calls(target)

        def refuse(manifest: RawManifest) -> None:
            raise Unavailable("out of order")

        calls.before_manifest = refuse

        with pytest.raises(Unavailable) as caught:
            copy(source, calls.repository, root.digest)

        assert caught.value.reference == target.at(root.digest)

    def test_a_cancelled_copy_raises_cancelled_and_stores_no_manifest(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root, calls = graphs.image(b"1", b"2", b"3"), Calls(source)

        with CancelScope() as scope:
            calls.before_open = lambda digest: scope.cancel()
            with pytest.raises(Cancelled):
                copy(calls.repository, target, root.digest)

        with pytest.raises(ImageNotFound):
            target.manifests.resolve(root.digest)

    def test_a_single_string_as_tags_is_refused(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        root = graphs.image(b"1")

        with pytest.raises(InvalidValue) as caught:
            copy(source, target, root.digest, tags="v1")

        assert (caught.value.operation, caught.value.reference) == ("copy", str(source))
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(root.digest)

    def test_zero_jobs_are_refused(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        with pytest.raises(InvalidValue):
            copy(source, target, graphs.image(b"1").digest, jobs=0)

    def test_the_error_of_an_absent_image_names_the_source(self, source: Repository, target: Repository) -> None:
        with pytest.raises(ImageNotFound) as caught:
            copy(source, target, V1)

        assert caught.value.reference == source.at(V1)


class TestLostBlobs:
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_target_that_lost_a_blob_gets_it_again(
        self, source: Repository, target: Repository, graphs: Graphs, nested: bool
    ) -> None:
        """R-078: the target reports the blobs as present, and refuses the manifest because they are absent."""
        image = graphs.image(b"1")
        root = graphs.index(image) if nested else image
        calls = Calls(target)
        for part in image.children:
            with source.blobs.open(part.digest) as reader:
                calls.repository.blobs.put(part.digest, part.size, _source(reader.read()))
        if nested:
            target.manifests.put(image)
        calls.made.clear()

        def refuse_until_stored(manifest: RawManifest) -> None:
            stored = {digest for _, digest in calls.named("put")}
            if manifest.digest == root.digest and not {part.digest for part in image.children} <= stored:
                raise BlobNotFound("a part is missing", code="MANIFEST_BLOB_UNKNOWN")

        calls.before_manifest = refuse_until_stored

        copy(source, calls.repository, root.digest, tags=(V1,))

        assert target.manifests.resolve(V1).digest == root.digest
        assert len(calls.named("put")) == 2

    def test_a_refused_manifest_is_repeated_once_only(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-078."""
        root, calls = graphs.image(b"1"), Calls(target)

        def refuse(manifest: RawManifest) -> None:
            raise BlobNotFound("a part is missing", code="MANIFEST_BLOB_UNKNOWN")

        calls.before_manifest = refuse

        with pytest.raises(BlobNotFound):
            copy(source, calls.repository, root.digest)

        assert len(calls.named("put manifest")) == 2


class _WrongBlobs(_Blobs):
    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        return _source(b"lies!").open(start)


class TestOptions:
    def test_foreign_layers_are_copied_on_request(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-032."""
        graphs.blob(b"theirs")
        root = graphs.image(b"ours", overrides={"layers": [graphs.entry(FOREIGN, b"theirs")]})

        copy(source, target, root.digest, options=CopyOptions(foreign_layers=True))

        assert target.blobs.stat(Digest.of(b"theirs")) == 6

    def test_a_tag_of_another_image_is_kept_on_request(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Callable[[Repository], Any]
    ) -> None:
        root, expected = graphs.image(b"ours"), graphs_of(target).image(b"theirs")
        target.manifests.put(expected, tags=(V1,))

        copy(source, target, root.digest, tags=(V1, Tag("v2")), options=CopyOptions(overwrite=False))

        assert target.manifests.resolve(V1).digest == expected.digest
        assert target.manifests.resolve(Tag("v2")).digest == root.digest

    def test_the_descriptor_of_the_rewritten_index_is_returned(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        platforms = [{"os": "linux", "architecture": each} for each in ("amd64", "arm64")]
        root = graphs.index(graphs.image(b"1"), graphs.image(b"2"), platforms=platforms)
        options = CopyOptions(platforms=("linux/amd64",), index_mode=IndexMode.REWRITTEN)

        copied = copy(source, target, root.digest, tags=(V1,), options=options)

        assert copied.digest == target.manifests.resolve(V1).digest != root.digest


def _source(content: bytes) -> ByteSource:
    return BytesSource(content)


def _image(repository: Repository, layer: bytes) -> RawManifest:
    config = b"{}"
    for content in (config, layer):
        repository.blobs.put(Digest.of(content), len(content), _source(content))
    entries = [
        {"mediaType": kind, "digest": Digest.of(content), "size": len(content)}
        for kind, content in ((OCI_CONFIG, config), ("application/x-layer", layer))
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    raw = RawManifest(OCI_MANIFEST, strict_json.encode(document))
    repository.manifests.put(raw)
    return raw
