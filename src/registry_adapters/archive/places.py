"""Where a new archive grows, and where it goes: regular files, pipes and devices."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

from registry_adapters.archive.medium import Stretch
from registry_adapters.archive.problems import explained
from registry_core.content.source import PIECE

__all__ = ["created", "is_stream", "pour", "remove", "sync_directory"]

_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)
_STREAM: Final = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def created(path: str, where: str) -> int:
    """The descriptor of a file that was not there before.

    Args:
        path: Of the file.
        where: What it is going to be, for errors.

    Raises:
        ConfigError: Its directory is none.
        Forbidden: The system does not let us.
        Unavailable: The disk is full, or failed.
    """
    with explained(where):
        return os.open(path, _FLAGS, 0o666)


def is_stream(path: str) -> bool:
    """Whether a name is a pipe's, a device's or a socket's."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def pour(archive: Stretch, path: str) -> None:
    """Write an archive to a stream.

    Raises:
        Forbidden: The system does not let us.
        Unavailable: Nobody reads it to its end, or the disk failed.
    """
    with explained(path), archive.open() as reader, open(path, "wb", buffering=0, opener=_opened) as stream:
        while data := reader.read(PIECE):
            rest = memoryview(data)
            while len(rest):
                rest = rest[stream.write(rest) or 0 :]


def remove(path: str, owner: int) -> None:
    """Remove a file, if the process that made it is this one: a forked child must not take its parent's away."""
    if os.getpid() == owner:
        with suppress(OSError):
            os.unlink(path)


def sync_directory(path: str) -> None:
    """Have the disk keep the name of a file. Not every system does that; the file is in place either way."""
    with suppress(OSError):
        handle = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _opened(path: str, _flags: int) -> int:
    # Neither created nor cut: it was a stream a moment ago, and must not become a file.
    return os.open(path, _STREAM)
