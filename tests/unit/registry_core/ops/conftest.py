"""Repositories, small graphs of manifests, and repositories that record their calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.content.streams import ByteReader, ByteSource, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Repository
from registry_core.ports.manifest_store import ManifestStore


class Graphs:
    """Store images and indexes in a repository."""

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
        return self.store(RawManifest(OCI_MANIFEST, strict_json.encode(document)))

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
        return self.store(RawManifest(OCI_INDEX, strict_json.encode(document)))

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


class RecordedRepository:
    """A repository that records the calls of its stores, and runs a hook before each."""

    def __init__(self, repository: Repository) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda call, argument: None
        self.repository = msgspec.structs.replace(
            repository, blobs=_Blobs(repository.blobs, self), manifests=_Manifests(repository.manifests, self)
        )

    def note(self, call: str, argument: str) -> None:
        self.calls.append((call, str(argument)))
        self.before(call, str(argument))

    def count(self, call: str, argument: str | None = None) -> int:
        return sum(
            1 for name, recorded_argument in self.calls if name == call and argument in (None, recorded_argument)
        )

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [call for call in self.calls if call[0] in ("put blob", "put manifest", "mount", "untag", "delete")]


class _Blobs(BlobStore):
    def __init__(self, inner: BlobStore, recorded: RecordedRepository) -> None:
        self._inner = inner
        self._recorded = recorded

    def stat(self, digest: Digest) -> int:
        self._recorded.note("stat", digest)
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        self._recorded.note("open", digest)
        return self._inner.open(digest, start=start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        self._recorded.note("put blob", digest)
        self._inner.put(digest, size, source)

    def delete(self, digest: Digest) -> None:
        self._recorded.note("delete", digest)
        self._inner.delete(digest)

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        self._recorded.note("mount", digest)
        return self._inner.mount(digest, from_repository)


class _Manifests(ManifestStore):
    def __init__(self, inner: ManifestStore, recorded: RecordedRepository) -> None:
        self._inner = inner
        self._recorded = recorded

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        self._recorded.note("resolve", reference)
        return self._inner.resolve(reference)

    def get(self, reference: Tag | Digest) -> RawManifest:
        self._recorded.note("get", reference)
        return self._inner.get(reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        self._recorded.note("put manifest", manifest.digest)
        return self._inner.put(manifest, tags=tags)

    def untag(self, tag: Tag) -> None:
        self._recorded.note("untag", tag)
        self._inner.untag(tag)

    def delete(self, digest: Digest) -> None:
        self._recorded.note("delete", digest)
        self._inner.delete(digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        self._recorded.note("tags", "")
        return self._inner.tags(after=after, page_size=page_size)

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        self._recorded.note("referrers", subject)
        return self._inner.referrers(subject, artifact_type=artifact_type)


@pytest.fixture
def record_calls() -> type[RecordedRepository]:
    return RecordedRepository
