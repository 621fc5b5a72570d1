"""Credentials that the program itself brings along."""

from __future__ import annotations

from collections.abc import Mapping

from registry_adapters.keychains.names import canonical, spellings
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName
from registry_core.ports.keychain import Keychain

__all__ = ["StaticKeychain"]


class StaticKeychain(Sealed, Keychain):
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
        found = (self._credentials.get(name) for name in spellings(registry))
        return next((credential for credential in found if credential is not None), None)

    def __repr__(self) -> str:
        """The registries, without the credentials."""
        return f"StaticKeychain({', '.join(sorted(self._credentials))})"
