"""Catalog of a registry that speaks the OCI distribution protocol over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry_adapters.http.blobs import HttpBlobs
from registry_adapters.http.endpoint import RepositoryEndpoint, status_of
from registry_adapters.http.foreign_layers import AnonymousClient, HttpForeignLayers
from registry_adapters.http.manifests import HttpManifests
from registry_adapters.http.messages import Request
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.paging import list_names
from registry_adapters.http.referrers import ReferrersSupportCache
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_adapters.http.upload_sessions import PendingUploads
from registry_core.domain.auth import Scope
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import CatalogUnsupported, RegistryError, Unsupported
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.observer import Observer

__all__ = ["HttpCatalog"]

_DEFAULTS = HttpSettings()


class HttpCatalog(Catalog):
    """A registry over HTTP.

    Args:
        host: ``host[:port]`` of the registry.
        settings: Settings of the HTTP backend.
        authenticator: Authenticator that answers challenges; ``None`` to answer none.
        observer: Receiver of events.
        transport: Transport for single requests; by default one over sockets.
        middleware: Functions called around each request, the first outermost.
        registry: Name in references and errors, if it is not ``host``; requests and credentials go to ``host``.

    Raises:
        InvalidName: The host is not ``host[:port]``.
        ConfigError: The settings name files that cannot be used.
    """

    def __init__(
        self,
        host: str,
        settings: HttpSettings = _DEFAULTS,
        *,
        authenticator: Authenticator | None = None,
        observer: Observer | None = None,
        transport: Transport | None = None,
        middleware: Sequence[Middleware] = (),
        registry: str = "",
    ) -> None:
        origin = Origin.of(host, scheme="http" if settings.plain_http else "https")
        self._session = Session(
            origin,
            settings,
            transport=transport,
            authenticator=authenticator,
            observer=observer,
            middleware=middleware,
        )
        self._anonymous_client = AnonymousClient(
            origin, settings, transport=transport, observer=observer, middleware=middleware
        )
        self._chunk_size = settings.chunk_size
        self._registry = registry or origin.netloc
        self._support_cache = ReferrersSupportCache()
        self._pending_uploads = PendingUploads()

    @property
    def registry(self) -> str:
        """Name of the registry in references: ``host[:port]``, or the name given to the constructor."""
        return self._registry

    def repository(self, name: str) -> Repository:
        """Return a repository, whether it exists or not. Does no I/O.

        Args:
            name: Repository name. An empty one is accepted here, but registries have no such repository, so its
                methods raise ``InvalidName``.

        Raises:
            InvalidName: The text is not a repository name.
        """
        name = RepositoryName(name)
        endpoint = RepositoryEndpoint(self.registry, name)
        return Repository(
            name,
            HttpBlobs(self._session, endpoint, chunk_size=self._chunk_size, pending_uploads=self._pending_uploads),
            HttpManifests(self._session, endpoint, support_cache=self._support_cache),
            self.registry,
            HttpForeignLayers(self._anonymous_client, endpoint),
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """Iterate over all repositories: in ASCII order if they come in one page, otherwise in the registry's order.

        Raises:
            CatalogUnsupported: The registry does not list its repositories.
            AccessDenied: The registry does not list its repositories for this user.
        """
        request = Request(
            method="GET",
            target="/v2/_catalog",
            success=(200,),
            scopes=(Scope.catalog(),),
            reference=self.registry,
            missing="catalog",
        )
        try:
            yield from list_names(
                self._session, request, key="repositories", kind=RepositoryName, after=after, page_size=page_size
            )
        except RegistryError as error:
            if isinstance(error, CatalogUnsupported):
                raise
            if not isinstance(error, Unsupported) and status_of(error) not in (404, 405, 501):
                raise
            raise CatalogUnsupported(
                "the registry does not list its repositories", reference=self.registry, transport=error.transport
            ) from error

    def ping(self) -> None:
        """Check that the host is a registry and accepts the credentials (distribution-spec, "Determining Support").

        Raises:
            Unauthorized: The registry requires credentials, or rejects the given ones.
            Forbidden: The registry denies access.
            Unsupported: The host is not a registry, or does not speak the distribution protocol.
            TransportError: No connection, or not the response of a registry.
        """
        request = Request(method="GET", target="/v2/", success=(200,), reference=self.registry, missing="registry")
        self._session.send(request).close()

    def close(self) -> None:
        """Close idle connections and cancel pending upload sessions; later calls open new ones. Idempotent."""
        self._pending_uploads.close(self._session)
        self._session.close()
        self._anonymous_client.close()
