"""Backends by URL.

``https://host[:port]``, ``http://host[:port]``, or ``host[:port]`` alone, which means https whatever the host;
``oci:DIRECTORY``, ``docker-archive:FILE``, ``oci-archive:FILE`` and ``memory:``; and whatever schemes other
distributions register in the entry-point group ``ociport.backends``: a name and an opener, called as
``opener(url, auth=…, **settings)`` to give a ``Catalog``.
An opener that has a parameter ``observer`` is given the client's. The schemes above cannot be taken over.

Docker Hub is called ``docker.io``, but listens elsewhere: over https, ``docker.io`` and ``index.docker.io`` lead to
``registry-1.docker.io``. The registry is still called ``docker.io``, and that is what a keychain is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from registry_core.client import RegistryClient
from registry_core.domain.auth import Credential
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin, redact_url
from registry_core.domain.platform import Platform
from registry_core.errors import ConfigError, InvalidName
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.catalog import Catalog
from registry_core.ports.keychain import Keychain
from registry_core.ports.observer import Observer

if TYPE_CHECKING:
    from registry_adapters.http import Middleware

__all__ = [
    "GROUP",
    "open_catalog",
    "open_client",
    "open_docker_archive",
    "open_http",
    "open_layout",
    "open_memory",
    "open_oci_archive",
    "takes_credentials",
]

GROUP: Final = "ociport.backends"

_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"
_HUB_ORIGINS: Final = (Origin("https", "docker.io", 443), Origin("https", "index.docker.io", 443))

Auth = Credential | Keychain | Authenticator | None


def open_catalog(url: str, *, auth: Auth = None, **settings: Any) -> Catalog:
    """The backend that a URL names. Nothing is contacted or written yet.

    Args:
        url: Without a path, where it is a registry's.
        auth: A credential, for this registry only; a keychain; or an authenticator.
        settings: What the chosen backend knows: for HTTP, ``observer``, ``middleware`` and the fields of
            ``HttpSettings``.

    Raises:
        ConfigError: No such backend, a URL that it cannot use, or settings that cannot work.
        TypeError: A setting that the chosen backend does not know.
    """
    scheme, address, segments = _located(url)
    if segments:
        raise ConfigError(f"a catalog is a whole registry, without a path: {redact_url(url)}")
    return _opened(scheme, _opener(scheme), address, auth, settings)


def open_client(
    url: str,
    *,
    auth: Auth = None,
    default_platform: Platform | str | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> RegistryClient:
    """A client for the backend that a URL names; the path of a registry's URL is where the client starts.

    Args:
        url: As for ``open_catalog``, or with a path: ``registry.example.com/org/app``.
        auth: A credential, for this registry only; a keychain; or an authenticator.
        default_platform: What an index is resolved to where no platform is asked for; the host's own if not given.
        observer: Told what happens: what the client moves, whatever the backend; and each exchange of HTTP.
        settings: What the chosen backend knows: for HTTP, ``middleware`` and the fields of ``HttpSettings``.

    Raises:
        ConfigError: No such backend, a URL that it cannot use, or settings that cannot work.
        InvalidName: The path is no repository name, or the platform is malformed.
        TypeError: A setting that the chosen backend does not know.
    """
    scheme, address, segments = _located(url)
    opener = _opener(scheme)
    if observer is not None and _takes_observer(opener):
        settings["observer"] = observer
    catalog = _opened(scheme, opener, address, auth, settings)
    try:
        return RegistryClient(catalog, *segments, default_platform=default_platform, observer=observer)
    except BaseException:
        catalog.close()
        raise


def takes_credentials(url: str) -> bool:
    """Whether there is anybody to authenticate to in the backend that a URL names.

    Raises:
        ConfigError: No such backend, or a URL that it cannot use.
    """
    scheme, _, _ = _located(url)
    return scheme in ("http", "https") or scheme not in _BUILT_IN


def open_http(
    url: str,
    *,
    auth: Auth = None,
    observer: Observer | None = None,
    middleware: Sequence[Middleware] = (),
    **settings: Any,
) -> Catalog:
    """A registry over HTTP: the opener of ``https:`` and ``http:``.

    Args:
        url: ``https://host[:port]``, ``http://host[:port]`` or ``host[:port]``.
        auth: A credential, for this registry only; a keychain; or an authenticator.
        observer: Told what happens.
        middleware: Wrapped around each exchange, the first outermost.
        settings: Fields of ``HttpSettings``. A URL with a scheme settles ``plain_http``.

    Raises:
        ConfigError: The URL is none of these, contradicts ``plain_http``, or the settings cannot work.
        TypeError: A setting that ``HttpSettings`` does not have.
    """
    from registry_adapters.auth import authenticator
    from registry_adapters.http import HttpCatalog, HttpSettings

    for name in settings:
        if name not in HttpSettings.__struct_fields__:
            raise TypeError(f"the HTTP backend does not know the setting {name!r}")
    scheme, address, segments = _located(url)
    if scheme not in ("https", "http") or segments:
        raise ConfigError(f"not the URL of a registry: {redact_url(url)}")
    if "://" in address:
        plain = scheme == "http"
        if settings.setdefault("plain_http", plain) is not plain:
            raise ConfigError(f"plain_http={settings['plain_http']!r} contradicts {scheme}://")
    host = address.partition("://")[2] or address
    chosen = HttpSettings(**settings)
    origin = _origin(host, "http" if chosen.plain_http else "https")
    called = ""
    if origin in _HUB_ORIGINS:
        host, called, origin = _HUB_HOST, _HUB, _origin(_HUB_HOST, "https")
        auth = _HubKeychain(auth) if isinstance(auth, Keychain) else auth
    chosen_auth = authenticator(auth, registry=origin)
    return HttpCatalog(host, chosen, authenticator=chosen_auth, observer=observer, middleware=middleware, called=called)


def open_layout(url: str, *, auth: None = None, fsync: bool = True) -> Catalog:
    """Image layouts in a directory: the opener of ``oci:DIRECTORY``.

    Args:
        url: The directory behind ``oci:``, absolute or relative.
        auth: Nothing to authenticate here.
        fsync: Whether a write returns only once the disk has it.

    Raises:
        ConfigError: No directory is named, or the URL looks like a registry's.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.layout import LayoutCatalog

    _demand_no_auth("layout", auth)
    directory = url.partition(":")[2]
    if not directory or directory.startswith("//") or "\0" in directory:
        raise ConfigError(f"not a directory to keep image layouts in, as oci:DIRECTORY: {_shown(url)}")
    return LayoutCatalog(directory, fsync=fsync)


def open_docker_archive(url: str, *, auth: None = None, replace: bool = False, fsync: bool = True) -> Catalog:
    """Images in a file that ``docker load`` reads: the opener of ``docker-archive:FILE``.

    A file that exists is read, whichever form it has. A new one is there once the catalog is closed.

    Args:
        url: The file behind ``docker-archive:``, absolute or relative.
        auth: Nothing to authenticate here.
        replace: Begin a new archive, even where there is one.
        fsync: Whether closing returns only once the disk has it.

    Raises:
        ConfigError: No file is named, or the URL looks like a registry's.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm

    return ArchiveCatalog(_archive(url, auth), ArchiveForm.DOCKER, replace=replace, fsync=fsync)


def open_oci_archive(url: str, *, auth: None = None, replace: bool = False, fsync: bool = True) -> Catalog:
    """An image layout in a tar: the opener of ``oci-archive:FILE``.

    A file that exists is read, whichever form it has. A new one is there once the catalog is closed.

    Args:
        url: The file behind ``oci-archive:``, absolute or relative.
        auth: Nothing to authenticate here.
        replace: Begin a new archive, even where there is one.
        fsync: Whether closing returns only once the disk has it.

    Raises:
        ConfigError: No file is named, or the URL looks like a registry's.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm

    return ArchiveCatalog(_archive(url, auth), ArchiveForm.OCI, replace=replace, fsync=fsync)


def open_memory(url: str, *, auth: None = None) -> Catalog:
    """A new and empty backend in memory: the opener of ``memory:``.

    Args:
        url: ``memory:``, or with a name behind it, which distinguishes it in messages only.
        auth: Nothing to authenticate here.

    Raises:
        TypeError: ``auth`` was given.
    """
    from registry_adapters.memory import MemoryCatalog

    _demand_no_auth("memory", auth)
    return MemoryCatalog(url)


class _HubKeychain(Keychain):
    """A keychain that knows Docker Hub by its name, not by its host."""

    def __init__(self, keychain: Keychain) -> None:
        self._keychain = keychain

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        return self._keychain.credential(_HUB if registry == _HUB_HOST else registry, repository)


_BUILT_IN: Final[Mapping[str, Callable[..., Catalog]]] = MappingProxyType(
    {
        "docker-archive": open_docker_archive,
        "http": open_http,
        "https": open_http,
        "memory": open_memory,
        "oci": open_layout,
        "oci-archive": open_oci_archive,
    }
)


def _located(url: str) -> tuple[str, str, tuple[str, ...]]:
    """Scheme, what its opener is to be given, and the path that is left for the client."""
    word, colon, rest = url.partition(":")
    scheme = word.lower()
    if scheme in ("http", "https") and rest.startswith("//"):
        host, path = _split(url, rest[2:])
        return scheme, f"{scheme}://{host}", path
    if colon and (scheme in _BUILT_IN or _offers(scheme)):
        return scheme, f"{scheme}:{rest}", ()
    if rest.startswith("//"):
        raise _unknown(url)
    host, path = _split(url, url)
    return "https", host, path


def _split(url: str, text: str) -> tuple[str, tuple[str, ...]]:
    host, _, path = text.partition("/")
    if "@" in host:
        raise ConfigError(f"credentials belong into auth, not into a URL: {redact_url(f'https://{text}')}")
    if "?" in text or "#" in text:
        raise ConfigError(f"a registry's URL has no query and no fragment: {redact_url(url)}")
    try:
        Origin.of(host)
    except InvalidName:
        raise _unknown(url) from None
    path = path.strip("/")
    return host, tuple(path.split("/")) if path else ()


def _origin(host: str, scheme: str) -> Origin:
    try:
        return Origin.of(host, scheme=scheme)
    except InvalidName as error:
        raise ConfigError(error.message) from None


def _opener(scheme: str) -> Callable[..., Catalog]:
    return _BUILT_IN.get(scheme) or _loaded(scheme)


def _takes_observer(opener: Callable[..., Catalog]) -> bool:
    try:
        return "observer" in inspect.signature(opener).parameters
    except ValueError:  # a callable that does not tell
        return False


def _opened(scheme: str, opener: Callable[..., Catalog], address: str, auth: Auth, settings: dict[str, Any]) -> Catalog:
    catalog = opener(address, auth=auth, **settings)
    if not isinstance(catalog, Catalog):
        raise ConfigError(f"the opener of {scheme}: gave no Catalog, but {type(catalog).__name__}")
    return catalog


def _offers(scheme: str) -> bool:
    return scheme in entry_points(group=GROUP).names


def _loaded(scheme: str) -> Callable[..., Catalog]:
    found = next(iter(entry_points(group=GROUP, name=scheme)))
    try:
        opener: Callable[..., Catalog] = found.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the opener of {scheme}:, {found.value}, cannot be loaded") from error
    return opener


def _unknown(url: str) -> ConfigError:
    known = sorted({*_BUILT_IN, *entry_points(group=GROUP).names})
    return ConfigError(f"neither a registry nor a known backend ({', '.join(known)}): {_shown(url)}")


def _shown(url: str) -> str:
    """A URL fit for messages, its scheme included; unless what stands before the colon might be a user's name."""
    scheme, colon, rest = url.partition(":")
    named = scheme.isascii() and scheme.replace("-", "").isalnum()
    plain = colon and named and "@" not in url and not rest.startswith("//")
    return f"{scheme}:{redact_url(rest)}" if plain else redact_url(url)


def _archive(url: str, auth: object) -> str:
    scheme, _, path = url.partition(":")
    _demand_no_auth(scheme, auth)
    if not path or path.startswith("//") or "\0" in path:
        raise ConfigError(f"not a file to keep images in, as {scheme}:FILE: {_shown(url)}")
    return path


def _demand_no_auth(backend: str, auth: object) -> None:
    if auth is not None:
        raise TypeError(f"the {backend} backend does not know the setting 'auth'")
