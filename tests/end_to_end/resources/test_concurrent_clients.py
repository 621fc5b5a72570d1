"""64 threads share one client while one request in twenty fails (R-053, R-054, R-061).

Each thread does 20 operations; with ``OCIPORT_FULL_TESTS=1`` it does 200.
"""

from __future__ import annotations

import contextvars
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from tests.scale import FULL

from registry_adapters import MemoryCatalog
from registry_adapters.testing import FaultyRegistry, faults, faulty_registry
from registry_adapters.wsgi import TokenAuthorizer
from registry_core import Basic, Image, ImageBuilder, RegistryClient, RepositoryName, Tag, fail_after
from registry_core.ops.transfer.copy import copy

THREADS: Final = 64
OPERATIONS: Final = 200 if FULL else 20
CONNECTIONS: Final = 16
USER: Final = Basic("worker", "correct-horse")
FAULTS: Final = (
    faults.status(503).sometimes(0.01, seed=1),
    faults.status(500).sometimes(0.01, seed=2),
    faults.drop().sometimes(0.01, seed=3),
    faults.lost_response().on(path="^/v2/").sometimes(0.01, seed=4),
    faults.cut(100).sometimes(0.01, seed=5),
)


def _image(number: int) -> Image:
    content = random.Random(number).randbytes(3000)
    return ImageBuilder(platform="linux/amd64").add_files({"noise": content}).label("number", str(number)).build()


IMAGES: Final = tuple(_image(number) for number in range(8))


def _content(image: Image) -> bytes:
    (layer,) = image.layers()
    with layer.open() as reader:
        return reader.read()


LAYERS: Final = tuple(_content(image) for image in IMAGES)


class _Connections:
    """Count the connections that are open on the server's side at the same time; ``most`` is the maximum."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self.most = 0

    def _count(self) -> None:
        suffix = f":{self._port:04X}"
        while not self._stop.wait(0.05):
            lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
            # Local address and state: 01 is an established connection.
            count = sum(1 for line in lines if (part := line.split())[1].endswith(suffix) and part[3] == "01")
            self.most = max(self.most, count)

    def __enter__(self) -> _Connections:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Operations:
    """The operations of all threads, and how often each was done."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self.app = client.with_segment("app")
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, worker: int) -> None:
        chance = random.Random(worker)
        operations: tuple[Callable[[int, int], None], ...] = (
            self._digest, self._digest, self._pull, self._pull, self._config, self._tags, self._repositories,
            self._push, self._tag, self._absent,
        )  # fmt: skip
        for number in range(OPERATIONS):
            chosen = chance.choice(operations)
            chosen(chance.randrange(len(IMAGES)), worker * OPERATIONS + number)
            with self._lock:
                self.done[chosen.__name__] += 1

    def _digest(self, number: int, _: int) -> None:
        assert self.app.get_digest(f"v{number}") == IMAGES[number].digest

    def _pull(self, number: int, _: int) -> None:
        assert _content(self.app.get_image(f"v{number}", platform="linux/amd64")) == LAYERS[number]

    def _config(self, number: int, _: int) -> None:
        config = self.app.get_image_config(f"v{number}", platform="linux/amd64")
        assert config.config.labels == {"number": str(number)}

    def _tags(self, _: int, __: int) -> None:
        assert self.app.list_tags() == [f"v{number}" for number in range(len(IMAGES))]

    def _repositories(self, _: int, __: int) -> None:
        assert "app" in self._client.list_repositories(limit=3)

    def _push(self, number: int, operation: int) -> None:
        target = self._client.with_segment("pushed", f"by-{operation % THREADS}")
        assert target.push_image(f"t{operation}", IMAGES[number]).digest == IMAGES[number].digest

    def _tag(self, number: int, operation: int) -> None:
        tagged = self._client.with_segment("tagged").tag_image(f"v{number}", f"t{operation}")
        assert tagged.digest == IMAGES[number].digest

    def _absent(self, _: int, operation: int) -> None:
        assert not self.app.image_exists(f"absent-{operation}")


def _filled() -> MemoryCatalog:
    catalog = MemoryCatalog()
    for name in ("app", "tagged"):
        for number, image in enumerate(IMAGES):
            target = catalog.repository(RepositoryName(name))
            copy(image.repository, target, image.document, tags=[Tag(f"v{number}")])
    return catalog


def _check_written(registry: FaultyRegistry, operations: _Operations) -> None:
    tags = list(registry.catalog.repository(RepositoryName("tagged")).manifests.tags())
    assert len(tags) == len(IMAGES) + operations.done["_tag"]
    targets = [name for name in registry.catalog.repositories() if name.startswith("pushed/")]
    pushed = sum(len(list(registry.catalog.repository(name).manifests.tags())) for name in targets)
    assert pushed == operations.done["_push"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_concurrent_operations_give_right_results_and_leave_no_threads_or_files() -> None:
    threads_before = set(threading.enumerate())
    files_before = len(os.listdir("/proc/self/fd"))
    with faulty_registry(
        *FAULTS, catalog=_filled(), authorizer=TokenAuthorizer({USER.username: USER.password}), threads=2 * CONNECTIONS
    ) as registry:
        client = registry.client(auth=USER, retries=8, backoff=0.01, max_connections=CONNECTIONS)
        operations = _Operations(client)
        with _Connections(int(registry.host.rpartition(":")[2])) as connections, fail_after(500):
            with ThreadPoolExecutor(THREADS) as pool:
                context = contextvars.copy_context()
                jobs = [pool.submit(context.copy().run, operations.run, worker) for worker in range(THREADS)]
                for job in jobs:
                    job.result()
        client.close()

        assert operations.done.total() == THREADS * OPERATIONS
        # A thread that holds one connection may open a second, to copy from one repository to another.
        assert 1 < connections.most <= 2 * CONNECTIONS
        assert registry.request_log.count(fault="") > THREADS * OPERATIONS // 40
        _check_written(registry, operations)
    assert set(threading.enumerate()) <= threads_before
    assert len(os.listdir("/proc/self/fd")) <= files_before
