"""A mirror of thousands of images holds no more than one of a few."""

from __future__ import annotations

import subprocess
import sys

# A process of its own, with a source that is made up as it is asked for: what it grows by is the mirror's.
SCRIPT = """
import resource, sys
from pathlib import Path
from registry_core import Descriptor, Digest, RawManifest, Repository, RepositoryName, Tag
from registry_core.content.source import BytesSource
from registry_core.domain import wire
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ops.mirror.mirror import run_mirror
from registry_core.ops.mirror.rules import MirrorRule
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Catalog
from registry_core.ports.manifest_store import ManifestStore

COUNT = int(sys.argv[1])
CONFIG = b'{"os":"linux","architecture":"amd64"}'


def layer(name, part):
    return f"{name} {part} ".encode() * 200


def manifest(name):
    parts = [CONFIG, *(layer(name, part) for part in range(3)), b"base" * 1000]
    entries = [
        {"mediaType": OCI_LAYER if number else OCI_CONFIG, "digest": str(Digest.of(part)), "size": len(part)}
        for number, part in enumerate(parts)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    return RawManifest(OCI_MANIFEST, wire.encode(document)), parts


class Blobs(BlobStore):
    def __init__(self, name, full):
        self.name, self.full = name, full

    def stat(self, digest):
        raise BlobNotFound("none")

    def open(self, digest, *, start=0):
        for part in manifest(self.name)[1]:
            if Digest.of(part) == digest:
                return BytesSource(part).open(start)
        raise BlobNotFound("none")

    def put(self, digest, size, source):
        with source.open() as reader:
            while reader.read(1 << 16):
                pass

    def delete(self, digest):
        raise BlobNotFound("none")

    def mount(self, digest, origin):
        return False


class Manifests(ManifestStore):
    def __init__(self, name, full):
        self.name, self.full = name, full

    def resolve(self, reference):
        if not self.full:
            raise ImageNotFound("none")
        return manifest(self.name)[0].descriptor

    def get(self, reference):
        return manifest(self.name)[0]

    def put(self, manifest, *, tags=()):
        return manifest.descriptor

    def untag(self, tag): ...
    def delete(self, digest): ...

    def tags(self, *, after=None, page_size=None):
        return iter([Tag("v1")])

    def referrers(self, subject, *, artifact_type=""):
        return iter(())


class Made(Catalog):
    registry = ""

    def __init__(self, registry, full):
        self.registry, self.full = registry, full

    def repository(self, name):
        return Repository(name, Blobs(name, self.full), Manifests(name, self.full), self.registry)

    def repositories(self, *, after=None, page_size=None):
        return (RepositoryName(f"app{number}") for number in range(COUNT))

    def close(self): ...


source, target = Made("source.test", True), Made("target.test", False)
report = run_mirror([MirrorRule(source=source, target=target, repositories=("*",))])
assert report.ok and len(report.results) == COUNT * 7, (len(report.results), str(report))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def _peak(count: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(count)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_two_thousand_images_take_no_more_memory_than_twenty() -> None:
    few, many = _peak(20), _peak(2000)

    assert many - few <= 32
