"""Image layouts below one directory as a catalog."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Final

from registry_adapters.layout.blobs import LayoutBlobs
from registry_adapters.layout.directory import Directory, Root
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.layout import MARKER, RESERVED, Layout
from registry_adapters.layout.manifests import LayoutManifests
from registry_core.cancellation import checkpoint
from registry_core.domain.names import RepositoryName
from registry_core.domain.reports import PruneReport, Report
from registry_core.errors import ConfigError, InvalidName, error_context, error_reference
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["LayoutCatalog"]

_REMEMBERED: Final = 4
_ROOT: Final = RepositoryName("")


class LayoutCatalog(Catalog):
    """Repositories in a directory: ``a/b`` is the image layout at ``root/a/b``, the empty name the one at the root.

    Many threads and processes may use the same directory at once. Layouts that other tools wrote are read, and edited,
    as they are.

    Args:
        root: The directory; made by the first write.
        fsync: Whether a write returns only once the disk has it. Without, writes are atomic, but the last ones may be
            lost when the machine stops.

    Raises:
        ConfigError: The root is empty, or no path at all.
    """

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = True) -> None:
        path = os.fspath(root)
        if not path or "\0" in path:
            raise ConfigError(f"not a directory: {path!r:.100}")
        self._registry = f"oci:{path}"
        # Made absolute now: the place must not move with the process's working directory.
        self._root = Root(Path(path).absolute(), fsync=fsync)
        # By their bytes, not by their dates: a file is read each time, and decoded only if it has changed.
        self._parse = lru_cache(maxsize=_REMEMBERED)(IndexFile.parse)

    @property
    def registry(self) -> str:
        """``oci:`` and the directory."""
        return self._registry

    def repository(self, name: str) -> Repository:
        """The repository in the directory of that name, whether it exists or not."""
        name = RepositoryName(name)
        label = "/".join(part for part in (self._registry, name) if part)
        place = Layout(self._root, name, self._parse)
        return Repository(
            name=name,
            blobs=LayoutBlobs(self._root, place, label),
            manifests=LayoutManifests(place, label),
            registry=self._registry,
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """All directories with an ``oci-layout`` file, by their paths from the root, in ASCII order.

        Links are not followed, and directories whose path is no repository name are not looked into.

        Raises:
            LayoutError: The root is no directory.
            Forbidden: A directory cannot be read.
        """
        # The smallest name goes first, and what lies below a name is larger than it: so the order holds while walking.
        names = [_ROOT]
        while names:
            checkpoint()
            name = heapq.heappop(names)
            with error_reference(self._registry), ExitStack() as stack:
                directory = self._directory(name, stack)
                if directory is None:
                    continue
                found = directory.is_file(MARKER)
                for part in directory.directories():
                    below = _below(name, part)
                    if below is not None:
                        heapq.heappush(names, below)
            if found and (after is None or name > after):
                yield name

    def check(self, name: RepositoryName = _ROOT, *, sparse: bool = False, jobs: int = 4) -> Report:
        """A report on one layout and every file in it; nothing is changed.

        Beyond what ``validate`` looks at in images, this finds blobs that nothing refers to or that are not what
        their names say, files that do not belong there, and what killed writers have left.

        Args:
            name: Of the repository.
            sparse: Whether what an index lists may be absent, as after a copy of some of its platforms: that is only
                a warning then.
            jobs: How many blobs are read at a time.

        Raises:
            RepositoryNotFound: No such layout.
            Forbidden: A file cannot be read.
        """
        from registry_adapters.layout.check import check_layout

        repository = self.repository(name)
        with error_context("check", str(repository)):
            return check_layout(Layout(self._root, name, self._parse), repository, sparse=sparse, jobs=jobs)

    def prune(
        self,
        name: RepositoryName = _ROOT,
        *,
        grace: float = 3600.0,
        untagged: bool = False,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove blobs that nothing in a layout refers to, and what killed writers have left.

        Others may write meanwhile, as long as they use this library: no tag that they were told of is harmed, if
        they took no longer than the grace period from their first blob to their last manifest.

        Args:
            name: Of the repository.
            grace: How old, in seconds, anything must be to go.
            untagged: Whether manifests without a tag go too, unless something that stays needs them or is their
                subject.
            dry_run: Whether to only say what would go.

        Raises:
            RepositoryNotFound: No such layout.
            InvalidValue: The grace period is less than two seconds.
            IntegrityError: A manifest is corrupt, so that nobody can tell what is needed; no blob is removed.
            Unsupported: The system does not lock files, or the place cannot be written.
        """
        from registry_adapters.layout.garbage import prune_layout

        with error_context("prune", str(self.repository(name))):
            place = Layout(self._root, name, self._parse)
            return prune_layout(place, grace=grace, untagged=untagged, is_dry_run=dry_run)

    def close(self) -> None:
        """Nothing is held between calls, so there is nothing to let go of."""

    def __repr__(self) -> str:
        """With the directory."""
        return f"LayoutCatalog({self._registry[4:]!r})"

    def _directory(self, name: RepositoryName, stack: ExitStack) -> Directory | None:
        directory = self._root.open()
        for part in name.split("/") if name else ():
            if directory is None:
                return None
            stack.enter_context(directory)
            if not directory.is_directory(part):
                return None
            directory = directory.child(part)
        return None if directory is None else stack.enter_context(directory)


def _below(name: RepositoryName, part: str) -> RepositoryName | None:
    if part in RESERVED:
        return None
    try:
        return name / part
    except InvalidName:
        return None
