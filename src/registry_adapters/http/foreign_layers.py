"""Foreign layers: content at the ``urls`` of a descriptor, outside the registry.

Anyone who may push to the registry can choose these URLs. Requests to them therefore carry no credentials and no
client certificate, even if they lead back to the registry. The URL policy has a rule for these URLs and their
redirects. The content is verified, and no more bytes are returned than the descriptor states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from registry_adapters.http.blobs import Download
from registry_adapters.http.endpoint import RepositoryEndpoint
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_core.cancellation import checkpoint
from registry_core.content.streams import BaseReader, ByteReader, reader_remark
from registry_core.content.verify import VerifyingReader
from registry_core.domain.auth import Scope
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.origin import Origin, resolve_url
from registry_core.domain.url_policy import UrlPurpose
from registry_core.errors import (
    AccessDenied,
    BlobNotFound,
    NotFound,
    RegistryError,
    SizeMismatch,
    TransportError,
    Unsupported,
    error_reference,
)
from registry_core.ports.catalog import ForeignLayers
from registry_core.ports.observer import Observer

__all__ = ["AnonymousClient", "HttpForeignLayers"]

# A manifest could list thousands of URLs; real ones list one or two.
_MAX_URLS: Final = 8
# Errors after which the next URL is tried.
_TRY_NEXT_URL: Final = (TransportError, NotFound, AccessDenied, Unsupported)


class AnonymousClient:
    """Opens a session without credentials for URLs that one registry names, when it is first needed.

    Args:
        registry: Registry that names the URLs.
        settings: Settings of the HTTP backend; ``client_cert`` and ``certs_dir`` are left out.
        transport: Transport that carries out exchanges; by default one over sockets.
        observer: Observer of the exchanges.
        middleware: Middleware around each exchange; the first is outermost. It sees no request as one to the registry.
    """

    def __init__(
        self,
        registry: Origin,
        settings: HttpSettings,
        *,
        transport: Transport | None = None,
        observer: Observer | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._registry = registry
        self._settings = msgspec.structs.replace(settings, client_cert=None, certs_dir=None)
        self._transport = transport
        self._observer = observer
        self._middleware = tuple(middleware)
        # Filled without a lock: after a fork, a lock might be held by a thread that no longer exists.
        self._opened: dict[Origin, Session] = {}

    def session(self) -> Session:
        """The session; the first call opens it.

        Raises:
            ConfigError: The settings name files that cannot be used.
        """
        opened = self._opened.get(self._registry)
        if opened is None:
            new = Session(
                self._registry,
                self._settings,
                transport=self._transport,
                observer=self._observer,
                middleware=self._middleware,
                purpose=UrlPurpose.FOREIGN,
            )
            # A session that a second thread makes at the same time has opened no connection yet.
            opened = self._opened.setdefault(self._registry, new)
        return opened

    def close(self) -> None:
        """Close idle connections; later requests open new ones. Idempotent."""
        for opened in list(self._opened.values()):
            opened.close()


class HttpForeignLayers(ForeignLayers):
    """Foreign layers of one repository.

    Args:
        client: Client that opens the session for their URLs.
        endpoint: Repository of the layers, for errors.
    """

    def __init__(self, client: AnonymousClient, endpoint: RepositoryEndpoint) -> None:
        self._client = client
        self._endpoint = endpoint

    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        """Open the content at the byte ``start``; the reader never returns more bytes than the descriptor states.

        The URLs are tried in order. Broken connections are resumed.

        Raises:
            BlobNotFound: The descriptor has no URLs, or the last one does not have the content.
            ProtocolError: The URL policy refuses the last URL.
            Unsupported: The digest's algorithm cannot be verified.
            RegistryError: The last URL could not be read.
        """
        reference = self._endpoint.at(layer.digest)
        layer.digest.hasher()
        failure: RegistryError = BlobNotFound("foreign layer: the descriptor has no urls", reference=reference)
        for url in layer.urls[:_MAX_URLS]:
            checkpoint()
            try:
                with error_reference(reference):
                    reader = self._download(layer, url, start)
            except _TRY_NEXT_URL as error:
                failure = error
                continue
            if start:
                return _BoundedReader(reader, layer.size - start, reference)
            return VerifyingReader(reader, layer.digest, layer.size, reference=reference)
        raise failure

    def _download(self, layer: Descriptor, url: str, start: int) -> Download:
        session = self._client.session()
        # A relative URL is refused: it has no base.
        session.check_url(UrlPurpose.FOREIGN, url)
        endpoint = _LayerUrl(self._endpoint.registry, self._endpoint.name, resolve_url(url, url))
        return Download(session, endpoint, layer.digest, start=start, fetch_size=lambda: layer.size)


class _LayerUrl(RepositoryEndpoint, frozen=True):
    """Endpoint of one foreign layer: every path is its URL, and no scope is needed."""

    url: str

    def path(self, *_: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        parts = urlsplit(self.url)
        return f"{Origin.of_url(self.url)}{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"

    def scopes(self, *_: str) -> tuple[Scope, ...]:
        return ()


class _BoundedReader(BaseReader):
    """The rest of a layer, with exactly the expected number of bytes."""

    def __init__(self, reader: ByteReader, size: int, reference: str) -> None:
        self._reader = reader
        self._bytes_left = self._size = size
        self._reference = reference

    @property
    def remark(self) -> str:
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        data = self._reader.read(size)
        self._bytes_left -= len(data)
        if self._bytes_left < 0 or (size and not data and self._bytes_left):
            count = self._size - self._bytes_left
            raise SizeMismatch(
                f"foreign layer: read {count} bytes, expected {self._size}{self.remark}",
                expected=self._size,
                actual=count,
                reference=self._reference,
            )
        return data

    def close(self) -> None:
        self._reader.close()
