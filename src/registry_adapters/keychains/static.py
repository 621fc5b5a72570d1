"""Credentials that the program itself brings along."""

from __future__ import annotations

from collections.abc import Mapping

from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.ports.keychain import Keychain

__all__ = ["StaticKeychain"]


class StaticKeychain(Keychain):
    """One credential for each registry named, and none for any other.

    Args:
        credentials: By ``host[:port]``. Host and port match exactly, letter case aside: never a suffix, never another
            port; the port of https may be left out.

    Raises:
        InvalidName: A key is anything but ``host[:port]``.
    """

    def __init__(self, credentials: Mapping[str, Credential]) -> None:
        self._credentials = {Origin.of(host).netloc: credential for host, credential in credentials.items()}

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What was given for that registry, for all of its repositories.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
        """
        return self._credentials.get(Origin.of(registry).netloc)

    def __repr__(self) -> str:
        """The registries, without the credentials."""
        return f"StaticKeychain({', '.join(sorted(self._credentials))})"
