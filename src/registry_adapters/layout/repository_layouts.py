"""The layouts that hold a repository: its own directory, and layouts above it whose entries have its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from registry_adapters.layout.directory import Directory, Root
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.layout import Layout, ParseIndex
from registry_core.domain.image_names import ROOT, aliases
from registry_core.domain.names import RepositoryName
from registry_core.errors import NotFound, RepositoryNotFound

__all__ = ["OpenLayout", "RepositoryLayouts"]

_Found = TypeVar("_Found")


class OpenLayout(NamedTuple):
    """An open layout that holds a repository.

    Attributes:
        layout: The layout.
        directory: Its open directory.
        repository: Name of the repository in the entries of the index; empty in the repository's own directory.
    """

    layout: Layout
    directory: Directory
    repository: RepositoryName

    def read_index(self) -> IndexFile:
        """Read ``index.json``.

        Raises:
            LayoutError: The file is missing or malformed.
        """
        return self.layout.index(self.directory)

    def write_index(self, index: IndexFile) -> None:
        """Replace ``index.json``. The caller holds the lock.

        Raises:
            TooLarge: The file would be too large to be read again.
        """
        self.layout.write_index(self.directory, index)


class RepositoryLayouts:
    """The layouts that may hold a repository, the nearest first.

    The directory of the repository comes first. In ``root/index.json`` an entry ``docker.io/library/alpine:3.18``
    belongs to the repository ``library/alpine``, too, and so on in each directory between them.

    Args:
        root: Root directory of the catalog.
        name: Name of the repository.
        parse: Function that decodes an ``index.json``; it may cache results.
    """

    def __init__(self, root: Root, name: RepositoryName, parse: ParseIndex = IndexFile.parse) -> None:
        self._root = root
        self._parse = parse
        parts = name.split("/") if name else []
        self._candidates = [
            (Layout(root, RepositoryName("/".join(parts[:depth])), parse), RepositoryName("/".join(parts[depth:])))
            for depth in range(len(parts), -1, -1)
        ]

    def of(self, name: RepositoryName) -> RepositoryLayouts:
        """Return the layouts of another repository of the catalog."""
        return RepositoryLayouts(self._root, name, self._parse)

    def first(self, look: Callable[[OpenLayout], _Found], absent: NotFound | None = None) -> _Found:
        """Return the first result of a function that raises ``NotFound`` for a layout without one.

        Args:
            look: Function to call with one layout after the other.
            absent: Error to raise if the repository does not exist; ``RepositoryNotFound`` by default.

        Raises:
            NotFound: No layout has a result; the error is that of the first layout.
            LayoutError: A layout is malformed.
        """
        missing = None
        for candidate in self._candidates:
            with _open(*candidate) as opened:
                if opened is not None:
                    try:
                        return look(opened)
                    except NotFound as error:
                        missing = missing or error
        raise missing or absent or self.not_found()

    def each(self, look: Callable[[OpenLayout], _Found]) -> list[_Found]:
        """Return the results of a function for all layouts; none if the repository does not exist.

        Raises:
            LayoutError: A layout is malformed.
        """
        found = []
        for candidate in self._candidates:
            with _open(*candidate) as opened:
                if opened is not None:
                    found.append(look(opened))
        return found

    def change_each(self, change: Callable[[OpenLayout], None]) -> None:
        """Call a function for every layout, so that none of them still has what another one no longer has.

        Args:
            change: Function that raises ``NotFound`` for a layout that has nothing to change.

        Raises:
            NotFound: No layout had anything to change; the error is that of the first layout.
            LayoutError: A layout is malformed.
        """

        def attempt(opened: OpenLayout) -> NotFound | None:
            try:
                change(opened)
            except NotFound as error:
                return error
            return None

        outcomes = self.each(attempt)
        if None not in outcomes:
            raise outcomes[0] if outcomes and outcomes[0] is not None else self.not_found()

    @contextmanager
    def open_for_writing(self) -> Iterator[OpenLayout]:
        """Open the layout to write to: the first that holds the repository, or its own directory, which is created.

        The directory may not be a layout yet; see ``Layout.initialize``.

        Raises:
            LayoutError: The layout is malformed; it is left unchanged.
            Unsupported: The repository name is the path of a file inside another layout.
        """
        for candidate in self._candidates:
            with _open(*candidate) as opened:
                if opened is not None:
                    yield opened
                    return
        layout, repository = self._candidates[0][0], ROOT
        with layout.open_for_writing() as directory:
            yield OpenLayout(layout, directory, repository)

    def not_found(self) -> RepositoryNotFound:
        """Return the error for a repository that does not exist."""
        return self._candidates[0][0].not_found()


@contextmanager
def _open(layout: Layout, repository: RepositoryName) -> Iterator[OpenLayout | None]:
    with layout.open(is_marked=bool(repository)) as directory:
        if directory is None or not repository:
            yield None if directory is None else OpenLayout(layout, directory, ROOT)
            return
        named = layout.index(directory).repositories
        found = next((alias for alias in aliases(repository) if alias in named), None) if named else None
        yield None if found is None else OpenLayout(layout, directory, found)
