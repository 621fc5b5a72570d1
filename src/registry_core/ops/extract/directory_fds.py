"""Descriptors of directories below an open directory, opened name by name and never through a symbolic link."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from registry_core.content.safe_files import open_directory
from registry_core.domain.layer_paths import parent_of

__all__ = ["DirectoryFds"]

_MAX_OPEN: Final = 48


class DirectoryFds:
    """Open directories by their clean paths; the most recently used descriptors are kept open.

    Args:
        root: Descriptor of the root directory; it is not closed.
        on_created: Called with the path of each directory that is created.
    """

    def __init__(self, root: int, on_created: Callable[[bytes], None]) -> None:
        self._root = root
        self._on_created = on_created
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def open(self, path: bytes, *, create: bool = False) -> int:
        """Open a directory; the descriptor is valid until the next call.

        Args:
            path: Clean path from the root.
            create: Whether to create missing directories.

        Raises:
            OSError: The directory does not exist, or a part of the path is not a directory.
        """
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        parent = parent_of(path)
        while parent and parent not in self._open:
            parent = parent_of(parent)
        descriptor = self._open.get(parent, self._root)
        end = len(parent)
        while end < len(path):
            start = end + 1 if end else 0
            end = path.find(b"/", start)
            end = len(path) if end < 0 else end
            descriptor = self._open_child(descriptor, path[start:end], path[:end], create=create)
        return descriptor

    def _open_child(self, parent: int, name: bytes, path: bytes, *, create: bool) -> int:
        try:
            descriptor = open_directory(name, inside=parent)
        except FileNotFoundError:
            if not create:
                raise
            os.mkdir(name, 0o700, dir_fd=parent)
            self._on_created(path)
            descriptor = open_directory(name, inside=parent)
        self._open[path] = descriptor
        if len(self._open) > _MAX_OPEN:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return descriptor

    def close(self) -> None:
        """Close all descriptors except the root."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
