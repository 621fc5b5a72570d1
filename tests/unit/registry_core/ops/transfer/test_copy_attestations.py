"""Copies of indexes whose attestations are left out, or are missing in the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_ARTIFACT_MANIFEST
from registry_core.domain.names import Tag
from registry_core.errors import (
    BlobNotFound,
    Forbidden,
    ImageNotFound,
    InvalidValue,
    ProtocolError,
    RegistryError,
    Unavailable,
)
from registry_core.ops.transfer.copy import copy, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask, IndexMode
from registry_core.ops.transfer.report import Action, Outcome
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordedRepository = Any

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
V1 = Tag("v1")


class AttestedIndex:
    """An index of two images, each with an attestation."""

    def __init__(self, graphs: Graphs) -> None:
        self.images = [graphs.image(b"amd64"), graphs.image(b"arm64", config=b'{"os":"linux","architecture":"arm64"}')]
        unknown = b'{"os":"unknown","architecture":"unknown"}'
        self.attestations = [graphs.image(proof, config=unknown) for proof in (b"of amd64", b"of arm64")]
        self.entries = [
            graphs.entry(image.media_type, image.content, platform=platform)
            for image, platform in zip(self.images, (AMD64, ARM64), strict=True)
        ] + [
            graphs.entry(
                each.media_type,
                each.content,
                platform=UNKNOWN,
                annotations={
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": str(image.digest),
                },
            )
            for each, image in zip(self.attestations, self.images, strict=True)
        ]
        self.root = graphs.index(manifests=self.entries)
        self.repository: Repository = graphs.repository
        self.repository.manifests.put(self.root, tags=(V1,))

    def lose(self, manifest: RawManifest) -> None:
        self.repository.manifests.delete(manifest.digest)


@pytest.fixture
def recorded_source(record_calls: type[RecordedRepository], source: Repository) -> RecordedRepository:
    return record_calls(source)


@pytest.fixture
def attested(graphs: Graphs) -> AttestedIndex:
    return AttestedIndex(graphs)


def entries_of(repository: Repository, manifest: RawManifest) -> list[object]:
    found: list[object] = repository.manifests.get(manifest.digest).mapping["manifests"]
    return found


def stored(repository: Repository, *manifests: RawManifest) -> list[bool]:
    found = []
    for manifest in manifests:
        try:
            repository.manifests.resolve(manifest.digest)
        except ImageNotFound:
            found.append(False)
        else:
            found.append(True)
    return found


def missing(repository: Repository) -> list[str]:
    """Findings of a validation of the copy about missing content."""
    findings = validate(repository, V1).findings
    return [finding.what for finding in findings if "missing" in finding.what or "no such" in finding.what]


def has_tag(repository: Repository) -> bool:
    try:
        repository.manifests.resolve(V1)
    except ImageNotFound:
        return False
    return True


class TestLeftOut:
    def test_a_new_index_lists_the_images(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        copied = copy(source, target, V1, tags=[V1], options=CopyOptions(attestations=False))

        found = target.manifests.get(copied.digest)
        assert found.mapping == {**attested.root.mapping, "manifests": attested.entries[:2]}
        assert stored(target, *attested.images, *attested.attestations) == [True, True, False, False]
        assert missing(target) == []

    def test_a_sparse_index_keeps_its_bytes(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        options = CopyOptions(attestations=False, index_mode=IndexMode.SPARSE)

        copied = copy(source, target, V1, options=options)

        assert copied == attested.root.descriptor
        assert stored(target, *attested.images, *attested.attestations) == [True, True, False, False]

    @pytest.mark.parametrize("mode", IndexMode)
    def test_together_with_platforms(
        self, source: Repository, target: Repository, attested: AttestedIndex, mode: IndexMode
    ) -> None:
        options = CopyOptions(platforms=["linux/arm64"], index_mode=mode, attestations=False)

        copied = copy(source, target, V1, options=options)

        expected = attested.entries if mode is IndexMode.SPARSE else [attested.entries[1]]
        assert target.manifests.get(copied.digest).mapping["manifests"] == expected
        assert stored(target, *attested.images, *attested.attestations) == [False, True, False, False]

    def test_a_copy_with_them_is_replaced(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        """The tag has the same digest on both sides, but the target is to have another index."""
        copy(source, target, V1, tags=[V1])
        task = CopyTask(source=source, target=target, reference=V1, tags=[V1])

        report = run_copies([task], options=CopyOptions(attestations=False))

        assert report.counts[Outcome.TAGGED] == 1
        assert target.manifests.get(V1).mapping["manifests"] == attested.entries[:2]
        assert run_copies([task], options=CopyOptions(attestations=False)).counts[Outcome.SKIPPED] >= 1

    def test_in_nested_indexes(
        self, source: Repository, target: Repository, graphs: Graphs, attested: AttestedIndex
    ) -> None:
        other = graphs.image(b"other")
        root = graphs.index(attested.root, other)

        copied = copy(source, target, root.digest, options=CopyOptions(attestations=False))

        inner, last = target.manifests.get(copied.digest).children
        assert target.manifests.get(inner.digest).mapping["manifests"] == attested.entries[:2]
        assert last.digest == other.digest

    @pytest.mark.parametrize("mode", IndexMode)
    def test_where_an_index_lists_nothing_else(
        self, source: Repository, target: Repository, graphs: Graphs, attested: AttestedIndex, mode: IndexMode
    ) -> None:
        only = graphs.index(manifests=attested.entries[2:])
        root = graphs.index(attested.images[0], only)

        copied = copy(source, target, root.digest, options=CopyOptions(attestations=False, index_mode=mode))

        inner = target.manifests.get(copied.digest).children[1]
        expected = attested.entries[2:] if mode is IndexMode.SPARSE else []
        assert target.manifests.get(inner.digest).mapping["manifests"] == expected
        assert stored(target, *attested.attestations) == [False, False]

    def test_listed_without_annotations(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        """As in a Docker manifest list, which cannot have annotations."""
        image, proof = graphs.image(b"1"), graphs.image(b"proof", config=b'{"os":"unknown","architecture":"unknown"}')
        root = graphs.index(image, proof, platforms=[AMD64, UNKNOWN])

        copied = copy(source, target, root.digest, options=CopyOptions(attestations=False))

        assert [entry.digest for entry in target.manifests.get(copied.digest).children] == [image.digest]

    @pytest.mark.parametrize("more", [{"annotations": {"vnd.docker.reference.type": "x"}}, {"platform": UNKNOWN}])
    def test_artifact_manifests(
        self, source: Repository, target: Repository, graphs: Graphs, more: dict[str, object]
    ) -> None:
        """Build tools wrote attestations in this form, too."""
        image = graphs.image(b"1")
        lost = graphs.entry(OCI_ARTIFACT_MANIFEST, b"never stored", **more)
        root = graphs.index(image, manifests=[graphs.entry(image.media_type, image.content, platform=AMD64), lost])

        copied = copy(source, target, root.digest, options=CopyOptions(attestations=False))

        assert [entry.digest for entry in target.manifests.get(copied.digest).children] == [image.digest]

    def test_an_image_with_an_unknown_platform_is_kept(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """The entry looks like an attestation, but the configuration of the image states a platform."""
        image = graphs.image(b"1")
        root = graphs.index(image, platforms=[UNKNOWN])

        assert copy(source, target, root.digest, options=CopyOptions(attestations=False)) == root.descriptor

        assert stored(target, image) == [True]

    def test_an_index_without_any_is_copied_unchanged(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        unknown = graphs.entry("application/x-unknown", b"unknown")
        graphs.blob(b"unknown")
        image = graphs.image(b"1")
        root = graphs.index(image, graphs.index(), manifests=[graphs.entry(image.media_type, image.content), unknown])

        for reference in (root.digest, image.digest):
            assert copy(source, target, reference, options=CopyOptions(attestations=False)).digest == reference

    def test_options_are_checked(self) -> None:
        assert CopyOptions(attestations=False, index_mode="sparse").index_mode is IndexMode.SPARSE
        with pytest.raises(InvalidValue, match="attestations"):
            CopyOptions(index_mode="sparse")
        with pytest.raises(InvalidValue, match="index_mode"):
            CopyOptions(platforms=["linux/amd64"], attestations=False)
        with pytest.raises(InvalidValue):
            CopyOptions(attestations=0)  # type: ignore[arg-type]  # must be a boolean


class TestMissing:
    """R-018."""

    @pytest.mark.parametrize("mode", IndexMode)
    def test_the_report_says_so_and_the_image_is_copied(
        self, source: Repository, target: Repository, attested: AttestedIndex, mode: IndexMode
    ) -> None:
        attested.lose(attested.attestations[0])
        options = CopyOptions(platforms=["linux/amd64"], index_mode=mode)
        plan = plan_copy(source, target, V1, tags=[V1], options=options)

        report = plan.apply()

        (warning,) = report.warnings
        assert report.ok
        assert [node.digest for node in plan.nodes if node.action is Action.LEAVE_OUT] == [warning.node.digest]
        assert (warning.outcome, warning.node.digest) == (Outcome.LEFT_OUT, attested.attestations[0].digest)
        assert "does not serve it" in str(report)
        assert stored(target, *attested.images) == [True, False]
        if mode is IndexMode.REWRITTEN:
            assert entries_of(target, target.manifests.get(V1)) == [attested.entries[0]]
            assert missing(target) == []
        else:
            assert target.manifests.get(V1) == attested.root
        again = run_copies([CopyTask(source=source, target=target, reference=V1, tags=[V1])], options=options)
        assert (again.ok, len(again.warnings), again.bytes_moved) == (True, 1, 0)

    @pytest.mark.parametrize("mode", IndexMode)
    @pytest.mark.parametrize("refusal", [Forbidden("withheld"), ProtocolError("gone", status=410)])
    def test_those_that_the_source_refuses(
        self,
        source: Repository,
        target: Repository,
        attested: AttestedIndex,
        recorded_source: RecordedRepository,
        mode: IndexMode,
        refusal: RegistryError,
    ) -> None:
        def refuse(call: str, argument: str) -> None:
            if argument == attested.attestations[0].digest:
                raise refusal

        recorded_source.before = refuse
        with pytest.raises(type(refusal), match="attestations=False"):
            copy(recorded_source.repository, target, V1)
        task = CopyTask(source=recorded_source.repository, target=target, reference=V1, tags=[V1])

        report = run_copies([task], options=CopyOptions(platforms=["linux/amd64"], index_mode=mode))

        (warning,) = report.warnings
        assert (report.ok, warning.node.digest) == (True, attested.attestations[0].digest)
        assert refusal.message in str(report)

    @pytest.mark.parametrize("mode", IndexMode)
    @pytest.mark.parametrize("part", [0, 1])
    def test_those_whose_blobs_are_missing(
        self, source: Repository, target: Repository, attested: AttestedIndex, mode: IndexMode, part: int
    ) -> None:
        lost, kept = attested.attestations[0].children[part], attested.attestations[0].children[1 - part]
        source.blobs.delete(lost.digest)
        task = CopyTask(source=source, target=target, reference=V1, tags=[V1])

        report = run_copies([task], options=CopyOptions(platforms=["linux/amd64"], index_mode=mode))

        (warning,) = report.warnings
        assert (report.ok, warning.node.digest) == (True, attested.attestations[0].digest)
        assert stored(target, *attested.attestations) == [False, False]
        with pytest.raises(BlobNotFound):
            target.blobs.stat(kept.digest)

    def test_blobs_that_can_be_read_though_not_looked_up(
        self, target: Repository, attested: AttestedIndex, recorded_source: RecordedRepository
    ) -> None:
        """Storage behind a registry may forbid HEAD."""

        def refuse(call: str, argument: str) -> None:
            if call == "stat":
                raise Forbidden("HEAD is forbidden")

        recorded_source.before = refuse
        task = CopyTask(source=recorded_source.repository, target=target, reference=V1, tags=[V1])

        report = run_copies([task], options=CopyOptions(platforms=["linux/amd64"], index_mode="rewritten"))

        assert (report.ok, report.warnings) == (True, ())
        assert stored(target, *attested.attestations) == [True, False]

    def test_an_outage_is_an_error(
        self, target: Repository, attested: AttestedIndex, recorded_source: RecordedRepository
    ) -> None:
        def fail(call: str, argument: str) -> None:
            if argument == attested.attestations[0].digest:
                raise Unavailable("connection refused")

        recorded_source.before = fail

        with pytest.raises(Unavailable):
            copy(
                recorded_source.repository,
                target,
                V1,
                options=CopyOptions(platforms=["linux/amd64"], index_mode="sparse"),
            )

    def test_only_those_of_selected_images_count(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        attested.lose(attested.attestations[1])
        options = CopyOptions(platforms=["linux/amd64"], index_mode="rewritten")

        report = run_copies([CopyTask(source=source, target=target, reference=V1)], options=options)

        assert report.warnings == ()
        assert stored(target, *attested.attestations) == [True, False]

    def test_where_they_are_left_out_they_are_not_looked_for(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        for each in attested.attestations:
            attested.lose(each)

        report = run_copies(
            [CopyTask(source=source, target=target, reference=V1)], options=CopyOptions(attestations=False)
        )

        assert (report.ok, report.warnings) == (True, ())

    def test_a_missing_image_is_an_error(self, source: Repository, target: Repository, attested: AttestedIndex) -> None:
        attested.lose(attested.images[0])

        for options in (
            CopyOptions(platforms=["linux/amd64"], index_mode="rewritten"),
            CopyOptions(attestations=False),
            CopyOptions(platforms=["linux/amd64"], index_mode="sparse", attestations=False),
        ):
            with pytest.raises(ImageNotFound):
                copy(source, target, V1, tags=[V1], options=options)
        assert not has_tag(target)

    def test_a_copy_of_everything_fails_and_names_the_option(
        self, source: Repository, target: Repository, attested: AttestedIndex
    ) -> None:
        attested.lose(attested.attestations[0])

        with pytest.raises(ImageNotFound, match="attestations=False") as caught:
            copy(source, target, V1, tags=[V1])

        assert caught.value.reference == source.at(attested.attestations[0].digest)
