"""A pull that is killed leaves a sound layout behind, and is simply done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import registry_core
from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import Digest, RawManifest, Repository, RepositoryName, Tag
from registry_core.testing.content import blob, image_manifest, put_blob

NAME = RepositoryName("org/app")
# From the largest on, which is the order in which a single job moves them.
LAYERS = [blob("first", 4 << 20), blob("second", 3 << 20), blob("third", 2 << 20)]

_PREFIX = """
import sys
import msgspec
from registry_adapters import LayoutCatalog, open_catalog
from registry_core import BlobStore, RepositoryName, Tag, copy

name = RepositoryName("org/app")
catalog = open_catalog(sys.argv[1])
source = catalog.repository(name)
target = LayoutCatalog(sys.argv[2]).repository(name)
"""

_STUCK = """
class StickyReader:
    def __init__(self, reader):
        self.reader, self.pieces = reader, 0

    def read(self, size=-1, /):
        if self.pieces:
            print("midway", flush=True)
            sys.stdin.read()
        self.pieces += 1
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

class StickyBlobs(BlobStore):
    opened = 0

    def stat(self, digest):
        return source.blobs.stat(digest)

    def open(self, digest, *, start=0):
        self.opened += 1
        reader = source.blobs.open(digest, start=start)
        return reader if self.opened != 2 else StickyReader(reader)

    def put(self, digest, size, source):
        raise AssertionError("a source is read only")

    def delete(self, digest):
        raise AssertionError("a source is read only")

copy(msgspec.structs.replace(source, blobs=StickyBlobs()), target, Tag("v1"), tags=[Tag("v1")], jobs=1)
"""

_WHOLE = """
class Moved:
    def on(self, event):
        print(type(event).__name__, event.size)

print(copy(source, target, Tag("v1"), tags=[Tag("v1")], jobs=1, observer=Moved()).digest)
catalog.close()
"""


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = str(Path(registry_core.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))}
    return subprocess.Popen(
        [sys.executable, "-c", _PREFIX + script, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _pushed(repository: Repository) -> RawManifest:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in LAYERS]},
        }
    ).encode()
    for part in (config, *LAYERS):
        put_blob(repository, part)
    manifest = image_manifest(config, LAYERS)
    repository.manifests.put(manifest, tags=[Tag("v1")])
    return manifest


def test_a_pull_that_is_killed_midway_leaves_a_sound_layout_and_can_be_done_again(tmp_path: Path) -> None:
    """R-006, R-070, R-313."""
    origin = MemoryCatalog()
    manifest = _pushed(origin.repository(NAME))
    layout = tmp_path / NAME
    shelf = layout / "blobs" / "sha256"

    with registry_server(origin) as server:
        killed = _start(_STUCK, server.url, str(tmp_path))
        assert killed.stdout is not None
        assert killed.stdout.readline() == "midway\n"
        killed.kill()
        killed.communicate(timeout=60)

        with open_client(f"oci:{tmp_path}") as between:
            assert between.list_repositories() == [NAME]
            assert between.with_segment("org", "app").list_tags() == []
            assert not between.with_segment("org", "app").image_exists("v1")
        assert json.loads((layout / "index.json").read_bytes())["manifests"] == []
        assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        stored = {path.name: path.read_bytes() for path in shelf.iterdir() if not path.name.startswith(".")}
        assert set(stored) == {Digest.of(LAYERS[0]).encoded}
        assert all(sha256(content).hexdigest() == name for name, content in stored.items())
        # What had come of the second layer lies under a name that nobody takes for a blob.
        assert [path.stat().st_size for path in shelf.iterdir() if path.name.startswith(".")] == [1 << 20]

        again = _start(_WHOLE, server.url, str(tmp_path))
        told, _ = again.communicate(timeout=60)

    assert again.returncode == 0
    assert told.splitlines()[0] == f"BlobSkipped {len(LAYERS[0])}"
    assert told.splitlines()[-1] == manifest.digest
    pulled = LayoutCatalog(tmp_path).repository(NAME)
    assert pulled.manifests.get(Tag("v1")) == manifest
    for layer in LAYERS:
        with pulled.blobs.open(Digest.of(layer)) as reader:
            assert reader.read() == layer
