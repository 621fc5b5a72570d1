"""Patterns of files to leave out of a layer: those of ``.gitignore``."""

from __future__ import annotations

import os
import subprocess
import sys
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
                {
                    "app.py",
                    "build",
                    "build/out",
                    "src/build",
                    "src/build/out",
                    ".git",
                    ".git/config",
                    "src/.git",
                    "src/.git/config",
                },
            ),
            (
                ["*", "!src"],
                {
                    "app.py",
                    "app.pyc",
                    "build",
                    "build/out",
                    "src",
                    "src/build",
                    "src/build/out",
                    "src/keep.pyc",
                    ".git",
                    ".git/config",
                    "src/.git",
                    "src/.git/config",
                },
            ),
            (["*.PYC"], set()),
            (["app.py\n", "/build/\r\n"], {"app.py", "build", "build/out"}),
            (["app.py  "], {"app.py"}),
            (["src/b*t"], set()),
            (["src/b**d"], {"src/build", "src/build/out"}),
            (["build/**"], {"build", "build/out"}),
            (
                ["*.pyc", "!keep.pyc", "src/"],
                {"src", "src/build", "src/build/out", "src/.git", "src/.git/config"} | {"app.pyc", "src/keep.pyc"},
            ),
            (["buil[!a]"], {"build", "build/out", "src/build", "src/build/out"}),
            (["sr[!a]", "!src/build/"], {"src/.git", "src/.git/config", "src/keep.pyc"}),
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

        assert "fifos" not in directory_entries(tree, exclude=path_filter(["fifos/"]))

    @pytest.mark.parametrize(
        ("patterns", "kept"),
        [
            (["d/**", "!d/a"], {"d", "d/a", "b.log"}),
            (["*", "!*/", "!*.log"], {"b.log", "d", "d/e", "d/e/c.log"}),
            (["**", "!c.log"], {"d", "d/e", "d/e/c.log"}),
            (["d/e", "!c.log", "d/e/"], {"d", "d/a", "d/empty", "b.log"}),
        ],
    )
    def test_include_files_of_directories_that_match(self, tmp_path: Path, patterns: list[str], kept: set[str]) -> None:
        for name in ("d/a", "d/e/a", "d/e/c.log", "d/empty/", "b.log"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"1")
        (tmp_path / "d").chmod(0o711)

        found = {
            entry.path: entry.mode
            for entry in ImageBuilder().add_directory(tmp_path, exclude=patterns).build().list_files()
        }

        assert set(found) == kept
        assert found.get("d", 0o711) == 0o711

    def test_that_match_part_of_a_name_keep_the_files_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/a").write_bytes(b"1")

        assert set(directory_entries(tmp_path, exclude=path_filter(["d[!x]"]))) == {"d", "d/a"}

    def test_without_the_extra_are_refused_with_its_name(self, tree: Path) -> None:
        code = """
import sys
sys.modules["pathspec"] = None
from registry_core import ConfigError, ImageBuilder
ImageBuilder().add_directory(sys.argv[1]).add_directory(sys.argv[1], exclude=["", "# comment"])
try:
    ImageBuilder().add_directory(sys.argv[1], exclude=["a"])
except ConfigError as error:
    assert "ociport[build]" in str(error), error
else:
    raise AssertionError("added without the extra")
"""

        subprocess.run([sys.executable, "-c", code, str(tree)], check=True, timeout=60)

    @pytest.mark.parametrize(
        "patterns",
        [
            *("*.pyc", "", b"*", None, 7, [b"*.pyc"], ["!"], ["/"], ["[z-a]"], ["a["], ["a\\"]),
            *(["[[:no:]]"], ["[[:digit:]_-]"], ["[a\\]b]"], ["d/**/"], ["*", "!/d/**/ "]),
        ],
    )
    def test_that_are_malformed_are_refused(self, tree: Path, patterns: Any) -> None:
        with pytest.raises(InvalidValue, match="exclude"):
            ImageBuilder().add_directory(tree, exclude=patterns)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a", ["a", "d/a", "d/a/", "a/b"], ["ab", "A"]),
        ("/a", ["a", "a/"], ["d/a"]),
        ("d/a", ["d/a"], ["x/d/a", "a"]),
        ("a/", ["a/", "d/a/"], ["a"]),
        ("**/d/a", ["d/a", "x/y/d/a"], ["xd/a"]),
        ("d/**", ["d/a", "d/e/a", "d/e/"], ["x/d/a"]),
        ("d/**/a", ["d/a", "d/x/y/a"], ["da", "a"]),
        ("a**b", ["ab", "axxb", "d/ab"], ["a/b"]),
        ("d/a**", ["d/a", "d/ax", "d/a/x"], ["d/x/a", "x/d/a"]),
        ("?", ["a", "é", "d/a"], ["ab"]),
        ("[!a-c]x", ["dx", "éx"], ["ax", "cx", "x"]),
        ("[]x]", ["]", "x"], ["[", "y"]),
        (r"\[a\]", ["[a]"], ["a"]),
        ("[a&b]", ["&", "a", "b"], ["c"]),
        (r"\#a", ["#a"], ["a"]),
        (r"\!a", ["!a"], ["a"]),
        (r"a\ ", ["a "], ["a"]),
        ("a\\ \r\n", ["a "], ["a"]),
        (r"\*", ["*"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb", ["a\nb"], ["a"]),
    ],
)
def test_a_pattern_matches_as_git_matches_it(pattern: str, matching: list[str], others: list[str]) -> None:
    excludes = path_filter([pattern]).excludes

    assert [path for path in matching if not excludes(path)] == []
    assert [path for path in others if excludes(path)] == []
