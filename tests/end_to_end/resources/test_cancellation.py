"""Work that is cancelled or out of time ends at once, on every backend, and leaves nothing behind."""

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

# Work ends half a second after its scope; the rest is for machines that are busy.
PROMPT = 0.5 + 0.5
# Nothing here waits that long unless it is broken.
PATIENCE = 30.0
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYERS = [blob(f"layer {number}", CHUNK_SIZE + CHUNK_SIZE // 2) for number in range(3)]
MANIFEST = image_manifest(CONFIG, LAYERS)


class Gate:
    """Where work gets stuck, until the test opens it; then the work that was stuck fails.

    Args:
        wait: How to be stuck: as a peer that does not answer, or as local work that its scope reaches.
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
            raise Unavailable("the gate was opened, and whoever waited is gone")


def _as_a_peer(opened: threading.Event) -> None:
    opened.wait(PATIENCE)


def _as_local_work(opened: threading.Event) -> None:
    while not opened.is_set():
        sleep(PATIENCE)


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


class World:
    """A backend that can be made to hang, a client of it, and what must not be left behind."""

    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        self.gate = Gate(_as_a_peer if kind == "http" else _as_local_work)
        self.images = directory / "images"
        self._uploads = directory / "uploads"
        self.saved = directory / "saved"
        self.saved.mkdir()
        catalog: Catalog = LayoutCatalog(self.images) if kind == "layout" else MemoryCatalog()
        gated = _Gated(catalog, self.gate)
        if kind == "http":
            server = stack.enter_context(registry_server(gated, upload_directory=self._uploads))
            root = stack.enter_context(open_client(server.url))
            # The server's threads must not wait for a test that failed.
            stack.callback(self.gate.open)
        else:
            root = RegistryClient(gated)
        self.root = root
        self.client = root.with_segment("org", "app")
        self.empty = root.with_segment("org", "empty")
        self.local_gate = Gate(_as_local_work)
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
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(request.param, tmp_path, stack)


def _read_layer(world: World) -> bytes:
    return _read(world.image.layers()[0])


def _read(layer: Layer) -> bytes:
    with layer.open() as reader:
        return b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))


# What is done, where it gets stuck, and whether that is in the backend or in a local one at the other end.
OPERATIONS: dict[str, tuple[Callable[[World], object], str, str]] = {
    "get_image": (lambda world: world.client.get_image("v1"), "gate", "manifest"),
    "get_manifest": (lambda world: world.client.get_manifest(MANIFEST.digest), "gate", "manifest"),
    "get_digest": (lambda world: world.client.get_digest("v1"), "gate", "manifest"),
    "image_exists": (lambda world: world.client.image_exists("v1"), "gate", "manifest"),
    "reading a layer": (_read_layer, "gate", "blob"),
    "save_blob": (
        lambda world: save_blob(world.client.repository, MANIFEST.image.layers[0].digest, world.saved / "layer"),
        "gate", "blob",
    ),
    "list_tags": (lambda world: world.client.list_tags(), "gate", "tags"),
    "list_repositories": (lambda world: world.root.list_repositories(), "gate", "repositories"),
    "tag_image": (lambda world: world.client.tag_image("v1", "v3"), "gate", "put manifest"),
    "delete_by_digest": (lambda world: world.client.delete_by_digest(MANIFEST.digest), "gate", "delete"),
    "delete_tag": (lambda world: world.client.delete_tag("v1"), "gate", "untag"),
    "push_image, storing a blob": (
        # One at a time: of an upload whose beginning was not yet answered, nobody knows where to cancel it.
        lambda world: world.empty.push_image("v1", world.local.get_image("v1"), jobs=1), "gate", "put blob",
    ),
    "push_image, storing the manifest": (
        lambda world: world.empty.push_image("v1", world.local.get_image("v1")), "gate", "put manifest",
    ),
    "push_image, looking for a blob": (
        lambda world: world.empty.push_image("v1", world.local.get_image("v1")), "gate", "stat",
    ),
    "push_image, reading the source": (
        lambda world: world.empty.push_image("v1", world.local.get_image("v1"), jobs=1), "local_gate", "blob",
    ),
    "copy_image to it": (
        lambda world: world.local.copy_image("v1", world.empty, "v1", jobs=1), "local_gate", "blob",
    ),
    "copy_image from it": (
        lambda world: world.client.copy_image("v1", RegistryClient(MemoryCatalog("far.test"), "there"), "v1"),
        "gate", "blob",
    ),
    "copy_image from it, one by one": (
        lambda world: world.client.copy_image("v1", RegistryClient(MemoryCatalog("far.test"), "there"), "v1", jobs=1),
        "gate", "blob",
    ),
}  # fmt: skip


def _settled(look: Callable[[], list[str]]) -> list[str]:
    """What is there after whatever a peer, which was let go of just now, is still doing."""
    end = time.monotonic() + PATIENCE
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _cancelled(work: Callable[[], object], reached: threading.Event) -> float:
    """Seconds from the cancel, which comes from another thread, to the end of the work."""
    moment: list[float] = []
    with CancelScope() as scope:

        def cancel() -> None:
            reached.wait(PATIENCE)
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
    """Seconds from the deadline to the end of the work."""
    start = time.monotonic()
    with fail_after(0.3), pytest.raises(DeadlineExceeded):
        work()
    assert reached.is_set()
    return time.monotonic() - start - 0.3


@pytest.mark.parametrize("end", [_cancelled, _late], ids=["cancelled", "out of time"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_is_stuck_ends_with_its_scope(
    world: World, operation: str, end: Callable[[Callable[[], object], threading.Event], float]
) -> None:
    """Promptly, with nothing left, and the same client goes on."""
    act, side, point = OPERATIONS[operation]
    gate = getattr(world, side)
    gate.close_at(point)

    taken = end(lambda: act(world), gate.reached)

    assert taken < PROMPT
    # In the library nothing is left now; a peer may have to notice first.
    gate.open()
    assert _settled(world.leftovers) == []
    act(world)


@pytest.mark.parametrize("end", [_cancelled, _late], ids=["cancelled", "out of time"])
@pytest.mark.parametrize("act", ["push_image", "tag_image", "delete_tag", "delete_by_digest"])
def test_whoever_waits_for_the_lock_of_a_layout_ends_with_the_scope(
    tmp_path: Path, act: str, end: Callable[[Callable[[], object], threading.Event], float]
) -> None:
    """R-313: another process may hold it for long."""
    from filelock import FileLock

    with ExitStack() as stack:
        world = World("layout", tmp_path, stack)
        image = world.local.get_image("v1")
        work: dict[str, Callable[[], object]] = {
            "push_image": lambda: world.client.push_image("v4", image),
            "tag_image": lambda: world.client.tag_image("v1", "v3"),
            "delete_tag": lambda: world.client.delete_tag("v1"),
            "delete_by_digest": lambda: world.client.delete_by_digest(MANIFEST.digest),
        }
        begun = threading.Event()

        def waiting() -> object:
            begun.set()
            return work[act]()

        with FileLock(world.images / "org" / "app" / ".ociport.lock", thread_local=False):
            taken = _in_another_thread(lambda: end(waiting, begun))

        assert taken < PROMPT
        assert _settled(world.leftovers) == []
        work[act]()


def test_an_image_can_be_read_after_a_cancelled_read(world: World) -> None:
    """Neither the image nor the connections it is read by are spoilt, however often."""
    layer = world.image.layers()[0]
    for _ in range(3):
        world.gate.reached.clear()
        world.gate.close_at("blob")

        _cancelled(lambda: _read(layer), world.gate.reached)
        world.gate.open()

        assert _read(layer) == LAYERS[0]
        with layer.open() as reader, pytest.raises(Cancelled), CancelScope() as scope:
            reader.read(1000)
            scope.cancel()
            reader.read(CHUNK_SIZE)

    assert world.image.config().architecture == "amd64"
    assert _settled(world.leftovers) == []


def _in_another_thread(work: Callable[[], float]) -> float:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(PATIENCE)
    return found[0]
