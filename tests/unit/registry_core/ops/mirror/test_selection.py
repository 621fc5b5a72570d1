"""Which tags are meant."""

from __future__ import annotations

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
        (TagSelection(include=TagPatterns(names=("latest", "absent"))), ["latest"]),
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
def test_a_selection_is_what_it_says_in_order(selection: TagSelection, expected: list[str]) -> None:
    assert selection.select(reversed(TAGS)) == expected


def test_what_a_selection_is_about_does_not_depend_on_how_many_are_wanted() -> None:
    selection = TagSelection(include=TagPatterns(semver="1.x"), latest=1)

    assert selection.in_scope(TAGS) == {"1.0.0", "1.1.0", "v1.10.0"}


def test_only_names_need_no_list() -> None:
    assert TagSelection(include=TagPatterns(names=("a",))).is_exact
    assert not TagSelection().is_exact
    assert not TagSelection(include=TagPatterns(names=("a",), globs=("b*",))).is_exact


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: TagPatterns(names=("no tag!",)), InvalidName),
        (lambda: TagPatterns(regexes=("(",)), InvalidValue),
        (lambda: TagPatterns(semver=">"), InvalidValue),
        (lambda: TagPatterns(globs=cast("Any", "1.*")), InvalidValue),
        (lambda: TagSelection(latest=0), InvalidValue),
        (lambda: TagSelection(latest=cast("Any", "3")), InvalidValue),
    ],
)
def test_what_is_malformed_is_refused_at_once(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_star_goes_across_slashes() -> None:
    names = [RepositoryName(name) for name in ("app", "lib/a", "lib/a/b", "other")]

    assert matching_names(["lib/*", "app"], names) == ["app", "lib/a", "lib/a/b"]
