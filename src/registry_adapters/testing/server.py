"""A registry in a thread of this process that fails on demand (extra ``ociport[testing]``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypedDict, Unpack
from wsgiref.types import WSGIApplication

from registry_adapters.backends import open_client
from registry_adapters.memory import MemoryCatalog
from registry_adapters.testing.app import FaultyApp
from registry_adapters.testing.fault import Fault
from registry_adapters.testing.journal import Journal
from registry_adapters.wsgi import Guard, RegistryServer, registry_server
from registry_core.client import RegistryClient
from registry_core.ports.catalog import Catalog

__all__ = ["FaultyRegistry", "ServerOptions", "faulty_registry"]

Path = str | os.PathLike[str]


class ServerOptions(TypedDict, total=False):
    """The options of ``registry_server``."""

    host: str
    port: int
    read_only: bool
    tls: tuple[Path, Path] | None
    guard: Guard | None
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
    def journal(self) -> Journal:
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

    def client(self, **settings: Any) -> RegistryClient:
        """A client of this registry, which is closed with it.

        Args:
            settings: As for ``open_client``.

        Raises:
            ConfigError: Settings that cannot work.
            TypeError: A setting that nobody knows.
        """
        return self._clients.enter_context(open_client(self.url, **settings))


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
