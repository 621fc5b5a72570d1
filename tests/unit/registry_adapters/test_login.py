"""Logging in and out."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.auth import ChallengeAuthenticator, authenticator_for
from registry_adapters.keychains import DockerConfigKeychain, MemoryKeychain, StaticKeychain, default_keychain
from registry_adapters.login import login, logout
from registry_adapters.wsgi import Authorizer, BasicAuthorizer, RegistryServer, TokenAuthorizer, registry_server
from registry_core.domain.auth import Anonymous, Basic, Challenge
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError, TransportError, Unauthorized
from registry_core.ops.builder.builder import ImageBuilder

USER = Basic("user", "hunter2")


@pytest.fixture(params=[BasicAuthorizer, TokenAuthorizer])
def server(request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    authorizer: Authorizer = request.param({"user": "hunter2"})
    with registry_server(MemoryCatalog(), authorizer=authorizer) as running:
        yield running


def host(server: RegistryServer) -> str:
    return server.url.partition("://")[2].strip("/")


class TestLogin:
    def test_an_accepted_credential_is_stored(self, server: RegistryServer) -> None:
        keychain = MemoryKeychain()

        login(server.url, USER, keychain=keychain)

        assert keychain.credential(host(server), None) == USER

    def test_settings_reach_the_backend(self, server: RegistryServer) -> None:
        keychain = MemoryKeychain()

        login(host(server), USER, keychain=keychain, plain_http=True)

        assert keychain.credential(host(server), None) == USER

    def test_a_rejected_credential_is_not_stored(self, server: RegistryServer) -> None:
        keychain = MemoryKeychain({host(server): USER})

        with pytest.raises(Unauthorized) as caught:
            login(server.url, Basic("user", "wr0ng"), keychain=keychain)

        assert keychain.credential(host(server), None) == USER
        assert "wr0ng" not in str(caught.value)

    def test_an_unreachable_registry_changes_nothing(self) -> None:
        keychain = MemoryKeychain()
        with registry_server(MemoryCatalog()) as server:
            address = server.url

        with pytest.raises(TransportError):
            login(address, USER, keychain=keychain, retries=0)

        assert repr(keychain) == "MemoryKeychain()"

    def test_a_client_uses_the_stored_credential(self, server: RegistryServer, tmp_path: Path) -> None:
        keychain = DockerConfigKeychain(tmp_path / "config.json")
        login(server.url, USER, keychain=keychain)

        with open_client(f"{server.url}/app", auth=DockerConfigKeychain(tmp_path / "config.json")) as client:
            client.push_image("v1", ImageBuilder(platform="linux/amd64").build())

            assert list(client.list_tags()) == ["v1"]

    @pytest.mark.parametrize(
        "registry", ["", "oci:x", "ftp://host", "https://host/path", "https://user:pw@host", "a b"]
    )
    def test_malformed_registries_are_rejected(self, registry: str) -> None:
        with pytest.raises(ConfigError):
            login(registry, USER, keychain=MemoryKeychain())
        with pytest.raises(ConfigError):
            logout(registry, keychain=MemoryKeychain())

    def test_a_keychain_that_stores_nothing_is_a_config_error(self, server: RegistryServer) -> None:
        with pytest.raises(ConfigError, match="StaticKeychain does not store credentials"):
            login(server.url, Basic("user", "word"), keychain=cast("Any", StaticKeychain({})))

    def test_a_login_without_credentials_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match=r"login to registry\.example\.com: no credentials given"):
            login("registry.example.com", Anonymous(), keychain=MemoryKeychain())


class TestDefaultStore:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "OCIPORT_REGISTRY", "OCIPORT_USERNAME", "OCIPORT_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        return tmp_path

    def test_the_file_of_the_user_is_written(self, server: RegistryServer, home: Path) -> None:
        login(server.url, USER)

        kept = json.loads((home / ".docker" / "config.json").read_text())["auths"]
        assert list(kept) == [host(server)]
        assert default_keychain().credential(host(server), None) == USER

    def test_logout_removes_the_credential(self, server: RegistryServer, home: Path) -> None:
        login(server.url, USER)

        logout(server.url)

        assert default_keychain().credential(host(server), None) is None


class TestLogout:
    def test_only_the_credential_of_the_registry_is_erased(self) -> None:
        keychain = MemoryKeychain({"registry.example.com": USER, "other.example.com": USER})

        logout("https://registry.example.com", keychain=keychain)

        assert keychain.credential("registry.example.com", None) is None
        assert keychain.credential("other.example.com", None) == USER

    def test_it_needs_no_request_and_no_credential(self) -> None:
        logout("unknown.example.com", keychain=MemoryKeychain())

    @pytest.mark.parametrize("name", ["docker.io", "https://index.docker.io", "registry-1.docker.io"])
    def test_docker_hub_is_erased_under_any_name(self, name: str, tmp_path: Path) -> None:
        """R-045."""
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"identitytoken": "x"}}}))

        logout(name, keychain=DockerConfigKeychain(path))

        assert json.loads(path.read_text()) == {"auths": {}}


class TestPorts:
    @pytest.mark.parametrize(
        ("url", "username"),
        [("http://registry.example.com", "plain"), ("https://registry.example.com", "tls")],
    )
    def test_the_credential_of_port_80_is_for_plain_http(self, url: str, username: str) -> None:
        """R-045: a credential for port 80 is sent there and nowhere else."""
        keychain = StaticKeychain(
            {"registry.example.com:80": Basic("plain", "x"), "registry.example.com:443": Basic("tls", "x")}
        )
        asking = ChallengeAuthenticator(keychain).handle_challenge(
            Origin.of_url(url), [Challenge("basic", {"realm": "x"})], ()
        )

        with pytest.raises(StopIteration) as answered:
            next(asking)

        assert answered.value.value == "Basic " + b64encode(f"{username}:x".encode()).decode()

    def test_a_single_credential_is_used_for_port_80_too(self) -> None:
        origin = Origin.of_url("http://registry.example.com")
        asking = authenticator_for(USER, registry=origin).handle_challenge(
            origin, [Challenge("basic", {"realm": "x"})], ()
        )

        with pytest.raises(StopIteration) as answered:
            next(asking)

        assert answered.value.value is not None
