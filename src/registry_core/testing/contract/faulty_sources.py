"""Contract of ``BlobStore.put`` for sources with wrong content and sources that fail: no blob is stored."""

from __future__ import annotations

import pytest

from registry_core.content.streams import ByteSource, BytesSource
from registry_core.domain.digest import Digest
from registry_core.errors import BlobNotFound, DigestMismatch, SizeMismatch, Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, put_blob
from registry_core.testing.contract.base import Contract
from registry_core.testing.contract.blobs import read
from registry_core.testing.faults import SourceBroken, WatchedSource, altered, longer, raising, shorter

__all__ = ["FaultySourceContract", "assert_absent"]

_SIZES = [64, 2_500_000]


class FaultySourceContract(Contract):
    """Content is verified, for blobs of one chunk and of several."""

    @pytest.mark.parametrize("size", _SIZES)
    def test_wrong_bytes_are_refused(self, repository: Repository, size: int) -> None:
        """A single wrong bit suffices."""
        content = blob("altered", size)

        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        assert_absent(repository, content)

    @pytest.mark.parametrize("size", _SIZES)
    def test_too_few_bytes_are_refused(self, repository: Repository, size: int) -> None:
        """A truncated stream is not a blob."""
        content = blob("short", size)

        with pytest.raises(SizeMismatch):
            put(repository, content, shorter(content))

        assert_absent(repository, content)

    @pytest.mark.parametrize("size", _SIZES)
    def test_too_many_bytes_are_refused(self, repository: Repository, size: int) -> None:
        """Even if the first ones are right."""
        content = blob("long", size)

        with pytest.raises(SizeMismatch):
            put(repository, content, longer(content))

        assert_absent(repository, content)

    def test_right_bytes_under_too_large_a_size_are_refused(self, repository: Repository) -> None:
        """Size and digest must both match."""
        content = blob("measured")

        with pytest.raises(SizeMismatch):
            repository.blobs.put(Digest.of(content), len(content) + 1, BytesSource(content))

        assert_absent(repository, content)

    def test_right_bytes_under_too_small_a_size_are_refused(self, repository: Repository) -> None:
        """Both errors are correct: too many bytes, or another digest at that size."""
        content = blob("measured")

        with pytest.raises((SizeMismatch, DigestMismatch)):
            repository.blobs.put(Digest.of(content), len(content) - 1, BytesSource(content))

        assert_absent(repository, content)

    def test_an_empty_source_is_refused(self, repository: Repository) -> None:
        """It is too short."""
        content = blob("empty source")

        with pytest.raises(SizeMismatch):
            put(repository, content, BytesSource(b""))

        assert_absent(repository, content)

    @pytest.mark.parametrize("size", _SIZES)
    def test_an_error_of_the_source_passes_through(self, repository: Repository, size: int) -> None:
        """It explains the failure, which is not one of the backend."""
        content = blob("breaking", size)

        with pytest.raises(SourceBroken):
            put(repository, content, raising(content, SourceBroken("the source broke")))

        assert_absent(repository, content)

    def test_an_operating_system_error_of_the_source_leaves_nothing(self, repository: Repository) -> None:
        """Such as an error of a disk."""
        content = blob("unreadable")

        with pytest.raises(OSError, match="disk"):
            put(repository, content, raising(content, OSError("the disk broke")))

        assert_absent(repository, content)

    def test_readers_are_closed_after_a_failure(self, repository: Repository) -> None:
        """As after success."""
        content = blob("closed anyway")
        source = WatchedSource(altered(content))

        with pytest.raises(DigestMismatch):
            put(repository, content, source)

        assert source.opened >= 1
        assert source.still_open == 0

    def test_a_failed_put_can_be_repeated(self, repository: Repository) -> None:
        """Remains of the first attempt do no harm."""
        content = blob("second attempt", 2_500_000)
        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_a_failed_put_leaves_other_blobs_alone(self, repository: Repository) -> None:
        """Other blobs of the repository stay unchanged."""
        digest = put_blob(repository, blob("bystander"))
        content = blob("failing")

        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        assert read(repository, digest) == blob("bystander")

    def test_blobs_under_digests_that_cannot_be_verified_are_refused(self, repository: Repository) -> None:
        """Such digests can be parsed, but not verified (R-002)."""
        digest = Digest("md5:d41d8cd98f00b204e9800998ecf8427e")

        with pytest.raises(Unsupported):
            repository.blobs.put(digest, 0, BytesSource(b""))


def put(repository: Repository, expected: bytes, source: ByteSource) -> None:
    """Put a source under the digest and size of other content."""
    repository.blobs.put(Digest.of(expected), len(expected), source)


def assert_absent(repository: Repository, content: bytes) -> None:
    """Assert that neither ``stat`` nor ``open`` finds the blob."""
    digest = Digest.of(content)
    with pytest.raises(BlobNotFound):
        repository.blobs.stat(digest)
    with pytest.raises(BlobNotFound):
        repository.blobs.open(digest)
