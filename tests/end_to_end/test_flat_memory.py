"""Copying a blob of a gibibyte between any two backends keeps the process small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: what it grows by is the copy's, and nobody else's.
SCRIPT = """
import resource, sys, threading, time
from pathlib import Path
from registry_adapters import LayoutCatalog, MemoryCatalog, open_catalog
from registry_core import Digest, RawManifest, RepositoryName, Tag, copy
from registry_core.domain import wire
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.testing.content import PatternSource

source_url, target_url, size = sys.argv[1], sys.argv[2], int(sys.argv[3])

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

blob = PatternSource(size)
config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
manifest = RawManifest(OCI_MANIFEST, wire.encode({
    "schemaVersion": 2, "mediaType": OCI_MANIFEST,
    "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
    "layers": [{"mediaType": OCI_LAYER, "digest": str(blob.digest), "size": size}],
}))

from registry_core.content.source import BytesSource
source = open_catalog(source_url).repository(RepositoryName("big"))
target = open_catalog(target_url).repository(RepositoryName("copied/big"))
source.blobs.put(blob.digest, size, blob)
source.blobs.put(Digest.of(config), len(config), BytesSource(config))
source.manifests.put(manifest, tags=[Tag("v1")])

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
assert copied.digest == manifest.digest
assert target.blobs.stat(blob.digest) == size
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

SIZE = 1 << 30


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("layout", "layout"),
        ("layout", "http"),
        ("http", "layout"),
        ("http", "http"),
        ("memory", "layout"),
        ("memory", "http"),
    ],
)
def test_a_gibibyte_grows_the_process_by_less_than_32_mebibytes(source: str, target: str, tmp_path: Path) -> None:
    """R-060."""
    servers = []

    def url(kind: str, name: str) -> str:
        if kind == "layout":
            return f"oci:{tmp_path / name}"
        if kind == "memory":
            return "memory:"
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path / name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
        )  # fmt: skip
        servers.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    try:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, url(source, "source"), url(target, "target"), str(SIZE)],
            capture_output=True, text=True, timeout=200, env=dict(os.environ),
        )  # fmt: skip
    finally:
        for process in servers:
            process.communicate("")
        subprocess.run(["rm", "-rf", str(tmp_path / "source"), str(tmp_path / "target")], check=True)

    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 32 << 20
