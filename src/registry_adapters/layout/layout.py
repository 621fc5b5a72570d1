"""Where one repository lives: its layout as it is found, made, and locked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from registry_adapters.layout.directory import Directory, Root
from registry_adapters.layout.files import map_os_errors
from registry_adapters.layout.index import FRESH, IndexFile
from registry_core.cancellation import poll_until
from registry_core.domain import strict_json
from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidDocument, LayoutError, RegistryError, TooLarge, Unsupported

__all__ = ["BLOBS", "MARKER", "RESERVED", "Layout", "Parse"]

MARKER: Final = "oci-layout"
BLOBS: Final = "blobs"
_INDEX: Final = "index.json"
_LOCK: Final = ".ociport.lock"
# No repository may be called like the parts of the layout around it.
RESERVED: Final = frozenset({MARKER, BLOBS, _INDEX})

_VERSION: Final = "1.0.0"
_FRESH_MARKER: Final = strict_json.encode({"imageLayoutVersion": _VERSION})
_MARKER_LIMIT: Final = 64 << 10
_INDEX_LIMIT: Final = 32 << 20
# Larger ones are not kept in memory.
_MEMORABLE: Final = 4 << 20
_POLL: Final = 0.01
# Who writes touches his file all the time.
_ABANDONED: Final = 3600.0
# What can be continued is worth keeping for longer.
_FORGOTTEN: Final = 7 * 24 * 3600.0


# The content, and where it stands.
Parse = Callable[[bytes, str], IndexFile]


class Layout:
    """The directory of one repository.

    Args:
        root: What it lies below.
        name: Of the repository: its path from the root.
        parse: Decodes an ``index.json``; may remember what it did with the same bytes.
    """

    def __init__(self, root: Root, name: RepositoryName, parse: Parse = IndexFile.parse) -> None:
        self._root = root
        self._parse = parse
        self._parts = name.split("/") if name else []

    @contextmanager
    def open(self) -> Iterator[Directory | None]:
        """The layout's directory, or ``None`` where there is no layout.

        Raises:
            LayoutError: There is a broken one.
        """
        with ExitStack() as stack:
            directory = None if self._is_reserved else self._found(stack)
            yield directory if directory is not None and _is_layout(directory) else None

    @contextmanager
    def open_for_writing(self) -> Iterator[Directory]:
        """The directory, made if need be; it may not be a layout yet: see ``initialize``.

        Raises:
            LayoutError: There is a broken layout; it is left as it is.
            Unsupported: The name means a part of another layout.
        """
        if self._is_reserved:
            raise Unsupported(f"no repository of a layout has a part called {' or '.join(sorted(RESERVED))}")
        with ExitStack() as stack:
            directory = self._root.open(create=True)
            if directory is None:
                raise LayoutError(".: was made and is gone")
            stack.enter_context(directory)
            for part in self._parts:
                directory = stack.enter_context(directory.make(part))
            _is_layout(directory)
            yield directory

    def initialize(self, directory: Directory) -> None:
        """Make a directory a layout, where it is none.

        Raises:
            LayoutError: It is a broken one.
        """
        if _is_layout(directory):
            return
        with self.locked(directory):
            if _is_layout(directory):
                return
            # the marker comes last. Until then, other readers see no layout, because the index has no entries.
            directory.make(BLOBS).close()
            if directory.read(_INDEX, _INDEX_LIMIT) is None:
                directory.write(_INDEX, FRESH)
            directory.write(MARKER, _FRESH_MARKER)

    @contextmanager
    def locked(self, directory: Directory) -> Iterator[None]:
        """Alone with the index, among all threads and processes that use this library.

        Raises:
            Cancelled: While it waited.
            DeadlineExceeded: While it waited.
        """
        from filelock import FileLock, Timeout  # only writers need it

        lock = FileLock(directory.path / _LOCK, timeout=0)

        def is_acquired() -> bool:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            return True

        with map_os_errors(directory.where(_LOCK)):
            poll_until(is_acquired, interval=_POLL)
        try:
            yield
        finally:
            lock.release()

    def index(self, directory: Directory) -> IndexFile:
        """The layout's ``index.json``.

        Raises:
            LayoutError: It is missing or broken.
        """
        content = directory.read(_INDEX, _INDEX_LIMIT)
        if content is None:
            raise LayoutError(f"{directory.where(_INDEX)}: missing")
        parse = self._parse if len(content) <= _MEMORABLE else IndexFile.parse
        return parse(content, directory.where(_INDEX))

    def write_index(self, directory: Directory, index: IndexFile) -> None:
        """Replace ``index.json``, and sweep up what killed writers left; to be called while it is locked.

        Raises:
            TooLarge: Nobody could read it any more.
        """
        content = index.encode()
        if len(content) > _INDEX_LIMIT:
            raise TooLarge(f"{directory.where(_INDEX)} would have more than {_INDEX_LIMIT} bytes")
        directory.write(_INDEX, content)
        _sweep(directory)

    @property
    def _is_reserved(self) -> bool:
        return not RESERVED.isdisjoint(self._parts)

    def _found(self, stack: ExitStack) -> Directory | None:
        directory = self._root.open()
        for part in self._parts:
            if directory is None:
                return None
            directory = stack.enter_context(directory).child(part)
        return None if directory is None else stack.enter_context(directory)


def _sweep(directory: Directory) -> None:
    now = time.time()

    def sweep(one: Directory) -> None:
        one.sweep(now - _ABANDONED, partial=now - _FORGOTTEN)

    # The index is written: that somebody else's rubbish cannot be seen must not make a failure of it.
    with suppress(RegistryError):
        sweep(directory)
        blobs = directory.child(BLOBS)
        if blobs is None:
            return
        with blobs:
            for algorithm in blobs.directories():
                shelf = blobs.child(algorithm)
                if shelf is not None:
                    with shelf:
                        sweep(shelf)


def _is_layout(directory: Directory) -> bool:
    marker = directory.read(MARKER, _MARKER_LIMIT)
    if marker is None:
        index = directory.read(_INDEX, _INDEX_LIMIT)
        if index is None or index == FRESH:
            return False
        # Somebody may have made it a layout, and filled it, since we looked.
        marker = directory.read(MARKER, _MARKER_LIMIT)
        if marker is None:
            raise LayoutError(f"{directory.where(MARKER)}: missing, so this is no image layout")
    _check(marker, directory.where(MARKER))
    if not directory.is_directory(BLOBS):
        raise LayoutError(f"{directory.where(BLOBS)}: missing or no directory")
    return True


def _check(marker: bytes, where: str) -> None:
    try:
        version = strict_json.decode(marker).get("imageLayoutVersion")
    except InvalidDocument as error:
        raise LayoutError(f"{where}: {error.message}") from error
    if not isinstance(version, str):
        raise LayoutError(f"{where}: no imageLayoutVersion")
    if version != _VERSION:
        raise LayoutError(f"{where}: layout version {version!r:.40}, and only {_VERSION} is known")
