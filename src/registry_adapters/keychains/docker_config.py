"""Docker's ``config.json`` and podman's ``auth.json`` (containers-auth.json(5)), which skopeo and buildah use too.

The document is ``{"auths": {"host[:port][/namespace]": {…}}, "credHelpers": {"host": "name"}, "credsStore": "name"}``.
The older ``.dockercfg`` has only the content of ``auths``.
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
    matches,
    namespaces,
    parsed_key,
    parsed_pattern,
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
    "decode_base64",
    "docker_config_paths",
    "entry_of",
    "podman_config_paths",
]


_AUTHS: Final = "auths"

_HELPERS: Final = "credHelpers"

_STORE: Final = "credsStore"

_SECRETS: Final = ("auth", "username", "password", "identitytoken", "registrytoken")


class DockerConfig:
    """A decoded document; no I/O.

    Args:
        document: JSON object.
        name: Name of the document in errors.
        legacy: Whether it is a ``.dockercfg``; ``None`` to detect it.
        patterns: Whether ``*`` in the host of a key stands for any text without a dot, as in Kubernetes pull secrets.
            Docker and podman have no patterns.
    """

    def __init__(
        self, document: dict[str, Any], name: str, *, legacy: bool | None = False, patterns: bool = False
    ) -> None:
        if legacy is None:
            legacy = not any(section in document for section in (_AUTHS, _HELPERS, _STORE))
        self._document = {_AUTHS: document} if legacy else document
        self._name = name
        self._patterns = patterns

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of the most specific entry in ``auths``; helpers are not run.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The entry is malformed. Malformed entries of other registries are ignored.
        """
        for name, entry in self._entries(aliases(registry), namespaces(repository)):
            try:
                credential = _parse_entry(entry)
            except ValueError as error:
                raise ConfigError(f"{self._name}: the entry for {name} is malformed: {error}") from None
            if credential is not None:
                return credential
        return None

    def _entries(self, names: tuple[str, ...], paths: tuple[str, ...]) -> Iterator[tuple[str, object]]:
        """The entries for a repository, the most specific one first; entries with a pattern come last."""
        auths = self._section(_AUTHS)
        entries: dict[tuple[str, str], list[object]] = {}
        for key, name_and_path in _keys_of(auths, names):
            entries.setdefault(name_and_path, []).append(auths[key])
        for path in paths:
            for name in names:
                for entry in entries.get((name, path), ()):
                    yield name, entry
        for pattern, path, key in _patterns_of(auths) if self._patterns else ():
            # The kubelet compares ports as written, so only the name that is the most exact one counts.
            if path in paths and matches(pattern, names[0]):
                yield pattern, auths[key]

    def helper(self, registry: str) -> str:
        """Return the credential helper for a registry, or an empty string.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The value is not a string.
        """
        helpers = self._section(_HELPERS)
        for key, (_, path) in _keys_of(helpers, aliases(registry)):
            if not path:
                return self._string(helpers[key], _HELPERS)
        return ""

    def default_helper(self) -> str:
        """Return the credential helper for all other registries, or an empty string.

        Raises:
            ConfigError: The value is not a string.
        """
        return self._string(self._document.get(_STORE), _STORE)

    def put(self, registry: str, entry: dict[str, str]) -> None:
        """Set the entry of a registry in the document; its other fields are kept.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: ``auths`` is not an object.
        """
        key = config_key(registry)
        old = self._section(_AUTHS).get(key)
        kept = {name: value for name, value in old.items() if name not in _SECRETS} if isinstance(old, dict) else {}
        self.remove(registry)
        self._document[_AUTHS] = {**self._section(_AUTHS), key: {**kept, **entry}}

    def remove(self, registry: str) -> None:
        """Remove all entries for a whole registry from the document, under any spelling of its name.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: ``auths`` is not an object.
        """
        auths = self._section(_AUTHS)
        for key, (_, path) in list(_keys_of(auths, exact_aliases(registry))):
            if not path:
                del auths[key]

    def _section(self, name: str) -> dict[str, Any]:
        section = self._document.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise ConfigError(f"{self._name}: {name} is not an object")
        return section

    def _string(self, value: object, name: str) -> str:
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self._name}: the credential helper in {name} is not a string")
        return value or ""


def entry_of(credential: Credential) -> dict[str, str]:
    """Return the entry for a credential.

    Raises:
        ConfigError: The entry would be read as another credential, or the credential is ``Anonymous``.
    """
    entry: dict[str, str] = {}
    match credential:
        case Basic(username, password):
            entry = {"auth": _encode_auth(username, password)}
        case IdentityToken(token, username):
            entry = (
                {"auth": _encode_auth(username, ""), "identitytoken": token} if username else {"identitytoken": token}
            )
        case RegistryToken(token):
            entry = {"registrytoken": token}
        case Anonymous():
            raise ConfigError("store credentials in a Docker configuration: no credentials given")
    try:
        is_readable = _parse_entry(entry) == credential
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ConfigError(
            "store credentials in a Docker configuration: the entry would be read as another credential, "
            "for example because its secret is empty or its user name contains a colon"
        )
    return entry


def _keys_of(section: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The keys of a registry with their registry and namespace; keys in canonical spelling come first."""
    # Parsing a key is slow, and most keys are for other registries.
    host = names[-1].partition(":")[0] if not names[-1].startswith("[") else "["
    candidates = [key for key in section if host in key.lower()]
    for key in sorted(candidates, key=lambda key: key not in names):
        parsed = parsed_key(key)
        if parsed is not None and parsed[0] in names:
            yield key, parsed


def _patterns_of(section: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The keys with a pattern, with their pattern and namespace, in the order in which the kubelet tries them."""
    found = [(parsed_pattern(key), key) for key in section if "*" in key]
    # In this order, a longer key precedes a shorter one with the same beginning, and a letter precedes ``*``.
    return sorted(((*parsed, key) for parsed, key in found if parsed is not None), reverse=True)


def _parse_entry(entry: object) -> Credential | None:
    """The credential of an entry; ``None`` if it is empty, as beside a credential helper.

    Raises:
        ValueError: The entry is malformed.
    """
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    auth, username, password, identity, token = (_string(entry, name) for name in _SECRETS)
    if auth:
        username, password = _decode_auth(auth)
    if token:
        return RegistryToken(token)
    if identity:
        return IdentityToken(identity, username)
    return Basic(username, password) if username or password else None


def _string(entry: dict[str, object], name: str) -> str:
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return value or ""


def decode_base64(text: bytes) -> bytes:
    """Decode base64 of the standard alphabet, with or without padding; whitespace is ignored.

    Some tools leave the padding out; the kubelet accepts both forms.

    Raises:
        binascii.Error: The text is not base64.
    """
    packed = b"".join(text.split())
    unpadded = packed.rstrip(b"=")
    if len(packed) - len(unpadded) > 2:
        raise binascii.Error("more padding than base64 can have")
    return base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)


def _decode_auth(auth: str) -> tuple[str, str]:
    try:
        decoded = decode_base64(auth.encode()).rstrip(b"\0").decode("utf-8")
    except ValueError:
        raise ValueError("auth is not base64 of UTF-8 text") from None
    username, colon, password = decoded.partition(":")
    if not colon:
        raise ValueError("auth is not user:password")
    return username, password


def _encode_auth(username: str, password: str) -> str:
    try:
        return base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
    except UnicodeError:
        raise ConfigError(
            "store credentials in a Docker configuration: the user name or password cannot be encoded as UTF-8"
        ) from None


class ConfigPath(msgspec.Struct, frozen=True):
    """A configuration file that may exist.

    Args:
        path: Path of the file.
        legacy: Whether it is a ``.dockercfg``.
    """

    path: Path
    legacy: bool = False


def docker_config_paths(environment: Mapping[str, str], home: str | os.PathLike[str] | None = None) -> list[ConfigPath]:
    """List Docker's files in the order in which they are read; the first one is written. Does no I/O.

    Args:
        environment: Environment variables; ``DOCKER_CONFIG`` names a directory.
        home: Home directory; ``HOME`` of the environment or the operating system's if not given.
    """
    docker_config = environment.get("DOCKER_CONFIG")
    directory = _home(environment, home)
    paths = [ConfigPath(Path(docker_config, "config.json"))] if docker_config else []
    if directory is not None:
        if not docker_config:
            paths.append(ConfigPath(directory / ".docker" / "config.json"))
        paths.append(ConfigPath(directory / ".dockercfg", legacy=True))
    return paths


def podman_config_paths(environment: Mapping[str, str], home: str | os.PathLike[str] | None = None) -> list[ConfigPath]:
    """List podman's files and then Docker's in the order in which they are read; the first one is written.

    Args:
        environment: Environment variables; ``REGISTRY_AUTH_FILE`` names a file that is used alone, otherwise
            ``XDG_RUNTIME_DIR``, ``XDG_CONFIG_HOME`` and ``DOCKER_CONFIG`` name directories.
        home: Home directory; ``HOME`` of the environment or the operating system's if not given.
    """
    auth_file = environment.get("REGISTRY_AUTH_FILE")
    if auth_file:
        return [ConfigPath(Path(auth_file))]
    directory = _home(environment, home)
    xdg_config = _absolute(environment.get("XDG_CONFIG_HOME")) or (directory / ".config" if directory else None)
    paths = [_runtime_auth_file(environment), xdg_config / "containers" / "auth.json" if xdg_config else None]
    return [ConfigPath(path) for path in paths if path is not None] + docker_config_paths(environment, home)


def _runtime_auth_file(environment: Mapping[str, str]) -> Path | None:
    """The file for the user's login session; without ``XDG_RUNTIME_DIR``, only Linux has a default."""
    directory = _absolute(environment.get("XDG_RUNTIME_DIR"))
    if directory is not None:
        return directory / "containers" / "auth.json"
    user = user_id() if sys.platform.startswith("linux") else None
    return None if user is None else Path("/run/containers", str(user), "auth.json")


def _absolute(text: str | None) -> Path | None:
    """An absolute path; the XDG specification says that relative paths are ignored."""
    return Path(text) if text and os.path.isabs(text) else None


def _home(environment: Mapping[str, str], home: str | os.PathLike[str] | None) -> Path | None:
    if home is not None:
        return Path(home)
    variable = environment.get("HOME")
    if variable:
        return Path(variable)
    try:
        return Path.home()
    except RuntimeError:  # The user has no passwd entry, as in many containers.
        return None


class FileKeychain(NotPicklable, CredentialStore):
    """Credentials in configuration files and in the credential helpers that they name.

    Args:
        paths: Files in the order in which they are read; the first one is written.
        environment: Environment variables of helpers; those of the process if not given.
        timeout: Seconds that a credential helper may take.
    """

    def __init__(self, paths: Sequence[ConfigPath], environment: Mapping[str, str] | None, timeout: float) -> None:
        helpers = _Helpers(environment, timeout)
        self._files = [_ConfigFile(path, helpers) for path in paths]

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        """Return the credential of the first file that has one for the repository.

        In each file, a credential helper for the registry is the only source. Without one, the helper for all
        registries is run first; then the entries of the file follow, the most specific namespace first.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: A file cannot be read, or a credential helper failed.
        """
        canonical(registry)
        for file in self._files:
            credential = file.credential(registry, repository)
            if credential is not None:
                return credential
        return None

    def store(self, registry: str, credential: Credential) -> None:
        """Store a credential in the credential helper that the first file names, or in the file.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The file cannot be written, the helper failed, or this credential cannot be stored.
        """
        self._writable_file().store(canonical(registry), credential)

    def erase(self, registry: str) -> None:
        """Erase a registry from the first file and from the helpers that it names; other files are not changed.

        Raises:
            InvalidName: The registry is not ``host[:port]``.
            ConfigError: The file cannot be written, or a helper failed.
        """
        self._writable_file().erase(canonical(registry))

    def __repr__(self) -> str:
        """Show the paths, without the content of the files."""
        return f"{type(self).__name__}({', '.join(str(file.path) for file in self._files)})"

    def _writable_file(self) -> _ConfigFile:
        if not self._files:
            raise ConfigError(
                "store or erase credentials: no configuration file, and no home directory to create it in"
            )
        return self._files[0]


class _Helpers:
    """One keychain for each credential helper, so that its results are cached once."""

    def __init__(self, environment: Mapping[str, str] | None, timeout: float) -> None:
        self._environment = os.environ if environment is None else environment
        self._timeout = timeout
        self._lock = threading.Lock()
        self._keychains: dict[str, HelperKeychain] = {}

    def get(self, name: str) -> HelperKeychain:
        with self._lock:
            if name not in self._keychains:
                self._keychains[name] = HelperKeychain(name, environment=self._environment, timeout=self._timeout)
            return self._keychains[name]


class _ConfigFile:
    def __init__(self, config_path: ConfigPath, helpers: _Helpers) -> None:
        self.path = config_path.path
        self._legacy = config_path.legacy
        self._file = JsonFile(config_path.path)
        self._helpers = helpers

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        config = self._read()
        if config is None:
            return None
        name = config.helper(registry)
        if name:
            return self._helpers.get(name).credential(registry, repository)
        default = config.default_helper()
        credential = self._helpers.get(default).credential(registry, repository) if default else None
        return credential if credential is not None else config.credential(registry, repository)

    def store(self, registry: str, credential: Credential) -> None:
        config = self._read()
        name = "" if config is None else config.helper(registry) or config.default_helper()
        if name:
            self._helpers.get(name).store(registry, credential)
            # Docker also writes an empty entry beside a helper: it shows which registries have a credential.
            entry: dict[str, str] = {}
        else:
            entry = entry_of(credential)
        self._edit(lambda edited: edited.put(registry, entry))

    def erase(self, registry: str) -> None:
        config = self._read()
        if config is None:
            return
        for name in dict.fromkeys((config.helper(registry), config.default_helper())):
            if name:
                self._helpers.get(name).erase(registry)
        self._edit(lambda edited: edited.remove(registry))

    def _read(self) -> DockerConfig | None:
        document = self._file.document()
        return None if document is None else self._config(document)

    def _edit(self, change: Callable[[DockerConfig], None]) -> None:
        self._file.edit(lambda document: change(self._config(document)))

    def _config(self, document: dict[str, Any]) -> DockerConfig:
        return DockerConfig(document, str(self.path), legacy=self._legacy)


class DockerConfigKeychain(FileKeychain):
    """Docker's credentials: ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``, then ``~/.dockercfg``.

    Args:
        path: Path of a single file to use instead.
        environment: Environment variables; those of the process if not given.
        home: Home directory; ``HOME`` if not given.
        timeout: Seconds that a credential helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        home: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        variables = os.environ if environment is None else environment
        paths = docker_config_paths(variables, home) if path is None else [ConfigPath(Path(path))]
        super().__init__(paths, variables, timeout)


class AuthFileKeychain(FileKeychain):
    """Podman's credentials, then Docker's.

    The files are ``$REGISTRY_AUTH_FILE`` alone, if it is set. Otherwise they are:

    * ``$XDG_RUNTIME_DIR/containers/auth.json``, or ``/run/containers/UID/auth.json`` if that is not set;
    * ``$XDG_CONFIG_HOME/containers/auth.json``, or ``~/.config/containers/auth.json`` if that is not set;
    * the files of ``DockerConfigKeychain``.

    Args:
        path: Path of a single file to use instead.
        environment: Environment variables; those of the process if not given.
        home: Home directory; ``HOME`` if not given.
        timeout: Seconds that a credential helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        home: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        variables = os.environ if environment is None else environment
        paths = podman_config_paths(variables, home) if path is None else [ConfigPath(Path(path))]
        super().__init__(paths, variables, timeout)
