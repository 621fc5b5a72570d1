"""Open files, and what the system says about them in the library's words."""

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

__all__ = ["FileReader", "kind_of", "map_os_errors"]

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
    """A reader over an open regular file.

    Args:
        descriptor: The file's; closed with the reader.
        where: Its path relative to the root.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._where = where

    def status(self) -> os.stat_result:
        """What the system says about the file."""
        with map_os_errors(self._where):
            return os.fstat(self._file.fileno())

    def fileno(self) -> int:
        """The file's descriptor, which stays the reader's."""
        return self._file.fileno()

    def seek(self, position: int) -> None:
        """Go to a byte."""
        with map_os_errors(self._where):
            self._file.seek(position)

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes.

        Raises:
            Unavailable: The disk failed.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        checkpoint()
        with map_os_errors(self._where):
            return self._file.read(size) or b""

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def kind_of(mode: int) -> str:
    """What stands somewhere, in words, by its mode."""
    kinds = (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISREG, "a file"),
    )
    return next((name for test, name in kinds if test(mode)), "a device or socket")
