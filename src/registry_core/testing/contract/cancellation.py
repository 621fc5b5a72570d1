"""Contract of all stores in a scope that is cancelled or past its deadline."""

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
from registry_core.testing.content import blob, image_manifest, push_image, put_blob, put_config_and_layer
from registry_core.testing.contract.base import Contract
from registry_core.testing.contract.blobs import read
from registry_core.testing.contract.faulty_sources import assert_absent
from registry_core.testing.faults import HookedSource, WatchedSource, raising, stalling

__all__ = ["CancellationContract"]

_SIZES = [64, 2_500_000]
# Seconds until cancelled work must have ended: half a second, and a margin for busy machines.
_PROMPT = 1.0


class CancellationContract(Contract):
    """Cancelled work ends promptly, stores nothing, and leaves the backend usable."""

    @pytest.mark.parametrize("size", _SIZES)
    def test_a_put_that_is_cancelled_midway(self, repository: Repository, size: int) -> None:
        """No blob is stored, and the source is closed."""
        content = blob("cancelled midway", size)

        with CancelScope() as scope:
            source = WatchedSource(HookedSource(content, scope.cancel))
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), size, source)

        assert_absent(repository, content)
        assert source.still_open == 0

    def test_a_put_whose_deadline_passes_midway(self, repository: Repository) -> None:
        """No blob is stored."""
        content = blob("too late", 2_500_000)

        with fail_after(0.05), pytest.raises(DeadlineExceeded):
            repository.blobs.put(Digest.of(content), len(content), stalling(content))

        assert_absent(repository, content)

    def test_putting_a_blob_in_a_cancelled_scope(self, repository: Repository) -> None:
        """No blob is stored."""
        content = blob("cancelled before")

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), len(content), BytesSource(content))

        assert_absent(repository, content)

    def test_putting_a_blob_after_the_deadline(self, repository: Repository) -> None:
        """No blob is stored."""
        content = blob("out of time")

        with fail_after(0), pytest.raises(DeadlineExceeded):
            repository.blobs.put(Digest.of(content), len(content), BytesSource(content))

        assert_absent(repository, content)

    def test_putting_a_manifest_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Neither the manifest nor its tag is stored."""
        push_image(repository, "bystander")
        config, layer = put_config_and_layer(repository, "cancelled")
        manifest = image_manifest(config, [layer])

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (manifest.digest, Tag("v1")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)

    def test_putting_a_manifest_after_the_deadline(self, repository: Repository) -> None:
        """Neither the manifest nor its tag is stored."""
        push_image(repository, "bystander")
        config, layer = put_config_and_layer(repository, "out of time")
        manifest = image_manifest(config, [layer])

        with fail_after(0), pytest.raises(DeadlineExceeded):
            repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (manifest.digest, Tag("v1")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)

    def test_nothing_is_read_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Lookups and listings raise ``Cancelled``, as transfers do."""
        manifest = push_image(repository, "unread", tags=["v1"])
        layer = manifest.image.layers[0].digest

        with CancelScope() as scope:
            scope.cancel()
            for call in (
                lambda: repository.manifests.resolve(Tag("v1")),
                lambda: repository.manifests.get(manifest.digest),
                lambda: list(repository.manifests.tags()),
                lambda: list(repository.manifests.referrers(manifest.digest)),
                lambda: repository.blobs.stat(layer),
                lambda: read(repository, layer),
            ):
                with pytest.raises(Cancelled):
                    call()

    def test_nothing_is_deleted_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Return whether the backend supports deletion or not."""
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
        """The backend works normally afterwards."""
        content = blob("second attempt", 2_500_000)
        with CancelScope() as scope, pytest.raises(Cancelled):
            repository.blobs.put(Digest.of(content), len(content), HookedSource(content, scope.cancel))

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_a_reader_stops_in_a_cancelled_scope(self, repository: Repository) -> None:
        """Also if it has read a part of the blob already."""
        digest = put_blob(repository, blob("half read", 2_500_000))

        with CancelScope() as scope, repository.blobs.open(digest) as reader:
            head = reader.read(1000)
            scope.cancel()
            with pytest.raises(Cancelled):
                read_rest(reader)

        assert head

    def test_a_reader_stops_after_the_deadline(self, repository: Repository) -> None:
        """Also if it has read a part of the blob already."""
        digest = put_blob(repository, blob("half read, too late", 2_500_000))

        with repository.blobs.open(digest) as reader:
            head = reader.read(1000)
            with fail_after(0), pytest.raises(DeadlineExceeded):
                read_rest(reader)

        assert head

    def test_a_blob_can_be_read_after_a_cancelled_read(self, repository: Repository) -> None:
        """From the beginning, or from the position reached."""
        content = blob("read again", 2_500_000)
        digest = put_blob(repository, content)
        with CancelScope() as scope, repository.blobs.open(digest) as reader:
            reader.read(1000)
            scope.cancel()
            with pytest.raises(Cancelled):
                read_rest(reader)

        whole = read(repository, digest)
        with repository.blobs.open(digest, start=1000) as reader:
            rest = read_rest(reader)

        assert whole == content
        assert rest == content[1000:]

    def test_a_listing_is_cancelled_midway(self, repository: Repository) -> None:
        """It can be repeated afterwards."""
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

    def test_a_put_that_waits_for_its_source_is_cancelled_promptly(self, repository: Repository) -> None:
        """By another thread, in the middle of a blob."""
        content = blob("cancelled from outside", 2_500_000)
        midway = threading.Event()
        cancelled_at: list[float] = []

        def stall() -> None:
            midway.set()
            sleep(60)

        def cancel() -> None:
            midway.wait(30)
            cancelled_at.append(time.monotonic())
            scope.cancel()

        with CancelScope() as scope:
            canceller = threading.Thread(target=cancel)
            canceller.start()
            with pytest.raises(Cancelled):
                repository.blobs.put(Digest.of(content), len(content), HookedSource(content, stall))
            seconds = time.monotonic() - cancelled_at[0]
            canceller.join()

        assert seconds < _PROMPT
        assert_absent(repository, content)

    def test_a_put_whose_source_failed_can_be_repeated(self, repository: Repository) -> None:
        """The backend verifies what it may have kept of the first attempt."""
        content = blob("unavailable source", 2_500_000)
        with pytest.raises(Unavailable):
            repository.blobs.put(
                Digest.of(content), len(content), raising(content, Unavailable("the source is unavailable"))
            )
        assert_absent(repository, content)

        digest = put_blob(repository, content)

        assert read(repository, digest) == content

    def test_other_work_is_not_cancelled(self, repository: Repository) -> None:
        """A scope cancels only the work inside it."""
        content = blob("unharmed")
        with CancelScope() as scope:
            scope.cancel()

        manifest = push_image(repository, "unharmed", tags=["v1"])
        digest = put_blob(repository, content)

        assert repository.manifests.get(Tag("v1")) == manifest
        assert read(repository, digest) == content

    def test_a_deadline_in_the_future_changes_nothing(self, repository: Repository) -> None:
        """Work that ends in time succeeds."""
        with fail_after(600):
            manifest = push_image(repository, "in time", tags=["v1"])
            found = repository.manifests.get(Tag("v1"))
            parts = [read(repository, part.digest) for part in manifest.children]

        assert found == manifest
        assert [len(part) for part in parts] == [part.size for part in manifest.children]


def read_rest(reader: ByteReader) -> bytes:
    """Read a reader to its end, in chunks."""
    return b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))
