"""Credentials given by the program."""

from __future__ import annotations

import pytest

from registry_adapters.keychains import MemoryKeychain, StaticKeychain
from registry_core.domain.auth import Basic
from registry_core.errors import InvalidName

USER = Basic("user", "hunter2")
OTHER = Basic("other", "hunter3")


@pytest.mark.parametrize("registry", ["registry.example.com", "REGISTRY.example.com", "registry.example.com:443"])
def test_a_registry_has_its_credential(registry: str) -> None:
    keychain = StaticKeychain({"Registry.Example.com": USER})

    assert keychain.credential(registry, None) is USER


@pytest.mark.parametrize(
    "registry",
    ["example.com", "evil-registry.example.com", "registry.example.com.evil.example", "registry.example.com:8080"],
)
def test_other_registries_have_no_credential(registry: str) -> None:
    """R-045: never suffix, prefix or substring."""
    keychain = StaticKeychain({"registry.example.com": USER})

    assert keychain.credential(registry, None) is None


@pytest.mark.parametrize(
    ("key", "requested"),
    [
        ("registry.example.com:80", "registry.example.com"),
        ("registry.example.com:80", "registry.example.com:443"),
        ("registry.example.com:443", "registry.example.com:80"),
        ("registry.example.com:5000", "registry.example.com"),
        ("[::1]:5000", "[::1]"),
        ("docker.io:5000", "docker.io"),
        ("docker.io", "index.docker.io:5000"),
    ],
)
def test_an_explicit_port_must_match(key: str, requested: str) -> None:
    """R-045: a credential for port 80 is for no other port, and vice versa."""
    keychain = StaticKeychain({key: USER})

    assert keychain.credential(requested, None) is None


@pytest.mark.parametrize(
    ("key", "requested"),
    [
        ("registry.example.com:80", "registry.example.com:80"),
        ("registry.example.com:0443", "registry.example.com"),
        ("registry.example.com", "registry.example.com:80"),
        ("[::1]", "[::1]:443"),
        ("[::1]:5000", "[::1]:5000"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_a_host_without_a_port_means_the_default_ports(key: str, requested: str) -> None:
    """R-045."""
    keychain = StaticKeychain({key: USER})

    assert keychain.credential(requested, None) is USER


@pytest.mark.parametrize("kind", [StaticKeychain, MemoryKeychain])
def test_the_exact_port_is_preferred_to_the_host_alone(kind: type[StaticKeychain | MemoryKeychain]) -> None:
    keychain = kind({"registry.example.com": USER, "registry.example.com:80": OTHER})

    assert keychain.credential("registry.example.com:80", None) is OTHER
    assert keychain.credential("registry.example.com", None) is USER


@pytest.mark.parametrize("host", ["", "https://registry.example.com", "registry.example.com/v2", "user@host", "a:b"])
@pytest.mark.parametrize("kind", [StaticKeychain, MemoryKeychain])
def test_a_malformed_key_is_refused(kind: type[StaticKeychain | MemoryKeychain], host: str) -> None:
    with pytest.raises(InvalidName):
        kind({host: USER})


@pytest.mark.parametrize("kind", [StaticKeychain, MemoryKeychain])
def test_its_repr_shows_no_credential(kind: type[StaticKeychain | MemoryKeychain]) -> None:
    """R-043."""
    assert repr(kind({"registry.example.com": USER})) == f"{kind.__name__}(registry.example.com)"
