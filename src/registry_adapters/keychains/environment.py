"""Credentials from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

from registry_adapters.keychains.names import canonical, spellings
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain.access import Basic, Credential, IdentityToken, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidName
from registry_core.ports.keychain import Keychain

__all__ = ["EnvironmentKeychain"]


class EnvironmentKeychain(Sealed, Keychain):
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
        names = spellings(registry)
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
