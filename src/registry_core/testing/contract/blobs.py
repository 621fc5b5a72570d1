"""Contract of ``BlobStore``."""

from __future__ import annotations

import pytest

from registry_core.content.streams import ByteReader, BytesSource
from registry_core.domain.digest import Digest
from registry_core.errors import BlobNotFound, RegistryError, Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, put_blob
from registry_core.testing.contract.base import Can, Contract, fresh_name
from registry_core.testing.faults import WatchedSource

__all__ = ["BlobContract", "read"]


class BlobContract(Contract):
    """Blobs are returned unchanged, and only by the repository that has them."""

    @pytest.mark.parametrize("size", [0, 1, 64, 65_537, 3_000_001])
    def test_a_blob_is_returned_unchanged(self, repository: Repository, size: int) -> None:
        """For all sizes, including 0 (R-026)."""
        content = blob("round trip", size)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content
        assert repository.blobs.stat(digest) == size

    @pytest.mark.parametrize("start", [1, 63, 99_999])
    def test_open_starts_at_a_position(self, repository: Repository, start: int) -> None:
        """An interrupted download can be resumed."""
        content = blob("resumed", 100_000)
        digest = put_blob(repository, content)

        tail = read(repository, digest, start=start)

        assert tail == content[start:]

    def test_open_at_the_end_reads_nothing(self, repository: Repository) -> None:
        """An interrupted download may have been complete."""
        content = blob("complete")
        digest = put_blob(repository, content)

        tail = read(repository, digest, start=len(content))

        assert tail == b""

    def test_readers_read_in_chunks_until_an_empty_read(self, repository: Repository) -> None:
        """Only the end is an empty read."""
        content = blob("chunks", 10_000)
        digest = put_blob(repository, content)

        with repository.blobs.open(digest) as reader:
            chunks = list(iter(lambda: reader.read(999), b""))
            after = reader.read(999)

        assert b"".join(chunks) == content
        assert max(map(len, chunks)) <= 999
        assert after == b""

    def test_readers_fill_buffers(self, repository: Repository) -> None:
        """``readinto`` reads the same bytes as ``read``."""
        content = blob("buffers", 10_000)
        digest = put_blob(repository, content)
        buffer = bytearray(999)
        parts = []

        with repository.blobs.open(digest) as reader:
            while count := reader.readinto(buffer):
                parts.append(bytes(buffer[:count]))

        assert b"".join(parts) == content

    def test_readers_can_be_closed_twice(self, repository: Repository) -> None:
        """Also before their end."""
        digest = put_blob(repository, blob("closed early", 10_000))
        reader = repository.blobs.open(digest)
        reader.read(10)

        reader.close()
        reader.close()

        assert repository.blobs.stat(digest) == 10_000

    def test_readers_are_independent(self, repository: Repository) -> None:
        """Each has its own position."""
        content = blob("twice", 1_000)
        digest = put_blob(repository, content)

        with repository.blobs.open(digest) as first, repository.blobs.open(digest, start=500) as second:
            head, tail = read_exactly(first, 100), read_exactly(second, 100)

        assert (head, tail) == (content[:100], content[500:600])

    def test_putting_an_existing_blob_changes_nothing(self, repository: Repository) -> None:
        """Two builds share most of their layers."""
        content = blob("again")
        put_blob(repository, content)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_put_closes_the_readers_of_its_source(self, repository: Repository) -> None:
        """Sources may be files or connections."""
        content = blob("tidy", 5_000)
        source = WatchedSource(BytesSource(content))

        repository.blobs.put(Digest.of(content), len(content), source)

        assert source.opened >= 1
        assert source.still_open == 0

    def test_stat_of_an_absent_blob(self, repository: Repository) -> None:
        """Also if the repository does not exist."""
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b"absent"))

    def test_stat_of_an_absent_blob_in_a_used_repository(self, repository: Repository) -> None:
        """Also if the repository has other blobs."""
        put_blob(repository, blob("other"))

        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b"absent"))

    def test_open_of_an_absent_blob_fails_at_once(self, repository: Repository) -> None:
        """The error is raised by ``open``, not by the first read."""
        put_blob(repository, blob("other"))

        with pytest.raises(BlobNotFound):
            repository.blobs.open(Digest.of(b"absent"))

    def test_the_error_names_the_absent_blob(self, repository: Repository) -> None:
        """It has the reference and the code of the distribution-spec."""
        digest = Digest.of(b"absent")

        with pytest.raises(BlobNotFound) as caught:
            repository.blobs.open(digest)

        assert caught.value.reference == repository.at(digest)
        assert caught.value.code == "BLOB_UNKNOWN"

    def test_blobs_are_in_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """Repositories may have different access rights."""
        digest = put_blob(repository, blob("private"))
        put_blob(neighbour, blob("other"))

        with pytest.raises(BlobNotFound):
            neighbour.blobs.stat(digest)

    def test_a_deleted_blob_is_gone(self, repository: Repository) -> None:
        """Or the backend raises ``Unsupported`` and keeps it."""
        content = blob("deleted")
        digest = put_blob(repository, content)

        if self.can & Can.DELETE_BLOBS:
            repository.blobs.delete(digest)
            with pytest.raises(BlobNotFound):
                repository.blobs.stat(digest)
            with pytest.raises(BlobNotFound):
                repository.blobs.open(digest)
        else:
            with pytest.raises(Unsupported):
                repository.blobs.delete(digest)
            assert read(repository, digest) == content

    def test_deleting_an_absent_blob(self, repository: Repository) -> None:
        """Raises an error, so that a wrong digest is noticed."""
        put_blob(repository, blob("other"))
        error = BlobNotFound if self.can & Can.DELETE_BLOBS else Unsupported

        with pytest.raises(error):
            repository.blobs.delete(Digest.of(b"absent"))

    def test_deleting_in_one_repository_leaves_the_others(self, repository: Repository, neighbour: Repository) -> None:
        """Even if both have the same blob."""
        content = blob("shared")
        digest = put_blob(repository, content)
        put_blob(neighbour, content)

        if self.can & Can.DELETE_BLOBS:
            repository.blobs.delete(digest)
        else:
            with pytest.raises(Unsupported):
                repository.blobs.delete(digest)

        assert read(neighbour, digest) == content

    def test_mount_adds_a_blob_of_another_repository(self, repository: Repository, neighbour: Repository) -> None:
        """Or returns False; then the repository does not have the blob."""
        content = blob("mounted")
        digest = put_blob(neighbour, content)

        mounted = repository.blobs.mount(digest, neighbour.name)

        assert mounted is bool(self.can & Can.MOUNT)
        if mounted:
            assert repository.blobs.stat(digest) == len(content)
            assert read(repository, digest) == content
        else:
            with pytest.raises(BlobNotFound):
                repository.blobs.stat(digest)

    def test_a_mounted_blob_outlives_its_source(self, repository: Repository, neighbour: Repository) -> None:
        """Without mounts, each repository has its own copy."""
        content = blob("inherited")
        digest = put_blob(neighbour, content)
        if not repository.blobs.mount(digest, neighbour.name):
            put_blob(repository, content)

        if self.can & Can.DELETE_BLOBS:
            neighbour.blobs.delete(digest)
        else:
            with pytest.raises(Unsupported):
                neighbour.blobs.delete(digest)

        assert read(repository, digest) == content

    def test_mount_of_a_blob_that_the_source_lacks(self, repository: Repository, neighbour: Repository) -> None:
        """Returns False: the blob has to be put."""
        put_blob(neighbour, blob("other"))
        digest = Digest.of(blob("never put"))

        mounted = repository.blobs.mount(digest, neighbour.name)

        assert mounted is False
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)

    def test_mount_from_an_absent_repository(self, repository: Repository) -> None:
        """Returns False: the blob has to be put."""
        digest = Digest.of(blob("never put"))

        mounted = repository.blobs.mount(digest, fresh_name())

        assert mounted is False
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)

    def test_sha512_blobs_are_stored_or_refused(self, repository: Repository) -> None:
        """Never accepted and lost (R-001)."""
        content = blob("sha512")
        digest = Digest.of(content, "sha512")

        if self.can & Can.SHA512_BLOBS:
            repository.blobs.put(digest, len(content), BytesSource(content))
            assert read(repository, digest) == content
            assert repository.blobs.stat(digest) == len(content)
        else:
            with pytest.raises(RegistryError):
                repository.blobs.put(digest, len(content), BytesSource(content))
            with pytest.raises(BlobNotFound):
                repository.blobs.stat(digest)


def read(repository: Repository, digest: Digest, *, start: int = 0) -> bytes:
    """Read a blob from a position to its end."""
    with repository.blobs.open(digest, start=start) as reader:
        return b"".join(iter(lambda: reader.read(100_000), b""))


def read_exactly(reader: ByteReader, size: int) -> bytes:
    """Read so many bytes, or to the end: a single read may return less."""
    data = b""
    while len(data) < size and (more := reader.read(size - len(data))):
        data += more
    return data
