"""What every keychain promises, as tests to inherit.

::

    from registry_core.testing.keychains import CREDENTIAL, REGISTRY, KeychainContract

    class TestMyKeychain(KeychainContract):
        @pytest.fixture
        def keychain(self) -> Keychain:
            return MyKeychain({REGISTRY: CREDENTIAL})

A keychain that can be written to inherits ``StoreContract`` in its place.
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
_OTHERS: Final = (
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
    """What is read. A test class overrides ``keychain``."""

    @pytest.fixture
    def keychain(self) -> Keychain:
        """A keychain that has ``CREDENTIAL`` for ``REGISTRY``, and nothing else.

        Raises:
            NotImplementedError: Not overridden.
        """
        raise NotImplementedError("a keychain's test class overrides this fixture")

    def test_it_is_a_keychain(self, keychain: Keychain) -> None:
        """The protocol."""
        assert isinstance(keychain, Keychain)

    @pytest.mark.parametrize("repository", [None, "app", "org/team/app"])
    def test_the_registry_has_its_credential_for_all_repositories(
        self, keychain: Keychain, repository: str | None
    ) -> None:
        """And for what belongs to none."""
        name = None if repository is None else RepositoryName(repository)

        assert keychain.credential(REGISTRY, name) == CREDENTIAL

    @pytest.mark.parametrize("spelling", ["REGISTRY.Example.com", "registry.example.com:443"])
    def test_another_spelling_is_the_same_registry(self, keychain: Keychain, spelling: str) -> None:
        """Letter case and the port of https make no difference."""
        assert keychain.credential(spelling, None) == CREDENTIAL

    def test_a_bare_host_is_kept_for_plain_http_too(self, keychain: Keychain) -> None:
        """A host without a port has the default port of either scheme."""
        assert keychain.credential("registry.example.com:80", None) == CREDENTIAL

    @pytest.mark.parametrize("registry", _OTHERS)
    def test_no_other_registry_has_it(self, keychain: Keychain, registry: str) -> None:
        """R-045: never a suffix, a prefix, a substring or another port."""
        assert keychain.credential(registry, RepositoryName("org/app")) is None

    @pytest.mark.parametrize("registry", _MALFORMED)
    def test_what_is_no_registry_is_refused(self, keychain: Keychain, registry: str) -> None:
        """R-011, R-044: nothing but ``host[:port]`` is looked up."""
        with pytest.raises(InvalidName):
            keychain.credential(registry, None)

    def test_neither_repr_nor_pickle_shows_a_secret(self, keychain: Keychain) -> None:
        """R-043."""
        keychain.credential(REGISTRY, None)

        try:
            shown = pickle.dumps(keychain)
        except TypeError as error:
            shown = str(error).encode()

        assert not any(secret in text for secret in _SECRETS for text in (repr(keychain), str(keychain)))
        assert not any(secret.encode() in shown for secret in _SECRETS)

    def test_many_threads_get_the_same(self, keychain: Keychain) -> None:
        """Keychains are shared by all threads of a client."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: keychain.credential(REGISTRY, None), range(64)))

        assert found == [CREDENTIAL] * 64


class StoreContract(KeychainContract):
    """What is read and written. A test class overrides ``keychain``, with a ``CredentialStore``."""

    @pytest.fixture
    def keychain(self) -> CredentialStore:
        """A store that has ``CREDENTIAL`` for ``REGISTRY``, and nothing else.

        Raises:
            NotImplementedError: Not overridden.
        """
        raise NotImplementedError("a store's test class overrides this fixture")

    def test_it_is_a_store(self, keychain: CredentialStore) -> None:
        """The protocol."""
        assert isinstance(keychain, CredentialStore)

    @pytest.mark.parametrize(
        "credential", [Basic("other", "0th3r"), IdentityToken("r3fr3sh")], ids=lambda one: type(one).__name__
    )
    def test_what_is_stored_is_found(self, keychain: CredentialStore, credential: Credential) -> None:
        """Under the same name, for every repository."""
        keychain.store("other.example.com:5000", credential)

        assert keychain.credential("other.example.com:5000", RepositoryName("org/app")) == credential
        assert keychain.credential("other.example.com", None) is None
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    @pytest.mark.parametrize("spelling", ["registry.example.com", "Registry.Example.COM", "registry.example.com:443"])
    def test_the_new_one_replaces_the_old(self, keychain: CredentialStore, spelling: str) -> None:
        """However the registry is spelt."""
        keychain.store(spelling, Basic("other", "0th3r"))

        assert keychain.credential(spelling, None) == Basic("other", "0th3r")

    def test_a_port_has_a_credential_of_its_own(self, keychain: CredentialStore) -> None:
        """That of plain http included, beside the one of the bare host."""
        keychain.store("registry.example.com:80", Basic("other", "0th3r"))

        assert keychain.credential("registry.example.com:80", None) == Basic("other", "0th3r")
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_erasing_a_port_leaves_the_bare_host_alone(self, keychain: CredentialStore) -> None:
        """They are two registries."""
        keychain.store("registry.example.com:80", Basic("other", "0th3r"))

        keychain.erase("registry.example.com:80")

        assert keychain.credential("registry.example.com:80", None) == CREDENTIAL
        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_what_is_erased_is_gone(self, keychain: CredentialStore) -> None:
        """And nothing else is."""
        keychain.store("other.example.com", Basic("other", "0th3r"))

        keychain.erase(REGISTRY)

        assert keychain.credential(REGISTRY, RepositoryName("org/app")) is None
        assert keychain.credential("other.example.com", None) == Basic("other", "0th3r")

    def test_nothing_is_erased_twice(self, keychain: CredentialStore) -> None:
        """That is no error, and neither is a registry that nobody knows."""
        keychain.erase(REGISTRY)
        keychain.erase(REGISTRY)
        keychain.erase("unknown.example.com")

        assert keychain.credential(REGISTRY, None) is None

    @pytest.mark.parametrize("stored", ["docker.io", "index.docker.io", "registry-1.docker.io"])
    @pytest.mark.parametrize("asked", ["docker.io", "index.docker.io", "registry-1.docker.io", "docker.io:443"])
    def test_docker_hub_is_one_registry(self, keychain: CredentialStore, stored: str, asked: str) -> None:
        """R-045: under whichever of its names."""
        keychain.store(stored, Basic("other", "0th3r"))

        assert keychain.credential(asked, RepositoryName("library/alpine")) == Basic("other", "0th3r")

    def test_no_credential_is_nothing_to_store(self, keychain: CredentialStore) -> None:
        """Forgetting has a verb of its own."""
        with pytest.raises(ConfigError):
            keychain.store(REGISTRY, Anonymous())

        assert keychain.credential(REGISTRY, None) == CREDENTIAL

    def test_what_cannot_be_stored_is_refused_and_harms_nothing(self, keychain: CredentialStore) -> None:
        """A registry token is kept as what it is, or not at all."""
        said = ""
        try:
            keychain.store(REGISTRY, RegistryToken("0th3r"))
        except ConfigError as error:
            said = str(error)

        assert "0th3r" not in said
        assert keychain.credential(REGISTRY, None) == (CREDENTIAL if said else RegistryToken("0th3r"))

    @pytest.mark.parametrize("registry", _MALFORMED)
    def test_nothing_is_written_for_what_is_no_registry(self, keychain: CredentialStore, registry: str) -> None:
        """R-011, R-044."""
        with pytest.raises(InvalidName):
            keychain.store(registry, Basic("other", "0th3r"))
        with pytest.raises(InvalidName):
            keychain.erase(registry)

    def test_threads_that_store_at_once_lose_nothing(self, keychain: CredentialStore) -> None:
        """One registry each."""
        registries = [f"registry-{number}.example.com" for number in range(12)]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda registry: keychain.store(registry, Basic(registry, "0th3r")), registries))

        assert [keychain.credential(one, None) for one in registries] == [Basic(one, "0th3r") for one in registries]
