"""Intended differences from umoci; ``docs/reference/extraction.md`` quotes the image-spec for each.

Each case checks the result of the library, and that umoci gives a different one.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.end_to_end.extraction.file_trees import Seen, links, remove, tree
from tests.end_to_end.extraction.other_tools import GZIP, layout_image, umoci_unpacks

from registry_core import Image
from registry_core.errors import IntegrityError, UnsafeArchive
from registry_core.testing.layers import TarLayer, member, pax_records, tar

Outcome = dict[str, str] | type[IntegrityError]


class Difference(NamedTuple):
    """Layers, the tree that the library extracts, and words of the page about the difference."""

    layers: Sequence[TarLayer]
    ours: Outcome
    page: str


def folder(name: str, mode: int = 0o755) -> bytes:
    return member(name, kind="5", mode=mode)


def symlink(name: str, text: str) -> bytes:
    return member(name, kind="2", link=text)


def hard(name: str, target: str) -> bytes:
    return member(name, kind="1", link=target)


LINKED = tar(folder("real"), member("real/kept", b"k"), symlink("link", "real"))
UNTOUCHED = {"real": "/", "real/kept": "k", "link": "-> real"}
DIFFERENCES = {
    "a directory that is only implied replaces a link": Difference(
        [LINKED, tar(member("link/new", b"n"))],
        {"real": "/", "real/kept": "k", "link": "/", "link/new": "n"},
        "is only implied",
    ),
    "a directory that is only implied replaces a file": Difference(
        [tar(member("a", b"a")), tar(member("a/b", b"b"))], {"a": "/", "a/b": "b"}, "is only implied"
    ),
    "a whiteout is not followed": Difference(
        [LINKED, tar(member("link/.wh.kept"))], UNTOUCHED, "whiteout below a link"
    ),
    "an opaque marker is not followed": Difference(
        [LINKED, tar(member("link/.wh..wh..opq"))], UNTOUCHED, "whiteout below a link"
    ),
    "a hard link's target is not followed": Difference(
        [LINKED, tar(hard("h", "link/kept"))], UnsafeArchive, "leads through a symbolic link"
    ),
    "a path that comes twice": Difference([tar(member("a", b"1"), member("a", b"2"))], UnsafeArchive, "comes twice"),
    "a directory that comes twice and differs": Difference(
        [tar(folder("a", 0o700), folder("a", 0o755))], UnsafeArchive, "comes twice"
    ),
    "a whiteout that is a link": Difference(
        [tar(member("f")), tar(symlink(".wh.f", "x"))], UnsafeArchive, "no regular file"
    ),
    "a whiteout that is a directory": Difference(
        [tar(member("f")), tar(folder(".wh.f"))], UnsafeArchive, "no regular file"
    ),
    "what aufs kept for itself": Difference(
        [tar(folder(".wh..wh.plnk"), member(".wh..wh.plnk/1"), member(".wh..wh.aufs"), member("a", b"a"))],
        {"a": "a"},
        "`.wh..wh.`",
    ),
    "a hard link to a symbolic link": Difference(
        [tar(symlink("s", "x"), hard("h", "s"))], {"s": "-> x", "h": "-> x"}, "link to a link"
    ),
    "a hard link to a fifo": Difference(
        [tar(member("p", kind="6"), hard("h", "p"))], {"p": "fifo", "h": "fifo"}, "link to a link"
    ),
    "a hard link to a file that its layer hides": Difference(
        [tar(member("t", b"t")), tar(member(".wh.t"), hard("h", "t"))], {"h": "t"}, "whose target the same layer hides"
    ),
    "a name that climbs": Difference([tar(folder("a"), member("a/../b"))], UnsafeArchive, "`..`"),
    "a name that climbs out": Difference([tar(member("../b"))], UnsafeArchive, "`..`"),
    "an empty attribute": Difference(
        [tar(member("a", b"a", pax={b"SCHILY.xattr.user.empty": b""}))], {"a": "a user.empty"}, "empty attribute"
    ),
    "global headers": Difference(
        [tar(member("g", pax_records({b"comment": b"c", b"path": b"x"}), kind="g"), member("a", b"a"))],
        {"a": "a"},
        "global header",
    ),
    "a sparse file of old GNU tar": Difference(
        [
            tar(
                member(
                    "s",
                    b"data",
                    kind="S",
                    patch={257: b"ustar  \0", 386: b"%011o\0%011o\0" % (4, 4), 483: b"%011o\0" % 8},
                )
            )
        ],
        {"s": "\0\0\0\0data"},
        "old GNU tar",
    ),
}


@pytest.fixture
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    yield layout_image(tmp_path / "layout", [(layer.content, GZIP) for layer in request.param.layers])

    remove(tmp_path / "ours")
    remove(tmp_path / "umoci")


def shape(directory: Path) -> dict[str, str]:
    return {os.fsdecode(path): described(file, directory / os.fsdecode(path)) for path, file in tree(directory).items()}


def described(file: Seen, path: Path) -> str:
    if file.kind == stat.S_IFDIR:
        return "/"
    if file.kind == stat.S_IFLNK:
        return f"-> {os.fsdecode(file.link)}"
    if file.kind == stat.S_IFIFO:
        return "fifo"
    return " ".join([path.read_text(), *(key for key, _ in file.attributes)])


@pytest.mark.parametrize(
    ("image", "difference"),
    [pytest.param(each, each, id=name) for name, each in DIFFERENCES.items()],
    indirect=["image"],
)
def test_the_library_and_umoci_differ(
    image: Image, difference: Difference, umoci: str, as_root: None, tmp_path: Path
) -> None:
    ours: Outcome
    theirs: Outcome

    try:
        image.extract_to(tmp_path / "ours", owners=True, special_modes=True, devices=True, xattrs=True)
        ours = shape(tmp_path / "ours")
    except IntegrityError as error:
        ours = type(error)
    try:
        umoci_unpacks(umoci, tmp_path / "layout", tmp_path / "umoci")
        theirs = shape(tmp_path / "umoci")
    except subprocess.CalledProcessError:
        theirs = IntegrityError

    assert ours == difference.ours
    same_links = isinstance(ours, type) or links(tmp_path / "ours") == links(tmp_path / "umoci")
    assert ours != theirs or not same_links


def test_each_difference_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/extraction.md").read_text()

    assert [name for name, each in DIFFERENCES.items() if each.page not in page] == []
