"""Repositories, and small graphs to put into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.content.source import BytesSource
from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from registry_core.domain.names import RepositoryName
from registry_core.ports.repository import Repository


class Graphs:
    """Puts manifests into a repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.repository.blobs.put(digest, len(content), BytesSource(content))
        return digest

    def entry(self, media_type: str, content: bytes, **more: object) -> dict[str, object]:
        return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content), **more}

    def image(
        self,
        *content: bytes,
        config: bytes = b'{"os":"linux","architecture":"amd64"}',
        overrides: dict[str, object] | None = None,
        **more: object,
    ) -> RawManifest:
        for each in (config, *content):
            self.blob(each)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.entry(OCI_CONFIG, config),
            "layers": [self.entry(OCI_LAYER, layer) for layer in content],
            **more,
            **(overrides or {}),
        }
        return self.store(RawManifest(OCI_MANIFEST, wire.encode(document)))

    def index(
        self, *children: RawManifest, platforms: Sequence[dict[str, str] | None] = (), **more: object
    ) -> RawManifest:
        entries: list[dict[str, object]] = []
        for position, child in enumerate(children):
            entry = self.entry(child.media_type, child.content)
            if position < len(platforms) and platforms[position] is not None:
                entry["platform"] = platforms[position]
            entries.append(entry)
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}
        return self.store(RawManifest(OCI_INDEX, wire.encode(document)))

    def store(self, raw: RawManifest) -> RawManifest:
        self.repository.manifests.put(raw)
        return raw

    def descriptors(self, raw: RawManifest) -> list[Descriptor]:
        return list(raw.children)


@pytest.fixture
def source() -> Repository:
    return MemoryCatalog("source.test").repository(RepositoryName("org/app"))


@pytest.fixture
def target() -> Repository:
    return MemoryCatalog("target.test").repository(RepositoryName("org/copy"))


@pytest.fixture
def graphs(source: Repository) -> Graphs:
    return Graphs(source)


@pytest.fixture
def graphs_of() -> Callable[[Repository], Graphs]:
    return Graphs
