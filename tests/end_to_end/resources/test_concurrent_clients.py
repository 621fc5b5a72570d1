"""Many threads share one client while a part of all requests goes wrong."""

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

from registry_adapters import MemoryCatalog
from registry_adapters.testing import FaultyRegistry, faulty_registry
from registry_adapters.testing import faults as go_wrong
from registry_adapters.wsgi import TokenAuthorizer
from registry_core import Basic, Image, ImageBuilder, RegistryClient, RepositoryName, Tag, fail_after
from registry_core.ops.transfer.copy import copy

THREADS: Final = 64
TURNS: Final = 200
CONNECTIONS: Final = 16
USER: Final = Basic("worker", "correct-horse")
# One request in twenty fails, in one way or another.
TROUBLE: Final = (
    go_wrong.status(503).sometimes(0.01, seed=1),
    go_wrong.status(500).sometimes(0.01, seed=2),
    go_wrong.drop().sometimes(0.01, seed=3),
    go_wrong.lost_answer().on(path="^/v2/").sometimes(0.01, seed=4),
    go_wrong.cut(100).sometimes(0.01, seed=5),
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
    """How many connections are open at most, as a server counts them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most = 0

    def _watch(self) -> None:
        wanted = f":{self._port:04X}"
        while not self._stop.wait(0.05):
            lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
            # The server's ends, established.
            count = sum(1 for line in lines if (part := line.split())[1].endswith(wanted) and part[3] == "01")
            self.most = max(self.most, count)

    def __enter__(self) -> _Connections:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Crowd:
    """What one thread does, again and again."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self.app = client.with_segment("app")
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()

    def work(self, worker: int) -> None:
        luck = random.Random(worker)
        turns: tuple[Callable[[int, int], None], ...] = (
            self._digest, self._digest, self._pull, self._pull, self._config, self._tags, self._repositories,
            self._push, self._tag, self._absent,
        )  # fmt: skip
        for turn in range(TURNS):
            chosen = luck.choice(turns)
            chosen(luck.randrange(len(IMAGES)), worker * TURNS + turn)
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

    def _push(self, number: int, turn: int) -> None:
        place = self._client.with_segment("pushed", f"by-{turn % THREADS}")
        assert place.push_image(f"t{turn}", IMAGES[number]).digest == IMAGES[number].digest

    def _tag(self, number: int, turn: int) -> None:
        assert self._client.with_segment("tagged").tag_image(f"v{number}", f"t{turn}").digest == IMAGES[number].digest

    def _absent(self, _: int, turn: int) -> None:
        assert not self.app.image_exists(f"absent-{turn}")


def _filled() -> MemoryCatalog:
    catalog = MemoryCatalog()
    for name in ("app", "tagged"):
        for number, image in enumerate(IMAGES):
            target = catalog.repository(RepositoryName(name))
            copy(image.repository, target, image.document, tags=[Tag(f"v{number}")])
    return catalog


def _check_written(registry: FaultyRegistry, crowd: _Crowd) -> None:
    tags = list(registry.catalog.repository(RepositoryName("tagged")).manifests.tags())
    assert len(tags) == len(IMAGES) + crowd.done["_tag"]
    pushed = 0
    for number in range(THREADS):
        repository = registry.catalog.repository(RepositoryName(f"pushed/by-{number}"))
        pushed += len(list(repository.manifests.tags()))
    assert pushed == crowd.done["_push"]


@pytest.mark.timeout(600)
def test_a_crowd_of_threads_gets_nothing_wrong_and_leaves_nothing_behind() -> None:
    """R-053, R-054, R-061: 64 threads, 200 operations each, one failing request in twenty."""
    threads_before = set(threading.enumerate())
    files_before = len(os.listdir("/proc/self/fd"))
    with faulty_registry(
        *TROUBLE, catalog=_filled(), authorizer=TokenAuthorizer({USER.username: USER.password}), threads=2 * CONNECTIONS
    ) as registry:
        client = registry.client(auth=USER, retries=8, backoff=0.01, max_connections=CONNECTIONS)
        crowd = _Crowd(client)
        with _Connections(int(registry.host.rpartition(":")[2])) as connections, fail_after(500):
            with ThreadPoolExecutor(THREADS) as pool:
                context = contextvars.copy_context()
                jobs = [pool.submit(context.copy().run, crowd.work, worker) for worker in range(THREADS)]
                for job in jobs:
                    job.result()
        client.close()

        assert crowd.done.total() == THREADS * TURNS
        # Whoever has one connection may open a second, to read from one place what it writes to another.
        assert 1 < connections.most <= 2 * CONNECTIONS
        assert registry.journal.count(fault="") > THREADS * TURNS // 40
        _check_written(registry, crowd)
    assert set(threading.enumerate()) <= threads_before
    assert len(os.listdir("/proc/self/fd")) <= files_before
