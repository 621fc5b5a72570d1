"""Edited images: everything else keeps its bytes and its place."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_core.content.streams import ByteReader
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import BASE_DIGEST, DOCKER_MANIFEST, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from registry_core.errors import InvalidName, InvalidValue
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.index_builder import IndexBuilder
from registry_core.ops.builder.staged import staged_repository
from registry_core.ops.images import Image
from registry_core.ops.tar.members import FileKind
from registry_core.ops.transfer.copy import copy
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Repository
from registry_core.testing.layers import member, tar


def base() -> Image:
    return (
        ImageBuilder(platform="linux/amd64")
        .add_files({"bin/sh": b"#!/bin/sh\n"})
        .add_files({"etc/name": b"base\n"})
        .label("from", "base")
        .env("PATH", "/bin")
        .build()
    )


def tar_of(image: Image, position: int) -> dict[str, bytes]:
    with image.layers()[position].open_uncompressed() as reader:
        content = io.BytesIO(reader.read())
    found = {}
    with tarfile.open(fileobj=content) as archive:
        for member in archive:
            file = archive.extractfile(member)
            found[member.name] = file.read() if file else b""
    return found


class Untouchable(BlobStore):
    """A store that records which blobs are opened."""

    def __init__(self, inner: BlobStore) -> None:
        self.opened: list[Digest] = []
        self._inner = inner

    def stat(self, digest: Digest) -> int:
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        self.opened.append(digest)
        return self._inner.open(digest, start=start)

    def put(self, digest: Digest, size: int, source: Any) -> None:
        self._inner.put(digest, size, source)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)


def watched(image: Image) -> tuple[Image, Untouchable]:
    blobs = Untouchable(image.repository.blobs)
    repository = Repository(image.repository.name, blobs, image.repository.manifests)
    return Image(repository, image.document), blobs


def odd() -> Image:
    """An image with unknown fields, unusual order and unusual whitespace."""
    image = base()
    repository = staged_repository()
    copy(image.repository, repository, image.document)
    with image.repository.blobs.open(image.manifest().config.digest) as reader:
        config = strict_json.decode(reader.read()) | {"vendor": {"kept": [1, None]}, "moby.buildkit": "x"}
    content = b" " + strict_json.encode(config)
    digest = Digest.of(content)
    with_source = _source(content)
    repository.blobs.put(digest, len(content), with_source)
    mapping = strict_json.decode(image.raw) | {"x-vendor": {"a": 1}}
    mapping["config"] = mapping["config"] | {"digest": str(digest), "size": len(content), "x-note": "kept"}
    document = RawManifest.of(b"\n" + strict_json.encode(mapping))
    repository.manifests.put(document)
    return Image(repository, document)


def _source(content: bytes) -> Any:
    from registry_core.content.streams import BytesSource

    return BytesSource(content)


@pytest.fixture(params=[base, odd], ids=["plain", "odd"])
def image(request: pytest.FixtureRequest) -> Image:
    made: Image = request.param()
    return made


class TestUnchanged:
    def test_without_a_change_it_is_the_same_image_and_nothing_is_read(self, image: Image) -> None:
        """R-026."""
        source, blobs = watched(image)

        edited = ImageEditor(source).build()

        assert edited.digest == image.digest
        assert edited.raw == image.raw
        assert not blobs.opened


class TestConfiguration:
    def test_labels_variables_and_fields_change_and_the_rest_stays(self) -> None:
        """R-027."""
        edited = (
            ImageEditor(odd())
            .label("new", "1")
            .label("from", None)
            .env("FOO", "bar")
            .set_config("StopSignal", "SIGINT")
        ).build()

        mapping = strict_json.decode(edited.config().raw)
        assert mapping["config"]["Labels"] == {"new": "1"}
        assert mapping["config"]["Env"] == ["PATH=/bin", "FOO=bar"]
        assert mapping["config"]["StopSignal"] == "SIGINT"
        assert mapping["vendor"] == {"kept": [1, None]}
        assert strict_json.decode(edited.raw)["x-vendor"] == {"a": 1}
        assert strict_json.decode(edited.raw)["config"]["x-note"] == "kept"

    def test_no_layer_is_read_for_it(self, image: Image) -> None:
        source, blobs = watched(image)

        edited = ImageEditor(source).label("a", "b").annotate("key", "value").build()

        assert edited.digest != image.digest
        assert set(blobs.opened) <= {image.manifest().config.digest}
        assert [layer.digest for layer in edited.layers()] == [layer.digest for layer in image.layers()]

    def test_contradictory_edits_are_refused(self) -> None:
        with pytest.raises((InvalidValue, InvalidName)):
            ImageEditor(base()).env("A=B", "c")
        with pytest.raises(InvalidName):
            ImageEditor(base()).platform("linux/")

    def test_the_date_is_written_to_the_configuration(self) -> None:
        assert ImageEditor(base()).created("2026-01-02T03:04:05Z").build().config().created == "2026-01-02T03:04:05Z"

    def test_changes_that_do_not_touch_each_other_commute(self) -> None:
        one = ImageEditor(base()).label("a", "1").user("me").annotate("k", "v").build()
        other = ImageEditor(base()).annotate("k", "v").user("me").label("a", "1").build()

        assert one.digest == other.digest


class TestLayers:
    def test_one_is_added_on_top(self) -> None:
        edited = ImageEditor(base()).add_files({"srv/new": b"new"}).build()

        assert len(edited.layers()) == 3
        assert tar_of(edited, 2)["srv/new"] == b"new"
        assert len(edited.config().rootfs.diff_ids) == 3
        assert [layer.diff_id() for layer in edited.layers()] == list(edited.config().rootfs.diff_ids)

    def test_one_is_replaced_and_one_is_removed(self) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            member = tarfile.TarInfo("only")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))

        edited = (
            ImageEditor(base())
            .replace_layer(0, stream.getvalue(), media_type="application/vnd.oci.image.layer.v1.tar")
            .remove_layer(1)
            .build()
        )

        assert [tar_of(edited, 0)] == [{"only": b"abc"}]
        assert edited.config().rootfs.diff_ids == (Digest.of(stream.getvalue()),)

    @pytest.mark.parametrize("layer", [2, -1, Digest.of(b"another"), str(Digest.of(b"another")), "latest"])
    def test_a_missing_layer_is_an_error(self, layer: int | Digest | str) -> None:
        with pytest.raises(InvalidValue):
            ImageEditor(base()).remove_layer(layer)

    def test_a_layer_is_selected_by_its_digest_as_text(self) -> None:
        digest = base().layers()[0].digest

        edited = ImageEditor(base()).remove_layer(str(digest)).build()

        assert [layer.digest for layer in edited.layers()] == [base().layers()[1].digest]

    def test_other_compressions_keep_the_diff_ids(self) -> None:
        image = base()

        edited = ImageEditor(image).recompress("zstd").build()

        assert {layer.media_type for layer in edited.layers()} == {OCI_LAYER_ZSTD}
        assert edited.config().rootfs.diff_ids == image.config().rootfs.diff_ids
        assert tar_of(edited, 1) == tar_of(image, 1)
        assert {layer.media_type for layer in ImageEditor(edited).recompress("gzip").build().layers()} == {
            OCI_LAYER_GZIP
        }

    def test_squashing_gives_one_layer_with_all_files(self) -> None:
        image = ImageEditor(base()).add_files({"etc/name": b"upper\n", "etc/.wh.nothing": b""}).build()

        edited = ImageEditor(image).squash().build()

        (layer,) = edited.layers()
        files = {name: content for name, content in tar_of(edited, 0).items() if content}
        assert files == {"bin/sh": b"#!/bin/sh\n", "etc/name": b"upper\n"}
        assert edited.config().rootfs.diff_ids == (layer.diff_id(),)

    def test_squashing_gives_the_same_for_the_same_files_however_spread(self) -> None:
        one = ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).add_files({"b": b"2"}).build()
        other = ImageBuilder(platform="linux/amd64").add_files({"b": b"2", "a": b"1"}).build()

        squashed = [ImageEditor(image).squash().build().layers()[0].digest for image in (one, other)]

        assert squashed[0] == squashed[1]

    def test_squashing_keeps_the_attributes_of_the_root(self) -> None:
        layer = tar(member("./", kind="5", mode=0o700, mtime=1000), member("a", b"1")).content
        image = ImageBuilder(platform="linux/amd64").add_layer(layer).add_files({"b": b"2"}).build()

        (squashed,) = ImageEditor(image).squash().build().layers()

        with squashed.open_uncompressed() as reader, tarfile.open(fileobj=io.BytesIO(reader.read())) as archive:
            root = archive.getmember(".")
        assert (root.isdir(), root.mode, root.mtime) == (True, 0o700, 1000)

    def test_squashing_keeps_the_history_as_steps_without_layers(self) -> None:
        edited = ImageEditor(base()).squash().build()

        assert [step.empty_layer for step in edited.config().history] == [True, True, False]

    def test_repacking_leaves_nondistributable_layers_unchanged(self) -> None:
        """R-032: a repacked layer would differ from the content at its URLs."""
        foreign = f"{OCI_LAYER_GZIP.replace('layer', 'layer.nondistributable')}"
        image = ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()
        mapping = strict_json.decode(image.raw)
        mapping["layers"][0] |= {"mediaType": foreign, "urls": ["https://example.com/layer"]}
        odd = Image(image.repository, RawManifest.of(strict_json.encode(mapping)))

        edited = ImageEditor(odd).recompress("zstd").canonicalise(7).build()

        assert strict_json.decode(edited.raw)["layers"] == mapping["layers"]

    def test_files_get_the_given_time_and_not_that_on_disk(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"1")

        image = (
            ImageBuilder(platform="linux/amd64")
            .add_files({"a": tmp_path / "file"})
            .add_files({"b": b"1"}, mtime=1_700_000_000)
            .add_directory(tmp_path, "c", mtime="2024-05-06T07:08:09Z")
            .build()
        )

        found = {entry.path: entry.mtime for entry in image.list_files() if entry.kind is FileKind.FILE}
        assert found == {"a": 0, "b": 1_700_000_000, "c/file": 1714979289}

    def test_annotating_the_descriptor_keeps_the_order(self) -> None:
        source, blobs = watched(base())

        edited = ImageEditor(source).annotate_layer(1, "b", "2").annotate_layer(source.layers()[1].digest, "a", "1")

        first, second = strict_json.decode(edited.build().raw)["layers"]
        assert second == strict_json.decode(base().raw)["layers"][1] | {"annotations": {"a": "1", "b": "2"}}
        assert first == strict_json.decode(base().raw)["layers"][0]
        assert edited.annotate_layer(1, "a", None).annotate_layer(1, "b", None).build().digest == base().digest
        assert not blobs.opened
        with pytest.raises(InvalidValue):
            edited.annotate_layer(1, "a", 1)  # type: ignore[arg-type]


class TestCanonical:
    def _built(self, times: Iterator[int]) -> Image:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in ("b", "a"):
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.uname = 1, next(times), "somebody"
                archive.addfile(member, io.BytesIO(name.encode()))
        builder = ImageBuilder(platform="linux/amd64")
        return builder.add_layer(stream.getvalue(), media_type="application/vnd.oci.image.layer.v1.tar").build()

    def test_images_that_differ_in_times_only_become_equal(self) -> None:
        one, other = self._built(iter((1, 2))), self._built(iter((30, 40)))
        assert one.digest != other.digest

        canonical = [ImageEditor(image).canonicalise(0, owner=(0, 0)).build() for image in (one, other)]

        assert canonical[0].digest == canonical[1].digest
        assert list(tar_of(canonical[0], 0)) == ["a", "b"]


class TestRebase:
    def test_the_layers_of_the_base_are_replaced_and_the_others_stay(self) -> None:
        old = base()
        image = ImageBuilder(platform="linux/amd64", base=old).add_files({"app": b"ours"}).label("app", "1").build()
        new = ImageEditor(base()).add_files({"etc/new": b"x"}).label("from", "newer").env("PATH", "/usr/bin").build()

        edited = ImageEditor(image).rebase(old, new).build()

        assert [layer.digest for layer in edited.layers()][:-1] == [layer.digest for layer in new.layers()]
        assert edited.layers()[-1].digest == image.layers()[-1].digest
        assert edited.config().config.labels == {"from": "newer", "app": "1"}
        assert edited.config().config.env == ("PATH=/usr/bin",)
        assert [layer.diff_id() for layer in edited.layers()] == list(edited.config().rootfs.diff_ids)

    def test_an_image_with_another_base_is_refused(self) -> None:
        stranger = ImageBuilder(platform="linux/amd64").add_files({"x": b"y"}).build()

        with pytest.raises(InvalidValue, match="not built on"):
            ImageEditor(base()).rebase(stranger, base())

    def test_a_base_of_another_platform_is_refused(self) -> None:
        other = ImageBuilder(platform="linux/arm64").add_files({"x": b"y"}).build()

        with pytest.raises(InvalidValue, match="arm64"):
            ImageEditor(base()).rebase(base(), other)

    def test_steps_without_layers_keep_their_position(self) -> None:
        """The steps with layers still correspond to the layers."""

        def with_history(image: Image, *steps: tuple[str, bool]) -> Image:
            repository = staged_repository()
            copy(image.repository, repository, image.document)
            config = strict_json.decode(image.config().raw)
            config["history"] = [{"created_by": by} | ({"empty_layer": True} if empty else {}) for by, empty in steps]
            content = strict_json.encode(config)
            repository.blobs.put(Digest.of(content), len(content), _source(content))
            mapping = strict_json.decode(image.raw)
            mapping["config"] |= {"digest": str(Digest.of(content)), "size": len(content)}
            raw = RawManifest.of(strict_json.encode(mapping))
            repository.manifests.put(raw)
            return Image(repository, raw)

        old = with_history(base(), ("ENV old", True), ("ADD old", False), ("RUN old", False), ("CMD old", True))
        ours = with_history(
            ImageBuilder(platform="linux/amd64", base=old).add_files({"app": b"1"}).build(),
            ("ENV old", True), ("ADD old", False), ("RUN old", False), ("CMD old", True),
            ("ENV ours", True), ("COPY ours", False), ("CMD ours", True),
        )  # fmt: skip
        new = with_history(
            ImageEditor(base()).add_files({"etc/new": b"x"}).build(),
            ("ADD new", False), ("ENV new", True), ("RUN new", False), ("RUN more", False),
        )  # fmt: skip

        edited = ImageEditor(ours).rebase(old, new).build()

        assert [(step.created_by, step.empty_layer) for step in edited.config().history] == [
            ("ADD new", False), ("ENV new", True), ("RUN new", False), ("RUN more", False),
            ("ENV ours", True), ("COPY ours", False), ("CMD ours", True),
        ]  # fmt: skip
        assert len(edited.layers()) == 4

    def test_a_base_with_another_compression_is_the_same_base(self) -> None:
        image = ImageBuilder(platform="linux/amd64", base=base()).add_files({"app": b"ours"}).build()
        zstd = ImageEditor(base()).recompress("zstd").build()

        edited = ImageEditor(image).rebase(zstd, zstd).build()

        assert [layer.media_type for layer in edited.layers()] == [OCI_LAYER_ZSTD, OCI_LAYER_ZSTD, OCI_LAYER_GZIP]

    def test_the_command_is_kept_if_the_image_sets_an_entrypoint(self) -> None:
        old = ImageEditor(base()).entrypoint("/old").cmd("--serve").build()
        new = ImageEditor(base()).entrypoint("/new").cmd("--listen").build()
        own = ImageBuilder(platform="linux/amd64", base=old).entrypoint("/own").cmd("--serve").build()

        edited = ImageEditor(own).rebase(old, new).build()

        assert (edited.config().config.entrypoint, edited.config().config.cmd) == (("/own",), ("--serve",))

    def test_the_annotations_of_the_base_are_updated(self) -> None:
        new = ImageEditor(base()).add_files({"etc/new": b"x"}).build()
        image = ImageEditor(base()).annotate(BASE_DIGEST, str(base().digest)).build()

        edited = ImageEditor(image).rebase(base(), new).build()

        assert edited.manifest().annotations == {BASE_DIGEST: str(new.digest)}

    @pytest.mark.parametrize("theirs", ["linux/amd64", "windows/amd64"])
    def test_a_base_must_have_the_same_os(self, theirs: str) -> None:
        """Windows runs Linux images, but a Windows image cannot have a Linux base."""
        other = ImageBuilder(platform=theirs).build()
        wanted = "windows/amd64" if theirs.startswith("linux") else "linux/amd64"

        with pytest.raises(InvalidValue, match="base"):
            ImageBuilder(platform=wanted, base=other)


class TestMediaTypes:
    def test_converting_to_docker_and_back_gives_the_same_content(self) -> None:
        image = base()

        docker = ImageEditor(image).to_docker().build()
        back = ImageEditor(docker).to_oci().build()

        assert docker.media_type == DOCKER_MANIFEST
        assert "docker" in docker.layers()[0].media_type
        assert back.media_type == OCI_MANIFEST
        assert [layer.digest for layer in back.layers()] == [layer.digest for layer in image.layers()]
        assert back.digest == image.digest

    def test_an_edited_docker_image_stays_one(self) -> None:
        docker = ImageEditor(base()).to_docker().build()

        edited = ImageEditor(docker).add_files({"new": b"1"}).build()

        assert edited.media_type == DOCKER_MANIFEST
        assert {layer.media_type for layer in edited.layers()} == {docker.layers()[0].media_type}

    def test_a_manifest_that_does_not_name_its_type_stays_so(self) -> None:
        image = base()
        mapping = {key: value for key, value in strict_json.decode(image.raw).items() if key != "mediaType"}
        nameless = Image(image.repository, RawManifest.of(strict_json.encode(mapping)))

        assert ImageEditor(nameless).to_oci().build().raw == nameless.raw
        assert ImageEditor(nameless).to_docker().build().media_type == DOCKER_MANIFEST

    def test_fields_that_docker_manifests_lack_are_refused(self) -> None:
        with pytest.raises(InvalidValue):
            ImageEditor(base()).annotate("key", "value").to_docker().build()


class TestPushing:
    def test_layers_that_the_target_has_are_neither_read_nor_sent(self) -> None:
        image = base()
        target = staged_repository()
        copy(image.repository, target, image.document)
        source, blobs = watched(image)
        edited = ImageEditor(source).add_files({"new": b"1"}).build()
        blobs.opened.clear()

        copy(edited.repository, target, edited.document)

        assert not blobs.opened
        assert target.manifests.resolve(edited.digest).digest == edited.digest


class TestIndexes:
    def test_one_platform_is_replaced_and_the_others_keep_their_entries(self) -> None:
        arm = ImageBuilder(platform="linux/arm64").add_files({"a": b"arm"}).build()
        index = IndexBuilder().add(base()).add(arm).annotate("key", "value").build()
        fresh = ImageEditor(arm).label("new", "1").build()

        edited = IndexBuilder(index).replace(fresh).build()

        assert [entry.digest for entry in edited.manifests] == [base().digest, fresh.digest]
        assert edited.annotations == {"key": "value"}
        assert IndexBuilder(index).build().digest == index.digest
