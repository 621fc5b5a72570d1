"""Progress of a blob, as a progress bar shows it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import DigestMismatch
from registry_core.ops.blobs import ProgressSource, push_blob, save_blob
from registry_core.ops.transfer.copy import copy
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobProgress, BlobRestarted, BlobSkipped, Event
from registry_core.testing.content import blob, put_blob
from registry_core.testing.faults import WatchedSource, altered

if TYPE_CHECKING:
    Graphs = Any

CONTENT = blob("progress", 2 * CHUNK_SIZE + 17)
DIGEST = Digest.of(CONTENT)
SIZE = len(CONTENT)


class Bar:
    """Collects every event and the positions of a progress bar."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)

    @property
    def steps(self) -> list[tuple[str, int]]:
        return [
            (type(event).__name__, event.done)
            for event in self.events
            if isinstance(event, BlobProgress | BlobRestarted)
        ]


class Refusing:
    """An observer with a bug."""

    def __init__(self, after: int = 0) -> None:
        self.left = after

    def on(self, event: Event) -> None:
        if self.left == 0:
            raise ZeroDivisionError("a bug of the observer")
        self.left -= 1


@pytest.fixture
def bar() -> Bar:
    return Bar()


@pytest.fixture
def progress(bar: Bar) -> ProgressSource:
    return ProgressSource(BytesSource(CONTENT), DIGEST, SIZE, bar)


def _drain(source: ByteSource, start: int = 0, *, by: int = CHUNK_SIZE) -> bytes:
    with source.open(start) as reader:
        return b"".join(iter(lambda: reader.read(by), b""))


def test_each_chunk_and_the_end_are_reported(bar: Bar, progress: ProgressSource) -> None:
    assert _drain(progress) == CONTENT

    assert bar.steps == [("BlobProgress", CHUNK_SIZE), ("BlobProgress", 2 * CHUNK_SIZE), ("BlobProgress", SIZE)]
    assert {(event.digest, event.size) for event in bar.events if isinstance(event, BlobProgress)} == {(DIGEST, SIZE)}


@pytest.mark.parametrize("by", [4096, 70_000, 10 * CHUNK_SIZE, -1])
def test_there_is_one_event_a_chunk_for_every_read_size(bar: Bar, progress: ProgressSource, by: int) -> None:
    _drain(progress, by=by)

    steps = [done for _, done in bar.steps]
    assert 2 <= len(steps) <= 3
    assert steps[-1] == SIZE
    assert all(later - earlier >= CHUNK_SIZE for earlier, later in itertools.pairwise(steps[:-1]))


def test_filling_buffers_counts_as_reading(bar: Bar, progress: ProgressSource) -> None:
    buffer = bytearray(3 * CHUNK_SIZE)

    with progress.open() as reader:
        counts = list(iter(lambda: reader.readinto(buffer), 0))

    assert counts == [CHUNK_SIZE, CHUNK_SIZE, 17]
    assert bar.steps[-1] == ("BlobProgress", SIZE)


def test_the_end_is_reported_once(bar: Bar, progress: ProgressSource) -> None:
    _drain(progress)
    progress.finish()

    assert [done for _, done in bar.steps].count(SIZE) == 1


def test_a_blob_that_is_not_read_is_complete(bar: Bar, progress: ProgressSource) -> None:
    """A store that has the blob already does not read it."""
    progress.finish()

    assert bar.steps == [("BlobProgress", SIZE)]


def test_an_empty_blob_is_complete_once(bar: Bar) -> None:
    source = ProgressSource(BytesSource(b""), Digest.of(b""), 0, bar)
    _drain(source)

    source.finish()

    assert bar.steps == [("BlobProgress", 0)]


def test_a_retry_from_the_beginning_takes_the_bar_back(bar: Bar, progress: ProgressSource) -> None:
    with progress.open() as reader:
        reader.read(CHUNK_SIZE)

    _drain(progress)

    assert bar.steps[:3] == [("BlobProgress", CHUNK_SIZE), ("BlobRestarted", 0), ("BlobProgress", CHUNK_SIZE)]
    assert bar.steps[-1] == ("BlobProgress", SIZE)


def test_a_retry_from_the_middle_moves_the_bar_back(bar: Bar, progress: ProgressSource) -> None:
    """Also if the step back is smaller than a chunk."""
    with progress.open() as reader:
        reader.read(CHUNK_SIZE)
        reader.read(100)

    _drain(progress, CHUNK_SIZE + 50)

    assert bar.steps == [
        ("BlobProgress", CHUNK_SIZE),
        ("BlobRestarted", CHUNK_SIZE + 50),
        ("BlobProgress", SIZE),
    ]


def test_going_on_where_it_stopped_is_no_restart(bar: Bar, progress: ProgressSource) -> None:
    """As chunks of an upload do."""
    for start in (0, CHUNK_SIZE, 2 * CHUNK_SIZE):
        with progress.open(start) as reader:
            reader.read(CHUNK_SIZE)

    assert bar.steps == [("BlobProgress", CHUNK_SIZE), ("BlobProgress", 2 * CHUNK_SIZE), ("BlobProgress", SIZE)]


def test_reading_from_a_later_start_begins_the_bar_there(bar: Bar, progress: ProgressSource) -> None:
    """As a store does that has the rest."""
    _drain(progress, 1000)

    assert bar.steps == [
        ("BlobProgress", 1000),
        ("BlobProgress", CHUNK_SIZE + 1000),
        ("BlobProgress", SIZE),
    ]


def test_a_reader_that_was_given_up_is_not_heard(bar: Bar, progress: ProgressSource) -> None:
    old = progress.open()
    with old, progress.open() as new:
        new.read(CHUNK_SIZE)
        old.read(CHUNK_SIZE)
        old.read(CHUNK_SIZE)

    assert bar.steps == [("BlobProgress", CHUNK_SIZE)]


def test_bytes_beyond_the_size_are_not_reported(bar: Bar) -> None:
    source = ProgressSource(BytesSource(CONTENT), DIGEST, CHUNK_SIZE, bar)

    _drain(source)

    assert bar.steps == [("BlobProgress", CHUNK_SIZE)]


@pytest.mark.parametrize("start", [0, 5])
def test_an_observer_that_raises_leaves_nothing_open(start: int) -> None:
    watched = WatchedSource(BytesSource(CONTENT))
    source = ProgressSource(watched, DIGEST, SIZE, Refusing())

    with pytest.raises(ZeroDivisionError):
        _drain(source, start)

    assert watched.opened == 1
    assert watched.still_open == 0


class _Watched(BlobStore):
    """Counts open readers, and may return other content."""

    def __init__(self, inner: BlobStore, disturb: Callable[[bytes], ByteSource] = BytesSource) -> None:
        self._inner = inner
        self._disturb = disturb
        self.sources: list[WatchedSource] = []

    def stat(self, digest: Digest) -> int:
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        with self._inner.open(digest) as reader:
            source = WatchedSource(self._disturb(reader.read()))
        self.sources.append(source)
        return source.open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        self._inner.put(digest, size, source)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)


class TestCopy:
    def test_a_copy_reports_each_blob_until_it_is_complete(
        self, source: Repository, target: Repository, bar: Bar, graphs: Graphs
    ) -> None:
        manifest = graphs.image(CONTENT)

        copy(source, target, manifest, observer=bar)

        for part in manifest.children:
            mine = [event for event in bar.events if getattr(event, "digest", None) == part.digest]
            assert isinstance(mine[-1], BlobCopied)
            assert isinstance(mine[-2], BlobProgress)
            assert mine[-2].done == mine[-2].size == part.size

    def test_a_blob_that_is_not_moved_makes_no_progress(
        self, bar: Bar, graphs_of: Callable[[Repository], Graphs]
    ) -> None:
        catalog = MemoryCatalog()
        here, there = (catalog.repository(RepositoryName(name)) for name in ("here", "there"))
        manifest = graphs_of(here).image(CONTENT)

        copy(here, there, manifest, observer=bar)
        copy(here, there, manifest, observer=bar)

        assert {type(event) for event in bar.events} == {BlobMounted, BlobSkipped}

    @pytest.mark.parametrize("jobs", [1, 4])
    def test_an_error_of_an_observer_ends_the_copy(
        self, source: Repository, target: Repository, graphs: Graphs, jobs: int
    ) -> None:
        """Nothing stays open, and no thread stays."""
        manifest = graphs.image(CONTENT)
        blobs = _Watched(source.blobs)
        before = threading.active_count()

        with pytest.raises(ZeroDivisionError):
            copy(msgspec.structs.replace(source, blobs=blobs), target, manifest, observer=Refusing(1), jobs=jobs)

        assert all(each.still_open == 0 for each in blobs.sources)
        assert threading.active_count() == before

    def test_wrong_bytes_are_refused_as_without_an_observer(
        self, source: Repository, target: Repository, bar: Bar, graphs: Graphs
    ) -> None:
        """R-003."""
        manifest = graphs.image(CONTENT)

        with pytest.raises(DigestMismatch):
            copy(
                msgspec.structs.replace(source, blobs=_Watched(source.blobs, altered)),
                target,
                manifest,
                observer=bar,
                jobs=1,
            )

        assert not any(isinstance(event, BlobCopied) for event in bar.events)


class TestSingleBlobs:
    @pytest.mark.parametrize("size", [None, SIZE])
    def test_saving_one_to_a_file(self, source: Repository, tmp_path: Path, bar: Bar, size: int | None) -> None:
        digest = put_blob(source, CONTENT)

        save_blob(source, digest, tmp_path / "blob", size=size, observer=bar)

        assert (tmp_path / "blob").read_bytes() == CONTENT
        assert bar.steps == [("BlobProgress", CHUNK_SIZE), ("BlobProgress", 2 * CHUNK_SIZE), ("BlobProgress", SIZE)]

    def test_pushing_one(self, target: Repository, bar: Bar) -> None:
        """Reading it for its digest is no progress."""
        push_blob(target, CONTENT, observer=bar)

        assert bar.steps == [("BlobProgress", CHUNK_SIZE), ("BlobProgress", 2 * CHUNK_SIZE), ("BlobProgress", SIZE)]

    def test_pushing_an_existing_blob(self, target: Repository, bar: Bar) -> None:
        push_blob(target, CONTENT)

        push_blob(target, CONTENT, observer=bar)

        assert bar.steps == [("BlobProgress", SIZE)]
