"""Files that appear in a directory together: all of them, whole, or none.

They are made in a private directory beside where they go, and moved once all are there. Every step goes through open
directories, and no link is followed below the one that was named.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from registry_core.errors import InvalidValue, UnsafeArchive, Unsupported
from registry_core.ops.extract.directory_handles import DirectoryHandles, handles_work, open_directory
from registry_core.scope import checkpoint

__all__ = ["HERE", "Placements"]

# The title of a packed directory whose files belong into the directory itself.
HERE: Final = "."
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Placements:
    """Files and directories on their way into one directory; closing throws away what was not placed.

    Args:
        directory: Where to; made if it does not exist, though not its parents. It may be reached through links.
        overwrite: Whether files that exist are replaced.

    Raises:
        Unsupported: The system has no means to do this safely.
        OSError: There is no such directory, and none can be made.
    """

    def __init__(self, directory: str | os.PathLike[str], *, overwrite: bool) -> None:
        if not handles_work():
            raise Unsupported("files are placed only by systems that work relative to open directories")
        self._overwrite = overwrite
        self._made: list[bytes] = []
        self._placed = False
        target = Path(directory)
        self._is_new = not target.exists()
        if self._is_new:
            target.mkdir()
        self._target = target
        # The directory itself is the caller's choice, links and all; only what is below it is not trusted.
        self._root = open_directory(target.resolve())
        self._name = f".ociport-{os.urandom(8).hex()}".encode()
        try:
            os.mkdir(self._name, 0o700, dir_fd=self._root)
            self._stage = open_directory(self._name, inside=self._root)
        except BaseException:
            os.close(self._root)
            self._forget_root()
            raise
        self._handles = DirectoryHandles(self._root, self._made.append)

    def check(self, titles: Iterable[str]) -> None:
        """Nothing, if nothing is in the way of any of these.

        Raises:
            InvalidValue: Something is.
            UnsafeArchive: A link or a file stands where a directory should be.
        """
        for title in titles:
            if title == HERE:
                continue
            folder, _, name = title.encode().rpartition(b"/")
            try:
                with _explained(title):
                    handle = self._handles.at(folder)
            except FileNotFoundError:
                continue
            self._check_free(handle, name, title)

    @contextmanager
    def file(self, number: int) -> Iterator[FileIO]:
        """A new file, to be placed later under that number.

        Raises:
            Cancelled: The ambient scope was cancelled, and the stage may be gone.
        """
        checkpoint()
        with FileIO(os.open(b"%d" % number, _NEW, 0o666, dir_fd=self._stage), "w") as file:
            yield file
            os.fsync(file.fileno())

    @contextmanager
    def folder(self, number: int) -> Iterator[int]:
        """A descriptor of a new directory, to be placed later under that number.

        Raises:
            Cancelled: The ambient scope was cancelled, and the stage may be gone.
        """
        checkpoint()
        os.mkdir(b"%d" % number, 0o700, dir_fd=self._stage)
        handle = open_directory(b"%d" % number, inside=self._stage)
        try:
            yield handle
        finally:
            os.close(handle)

    def place(self, titles: Iterable[tuple[int, str]]) -> list[Path]:
        """Give everything its name.

        Args:
            titles: By number, clean; what is in a directory called ``.`` gets its name in the directory itself.

        Raises:
            InvalidValue: Something is in the way; nothing has changed.
            UnsafeArchive: A link or a file stands where a directory should be; nothing has changed.
            OSError: The system refuses; nothing has changed.
        """
        placed: list[Path] = []
        with contextlib.ExitStack() as undo:
            for staged, title in self._staged(titles):
                folder, _, name = title.encode().rpartition(b"/")
                with _explained(title):
                    handle = self._handles.at(folder, make=True)
                self._check_free(handle, name, title)
                self._move(staged, handle, folder, title, undo)
                placed.append(self._target / title)
            self._open_up()
            self._placed = True
            undo.pop_all()
        os.fsync(self._root)
        return placed

    def close(self) -> None:
        """Remove what was not placed, and the directories made for it."""
        _empty(self._stage)
        os.close(self._stage)
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._root)
        if not self._placed:
            for path in sorted(self._made, key=lambda path: path.count(b"/"), reverse=True):
                folder, _, name = path.rpartition(b"/")
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=self._handles.at(folder))
        self._handles.close()
        os.close(self._root)
        self._forget_root()

    def _staged(self, titles: Iterable[tuple[int, str]]) -> Iterator[tuple[bytes, str]]:
        """Where everything is in the stage, and what it is to be called."""
        for number, title in titles:
            if title != HERE:
                yield b"%d" % number, title
                continue
            handle = open_directory(b"%d" % number, inside=self._stage)
            try:
                os.fchmod(handle, 0o700)
                names = sorted(os.listdir(handle))
            finally:
                os.close(handle)
            for name in names:
                yield b"%d/%s" % (number, os.fsencode(name)), name

    def _open_up(self) -> None:
        """Give the directories that were made on the way the permissions that new ones have here."""
        os.mkdir(b"mode", dir_fd=self._stage)
        mode = stat.S_IMODE(os.stat(b"mode", dir_fd=self._stage).st_mode)
        for path in self._made:
            os.chmod(self._handles.at(path), mode)

    def _forget_root(self) -> None:
        if self._is_new and not self._placed:
            with contextlib.suppress(OSError):
                self._target.rmdir()

    def _check_free(self, handle: int, name: bytes, title: str) -> None:
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not (self._overwrite and stat.S_ISREG(status.st_mode)):
            raise InvalidValue(f"something is in the way: {title!r:.200}")

    def _move(self, staged: bytes, handle: int, folder: bytes, title: str, undo: contextlib.ExitStack) -> None:
        name, kept = title.encode().rpartition(b"/")[2], b"old-" + staged.replace(b"/", b"-")
        if stat.S_ISDIR(os.stat(staged, dir_fd=self._stage, follow_symlinks=False).st_mode):
            try:
                _move_directory(staged, self._stage, name, handle)
            except (FileExistsError, NotADirectoryError):
                raise InvalidValue(f"something is in the way: {title!r:.200}") from None
            undo.callback(lambda: _move_directory(name, self._handles.at(folder), staged, self._stage))
        elif self._overwrite and _linked(name, handle, kept, self._stage):
            os.replace(staged, name, src_dir_fd=self._stage, dst_dir_fd=handle)
            undo.callback(lambda: os.replace(kept, name, src_dir_fd=self._stage, dst_dir_fd=self._handles.at(folder)))
        else:
            try:
                # Unlike renaming, this never replaces what somebody else has put there meanwhile.
                os.link(staged, name, src_dir_fd=self._stage, dst_dir_fd=handle, follow_symlinks=False)
            except FileExistsError:
                raise InvalidValue(f"something is in the way: {title!r:.200}") from None
            undo.callback(lambda: os.unlink(name, dir_fd=self._handles.at(folder)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _linked(name: bytes, folder: int, other: bytes, target: int) -> bool:
    """Give a file one more name; ``False`` where there is no such file."""
    try:
        os.link(name, other, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _move_directory(name: bytes, folder: int, other: bytes, target: int) -> None:
    handle = open_directory(name, inside=folder)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        # A directory that its owner may not write cannot be moved to another one.
        os.fchmod(handle, mode | 0o700)
        try:
            os.rename(name, other, src_dir_fd=folder, dst_dir_fd=target)
        finally:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def _empty(stage: int) -> None:
    """Remove all that is in a directory, however deep, as far as the system lets that happen."""
    waiting = [os.fsencode(name) for name in os.listdir(stage)]
    count = 0
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=stage)
            continue
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700, dir_fd=stage)
            folder = open_directory(name, inside=stage)
            try:
                for inner in os.listdir(folder):
                    # Moved up instead of gone down to: a tree may be deeper than there are descriptors.
                    count += 1
                    raised = b"rest-%d" % count
                    with contextlib.suppress(OSError):
                        os.rename(os.fsencode(inner), raised, src_dir_fd=folder, dst_dir_fd=stage)
                        waiting.append(raised)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=stage)


@contextmanager
def _explained(title: str) -> Iterator[None]:
    try:
        yield
    except (NotADirectoryError, FileExistsError) as error:
        raise UnsafeArchive(f"a link or a file is on the way to {title!r:.200}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeArchive(f"a link is on the way to {title!r:.200}") from error
        raise
