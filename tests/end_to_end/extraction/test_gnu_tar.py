"""Extracting layers of GNU tar gives the same trees as unpacking them with GNU tar."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tests.end_to_end.extraction.file_trees import links, tree
from tests.end_to_end.extraction.other_tools import tar_applies

from registry_adapters import MemoryCatalog, open_client
from registry_core import (
    Cancelled,
    CancelScope,
    DeadlineExceeded,
    Extracted,
    Image,
    ImageBuilder,
    NotFound,
    RegistryClient,
    RepositoryName,
    fail_after,
)
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from registry_core.errors import DigestMismatch, InvalidDocument, Unsupported
from registry_core.ops.tar.members import FileKind
from registry_core.testing.content import put_blob

ROOT = os.geteuid() == 0
PACK: dict[str, Callable[[bytes], bytes]] = {
    OCI_LAYER: bytes,
    OCI_LAYER_GZIP: gzip.compress,
    OCI_LAYER_ZSTD: zstd.compress,
}
FORMATS = ["gnu", "pax", "oldgnu"]


def pack(directory: Path, format_: str, *names: str) -> bytes:
    """A tar of parts of a directory, written by GNU tar."""
    command = ["tar", "-c", f"--format={format_}", "--sparse", "--sort=name", "--numeric-owner", "-C", str(directory)]
    if format_ == "pax":
        command += ["--xattrs", "--pax-option=delete=atime,delete=ctime"]
    return subprocess.run([*command, "--", *(names or (".",))], check=True, capture_output=True).stdout


def apply(layers: list[bytes], directory: Path) -> None:
    tar_applies(map(io.BytesIO, layers), directory)


def image(layers: list[tuple[bytes, str]], *, diff_ids: list[str] | None = None) -> Image:
    """An image in memory, from tars and the media types of their layers."""
    repository = MemoryCatalog().repository(RepositoryName("org/app"))
    entries = []
    for content, media_type in layers:
        stored = PACK[media_type](content)
        put_blob(repository, stored)
        entries.append({"mediaType": media_type, "digest": str(Digest.of(stored)), "size": len(stored)})
    ids = [str(Digest.of(content)) for content, _ in layers] if diff_ids is None else diff_ids
    config = strict_json.encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
    put_blob(repository, config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": entries,
    }
    manifest = RawManifest(OCI_MANIFEST, strict_json.encode(document))
    repository.manifests.put(manifest)
    return Image(repository, manifest)


def populate(base: Path) -> None:
    """Create a tree with every kind of file of a root file system."""
    for folder in ("bin", "etc", "dev", "tmp", "usr/lib", "var/long"):
        (base / folder).mkdir(parents=True)
    (base / "etc/os-release").symlink_to("../usr/lib/os-release")
    (base / "usr/lib/os-release").write_text("ID=debian\n")
    (base / "etc/mtab").symlink_to("/proc/mounts")
    (base / "lib").symlink_to("usr/lib")
    (base / "bin/sh").write_bytes(os.urandom(300_000))
    os.link(base / "bin/sh", base / "bin/dash")
    os.link(base / "bin/sh", base / "usr/lib/sh")
    (base / "bin/su").write_bytes(b"su")
    (base / "bin/su").chmod(0o4755)
    (base / "tmp").chmod(0o1777)
    (base / "var/long" / ("n" * 250)).write_text("long")
    deep = base / "var/long" / "/".join(["deep" * 20] * 4)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (deep / "link").symlink_to("t" * 300)
    for name in (b"\xff\xfe", b"new\nline", "é".encode(), "e\u0301".encode(), b"A", b"a", b" "):
        with open(os.path.join(os.fsencode(base / "var"), name), "wb") as file:
            file.write(name)
    with (base / "var/sparse").open("wb") as file:
        for place in range(0, 40 << 20, 1 << 20):
            file.seek(place)
            file.write(b"data")
        file.truncate(50 << 20)
    (base / "empty").touch()
    os.mkfifo(base / "dev/initctl", 0o600)
    if ROOT:
        os.mknod(base / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(base / "dev/sda", stat.S_IFBLK | 0o660, os.makedev(8, 0))
        os.chown(base / "etc", 12, 34)
        os.chown(base / "usr/lib/os-release", 2_500_000, 3_000_000)
        os.chown(base / "etc/mtab", 56, 78, follow_symlinks=False)
    os.utime(base / "usr/lib/os-release", ns=(0, 1234567890_000000000))
    os.utime(base / "etc", ns=(0, 86400_000000000))


@pytest.fixture
def tars(request: pytest.FixtureRequest, tmp_path: Path) -> list[bytes]:
    """Four layers: all files; whiteouts, links and replacements; an opaque directory; removed files again."""
    format_: str = request.param
    base = tmp_path / "base"
    populate(base)
    if format_ == "pax":
        os.setxattr(base / "bin/sh", "user.origin", b"\0debian")
    first = pack(base, format_)
    second = tmp_path / "second"
    (second / "etc").mkdir(parents=True)
    (second / "bin").mkdir()
    (second / "etc/.wh.mtab").touch()
    (second / "bin/.wh.dash").touch()
    (second / "empty").mkdir()
    (second / "empty/no-more").write_text("x")
    (second / "lib").mkdir()
    (second / "lib/own").write_text("own")
    third = tmp_path / "third"
    (third / "var").mkdir(parents=True)
    (third / "var/.wh..wh..opq").touch()
    (third / "var/new").write_text("new")
    (third / "usr").write_text("a file now")
    fourth = tmp_path / "fourth"
    (fourth / "usr/lib").mkdir(parents=True)
    (fourth / "usr/lib/again").write_text("again")
    (fourth / ".wh.empty").touch()
    for layer in (second, third, fourth):
        for path in (layer, *layer.rglob("*")):
            os.utime(path, ns=(0, 1_600_000_000_000_000_000), follow_symlinks=False)
    return [first, *(pack(layer, format_) for layer in (second, third, fourth))]


@pytest.mark.parametrize("media_type", PACK)
@pytest.mark.parametrize("tars", FORMATS, indirect=True)
class TestAgainstTar:
    def test_a_directory_equals_that_of_tar(self, tars: list[bytes], media_type: str, tmp_path: Path) -> None:
        for count in range(1, len(tars) + 1):
            layers = tars[:count]
            ours, theirs = tmp_path / f"ours {count}", tmp_path / f"theirs {count}"

            image([(layer, media_type) for layer in layers]).extract_to(
                ours, owners=ROOT, special_modes=True, devices=True, xattrs=True
            )
            apply(layers, theirs)

            assert tree(ours) == tree(theirs)
            assert links(ours) == links(theirs)
            assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(theirs.stat().st_mode)

    def test_tar_unpacks_a_flattened_tar_to_the_same_tree(
        self, tars: list[bytes], media_type: str, tmp_path: Path
    ) -> None:
        """R-156."""
        theirs, again = tmp_path / "theirs", tmp_path / "again"

        with image([(layer, media_type) for layer in tars]).extract() as stream:
            flat = stream.read()
        apply(tars, theirs)
        apply([flat], again)

        assert tree(again) == tree(theirs)
        assert links(again) == links(theirs)

    def test_sparse_files_stay_sparse(self, tars: list[bytes], media_type: str, tmp_path: Path) -> None:
        image([(tars[0], media_type)]).extract_to(tmp_path / "ours")

        status = (tmp_path / "ours/var/sparse").stat()
        assert status.st_size == 50 << 20
        assert status.st_blocks * 512 < 10 << 20

    def test_single_files_and_the_list_equal_the_tree(self, tars: list[bytes], media_type: str, tmp_path: Path) -> None:
        flattened = image([(layer, media_type) for layer in tars])
        apply(tars, tmp_path / "theirs")

        entries = {os.fsencode(entry.path): entry for entry in flattened.list_files()}

        assert set(entries) == set(tree(tmp_path / "theirs"))
        assert entries[b"var"].kind is FileKind.DIRECTORY
        with flattened.open_file("lib/own") as reader:
            assert reader.read() == b"own"
        with image([(tars[0], media_type)]).open_file("/etc/os-release") as reader:
            assert reader.read() == b"ID=debian\n"
        for gone in ("etc/os-release", "etc/mtab", "empty/no-more", "var/a"):
            with pytest.raises(NotFound):
                flattened.open_file(gone)


@pytest.mark.parametrize("tars", ["gnu"], indirect=True)
class TestImages:
    def test_compression_is_detected_whatever_the_media_type(self, tars: list[bytes], tmp_path: Path) -> None:
        """R-142."""
        types = [OCI_LAYER_ZSTD, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
        repository_image = image(list(zip(tars, types, strict=True)))

        repository_image.extract_to(tmp_path / "ours", owners=ROOT, special_modes=True, devices=True)
        apply(tars, tmp_path / "theirs")

        assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")

    def test_a_wrong_diff_id_leaves_no_files(self, tars: list[bytes], tmp_path: Path) -> None:
        """R-156."""
        wrong = image([(tars[0], OCI_LAYER_GZIP)], diff_ids=[str(Digest.of(b"other"))])

        with pytest.raises(DigestMismatch):
            wrong.extract_to(tmp_path / "ours")
        with pytest.raises(DigestMismatch), wrong.extract() as stream:
            stream.read()
        with pytest.raises(DigestMismatch):
            wrong.open_file("usr/lib/os-release")

        assert not (tmp_path / "ours").exists()

    def test_a_missing_diff_id_is_an_error(self, tars: list[bytes], tmp_path: Path) -> None:
        """R-156."""
        with pytest.raises(InvalidDocument):
            image([(tars[0], OCI_LAYER_GZIP)], diff_ids=[]).extract_to(tmp_path / "ours")


def test_layers_of_unknown_media_types_are_refused_before_reading(tmp_path: Path) -> None:
    """R-142."""
    repository = MemoryCatalog().repository(RepositoryName("org/app"))
    config = b'{"os":"linux","architecture":"amd64"}'
    put_blob(repository, config)
    layer = {"mediaType": "application/x-rar", "digest": str(Digest.of(b"x")), "size": 1}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [layer],
    }
    unknown = Image(repository, RawManifest(OCI_MANIFEST, strict_json.encode(document)))

    for attempt in (unknown.extract, unknown.list_files, lambda: unknown.extract_to(tmp_path / "x")):
        with pytest.raises(Unsupported):
            attempt()

    assert os.listdir(tmp_path) == []


def test_every_backend_gives_the_same_file_system(client: RegistryClient, tmp_path: Path) -> None:
    builder = ImageBuilder(platform="linux/amd64").add_files(
        {"usr/lib/os-release": b"ID=x\n", "srv/big": bytes(3 << 20)}
    )
    client.with_segment("org").push_image("v1", builder.add_files({"srv/app": b"#!/bin/sh\n"}).build())
    pulled = client.with_segment("org").get_image("v1", platform="linux/amd64")

    report = pulled.extract_to(tmp_path / "rootfs")
    with pulled.extract() as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        names = {info.name for info in archive}
    with pulled.open_file("srv/app") as file:
        content = file.read()

    assert report == Extracted(6, ())
    assert names == {os.fsdecode(name) for name in tree(tmp_path / "rootfs")}
    assert names == {"srv", "srv/app", "srv/big", "usr", "usr/lib", "usr/lib/os-release"}
    assert content == b"#!/bin/sh\n"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_archives_give_the_same_file_system(form: str, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"usr/lib/os-release": b"ID=x\n", "srv/app": b"#!/bin/sh\n"}
    with open_client(f"{form}:{tmp_path / 'image.tar'}") as client:
        built = ImageBuilder(platform="linux/amd64").add_files(files).build()
        client.with_segment("org", "app").push_image("v1", built)

    with open_client(f"{form}:{tmp_path / 'image.tar'}") as client:
        saved = client.with_segment("org", "app").get_image("v1", platform="linux/amd64")
        saved.extract_to(tmp_path / "rootfs")
        with saved.open_file("usr/lib/os-release") as file:
            content = file.read()

    assert content == b"ID=x\n"
    assert {os.fsdecode(name) for name in tree(tmp_path / "rootfs")} == {"srv", "srv/app", "usr", "usr/lib", *files}


@pytest.mark.parametrize("method", ["extract_to", "extract", "open_file", "list_files"])
def test_a_deadline_ends_every_operation_that_reads_layers(client: RegistryClient, method: str, tmp_path: Path) -> None:
    builder = ImageBuilder(platform="linux/amd64").add_files({"a": bytes(1 << 20)})
    client.with_segment("org").push_image("v1", builder.build())
    pulled = client.with_segment("org").get_image("v1", platform="linux/amd64")
    ways: dict[str, Callable[[], object]] = {
        "extract_to": lambda: pulled.extract_to(tmp_path / "rootfs"),
        "extract": lambda: pulled.extract().read(),
        "open_file": lambda: pulled.open_file("a").read(),
        "list_files": lambda: list(pulled.list_files()),
    }

    with fail_after(0), pytest.raises(DeadlineExceeded):
        ways[method]()

    assert not any("rootfs" in name for name in os.listdir(tmp_path))


def test_a_cancelled_extraction_from_a_registry_leaves_no_files(client: RegistryClient, tmp_path: Path) -> None:
    builder = ImageBuilder(platform="linux/amd64").add_files({"a": b"1"})
    client.with_segment("org").push_image("v1", builder.build())
    pulled = client.with_segment("org").get_image("v1", platform="linux/amd64")

    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            pulled.extract_to(tmp_path / "rootfs")

    assert not (tmp_path / "rootfs").exists()
    assert not any(name.startswith(".rootfs") for name in os.listdir(tmp_path))
