"""Hostile layers: each has its expected result, and nothing outside the target directory changes."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry_core.ops.extract.hostile_layers import CASES, LIMITS, WITH_ATTRIBUTES

from registry_core.content.streams import BaseReader, ByteReader
from registry_core.errors import IntegrityError, UnsafeArchive
from registry_core.ops.extract.flatten import StoredLayer
from registry_core.ops.extract.unpack import ExtractOptions, extract_to, flat_tar
from registry_core.testing.layers import TarLayer, member, tar

ROOT = os.geteuid() == 0
EVERYTHING = ExtractOptions(owners=ROOT, special_modes=True, devices=ROOT, xattrs=True)
# A file system refuses these; a tar can hold them.
ONLY_ON_DISK = ("name too long for the system", "link text too long")


class CountingLayer:
    """A layer that counts how often it is opened, and how much of it is read."""

    def __init__(self, layer: StoredLayer) -> None:
        self._layer = layer
        self.size = layer.size
        self.opened = 0
        self.bytes_read = 0

    def open_uncompressed(self) -> ByteReader:
        self.opened += 1
        return _CountingReader(self, self._layer.open_uncompressed())


class _CountingReader(BaseReader):
    def __init__(self, layer: CountingLayer, reader: ByteReader) -> None:
        self._layer = layer
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        data = self._reader.read(size)
        self._layer.bytes_read += len(data)
        return data

    def close(self) -> None:
        self._reader.close()


def state(directory: Path) -> list[tuple[str, int, int, int, int, int, int, bytes | str]]:
    """All attributes of all files in a directory."""
    found = []
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content: bytes | str = ""
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        name = str(path.relative_to(directory))
        owner = (status.st_uid, status.st_gid)
        found.append((name, status.st_ino, status.st_mode, *owner, status.st_mtime_ns, status.st_nlink, content))
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory next to the target directory, which must not have changed after the test."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "kept").write_bytes(b"the outside")
    (directory / "d").mkdir(mode=0o700)
    before = state(directory)

    yield directory

    # The clean-up of pytest cannot remove deep or unreadable directories.
    if (tmp_path / "target").exists():
        if not ROOT:
            subprocess.run(["chmod", "-R", "u+rwx", tmp_path / "target"], check=True)
        subprocess.run(["rm", "-rf", tmp_path / "target"], check=True)
    assert state(directory) == before


def inside(directory: Path) -> Iterator[os.stat_result]:
    """Every file below a directory, without following links or recursing."""
    waiting = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
    while waiting:
        handle = waiting.pop()
        with os.scandir(handle) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(PermissionError):
                        waiting.append(os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle))
        os.close(handle)


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("options", [ExtractOptions(), EVERYTHING], ids=["no options", "all options"])
@pytest.mark.parametrize("name", CASES)
def test_the_directory_has_all_files_or_is_empty(
    name: str, options: ExtractOptions, tmp_path: Path, outside: Path
) -> None:
    """R-130 to R-156: nothing outside changes, only library errors are raised, and nothing is left after one."""
    layers, expected = CASES[name](str(outside))
    target = tmp_path / "target"
    target.mkdir()
    inode = target.stat().st_ino
    kept = (outside / "kept").stat().st_ino

    if expected is None:
        extract_to(layers, target, options=options, limits=LIMITS)
    else:
        with pytest.raises(expected):
            extract_to(layers, target, options=options, limits=LIMITS)

    assert target.stat().st_ino == inode
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]
    assert expected is None or os.listdir(target) == []
    found = list(inside(target))
    assert kept not in {status.st_ino for status in found}
    plain = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    assert options.devices or all(stat.S_IFMT(status.st_mode) in plain for status in found)


@pytest.mark.parametrize("name", CASES)
def test_the_flattened_tar_is_safe(name: str, outside: Path) -> None:
    """R-156: a flattened tar can be flattened again without a change, and no hard link is dangling."""
    layers, expected = CASES[name](str(outside))

    if expected is None or name in ONLY_ON_DISK:
        with flat_tar(layers, LIMITS) as stream, flat_tar([TarLayer(stream.read())], LIMITS) as again:
            flat = again.read()
        with flat_tar([TarLayer(flat)], LIMITS) as again:
            assert again.read() == flat
    else:
        with pytest.raises(expected), flat_tar(layers, LIMITS) as stream:
            while stream.read(1 << 18):
                pass


@pytest.mark.slow
def test_memory_is_bounded_for_all_layers() -> None:
    """R-140: by the limits on names, not by sizes that a layer states; measured in a separate process."""
    script = """
import contextlib
from pathlib import Path
from registry_core.errors import IntegrityError, NotFound
from registry_core.ops.extract.files import list_files, open_file
from registry_core.ops.extract.unpack import flat_tar
from tests.unit.registry_core.ops.extract.hostile_layers import CASES, LIMITS

def peak():
    # The maximum that getrusage tells is at least what the parent had when it forked.
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) >> 10

for name, case in CASES.items():
    layers, _ = case("/outside")
    before = peak()
    with contextlib.suppress(IntegrityError):
        for _ in list_files(layers, LIMITS):
            pass
    with contextlib.suppress(IntegrityError, NotFound):
        open_file(layers, "no/such/file", LIMITS)
    with contextlib.suppress(IntegrityError), flat_tar(layers, LIMITS) as stream:
        while stream.read(1 << 18):
            pass
    print(peak() - before, name, sep="\\t")
"""
    lines = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[5]
    ).stdout.splitlines()

    grown = {name: int(count) for count, _, name in (line.partition("\t") for line in lines)}
    assert set(grown) == set(CASES)
    assert sum(grown.values()) < 3 * LIMITS.name_bytes >> 20, sorted(grown.items(), key=lambda item: item[1])[-5:]


@pytest.mark.parametrize("name", CASES)
def test_each_layer_is_read_three_times_at_most(name: str, outside: Path) -> None:
    """R-140, R-155: for the tar, for late attributes of directories, and for links to hidden files."""
    layers, _ = CASES[name](str(outside))
    counted = [CountingLayer(layer) for layer in layers]

    with contextlib.suppress(IntegrityError), flat_tar(counted, LIMITS) as stream:
        while stream.read(1 << 18):
            pass

    assert all(layer.opened <= 3 for layer in counted)
    assert sum(layer.bytes_read for layer in counted) < 3 * (LIMITS.total_bytes + (1 << 20))


@pytest.mark.parametrize("name", WITH_ATTRIBUTES)
def test_invalid_attributes_are_refused(name: str, tmp_path: Path, outside: Path) -> None:
    """R-139."""
    data, expected = WITH_ATTRIBUTES[name]
    layer = tar(member("d/f", b"x"), member("p", data, kind="x"), member("d/g", b"x"))

    with pytest.raises(expected):
        extract_to([layer], tmp_path / "target", options=ExtractOptions(xattrs=True), limits=LIMITS)

    assert os.listdir(tmp_path) == ["outside"]


@pytest.mark.parametrize("kind", ["2", "6"])
def test_attributes_that_only_files_can_have_are_refused_for_other_kinds(kind: str, tmp_path: Path) -> None:
    """R-139."""
    layer = tar(member("x", kind=kind, link="y", pax={b"SCHILY.xattr.user.a": b"v"}))

    with pytest.raises(UnsafeArchive):
        extract_to([layer], tmp_path / "target", options=ExtractOptions(xattrs=True, devices=True), limits=LIMITS)

    assert os.listdir(tmp_path) == []


NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "./", "/a", ".wh.a", "a/.wh..wh..opq", "../a", "n" * 100])
KINDS = st.sampled_from([*"01234567xgLKSXZ", "\0"])
PATCHES = st.dictionaries(st.integers(0, 500), st.binary(min_size=1, max_size=12), max_size=2)
RECORDS = st.dictionaries(
    st.sampled_from([b"path", b"linkpath", b"size", b"mtime", b"uid", b"GNU.sparse.map", b"GNU.sparse.size", b"x"]),
    st.one_of(st.sampled_from([b"0", b"7", b"-1", b"0,4", b"a", b"../a", b""]), st.binary(max_size=8)),
    max_size=3,
)
MEMBERS = st.builds(
    lambda name, content, kind, link, mode, patch, pax: member(
        name, content, kind=kind, link=link, mode=mode, patch=patch, pax=pax or None
    ),
    NAMES,
    st.binary(max_size=600),
    KINDS,
    NAMES,
    st.integers(0, 0o7777),
    PATCHES,
    RECORDS,
)
LAYERS = st.lists(
    st.builds(
        lambda parts, cut: tar(*parts, end=bytes(1024 - cut)), st.lists(MEMBERS, max_size=4), st.integers(0, 1024)
    ),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(LAYERS)
def test_random_layers_succeed_or_raise_library_errors(layers: list[TarLayer]) -> None:
    """R-135, R-143: and extraction and flattening agree, except for names that a file system refuses."""
    with tempfile.TemporaryDirectory() as place:
        outcomes: list[str] = []
        try:
            with flat_tar(layers, LIMITS) as stream:
                stream.read()
            outcomes.append("fine")
        except IntegrityError as error:
            outcomes.append(type(error).__name__)
        target = Path(place) / "target"
        try:
            extract_to(layers, target, options=ExtractOptions(special_modes=True), limits=LIMITS)
            outcomes.append("fine")
        except IntegrityError as error:
            outcomes.append(type(error).__name__)

        assert os.listdir(place) == (["target"] if outcomes[1] == "fine" else [])
        assert outcomes[0] == outcomes[1] or "UnsafeArchive" in outcomes
