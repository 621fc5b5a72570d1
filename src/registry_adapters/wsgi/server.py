"""A registry in a thread of this process (extra ``ociport[serve]``)."""

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
        app: What answers.
        host: Where it listens, as ``address:port``.
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
    """A catalog as a registry, listening when the block begins and gone when it ends.

    What is still being answered then is cut off. The catalog stays open. The options are those of ``RegistryApp``, and:

    Args:
        catalog: What is served.
        host: The address to listen on.
        port: 0 takes a free one.
        read_only: See ``RegistryApp``.
        tls: Certificate chain and private key, as PEM files; plain HTTP if ``None``.
        authorizer: See ``RegistryApp``.
        manifest_limit: See ``RegistryApp``.
        page_limit: See ``RegistryApp``.
        upload_directory: See ``RegistryApp``.
        referrers_api: See ``RegistryApp``.
        chunk_min_length: See ``RegistryApp``.
        root_name: See ``RegistryApp``.
        threads: How many requests are answered at once.
        wrap: Puts a WSGI middleware around the application.

    Raises:
        ConfigError: The server is not installed, the address cannot be listened on, or an option cannot work.
    """
    try:
        from registry_adapters.wsgi.cheroot_server import CherootServer
    except ImportError as error:
        raise ConfigError(f"serving needs the extra ociport[serve] or ociport[testing]: {error}") from error

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
        outermost = app if wrap is None else wrap(app)
        listener = CherootServer(outermost, host=host, port=port, tls=tls, threads=threads)
        listener.prepare()
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    thread = threading.Thread(target=listener.serve, name=f"registry on port {listener.port}", daemon=True)
    try:
        thread.start()
        name = f"[{host}]" if ":" in host else host
        yield RegistryServer(app, f"{name}:{listener.port}", scheme="https" if tls else "http")
    finally:
        listener.stop()
        thread.join()
        app.close()
