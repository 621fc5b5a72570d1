"""Mirroring thousands of images takes no more memory than mirroring a few."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A separate process with a source that generates its images on request, each image different: the process grows by the
# memory of the mirror alone.
SCRIPT = """
import sys
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from registry_core import Digest, RawManifest, Repository, RepositoryName, Tag
from registry_core.content.streams import BytesSource
from registry_core.domain import strict_json
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ops.mirror.mirror import run_mirror
from registry_core.ops.mirror.mirror import MirrorRule
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Catalog
from registry_core.ports.manifest_store import ManifestStore

REPOSITORIES, TAGS = int(sys.argv[1]), int(sys.argv[2])
CONFIG = b'{"os":"linux","architecture":"amd64"}'
# The image that each digest belongs to, and the contents that were requested last: others are generated again.
LABELS, RECENT, LOCK = {}, OrderedDict(), Lock()


def generate(label):
    parts = [CONFIG, *(f"{label} {part} ".encode() * 200 for part in range(3)), b"base" * 1000]
    entries = [
        {"mediaType": OCI_LAYER if number else OCI_CONFIG, "digest": str(Digest.of(part)), "size": len(part)}
        for number, part in enumerate(parts)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    raw = RawManifest(OCI_MANIFEST, strict_json.encode(document))
    contents = dict(zip((raw.digest, *(entry["digest"] for entry in entries)), (raw, *parts)))
    with LOCK:
        LABELS.update(dict.fromkeys(contents, label))
        for digest, content in contents.items():
            RECENT[digest] = content
            RECENT.move_to_end(digest)
        while len(RECENT) > 500:
            RECENT.popitem(last=False)
    return raw, contents


def manifest(label):
    return generate(label)[0]


def content(digest):
    found = RECENT.get(digest)
    return generate(LABELS[digest])[1][digest] if found is None else found


class Blobs(BlobStore):
    def stat(self, digest):
        raise BlobNotFound("none")

    def open(self, digest, *, start=0):
        return BytesSource(content(digest)).open(start)

    def put(self, digest, size, source):
        with source.open() as reader:
            while reader.read(1 << 16):
                pass

    def delete(self, digest):
        raise BlobNotFound("none")

    def mount(self, digest, from_repository):
        return False


class Manifests(ManifestStore):
    def __init__(self, name, full):
        self.name, self.full = name, full

    def resolve(self, reference):
        if not self.full:
            raise ImageNotFound("none")
        return manifest(f"{self.name}:{reference}").descriptor

    def get(self, reference):
        return content(reference) if isinstance(reference, Digest) else manifest(f"{self.name}:{reference}")

    def put(self, manifest, *, tags=()):
        return manifest.descriptor

    def untag(self, tag): ...
    def delete(self, digest): ...

    def tags(self, *, after=None, page_size=None):
        return (Tag(f"v{number}") for number in range(TAGS))

    def referrers(self, subject, *, artifact_type=""):
        return iter(())


class GeneratedCatalog(Catalog):
    registry = ""

    def __init__(self, registry, full):
        self.registry, self.full = registry, full

    def repository(self, name):
        return Repository(name, Blobs(), Manifests(name, self.full), self.registry)

    def repositories(self, *, after=None, page_size=None):
        return (RepositoryName(f"app{number}") for number in range(REPOSITORIES))

    def close(self): ...


source, target = GeneratedCatalog("source.test", True), GeneratedCatalog("target.test", False)
report = run_mirror([MirrorRule(source=source, target=target, repositories=("*",))])
assert report.ok and len(report.results) >= REPOSITORIES * TAGS * 5, (len(report.results), str(report))
# getrusage would report at least the memory that the parent had at the fork.
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) >> 10)
"""


def _peak(repositories: int, tags: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(repositories), str(tags)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.parametrize(("few", "many"), [((20, 1), (2000, 1)), ((1, 20), (1, 2000))], ids=["repositories", "tags"])
def test_two_thousand_images_take_no_more_memory_than_twenty(few: tuple[int, int], many: tuple[int, int]) -> None:
    assert _peak(*many) - _peak(*few) <= 32
