"""The files that are read, and their order."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from registry_adapters.keychains import (
    AuthFileKeychain,
    ChainKeychain,
    DockerConfigKeychain,
    StaticKeychain,
    default_keychain,
    default_store,
)
from registry_adapters.keychains.docker_config import ConfigPath, docker_config_paths, podman_config_paths
from registry_core.domain.auth import Basic
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError
from registry_core.ports import Keychain

HOST = "registry.example.com"
HOME = Path("/home/me")
DOCKER = [ConfigPath(HOME / ".docker/config.json"), ConfigPath(HOME / ".dockercfg", legacy=True)]
RUN = Path(f"/run/containers/{os.getuid()}/auth.json")


def write(path: Path, username: str, *, key: str = HOST, legacy: bool = False) -> None:
    entries = {key: {"auth": base64.b64encode(f"{username}:x".encode()).decode()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries if legacy else {"auths": entries}))


class TestPaths:
    @pytest.mark.parametrize(
        ("variables", "paths"),
        [
            ({}, DOCKER),
            ({"DOCKER_CONFIG": ""}, DOCKER),
            ({"DOCKER_CONFIG": "/etc/d"}, [ConfigPath(Path("/etc/d/config.json")), DOCKER[1]]),
        ],
    )
    def test_docker_s_paths(self, variables: Mapping[str, str], paths: list[ConfigPath]) -> None:
        assert docker_config_paths(variables, HOME) == paths

    @pytest.mark.parametrize(
        ("variables", "paths"),
        [
            (
                {"REGISTRY_AUTH_FILE": "/a.json", "XDG_RUNTIME_DIR": "/r", "DOCKER_CONFIG": "/d"},
                [ConfigPath(Path("/a.json"))],
            ),
            (
                {"XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c", "REGISTRY_AUTH_FILE": ""},
                [ConfigPath(Path("/r/containers/auth.json")), ConfigPath(Path("/c/containers/auth.json")), *DOCKER],
            ),
            ({}, [ConfigPath(RUN), ConfigPath(HOME / ".config/containers/auth.json"), *DOCKER]),
            (
                {"XDG_RUNTIME_DIR": "r", "XDG_CONFIG_HOME": "../c"},
                [ConfigPath(RUN), ConfigPath(HOME / ".config/containers/auth.json"), *DOCKER],
            ),
        ],
    )
    @pytest.mark.usefixtures("linux")
    def test_podman_s_paths(self, variables: Mapping[str, str], paths: list[ConfigPath]) -> None:
        """containers-auth.json(5)."""
        assert podman_config_paths(variables, HOME) == paths

    def test_other_systems_than_linux_have_no_runtime_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """containers-auth.json(5)."""
        monkeypatch.setattr(sys, "platform", "darwin")

        assert podman_config_paths({}, HOME)[0] == ConfigPath(HOME / ".config/containers/auth.json")

    def test_home_is_taken_from_the_given_environment(self) -> None:
        assert docker_config_paths({"HOME": "/home/me"}, None) == DOCKER

    def test_a_user_without_a_passwd_entry_has_no_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)

        assert docker_config_paths({}, None) == []
        assert podman_config_paths({"XDG_CONFIG_HOME": "/c"}, None)[-1] == ConfigPath(Path("/c/containers/auth.json"))

    @pytest.fixture
    def linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")


class TestOrder:
    def test_podman_s_files_come_before_docker_s(self, tmp_path: Path) -> None:
        """containers-auth.json(5): the first file with the registry is used."""
        variables = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        paths = [
            tmp_path / "run/containers/auth.json",
            tmp_path / "config/containers/auth.json",
            tmp_path / "home/.docker/config.json",
            tmp_path / "home/.dockercfg",
        ]
        for number, path in enumerate(paths):
            write(path, f"user-{number}", legacy=number == 3)
        keychain = AuthFileKeychain(environment=variables, home=tmp_path / "home")

        seen = []
        for path in [*paths, tmp_path]:
            seen.append(keychain.credential(HOST, None))
            if path.is_file():
                path.unlink()

        assert seen == [*(Basic(f"user-{number}", "x") for number in range(4)), None]

    def test_a_namespace_in_an_earlier_file_does_not_hide_the_host_in_a_later_one(self, tmp_path: Path) -> None:
        variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
        write(tmp_path / "containers/auth.json", "org", key=f"{HOST}/org")
        write(tmp_path / ".docker/config.json", "all")
        keychain = AuthFileKeychain(environment=variables, home=tmp_path)

        assert keychain.credential(HOST, RepositoryName("org/app")) == Basic("org", "x")
        assert keychain.credential(HOST, RepositoryName("other/app")) == Basic("all", "x")

    def test_the_file_of_the_environment_is_used_alone(self, tmp_path: Path) -> None:
        write(tmp_path / ".docker/config.json", "docker")
        variables = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}

        assert default_keychain(variables, tmp_path).credential(HOST, None) is None

    def test_docker_s_directory_can_be_set(self, tmp_path: Path) -> None:
        write(tmp_path / "mine/config.json", "mine")
        write(tmp_path / ".docker/config.json", "other")

        keychain = DockerConfigKeychain(environment={"DOCKER_CONFIG": str(tmp_path / "mine")}, home=tmp_path)

        assert keychain.credential(HOST, None) == Basic("mine", "x")

    def test_only_the_first_file_is_written(self, tmp_path: Path) -> None:
        write(tmp_path / ".docker/config.json", "docker")
        keychain = AuthFileKeychain(environment={"XDG_RUNTIME_DIR": str(tmp_path)}, home=tmp_path)

        keychain.store(HOST, Basic("podman", "x"))
        stored = keychain.credential(HOST, None)
        keychain.erase(HOST)

        assert stored == Basic("podman", "x")
        assert keychain.credential(HOST, None) == Basic("docker", "x")


class TestDefault:
    def test_variables_come_first(self, tmp_path: Path) -> None:
        write(tmp_path / ".docker/config.json", "docker")
        variables = {"OCIPORT_REGISTRY": HOST, "OCIPORT_USERNAME": "me", "OCIPORT_PASSWORD": "x"}

        assert default_keychain(variables, tmp_path).credential(HOST, None) == Basic("me", "x")
        assert default_keychain({}, tmp_path).credential(HOST, None) == Basic("docker", "x")

    @pytest.mark.parametrize("existing", ["", ".docker/config.json", "run/containers/auth.json", ".dockercfg"])
    def test_a_stored_credential_is_found(self, tmp_path: Path, existing: str) -> None:
        variables = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
        if existing:
            write(tmp_path / existing, "old", legacy=existing == ".dockercfg")

        default_store(variables, tmp_path).store(HOST, Basic("new", "x"))

        assert default_keychain(variables, tmp_path).credential(HOST, None) == Basic("new", "x")
        written = existing if existing.endswith(".json") else ".docker/config.json"
        assert "bmV3" in (tmp_path / written).read_text()

    def test_the_file_in_the_environment_is_created(self, tmp_path: Path) -> None:
        variables = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}

        default_store(variables, tmp_path).store(HOST, Basic("new", "x"))

        assert (tmp_path / "auth.json").exists()


class TestChain:
    def test_the_first_credential_found_is_used(self) -> None:
        first, second = StaticKeychain({HOST: Basic("a", "x")}), StaticKeychain({HOST: Basic("b", "x")})

        assert ChainKeychain(StaticKeychain({}), first, second).credential(HOST, None) == Basic("a", "x")
        assert ChainKeychain().credential(HOST, None) is None

    def test_a_keychain_that_fails_is_not_skipped(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[")
        broken: Keychain = DockerConfigKeychain(tmp_path / "config.json")

        with pytest.raises(ConfigError):
            ChainKeychain(broken, StaticKeychain({HOST: Basic("b", "x")})).credential(HOST, None)
