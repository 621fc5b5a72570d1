"""Patterns of files to leave out of a layer: those of ``.gitignore``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from registry_core.errors import InvalidValue
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.entries import directory_entries
from registry_core.ops.builder.patterns import path_filter


class TestPatterns:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in (
            "app.py",
            "app.pyc",
            "build/out",
            "src/build/out",
            "src/.git/config",
            "src/keep.pyc",
            ".git/config",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"1")
        return tmp_path

    @pytest.mark.parametrize(
        ("patterns", "left_out"),
        [
            (["*.pyc"], {"app.pyc", "src/keep.pyc"}),
            (["*.pyc", "!keep.pyc"], {"app.pyc"}),
            (["/build"], {"build", "build/out"}),
            (["build/"], {"build", "build/out", "src/build", "src/build/out"}),
            ([".git"], {".git", ".git/config", "src/.git", "src/.git/config"}),
            (["**/out"], {"build/out", "src/build/out"}),
            (["src/*", "!src/build"], {"src/.git", "src/.git/config", "src/keep.pyc"}),
            (["# comment", "", "app.py"], {"app.py"}),
            (["app.py/"], set()),
            (["src/**", "!src/keep.pyc"], {"src/.git", "src/.git/config", "src/build", "src/build/out"}),
            (
                ["*", "!*/", "!*.pyc", ".git"],
                {"app.py", "build/out", "src/build/out", ".git", ".git/config", "src/.git", "src/.git/config"},
            ),
            (
                ["*", "!src"],
                {
                    "app.py",
                    "app.pyc",
                    "build",
                    "build/out",
                    "src/build",
                    "src/build/out",
                    "src/keep.pyc",
                    ".git",
                    ".git/config",
                    "src/.git",
                    "src/.git/config",
                },
            ),
            (
                ["src", "!src/keep.pyc"],
                {"src", "src/build", "src/build/out", "src/.git", "src/.git/config", "src/keep.pyc"},
            ),
            (["*.PYC"], set()),
            (["app.py\n", "/build/\r\n"], {"app.py", "build", "build/out"}),
            (["app.py  "], {"app.py"}),
            (["src/b*t"], set()),
            (["src/b**d"], {"src/build", "src/build/out"}),
        ],
    )
    def test_are_those_of_gitignore(self, tree: Path, patterns: list[str], left_out: set[str]) -> None:
        everything = set(directory_entries(tree))

        found = ImageBuilder().add_directory(tree, "srv", exclude=patterns).build().list_files()

        assert {entry.path.removeprefix("srv/") for entry in found} - {"srv"} == everything - left_out

    def test_may_come_from_a_generator(self, tree: Path) -> None:
        built = ImageBuilder().add_directory(tree, exclude=(line for line in ("src/", "build/", ".git"))).build()

        assert [entry.path for entry in built.list_files()] == ["app.py", "app.pyc"]

    def test_keep_directories_from_being_read(self, tree: Path) -> None:
        (tree / "fifos").mkdir()
        os.mkfifo(tree / "fifos/fifo")

        assert "fifos" not in directory_entries(tree, excludes=path_filter(["fifos/"]))

    @pytest.mark.parametrize(
        "patterns", ["*.pyc", "", b"*", None, 7, [b"*.pyc"], ["!"], ["/"], ["[z-a]"], ["a["], ["a\\"], ["[[:no:]]"]]
    )
    def test_that_are_malformed_are_refused(self, tree: Path, patterns: Any) -> None:
        with pytest.raises(InvalidValue, match="exclude"):
            ImageBuilder().add_directory(tree, exclude=patterns)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a", ["a", "d/a", "d/a/"], ["ab", "a/b", "A"]),
        ("/a", ["a", "a/"], ["d/a"]),
        ("d/a", ["d/a"], ["x/d/a", "a"]),
        ("a/", ["a/", "d/a/"], ["a"]),
        ("**/d/a", ["d/a", "x/y/d/a"], ["xd/a"]),
        ("d/**", ["d/a", "d/e/a", "d/e/"], ["d/", "x/d/a"]),
        ("d/**/a", ["d/a", "d/x/y/a"], ["da", "a"]),
        ("a**b", ["ab", "axxb", "d/ab"], ["a/b"]),
        ("d/a**", ["d/a", "d/ax"], ["d/a/x"]),
        ("?", ["a", "é", "d/a"], ["ab"]),
        ("[!a-c]x", ["dx", "éx"], ["ax", "cx", "x"]),
        ("d[!x]a", ["d-a"], ["d/a"]),
        ("[]x]", ["]", "x"], ["[", "y"]),
        ("[a\\]b]", ["a", "]", "b"], ["\\"]),
        ("[[:digit:]_-]", ["7", "_", "-"], ["a"]),
        ("[a&&b]", ["&", "a", "b"], ["c"]),
        (r"\#a", ["#a"], ["a"]),
        (r"\!a", ["!a"], ["a"]),
        (r"a\ ", ["a "], ["a"]),
        (r"\*", ["*"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb", ["a\nb"], ["a"]),
    ],
)
def test_a_pattern_matches_as_git_matches_it(pattern: str, matching: list[str], others: list[str]) -> None:
    excludes = path_filter([pattern])

    assert [path for path in matching if not excludes(path)] == []
    assert [path for path in others if excludes(path)] == []
