from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_core.cancellation import CancelScope
from registry_core.content.compression import decompress
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource, FileObjectReader
from registry_core.content.verify import VerifyingReader, verified_chunks
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER
from registry_core.errors import Cancelled, DigestMismatch, IntegrityError, SizeMismatch, Unsupported
from registry_core.ops.tar.members import Budget, ExtractLimits
from registry_core.ops.tar.reader import TarReader

CONTENT = b"truth" * 1000
DIGEST = Digest.of(CONTENT)


def reader(content: bytes, size: int | None = len(CONTENT), digest: Digest = DIGEST) -> VerifyingReader:
    return VerifyingReader(BytesSource(content).open(), digest, size, reference="a.io/b@x")


def all_at_once(stream: ByteReader) -> bytes:
    return stream.read()


def in_reads(stream: ByteReader) -> bytes:
    return b"".join(iter(lambda: stream.read(7), b""))


def in_buffers(stream: ByteReader) -> bytes:
    found, buffer = b"", bytearray(11)
    while count := stream.readinto(buffer):
        found += buffer[:count]
    return found


WAYS = pytest.mark.parametrize("way", [all_at_once, in_reads, in_buffers])


class EndlessStream:
    """An endless stream that counts the bytes read."""

    def __init__(self) -> None:
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "an endless body is never read to its end"
        self.taken += size
        return b"x" * size

    def close(self) -> None:
        self.taken = -1


@WAYS
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_the_right_content_passes(way: Callable[[ByteReader], bytes], size: int | None) -> None:
    """R-003."""
    with reader(CONTENT, size) as stream:
        assert way(stream) == CONTENT
        assert stream.verified
        assert stream.read(1) == b""


@WAYS
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (CONTENT[:-1], SizeMismatch),
        (CONTENT + b"x", SizeMismatch),
        (b"", SizeMismatch),
        (CONTENT[:-1] + b"x", DigestMismatch),
    ],
)
def test_wrong_content_is_an_error_whichever_way_it_is_read(
    way: Callable[[ByteReader], bytes], content: bytes, error: type[IntegrityError]
) -> None:
    """R-003, R-004, R-006."""
    with reader(content) as stream:
        with pytest.raises(error) as caught:
            way(stream)

        assert caught.value.reference == "a.io/b@x"
        assert not stream.verified


@WAYS
def test_wrong_content_of_unknown_size_is_an_error(way: Callable[[ByteReader], bytes]) -> None:
    """R-003."""
    with reader(CONTENT[:-1], None) as stream, pytest.raises(DigestMismatch):
        way(stream)


def test_a_mismatch_has_the_expected_and_the_actual_digest() -> None:
    with reader(b"x" * len(CONTENT)) as stream, pytest.raises(DigestMismatch) as caught:
        stream.read()

    assert caught.value.expected == DIGEST
    assert caught.value.actual == Digest.of(b"x" * len(CONTENT))


def test_reading_exactly_the_expected_size_verifies_the_digest() -> None:
    """R-006: the last byte is not returned if the content is wrong."""
    with reader(b"x" * len(CONTENT)) as stream, pytest.raises(DigestMismatch):
        stream.read(len(CONTENT))


def test_an_error_is_repeated_by_further_reads() -> None:
    with reader(CONTENT[:-1]) as stream:
        for _ in range(3):
            with pytest.raises(SizeMismatch):
                stream.read()


def test_an_endless_stream_is_abandoned() -> None:
    """R-004."""
    endless = EndlessStream()
    stream = VerifyingReader(FileObjectReader(endless), DIGEST, len(CONTENT))  # type: ignore[arg-type]  # enough of a file

    with pytest.raises(SizeMismatch):
        stream.read()

    assert endless.taken <= CHUNK_SIZE


def test_reading_a_part_verifies_nothing() -> None:
    """R-007."""
    with reader(CONTENT) as stream:
        stream.read(10)

        assert not stream.verified


def test_empty_reads_prove_nothing() -> None:
    with reader(CONTENT) as stream:
        assert stream.read(0) == b""
        assert stream.readinto(bytearray()) == 0
        assert not stream.verified


def test_empty_content_is_verified() -> None:
    with reader(b"", 0, Digest.of(b"")) as stream:
        assert stream.read() == b""
        assert stream.verified


def test_a_digest_that_cannot_be_verified_is_refused_at_once() -> None:
    """R-002."""
    with pytest.raises(Unsupported):
        reader(b"", 0, Digest("md5:abc"))


def test_closing_closes_the_inner_reader() -> None:
    behind = io.BytesIO(CONTENT)

    VerifyingReader(FileObjectReader(behind), DIGEST, None).close()

    assert behind.closed


def test_reads_end_with_their_scope() -> None:
    with CancelScope() as scope, reader(CONTENT) as stream:
        stream.read(1)
        scope.cancel()

        with pytest.raises(Cancelled):
            stream.read(1)
        with pytest.raises(Cancelled):
            stream.readinto(bytearray(1))


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(1, 60))
def test_only_the_expected_content_passes(expected: bytes, actual: bytes, step: int) -> None:
    """R-003, R-004."""
    stream = VerifyingReader(BytesSource(actual).open(), Digest.of(expected), len(expected))

    try:
        found = b"".join(iter(lambda: stream.read(step), b""))
    except IntegrityError:
        assert expected != actual
    else:
        assert found == expected == actual


def test_pieces_are_the_content() -> None:
    content = b"z" * (2 * CHUNK_SIZE + 1)

    sizes = [len(piece) for piece in verified_chunks(BytesSource(content), Digest.of(content), len(content))]

    assert sizes == [CHUNK_SIZE, CHUNK_SIZE, 1]


def test_pieces_of_wrong_content_raise_before_they_end() -> None:
    with pytest.raises(DigestMismatch):
        list(verified_chunks(BytesSource(b"liars"), Digest.of(b"truth"), 5))


class RemarkedReader(FileObjectReader):
    """A reader with a remark on its stream."""

    remark = " (the response has the Content-Encoding 'gzip')"


class TestRemarks:
    @pytest.mark.parametrize("content", [CONTENT[1:], CONTENT + b"x", CONTENT[::-1]])
    def test_the_remark_of_a_reader_is_added_to_the_error(self, content: bytes) -> None:
        """R-056: through readers around it."""
        inner = RemarkedReader(io.BytesIO(content))

        with (
            VerifyingReader(VerifyingReader(inner, Digest.of(content), None), DIGEST, len(CONTENT)) as stream,
            pytest.raises(IntegrityError, match="Content-Encoding 'gzip'"),
        ):
            stream.read()

    def test_a_reader_without_a_remark_needs_none(self) -> None:
        with VerifyingReader(io.BytesIO(b"wrong"), DIGEST, None) as stream, pytest.raises(DigestMismatch):
            stream.read()

    @pytest.mark.parametrize("media_type", [f"{OCI_LAYER}+gzip", OCI_LAYER])
    def test_the_remark_is_added_where_the_content_is_no_layer(self, media_type: str) -> None:
        """R-056: such an error comes before the end, where the digest would be compared."""
        stored = VerifyingReader(RemarkedReader(io.BytesIO(b"60;chunk-signature=" * 100)), DIGEST, None)
        tar = TarReader(decompress(stored, media_type), Budget(ExtractLimits()))

        with closing(stored), pytest.raises(IntegrityError, match="Content-Encoding 'gzip'") as caught:
            list(tar.members())

        assert str(caught.value).count("Content-Encoding") == 1
