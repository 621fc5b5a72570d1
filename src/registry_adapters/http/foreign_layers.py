"""Layers that a registry does not keep itself, from the URLs of their descriptors.

Somebody who may write to the registry chose these URLs. So whoever goes there takes nothing along: no credentials, no
client certificate, also where they lead back to the registry. Each URL, and each redirect from it, is judged by the
row for such errands; what comes is verified, and never longer than the descriptor says.
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
from registry_core.content.streams import BaseReader, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.auth import Scope
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.origin import Origin, resolve_url
from registry_core.domain.url_policy import UrlPurpose, check_url
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

# Nobody keeps one layer at more places; whoever wrote the descriptor could list as many as a manifest holds.
_PLACES: Final = 8
# What another of the URLs may do better.
_PASSED_OVER: Final = (TransportError, NotFound, AccessDenied, Unsupported)


class AnonymousClient:
    """Opens a session without credentials for URLs that one registry names, when it is first needed.

    Args:
        home: Registry that names the URLs.
        settings: Settings of the HTTP backend; ``client_cert`` and ``certs_dir`` are left out.
        transport: Transport that carries out exchanges; by default one over sockets.
        observer: Observer of the exchanges.
        middleware: Middleware around each exchange; the first is outermost. It sees no request as one to the registry.
    """

    def __init__(
        self,
        home: Origin,
        settings: HttpSettings,
        *,
        transport: Transport | None = None,
        observer: Observer | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._home = home
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
        opened = self._opened.get(self._home)
        if opened is None:
            new = Session(
                self._home,
                self._settings,
                transport=self._transport,
                observer=self._observer,
                middleware=self._middleware,
                purpose=UrlPurpose.FOREIGN,
            )
            # A session that a second thread makes at the same time has opened no connection yet.
            opened = self._opened.setdefault(self._home, new)
        return opened

    def close(self) -> None:
        """Close idle connections; later requests open new ones. Idempotent."""
        for opened in list(self._opened.values()):
            opened.close()


class HttpForeignLayers(ForeignLayers):
    """What the layers of one repository say about where they are.

    Args:
        outside: Who goes there.
        address: The repository, for errors.
    """

    def __init__(self, outside: AnonymousClient, address: RepositoryEndpoint) -> None:
        self._outside = outside
        self._address = address

    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        """A reader over the content, from the byte at ``start`` on, and never longer than the descriptor says.

        The URLs are tried in their order. What breaks off goes on at the same place.

        Raises:
            BlobNotFound: There are no URLs, or nothing is at the last of them.
            ProtocolError: The last of them may not be gone to.
            Unsupported: The digest cannot be verified.
            RegistryError: The last of them does not answer as it should.
        """
        reference = self._address.at(layer.digest)
        layer.digest.hasher()
        failure: RegistryError = BlobNotFound("it says nothing about where it is", reference=reference)
        for url in layer.urls[:_PLACES]:
            checkpoint()
            try:
                with error_reference(reference):
                    reader = self._download(layer, url, start)
            except _PASSED_OVER as error:
                failure = error
                continue
            if start:
                return _Bounded(reader, layer.size - start, reference)
            return VerifyingReader(reader, layer.digest, layer.size, reference=reference)
        raise failure

    def _download(self, layer: Descriptor, url: str, start: int) -> Download:
        session = self._outside.session()
        # A relative URL is refused: nothing says what it would be relative to.
        check_url(UrlPurpose.FOREIGN, session.origin, url)
        endpoint = _LayerUrl(self._address.registry, self._address.name, resolve_url(url, url))
        return Download(session, endpoint, layer.digest, start=start, fetch_size=lambda: layer.size)


class _LayerUrl(RepositoryEndpoint, frozen=True):
    """The endpoint of one layer at a URL of its own, which needs no scope."""

    url: str

    def path(self, *_: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        parts = urlsplit(self.url)
        return f"{Origin.of_url(self.url)}{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"

    def scopes(self, *_: str) -> tuple[Scope, ...]:
        return ()


class _Bounded(BaseReader):
    """What is left of a layer, and no byte more."""

    def __init__(self, reader: ByteReader, left: int, reference: str) -> None:
        self._reader = reader
        self._left = self._expected = left
        self._reference = reference

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        data = self._reader.read(size)
        self._left -= len(data)
        if self._left < 0 or (size and not data and self._left):
            raise SizeMismatch(
                "not as long as promised",
                expected=self._expected,
                actual=self._expected - self._left,
                reference=self._reference,
            )
        return data

    def close(self) -> None:
        self._reader.close()
