"""Copying a large blob between any two backends takes little memory (R-060).

The blob has 256 MiB; with ``OCIPORT_FULL_TESTS=1`` it has 1 GiB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.scale import FULL

from registry_adapters import LayoutCatalog
from registry_core import Digest, RawManifest, RepositoryName, Tag
from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.testing.content import PatternSource

# A separate process, which grows by the memory of the copy alone.
SCRIPT = """
import resource, sys, threading
from pathlib import Path
from registry_adapters import LayoutCatalog, MemoryCatalog, open_catalog
from registry_core import RepositoryName, Tag, copy

def backend(url):
    return LayoutCatalog(url.removeprefix("oci:"), fsync=False) if url.startswith("oci:") else open_catalog(url)

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

source_url, target_url, images = sys.argv[1:]
source = backend(source_url).repository(RepositoryName("big"))
target = backend(target_url).repository(RepositoryName("copied/big"))
if source_url == "memory:":
    copy(LayoutCatalog(images).repository(RepositoryName("big")), source, Tag("v1"), tags=[Tag("v1")])
before, peak, done = rss(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, rss())

watcher = threading.Thread(target=watch)
watcher.start()
copied = copy(source, target, Tag("v1"), tags=[Tag("v1")])
done.set()
watcher.join()
assert copied.digest == source.manifests.resolve(Tag("v1")).digest
for part in source.manifests.get(Tag("v1")).children:
    assert target.blobs.stat(part.digest) == part.size
print(max(peak, rss()) - before)
"""

SERVER = """
import sys
from registry_adapters import LayoutCatalog
from registry_adapters.wsgi import registry_server
with registry_server(LayoutCatalog(sys.argv[1], fsync=False)) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""

SIZE = 1 << 30 if FULL else 256 << 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A layout directory with an image that has one large layer."""
    directory = tmp_path_factory.mktemp("images")
    repository = LayoutCatalog(directory, fsync=False).repository(RepositoryName("big"))
    layer = PatternSource(SIZE)
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    repository.blobs.put(layer.digest, SIZE, layer)
    repository.blobs.put(Digest.of(config), len(config), BytesSource(config))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(layer.digest), "size": SIZE}],
    }
    repository.manifests.put(RawManifest(OCI_MANIFEST, strict_json.encode(document)), tags=[Tag("v1")])
    yield directory
    shutil.rmtree(directory)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("target", ["layout", "http"])
@pytest.mark.parametrize("source", ["layout", "http", "memory"])
def test_copying_a_large_blob_takes_less_than_32_mebibytes(
    source: str, target: str, images: Path, tmp_path: Path
) -> None:
    with ExitStack() as servers:

        def url(kind: str, directory: Path) -> str:
            if kind == "memory":
                return "memory:"
            return servers.enter_context(_served(directory)) if kind == "http" else f"oci:{directory}"

        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, url(source, images), url(target, tmp_path / "target"), str(images)],
            capture_output=True,
            text=True,
            timeout=200,
        )
    shutil.rmtree(tmp_path / "target", ignore_errors=True)

    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 32 << 20


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("")
