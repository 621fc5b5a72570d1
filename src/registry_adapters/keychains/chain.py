"""Several keychains as one."""

from __future__ import annotations

from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName
from registry_core.ports.keychain import Keychain

__all__ = ["ChainKeychain"]


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
