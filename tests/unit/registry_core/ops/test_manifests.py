"""Fetching manifests and walking their graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_MANIFEST, OCI_MANIFEST
from registry_core.domain.names import Tag
from registry_core.errors import DigestMismatch, ImageNotFound, InvalidDocument, SizeMismatch, TooLarge
from registry_core.ops import manifests
from registry_core.ops.builder.staged import StagedManifests
from registry_core.ops.manifests import GraphLimits, ManifestQueue, fetch_child, fetch_manifest, walk, walk_indexes
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any


class _Swapped(StagedManifests):
    """Answers every question with the same manifest."""

    def __init__(self, answer: RawManifest) -> None:
        super().__init__()
        self._answer = answer

    def get(self, reference: Tag | Digest) -> RawManifest:
        return self._answer


def swapped(repository: Repository, answer: RawManifest) -> Repository:
    return msgspec.structs.replace(repository, manifests=_Swapped(answer))


class TestWalk:
    def test_children_come_before_parents_and_the_root_last(self, source: Repository, graphs: Graphs) -> None:
        one, two = graphs.image(b"1"), graphs.image(b"2")
        inner = graphs.index(one, two)
        root = graphs.index(inner, one)

        order = [manifest.digest for manifest in walk(source, root)]

        assert order == [one.digest, two.digest, inner.digest, root.digest]

    def test_a_missing_child_is_an_error(self, source: Repository, graphs: Graphs) -> None:
        one = graphs.image(b"1")
        root = graphs.index(one)
        source.manifests.delete(one.digest)

        with pytest.raises(ImageNotFound):
            list(walk(source, root))

    def test_indexes_nest_sixteen_deep_and_no_deeper(self, source: Repository, graphs: Graphs) -> None:
        """R-024."""
        root = graphs.image(b"1")
        for _ in range(manifests.DEPTH_LIMIT - 1):
            root = graphs.index(root)

        allowed = list(walk(source, root))

        assert len(allowed) == manifests.DEPTH_LIMIT
        with pytest.raises(TooLarge):
            list(walk(source, graphs.index(root)))

    def test_the_count_of_manifests_is_bounded(
        self, source: Repository, graphs: Graphs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-024."""
        root = graphs.index(*(graphs.image(bytes([number])) for number in range(4)))
        monkeypatch.setattr(manifests, "NODE_LIMIT", 4)

        with pytest.raises(TooLarge):
            list(walk(source, root))

    def test_a_child_that_many_list_is_fetched_once(self, source: Repository, graphs: Graphs) -> None:
        """R-024: a graph whose nodes list the same two children has exponentially many paths."""
        root = graphs.image(b"1")
        for _ in range(manifests.DEPTH_LIMIT - 1):
            root = graphs.index(root, root)

        assert len(list(walk(source, root))) == manifests.DEPTH_LIMIT


class TestWalkIndexes:
    def test_images_come_in_document_order_and_indexes_after_their_entries(
        self, source: Repository, graphs: Graphs
    ) -> None:
        one, two, three = graphs.image(b"1"), graphs.image(b"2"), graphs.image(b"3")
        inner = graphs.index(two)
        root = graphs.index(one, inner, three)

        order = [found.digest for found in walk_indexes(source, root)]

        assert order == [one.digest, two.digest, inner.digest, three.digest, root.digest]

    def test_images_are_not_fetched(self, source: Repository, graphs: Graphs) -> None:
        one = graphs.image(b"1")
        root = graphs.index(one)
        source.manifests.delete(one.digest)

        assert [found.digest for found in walk_indexes(source, root)] == [one.digest, root.digest]

    def test_indexes_nest_sixteen_deep_and_no_deeper(self, source: Repository, graphs: Graphs) -> None:
        """R-024."""
        root = graphs.index()
        for _ in range(manifests.DEPTH_LIMIT - 1):
            root = graphs.index(root)

        assert len(list(walk_indexes(source, root))) == manifests.DEPTH_LIMIT
        with pytest.raises(TooLarge, match="nested more than 16 deep"):
            list(walk_indexes(source, graphs.index(root)))


class TestManifestQueue:
    def test_each_digest_comes_out_once_and_the_least_deep_first(self) -> None:
        children = {"a": "bc", "b": "d", "c": "bda"}
        queue = ManifestQueue([_descriptor("a")])

        order = []
        for found in queue:
            name = found.annotations["name"]
            order.append((name, queue.depth))
            for child in children.get(name, ""):
                queue.add(_descriptor(child))

        assert order == [("a", 1), ("b", 2), ("c", 2), ("d", 3)]

    def test_only_new_digests_count(self) -> None:
        queue = ManifestQueue(limits=GraphLimits(count=1))

        assert [queue.add(_descriptor("a")), queue.add(_descriptor("a"))] == [True, False]
        with pytest.raises(TooLarge, match="more than 1 manifests"):
            queue.add(_descriptor("b"))

    def test_depth_is_bounded(self) -> None:
        """R-024, R-025."""
        queue = ManifestQueue([_descriptor("0")], limits=GraphLimits(what="referrers"))

        with pytest.raises(TooLarge, match="referrers nested more than 16 deep"):
            for number, _ in enumerate(queue, 1):
                queue.add(_descriptor(str(number)))

        assert queue.depth == manifests.DEPTH_LIMIT


def _descriptor(name: str) -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST, digest=Digest.of(name.encode()), size=len(name), annotations={"name": name}
    )


class TestChild:
    def test_bytes_that_differ_from_the_digest_are_refused(self, source: Repository, graphs: Graphs) -> None:
        """R-003: also if the backend did not verify them."""
        one, other = graphs.image(b"1"), graphs.image(b"2")

        with pytest.raises(DigestMismatch) as caught:
            fetch_manifest(swapped(source, other), one.digest)

        assert (caught.value.expected, caught.value.actual) == (one.digest, other.digest)

    def test_a_size_that_differs_from_the_descriptor_is_refused(self, source: Repository, graphs: Graphs) -> None:
        """R-004."""
        one = graphs.image(b"1")

        with pytest.raises(SizeMismatch):
            fetch_child(source, msgspec.structs.replace(one.descriptor, size=one.descriptor.size + 1))

    def test_a_media_type_that_differs_from_the_descriptor_is_refused(self, source: Repository, graphs: Graphs) -> None:
        """R-020."""
        one = graphs.image(b"1")

        with pytest.raises(InvalidDocument):
            fetch_child(source, msgspec.structs.replace(one.descriptor, media_type=DOCKER_MANIFEST))

    def test_embedded_content_saves_the_fetch(self, source: Repository, graphs: Graphs) -> None:
        """R-009."""
        one = graphs.image(b"1")
        source.manifests.delete(one.digest)

        found = fetch_child(source, msgspec.structs.replace(one.descriptor, data=one.content))

        assert (found.content, found.media_type) == (one.content, OCI_MANIFEST)

    def test_embedded_content_is_verified(self, source: Repository, graphs: Graphs) -> None:
        """R-009."""
        one = graphs.image(b"1")

        with pytest.raises(DigestMismatch):
            fetch_child(source, msgspec.structs.replace(one.descriptor, data=bytes(one.descriptor.size)))

    def test_a_sha512_child_keeps_its_name(self, source: Repository, graphs: Graphs) -> None:
        one = graphs.image(b"1")
        strong = graphs.store(RawManifest(one.media_type, one.content, "sha512"))

        found = fetch_child(source, strong.descriptor)

        assert found.digest == Digest.of(one.content, "sha512")
