"""Files of credentials, and the helpers that they name: what Docker's and podman's keychains are made of."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from registry_adapters.keychains.entries import Entries, entry_of
from registry_adapters.keychains.files import JsonFile
from registry_adapters.keychains.helper import HelperKeychain
from registry_adapters.keychains.names import canonical
from registry_adapters.keychains.places import Place
from registry_adapters.keychains.sealed import Sealed
from registry_core.domain.access import Credential
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError
from registry_core.ports.keychain import CredentialStore

__all__ = ["FileKeychain"]


class FileKeychain(Sealed, CredentialStore):
    """Credentials from files, asked in order; the first file is also written.

    Args:
        places: The files.
        environment: What helpers see; the process's own if not given.
        seconds: How long a helper may take.
    """

    def __init__(self, places: Sequence[Place], environment: Mapping[str, str] | None, seconds: float) -> None:
        helpers = _Helpers(environment, seconds)
        self._files = [_ConfigFile(place, helpers) for place in places]

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """What the first file that knows the repository says.

        In each file: the helper that it names for the registry, alone; else its helper for all registries; else its
        own entries, the most specific namespace first.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: A file or a helper failed.
        """
        canonical(registry)
        for file in self._files:
            found = file.credential(registry, repository)
            if found is not None:
                return found
        return None

    def store(self, registry: str, credential: Credential) -> None:
        """Keep a credential: with the helper that the first file names, or in the file itself.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The file or the helper cannot be written, or cannot hold this credential.
        """
        self._written().store(canonical(registry), credential)

    def erase(self, registry: str) -> None:
        """Forget a registry, in the first file and with the helpers that it names; other files are only read.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The file or a helper cannot be written.
        """
        self._written().erase(canonical(registry))

    def __repr__(self) -> str:
        """The files, without what is in them."""
        return f"{type(self).__name__}({', '.join(str(file.path) for file in self._files)})"

    def _written(self) -> _ConfigFile:
        if not self._files:
            raise ConfigError("there is no file to keep credentials in, and no home directory for one")
        return self._files[0]


class _Helpers:
    """Each helper once, so that its answers are kept once."""

    def __init__(self, environment: Mapping[str, str] | None, seconds: float) -> None:
        self._environment = os.environ if environment is None else environment
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[str, HelperKeychain] = {}

    def named(self, name: str) -> HelperKeychain:
        with self._lock:
            if name not in self._known:
                self._known[name] = HelperKeychain(name, environment=self._environment, seconds=self._seconds)
            return self._known[name]


class _ConfigFile:
    def __init__(self, place: Place, helpers: _Helpers) -> None:
        self.path = place.path
        self._legacy = place.legacy
        self._file = JsonFile(place.path)
        self._helpers = helpers

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        document = self._file.document()
        if document is None:
            return None
        entries = self._entries(document)
        name = entries.helper(registry)
        if name:
            return self._helpers.named(name).credential(registry, repository)
        common = entries.store()
        found = self._helpers.named(common).credential(registry, repository) if common else None
        return found if found is not None else entries.credential(registry, repository)

    def store(self, registry: str, credential: Credential) -> None:
        name = self._helper(registry)
        if name:
            self._helpers.named(name).store(registry, credential)
            # As Docker does: the entry says that there is a credential, and the helper which.
            entry: dict[str, str] = {}
        else:
            entry = entry_of(credential)
        self._file.edit(self._change(lambda entries: entries.put(registry, entry)))

    def erase(self, registry: str) -> None:
        document = self._file.document()
        if document is None:
            return
        entries = self._entries(document)
        for name in dict.fromkeys((entries.helper(registry), entries.store())):
            if name:
                self._helpers.named(name).erase(registry)
        self._file.edit(self._change(lambda entries: entries.remove(registry)))

    def _helper(self, registry: str) -> str:
        document = self._file.document()
        if document is None:
            return ""
        entries = self._entries(document)
        return entries.helper(registry) or entries.store()

    def _change(self, change: Callable[[Entries], None]) -> Callable[[dict[str, Any]], None]:
        return lambda document: change(self._entries(document))

    def _entries(self, document: dict[str, Any]) -> Entries:
        return Entries(document, str(self.path), legacy=self._legacy)
