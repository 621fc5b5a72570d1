"""Layers that a registry does not keep itself, from the URLs of their descriptors.

Somebody who may write to the registry chose these URLs. So whoever goes there takes nothing along: no credentials, no
client certificate, also where they lead back to the registry. Each URL, and each redirect from it, is judged by the
row for such errands; what comes is verified, and never longer than the descriptor says.
"""

from __future__ import annotations

import random as chance
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from registry_adapters.http.blobs import Download
from registry_adapters.http.endpoint import RepositoryEndpoint
from registry_adapters.http.error_mapping import error_from_response
from registry_adapters.http.messages import Request, Response
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.rate_limit import RateLimiter
from registry_adapters.http.retry import RetryPolicy
from registry_adapters.http.sender import RequestSender, RequestState, read_error_body
from registry_adapters.http.session import Retrier, is_redirect
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.urllib3_transport import Transport, Urllib3Transport
from registry_core.cancellation import checkpoint, sleep
from registry_core.content.streams import BaseReader, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.auth import Scope
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import RULES, UrlPurpose, check_url
from registry_core.errors import (
    AccessDenied,
    BlobNotFound,
    NotFound,
    ProtocolError,
    RegistryError,
    SizeMismatch,
    TransportError,
    Unsupported,
    error_reference,
)
from registry_core.ports.catalog import ForeignLayers
from registry_core.ports.observer import Event, Observer

__all__ = ["AnonymousClient", "HttpForeignLayers"]

# Nobody keeps one layer at more places; whoever wrote the descriptor could list as many as a manifest holds.
_PLACES: Final = 8
# No URL has this origin: nothing that is sent from here goes to a registry as its own client.
_NOBODY: Final = Origin("https", "", 0)
# What another of the URLs may do better.
_PASSED_OVER: Final = (TransportError, NotFound, AccessDenied, Unsupported)


class AnonymousClient:
    """Requests without credentials, on behalf of one registry; safe for many threads.

    Args:
        home: The registry that names the URLs.
        settings: How to talk. Who we are, ``client_cert`` and ``certs_dir``, is left out.
        transport: What carries out exchanges; by default sockets, opened when they are first needed.
        observer: Who is told.
        middleware: What is put around each exchange; the first is outermost. None of them is at home.
        sleep: Waits for so many seconds.
        random: A number from 0 to 1.
        clock: Seconds that only go forward.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        home: Origin,
        settings: HttpSettings,
        *,
        transport: Transport | None = None,
        observer: Observer | None = None,
        middleware: Sequence[Middleware] = (),
        sleep: Callable[[float], None] = sleep,
        random: Callable[[], float] = chance.random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.home = home
        self.policy = RetryPolicy(retries=settings.retries, base=settings.backoff)
        self._settings = msgspec.structs.replace(settings, client_cert=None, certs_dir=None)
        self._transport = transport
        self._observer = observer
        self._middleware = tuple(middleware)
        self._sleep, self._random, self._clock, self._now = sleep, random, clock, now
        # Filled without a lock, for a lock might be held by nobody after a fork.
        self._made: dict[Origin, RequestSender] = {}

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            self._observer.on(event)

    def get(self, request: Request, url: str) -> Response:
        """The answer from a URL, after its redirects, if its status means success; to be closed by the caller.

        Raises:
            ProtocolError: The URL, or a redirect, may not be followed; nothing was sent there.
            RegistryError: Whatever else went wrong.
        """
        check_url(UrlPurpose.FOREIGN, self.home, url)
        call = RequestState(request.method, url, None, repeatable=True)

        def attempt() -> Response:
            answer = self._followed(call, dict(request.headers))
            if answer.status in request.success:
                return answer
            raise error_from_response(
                answer.status, answer.headers, read_error_body(answer), request, url=answer.url, now=self._now()
            )

        attempts = Retrier(self.policy, self.tell, sleep=self._sleep, random=self._random)
        try:
            return attempts.run(call, attempt)
        except RegistryError as error:
            error.reference = error.reference or request.reference
            raise

    def close(self) -> None:
        """Close idle connections; what is sent afterwards opens new ones. Idempotent."""
        for exchanges in list(self._made.values()):
            exchanges.close()

    def _followed(self, call: RequestState, headers: dict[str, str]) -> Response:
        url = call.url
        hops = RULES[UrlPurpose.FOREIGN].hops
        for _ in range(hops + 1):
            answer = self._opened().send(call, call.method, url, headers)
            if not is_redirect(answer.status):
                return answer
            read_error_body(answer)
            try:
                url = resolve_url(url, answer.headers.get("location"))
                check_url(UrlPurpose.FOREIGN, self.home, url)
            except ProtocolError as error:
                error.status, error.method, error.url = answer.status, call.method, redact_url(answer.url)
                raise
        raise ProtocolError(
            f"more than {hops} redirects from {redact_url(call.url)}", method=call.method, url=redact_url(call.url)
        )

    def _opened(self) -> RequestSender:
        made = self._made.get(_NOBODY)
        if made is None:
            transport = Urllib3Transport(self._settings) if self._transport is None else self._transport
            gates = RateLimiter(
                maximum=self._settings.max_connections,
                rate=self._settings.requests_per_second,
                clock=self._clock,
                sleep=self._sleep,
            )
            # What a race makes twice is dropped before it has opened anything.
            made = self._made.setdefault(
                _NOBODY,
                RequestSender(
                    _NOBODY,
                    transport,
                    gates,
                    policy=self.policy,
                    middleware=self._middleware,
                    observer=self._observer,
                    random=self._random,
                    clock=self._clock,
                    now=self._now,
                ),
            )
        return made


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
        # Without the fragment, and refused if it is not absolute: what would a relative one be relative to?
        check_url(UrlPurpose.FOREIGN, self._outside.home, url)
        place = resolve_url(url, url)
        address = _Place(self._address.registry, self._address.name, place)
        sender = _Outing(self._outside, Origin.of_url(place))
        return Download(sender, address, layer.digest, start=start, fetch_size=lambda: layer.size)


class _Outing:
    """Carries a download's requests, as if where they go were a registry."""

    def __init__(self, outside: AnonymousClient, origin: Origin) -> None:
        self._outside = outside
        self._origin = origin

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def policy(self) -> RetryPolicy:
        return self._outside.policy

    def tell(self, event: Event) -> None:
        self._outside.tell(event)

    def send(self, request: Request) -> Response:
        return self._outside.get(request, f"{self._origin}{request.target}")


class _Place(RepositoryEndpoint, frozen=True):
    """Where one layer is: whatever is asked for, it is there, and takes no right to be read."""

    url: str

    def path(self, *_: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        parts = urlsplit(self.url)
        return f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"

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
