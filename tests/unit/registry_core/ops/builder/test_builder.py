"""Images and indexes built from layers and images."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import IntegrityError, InvalidDocument, InvalidName, InvalidValue, Unsupported
from registry_core.ops.builder.builder import BaseImageBuilder, ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.index_builder import IndexBuilder
from registry_core.ops.images import Image
from registry_core.ops.manifests import select
from registry_core.ops.transfer.copy import copy
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any

TAR = bytes(1024)


def names(image: Image) -> list[list[str]]:
    found = []
    for layer in image.layers():
        with layer.open_uncompressed() as reader:
            content = io.BytesIO(reader.read())
        with tarfile.open(fileobj=content) as archive:
            found.append(archive.getnames())
    return found


def example() -> ImageBuilder:
    return (
        ImageBuilder(platform="linux/amd64")
        .add_files({"app/run.sh": b"#!/bin/sh\n"})
        .label("b", "2")
        .label("a", "1")
        .env("FOO", "bar")
        .entrypoint("/app/run.sh")
        .cmd("--serve")
        .working_dir("/app")
        .user("1000")
        .annotate("key", "value")
    )


class TestImages:
    def test_settings_are_written_to_the_configuration(self) -> None:
        config = example().build().config()

        assert (config.os, config.architecture, config.created) == ("linux", "amd64", "1970-01-01T00:00:00Z")
        assert config.config.labels == {"a": "1", "b": "2"}
        assert config.config.env == ("FOO=bar",)
        assert config.config.entrypoint == ("/app/run.sh",)
        assert config.config.cmd == ("--serve",)
        assert (config.config.working_dir, config.config.user) == ("/app", "1000")
        assert len(config.rootfs.diff_ids) == len(config.history) == 1

    def test_the_same_input_gives_the_same_configuration_for_ever(self) -> None:
        assert (
            Digest.of(example().build().config().raw)
            == "sha256:35cf511b33f420c58b8b1b1ae56e377d73017f96cabeada15f3be9597c709862"
        )

    def test_building_again_gives_the_same_image(self) -> None:
        builder = example()

        assert builder.build().raw == builder.build().raw == example().build().raw

    def test_the_order_of_labels_does_not_matter(self) -> None:
        one = ImageBuilder().label("a", "1").label("b", "2").annotate("c", "3").annotate("d", "4")
        two = ImageBuilder().label("b", "2").label("a", "1").annotate("d", "4").annotate("c", "3")

        assert one.build().digest == two.build().digest

    def test_each_call_makes_one_layer(self, tmp_path: Path) -> None:
        (tmp_path / "page").write_bytes(b"1")

        image = ImageBuilder().add_files({"a": b"1"}).add_directory(tmp_path, target="srv").build()

        assert names(image) == [["a"], ["srv", "srv/page"]]

    def test_paths_are_text_or_path_objects(self, tmp_path: Path) -> None:
        (tmp_path / "page").write_bytes(b"1")
        (tmp_path / "layer").write_bytes(TAR)

        one = ImageBuilder().add_directory(tmp_path, "srv").add_layer(tmp_path / "layer").add_tar(tmp_path / "layer")
        two = (
            ImageBuilder()
            .add_directory(str(tmp_path), PurePosixPath("srv"))
            .add_layer(str(tmp_path / "layer"))
            .add_tar(str(tmp_path / "layer"))
        )

        assert one.build().digest == two.build().digest

    def test_files_that_are_not_a_mapping_are_refused(self) -> None:
        with pytest.raises(InvalidValue, match="files must be a mapping of paths to content, not list"):
            ImageBuilder().add_files(["a"])  # type: ignore[arg-type]  # the mistake under test

    def test_a_variable_is_set_once(self) -> None:
        config = ImageBuilder().env("A", "1").env("B", "2").env("A", "3").build().config()

        assert config.config.env == ("A=3", "B=2")

    @pytest.mark.parametrize("kind", [lambda base: ImageBuilder(base=base), ImageEditor])
    def test_a_variable_that_is_set_anew_keeps_its_place_in_the_list(
        self, kind: Callable[[Image], BaseImageBuilder]
    ) -> None:
        base = ImageBuilder().set_config("Env", ["PATH=/bin", "A=1", "B", "A=2", "C=3"]).build()

        config = kind(base).env("A", "4").env("NEW", "5").env("C", None).env("C", "6").build().config()

        assert config.config.env == ("PATH=/bin", "A=4", "B", "NEW=5", "C=6")

    @pytest.mark.parametrize("name", ["", "A=B"])
    def test_a_variable_needs_a_name(self, name: str) -> None:
        with pytest.raises(InvalidValue):
            ImageBuilder().env(name, "1")

    @pytest.mark.parametrize(
        ("time", "text"),
        [
            ("2024-05-06T07:08:09.123456789Z", "2024-05-06T07:08:09.123456789Z"),
            (datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=2))), "2024-05-06T05:08:09Z"),
            (datetime(2024, 5, 6, 7, 8, 9, 500, tzinfo=UTC), "2024-05-06T07:08:09.000500Z"),
            (str(datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)), "2024-05-06T07:08:09+00:00"),
            ("2024-05-06t07:08:09.5z", "2024-05-06T07:08:09.5Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
        ],
    )
    def test_the_time_is_the_given_one(self, time: str | int | datetime, text: str) -> None:
        config = ImageBuilder().add_files({"a": b"1"}).created(time).build().config()

        assert config.created == config.history[0].created == text

    @pytest.mark.parametrize("time", ["yesterday", "2024-05-06T07:08:09", datetime(2024, 5, 6)])
    def test_a_time_without_a_zone_is_refused(self, time: str | datetime) -> None:
        with pytest.raises(InvalidValue):
            ImageBuilder().created(time)

    def test_a_malformed_platform_is_refused(self) -> None:
        with pytest.raises(InvalidName):
            ImageBuilder(platform="a/b/c/d")

    @pytest.mark.parametrize(
        "call",
        [
            lambda platform: ImageBuilder(platform),
            lambda platform: ImageEditor(example().build()).platform(platform),
            lambda platform: IndexBuilder().add(example().build(), platform),
            lambda platform: IndexBuilder().remove(platform),
        ],
    )
    def test_a_platform_is_an_object_or_text(self, call: Callable[[Any], object]) -> None:
        with pytest.raises(InvalidValue, match="pass text such as 'linux/amd64'"):
            call(("linux", "amd64"))

    def test_the_variant_is_kept(self) -> None:
        assert str(ImageBuilder(platform="linux/arm/v6").build().config().platform) == "linux/arm/v6"

    def test_an_image_is_pushed_like_any_other(self, target: Repository) -> None:
        image = example().build()

        pushed = copy(image.repository, target, image.digest)

        assert names(Image(target, target.manifests.get(pushed.digest))) == [["app", "app/run.sh"]]


class TestPrebuiltLayers:
    @pytest.mark.parametrize(("media_type", "pack"), [(OCI_LAYER, bytes), (OCI_LAYER_GZIP, gzip.compress)])
    def test_a_prebuilt_layer_is_kept_unchanged(self, media_type: str, pack: Callable[[bytes], bytes]) -> None:
        stored = pack(TAR)

        layer = ImageBuilder().add_layer(stored, media_type=media_type).build().layers()[0]

        assert (layer.digest, layer.media_type, layer.diff_id()) == (Digest.of(stored), media_type, Digest.of(TAR))

    @pytest.mark.parametrize("media_type", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
    def test_a_prebuilt_layer_of_no_bytes_is_empty(self, media_type: str) -> None:
        """R-142: as it is for readers."""
        image = ImageBuilder().add_layer(b"", media_type=media_type).build()

        assert image.layers()[0].diff_id() == Digest.of(b"")
        assert not list(image.list_files())

    def test_a_compressed_layer_under_the_type_of_a_tar_can_be_read(self) -> None:
        """R-142: readers decompress it, so its diff ID is that of the tar."""
        with ImageBuilder().add_files({"a": b"1"}).build().layers()[0].open_uncompressed() as reader:
            tar = reader.read()

        image = ImageBuilder().add_layer(gzip.compress(tar), media_type=OCI_LAYER).build()

        assert image.layers()[0].diff_id() == Digest.of(tar)
        assert [entry.path for entry in image.list_files()] == ["a"]

    def test_a_layer_of_an_unknown_type_is_refused(self) -> None:
        with pytest.raises(Unsupported):
            ImageBuilder().add_layer(TAR, media_type="application/x-layer")

    def test_a_corrupt_layer_is_refused(self) -> None:
        with pytest.raises(IntegrityError):
            ImageBuilder().add_layer(TAR, media_type=OCI_LAYER_ZSTD)


class TestBases:
    def test_an_image_is_built_on_a_base(self, target: Repository) -> None:
        base = example().build()

        image = ImageBuilder(base=base).add_files({"more": b"1"}).env("B", "2").build()
        pushed = Image(target, target.manifests.get(copy(image.repository, target, image.digest).digest))

        assert names(pushed) == [["app", "app/run.sh"], ["more"]]
        assert pushed.config().config.env == ("FOO=bar", "B=2")
        assert pushed.config().config.labels == {"a": "1", "b": "2"}
        assert len(pushed.config().history) == 2

    def test_unknown_fields_of_a_base_survive(self, graphs: Graphs) -> None:
        """R-027."""
        config = strict_json.encode(
            {
                "os": "linux",
                "architecture": "arm64",
                "vendor": {"kept": [1, None]},
                "config": {"Healthcheck": {"Test": ["CMD"]}, "Cmd": ["old"]},
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        )
        base = Image(graphs.repository, graphs.image(config=config))

        built = ImageBuilder(base=base).label("a", "1").build().config()

        mapping = strict_json.decode(built.raw)
        assert mapping["vendor"] == {"kept": [1, None]}
        assert mapping["config"] == {"Healthcheck": {"Test": ["CMD"]}, "Cmd": ["old"], "Labels": {"a": "1"}}
        assert str(built.platform) == "linux/arm64"

    def test_a_new_entrypoint_drops_the_command_of_the_base(self) -> None:
        base = example().build()

        assert ImageBuilder(base=base).entrypoint("/new").build().config().config.cmd == ()
        assert ImageBuilder(base=base).cmd("x").entrypoint("/new").build().config().config.cmd == ("x",)
        assert example().build().config().config.cmd == ("--serve",)

    def test_the_base_is_not_changed(self) -> None:
        base = example().build()
        before = base.config().raw

        ImageBuilder(base=base).label("new", "1").env("NEW", "1").add_files({"a": b"1"}).build()

        assert base.config().raw == before
        assert example().build().raw == base.raw

    def test_a_base_of_another_platform_is_refused(self) -> None:
        with pytest.raises(InvalidValue):
            ImageBuilder(platform="linux/arm64", base=example().build())

    def test_docker_layers_get_oci_media_types(self, graphs: Graphs) -> None:
        stored = gzip.compress(TAR)
        config = strict_json.encode({"rootfs": {"type": "layers", "diff_ids": [Digest.of(TAR)]}})
        layers = [graphs.entry(DOCKER_LAYER_GZIP, stored, annotations={"vendor": "kept"})]
        base = Image(graphs.repository, graphs.image(stored, config=config, layers=layers))

        layer = ImageBuilder(base=base).build().layers()[0]

        assert (layer.media_type, layer.descriptor.annotations) == (OCI_LAYER_GZIP, {"vendor": "kept"})

    def test_a_base_without_a_diff_id_for_each_layer_is_refused(self, graphs: Graphs) -> None:
        with pytest.raises(InvalidDocument):
            ImageBuilder(base=Image(graphs.repository, graphs.image(b"1")))

    def test_an_incomplete_history_is_left_unchanged(self, graphs: Graphs) -> None:
        config = strict_json.encode({"rootfs": {"type": "layers", "diff_ids": [Digest.of(b"1")]}})
        base = Image(graphs.repository, graphs.image(b"1", config=config))

        built = ImageBuilder(base=base).add_files({"a": b"1"}).build().config()

        assert built.history == ()
        assert len(built.rootfs.diff_ids) == 2


class TestIndexes:
    def test_images_from_anywhere_are_listed_under_their_platforms(self, graphs: Graphs, target: Repository) -> None:
        stored = Image(graphs.repository, graphs.image(b"1", config=b'{"os":"linux","architecture":"s390x"}'))
        built = ImageBuilder(platform="linux/arm/v6").add_files({"a": b"1"}).build()

        index = IndexBuilder().add(stored).add(built).add(built, platform="linux/arm/v7").annotate("k", "v").build()
        copy(index.repository, target, index.digest)

        assert [str(entry.platform) for entry in index.manifests] == ["linux/s390x", "linux/arm/v6", "linux/arm/v7"]
        assert index.annotations == {"k": "v"}
        for image in (stored, built):
            assert target.manifests.get(image.digest).content == image.raw
            assert all(target.blobs.stat(layer.digest) == layer.size for layer in image.layers())

    def test_a_nested_index_is_included_completely(self, target: Repository) -> None:
        image = example().build()
        inner = IndexBuilder().add(image).build()

        outer = IndexBuilder().add(inner).build()
        copy(outer.repository, target, outer.digest)

        assert select(target, target.manifests.get(outer.digest), image.platform).manifest.digest == image.digest

    def test_the_same_image_is_listed_once(self) -> None:
        image = example().build()

        assert len(IndexBuilder().add(image).add(image).build().manifests) == 1

    def test_another_artifact_is_listed_by_its_type(self, graphs: Graphs) -> None:
        config = graphs.entry("application/vnd.example.chart", b"{}")
        chart = Image(graphs.repository, graphs.image(b"{}", overrides={"config": config}))

        entry = IndexBuilder().add(chart).build().manifests[0]

        assert (entry.platform, entry.artifact_type) == (None, "application/vnd.example.chart")

    def test_the_same_images_give_the_same_index(self) -> None:
        one, two = (IndexBuilder().add(example().build()).annotate("b", "2").annotate("a", "1") for _ in range(2))

        assert one.build().raw == one.build().raw == two.build().raw
