"""Directories below one that is open, reached name by name and never through a symbolic link."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from registry_core.content.safe_files import open_directory
from registry_core.domain.layer_paths import parent_of

__all__ = ["DirectoryFds"]

_KEPT: Final = 48


class DirectoryFds:
    """Descriptors of directories by their clean paths; a few are kept open.

    Args:
        root: A descriptor of the directory that everything is below; it stays open.
        made: Told the path of each directory that had to be made.
    """

    def __init__(self, root: int, made: Callable[[bytes], None]) -> None:
        self._root = root
        self._made = made
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def at(self, path: bytes, *, make: bool = False) -> int:
        """A descriptor of a directory, valid until the next is asked for.

        Args:
            path: Clean, from the root.
            make: Whether to make what is missing.

        Raises:
            OSError: It is not there, or there is something else in its place or on the way.
        """
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        above = parent_of(path)
        while above and above not in self._open:
            above = parent_of(above)
        handle = self._open.get(above, self._root)
        end = len(above)
        while end < len(path):
            start = end + 1 if end else 0
            end = path.find(b"/", start)
            end = len(path) if end < 0 else end
            handle = self._step(handle, path[start:end], path[:end], make=make)
        return handle

    def _step(self, inside: int, name: bytes, path: bytes, *, make: bool) -> int:
        try:
            handle = open_directory(name, inside=inside)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o700, dir_fd=inside)
            self._made(path)
            handle = open_directory(name, inside=inside)
        self._open[path] = handle
        if len(self._open) > _KEPT:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return handle

    def close(self) -> None:
        """Close all but the root."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
