"""Directories of a layout, read without following symbolic links and written atomically.

Below the root, each path component is opened relative to its open parent directory, so that none can be replaced by a
link in between. On systems that cannot do that, each component is checked by its path. On request, reading follows the
links that stay below the root; writing follows none.

A file is written under a temporary name, which other tools ignore, and renamed when it is complete.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from registry_adapters.layout.files import FileReader, changed_at, kind_of, map_os_errors
from registry_adapters.layout.links import FOLLOW_HINT, open_inside
from registry_core.cancellation import checkpoint
from registry_core.content import operating_system
from registry_core.content.operating_system import (
    DIRECTORY_FLAGS,
    NO_BLOCK,
    NO_FOLLOW,
    READ_FLAGS,
    UPDATE_FLAGS,
    effective_user_id,
    lock_file,
    require_dir_fds,
    set_permissions,
)
from registry_core.content.safe_files import (
    TEMPORARY_PREFIX,
    TEMPORARY_SUFFIX,
    create_file,
    open_directory,
    sync_directory,
    temporary_name,
    write_all,
)
from registry_core.content.streams import read_limited
from registry_core.errors import LayoutError, Unavailable

__all__ = [
    "PARTIAL",
    "Directory",
    "Root",
    "StagedFile",
    "is_private",
    "lock_partial",
    "partial_name",
]

# Suffix of an incomplete file that a later attempt may continue.
PARTIAL: Final = ".partial"

_READ_FLAGS: Final = READ_FLAGS | NO_FOLLOW | NO_BLOCK

_LOCK_FLAGS: Final = UPDATE_FLAGS | os.O_CREAT | NO_FOLLOW | NO_BLOCK


class StagedFile:
    """A file that is written under a temporary name; see ``Directory.staged`` and ``Directory.resumed``.

    ``commit`` gives the file its name. A file that was neither committed nor kept is removed at the end.

    Args:
        directory: Directory of the file.
        name: Temporary name of the file.
        descriptor: Descriptor for reading and writing; closed by ``commit`` and ``discard``.
    """

    def __init__(self, directory: Directory, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor: int | None = descriptor
        self._is_kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def size(self) -> int:
        """The number of bytes in the file."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            return os.fstat(self._descriptor).st_size

    def read(self, size: int) -> bytes:
        """Read the next bytes of an earlier attempt. Writing starts after the bytes that were read."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            return os.read(self._descriptor, size)

    def write(self, data: bytes) -> None:
        """Write bytes at the current position."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            write_all(self._descriptor, data)

    def clear(self) -> None:
        """Delete the content and start again."""
        assert self._descriptor is not None
        self._is_kept = False
        with map_os_errors(self._where):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)

    def keep(self) -> None:
        """Do not remove a partial file at the end, so that ``Directory.resumed`` can continue it."""
        self._is_kept = self._name.endswith(PARTIAL)

    def commit(self, name: str) -> None:
        """Give the file its name, replacing a file of that name.

        Raises:
            LayoutError: The name belongs to something other than a regular file.
        """
        assert self._descriptor is not None
        directory = self._directory
        with map_os_errors(directory.where(name)):
            set_permissions(self._descriptor, directory.root.file_mode(directory))
            if directory.root.fsync:
                os.fsync(self._descriptor)
            # Closed afterwards where the system can rename an open file: closing it releases its lock.
            if not operating_system.CAN_RENAME_OPEN_FILES:
                self._close()
            directory.move(self._name, name)
        self._is_kept = True
        self._close()

    def discard(self) -> None:
        """Remove the file unless it was committed or kept."""
        if not operating_system.CAN_RENAME_OPEN_FILES:
            self._close()
        if not self._is_kept:
            # Before it is closed, which releases its lock: the next holder's file must not be removed.
            with suppress(OSError):
                os.unlink(self._directory.at(self._name), dir_fd=self._directory.fd)
        self._close()

    @property
    def _where(self) -> str:
        return self._directory.where(self._name)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def lock_partial(directory: Directory, name: str) -> int | None:
    """Open a partial file, which is created if it does not exist, and lock it among all callers of this function.

    Returns:
        Descriptor of the file; closing it, or the end of the process, releases the lock. ``None`` if the file cannot be
        locked, or another caller has it.
    """
    if not operating_system.HAS_FILE_LOCKS:
        return None
    try:
        descriptor = os.open(directory.at(name), _LOCK_FLAGS, 0o600, dir_fd=directory.fd)
    except OSError:
        return None
    try:
        # The last holder of the lock may have renamed or removed the file since it was opened here.
        is_locked = lock_file(descriptor) and os.path.samestat(os.fstat(descriptor), directory.status(name))
    except OSError:
        is_locked = False
    if not is_locked:
        os.close(descriptor)
    return descriptor if is_locked else None


def is_private(status: os.stat_result) -> bool:
    """Return whether a file is a regular file of this user with a single name."""
    # a file with a second name or of another user could be changed while it is continued.
    is_owner = effective_user_id() in (None, status.st_uid)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and is_owner


def partial_name(name: str) -> str:
    """Return the name of a file while it is incomplete and can be continued."""
    return f"{TEMPORARY_PREFIX}{name}{PARTIAL}"


class Root:
    """Root directory of a catalog. Its own path may contain symbolic links.

    Args:
        path: Path of the directory; it need not exist.
        fsync: Whether a write returns only after the disk has it.
        follow_symlinks: Whether reading follows symbolic links that stay below the directory.

    Raises:
        Unsupported: Links are to be followed, and the system cannot open files relative to a directory.
    """

    def __init__(self, path: Path, *, fsync: bool, follow_symlinks: bool = False) -> None:
        if follow_symlinks:
            require_dir_fds("follow symbolic links in a layout")
        self.path = path
        self.fsync = fsync
        self.follow_symlinks = follow_symlinks
        self._mode: int | None = None

    def open(self, *, create: bool = False) -> Directory | None:
        """Open the root directory; ``None`` if it does not exist.

        Args:
            create: Whether to create it if it does not exist.

        Raises:
            LayoutError: It is not a directory.
        """
        with map_os_errors("."):
            try:
                if create:
                    self._create()
                if not stat.S_ISDIR(self.path.stat().st_mode):
                    raise LayoutError("not a directory")
                if not operating_system.HAS_DIR_FDS:
                    return Directory(self, self.path, "", None)
                return Directory(self, self.path, "", os.open(self.path, DIRECTORY_FLAGS & ~NO_FOLLOW))
            except FileNotFoundError:
                return None
            except FileExistsError:
                raise LayoutError("not a directory") from None

    def exists(self) -> bool:
        """Return whether there is a directory."""
        return self.path.is_dir()

    def _create(self) -> None:
        missing = []
        for path in (self.path, *self.path.parents):
            if path.exists():
                break
            missing.append(path)
        self.path.mkdir(parents=True, exist_ok=True)
        for path in missing if self.fsync and operating_system.HAS_DIR_FDS else ():
            sync_directory(path.parent, ignore_errors=False)

    def file_mode(self, directory: Directory) -> int:
        """Return the permissions of new files: 0644 without the bits of the umask.

        They are those of a probe file, because the umask can be read only by changing it for the whole process.
        """
        if self._mode is None:
            self._mode = stat.S_IMODE(directory.probe().st_mode)
        return self._mode


class Directory:
    """An open directory. A name in it is always a single path component.

    Args:
        root: Root directory of the catalog.
        path: Path of the directory.
        label: Path relative to the root, for errors.
        fd: Descriptor of the directory; ``None`` on systems that cannot open files relative to a directory.
        is_linked: Whether the directory was reached through a symbolic link, so that it is only read.
    """

    def __init__(self, root: Root, path: Path, label: str, fd: int | None, *, is_linked: bool = False) -> None:
        self.root = root
        self.is_linked = is_linked
        self.path = path
        self.label = label
        self.fd = fd

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def at(self, name: str) -> str:
        """Return the path to pass to functions of ``os`` together with ``dir_fd=self.fd``."""
        return name if self.fd is not None else os.path.join(self.path, name)

    def where(self, name: str) -> str:
        """Return the path of a name relative to the root, for errors."""
        return f"{self.label}/{name}" if self.label else name

    def child(self, name: str, *, read_only: bool = False) -> Directory | None:
        """Open a directory in this one; ``None`` if it does not exist.

        Args:
            name: Name of the directory.
            read_only: Whether the directory is only read, so that a symbolic link may lead to it.

        Raises:
            LayoutError: It is not a directory, or a symbolic link that is not followed.
        """
        with map_os_errors(self.where(name)):
            try:
                status = self.status(name)
                is_linked = self._is_followed(status, read_only=read_only)
                if not is_linked and not stat.S_ISDIR(status.st_mode):
                    raise self._unexpected(name, "a directory", status.st_mode, read_only=read_only)
                if is_linked:
                    fd: int | None = open_inside(self.root.path, self.where(name))
                else:
                    fd = None if self.fd is None else open_directory(name, inside=self.fd)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    return None
                raise
            found = Directory(self.root, self.path / name, self.where(name), fd, is_linked=is_linked or self.is_linked)
            if is_linked and fd is not None and not stat.S_ISDIR(mode := os.fstat(fd).st_mode):
                found.close()
                raise self._unexpected(name, "a directory", mode, read_only=read_only)
            return found

    def make(self, name: str) -> Directory:
        """Open a directory in this one, which is created if it does not exist.

        Raises:
            LayoutError: It is not a directory, or a symbolic link.
        """
        found = self.child(name)
        if found is not None:
            return found
        with map_os_errors(self.where(name)):
            with suppress(FileExistsError):
                os.mkdir(self.at(name), dir_fd=self.fd)
            self.sync()
        found = self.child(name)
        if found is None:
            raise Unavailable(f"{self.where(name)}: the directory was deleted while it was created")
        return found

    def is_file(self, name: str) -> bool:
        """Return whether the name belongs to a regular file, or to a link to one that is followed.

        Raises:
            LayoutError: Links are followed, and the link leads out of the root directory.
        """
        with map_os_errors(self.where(name)):
            try:
                status = self.status(name)
            except FileNotFoundError:
                return False
        if not self._is_followed(status, read_only=True):
            return stat.S_ISREG(status.st_mode)
        reader = self.open(name)
        if reader is not None:
            reader.close()
        return reader is not None

    def is_directory(self, name: str) -> bool:
        """Return whether the name belongs to a directory; a link to a directory does not count."""
        with map_os_errors(self.where(name)):
            try:
                return stat.S_ISDIR(self.status(name).st_mode)
            except FileNotFoundError:
                return False

    def open(self, name: str) -> FileReader | None:
        """Open a regular file for reading; ``None`` if it does not exist, or a link that is followed is dangling.

        Raises:
            LayoutError: It is not a regular file, or a symbolic link that is not followed.
        """
        with map_os_errors(self.where(name)):
            try:
                status = self.status(name)
                is_linked = self._is_followed(status, read_only=True)
                if is_linked:
                    descriptor = open_inside(self.root.path, self.where(name))
                else:
                    self._check_regular(name, status, read_only=True)
                    descriptor = os.open(self.at(name), _READ_FLAGS, dir_fd=self.fd)
            except FileNotFoundError:
                return None
            try:
                self._check_regular(name, os.fstat(descriptor))
                return FileReader(descriptor, self.where(name), is_linked=is_linked or self.is_linked)
            except BaseException:
                os.close(descriptor)
                raise

    def read(self, name: str, limit: int) -> bytes | None:
        """Read a whole regular file; ``None`` if it does not exist.

        Args:
            name: Name of the file.
            limit: Largest size in bytes.

        Raises:
            LayoutError: It is not a regular file.
            TooLarge: It is larger than the limit.
        """
        reader = self.open(name)
        if reader is None:
            return None
        with reader:
            return read_limited(reader, limit, what=self.where(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, replacing a file of that name."""
        with self.staged() as file:
            file.write(content)
            file.commit(name)

    @contextmanager
    def staged(self) -> Iterator[StagedFile]:
        """Create a temporary file, which gets its name when it is committed, and is removed otherwise."""
        name = temporary_name()
        with map_os_errors(self.where(name)):
            descriptor = create_file(self.at(name), inside=self.fd)
        with StagedFile(self, name, descriptor) as file:
            yield file

    @contextmanager
    def resumed(self, name: str) -> Iterator[StagedFile]:
        """Continue the partial file of an earlier attempt that was kept or killed; without one, create it.

        One writer at a time can continue a file. A concurrent writer gets a temporary file, like ``staged``.

        Args:
            name: Final name of the file.
        """
        partial = partial_name(name)
        descriptor = lock_partial(self, partial)
        if descriptor is not None and not is_private(os.fstat(descriptor)):
            os.close(descriptor)
            descriptor = None
        with self.staged() if descriptor is None else StagedFile(self, partial, descriptor) as file:
            yield file

    def link(self, source: Directory, name: str, status: os.stat_result) -> bool:
        """Create a hard link to a file of another directory, under the same name.

        Args:
            source: Directory of the file.
            name: Name of the file in both directories.
            status: Status of the file; a file that has replaced it is not linked.

        Returns:
            Whether the link exists now; ``False`` if the file system has no hard links.
        """
        temporary = temporary_name()
        try:
            os.link(
                source.at(name), self.at(temporary), src_dir_fd=source.fd, dst_dir_fd=self.fd, follow_symlinks=False
            )
        except (OSError, NotImplementedError):
            return False
        try:
            with map_os_errors(self.where(name)):
                if not os.path.samestat(self.status(temporary), status):
                    return False
            self.move(temporary, name)
            return True
        finally:
            # Renaming a link over another link to the same file does nothing, so the first one still exists.
            with suppress(OSError):
                os.unlink(self.at(temporary), dir_fd=self.fd)

    def move(self, temporary: str, name: str) -> None:
        """Rename a temporary file to its final name, replacing a file of that name.

        Raises:
            LayoutError: The name belongs to something other than a regular file.
        """
        with map_os_errors(self.where(name)):
            with suppress(FileNotFoundError):
                self._check_regular(name, self.status(name))
            os.replace(self.at(temporary), self.at(name), src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self.sync()

    def remove(self, name: str) -> bool:
        """Remove a regular file.

        Returns:
            Whether there was one.

        Raises:
            LayoutError: It is not a regular file.
        """
        with map_os_errors(self.where(name)):
            try:
                self._check_regular(name, self.status(name))
                os.unlink(self.at(name), dir_fd=self.fd)
            except FileNotFoundError:
                return False
            self.sync()
        return True

    def remove_stale_files(self, expiry: float, *, partial_expiry: float) -> None:
        """Remove the temporary files of killed writers.

        Args:
            expiry: Time in seconds since 1970; temporary files that changed last before it are removed.
            partial_expiry: The same for partial files, which a later attempt may continue.
        """
        names = [entry.name for entry in self._entries() if entry.name.startswith(TEMPORARY_PREFIX)]
        for name in names:
            # Another process may have removed the file, or own it.
            with suppress(OSError):
                if name.endswith(TEMPORARY_SUFFIX) and self._is_stale(name, expiry):
                    os.unlink(self.at(name), dir_fd=self.fd)
                elif name.endswith(PARTIAL) and self._is_stale(name, partial_expiry):
                    self._remove_partial(name, partial_expiry)

    def links(self) -> list[str]:
        """Return the names of the symbolic links in this directory, if links are followed."""
        if not self.root.follow_symlinks:
            return []
        return [entry.name for entry in self._entries() if entry.is_symlink()]

    def directories(self) -> list[str]:
        """Return the names of the directories in this one, without links to directories."""
        return [entry.name for entry in self._entries() if entry.is_dir(follow_symlinks=False)]

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Iterate over name and status of everything that is not a directory. Links are not followed."""
        for entry in self._entries():
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    yield entry.name, status

    def probe(self) -> os.stat_result:
        """Create a file and remove it; return its status, which has the mode and the time of new files."""
        name = temporary_name()
        with map_os_errors(self.where(name)):
            descriptor = create_file(self.at(name), mode=0o644, inside=self.fd)
            try:
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)
                os.unlink(self.at(name), dir_fd=self.fd)

    def status(self, name: str) -> os.stat_result:
        """Return the status of a name. Links are not followed."""
        return os.stat(self.at(name), dir_fd=self.fd, follow_symlinks=False)

    def sync(self) -> None:
        """Make the disk store the names in this directory, if ``fsync`` is set."""
        if self.root.fsync and self.fd is not None:
            os.fsync(self.fd)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with map_os_errors(self.label or "."), os.scandir(self.path if self.fd is None else self.fd) as entries:
            for entry in entries:
                checkpoint()
                yield entry

    def _remove_partial(self, name: str, expiry: float) -> None:
        descriptor = lock_partial(self, name)
        if descriptor is not None:
            with StagedFile(self, name, descriptor) as file:
                if not self._is_stale(name, expiry):
                    file.keep()

    def _is_stale(self, name: str, expiry: float) -> bool:
        status = self.status(name)
        return stat.S_ISREG(status.st_mode) and changed_at(status) < expiry

    def _is_followed(self, status: os.stat_result, *, read_only: bool) -> bool:
        return read_only and self.root.follow_symlinks and stat.S_ISLNK(status.st_mode)

    def _check_regular(self, name: str, status: os.stat_result, *, read_only: bool = False) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._unexpected(name, "a regular file", status.st_mode, read_only=read_only)

    def _unexpected(self, name: str, expected: str, mode: int, *, read_only: bool) -> LayoutError:
        hint = ""
        if stat.S_ISLNK(mode):
            hint = FOLLOW_HINT if read_only else ", which is not followed there"
        return LayoutError(f"{self.where(name)}: expected {expected}, found {kind_of(mode)}{hint}")
