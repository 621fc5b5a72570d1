"""A credential file that the library and skopeo share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.keychains import AuthFileKeychain
from registry_adapters.login import login, logout
from registry_adapters.wsgi import BasicAuthorizer, RegistryServer, registry_server
from registry_core import Basic, ImageBuilder, RepositoryName

USER = Basic("me", "pa$$:word")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with registry_server(MemoryCatalog(), authorizer=BasicAuthorizer({"me": USER.password})) as running:
        yield running


def run(skopeo: str, *arguments: str, authfile: Path, content: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [skopeo, arguments[0], "--authfile", str(authfile), *arguments[1:]],
        input=content,
        capture_output=True,
        text=True,
        timeout=60,
    )


def host(server: RegistryServer) -> str:
    return server.url.removeprefix("http://").strip("/")


def test_the_library_reads_credentials_of_skopeo(skopeo: str, server: RegistryServer, tmp_path: Path) -> None:
    authfile = tmp_path / "auth.json"
    done = run(
        skopeo,
        "login",
        "--tls-verify=false",
        "-u",
        "me",
        "--password-stdin",
        host(server),
        authfile=authfile,
        content=USER.password,
    )

    found = AuthFileKeychain(environment={"REGISTRY_AUTH_FILE": str(authfile)}).credential(
        host(server), RepositoryName("org/app")
    )

    assert done.returncode == 0, done.stderr
    assert found == USER


def test_skopeo_reads_credentials_of_the_library(skopeo: str, server: RegistryServer, tmp_path: Path) -> None:
    authfile = tmp_path / "auth.json"
    login(server.url, USER, keychain=AuthFileKeychain(authfile))
    with open_client(f"{server.url}/app", auth=AuthFileKeychain(authfile)) as client:
        client.push_image("v1", ImageBuilder(platform="linux/amd64").build())

    listed = run(skopeo, "list-tags", "--tls-verify=false", f"docker://{host(server)}/app", authfile=authfile)

    assert listed.returncode == 0, listed.stderr
    assert '"v1"' in listed.stdout


@pytest.mark.parametrize("ours", [True, False])
def test_each_removes_credentials_of_the_other(skopeo: str, server: RegistryServer, tmp_path: Path, ours: bool) -> None:
    authfile = tmp_path / "auth.json"
    login(server.url, USER, keychain=AuthFileKeychain(authfile))

    if ours:
        logout(server.url, keychain=AuthFileKeychain(authfile))
    else:
        run(skopeo, "logout", host(server), authfile=authfile)

    assert AuthFileKeychain(authfile).credential(host(server), None) is None
    shown = run(skopeo, "login", "--get-login", host(server), authfile=authfile)
    assert shown.returncode != 0


def test_skopeo_finds_credentials_of_docker_hub(skopeo: str, tmp_path: Path) -> None:
    """R-045: under the legacy key of Docker Hub."""
    AuthFileKeychain(tmp_path / "auth.json").store("docker.io", USER)

    shown = run(skopeo, "login", "--get-login", "docker.io", authfile=tmp_path / "auth.json")

    assert shown.stdout.strip() == "me", shown.stderr


def test_credentials_of_a_namespace_are_shared(skopeo: str, server: RegistryServer, tmp_path: Path) -> None:
    """containers-auth.json(5)."""
    authfile = tmp_path / "auth.json"
    done = run(
        skopeo, "login", "--tls-verify=false", "-u", "me", "--password-stdin", f"{host(server)}/org", authfile=authfile,
        content=USER.password,
    )  # fmt: skip
    keychain = AuthFileKeychain(authfile)

    assert done.returncode == 0, done.stderr
    assert keychain.credential(host(server), RepositoryName("org/app")) == USER
    assert keychain.credential(host(server), RepositoryName("organisation/app")) is None
