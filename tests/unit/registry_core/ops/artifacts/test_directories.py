"""Titles of files in artifacts, which are untrusted."""

from __future__ import annotations

import pytest

from registry_core.errors import InvalidName, UnsafeArchive
from registry_core.ops.artifacts.directories import check_distinct_titles, clean_title, stays_inside


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("a", "a"),
        ("a/b.txt", "a/b.txt"),
        ("./a//b/.", "a/b"),
        ("ab:c", "ab:c"),
        ("Ünï 文", "Ünï 文"),
        ("...", "..."),
        ("a..b", "a..b"),
        (".hidden", ".hidden"),
        ("x" * 255, "x" * 255),
    ],
)
def test_ordinary_titles_become_relative_paths(title: str, expected: str) -> None:
    """R-130."""
    assert clean_title(title) == expected


@pytest.mark.parametrize(
    "title",
    [
        "", ".", "./", "/", "/etc/passwd", "//a", "..", "../a", "a/../b", "a/..", "./..", "a\0b", "a\nb", "a\x7fb",
        "a\x85b", "a\\b", "..\\a", "C:", "C:/a", "c:a", "\ud800", "x" * 256, "é" * 128,
        "/".join(["abcdefgh"] * 500),
    ],
)  # fmt: skip
def test_titles_with_another_meaning_on_some_system_are_refused(title: str) -> None:
    """R-130."""
    with pytest.raises(InvalidName):
        clean_title(title)


def test_a_title_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidName):
        clean_title(b"a")  # type: ignore[arg-type]


def test_titles_in_one_directory_are_distinct() -> None:
    check_distinct_titles(["a", "b/a", "b/b", "c/b/a", "c/bb"])


@pytest.mark.parametrize(
    "titles",
    [
        ("a", "a"),
        ("a", "A"),
        ("straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A/b/c", "a/B"),
    ],
)
def test_titles_for_one_path_are_refused(titles: tuple[str, str]) -> None:
    with pytest.raises(UnsafeArchive):
        check_distinct_titles(titles)


@pytest.mark.parametrize(
    ("path", "link"),
    [(b"l", b"a"), (b"l", b"a/b"), (b"l", b"./a"), (b"d/l", b"../a"), (b"d/e/l", b"../../a"), (b"l", b".")],
)
def test_links_that_stay_inside(path: bytes, link: bytes) -> None:
    assert stays_inside(path, link)


@pytest.mark.parametrize(
    ("path", "link"),
    [
        (b"l", b""), (b"l", b"/"), (b"l", b"/etc"), (b"l", b".."), (b"l", b"../a"), (b"d/l", b"../../a"),
        (b"l", b"a/../b"), (b"l", b"a/../../b"), (b"d/l", b"a/.."), (b"l", b"a\0b"),
    ],
)  # fmt: skip
def test_links_that_leave_or_could_together_with_others(path: bytes, link: bytes) -> None:
    """R-131: where ``a`` is a link upwards, ``a/..`` is outside."""
    assert not stays_inside(path, link)
