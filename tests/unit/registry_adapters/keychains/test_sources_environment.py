"""Credentials from variables."""

from __future__ import annotations

import pytest

from registry_adapters.keychains import EnvironmentKeychain
from registry_core.domain.auth import Basic, Credential, IdentityToken, RegistryToken
from registry_core.errors import ConfigError

HOST = "registry.example.com"


@pytest.mark.parametrize(
    ("variables", "credential"),
    [
        ({"USERNAME": "user", "PASSWORD": "pass"}, Basic("user", "pass")),
        ({"IDENTITY_TOKEN": "refresh"}, IdentityToken("refresh")),
        ({"TOKEN": "bearer"}, RegistryToken("bearer")),
        ({"TOKEN": "bearer", "USERNAME": "", "PASSWORD": ""}, RegistryToken("bearer")),
        ({}, None),
        ({"USERNAME": "", "PASSWORD": ""}, None),
    ],
)
def test_each_kind_has_its_variables(variables: dict[str, str], credential: Credential | None) -> None:
    keychain = EnvironmentKeychain({"OCIPORT_REGISTRY": HOST, **{f"OCIPORT_{k}": v for k, v in variables.items()}})

    assert keychain.credential(HOST, None) == credential


@pytest.mark.parametrize(
    "variables",
    [
        {"USERNAME": "user", "PASSWORD": "hunter2"},
        {"REGISTRY": "", "TOKEN": "hunter2"},
        {"REGISTRY": "https://registry.example.com", "TOKEN": "hunter2"},
        {"REGISTRY": HOST, "USERNAME": "user"},
        {"REGISTRY": HOST, "PASSWORD": "hunter2"},
        {"REGISTRY": HOST, "USERNAME": "user", "PASSWORD": "hunter2", "TOKEN": "hunter2"},
        {"REGISTRY": HOST, "IDENTITY_TOKEN": "hunter2", "TOKEN": "hunter2"},
    ],
)
def test_contradictory_variables_are_an_error(variables: dict[str, str]) -> None:
    """R-043, R-045: a password without a registry is never sent."""
    keychain = EnvironmentKeychain({f"OCIPORT_{name}": value for name, value in variables.items()})

    with pytest.raises(ConfigError, match="OCIPORT_") as caught:
        keychain.credential(HOST, None)

    assert "hunter2" not in str(caught.value)


def test_a_change_is_used_at_once() -> None:
    variables = {"OCIPORT_REGISTRY": HOST, "OCIPORT_TOKEN": "old"}
    keychain = EnvironmentKeychain(variables)
    keychain.credential(HOST, None)

    variables["OCIPORT_TOKEN"] = "new"

    assert keychain.credential(HOST, None) == RegistryToken("new")


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_REGISTRY", HOST)
    monkeypatch.setenv("MINE_TOKEN", "bearer")

    assert EnvironmentKeychain(prefix="MINE").credential(HOST, None) == RegistryToken("bearer")
