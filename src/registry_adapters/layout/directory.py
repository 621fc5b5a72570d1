"""Directories that are read and written without following links, and written atomically.

Below the root every step goes through an open directory where the system can do that, so that nothing on the way
can be swapped for a link. Where it cannot, each step is checked by its path.

Files under names that other tools pass over, until they are whole.
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

from registry_adapters.layout.files import FileReader, kind_of, map_os_errors
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


PARTIAL: Final = ".partial"

_READ: Final = READ_FLAGS | NO_FOLLOW | NO_BLOCK

_LOCK: Final = UPDATE_FLAGS | os.O_CREAT | NO_FOLLOW | NO_BLOCK


class StagedFile:
    """A file that is being written under another name; see ``Directory.staged`` and ``Directory.continued``."""

    def __init__(self, directory: Directory, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor: int | None = descriptor
        self._settled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def size(self) -> int:
        """How many bytes are in it."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            return os.fstat(self._descriptor).st_size

    def read(self, size: int) -> bytes:
        """The next bytes of what was in it; behind them is written."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            return os.read(self._descriptor, size)

    def write(self, data: bytes) -> None:
        """Append some bytes."""
        assert self._descriptor is not None
        with map_os_errors(self._where):
            write_all(self._descriptor, data)

    def clear(self) -> None:
        """Begin anew with nothing in it."""
        assert self._descriptor is not None
        self._settled = False
        with map_os_errors(self._where):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)

    def keep(self) -> None:
        """Leave it in the end, if nothing better comes of it, for ``Directory.continued`` to go on with."""
        self._settled = self._name.endswith(PARTIAL)

    def commit(self, name: str) -> None:
        """Make it the file of that name, whole and at once.

        Raises:
            LayoutError: Something that is no regular file has that name.
        """
        assert self._descriptor is not None
        directory = self._directory
        with map_os_errors(directory.where(name)):
            set_permissions(self._descriptor, directory.root.mode(directory))
            if directory.root.fsync:
                os.fsync(self._descriptor)
            # Closed afterwards where the system can rename an open file: closing it releases its lock.
            if not operating_system.CAN_RENAME_OPEN_FILES:
                self._close()
            directory.move(self._name, name)
        self._settled = True
        self._close()

    def discard(self) -> None:
        """Remove what was neither committed nor kept."""
        if not operating_system.CAN_RENAME_OPEN_FILES:
            self._close()
        if not self._settled:
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
    """A file of a directory, open for nobody else who asks here, or ``None``.

    It is ours until it is closed, or the process ends, however it ends.
    """
    if not operating_system.HAS_FILE_LOCKS:
        return None
    try:
        descriptor = os.open(directory.at(name), _LOCK, 0o600, dir_fd=directory.fd)
    except OSError:
        return None
    try:
        # Its last holder may have given it its final name, or have removed it.
        ours = lock_file(descriptor) and os.path.samestat(os.fstat(descriptor), directory.status(name))
    except OSError:
        ours = False
    if not ours:
        os.close(descriptor)
    return descriptor if ours else None


def is_private(status: os.stat_result) -> bool:
    """Whether a file is a regular one, and nobody else's."""
    # A file that has another name too, or another owner, could be changed behind our back.
    ours = effective_user_id() in (None, status.st_uid)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and ours


def partial_name(name: str) -> str:
    """What a file is called while it is incomplete, but worth going on with."""
    return f"{TEMPORARY_PREFIX}{name}{PARTIAL}"


class Root:
    """Where a catalog's directories begin. The root itself may be reached through links.

    Args:
        path: The directory; it need not exist.
        fsync: Whether a write returns only once the disk has it.
    """

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self.path = path
        self.fsync = fsync
        self._mode: int | None = None

    def open(self, *, create: bool = False) -> Directory | None:
        """The root, open, or ``None`` where it does not exist.

        Raises:
            LayoutError: It is no directory.
        """
        with map_os_errors("."):
            try:
                if create:
                    self._make()
                if not stat.S_ISDIR(self.path.stat().st_mode):
                    raise LayoutError(".: not a directory")
                if not operating_system.HAS_DIR_FDS:
                    return Directory(self, self.path, "", None)
                return Directory(self, self.path, "", os.open(self.path, DIRECTORY_FLAGS & ~NO_FOLLOW))
            except FileNotFoundError:
                return None
            except FileExistsError:
                raise LayoutError(".: not a directory") from None

    def _make(self) -> None:
        missing = []
        for path in (self.path, *self.path.parents):
            if path.exists():
                break
            missing.append(path)
        self.path.mkdir(parents=True, exist_ok=True)
        for path in missing if self.fsync else ():
            sync_directory(path.parent)

    def mode(self, directory: Directory) -> int:
        """What the process's umask leaves of 0644; found by looking, since asking for the umask would change it."""
        if self._mode is None:
            self._mode = stat.S_IMODE(directory.probe().st_mode)
        return self._mode


class Directory:
    """An open directory. Every name is one component, taken as it is and never as a path.

    Args:
        root: What it lies below.
        path: Where it was found.
        label: Its path relative to the root.
        fd: Its descriptor; ``None`` where the system works by paths.
    """

    def __init__(self, root: Root, path: Path, label: str, fd: int | None) -> None:
        self.root = root
        self.path = path
        self.label = label
        self.fd = fd

    def close(self) -> None:
        """Let go of the descriptor. Idempotent."""
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
        """What to call a name in this directory, together with ``dir_fd=self.fd``."""
        return name if self.fd is not None else os.path.join(self.path, name)

    def where(self, name: str) -> str:
        """A name's path relative to the root, for errors."""
        return f"{self.label}/{name}" if self.label else name

    def child(self, name: str) -> Directory | None:
        """A directory in this one, open, or ``None`` where there is none.

        Raises:
            LayoutError: It is a link or no directory.
        """
        with map_os_errors(self.where(name)):
            try:
                status = self.status(name)
                if not stat.S_ISDIR(status.st_mode):
                    raise LayoutError(f"{self.where(name)}: {kind_of(status.st_mode)} where a directory should be")
                fd = None if self.fd is None else open_directory(name, inside=self.fd)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    return None
                raise
            return Directory(self.root, self.path / name, self.where(name), fd)

    def make(self, name: str) -> Directory:
        """A directory in this one, open, made if need be.

        Raises:
            LayoutError: It is a link or no directory.
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
            raise Unavailable(f"{self.where(name)}: was made and is gone")
        return found

    def is_file(self, name: str) -> bool:
        """Whether a regular file of that name is here; never raises for what else stands there."""
        with map_os_errors(self.where(name)):
            try:
                return stat.S_ISREG(self.status(name).st_mode)
            except FileNotFoundError:
                return False

    def is_directory(self, name: str) -> bool:
        """Whether a directory of that name is here, and no link to one."""
        with map_os_errors(self.where(name)):
            try:
                return stat.S_ISDIR(self.status(name).st_mode)
            except FileNotFoundError:
                return False

    def open(self, name: str) -> FileReader | None:
        """A reader over a regular file, or ``None`` where there is none.

        Raises:
            LayoutError: It is a link, a directory, a pipe or a device.
        """
        with map_os_errors(self.where(name)):
            try:
                self._regular(name, self.status(name))
                descriptor = os.open(self.at(name), _READ, dir_fd=self.fd)
            except FileNotFoundError:
                return None
            try:
                self._regular(name, os.fstat(descriptor))
                return FileReader(descriptor, self.where(name))
            except BaseException:
                os.close(descriptor)
                raise

    def read(self, name: str, limit: int) -> bytes | None:
        """All of a regular file, or ``None`` where there is none.

        Raises:
            LayoutError: It is a link, a directory, a pipe or a device.
            TooLarge: It is larger than the limit.
        """
        reader = self.open(name)
        if reader is None:
            return None
        with reader:
            return read_limited(reader, limit, what=self.where(name))

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place at once, whole."""
        with self.staged() as file:
            file.write(content)
            file.commit(name)

    @contextmanager
    def staged(self) -> Iterator[StagedFile]:
        """A temporary file in this directory that becomes a file when it is committed, and vanishes otherwise."""
        name = temporary_name()
        with map_os_errors(self.where(name)):
            descriptor = create_file(self.at(name), inside=self.fd)
        with StagedFile(self, name, descriptor) as file:
            yield file

    @contextmanager
    def continued(self, name: str) -> Iterator[StagedFile]:
        """As ``staged``, going on with what was kept of an earlier attempt at a file, or was left by a killed one.

        Only one at a time can do that; whoever comes second starts from nothing.

        Args:
            name: What the file will be called.
        """
        partial = partial_name(name)
        descriptor = lock_partial(self, partial)
        if descriptor is not None and not is_private(os.fstat(descriptor)):
            os.close(descriptor)
            descriptor = None
        with self.staged() if descriptor is None else StagedFile(self, partial, descriptor) as file:
            yield file

    def link(self, source: Directory, name: str, status: os.stat_result) -> bool:
        """Take over a file of another directory under the same name, without moving its bytes.

        Args:
            source: Where it is.
            name: What it is called, there and here.
            status: Of the very file that is meant: another one under that name is not taken.

        Returns:
            Whether it is here now; ``False`` where the file system cannot do that.
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
            # Renaming one link to a file over another one does nothing, so the first is still here.
            with suppress(OSError):
                os.unlink(self.at(temporary), dir_fd=self.fd)

    def move(self, temporary: str, name: str) -> None:
        """Give a finished temporary file its name.

        Raises:
            LayoutError: Something that is no regular file has that name.
        """
        with map_os_errors(self.where(name)):
            with suppress(FileNotFoundError):
                self._regular(name, self.status(name))
            os.replace(self.at(temporary), self.at(name), src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self.sync()

    def remove(self, name: str) -> bool:
        """Remove a regular file; ``False`` where there is none.

        Raises:
            LayoutError: It is a link, a directory, a pipe or a device.
        """
        with map_os_errors(self.where(name)):
            try:
                self._regular(name, self.status(name))
                os.unlink(self.at(name), dir_fd=self.fd)
            except FileNotFoundError:
                return False
            self.sync()
        return True

    def sweep(self, moment: float, *, partial: float) -> None:
        """Remove the temporary files that nobody has touched for long: whoever wrote them was killed.

        Args:
            moment: Since when, in seconds since the epoch, as files have it.
            partial: The same for those that somebody may go on with.
        """
        names = [entry.name for entry in self._entries() if entry.name.startswith(TEMPORARY_PREFIX)]
        for name in names:
            # What another process removed meanwhile, or does not let us remove, is none of our business.
            with suppress(OSError):
                if name.endswith(TEMPORARY_SUFFIX) and self._is_older(name, moment):
                    os.unlink(self.at(name), dir_fd=self.fd)
                elif name.endswith(PARTIAL) and self._is_older(name, partial):
                    self._forget(name, partial)

    def directories(self) -> list[str]:
        """The names of the directories in this one, links to directories not among them."""
        return [entry.name for entry in self._entries() if entry.is_dir(follow_symlinks=False)]

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The names of what is here but directories, each with what the system says about it, links not followed."""
        for entry in self._entries():
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    yield entry.name, status

    def probe(self) -> os.stat_result:
        """What a new file is like here: its mode, and the time by the file system's clock. It is removed at once."""
        name = temporary_name()
        with map_os_errors(self.where(name)):
            descriptor = create_file(self.at(name), mode=0o644, inside=self.fd)
            try:
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)
                os.unlink(self.at(name), dir_fd=self.fd)

    def sync(self) -> None:
        """Have the disk know the names in this directory."""
        if self.root.fsync and self.fd is not None:
            os.fsync(self.fd)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with map_os_errors(self.label or "."), os.scandir(self.path if self.fd is None else self.fd) as entries:
            for entry in entries:
                checkpoint()
                yield entry

    def _forget(self, name: str, moment: float) -> None:
        descriptor = lock_partial(self, name)
        if descriptor is not None:
            with StagedFile(self, name, descriptor) as file:
                if not self._is_older(name, moment):
                    file.keep()

    def _is_older(self, name: str, moment: float) -> bool:
        status = self.status(name)
        # A link to an old file is as young as its last change, not as its content.
        return stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) < moment

    def status(self, name: str) -> os.stat_result:
        """What the system says about a name here, links not followed."""
        return os.stat(self.at(name), dir_fd=self.fd, follow_symlinks=False)

    def _regular(self, name: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise LayoutError(f"{self.where(name)}: {kind_of(status.st_mode)} where a file should be")
