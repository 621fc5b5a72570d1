"""Atomic creation of files, and errors of the library in place of those of the operating system."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Protocol

from registry_core.content import operating_system
from registry_core.errors import Forbidden, InvalidName, RegistryError, Unavailable, Unsupported

__all__ = [
    "OS_ERRORS",
    "TEMPORARY_PREFIX",
    "TEMPORARY_SUFFIX",
    "AtomicFile",
    "create_file",
    "map_os_errors",
    "open_directory",
    "os_errors_about",
    "sync_directory",
    "temporary_name",
    "write_all",
]

TEMPORARY_PREFIX: Final = ".ociport-"

TEMPORARY_SUFFIX: Final = ".tmp"

OS_ERRORS: Final[Mapping[int, type[RegistryError]]] = MappingProxyType(
    {
        errno.EACCES: Forbidden,
        errno.EPERM: Forbidden,
        errno.EROFS: Unsupported,
        errno.ENAMETOOLONG: InvalidName,
    }
)

_Path = str | os.PathLike[str]


@contextmanager
def map_os_errors(
    where: str,
    errors: Mapping[int, type[RegistryError]] = OS_ERRORS,
    *,
    otherwise: type[RegistryError] = Unavailable,
) -> Iterator[None]:
    """Raise errors of the library in place of ``OSError``; errors of the library pass through.

    Args:
        where: Path to name in messages.
        errors: Class of the error to raise, by ``errno``.
        otherwise: Class of the error for any other ``errno``, such as that of a full disk.

    Raises:
        Forbidden: The system denies access.
        Unsupported: The file system is read-only.
        InvalidName: A name is longer than the file system allows.
        Unavailable: Any other error.
    """
    try:
        yield
    except RegistryError:
        raise
    except OSError as error:
        kind = errors.get(error.errno or 0, otherwise)
        raise kind(f"{where}: {error.strerror or type(error).__name__}") from error


def temporary_name() -> str:
    """Return a random name for a temporary file, which no other writer uses."""
    return f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"


@contextmanager
def os_errors_about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name a path in each ``OSError`` that is raised inside, in place of a temporary file or of no path.

    Args:
        path: Path to name.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, RegistryError):
            error.filename = os.fspath(path)
            # A rename names its target as well, which is the same path.
            del error.filename2
        raise


def create_file(path: _Path | bytes, *, mode: int = 0o600, inside: int | None = None) -> int:
    """Create a file that does not exist yet.

    Args:
        path: Path of the file.
        mode: Permissions before the umask.
        inside: Descriptor of the directory that a relative path starts from.

    Returns:
        A descriptor for reading and writing.

    Raises:
        FileExistsError: A file, directory or link has that name, even a dangling link.
        OSError: The file cannot be created.
    """
    return os.open(path, operating_system.NEW_FILE_FLAGS, mode, dir_fd=inside)


def open_directory(path: _Path | bytes, *, inside: int | None = None) -> int:
    """Open a directory, unless it is a symbolic link.

    Args:
        path: Path of the directory.
        inside: Descriptor of the directory that a relative path starts from.

    Raises:
        OSError: The directory does not exist, or is a link.
    """
    return os.open(path, operating_system.DIRECTORY_FLAGS, dir_fd=inside)


class _Writable(Protocol):
    def write(self, data: memoryview, /) -> int | None: ...


def write_all(file: int | _Writable, data: bytes | bytearray | memoryview) -> None:
    """Write all of some bytes, in as many writes as the system needs.

    Args:
        file: Descriptor, or unbuffered file in blocking mode.
        data: Bytes to write.

    Raises:
        OSError: A write failed.
    """
    view = memoryview(data)
    while len(view):
        view = view[(os.write(file, view) if isinstance(file, int) else file.write(view)) or 0 :]


def sync_directory(path: _Path, *, ignore_errors: bool = True) -> None:
    """Flush the entries of a directory to disk.

    Args:
        path: Directory.
        ignore_errors: Whether to ignore errors: not every operating system can open a directory for that.

    Raises:
        OSError: The entries could not be flushed.
    """
    with contextlib.suppress(*((OSError,) if ignore_errors else ())):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AtomicFile:
    """A new file under a temporary name; ``commit`` gives it the name of its target, ``discard`` removes it.

    Args:
        target: Path that the file gets on commit. A link under that name is replaced, not followed.
        directory: Directory of the temporary file; the target's by default.
        name: Name of the temporary file; a random one by default.
        mode: Permissions before the umask.

    Attributes:
        path: Path of the temporary file.
        descriptor: Descriptor for reading and writing, which the caller closes; before ``commit`` where
            ``operating_system.CAN_RENAME_OPEN_FILES`` is false.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, target: _Path, *, directory: _Path | None = None, name: str = "", mode: int = 0o600) -> None:
        self._target = os.fspath(target)
        self._directory = os.path.dirname(self._target) or os.curdir
        self.path = os.path.join(directory or self._directory, name or temporary_name())
        self.descriptor = create_file(self.path, mode=mode)
        self._cleanup = weakref.finalize(self, _remove, self.path, os.getpid())

    def commit(self, *, fsync: bool = True) -> None:
        """Replace the target.

        Args:
            fsync: Whether to flush the new name to disk before returning.

        Raises:
            OSError: The target cannot be replaced.
        """
        os.replace(self.path, self._target)
        self._cleanup.detach()
        if fsync:
            sync_directory(self._directory)

    def discard(self) -> None:
        """Remove the temporary file unless it was committed. Idempotent."""
        self._cleanup()


def _remove(path: str, owner: int) -> None:
    # A forked child must not remove the file that its parent is writing.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
