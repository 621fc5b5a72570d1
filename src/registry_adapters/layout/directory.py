"""Directories that are read and written without following links, and written atomically (R-006, R-310).

Below the root every step goes through an open directory where the system can do that, so that nothing on the way
can be swapped for a link. Where it cannot, each step is checked by its path.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from registry_adapters.layout.files import FileReader, explained, kind_of
from registry_core.content.limits import read_all
from registry_core.errors import LayoutError, Unavailable

__all__ = ["Directory", "Root", "StagedFile"]

_ANCHORED = (
    {os.open, os.stat, os.unlink, os.mkdir, os.rename, os.link} <= os.supports_dir_fd
    and os.scandir in os.supports_fd
    and hasattr(os, "O_DIRECTORY")
    and hasattr(os, "O_NOFOLLOW")
)
_SAFE = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
_PREFIX, _SUFFIX = ".ociport-", ".tmp"
_READ = os.O_RDONLY | _SAFE
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE


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
        with explained("."):
            try:
                if create:
                    self.path.mkdir(parents=True, exist_ok=True)
                if not stat.S_ISDIR(self.path.stat().st_mode):
                    raise LayoutError(".: not a directory")
                if not _ANCHORED:
                    return Directory(self, self.path, "", None)
                flags = os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0)
                return Directory(self, self.path, "", os.open(self.path, flags))
            except FileNotFoundError:
                return None
            except FileExistsError:
                raise LayoutError(".: not a directory") from None

    def mode(self, directory: Directory) -> int:
        """What the process's umask leaves of 0644; found by looking, since asking for the umask would change it."""
        if self._mode is None:
            name = _temporary()
            descriptor = os.open(directory.at(name), _CREATE, 0o644, dir_fd=directory.fd)
            try:
                self._mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            finally:
                os.close(descriptor)
                os.unlink(directory.at(name), dir_fd=directory.fd)
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
        with explained(self.where(name)):
            try:
                status = self._status(name)
                if not stat.S_ISDIR(status.st_mode):
                    raise LayoutError(f"{self.where(name)}: {kind_of(status.st_mode)} where a directory should be")
                fd = None if self.fd is None else os.open(name, os.O_DIRECTORY | _READ, dir_fd=self.fd)
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
        with explained(self.where(name)):
            with suppress(FileExistsError):
                os.mkdir(self.at(name), dir_fd=self.fd)
            self.sync()
        found = self.child(name)
        if found is None:
            raise Unavailable(f"{self.where(name)}: was made and is gone")
        return found

    def is_file(self, name: str) -> bool:
        """Whether a regular file of that name is here; never raises for what else stands there."""
        with explained(self.where(name)):
            try:
                return stat.S_ISREG(self._status(name).st_mode)
            except FileNotFoundError:
                return False

    def is_directory(self, name: str) -> bool:
        """Whether a directory of that name is here, and no link to one."""
        with explained(self.where(name)):
            try:
                return stat.S_ISDIR(self._status(name).st_mode)
            except FileNotFoundError:
                return False

    def open(self, name: str) -> FileReader | None:
        """A reader over a regular file, or ``None`` where there is none.

        Raises:
            LayoutError: It is a link, a directory, a pipe or a device.
        """
        with explained(self.where(name)):
            try:
                self._regular(name, self._status(name))
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
            return read_all(reader, limit, what=self.where(name))

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place at once, whole."""
        with self.staged() as file:
            file.write(content)
            file.commit(name)

    @contextmanager
    def staged(self) -> Iterator[StagedFile]:
        """A temporary file in this directory that becomes a file when it is committed, and vanishes otherwise."""
        name = _temporary()
        with explained(self.where(name)):
            descriptor = os.open(self.at(name), _CREATE, 0o600, dir_fd=self.fd)
        file = StagedFile(self, name, descriptor)
        try:
            yield file
        finally:
            file.discard()

    def link(self, source: Directory, name: str, status: os.stat_result) -> bool:
        """Take over a file of another directory under the same name, without moving its bytes.

        Args:
            source: Where it is.
            name: What it is called, there and here.
            status: Of the very file that is meant: another one under that name is not taken.

        Returns:
            Whether it is here now; ``False`` where the file system cannot do that.
        """
        temporary = _temporary()
        try:
            os.link(
                source.at(name), self.at(temporary), src_dir_fd=source.fd, dst_dir_fd=self.fd, follow_symlinks=False
            )
        except (OSError, NotImplementedError):
            return False
        try:
            with explained(self.where(name)):
                if not os.path.samestat(self._status(temporary), status):
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
        with explained(self.where(name)):
            with suppress(FileNotFoundError):
                self._regular(name, self._status(name))
            os.replace(self.at(temporary), self.at(name), src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self.sync()

    def remove(self, name: str) -> bool:
        """Remove a regular file; ``False`` where there is none.

        Raises:
            LayoutError: It is a link, a directory, a pipe or a device.
        """
        with explained(self.where(name)):
            try:
                self._regular(name, self._status(name))
                os.unlink(self.at(name), dir_fd=self.fd)
            except FileNotFoundError:
                return False
            self.sync()
        return True

    def sweep(self, moment: float) -> None:
        """Remove the temporary files that nobody has touched since a moment: whoever wrote them was killed.

        Args:
            moment: In seconds since the epoch, as files have it.
        """
        with explained(self.label or "."), os.scandir(self.path if self.fd is None else self.fd) as entries:
            found = [entry.name for entry in entries if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)]
        for name in found:
            # What another process removed meanwhile, or does not let us remove, is none of our business.
            with suppress(OSError):
                status = self._status(name)
                # A link to an old file is as young as its last change, not as its content.
                if stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) < moment:
                    os.unlink(self.at(name), dir_fd=self.fd)

    def directories(self) -> list[str]:
        """The names of the directories in this one, links to directories not among them."""
        with explained(self.label or "."), os.scandir(self.path if self.fd is None else self.fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def sync(self) -> None:
        """Have the disk know the names in this directory."""
        if self.root.fsync and self.fd is not None:
            os.fsync(self.fd)

    def _status(self, name: str) -> os.stat_result:
        return os.stat(self.at(name), dir_fd=self.fd, follow_symlinks=False)

    def _regular(self, name: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise LayoutError(f"{self.where(name)}: {kind_of(status.st_mode)} where a file should be")


class StagedFile:
    """A file that is being written under a temporary name; see ``Directory.staged``."""

    def __init__(self, directory: Directory, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor: int | None = descriptor
        self._committed = False

    def write(self, data: bytes) -> None:
        """Append some bytes."""
        assert self._descriptor is not None
        with explained(self._directory.where(self._name)):
            view = memoryview(data)
            while len(view):
                view = view[os.write(self._descriptor, view) :]

    def commit(self, name: str) -> None:
        """Make it the file of that name, whole and at once.

        Raises:
            LayoutError: Something that is no regular file has that name.
        """
        assert self._descriptor is not None
        directory = self._directory
        with explained(directory.where(name)):
            if hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, directory.root.mode(directory))
            if directory.root.fsync:
                os.fsync(self._descriptor)
            self._close()
            directory.move(self._name, name)
        self._committed = True

    def discard(self) -> None:
        """Remove what was not committed."""
        self._close()
        if not self._committed:
            with suppress(OSError):
                os.unlink(self._directory.at(self._name), dir_fd=self._directory.fd)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def _temporary() -> str:
    return f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
