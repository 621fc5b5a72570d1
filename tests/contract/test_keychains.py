"""All keychains fulfil the contract."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from registry_adapters.keychains import (
    AuthFileKeychain,
    ChainKeychain,
    DockerConfigKeychain,
    EnvironmentKeychain,
    HelperKeychain,
    MemoryKeychain,
    StaticKeychain,
    TextKeychain,
)
from registry_core.ports import CredentialStore, Keychain
from registry_core.testing.keychains import CREDENTIAL, REGISTRY, KeychainContract, StoreContract

HELPER = """#!{python} -IS
import fcntl, json, os, sys
path = os.environ["STORE"]
with open(path + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    secrets = json.load(open(path)) if os.path.exists(path) else {{}}
    text = sys.stdin.buffer.read().decode()
    if sys.argv[1] == "store":
        entry = json.loads(text)
        secrets[entry["ServerURL"]] = [entry["Username"], entry["Secret"]]
    elif text not in secrets:
        print("credentials not found in native keychain")
        sys.exit(1)
    elif sys.argv[1] == "get":
        print(json.dumps({{"ServerURL": text, "Username": secrets[text][0], "Secret": secrets[text][1]}}))
    else:
        del secrets[text]
    with open(path + ".new", "w") as file:
        json.dump(secrets, file)
    os.replace(path + ".new", path)
"""


def entries() -> dict[str, object]:
    joined = f"{CREDENTIAL.username}:{CREDENTIAL.password}".encode()
    return {"auths": {REGISTRY: {"auth": base64.b64encode(joined).decode()}}}


def installed(directory: Path) -> dict[str, str]:
    """Install a credential helper ``tests`` that stores credentials in a file; return its environment variables."""
    program = directory / "bin" / "docker-credential-tests"
    program.parent.mkdir()
    program.write_text(HELPER.format(python=sys.executable))
    program.chmod(0o700)
    (directory / "kept.json").write_text(json.dumps({REGISTRY: [CREDENTIAL.username, CREDENTIAL.password]}))
    return {"PATH": str(program.parent), "STORE": str(directory / "kept.json"), "HOME": str(directory)}


class TestStatic(KeychainContract):
    @pytest.fixture
    def keychain(self) -> Keychain:
        return StaticKeychain({REGISTRY: CREDENTIAL})


class TestMemory(StoreContract):
    @pytest.fixture
    def keychain(self) -> CredentialStore:
        return MemoryKeychain({REGISTRY: CREDENTIAL})


class TestEnvironment(KeychainContract):
    @pytest.fixture
    def keychain(self) -> Keychain:
        return EnvironmentKeychain(
            {
                "OCIPORT_REGISTRY": REGISTRY,
                "OCIPORT_USERNAME": CREDENTIAL.username,
                "OCIPORT_PASSWORD": CREDENTIAL.password,
            }
        )


class TestText(KeychainContract):
    @pytest.fixture
    def keychain(self) -> Keychain:
        return TextKeychain(json.dumps(entries()))


class TestChain(KeychainContract):
    @pytest.fixture
    def keychain(self) -> Keychain:
        return ChainKeychain(StaticKeychain({}), EnvironmentKeychain({}), StaticKeychain({REGISTRY: CREDENTIAL}))


class TestDockerConfig(StoreContract):
    @pytest.fixture
    def keychain(self, tmp_path: Path) -> CredentialStore:
        (tmp_path / "config.json").write_text(json.dumps(entries()))
        return DockerConfigKeychain(environment={"DOCKER_CONFIG": str(tmp_path)}, home=tmp_path / "home")


class TestAuthFile(StoreContract):
    @pytest.fixture
    def keychain(self, tmp_path: Path) -> CredentialStore:
        (tmp_path / "containers").mkdir()
        (tmp_path / "containers" / "auth.json").write_text(json.dumps(entries()))
        return AuthFileKeychain(environment={"XDG_RUNTIME_DIR": str(tmp_path)}, home=tmp_path / "home")


class TestHelper(StoreContract):
    @pytest.fixture
    def keychain(self, tmp_path: Path) -> CredentialStore:
        return HelperKeychain("tests", environment=installed(tmp_path))


class TestDockerConfigWithHelper(StoreContract):
    @pytest.fixture
    def keychain(self, tmp_path: Path) -> CredentialStore:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {REGISTRY: {}}, "credsStore": "tests"}))
        return DockerConfigKeychain(tmp_path / "config.json", environment=installed(tmp_path))
