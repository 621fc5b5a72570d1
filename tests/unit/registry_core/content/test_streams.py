from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.cancellation import CancelScope
from registry_core.content.spool import Spool
from registry_core.content.streams import (
    CHUNK_SIZE,
    ByteReader,
    ByteSource,
    BytesSource,
    CallableSource,
    FileObjectReader,
    FileSource,
    read_limited,
)
from registry_core.domain.digest import Digest
from registry_core.errors import Cancelled, TooLarge

SMALL = bytes(range(256)) * 10
LARGE = bytes(range(256)) * 8192
CONTENTS = pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])


def sources(content: bytes, directory: Path) -> list[ByteSource]:
    path = directory / "content"
    path.write_bytes(content)
    held = BytesSource(content)
    return [held, FileSource(path), FileSource(str(path)), CallableSource(held.open), Spool.of(held.open())]


@CONTENTS
def test_every_source_opens_again_and_anywhere(content: bytes, tmp_path: Path) -> None:
    for source in sources(content, tmp_path):
        assert isinstance(source, ByteSource)
        for start in (0, 1, len(content) // 2, len(content), len(content) + 5):
            with source.open(start) as reader:
                assert isinstance(reader, ByteReader)
                assert reader.read() == content[start:]
                assert reader.read(1) == b""


def test_every_reader_fills_buffers(tmp_path: Path) -> None:
    for source in sources(SMALL, tmp_path):
        with source.open(3) as reader:
            buffer = bytearray(5)

            assert reader.readinto(buffer) == 5
            assert buffer == SMALL[3:8]


def test_a_large_buffer_is_filled_piece_by_piece() -> None:
    """Nothing that large is held a second time."""
    with BytesSource(LARGE).open() as reader:
        buffer = bytearray(LARGE)

        counts = [reader.readinto(buffer), reader.readinto(memoryview(buffer)[CHUNK_SIZE:]), reader.readinto(buffer)]

    assert counts == [CHUNK_SIZE, len(LARGE) - CHUNK_SIZE, 0]
    assert buffer == LARGE


def test_a_missing_file_is_noticed_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileSource(tmp_path / "none").open()


@CONTENTS
def test_a_spool_knows_digest_and_size(content: bytes) -> None:
    spool = Spool.of(BytesSource(content).open())

    assert spool.digest == Digest.of(content)
    assert spool.size == len(content)


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(0, 100))
def test_a_spool_returns_the_written_bytes(parts: list[bytes], start: int) -> None:
    spool = Spool()
    for part in parts:
        spool.write(part)

    with spool.open(start) as reader:
        assert reader.read() == b"".join(parts)[start:]


def test_growing_beyond_memory_loses_nothing() -> None:
    spool = Spool()
    for start in range(0, len(LARGE), 100_000):
        spool.write(LARGE[start : start + 100_000])

    with spool.open() as reader:
        assert reader.read() == LARGE


@CONTENTS
def test_many_readers_do_not_disturb_each_other(content: bytes) -> None:
    spool = Spool.of(BytesSource(content).open())
    found: list[bytes] = []

    def read() -> None:
        with spool.open() as reader:
            found.append(b"".join(iter(lambda: reader.read(9973), b"")))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [content] * 4


def test_a_closed_reader_of_a_spool_reads_no_more() -> None:
    reader = Spool().open()
    reader.close()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        reader.read(1)


def test_spooling_ends_with_its_scope() -> None:
    with CancelScope() as scope:
        scope.cancel()

        with pytest.raises(Cancelled):
            Spool.of(BytesSource(SMALL).open())


@pytest.mark.parametrize("limit", [len(SMALL), len(SMALL) + 1])
def test_all_is_read_up_to_the_limit(limit: int) -> None:
    """R-023."""
    assert read_limited(BytesSource(SMALL).open(), limit) == SMALL


def test_one_byte_beyond_the_limit_is_too_much() -> None:
    """R-023."""
    with pytest.raises(TooLarge) as caught:
        read_limited(BytesSource(SMALL).open(), len(SMALL) - 1, what="the manifest")

    assert "the manifest" in str(caught.value)


def test_no_more_than_one_byte_beyond_the_limit_is_read() -> None:
    """R-023."""
    stream = io.BytesIO(LARGE)

    with pytest.raises(TooLarge):
        read_limited(FileObjectReader(stream), 1000)

    assert stream.tell() == 1001
