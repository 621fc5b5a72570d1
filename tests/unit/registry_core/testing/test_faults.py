from __future__ import annotations

import pytest

from registry_core.cancellation import fail_after, remaining
from registry_core.content.streams import ByteSource, BytesSource
from registry_core.testing.faults import (
    HookedSource,
    SourceBroken,
    WatchedSource,
    altered,
    longer,
    raising,
    shorter,
    stalling,
)

CONTENT = b"0123456789"


def read_all(source: ByteSource, start: int = 0, size: int = 3) -> bytes:
    with source.open(start) as reader:
        return b"".join(iter(lambda: reader.read(size), b""))


def test_wrong_content_differs_in_one_byte() -> None:
    assert read_all(shorter(CONTENT)) == b"012345678"
    assert read_all(longer(CONTENT)) == b"0123456789!"
    assert read_all(altered(CONTENT)) == b"0123456788"


@pytest.mark.parametrize("size", [1, 3, 5, 100, -1])
@pytest.mark.parametrize("start", [0, 2, 5, 7])
def test_a_hooked_source_has_all_of_its_content(start: int, size: int) -> None:
    source = HookedSource(CONTENT, lambda: None)

    assert read_all(source, start, size) == CONTENT[start:]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_the_hook_is_called_once_after_the_first_half(size: int) -> None:
    seen: list[int] = []
    content = bytearray()
    source = HookedSource(CONTENT, lambda: seen.append(len(content)))

    with source.open() as reader:
        while data := reader.read(size):
            content += data

    assert seen == [5]


def test_a_raising_source_raises_after_the_first_half() -> None:
    with raising(CONTENT, SourceBroken("now")).open() as reader:
        head = reader.read(100)
        with pytest.raises(SourceBroken):
            reader.read(100)

    assert head == CONTENT[:5]


def test_a_stalling_source_continues_after_the_deadline() -> None:
    with fail_after(0.01):
        content = read_all(stalling(CONTENT))
        left = remaining()

    assert content == CONTENT
    assert left == 0


def test_a_watched_source_counts_its_readers() -> None:
    source = WatchedSource(BytesSource(CONTENT))

    first, second = source.open(), source.open(5)
    first.close()
    first.close()
    counts = source.opened, source.still_open
    rest = second.read()
    second.close()

    assert counts == (2, 1)
    assert rest == CONTENT[5:]
    assert source.still_open == 0
