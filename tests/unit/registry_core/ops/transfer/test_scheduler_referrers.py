"""Referrers of an image are copied with it on request."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import fail_after
from registry_core.content.streams import BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, ImageNotFound, TooLarge, Unavailable
from registry_core.ops.transfer.copy import copy, plan_copies, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import Action, NodeKind, Outcome, Side
from registry_core.ports.catalog import ForeignLayers, Repository
from registry_core.ports.manifest_store import ManifestStore

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Any

V1 = Tag("v1")
CLOSURE = CopyOptions(referrers=True)
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def referrer_of(graphs: Graphs, subject: RawManifest, content: bytes) -> RawManifest:
    entry = graphs.entry(subject.media_type, subject.content)
    made: RawManifest = graphs.image(content, subject=entry, artifactType="application/x-signature")
    return made


def is_stored(repository: Repository, manifest: RawManifest) -> bool:
    try:
        repository.manifests.resolve(manifest.digest)
    except ImageNotFound:
        return False
    return True


class TestReferrers:
    def test_referrers_are_copied_with_their_own_referrers(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-025: of the index, of the images in it, and of the signature itself; subjects first."""
        image = graphs.image(b"1")
        root = graphs.index(image)
        signature, sbom = referrer_of(graphs, root, b"signature"), referrer_of(graphs, image, b"sbom")
        attestation = referrer_of(graphs, signature, b"attested")
        recorded_target = record_calls(target)

        copied = copy(source, recorded_target.repository, root.digest, tags=[V1], options=CLOSURE)

        assert copied == root.descriptor
        order = [digest for call, digest in recorded_target.calls if call == "put manifest"]
        assert set(order) == {each.digest for each in (image, root, signature, sbom, attestation)}
        assert order.index(image.digest) < order.index(sbom.digest)
        assert order.index(root.digest) < order.index(signature.digest) < order.index(attestation.digest)
        assert [entry.digest for entry in target.manifests.referrers(root.digest)] == [signature.digest]

    def test_referrers_are_not_copied_unless_requested(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"1")
        signature = referrer_of(graphs, root, b"signature")

        copy(source, target, root.digest)

        assert not is_stored(target, signature)

    @pytest.mark.parametrize("nested", [False, True])
    def test_new_referrers_of_an_existing_image_are_found(
        self, source: Repository, target: Repository, graphs: Graphs, nested: bool
    ) -> None:
        image = graphs.image(b"1")
        root = graphs.index(image) if nested else image
        source.manifests.put(root, tags=(V1,))
        task = CopyTask(source=source, target=target, reference=V1, tags=(V1,))
        run_copies([task], options=CLOSURE)
        signature = referrer_of(graphs, image, b"signature")

        report = run_copies([task], options=CLOSURE)

        assert is_stored(target, signature)
        assert report.counts[Outcome.MOVED] == 2

    def test_listed_referrers_that_are_absent_are_skipped(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-224: registries keep entries of deleted manifests."""
        root = graphs.image(b"1")
        stale = Descriptor(media_type=root.media_type, digest=Digest.of(b"gone"), size=4)
        source = msgspec.structs.replace(source, manifests=_InventedReferrers(source.manifests, {root.digest: [stale]}))

        assert copy(source, target, root.digest, options=CLOSURE).digest == root.digest

    def test_a_cycle_of_referrers_ends(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-025: lists of referrers are not content-addressed, so they may have cycles."""
        one, two = graphs.image(b"1"), graphs.image(b"2")
        lists = {one.digest: [two.descriptor, one.descriptor], two.digest: [one.descriptor]}
        source = msgspec.structs.replace(source, manifests=_InventedReferrers(source.manifests, lists))

        copy(source, target, one.digest, options=CLOSURE)

        assert is_stored(target, two)

    def test_a_chain_of_referrers_is_limited(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-025."""
        chain = [graphs.image(b"%d" % number) for number in range(40)]
        lists = {one.digest: [other.descriptor] for one, other in itertools.pairwise(chain)}
        source = msgspec.structs.replace(source, manifests=_InventedReferrers(source.manifests, lists))

        with pytest.raises(TooLarge, match="deep"):
            copy(source, target, chain[0].digest, options=CLOSURE)

    def test_a_plan_copies_only_the_referrers_that_it_found(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"1")
        signature = referrer_of(graphs, root, b"signature")
        plan = plan_copy(source, target, root.digest, options=CLOSURE)
        late_signature = referrer_of(graphs, root, b"late")

        report = plan.apply()

        assert {node.digest for node in plan.nodes} >= {root.digest, signature.digest}
        assert {result.node.digest for result in report.results} == {node.digest for node in plan.nodes}
        assert (is_stored(target, signature), is_stored(target, late_signature)) == (True, False)

    def test_a_plan_copies_new_referrers_of_an_existing_image(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"1")
        source.manifests.put(root, tags=(V1,))
        task = CopyTask(source=source, target=target, reference=V1, tags=(V1,))
        run_copies([task])
        signature = referrer_of(graphs, root, b"signature")

        plan_copies([task], options=CLOSURE).apply()

        assert is_stored(target, signature)

    def test_an_unreadable_list_of_referrers_does_not_fail_other_nodes(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        image = graphs.image(b"1")
        root = graphs.index(image)
        recorded_source = record_calls(source)

        def refuse(call: str, argument: str) -> None:
            if call == "referrers" and argument == image.digest:
                raise Unavailable("no list")

        recorded_source.before = refuse
        task = CopyTask(source=recorded_source.repository, target=target, reference=root, tags=(V1,))

        report = run_copies([task], options=CLOSURE, continue_on_error=True)

        (failed,) = report.failed
        assert (failed.failed_side, failed.node.source, failed.node.digest) == (
            Side.SOURCE,
            source.at(image.digest),
            None,
        )
        assert report.counts[Outcome.MOVED] == 4
        assert target.manifests.resolve(V1).digest == root.digest

    def test_an_endless_list_of_referrers_is_refused_and_the_image_copied(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-025."""
        root = graphs.image(b"1")
        flood = (Descriptor(media_type=root.media_type, digest=Digest.of(b"%d" % n), size=1) for n in itertools.count())
        source = msgspec.structs.replace(source, manifests=_InventedReferrers(source.manifests, {root.digest: flood}))
        task = CopyTask(source=source, target=target, reference=root, tags=(V1,))

        with fail_after(60):
            report = run_copies([task], options=CLOSURE, continue_on_error=True)

        (failed,) = report.failed
        assert isinstance(failed.error, TooLarge)
        assert target.manifests.resolve(V1).digest == root.digest

    def test_hundreds_of_failures_for_two_tags_are_all_reported(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"1")
        source.manifests.put(root, tags=(V1, Tag("v2")))
        for number in range(400):
            referrer_of(graphs, root, b"s%d" % number)
        tasks = [CopyTask(source=source, target=target, reference=tag, tags=(tag,)) for tag in (V1, Tag("v2"))]
        plan = plan_copies(tasks, options=CLOSURE)
        for number in range(400):
            source.blobs.delete(Digest.of(b"s%d" % number))

        report = plan.apply(continue_on_error=True, jobs=1)

        assert len(report.failed) == 400
        assert set(target.manifests.tags()) == {V1, Tag("v2")}

    def test_referrers_of_a_failed_manifest_are_not_copied(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"gone")
        signature = referrer_of(graphs, root, b"signature")
        plan = plan_copy(source, target, root.digest, tags=[V1], options=CLOSURE)
        source.blobs.delete(Digest.of(b"gone"))

        report = plan.apply(continue_on_error=True)

        outcomes = {(result.node.kind, result.node.digest): result.outcome for result in report.results}
        assert outcomes[NodeKind.MANIFEST, signature.digest] is Outcome.NOT_DONE
        assert outcomes[NodeKind.TAG, root.digest] is Outcome.NOT_DONE
        assert not is_stored(target, signature)

    def test_referrers_of_a_manifest_that_cannot_be_resolved_are_not_copied(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"1")
        signature = referrer_of(graphs, root, b"signature")
        recorded_target = record_calls(target)
        options = CopyOptions(referrers=True, overwrite=False)
        plan = plan_copy(source, recorded_target.repository, root.digest, tags=[V1], options=options)

        def refuse(call: str, argument: str) -> None:
            if (call, argument) == ("resolve", V1):
                raise Unavailable("busy")

        recorded_target.before = refuse

        report = plan.apply(continue_on_error=True)

        assert {result.node.digest: result.outcome for result in report.results} == {
            root.digest: Outcome.FAILED, signature.digest: Outcome.NOT_DONE,
        }  # fmt: skip


class TestDigestTags:
    def test_digest_tags_of_cosign_are_copied(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        image = graphs.image(b"1")
        root = graphs.index(image)
        tags = [Tag(f"sha256-{image.digest.encoded}.sig"), Tag(f"sha256-{root.digest.encoded}.sbom")]
        for tag in tags:
            source.manifests.put(graphs.image(tag.encode()), tags=(tag,))

        copy(source, target, root.digest, tags=[V1], options=CopyOptions(digest_tags=True))

        assert set(target.manifests.tags()) == {V1, *tags}
        for tag in tags:
            assert target.manifests.get(tag).content == source.manifests.get(tag).content

    def test_a_plan_shows_digest_tags(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        root = graphs.image(b"1")
        tag = Tag(f"sha256-{root.digest.encoded}.att")
        source.manifests.put(graphs.image(b"attestation"), tags=(tag,))

        plan = plan_copy(source, target, root.digest, options=CopyOptions(digest_tags=True))
        plan.apply()

        (shown,) = (node for node in plan.nodes if node.kind is NodeKind.TAG)
        assert (shown.action, shown.target) == (Action.TAG, target.at(tag))
        assert target.manifests.resolve(tag).digest == source.manifests.resolve(tag).digest

    @pytest.mark.parametrize("planned", [False, True])
    def test_two_tags_of_one_manifest_are_both_set(
        self, source: Repository, target: Repository, graphs: Graphs, planned: bool
    ) -> None:
        root, signed = graphs.image(b"1"), graphs.image(b"both")
        tags = [Tag(f"sha256-{root.digest.encoded}.{suffix}") for suffix in ("att", "sbom")]
        source.manifests.put(signed, tags=tags)
        task = CopyTask(source=source, target=target, reference=root)
        options = CopyOptions(digest_tags=True)

        report = plan_copies([task], options=options).apply() if planned else run_copies([task], options=options)

        assert report.counts[Outcome.TAGGED] == 2
        assert [target.manifests.resolve(tag).digest for tag in tags] == [signed.digest, signed.digest]

    def test_other_digest_tags_are_set_when_one_is_kept(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Any
    ) -> None:
        root = graphs.image(b"1")
        tags = [Tag(f"sha256-{root.digest.encoded}.{suffix}") for suffix in ("sig", "att", "sbom")]
        for tag in tags:
            source.manifests.put(graphs.image(tag.encode()), tags=(tag,))
        options = CopyOptions(digest_tags=True, overwrite=False)
        plan = plan_copy(source, target, root.digest, options=options)
        other_image = graphs_of(target).image(b"theirs")
        target.manifests.put(other_image, tags=tags[:2])

        report = plan.apply()

        assert report.counts[Outcome.KEPT] == 2
        assert target.manifests.resolve(tags[0]).digest == other_image.digest
        assert target.manifests.resolve(tags[2]).digest == source.manifests.resolve(tags[2]).digest

    def test_a_referrer_that_cannot_be_resolved_does_not_end_later_images(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        roots = [graphs.image(b"%d" % number) for number in range(5)]
        tag = Tag(f"sha256-{roots[0].digest.encoded}.sig")
        source.manifests.put(graphs.image(b"signature"), tags=(tag,))
        recorded_target = record_calls(target)
        tasks = [
            CopyTask(source=source, target=recorded_target.repository, reference=root, tags=(Tag(f"v{number}"),))
            for number, root in enumerate(roots)
        ]
        plan = plan_copies(tasks, options=CopyOptions(digest_tags=True, overwrite=False))

        def refuse(call: str, argument: str) -> None:
            if (call, argument) == ("resolve", tag):
                raise Unavailable("busy")

        recorded_target.before = refuse

        report = plan.apply(continue_on_error=True, images=1)

        (failed,) = report.failed
        assert failed.failed_side is Side.TARGET
        assert set(target.manifests.tags()) == {f"v{number}" for number in range(5)}


class TestForeignLayers:
    def test_missing_foreign_layers_are_not_copied_unless_requested(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-032, R-078: other blobs are stored again, nondistributable layers are not."""
        layers = [graphs.entry(FOREIGN, b"foreign", urls=["https://a.test/x"])]
        root = graphs.image(b"foreign", overrides={"layers": layers})
        recorded_target = record_calls(target)

        def refuse(call: str, argument: str) -> None:
            if call == "put manifest":
                raise BlobNotFound("blob unknown", code="MANIFEST_BLOB_UNKNOWN")

        recorded_target.before = refuse

        with pytest.raises(BlobNotFound) as caught:
            copy(source, recorded_target.repository, root.digest)

        assert caught.value.reference == target.at(root.digest)
        assert recorded_target.count("put blob", Digest.of(b"foreign")) == 0
        assert recorded_target.count("put blob", root.image.config.digest) == 2

    def test_foreign_layers_are_copied_on_request(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """R-032."""
        layer = graphs.entry(FOREIGN, b"windows", urls=["https://example.com/layer"])
        root = graphs.image(layers=[layer])
        graphs.blob(b"windows")

        copy(source, target, root.digest, options=CopyOptions(foreign_layers=True))

        assert target.blobs.stat(Digest.of(b"windows")) == 7

    def test_foreign_layers_absent_from_the_source_are_read_from_their_urls(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-032."""
        layer = graphs.entry(FOREIGN, b"windows", urls=["https://example.com/layer"])
        root = graphs.image(layers=[layer])
        with_foreign_layers = msgspec.structs.replace(source, foreign_layers=_RecordingForeignLayers(b"windows"))

        copy(with_foreign_layers, target, root.digest, options=CopyOptions(foreign_layers=True))

        assert target.blobs.stat(Digest.of(b"windows")) == 7
        with pytest.raises(BlobNotFound):
            copy(source, _empty_repository(), root.digest, options=CopyOptions(foreign_layers=True))


class _RecordingForeignLayers(ForeignLayers):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, layer: Descriptor, *, start: int = 0) -> Any:

        return BytesSource(self._content).open(start)


class _InventedReferrers(ManifestStore):
    """A manifest store with invented lists of referrers."""

    def __init__(self, inner: ManifestStore, lists: Mapping[Digest, Iterable[Descriptor]]) -> None:
        self._inner = inner
        self._lists = lists

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        return self._inner.resolve(reference)

    def get(self, reference: Tag | Digest) -> RawManifest:
        return self._inner.get(reference)

    def put(self, manifest: RawManifest, *, tags: Any = ()) -> Descriptor:
        return self._inner.put(manifest, tags=tags)

    def untag(self, tag: Tag) -> None:
        self._inner.untag(tag)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        return self._inner.tags(after=after, page_size=page_size)

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        return iter(self._lists.get(subject, []))


def _empty_repository() -> Repository:
    return MemoryCatalog("fresh.test").repository(RepositoryName("app"))
