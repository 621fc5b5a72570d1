"""skopeo reads images of the library, and the library reads images of skopeo, with equal digests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from registry_adapters import open_client
from registry_core import Image, ImageBuilder, Index, IndexBuilder, RegistryClient


def _image(platform: str = "linux/amd64") -> Image:
    return (
        ImageBuilder(platform=platform)
        .add_files({"etc/name": platform.encode(), "bin/tool": b"#!/bin/sh\n"})
        .add_files({"srv/data": bytes(range(256)) * 4096})
        .label("a", "b")
        .build()
    )


def _index() -> Index:
    return IndexBuilder().add(_image("linux/amd64")).add(_image("linux/arm64")).build()


def _copy(skopeo: str, source: str, target: str) -> None:
    subprocess.run(
        [
            skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests",
            "--src-tls-verify=false", "--dest-tls-verify=false", source, target,
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def _docker(client: RegistryClient) -> str:
    return f"docker://{client.registry}"


def _contents(image: Image) -> list[bytes]:
    contents = []
    for layer in image.layers():
        with layer.open() as reader:
            contents.append(reader.read())
    return contents


def _layout_digest(directory: Path) -> str:
    digest = json.loads((directory / "index.json").read_text())["manifests"][0]["digest"]
    assert isinstance(digest, str)
    return digest


@pytest.mark.parametrize("kind", ["image", "index"])
@pytest.mark.parametrize("server", ["docker_registry", "layout_server"])
def test_skopeo_copies_images_of_the_library_from_a_registry(
    kind: str, server: str, skopeo: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with open_client(request.getfixturevalue(server)) as registry:
        client = registry.with_segment("ours", kind)
        pushed = client.push_image("v1", _image()) if kind == "image" else client.push_index("v1", _index())

        _copy(skopeo, f"{_docker(client)}:v1", f"oci:{tmp_path / 'out'}:v1")

    assert _layout_digest(tmp_path / "out") == pushed.digest


@pytest.mark.parametrize("kind", ["image", "index"])
def test_skopeo_copies_images_of_the_library_from_a_layout(kind: str, skopeo: str, tmp_path: Path) -> None:
    client = open_client(f"oci:{tmp_path / 'ours'}")
    pushed = client.push_image("v1", _image()) if kind == "image" else client.push_index("v1", _index())

    _copy(skopeo, f"oci:{tmp_path / 'ours'}:v1", f"oci:{tmp_path / 'out'}:v1")

    assert _layout_digest(tmp_path / "out") == pushed.digest


@pytest.mark.parametrize("kind", ["image", "index"])
@pytest.mark.parametrize("server", ["docker_registry", "layout_server"])
def test_the_library_reads_images_of_skopeo_from_a_registry_and_a_layout(
    kind: str, server: str, skopeo: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    origin = open_client(f"oci:{tmp_path / 'origin'}")
    original = origin.push_image("v1", _image()) if kind == "image" else origin.push_index("v1", _index())
    _copy(skopeo, f"oci:{tmp_path / 'origin'}:v1", f"oci:{tmp_path / 'by-skopeo'}:v1")

    with open_client(request.getfixturevalue(server)) as registry:
        client = registry.with_segment("theirs", kind)
        _copy(skopeo, f"oci:{tmp_path / 'by-skopeo'}:v1", f"{_docker(client)}:v1")
        from_registry = client.get_image("v1", platform="linux/amd64")
        content = _contents(from_registry)
        assert client.get_digest("v1") == original.digest

    layout = open_client(f"oci:{tmp_path / 'by-skopeo'}")
    from_layout = layout.get_image("v1", platform="linux/amd64")
    assert layout.get_digest("v1") == original.digest
    assert from_layout.digest == from_registry.digest
    assert _contents(from_layout) == content
