"""A registry in a thread of this process that fails on demand (extra ``ociport[testing]``).

A WSGI middleware that makes a registry fail on demand, and writes down what it is asked.
"""

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
from registry_adapters.testing.request import ConnectionDropped, FaultContext, Reply, StallGate
from registry_adapters.testing.request_log import Entry, RequestLog
from registry_adapters.wsgi import Authorizer, RegistryServer, registry_server
from registry_core.client import RegistryClient
from registry_core.domain.platform import Platform
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Observer

__all__ = ["FaultyApp", "FaultyRegistry", "ServerOptions", "faulty_registry"]


class FaultyApp:
    """Stands before a registry's application. Of the faults that fit a request, the first that was injected befalls it.

    Behind another server than ``registry_server`` it cannot get at the connection: what a fault would do to it becomes
    an error of the application.

    Args:
        app: The application.
        faults: What goes wrong from the beginning.
    """

    def __init__(self, app: WSGIApplication, *faults: Fault) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, RequestMatcher]] = []
        self._gate = StallGate()
        self.journal = RequestLog()
        self.inject(*faults)

    def inject(self, *faults: Fault) -> None:
        """Have more go wrong, from the next request on."""
        with self._lock:
            self._faults += [(fault, RequestMatcher(fault.occasion)) for fault in faults]

    def clear(self) -> None:
        """Have nothing go wrong any more; who is stalled goes on."""
        with self._lock:
            self._faults.clear()
        self._gate.release()

    def release(self) -> None:
        """Let go on who is stalled now."""
        self._gate.release()

    def wait_for_stall(self, seconds: float = 5.0) -> bool:
        """Wait until a request is stalled.

        Returns:
            Whether there is one.
        """
        return self.journal.wait_for_stall(seconds)

    def close(self) -> None:
        """Let nobody wait any more: who is stalled gets no answer. Idempotent."""
        self._gate.close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, or not."""
        entry = self.journal.begin(environ)
        environ["wsgi.input"] = _Counted(environ["wsgi.input"], entry)
        fault, occasions = self._matching(environ)
        entry.fault = "" if fault is None else str(fault)
        visit = FaultContext(self._app, environ, entry, self.journal, self._gate, occasions)
        try:
            reply = visit.proceed() if fault is None else fault.effect(visit)
            entry.status = reply.status
            start_response(reply.line, reply.headers)
        except ConnectionDropped:
            self.journal.settle(entry)
            return []
        except BaseException:
            self.journal.settle(entry)
            raise
        return _Sent(reply, visit, self.journal)

    def _matching(self, environ: WSGIEnvironment) -> tuple[Fault | None, RequestMatcher | None]:
        with self._lock:
            # Each counts what it sees, also while another one is first.
            fitting = [(fault, occasions) for fault, occasions in self._faults if occasions.meant(environ)]
        return next((each for each in fitting if each[1].take()), (None, None))


class _Sent:
    """An answer's body on its way out, counted."""

    def __init__(self, reply: Reply, visit: FaultContext, journal: RequestLog) -> None:
        self._reply = reply
        self._visit = visit
        self._journal = journal

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._reply.body:
                yield data
                self._visit.entry.sent += len(data)
        except ConnectionDropped:
            if self._visit.connection is None:
                raise ConnectionResetError("an injected fault") from None

    def close(self) -> None:
        self._reply.close()
        self._journal.settle(self._visit.entry)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted:
    """A request's body, counted."""

    def __init__(self, stream: _Readable, entry: Entry) -> None:
        self._stream = stream
        self._entry = entry

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._entry.received += len(data)
        return data


Path = str | os.PathLike[str]


class ServerOptions(TypedDict, total=False):
    """The options of ``registry_server``."""

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
    """A running registry that does as it is told.

    Args:
        server: What listens.
        app: What fails.
        clients: Closes the clients that were opened.
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
    def journal(self) -> RequestLog:
        """What was asked so far."""
        return self._app.journal

    def inject(self, *faults: Fault) -> None:
        """Have more go wrong, from the next request on; where several fit a request, the first injected befalls it."""
        self._app.inject(*faults)

    def clear(self) -> None:
        """Have nothing go wrong any more; who is stalled goes on. The journal stays."""
        self._app.clear()

    def release(self) -> None:
        """Let go on who is stalled now."""
        self._app.release()

    def wait_for_stall(self, seconds: float = 5.0) -> bool:
        """Wait until a request is stalled.

        Returns:
            Whether there is one.
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
    """A registry that fails on demand, listening when the block begins and gone when it ends, at once.

    Args:
        faults: What goes wrong from the beginning.
        catalog: What is served, and stays open; memory if ``None``. What is put there directly meets no fault.
        options: Those of ``registry_server``.

    Raises:
        ConfigError: The server is not installed, the address cannot be listened on, or an option cannot work.
    """
    made: list[FaultyApp] = []

    def wrap(app: WSGIApplication) -> WSGIApplication:
        made.append(FaultyApp(app, *faults))
        return made[0]

    served = MemoryCatalog() if catalog is None else catalog
    with registry_server(served, wrap=wrap, **options) as server, ExitStack() as clients:
        try:
            yield FaultyRegistry(server, made[0], clients)
        finally:
            # First of all, so that stopping the server waits for nobody who is stalled.
            made[0].close()
