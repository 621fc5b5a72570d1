"""The scopes that a token is requested for (R-037)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_adapters.auth.tokens import challenge_scopes, merge_scopes, own_repository, repository_of, widen_scopes
from registry_core.domain.auth import Scope
from registry_core.domain.names import RepositoryName


def scopes(*texts: str) -> tuple[Scope, ...]:
    found = []
    for text in texts:
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        found.append(Scope(kind, name, tuple(actions.split(","))))
    return tuple(found)


def texts(scopes: tuple[Scope, ...]) -> list[str]:
    return [str(scope) for scope in scopes]


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
def test_a_challenge_adds_no_actions_beyond_those_of_the_operation(
    wanted: str, challenge: str, expected: list[str]
) -> None:
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
def test_for_an_operation_without_scopes_only_read_actions_are_requested(challenge: str, expected: list[str]) -> None:
    """R-037."""
    assert texts(challenge_scopes(challenge)) == expected


def test_scopes_of_one_repository_are_merged() -> None:
    some = scopes("repository:b:pull", "repository:a:push", "repository:b:push,pull", "repository:a:pull")

    assert texts(merge_scopes(some)) == ["repository:a:pull,push", "repository:b:pull,push"]


def test_the_repository_of_the_first_scope_is_the_operation_s() -> None:
    some = scopes("repository:b:pull,push", "repository:a:pull")

    assert texts(own_repository(some)) == ["repository:b:pull,push"]
    assert repository_of(some) == RepositoryName("b")


def test_an_operation_on_the_registry_has_no_repository() -> None:
    assert own_repository(()) == ()
    assert repository_of(()) is None
    assert repository_of(scopes("registry:catalog:*")) is None
    assert repository_of(scopes("repository:No Name:pull")) is None


@given(st.text("reposityglcaug:,* \t/ab", max_size=200))
def test_no_challenge_adds_more_than_read_actions_to_a_pull(challenge: str) -> None:
    """R-037."""
    wanted = scopes("repository:a:pull")

    found = widen_scopes(wanted, challenge)

    assert [(one.kind, one.name) for one in found] == [("repository", "a")]
    assert set(found[0].actions) <= {"pull", "metadata_read"}


@pytest.mark.parametrize("unit", [" ", ":", ",", "a", "a:", "repository:a:pull ", "repository:a:" + "pull," * 9])
def test_a_mebibyte_of_scopes_is_parsed_in_linear_time(unit: str) -> None:
    """R-040."""
    text = unit * (2**20 // len(unit))
    start = time.process_time()

    widen_scopes(scopes("repository:a:pull"), text)
    challenge_scopes(text)

    assert time.process_time() - start < 1.0
