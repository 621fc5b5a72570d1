"""Hostile layers, each with its expected result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

from registry_core.content.streams import BaseReader, ByteReader
from registry_core.errors import IntegrityError, RegistryError, TooLarge, UnsafeArchive, Unsupported
from registry_core.ops.extract.flatten import StoredLayer
from registry_core.ops.tar.members import ExtractLimits
from registry_core.testing.layers import TarLayer, member, pax_records, tar

__all__ = ["CASES", "LIMITS", "WITH_ATTRIBUTES", "GeneratedLayer"]

LIMITS = ExtractLimits(
    total_bytes=64 << 20, file_bytes=32 << 20, entries=4_000, name_bytes=16 << 20, ratio=100, ratio_floor=16 << 20
)
LONG = "/".join(["n" * 250] * 40)


def folder(name: str) -> bytes:
    return member(name, kind="5", mode=0o755)


def symlink(name: str, text: str) -> bytes:
    return member(name, b"", kind="2", link=text)


def hardlink(name: str, target: str) -> bytes:
    return member(name, kind="1", link=target)


class GeneratedLayer:
    """A layer that is generated while it is read.

    Args:
        generate: Yields the chunks of the tar, each time the layer is opened.
        size: Size that the layer states as stored.
    """

    def __init__(self, generate: Callable[[], Iterator[bytes]], *, size: int = 1000) -> None:
        self._generate = generate
        self.size = size

    def open_uncompressed(self) -> ByteReader:
        """Open the tar."""
        return _ChunkReader(self._generate())


class _ChunkReader(BaseReader):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            raise AssertionError("the layer is read as a whole")
        self._buffer = self._buffer or next(self._chunks, b"")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def close(self) -> None:
        self._buffer = b""


def made(count: int, make: Callable[[int], bytes]) -> GeneratedLayer:
    def parts() -> Iterator[bytes]:
        yield from map(make, range(count))
        yield bytes(1024)

    return GeneratedLayer(parts)


def numbers(major: int, minor: int) -> dict[int, bytes]:
    return {329: b"\x80" + major.to_bytes(7, "big") + b"\x80" + minor.to_bytes(7, "big")}


# Where the outside of a test stands, relative to the destination.
OUT = "../outside"
Case = tuple[Sequence[StoredLayer], type[IntegrityError] | None]
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
        [tar(member("g", pax_records({b"path": b"../outside/x"}), kind="g"), member("x"))],
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
        [made(70, lambda n: member(f"b{n}", bytes(1 << 20)))],
        TooLarge,
    ),
    "bomb of entries": lambda out: ([made(4_001, lambda n: member(f"{n:x}"))], TooLarge),
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
        [tar(member("g", pax_records({b"comment": b"x"}), kind="g") * 20_000, member("a"))],
        None,
    ),
    "chain of long names": lambda out: ([tar(member("L", b"x\0", kind="L") * 20_000, member("a"))], IntegrityError),
    "chain of extended headers": lambda out: (
        [tar(member("p", pax_records({b"path": b"x"}), kind="x") * 20_000, member("a"))],
        IntegrityError,
    ),
    "deep directories": lambda out: ([tar(member("x", pax={b"path": b"d/" * 1500 + b"f"}))], None),
    "extended header of a million records": lambda out: (
        [tar(member("p", b"5 a=\n" * 200_000, kind="x"), member("a"))],
        None,
    ),
    # Devices, owners and attributes that are none.
    "device with impossible numbers": lambda out: (
        [tar(member("x", kind="3", patch=numbers(1 << 40, 1)))],
        IntegrityError,
    ),
    "attribute without a name": lambda out: ([tar(member("x", pax={b"SCHILY.xattr.": b"v"}))], UnsafeArchive),
    "attribute with a NUL in its name": lambda out: (
        [tar(member("x", pax={b"SCHILY.xattr.user.a\0b": b"v"}))],
        UnsafeArchive,
    ),
    # Headers that contradict each other.
    "size of pax beyond the end": lambda out: ([tar(member("a", pax={b"size": b"9999"}))], IntegrityError),
    "size of pax that swallows a header": lambda out: (
        [tar(member("a", member("../x"), size=0, pax={b"size": b"512"}), member("b"))],
        None,
    ),
    "size of pax out of range": lambda out: ([tar(member("a", pax={b"size": b"9223372036854775808"}))], IntegrityError),
    "sizes in pax, twice": lambda out: (
        [
            tar(
                member("p", pax_records({b"size": b"512"}) + pax_records({b"size": b"0"}), kind="x"),
                member("a"),
                member("b"),
            )
        ],
        None,
    ),
    "path in pax, twice": lambda out: (
        [tar(member("p", pax_records({b"path": b"ok"}) + pax_records({b"path": b"../x"}), kind="x"), member("a"))],
        UnsafeArchive,
    ),
    "GNU name and pax path": lambda out: (
        [tar(member("L", b"ok\0", kind="L"), member("x", pax={b"path": b"../x"}))],
        UnsafeArchive,
    ),
    "size of a hard link": lambda out: ([tar(member("a"), member("h", kind="1", link="a", size=1 << 40))], None),
    "global header with a size": lambda out: (
        [tar(member("g", pax_records({b"size": b"0"}), kind="g"), member("a", b"x"))],
        IntegrityError,
    ),
    "sparse parts that overlap": lambda out: (
        [tar(member("x", b"1234", pax={b"GNU.sparse.map": b"0,2,1,2", b"GNU.sparse.size": b"9"}))],
        IntegrityError,
    ),
    "sparse parts beyond the end": lambda out: (
        [tar(member("x", b"1234", pax={b"GNU.sparse.map": b"8,4", b"GNU.sparse.size": b"9"}))],
        IntegrityError,
    ),
    "sparse map of an old file without an end": lambda out: (
        [
            GeneratedLayer(
                lambda: chain([member("x", kind="S", patch={482: b"\1"})], repeat(bytes(504) + b"\1" + bytes(7), 5000))
            )
        ],
        IntegrityError,
    ),
    # Names that file systems, or other readers, take for others.
    "names that differ in case": lambda out: ([tar(member("A"), member("a"), folder("B"), folder("b"))], None),
    "names that differ in their accents": lambda out: ([tar(member("\u00e9"), member("e\u0301"))], None),
    "markers in capitals": lambda out: ([tar(member(".WH.a"), member("a"))], None),
    "opaque marker with a suffix": lambda out: ([tar(member("a")), tar(member(".wh..wh..opq.x"))], None),
    "opaque marker that is a link": lambda out: ([tar(symlink(".wh..wh..opq", out))], UnsafeArchive),
    "something inside an opaque marker": lambda out: ([tar(member(".wh..wh..opq/x"))], UnsafeArchive),
    "links of aufs": lambda out: ([tar(folder(".wh..wh.plnk"), symlink(".wh..wh.plnk/1", out))], None),
    "hard link to what aufs kept": lambda out: ([tar(member(".wh..wh.plnk/1"), hardlink("h", ".wh..wh.plnk/1"))], None),
    "hard link to a link of aufs": lambda out: (
        [tar(symlink(".wh..wh.plnk/1", out), hardlink("h", ".wh..wh.plnk/1"))],
        UnsafeArchive,
    ),
    "hard link to other metadata of aufs": lambda out: (
        [tar(member(".wh..wh.orph/1"), hardlink("h", ".wh..wh.orph/1"))],
        UnsafeArchive,
    ),
    "a repeated name whose second content differs": lambda out: (
        [tar(member("a", b"1"), member("a", b"1"), member("a", b"2"))],
        UnsafeArchive,
    ),
    "a directory whose size covers a member": lambda out: (
        [tar(member("d", member("../evil"), kind="5"))],
        UnsafeArchive,
    ),
    # More of what takes for ever, or all there is.
    "bomb of a single deep path": lambda out: (
        [made(8, lambda n: member("x", pax={b"path": b"%d/" % n + b"d/" * 15_000 + b"f"}))],
        TooLarge,
    ),
    "bomb of texts of links": lambda out: (
        [made(5_000, lambda n: member(f"s{n % 9}/{n}", kind="2", pax={b"linkpath": b"t" * 4_090}))],
        TooLarge,
    ),
    "bomb of attributes of directories": lambda out: (
        [made(1000, lambda n: member(f"d{n}", kind="5", pax={b"SCHILY.xattr.user.x": b"t" * 1_000_000}))],
        TooLarge,
    ),
    "bomb of hard links with deep targets": lambda out: (
        [
            tar(member("x", pax={b"path": b"d/" * 1500 + b"f"})),
            made(2_000, lambda n: member(f"h{n}", kind="1", pax={b"linkpath": b"d/" * 1500 + b"f"})),
        ],
        None,
    ),
    "bomb of maps of sparse files": lambda out: (
        [
            made(
                4,
                lambda n: member(
                    f"s{n}",
                    pax={
                        b"GNU.sparse.map": b",".join(b"%d,0" % n for n in range(60_000)),
                        b"GNU.sparse.size": b"99999",
                    },
                ),
            )
        ],
        None,
    ),
    "sparse map with more parts than any": lambda out: (
        [tar(member("s", pax={b"GNU.sparse.map": b"0,0," * 70_000 + b"0,0", b"GNU.sparse.size": b"9"}))],
        TooLarge,
    ),
    "bomb of whiteouts": lambda out: (
        [made(3_000, lambda n: member(f"d/{n:x}")), made(3_000, lambda n: member(f"d/.wh.{n:x}"))],
        TooLarge,
    ),
    "bomb of layers": lambda out: ([tar(member("a", b"%d" % n), member(f"d/{n}")) for n in range(500)], None),
    "bomb behind the end": lambda out: (
        [made(70, lambda n: member("a") + bytes(1024) if n == 0 else bytes(1 << 20))],
        TooLarge,
    ),
}
# Which only show where attributes are kept; others than files' are none of a tar's business.
WITH_ATTRIBUTES: dict[str, tuple[bytes, type[RegistryError]]] = {
    "of a kind that no system has": (pax_records({b"SCHILY.xattr.nonsense.a": b"v"}), Unsupported),
    "with too long a name": (pax_records({b"SCHILY.xattr.user." + b"n" * 300: b"v"}), UnsafeArchive),
    "without a name behind its kind": (pax_records({b"SCHILY.xattr.user.": b"v"}), UnsafeArchive),
    "that is too large": (pax_records({b"SCHILY.xattr.user.a": b"v" * 70_000}), UnsafeArchive),
}
