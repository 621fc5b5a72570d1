"""A JSON file that others write too: read when it changed, replaced as a whole."""

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
from registry_core.content.operating_system import NO_BLOCK, READ_FLAGS
from registry_core.content.safe_files import StagedFile, map_os_errors
from registry_core.domain import strict_json
from registry_core.errors import ConfigError, InvalidDocument, RegistryError

__all__ = ["JsonFile"]

_LIMIT: Final = 4 << 20
_POLL: Final = 0.01
# Who writes in place is done in a moment: a file that makes no sense is looked at again before that is said.
_PATIENCE: Final = (0.0, 0.02, 0.05)
# Within this time, in nanoseconds, a file may change twice under one time stamp.
_SETTLED: Final = 2_000_000_000

_Signature = tuple[int, int, int, int, int]


class JsonFile:
    """A JSON object in a file. Safe for many threads, and for other processes that use this library.

    A file is read again when its time stamps, size or inode differ from those of the last look. One that makes no
    sense is an error for as long as it stays so: what was read before may have been revoked since.

    Args:
        path: Where it is, or may be one day.
        clock: Nanoseconds, as in time stamps: a file that has only just changed is read each time.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._lock = CancellableLock()
        self._signature: _Signature | None = None
        self._document: dict[str, Any] | None = None

    def document(self) -> dict[str, Any] | None:
        """What is in the file now, not to be changed; ``None`` where there is none.

        Raises:
            ConfigError: It cannot be read, is too large, or holds no JSON object.
        """
        with self._lock:
            with _explained(self.path):
                status = _status(self.path)
            if status is None or _signature(status) != self._signature:
                self._signature = None
                signature, self._document = self._read(self.path)
                if signature is not None and self._clock() - max(signature[:2]) > _SETTLED:
                    self._signature = signature
            return self._document

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the document in place and write it back, unless nothing changed: atomically, with mode 0600.

        Links are followed, so that what they lead to is replaced and they stay.

        Raises:
            ConfigError: It cannot be read or written, or is none of our business.
            Cancelled: While it waited for others.
            DeadlineExceeded: While it waited for others.
        """
        with _explained(self.path):
            target = Path(os.path.realpath(self.path))
            status = _status(target)
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.path}: not a file to write credentials to")
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
        for seconds in _PATIENCE:
            if seconds:
                sleep(seconds)
            with _explained(self.path):
                found = _content(path)
            if found is None:
                return None, None
            signature, content = found
            with contextlib.suppress(InvalidDocument):
                return signature, strict_json.decode(content)
        if content.strip():
            raise ConfigError(f"{self.path}: not a JSON object")
        return signature, {}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        with map_os_errors(str(path), {}, otherwise=ConfigError):
            yield
    except RegistryError:
        raise
    except ValueError:
        raise ConfigError(f"{str(path)!r}: not a path") from None


@contextlib.contextmanager
def _file_lock(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout  # only writers need it

    lock = FileLock(target.with_name(f".{target.name}.ociport.lock"), timeout=0, mode=0o600)

    def is_acquired() -> bool:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    poll_until(is_acquired, interval=_POLL)
    try:
        yield
    finally:
        lock.release()


def _replace(target: Path, content: bytes) -> None:
    """Write beside and rename; one name for all writers, who are locked, so that killed ones leave no heap."""
    beside = target.with_name(f".{target.name}.ociport.tmp")
    beside.unlink(missing_ok=True)
    staged = StagedFile(target, name=beside.name)
    try:
        with os.fdopen(staged.descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.commit()
    finally:
        staged.discard()


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _content(path: Path) -> tuple[_Signature, bytes] | None:
    """All that is in a file, with what it looked like before; ``None`` where there is none."""
    try:
        descriptor = os.open(path, READ_FLAGS | NO_BLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if _is_null_device(status):
            return _signature(status), b""
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a file")
        parts: list[bytes] = []
        left = _LIMIT + 1
        while left and (data := file.read(min(left, 64 << 10))):
            checkpoint()
            parts.append(data)
            left -= len(data)
    if not left:
        raise ConfigError(f"{path}: more than {_LIMIT} bytes")
    return _signature(status), b"".join(parts)


def _is_null_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
