"""Images built on images of a registry are pushed there without downloading the layers of the base."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_adapters import open_client
from registry_adapters.testing import FaultyRegistry, faulty_registry
from registry_core import Image, ImageBuilder, ImageEditor, IndexBuilder, RegistryClient
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobSkipped, Event


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        yield registry


def push_base(client: RegistryClient, platform: str = "linux/amd64", mark: str = "") -> Image:
    """Push an image of two layers to the repository ``org/base``."""
    built = (
        ImageBuilder(platform=platform)
        .add_files({"bin/sh": f"#!/bin/sh\n{platform}{mark}"})
        .add_files({"etc/os-release": f"ID=test{mark}\n"})
        .label("from", f"base{mark}")
        .build()
    )
    client.with_segment("org", "base").push_image(platform.rpartition("/")[2], built)
    return client.with_segment("org", "base").get_image(platform.rpartition("/")[2], platform)


def built_on(base: Image) -> Image:
    return ImageBuilder(base=base).add_files({"app": b"ours"}).build()


def edited(base: Image) -> Image:
    return ImageEditor(base).add_files({"app": b"ours"}).build()


def edited_twice(base: Image) -> Image:
    return ImageEditor(edited(base)).label("again", "yes").build()


def rebased(base: Image) -> Image:
    old = ImageBuilder(platform="linux/amd64").add_files({"old": b"base"}).build()
    return ImageEditor(ImageBuilder(base=old).add_files({"app": b"ours"}).build()).rebase(old, base).build()


def fetched(registry: FaultyRegistry, base: Image) -> list[str]:
    """The layers of the base that were downloaded."""
    digests = {layer.digest for layer in base.layers()}
    requests = registry.request_log.requests(method="GET", endpoint="blob")
    return [entry.path for entry in requests if entry.path.rpartition("/")[2] in digests]


class TestBasesInRegistries:
    @pytest.mark.parametrize("make", [built_on, edited, edited_twice, rebased])
    def test_another_repository_of_the_registry_mounts_the_layers(
        self, registry: FaultyRegistry, make: Callable[[Image], Image]
    ) -> None:
        base = push_base(registry.client())
        registry.request_log.clear()

        image = make(base)
        registry.client().with_segment("org", "app").push_image("v1", image)

        mounts = registry.request_log.requests(method="POST", endpoint="uploads", path="mount=", status=201)
        assert {(entry.parameter("mount"), entry.parameter("from")) for entry in mounts} >= {
            (layer.digest, "org/base") for layer in base.layers()
        }
        assert fetched(registry, base) == []
        assert registry.request_log.bytes_received < sum(layer.size for layer in image.layers()) + 2_000

    @pytest.mark.parametrize("make", [built_on, edited, rebased])
    def test_only_new_blobs_are_uploaded_to_the_same_repository(
        self, registry: FaultyRegistry, make: Callable[[Image], Image]
    ) -> None:
        base = push_base(registry.client())
        registry.request_log.clear()

        image = make(base)
        registry.client().with_segment("org", "base").push_image("v2", image)

        uploads = registry.request_log.count(method="PUT", endpoint="upload", status=201)
        uploads += registry.request_log.count(method="POST", endpoint="uploads", path="digest=", status=201)
        assert uploads == 2  # our layer and the configuration
        assert fetched(registry, base) == []

    def test_changing_the_configuration_reads_no_layer(self, registry: FaultyRegistry) -> None:
        base = push_base(registry.client())
        registry.request_log.clear()

        registry.client().with_segment("org", "base").push_image("v2", ImageEditor(base).label("a", "b").build())

        read = registry.request_log.requests(method="GET", endpoint="blob")
        assert {entry.path.rpartition("/")[2] for entry in read} == {base.manifest().config.digest}

    @pytest.mark.parametrize("kind", [lambda base: ImageBuilder(base=base), ImageEditor])
    def test_their_layers_are_not_fetched_for_files_in_directories(
        self, registry: FaultyRegistry, kind: Callable[[Image], ImageBuilder | ImageEditor]
    ) -> None:
        """R-162."""
        base = push_base(registry.client())
        registry.request_log.clear()

        built = kind(base).add_files({"etc/x": b"1", "opt/app/y": b"2", "etc/.wh.os-release": b""}).build()

        assert fetched(registry, base) == []
        with (
            built.layers()[-1].open_uncompressed() as reader,
            tarfile.open(fileobj=io.BytesIO(reader.read())) as archive,
        ):
            found = archive.getnames()
        assert found == ["etc/.wh.os-release", "etc/x", "opt/app/y"]

    def test_their_layers_are_fetched_for_files_in_directories_that_are_usually_links(
        self, registry: FaultyRegistry
    ) -> None:
        """R-162."""
        client = registry.client().with_segment("org", "base")
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            link = tarfile.TarInfo("lib")
            link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
            archive.addfile(link)
        client.push_image("merged", ImageBuilder("linux/amd64").add_tar(stream.getvalue()).build())
        base = client.get_image("merged", "linux/amd64")

        built = ImageBuilder(base=base).add_files({"lib/x": b"1"}).build()

        assert [entry.path for entry in built.list_files()] == ["usr", "usr/lib", "usr/lib/x", "lib"]

    def test_another_registry_gets_the_layers(self, registry: FaultyRegistry) -> None:
        base = push_base(registry.client())
        image = edited(base)

        with faulty_registry() as other:
            other.client().with_segment("org", "app").push_image("v1", image)
            pulled = other.client().with_segment("org", "app").get_image("v1", "linux/amd64")

            assert other.request_log.count(path="mount=") == 0
            with pulled.open_file("bin/sh") as reader:
                assert reader.read() == b"#!/bin/sh\nlinux/amd64"

    def test_pushing_an_index_mounts_the_layers_of_the_bases(self, registry: FaultyRegistry) -> None:
        images = [push_base(registry.client(), platform) for platform in ("linux/amd64", "linux/arm64")]
        index = IndexBuilder().add(images[0]).add(images[1]).build()
        registry.client().with_segment("org", "base").push_index("all", index)
        base = registry.client().with_segment("org", "base").get_index("all")
        registry.request_log.clear()

        changed = IndexBuilder(base).edit(lambda image: image.label("a", "b")).build()
        registry.client().with_segment("org", "app").push_index("all", changed)

        mounts = registry.request_log.requests(method="POST", endpoint="uploads", path="mount=", status=201)
        layers = {layer.digest for image in images for layer in image.layers()}
        assert {entry.parameter("mount") for entry in mounts} >= layers
        assert all(fetched(registry, image) == [] for image in images)

    def test_docker_registry_mounts_the_layers(self, docker_registry: str) -> None:
        events: list[Event] = []

        class Events:
            def on(self, event: Event) -> None:
                events.append(event)

        with open_client(docker_registry) as client:
            base = push_base(client, mark=os.urandom(8).hex())
            image = edited(base)

            client.with_segment("org", "app").push_image("v1", image, observer=Events())

            mounted = {event.digest for event in events if isinstance(event, BlobMounted)}
            assert mounted == {layer.digest for layer in base.layers()}
            assert len([event for event in events if isinstance(event, BlobCopied)]) == 2
            client.with_segment("org", "app").push_image("v2", image, observer=Events())
            assert isinstance(events[-1], BlobSkipped)


class TestBackends:
    def test_one_index_has_images_of_every_backend(self, client: RegistryClient, tmp_path: Path) -> None:
        with open_client("memory:") as memory, open_client(f"oci:{tmp_path / 'layout'}") as layout:
            images = [
                push_base(memory, "linux/amd64"),
                push_base(layout, "linux/arm64"),
                ImageBuilder(platform="linux/riscv64").add_files({"a": b"1"}).build(),
            ]
            with open_client(f"docker-archive:{tmp_path / 'saved.tar'}") as archive:
                saved = ImageBuilder(platform="linux/s390x").add_files({"a": b"2"}).build()
                archive.with_segment("org", "app").push_image("v1", saved)
            with open_client(f"docker-archive:{tmp_path / 'saved.tar'}") as archive:
                images.append(archive.with_segment("org", "app").get_image("v1", "linux/s390x"))

                builder = IndexBuilder()
                for image in images:
                    builder.add(image)
                client.with_segment("all").push_index("v1", builder.build())

        index = client.with_segment("all").get_index("v1")
        assert [str(entry.platform) for entry in index.manifests] == [
            "linux/amd64", "linux/arm64", "linux/riscv64", "linux/s390x",
        ]  # fmt: skip
        for image in index.images():
            assert list(image.list_files())


class TestStreams:
    def test_a_layer_is_read_from_a_pipe(self, client: RegistryClient, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(os.urandom(3_000_000))

        with subprocess.Popen(["tar", "-c", "-C", str(tmp_path), "big"], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            image = ImageBuilder(platform="linux/amd64").add_tar(tar.stdout, compression="").build()
        client.with_segment("app").push_image("v1", image)

        with client.with_segment("app").get_image("v1", "linux/amd64").open_file("big") as reader:
            assert reader.read() == (tmp_path / "big").read_bytes()

    def test_a_squashed_image_equals_the_tree_of_skopeo_and_tar(
        self, client: RegistryClient, skopeo: str, tmp_path: Path
    ) -> None:
        base = push_base(client)
        image = ImageEditor(base).add_files({"etc/.wh.os-release": b"", "etc/new": b"1"}).squash().build()
        with open_client(f"oci:{tmp_path / 'layout'}") as layout:
            layout.push_image("v1", image)

        copied = f"dir:{tmp_path / 'copied'}"
        subprocess.run([skopeo, "copy", "--quiet", f"oci:{tmp_path / 'layout'}:v1", copied], check=True)
        (layer,) = image.layers()
        with tarfile.open(tmp_path / "copied" / layer.digest.encoded) as archive:
            names = archive.getnames()

        assert names == ["bin", "bin/sh", "etc", "etc/new"]


def test_a_tar_of_one_file_is_a_layer() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"1"))

    image = ImageBuilder().add_tar(io.BytesIO(stream.getvalue())).build()

    assert [entry.path for entry in image.list_files()] == ["file"]
