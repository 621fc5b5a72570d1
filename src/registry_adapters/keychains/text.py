"""A Docker configuration that comes as text, such as a Kubernetes pull secret."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from registry_adapters.keychains.entries import Entries
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain import wire
from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidDocument
from registry_core.ports.keychain import Keychain

__all__ = ["TextKeychain"]

_LIMIT: Final = 4 << 20
_WHERE: Final = "the Docker configuration"


class TextKeychain(Sealed, Keychain):
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
            document = wire.decode(content)
        except (UnicodeError, binascii.Error, InvalidDocument):
            raise ConfigError(f"{_WHERE} is neither a JSON object nor base64 of one") from None
        self._entries = Entries(document, _WHERE, legacy=None)

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
