"""Files of a layout that are open for reading, their kind and their age."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from typing import Final

from registry_core.cancellation import checkpoint
from registry_core.content import safe_files
from registry_core.content.safe_files import OS_ERRORS
from registry_core.content.streams import BaseReader
from registry_core.errors import LayoutError

__all__ = ["FileReader", "changed_at", "kind_of", "map_os_errors"]

_OS_ERRORS: Final = {
    **OS_ERRORS,
    **dict.fromkeys((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENOTEMPTY), LayoutError),
}


def map_os_errors(where: str) -> AbstractContextManager[None]:
    """Raise the library's errors for those of the system; see ``safe_files.map_os_errors``.

    Args:
        where: Path that the errors are about, relative to the root.

    Raises:
        LayoutError: There is something else than a regular file or directory where one is expected.
        Forbidden: The system denies access.
        Unsupported: The file system is read-only.
        InvalidName: A name is longer than the file system allows.
        Unavailable: Any other error, such as a full disk.
    """
    return safe_files.map_os_errors(where, _OS_ERRORS)


class FileReader(BaseReader):
    """Reader over an open regular file.

    Args:
        descriptor: Descriptor of the file; closed with the reader.
        where: Path of the file relative to the root, for errors.
        is_linked: Whether the file was reached through a symbolic link, so that nothing of it is changed.
    """

    def __init__(self, descriptor: int, where: str, *, is_linked: bool = False) -> None:
        self.is_linked = is_linked
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._where = where

    def status(self) -> os.stat_result:
        """Return the status of the file."""
        with map_os_errors(self._where):
            return os.fstat(self._file.fileno())

    def fileno(self) -> int:
        """Return the descriptor, which the reader still owns."""
        return self._file.fileno()

    def seek(self, position: int) -> None:
        """Continue reading at a position."""
        with map_os_errors(self._where):
            self._file.seek(position)

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all remaining bytes if it is negative.

        Raises:
            Unavailable: The disk failed.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        checkpoint()
        with map_os_errors(self._where):
            return self._file.read(size) or b""

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def changed_at(status: os.stat_result) -> float:
    """Return the time of the last change of a file's content or names, in seconds since 1970."""
    return max(status.st_mtime, status.st_ctime)


def kind_of(mode: int) -> str:
    """Return the kind of a file in words, such as ``a symbolic link``, from its mode."""
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a fifo"),
        (stat.S_ISREG, "a regular file"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device or socket")
