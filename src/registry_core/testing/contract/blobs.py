"""What every ``BlobStore`` promises."""

from __future__ import annotations

import pytest

from registry_core.content.streams import ByteReader, BytesSource
from registry_core.domain.digest import Digest
from registry_core.errors import BlobNotFound, RegistryError, Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, put_blob
from registry_core.testing.contract.base import Can, Contract, fresh_name
from registry_core.testing.faults import WatchedSource

__all__ = ["BlobContract"]


class BlobContract(Contract):
    """Blobs come back as they went in, and are where they were put and nowhere else."""

    @pytest.mark.parametrize("size", [0, 1, 64, 65_537, 3_000_001])
    def test_a_blob_comes_back_as_it_went_in(self, repository: Repository, size: int) -> None:
        """Whatever its size; nothing, too (R-026)."""
        content = blob("round trip", size)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content
        assert repository.blobs.stat(digest) == size

    @pytest.mark.parametrize("start", [1, 63, 99_999])
    def test_open_begins_where_it_is_told(self, repository: Repository, start: int) -> None:
        """What lets an interrupted download go on."""
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

    def test_readers_read_in_pieces_and_say_when_it_is_over(self, repository: Repository) -> None:
        """An empty read is the end, and only that."""
        content = blob("pieces", 10_000)
        digest = put_blob(repository, content)

        with repository.blobs.open(digest) as reader:
            parts = list(iter(lambda: reader.read(999), b""))
            after = reader.read(999)

        assert b"".join(parts) == content
        assert max(map(len, parts)) <= 999
        assert after == b""

    def test_readers_fill_buffers(self, repository: Repository) -> None:
        """``readinto`` reads what ``read`` would."""
        content = blob("buffers", 10_000)
        digest = put_blob(repository, content)
        buffer = bytearray(999)
        parts = []

        with repository.blobs.open(digest) as reader:
            while count := reader.readinto(buffer):
                parts.append(bytes(buffer[:count]))

        assert b"".join(parts) == content

    def test_readers_close_more_than_once(self, repository: Repository) -> None:
        """Also before their end."""
        digest = put_blob(repository, blob("closed early", 10_000))
        reader = repository.blobs.open(digest)
        reader.read(10)

        reader.close()
        reader.close()

        assert repository.blobs.stat(digest) == 10_000

    def test_readers_do_not_disturb_each_other(self, repository: Repository) -> None:
        """Each has a position of its own."""
        content = blob("twice", 1_000)
        digest = put_blob(repository, content)

        with repository.blobs.open(digest) as first, repository.blobs.open(digest, start=500) as second:
            head, tail = exactly(first, 100), exactly(second, 100)

        assert (head, tail) == (content[:100], content[500:600])

    def test_putting_a_blob_that_is_there_changes_nothing(self, repository: Repository) -> None:
        """Two builds share most of their layers."""
        content = blob("again")
        put_blob(repository, content)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_put_closes_what_it_opens(self, repository: Repository) -> None:
        """Sources may be files or connections."""
        content = blob("tidy", 5_000)
        source = WatchedSource(BytesSource(content))

        repository.blobs.put(Digest.of(content), len(content), source)

        assert source.opened >= 1
        assert source.still_open == 0

    def test_stat_of_an_absent_blob(self, repository: Repository) -> None:
        """Also while the repository does not exist."""
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b"absent"))

    def test_stat_of_an_absent_blob_in_a_used_repository(self, repository: Repository) -> None:
        """Other blobs do not count."""
        put_blob(repository, blob("other"))

        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b"absent"))

    def test_open_of_an_absent_blob_fails_at_once(self, repository: Repository) -> None:
        """Not when it is read: whoever opens decides what to do without it."""
        put_blob(repository, blob("other"))

        with pytest.raises(BlobNotFound):
            repository.blobs.open(Digest.of(b"absent"))

    def test_the_error_says_which_blob_is_absent(self, repository: Repository) -> None:
        """Repository and digest, and the specification's code."""
        digest = Digest.of(b"absent")

        with pytest.raises(BlobNotFound) as caught:
            repository.blobs.open(digest)

        assert caught.value.reference == repository.at(digest)
        assert caught.value.code == "BLOB_UNKNOWN"

    def test_blobs_are_in_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """One may be readable to all, and another to none."""
        digest = put_blob(repository, blob("private"))
        put_blob(neighbour, blob("other"))

        with pytest.raises(BlobNotFound):
            neighbour.blobs.stat(digest)

    def test_a_deleted_blob_is_gone(self, repository: Repository) -> None:
        """Or the backend says that it does not delete, and keeps it."""
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
        """An error, so that a wrong digest does not pass for success."""
        put_blob(repository, blob("other"))
        error = BlobNotFound if self.can & Can.DELETE_BLOBS else Unsupported

        with pytest.raises(error):
            repository.blobs.delete(Digest.of(b"absent"))

    def test_deleting_in_one_repository_leaves_the_others(self, repository: Repository, neighbour: Repository) -> None:
        """Even if both share the bytes."""
        content = blob("shared")
        digest = put_blob(repository, content)
        put_blob(neighbour, content)

        if self.can & Can.DELETE_BLOBS:
            repository.blobs.delete(digest)
        else:
            with pytest.raises(Unsupported):
                repository.blobs.delete(digest)

        assert read(neighbour, digest) == content

    def test_mount_takes_a_blob_over(self, repository: Repository, neighbour: Repository) -> None:
        """Or says that it did not; then the blob is not here."""
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

    def test_a_mounted_blob_outlives_its_origin(self, repository: Repository, neighbour: Repository) -> None:
        """It belongs to both; where it cannot be mounted or deleted, both have their own."""
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

    def test_mount_of_what_the_origin_lacks(self, repository: Repository, neighbour: Repository) -> None:
        """No error: it has to be put."""
        put_blob(neighbour, blob("other"))
        digest = Digest.of(blob("never put"))

        mounted = repository.blobs.mount(digest, neighbour.name)

        assert mounted is False
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)

    def test_mount_from_an_absent_repository(self, repository: Repository) -> None:
        """No error: it has to be put."""
        digest = Digest.of(blob("never put"))

        mounted = repository.blobs.mount(digest, fresh_name())

        assert mounted is False
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)

    def test_sha512_blobs_are_kept_or_refused(self, repository: Repository) -> None:
        """Never taken and lost (R-001)."""
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
    """All of a blob from a position on."""
    with repository.blobs.open(digest, start=start) as reader:
        return b"".join(iter(lambda: reader.read(100_000), b""))


def exactly(reader: ByteReader, size: int) -> bytes:
    """So many bytes of a reader, or what is left: a single read may return less."""
    data = b""
    while len(data) < size and (more := reader.read(size - len(data))):
        data += more
    return data
