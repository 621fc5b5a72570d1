"""Everything that can be wrong with an image, reported at once and changed nowhere."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from registry_core.content.source import ByteReader, BytesSource
from registry_core.domain import wire
from registry_core.domain.digest import Digest
from registry_core.domain.findings import Finding, Severity
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import Forbidden, InvalidValue, Unavailable
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.build.builders import ImageBuilder
from registry_core.ops.build.staged import StagedBlobs, StagedManifests
from registry_core.ops.copy import copy
from registry_core.ops.image import Image, Index
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.upkeep.validate import validate
from registry_core.ports.repository import Repository


def _tar(text: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


TAR = _tar("content")
LAYER = gzip.compress(TAR, mtime=0)


def _entry(content: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": str(Digest.of(content)), "size": len(content), **more}


class Careless(StagedBlobs):
    """Blobs of which nobody checks anything."""

    def hold(self, content: bytes, name: bytes | None = None) -> None:
        self.add(Digest.of(content if name is None else name), len(content), BytesSource(content))


class Made:
    """An image in the making, right in every respect until a test changes something."""

    def __init__(self) -> None:
        self.blobs = Careless()
        self.manifests = StagedManifests()
        self.repository = Repository(RepositoryName("made"), self.blobs, self.manifests)
        self.config: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(TAR))]},
            "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True}],
        }
        self.layer = _entry(LAYER, OCI_LAYER_GZIP)
        self.more: dict[str, Any] = {}
        self.blobs.hold(LAYER)

    def image(self) -> RawManifest:
        config = wire.encode(self.config)
        self.blobs.hold(config)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _entry(config, OCI_CONFIG),
            "layers": [self.layer],
        }
        return self.stored(OCI_MANIFEST, document | self.more, "v1")

    def index(self, *entries: dict[str, Any]) -> RawManifest:
        return self.stored(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, "all")

    def stored(self, kind: str, document: dict[str, Any], tag: str) -> RawManifest:
        raw = RawManifest(kind, wire.encode(document))
        self.manifests.put(raw, tags=[Tag(tag)])
        return raw

    def findings(self, tag: str = "v1") -> list[str]:
        where = f"{self.repository.at(self.manifests.resolve(Tag(tag)).digest)} "
        return [str(found).replace(where, "") for found in validate(self.repository, tag).findings]


@pytest.fixture
def made() -> Made:
    return Made()


class TestCleanImages:
    def test_are_reported_clean(self, made: Made) -> None:
        made.image()

        report = validate(made.repository, "v1")

        assert report.findings == ()
        assert report.is_clean
        assert (report.manifests, report.blobs) == (1, 2)
        assert report.bytes > len(LAYER)

    def test_in_any_form_of_asking(self, source: Repository) -> None:
        image = ImageBuilder("linux/amd64").add_files({"a": b"1"}).build()
        copy(image.repository, source, image.document, tags=[Tag("v1"), Tag("v2")])

        reports = [
            validate(source), validate(source, "v1"), validate(source, Tag("v1")), validate(source, image.digest),
            validate(Image(source, image.document)), validate(source, "v1", jobs=1),
        ]  # fmt: skip

        assert len({(report.findings, report.manifests, report.blobs, report.bytes) for report in reports}) == 1
        assert reports[0].manifests == 1

    def test_artifacts_are_as_well(self, source: Repository) -> None:
        push_artifact(source, [ArtifactFile(b"x", title="x")], artifact_type="a/b", tags=[Tag("v1")])

        assert validate(source, "v1").findings == ()

    def test_attestations_filed_as_layers_are_as_well(self, made: Made) -> None:
        made.blobs.hold(b"statement")
        made.layer = _entry(b"statement", "application/vnd.in-toto+json")
        made.config["rootfs"]["diff_ids"] = [str(Digest.of(b"statement"))]
        made.image()

        assert made.findings() == []

    def test_diff_ids_of_other_algorithms_are_verified(self, made: Made) -> None:
        made.config["rootfs"]["diff_ids"] = [str(Digest.of(TAR, "sha512"))]
        made.image()

        assert made.findings() == []

    def test_shared_blobs_are_read_once(self, made: Made) -> None:
        made.index(_entry(made.image().content, OCI_MANIFEST))

        report = validate(made.repository)

        assert (report.manifests, report.blobs) == (2, 2)


class TestFindings:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda made: made.blobs.delete(Digest.of(LAYER)), "error: $.layers[0]: it is missing"),
            (lambda made: made.layer.update(size=1), "error: $.layers[0]: longer than the promised 1 bytes"),
            (lambda made: made.layer.update(size=9999), "instead of the promised 9999"),
            (lambda made: made.layer.update(data="eHg="), "error: $.layers[0]: embedded data has another size"),
            (lambda made: made.config["rootfs"].update(diff_ids=[str(Digest.of(b"x"))]), f"not to {Digest.of(b'x')}"),
            (lambda made: made.config["rootfs"].update(diff_ids=[]), "error: $.config: 0 diff_ids for 1 layers"),
            (lambda made: made.config["rootfs"].update(type="other"), "error: $.config: a rootfs of type 'other'"),
            (lambda made: made.config.update(os=7), "error: $.config: "),
            (lambda made: made.config.pop("os"), "warning: $.config: it does not say what it runs on"),
            (lambda made: made.config["history"].append({}), "warning: $.config: its history tells of 2 layers"),
            (lambda made: made.layer.update(mediaType="a/b"), "warning: $.layers[0]: nobody knows layers of type"),
            (
                lambda made: made.config["rootfs"].update(diff_ids=["md5:abc"]),
                "warning: $.layers[0]: its diff_id cannot",
            ),
            (lambda made: made.layer.update(digest="md5:abc"), "warning: $.layers[0]: its digest cannot be verified"),
        ],
    )
    def test_say_what_is_wrong_and_where(self, made: Made, change: Callable[[Made], object], expected: str) -> None:
        change(made)
        made.image()

        (found,) = made.findings()

        assert expected in found

    def test_wrong_bytes(self, made: Made) -> None:
        """R-003."""
        made.blobs.delete(Digest.of(LAYER))
        made.blobs.hold(LAYER[:-1] + b"!", LAYER)
        made.image()

        (found,) = made.findings()

        assert found.startswith("error: $.layers[0]: hashes to sha256:")

    def test_bytes_that_are_right_but_no_stream(self, made: Made) -> None:
        """R-144."""
        cut = LAYER[:-9]
        made.blobs.hold(cut)
        made.layer = _entry(cut, OCI_LAYER_GZIP)
        made.image()

        (found,) = made.findings()

        assert found.startswith("error: $.layers[0]: not a sound gzip stream")

    def test_layers_that_become_too_large_are_not_unpacked_for_ever(self, made: Made) -> None:
        """R-140."""
        made.image()

        report = validate(made.repository, "v1", limits=ExtractLimits(total_bytes=512))

        (found,) = report.findings
        assert found.severity is Severity.WARNING
        assert "more than 512 bytes" in found.what

    def test_missing_layers_that_may_not_be_distributed_are_only_a_warning(self, made: Made) -> None:
        """R-032."""
        made.blobs.delete(Digest.of(LAYER))
        made.layer["mediaType"] = DOCKER_FOREIGN_LAYER
        made.image()

        assert made.findings() == ["warning: $.layers[0]: it is not here"]

    def test_all_of_them_in_one_report(self, made: Made) -> None:
        made.config["rootfs"]["type"] = "other"
        made.config["history"] = [{}, {}]
        made.blobs.delete(Digest.of(LAYER))
        made.image()

        report = validate(made.repository, "v1")

        assert (len(report.errors), len(report.warnings)) == (2, 1)
        assert not report.is_clean
        assert str(report).count("\n") == 3

    def test_tags_that_lead_nowhere(self, made: Made) -> None:
        report = validate(made.repository, "absent")

        assert report.findings == (Finding(Severity.ERROR, "made:absent", "no such manifest"),)


class TestIndexes:
    def test_platforms_are_compared(self, made: Made) -> None:
        image = made.image()
        made.index(_entry(image.content, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}))

        (found,) = validate(made.repository, "all").errors

        assert "it runs on linux/amd64, and is listed for linux/arm64" in found.what

    def test_platforms_that_agree_are_fine(self, made: Made) -> None:
        image = made.image()
        index = made.index(_entry(image.content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}))

        assert validate(Index(made.repository, index)).findings == ()

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"size": 1}, "instead of the promised 1"),
            ({"digest": str(Digest.of(b"absent"))}, "no such manifest"),
            ({"mediaType": OCI_INDEX}, "calls itself"),
            ({"data": "eHg="}, "embedded data"),
        ],
    )
    def test_entries_are_checked_against_manifests(self, made: Made, change: dict[str, Any], expected: str) -> None:
        made.index(_entry(made.image().content, OCI_MANIFEST) | change)

        (found,) = made.findings("all")

        assert found.startswith("error: $.manifests[0]: ")
        assert expected in found

    def test_two_sizes_for_one_manifest(self, made: Made) -> None:
        entry = _entry(made.image().content, OCI_MANIFEST)
        made.index(entry, entry | {"size": 1})

        (found,) = made.findings("all")

        assert found.startswith("error: $.manifests[1]: said to have 1 bytes here")

    def test_artifact_types_are_compared(self, made: Made) -> None:
        made.index(_entry(made.image().content, OCI_MANIFEST, artifactType="a/b"))

        (found,) = validate(made.repository, "all").findings

        assert "listed as 'a/b'" in found.what
        assert found.severity is Severity.WARNING

    def test_nesting_without_end_is_reported(self, made: Made) -> None:
        """R-024."""
        raw = made.image()
        for _ in range(20):
            raw = made.index(_entry(raw.content, raw.media_type))

        (found,) = validate(made.repository, "all").findings

        assert "not looked at" in found.what


class _Failing(StagedBlobs):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        raise self._error


class TestOutages:
    @pytest.mark.parametrize("error", [Unavailable("gone"), Forbidden("no")])
    def test_are_no_findings(self, made: Made, error: Exception) -> None:
        made.image()
        repository = Repository(made.repository.name, _Failing(error), made.manifests)

        with pytest.raises(type(error)):
            validate(repository, "v1")

    def test_neither_are_nonsensical_arguments(self, made: Made) -> None:
        with pytest.raises(InvalidValue):
            validate(made.repository, "v1", jobs=0)
        with pytest.raises(InvalidValue):
            validate(made.repository, "not a tag")


def test_nothing_is_changed(source: Repository) -> None:
    class ReadOnly(StagedManifests):
        def put(self, manifest: RawManifest, *, tags: object = ()) -> Any:
            raise AssertionError("written to")

    image = ImageBuilder("linux/amd64").add_files({"a": b"1"}).build()
    manifests = ReadOnly()
    StagedManifests.put(manifests, image.document, tags=[Tag("v1")])

    assert validate(Repository(source.name, image.repository.blobs, manifests)).is_clean
