from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.domain.names import PathSegments, RepositoryName, Tag
from registry_core.errors import InvalidName, InvalidValue

REPOSITORIES = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+){0,2}(?:/[a-z0-9]+){0,2}", fullmatch=True)


@pytest.mark.parametrize("text", ["v1", "_", "A.b-c_d", "latest", "1.0", "a" * 128, "..".join("ab")])
def test_valid_tags_are_accepted(text: str) -> None:
    """R-201."""
    assert Tag(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".a", "-a", "a" * 129, "a/b", "a:b", "a b", "v1\n", "v\u0661", "a%2e", "..", "a?b", "a#b", "a\r\nb", "é"],
)
def test_malformed_tags_are_refused(text: str) -> None:
    """R-010, R-201."""
    with pytest.raises(InvalidName) as caught:
        Tag(text)

    assert caught.value.code == "TAG_INVALID"


@pytest.mark.parametrize("text", ["a", "org/app", "a.b", "a_b", "a__b", "a---b", "0/1/2", "a/" * 200 + "b"])
def test_valid_repository_names_are_accepted(text: str) -> None:
    """R-201: the length is a convention, not an error."""
    assert RepositoryName(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "a..b",
        "a___b",
        "a_-b",
        "-a",
        "a-",
        "..",
        "a/../b",
        "a\n",
        "a b",
        "a%2fb",
        "a?",
        "a#",
    ],
)
def test_malformed_repository_names_are_refused(text: str) -> None:
    """R-010, R-201."""
    with pytest.raises(InvalidName) as caught:
        RepositoryName(text)

    assert caught.value.code == "NAME_INVALID"


def test_the_empty_name_is_the_root() -> None:
    root = RepositoryName("")

    assert root / "a" == "a"
    assert RepositoryName("a") / "b/c" == "a/b/c"


@pytest.mark.parametrize(
    ("name", "parent", "expected"),
    [
        ("a/b/c", "a", "b/c"),
        ("a/b", "a/b", None),
        ("ab/c", "a", None),
        ("a", "", "a"),
        ("", "", None),
    ],
)
def test_a_name_relative_to_its_parent(name: str, parent: str, expected: str | None) -> None:
    assert RepositoryName(name).below(RepositoryName(parent)) == expected


@given(REPOSITORIES, REPOSITORIES)
def test_a_joined_name_is_below_its_parent(parent: str, child: str) -> None:
    joined = RepositoryName(parent) / child

    assert joined.below(RepositoryName(parent)) == child


@given(st.text(alphabet="aA0._-/ \n%:@", max_size=20))
def test_parsing_raises_only_invalid_value(text: str) -> None:
    for kind in (Tag, RepositoryName, PathSegments):
        try:
            parsed = kind(text)
        except InvalidValue:
            continue
        assert str(parsed) == (text.strip("/") if kind is PathSegments else text)


def test_segments_are_added_to_a_new_path() -> None:
    path = PathSegments("org")

    longer = path.with_segment("team", "app")

    assert str(longer) == "org/team/app"
    assert path == PathSegments("org")
    assert tuple(longer) == ("org", "team", "app")


def test_outer_slashes_are_trimmed_and_inner_ones_make_no_new_segment() -> None:
    path = PathSegments("/a/b/", "c")

    assert len(path) == 2
    assert path.repository == RepositoryName("a/b/c")


def test_a_path_without_segments_is_the_root() -> None:
    assert PathSegments().repository == ""
    assert not PathSegments()


@pytest.mark.parametrize("segment", ["", "/", "//", "A", "a//b", "..", "a b", "a:b", None])
def test_an_invalid_segment_is_refused(segment: str) -> None:
    """R-010."""
    with pytest.raises(InvalidName):
        PathSegments("org").with_segment(segment)


def test_paths_can_be_pickled() -> None:
    path = PathSegments("a/b", "c")

    copied = pickle.loads(pickle.dumps(path))

    assert copied == path
    assert repr(copied) == "PathSegments('a/b', 'c')"
