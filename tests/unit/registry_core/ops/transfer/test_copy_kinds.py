"""Copies of manifests of other kinds: artifact manifests, and kinds whose parts are unknown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_ARTIFACT_MANIFEST, OCI_INDEX, ORAS_ARTIFACT_MANIFEST
from registry_core.domain.names import Tag
from registry_core.errors import BlobNotFound, ImageNotFound, Unsupported
from registry_core.ops.transfer.copy import copy, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import NodeKind, Outcome, Side
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import CopyWarning, Event, Observer
from registry_core.testing.content import artifact_manifest, descriptor_field, put_blob

if TYPE_CHECKING:
    Graphs = Any

ARTIFACTS = (OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST)
UNKNOWN = "application/vnd.example.thing.v1+json"
V1 = Tag("v1")


def put_artifact(repository: Repository, media_type: str, *contents: bytes, **fields: object) -> RawManifest:
    for content in contents:
        put_blob(repository, content)
    artifact = artifact_manifest(contents, media_type=media_type, **fields)
    repository.manifests.put(artifact)
    return artifact


def unknown_manifest(**fields: object) -> RawManifest:
    return RawManifest(UNKNOWN, strict_json.encode({"mediaType": UNKNOWN, **fields}))


class Recorder(Observer):
    def __init__(self) -> None:
        self.warnings: list[CopyWarning] = []

    def on(self, event: Event) -> None:
        if isinstance(event, CopyWarning):
            self.warnings.append(event)


@pytest.mark.parametrize("media_type", ARTIFACTS)
class TestArtifactManifests:
    """R-016."""

    def test_the_blobs_are_copied(self, source: Repository, target: Repository, media_type: str) -> None:
        artifact = put_artifact(source, media_type, b"one", b"two")

        plan = plan_copy(source, target, artifact.digest, tags=[V1])
        copy(source, target, artifact.digest, tags=[V1])

        assert [node.kind for node in plan.nodes].count(NodeKind.BLOB) == 2
        assert target.manifests.get(V1) == artifact
        assert [target.blobs.stat(Digest.of(content)) for content in (b"one", b"two")] == [3, 3]
        assert validate(target, artifact.digest).findings == ()

    def test_a_missing_blob_is_an_error(self, source: Repository, target: Repository, media_type: str) -> None:
        artifact = put_artifact(source, media_type, b"one")
        source.blobs.delete(Digest.of(b"one"))

        with pytest.raises(BlobNotFound):
            copy(source, target, artifact.digest, tags=[V1])
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(V1)
        assert "blob is missing" in validate(source, artifact.digest).errors[0].what

    def test_entries_of_an_index_are_followed(
        self, source: Repository, target: Repository, graphs: Graphs, media_type: str
    ) -> None:
        artifact = put_artifact(source, media_type, b"one")
        root = graphs.index(graphs.image(b"1"), artifact)

        copy(source, target, root.digest)

        assert target.manifests.get(artifact.digest) == artifact
        assert target.blobs.stat(Digest.of(b"one")) == 3

    def test_referrers_are_found_and_copied(
        self, source: Repository, target: Repository, graphs: Graphs, media_type: str
    ) -> None:
        image = graphs.image(b"1")
        subject = {"mediaType": image.media_type, "digest": str(image.digest), "size": len(image.content)}
        artifact = put_artifact(source, media_type, b"signature", subject=subject, artifactType="a/b")

        copy(source, target, image.digest, options=CopyOptions(referrers=True))

        (found,) = target.manifests.referrers(image.digest)
        assert (found.digest, found.artifact_type) == (artifact.digest, "a/b")
        assert target.blobs.stat(Digest.of(b"signature")) == 9

    def test_a_platform_does_not_matter(self, source: Repository, target: Repository, media_type: str) -> None:
        artifact = put_artifact(source, media_type, b"one")

        options = CopyOptions(platforms=["linux/amd64"], index_mode="rewritten")

        assert copy(source, target, artifact.digest, options=options).digest == artifact.digest
        assert target.blobs.stat(Digest.of(b"one")) == 3


class TestUnknownKinds:
    """R-016, R-027."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"things": [descriptor_field(b"part", "a/b")]},
            {"config": descriptor_field(b"part", "a/b"), "layers": []},
            {"deep": {"er": [{"digest": str(Digest.of(b"part"))}]}},
            {"names": [f"registry.example.com/app@{Digest.of(b'part')}"]},
            {"by digest": {str(Digest.of(b"part", "sha512")): 1}},
        ],
    )
    def test_one_that_names_digests_is_refused(
        self, source: Repository, target: Repository, graphs: Graphs, fields: dict[str, object]
    ) -> None:
        put_blob(source, b"part")
        unknown = unknown_manifest(**fields)
        source.manifests.put(unknown, tags=[V1])
        root = graphs.index(graphs.image(b"1"), manifests=[graphs.entry(UNKNOWN, unknown.content)])

        for reference in (V1, unknown.digest, root.digest):
            with pytest.raises(Unsupported, match=re.escape(UNKNOWN)) as caught:
                copy(source, target, reference, tags=[V1])
            assert caught.value.reference == source.at(unknown.digest)
            with pytest.raises(Unsupported):
                plan_copy(source, target, reference, tags=[V1])
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(V1)

    def test_one_that_is_refused_fails_alone(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        unknown, image = unknown_manifest(things=[descriptor_field(b"part", "a/b")]), graphs.image(b"1")
        source.manifests.put(unknown)
        tasks = [CopyTask(source=source, target=target, reference=each.digest) for each in (unknown, image)]

        report = run_copies(tasks, continue_on_error=True)

        (failed,) = report.failed
        assert isinstance(failed.error, Unsupported)
        assert (failed.node.digest, failed.failed_side) == (unknown.digest, Side.SOURCE)
        assert target.manifests.get(image.digest) == image

    @pytest.mark.parametrize("as_entry", [True, False])
    def test_the_report_says_that_only_the_bytes_were_copied(
        self, source: Repository, target: Repository, graphs: Graphs, as_entry: bool
    ) -> None:
        image = graphs.image(b"1")
        subject = {"mediaType": image.media_type, "digest": str(image.digest), "size": len(image.content)}
        unknown = unknown_manifest(greeting="hello", subject=subject)
        source.manifests.put(unknown)
        root = graphs.index(manifests=[graphs.entry(UNKNOWN, unknown.content)]) if as_entry else unknown
        observer = Recorder()

        report = run_copies([CopyTask(source=source, target=target, reference=root.digest)], observer=observer)

        (warning,) = report.warnings
        assert report.ok
        assert warning.node.digest == unknown.digest
        assert UNKNOWN in warning.node.note
        assert str(warning) in str(report).splitlines()
        assert [event.reference for event in observer.warnings] == [source.at(unknown.digest)]
        assert target.manifests.get(unknown.digest) == unknown

    def test_the_report_says_that_an_entry_was_copied_as_a_blob(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        put_blob(source, b"unknown")
        root = graphs.index(manifests=[graphs.entry("application/x-unknown", b"unknown")])

        plan = plan_copy(source, target, root.digest)
        report = plan.apply()

        assert [node.note != "" for node in plan.nodes] == [True, False]
        assert [warning.node.kind for warning in report.warnings] == [NodeKind.BLOB]

    def test_known_kinds_have_no_notes(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        artifact = put_artifact(source, OCI_ARTIFACT_MANIFEST, b"one")
        root = graphs.index(graphs.image(b"1"), artifact)

        report = run_copies([CopyTask(source=source, target=target, reference=root.digest, tags=[V1])])

        assert report.warnings == ()
        assert Outcome.FAILED not in report.counts

    def test_a_validation_says_that_parts_were_not_checked(self, source: Repository) -> None:
        unknown = unknown_manifest(things=[descriptor_field(b"part", "a/b")])
        source.manifests.put(unknown)
        index = RawManifest(
            OCI_INDEX,
            strict_json.encode({"schemaVersion": 2, "manifests": [descriptor_field(unknown.content, UNKNOWN)]}),
        )
        source.manifests.put(index)

        for reference in (unknown.digest, index.digest):
            report = validate(source, reference)
            assert report.is_clean
            assert "parts not checked" in report.warnings[0].what
