"""Cancelled operations and those past their deadline end promptly on every backend, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import (
    BlobStore,
    Cancelled,
    Catalog,
    DeadlineExceeded,
    Descriptor,
    Digest,
    Image,
    Layer,
    ManifestStore,
    RawManifest,
    RegistryClient,
    Repository,
    RepositoryName,
    Tag,
    Unavailable,
    save_blob,
)
from registry_core.cancellation import CancelScope, fail_after, sleep
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource
from registry_core.testing.content import blob, image_manifest, put_blob

# Operations end within half a second; the other half allows for a busy machine.
PROMPT = 0.5 + 0.5
# Only a defect makes a test wait this long.
LONGEST_WAIT = 30.0
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYERS = [blob(f"layer {number}", CHUNK_SIZE + CHUNK_SIZE // 2) for number in range(3)]
MANIFEST = image_manifest(CONFIG, LAYERS)


class Gate:
    """A point at which an operation blocks until the test opens it; then the operation fails.

    Args:
        wait: Waits for the event: as a server that does not respond, or as local code that its scope can cancel.
    """

    def __init__(self, wait: Callable[[threading.Event], None]) -> None:
        self.point = ""
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._wait = wait

    def close_at(self, point: str) -> None:
        self.point = point
        self._opened.clear()

    def open(self) -> None:
        self.point = ""
        self._opened.set()

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.reached.set()
            self._wait(self._opened)
            raise Unavailable("the gate was opened")


def _wait_as_server(opened: threading.Event) -> None:
    opened.wait(LONGEST_WAIT)


def _wait_in_scope(opened: threading.Event) -> None:
    while not opened.is_set():
        sleep(LONGEST_WAIT)


class _Reader:
    def __init__(self, reader: ByteReader, gate: Gate) -> None:
        self._reader = reader
        self._gate = gate
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        if self._count:
            self._gate("blob")
        data = self._reader.read(min(size, CHUNK_SIZE) if size >= 0 else CHUNK_SIZE)
        self._count += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class _Blobs(BlobStore):
    def __init__(self, inner: BlobStore, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def stat(self, digest: Digest) -> int:
        self._gate("stat")
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        return _Reader(self._inner.open(digest, start=start), self._gate)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        self._gate("put blob")
        self._inner.put(digest, size, source)

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)


class _Manifests(ManifestStore):
    def __init__(self, inner: ManifestStore, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        self._gate("manifest")
        return self._inner.resolve(reference)

    def get(self, reference: Tag | Digest) -> RawManifest:
        self._gate("manifest")
        return self._inner.get(reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        self._gate("put manifest")
        return self._inner.put(manifest, tags=tags)

    def untag(self, tag: Tag) -> None:
        self._gate("untag")
        self._inner.untag(tag)

    def delete(self, digest: Digest) -> None:
        self._gate("delete")
        self._inner.delete(digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        for tag in self._inner.tags(after=after, page_size=page_size):
            yield tag
            self._gate("tags")

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        self._gate("referrers")
        return self._inner.referrers(subject, artifact_type=artifact_type)


class _Gated(Catalog):
    def __init__(self, inner: Catalog, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    @property
    def registry(self) -> str:
        return self._inner.registry

    def repository(self, name: str) -> Repository:
        found = self._inner.repository(name)
        return msgspec.structs.replace(
            found, blobs=_Blobs(found.blobs, self._gate), manifests=_Manifests(found.manifests, self._gate)
        )

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        for name in self._inner.repositories(after=after, page_size=page_size):
            yield name
            self._gate("repositories")

    def close(self) -> None:
        self._inner.close()


class Setup:
    """A backend that can block, a client of it, and the resources that must not remain."""

    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        self.gate = Gate(_wait_as_server if kind == "http" else _wait_in_scope)
        self.images = directory / "images"
        self._uploads = directory / "uploads"
        self.saved = directory / "saved"
        self.saved.mkdir()
        catalog: Catalog = LayoutCatalog(self.images) if kind == "layout" else MemoryCatalog()
        gated = _Gated(catalog, self.gate)
        if kind == "http":
            server = stack.enter_context(registry_server(gated, upload_directory=self._uploads))
            root = stack.enter_context(open_client(server.url))
            # Threads of the server must not wait for a failed test.
            stack.callback(self.gate.open)
        else:
            root = RegistryClient(gated)
        self.root = root
        self.client = root.with_segment("org", "app")
        self.empty = root.with_segment("org", "empty")
        self.local_gate = Gate(_wait_in_scope)
        self.local = RegistryClient(_Gated(MemoryCatalog("local.test"), self.local_gate), "here")
        for repository in (self.client.repository, self.local.repository):
            for part in (CONFIG, *LAYERS):
                put_blob(repository, part)
            repository.manifests.put(MANIFEST, tags=[Tag("v1"), Tag("v2")])
        self.empty.repository.manifests.put(image_manifest(_small(self.empty.repository)), tags=[Tag("old")])
        self.image: Image = self.client.get_image("v1")
        self._threads = set(threading.enumerate())

    def leftovers(self) -> list[str]:
        """Threads of the client, temporary files, and open uploads."""
        threads = [thread.name for thread in set(threading.enumerate()) - self._threads]
        hidden = [path for place in (self.images, self.saved) for path in place.rglob(".*")]
        uploads = [path for path in self._uploads.rglob("*") if path.is_file()]
        return threads + [str(path) for path in hidden + uploads if path.name != ".ociport.lock"]


def _small(repository: Repository) -> bytes:
    put_blob(repository, CONFIG)
    return CONFIG


@pytest.fixture(params=["memory", "layout", "http"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(request.param, tmp_path, stack)


def _read_layer(setup: Setup) -> bytes:
    return _read(setup.image.layers()[0])


def _read(layer: Layer) -> bytes:
    with layer.open() as reader:
        return b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))


# The operation, the point at which it blocks, and whether that is in the backend or in the local one.
OPERATIONS: dict[str, tuple[Callable[[Setup], object], str, str]] = {
    "get_image": (lambda setup: setup.client.get_image("v1"), "gate", "manifest"),
    "get_manifest": (lambda setup: setup.client.get_manifest(MANIFEST.digest), "gate", "manifest"),
    "get_digest": (lambda setup: setup.client.get_digest("v1"), "gate", "manifest"),
    "image_exists": (lambda setup: setup.client.image_exists("v1"), "gate", "manifest"),
    "reading a layer": (_read_layer, "gate", "blob"),
    "save_blob": (
        lambda setup: save_blob(setup.client.repository, MANIFEST.image.layers[0].digest, setup.saved / "layer"),
        "gate", "blob",
    ),
    "list_tags": (lambda setup: setup.client.list_tags(), "gate", "tags"),
    "list_repositories": (lambda setup: setup.root.list_repositories(), "gate", "repositories"),
    "tag_image": (lambda setup: setup.client.tag_image("v1", "v3"), "gate", "put manifest"),
    "delete_by_digest": (lambda setup: setup.client.delete_by_digest(MANIFEST.digest), "gate", "delete"),
    "delete_tag": (lambda setup: setup.client.delete_tag("v1"), "gate", "untag"),
    "push_image, storing a blob": (
        # One job: an upload that was begun without a response yet has no location, and cannot be cancelled.
        lambda setup: setup.empty.push_image("v1", setup.local.get_image("v1"), jobs=1), "gate", "put blob",
    ),
    "push_image, storing the manifest": (
        lambda setup: setup.empty.push_image("v1", setup.local.get_image("v1")), "gate", "put manifest",
    ),
    "push_image, looking for a blob": (
        lambda setup: setup.empty.push_image("v1", setup.local.get_image("v1")), "gate", "stat",
    ),
    "push_image, reading the source": (
        lambda setup: setup.empty.push_image("v1", setup.local.get_image("v1"), jobs=1), "local_gate", "blob",
    ),
    "copy_image to it": (
        lambda setup: setup.local.copy_image("v1", setup.empty, "v1", jobs=1), "local_gate", "blob",
    ),
    "copy_image from it": (
        lambda setup: setup.client.copy_image("v1", RegistryClient(MemoryCatalog("far.test"), "there"), "v1"),
        "gate", "blob",
    ),
    "copy_image from it, one by one": (
        lambda setup: setup.client.copy_image("v1", RegistryClient(MemoryCatalog("far.test"), "there"), "v1", jobs=1),
        "gate", "blob",
    ),
}  # fmt: skip


def _leftovers_after_wait(look: Callable[[], list[str]]) -> list[str]:
    """The leftovers, once a server that was unblocked has finished."""
    end = time.monotonic() + LONGEST_WAIT
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _cancelled(work: Callable[[], object], reached: threading.Event) -> float:
    """Cancel from another thread; return the seconds until the operation ended."""
    moment: list[float] = []
    with CancelScope() as scope:

        def cancel() -> None:
            reached.wait(LONGEST_WAIT)
            moment.append(time.monotonic())
            scope.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(Cancelled):
            work()
        taken = time.monotonic() - moment[0]
        canceller.join()
    return taken


def _late(work: Callable[[], object], reached: threading.Event) -> float:
    """The seconds from the deadline to the end of the operation."""
    start = time.monotonic()
    with fail_after(0.3), pytest.raises(DeadlineExceeded):
        work()
    assert reached.is_set()
    return time.monotonic() - start - 0.3


@pytest.mark.parametrize("end", [_cancelled, _late], ids=["cancelled", "out of time"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_blocked_operation_ends_with_its_scope(
    setup: Setup, operation: str, end: Callable[[Callable[[], object], threading.Event], float]
) -> None:
    """It ends promptly and leaves nothing behind; the client remains usable."""
    act, side, point = OPERATIONS[operation]
    gate = getattr(setup, side)
    gate.close_at(point)

    taken = end(lambda: act(setup), gate.reached)

    assert taken < PROMPT
    # The library has released everything; a server may need some time.
    gate.open()
    assert _leftovers_after_wait(setup.leftovers) == []
    act(setup)


@pytest.mark.parametrize("end", [_cancelled, _late], ids=["cancelled", "out of time"])
@pytest.mark.parametrize("act", ["push_image", "tag_image", "delete_tag", "delete_by_digest"])
def test_waiting_for_the_lock_of_a_layout_ends_with_the_scope(
    tmp_path: Path, act: str, end: Callable[[Callable[[], object], threading.Event], float]
) -> None:
    """R-313: another process may hold the lock for a long time."""
    from filelock import FileLock

    with ExitStack() as stack:
        setup = Setup("layout", tmp_path, stack)
        image = setup.local.get_image("v1")
        work: dict[str, Callable[[], object]] = {
            "push_image": lambda: setup.client.push_image("v4", image),
            "tag_image": lambda: setup.client.tag_image("v1", "v3"),
            "delete_tag": lambda: setup.client.delete_tag("v1"),
            "delete_by_digest": lambda: setup.client.delete_by_digest(MANIFEST.digest),
        }
        begun = threading.Event()

        def waiting() -> object:
            begun.set()
            return work[act]()

        with FileLock(setup.images / "org" / "app" / ".ociport.lock", thread_local=False):
            taken = _in_another_thread(lambda: end(waiting, begun))

        assert taken < PROMPT
        assert _leftovers_after_wait(setup.leftovers) == []
        work[act]()


def test_an_image_can_be_read_after_a_cancelled_read(setup: Setup) -> None:
    """Image and connections remain usable after several cancelled reads."""
    layer = setup.image.layers()[0]
    for _ in range(3):
        setup.gate.reached.clear()
        setup.gate.close_at("blob")

        _cancelled(lambda: _read(layer), setup.gate.reached)
        setup.gate.open()

        assert _read(layer) == LAYERS[0]
        with layer.open() as reader, pytest.raises(Cancelled), CancelScope() as scope:
            reader.read(1000)
            scope.cancel()
            reader.read(CHUNK_SIZE)

    assert setup.image.config().architecture == "amd64"
    assert _leftovers_after_wait(setup.leftovers) == []


def _in_another_thread(work: Callable[[], float]) -> float:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(LONGEST_WAIT)
    return found[0]
