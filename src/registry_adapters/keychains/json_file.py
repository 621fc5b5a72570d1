"""A JSON file that other programs write too: read again after each change, and replaced atomically."""

from __future__ import annotations

import contextlib
import copy
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from registry_core.cancellation import CancellableLock, checkpoint, poll_until, sleep
from registry_core.content.operating_system import HAS_FILE_MODES, NO_BLOCK, READ_FLAGS
from registry_core.content.safe_files import AtomicFile, map_os_errors
from registry_core.domain import strict_json
from registry_core.errors import ConfigError, InvalidDocument, RegistryError

__all__ = ["JsonFile"]

_MAX_BYTES: Final = 4 << 20
_LOCK_POLL_SECONDS: Final = 0.01
# A program that writes in place leaves the file malformed for a moment: it is read again after these pauses.
_READ_PAUSES: Final = (0.0, 0.02, 0.05)
# Within this time, in nanoseconds, a file may change twice without a new time stamp.
_TIMESTAMP_GRANULARITY: Final = 2_000_000_000

_Signature = tuple[int, int, int, int, int]


class JsonFile:
    """A JSON object in a file. Safe for many threads, and for other processes that use this library.

    The file is read again if its time stamps, size or inode have changed. While the file is malformed, each read
    raises: older content may have been revoked.

    Args:
        path: Path of the file; it need not exist.
        clock: Clock of the time stamps, in nanoseconds; a file that changed just now is read each time.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._lock = CancellableLock()
        self._signature: _Signature | None = None
        self._document: dict[str, Any] | None = None

    def document(self) -> dict[str, Any] | None:
        """Return the current document, which must not be changed; ``None`` if the file does not exist.

        Raises:
            ConfigError: The file cannot be read, is too large, or is not a JSON object.
        """
        with self._lock:
            with _map_errors(self.path):
                status = _stat(self.path)
            if status is None or _signature(status) != self._signature:
                self._signature = None
                signature, self._document = self._read(self.path)
                if signature is not None and self._clock() - max(signature[:2]) > _TIMESTAMP_GRANULARITY:
                    self._signature = signature
            return self._document

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the document and replace the file atomically, with mode 0600; do nothing if it is unchanged.

        A symbolic link is kept, and its target is replaced.

        Args:
            change: Function that changes the document in place.

        Raises:
            ConfigError: The file cannot be read or written, or is not a regular file.
            Cancelled: While waiting for another writer.
            DeadlineExceeded: While waiting for another writer.
        """
        with _map_errors(self.path):
            target = Path(os.path.realpath(self.path))
            status = _stat(target)
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.path}: not a regular file, so no credentials are stored in it")
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _file_lock(target):
                before = self._read(target)[1]
                after = copy.deepcopy(before or {})
                change(after)
                if after != (before or {}):
                    _replace(target, msgspec.json.format(strict_json.encode(after), indent=4) + b"\n")

    def _read(self, path: Path) -> tuple[_Signature | None, dict[str, Any] | None]:
        signature: _Signature | None = None
        content = b""
        for seconds in _READ_PAUSES:
            if seconds:
                sleep(seconds)
            with _map_errors(self.path):
                result = _read_content(path)
            if result is None:
                return None, None
            signature, content = result
            with contextlib.suppress(InvalidDocument):
                return signature, strict_json.decode(content)
        if content.strip():
            raise ConfigError(f"{self.path}: not a JSON object")
        return signature, {}


@contextlib.contextmanager
def _map_errors(path: Path) -> Iterator[None]:
    try:
        with map_os_errors(str(path), {}, otherwise=ConfigError):
            yield
    except RegistryError:
        raise
    except ValueError:
        raise ConfigError(f"{str(path)!r}: not a path") from None


@contextlib.contextmanager
def _file_lock(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout  # Imported here because only writers need it.

    path = target.with_name(f".{target.name}.ociport.lock")
    lock = FileLock(path, timeout=0, mode=0o600) if HAS_FILE_MODES else FileLock(path, timeout=0)

    def acquire() -> bool:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    poll_until(acquire, interval=_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _replace(target: Path, content: bytes) -> None:
    """Write a temporary file and rename it.

    Writers hold the lock, so they share one temporary name, and killed writers leave no more than one file.
    """
    temporary = target.with_name(f".{target.name}.ociport.tmp")
    temporary.unlink(missing_ok=True)
    staged = AtomicFile(target, name=temporary.name)
    try:
        with os.fdopen(staged.descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.commit()
    finally:
        staged.discard()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_content(path: Path) -> tuple[_Signature, bytes] | None:
    """The content of a file and its signature from before the read; ``None`` if it does not exist."""
    try:
        descriptor = os.open(path, READ_FLAGS | NO_BLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if _is_null_device(status):
            return _signature(status), b""
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file")
        parts: list[bytes] = []
        bytes_left = _MAX_BYTES + 1
        while bytes_left and (data := file.read(min(bytes_left, 64 << 10))):
            checkpoint()
            parts.append(data)
            bytes_left -= len(data)
    if not bytes_left:
        raise ConfigError(f"{path}: more than {_MAX_BYTES} bytes")
    return _signature(status), b"".join(parts)


def _is_null_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
