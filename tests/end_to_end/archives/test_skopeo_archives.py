"""The library reads archives of skopeo, and skopeo reads archives of the library, with equal digests."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.scale import FULL

from registry_adapters import LayoutCatalog, open_client
from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_core import (
    Descriptor,
    Image,
    ImageBuilder,
    ImageEditor,
    IndexBuilder,
    RawManifest,
    RepositoryName,
    Tag,
    copy,
)
from registry_core.domain import strict_json
from registry_core.domain.media_types import DOCKER_MANIFEST

HOME = "registry.example.com/org/app"


def _image(platform: str = "linux/amd64") -> Image:
    return (
        ImageBuilder(platform=platform)
        .add_files({"etc/name": platform.encode(), "bin/tool": b"#!/bin/sh\n"})
        .add_files({"srv/data": bytes(range(256)) * 4096})
        .build()
    )


def _skopeo(skopeo: str, *arguments: str) -> str:
    done = subprocess.run(
        [skopeo, "--insecure-policy", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _origin(tmp_path: Path) -> tuple[str, Descriptor, Image]:
    client = open_client(f"oci:{tmp_path / 'origin'}")
    pushed = client.push_image("v1", _image())
    return f"oci:{tmp_path / 'origin'}:v1", pushed, client.get_image("v1")


def _layout_entry(directory: Path) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((directory / "index.json").read_text())["manifests"][0]
    return entry


def _unpacked(skopeo: str, source: str, directory: Path) -> dict[str, Any]:
    """The manifest of an image as skopeo reads it from the archive."""
    _skopeo(skopeo, "copy", source, f"dir:{directory}")
    manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return manifest


def _saved_by_skopeo(skopeo: str, tmp_path: Path) -> tuple[Path, Image]:
    origin, _, image = _origin(tmp_path)
    path = tmp_path / "saved.tar"
    tags = ("--additional-tag", f"{HOME}:v2", "--additional-tag", "debian:12")
    _skopeo(skopeo, "copy", *tags, origin, f"docker-archive:{path}:{HOME}:v1")
    return path, image


def test_a_docker_archive_of_skopeo_is_read_by_each_of_its_names(skopeo: str, tmp_path: Path) -> None:
    path, image = _saved_by_skopeo(skopeo, tmp_path)

    catalog = ArchiveCatalog(path)

    names = {name: list(catalog.repository(name).manifests.tags()) for name in catalog.repositories()}
    assert names == {HOME: ["v1", "v2"], "library/debian": ["12"]}
    with open_client(f"docker-archive:{path}") as client:
        found = client.with_segment(*HOME.split("/")).get_image("v2")
        assert found.manifest().config.digest == image.manifest().config.digest
        assert found.config().rootfs.diff_ids == image.config().rootfs.diff_ids
        with found.open_file("bin/tool") as file:
            assert file.read() == b"#!/bin/sh\n"


@pytest.mark.parametrize("how", ["gzip", "pipe", "gzip in a pipe"])
def test_sources_without_random_access_give_the_same_images(how: str, skopeo: str, tmp_path: Path) -> None:
    path, image = _saved_by_skopeo(skopeo, tmp_path)
    content = gzip.compress(path.read_bytes(), 1) if "gzip" in how else path.read_bytes()
    archive = tmp_path / "archive"
    if "pipe" in how:
        os.mkfifo(archive)
        writer = threading.Thread(target=archive.write_bytes, args=(content,))
        writer.start()
    else:
        archive.write_bytes(content)

    with open_client(f"docker-archive:{archive}") as client:
        found = client.with_segment("debian").get_image("12")
        target = open_client("memory:").with_segment("copy")
        target.push_image("v1", found)

    if "pipe" in how:
        writer.join()
    assert target.get_image("v1").manifest().config.digest == image.manifest().config.digest


def test_an_oci_archive_of_skopeo_is_read_with_unchanged_manifest(skopeo: str, tmp_path: Path) -> None:
    origin, pushed, _ = _origin(tmp_path)
    _skopeo(skopeo, "copy", "--preserve-digests", origin, f"oci-archive:{tmp_path / 'saved.tar'}:{HOME}:v1")

    with open_client(f"oci-archive:{tmp_path / 'saved.tar'}") as client:
        copied = client.with_segment(*HOME.split("/")).copy_image("v1", open_client(f"oci:{tmp_path / 'out'}"), "v1")

    assert copied.digest == pushed.digest


def _ours(tmp_path: Path, form: ArchiveForm) -> tuple[Path, Descriptor, Image]:
    _, pushed, image = _origin(tmp_path)
    path = tmp_path / f"{form.value}.tar"
    source = LayoutCatalog(tmp_path / "origin").repository(RepositoryName(""))
    with ArchiveCatalog(path, form) as catalog:
        for name, tag in ((HOME, "v1"), (HOME, "v2"), ("library/debian", "12")):
            copy(source, catalog.repository(RepositoryName(name)), Tag("v1"), tags=[Tag(tag)])
    return path, pushed, image


@pytest.mark.parametrize("name", [f"{HOME}:v1", f"{HOME}:v2", "debian:12"])
def test_skopeo_reads_our_docker_archive_with_the_same_configuration(name: str, skopeo: str, tmp_path: Path) -> None:
    path, _, image = _ours(tmp_path, ArchiveForm.DOCKER)

    inspected = json.loads(_skopeo(skopeo, "inspect", "--config", f"docker-archive:{path}:{name}"))
    unpacked = _unpacked(skopeo, f"docker-archive:{path}:{name}", tmp_path / "out")

    assert inspected["rootfs"]["diff_ids"] == [str(each) for each in image.config().rootfs.diff_ids]
    assert unpacked["config"]["digest"] == image.manifest().config.digest


@pytest.mark.parametrize("name", [f"{HOME}:v1", f"{HOME}:v2"])
def test_skopeo_reads_our_oci_archive_with_the_same_manifest(name: str, skopeo: str, tmp_path: Path) -> None:
    path, pushed, _ = _ours(tmp_path, ArchiveForm.OCI)

    _skopeo(skopeo, "copy", "--preserve-digests", f"oci-archive:{path}:{name}", f"oci:{tmp_path / 'out'}:v1")

    assert _layout_entry(tmp_path / "out")["digest"] == pushed.digest


def test_a_docker_archive_of_skopeo_is_copied_to_another(skopeo: str, tmp_path: Path) -> None:
    path, image = _saved_by_skopeo(skopeo, tmp_path)
    with ArchiveCatalog(path) as source, ArchiveCatalog(tmp_path / "again.tar") as target:
        name = RepositoryName("library/debian")
        copy(source.repository(name), target.repository(name), Tag("12"), tags=[Tag("12")])

    unpacked = _unpacked(skopeo, f"docker-archive:{tmp_path / 'again.tar'}:debian:12", tmp_path / "out")

    assert unpacked["config"]["digest"] == image.manifest().config.digest


def test_an_index_is_kept_complete_and_skopeo_reads_one_of_its_images(skopeo: str, tmp_path: Path) -> None:
    index = IndexBuilder().add(_image("linux/amd64")).add(_image("linux/arm64")).build()
    with open_client(f"docker-archive:{tmp_path / 'both.tar'}") as client:
        pushed = client.with_segment("app").push_index("v1", index)

    _skopeo(skopeo, "inspect", "--config", f"docker-archive:{tmp_path / 'both.tar'}:app:v1")

    with open_client(f"docker-archive:{tmp_path / 'both.tar'}") as client:
        assert client.with_segment("app").get_digest("v1") == pushed.digest
    with tarfile.open(tmp_path / "both.tar") as archive:
        saved = archive.extractfile("manifest.json")
        assert saved is not None
        assert len(json.load(saved)) == 2


# A separate process, which grows by the memory of the archive alone.
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_core import RepositoryName, Tag, copy
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

root, size = Path(sys.argv[1]), int(sys.argv[2]) << 20
hasher, zeros = hashlib.sha256(), bytes(1 << 20)
for _ in range(size >> 20):
    hasher.update(zeros)
config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers"}}
config["rootfs"]["diff_ids"] = ["sha256:" + hasher.hexdigest()]
content = json.dumps(config).encode()
saved = json.dumps([{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["l/layer.tar"]}]).encode()
with (root / "big.tar").open("wb") as file:
    for name, data in ((b"c.json", content), (b"manifest.json", saved)):
        file.write(encode_header(Member(name, FileKind.FILE, size=len(data))) + data + bytes(-len(data) % 512))
    file.write(encode_header(Member(b"l/layer.tar", FileKind.FILE, size=size)))
    file.seek(size, 1)
    file.write(END_OF_ARCHIVE)

name = RepositoryName("library/app")
source, target = ArchiveCatalog(root / "big.tar"), ArchiveCatalog(root / "out.tar", ArchiveForm.OCI, fsync=False)
copy(source.repository(name), target.repository(name), Tag("v1"), tags=[Tag("v1")])
target.close()
assert (root / "out.tar").stat().st_size > size
# getrusage would report at least the memory that the parent had at the fork.
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) >> 10)
"""


def _peak(directory: Path, mebibytes: int) -> int:
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory), str(mebibytes)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (directory / "out.tar").unlink()
    return int(done.stdout)


@pytest.mark.slow
def test_a_large_image_through_two_archives_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    small, large = _peak(tmp_path / "small", 1), _peak(tmp_path / "large", 1024 if FULL else 256)

    assert large - small <= 24


@pytest.mark.parametrize("config_type", ["application/octet-stream", "text/html", ""])
def test_skopeo_reads_old_docker_images_from_an_archive(skopeo: str, tmp_path: Path, config_type: str) -> None:
    """R-015: images whose configuration has a generic type or none are in the list that Docker reads."""
    client = open_client("memory:").with_segment("org", "app")
    client.push_image("new", ImageEditor(_image("linux/arm64")).to_docker().build())
    document = strict_json.decode(client.get_manifest("new").raw)
    document["config"]["mediaType"] = config_type
    client.repository.manifests.put(RawManifest(DOCKER_MANIFEST, strict_json.encode(document)), tags=[Tag("old")])

    with open_client(f"docker-archive:{tmp_path / 'images.tar'}") as archive:
        client.copy_image("old", archive.with_segment("org", "app"), "old")

    found = json.loads(_skopeo(skopeo, "inspect", f"docker-archive:{tmp_path / 'images.tar'}:org/app:old"))
    assert (found["Os"], found["Architecture"], len(found["Layers"])) == ("linux", "arm64", 2)
