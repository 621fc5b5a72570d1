"""What every ``BlobStore`` does about sources that lie or break: nothing is left behind."""

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

__all__ = ["FaultySourceContract"]

_SIZES = [64, 2_500_000]


class FaultySourceContract(Contract):
    """Writers verify, whether a blob fits into one piece or not."""

    @pytest.mark.parametrize("size", _SIZES)
    def test_wrong_bytes_are_refused(self, repository: Repository, size: int) -> None:
        """One bit suffices."""
        content = blob("altered", size)

        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        assert_absent(repository, content)

    @pytest.mark.parametrize("size", _SIZES)
    def test_too_few_bytes_are_refused(self, repository: Repository, size: int) -> None:
        """A cut stream is no blob."""
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
        """Size and digest must both hold."""
        content = blob("measured")

        with pytest.raises(SizeMismatch):
            repository.blobs.put(Digest.of(content), len(content) + 1, BytesSource(content))

        assert_absent(repository, content)

    def test_right_bytes_under_too_small_a_size_are_refused(self, repository: Repository) -> None:
        """Too long, or not what the digest says once the size is reached: either is true."""
        content = blob("measured")

        with pytest.raises((SizeMismatch, DigestMismatch)):
            repository.blobs.put(Digest.of(content), len(content) - 1, BytesSource(content))

        assert_absent(repository, content)

    def test_nothing_where_something_was_promised(self, repository: Repository) -> None:
        """An empty stream is too short."""
        content = blob("nothing came")

        with pytest.raises(SizeMismatch):
            put(repository, content, BytesSource(b""))

        assert_absent(repository, content)

    @pytest.mark.parametrize("size", _SIZES)
    def test_an_error_of_the_source_passes_through(self, repository: Repository, size: int) -> None:
        """It says best what happened; the backend is not to blame."""
        content = blob("breaking", size)

        with pytest.raises(SourceBroken):
            put(repository, content, raising(content, SourceBroken("the source broke")))

        assert_absent(repository, content)

    def test_an_operating_system_error_of_the_source_leaves_nothing(self, repository: Repository) -> None:
        """A file on a broken disk, say."""
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
        """Nothing of the first attempt stands in the way."""
        content = blob("second attempt", 2_500_000)
        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_a_failed_put_leaves_other_blobs_alone(self, repository: Repository) -> None:
        """They were verified when they came."""
        digest = put_blob(repository, blob("bystander"))
        content = blob("failing")

        with pytest.raises(DigestMismatch):
            put(repository, content, altered(content))

        assert read(repository, digest) == blob("bystander")

    def test_blobs_under_digests_that_cannot_be_verified_are_refused(self, repository: Repository) -> None:
        """They can be named, not trusted (R-002)."""
        digest = Digest("md5:d41d8cd98f00b204e9800998ecf8427e")

        with pytest.raises(Unsupported):
            repository.blobs.put(digest, 0, BytesSource(b""))


def put(repository: Repository, promised: bytes, source: ByteSource) -> None:
    """Put a source under the digest and size of other bytes."""
    repository.blobs.put(Digest.of(promised), len(promised), source)


def assert_absent(repository: Repository, content: bytes) -> None:
    """Fail unless neither ``stat`` nor ``open`` know the blob."""
    digest = Digest.of(content)
    with pytest.raises(BlobNotFound):
        repository.blobs.stat(digest)
    with pytest.raises(BlobNotFound):
        repository.blobs.open(digest)
