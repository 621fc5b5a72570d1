"""Mirrors from files: backends by their URLs, each opened once."""

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
    """The mirrors of one file, with their backends open.

    Args:
        file: What to keep alike.
        auth: Credentials for whichever registry is asked.
        observer: Told of each blob, and of each exchange of HTTP.

    Raises:
        ConfigError: A URL or a setting cannot work.
        InvalidName: The path of a URL is no repository name.
        InvalidValue: A repository is to be pruned by what it has itself.
    """

    def __init__(self, file: MirrorFile, *, auth: Auth = None, observer: Observer | None = None) -> None:
        self._file = file
        self._observer = observer
        self._clients: dict[str, RegistryClient] = {}
        self._catalogs: dict[tuple[str, str], Catalog] = {}
        self._open = ExitStack()
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
                )
                for entry in file.mirrors
                for source, target in [(self._client(entry.source, auth), self._client(entry.target, auth))]
            ]
        except BaseException:
            self._open.close()
            raise

    @property
    def rules(self) -> tuple[MirrorRule, ...]:
        """What the file says, with open backends."""
        return tuple(self._rules)

    def plan(self) -> MirrorPlan:
        """What would be done; see ``plan_mirror``.

        Raises:
            RegistryError: One side failed, and the file does not say to go on.
        """
        file = self._file
        return plan_mirror(self._rules, continue_on_error=file.continue_on_error, jobs=file.jobs, images=file.images)

    def run(self, *, on_result: Callable[[Result], None] | None = None) -> CopyReport:
        """Do it; see ``run_mirror``.

        Args:
            on_result: Told of each node when it is settled, by one thread at a time.

        Raises:
            RegistryError: One side failed, and the file does not say to go on.
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
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not merely closed: an archive of half a mirror is discarded.
        self._open.__exit__(kind, error, trace)

    def _client(self, url: str, auth: Auth) -> RegistryClient:
        known = self._clients.get(url)
        if known is not None:
            return known
        backend = max((name for name in self._file.backends if _lies_in(url, name)), key=len, default="")
        settings: dict[str, Any] = self._file.backends.get(backend, {})
        try:
            credentials = auth if takes_credentials(url) else None
            client = open_client(url, auth=credentials, observer=self._observer, **settings)
        except TypeError as error:
            raise ConfigError(f"settings of {backend or redact_url(url)}: {error}") from None
        # Paths in one registry share its connections, its tokens and the bounds on both.
        registry = url.rstrip("/").removesuffix(str(client.path)).rstrip("/")
        shared = self._catalogs.setdefault((backend, registry), client.catalog)
        if shared is client.catalog:
            self._open.enter_context(client)
        else:
            client.close()
            client = RegistryClient(shared, *client.path, observer=self._observer)
        self._clients[url] = client
        return client


def open_mirror(path: str | os.PathLike[str], *, auth: Auth = None, observer: Observer | None = None) -> Mirror:
    """The mirrors that a TOML file declares; to be closed, as by ``with``. Nothing is contacted yet.

    Args:
        path: The file; see ``read_mirror_file``.
        auth: Credentials: a keychain, if there is more than one registry.
        observer: Told of each blob, and of each exchange of HTTP.

    Raises:
        InvalidDocument: The file is malformed; ``path`` says where.
        ConfigError: A URL or a setting cannot work.
        OSError: The file cannot be read.
    """
    return Mirror(read_mirror_file(path), auth=auth, observer=observer)


def _lies_in(url: str, backend: str) -> bool:
    return url == backend or url.startswith(f"{backend}/")
