"""Blobs that somebody counts on, and the removal of those that nobody has counted on for long.

Whoever is told that a blob is here may go on to store a manifest that needs it. So being told renews the blob's time,
and nothing younger than a grace period is removed. A lock on the very file decides who comes first: a renewal
sees whether the file has lost its name, and a removal sees whether the file was renewed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from registry_adapters.layout.directory import Directory
from registry_adapters.layout.files import FileReader
from registry_adapters.layout.staging import SAFE, temporary_name
from registry_core.errors import RegistryError, Unsupported
from registry_core.scope import pause

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows, where nothing is collected
    fcntl = None  # type: ignore[assignment]

__all__ = ["age_of", "remove_expired", "renewed"]

# What is younger need not be renewed: no grace period is that short.
_FRESH: Final = 1.0
_POLL: Final = 0.005


def age_of(status: os.stat_result) -> float:
    """Since when a file is as it is, in seconds since the epoch: its content or its names."""
    return max(status.st_mtime, status.st_ctime)


def renewed(directory: Directory, name: str, file: FileReader) -> bool:
    """Whether an open file still has its name, and will keep it for the grace period.

    Where the system does not let us renew it, it stays as old as it is.

    Args:
        directory: Where it was opened.
        name: By which name.
        file: Open.

    Raises:
        Cancelled: While a garbage collection had it in hand.
        DeadlineExceeded: Likewise.
    """
    status = file.status()
    # A time to come is one of another clock, and tells us nothing.
    if not 0 <= time.time() - age_of(status) <= _FRESH:
        try:
            with _shared(file.fileno()):
                os.utime(file.fileno())
        except RegistryError:
            # A deadline is an OSError too, but whoever had no time to renew it must not say that it is renewed.
            raise
        except OSError:
            pass
    try:
        return os.path.samestat(directory.status(name), status)
    except OSError:
        return False


def remove_expired(directory: Directory, name: str, moment: float, *, is_dry_run: bool) -> os.stat_result | None:
    """Remove a regular file that nobody has renewed for long.

    Args:
        directory: Where it is.
        name: What it is called.
        moment: Since when nobody may have, in seconds since the epoch.
        is_dry_run: Whether to leave it where it is.

    Returns:
        What the system said about it, or ``None`` where it stays, or is not there.

    Raises:
        Unsupported: The system does not lock files.
    """
    if fcntl is None:
        raise Unsupported("removing blobs that others may count on needs a system that locks files")
    try:
        descriptor = _opened(directory, name)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or age_of(status) >= moment:
            return None
        if is_dry_run or _removed(directory, name, status):
            return status
    except OSError:
        # Somebody renews it just now, or has removed it, or we may not.
        return None
    finally:
        os.close(descriptor)
    return None


def _opened(directory: Directory, name: str) -> int:
    try:
        # Some network file systems lock only what is open for writing.
        return os.open(directory.at(name), os.O_RDWR | SAFE, dir_fd=directory.fd)
    except PermissionError:
        return os.open(directory.at(name), os.O_RDONLY | SAFE, dir_fd=directory.fd)


def _removed(directory: Directory, name: str, status: os.stat_result) -> bool:
    # Under another name first: somebody may have written the blob anew since we opened this file.
    temporary = temporary_name()
    os.rename(directory.at(name), directory.at(temporary), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    if not os.path.samestat(directory.status(temporary), status):
        os.rename(directory.at(temporary), directory.at(name), src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        return False
    os.unlink(directory.at(temporary), dir_fd=directory.fd)
    return True


@contextmanager
def _shared(descriptor: int) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            pause(_POLL)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
