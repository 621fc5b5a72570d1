"""The library wired for dependency-injector, to be embedded in a larger application; the only module that imports it.

Nothing else in the library knows of containers, and nothing in here is needed to use it. Two things of
dependency-injector are worth knowing: override providers of a container *instance*, for an override on the class
reaches every container made later; and values that are already built keep what they were built with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, Literal

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
    "validated",
]


class HttpSection(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``http``: the fields of ``HttpSettings``, and which registry.

    Args:
        registry: ``host[:port]``.
    """

    registry: str

    def __post_init__(self) -> None:
        """Check the host as well."""
        super().__post_init__()
        try:
            Origin.of(self.registry)
        except InvalidName as error:
            raise ConfigError(error.message) from None


class LayoutSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``layout``.

    Args:
        root: The directory.
        fsync: Whether a write returns only once the disk has it.
    """

    root: str
    fsync: bool = True

    def __post_init__(self) -> None:
        """A directory has a name."""
        if not self.root:
            raise ConfigError("root is the name of a directory")


class ArchiveSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``archive``.

    Args:
        path: The file.
        form: How a new one is written: ``docker-archive`` or ``oci-archive``.
        replace: Begin a new archive, even where there is one.
        fsync: Whether closing returns only once the disk has it.
    """

    path: str
    form: ArchiveForm = ArchiveForm.DOCKER
    replace: bool = False
    fsync: bool = True

    def __post_init__(self) -> None:
        """A file has a name."""
        if not self.path:
            raise ConfigError("path is the name of a file")


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration: which backend, and a section for each that needs one.

    Args:
        backend: ``http``, ``layout``, ``archive`` or ``memory``.
        http: Demanded by the backend of that name.
        layout: Demanded by the backend of that name.
        archive: Demanded by the backend of that name.
    """

    backend: Literal["http", "layout", "archive", "memory"]
    http: HttpSection | None = None
    layout: LayoutSection | None = None
    archive: ArchiveSection | None = None

    def __post_init__(self) -> None:
        """The chosen backend has its section."""
        if self.backend != "memory" and getattr(self, self.backend) is None:
            raise ConfigError(f"the backend {self.backend} needs a section {self.backend}")


def validated(mapping: object) -> RegistrySettings:
    """A configuration, checked as a whole. Text from the environment will do for numbers and switches.

    Args:
        mapping: ``{"backend": "http", "http": {"registry": "registry.example.com", …}}``.

    Raises:
        ConfigError: Something is missing, unknown or of the wrong kind; the message says where.
    """
    try:
        return msgspec.convert(mapping, RegistrySettings, strict=False)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"registry configuration: {error}") from None


def _http(
    settings: RegistrySettings,
    keychain: Keychain,
    observer: Observer | None,
    middleware: Sequence[Middleware],
    opened: ExitStack[bool | None],
) -> Catalog:
    section = settings.http
    if section is None:
        raise ConfigError("registry configuration: there is no section http")
    catalog = open_registry(section.registry, section, auth=keychain, observer=observer, middleware=middleware)
    opened.callback(catalog.close)
    return catalog


def _layout(settings: RegistrySettings, opened: ExitStack[bool | None]) -> Catalog:
    section = settings.layout
    if section is None:
        raise ConfigError("registry configuration: there is no section layout")
    catalog = LayoutCatalog(section.root, fsync=section.fsync)
    opened.callback(catalog.close)
    return catalog


def _archive(settings: RegistrySettings, opened: ExitStack[bool | None]) -> Catalog:
    section = settings.archive
    if section is None:
        raise ConfigError("registry configuration: there is no section archive")
    catalog = ArchiveCatalog(section.path, section.form, replace=section.replace, fsync=section.fsync)
    opened.callback(catalog.close)
    return catalog


def _nothing_opened() -> ExitStack[bool | None]:
    return ExitStack()


class RegistryContainer(containers.DeclarativeContainer):
    """One backend, chosen by configuration, and clients for it.

    * ``config``: a mapping as ``validated`` takes it.
    * ``keychain``, ``observer``, ``middleware``: for the host application to supply; without them requests are
      anonymous, unwatched and sent as they are. In place of a keychain, a credential or an authenticator does as well;
      ``middleware`` is a sequence.
    * ``catalog``: the one backend, shared by all threads. To be overridden in tests.
    * ``client``: a ``RegistryClient`` around it, a new one for each call: it has nothing of its own to keep, and so an
      override of ``catalog`` holds at once.
    """

    config = providers.Configuration(strict=True)
    keychain: providers.Dependency[Any] = providers.Dependency(default=providers.Object(StaticKeychain({})))
    observer: providers.Dependency[Any] = providers.Dependency(default=providers.Object(None))
    middleware: providers.Dependency[Any] = providers.Dependency(default=providers.Object(()))

    settings = providers.Callable(validated, config)
    opened: providers.ThreadSafeSingleton[ExitStack[bool | None]] = providers.ThreadSafeSingleton(_nothing_opened)

    http = providers.ThreadSafeSingleton(_http, settings, keychain, observer, middleware, opened)
    layout = providers.ThreadSafeSingleton(_layout, settings, opened)
    archive = providers.ThreadSafeSingleton(_archive, settings, opened)
    memory = providers.ThreadSafeSingleton(MemoryCatalog)

    catalog = providers.Selector(
        providers.Callable(attrgetter("backend"), settings), http=http, layout=layout, archive=archive, memory=memory
    )
    client = providers.Factory(RegistryClient, catalog, observer=observer)


def configured(mapping: Mapping[str, Any]) -> RegistryContainer:
    """A container for a configuration that is known to be complete and sound.

    Args:
        mapping: As ``validated`` takes it.

    Raises:
        ConfigError: Something is missing, unknown or of the wrong kind; the message says where.
    """
    validated(mapping)
    container = RegistryContainer()
    container.config.from_dict(dict(mapping))
    return container


def close(container: RegistryContainer) -> None:
    """Close the backend that a container has built, if any, and forget it; what overrides it is its owner's to close.

    For an embedded container, that is ``close(application.registry())``. Idempotent; used again, the container builds
    anew.
    """
    container.opened().close()
    container.reset_singletons()
