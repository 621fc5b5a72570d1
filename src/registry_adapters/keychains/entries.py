"""Docker configurations and podman's ``auth.json`` as documents: pure, without a file (R-045).

``{"auths": {"host[:port][/namespace]": {…}}, "credHelpers": {"host": "name"}, "credsStore": "name"}``; and the older
``.dockercfg``, which is what stands in ``auths`` alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final

from registry_adapters.keychains.names import namespaces, parsed_key, same, spellings, written
from registry_core.domain.access import Anonymous, Basic, Credential, IdentityToken, RegistryToken
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError

__all__ = ["Entries", "entry_of"]

AUTHS: Final = "auths"
_HELPERS: Final = "credHelpers"
_STORE: Final = "credsStore"
_SECRETS: Final = ("auth", "username", "password", "identitytoken", "registrytoken")


class Entries:
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
        names = spellings(registry)
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
        for key, (_, path) in _keys(helpers, spellings(registry)):
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
        key = written(registry)
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
        for key, (_, path) in list(_keys(auths, same(registry))):
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
