"""Which scopes a token is asked for (R-037)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.auth.tokens import challenge_scopes, merge_scopes, own_repository, repository, widen_scopes
from registry_core.domain.auth import Scope
from registry_core.domain.names import RepositoryName


def scopes(*texts: str) -> tuple[Scope, ...]:
    found = []
    for text in texts:
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        found.append(Scope(kind, name, tuple(actions.split(","))))
    return tuple(found)


def texts(some: tuple[Scope, ...]) -> list[str]:
    return [str(one) for one in some]


@pytest.mark.parametrize(
    ("wanted", "challenge", "expected"),
    [
        ("repository:a:pull", "repository:a:pull", ["repository:a:pull"]),
        ("repository:a:pull", "repository:a:pull,push,delete,*", ["repository:a:pull"]),
        ("repository:a:pull", "repository:a:metadata_read", ["repository:a:metadata_read,pull"]),
        ("repository:a:pull", "repository:b:pull", ["repository:a:pull"]),
        ("repository:a:pull", "registry:catalog:*", ["repository:a:pull"]),
        ("repository:a:push", "repository:a:pull", ["repository:a:pull,push"]),
        ("repository:a:pull,push", "repository:a:pull,push,delete", ["repository:a:pull,push"]),
        ("repository:a:delete", "repository:a:pull,push", ["repository:a:delete,pull,push"]),
        ("repository:a:delete", "repository:a:*", ["repository:a:delete"]),
        ("registry:catalog:*", "repository:a:pull", ["registry:catalog:*"]),
        ("repository:a:pull", "", ["repository:a:pull"]),
        ("repository:a:pull", "::: a repository: repository:a: repository::pull", ["repository:a:pull"]),
        ("repository:a:pull", "repository(plugin):a:push", ["repository:a:pull"]),
    ],
)
def test_a_challenge_adds_nothing_that_is_a_step_up(wanted: str, challenge: str, expected: list[str]) -> None:
    """R-037."""
    assert texts(widen_scopes(scopes(wanted), challenge)) == expected


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ("", []),
        ("repository:a/b:pull,push", ["repository:a/b:pull"]),
        ("repository:host:5000/a:pull", ["repository:host:5000/a:pull"]),
        ("  repository:a:pull \t registry:catalog:*\nrepository:b:push ", ["registry:catalog:*", "repository:a:pull"]),
        ("aws", []),
    ],
)
def test_where_the_operation_names_none_only_reading_is_asked_for(challenge: str, expected: list[str]) -> None:
    """R-037."""
    assert texts(challenge_scopes(challenge)) == expected


def test_scopes_of_one_repository_are_joined() -> None:
    some = scopes("repository:b:pull", "repository:a:push", "repository:b:push,pull", "repository:a:pull")

    assert texts(merge_scopes(some)) == ["repository:a:pull,push", "repository:b:pull,push"]


def test_the_operations_own_repository_comes_first() -> None:
    some = scopes("repository:b:pull,push", "repository:a:pull")

    assert texts(own_repository(some)) == ["repository:b:pull,push"]
    assert repository(some) == RepositoryName("b")


def test_an_operation_on_the_registry_has_no_repository() -> None:
    assert own_repository(()) == ()
    assert repository(()) is None
    assert repository(scopes("registry:catalog:*")) is None
    assert repository(scopes("repository:No Name:pull")) is None


@given(st.text("reposityglcaug:,* \t/ab", max_size=200))
def test_no_challenge_gets_more_than_reading_of_what_is_being_read(challenge: str) -> None:
    """R-037."""
    wanted = scopes("repository:a:pull")

    found = widen_scopes(wanted, challenge)

    assert [(one.kind, one.name) for one in found] == [("repository", "a")]
    assert set(found[0].actions) <= {"pull", "metadata_read"}


@pytest.mark.parametrize("unit", [" ", ":", ",", "a", "a:", "repository:a:pull ", "repository:a:" + "pull," * 9])
def test_a_mebibyte_of_scopes_is_read_in_linear_time(unit: str) -> None:
    """R-040."""
    text = unit * (2**20 // len(unit))
    start = time.process_time()

    widen_scopes(scopes("repository:a:pull"), text)
    challenge_scopes(text)

    assert time.process_time() - start < 1.0
