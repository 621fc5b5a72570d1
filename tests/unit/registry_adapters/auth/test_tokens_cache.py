"""Tokens in memory (R-037)."""

from __future__ import annotations

import pickle

import pytest

from registry_adapters.auth.tokens import Token, TokenCache, TokenKey
from registry_core.domain.auth import Anonymous, Basic, Scope
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin

NAME = RepositoryName("org/app")
PULL = Scope.repository(NAME, ["pull"])
PUSH = Scope.repository(NAME, ["pull", "push"])
OTHER = Scope.repository(RepositoryName("org/other"), ["pull"])
AUDIENCE = TokenKey(Origin.of("registry.example.com"), "https://auth.example.com", "registry", Anonymous())
STRANGERS = [
    TokenKey(Origin.of("evil.example"), AUDIENCE.realm, AUDIENCE.service, AUDIENCE.identity),
    TokenKey(Origin.of("registry.example.com", scheme="http"), AUDIENCE.realm, AUDIENCE.service, AUDIENCE.identity),
    TokenKey(AUDIENCE.registry, "https://other.example.com", AUDIENCE.service, AUDIENCE.identity),
    TokenKey(AUDIENCE.registry, AUDIENCE.realm, "other", AUDIENCE.identity),
    TokenKey(AUDIENCE.registry, AUDIENCE.realm, AUDIENCE.service, Basic("user", "word")),
]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> TokenCache:
    return TokenCache(clock=clock)


@pytest.mark.parametrize(
    ("granted", "wanted", "found"),
    [
        ([PULL], [PULL], True),
        ([PUSH], [PULL], True),
        ([PULL, OTHER], [OTHER], True),
        ([PULL], [], True),
        ([PULL], [PUSH], False),
        ([PULL], [OTHER], False),
        ([PULL], [PULL, OTHER], False),
        ([], [PULL], False),
        ([PULL], [Scope("registry", "org/app", ("pull",))], False),
    ],
)
def test_a_token_serves_what_it_was_given_for_and_nothing_wider(
    cache: TokenCache, granted: list[Scope], wanted: list[Scope], found: bool
) -> None:
    cache.keep(AUDIENCE, granted, Token("abc", 300.0))

    assert cache.find(AUDIENCE, wanted) == ("abc" if found else None)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_token_is_for_its_audience_only(cache: TokenCache, stranger: TokenKey) -> None:
    cache.keep(AUDIENCE, [PULL], Token("abc", 300.0))

    assert cache.find(stranger, [PULL]) is None


def test_a_token_is_given_up_shortly_before_its_end(cache: TokenCache, clock: Clock) -> None:
    cache.keep(AUDIENCE, [PULL], Token("abc", 300.0))

    clock.now += 294.0
    assert cache.find(AUDIENCE, [PULL]) == "abc"
    clock.now += 2.0
    assert cache.find(AUDIENCE, [PULL]) is None


def test_a_refused_token_is_not_found_again(cache: TokenCache) -> None:
    cache.keep(AUDIENCE, [PULL], Token("abc", 300.0))
    cache.keep(AUDIENCE, [OTHER], Token("def", 300.0))

    cache.forget(AUDIENCE, [PULL], "abc")

    assert cache.find(AUDIENCE, [PULL]) is None
    assert cache.find(AUDIENCE, [OTHER]) == "def"


def test_a_token_that_was_refused_for_more_than_it_was_given_for_is_kept(cache: TokenCache) -> None:
    cache.keep(AUDIENCE, [PULL], Token("abc", 300.0))

    cache.forget(AUDIENCE, [PULL, OTHER], "abc")

    assert cache.find(AUDIENCE, [PULL]) == "abc"


def test_it_does_not_grow_without_end(cache: TokenCache) -> None:
    scopes = [Scope.repository(RepositoryName(f"r{number}"), ["pull"]) for number in range(4200)]

    for scope in scopes:
        cache.keep(AUDIENCE, [scope], Token("abc", 300.0))

    assert cache.find(AUDIENCE, [scopes[0]]) is None
    assert cache.find(AUDIENCE, [scopes[-1]]) == "abc"


def test_expired_tokens_make_room_first(cache: TokenCache, clock: Clock) -> None:
    scopes = [Scope.repository(RepositoryName(f"r{number}"), ["pull"]) for number in range(4097)]
    cache.keep(AUDIENCE, [scopes[0]], Token("lasting", 3000.0))
    for scope in scopes[1:-1]:
        cache.keep(AUDIENCE, [scope], Token("abc", 60.0))
    clock.now += 60.0

    cache.keep(AUDIENCE, [scopes[-1]], Token("abc", 60.0))

    assert cache.find(AUDIENCE, [scopes[0]]) == "lasting"


def test_it_is_not_pickled(cache: TokenCache) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(cache)
