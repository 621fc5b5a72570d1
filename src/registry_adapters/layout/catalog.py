"""The layout backend: a catalog of the image layouts in a directory tree."""

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
from registry_adapters.layout.index import EMPTY_INDEX, IndexFile
from registry_adapters.layout.layout import MARKER, RESERVED, Layout
from registry_adapters.layout.manifests import LayoutManifests
from registry_adapters.layout.names import LayoutNames
from registry_adapters.layout.repository_layouts import RepositoryLayouts
from registry_core.cancellation import checkpoint
from registry_core.domain.names import RepositoryName
from registry_core.domain.reports import PruneReport, Report
from registry_core.errors import (
    ConfigError,
    InvalidName,
    LayoutError,
    RepositoryNotFound,
    TooLarge,
    error_context,
    error_reference,
)
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.image_names import NamedImage

__all__ = ["LayoutCatalog"]

_CACHED_INDEXES: Final = 4
_ROOT: Final = RepositoryName("")


class LayoutCatalog(Catalog):
    """Repositories in a directory: ``a/b`` is the image layout at ``root/a/b``, the empty name the layout at the root.

    An entry of the layout at the root whose name is a whole reference, such as ``docker.io/a/b:v1``, belongs to the
    repository ``a/b`` too. Such a repository is written where it is: in its directory, or else in the layout with its
    entries.

    Many threads and processes may use the same directory at the same time. Layouts of other tools are read and edited
    without conversion.

    Args:
        root: Path of the directory; the first write creates it.
        fsync: Whether a write returns only after the disk has it. Without it, writes are atomic, but the last ones may
            be lost in a power failure.
        follow_symlinks: Whether to read through symbolic links that stay inside the directory ``root``, in place of
            refusing them: blobs, their directories, ``oci-layout`` and ``index.json`` may be links then, as in the
            layouts that Bazel makes. Links that lead out of ``root`` are refused all the same, and nothing is written,
            renewed or deleted through a link. The directory of a repository is never reached through one.

    Raises:
        ConfigError: The path is empty or contains a NUL byte, or a switch is not a boolean.
        Unsupported: Links are to be followed, and the system cannot open files relative to a directory.
    """

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = True, follow_symlinks: bool = False) -> None:
        path = os.fspath(root)
        if not path or "\0" in path:
            raise ConfigError(f"root directory of layouts that is empty or contains a NUL byte: {path!r:.100}")
        for option, value in (("fsync", fsync), ("follow_symlinks", follow_symlinks)):
            if not isinstance(value, bool):
                raise ConfigError(f"{option} must be True or False, not {value!r:.100}")
        self._registry = f"oci:{path}"
        # Absolute, so that it stays the same directory when the working directory of the process changes.
        self._root = Root(Path(path).absolute(), fsync=fsync, follow_symlinks=follow_symlinks)
        # The key is the content, not a modification time: a file is read each time, but decoded only if it changed.
        self._parse = lru_cache(maxsize=_CACHED_INDEXES)(IndexFile.parse)

    @property
    def registry(self) -> str:
        """``oci:`` and the path of the directory."""
        return self._registry

    def repository(self, name: str) -> Repository:
        """Return a repository, whether it exists or not.

        Raises:
            InvalidName: The text is not a repository name.
        """
        name = RepositoryName(name)
        label = "/".join(part for part in (self._registry, name) if part)
        layouts = RepositoryLayouts(self._root, name, self._parse)
        return Repository(
            name=name,
            blobs=LayoutBlobs(layouts, label),
            manifests=LayoutManifests(layouts, label),
            registry=self._registry,
            names=LayoutNames(layouts, name, label),
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        """Iterate in ASCII order over the paths of all directories with an ``oci-layout`` file.

        The repositories in the names of their entries are included.
        Symbolic links, and directories whose path is not a repository name, are skipped. A malformed layout below the
        root is listed without the names of its entries.

        Raises:
            RepositoryNotFound: The root does not exist.
            LayoutError: The root is not a directory, or its own ``index.json`` is malformed.
            Forbidden: A directory cannot be read.
        """
        last = None
        for name, _ in self._layouts(is_tolerant=True):
            if name != last and (after is None or name > after):
                yield name
            last = name

    def images(self) -> Iterator[NamedImage]:
        """Iterate over the entries of all layouts, also over those without a name, by layout in ASCII order.

        Raises:
            RepositoryNotFound: The root does not exist.
            LayoutError: The root or a layout is malformed.
            Forbidden: A directory cannot be read.
        """
        for name, index in self._layouts():
            for entry, entry_name in index.images() if index is not None else ():
                checkpoint()
                yield NamedImage.of(entry, entry_name, below=name)

    def check(self, name: str = _ROOT, *, sparse: bool = False, jobs: int = 4) -> Report:
        """Validate one layout and every file in it, without changing anything.

        In addition to the problems that ``validate`` finds in images, the report has blobs that nothing refers to or
        whose name is not their digest, files that do not belong to the layout, and temporary files of killed writers.

        Args:
            name: Name of the repository.
            sparse: Whether the children of an index may be absent, as after a copy of some of its platforms. They are
                reported as warnings then.
            jobs: Number of blobs to read at the same time.

        Raises:
            InvalidName: The text is not a repository name.
            RepositoryNotFound: The layout does not exist.
            Forbidden: A file cannot be read.
        """
        from registry_adapters.layout.check import check_layout

        repository = self.repository(name)
        with error_context("check", str(repository)):
            layout = Layout(self._root, repository.name, self._parse)
            return check_layout(layout, repository, sparse=sparse, jobs=jobs)

    def prune(
        self,
        name: str = _ROOT,
        *,
        grace: float = 3600.0,
        untagged: bool = False,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove blobs that nothing in a layout refers to, and temporary files of killed writers.

        Other processes may write to the layout with this library at the same time. Their images stay complete if no
        push takes longer than the grace period from its first blob to its last manifest.

        Args:
            name: Name of the repository.
            grace: Minimum age in seconds of anything that is removed.
            untagged: Whether to remove manifests without a tag, too, unless a manifest that stays refers to them or is
                their subject.
            dry_run: Whether to remove nothing, and only report what would be removed.

        Raises:
            InvalidName: The text is not a repository name.
            RepositoryNotFound: The layout does not exist.
            InvalidValue: The grace period is less than two seconds.
            IntegrityError: A manifest is corrupt, so its references are unknown; no blob is removed.
            Unsupported: The operating system has no file locks, or the file system is read-only.
        """
        from registry_adapters.layout.garbage import prune_layout

        repository = self.repository(name)
        with error_context("prune", str(repository)):
            layout = Layout(self._root, repository.name, self._parse)
            return prune_layout(layout, grace=grace, untagged=untagged, is_dry_run=dry_run)

    def close(self) -> None:
        """Do nothing: no resources are held between calls."""

    def __repr__(self) -> str:
        """Return the class and the path."""
        return f"LayoutCatalog({self._registry[4:]!r})"

    def _layouts(self, *, is_tolerant: bool = False) -> Iterator[tuple[RepositoryName, IndexFile | None]]:
        """Iterate over the layouts with their indexes, and the repositories in the names of their entries without one.

        Args:
            is_tolerant: Whether the index of a malformed layout below the root counts as empty.
        """
        # A heap keeps the order during the walk: the path of a subdirectory is greater than that of its parent.
        names = [(_ROOT, True)]
        while names:
            checkpoint()
            name, is_directory = heapq.heappop(names)
            index = None
            with error_reference(self._registry), ExitStack() as stack:
                directory = self._open_directory(name, stack) if is_directory else None
                if directory is not None:
                    if directory.is_file(MARKER):
                        index = self._read_index(name, directory, is_tolerant=is_tolerant)
                    children = (_child_name(name, part) for part in directory.directories())
                    for child in children:
                        if child is not None:
                            heapq.heappush(names, (child, True))
                    for child in index.repositories if index is not None else ():
                        heapq.heappush(names, (name / child, False))
                elif not name:
                    raise RepositoryNotFound(f"the directory {self._root.path} does not exist")
            if index is not None or not is_directory:
                yield name, index

    def _read_index(self, name: RepositoryName, directory: Directory, *, is_tolerant: bool) -> IndexFile:
        try:
            return Layout(self._root, name, self._parse).index(directory)
        except (LayoutError, TooLarge):
            # Listed all the same: reading the repository reports the fault. The root has no name in lists.
            if not is_tolerant or not name:
                raise
            return IndexFile.parse(EMPTY_INDEX, name)

    def _open_directory(self, name: RepositoryName, stack: ExitStack) -> Directory | None:
        directory = self._root.open()
        for part in name.split("/") if name else ():
            if directory is None:
                return None
            stack.enter_context(directory)
            if not directory.is_directory(part):
                return None
            directory = directory.child(part)
        return None if directory is None else stack.enter_context(directory)


def _child_name(name: RepositoryName, part: str) -> RepositoryName | None:
    if part in RESERVED:
        return None
    try:
        return name / part
    except InvalidName:
        return None
