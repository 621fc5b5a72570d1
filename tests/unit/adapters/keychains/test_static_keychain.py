"""Credentials that the program brings along."""

from __future__ import annotations

import pytest

from registry_adapters.keychains import StaticKeychain
from registry_core.domain.access import Basic
from registry_core.errors import InvalidName

USER = Basic("user", "hunter2")


@pytest.mark.parametrize("registry", ["registry.example.com", "REGISTRY.example.com", "registry.example.com:443"])
def test_a_registry_has_the_credential_given_for_it(registry: str) -> None:
    keychain = StaticKeychain({"Registry.Example.com": USER})

    assert keychain.credential(registry, None) is USER


@pytest.mark.parametrize(
    "registry",
    ["example.com", "evil-registry.example.com", "registry.example.com.evil.example", "registry.example.com:80"],
)
def test_no_other_registry_has_it(registry: str) -> None:
    """R-045: never suffix, prefix or substring."""
    keychain = StaticKeychain({"registry.example.com": USER})

    assert keychain.credential(registry, None) is None


@pytest.mark.parametrize("host", ["", "https://registry.example.com", "registry.example.com/v2", "user@host", "a:b"])
def test_a_key_that_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidName):
        StaticKeychain({host: USER})


def test_its_repr_shows_no_credential() -> None:
    assert repr(StaticKeychain({"registry.example.com": USER})) == "StaticKeychain(registry.example.com)"
