"""Paths and whiteouts in layers."""

from __future__ import annotations

import time

import pytest

from registry_core.domain.layer_paths import (
    LONGEST_PATH,
    Whiteout,
    WhiteoutKind,
    ancestors,
    clean_path,
    is_pseudo_link,
    parent_of,
    whiteout_of,
)
from registry_core.errors import TooLarge, UnsafeArchive


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"etc/passwd", b"etc/passwd"),
        (b"./etc/passwd", b"etc/passwd"),
        (b"/etc/passwd", b"etc/passwd"),
        (b"//etc///passwd/", b"etc/passwd"),
        (b"etc/./passwd/.", b"etc/passwd"),
        (b".", b""),
        (b"./", b""),
        (b"/", b""),
        (b"...", b"..."),
        (b"..a/b..", b"..a/b.."),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"a\\..\\b", b"a\\..\\b"),
        (b"C:/x", b"C:/x"),
        (b"a\nb", b"a\nb"),
    ],
)
def test_names_are_relative_to_the_root(name: bytes, path: bytes) -> None:
    """R-130, R-136."""
    assert clean_path(name) == path


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/..", b"a/../b", b"/..", b"./../x", b"a//..//b", b"a/../../b"])
def test_dot_dot_is_refused_even_inside_the_root(name: bytes) -> None:
    """R-130."""
    with pytest.raises(UnsafeArchive):
        clean_path(name)


def test_a_name_with_a_nul_is_refused() -> None:
    """R-135."""
    with pytest.raises(UnsafeArchive):
        clean_path(b"a\0b")


def test_a_name_that_is_too_long_is_refused() -> None:
    """R-136, R-141."""
    assert clean_path(b"d/" * 3000) == b"/".join([b"d"] * 3000)

    with pytest.raises(TooLarge):
        clean_path(b"d" * (LONGEST_PATH + 1))


def test_the_longest_name_is_cleaned_quickly() -> None:
    """R-137."""
    started = time.perf_counter()

    clean_path(b"/." * (LONGEST_PATH // 2))

    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b".wh..wh.plnk/1.2", True),
        (b".wh..wh.plnk", False),
        (b".wh..wh.plnkx/1.2", False),
        (b"d/.wh..wh.plnk/1.2", False),
        (b".wh..wh.orph/1.2", False),
    ],
)
def test_pseudo_links_are_below_their_directory_at_the_root(path: bytes, expected: bool) -> None:
    """R-157."""
    assert is_pseudo_link(path) is expected


def test_ancestors_end_at_the_root() -> None:
    assert list(ancestors(b"a/b/c")) == [b"a/b", b"a", b""]
    assert list(ancestors(b"")) == []
    assert parent_of(b"a/b") == b"a"
    assert parent_of(b"a") == b""


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        (b"a/.wh.b", Whiteout(WhiteoutKind.WHITEOUT, b"a/b")),
        (b".wh.b", Whiteout(WhiteoutKind.WHITEOUT, b"b")),
        (b".wh....", Whiteout(WhiteoutKind.WHITEOUT, b"...")),
        (b".wh.wh.x", Whiteout(WhiteoutKind.WHITEOUT, b"wh.x")),
        (b"a/.wh..wh..opq", Whiteout(WhiteoutKind.OPAQUE, b"a")),
        (b".wh..wh..opq", Whiteout(WhiteoutKind.OPAQUE, b"")),
        (b".wh..wh.aufs", Whiteout(WhiteoutKind.PRIVATE, b".wh..wh.aufs")),
        (b".wh..wh.plnk/1.2", Whiteout(WhiteoutKind.PRIVATE, b".wh..wh.plnk/1.2")),
        (b"a/.wh", None),
        (b"a/x.wh.b", None),
        (b"whiteout", None),
    ],
)
def test_whiteouts_are_distinguished_from_ordinary_names(path: bytes, mark: Whiteout | None) -> None:
    """R-150, R-154."""
    assert whiteout_of(path, regular=True) == mark


@pytest.mark.parametrize("path", [b".wh.", b".wh..", b".wh...", b"a/.wh.", b"a/.wh..", b"a/.wh..."])
def test_a_whiteout_without_a_name_is_refused(path: bytes) -> None:
    """R-151."""
    with pytest.raises(UnsafeArchive):
        whiteout_of(path, regular=True)


@pytest.mark.parametrize("path", [b".wh.b", b"a/.wh..wh..opq"])
def test_a_whiteout_must_be_a_regular_file(path: bytes) -> None:
    """R-150."""
    with pytest.raises(UnsafeArchive):
        whiteout_of(path, regular=False)


@pytest.mark.parametrize("path", [b".wh.b/c", b"a/.wh.b/c/d", b".wh..wh..opq/x", b".wh.x/.wh.y"])
def test_an_entry_inside_a_whiteout_is_refused(path: bytes) -> None:
    """R-150."""
    with pytest.raises(UnsafeArchive):
        whiteout_of(path, regular=True)


def test_private_entries_of_aufs_may_be_of_any_kind() -> None:
    """R-150."""
    assert whiteout_of(b".wh..wh.plnk", regular=False) == Whiteout(WhiteoutKind.PRIVATE, b".wh..wh.plnk")
