"""Open a backend by its URL.

``https://host[:port]``, ``http://host[:port]`` and ``host[:port]`` (always https) are registries;
``oci:DIRECTORY``, ``docker-archive:FILE``, ``oci-archive:FILE`` and ``memory:`` the other built-in backends.
Other distributions add schemes by the entry-point group ``ociport.backends``: the scheme's name, and an opener that is
called as ``opener(url, auth=…, **settings)`` and returns a ``Catalog``. ``open_client`` passes its observer to an
opener that has a parameter ``observer``. The built-in schemes cannot be replaced.

Docker Hub is named ``docker.io``, but its registry API is at ``registry-1.docker.io``: over https, ``docker.io`` and
``index.docker.io`` connect there. Messages and keychains still use the name ``docker.io``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, cast

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
    from registry_adapters.http import HttpCatalog, HttpSettings, Middleware

__all__ = [
    "GROUP",
    "Auth",
    "BackendSettings",
    "HttpSettingsDict",
    "open_catalog",
    "open_client",
    "open_docker_archive",
    "open_http",
    "open_layout",
    "open_memory",
    "open_oci_archive",
    "open_registry",
    "takes_credentials",
]

GROUP: Final = "ociport.backends"

_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"
_HUB_ORIGINS: Final = (Origin("https", "docker.io", 443), Origin("https", "index.docker.io", 443))

Auth = Credential | Keychain | Authenticator | None
_Path = str | os.PathLike[str]


class HttpSettingsDict(TypedDict, total=False):
    """Keyword arguments that become ``HttpSettings``, which documents them."""

    plain_http: bool
    tls_verify: bool
    ca_file: _Path | None
    trust_system: bool
    certs_dir: _Path | None
    tls_minimum: str
    client_cert: _Path | tuple[_Path, _Path] | None
    connect_timeout: float
    read_timeout: float
    chunk_size: int | None
    max_connections: int
    requests_per_second: float | None
    path_prefix: str
    proxy: str | None
    user_agent: str
    trusted_hosts: list[str] | tuple[str, ...] | set[str] | frozenset[str]
    retries: int
    backoff: float


class BackendSettings(HttpSettingsDict, total=False):
    """Settings of all built-in backends, for type checkers; at run time, each backend rejects those of the others.

    Settings of a backend from another distribution are not listed: pass them as ``**options``, a ``dict[str, Any]``.
    """

    middleware: Sequence[Middleware]  # http
    fsync: bool  # oci, docker-archive, oci-archive
    follow_symlinks: bool  # oci
    replace: bool  # docker-archive, oci-archive


def open_catalog(
    url: str, *, auth: Auth = None, observer: Observer | None = None, **settings: Unpack[BackendSettings]
) -> Catalog:
    """Open the backend that a URL names. No request is sent and no file is written yet.

    Args:
        url: URL of the backend; for a registry, without a path.
        auth: Credential for this registry only, or a keychain, or an authenticator.
        observer: Receiver of events; only for backends that report events, such as HTTP.
        settings: Settings of the chosen backend. HTTP: ``middleware`` and the fields of ``HttpSettings``. ``oci:``:
            ``fsync`` and ``follow_symlinks``. Archives: ``replace`` and ``fsync``.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed, or a setting has an invalid value.
        TypeError: The chosen backend has no such setting.
    """
    scheme, address, segments = _parse(url)
    if segments:
        raise ConfigError(f"open catalog {redact_url(url)}: a catalog is a whole registry; remove the path")
    observing: dict[str, object] = {} if observer is None else {"observer": observer}
    return _open(scheme, _opener(scheme), address, auth, {**settings, **observing})


def open_client(
    url: str,
    *,
    auth: Auth = None,
    default_platform: Platform | str | None = None,
    observer: Observer | None = None,
    **settings: Unpack[BackendSettings],
) -> RegistryClient:
    """Open a client for the backend that a URL names; the path of a registry's URL becomes the client's path.

    Args:
        url: URL as for ``open_catalog``, or with a path: ``registry.example.com/org/app``.
        auth: Credential for this registry only, or a keychain, or an authenticator.
        default_platform: Platform to select from an index when a call names none; by default, that of this host.
        observer: Receiver of events: blobs and manifests that the client transfers, and the requests of HTTP.
        settings: Settings of the chosen backend; see ``open_catalog``.

    Raises:
        ConfigError: The scheme is unknown, the URL is malformed, or a setting has an invalid value.
        InvalidName: The path is not a repository name, or the platform is malformed.
        TypeError: The chosen backend has no such setting.
    """
    scheme, address, segments = _parse(url)
    opener = _opener(scheme)
    observing: dict[str, object] = {}
    if observer is not None and _takes_observer(opener):
        observing["observer"] = observer
    catalog = _open(scheme, opener, address, auth, {**settings, **observing})
    try:
        return RegistryClient(catalog, *segments, default_platform=default_platform, observer=observer)
    except BaseException:
        catalog.close()
        raise


def takes_credentials(url: str) -> bool:
    """Return whether a backend can authenticate: a registry can, and a backend of another distribution may.

    Args:
        url: URL of the backend.

    Raises:
        ConfigError: The scheme is unknown, or the URL is malformed.
    """
    scheme, _, _ = _parse(url)
    return scheme in ("http", "https") or scheme not in _BUILT_IN


def open_http(
    url: str,
    *,
    auth: Auth = None,
    observer: Observer | None = None,
    middleware: Sequence[Middleware] = (),
    **settings: Unpack[HttpSettingsDict],
) -> HttpCatalog:
    """Open a registry over HTTP: the opener of ``https:`` and ``http:``.

    Args:
        url: ``https://host[:port]``, ``http://host[:port]`` or ``host[:port]``.
        auth: Credential for this registry only, or a keychain, or an authenticator.
        observer: Receiver of events.
        middleware: Functions called around each request, the first outermost.
        settings: Fields of ``HttpSettings``. The scheme of the URL sets ``plain_http``.

    Raises:
        ConfigError: The URL is not a registry's, contradicts ``plain_http``, or a setting has an invalid value.
        TypeError: ``HttpSettings`` has no such field.
    """
    from registry_adapters.http import HttpSettings

    for name in settings:
        if name not in HttpSettings.__struct_fields__:
            raise TypeError(f"the HTTP backend has no setting {name!r}")
    scheme, address, segments = _parse(url)
    if scheme not in ("https", "http") or segments:
        raise ConfigError(f"not the URL of a registry, such as https://host[:port]: {_for_message(url)}")
    if "://" in address:
        plain_http = settings.setdefault("plain_http", scheme == "http")
        if plain_http is not (scheme == "http"):
            raise ConfigError(f"plain_http={plain_http!r} contradicts {scheme}://")
    host = address.partition("://")[2] or address
    # HttpSettings checks the values, and replaces path objects by their text.
    return open_registry(
        host, HttpSettings(**cast("Any", settings)), auth=auth, observer=observer, middleware=middleware
    )


def open_registry(
    host: str,
    settings: HttpSettings,
    *,
    auth: Auth = None,
    observer: Observer | None = None,
    middleware: Sequence[Middleware] = (),
) -> HttpCatalog:
    """Open a registry over HTTP by its host, with settings that are already checked.

    Args:
        host: ``host[:port]``.
        settings: Settings of the HTTP backend.
        auth: Credential for this registry only, or a keychain, or an authenticator.
        observer: Receiver of events.
        middleware: Functions called around each request, the first outermost.

    Raises:
        ConfigError: The host is malformed, or a setting cannot be used.
    """
    from registry_adapters.auth import authenticator_for
    from registry_adapters.http import HttpCatalog

    if callable(middleware):
        raise TypeError("middleware must be a list of functions, not a single one")
    origin = _origin(host, "http" if settings.plain_http else "https")
    name = ""
    if origin in _HUB_ORIGINS:
        host, name, origin = _HUB_HOST, _HUB, _origin(_HUB_HOST, "https")
        auth = _HubKeychain(auth) if isinstance(auth, Keychain) else auth
    chosen_auth = authenticator_for(auth, registry=origin)
    return HttpCatalog(
        host, settings, authenticator=chosen_auth, observer=observer, middleware=middleware, registry=name
    )


def open_layout(url: str, *, auth: None = None, fsync: bool = True, follow_symlinks: bool = False) -> Catalog:
    """Open a directory of image layouts: the opener of ``oci:DIRECTORY``.

    Args:
        url: ``oci:`` and the path of the directory, absolute or relative.
        auth: Not supported.
        fsync: Flush each write to disk before it returns.
        follow_symlinks: Read through symbolic links that stay inside the directory; see ``LayoutCatalog``.

    Raises:
        ConfigError: The URL names no directory, or has a host.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.layout import LayoutCatalog

    _reject_auth("oci", auth)
    directory = url.partition(":")[2]
    if not directory or directory.startswith("//") or "\0" in directory:
        raise ConfigError(f"not a directory of image layouts, as in oci:DIRECTORY: {_for_message(url)}")
    return LayoutCatalog(directory, fsync=fsync, follow_symlinks=follow_symlinks)


def open_docker_archive(url: str, *, auth: None = None, replace: bool = False, fsync: bool = True) -> Catalog:
    """Open a file that ``docker load`` reads: the opener of ``docker-archive:FILE``.

    An existing file is read, in either archive format. A new file is written when the catalog is closed.

    Args:
        url: ``docker-archive:`` and the path of the file, absolute or relative.
        auth: Not supported.
        replace: Write a new archive even if the file exists.
        fsync: Flush the new file to disk before ``close`` returns.

    Raises:
        ConfigError: The URL names no file, or has a host.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm

    return ArchiveCatalog(_archive_path(url, auth), ArchiveForm.DOCKER, replace=replace, fsync=fsync)


def open_oci_archive(url: str, *, auth: None = None, replace: bool = False, fsync: bool = True) -> Catalog:
    """Open an image layout in a tar file: the opener of ``oci-archive:FILE``.

    An existing file is read, in either archive format. A new file is written when the catalog is closed.

    Args:
        url: ``oci-archive:`` and the path of the file, absolute or relative.
        auth: Not supported.
        replace: Write a new archive even if the file exists.
        fsync: Flush the new file to disk before ``close`` returns.

    Raises:
        ConfigError: The URL names no file, or has a host.
        TypeError: ``auth`` was given.
    """
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm

    return ArchiveCatalog(_archive_path(url, auth), ArchiveForm.OCI, replace=replace, fsync=fsync)


def open_memory(url: str, *, auth: None = None) -> Catalog:
    """Create an empty backend in memory: the opener of ``memory:``.

    Args:
        url: ``memory:``, optionally followed by a name that is only used in messages.
        auth: Not supported.

    Raises:
        TypeError: ``auth`` was given.
    """
    from registry_adapters.memory import MemoryCatalog

    _reject_auth("memory", auth)
    return MemoryCatalog(url)


class _HubKeychain(Keychain):
    """Look up Docker Hub by its name instead of by the host of its API."""

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


def _parse(url: str) -> tuple[str, str, tuple[str, ...]]:
    """Split a URL into its scheme, the URL for the scheme's opener, and the client's path."""
    if not isinstance(url, str):
        raise ConfigError(
            f"the URL of a backend must be text, not {type(url).__name__}; a directory is 'oci:DIRECTORY'"
        )
    prefix, colon, rest = url.partition(":")
    scheme = prefix.lower()
    if scheme in ("http", "https") and rest.startswith("//"):
        host, path = _split_path(url, rest[2:])
        return scheme, f"{scheme}://{host}", path
    if colon and (scheme in _BUILT_IN or scheme in entry_points(group=GROUP).names):
        return scheme, f"{scheme}:{rest}", ()
    if rest.startswith("//"):
        raise _unknown_backend(url)
    host, path = _split_path(url, url)
    return "https", host, path


def _split_path(url: str, without_scheme: str) -> tuple[str, tuple[str, ...]]:
    host, _, path = without_scheme.partition("/")
    if "@" in host:
        scheme = url[: len(url) - len(without_scheme)].lower()
        redacted = redact_url(f"{scheme or 'https://'}{without_scheme}")
        raise ConfigError(
            f"pass credentials by auth, not in the URL: {redacted if scheme else redacted.removeprefix('https://')}"
        )
    if "?" in without_scheme or "#" in without_scheme:
        raise ConfigError(f"the URL of a registry has no query and no fragment: {redact_url(url)}")
    try:
        Origin.of(host)
    except InvalidName as error:
        if url != without_scheme:
            raise ConfigError(f"open a registry: {error.message}") from None
        raise _unknown_backend(url) from None
    path = path.strip("/")
    return host, tuple(path.split("/")) if path else ()


def _origin(host: str, scheme: str) -> Origin:
    try:
        return Origin.of(host, scheme=scheme)
    except InvalidName as error:
        raise ConfigError(error.message) from None


def _opener(scheme: str) -> Callable[..., Catalog]:
    return _BUILT_IN.get(scheme) or _load_opener(scheme)


def _load_opener(scheme: str) -> Callable[..., Catalog]:
    entry_point = next(iter(entry_points(group=GROUP, name=scheme)))
    try:
        opener: Callable[..., Catalog] = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"load {entry_point.value}, the opener of {scheme}: {error}") from error
    return opener


def _takes_observer(opener: Callable[..., Catalog]) -> bool:
    try:
        return "observer" in inspect.signature(opener).parameters
    except ValueError:  # some callables of C extensions have no signature
        return False


def _check_settings(scheme: str, opener: Callable[..., Catalog], settings: Mapping[str, object]) -> None:
    try:
        parameters = inspect.signature(opener).parameters
    except ValueError:
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in settings:
        if name not in parameters:
            raise TypeError(f"the {scheme} backend has no setting {name!r}")


def _open(scheme: str, opener: Callable[..., Catalog], url: str, auth: Auth, settings: Mapping[str, object]) -> Catalog:
    _check_settings(scheme, opener, settings)
    catalog = opener(url, auth=auth, **settings)
    if not isinstance(catalog, Catalog):
        raise ConfigError(f"the opener of {scheme}: returned {type(catalog).__name__} instead of a Catalog")
    return catalog


def _unknown_backend(url: str) -> ConfigError:
    schemes = sorted({*_BUILT_IN, *entry_points(group=GROUP).names})
    hint = ""
    if url.startswith(("/", ".", "~")) or "\\" in url:
        hint = "; for a directory of image layouts, write oci:DIRECTORY"
    elif url.startswith("docker://"):
        hint = "; for a registry, write host[:port] without docker://"
    return ConfigError(
        f"open {_for_message(url)!r}: neither a registry, as host[:port], "
        f"nor a known backend ({', '.join(schemes)}){hint}"
    )


def _for_message(url: str) -> str:
    """Redact a URL but keep its scheme, unless the part before the colon may be a user name."""
    scheme, colon, rest = url.partition(":")
    if rest in ("", "//"):
        return url
    if not colon or "@" in url or rest.startswith("//"):
        return redact_url(url)
    return f"{scheme}:{redact_url(rest)}"


def _archive_path(url: str, auth: object) -> str:
    scheme, _, path = url.partition(":")
    _reject_auth(scheme, auth)
    if not path or path.startswith("//") or "\0" in path:
        raise ConfigError(f"not an archive file, as in {scheme}:FILE: {_for_message(url)}")
    return path


def _reject_auth(backend: str, auth: object) -> None:
    if auth is not None:
        raise TypeError(f"the {backend} backend has no setting 'auth'")
