"""A large blob goes on where an earlier attempt stopped, and is never trusted for it (R-006, R-309, R-310)."""

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


class Opened:
    """A source that keeps where it was opened."""

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
def shelf(tmp_path: Path) -> Path:
    path = tmp_path / NAME / "blobs" / "sha256"
    path.mkdir(parents=True)
    return path


def _left(shelf: Path, content: bytes) -> Path:
    path = shelf / PARTIAL
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def _names(shelf: Path) -> set[str]:
    return {path.name for path in shelf.iterdir()}


@pytest.mark.parametrize("count", [1, CHUNK_SIZE - 1, HALF, SIZE - 1])
def test_what_was_left_is_not_fetched_again(repository: Repository, shelf: Path, count: int) -> None:
    _left(shelf, CONTENT[:count])
    source = Opened(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == [count]
    assert _names(shelf) == {DIGEST.encoded}
    assert (shelf / DIGEST.encoded).read_bytes() == CONTENT
    assert (shelf / DIGEST.encoded).stat().st_mode & 0o777 == 0o644


def test_of_what_was_left_whole_nothing_is_fetched(repository: Repository, shelf: Path) -> None:
    """Whoever wrote it was killed at the very end."""
    _left(shelf, CONTENT)
    source = Opened(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == []
    assert (shelf / DIGEST.encoded).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("left", "starts"),
    [
        (altered(CONTENT[:HALF]), [HALF, 0]),
        (altered(CONTENT), [0]),
        (BytesSource(bytes(SIZE)), [0]),
        (longer(CONTENT), [0]),
        (BytesSource(b""), [0]),
    ],
)
def test_what_was_left_is_not_trusted(repository: Repository, shelf: Path, left: ByteSource, starts: list[int]) -> None:
    """R-309: a torn write costs one more attempt, from nothing."""
    with left.open() as reader:
        _left(shelf, reader.read())
    source = Opened(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == starts
    assert _names(shelf) == {DIGEST.encoded}
    assert (shelf / DIGEST.encoded).read_bytes() == CONTENT


def test_a_source_that_cannot_begin_in_the_middle_begins_at_the_start(repository: Repository, shelf: Path) -> None:
    _left(shelf, CONTENT[:HALF])
    source = Opened(BytesSource(CONTENT), refuse=ProtocolError("no ranges here", status=416))

    repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == [HALF, 0]
    assert (shelf / DIGEST.encoded).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wrong", "error"), [(altered, DigestMismatch), (longer, SizeMismatch), (shorter, SizeMismatch)]
)
@pytest.mark.parametrize("count", [0, HALF])
def test_wrong_content_leaves_nothing(
    repository: Repository,
    shelf: Path,
    wrong: Callable[[bytes], ByteSource],
    error: type[RegistryError],
    count: int,
) -> None:
    """R-006: and is fetched from nothing once, no more."""
    if count:
        _left(shelf, CONTENT[:count])
    source = Opened(wrong(CONTENT))

    with pytest.raises(error):
        repository.blobs.put(DIGEST, SIZE, source)

    assert source.starts == ([HALF, 0] if count else [0])
    assert _names(shelf) == set()


@pytest.mark.parametrize("fault", [Unavailable("gone"), RateLimited("slowly"), ServerError("broken")])
def test_what_came_before_the_other_side_was_lost_is_kept(
    repository: Repository, shelf: Path, fault: RegistryError
) -> None:
    with pytest.raises(type(fault)):
        repository.blobs.put(DIGEST, SIZE, raising(CONTENT, fault))
    kept = _names(shelf)
    mode = (shelf / PARTIAL).stat().st_mode & 0o777
    with pytest.raises(BlobNotFound):
        repository.blobs.stat(DIGEST)
    source = Opened(BytesSource(CONTENT))

    repository.blobs.put(DIGEST, SIZE, source)

    assert (kept, mode) == ({PARTIAL}, 0o600)
    assert source.starts == [HALF]
    assert _names(shelf) == {DIGEST.encoded}


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
def test_a_cancel_for_a_neighbour_that_could_not_be_reached_keeps_what_came(
    repository: Repository, shelf: Path, cause: BaseException | None, kept: bool, where: str
) -> None:
    """Both will be tried again; a cancel for any other reason leaves nothing."""
    with CancelScope() as scope:

        def cancel() -> None:
            scope.cancel(cause=cause)
            if where == "read":
                checkpoint()

        with pytest.raises(Cancelled):
            repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, cancel))

    assert _names(shelf) == ({PARTIAL} if kept else set())


def test_what_was_left_outlives_a_registry_that_is_away(repository: Repository, shelf: Path) -> None:
    _left(shelf, CONTENT[:HALF])

    with pytest.raises(Unavailable):
        repository.blobs.put(DIGEST, SIZE, Opened(BytesSource(CONTENT), refuse=Unavailable("away")))

    assert (shelf / PARTIAL).read_bytes() == CONTENT[:HALF]


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
def test_any_other_end_leaves_nothing(repository: Repository, shelf: Path, error: BaseException, count: int) -> None:
    """R-006."""

    def fail() -> None:
        raise error

    if count:
        _left(shelf, CONTENT[:count])

    with pytest.raises(type(error)):
        repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, fail))

    assert _names(shelf) == set()


def test_a_disk_that_is_full_is_not_kept_full(
    repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Unavailable`` too, but not for lack of the other side."""
    _left(shelf, CONTENT[:HALF])

    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", write)

    with pytest.raises(Unavailable):
        repository.blobs.put(DIGEST, SIZE, BytesSource(CONTENT))

    assert _names(shelf) == set()


def test_of_small_blobs_nothing_is_kept(repository: Repository, shelf: Path) -> None:
    """They are fetched again sooner than one could look."""
    content = CONTENT[:CHUNK_SIZE]

    with pytest.raises(Unavailable):
        repository.blobs.put(Digest.of(content), CHUNK_SIZE, raising(content, Unavailable("gone")))

    assert _names(shelf) == set()


class TestWhatIsNotOurs:
    """R-310: it is neither read nor written; the blob takes another way."""

    def _put(self, repository: Repository, shelf: Path) -> list[int]:
        source = Opened(BytesSource(CONTENT))
        repository.blobs.put(DIGEST, SIZE, source)
        assert (shelf / DIGEST.encoded).read_bytes() == CONTENT
        return source.starts

    def test_a_link(self, repository: Repository, shelf: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(CONTENT[:HALF])
        (shelf / PARTIAL).symlink_to(outside)

        assert self._put(repository, shelf) == [0]

        assert outside.read_bytes() == CONTENT[:HALF]
        assert (shelf / PARTIAL).is_symlink()

    def test_a_file_with_another_name(self, repository: Repository, shelf: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_bytes(CONTENT[:HALF])
        os.link(outside, shelf / PARTIAL)

        assert self._put(repository, shelf) == [0]

        assert outside.read_bytes() == CONTENT[:HALF]

    def test_a_file_of_somebody_else(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _left(shelf, CONTENT[:HALF])
        monkeypatch.setattr(os, "geteuid", lambda: 12345)

        assert self._put(repository, shelf) == [0]

        assert (shelf / PARTIAL).read_bytes() == CONTENT[:HALF]

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_what_is_no_file(self, repository: Repository, shelf: Path, make: Callable[[Path], None]) -> None:
        make(shelf / PARTIAL)

        assert self._put(repository, shelf) == [0]

    def test_a_file_that_somebody_else_is_writing(self, repository: Repository, shelf: Path) -> None:
        path = _left(shelf, CONTENT[:HALF])
        with path.open("rb") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)

            assert self._put(repository, shelf) == [0]

        assert path.read_bytes() == CONTENT[:HALF]

    def test_a_file_that_was_given_its_final_name_meanwhile(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was opened before, and must not be written to."""
        path = _left(shelf, CONTENT[:HALF])
        really_lock = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            # The lock of the whole layout is taken by the same call.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                path.rename(shelf / "another")
            really_lock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)

        assert self._put(repository, shelf) == [0]

        assert (shelf / "another").read_bytes() == CONTENT[:HALF]

    def test_where_nothing_can_be_locked_nothing_is_continued(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = _left(shelf, CONTENT[:HALF])
        really_lock = fcntl.flock

        def flock(descriptor: int, operation: int) -> None:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                raise OSError(errno.ENOLCK, "no locks here")
            really_lock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)

        assert self._put(repository, shelf) == [0]

    def test_on_systems_without_such_locks_nothing_is_continued(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _left(shelf, CONTENT[:HALF])
        monkeypatch.setattr(operating_system, "HAS_FILE_LOCKS", False)

        assert self._put(repository, shelf) == [0]

        assert _names(shelf) == {PARTIAL, DIGEST.encoded}


def test_many_threads_may_fetch_the_same_blob(repository: Repository, shelf: Path) -> None:
    """Whoever does not get the one file takes one of its own."""
    _left(shelf, CONTENT[:CHUNK_SIZE])
    together = threading.Barrier(8)
    failures: list[BaseException] = []

    def put() -> None:
        try:
            repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, lambda: None))
        except BaseException as error:
            failures.append(error)

    def start() -> None:
        together.wait(30)
        put()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert _names(shelf) == {DIGEST.encoded}
    assert (shelf / DIGEST.encoded).read_bytes() == CONTENT


def test_two_that_fetch_the_same_blob_at_once_do_not_disturb_each_other(repository: Repository, shelf: Path) -> None:
    """The second one runs while the first is midway, and is done first."""
    seen: list[set[str]] = []

    def meanwhile() -> None:
        seen.append(_names(shelf))
        repository.blobs.put(DIGEST, SIZE, BytesSource(CONTENT))
        seen.append(_names(shelf))

    repository.blobs.put(DIGEST, SIZE, HookedSource(CONTENT, meanwhile))

    assert seen == [{PARTIAL}, {PARTIAL, DIGEST.encoded}]
    assert _names(shelf) == {DIGEST.encoded}


class TestSweeping:
    @pytest.mark.parametrize(("days", "kept"), [(6.9, True), (7.1, False)])
    def test_what_nobody_goes_on_with_is_swept_up_a_week_later(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch, days: float, kept: bool
    ) -> None:
        push_image(repository, "one")
        path = _left(shelf, CONTENT[:HALF])
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + DAY * days)

        push_image(repository, "two")

        assert path.exists() is kept

    def test_what_somebody_is_writing_is_not_swept_up(
        self, repository: Repository, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However slowly."""
        push_image(repository, "one")
        path = _left(shelf, CONTENT[:HALF])
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 30 * DAY)

        with path.open("rb") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            push_image(repository, "two")

        assert path.exists()
