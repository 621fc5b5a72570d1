"""Functions of the operating system that some systems lack.

This is the only module that looks for them, and importing it never fails. Linux has all of them, macOS lacks extended
attributes and ``O_PATH``, and Windows lacks most (docs/reference/operating-systems.md). If an operation
needs a function that the system lacks, ``Unsupported`` is raised.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib import import_module
from typing import Final

from registry_core.errors import Unsupported

__all__ = [
    "CAN_RENAME_OPEN_FILES",
    "DIRECTORY_FLAGS",
    "HAS_DIR_FDS",
    "HAS_FILE_LOCKS",
    "HAS_FILE_MODES",
    "HAS_PIPE_POLLING",
    "NEW_FILE_FLAGS",
    "NO_BLOCK",
    "NO_FOLLOW",
    "READ_FLAGS",
    "UPDATE_FLAGS",
    "WRITE_FLAGS",
    "change_mode",
    "change_owner",
    "effective_user_id",
    "kill_process_group",
    "lock_file",
    "make_special_file",
    "read_at",
    "require_dir_fds",
    "require_file_locks",
    "require_pipe_polling",
    "set_attribute",
    "set_permissions",
    "touch",
    "unlock_file",
    "user_id",
    "write_at",
]


def _has_module(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


_COMMON: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)

# Opening a pipe must not wait until another process opens its other end.
NO_BLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)

READ_FLAGS: Final[int] = os.O_RDONLY | _COMMON

WRITE_FLAGS: Final[int] = os.O_WRONLY | _COMMON

UPDATE_FLAGS: Final[int] = os.O_RDWR | _COMMON

# A file or link that exists is neither opened nor followed.
NEW_FILE_FLAGS: Final[int] = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW | _COMMON

DIRECTORY_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW | _COMMON

# flock(2): a lock on an open file, which the system releases when the process ends in any way.
HAS_FILE_LOCKS: Final = _has_module("fcntl")

# Every operation on files relative to an open directory, without following links.
HAS_DIR_FDS: Final[bool] = (
    {
        getattr(os, name, None)
        for name in ("open", "stat", "mkdir", "unlink", "rmdir", "rename", "link", "symlink", "utime")
    }
    <= os.supports_dir_fd
    and {os.scandir, os.listdir, os.chmod, os.utime} <= os.supports_fd
    and all(hasattr(os, name) for name in ("O_DIRECTORY", "O_NOFOLLOW", "fchmod"))
)

# Windows refuses to rename or remove a file that a process has open.
CAN_RENAME_OPEN_FILES: Final = sys.platform != "win32"

# Non-blocking pipes that ``select`` waits for; Windows has that for sockets only.
HAS_PIPE_POLLING: Final = sys.platform != "win32" and hasattr(os, "set_blocking")

# Permissions of an open file.
HAS_FILE_MODES: Final = hasattr(os, "fchmod")

_NAME_ONLY: Final[int] = getattr(os, "O_PATH", 0) | NO_FOLLOW | _COMMON


def require_dir_fds(action: str) -> None:
    """Check that files can be opened relative to an open directory.

    Args:
        action: Attempted operation, for the error.

    Raises:
        Unsupported: The system cannot do that.
    """
    if not HAS_DIR_FDS:
        raise Unsupported(
            f"{action}: this operating system cannot open files relative to an open directory, so a symbolic link could"
            " lead outside of it; use Linux or macOS"
        )


def require_file_locks(action: str, purpose: str) -> None:
    """Check that files can be locked with ``flock``.

    Args:
        action: Attempted operation, for the error.
        purpose: What ``flock`` does for that, as a relative clause, for the error.

    Raises:
        Unsupported: The system has no ``flock``.
    """
    if not HAS_FILE_LOCKS:
        raise Unsupported(f"{action}: this operating system has no flock, {purpose}; use Linux or macOS")


def require_pipe_polling(action: str) -> None:
    """Check that a read from a pipe can end at a deadline.

    Args:
        action: Attempted operation, for the error.

    Raises:
        Unsupported: The system cannot poll pipes.
    """
    if not HAS_PIPE_POLLING:
        raise Unsupported(
            f"{action}: this operating system cannot poll pipes, so the program could not be stopped in time; give the"
            " credentials in another way"
        )


def lock_file(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting.

    Args:
        descriptor: Descriptor of the file; closing it releases the lock.
        shared: Whether others may hold shared locks at the same time.

    Returns:
        Whether the file is locked now; ``False`` where another holder has it.

    Raises:
        OSError: The file system has no locks.
        Unsupported: The operating system has none.
    """
    require_file_locks("lock a file", "which locks open files")
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_file(descriptor: int) -> None:
    """Release the lock on an open file.

    Raises:
        OSError: The file system has no locks.
    """
    if HAS_FILE_LOCKS:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def touch(descriptor: int) -> None:
    """Set the times of an open file to now, where the system can do that by descriptor.

    Raises:
        OSError: The file belongs to another user, or its file system is read-only.
    """
    if os.utime in os.supports_fd:
        os.utime(descriptor)


def set_permissions(descriptor: int, mode: int) -> None:
    """Set the permissions of an open file, where the system can do that by descriptor.

    Raises:
        OSError: The system refuses.
    """
    if HAS_FILE_MODES:
        os.fchmod(descriptor, mode)


def read_at(descriptor: int, size: int, position: int, lock: threading.Lock) -> bytes:
    """Read up to ``size`` bytes of a file from a position, from any thread.

    Args:
        descriptor: Descriptor of the file.
        size: Greatest number of bytes to read.
        position: Offset of the first byte.
        lock: The file's lock, held where the system can only read at the file's current position.

    Raises:
        OSError: The read failed.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, position)
    with lock:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)


def write_at(descriptor: int, data: bytes | memoryview, position: int, lock: threading.Lock) -> int:
    """Write bytes to a file at a position, from any thread; see ``read_at``.

    Returns:
        Number of bytes written.

    Raises:
        OSError: The write failed.
    """
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, position)
    with lock:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, data)


def user_id() -> int | None:
    """Return the ID of the user who started this process; ``None`` if the system has no user IDs."""
    return os.getuid() if hasattr(os, "getuid") else None


def effective_user_id() -> int | None:
    """Return the ID of the user whose permissions this process has; ``None`` if the system has no user IDs."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def change_owner(target: int | bytes, uid: int, gid: int, *, inside: int | None = None) -> None:
    """Change owner and group of an open file, or of a name in a directory without following it.

    Raises:
        OSError: The system refuses.
        Unsupported: The system has no ``chown``.
    """
    if not hasattr(os, "chown"):
        raise Unsupported("set the owner of a file: this operating system has no chown; extract without owners")
    if isinstance(target, int):
        os.chown(target, uid, gid)
    else:
        os.chown(target, uid, gid, dir_fd=inside, follow_symlinks=False)


def change_mode(name: bytes, mode: int, *, inside: int) -> None:
    """Change the permissions of a name in an open directory, without following or opening it.

    Raises:
        OSError: The system refuses.
    """
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, mode, dir_fd=inside, follow_symlinks=False)
        return
    # Linux changes no mode by name alone without following: a descriptor of the name (O_PATH) opens nothing.
    descriptor = os.open(name, _NAME_ONLY, dir_fd=inside)
    try:
        os.chmod(_path_of(descriptor), mode)
    finally:
        os.close(descriptor)


def set_attribute(target: int | bytes, name: bytes, value: bytes, *, inside: int = -1) -> None:
    """Set an extended attribute of an open file, or of a name in an open directory without following it.

    Raises:
        OSError: The system refuses, or the file system has no extended attributes.
        Unsupported: The operating system has none that Python can set.
    """
    if not hasattr(os, "setxattr"):
        raise Unsupported(
            "set an extended attribute: this operating system has no setxattr; extract without extended attributes"
        )
    if isinstance(target, int):
        os.setxattr(target, name, value)
    else:
        os.setxattr(_path_of(inside) + b"/" + target, name, value, follow_symlinks=False)


def make_special_file(name: bytes, mode: int, device: tuple[int, int], *, inside: int) -> None:
    """Make a device or a fifo in an open directory.

    Args:
        name: Name of the new file.
        mode: Kind and permissions, as in ``st_mode``.
        device: Major and minor number.
        inside: Descriptor of the directory.

    Raises:
        OSError: The system refuses.
        Unsupported: The system has no ``mknod`` relative to an open directory.
    """
    if getattr(os, "mknod", None) not in os.supports_dir_fd:
        raise Unsupported(
            "make a device or fifo: this operating system has no mknod relative to an open directory; extract without"
            " devices"
        )
    os.mknod(name, mode, os.makedev(*device), dir_fd=inside)


def kill_process_group(leader: int) -> None:
    """Kill a process that leads a group, and all of the group; do nothing where the system has no groups.

    Raises:
        ProcessLookupError: The group has ended.
        PermissionError: One of its processes belongs to another user.
    """
    if hasattr(os, "killpg"):
        os.killpg(leader, signal.SIGKILL)


def _path_of(descriptor: int) -> bytes:
    return b"/proc/self/fd/%d" % descriptor
