"""A container for dependency-injector, to embed in an application; the rest of the library does not use it.

Two properties of dependency-injector matter in tests. Override providers of a container *instance*: an override of the
class applies to every container made later. And an override does not change objects that are already built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from dependency_injector import containers, providers

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_adapters.backends import open_registry
from registry_adapters.http import HttpSettings, Middleware
from registry_adapters.keychains import StaticKeychain
from registry_adapters.layout import LayoutCatalog
from registry_adapters.memory import MemoryCatalog
from registry_core.client import RegistryClient
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError, InvalidName
from registry_core.ports.catalog import Catalog
from registry_core.ports.keychain import Keychain
from registry_core.ports.observer import Observer

__all__ = [
    "ArchiveSection",
    "HttpSection",
    "LayoutSection",
    "RegistryContainer",
    "RegistrySettings",
    "close",
    "configured",
    "parse_settings",
]


class HttpSection(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``http``: the registry, and the fields of ``HttpSettings``.

    Args:
        registry: ``host[:port]`` of the registry.

    Raises:
        ConfigError: ``registry`` is malformed, or a setting has an invalid value.
    """

    registry: str

    def __post_init__(self) -> None:
        """Check the registry and the settings."""
        super().__post_init__()
        try:
            Origin.of(self.registry)
        except InvalidName as error:
            raise ConfigError(error.message) from None


class LayoutSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``layout``.

    Args:
        root: Path of the directory.
        fsync: Flush each write to disk before it returns.
        follow_symlinks: Read through symbolic links that stay inside ``root``; see ``LayoutCatalog``.

    Raises:
        ConfigError: ``root`` is empty.
    """

    root: str
    fsync: bool = True
    follow_symlinks: bool = False

    def __post_init__(self) -> None:
        """Check the path."""
        if not self.root:
            raise ConfigError("root must be the path of a directory")


class ArchiveSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``archive``.

    Args:
        path: Path of the file.
        form: Format of a new file: ``docker-archive`` or ``oci-archive``.
        replace: Write a new archive even if the file exists.
        fsync: Flush a new file to disk before ``close`` returns.

    Raises:
        ConfigError: ``path`` is empty.
    """

    path: str
    form: ArchiveForm = ArchiveForm.DOCKER
    replace: bool = False
    fsync: bool = True

    def __post_init__(self) -> None:
        """Check the path."""
        if not self.path:
            raise ConfigError("path must be the path of a file")


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration: the backend, and its section.

    Args:
        backend: ``http``, ``layout``, ``archive`` or ``memory``.
        http: Section of the backend ``http``.
        layout: Section of the backend ``layout``.
        archive: Section of the backend ``archive``.

    Raises:
        ConfigError: The section of the backend is missing.
    """

    backend: Literal["http", "layout", "archive", "memory"]
    http: HttpSection | None = None
    layout: LayoutSection | None = None
    archive: ArchiveSection | None = None

    def __post_init__(self) -> None:
        """Check that the backend has its section."""
        if self.backend != "memory" and getattr(self, self.backend) is None:
            raise ConfigError(f"section {self.backend} is missing for backend {self.backend}")


_CHOICES: Final = MappingProxyType(
    {"$.backend": "http, layout, archive or memory", "$.archive.form": "docker-archive or oci-archive"}
)


def parse_settings(mapping: object) -> RegistrySettings:
    """Check and convert a configuration. Numbers and switches may be text, as environment variables are.

    Args:
        mapping: ``{"backend": "http", "http": {"registry": "registry.example.com", …}}``.

    Raises:
        ConfigError: A value is missing, unknown or invalid; the message has its path.
    """
    try:
        return msgspec.convert(mapping, RegistrySettings, strict=False)
    except (msgspec.ValidationError, ConfigError) as error:
        message, _, path = str(error).partition(" - at `")
        path = path.rstrip("`")
        if path in _CHOICES:
            message = f"{message}: use {_CHOICES[path]}"
        raise ConfigError(f"registry configuration: {message}{f' at {path}' if path else ''}") from None


def _http(
    settings: RegistrySettings,
    keychain: Keychain,
    observer: Observer | None,
    middleware: Sequence[Middleware],
    to_close: ExitStack[bool | None],
) -> Catalog:
    section = settings.http
    if section is None:
        raise ConfigError("registry configuration: section http is missing")
    catalog = open_registry(section.registry, section, auth=keychain, observer=observer, middleware=middleware)
    to_close.callback(catalog.close)
    return catalog


def _layout(settings: RegistrySettings, to_close: ExitStack[bool | None]) -> Catalog:
    section = settings.layout
    if section is None:
        raise ConfigError("registry configuration: section layout is missing")
    catalog = LayoutCatalog(section.root, fsync=section.fsync, follow_symlinks=section.follow_symlinks)
    to_close.callback(catalog.close)
    return catalog


def _archive(settings: RegistrySettings, to_close: ExitStack[bool | None]) -> Catalog:
    section = settings.archive
    if section is None:
        raise ConfigError("registry configuration: section archive is missing")
    catalog = ArchiveCatalog(section.path, section.form, replace=section.replace, fsync=section.fsync)
    to_close.callback(catalog.close)
    return catalog


class RegistryContainer(containers.DeclarativeContainer):
    """One backend, chosen by configuration, and clients for it.

    * ``config``: the configuration; see ``parse_settings``.
    * ``keychain``, ``observer``, ``middleware``: dependencies that the application may provide. ``keychain`` may also
      be a credential or an authenticator; the default sends no credentials. ``middleware`` is a sequence.
    * ``catalog``: the backend, shared by all threads. Override it in tests.
    * ``client``: a new ``RegistryClient`` for each call, so that it uses the current override of ``catalog``.
    """

    config = providers.Configuration(strict=True)
    keychain: providers.Dependency[Any] = providers.Dependency(default=providers.Object(StaticKeychain({})))
    observer: providers.Dependency[Any] = providers.Dependency(default=providers.Object(None))
    middleware: providers.Dependency[Any] = providers.Dependency(default=providers.Object(()))

    settings = providers.Callable(parse_settings, config)
    to_close: providers.ThreadSafeSingleton[ExitStack[bool | None]] = providers.ThreadSafeSingleton(ExitStack)

    http = providers.ThreadSafeSingleton(_http, settings, keychain, observer, middleware, to_close)
    layout = providers.ThreadSafeSingleton(_layout, settings, to_close)
    archive = providers.ThreadSafeSingleton(_archive, settings, to_close)
    memory = providers.ThreadSafeSingleton(MemoryCatalog)

    catalog = providers.Selector(
        providers.Callable(attrgetter("backend"), settings), http=http, layout=layout, archive=archive, memory=memory
    )
    client = providers.Factory(RegistryClient, catalog, observer=observer)


def configured(mapping: Mapping[str, Any]) -> RegistryContainer:
    """Create a container from a configuration, which is checked first.

    Args:
        mapping: Configuration; see ``parse_settings``.

    Raises:
        ConfigError: A value is missing, unknown or invalid; the message has its path.
    """
    parse_settings(mapping)
    container = RegistryContainer()
    container.config.from_dict(dict(mapping))
    return container


def close(container: RegistryContainer) -> None:
    """Close the backend that a container has built, if any. An object that overrides it stays open.

    For an embedded container, call ``close(application.registry())``. Idempotent; the container builds a new backend
    when it is used again.
    """
    container.to_close().close()
    container.reset_singletons()
