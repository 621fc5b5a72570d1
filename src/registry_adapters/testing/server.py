"""A registry in a thread of this process that fails on demand and logs its requests (extra ``ociport[testing]``)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypedDict, Unpack
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from registry_adapters.backends import Auth, BackendSettings, open_client
from registry_adapters.memory import MemoryCatalog
from registry_adapters.testing.faults import Fault
from registry_adapters.testing.matching import RequestMatcher
from registry_adapters.testing.request import ConnectionDropped, FaultContext, Response, StallGate
from registry_adapters.testing.request_log import Entry, RequestLog
from registry_adapters.wsgi import Authorizer, RegistryServer, registry_server
from registry_core.client import RegistryClient
from registry_core.domain.platform import Platform
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Observer

__all__ = ["FaultyApp", "FaultyRegistry", "ServerOptions", "faulty_registry"]

Path = str | os.PathLike[str]


class FaultyApp:
    """WSGI middleware that applies faults to the requests of a registry.

    If several faults match a request, the one that was injected first applies. Faults of the connection need
    ``registry_server``; behind another server they become an exception of the application.

    Args:
        app: Application to wrap.
        faults: Faults to inject at the start.

    Attributes:
        request_log: Log of all requests.
    """

    def __init__(self, app: WSGIApplication, *faults: Fault) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, RequestMatcher]] = []
        self._gate = StallGate()
        self.request_log = RequestLog()
        self.inject(*faults)

    def inject(self, *faults: Fault) -> None:
        """Add faults, from the next request on."""
        with self._lock:
            self._faults += [(fault, RequestMatcher(fault.match)) for fault in faults]

    def clear(self) -> None:
        """Remove all faults, and release stalled requests."""
        with self._lock:
            self._faults.clear()
        self._gate.release()

    def release(self) -> None:
        """Release the requests that are stalled now."""
        self._gate.release()

    def wait_for_stall(self, seconds: float = 5.0) -> bool:
        """Wait until a request is stalled.

        Returns:
            Whether one is; ``False`` after the time is over.
        """
        return self.request_log.wait_for_stall(seconds)

    def close(self) -> None:
        """Drop stalled requests without a response, and let no further ones stall. Idempotent."""
        self._gate.close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request (PEP 3333)."""
        entry = self.request_log.add(environ)
        environ["wsgi.input"] = _CountedInput(environ["wsgi.input"], entry)
        fault, matcher = self._matching(environ)
        entry.fault = "" if fault is None else str(fault)
        context = FaultContext(self._app, environ, entry, self.request_log, self._gate, matcher)
        try:
            response = context.forward() if fault is None else fault.effect(context)
            entry.status = response.status
            start_response(response.status_line, response.headers)
        except ConnectionDropped:
            self.request_log.finish(entry)
            return []
        except BaseException:
            self.request_log.finish(entry)
            raise
        return _CountedBody(response, context, self.request_log)

    def _matching(self, environ: WSGIEnvironment) -> tuple[Fault | None, RequestMatcher | None]:
        with self._lock:
            # Every fault counts the request, even if an earlier one applies to it.
            matching = [(fault, matcher) for fault, matcher in self._faults if matcher.applies(environ)]
        return next((each for each in matching if each[1].apply()), (None, None))


class _CountedBody:
    """A response body that counts the bytes sent."""

    def __init__(self, response: Response, context: FaultContext, request_log: RequestLog) -> None:
        self._response = response
        self._context = context
        self._request_log = request_log

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._response.body:
                yield data
                self._context.entry.sent += len(data)
        except ConnectionDropped:
            if self._context.connection is None:
                raise ConnectionResetError("an injected fault") from None

    def close(self) -> None:
        self._response.close()
        self._request_log.finish(self._context.entry)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _CountedInput:
    """A request body that counts the bytes read."""

    def __init__(self, stream: _Readable, entry: Entry) -> None:
        self._stream = stream
        self._entry = entry

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._entry.received += len(data)
        return data


class ServerOptions(TypedDict, total=False):
    """Options of ``registry_server``."""

    host: str
    port: int
    read_only: bool
    tls: tuple[Path, Path] | None
    authorizer: Authorizer | None
    manifest_limit: int
    page_limit: int | None
    upload_directory: Path | None
    referrers_api: bool
    chunk_min_length: int | None
    root_name: str
    threads: int


class FaultyRegistry:
    """A running registry that fails on demand.

    Args:
        server: The server.
        app: The middleware that applies faults.
        clients: Exit stack that closes the clients.

    Attributes:
        url: URL of the registry.
        host: Address of the registry as ``address:port``.
        catalog: The served catalog. Access to it meets no fault.
    """

    def __init__(self, server: RegistryServer, app: FaultyApp, clients: ExitStack) -> None:
        self._app = app
        self._clients = clients
        self.url = server.url
        self.host = server.host
        self.catalog: Catalog = server.app.catalog

    def __repr__(self) -> str:
        return f"FaultyRegistry({self.url})"

    @property
    def request_log(self) -> RequestLog:
        """Log of all requests."""
        return self._app.request_log

    def inject(self, *faults: Fault) -> None:
        """Add faults, from the next request on. If several match a request, the one injected first applies."""
        self._app.inject(*faults)

    def clear(self) -> None:
        """Remove all faults, and release stalled requests. The request log stays."""
        self._app.clear()

    def release(self) -> None:
        """Release the requests that are stalled now."""
        self._app.release()

    def wait_for_stall(self, seconds: float = 5.0) -> bool:
        """Wait until a request is stalled.

        Returns:
            Whether one is; ``False`` after the time is over.
        """
        return self._app.wait_for_stall(seconds)

    def client(
        self,
        *,
        auth: Auth = None,
        default_platform: Platform | str | None = None,
        observer: Observer | None = None,
        **settings: Unpack[BackendSettings],
    ) -> RegistryClient:
        """Open a client for this registry; it is closed with the registry. Arguments as for ``open_client``.

        Raises:
            ConfigError: A setting has an invalid value.
            TypeError: The HTTP backend has no such setting.
        """
        client = open_client(self.url, auth=auth, default_platform=default_platform, observer=observer, **settings)
        return self._clients.enter_context(client)


@contextmanager
def faulty_registry(
    *faults: Fault, catalog: Catalog | None = None, **options: Unpack[ServerOptions]
) -> Iterator[FaultyRegistry]:
    """Serve a registry that fails on demand for the duration of a ``with`` block.

    Args:
        faults: Faults to inject at the start.
        catalog: Catalog to serve, which stays open; an empty one in memory if ``None``. Access to it meets no fault.
        options: Options of ``registry_server``.

    Raises:
        ConfigError: The extra is not installed, the address is not available, or an option is invalid.
    """
    apps: list[FaultyApp] = []

    def wrap(app: WSGIApplication) -> WSGIApplication:
        apps.append(FaultyApp(app, *faults))
        return apps[0]

    served = MemoryCatalog() if catalog is None else catalog
    with registry_server(served, wrap=wrap, **options) as server, ExitStack() as clients:
        try:
            yield FaultyRegistry(server, apps[0], clients)
        finally:
            # Before the server stops: it would wait for stalled requests.
            apps[0].close()
