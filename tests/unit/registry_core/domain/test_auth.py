from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from registry_core.domain.auth import Anonymous, Basic, IdentityToken, RegistryToken, Scope, TokenReply, TokenRequest
from registry_core.domain.names import RepositoryName

SECRET = "hunter2"
CREDENTIALS = [Basic("user", SECRET), IdentityToken(SECRET), RegistryToken(SECRET)]
EXCHANGES = [
    TokenRequest(method="POST", url=f"https://a.example/t?x={SECRET}", headers={"A": SECRET}, body=SECRET.encode()),
    TokenReply(status=200, content=SECRET.encode()),
]


@pytest.mark.parametrize("holder", [*CREDENTIALS, *EXCHANGES], ids=lambda holder: type(holder).__name__)
def test_secrets_are_not_shown(holder: msgspec.Struct) -> None:
    """R-043."""
    shown = f"{holder!r} {holder} {[holder]} {list(holder.__rich_repr__())}"

    assert SECRET not in shown


@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda credential: type(credential).__name__)
def test_secrets_are_not_pickled(credential: object) -> None:
    """R-043."""
    with pytest.raises(TypeError) as caught:
        pickle.dumps(credential)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("credential", [*CREDENTIALS, Anonymous()], ids=lambda credential: type(credential).__name__)
def test_credentials_are_copied_with_the_settings_that_hold_them(credential: object) -> None:
    assert copy.deepcopy({"auth": credential}) == {"auth": credential}
    assert copy.copy(credential) == credential


def test_a_scope_sorts_its_actions() -> None:
    scope = Scope.repository(RepositoryName("org/app"), ["push", "pull", "push"])

    assert str(scope) == "repository:org/app:pull,push"
    assert str(Scope.catalog()) == "registry:catalog:*"
