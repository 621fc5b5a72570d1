"""Mirrors declared in files, with their backends opened by URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from registry_adapters.backends import Auth, open_client, takes_credentials
from registry_core.client import RegistryClient
from registry_core.domain.origin import redact_url
from registry_core.errors import ConfigError
from registry_core.ops.mirror.config_file import MirrorFile, read_mirror_file
from registry_core.ops.mirror.mirror import MirrorPlan, MirrorRule, plan_mirror, run_mirror
from registry_core.ops.transfer.report import CopyReport, Result
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Observer

__all__ = ["Mirror", "open_mirror"]


class Mirror:
    """The mirrors of one file, with open backends; use it in a ``with`` statement, or close it.

    Args:
        file: Content of the file.
        auth: Credentials of the registries.
        observer: Receives the events of each blob and of each HTTP request.

    Raises:
        ConfigError: A URL or a setting is invalid.
        InvalidName: The path of a URL is not a repository name.
        InvalidValue: A mirror with ``prune`` has the same path as source and target.
    """

    def __init__(self, file: MirrorFile, *, auth: Auth = None, observer: Observer | None = None) -> None:
        self._file = file
        self._observer = observer
        self._clients: dict[str, RegistryClient] = {}
        self._catalogs: dict[tuple[str, str], Catalog] = {}
        self._exit_stack = ExitStack()
        try:
            self._rules = [
                MirrorRule(
                    source=source.catalog,
                    source_path=source.path.repository,
                    target=target.catalog,
                    target_path=target.path.repository,
                    repositories=entry.repositories,
                    tags=entry.tags,
                    options=entry.options,
                    prune=entry.prune,
                    allow_empty=entry.allow_empty,
                )
                for entry in file.mirrors
                for source, target in [(self._client(entry.source, auth), self._client(entry.target, auth))]
            ]
        except BaseException:
            self._exit_stack.close()
            raise

    @property
    def rules(self) -> tuple[MirrorRule, ...]:
        """The rules of the file, with open backends."""
        return tuple(self._rules)

    def plan(self) -> MirrorPlan:
        """Return what a run would do, without writing anything; see ``plan_mirror``.

        Raises:
            RegistryError: One side failed, and the file does not set ``continue_on_error``.
        """
        file = self._file
        return plan_mirror(self._rules, continue_on_error=file.continue_on_error, jobs=file.jobs, images=file.images)

    def run(self, *, on_result: Callable[[Result], None] | None = None) -> CopyReport:
        """Copy images and remove tags; see ``run_mirror``.

        Args:
            on_result: Called with the result of each node, by one thread at a time.

        Raises:
            RegistryError: One side failed, and the file does not set ``continue_on_error``.
        """
        file = self._file
        return run_mirror(
            self._rules,
            continue_on_error=file.continue_on_error,
            observer=self._observer,
            jobs=file.jobs,
            images=file.images,
            on_result=on_result,
        )

    def close(self) -> None:
        """Close all backends. Idempotent."""
        self._exit_stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The clients get the exception, so that an incomplete archive is discarded.
        self._exit_stack.__exit__(kind, error, trace)

    def _client(self, url: str, auth: Auth) -> RegistryClient:
        client = self._clients.get(url)
        if client is not None:
            return client
        backend = max((prefix for prefix in self._file.backends if _has_settings(url, prefix)), key=len, default="")
        settings: dict[str, Any] = self._file.backends.get(backend, {})
        for name in ("auth", "observer"):
            if name in settings:
                raise ConfigError(f"settings of {backend}: {name!r} is no setting; pass {name} to open_mirror")
        try:
            credentials = auth if takes_credentials(url) else None
            client = open_client(url, auth=credentials, observer=self._observer, **settings)
        except TypeError as error:
            raise ConfigError(f"settings of {backend or redact_url(url)}: {error}") from None
        except ConfigError as error:
            if not settings:
                raise
            raise ConfigError(f"settings of {backend}: {error.message}") from None
        # Paths of one registry share its connections, tokens and rate limits.
        registry = url.removeprefix("https://").rstrip("/").removesuffix(str(client.path)).rstrip("/")
        shared = self._catalogs.setdefault((backend, registry), client.catalog)
        if shared is client.catalog:
            self._exit_stack.enter_context(client)
        else:
            client.close()
            client = RegistryClient(shared, *client.path, observer=self._observer)
        self._clients[url] = client
        return client


def open_mirror(path: str | os.PathLike[str], *, auth: Auth = None, observer: Observer | None = None) -> Mirror:
    """Open the backends of the mirrors that a TOML file declares, without contacting them.

    Args:
        path: Path of the file; see ``read_mirror_file``.
        auth: Credentials: a keychain, if there is more than one registry.
        observer: Receives the events of each blob and of each HTTP request.

    Raises:
        InvalidDocument: The file is malformed; ``path`` names the field.
        ConfigError: A URL or a setting is invalid.
        OSError: The file cannot be read.
    """
    return Mirror(read_mirror_file(path), auth=auth, observer=observer)


def _has_settings(url: str, backend: str) -> bool:
    """Return whether the settings of a backend apply to a URL; without a scheme they apply to HTTP and HTTPS."""
    url = url.removeprefix("https://").rstrip("/")
    if "://" not in backend:
        url = url.removeprefix("http://")
    backend = backend.removeprefix("https://").rstrip("/")
    return url == backend or url.startswith(f"{backend}/")
