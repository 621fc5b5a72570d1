"""A large blob continues where an earlier attempt stopped, and is verified in full (R-006, R-309, R-310)."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.cancellation import CancelScope, checkpoint
from registry_core.content import operating_system
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    SizeMismatch,
    Unavailable,
)
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, push_image
from registry_core.testing.faults import HookedSource, altered, longer, raising, shorter

NAME = RepositoryName("org/app")
CONTENT = blob("resumed", 3 * CHUNK_SIZE)
SIZE = len(CONTENT)
HALF = SIZE // 2
DIGEST = Digest.of(CONTENT)
PARTIAL = f".ociport-{DIGEST.encoded}.partial"
DAY = 24 * 3600


class RecordingSource:
    """A source that records the offsets at which it was opened."""

    def __init__(self, source: ByteSource, refuse: Exception | None = None) -> None:
        self.starts: list[int] = []
        self._source = source
        self._refuse = refuse

    def open(self, start: int = 0) -> ByteReader:
        self.starts.append(start)
        if start and self._refuse is not None:
            raise self._refuse
        return self._source.open(start)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path).repository(NAME)


@pytest.fixture
def blob_dir(tmp_path: Path) -> Path:
    path = tmp_path / NAME / "blobs" / "sha256"
    path.mkdir(parents=True)
    return path


def _write_partial(blob_dir: Path, content: bytes) -> Path:
    path = blob_dir / PARTIAL
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def _names(blob_dir: Path) -> set[str]:
    return {path.name for path in blob_dir.iterdir()}


@pytest.mark.parametrize("count", [1, CHUNK_SIZE - 1, HALF, SIZE - 1])
def test_the_bytes_of_a_partial_file_are_not_fetched_again(repository: Repository, blob_dir: Path, count: int) -> None:
    _write_partial(blob_dir, CONTENT[:count])
    source = RecordingSource(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == [count]
    assert _names(blob_dir) == {DIGEST.encoded}
    assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT
    assert (blob_dir / DIGEST.encoded).stat().st_mode & 0o777 == 0o644


def test_nothing_is_fetched_for_a_complete_partial_file(repository: Repository, blob_dir: Path) -> None:
    """The writer was killed just before it renamed the file."""
    _write_partial(blob_dir, CONTENT)
    source = RecordingSource(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == []
    assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("partial", "starts"),
    [
        (altered(CONTENT[:HALF]), [HALF, 0]),
        (altered(CONTENT), [0]),
        (BytesSource(bytes(SIZE)), [0]),
        (longer(CONTENT), [0]),
        (BytesSource(b""), [0]),
    ],
)
def test_a_partial_file_is_verified(
    repository: Repository, blob_dir: Path, partial: ByteSource, starts: list[int]
) -> None:
    """R-309: a wrong partial file costs one more attempt from the start."""
    with partial.open() as reader:
        _write_partial(blob_dir, reader.read())
    source = RecordingSource(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == starts
    assert _names(blob_dir) == {DIGEST.encoded}
    assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT


def test_a_source_without_ranges_is_read_from_its_start(repository: Repository, blob_dir: Path) -> None:
    _write_partial(blob_dir, CONTENT[:HALF])
    source = RecordingSource(BytesSource(CONTENT), refuse=ProtocolError("no ranges here", status=416))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == [HALF, 0]
    assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wrong", "error"), [(altered, DigestMismatch), (longer, SizeMismatch), (shorter, SizeMismatch)]
)
@pytest.mark.parametrize("count", [0, HALF])
def test_wrong_content_leaves_no_file(
    repository: Repository,
    blob_dir: Path,
    wrong: Callable[[bytes], ByteSource],
    error: type[RegistryError],
    count: int,
) -> None:
    """R-006: it is fetched from the start once, not more."""
    if count:
        _write_partial(blob_dir, CONTENT[:count])
    source = RecordingSource(wrong(CONTENT))

    with pytest.raises(error):
        repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == ([HALF, 0] if count else [0])
    assert _names(blob_dir) == set()


@pytest.mark.parametrize("fault", [Unavailable("gone"), RateLimited("slowly"), ServerError("broken")])
def test_the_bytes_received_before_the_source_was_lost_are_kept(
    repository: Repository, blob_dir: Path, fault: RegistryError
) -> None:
    with pytest.raises(type(fault)):
        repository.blobs.put(DIGEST, SIZE, raising(CONTENT, fault))
    kept = _names(blob_dir)
    mode = (blob_dir / PARTIAL).stat().st_mode & 0o777
    with pytest.raises(BlobNotFound):
        repository.blobs.stat(DIGEST)
    source = RecordingSource(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert (kept, mode) == ({PARTIAL}, 0o600)
    assert source.starts == [HALF]
    assert _names(blob_dir) == {DIGEST.encoded}


@pytest.mark.parametrize(
    ("cause", "kept"),
    [
        (Unavailable("gone"), True),
        (DigestMismatch("wrong", expected="", actual=""), False),
        (ProtocolError("odd"), False),
        (None, False),
    ],
)
@pytest.mark.parametrize("where", ["read", "checkpoint"])
def test_a_cancellation_because_another_transfer_lost_its_source_keeps_the_bytes(
    repository: Repository, blob_dir: Path, cause: BaseException | None, kept: bool, where: str
) -> None:
    """Both will be resumed. A cancellation for another reason leaves no file."""
    with CancelScope() as scope:

        def cancel() -> None:
            scope.cancel(cause=cause)
            if where == "read":
                checkpoint()

        with pytest.raises(Cancelled):
            repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, cancel))

    assert _names(blob_dir) == ({PARTIAL} if kept else set())


def test_a_partial_file_is_kept_while_the_source_is_unavailable(repository: Repository, blob_dir: Path) -> None:
    _write_partial(blob_dir, CONTENT[:HALF])

    with pytest.raises(Unavailable):
        repository.blobs.put(DIGEST, SIZE, RecordingSource(BytesSource(CONTENT), refuse=Unavailable("away")))

    assert (blob_dir / PARTIAL).read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    "error",
    [
        Cancelled("cancelled"),
        DeadlineExceeded("late"),
        ProtocolError("nonsense"),
        BlobNotFound("gone"),
        KeyError("a bug"),
        OSError("a disk"),
        KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize("count", [0, CHUNK_SIZE])
def test_other_errors_leave_no_file(repository: Repository, blob_dir: Path, error: BaseException, count: int) -> None:
    """R-006."""

    def fail() -> None:
        raise error

    if count:
        _write_partial(blob_dir, CONTENT[:count])

    with pytest.raises(type(error)):
        repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, fail))

    assert _names(blob_dir) == set()


def test_a_full_disk_leaves_no_file(repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is ``Unavailable``, too, but the source is not lost."""
    _write_partial(blob_dir, CONTENT[:HALF])

    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", write)

    with pytest.raises(Unavailable):
        repository.blobs.put(DIGEST, SIZE, BytesSource(CONTENT))

    assert _names(blob_dir) == set()


def test_small_blobs_are_not_kept(repository: Repository, blob_dir: Path) -> None:
    """They are fetched again."""
    content = CONTENT[:CHUNK_SIZE]

    with pytest.raises(Unavailable):
        repository.blobs.put(Digest.of(content), CHUNK_SIZE, raising(content, Unavailable("gone")))

    assert _names(blob_dir) == set()


class TestUnusablePartialFiles:
    """R-310: they are neither read nor written; the blob is written to another temporary file."""

    def _put(self, repository: Repository, blob_dir: Path) -> list[int]:
        source = RecordingSource(BytesSource(CONTENT))
        repository.blobs.put(DIGEST, SIZE, source)
        assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT
        return source.starts

    def test_a_symbolic_link(self, repository: Repository, blob_dir: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(CONTENT[:HALF])
        (blob_dir / PARTIAL).symlink_to(outside)

        assert self._put(repository, blob_dir) == [0]

        assert outside.read_bytes() == CONTENT[:HALF]
        assert (blob_dir / PARTIAL).is_symlink()

    def test_a_file_with_another_hard_link(self, repository: Repository, blob_dir: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(CONTENT[:HALF])
        os.link(outside, blob_dir / PARTIAL)

        assert self._put(repository, blob_dir) == [0]

        assert outside.read_bytes() == CONTENT[:HALF]

    def test_a_file_of_another_user(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _write_partial(blob_dir, CONTENT[:HALF])
        monkeypatch.setattr(os, "geteuid", lambda: 12345)

        assert self._put(repository, blob_dir) == [0]

        assert (blob_dir / PARTIAL).read_bytes() == CONTENT[:HALF]

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_something_that_is_not_a_file(
        self, repository: Repository, blob_dir: Path, make: Callable[[Path], None]
    ) -> None:
        make(blob_dir / PARTIAL)

        assert self._put(repository, blob_dir) == [0]

    def test_a_file_that_another_writer_has_locked(self, repository: Repository, blob_dir: Path) -> None:
        path = _write_partial(blob_dir, CONTENT[:HALF])
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

            assert self._put(repository, blob_dir) == [0]

        assert path.read_bytes() == CONTENT[:HALF]

    def test_a_file_that_was_renamed_before_it_was_locked(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It must not be written to, although it is open."""
        path = _write_partial(blob_dir, CONTENT[:HALF])
        really_lock = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            # The lock of the whole layout is taken by the same call.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                path.rename(blob_dir / "another")
            really_lock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)

        assert self._put(repository, blob_dir) == [0]

        assert (blob_dir / "another").read_bytes() == CONTENT[:HALF]

    def test_a_file_system_without_locks(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = _write_partial(blob_dir, CONTENT[:HALF])
        really_lock = fcntl.flock

        def flock(descriptor: int, operation: int) -> None:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                raise OSError(errno.ENOLCK, "no locks here")
            really_lock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)

        assert self._put(repository, blob_dir) == [0]

    def test_an_operating_system_without_locks(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _write_partial(blob_dir, CONTENT[:HALF])
        monkeypatch.setattr(operating_system, "HAS_FILE_LOCKS", False)

        assert self._put(repository, blob_dir) == [0]

        assert _names(blob_dir) == {PARTIAL, DIGEST.encoded}


def test_many_threads_can_put_the_same_blob(repository: Repository, blob_dir: Path) -> None:
    """One of them continues the partial file, the others write temporary files."""
    _write_partial(blob_dir, CONTENT[:CHUNK_SIZE])
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def put() -> None:
        try:
            repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, lambda: None))
        except BaseException as error:
            failures.append(error)

    def start() -> None:
        barrier.wait(30)
        put()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert _names(blob_dir) == {DIGEST.encoded}
    assert (blob_dir / DIGEST.encoded).read_bytes() == CONTENT


def test_a_second_put_of_the_same_blob_finishes_during_the_first(repository: Repository, blob_dir: Path) -> None:
    """The second one starts while the first has half of the bytes."""
    seen: list[set[str]] = []

    def put_again() -> None:
        seen.append(_names(blob_dir))
        repository.blobs.put(DIGEST, SIZE, BytesSource(CONTENT))
        seen.append(_names(blob_dir))

    repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, put_again))

    assert seen == [{PARTIAL}, {PARTIAL, DIGEST.encoded}]
    assert _names(blob_dir) == {DIGEST.encoded}


class TestStalePartialFiles:
    @pytest.mark.parametrize(("days", "kept"), [(6.9, True), (7.1, False)])
    def test_they_are_removed_after_a_week(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch, days: float, kept: bool
    ) -> None:
        push_image(repository, "one")
        path = _write_partial(blob_dir, CONTENT[:HALF])
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + DAY * days)

        push_image(repository, "two")

        assert path.exists() is kept

    def test_a_locked_one_is_kept(
        self, repository: Repository, blob_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A slow writer still holds its lock."""
        push_image(repository, "one")
        path = _write_partial(blob_dir, CONTENT[:HALF])
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 30 * DAY)

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            push_image(repository, "two")

        assert path.exists()
