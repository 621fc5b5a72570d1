"""Credentials that the program itself brings along.

Credentials for as long as the program runs; for tests above all.

A Docker configuration that comes as text, such as a Kubernetes pull secret.

Credentials from environment variables.

Several keychains as one.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Mapping
from typing import Final

from registry_adapters.keychains.docker_config import DockerConfig
from registry_adapters.keychains.registry_names import aliases, canonical, exact_aliases
from registry_core.domain import strict_json
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, NotPicklable, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument, InvalidName
from registry_core.ports.keychain import CredentialStore, Keychain

__all__ = ["ChainKeychain", "EnvironmentKeychain", "MemoryKeychain", "StaticKeychain", "TextKeychain"]


class StaticKeychain(NotPicklable, Keychain):
    """One credential for each registry named, and none for any other.

    Args:
        credentials: By ``host[:port]``. Host and port match exactly, letter case aside: never a suffix, never another
            port; without a port, it is the default port of http and of https.

    Raises:
        InvalidName: A key is anything but ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential]) -> None:
        self._credentials = {canonical(host): credential for host, credential in credentials.items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What was given for that registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        found = (self._credentials.get(name) for name in aliases(registry))
        return next((credential for credential in found if credential is not None), None)

    def __repr__(self) -> str:
        """The registries, without the credentials."""
        return f"StaticKeychain({', '.join(sorted(self._credentials))})"


class MemoryKeychain(NotPicklable, CredentialStore):
    """A store in memory. Safe for many threads.

    Args:
        credentials: What is in it from the start, by ``host[:port]``.

    Raises:
        InvalidName: A key is anything but ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential] | None = None) -> None:
        self._lock = threading.Lock()
        self._credentials = {canonical(host): one for host, one in (credentials or {}).items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What is kept for that registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        with self._lock:
            found = [self._credentials.get(name) for name in aliases(registry)]
        return next((credential for credential in found if credential is not None), None)

    def store(self, registry: str, credential: Credential) -> None:
        """Keep a credential.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: ``Anonymous`` is nothing to keep.
        """
        name = canonical(registry)
        if isinstance(credential, Anonymous):
            raise ConfigError("no credentials are nothing to keep")
        with self._lock:
            self._credentials = {key: one for key, one in self._credentials.items() if key not in exact_aliases(name)}
            self._credentials[name] = credential

    def erase(self, registry: str) -> None:
        """Forget what is kept for a registry.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        names = exact_aliases(registry)
        with self._lock:
            for name in names:
                self._credentials.pop(name, None)

    def __repr__(self) -> str:
        """The registries, without the credentials."""
        with self._lock:
            return f"MemoryKeychain({', '.join(sorted(self._credentials))})"


_LIMIT: Final = 4 << 20

_WHERE: Final = "the Docker configuration"


class TextKeychain(NotPicklable, Keychain):
    """The entries of a ``.dockerconfigjson``, or of the older ``.dockercfg``, as JSON or as base64 of it.

    Helpers that it names are not started: a secret is no reason to run a program.

    Args:
        text: The configuration.

    Raises:
        ConfigError: It is neither JSON nor base64 of it, or too large.
    """

    def __init__(self, text: str | bytes) -> None:
        try:
            content = text.encode("utf-8") if isinstance(text, str) else bytes(text)
            if len(content) > _LIMIT:
                raise ConfigError(f"{_WHERE} has more than {_LIMIT} bytes")
            if not content.lstrip().startswith(b"{"):
                content = base64.b64decode(b"".join(content.split()), validate=True)
            document = strict_json.decode(content)
        except (UnicodeError, binascii.Error, InvalidDocument):
            raise ConfigError(f"{_WHERE} is neither a JSON object nor base64 of one") from None
        self._entries = DockerConfig(document, _WHERE, legacy=None)

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """The most specific entry for the repository.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: That entry makes no sense.
        """
        return self._entries.credential(registry, repository)

    def __repr__(self) -> str:
        """Without the text."""
        return "TextKeychain(***)"


class EnvironmentKeychain(NotPicklable, Keychain):
    """One credential, for one registry, from variables that are read anew each time.

    ======================== =====================================================================
    ``OCIPORT_REGISTRY``          ``host[:port]``: whom the credential is for; always needed with one
    ``OCIPORT_USERNAME``          with ``OCIPORT_PASSWORD``: a ``Basic`` credential
    ``OCIPORT_PASSWORD``          with ``OCIPORT_USERNAME``
    ``OCIPORT_IDENTITY_TOKEN``    an ``IdentityToken``, in place of the two
    ``OCIPORT_TOKEN``             a ``RegistryToken``, in place of the two
    ======================== =====================================================================

    An empty variable counts as one that is not set. Without a registry, a password would go to whoever asks for one;
    so that is an error, and no default.

    Args:
        environment: The variables; the process's own if not given.
        prefix: What their names begin with, for programs that need a set of their own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, prefix: str = "OCIPORT") -> None:
        self._environment = os.environ if environment is None else environment
        self._prefix = prefix

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What the variables say, if they say it about this registry.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The variables contradict each other, or do not say for which registry.
        """
        names = aliases(registry)
        found = self._found()
        return found if found is not None and self._registry() in names else None

    def __repr__(self) -> str:
        """The prefix, without any values."""
        return f"EnvironmentKeychain({self._prefix}_*)"

    def _found(self) -> Credential | None:
        username, password = self._value("USERNAME"), self._value("PASSWORD")
        identity, token = self._value("IDENTITY_TOKEN"), self._value("TOKEN")
        if bool(username) is not bool(password):
            raise ConfigError(f"{self._prefix}_USERNAME and {self._prefix}_PASSWORD belong together")
        kinds: list[Credential] = []
        if username:
            kinds.append(Basic(username, password))
        if identity:
            kinds.append(IdentityToken(identity))
        if token:
            kinds.append(RegistryToken(token))
        if len(kinds) > 1:
            raise ConfigError(f"{self._prefix}_*: more than one of password, identity token and token is set")
        return kinds[0] if kinds else None

    def _registry(self) -> str:
        name = self._value("REGISTRY")
        if not name:
            raise ConfigError(f"{self._prefix}_REGISTRY has to say for which registry the credential is")
        try:
            return canonical(name)
        except InvalidName:
            raise ConfigError(f"{self._prefix}_REGISTRY is not host[:port]") from None

    def _value(self, name: str) -> str:
        return self._environment.get(f"{self._prefix}_{name}", "")


class ChainKeychain(Keychain):
    """The first keychain that has a credential wins.

    A keychain that fails fails the chain: going on would log in as somebody else than was meant.

    Args:
        keychains: In the order in which they are asked.
    """

    def __init__(self, *keychains: Keychain) -> None:
        self._keychains = keychains

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """The first credential that any of them has.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: A keychain before it cannot be read.
        """
        for keychain in self._keychains:
            found = keychain.credential(registry, repository)
            if found is not None:
                return found
        return None

    def __repr__(self) -> str:
        """The keychains in it."""
        return f"ChainKeychain({', '.join(map(repr, self._keychains))})"
