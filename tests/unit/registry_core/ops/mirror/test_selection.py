"""Selection of tags."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidDigest, InvalidName, InvalidReference, InvalidValue
from registry_core.ops.mirror.selection import FLOATING_NAMES, TagPatterns, TagSelection, matching_names

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
TAGS = ["1.0.0", "1.1.0", "1.2.0-rc.1", "2.0.0", "2.0.0-alpine", "latest", "nightly", "v1.10.0"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (TagSelection(), TAGS),
        (TagSelection(include=TagPatterns(names=["latest", "absent"])), ["latest"]),
        (TagSelection(include=TagPatterns(globs=("1.*", "l*"))), ["1.0.0", "1.1.0", "1.2.0-rc.1", "latest"]),
        (TagSelection(include=TagPatterns(regexes=(r"\d+\.0\.0",))), ["1.0.0", "2.0.0"]),
        (TagSelection(include=TagPatterns(semver=">=1.1, <2")), ["1.1.0", "v1.10.0"]),
        (TagSelection(include=TagPatterns(names=("nightly",), semver="2.x")), ["2.0.0", "nightly"]),
        (
            TagSelection(exclude=TagPatterns(globs=("*-*",), names=("latest", "nightly"))),
            ["1.0.0", "1.1.0", "2.0.0", "v1.10.0"],
        ),
        (TagSelection(include=TagPatterns(semver="*"), latest=2), ["2.0.0", "v1.10.0"]),
        (TagSelection(include=TagPatterns(semver="1.x"), latest=1), ["v1.10.0"]),
        (TagSelection(include=TagPatterns(names=("latest",)), latest=1), []),
    ],
)
def test_selected_tags_are_ordered(selection: TagSelection, expected: list[str]) -> None:
    assert selection.select(reversed(TAGS)) == expected


def test_the_scope_of_a_selection_does_not_depend_on_its_limit() -> None:
    selection = TagSelection(include=TagPatterns(semver="1.x"), latest=1)

    assert selection.in_scope(TAGS) == {"1.0.0", "1.1.0", "v1.10.0"}


@pytest.mark.parametrize(
    ("tags", "selection", "expected"),
    [
        (["18.04", "20.04", "22.04", "24.04", "24.10"], TagSelection(latest=2), ["24.04", "24.10"]),
        (["2025.11.0", "2025.11.1", "2026.02.0", "2026.04.1"], TagSelection(latest=2), ["2026.02.0", "2026.04.1"]),
        (["10.0.17763.1", "10.0.20348.1", "10.0.20348.9"], TagSelection(latest=1), ["10.0.20348.9"]),
        (["1.2.3_9", "1.2.3_10", "1.2.2"], TagSelection(latest=1), ["1.2.3_10"]),
        (["9", "10", "latest", "stable"], TagSelection(latest=1), ["10"]),
        (["1.9", "01.10"], TagSelection(latest=1), ["01.10"]),
        (["1.0.0", "1.1.0-rc.1", "1.1.0-rc.2"], TagSelection(latest=1), ["1.1.0-rc.2"]),
        (["24.04", "24.4", "22.04"], TagSelection(latest=1), ["24.4"]),
        (["v1.0.0", "1.0.0", "1.0", "0.9"], TagSelection(latest=1), ["v1.0.0"]),
        (["v1.0.0", "1.0.0", "1.0", "0.9"], TagSelection(latest=3), ["1.0", "1.0.0", "v1.0.0"]),
        (
            ["22.04", "24.04", "24.10", "latest"],
            TagSelection(include=TagPatterns(semver=">=22.04", names=["latest"])),
            ["22.04", "24.04", "24.10", "latest"],
        ),
        (["22.04", "24.04", "24.10"], TagSelection(exclude=TagPatterns(semver="24.04")), ["22.04", "24.10"]),
        (["22.04", "24.04", "24.10"], TagSelection(include=TagPatterns(semver="24.x"), latest=1), ["24.10"]),
    ],
)  # fmt: skip
def test_the_spelling_of_a_version_does_not_change_its_order(
    tags: list[str], selection: TagSelection, expected: list[str]
) -> None:
    assert selection.select(tags) == expected
    assert selection.select(reversed(tags)) == expected


MIXED = ["1.0.0", "18.04", "2.0.0", "2024-01-01", "dev-2", "edge", "latest", "latest-alpine", "local", "stable"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (TagSelection(), ["1.0.0", "18.04", "2.0.0", "2024-01-01", "dev-2", "local"]),
        (TagSelection(latest=2), ["1.0.0", "18.04", "2.0.0"]),
        (TagSelection(include=TagPatterns(semver=">=2")), ["18.04", "2.0.0"]),
        (TagSelection(include=TagPatterns(semver=">=2"), latest=1), ["18.04", "2.0.0"]),
        (TagSelection(include=TagPatterns(semver="1.x", names=["stable"])), ["1.0.0", "stable"]),
        (TagSelection(include=TagPatterns(names=["stable"], semver="1.x"), latest=1), ["1.0.0"]),
        (TagSelection(include=TagPatterns(globs=["*"])), ["1.0.0", "18.04", "2.0.0", "2024-01-01", "dev-2", "local"]),
        (
            TagSelection(include=TagPatterns(regexes=["(.*)"])),
            ["1.0.0", "18.04", "2.0.0", "2024-01-01", "dev-2", "local"],
        ),
        (
            TagSelection(include=TagPatterns(globs=["*", "stab??", "?????"], names=["edge"])),
            ["1.0.0", "18.04", "2.0.0", "2024-01-01", "dev-2", "edge", "local", "stable"],
        ),
        (TagSelection(include=TagPatterns(globs=["l*"])), ["latest", "latest-alpine", "local"]),
        (TagSelection(include=TagPatterns(regexes=["[a-z]+"])), ["edge", "latest", "local", "stable"]),
        (TagSelection(include=TagPatterns(globs=["*"]), latest=1), ["1.0.0", "18.04", "2.0.0"]),
        (TagSelection(exclude=TagPatterns(globs=["*.*"], names=["local"])), ["2024-01-01", "dev-2"]),
    ],
)
def test_only_tags_that_a_selection_can_judge_are_removable(selection: TagSelection, expected: list[str]) -> None:
    assert sorted(selection.removable(MIXED)) == expected


@pytest.mark.parametrize(
    ("tag", "is_floating"),
    [
        ("latest", True), ("LATEST", True), ("stable", True), ("nightly", True), ("main", True), ("lts", True),
        ("latest-alpine", True), ("lts-bookworm-slim", True), ("stable_arm", True),
        ("latest-amd64", True), ("latest_x86_64", True), ("stable-arm64-v8", True), ("latest-alpine3.18", True),
        ("lts-alpine3.18-slim", True), ("amd64-latest", True), ("arm64v8-latest", True), ("arm32v7-edge-alpine", True),
        ("nightly-20240101", False), ("main-0a0a0a", False), ("mainframe", False), ("old", False), ("my-latest", False),
        ("release-1.2", False), ("release-v1.2", False), ("rc-1.2.3", False), ("main-abc1234", False), ("amd64", False),
    ],
)  # fmt: skip
def test_floating_names_are_not_removable_unless_they_are_named(tag: str, is_floating: bool) -> None:
    assert (TagSelection().removable([tag]) == set()) is is_floating
    assert TagSelection(include=TagPatterns(names=[tag], globs=["absent"])).removable([tag]) == {tag}


def test_the_page_on_mirrors_lists_the_floating_names() -> None:
    page = (Path(__file__).parents[5] / "docs/how-to/mirror.md").read_text()
    listed = page.partition("These are the words:\n")[2].partition(".\n")[0]

    assert re.findall(r"`([^`]+)`", listed) == list(FLOATING_NAMES)
    assert TagSelection().removable(FLOATING_NAMES) == set()


def test_a_selection_of_names_needs_no_list() -> None:
    assert TagSelection(include=TagPatterns(names=("a",))).is_exact
    assert not TagSelection().is_exact
    assert not TagSelection(include=TagPatterns(names=("a",), globs=("b*",))).is_exact


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TagPatterns(names=("no tag!",)), InvalidName, "not a tag: 'no tag!'"),
        (lambda: TagPatterns(names=("v1@sha256:short",)), InvalidDigest, "not a sha256 digest"),
        (lambda: TagPatterns(names=("sha256:short",)), InvalidDigest, "not a sha256 digest"),
        (lambda: TagPatterns(names=("a/b:v1",)), InvalidReference, "neither a tag nor a digest"),
        (lambda: TagPatterns(names=cast("Any", [["v1"]])), InvalidReference, "neither a tag nor a digest"),
        (lambda: TagPatterns(names=("v1", f"v1@{ONE}")), InvalidValue, "the tag v1 is listed with several digests"),
        (lambda: TagPatterns(names=(f"v1@{ONE}", f"v1@{TWO}")), InvalidValue, "the tag v1 is listed with several"),
        (lambda: TagSelection(exclude=TagPatterns(names=(ONE,))), InvalidValue, "exclude takes tags and patterns"),
        (lambda: TagPatterns(names="latest"), InvalidValue, "names must be a list, not 'latest'"),
        (lambda: TagPatterns(globs="1.*"), InvalidValue, r"globs must be a list, not '1.\*'"),
        (lambda: TagPatterns(regexes=cast("Any", None)), InvalidValue, "regexes must be a list, not None"),
        (lambda: TagPatterns(globs=cast("Any", [1])), InvalidValue, "globs must be strings, not 1"),
        (lambda: TagPatterns(regexes=("(",)), InvalidValue, r"not a regular expression: '\('"),
        (lambda: TagPatterns(semver=">"), InvalidValue, "not a range of versions: '>'"),
        (lambda: TagSelection(latest=0), InvalidValue, "latest must be a number of at least 1, not 0"),
        (lambda: TagSelection(latest=cast("Any", "3")), InvalidValue, "latest must be a number"),
        (lambda: TagSelection(latest=True), InvalidValue, "latest must be a number of at least 1, not True"),
        (lambda: TagPatterns(names=["debian:12"]), InvalidDigest, "not a tag, and not a digest that can be verified"),
        (lambda: TagPatterns(names=["v1@app:v2"]), InvalidDigest, "not a tag, and not a digest .* 'v1@app:v2'"),
        (lambda: TagPatterns(semver=cast("Any", 0)), InvalidValue, "semver must be a string, not 0"),
        (lambda: TagPatterns(semver=cast("Any", 24.04)), InvalidValue, "semver must be a string, not 24.04"),
        (lambda: TagSelection(include=cast("Any", ["1.*"])), InvalidValue, "include must be TagPatterns"),
    ],
)
def test_malformed_selections_are_refused_at_once(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_lists_become_tuples_so_that_later_changes_to_them_have_no_effect() -> None:
    names = ["a"]
    patterns = TagPatterns(names=names, globs=iter(["b*"]))
    names.append("c")

    assert (patterns.names, patterns.globs) == (("a",), ("b*",))
    assert hash(patterns) == hash(TagPatterns(names=("a",), globs=("b*",)))


def test_digests_are_listed_beside_tags() -> None:
    selection = TagSelection(include=TagPatterns(names=("v1", ONE, f"v2@{TWO}", f"@{TWO}", "v1"), globs=("v*",)))

    assert selection.include.tags == ["v1"]
    assert selection.include.digests == [(ONE, None), (TWO, "v2"), (TWO, None)]
    assert selection.select(["v1", "v2", "v3"]) == ["v1", "v3"]
    assert selection.removable(["v1", "v2", "v3"]) == {"v1", "v3"}
    assert TagSelection(include=TagPatterns(names=(ONE,))).is_exact


def test_a_star_matches_slashes() -> None:
    names = [RepositoryName(name) for name in ("app", "lib/a", "lib/a/b", "other")]

    assert matching_names(["lib/*", "app"], names) == ["app", "lib/a", "lib/a/b"]
