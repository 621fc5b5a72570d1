"""A killed pull leaves a valid layout, and the next pull continues where it stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

import registry_core
from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import Digest, RawManifest, Repository, RepositoryName, Tag
from registry_core.testing.content import blob, image_manifest, put_blob

NAME = RepositoryName("org/app")
# The largest first: the order in which a single job copies them.
LAYERS = [blob("first", 4 << 20), blob("second", 3 << 20), blob("third", 2 << 20)]

_OPEN = """
import sys
import msgspec
from registry_adapters import LayoutCatalog, open_catalog
from registry_core import BlobStore, RepositoryName, Tag, copy

name = RepositoryName("org/app")
catalog = open_catalog(sys.argv[1])
source = catalog.repository(name)
target = LayoutCatalog(sys.argv[2]).repository(name)
"""

_BLOCKED_PULL = """
class BlockingReader:
    def __init__(self, reader):
        self.reader, self.chunks = reader, 0

    def read(self, size=-1, /):
        if self.chunks:
            print("blocked", flush=True)
            sys.stdin.read()
        self.chunks += 1
        return self.reader.read(size)

    def readinto(self, buffer, /):
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self):
        self.reader.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

class BlockingBlobs(BlobStore):
    opened = 0

    def stat(self, digest):
        return source.blobs.stat(digest)

    def open(self, digest, *, start=0):
        self.opened += 1
        reader = source.blobs.open(digest, start=start)
        return reader if self.opened != 2 else BlockingReader(reader)

    def put(self, digest, size, source):
        raise AssertionError("a source is read only")

    def delete(self, digest):
        raise AssertionError("a source is read only")

copy(msgspec.structs.replace(source, blobs=BlockingBlobs()), target, Tag("v1"), tags=[Tag("v1")], jobs=1)
"""

_PULL = """
class Printer:
    def on(self, event):
        print(type(event).__name__, event.size, getattr(event, "done", ""), flush=True)

print(copy(source, target, Tag("v1"), tags=[Tag("v1")], jobs=1, observer=Printer()).digest)
catalog.close()
"""


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = str(Path(registry_core.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))}
    return subprocess.Popen(
        [sys.executable, "-c", _OPEN + script, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _pushed(repository: Repository, layers: list[bytes] = LAYERS) -> RawManifest:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
        }
    ).encode()
    for part in (config, *layers):
        put_blob(repository, part)
    manifest = image_manifest(config, layers)
    repository.manifests.put(manifest, tags=[Tag("v1")])
    return manifest


def test_a_killed_pull_leaves_a_valid_layout_and_can_be_repeated(tmp_path: Path) -> None:
    """R-006, R-070, R-313."""
    origin = MemoryCatalog()
    manifest = _pushed(origin.repository(NAME))
    layout = tmp_path / NAME
    blobs = layout / "blobs" / "sha256"

    with registry_server(origin) as server:
        killed = _start(_BLOCKED_PULL, server.url, str(tmp_path))
        assert killed.stdout is not None
        assert killed.stdout.readline() == "blocked\n"
        killed.kill()
        killed.communicate(timeout=60)

        with open_client(f"oci:{tmp_path}") as between:
            assert between.list_repositories() == [NAME]
            assert between.with_segment("org", "app").list_tags() == []
            assert not between.with_segment("org", "app").image_exists("v1")
        assert json.loads((layout / "index.json").read_bytes())["manifests"] == []
        assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        stored = {path.name: path.read_bytes() for path in blobs.iterdir() if not path.name.startswith(".")}
        assert set(stored) == {Digest.of(LAYERS[0]).encoded}
        assert all(sha256(content).hexdigest() == name for name, content in stored.items())
        # The part of the second layer has the name of a temporary file.
        assert [path.stat().st_size for path in blobs.iterdir() if path.name.startswith(".")] == [1 << 20]

        again = _start(_PULL, server.url, str(tmp_path))
        output, _ = again.communicate(timeout=60)

    assert again.returncode == 0
    assert output.splitlines()[0].split() == ["BlobSkipped", str(len(LAYERS[0]))]
    # The stored part of the second layer is read from the disk.
    assert output.splitlines()[1].split() == ["BlobProgress", str(len(LAYERS[1])), str(1 << 20)]
    assert output.splitlines()[-1] == manifest.digest
    pulled = LayoutCatalog(tmp_path).repository(NAME)
    assert pulled.manifests.get(Tag("v1")) == manifest
    for layer in LAYERS:
        with pulled.blobs.open(Digest.of(layer)) as reader:
            assert reader.read() == layer


class ResponseThrottle:
    """A WSGI middleware that records how much of one blob is sent, and stalls after a number of bytes.

    Args:
        digest: Digest of the blob.
    """

    def __init__(self, digest: Digest) -> None:
        self.ranges: list[str] = []
        self.sent = 0
        self.allowed = 0
        self.stalled = threading.Event()
        self.resume = threading.Event()
        self._digest = digest

    def allow(self, count: int) -> None:
        """Send this number of bytes before the next stall."""
        self.allowed = self.sent + count
        self.stalled.clear()
        self.resume.clear()

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        def throttled(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            body = app(environ, start_response)
            if environ["REQUEST_METHOD"] != "GET" or not environ["PATH_INFO"].endswith(self._digest):
                return body
            self.ranges.append(environ.get("HTTP_RANGE", ""))
            return self._throttled(body)

        return throttled

    def _throttled(self, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for piece in body:
                for position in range(0, len(piece), 64 << 10):
                    if self.sent >= self.allowed:
                        self.stalled.set()
                        self.resume.wait(60)
                    data = piece[position : position + (64 << 10)]
                    self.sent += len(data)
                    yield data
        finally:
            if hasattr(body, "close"):
                body.close()


BIG = [blob("big", 48 << 20)]


@pytest.fixture(scope="module")
def origin() -> MemoryCatalog:
    catalog = MemoryCatalog()
    _pushed(catalog.repository(NAME), BIG)
    return catalog


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def _partial(layout: Path) -> int:
    return sum(path.stat().st_size for path in (layout / "blobs" / "sha256").glob(".ociport-*.partial"))


def test_a_pull_after_a_killed_one_continues_from_the_bytes_on_disk(tmp_path: Path, origin: MemoryCatalog) -> None:
    """R-006, R-051: another process downloads only the missing bytes."""
    digest, size = Digest.of(BIG[0]), len(BIG[0])
    layout = tmp_path / NAME
    throttle = ResponseThrottle(digest)
    throttle.allow(32 << 20)

    with registry_server(origin, wrap=throttle.wrap) as server:
        killed = _start(_PULL, server.url, str(tmp_path))
        assert killed.stdout is not None
        # The process reported half of the blob; the next chunk may not be written yet.
        assert any(line.startswith(f"BlobProgress {size} {16 << 20}") for line in killed.stdout)
        _kill(killed)
        left = _partial(layout)
        before = throttle.sent
        throttle.resume.set()
        throttle.allow(size)
        again = _start(_PULL, server.url, str(tmp_path))
        output, _ = again.communicate(timeout=60)

    assert again.returncode == 0
    assert 15 << 20 <= left <= 33 << 20
    assert throttle.ranges == ["", f"bytes={left}-"]
    assert before <= 33 << 20
    # The first response may have been stopped one chunk late.
    assert size - left <= throttle.sent - before <= size - left + (64 << 10)
    progress = [int(line.split()[2]) for line in output.splitlines() if line.startswith(f"BlobProgress {size} ")]
    assert progress[0] == left
    assert progress == sorted(progress)
    assert progress[-1] == size
    assert sorted(path.name for path in (layout / "blobs" / "sha256").glob(".*")) == []
    with LayoutCatalog(tmp_path).repository(NAME).blobs.open(digest) as reader:
        assert reader.read() == BIG[0]


def test_a_pull_that_is_killed_repeatedly_completes(tmp_path: Path, origin: MemoryCatalog, skopeo: str) -> None:
    """R-006, R-313: it may be killed at any point; other tools read the result."""
    digest, size = Digest.of(BIG[0]), len(BIG[0])
    layout = tmp_path / NAME
    throttle = ResponseThrottle(digest)
    chance = random.Random(7)
    sizes: list[int] = []

    with registry_server(origin, wrap=throttle.wrap) as server:
        for _ in range(5):
            throttle.allow(chance.randrange(1 << 20, 8 << 20))
            killed = _start(_PULL, server.url, str(tmp_path))
            assert throttle.stalled.wait(60)
            _kill(killed)
            throttle.resume.set()
            sizes.append(_partial(layout))
        throttle.allow(size)
        done = _start(_PULL, server.url, str(tmp_path))
        output, _ = done.communicate(timeout=60)

    assert done.returncode == 0
    assert sizes == sorted(sizes)
    assert throttle.ranges == ["", *(f"bytes={left}-" if left else "" for left in sizes)]
    assert sorted(path.name for path in (layout / "blobs" / "sha256").glob(".*")) == []
    inspected = subprocess.run(
        [skopeo, "inspect", f"oci:{layout}:v1"], check=True, capture_output=True, timeout=60
    ).stdout  # fmt: skip
    assert json.loads(inspected)["Digest"] == output.splitlines()[-1]
    subprocess.run(
        [skopeo, "--insecure-policy", "copy", f"oci:{layout}:v1", f"dir:{tmp_path / 'copied'}"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "copied" / digest.encoded).read_bytes() == BIG[0]


def test_many_processes_pull_the_same_image_at_once(tmp_path: Path, origin: MemoryCatalog) -> None:
    """R-313: one process continues the stored part, and none waits for another."""
    digest = Digest.of(BIG[0])
    throttle = ResponseThrottle(digest)
    throttle.allow(8 << 20)

    with registry_server(origin, wrap=throttle.wrap) as server:
        killed = _start(_PULL, server.url, str(tmp_path))
        assert throttle.stalled.wait(60)
        _kill(killed)
        throttle.resume.set()
        throttle.allow(4 * len(BIG[0]))
        pulls = [_start(_PULL, server.url, str(tmp_path)) for _ in range(3)]
        for pull in pulls:
            pull.communicate(timeout=100)

    assert [pull.returncode for pull in pulls] == [0, 0, 0]
    assert sorted(path.name for path in (tmp_path / NAME / "blobs" / "sha256").glob(".*")) == []
    with LayoutCatalog(tmp_path).repository(NAME).blobs.open(digest) as reader:
        assert reader.read() == BIG[0]
