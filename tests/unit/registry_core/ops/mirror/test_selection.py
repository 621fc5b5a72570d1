"""Selection of tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidName, InvalidValue
from registry_core.ops.mirror.selection import TagPatterns, TagSelection, matching_names

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


def test_a_selection_of_names_needs_no_list() -> None:
    assert TagSelection(include=TagPatterns(names=("a",))).is_exact
    assert not TagSelection().is_exact
    assert not TagSelection(include=TagPatterns(names=("a",), globs=("b*",))).is_exact


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TagPatterns(names=("no tag!",)), InvalidName, "not a tag: 'no tag!'"),
        (lambda: TagPatterns(names="latest"), InvalidValue, "names must be a list, not 'latest'"),
        (lambda: TagPatterns(globs="1.*"), InvalidValue, r"globs must be a list, not '1.\*'"),
        (lambda: TagPatterns(regexes=cast("Any", None)), InvalidValue, "regexes must be a list, not None"),
        (lambda: TagPatterns(globs=cast("Any", [1])), InvalidValue, "globs must be strings, not 1"),
        (lambda: TagPatterns(regexes=("(",)), InvalidValue, r"not a regular expression: '\('"),
        (lambda: TagPatterns(semver=">"), InvalidValue, "not a range of versions: '>'"),
        (lambda: TagSelection(latest=0), InvalidValue, "latest must be a number of at least 1, not 0"),
        (lambda: TagSelection(latest=cast("Any", "3")), InvalidValue, "latest must be a number"),
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


def test_a_star_matches_slashes() -> None:
    names = [RepositoryName(name) for name in ("app", "lib/a", "lib/a/b", "other")]

    assert matching_names(["lib/*", "app"], names) == ["app", "lib/a", "lib/a/b"]
