"""Contract of all stores for concurrent calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.errors import BlobNotFound, ImageNotFound, ServerError
from registry_core.ports.catalog import Catalog, Repository
from registry_core.testing.content import blob, push_image, put_blob
from registry_core.testing.contract.base import Can, Contract, fresh_name
from registry_core.testing.contract.blobs import read
from registry_core.testing.contract.referrers import put_referrer, referrer_digests

__all__ = ["ConcurrencyContract"]

T = TypeVar("T")

_THREADS = 16


class ConcurrencyContract(Contract):
    """All methods may be called by many threads at once, and no write is lost."""

    def test_different_blobs_at_once(self, repository: Repository) -> None:
        """All of them are stored."""
        contents = [blob(f"blob {number}", 20_000) for number in range(_THREADS)]

        put = at_once(lambda number: put_blob(repository, contents[number]))

        assert [read(repository, digest) for digest in put] == contents

    def test_the_same_blob_at_once(self, repository: Repository) -> None:
        """All calls succeed, and the blob is complete."""
        content = blob("contended", 300_000)

        put = at_once(lambda _: put_blob(repository, content))

        assert set(put) == {Digest.of(content)}
        assert read(repository, put[0]) == content

    def test_different_tags_at_once(self, repository: Repository) -> None:
        """All of them are listed, and resolve to their manifests."""
        images = at_once(lambda number: push_image(repository, f"image {number}", tags=[f"v{number:02}"]))

        assert list(repository.manifests.tags()) == [f"v{number:02}" for number in range(_THREADS)]
        assert [repository.manifests.get(Tag(f"v{number:02}")) for number in range(_THREADS)] == images

    def test_one_tag_at_once(self, repository: Repository) -> None:
        """It resolves to one of the manifests; all of them are found by digest."""
        images = at_once(lambda number: push_image(repository, f"image {number}", tags=["latest"]))

        assert repository.manifests.get(Tag("latest")) in images
        assert list(repository.manifests.tags()) == ["latest"]
        assert [repository.manifests.get(image.digest) for image in images] == images

    def test_referrers_of_one_subject_at_once(self, repository: Repository) -> None:
        """None is lost, even if the backend rewrites a list for each."""
        subject = push_image(repository, "subject")

        put = at_once(
            lambda number: put_referrer(repository, subject.descriptor, f"referrer {number}", "application/x.y")
        )

        assert referrer_digests(repository, subject.digest) == {each.digest for each in put}

    def test_repositories_at_once(self, catalog: Catalog) -> None:
        """Each has its own content."""
        names = [fresh_name() for _ in range(_THREADS)]

        images = at_once(lambda number: push_image(catalog.repository(names[number]), f"of {number}", tags=["v1"]))

        assert [catalog.repository(name).manifests.get(Tag("v1")) for name in names] == images

    def test_readers_during_writes(self, repository: Repository) -> None:
        """They see the state before or after a write, never a part of it."""
        first = push_image(repository, "image 0", tags=["latest", "v00"])
        problems: list[str] = []
        done = threading.Event()

        def look() -> None:
            manifest = repository.manifests.get(Tag("latest"))
            if manifest.digest != repository.manifests.get(manifest.digest).digest:
                problems.append("the digest resolved to another manifest")
            if "v00" not in list(repository.manifests.tags()):
                problems.append("a tag was missing")
            for part in manifest.children:
                if len(read(repository, part.digest)) != part.size:
                    problems.append("a blob was incomplete")

        def watch() -> None:
            while not done.is_set():
                try:
                    look()
                except ServerError:
                    if self.can & Can.ATOMIC_WRITES:
                        raise

        with ThreadPoolExecutor(4) as pool:
            watchers = [pool.submit(watch) for _ in range(4)]
            try:
                at_once(lambda number: push_image(repository, f"image {number}", tags=["latest", f"v{number:02}"]))
            finally:
                done.set()
        for watcher in watchers:
            watcher.result()

        assert problems == []
        assert repository.manifests.get(Tag("v00")) == first
        assert len(list(repository.manifests.tags())) == _THREADS + 1

    def test_deletes_at_once(self, repository: Repository) -> None:
        """All deleted content is gone, and the rest stays; without deletion, everything stays."""
        images = [push_image(repository, f"image {number}", tags=[f"v{number:02}"]) for number in range(_THREADS)]
        layer = put_blob(repository, blob("deleted"))
        kept = push_image(repository, "kept", tags=["kept"])

        if self.can & Can.DELETE_MANIFESTS:
            at_once(lambda number: repository.manifests.delete(images[number].digest))
            for image in images:
                with pytest.raises(ImageNotFound):
                    repository.manifests.resolve(image.digest)
            assert list(repository.manifests.tags()) == ["kept"]
        if self.can & Can.DELETE_BLOBS:
            outcomes = at_once(lambda _: _delete_blob(repository, layer))
            assert True in outcomes
            with pytest.raises(BlobNotFound):
                repository.blobs.stat(layer)

        assert repository.manifests.get(Tag("kept")) == kept


def at_once(work: Callable[[int], T]) -> list[T]:
    """Call a function in several threads that start at the same time.

    Args:
        work: Function to call with the number of the thread.

    Returns:
        The results, by number.

    Raises:
        Exception: An exception of one of the calls.
    """
    start = threading.Barrier(_THREADS)

    def run(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(run, range(_THREADS)))


def _delete_blob(repository: Repository, digest: Digest) -> bool:
    try:
        repository.blobs.delete(digest)
    except BlobNotFound:
        return False
    return True
