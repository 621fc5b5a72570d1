"""Files under names that other tools pass over, until they are whole (R-006, R-309)."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from registry_adapters.layout.files import explained

if TYPE_CHECKING:
    from registry_adapters.layout.directory import Directory

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows, where nothing is continued
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CREATE",
    "PARTIAL",
    "PREFIX",
    "SAFE",
    "SUFFIX",
    "StagedFile",
    "claimed",
    "is_private",
    "partial_name",
    "temporary_name",
]

PREFIX: Final = ".ociport-"
SUFFIX: Final = ".tmp"
PARTIAL: Final = ".partial"
SAFE: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFE
_CLAIM: Final = os.O_RDWR | os.O_CREAT | SAFE


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
        with explained(self._where):
            return os.fstat(self._descriptor).st_size

    def read(self, size: int) -> bytes:
        """The next bytes of what was in it; behind them is written."""
        assert self._descriptor is not None
        with explained(self._where):
            return os.read(self._descriptor, size)

    def write(self, data: bytes) -> None:
        """Append some bytes."""
        assert self._descriptor is not None
        with explained(self._where):
            view = memoryview(data)
            while len(view):
                view = view[os.write(self._descriptor, view) :]

    def clear(self) -> None:
        """Begin anew with nothing in it."""
        assert self._descriptor is not None
        self._settled = False
        with explained(self._where):
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
        with explained(directory.where(name)):
            if hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, directory.root.mode(directory))
            if directory.root.fsync:
                os.fsync(self._descriptor)
            # Closed only afterwards where the system lets us: until then nobody else may claim it.
            if fcntl is None:
                self._close()
            directory.move(self._name, name)
        self._settled = True
        self._close()

    def discard(self) -> None:
        """Remove what was neither committed nor kept."""
        if fcntl is None:
            self._close()
        if not self._settled:
            # Before it is closed: who claims it next must not have it taken away.
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


def claimed(directory: Directory, name: str) -> int | None:
    """A file of a directory, open for nobody else who asks here, or ``None``.

    It is ours until it is closed, or the process ends, however it ends.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(directory.at(name), _CLAIM, 0o600, dir_fd=directory.fd)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it before us may have given it its final name, or have thrown it away.
        ours = os.path.samestat(os.fstat(descriptor), directory.status(name))
    except OSError:
        ours = False
    if not ours:
        os.close(descriptor)
    return descriptor if ours else None


def is_private(status: os.stat_result) -> bool:
    """Whether a file is a regular one, and nobody else's."""
    # A file that has another name too, or another owner, could be changed behind our back.
    ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and ours


def partial_name(name: str) -> str:
    """What a file is called while it is incomplete, but worth going on with."""
    return f"{PREFIX}{name}{PARTIAL}"


def temporary_name() -> str:
    """A name that nobody else uses, for what nobody will go on with."""
    return f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
