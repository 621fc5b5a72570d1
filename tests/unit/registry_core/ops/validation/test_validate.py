"""Validation reports all errors of an image together, and changes nothing."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from registry_core.content.streams import ByteReader, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_FOREIGN_LAYER_GZIP,
    EMPTY_JSON,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reports import Finding, Severity
from registry_core.errors import Cancelled, DeadlineExceeded, Forbidden, InvalidValue, Unavailable, Unsupported
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests
from registry_core.ops.images import Image, Index
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.transfer.copy import copy
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository


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


class UnverifiedBlobs(StagedBlobs):
    """Blobs without any verification."""

    def add_content(self, content: bytes, name: bytes | None = None) -> None:
        self.add(Digest.of(content if name is None else name), len(content), BytesSource(content))


class ExampleImage:
    """A valid image, of which tests change single parts."""

    def __init__(self) -> None:
        self.blobs = UnverifiedBlobs()
        self.manifests = StagedManifests()
        self.repository = Repository(RepositoryName("example"), self.blobs, self.manifests)
        self.config: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(TAR))]},
            "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True}],
        }
        self.layer = _entry(LAYER, OCI_LAYER_GZIP)
        self.more: dict[str, Any] = {}
        self.blobs.add_content(LAYER)

    def image(self) -> RawManifest:
        config = strict_json.encode(self.config)
        self.blobs.add_content(config)
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
        raw = RawManifest(kind, strict_json.encode(document))
        self.manifests.put(raw, tags=[Tag(tag)])
        return raw

    def findings(self, tag: str = "v1") -> list[str]:
        where = f"{self.repository.at(self.manifests.resolve(Tag(tag)).digest)} "
        return [str(found).replace(where, "") for found in validate(self.repository, tag).findings]


@pytest.fixture
def example() -> ExampleImage:
    return ExampleImage()


class TestCleanImages:
    def test_are_reported_clean(self, example: ExampleImage) -> None:
        raw = example.image()

        report = validate(example.repository, "v1")

        assert report.findings == ()
        assert report.is_clean
        assert (report.manifests, report.blobs) == (1, 2)
        assert report.bytes == len(raw.content) + sum(part.size for part in raw.children)

    def test_give_the_same_report_for_every_target(self, source: Repository) -> None:
        image = ImageBuilder("linux/amd64").add_files({"a": b"1"}).build()
        copy(image.repository, source, image.document, tags=[Tag("v1"), Tag("v2")])

        reports = [
            validate(source), validate(source, "v1"), validate(source, Tag("v1")), validate(source, image.digest),
            validate(Image(source, image.document)), validate(source, "v1", jobs=1), image.validate(),
            Image(source, image.document).validate(),
        ]  # fmt: skip

        assert len({(report.findings, report.manifests, report.blobs, report.bytes) for report in reports}) == 1
        assert reports[0].manifests == 1

    def test_may_be_artifacts(self, source: Repository) -> None:
        push_artifact(source, [ArtifactFile(b"x", title="x")], artifact_type="a/b", tags=[Tag("v1")])

        assert validate(source, "v1").findings == ()

    def test_may_have_attestations_as_layers(self, example: ExampleImage) -> None:
        example.blobs.add_content(b"statement")
        example.layer = _entry(b"statement", "application/vnd.in-toto+json")
        example.config["rootfs"]["diff_ids"] = [str(Digest.of(b"statement"))]
        example.image()

        assert example.findings() == []

    def test_diff_ids_of_other_algorithms_are_verified(self, example: ExampleImage) -> None:
        example.config["rootfs"]["diff_ids"] = [str(Digest.of(TAR, "sha512"))]
        example.image()

        assert example.findings() == []

    def test_shared_blobs_are_read_once(self, example: ExampleImage) -> None:
        example.index(_entry(example.image().content, OCI_MANIFEST))

        report = validate(example.repository)

        assert (report.manifests, report.blobs) == (2, 2)


class TestFindings:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda example: example.blobs.delete(Digest.of(LAYER)), "error: $.layers[0]: blob is missing"),
            (lambda example: example.layer.update(size=1), "error: $.layers[0]: more than the expected 1 bytes"),
            (lambda example: example.layer.update(size=9999), "bytes, expected 9999"),
            (
                lambda example: example.layer.update(data="eHg="),
                "error: $.layers[0]: embedded data: the size differs from the descriptor",
            ),
            (
                lambda example: example.config["rootfs"].update(diff_ids=[str(Digest.of(b"x"))]),
                f"not the diff_id {Digest.of(b'x')}",
            ),
            (lambda example: example.config["rootfs"].update(diff_ids=[]), "error: $.config: 0 diff_ids for 1 layers"),
            (
                lambda example: example.config["rootfs"].update(type="other"),
                "error: $.config: rootfs has the type 'other'",
            ),
            (lambda example: example.config.update(os=7), "error: $.config: "),
            (lambda example: example.config.pop("os"), "warning: $.config: configuration states no platform"),
            (
                lambda example: example.config["history"].append({}),
                "warning: $.config: history has entries for 2 layers, but there are 1",
            ),
            (
                lambda example: example.layer.update(mediaType="a/b"),
                "warning: $.layers[0]: diff_id not checked: unknown media type",
            ),
            (
                lambda example: example.config["rootfs"].update(diff_ids=["md5:abc"]),
                "warning: $.layers[0]: diff_id not checked: digest algorithm is not supported",
            ),
            (
                lambda example: example.layer.update(digest="md5:abc"),
                "warning: $.layers[0]: not read: digest algorithm 'md5' is not supported",
            ),
            (
                lambda example: example.layer.update(digest="md5:abc", data="eHg=", size=2),
                "warning: $.layers[0]: not read: digest algorithm 'md5' is not supported",
            ),
        ],
    )
    def test_have_a_description_and_a_location(
        self, example: ExampleImage, change: Callable[[ExampleImage], object], expected: str
    ) -> None:
        change(example)
        example.image()

        (found,) = example.findings()

        assert expected in found

    @pytest.mark.parametrize(
        "date",
        ["2026-01-02 03:04:05+00:00", "2026-01-02T03:04:05z", "2026-01-02T03:04:05+0000", "2026-01-02T24:00:00Z",
         "2026-01-02T03:04:05", "2026-02-30T03:04:05Z", ""],
    )  # fmt: skip
    def test_dates_that_tools_written_in_go_cannot_read(self, example: ExampleImage, date: str) -> None:
        example.config["created"] = date
        example.config["history"][1]["created"] = date
        example.image()

        problem = "is not a date that tools written in Go can read (RFC 3339, with T and Z or ±hh:mm)"
        assert example.findings() == [
            f"error: $.config: created {problem}: {date!r}",
            f"error: $.config: history[1].created {problem}: {date!r}",
        ]

    def test_dates_beside_a_field_of_the_wrong_type(self, example: ExampleImage) -> None:
        example.config |= {"created": "2026-01-02 03:04:05+00:00", "config": {"Entrypoint": "/run"}}
        example.image()

        date, field = example.findings()
        assert date.startswith("error: $.config: created is not a date that tools written in Go can read")
        assert "Entrypoint" in field

    @pytest.mark.parametrize("date", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1234567891+01:00", None])
    def test_other_dates_are_clean(self, example: ExampleImage, date: str | None) -> None:
        example.config["created"] = date
        example.config["history"][0]["created"] = date
        example.image()

        assert example.findings() == []

    def test_wrong_bytes(self, example: ExampleImage) -> None:
        """R-003."""
        example.blobs.delete(Digest.of(LAYER))
        example.blobs.add_content(LAYER[:-1] + b"!", LAYER)
        example.image()

        (found,) = example.findings()

        assert found.startswith("error: $.layers[0]: the content has the digest sha256:")

    @pytest.mark.parametrize("place", ["$.config", "$.layers[0]"])
    def test_wrong_bytes_of_content_that_is_not_unpacked(self, example: ExampleImage, place: str) -> None:
        """R-003."""
        example.layer = _entry(b"text", "text/plain")
        example.blobs.add_content(b"text")
        raw = example.image()
        part = raw.children[place != "$.config"]
        example.blobs.delete(part.digest)
        example.blobs.add(part.digest, part.size, BytesSource(b"!" * part.size))

        errors = [str(found) for found in validate(example.repository, "v1").errors]

        assert len(errors) == 1
        assert f"{place}: the content has the digest sha256:" in errors[0]

    def test_layers_with_unsupported_compression_are_read_too(
        self, example: ExampleImage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unavailable(*_: object) -> ByteReader:
            raise Unsupported("no zstd here")

        monkeypatch.setattr("registry_core.ops.validation.blobs.decompress", unavailable)
        raw = example.image()

        report = validate(example.repository, "v1")

        assert [(found.severity, found.what) for found in report.findings] == [(Severity.WARNING, "no zstd here")]
        assert report.bytes == len(raw.content) + sum(part.size for part in raw.children)

    def test_missing_blobs_of_embedded_layers_are_warnings(self, example: ExampleImage) -> None:
        """Image-spec descriptor.md, "Embedded Content"."""
        example.blobs.delete(Digest.of(LAYER))
        example.layer["data"] = base64.b64encode(LAYER).decode()
        example.image()

        assert example.findings() == [
            "warning: $.layers[0]: blob is missing; its content is embedded in the descriptor"
        ]

    def test_a_corrupt_stream_with_the_right_digest(self, example: ExampleImage) -> None:
        """R-144."""
        cut = LAYER[:-9]
        example.blobs.add_content(cut)
        example.layer = _entry(cut, OCI_LAYER_GZIP)
        example.image()

        (found,) = example.findings()

        assert found.startswith("error: $.layers[0]: corrupt gzip stream")

    def test_decompression_stops_at_the_limit(self, example: ExampleImage) -> None:
        """R-140."""
        example.image()

        report = validate(example.repository, "v1", limits=ExtractLimits(total_bytes=512))

        (found,) = report.findings
        assert found.severity is Severity.WARNING
        assert "more than 512 uncompressed bytes" in found.what

    @pytest.mark.parametrize(("ratio", "count"), [(1000, 0), (2, 1)])
    def test_the_compression_ratio_is_limited(self, example: ExampleImage, ratio: int, count: int) -> None:
        """R-140."""
        example.image()

        report = validate(example.repository, "v1", limits=ExtractLimits(ratio=ratio, ratio_floor=1))

        assert len(report.warnings) == count

    def test_missing_nondistributable_layers_are_warnings(self, example: ExampleImage) -> None:
        """R-032."""
        example.blobs.delete(Digest.of(LAYER))
        example.layer["mediaType"] = DOCKER_FOREIGN_LAYER_GZIP
        example.image()

        assert example.findings() == ["warning: $.layers[0]: blob is missing; the layer is nondistributable"]

    def test_all_problems_are_in_one_report(self, example: ExampleImage) -> None:
        example.config["rootfs"]["type"] = "other"
        example.config["history"] = [{}, {}]
        example.blobs.delete(Digest.of(LAYER))
        example.image()

        report = validate(example.repository, "v1")

        assert (len(report.errors), len(report.warnings)) == (2, 1)
        assert not report.is_clean
        assert str(report).count("\n") == 3

    def test_a_missing_tag(self, example: ExampleImage) -> None:
        report = validate(example.repository, "absent")

        assert report.findings == (Finding(Severity.ERROR, "example:absent", "no such manifest"),)


class TestIndexes:
    def test_platforms_are_compared(self, example: ExampleImage) -> None:
        image = example.image()
        example.index(_entry(image.content, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}))

        (found,) = validate(example.repository, "all").errors

        assert "listed for linux/arm64, but the configuration states linux/amd64" in found.what

    def test_unknown_platforms_are_not_compared(self, example: ExampleImage) -> None:
        """As attestations are listed."""
        unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
        example.index(_entry(example.image().content, OCI_MANIFEST, **unknown))

        assert example.findings("all") == []

    @pytest.mark.parametrize("stated", [{}, {"os": "linux"}, {"os": 1, "architecture": 2}, "linux/amd64", ["linux"]])
    def test_an_incomplete_platform_is_a_warning(self, example: ExampleImage, stated: object) -> None:
        """R-013."""
        image = example.image().content
        example.index(_entry(image, OCI_MANIFEST), _entry(image, OCI_MANIFEST, platform=stated))

        assert example.findings("all") == [
            "warning: $.manifests[1].platform: incomplete or malformed platform, which counts as none"
        ]

    def test_equal_platforms_are_no_findings(self, example: ExampleImage) -> None:
        image = example.image()
        index = example.index(_entry(image.content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}))

        assert Index(example.repository, index).validate().findings == ()

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"size": 1}, "bytes, expected 1"),
            ({"digest": str(Digest.of(b"absent"))}, "no such manifest"),
            ({"mediaType": OCI_INDEX}, "the document states"),
            ({"data": "eHg="}, "embedded data"),
        ],
    )
    def test_entries_are_checked_against_manifests(
        self, example: ExampleImage, change: dict[str, Any], expected: str
    ) -> None:
        example.index(_entry(example.image().content, OCI_MANIFEST) | change)

        (found,) = example.findings("all")

        assert found.startswith("error: $.manifests[0]: ")
        assert expected in found

    def test_two_sizes_for_one_manifest(self, example: ExampleImage) -> None:
        entry = _entry(example.image().content, OCI_MANIFEST)
        example.index(entry, entry | {"size": 1})

        (found,) = example.findings("all")

        assert found.startswith("error: $.manifests[1]: descriptor states 1 bytes, another one states")

    def test_artifact_types_are_compared(self, example: ExampleImage) -> None:
        example.index(_entry(example.image().content, OCI_MANIFEST, artifactType="a/b"))

        (found,) = validate(example.repository, "all").findings

        assert "listed with the artifact type 'a/b'" in found.what
        assert found.severity is Severity.WARNING

    def test_deep_nesting_is_reported(self, example: ExampleImage) -> None:
        """R-024."""
        raw = example.image()
        for _ in range(20):
            raw = example.index(_entry(raw.content, raw.media_type))

        (found,) = validate(example.repository, "all").findings

        assert "not checked" in found.what

    def test_two_types_for_one_manifest(self, example: ExampleImage) -> None:
        """R-020."""
        entry = _entry(example.image().content, OCI_MANIFEST)
        example.index(entry, entry | {"mediaType": OCI_INDEX})

        (found,) = example.findings("all")

        assert found.startswith(f"error: $.manifests[1]: descriptor states {OCI_INDEX!r}, another one states")

    def test_platforms_are_compared_if_the_image_is_already_checked(self, example: ExampleImage) -> None:
        image = example.image()
        example.manifests.put(image, tags=[Tag("a-first")])
        arm = {"platform": {"os": "linux", "architecture": "arm64"}}
        index = example.index(_entry(image.content, OCI_MANIFEST, **arm))

        (found,) = validate(example.repository).errors

        assert found.where == f"{example.repository.at(index.digest)} $.manifests[0]"
        assert "listed for linux/arm64, but the configuration states linux/amd64" in found.what

    def test_an_image_is_listed_for_one_platform_only(self, example: ExampleImage) -> None:
        content = example.image().content
        example.index(
            _entry(content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
            _entry(content, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}, artifactType="a/b"),
        )

        found = example.findings("all")

        assert [each.partition(": ")[0] for each in found] == ["warning", "error"]
        assert "$.manifests[1]: listed with the artifact type 'a/b'" in found[0]
        assert "$.manifests[1]: listed for linux/arm64, but the configuration states linux/amd64" in found[1]

    def test_absent_images_of_a_sparse_index_are_warnings(self, example: ExampleImage) -> None:
        example.index(_entry(example.image().content, OCI_MANIFEST), _entry(b"absent", OCI_MANIFEST))

        strict, lenient = validate(example.repository, "all"), validate(example.repository, "all", sparse=True)

        assert [found.what for found in strict.errors] == ["no such manifest"]
        assert lenient.is_clean
        assert [found.what for found in lenient.warnings] == ["no such manifest"]

    def test_a_sparse_index_excuses_no_missing_layers(self, example: ExampleImage) -> None:
        example.blobs.delete(Digest.of(LAYER))
        example.index(_entry(example.image().content, OCI_MANIFEST))

        assert not validate(example.repository, "all", sparse=True).is_clean

    def test_embedded_manifests_are_expected_to_be_here_as_well(self, example: ExampleImage) -> None:
        """Image-spec descriptor.md, "Embedded Content": embedded data saves a request, but the blob must exist."""
        image = example.image()
        example.manifests.delete(image.digest)
        data = base64.b64encode(image.content).decode()
        example.index(_entry(image.content, OCI_MANIFEST, data=data))

        assert example.findings("all") == [
            "warning: $.manifests[0]: manifest is missing; its content is embedded in the descriptor"
        ]

    def test_that_are_too_large_are_reported(self, example: ExampleImage, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-024."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        entries = []
        for number in range(4):
            example.config["number"] = number
            entries.append(_entry(example.image().content, OCI_MANIFEST))
        example.index(*entries)

        assert [each.partition(",")[0] for each in example.findings("all")] == [
            f"error: $.manifests[{number}]: not checked: more than 2 manifests" for number in (2, 3)
        ]

    def test_each_tag_may_have_a_large_graph(self, example: ExampleImage, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-024: the limit applies to one graph, not to the repository."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        for number in range(5):
            example.config["number"] = number
            example.manifests.put(
                example.index(_entry(example.image().content, OCI_MANIFEST)), tags=[Tag(f"t{number}")]
            )

        report = validate(example.repository)

        assert report.findings == ()
        assert report.manifests == 10


class TestCompression:
    @pytest.mark.parametrize(
        ("kind", "content", "expected"),
        [
            (OCI_LAYER, LAYER, "states no compression, but the layer has gzip"),
            (OCI_LAYER_GZIP, TAR, "states gzip, but the layer has no compression"),
            (OCI_LAYER_ZSTD, LAYER, "states zstd, but the layer has gzip"),
        ],
    )
    def test_that_differs_from_the_media_type_is_a_warning(
        self, example: ExampleImage, kind: str, content: bytes, expected: str
    ) -> None:
        """R-142: it can be read all the same."""
        example.blobs.add_content(content)
        example.layer = _entry(content, kind)
        example.image()

        (found,) = example.findings()

        assert found.startswith("warning: $.layers[0]: media type")
        assert expected in found

    def test_of_an_empty_layer_is_not_detected(self, example: ExampleImage) -> None:
        example.blobs.add_content(b"")
        example.layer = _entry(b"", OCI_LAYER)
        example.config["rootfs"]["diff_ids"] = [str(Digest.of(b""))]
        example.image()

        assert example.findings() == []


class TestArtifacts:
    def test_without_any_type_are_warnings(self, example: ExampleImage) -> None:
        """Image-spec manifest.md, "Guidelines for Artifact Usage"."""
        example.blobs.add_content(b"{}")
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _entry(b"{}", EMPTY_JSON), "layers": []}
        raw = example.stored(OCI_MANIFEST, document, "v1")

        (found,) = validate(example.repository, "v1").findings

        assert (found.severity, found.where) == (Severity.WARNING, example.repository.at(raw.digest))
        assert "artifactType is missing" in found.what


class TestSubjects:
    def test_that_exist_are_no_findings(self, example: ExampleImage) -> None:
        subject = example.image()
        example.more = {"subject": _entry(subject.content, OCI_MANIFEST)}
        example.image()

        assert validate(example.repository).findings == ()

    @pytest.mark.parametrize("tag", [None, "v1"])
    @pytest.mark.parametrize("change", [{"size": 1}, {"mediaType": OCI_INDEX}])
    def test_are_compared_with_their_descriptors(
        self, example: ExampleImage, change: dict[str, Any], tag: str | None
    ) -> None:
        """Image-spec manifest.md, "subject"; also where it is read for its own sake."""
        subject = example.image()
        example.manifests.put(subject, tags=[Tag("subject")])
        example.more = {"subject": _entry(subject.content, OCI_MANIFEST) | change}
        example.image()

        (found,) = validate(example.repository, tag).findings

        assert found.severity is Severity.WARNING
        assert found.where.endswith(" $.subject")
        assert f"{len(subject.content)} bytes of '{OCI_MANIFEST}'" in found.what

    @pytest.mark.parametrize(
        ("digest", "expected"),
        [(str(Digest.of(b"absent")), "subject is missing"), ("md5:" + "0" * 32, "digest algorithm is not supported")],
    )
    def test_may_be_absent(self, example: ExampleImage, digest: str, expected: str) -> None:
        """Distribution-spec, "Pushing Manifests with Subject": a warning."""
        example.more = {"subject": {"mediaType": OCI_MANIFEST, "digest": digest, "size": 6}}
        example.image()

        (found,) = validate(example.repository, "v1").findings

        assert found.severity is Severity.WARNING
        assert expected in found.what


class _Claiming(StagedManifests):
    """A registry with any lists of referrers."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[Digest, list[Descriptor]] = {}

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        yield from self.claims.get(subject, ())


class TestReferrers:
    @pytest.fixture
    def example(self) -> ExampleImage:
        example = ExampleImage()
        example.manifests = _Claiming()
        example.repository = Repository(RepositoryName("example"), example.blobs, example.manifests)
        return example

    def _artifact(self, example: ExampleImage, subject: Digest | None, name: str = "sbom", **more: Any) -> Descriptor:
        example.blobs.add_content(b"{}")
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": f"application/vnd.example.{name}",
            "config": _entry(b"{}", EMPTY_JSON),
            "layers": [_entry(b"{}", EMPTY_JSON)],
            **more,
        }
        if subject is not None:
            found = example.manifests.resolve(subject)
            document["subject"] = {"mediaType": found.media_type, "digest": str(subject), "size": found.size}
        raw = example.stored(OCI_MANIFEST, document, name)
        return msgspec.structs.replace(
            raw.descriptor, artifact_type=document["artifactType"], annotations=more.get("annotations", {})
        )

    def _claim(self, example: ExampleImage, subject: Digest, *listed: Descriptor) -> None:
        assert isinstance(example.manifests, _Claiming)
        example.manifests.claims[subject] = list(listed)

    def _found(self, example: ExampleImage) -> list[str]:
        report = validate(example.repository, "v1", referrers=True)
        return [f"{found.severity.value}: {found.what}" for found in report.findings]

    def test_are_checked_only_on_request(self, example: ExampleImage) -> None:
        subject = example.image().digest
        self._claim(example, subject, Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6))

        assert validate(example.repository, "v1").findings == ()

    def test_are_checked_with_their_referrers(self, example: ExampleImage) -> None:
        """R-025."""
        subject = example.image().digest
        sbom = self._artifact(example, subject, annotations={"a": "1"})
        signature = self._artifact(example, sbom.digest, "signature")
        self._claim(example, subject, sbom)
        self._claim(example, sbom.digest, signature)

        report = validate(example.repository, "v1", referrers=True)

        assert report.findings == ()
        assert report.manifests == 3

    def test_that_are_missing_or_broken_are_found(self, example: ExampleImage) -> None:
        subject = example.image().digest
        absent = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6)
        short = msgspec.structs.replace(self._artifact(example, subject), size=3)
        self._claim(example, subject, absent, short)

        found = self._found(example)

        assert [each.startswith("error: ") for each in found] == [True, True]
        assert "no such manifest" in found[0]
        assert "bytes, expected 3" in found[1]

    def test_with_another_subject_are_warnings(self, example: ExampleImage) -> None:
        """R-220."""
        subject = example.image().digest
        about_itself = self._artifact(example, None)
        self._claim(example, subject, about_itself)

        assert self._found(example) == ["warning: listed referrer has no subject"]

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"artifact_type": ""}, "listed without its artifact type"),
            ({"artifact_type": "a/b"}, "listed with the artifact type 'a/b'"),
            ({"annotations": {"a": "2"}}, "listed with annotations other than"),
        ],
    )
    def test_are_compared_with_the_list(self, example: ExampleImage, change: dict[str, Any], expected: str) -> None:
        """Distribution-spec, "Listing Referrers"."""
        subject = example.image().digest
        sbom = self._artifact(example, subject, annotations={"a": "1"})
        self._claim(example, subject, msgspec.structs.replace(sbom, **change))

        (found,) = self._found(example)

        assert found.startswith(f"warning: {expected}")

    def test_are_compared_with_the_list_if_already_checked(self, example: ExampleImage) -> None:
        """Also if they have tags."""
        subject = example.image().digest
        sbom = self._artifact(example, subject, annotations={"a": "1"})
        self._claim(example, subject, msgspec.structs.replace(sbom, annotations={}))

        report = validate(example.repository, referrers=True)

        assert [found.what for found in report.findings] == ["listed with annotations other than those of the manifest"]
        assert report.manifests == 2

    def test_in_a_cycle_are_read_once(self, example: ExampleImage) -> None:
        """R-025."""
        subject = example.image().digest
        sbom = self._artifact(example, subject)
        self._claim(example, subject, sbom)
        self._claim(example, sbom.digest, example.manifests.resolve(subject), sbom)

        report = validate(example.repository, "v1", referrers=True)

        assert report.manifests == 2
        assert [found.what for found in report.findings] == [
            "listed referrer has no subject", f"listed referrer has the subject {subject}",
        ]  # fmt: skip

    def test_of_many_images_may_be_many(self, example: ExampleImage, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-025: the number of referrers of each manifest is limited."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        for number in range(3):
            example.config["number"] = number
            subject = example.image()
            example.manifests.put(subject, tags=[Tag(f"t{number}")])
            sbom = self._artifact(example, subject.digest)
            example.manifests.untag(Tag("sbom"))
            self._claim(example, subject.digest, sbom)
        example.manifests.untag(Tag("v1"))

        report = validate(example.repository, referrers=True)

        assert report.findings == ()
        assert report.manifests == 6

    def test_beyond_the_limit_are_not_checked(self, example: ExampleImage, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-025."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 3)
        subject = example.image().digest
        self._claim(example, subject, *(self._artifact(example, subject, f"a{number}") for number in range(4)))

        assert self._found(example) == ["error: not checked: more than 3 manifests", "error: more than 3 referrers"]


class _Failing:
    """Blobs and manifests of an image; one operation raises an error."""

    def __init__(self, example: ExampleImage, error: Exception, what: str) -> None:
        subject = example.image()
        example.more = {"subject": _entry(subject.content, OCI_MANIFEST)}
        self.image = example.image()
        example.index(_entry(self.image.content, OCI_MANIFEST))
        self._subject = subject.digest
        self._error = error
        self._what = what
        self._made = example
        self.blobs, self.manifests = UnverifiedBlobs(), StagedManifests()
        self.blobs.open = self._open  # type: ignore[method-assign]
        self.manifests.get = self._get  # type: ignore[method-assign]
        self.manifests.referrers = self._referrers  # type: ignore[method-assign]
        self.repository = Repository(example.repository.name, self.blobs, self.manifests)

    def _fail(self, what: str) -> None:
        if what == self._what:
            raise self._error

    def _open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        self._fail("configuration" if digest == self.image.children[0].digest else "layer")
        return self._made.blobs.open(digest, start=start)

    def _get(self, reference: Tag | Digest) -> RawManifest:
        kinds: dict[str, str] = {self.image.digest: "child", self._subject: "subject"}
        self._fail(kinds.get(reference, "tag"))
        return self._made.manifests.get(reference)

    def _referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        self._fail("referrers")
        return iter(())


class TestOutages:
    @pytest.mark.parametrize("what", ["tag", "child", "configuration", "layer", "subject", "referrers"])
    @pytest.mark.parametrize("error", [Unavailable("gone"), Forbidden("no"), Cancelled("so"), DeadlineExceeded("late")])
    def test_are_raised_and_not_reported(self, example: ExampleImage, error: Exception, what: str) -> None:
        failing = _Failing(example, error, what)

        with pytest.raises(type(error)):
            validate(failing.repository, "all", referrers=True)

    def test_other_targets_are_refused(self) -> None:
        with pytest.raises(InvalidValue, match="neither an Image, an Index nor a Repository: str"):
            validate(cast("Any", "app"))

    def test_invalid_arguments_are_refused(self, example: ExampleImage) -> None:
        with pytest.raises(InvalidValue):
            validate(example.repository, "v1", jobs=0)
        with pytest.raises(InvalidValue):
            validate(Image(example.repository, example.image()), "v1")
        with pytest.raises(InvalidValue):
            validate(example.repository, "not a tag")


def test_nothing_is_changed(source: Repository) -> None:
    class ReadOnly(StagedManifests):
        def put(self, manifest: RawManifest, *, tags: object = ()) -> Any:
            raise AssertionError("written to")

    image = ImageBuilder("linux/amd64").add_files({"a": b"1"}).build()
    manifests = ReadOnly()
    StagedManifests.put(manifests, image.document, tags=[Tag("v1")])

    assert validate(Repository(source.name, image.repository.blobs, manifests)).is_clean
