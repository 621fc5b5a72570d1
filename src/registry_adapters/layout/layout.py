"""The directory of one image layout: opened, created, locked, and its ``index.json`` read and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from registry_adapters.layout.directory import Directory, Root
from registry_adapters.layout.files import map_os_errors
from registry_adapters.layout.index import EMPTY_INDEX, IndexFile
from registry_core.cancellation import poll_until
from registry_core.domain import strict_json
from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidDocument, LayoutError, RegistryError, RepositoryNotFound, TooLarge, Unsupported

__all__ = [
    "BLOBS",
    "INDEX",
    "LOCK",
    "MARKER",
    "PARTIAL_FILE_AGE",
    "RESERVED",
    "Layout",
    "ParseIndex",
    "blob_dirs",
]

MARKER: Final = "oci-layout"
BLOBS: Final = "blobs"
INDEX: Final = "index.json"
LOCK: Final = ".ociport.lock"
# The files of a layout; a repository inside it cannot have these names.
RESERVED: Final = frozenset({MARKER, BLOBS, INDEX})

# Age in seconds at which the file of an interrupted upload is deleted. It is kept long, to be continued.
PARTIAL_FILE_AGE: Final = 7 * 24 * 3600.0
# The same for other temporary files. A running writer changes its file all the time.
_TEMPORARY_FILE_AGE: Final = 3600.0

_VERSION: Final = "1.0.0"
_MARKER_CONTENT: Final = strict_json.encode({"imageLayoutVersion": _VERSION})
_MARKER_LIMIT: Final = 64 << 10
_INDEX_LIMIT: Final = 32 << 20
# A larger index.json is not cached in memory.
_CACHE_LIMIT: Final = 4 << 20
_POLL: Final = 0.01

# Bytes and path of an index.json.
ParseIndex = Callable[[bytes, str], IndexFile]


class Layout:
    """The image layout of one repository.

    Args:
        root: Root directory of the catalog.
        name: Name of the repository, which is the path of the layout from the root.
        parse: Function that decodes an ``index.json``; it may cache results.
    """

    def __init__(self, root: Root, name: RepositoryName, parse: ParseIndex = IndexFile.parse) -> None:
        self._root = root
        self._parse = parse
        self._parts = name.split("/") if name else []

    @contextmanager
    def open(self, *, is_marked: bool = False) -> Iterator[Directory | None]:
        """Open the directory of the layout; ``None`` if the layout does not exist.

        Args:
            is_marked: Whether only a directory with the file ``oci-layout`` is a layout. Otherwise, one that has an
                ``index.json`` without it is malformed.

        Raises:
            LayoutError: The layout is malformed.
        """
        with ExitStack() as stack:
            directory = self._open_directory(stack) if RESERVED.isdisjoint(self._parts) else None
            if directory is not None and is_marked and not directory.is_file(MARKER):
                directory = None
            yield directory if directory is not None and _is_layout(directory) else None

    def not_found(self) -> RepositoryNotFound:
        """Return the error for a layout that does not exist."""
        if not self._root.exists():
            return RepositoryNotFound(f"the directory {self._root.path} does not exist")
        return RepositoryNotFound("no image layout in this directory")

    @contextmanager
    def open_for_writing(self) -> Iterator[Directory]:
        """Open the directory, which is created if it does not exist. It may not be a layout yet; see ``initialize``.

        Raises:
            LayoutError: The layout is malformed; it is left unchanged.
            Unsupported: The repository name is the path of a file inside another layout.
        """
        reserved = sorted(RESERVED.intersection(self._parts))
        if reserved:
            raise Unsupported(f"{reserved[0]!r} in a repository name: that is a file of an image layout")
        with ExitStack() as stack:
            directory = self._root.open(create=True)
            if directory is None:
                raise LayoutError(".: the directory was deleted while it was created")
            stack.enter_context(directory)
            for part in self._parts:
                directory = stack.enter_context(directory.make(part))
            _is_layout(directory)
            yield directory

    def initialize(self, directory: Directory) -> None:
        """Write the files of an empty layout, unless the directory is a layout.

        Raises:
            LayoutError: The layout is malformed.
        """
        if _is_layout(directory):
            return
        with self.locked(directory):
            if _is_layout(directory):
                return
            # the marker is written last. Until then, other readers see no layout, because the index is empty.
            directory.make(BLOBS).close()
            if directory.read(INDEX, _INDEX_LIMIT) is None:
                directory.write(INDEX, EMPTY_INDEX)
            directory.write(MARKER, _MARKER_CONTENT)

    @contextmanager
    def locked(self, directory: Directory) -> Iterator[None]:
        """Hold the lock of the index, among all threads and processes that use this library.

        Raises:
            Cancelled: The current scope was cancelled while waiting.
            DeadlineExceeded: The deadline passed while waiting.
        """
        from filelock import FileLock, Timeout  # only writers need it

        lock = FileLock(directory.path / LOCK, timeout=0)

        def is_acquired() -> bool:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            return True

        with map_os_errors(directory.where(LOCK)):
            poll_until(is_acquired, interval=_POLL)
        try:
            yield
        finally:
            lock.release()

    def index(self, directory: Directory) -> IndexFile:
        """Read ``index.json``.

        Raises:
            LayoutError: The file is missing or malformed.
        """
        content = directory.read(INDEX, _INDEX_LIMIT)
        if content is None:
            raise LayoutError(f"{directory.where(INDEX)}: missing")
        parse = self._parse if len(content) <= _CACHE_LIMIT else IndexFile.parse
        return parse(content, directory.where(INDEX))

    def write_index(self, directory: Directory, index: IndexFile) -> None:
        """Replace ``index.json``, and delete the stale files of killed writers. The caller holds the lock.

        Raises:
            TooLarge: The file would be too large to be read again.
        """
        content = index.encode()
        if len(content) > _INDEX_LIMIT:
            raise TooLarge(f"{directory.where(INDEX)}: larger than {_INDEX_LIMIT} bytes with the new entry")
        directory.write(INDEX, content)
        _remove_stale_files(directory)

    def _open_directory(self, stack: ExitStack) -> Directory | None:
        directory = self._root.open()
        for part in self._parts:
            if directory is None:
                return None
            directory = stack.enter_context(directory).child(part)
        return None if directory is None else stack.enter_context(directory)


@contextmanager
def blob_dirs(directory: Directory, *, read_only: bool = False) -> Iterator[dict[str, Directory]]:
    """Open the blob directories of a layout, by algorithm.

    Args:
        directory: Directory of the layout.
        read_only: Whether the blobs are only read, so that symbolic links may lead to their directories. Without it,
            directories behind links are left out.
    """
    with ExitStack() as stack:
        found: dict[str, Directory] = {}
        blobs = directory.child(BLOBS, read_only=True)
        if blobs is not None:
            stack.enter_context(blobs)
            if blobs.is_linked and not read_only:
                yield found
                return
            for algorithm in sorted((*blobs.directories(), *(blobs.links() if read_only else ()))):
                blob_dir = blobs.child(algorithm, read_only=read_only)
                if blob_dir is not None:
                    found[algorithm] = stack.enter_context(blob_dir)
        yield found


def _remove_stale_files(directory: Directory) -> None:
    now = time.time()
    # The index is written. A failure to clean up must not be reported as a failure to write.
    with suppress(RegistryError), blob_dirs(directory) as found:
        for each in (directory, *found.values()):
            each.remove_stale_files(now - _TEMPORARY_FILE_AGE, partial_expiry=now - PARTIAL_FILE_AGE)


def _is_layout(directory: Directory) -> bool:
    marker = directory.read(MARKER, _MARKER_LIMIT)
    if marker is None:
        index = directory.read(INDEX, _INDEX_LIMIT)
        if index is None or index == EMPTY_INDEX:
            return False
        # Another writer may have initialized the layout and added a manifest since the first read.
        marker = directory.read(MARKER, _MARKER_LIMIT)
        if marker is None:
            raise LayoutError(f"{directory.where(MARKER)}: missing, although there is an index.json with entries")
    _check_marker(marker, directory.where(MARKER))
    if not directory.is_directory(BLOBS):
        blobs = directory.child(BLOBS, read_only=True)
        if blobs is None:
            raise LayoutError(f"{directory.where(BLOBS)}: missing")
        blobs.close()
    return True


def _check_marker(content: bytes, where: str) -> None:
    try:
        version = strict_json.decode(content).get("imageLayoutVersion")
    except InvalidDocument as error:
        raise LayoutError(f"{where}: {error.message}") from error
    if not isinstance(version, str):
        raise LayoutError(f"{where}: imageLayoutVersion is missing or not a string")
    if version != _VERSION:
        raise LayoutError(f"{where}: unknown imageLayoutVersion {version!r:.40}; only {_VERSION} is supported")
