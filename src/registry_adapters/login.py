"""Log in to a registry, and log out: credentials are checked before they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Unpack

from registry_adapters.backends import HttpSettingsDict, open_http
from registry_core.domain.auth import Anonymous, Credential
from registry_core.domain.origin import redact_url
from registry_core.errors import ConfigError, error_context
from registry_core.ports.keychain import CredentialStore
from registry_core.ports.observer import Observer

if TYPE_CHECKING:
    from registry_adapters.http import Middleware

__all__ = ["login", "logout"]


def login(
    registry: str,
    credential: Credential,
    *,
    keychain: CredentialStore | None = None,
    observer: Observer | None = None,
    middleware: Sequence[Middleware] = (),
    **http_settings: Unpack[HttpSettingsDict],
) -> None:
    """Send a credential to a registry, and store it only if the registry accepts it.

    Args:
        registry: ``host[:port]``, ``https://host[:port]`` or ``http://host[:port]``.
        credential: Credential to check and store.
        keychain: Keychain to store it in; ``default_store()`` if not given.
        observer: Receiver of events.
        middleware: Functions called around each request, the first outermost.
        http_settings: Fields of ``HttpSettings``.

    Raises:
        Unauthorized: The registry rejects the credential.
        Forbidden: The registry accepts the credential, but denies access.
        TransportError: No connection, or no valid response.
        ConfigError: The registry's URL is malformed, the credential is ``Anonymous``, or the keychain cannot be
            written.
        TypeError: The HTTP backend has no such setting.
    """
    if keychain is not None and not isinstance(keychain, CredentialStore):
        raise ConfigError(f"login to {redact_url(registry)}: {type(keychain).__name__} does not store credentials")
    catalog = open_http(registry, auth=credential, observer=observer, middleware=middleware, **http_settings)
    with closing(catalog):
        if isinstance(credential, Anonymous):
            raise ConfigError(f"login to {catalog.registry}: no credentials given")
        with error_context("login"):
            catalog.ping()
        name = catalog.registry
    (keychain or _default_store()).store(name, credential)


def logout(registry: str, *, keychain: CredentialStore | None = None) -> None:
    """Erase the stored credential of a registry, if there is one. No request is sent.

    Args:
        registry: Registry as for ``login``.
        keychain: Keychain that has the credential; ``default_store()`` if not given.

    Raises:
        ConfigError: The registry's URL is malformed, or the keychain cannot be written.
    """
    with closing(open_http(registry)) as catalog:
        name = catalog.registry
    (keychain or _default_store()).erase(name)


def _default_store() -> CredentialStore:
    from registry_adapters.keychains import default_store

    return default_store()
