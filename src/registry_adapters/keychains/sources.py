"""Keychains without files: fixed, in memory, from text, from environment variables; and a chain of keychains."""

from __future__ import annotations

import binascii
import os
import threading
from collections.abc import Mapping
from typing import Final

from registry_adapters.keychains.docker_config import DockerConfig, decode_base64
from registry_adapters.keychains.registry_names import aliases, canonical, exact_aliases
from registry_core.domain import strict_json
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, NotPicklable, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument, InvalidName
from registry_core.ports.keychain import CredentialStore, Keychain

__all__ = ["ChainKeychain", "EnvironmentKeychain", "MemoryKeychain", "StaticKeychain", "TextKeychain"]


class StaticKeychain(NotPicklable, Keychain):
    """Fixed credentials by registry.

    Args:
        credentials: Credentials by ``host[:port]``. Host and port must match exactly, ignoring case; a key without
            a port is for the default port of http and of https.

    Raises:
        InvalidName: A key is not ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential]) -> None:
        self._credentials = {canonical(host): credential for host, credential in credentials.items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of a registry; it is the same for all repositories.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
        """
        found = (self._credentials.get(name) for name in aliases(registry))
        return next((credential for credential in found if credential is not None), None)

    def __repr__(self) -> str:
        """Show the registries, without the credentials."""
        return f"StaticKeychain({', '.join(sorted(self._credentials))})"


class MemoryKeychain(NotPicklable, CredentialStore):
    """Credential store in memory; mainly for tests. Safe for many threads.

    Args:
        credentials: Initial credentials by ``host[:port]``.

    Raises:
        InvalidName: A key is not ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential] | None = None) -> None:
        self._lock = threading.Lock()
        self._credentials = {canonical(host): credential for host, credential in (credentials or {}).items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of a registry; it is the same for all repositories.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
        """
        with self._lock:
            found = [self._credentials.get(name) for name in aliases(registry)]
        return next((credential for credential in found if credential is not None), None)

    def store(self, registry: str, credential: Credential) -> None:
        """Store a credential.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The credential is ``Anonymous``.
        """
        name = canonical(registry)
        if isinstance(credential, Anonymous):
            raise ConfigError(f"store credentials for {name}: no credentials given")
        replaced = exact_aliases(name)
        with self._lock:
            self._credentials = {key: kept for key, kept in self._credentials.items() if key not in replaced}
            self._credentials[name] = credential

    def erase(self, registry: str) -> None:
        """Erase the credential of a registry.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
        """
        names = exact_aliases(registry)
        with self._lock:
            for name in names:
                self._credentials.pop(name, None)

    def __repr__(self) -> str:
        """Show the registries, without the credentials."""
        with self._lock:
            return f"MemoryKeychain({', '.join(sorted(self._credentials))})"


_MAX_BYTES: Final = 4 << 20

_NAME: Final = "Docker configuration text"


class TextKeychain(NotPicklable, Keychain):
    """Credentials from the text of a Docker configuration, such as a Kubernetes pull secret.

    The text is a ``.dockerconfigjson`` or the older ``.dockercfg``, as JSON or base64. Credential helpers that it names
    are not run. ``*`` in the host of an entry stands for any text without a dot, as the kubelet reads it:
    ``*.example.com`` is for ``eu.example.com``, and neither for ``example.com`` nor for ``a.eu.example.com``. Entries
    with ``*`` are used after all others.

    Args:
        text: Text of the configuration.

    Raises:
        ConfigError: The text is neither JSON nor base64 of JSON, or is too large.
    """

    def __init__(self, text: str | bytes) -> None:
        try:
            content = text.encode("utf-8") if isinstance(text, str) else bytes(text)
            if len(content) > _MAX_BYTES:
                raise ConfigError(f"{_NAME}: more than {_MAX_BYTES} bytes")
            if not content.lstrip().startswith(b"{"):
                content = decode_base64(content)
            document = strict_json.decode(content)
        except (UnicodeError, binascii.Error, InvalidDocument):
            raise ConfigError(f"{_NAME}: neither a JSON object nor base64 of one") from None
        self._config = DockerConfig(document, _NAME, legacy=None, patterns=True)

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of the most specific entry for the repository.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The entry is malformed.
        """
        return self._config.credential(registry, repository)

    def __repr__(self) -> str:
        """Omit the text."""
        return "TextKeychain(***)"


class EnvironmentKeychain(NotPicklable, Keychain):
    """One credential for one registry, from environment variables, which are read each time.

    ===========================  ==========================================================================
    ``OCIPORT_REGISTRY``         ``host[:port]`` that the credential is for; required with the others
    ``OCIPORT_USERNAME``         user name of a ``Basic`` credential, with ``OCIPORT_PASSWORD``
    ``OCIPORT_PASSWORD``         password, with ``OCIPORT_USERNAME``
    ``OCIPORT_IDENTITY_TOKEN``   an ``IdentityToken``, instead of user name and password
    ``OCIPORT_TOKEN``            a ``RegistryToken``, instead of user name and password
    ===========================  ==========================================================================

    An empty variable counts as unset. A credential without a registry is an error: it would be sent to any registry
    that asks.

    Args:
        environment: Environment variables; those of the process if not given.
        prefix: Prefix of the variable names.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, prefix: str = "OCIPORT") -> None:
        self._environment = os.environ if environment is None else environment
        self._prefix = prefix

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential in the variables, if it is for this registry.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The variables contradict each other, or ``OCIPORT_REGISTRY`` is missing.
        """
        names = aliases(registry)
        credential = self._credential()
        return credential if credential is not None and self._registry() in names else None

    def __repr__(self) -> str:
        """Show the prefix, without any values."""
        return f"EnvironmentKeychain({self._prefix}_*)"

    def _credential(self) -> Credential | None:
        username, password = self._value("USERNAME"), self._value("PASSWORD")
        identity, token = self._value("IDENTITY_TOKEN"), self._value("TOKEN")
        if bool(username) is not bool(password):
            missing, given = ("PASSWORD", "USERNAME") if username else ("USERNAME", "PASSWORD")
            raise ConfigError(f"environment variable {self._prefix}_{missing}: not set, but {self._prefix}_{given} is")
        credentials: list[Credential] = []
        if username:
            credentials.append(Basic(username, password))
        if identity:
            credentials.append(IdentityToken(identity))
        if token:
            credentials.append(RegistryToken(token))
        if len(credentials) > 1:
            raise ConfigError(
                f"environment variables {self._prefix}_*: "
                "set only one of USERNAME with PASSWORD, IDENTITY_TOKEN and TOKEN"
            )
        return credentials[0] if credentials else None

    def _registry(self) -> str:
        name = self._value("REGISTRY")
        if not name:
            raise ConfigError(
                f"environment variable {self._prefix}_REGISTRY: not set; "
                "it must name the registry (host[:port]) that the credential is for"
            )
        try:
            return canonical(name)
        except InvalidName:
            raise ConfigError(f"environment variable {self._prefix}_REGISTRY: not host[:port]") from None

    def _value(self, name: str) -> str:
        return self._environment.get(f"{self._prefix}_{name}", "")


class ChainKeychain(Keychain):
    """Asks several keychains and returns the first credential found.

    An error of a keychain is not skipped: the next keychain might log in as another user.

    Args:
        keychains: Keychains in the order in which they are asked.
    """

    def __init__(self, *keychains: Keychain) -> None:
        self._keychains = keychains

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the first credential found.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: A keychain that was asked cannot be read.
        """
        for keychain in self._keychains:
            credential = keychain.credential(registry, repository)
            if credential is not None:
                return credential
        return None

    def __repr__(self) -> str:
        """Show the keychains."""
        return f"ChainKeychain({', '.join(map(repr, self._keychains))})"
