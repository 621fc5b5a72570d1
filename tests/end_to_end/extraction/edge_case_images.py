"""Images with edge cases: lists of layers that every correct extractor unpacks to the same tree."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.end_to_end.extraction.debian_root import CAPABILITY, may_trust, pack
from tests.end_to_end.extraction.other_tools import GZIP, PLAIN, ZSTD

from registry_core.testing.layers import member, tar

__all__ = ["EDGE_CASES", "EdgeCase"]

EdgeCase = list[tuple[bytes, str]]
_LATER = 1_700_000_000
# Data regions of sparse files of 4 MiB.
_HOLES: dict[str, Sequence[int]] = {
    "hole": [],
    "head": [0],
    "tail": [(4 << 20) - 10],
    "many": range(0, 4 << 20, 1 << 16),
}


def _file(name: bytes | str, content: bytes = b"", mode: int = 0o644) -> bytes:
    return member(name, content, mode=mode, mtime=_LATER)


def _folder(name: bytes | str, mode: int = 0o755, mtime: int = _LATER) -> bytes:
    return member(name, kind="5", mode=mode, mtime=mtime)


def _symlink(name: str, text: str) -> bytes:
    return member(name, kind="2", link=text, mode=0o777, mtime=_LATER)


def _hard(name: str, target: str) -> bytes:
    return member(name, kind="1", link=target, mtime=_LATER)


def _layers(*parts: tuple[bytes, ...], media_type: str = GZIP) -> EdgeCase:
    return [(tar(*each).content, media_type) for each in parts]


def _whiteouts(directory: Path) -> EdgeCase:
    """The example of layer.md, and whiteouts of every kind of file, before and after siblings in the same layer."""
    base = [_folder("a"), _folder("b"), _folder("c"), _folder("b/deep"), _file("b/deep/file", b"b")]
    base += [_file("file1", b"1"), _file("a/file2", b"2"), _file("c/file3", b"3"), _symlink("link", "c")]
    return _layers(
        tuple(base),
        (member(".wh.file1"), member("a/.wh.file2"), member(".wh.b"), _file("file4", b"4")),
        (_folder("b", 0o700), _file("b/new", b"n"), member(".wh.link"), member(".wh.nothing")),
        (_folder("c"), _folder("c/deep"), _file("c/deep/x"), member("./c/.wh.file3")),
    )


def _opaque(directory: Path) -> EdgeCase:
    """Opaque whiteouts at the beginning, in the middle and at the end of a layer; in the root; in two layers."""
    base = (*map(_folder, ("a", "a/b", "a/b/c", "d")), _file("a/b/c/bar", b"bar"), _file("d/x"))
    again = [_folder("a"), _folder("a/b"), _folder("a/b/c"), _file("a/b/c/foo", b"foo")]
    marker = member("a/.wh..wh..opq")
    return _layers(
        base,
        (marker, *again),
        (*again[:2], member("./a/b/.wh..wh..opq"), _folder("a/b/e"), _file("a/b/e/f")),
        (_folder("d", 0o711), _file("d/y", b"y"), member("d/.wh..wh..opq")),
        (_folder("new"), _file("new/file"), member("new/.wh..wh..opq"), member("d/.wh.y"), member("d/.wh..wh..opq")),
    )


def _opaque_root(directory: Path) -> EdgeCase:
    return _layers(
        (_folder("./", 0o711), _folder("old"), _file("old/x"), _symlink("s", "old")),
        (_folder("./"), _file("new", b"new"), member(".wh..wh..opq")),
    )


def _replacements(directory: Path) -> EdgeCase:
    """Each kind of file replaced by each other kind, and back."""
    kinds: dict[str, Callable[[str], tuple[bytes, ...]]] = {
        "file": lambda name: (_file(name, b"file"),),
        "folder": lambda name: (_folder(name, 0o750), _file(f"{name}/inside", b"inside")),
        "link": lambda name: (_symlink(name, "elsewhere"),),
        "fifo": lambda name: (member(name, kind="6", mode=0o600, mtime=_LATER),),
    }
    lower = [_folder("elsewhere"), _file("elsewhere/kept", b"kept")]
    upper: list[bytes] = []
    again: list[bytes] = []
    for first, make in kinds.items():
        for second, make_other in kinds.items():
            lower += make(f"{first}-{second}")
            upper += make_other(f"{first}-{second}")
            again += make(f"{first}-{second}") if first != "folder" else ()
    return _layers(tuple(lower), tuple(upper), tuple(again))


def _links(directory: Path) -> EdgeCase:
    """Hard links within a layer, to lower layers, and to files that higher layers removed or replaced."""
    return _layers(
        (_folder("d"), _file("d/t", b"target", 0o600), _hard("d/l", "d/t"), _hard("m", "./d/l"), _file("u", b"u")),
        (_hard("n", "d/t"), _folder("e"), _hard("e/u", "/u")),
        (member("d/.wh.t"), _file("u", b"another u")),
        (_hard("o", "n"), _hard("p", "u"), member(".wh.m")),
        (member("d/.wh..wh..opq"), member("e/.wh.u")),
    )


def _attributes(directory: Path) -> EdgeCase:
    """A directory over a directory replaces its attributes, and keeps its content."""
    return _layers(
        (_folder("./", 0o700), _folder("d", 0o700), _folder("d/e", 0o1777), member("d/e/f", b"f", uid=7, gid=8)),
        (member("d", kind="5", mode=0o2755, uid=5, gid=6, mtime=11),),
        (member("d/e", kind="5", mode=0o555, mtime=12), member("./", kind="5", mode=0o755, mtime=13)),
    )


def _modes(directory: Path) -> EdgeCase:
    """Modes of every kind, also of files and directories that only root may open."""
    modes = [0, 0o1, 0o111, 0o222, 0o444, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777]
    return _layers(
        tuple(_file(f"f{mode:o}", b"x", mode) for mode in modes),
        tuple(part for mode in modes for part in (_folder(f"d{mode:o}", mode), _file(f"d{mode:o}/f", b"x", mode))),
        (_folder("d0", 0o40), _file("d111/g", b"g")),
    )


def _times_and_owners(directory: Path) -> EdgeCase:
    """Times with a fraction, before 1970 and after 2038; owners too large for the header field."""
    cases: list[dict[bytes, bytes]] = [
        {b"mtime": text} for text in (b"1.5", b"1234567890.123456789", b"-1", b"-100000.25", b"4294967296", b"0")
    ]
    cases += [{b"uid": b"3000000", b"gid": b"4294967294"}, {b"uid": b"2097152"}]
    names = [f"t{number}" for number in range(len(cases))]
    return _layers(
        tuple(member(name, b"x", pax=pax) for name, pax in zip(names, cases, strict=True)),
        tuple(
            member(f"d{name}", kind="5", mode=0o755, pax=pax) + member(f"l{name}", kind="2", link="x", pax=pax)
            for name, pax in zip(names, cases, strict=True)
        ),
        (
            member("base256", b"x", patch={108: b"\x80" + (5_000_000).to_bytes(7, "big"), 136: b"\xff" * 12}),
            member("large", b"x", patch={136: b"\x80" + (1 << 33).to_bytes(11, "big")}),
        ),
    )


def _xattrs(directory: Path) -> EdgeCase:
    """Extended attributes: user, trusted and capability, of files, directories and links; removed with the file."""
    xattr = b"SCHILY.xattr."
    everything = {
        xattr + b"user.binary": b"\0\xff=\n1 a=b\n",
        xattr + b"security.capability": CAPABILITY,
    }
    link = {}
    if may_trust(directory):
        everything[xattr + b"trusted.note"] = b"y"
        # Symbolic links can have trusted attributes only.
        link[xattr + b"trusted.link"] = b"1"
    return _layers(
        (member("f", b"x", mode=0o755, mtime=1, pax=everything), member("g", b"x", mtime=1, pax=everything)),
        (member("f", b"y", mode=0o755, mtime=2), member("h", kind="1", link="g")),
        (
            member("d", kind="5", mode=0o755, mtime=3, pax={xattr + b"user.d": b"1"}),
            member("s", kind="2", link="f", mtime=3, pax=link),
        ),
        (member("d", kind="5", mode=0o755, mtime=4, pax={xattr + b"user.other": b"2"}),),
    )


def _devices(directory: Path) -> EdgeCase:
    """Devices with numbers of one byte and more, over and under files."""

    def device(name: str, kind: str, major: int, minor: int) -> bytes:
        numbers = {329: b"%07o\0%07o\0" % (major, minor)}
        return member(name, kind=kind, mode=0o640, uid=1, gid=2, mtime=_LATER, patch=numbers)

    return _layers(
        (_folder("dev"), device("dev/null", "3", 1, 3), device("dev/sda", "4", 8, 0), _file("dev/file", b"x")),
        (device("dev/file", "4", 259, 300_000), _file("dev/sda", b"x"), device("dev/0", "3", 0, 0)),
        (device("dev/pipe", "6", 0, 0), member("dev/.wh.null"), device("dev/max", "3", 4095, 1_048_575)),
    )


def _names(format_: str) -> Callable[[Path], EdgeCase]:
    def names(directory: Path) -> EdgeCase:
        """Long and unusual names, as GNU tar writes them in this format."""
        base = directory / "names"
        texts = [b"\xff\xfe", "é".encode(), "e\u0301".encode(), b"A", b"a", b"new\nline", b" ", b"-rf", b"back\\slash"]
        texts += [b"*", b"[a]", b"%2e%2e", b"n" * 90, b"..."]
        if format_ != "ustar":
            texts += [b"n" * 100, b"n" * 101, b"n" * 255, b"\xff" * 200, "ü".encode() * 120]
        for text in texts:
            path = os.path.join(os.fsencode(base), b"in", text)
            os.makedirs(path)
            with open(os.path.join(path, text), "wb") as file:
                file.write(text)
            os.symlink(text[:99], os.path.join(path, b"s"))
        deep = base.joinpath(*[f"directory-{number}" for number in range(7 if format_ == "ustar" else 60)])
        deep.mkdir(parents=True)
        (deep / "file").write_text("deep")
        (deep / ("long" * 20)).write_text("longer than a hundred bytes in all")
        (deep / "link").hardlink_to(deep / "file")
        if format_ != "ustar":
            (deep / "symlink").symlink_to("t/" * 1500)
        upper = directory / "upper"
        (upper / "in" / ("n" * 90)).mkdir(parents=True)
        (upper / "in/.wh.A").touch()
        (upper / "in" / ("n" * 90) / ".wh..wh..opq").touch()
        return [(pack(base, format_), GZIP), (pack(upper, format_), GZIP)]

    return names


def _spellings(directory: Path) -> EdgeCase:
    """Names with ``./``, with leading, trailing and double slashes; directories without an entry."""
    return _layers(
        (_folder("./"), _folder("./a/"), _file("./a/./b", b"1"), _file("/abs/file", b"2"), _folder("abs//dir/")),
        (_file("implied/deep/er/file", b"3"), _symlink("implied/link", "deep/er"), _hard("implied/hard", "//abs/file")),
        (_folder("implied/deep", 0o711), _file("a//c", b"4")),
    )


def _repeated(directory: Path) -> EdgeCase:
    """Empty layers, layers with the end marker alone, and directories with two equal entries."""
    return [
        (bytes(1024), GZIP),
        (tar(_folder("a"), _file("a/x", b"x"), _folder("a/"), _folder("b"), _folder("./a")).content, GZIP),
        (b"", PLAIN),
        (bytes(10240), GZIP),
        (tar(_folder("b"), _folder("b"), _file("b/y", b"y"), end=b"").content, PLAIN),
    ]


def _unusual(directory: Path) -> EdgeCase:
    """Incomplete ends, sizes of what has no content, and entries that come twice."""
    file, link = _file("twice", b"2" * 5000), _symlink("twice-link", "twice")
    sizes = [member(f"size-{kind}", kind=kind, link="twice", size=4096, mode=0o755, mtime=_LATER) for kind in "1256"]
    return [
        (tar(file, link, file, _hard("hard", "twice"), link, _hard("hard", "twice")).content, GZIP),
        (tar(*sizes).content, GZIP),
        (tar(_file("a", b"a" * 600), end=b"").content, GZIP),
        (tar(_file("b", b"b" * 600), end=b"").content, PLAIN),
        (tar(_file("c", b"c" * 600), end=bytes(512)).content, PLAIN),
    ]


def _sparse(*versions: str) -> Callable[[Path], EdgeCase]:
    def sparse(directory: Path) -> EdgeCase:
        """Sparse files, one layer for each sparse format of GNU tar."""
        base = directory / "sparse"
        layers = []
        for version in versions:
            folder = base / version
            folder.mkdir(parents=True)
            for name, parts in _HOLES.items():
                with (folder / name).open("wb") as file:
                    for position in parts:
                        file.seek(position)
                        file.write(version.encode())
                    file.truncate(4 << 20)
            (folder / ("long" * 40)).write_bytes(bytes(1 << 20))
            format_, _, number = version.partition(" ")
            options = [f"--sparse-version={number}"] if number else []
            layers.append((pack(base, format_, version, options=options), GZIP))
        return layers

    return sparse


def _formats(directory: Path) -> EdgeCase:
    """The same tree, slightly changed, in each tar format."""
    base = directory / "formats"
    (base / "d").mkdir(parents=True)
    layers = []
    for number, format_ in enumerate(("v7", "ustar", "oldgnu", "gnu", "pax")):
        (base / f"d/{format_}").write_text(format_)
        (base / "d/changing").write_text("x" * number * 700)
        (base / f"d/link-{format_}").symlink_to("changing")
        if format_ != "v7":
            os.mknod(base / f"d/device-{format_}", stat.S_IFCHR | 0o600, os.makedev(4, number))
        layers.append((pack(base, format_), GZIP))
    path = directory / "python.tar"
    for number, kind in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(path, "w", format=kind) as archive:
            archive.add(base / "d/changing", f"python-{number}")
        layers.append((path.read_bytes(), GZIP))
    return layers


def _many(directory: Path) -> EdgeCase:
    """Sixty layers, each of which adds, changes, removes and hides files."""
    layers = []
    for number in range(60):
        parts = [
            _folder("d", 0o700 + number % 8, number),
            _file(f"d/{number}", b"%d" % number),
            _file("last", b"%d" % number),
        ]
        parts += [member(f"d/.wh.{number - 3}")] if number % 5 == 3 else []
        parts += [_folder(f"o{number % 4}"), _file(f"o{number % 4}/{number}"), member(f"o{number % 4}/.wh..wh..opq")]
        parts += [_hard(f"h{number}", f"d/{number}")] if number % 7 == 0 else []
        parts += [_hard(f"l{number}", f"d/{number - 1}")] if number % 7 == 2 else []
        layers.append((tar(*parts).content, GZIP))
    return layers


def _mixed(directory: Path) -> EdgeCase:
    """All compressions in one image, also with several gzip members and several zstd frames."""
    base = directory / "mixed"
    base.mkdir()
    (base / "noise").write_bytes(os.urandom(3 << 20))
    (base / "zeros").write_bytes(bytes(3 << 20))
    subprocess.run(["cp", "-a", base / "noise", base / "copy"], check=True)
    first = pack(base, "pax")
    return [
        (first, ZSTD),
        (tar(member(".wh.copy"), _file("a", b"a"), _hard("b", "noise")).content, PLAIN),
        (tar(member(".wh.noise"), _file("c", b"c")).content, GZIP),
        (tar(_folder("d"), member(".wh..wh..opq"), _file("b", b"b")).content, ZSTD),
    ]


EDGE_CASES: dict[str, Callable[[Path], EdgeCase]] = {
    "whiteouts": _whiteouts,
    "opaque directories": _opaque,
    "an opaque root": _opaque_root,
    "replacements": _replacements,
    "hard links": _links,
    "attributes of directories": _attributes,
    "odd modes": _modes,
    "times and owners": _times_and_owners,
    "extended attributes": _xattrs,
    "devices": _devices,
    "names in ustar": _names("ustar"),
    "names in GNU": _names("gnu"),
    "names in pax": _names("pax"),
    "spellings": _spellings,
    "empty layers and repeated directories": _repeated,
    "incomplete ends, sizes without content, entries twice": _unusual,
    "sparse files in GNU": _sparse("oldgnu", "gnu"),
    "sparse files in pax": _sparse("pax 0.0", "pax 0.1", "pax 1.0"),
    "formats": _formats,
    "sixty layers": _many,
    "mixed compressions": _mixed,
}
