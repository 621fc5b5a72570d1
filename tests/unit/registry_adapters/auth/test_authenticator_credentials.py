"""Whether there is a credential, for a request that was refused without one."""

from __future__ import annotations

import pytest

from registry_adapters.auth import ChallengeAuthenticator, StaticTokenAuthenticator, authenticator_for
from registry_adapters.keychains import StaticKeychain
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, RegistryToken, Scope
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.ports import HoldsCredentials
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.keychain import Keychain

REGISTRY = Origin.of("registry.example.com")
OTHER = Origin.of("other.example.com")
USER = Basic("user", "hunter2")
PULL = Scope.repository(RepositoryName("org/app"), ["pull"])


class Later(Keychain):
    """A keychain that gets a credential for one repository later; counts the questions."""

    def __init__(self) -> None:
        self.credentials: dict[str | None, Credential] = {}
        self.asked = 0

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        self.asked += 1
        return self.credentials.get(repository)


def has_credential(authenticator: Authenticator, registry: Origin = REGISTRY, *scopes: Scope) -> bool:
    assert isinstance(authenticator, HoldsCredentials)
    return authenticator.has_credential(registry, scopes)


@pytest.mark.parametrize("auth", [USER, IdentityToken("secret"), RegistryToken("secret")])
def test_a_credential_counts_for_its_registry_alone(auth: Credential) -> None:
    """R-048."""
    authenticator = authenticator_for(auth, registry=REGISTRY)

    assert has_credential(authenticator)
    assert not has_credential(authenticator, OTHER)
    assert not has_credential(authenticator, Origin.of("registry.example.com", scheme="http"))


@pytest.mark.parametrize("auth", [None, Anonymous(), StaticKeychain({}), StaticKeychain({"other.example.com": USER})])
def test_without_a_credential_there_is_none(auth: Credential | Keychain | None) -> None:
    """R-048."""
    assert not has_credential(authenticator_for(auth, registry=REGISTRY))


def test_a_token_for_every_registry_counts_for_each() -> None:
    """R-048."""
    assert has_credential(StaticTokenAuthenticator(RegistryToken("secret")), OTHER)


def test_that_there_is_none_is_remembered_for_a_minute_and_a_repository() -> None:
    """R-048: the keychain may run a program; a login meanwhile counts in the end."""
    now = [1000.0]
    keychain = Later()
    authenticator = ChallengeAuthenticator(keychain, clock=lambda: now[0])

    before = [has_credential(authenticator, REGISTRY, PULL) for _ in range(3)]
    keychain.credentials = {"org/app": USER, None: USER}
    at_once = has_credential(authenticator, REGISTRY, PULL), has_credential(authenticator)
    now[0] += 61
    later = has_credential(authenticator, REGISTRY, PULL)

    assert (before, at_once, later) == ([False] * 3, (False, True), True)
    assert keychain.asked == 3
