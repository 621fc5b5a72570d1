"""Extraction gives the same trees as umoci, and as skopeo with GNU tar, including all attributes.

Intended differences from umoci are in ``test_umoci_differences.py``.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.end_to_end.extraction.debian_root import debian_layers
from tests.end_to_end.extraction.edge_case_images import EDGE_CASES
from tests.end_to_end.extraction.file_trees import Seen, differences, links, remove, tree
from tests.end_to_end.extraction.other_tools import (
    GZIP,
    ZSTD,
    apply_tar,
    clean_name,
    copied_layers,
    layout_image,
    listed,
    tar_applies,
    umoci_unpacks,
)

from registry_core import FileEntry, Image
from registry_core.ops.tar.members import FileKind

KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFCHR: FileKind.CHARACTER_DEVICE,
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
    stat.S_IFIFO: FileKind.FIFO,
}
# umoci 0.4.7 knows neither zstd nor the sparse files of old GNU tar.
NOT_FOR_UMOCI = ("Debian in zstd", "mixed compressions", "sparse files in GNU")
IMAGES = (
    pytest.param("Debian in gzip", marks=pytest.mark.slow),
    pytest.param("Debian in zstd", marks=pytest.mark.slow),
    *EDGE_CASES,
)


class Unpacked(NamedTuple):
    """An image, its extracted tree, and the directories without an entry in any layer."""

    image: Image
    directory: Path
    ours: Path
    found: dict[bytes, Seen]
    implied: frozenset[bytes]


def described(layers: Sequence[Path]) -> frozenset[bytes]:
    """The directories with an entry in a layer."""
    names = set()
    for path in layers:
        with path.open("rb") as layer:
            names |= {os.fsencode(clean_name(info)) for info in listed(layer) if info.isdir()}
    return frozenset(names)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, as_root: None) -> list[bytes]:
    directory = tmp_path_factory.mktemp("debian")
    layers = debian_layers(directory)
    remove(directory)
    return layers


@pytest.fixture(scope="module", params=IMAGES)
def unpacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, as_root: None
) -> Iterator[Unpacked]:
    directory = tmp_path_factory.mktemp("image")
    if request.param in EDGE_CASES:
        layers = EDGE_CASES[request.param](directory)
    else:
        media_type = ZSTD if request.param.endswith("zstd") else GZIP
        layers = [(layer, media_type) for layer in request.getfixturevalue("debian")]
    paths = [directory / f"{number}.tar" for number in range(len(layers))]
    for path, (layer, _) in zip(paths, layers, strict=True):
        path.write_bytes(layer)
    image = layout_image(directory / "layout", layers)
    ours = directory / "ours"
    image.extract_to(ours, owners=True, special_modes=True, devices=True, xattrs=True)

    found = tree(ours, root=True)
    folders = {path for path, file in found.items() if file.kind == stat.S_IFDIR}
    yield Unpacked(image, directory, ours, found, frozenset(folders - described(paths)))

    remove(directory)


def test_there_are_enough_images() -> None:
    assert len(IMAGES) >= 12


@pytest.mark.slow
def test_the_debian_image_has_every_kind_of_file(debian: list[bytes]) -> None:
    """Thousands of files; hard links, symbolic links, devices, special modes and extended attributes."""
    infos = [info for layer in debian for info in listed(io.BytesIO(layer))]

    types = [info.type for info in infos]
    assert len(infos) > 1500
    assert sum(info.size for info in infos) > 20 << 20
    assert types.count(tarfile.SYMTYPE) > 50
    assert types.count(tarfile.LNKTYPE) >= 4
    assert {tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE} < set(types)
    assert {info.mode & 0o7000 for info in infos} >= {0, 0o4000, 0o2000, 0o1000}
    assert {keyword for info in infos for keyword in info.pax_headers} >= {
        "SCHILY.xattr.security.capability",
        "SCHILY.xattr.user.note",
        "SCHILY.xattr.user.origin",
    }
    marks = [os.path.basename(info.name) for info in infos if os.path.basename(info.name).startswith(".wh.")]
    assert len(marks) > 40
    assert ".wh..wh..opq" in marks


def test_a_directory_equals_that_of_skopeo_and_tar(unpacked: Unpacked, skopeo: str) -> None:
    """R-134, R-136, R-142, R-150, R-153, R-154."""
    theirs = unpacked.directory / "tar"

    tar_applies(copied_layers(skopeo, unpacked.directory / "layout", unpacked.directory / "copied"), theirs)

    assert differences(unpacked.ours, theirs, root=True, implied=unpacked.implied) == []


def test_tar_unpacks_a_flattened_tar_to_the_same_tree(unpacked: Unpacked) -> None:
    """R-156."""
    theirs, flat = unpacked.directory / "flat", unpacked.directory / "flat.tar"
    theirs.mkdir()

    with unpacked.image.extract() as stream, flat.open("wb") as file:
        while data := stream.read(1 << 20):
            file.write(data)
    with flat.open("rb") as file:
        apply_tar(file, theirs)

    assert differences(unpacked.ours, theirs) == []


def test_a_directory_equals_that_of_umoci(unpacked: Unpacked, request: pytest.FixtureRequest, umoci: str) -> None:
    """R-134, R-136, R-150, R-153, R-154."""
    theirs = unpacked.directory / "umoci"

    try:
        umoci_unpacks(umoci, unpacked.directory / "layout", theirs)
    except subprocess.CalledProcessError:
        assert request.node.callspec.params["unpacked"] in NOT_FOR_UMOCI
    else:
        # umoci also changes the times of directories in which it creates implied directories.
        touched = {os.path.dirname(path) for path in unpacked.implied}
        assert differences(unpacked.ours, theirs, root=True, implied=unpacked.implied | touched) == []


def test_a_directory_without_an_entry_has_default_attributes(unpacked: Unpacked) -> None:
    for path in unpacked.implied - {b""}:
        file = unpacked.found[path]
        assert (file.mode, file.uid, file.gid, file.mtime) == (0o755, 0, 0, 0)


def test_the_list_of_files_equals_the_tree(unpacked: Unpacked) -> None:
    groups = {name: group for group in links(unpacked.ours) for name in group}

    entries = {os.fsencode(entry.path): entry for entry in unpacked.image.list_files()}

    assert set(entries) == set(unpacked.found) - {b""}
    for path, entry in entries.items():
        if entry.kind is FileKind.HARDLINK:
            assert os.fsencode(entry.link) in groups[path]
        else:
            assert listed_attributes(entry) == disk_attributes(unpacked.found[path])


def listed_attributes(entry: FileEntry) -> tuple[object, ...]:
    mode = 0 if entry.kind is FileKind.SYMLINK else entry.mode
    rest = (os.fsencode(entry.link), entry.mtime, os.makedev(*entry.device), entry.xattrs)
    return (entry.kind, mode, entry.size, entry.uid, entry.gid, *rest)


def disk_attributes(file: Seen) -> tuple[object, ...]:
    size = file.size if file.kind == stat.S_IFREG else 0
    rest = (file.link, file.mtime / 1e9, file.device, file.attributes)
    return (KINDS[file.kind], file.mode, size, file.uid, file.gid, *rest)
