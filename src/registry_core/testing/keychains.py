"""Contract tests for keychains, to inherit.

::

    from registry_core.testing.keychains import CREDENTIAL, REGISTRY, KeychainContract

    class TestMyKeychain(KeychainContract):
        @pytest.fixture
        def keychain(self) -> Keychain:
            return MyKeychain({REGISTRY: CREDENTIAL})

A keychain that can be written inherits ``StoreContract`` instead.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidName
from registry_core.ports.keychain import CredentialStore, Keychain

__all__ = ["CREDENTIAL", "REGISTRY", "KeychainContract", "StoreContract"]

REGISTRY: Final = "registry.example.com"
CREDENTIAL: Final = Basic("robot$ci", "pä55:word with:colons")

_SECRETS: Final = ("pä55", "0th3r", "r3fr3sh")
_OTHER_REGISTRIES: Final = (
    "example.com",
    "evil-registry.example.com",
    "sub.registry.example.com",
    "registry.example.com.evil.example",
    "registry.example.co",
    "registry.example.com:5000",
    "registry.example.com:8443",
    "localhost",
    "127.0.0.1",
    "[::1]:5000",
)
_MALFORMED: Final = (
    "",
    "-registry.example.com",
    "https://registry.example.com",
    "registry.example.com/org",
    "user@registry.example.com",
    "registry.example.com\n",
    "registry.example.com\nevil.example",
    "registry.example.com\r\nhost=evil.example",
    "registry.example.com\0",
    "registry example.com",
    "registry.example.com:port",
    "registry.example.com:99999",
)


class KeychainContract:
    """Reading credentials. A test class overrides ``keychain``."""

    @pytest.fixture
    def keychain(self) -> Keychain:
        """A keychain that has only ``CREDENTIAL`` for ``REGISTRY``.

        Raises:
            NotImplementedError: The test class does not override the fixture.
        """
        raise NotImplementedError("the test class of a keychain must override this fixture")

    def test_it_is_a_keychain(self, keychain: Keychain) -> None:
        """It implements the protocol."""
        assert isinstance(keychain, Keychain)

    @pytest.mark.parametrize("repository", [None, "app", "org/team/app"])
    def test_the_registry_has_its_credential_for_all_repositories(
        self, keychain: Keychain, repository: str | None
    ) -> None:
        """And for requests without a repository."""
        name = None if repository is None else RepositoryName(repository)

        assert keychain.credential(REGISTRY, name) == CREDENTIAL

    @pytest.mark.parametrize("spelling", ["REGISTRY.Example.com", "registry.example.com:443"])
    def test_another_spelling_is_the_same_registry(self, keychain: Keychain, spelling: str) -> None:
        """Letter case and the port of https make no difference."""
        assert keychain.credential(spelling, None) == CREDENTIAL

    def test_a_host_without_a_port_also_matches_port_80(self, keychain: Keychain) -> None:
        """A name without a port means the default port of https and of http."""
        assert keychain.credential("registry.example.com:80", None) == CREDENTIAL

    @pytest.mark.parametrize("registry", _OTHER_REGISTRIES)
    def test_no_other_registry_has_it(self, keychain: Keychain, registry: str) -> None:
        """Never by a suffix, a prefix, a substring or another port (R-045)."""
        assert keychain.credential(registry, RepositoryName("org/app")) is None

    @pytest.mark.parametrize("registry", _MALFORMED)
    def test_malformed_registries_are_refused(self, keychain: Keychain, registry: str) -> None:
        """Only ``host[:port]`` is looked up (R-011, R-044)."""
        with pytest.raises(InvalidName):
            keychain.credential(registry, None)

    def test_neither_repr_nor_pickle_shows_a_secret(self, keychain: Keychain) -> None:
        """R-043."""
        keychain.credential(REGISTRY, None)

        try:
            pickled = pickle.dumps(keychain)
        except TypeError as error:
            pickled = str(error).encode()

        assert not any(secret in text for secret in _SECRETS for text in (repr(keychain), str(keychain)))
        assert not any(secret.encode() in pickled for secret in _SECRETS)

    def test_many_threads_get_the_same(self, keychain: Keychain) -> None:
        """All threads of a client share its keychain."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: keychain.credential(REGISTRY, None), range(64)))

        assert found == [CREDENTIAL] * 64


class StoreContract(KeychainContract):
    """Reading and writing credentials. A test class overrides ``keychain`` with a ``CredentialStore``."""

    @pytest.fixture
    def keychain(self) -> CredentialStore:
        """A store that has only ``CREDENTIAL`` for ``REGISTRY``.

        Raises:
            NotImplementedError: The test class does not override the fixture.
        """
        raise NotImplementedError("the test class of a store must override this fixture")

    def test_it_is_a_store(self, keychain: CredentialStore) -> None:
        """It implements the protocol."""
        assert isinstance(keychain, CredentialStore)

    @pytest.mark.parametrize(
        "credential", [Basic("other", "0th3r"), IdentityToken("r3fr3sh")], ids=lambda one: type(one).__name__
    )
    def test_a_stored_credential_is_found(self, keychain: CredentialStore, credential: Credential) -> None:
        """For the same registry, and for every repository."""
        keychain.store("other.example.com:5000", credential)

        assert keychain.credential("other.example.com:5000", RepositoryName("org/app")) == credential
        assert keychain.credential("other.example.com", None) is None
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    @pytest.mark.parametrize("spelling", ["registry.example.com", "Registry.Example.COM", "registry.example.com:443"])
    def test_a_new_credential_replaces_the_old_one(self, keychain: CredentialStore, spelling: str) -> None:
        """For all spellings of the registry."""
        keychain.store(spelling, Basic("other", "0th3r"))

        assert keychain.credential(spelling, None) == Basic("other", "0th3r")

    def test_port_80_has_its_own_credential(self, keychain: CredentialStore) -> None:
        """Beside the one of the host without a port."""
        keychain.store("registry.example.com:80", Basic("other", "0th3r"))

        assert keychain.credential("registry.example.com:80", None) == Basic("other", "0th3r")
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_erasing_port_80_keeps_the_credential_without_a_port(self, keychain: CredentialStore) -> None:
        """They are two entries."""
        keychain.store("registry.example.com:80", Basic("other", "0th3r"))

        keychain.erase("registry.example.com:80")

        assert keychain.credential("registry.example.com:80", None) == CREDENTIAL
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_an_erased_credential_is_gone(self, keychain: CredentialStore) -> None:
        """Others stay."""
        keychain.store("other.example.com", Basic("other", "0th3r"))

        keychain.erase(REGISTRY)

        assert keychain.credential(REGISTRY, RepositoryName("org/app")) is None
        assert keychain.credential("other.example.com", None) == Basic("other", "0th3r")

    def test_erasing_twice_is_not_an_error(self, keychain: CredentialStore) -> None:
        """Nor is erasing an unknown registry."""
        keychain.erase(REGISTRY)
        keychain.erase(REGISTRY)
        keychain.erase("unknown.example.com")

        assert keychain.credential(REGISTRY, None) is None

    @pytest.mark.parametrize("stored", ["docker.io", "index.docker.io", "registry-1.docker.io"])
    @pytest.mark.parametrize("asked", ["docker.io", "index.docker.io", "registry-1.docker.io", "docker.io:443"])
    def test_docker_hub_is_one_registry(self, keychain: CredentialStore, stored: str, asked: str) -> None:
        """Under each of its names (R-045)."""
        keychain.store(stored, Basic("other", "0th3r"))

        assert keychain.credential(asked, RepositoryName("library/alpine")) == Basic("other", "0th3r")

    def test_anonymous_is_not_stored(self, keychain: CredentialStore) -> None:
        """To remove a credential, there is ``erase``."""
        with pytest.raises(ConfigError):
            keychain.store(REGISTRY, Anonymous())

        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_a_registry_token_is_stored_or_refused(self, keychain: CredentialStore) -> None:
        """If it is refused, the old credential stays."""
        message = ""
        try:
            keychain.store(REGISTRY, RegistryToken("0th3r"))
        except ConfigError as error:
            message = str(error)

        assert "0th3r" not in message
        assert keychain.credential(REGISTRY, None) == (CREDENTIAL if message else RegistryToken("0th3r"))

    @pytest.mark.parametrize("registry", _MALFORMED)
    def test_nothing_is_written_for_malformed_registries(self, keychain: CredentialStore, registry: str) -> None:
        """R-011, R-044."""
        with pytest.raises(InvalidName):
            keychain.store(registry, Basic("other", "0th3r"))
        with pytest.raises(InvalidName):
            keychain.erase(registry)

    def test_concurrent_writes_are_not_lost(self, keychain: CredentialStore) -> None:
        """Each thread writes another registry."""
        registries = [f"registry-{number}.example.com" for number in range(12)]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda registry: keychain.store(registry, Basic(registry, "0th3r")), registries))

        assert [keychain.credential(one, None) for one in registries] == [Basic(one, "0th3r") for one in registries]
