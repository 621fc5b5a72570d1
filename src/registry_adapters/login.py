"""Logging in to a registry, and out: credentials are proved before they are kept."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from registry_adapters.backends import open_http
from registry_core.domain.auth import Anonymous, Credential
from registry_core.errors import ConfigError
from registry_core.ports.keychain import CredentialStore

if TYPE_CHECKING:
    from registry_adapters.http import HttpCatalog

__all__ = ["login", "logout"]


def login(
    registry: str, credential: Credential, *, keychain: CredentialStore | None = None, **http_settings: Any
) -> None:
    """Show a credential to a registry, and keep it if it is accepted. Nothing is kept otherwise.

    Args:
        registry: ``host[:port]``, ``https://host[:port]`` or ``http://host[:port]``.
        credential: What to log in with.
        keychain: Where to keep it; ``default_store()`` if not given.
        http_settings: Fields of ``HttpSettings``, and ``observer``.

    Raises:
        Unauthorized: The registry does not accept the credential.
        Forbidden: It knows the credential, and refuses nevertheless.
        TransportError: It cannot be reached.
        ConfigError: The registry is none, ``Anonymous`` is nothing to keep, or the keychain cannot be written.
        TypeError: A setting that the HTTP backend does not know.
    """
    if isinstance(credential, Anonymous):
        raise ConfigError("no credentials are nothing to log in with")
    # Nothing else comes from there.
    with closing(cast("HttpCatalog", open_http(registry, auth=credential, **http_settings))) as catalog:
        catalog.ping()
        name = catalog.registry
    (keychain or _default()).store(name, credential)


def logout(registry: str, *, keychain: CredentialStore | None = None) -> None:
    """Forget what is kept for a registry, which is not asked; nothing happens where nothing is kept.

    Args:
        registry: As for ``login``.
        keychain: Where it is kept; ``default_store()`` if not given.

    Raises:
        ConfigError: The registry is none, or the keychain cannot be written.
    """
    with closing(open_http(registry)) as catalog:
        name = catalog.registry
    (keychain or _default()).erase(name)


def _default() -> CredentialStore:
    from registry_adapters.keychains import default_store

    return default_store()
