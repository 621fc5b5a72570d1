"""Validation reports all errors of an image together, and changes nothing."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

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


class Careless(StagedBlobs):
    """Blobs without any verification."""

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
        config = strict_json.encode(self.config)
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
        raw = RawManifest(kind, strict_json.encode(document))
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
        raw = made.image()

        report = validate(made.repository, "v1")

        assert report.findings == ()
        assert report.is_clean
        assert (report.manifests, report.blobs) == (1, 2)
        assert report.bytes == len(raw.content) + sum(part.size for part in raw.children)

    def test_in_any_form_of_asking(self, source: Repository) -> None:
        image = ImageBuilder("linux/amd64").add_files({"a": b"1"}).build()
        copy(image.repository, source, image.document, tags=[Tag("v1"), Tag("v2")])

        reports = [
            validate(source), validate(source, "v1"), validate(source, Tag("v1")), validate(source, image.digest),
            validate(Image(source, image.document)), validate(source, "v1", jobs=1), image.validate(),
            Image(source, image.document).validate(),
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
            (lambda made: made.blobs.delete(Digest.of(LAYER)), "error: $.layers[0]: blob is missing"),
            (lambda made: made.layer.update(size=1), "error: $.layers[0]: longer than the promised 1 bytes"),
            (lambda made: made.layer.update(size=9999), "instead of the promised 9999"),
            (
                lambda made: made.layer.update(data="eHg="),
                "error: $.layers[0]: embedded data: the size differs from the descriptor",
            ),
            (
                lambda made: made.config["rootfs"].update(diff_ids=[str(Digest.of(b"x"))]),
                f"not to the diff_id {Digest.of(b'x')}",
            ),
            (lambda made: made.config["rootfs"].update(diff_ids=[]), "error: $.config: 0 diff_ids for 1 layers"),
            (lambda made: made.config["rootfs"].update(type="other"), "error: $.config: rootfs has the type 'other'"),
            (lambda made: made.config.update(os=7), "error: $.config: "),
            (lambda made: made.config.pop("os"), "warning: $.config: configuration states no platform"),
            (
                lambda made: made.config["history"].append({}),
                "warning: $.config: history has entries for 2 layers, but there are 1",
            ),
            (
                lambda made: made.layer.update(mediaType="a/b"),
                "warning: $.layers[0]: diff_id not checked: unknown media type",
            ),
            (
                lambda made: made.config["rootfs"].update(diff_ids=["md5:abc"]),
                "warning: $.layers[0]: diff_id not checked: digest algorithm is not supported",
            ),
            (
                lambda made: made.layer.update(digest="md5:abc"),
                "warning: $.layers[0]: not read: digest algorithm 'md5' is not supported",
            ),
            (
                lambda made: made.layer.update(digest="md5:abc", data="eHg=", size=2),
                "warning: $.layers[0]: not read: digest algorithm 'md5' is not supported",
            ),
        ],
    )
    def test_have_a_description_and_a_location(
        self, made: Made, change: Callable[[Made], object], expected: str
    ) -> None:
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

    @pytest.mark.parametrize("place", ["$.config", "$.layers[0]"])
    def test_wrong_bytes_of_content_that_is_not_unpacked(self, made: Made, place: str) -> None:
        """R-003."""
        made.layer = _entry(b"text", "text/plain")
        made.blobs.hold(b"text")
        raw = made.image()
        part = raw.children[place != "$.config"]
        made.blobs.delete(part.digest)
        made.blobs.add(part.digest, part.size, BytesSource(b"!" * part.size))

        errors = [str(found) for found in validate(made.repository, "v1").errors]

        assert len(errors) == 1
        assert f"{place}: hashes to sha256:" in errors[0]

    def test_layers_with_unsupported_compression_are_read_too(
        self, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unavailable(*_: object) -> ByteReader:
            raise Unsupported("no zstd here")

        monkeypatch.setattr("registry_core.ops.validation.blobs.decompress", unavailable)
        raw = made.image()

        report = validate(made.repository, "v1")

        assert [(found.severity, found.what) for found in report.findings] == [(Severity.WARNING, "no zstd here")]
        assert report.bytes == len(raw.content) + sum(part.size for part in raw.children)

    def test_embedded_layers_are_expected_to_be_here_as_well(self, made: Made) -> None:
        """Image-spec descriptor.md, "Embedded Content"."""
        made.blobs.delete(Digest.of(LAYER))
        made.layer["data"] = base64.b64encode(LAYER).decode()
        made.image()

        assert made.findings() == ["warning: $.layers[0]: blob is missing; its content is embedded in the descriptor"]

    def test_bytes_that_are_right_but_no_stream(self, made: Made) -> None:
        """R-144."""
        cut = LAYER[:-9]
        made.blobs.hold(cut)
        made.layer = _entry(cut, OCI_LAYER_GZIP)
        made.image()

        (found,) = made.findings()

        assert found.startswith("error: $.layers[0]: corrupt gzip stream")

    def test_layers_that_become_too_large_are_not_unpacked_for_ever(self, made: Made) -> None:
        """R-140."""
        made.image()

        report = validate(made.repository, "v1", limits=ExtractLimits(total_bytes=512))

        (found,) = report.findings
        assert found.severity is Severity.WARNING
        assert "more than 512 uncompressed bytes" in found.what

    @pytest.mark.parametrize(("ratio", "count"), [(1000, 0), (2, 1)])
    def test_layers_become_so_many_times_their_stored_size(self, made: Made, ratio: int, count: int) -> None:
        """R-140."""
        made.image()

        report = validate(made.repository, "v1", limits=ExtractLimits(ratio=ratio, ratio_floor=1))

        assert len(report.warnings) == count

    def test_missing_layers_that_may_not_be_distributed_are_only_a_warning(self, made: Made) -> None:
        """R-032."""
        made.blobs.delete(Digest.of(LAYER))
        made.layer["mediaType"] = DOCKER_FOREIGN_LAYER_GZIP
        made.image()

        assert made.findings() == ["warning: $.layers[0]: blob is missing; the layer is nondistributable"]

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

        assert "listed for linux/arm64, but the configuration states linux/amd64" in found.what

    def test_platforms_that_say_nothing_are_fine(self, made: Made) -> None:
        """As attestations are listed."""
        unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
        made.index(_entry(made.image().content, OCI_MANIFEST, **unknown))

        assert made.findings("all") == []

    def test_platforms_that_agree_are_fine(self, made: Made) -> None:
        image = made.image()
        index = made.index(_entry(image.content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}))

        assert Index(made.repository, index).validate().findings == ()

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"size": 1}, "instead of the promised 1"),
            ({"digest": str(Digest.of(b"absent"))}, "no such manifest"),
            ({"mediaType": OCI_INDEX}, "the document states"),
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

        assert found.startswith("error: $.manifests[1]: descriptor states 1 bytes, another one states")

    def test_artifact_types_are_compared(self, made: Made) -> None:
        made.index(_entry(made.image().content, OCI_MANIFEST, artifactType="a/b"))

        (found,) = validate(made.repository, "all").findings

        assert "listed with the artifact type 'a/b'" in found.what
        assert found.severity is Severity.WARNING

    def test_nesting_without_end_is_reported(self, made: Made) -> None:
        """R-024."""
        raw = made.image()
        for _ in range(20):
            raw = made.index(_entry(raw.content, raw.media_type))

        (found,) = validate(made.repository, "all").findings

        assert "not checked" in found.what

    def test_two_types_for_one_manifest(self, made: Made) -> None:
        """R-020."""
        entry = _entry(made.image().content, OCI_MANIFEST)
        made.index(entry, entry | {"mediaType": OCI_INDEX})

        (found,) = made.findings("all")

        assert found.startswith(f"error: $.manifests[1]: descriptor states {OCI_INDEX!r}, another one states")

    def test_platforms_are_compared_though_the_image_was_looked_at_before(self, made: Made) -> None:
        image = made.image()
        made.manifests.put(image, tags=[Tag("a-first")])
        arm = {"platform": {"os": "linux", "architecture": "arm64"}}
        index = made.index(_entry(image.content, OCI_MANIFEST, **arm))

        (found,) = validate(made.repository).errors

        assert found.where == f"{made.repository.at(index.digest)} $.manifests[0]"
        assert "listed for linux/arm64, but the configuration states linux/amd64" in found.what

    def test_an_image_is_listed_for_one_platform_only(self, made: Made) -> None:
        content = made.image().content
        made.index(
            _entry(content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
            _entry(content, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}, artifactType="a/b"),
        )

        found = made.findings("all")

        assert [each.partition(": ")[0] for each in found] == ["warning", "error"]
        assert "$.manifests[1]: listed with the artifact type 'a/b'" in found[0]
        assert "$.manifests[1]: listed for linux/arm64, but the configuration states linux/amd64" in found[1]

    def test_absent_images_of_a_sparse_index_are_warnings(self, made: Made) -> None:
        made.index(_entry(made.image().content, OCI_MANIFEST), _entry(b"absent", OCI_MANIFEST))

        strict, lenient = validate(made.repository, "all"), validate(made.repository, "all", sparse=True)

        assert [found.what for found in strict.errors] == ["no such manifest"]
        assert lenient.is_clean
        assert [found.what for found in lenient.warnings] == ["no such manifest"]

    def test_a_sparse_index_excuses_no_missing_layers(self, made: Made) -> None:
        made.blobs.delete(Digest.of(LAYER))
        made.index(_entry(made.image().content, OCI_MANIFEST))

        assert not validate(made.repository, "all", sparse=True).is_clean

    def test_embedded_manifests_are_expected_to_be_here_as_well(self, made: Made) -> None:
        """Image-spec descriptor.md, "Embedded Content": embedded data saves a request, but the blob must exist."""
        image = made.image()
        made.manifests.delete(image.digest)
        data = base64.b64encode(image.content).decode()
        made.index(_entry(image.content, OCI_MANIFEST, data=data))

        assert made.findings("all") == [
            "warning: $.manifests[0]: manifest is missing; its content is embedded in the descriptor"
        ]

    def test_that_are_too_large_are_reported(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-024."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        entries = []
        for number in range(4):
            made.config["number"] = number
            entries.append(_entry(made.image().content, OCI_MANIFEST))
        made.index(*entries)

        assert [each.partition(",")[0] for each in made.findings("all")] == [
            f"error: $.manifests[{number}]: not checked: more than 2 manifests" for number in (2, 3)
        ]

    def test_each_tag_may_have_a_large_graph(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-024: the limit applies to one graph, not to the repository."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        for number in range(5):
            made.config["number"] = number
            made.manifests.put(made.index(_entry(made.image().content, OCI_MANIFEST)), tags=[Tag(f"t{number}")])

        report = validate(made.repository)

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
        self, made: Made, kind: str, content: bytes, expected: str
    ) -> None:
        """R-142: it can be read all the same."""
        made.blobs.hold(content)
        made.layer = _entry(content, kind)
        made.image()

        (found,) = made.findings()

        assert found.startswith("warning: $.layers[0]: media type")
        assert expected in found

    def test_of_an_empty_layer_is_not_detected(self, made: Made) -> None:
        made.blobs.hold(b"")
        made.layer = _entry(b"", OCI_LAYER)
        made.config["rootfs"]["diff_ids"] = [str(Digest.of(b""))]
        made.image()

        assert made.findings() == []


class TestArtifacts:
    def test_without_any_type_are_odd(self, made: Made) -> None:
        """Image-spec manifest.md, "Guidelines for Artifact Usage"."""
        made.blobs.hold(b"{}")
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _entry(b"{}", EMPTY_JSON), "layers": []}
        raw = made.stored(OCI_MANIFEST, document, "v1")

        (found,) = validate(made.repository, "v1").findings

        assert (found.severity, found.where) == (Severity.WARNING, made.repository.at(raw.digest))
        assert "artifactType is missing" in found.what


class TestSubjects:
    def test_that_are_here_are_fine(self, made: Made) -> None:
        subject = made.image()
        made.more = {"subject": _entry(subject.content, OCI_MANIFEST)}
        made.image()

        assert validate(made.repository).findings == ()

    @pytest.mark.parametrize("tag", [None, "v1"])
    @pytest.mark.parametrize("change", [{"size": 1}, {"mediaType": OCI_INDEX}])
    def test_are_compared_with_their_descriptors(self, made: Made, change: dict[str, Any], tag: str | None) -> None:
        """Image-spec manifest.md, "subject"; also where it is read for its own sake."""
        subject = made.image()
        made.manifests.put(subject, tags=[Tag("subject")])
        made.more = {"subject": _entry(subject.content, OCI_MANIFEST) | change}
        made.image()

        (found,) = validate(made.repository, tag).findings

        assert found.severity is Severity.WARNING
        assert found.where.endswith(" $.subject")
        assert f"{len(subject.content)} bytes of '{OCI_MANIFEST}'" in found.what

    @pytest.mark.parametrize(
        ("digest", "expected"),
        [(str(Digest.of(b"absent")), "subject is missing"), ("md5:" + "0" * 32, "digest algorithm is not supported")],
    )
    def test_may_be_absent(self, made: Made, digest: str, expected: str) -> None:
        """Distribution-spec, "Pushing Manifests with Subject": odd, and no harm."""
        made.more = {"subject": {"mediaType": OCI_MANIFEST, "digest": digest, "size": 6}}
        made.image()

        (found,) = validate(made.repository, "v1").findings

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
    def made(self) -> Made:
        made = Made()
        made.manifests = _Claiming()
        made.repository = Repository(RepositoryName("made"), made.blobs, made.manifests)
        return made

    def _artifact(self, made: Made, subject: Digest | None, name: str = "sbom", **more: Any) -> Descriptor:
        made.blobs.hold(b"{}")
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": f"application/vnd.example.{name}",
            "config": _entry(b"{}", EMPTY_JSON),
            "layers": [_entry(b"{}", EMPTY_JSON)],
            **more,
        }
        if subject is not None:
            found = made.manifests.resolve(subject)
            document["subject"] = {"mediaType": found.media_type, "digest": str(subject), "size": found.size}
        raw = made.stored(OCI_MANIFEST, document, name)
        return msgspec.structs.replace(
            raw.descriptor, artifact_type=document["artifactType"], annotations=more.get("annotations", {})
        )

    def _claim(self, made: Made, subject: Digest, *listed: Descriptor) -> None:
        assert isinstance(made.manifests, _Claiming)
        made.manifests.claims[subject] = list(listed)

    def _found(self, made: Made) -> list[str]:
        report = validate(made.repository, "v1", referrers=True)
        return [f"{found.severity.value}: {found.what}" for found in report.findings]

    def test_are_left_alone_unless_asked_for(self, made: Made) -> None:
        subject = made.image().digest
        self._claim(made, subject, Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6))

        assert validate(made.repository, "v1").findings == ()

    def test_are_checked_with_their_referrers(self, made: Made) -> None:
        """R-025."""
        subject = made.image().digest
        sbom = self._artifact(made, subject, annotations={"a": "1"})
        signature = self._artifact(made, sbom.digest, "signature")
        self._claim(made, subject, sbom)
        self._claim(made, sbom.digest, signature)

        report = validate(made.repository, "v1", referrers=True)

        assert report.findings == ()
        assert report.manifests == 3

    def test_that_are_missing_or_broken_are_found(self, made: Made) -> None:
        subject = made.image().digest
        absent = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6)
        short = msgspec.structs.replace(self._artifact(made, subject), size=3)
        self._claim(made, subject, absent, short)

        found = self._found(made)

        assert [each.startswith("error: ") for each in found] == [True, True]
        assert "no such manifest" in found[0]
        assert "instead of the promised 3" in found[1]

    def test_that_refer_to_something_else_are_odd(self, made: Made) -> None:
        """R-220."""
        subject = made.image().digest
        about_itself = self._artifact(made, None)
        self._claim(made, subject, about_itself)

        assert self._found(made) == ["warning: listed referrer has no subject"]

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"artifact_type": ""}, "listed without its artifact type"),
            ({"artifact_type": "a/b"}, "listed with the artifact type 'a/b'"),
            ({"annotations": {"a": "2"}}, "listed with annotations other than"),
        ],
    )
    def test_are_compared_with_the_list(self, made: Made, change: dict[str, Any], expected: str) -> None:
        """Distribution-spec, "Listing Referrers"."""
        subject = made.image().digest
        sbom = self._artifact(made, subject, annotations={"a": "1"})
        self._claim(made, subject, msgspec.structs.replace(sbom, **change))

        (found,) = self._found(made)

        assert found.startswith(f"warning: {expected}")

    def test_are_compared_with_the_list_though_they_were_looked_at_before(self, made: Made) -> None:
        """Also if they have tags."""
        subject = made.image().digest
        sbom = self._artifact(made, subject, annotations={"a": "1"})
        self._claim(made, subject, msgspec.structs.replace(sbom, annotations={}))

        report = validate(made.repository, referrers=True)

        assert [found.what for found in report.findings] == ["listed with annotations other than those of the manifest"]
        assert report.manifests == 2

    def test_in_a_circle_are_read_once(self, made: Made) -> None:
        """R-025."""
        subject = made.image().digest
        sbom = self._artifact(made, subject)
        self._claim(made, subject, sbom)
        self._claim(made, sbom.digest, made.manifests.resolve(subject), sbom)

        report = validate(made.repository, "v1", referrers=True)

        assert report.manifests == 2
        assert [found.what for found in report.findings] == [
            "listed referrer has no subject", f"listed referrer has the subject {subject}",
        ]  # fmt: skip

    def test_of_many_images_may_be_many(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-025: the number of referrers of each manifest is limited."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 2)
        for number in range(3):
            made.config["number"] = number
            subject = made.image()
            made.manifests.put(subject, tags=[Tag(f"t{number}")])
            sbom = self._artifact(made, subject.digest)
            made.manifests.untag(Tag("sbom"))
            self._claim(made, subject.digest, sbom)
        made.manifests.untag(Tag("v1"))

        report = validate(made.repository, referrers=True)

        assert report.findings == ()
        assert report.manifests == 6

    def test_without_end_are_left(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-025."""
        monkeypatch.setattr("registry_core.ops.manifests.NODE_LIMIT", 3)
        subject = made.image().digest
        self._claim(made, subject, *(self._artifact(made, subject, f"a{number}") for number in range(4)))

        assert self._found(made) == ["error: not checked: more than 3 manifests", "error: more than 3 referrers"]


class _Failing:
    """Blobs and manifests of an image, of which one thing cannot be asked."""

    def __init__(self, made: Made, error: Exception, what: str) -> None:
        subject = made.image()
        made.more = {"subject": _entry(subject.content, OCI_MANIFEST)}
        self.image = made.image()
        made.index(_entry(self.image.content, OCI_MANIFEST))
        self._subject = subject.digest
        self._error = error
        self._what = what
        self._made = made
        self.blobs, self.manifests = Careless(), StagedManifests()
        self.blobs.open = self._open  # type: ignore[method-assign]
        self.manifests.get = self._get  # type: ignore[method-assign]
        self.manifests.referrers = self._referrers  # type: ignore[method-assign]
        self.repository = Repository(made.repository.name, self.blobs, self.manifests)

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
    def test_are_no_findings(self, made: Made, error: Exception, what: str) -> None:
        failing = _Failing(made, error, what)

        with pytest.raises(type(error)):
            validate(failing.repository, "all", referrers=True)

    def test_neither_are_nonsensical_arguments(self, made: Made) -> None:
        with pytest.raises(InvalidValue):
            validate(made.repository, "v1", jobs=0)
        with pytest.raises(InvalidValue):
            validate(Image(made.repository, made.image()), "v1")
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
