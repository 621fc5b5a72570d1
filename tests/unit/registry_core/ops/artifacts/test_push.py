"""Files that are pushed as artifacts."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import CREATED, EMPTY_JSON, OCI_LAYER_GZIP, OCI_MANIFEST
from registry_core.domain.names import Tag
from registry_core.errors import ImageNotFound, InvalidName, InvalidValue, UnsafeArchive
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ports.catalog import Repository

KIND = "application/vnd.example.thing"
TITLE = "org.opencontainers.image.title"
EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def _document(repository: Repository, digest: Digest) -> dict[str, Any]:
    return repository.manifests.get(digest).mapping


def _tar(repository: Repository, layer: dict[str, Any]) -> tarfile.TarFile:
    with repository.blobs.open(Digest(layer["digest"])) as reader:
        return tarfile.open(fileobj=io.BytesIO(gzip.decompress(reader.read())))


class TestManifest:
    def test_conforms_to_the_image_spec(self, source: Repository) -> None:
        """Image-spec manifest.md, "Guidelines for Artifact Usage"."""
        pushed = push_artifact(source, [ArtifactFile(b"content", title="a.txt")], artifact_type=KIND)

        document = _document(source, pushed.digest)
        assert (pushed.media_type, pushed.artifact_type) == (OCI_MANIFEST, KIND)
        assert document == {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": KIND,
            "config": {"mediaType": EMPTY_JSON, "digest": EMPTY, "size": 2, "data": base64.b64encode(b"{}").decode()},
            "layers": [
                {
                    "mediaType": "application/octet-stream",
                    "digest": str(Digest.of(b"content")),
                    "size": 7,
                    "annotations": {TITLE: "a.txt"},
                }
            ],
        }
        assert source.blobs.stat(Digest(EMPTY)) == 2

    def test_without_files_has_the_empty_layer(self, source: Repository) -> None:
        pushed = push_artifact(source, [], artifact_type=KIND, annotations={"b": "2", "a": "1"})

        document = _document(source, pushed.digest)
        assert document["layers"] == [document["config"]]
        assert list(document["annotations"].items()) == [("a", "1"), ("b", "2")]

    def test_takes_a_configuration(self, source: Repository) -> None:
        config = ArtifactFile(b'{"a":1}', media_type="application/vnd.example.config+json")

        pushed = push_artifact(source, [ArtifactFile(b"x")], artifact_type=KIND, config=config)

        found = source.manifests.get(pushed.digest).image
        assert (found.config.media_type, found.config.digest) == (config.media_type, Digest.of(b'{"a":1}'))
        assert found.artifact_type == KIND

    def test_writes_the_annotation_of_the_date_as_all_readers_accept_it(self, source: Repository) -> None:
        """The ORAS tools refuse other forms."""
        date = {CREATED: "2024-05-06 07:08:09+00:00"}

        pushed = push_artifact(source, [ArtifactFile(b"x", annotations=date)], artifact_type=KIND, annotations=date)

        manifest = source.manifests.get(pushed.digest).image
        assert manifest.annotations == manifest.layers[0].annotations == {CREATED: "2024-05-06T07:08:09+00:00"}
        with pytest.raises(InvalidValue, match="not an RFC 3339 date"):
            push_artifact(source, [], artifact_type=KIND, annotations={CREATED: "6 May 2024"})

    def test_takes_media_types_and_annotations_of_files(self, source: Repository) -> None:
        file = ArtifactFile(BytesSource(b"x"), media_type="text/plain", annotations={"k": "v"})

        pushed = push_artifact(source, [file], artifact_type=KIND)

        (layer,) = source.manifests.get(pushed.digest).image.layers
        assert (layer.media_type, layer.annotations) == ("text/plain", {"k": "v"})

    def test_takes_a_stream_that_can_be_read_once(self, source: Repository) -> None:
        pushed = push_artifact(source, [ArtifactFile(io.BytesIO(b"x" * 3_000_000), title="a")], artifact_type=KIND)

        (layer,) = source.manifests.get(pushed.digest).image.layers
        assert layer.digest == Digest.of(b"x" * 3_000_000)

    def test_may_leave_its_type_to_its_configuration(self, source: Repository) -> None:
        config = ArtifactFile(b"{}", media_type="application/vnd.example.config+json")

        pushed = push_artifact(source, [ArtifactFile(b"x")], config=config)

        assert "artifactType" not in _document(source, pushed.digest)
        assert pushed.artifact_type == config.media_type

    @pytest.mark.parametrize("config", [None, ArtifactFile(b"{}", media_type=EMPTY_JSON)])
    def test_needs_a_type_where_the_configuration_has_none(
        self, source: Repository, config: ArtifactFile | None
    ) -> None:
        """Image-spec manifest.md: "This MUST be set when config.mediaType is set to the empty value"."""
        with pytest.raises(InvalidValue, match="media type"):
            push_artifact(source, [], config=config)

    def test_is_the_same_for_the_same_files(self, source: Repository, target: Repository, tmp_path: Path) -> None:
        for name in ("one", "two"):
            folder = tmp_path / name / "data"
            folder.mkdir(parents=True)
            (folder / "f").write_text("content")
            os.utime(folder / "f", (len(name) * 1000, 1))

        one = push_artifact(source, [tmp_path / "one" / "data"], artifact_type=KIND)
        two = push_artifact(target, [tmp_path / "two" / "data"], artifact_type=KIND)

        assert one == two

    def test_is_tagged(self, source: Repository) -> None:
        pushed = push_artifact(source, [], artifact_type=KIND, tags=[Tag("v1"), Tag("v2")])

        assert [source.manifests.resolve(Tag(tag)).digest for tag in ("v1", "v2")] == [pushed.digest] * 2


class TestFilesOnDisk:
    def test_have_their_file_names_as_titles(self, source: Repository, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("hello")

        pushed = push_artifact(source, [path, ArtifactFile(path, title="sub/other")], artifact_type=KIND)

        layers = source.manifests.get(pushed.digest).image.layers
        assert [layer.annotations[TITLE] for layer in layers] == ["notes.txt", "sub/other"]

    def test_are_given_by_paths_as_text_as_well(self, source: Repository, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        (tmp_path / "data").mkdir()
        paths = [tmp_path / "notes.txt", tmp_path / "data"]

        one = push_artifact(source, paths, artifact_type=KIND)
        two = push_artifact(source, [str(path) for path in paths], artifact_type=KIND)

        assert one == two

    def test_directories_are_packed_the_way_that_other_tools_unpack(self, source: Repository, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "run").write_text("#!/bin/sh")
        (folder / "inner" / "run").chmod(0o700)
        (folder / "a").write_text("A")
        (folder / "link").symlink_to("inner/run")

        pushed = push_artifact(source, [ArtifactFile(folder, title="deep/data")], artifact_type=KIND)

        (layer,) = _document(source, pushed.digest)["layers"]
        with source.blobs.open(Digest(layer["digest"])) as reader:
            tar = gzip.decompress(reader.read())
        assert layer["mediaType"] == OCI_LAYER_GZIP
        assert layer["annotations"] == {
            TITLE: "deep/data",
            "io.deis.oras.content.unpack": "true",
            "io.deis.oras.content.digest": str(Digest.of(tar)),
        }
        with _tar(source, layer) as archive:
            members = archive.getmembers()
        assert [(member.name, oct(member.mode)) for member in members] == [
            ("deep/data", "0o755"), ("deep/data/a", "0o644"), ("deep/data/inner", "0o755"),
            ("deep/data/inner/run", "0o755"), ("deep/data/link", "0o777"),
        ]  # fmt: skip
        assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}

    @pytest.mark.parametrize("path", [".", "inner/.."])
    def test_given_as_relative_paths_have_the_directory_name_as_title(
        self, source: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        folder = tmp_path / "data"
        (folder / "inner").mkdir(parents=True)
        monkeypatch.chdir(folder)

        pushed = push_artifact(source, [Path(path)], artifact_type=KIND)

        (layer,) = source.manifests.get(pushed.digest).image.layers
        assert layer.annotations[TITLE] == "data"

    def test_links_that_leave_a_directory_are_refused(self, source: Repository, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "link").symlink_to("../outside")

        with pytest.raises(InvalidValue, match="link"):
            push_artifact(source, [folder], artifact_type=KIND)

    def test_directories_take_no_media_type(self, source: Repository, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="directory is packed to a tar"):
            push_artifact(source, [ArtifactFile(tmp_path, media_type="text/plain")], artifact_type=KIND)


class TestSubject:
    def test_is_found_by_its_referrers(self, source: Repository) -> None:
        subject = push_artifact(source, [], artifact_type=KIND, tags=[Tag("v1")])

        pushed = push_artifact(source, [], artifact_type="application/vnd.example.sbom", subject="v1")

        (found,) = source.manifests.referrers(subject.digest)
        assert (found.digest, found.artifact_type) == (pushed.digest, "application/vnd.example.sbom")
        assert source.manifests.get(pushed.digest).subject == Descriptor(
            media_type=subject.media_type, digest=subject.digest, size=subject.size
        )

    def test_may_be_absent_if_given_as_descriptor(self, source: Repository) -> None:
        """R-222."""
        absent = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6)

        pushed = push_artifact(source, [], artifact_type=KIND, subject=absent)

        assert [found.digest for found in source.manifests.referrers(absent.digest)] == [pushed.digest]

    def test_must_exist_if_given_as_tag(self, source: Repository) -> None:
        with pytest.raises(ImageNotFound):
            push_artifact(source, [], artifact_type=KIND, subject=Tag("absent"))


class TestRefusals:
    @pytest.mark.parametrize("kind", ["", "thing", "a/b/c", "a/b; c=d", "/a", "a/", "a b/c", "a/" + "b" * 128])
    def test_artifact_types_that_are_no_media_types(self, source: Repository, kind: str) -> None:
        with pytest.raises(InvalidValue, match="media type"):
            push_artifact(source, [], artifact_type=kind)

    def test_titles_that_cannot_be_pulled(self, source: Repository) -> None:
        with pytest.raises(InvalidName):
            push_artifact(source, [ArtifactFile(b"x", title="../x")], artifact_type=KIND)

    def test_two_files_for_one_title(self, source: Repository) -> None:
        files = [ArtifactFile(b"x", title="readme"), ArtifactFile(b"y", title="README")]

        with pytest.raises(UnsafeArchive):
            push_artifact(source, files, artifact_type=KIND)

    def test_a_directory_for_a_configuration(self, source: Repository, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="config must be a file"):
            push_artifact(source, [], config=ArtifactFile(tmp_path, media_type="a/b"))

    def test_a_single_file_instead_of_a_list(self, source: Repository, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="must be a list of files"):
            push_artifact(source, tmp_path, artifact_type=KIND)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(InvalidValue, match="must be a list of files"):
            push_artifact(source, "notes.txt", artifact_type=KIND)
        with pytest.raises(InvalidValue, match="must be a list of files"):
            push_artifact(source, ArtifactFile(b"x"), artifact_type=KIND)  # type: ignore[arg-type]  # likewise

    def test_values_that_are_not_files(self, source: Repository) -> None:
        with pytest.raises(InvalidValue, match="each file must be an ArtifactFile or a path, not bytes"):
            push_artifact(source, [b"x"], artifact_type=KIND)  # type: ignore[list-item]  # the mistake under test

    def test_a_single_tag_instead_of_a_list(self, source: Repository) -> None:
        with pytest.raises(InvalidValue, match="tags must be a list"):
            push_artifact(source, [], artifact_type=KIND, tags="v1")

    def test_text_that_could_be_a_path(self, source: Repository) -> None:
        with pytest.raises(InvalidValue, match="Path"):
            push_artifact(source, [ArtifactFile("a")], artifact_type=KIND)  # type: ignore[arg-type]

    def test_annotations_that_are_no_text(self, source: Repository) -> None:
        with pytest.raises(InvalidValue, match="annotations"):
            push_artifact(source, [], artifact_type=KIND, annotations={"a": 1})  # type: ignore[dict-item]

    def test_upload_nothing(self, source: Repository) -> None:
        with pytest.raises(InvalidName):
            push_artifact(source, [ArtifactFile(b"x"), ArtifactFile(b"y", title="/y")], artifact_type=KIND)

        with pytest.raises(LookupError):
            source.blobs.stat(Digest.of(b"x"))
