"""What every backend does in a scope that is cancelled or out of time."""

from __future__ import annotations

import threading
import time

import pytest

from registry_core.cancellation import CancelScope, fail_after, sleep
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, RegistryError, Unavailable
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, image_manifest, push_image, put_blob, put_parts
from registry_core.testing.contract.base import Contract
from registry_core.testing.contract.blobs import read
from registry_core.testing.contract.faulty_sources import assert_absent
from registry_core.testing.faults import HookedSource, WatchedSource, outlasting, raising

__all__ = ["CancellationContract"]

_SIZES = [64, 2_500_000]
# Seconds until cancelled work has ended: half a second, and some for a machine that is busy.
_PROMPT = 1.0


class CancellationContract(Contract):
    """Work ends when its scope does, cleanly, and the backend is as good as before."""

    @pytest.mark.parametrize("size", _SIZES)
    def test_a_put_that_is_cancelled_midway(self, repository: Repository, size: int) -> None:
        """Nothing is left, and the source is closed."""
        content = blob("cancelled midway", size)

        with CancelScope() as scope:
            source = WatchedSource(HookedSource(content, scope.cancel))
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), size, source)

        assert_absent(repository, content)
        assert source.still_open == 0

    def test_a_put_whose_time_runs_out_midway(self, repository: Repository) -> None:
        """Nothing is left."""
        content = blob("too late", 2_500_000)

        with fail_after(0.05), pytest.raises(DeadlineExceeded):
            repository.blobs.put(Digest.of(content), len(content), outlasting(content))

        assert_absent(repository, content)

    def test_putting_a_blob_in_a_cancelled_scope(self, repository: Repository) -> None:
        """The source is not even read."""
        content = blob("cancelled before")

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), len(content), BytesSource(content))

        assert_absent(repository, content)

    def test_putting_a_blob_out_of_time(self, repository: Repository) -> None:
        """``DeadlineExceeded`` is a ``TimeoutError``."""
        content = blob("out of time")

        with fail_after(0), pytest.raises(DeadlineExceeded):
            repository.blobs.put(Digest.of(content), len(content), BytesSource(content))

        assert_absent(repository, content)

    def test_putting_a_manifest_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Neither the manifest nor its tag is stored."""
        push_image(repository, "bystander")
        config, layer = put_parts(repository, "cancelled")
        manifest = image_manifest(config, [layer])

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (manifest.digest, Tag("v1")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)

    def test_putting_a_manifest_out_of_time(self, repository: Repository) -> None:
        """Neither the manifest nor its tag is stored."""
        push_image(repository, "bystander")
        config, layer = put_parts(repository, "out of time")
        manifest = image_manifest(config, [layer])

        with fail_after(0), pytest.raises(DeadlineExceeded):
            repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (manifest.digest, Tag("v1")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)

    def test_nothing_is_read_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Look-ups and lists end as promptly as transfers."""
        manifest = push_image(repository, "unread", tags=["v1"])
        layer = manifest.image.layers[0].digest

        with CancelScope() as scope:
            scope.cancel()
            for ask in (
                lambda: repository.manifests.resolve(Tag("v1")),
                lambda: repository.manifests.get(manifest.digest),
                lambda: list(repository.manifests.tags()),
                lambda: list(repository.manifests.referrers(manifest.digest)),
                lambda: repository.blobs.stat(layer),
                lambda: read(repository, layer),
            ):
                with pytest.raises(Cancelled):
                    ask()

    def test_nothing_is_deleted_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Whether the backend could delete it or not."""
        manifest = push_image(repository, "kept", tags=["v1"])
        layer = manifest.image.layers[0].digest

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(RegistryError):
                repository.manifests.untag(Tag("v1"))
            with pytest.raises(RegistryError):
                repository.manifests.delete(manifest.digest)
            with pytest.raises(RegistryError):
                repository.blobs.delete(layer)

        assert repository.manifests.get(Tag("v1")) == manifest
        assert repository.blobs.stat(layer) == manifest.image.layers[0].size

    def test_a_cancelled_put_can_be_repeated(self, repository: Repository) -> None:
        """The backend works normally after it."""
        content = blob("second attempt", 2_500_000)
        with CancelScope() as scope, pytest.raises(Cancelled):
            repository.blobs.put(Digest.of(content), len(content), HookedSource(content, scope.cancel))

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_a_reader_reads_no_further_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Lazily read content ends with the scope that reads it, however much of it has come."""
        digest = put_blob(repository, blob("half read", 2_500_000))

        with CancelScope() as scope, repository.blobs.open(digest) as reader:
            begun = reader.read(1000)
            scope.cancel()
            with pytest.raises(Cancelled):
                drained(reader)

        assert begun

    def test_a_reader_reads_no_further_out_of_time(self, repository: Repository) -> None:
        """As in a cancelled scope."""
        digest = put_blob(repository, blob("half read, too late", 2_500_000))

        with repository.blobs.open(digest) as reader:
            begun = reader.read(1000)
            with fail_after(0), pytest.raises(DeadlineExceeded):
                drained(reader)

        assert begun

    def test_what_was_read_by_cancelled_work_can_be_read_again(self, repository: Repository) -> None:
        """From its beginning, or from where it stopped."""
        content = blob("read again", 2_500_000)
        digest = put_blob(repository, content)
        with CancelScope() as scope, repository.blobs.open(digest) as reader:
            reader.read(1000)
            scope.cancel()
            with pytest.raises(Cancelled):
                drained(reader)

        whole = read(repository, digest)
        with repository.blobs.open(digest, start=1000) as reader:
            rest = drained(reader)

        assert whole == content
        assert rest == content[1000:]

    def test_lists_are_ended_midway(self, repository: Repository) -> None:
        """And can be asked for again."""
        tags = [f"v{number}" for number in range(5)]
        push_image(repository, "listed", tags=tags)

        with CancelScope() as scope:
            listing = repository.manifests.tags(page_size=2)
            first = next(listing)
            scope.cancel()
            with pytest.raises(Cancelled):
                list(listing)

        assert first == tags[0]
        assert list(repository.manifests.tags()) == tags

    def test_a_put_that_waits_for_its_source_ends_as_soon_as_the_source_does(self, repository: Repository) -> None:
        """From another thread, in the middle of a blob."""
        content = blob("cancelled from outside", 2_500_000)
        midway = threading.Event()
        moment: list[float] = []

        def stall() -> None:
            midway.set()
            sleep(60)

        def cancel() -> None:
            midway.wait(30)
            moment.append(time.monotonic())
            scope.cancel()

        with CancelScope() as scope:
            canceller = threading.Thread(target=cancel)
            canceller.start()
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), len(content), HookedSource(content, stall))
            taken = time.monotonic() - moment[0]
            canceller.join()

        assert taken < _PROMPT
        assert_absent(repository, content)

    def test_a_put_whose_source_was_away_can_be_repeated(self, repository: Repository) -> None:
        """Whatever the backend kept of the first attempt, it is not trusted."""
        content = blob("away for a moment", 2_500_000)
        with pytest.raises(Unavailable):
            repository.blobs.put(
                Digest.of(content), len(content), raising(content, Unavailable("the source went away"))
            )
        assert_absent(repository, content)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_other_work_goes_on(self, repository: Repository) -> None:
        """A scope ends what is inside, and nothing else."""
        content = blob("unharmed")
        with CancelScope() as scope:
            scope.cancel()

        manifest = push_image(repository, "unharmed", tags=["v1"])
        digest = put_blob(repository, content)

        assert repository.manifests.get(Tag("v1")) == manifest
        assert read(repository, digest) == content

    def test_a_generous_deadline_changes_nothing(self, repository: Repository) -> None:
        """As long as it has not passed."""
        with fail_after(600):
            manifest = push_image(repository, "in time", tags=["v1"])
            found = repository.manifests.get(Tag("v1"))
            parts = [read(repository, part.digest) for part in manifest.children]

        assert found == manifest
        assert [len(part) for part in parts] == [part.size for part in manifest.children]


def drained(reader: ByteReader) -> bytes:
    """All that a reader has left, piece by piece."""
    return b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))
