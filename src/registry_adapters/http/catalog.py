"""An HTTP registry as a backend."""

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
    """The repositories of a registry, over HTTP.

    Args:
        host: ``host[:port]`` of the registry.
        settings: How to talk to it.
        authenticator: Answers its challenges; ``None`` for one that answers none.
        observer: Told what happens.
        transport: Carries single exchanges, in place of sockets.
        middleware: What is put around each exchange; the first is outermost.
        called: What the registry is called where that is not its host; requests and credentials go to the host.

    Raises:
        InvalidName: The host is none.
        ConfigError: The settings cannot work.
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
        called: str = "",
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
        self._outside = AnonymousClient(origin, settings, transport=transport, observer=observer, middleware=middleware)
        self._chunk_size = settings.chunk_size
        self._called = called or origin.netloc
        self._support_cache = ReferrersSupportCache()
        self._uploads = PendingUploads()

    @property
    def registry(self) -> str:
        """``host[:port]``, or what else it is called."""
        return self._called

    def repository(self, name: str) -> Repository:
        """A repository by name. The one without a name can be had, but not used: registries know no such thing."""
        name = RepositoryName(name)
        address = RepositoryEndpoint(self.registry, name)
        return Repository(
            name,
            HttpBlobs(self._session, address, chunk_size=self._chunk_size, pending_uploads=self._uploads),
            HttpManifests(self._session, address, support_cache=self._support_cache),
            self.registry,
            HttpForeignLayers(self._outside, address),
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """All repositories: in ASCII order if the registry sends them at once, in the registry's if it sends pages.

        Raises:
            CatalogUnsupported: The registry does not list its repositories.
            AccessDenied: It does not list them for everyone.
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
        """Ask whether this is a registry, and whether it knows us: nothing is returned, for nothing else is said.

        Raises:
            Unauthorized: It wants credentials that there are none of, or other ones.
            Forbidden: It refuses.
            Unsupported: What answers is no registry, or one that does not speak the distribution protocol.
            TransportError: It cannot be reached, or does not answer as a registry does.
        """
        request = Request(method="GET", target="/v2/", success=(200,), reference=self.registry, missing="registry")
        self._session.send(request).close()

    def close(self) -> None:
        """Close idle connections, and give up what uploads are still open; later calls open new ones. Idempotent."""
        self._uploads.close(self._session)
        self._session.close()
        self._outside.close()
