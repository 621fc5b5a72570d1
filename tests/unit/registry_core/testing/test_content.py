from __future__ import annotations

import pytest

from registry_core.content.streams import CHUNK_SIZE
from registry_core.domain.digest import Digest
from registry_core.testing.content import PatternSource


@pytest.mark.parametrize(
    "size", [0, 1, 7, 8, 9, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, CHUNK_SIZE + 8, 2 * CHUNK_SIZE + 12_345]
)
def test_a_pattern_source_has_its_size_and_digest(size: int) -> None:
    source = PatternSource(size)

    with source.open() as reader:
        content = b"".join(iter(lambda: reader.read(10_007), b""))

    assert len(content) == size
    assert Digest.of(content) == source.digest


@pytest.mark.parametrize(
    "start", [0, 3, 8, 11, CHUNK_SIZE - 2, CHUNK_SIZE, CHUNK_SIZE + 5, 2 * CHUNK_SIZE + 99, 2 * CHUNK_SIZE + 100]
)
def test_a_reader_starts_at_a_position(start: int) -> None:
    source = PatternSource(2 * CHUNK_SIZE + 100)
    whole = source.bytes_at(0, source.size)

    with source.open(start) as reader:
        tail = b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))

    assert tail == whole[start:]


def test_all_blocks_differ() -> None:
    source = PatternSource(4 * CHUNK_SIZE)

    blocks = {source.bytes_at(number * CHUNK_SIZE, CHUNK_SIZE) for number in range(4)}

    assert len(blocks) == 4


def test_different_seeds_give_different_content() -> None:
    assert PatternSource(1_000, seed=1).digest != PatternSource(1_000, seed=2).digest
    assert PatternSource(1_000, seed=1).digest == PatternSource(1_000, seed=1).digest


def test_it_fills_buffers() -> None:
    source = PatternSource(1_000)
    buffer = bytearray(2_000)

    with source.open() as reader:
        count = reader.readinto(buffer)

    assert count == 1_000
    assert bytes(buffer[:count]) == source.bytes_at(0, 1_000)


def test_a_closed_reader_does_not_read() -> None:
    reader = PatternSource(10).open()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        reader.read(1)
