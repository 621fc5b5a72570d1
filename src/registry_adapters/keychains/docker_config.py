"""Docker configurations and podman's ``auth.json`` as documents: pure, without a file.

``{"auths": {"host[:port][/namespace]": {…}}, "credHelpers": {"host": "name"}, "credsStore": "name"}``; and the older
``.dockercfg``, which is what stands in ``auths`` alone.

Files of credentials, and the helpers that they name: what Docker's and podman's keychains are made of.

Docker's ``config.json``.

Podman's ``auth.json``, which skopeo and buildah use too (containers-auth.json(5)).

Where Docker and podman keep credentials; nothing is looked at here (containers-auth.json(5)).
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from registry_adapters.keychains.helper import HelperKeychain
from registry_adapters.keychains.json_file import JsonFile
from registry_adapters.keychains.registry_names import (
    aliases,
    canonical,
    config_key,
    exact_aliases,
    namespaces,
    parsed_key,
)
from registry_core.content.operating_system import user_id
from registry_core.domain.auth import Anonymous, Basic, Credential, IdentityToken, NotPicklable, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError
from registry_core.ports.keychain import CredentialStore

__all__ = [
    "AuthFileKeychain",
    "ConfigPath",
    "DockerConfig",
    "DockerConfigKeychain",
    "FileKeychain",
    "docker_config_paths",
    "entry_of",
    "podman_config_paths",
]


AUTHS: Final = "auths"

_HELPERS: Final = "credHelpers"

_STORE: Final = "credsStore"

_SECRETS: Final = ("auth", "username", "password", "identitytoken", "registrytoken")


class DockerConfig:
    """A view on one decoded document.

    Args:
        document: The JSON object.
        where: What messages call it.
        legacy: Whether it is a ``.dockercfg``; ``None`` to tell by its shape.
    """

    def __init__(self, document: dict[str, Any], where: str, *, legacy: bool | None = False) -> None:
        if legacy is None:
            legacy = not any(name in document for name in (AUTHS, _HELPERS, _STORE))
        self._document = {AUTHS: document} if legacy else document
        self._where = where

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """The most specific credential in the document itself; helpers are not its business.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The entry that it would be in makes no sense. What others look like does not matter.
        """
        names = aliases(registry)
        auths = self._section(AUTHS)
        found: dict[tuple[str, str], list[object]] = {}
        for key, place in _keys(auths, names):
            found.setdefault(place, []).append(auths[key])
        for path in namespaces(repository):
            for name in names:
                for entry in found.get((name, path), ()):
                    try:
                        credential = _credential(entry)
                    except ValueError:
                        raise ConfigError(f"{self._where}: the entry for {name} makes no sense") from None
                    if credential is not None:
                        return credential
        return None

    def helper(self, registry: str) -> str:
        """The helper named for a registry, or nothing.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: What is named is no text.
        """
        helpers = self._section(_HELPERS)
        for key, (_, path) in _keys(helpers, aliases(registry)):
            if not path:
                return self._text(helpers[key], _HELPERS)
        return ""

    def store(self) -> str:
        """The helper for all other registries, or nothing.

        Raises:
            ConfigError: What is named is no text.
        """
        return self._text(self._document.get(_STORE), _STORE)

    def put(self, registry: str, entry: dict[str, str]) -> None:
        """Set the entry of a registry, in the document itself; what else stood in it stays.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The document has no room for entries.
        """
        key = config_key(registry)
        auths = self._section(AUTHS)
        old = auths.get(key)
        kept = {name: value for name, value in old.items() if name not in _SECRETS} if isinstance(old, dict) else {}
        self.remove(registry)
        self._document[AUTHS] = {**self._section(AUTHS), key: {**kept, **entry}}

    def remove(self, registry: str) -> None:
        """Take out every entry that is about a registry as a whole, however its key is spelt.

        Raises:
            InvalidName: The registry is anything but ``host[:port]``.
            ConfigError: The document has no room for entries.
        """
        auths = self._section(AUTHS)
        for key, (_, path) in list(_keys(auths, exact_aliases(registry))):
            if not path:
                del auths[key]

    def _section(self, name: str) -> dict[str, Any]:
        section = self._document.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise ConfigError(f"{self._where}: {name} is not an object")
        return section

    def _text(self, value: object, name: str) -> str:
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self._where}: {name} names no helper")
        return value or ""


def entry_of(credential: Credential) -> dict[str, str]:
    """How a credential is written.

    Raises:
        ConfigError: There is no way to write it so that the same would be read again.
    """
    entry: dict[str, str] = {}
    match credential:
        case Basic(username, password):
            entry = {"auth": _joined(username, password)}
        case IdentityToken(token, username):
            entry = {"auth": _joined(username, ""), "identitytoken": token} if username else {"identitytoken": token}
        case RegistryToken(token):
            entry = {"registrytoken": token}
        case Anonymous():
            raise ConfigError("no credentials are nothing to keep")
    try:
        same = _credential(entry) == credential
    except ValueError:
        same = False
    if not same:
        raise ConfigError("a Docker configuration cannot hold this credential: it would be read as another one")
    return entry


def _keys(section: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The keys that are about a registry, those spelt plainly first."""
    # Almost all keys are about others; parsing is for those that may not be.
    part = names[-1].partition(":")[0] if not names[-1].startswith("[") else "["
    likely = [key for key in section if part in key.lower()]
    for key in sorted(likely, key=lambda key: key not in names):
        place = parsed_key(key)
        if place is not None and place[0] in names:
            yield key, place


def _credential(entry: object) -> Credential | None:
    """What an entry says: nothing, where it is empty, as it is beside a helper.

    Raises:
        ValueError: It makes no sense.
    """
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    auth, username, password, identity, token = (_text(entry.get(name)) for name in _SECRETS)
    if auth:
        username, password = _split(auth)
    if token:
        return RegistryToken(token)
    if identity:
        return IdentityToken(identity, username)
    return Basic(username, password) if username or password else None


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError("not a text")
    return value or ""


def _split(auth: str) -> tuple[str, str]:
    try:
        decoded = base64.b64decode("".join(auth.split()), validate=True).rstrip(b"\0").decode("utf-8")
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    username, colon, password = decoded.partition(":")
    if not colon:
        raise ValueError("no colon")
    return username, password


def _joined(username: str, password: str) -> str:
    try:
        return base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
    except UnicodeError:
        raise ConfigError("a Docker configuration cannot hold this credential: it is no Unicode") from None


class ConfigPath(msgspec.Struct, frozen=True):
    """A file that may be there.

    Args:
        path: Of the file.
        legacy: Whether it is a ``.dockercfg``.
    """

    path: Path
    legacy: bool = False


def docker_config_paths(environment: Mapping[str, str], home: Path | None) -> list[ConfigPath]:
    """Docker's files, in the order in which they are read; the first is the one that is written.

    Args:
        environment: ``DOCKER_CONFIG`` names a directory.
        home: The user's directory; ``HOME`` of the environment, or what the system says, if not given.
    """
    directory = environment.get("DOCKER_CONFIG")
    house = _home(environment, home)
    places = [ConfigPath(Path(directory, "config.json"))] if directory else []
    if house is not None:
        if not directory:
            places.append(ConfigPath(house / ".docker" / "config.json"))
        places.append(ConfigPath(house / ".dockercfg", legacy=True))
    return places


def podman_config_paths(environment: Mapping[str, str], home: Path | None) -> list[ConfigPath]:
    """Podman's files and then Docker's, in the order in which they are read; the first is the one that is written.

    Args:
        environment: ``REGISTRY_AUTH_FILE`` names a file that is used alone; else ``XDG_RUNTIME_DIR``,
            ``XDG_CONFIG_HOME`` and ``DOCKER_CONFIG`` name directories.
        home: The user's directory; ``HOME`` of the environment, or what the system says, if not given.
    """
    alone = environment.get("REGISTRY_AUTH_FILE")
    if alone:
        return [ConfigPath(Path(alone))]
    house = _home(environment, home)
    found = [_runtime(environment)]
    directory = _absolute(environment.get("XDG_CONFIG_HOME")) or (house / ".config" if house else None)
    found.append(directory / "containers" / "auth.json" if directory else None)
    return [ConfigPath(path) for path in found if path is not None] + docker_config_paths(environment, home)


def _runtime(environment: Mapping[str, str]) -> Path | None:
    """Where credentials of a session are; only Linux has such a place for everyone."""
    named = _absolute(environment.get("XDG_RUNTIME_DIR"))
    if named is not None:
        return named / "containers" / "auth.json"
    user = user_id() if sys.platform.startswith("linux") else None
    return None if user is None else Path("/run/containers", str(user), "auth.json")


def _absolute(text: str | None) -> Path | None:
    """A relative path in an XDG variable is to be ignored, says its specification."""
    return Path(text) if text and os.path.isabs(text) else None


def _home(environment: Mapping[str, str], home: Path | None) -> Path | None:
    if home is not None:
        return home
    named = environment.get("HOME")
    if named:
        return Path(named)
    try:
        return Path.home()
    except RuntimeError:  # a user whom the system does not know, as in many containers
        return None


class FileKeychain(NotPicklable, CredentialStore):
    """Credentials from files, asked in order; the first file is also written.

    Args:
        places: The files.
        environment: What helpers see; the process's own if not given.
        seconds: How long a helper may take.
    """

    def __init__(self, places: Sequence[ConfigPath], environment: Mapping[str, str] | None, seconds: float) -> None:
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
    def __init__(self, place: ConfigPath, helpers: _Helpers) -> None:
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

    def _change(self, change: Callable[[DockerConfig], None]) -> Callable[[dict[str, Any]], None]:
        return lambda document: change(self._entries(document))

    def _entries(self, document: dict[str, Any]) -> DockerConfig:
        return DockerConfig(document, str(self.path), legacy=self._legacy)


class DockerConfigKeychain(FileKeychain):
    """What ``docker login`` keeps: ``$DOCKER_CONFIG/config.json``, or ``~/.docker/config.json``; then ``~/.dockercfg``.

    Args:
        path: One file to use instead.
        environment: Variables; the process's own if not given.
        home: The user's directory; ``HOME`` if not given.
        seconds: How long a credential helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
        seconds: float = 30.0,
    ) -> None:
        variables = os.environ if environment is None else environment
        places = docker_config_paths(variables, home) if path is None else [ConfigPath(Path(path))]
        super().__init__(places, variables, seconds)


class AuthFileKeychain(FileKeychain):
    """What ``podman login`` keeps, and after it what ``docker login`` does.

    ``$REGISTRY_AUTH_FILE``, used alone; else ``$XDG_RUNTIME_DIR/containers/auth.json`` (``/run/containers/UID`` where
    that is not set), ``$XDG_CONFIG_HOME/containers/auth.json`` (``~/.config`` where that is not set), and the files of
    ``DockerConfigKeychain``.

    Args:
        path: One file to use instead.
        environment: Variables; the process's own if not given.
        home: The user's directory; ``HOME`` if not given.
        seconds: How long a credential helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
        seconds: float = 30.0,
    ) -> None:
        variables = os.environ if environment is None else environment
        places = podman_config_paths(variables, home) if path is None else [ConfigPath(Path(path))]
        super().__init__(places, variables, seconds)
