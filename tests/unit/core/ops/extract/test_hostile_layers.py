"""Layers that mean harm: each case says what becomes of it, and nothing outside is ever touched."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_core.errors import IntegrityError, TooLarge, UnsafeArchive
from registry_core.ops.extract.sinks import Keep
from registry_core.ops.extract.unpack import extract_to, flat_tar
from registry_core.ops.tar.members import ExtractLimits
from registry_core.testing.layers import TarLayer, member, records, tar

LIMITS = ExtractLimits(
    total_bytes=64 << 20, file_bytes=32 << 20, entries=20_000, name_bytes=16 << 20, ratio=100, ratio_floor=16 << 20
)
EVERYTHING = Keep(owners=os.geteuid() == 0, special_modes=True, devices=False, xattrs=False)
LONG = "/".join(["n" * 250] * 40)


def folder(name: str) -> bytes:
    return member(name, kind="5", mode=0o755)


def symlink(name: str, text: str) -> bytes:
    return member(name, b"", kind="2", link=text)


def hardlink(name: str, target: str) -> bytes:
    return member(name, kind="1", link=target)


def endless(piece: bytes, count: int) -> TarLayer:
    return TarLayer(piece * count)


# Where the outside of a test stands, relative to the destination.
OUT = "../outside"
Case = tuple[list[TarLayer], type[IntegrityError] | None]
CASES: dict[str, Callable[[str], Case]] = {
    # Names that leave.
    "name climbs": lambda out: ([tar(member(f"{OUT}/x"))], UnsafeArchive),
    "name climbs from below": lambda out: ([tar(member("a/../../outside/x"))], UnsafeArchive),
    "name leaves and returns": lambda out: ([tar(member("../target/x"))], UnsafeArchive),
    "name climbs but stays": lambda out: ([tar(member("a/../b"))], UnsafeArchive),
    "name is dots": lambda out: ([tar(member(".."))], UnsafeArchive),
    "directory is dots": lambda out: ([tar(folder(".."))], UnsafeArchive),
    "absolute name becomes relative": lambda out: ([tar(member(f"{out}/x"))], None),
    "absolute name climbs": lambda out: ([tar(member("/../x"))], UnsafeArchive),
    "name with a sibling's prefix": lambda out: ([tar(member("../target-evil/x"))], UnsafeArchive),
    "name in a prefix climbs": lambda out: ([tar(member("x", patch={345: b"../outside"}))], UnsafeArchive),
    "name in pax climbs": lambda out: ([tar(member("x", pax={b"path": b"../outside/x"}))], UnsafeArchive),
    "name in GNU climbs": lambda out: ([tar(member("L", b"../outside/x\0", kind="L"), member("x"))], UnsafeArchive),
    "sparse name climbs": lambda out: (
        [tar(member("x", pax={b"GNU.sparse.map": b"", b"GNU.sparse.size": b"0", b"GNU.sparse.name": b"../x"}))],
        UnsafeArchive,
    ),
    "name has a NUL": lambda out: ([tar(member("x", pax={b"path": b"x\0/../y"}))], UnsafeArchive),
    "name is empty": lambda out: ([tar(member(""))], UnsafeArchive),
    "backslashes are no slashes": lambda out: ([tar(member("..\\..\\outside\\x"))], None),
    "global header sets a path": lambda out: (
        [tar(member("g", records({b"path": b"../outside/x"}), kind="g"), member("x"))],
        None,
    ),
    "name too long for the system": lambda out: ([tar(member("x", pax={b"path": b"n" * 300}))], UnsafeArchive),
    "path too long for the system": lambda out: ([tar(member("x", pax={b"path": LONG.encode()}))], None),
    "path too long for anybody": lambda out: ([tar(member("x", pax={b"path": b"a/" * 20_000}))], TooLarge),
    # Roots that are replaced.
    "root is a link": lambda out: ([tar(symlink("./", out))], UnsafeArchive),
    "root is a file": lambda out: ([tar(member("."))], UnsafeArchive),
    "root is a hard link": lambda out: ([tar(member("a"), hardlink("/", "a"))], UnsafeArchive),
    "root is a device": lambda out: ([tar(member("./", kind="3"))], UnsafeArchive),
    "root is replaced by a layer": lambda out: ([tar(folder("./")), tar(symlink(".", out))], UnsafeArchive),
    # Symbolic links on the way.
    "file through a link": lambda out: ([tar(symlink("a", out), member("a/x"))], UnsafeArchive),
    "file through a relative link": lambda out: ([tar(symlink("a", OUT), member("a/x"))], UnsafeArchive),
    "file before its link": lambda out: ([tar(member("a/x"), symlink("a", out))], UnsafeArchive),
    "file through a link of a lower layer": lambda out: ([tar(symlink("a", out)), tar(member("a/x"))], None),
    "directory over a link of a lower layer": lambda out: (
        [tar(symlink("a", out)), tar(folder("a"), member("a/x"))],
        None,
    ),
    "directory over a link of its layer": lambda out: ([tar(symlink("a", out), folder("a"))], UnsafeArchive),
    "file over a link": lambda out: ([tar(symlink("a", f"{out}/kept")), tar(member("a", b"evil"))], None),
    "file over a link of its layer": lambda out: (
        [tar(symlink("a", f"{out}/kept"), member("a", b"evil"))],
        UnsafeArchive,
    ),
    "chain of links": lambda out: (
        [tar(symlink("a", "b"), symlink("b", "c"), symlink("c", out)), tar(member("a/x"), member("b/x"))],
        None,
    ),
    "chain of links below each other": lambda out: ([tar(symlink("a", ".."), symlink("a/b", ".."))], UnsafeArchive),
    "link loop": lambda out: ([tar(symlink("a", "b"), symlink("b", "a"))], None),
    "link loop with a file": lambda out: ([tar(symlink("a", "a"), member("a/x"))], UnsafeArchive),
    "links to the longest path": lambda out: (
        [tar(*(symlink(f"l{n}", "d/" * 40) for n in range(60)), symlink("e", out)), tar(member("e/x"))],
        None,
    ),
    "link text too long": lambda out: ([tar(member("s", kind="2", pax={b"linkpath": b"t" * 9000}))], UnsafeArchive),
    "link to nothing": lambda out: ([tar(member("s", kind="2"))], UnsafeArchive),
    "directory chmod through a link": lambda out: ([tar(symlink("a", out)), tar(folder("a/b"))], None),
    # Hard links.
    "hard link to the outside": lambda out: ([tar(hardlink("h", f"{OUT}/kept"))], UnsafeArchive),
    "hard link to an absolute name": lambda out: ([tar(hardlink("h", f"{out}/kept"))], UnsafeArchive),
    "hard link through a link": lambda out: ([tar(symlink("a", out), hardlink("h", "a/kept"))], UnsafeArchive),
    "hard link through a lower link": lambda out: (
        [tar(symlink("a", out)), tar(hardlink("h", "a/kept"))],
        UnsafeArchive,
    ),
    "hard link to a link": lambda out: ([tar(symlink("a", f"{out}/kept"), hardlink("h", "a"))], None),
    "hard link to a link, then written": lambda out: (
        [tar(symlink("a", f"{out}/kept"), hardlink("h", "a"), member("h", b"evil"))],
        UnsafeArchive,
    ),
    "hard link to a link, then written above": lambda out: (
        [tar(symlink("a", f"{out}/kept"), hardlink("h", "a")), tar(member("h", b"evil"))],
        None,
    ),
    "hard link in the working directory": lambda out: ([tar(hardlink("h", "pyproject.toml"))], UnsafeArchive),
    "hard link to itself": lambda out: ([tar(hardlink("h", "h"))], UnsafeArchive),
    "hard links in a circle": lambda out: ([tar(hardlink("a", "b"), hardlink("b", "a"))], UnsafeArchive),
    "hard link to a directory": lambda out: ([tar(folder("d"), hardlink("h", "d"))], UnsafeArchive),
    "hard link to a lower directory": lambda out: ([tar(folder("d")), tar(hardlink("h", "d"))], UnsafeArchive),
    "hard link to the root": lambda out: ([tar(folder("./"), hardlink("h", "."))], UnsafeArchive),
    "hard link to nothing": lambda out: ([tar(member("h", kind="1"))], UnsafeArchive),
    "hard link ahead of its target": lambda out: ([tar(hardlink("h", "t"), member("t"))], UnsafeArchive),
    "hard link in pax climbs": lambda out: (
        [tar(member("h", kind="1", pax={b"linkpath": b"../outside/kept"}))],
        UnsafeArchive,
    ),
    "hard link in GNU climbs": lambda out: (
        [tar(member("K", b"../outside/kept\0", kind="K"), member("h", kind="1"))],
        UnsafeArchive,
    ),
    # Whiteouts.
    "whiteout of the parent": lambda out: ([tar(member(".wh..."))], UnsafeArchive),
    "whiteout of the directory": lambda out: ([tar(member("a/.wh.."))], UnsafeArchive),
    "whiteout of nothing": lambda out: ([tar(member(".wh."))], UnsafeArchive),
    "whiteout climbs": lambda out: ([tar(member("../outside/.wh.kept"))], UnsafeArchive),
    "whiteout through a link": lambda out: ([tar(symlink("a", out)), tar(member("a/.wh.kept"))], None),
    "opaque through a link": lambda out: ([tar(symlink("a", out)), tar(member("a/.wh..wh..opq"))], None),
    "whiteout that is a link": lambda out: ([tar(symlink(".wh.a", out))], UnsafeArchive),
    "whiteout that is a directory": lambda out: ([tar(folder(".wh.a"))], UnsafeArchive),
    "opaque marker that is a directory": lambda out: ([tar(folder(".wh..wh..opq"))], UnsafeArchive),
    "something inside a whiteout": lambda out: ([tar(member(".wh.a/x"))], UnsafeArchive),
    "hard link to a whiteout": lambda out: ([tar(member(".wh.a"), hardlink("h", ".wh.a"))], UnsafeArchive),
    # Devices and modes.
    "device": lambda out: ([tar(member("sda", kind="4", mode=0o666), member("mem", kind="3", mode=0o666))], None),
    "fifo": lambda out: ([tar(member("pipe", kind="6"))], None),
    "file over a fifo": lambda out: ([tar(member("pipe", kind="6"), member("pipe", b"x"))], UnsafeArchive),
    "file over a fifo of a lower layer": lambda out: ([tar(member("pipe", kind="6")), tar(member("pipe", b"x"))], None),
    "directories that nobody may enter": lambda out: (
        [tar(member("d", kind="5", mode=0), member("d/e", kind="5", mode=0), member("d/e/f"))],
        None,
    ),
    "unknown kind": lambda out: ([tar(member("x", kind="Z"))], IntegrityError),
    "extreme time": lambda out: ([tar(member("x", pax={b"mtime": b"9" * 18}))], None),
    # Corruption.
    "wrong checksum in the middle": lambda out: (
        [tar(member("a"), member("b", checksum=b"000000\0 "), member("c"))],
        IntegrityError,
    ),
    "garbage in the middle": lambda out: ([tar(member("a"), b"\xa5" * 1024, member("c"))], IntegrityError),
    "cut in a header": lambda out: ([TarLayer(member("a") + member("b")[:300])], IntegrityError),
    "cut in content": lambda out: ([TarLayer(member("a", b"x" * 2000)[:1500])], IntegrityError),
    "half an end": lambda out: ([tar(member("a"), bytes(512), member("b"))], IntegrityError),
    "members behind the end": lambda out: ([tar(member("a"), end=bytes(1024) + member("../x"))], None),
    "negative size": lambda out: ([tar(member("a", patch={124: b"\xff" * 12}))], IntegrityError),
    "size with an underscore": lambda out: ([tar(member("a", patch={124: b"0000_000010\0"}))], IntegrityError),
    "directory with content": lambda out: ([tar(member("a", member("../x"), kind="5"))], IntegrityError),
    # What takes for ever, or all there is.
    "bomb of one file": lambda out: ([TarLayer(member("a", size=1 << 50))], TooLarge),
    "bomb of many files": lambda out: (
        [endless(member("a", bytes(4096)), 1)] + [tar(member(f"b{n}", bytes(1 << 20))) for n in range(70)],
        TooLarge,
    ),
    "bomb of entries": lambda out: ([tar(*(member(f"{n:x}") for n in range(20_001)))], TooLarge),
    "bomb of implied directories": lambda out: (
        [tar(*(member("x", pax={b"path": b"%d/" % n + b"d/" * 3000}) for n in range(25)))],
        TooLarge,
    ),
    "bomb of holes": lambda out: (
        [tar(member("x", pax={b"GNU.sparse.map": b"", b"GNU.sparse.size": b"9" * 15}))],
        TooLarge,
    ),
    "bomb of a ratio": lambda out: ([TarLayer(tar(member("a", bytes(20 << 20))).content, size=1000)], TooLarge),
    "bomb of an extended header": lambda out: ([TarLayer(member("p", kind="x", size=1 << 40))], TooLarge),
    "bomb of a long name": lambda out: ([TarLayer(member("L", kind="L", size=1 << 40))], TooLarge),
    "chain of global headers": lambda out: (
        [tar(member("g", records({b"comment": b"x"}), kind="g") * 20_000, member("a"))],
        None,
    ),
    "chain of long names": lambda out: ([tar(member("L", b"x\0", kind="L") * 20_000, member("a"))], IntegrityError),
    "chain of extended headers": lambda out: (
        [tar(member("p", records({b"path": b"x"}), kind="x") * 20_000, member("a"))],
        IntegrityError,
    ),
    "deep directories": lambda out: ([tar(member("x", pax={b"path": b"d/" * 1500 + b"f"}))], None),
    "extended header of a million records": lambda out: (
        [tar(member("p", b"5 a=\n" * 200_000, kind="x"), member("a"))],
        None,
    ),
}


def state(directory: Path) -> list[tuple[str, int, int, int, int, int, int, bytes | str]]:
    """Everything about everything in a directory."""
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
    """A directory beside the destination that is as it was when the test is over."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "kept").write_bytes(b"the outside")
    (directory / "d").mkdir(mode=0o700)
    before = state(directory)

    yield directory

    # What is deep, or closed, is too much for the tools that clean up after tests.
    if (tmp_path / "target").exists():
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


@pytest.mark.parametrize("name", CASES)
class TestCorpus:
    def test_a_directory_holds_it_or_stays_empty(self, name: str, tmp_path: Path, outside: Path) -> None:
        """R-130 to R-156."""
        layers, expected = CASES[name](str(outside))
        target = tmp_path / "target"
        target.mkdir()
        inode = target.stat().st_ino
        kept = (outside / "kept").stat().st_ino
        started = time.perf_counter()

        if expected is None:
            extract_to(layers, target, keep=EVERYTHING, limits=LIMITS)
        else:
            with pytest.raises(expected):
                extract_to(layers, target, keep=EVERYTHING, limits=LIMITS)

        assert time.perf_counter() - started < 30
        assert target.stat().st_ino == inode
        assert sorted(os.listdir(tmp_path)) == ["outside", "target"]
        assert expected is None or os.listdir(target) == []
        found = list(inside(target))
        assert kept not in {status.st_ino for status in found}
        assert all(stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) for status in found)

    def test_a_flattened_tar_of_it_is_safe(self, name: str, tmp_path: Path, outside: Path) -> None:
        """R-156: whatever comes out is accepted by ourselves, as it is, and nothing is dangling."""
        layers, expected = CASES[name](str(outside))
        system = "system" in name or name == "link text too long"
        tracemalloc.start()
        try:
            if expected is None or system:
                with flat_tar(layers, LIMITS) as stream:
                    flat = stream.read()
            else:
                with pytest.raises(expected), flat_tar(layers, LIMITS) as stream:
                    while stream.read(1 << 18):
                        pass
                flat = b""
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 200 << 20
        if flat:
            with flat_tar([TarLayer(flat)], LIMITS) as again:
                assert again.read() == flat


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


@settings(max_examples=600, deadline=None)
@given(LAYERS)
def test_whatever_a_layer_holds_it_ends_well_or_in_an_error_of_ours(layers: list[TarLayer]) -> None:
    """R-135, R-143: and both ways to unpack agree, but for names that only a file system can refuse."""
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
            extract_to(layers, target, keep=Keep(special_modes=True), limits=LIMITS)
            outcomes.append("fine")
        except IntegrityError as error:
            outcomes.append(type(error).__name__)

        assert os.listdir(place) == (["target"] if outcomes[1] == "fine" else [])
        assert outcomes[0] == outcomes[1] or "UnsafeArchive" in outcomes
