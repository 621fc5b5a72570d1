"""One archive as a catalog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextvars import Context
from types import TracebackType
from typing import Self

from registry_adapters.archive.contents import ArchivedImage, Contents
from registry_adapters.archive.finished import FinishedArchive
from registry_adapters.archive.growing import GrowingArchive
from registry_adapters.archive.medium import opened
from registry_adapters.archive.names import ArchiveForm
from registry_adapters.archive.stores import ArchiveBlobs, ArchiveManifests
from registry_adapters.archive.turns import Turn
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, Unsupported, during
from registry_core.ports.catalog import Catalog
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["ArchiveCatalog"]


class ArchiveCatalog(Catalog):
    """The images in one file: read where the file exists, written where it does not.

    A new archive takes its place when the catalog is closed, at once and whole; until then, and after ``discard``,
    nobody sees anything of it. As a context manager, it is discarded where the block raises. What is finished is
    never changed: write a new one, with ``replace`` in the old one's place.

    Args:
        path: The file.
        form: How a new archive is written; reading goes by what is in the file.
        replace: Begin a new archive, even where there is one; a pipe or a device is written to then, not read.
        fsync: Whether ``close`` returns only once the disk has it.

    Raises:
        ConfigError: The path is empty, or no path at all.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        form: ArchiveForm = ArchiveForm.DOCKER,
        *,
        replace: bool = False,
        fsync: bool = True,
    ) -> None:
        text = os.fspath(path)
        if not text or "\0" in text:
            raise ConfigError(f"not a file: {text!r:.100}")
        self._registry = f"{form.value}:{text}"
        # Made absolute now: the place must not move with the process's working directory.
        self._path = os.path.abspath(text)
        self._form = form
        self._replace = replace
        self._fsync = fsync
        self._turn = Turn()
        self._finished: FinishedArchive | None = None
        self._new: GrowingArchive | None = None

    @property
    def registry(self) -> str:
        """``docker-archive:`` or ``oci-archive:``, and the file."""
        return self._registry

    def repository(self, name: RepositoryName) -> Repository:
        """A repository by name, whether it exists or not; ``debian`` may be another spelling of ``library/debian``."""
        label = "/".join(part for part in (self._registry, name) if part)
        return Repository(
            name=name,
            blobs=ArchiveBlobs(self._contents, self._growing, name, label),
            manifests=ArchiveManifests(self._contents, self._growing, name, label),
            registry=self._registry,
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """The repositories that images of the archive are named by, in ASCII order, as they were at the first step.

        Raises:
            LayoutError: The archive is broken.
        """
        checkpoint()
        with during("", self._registry):
            names = self._contents().names()
        for name in names:
            if after is None or name > after:
                checkpoint()
                yield name

    def images(self) -> Iterator[ArchivedImage]:
        """Whatever the archive lists, by repositories; also what has no tag, and can be asked for by digest only.

        Raises:
            LayoutError: The archive is broken, or a name in it is several images'.
        """
        checkpoint()
        with during("", self._registry):
            for image in self._contents().images():
                checkpoint()
                yield image

    def close(self) -> None:
        """Give a new archive its name, if an image was put into it. Whoever asks after that reads it. Idempotent.

        Raises:
            Unavailable: The disk is full, or failed; nothing is left behind.
            Forbidden: The system does not let us.
        """
        with during("", self._registry):
            # Even cancelled work may be closed: outside of its scope.
            Context().run(self._settle, publish=True)

    def discard(self) -> None:
        """Throw a new archive away, and leave what had its name as it is. Idempotent."""
        Context().run(self._settle, publish=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __repr__(self) -> str:
        """With the file."""
        return f"ArchiveCatalog({self._registry!r})"

    def _settle(self, *, publish: bool) -> None:
        with self._turn.held():
            new, self._new, self._finished = self._new, None, None
            self._replace = self._replace and not (publish and new is not None)
        # Not before others may go on: the source of a blob that is being put may be this very catalog.
        if new is not None:
            (new.publish if publish else new.discard)()

    def _contents(self) -> Contents:
        with self._turn.held():
            return self._new or self._read() or self._fresh()

    def _growing(self) -> GrowingArchive:
        with self._turn.held():
            if self._new is None:
                if self._read() is not None:
                    raise Unsupported("an archive that is finished is not changed: write a new one")
                self._new = self._fresh()
            return self._new

    def _read(self) -> FinishedArchive | None:
        if self._finished is None and not self._replace:
            medium = opened(self._path)
            if medium is not None:
                self._finished = FinishedArchive(medium)
        return self._finished

    def _fresh(self) -> GrowingArchive:
        return GrowingArchive(self._path, self._form, fsync=self._fsync)
