"""Run a registry in a thread of this process (extra ``ociport[serve]``)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from wsgiref.types import WSGIApplication

from registry_adapters.wsgi.app import RegistryApp
from registry_adapters.wsgi.auth import Authorizer
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.errors import ConfigError
from registry_core.ports.catalog import Catalog

__all__ = ["RegistryServer", "registry_server"]

Path = str | os.PathLike[str]


class RegistryServer:
    """A running registry.

    Args:
        app: The application that is served.
        host: Listening address as ``address:port``.
        scheme: ``http`` or ``https``.
    """

    def __init__(self, app: RegistryApp, host: str, *, scheme: str = "http") -> None:
        self.app = app
        self.host = host
        self.url = f"{scheme}://{host}"

    def __repr__(self) -> str:
        return f"RegistryServer({self.url})"


@contextmanager
def registry_server(
    catalog: Catalog,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    read_only: bool = False,
    tls: tuple[Path, Path] | None = None,
    authorizer: Authorizer | None = None,
    manifest_limit: int = MANIFEST_LIMIT,
    page_limit: int | None = None,
    upload_directory: Path | None = None,
    referrers_api: bool = True,
    chunk_min_length: int | None = None,
    root_name: str = "",
    threads: int = 16,
    wrap: Callable[[WSGIApplication], WSGIApplication] | None = None,
) -> Iterator[RegistryServer]:
    """Serve a catalog as a registry for the duration of a ``with`` block.

    The server is listening when the block begins. The end of the block cuts all connections, even of requests that are
    being handled; the catalog stays open.

    Args:
        catalog: Catalog to serve.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        read_only: See ``RegistryApp``.
        tls: PEM files with the certificate chain and the private key; plain HTTP if ``None``.
        authorizer: See ``RegistryApp``.
        manifest_limit: See ``RegistryApp``.
        page_limit: See ``RegistryApp``.
        upload_directory: See ``RegistryApp``.
        referrers_api: See ``RegistryApp``.
        chunk_min_length: See ``RegistryApp``.
        root_name: See ``RegistryApp``.
        threads: Number of worker threads, and so of requests handled at the same time.
        wrap: Function that wraps the application in WSGI middleware.

    Raises:
        ConfigError: The extra is not installed, the address is not available, the TLS files cannot be read, or an
            option is invalid.
    """
    try:
        from registry_adapters.wsgi.cheroot_server import CherootServer
    except ImportError as error:
        raise ConfigError(
            f"registry_server needs an extra: pip install 'ociport[serve]' or 'ociport[testing]' ({error})"
        ) from error

    app = RegistryApp(
        catalog,
        read_only=read_only,
        authorizer=authorizer,
        manifest_limit=manifest_limit,
        page_limit=page_limit,
        upload_directory=upload_directory,
        referrers_api=referrers_api,
        chunk_min_length=chunk_min_length,
        root_name=root_name,
    )
    try:
        served = app if wrap is None else wrap(app)
        server = CherootServer(served, host=host, port=port, tls=tls, threads=threads)
        server.prepare()
    except OSError as error:
        raise ConfigError(f"listen on {host}:{port}: {error}") from error
    thread = threading.Thread(target=server.serve, name=f"registry on port {server.port}", daemon=True)
    try:
        thread.start()
        address = f"[{host}]" if ":" in host else host
        yield RegistryServer(app, f"{address}:{server.port}", scheme="https" if tls else "http")
    finally:
        server.stop()
        thread.join()
        app.close()
