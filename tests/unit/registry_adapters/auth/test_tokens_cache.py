"""The token cache (R-037)."""

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
KEY = TokenKey(Origin.of("registry.example.com"), "https://auth.example.com", "registry", Anonymous())
OTHER_KEYS = [
    TokenKey(Origin.of("evil.example"), KEY.realm, KEY.service, KEY.credential),
    TokenKey(Origin.of("registry.example.com", scheme="http"), KEY.realm, KEY.service, KEY.credential),
    TokenKey(KEY.registry, "https://other.example.com", KEY.service, KEY.credential),
    TokenKey(KEY.registry, KEY.realm, "other", KEY.credential),
    TokenKey(KEY.registry, KEY.realm, KEY.service, Basic("user", "word")),
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
    ("granted", "needed", "found"),
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
def test_a_token_covers_the_scopes_it_was_issued_for_and_no_wider_ones(
    cache: TokenCache, granted: list[Scope], needed: list[Scope], found: bool
) -> None:
    cache.put(KEY, granted, Token("abc", 300.0))

    assert cache.get(KEY, needed) == ("abc" if found else None)


@pytest.mark.parametrize("other", OTHER_KEYS)
def test_a_token_is_found_under_its_own_key_only(cache: TokenCache, other: TokenKey) -> None:
    cache.put(KEY, [PULL], Token("abc", 300.0))

    assert cache.get(other, [PULL]) is None


def test_a_token_is_dropped_shortly_before_it_expires(cache: TokenCache, clock: Clock) -> None:
    cache.put(KEY, [PULL], Token("abc", 300.0))

    clock.now += 294.0
    assert cache.get(KEY, [PULL]) == "abc"
    clock.now += 2.0
    assert cache.get(KEY, [PULL]) is None


def test_a_refused_token_is_not_found_again(cache: TokenCache) -> None:
    cache.put(KEY, [PULL], Token("abc", 300.0))
    cache.put(KEY, [OTHER], Token("def", 300.0))

    cache.discard(KEY, [PULL], "abc")

    assert cache.get(KEY, [PULL]) is None
    assert cache.get(KEY, [OTHER]) == "def"


def test_a_token_refused_for_more_scopes_than_it_was_issued_for_is_kept(cache: TokenCache) -> None:
    cache.put(KEY, [PULL], Token("abc", 300.0))

    cache.discard(KEY, [PULL, OTHER], "abc")

    assert cache.get(KEY, [PULL]) == "abc"


def test_the_number_of_tokens_is_limited(cache: TokenCache) -> None:
    scopes = [Scope.repository(RepositoryName(f"r{number}"), ["pull"]) for number in range(4200)]

    for scope in scopes:
        cache.put(KEY, [scope], Token("abc", 300.0))

    assert cache.get(KEY, [scopes[0]]) is None
    assert cache.get(KEY, [scopes[-1]]) == "abc"


def test_expired_tokens_are_removed_first(cache: TokenCache, clock: Clock) -> None:
    scopes = [Scope.repository(RepositoryName(f"r{number}"), ["pull"]) for number in range(4097)]
    cache.put(KEY, [scopes[0]], Token("lasting", 3000.0))
    for scope in scopes[1:-1]:
        cache.put(KEY, [scope], Token("abc", 60.0))
    clock.now += 60.0

    cache.put(KEY, [scopes[-1]], Token("abc", 60.0))

    assert cache.get(KEY, [scopes[0]]) == "lasting"


def test_a_token_cache_cannot_be_pickled(cache: TokenCache) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(cache)
