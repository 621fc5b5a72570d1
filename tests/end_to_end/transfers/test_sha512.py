"""Content with sha512 digests, alone and mixed with sha256, through every backend and operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_catalog, open_client
from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_adapters.layout.directory import Root
from registry_adapters.layout.garbage import prune_layout
from registry_adapters.layout.layout import Layout
from registry_adapters.testing import faulty_registry
from registry_adapters.testing.faults import cut, cut_request
from registry_adapters.wsgi import registry_server
from registry_core import (
    Catalog,
    Descriptor,
    Digest,
    Image,
    ImageBuilder,
    Index,
    Platform,
    RawManifest,
    RegistryClient,
    Repository,
    RepositoryName,
    Tag,
    copy,
    open_blob,
    push_blob,
    save_blob,
)
from registry_core.content.streams import ByteReader, BytesSource, CallableSource
from registry_core.domain import strict_json
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER_GZIP, EMPTY_JSON, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from registry_core.domain.reports import PruneReport
from registry_core.errors import DigestMismatch, ImageNotFound, Unavailable, Unsupported
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.artifacts.referrers import list_referrers
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.staged import staged_repository
from registry_core.ops.mirror.mirror import MirrorRule, run_mirror
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ops.validation.validate import validate
from registry_core.ports.observer import BlobMounted, Event, Observer
from registry_core.testing.content import blob
from registry_core.testing.faults import raising

NAME: Final = RepositoryName("org/app")
BACKENDS: Final = ("memory", "layout", "docker-archive", "oci-archive", "http")
WITH_REFERRERS: Final = CopyOptions(referrers=True, digest_tags=True)


def _built(platform: str) -> Image:
    return ImageBuilder(platform).add_files({"etc/platform": platform}).add_files({"srv/data": b"data" * 5000}).build()


def _renamed(image: Image, target: Repository, *, parts: str, manifest: str, diff_ids: str) -> RawManifest:
    """The same image with digests of other algorithms."""

    def put(content: bytes, entry: dict[str, Any]) -> dict[str, Any]:
        digest = Digest.of(content, parts)
        descriptor = push_blob(target, content, algorithm=parts)
        assert descriptor.digest == digest
        return entry | {"digest": str(digest)}

    document, config = dict(image.document.mapping), dict(strict_json.decode(image.config().raw))
    tars = [layer.open_uncompressed().read() for layer in image.layers()]
    config["rootfs"] = config["rootfs"] | {"diff_ids": [str(Digest.of(tar, diff_ids)) for tar in tars]}
    content = strict_json.encode(config)
    document["config"] = put(content, document["config"] | {"size": len(content)})
    document["layers"] = [
        put(layer.open().read(), entry) for layer, entry in zip(image.layers(), document["layers"], strict=True)
    ]
    raw = RawManifest(OCI_MANIFEST, strict_json.encode(document), manifest)
    target.manifests.put(raw)
    return raw


@pytest.fixture(scope="module")
def samples() -> Repository:
    """An index of images with different combinations of algorithms, and their referrers."""
    samples = staged_repository()
    images = [
        _renamed(_built("linux/amd64"), samples, parts="sha512", manifest="sha512", diff_ids="sha512"),
        _renamed(_built("linux/arm64"), samples, parts="sha512", manifest="sha256", diff_ids="sha256"),
        _renamed(_built("linux/s390x"), samples, parts="sha256", manifest="sha512", diff_ids="sha256"),
    ]
    for raw, tag in zip(images, ("all-sha512", "sha512-parts", "sha512-manifest"), strict=True):
        samples.manifests.put(raw, tags=[Tag(tag)])
    entries = [
        _entry(raw.descriptor) | {"platform": {"os": "linux", "architecture": architecture}}
        for raw, architecture in zip(images, ("amd64", "arm64", "s390x"), strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    for algorithm in ("sha256", "sha512"):
        raw = RawManifest(OCI_INDEX, strict_json.encode(document | {"annotations": {"by": algorithm}}), algorithm)
        samples.manifests.put(raw, tags=[Tag(f"index-{algorithm}")])
    for subject in ("all-sha512", "sha512-parts", "index-sha512"):
        push_artifact(
            samples, [ArtifactFile(subject.encode(), title="sbom")], artifact_type="application/vnd.example.sbom",
            subject=Tag(subject),
        )  # fmt: skip
    signature = RawManifest(
        OCI_MANIFEST,
        strict_json.encode(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": "application/vnd.example.signature",
                "config": _entry(push_blob(samples, b"{}", media_type=EMPTY_JSON)),
                "layers": [_entry(push_blob(samples, b"signature", algorithm="sha512"))],
                "subject": _entry(samples.manifests.resolve(Tag("all-sha512"))),
            }
        ),
        "sha512",
    )
    samples.manifests.put(signature)
    return samples


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


@contextmanager
def _opened(kind: str, directory: Path) -> Iterator[Callable[[], Catalog]]:
    """An empty backend of some kind; each call opens it again, after closing it."""
    catalogs: list[Catalog] = []

    def archive(form: ArchiveForm) -> Catalog:
        return ArchiveCatalog(directory / "images.tar", form, fsync=False)

    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if kind == "memory":
            memory = MemoryCatalog()
            make: Callable[[], Catalog] = lambda: memory  # noqa: E731
        elif kind == "layout":
            make = lambda: LayoutCatalog(directory, fsync=False)  # noqa: E731
        elif kind == "http":
            server = stack.enter_context(registry_server(MemoryCatalog()))
            make = lambda: open_catalog(server.url)  # noqa: E731
        else:
            make = lambda: archive(ArchiveForm(kind))  # noqa: E731

        def again() -> Catalog:
            for catalog in catalogs:
                catalog.close()
            catalogs.append(make())
            return catalogs[-1]

        yield again
        for catalog in catalogs:
            catalog.close()


def _filled(samples: Repository, opened: Callable[[], Catalog]) -> Repository:
    """Copy the samples to a backend."""
    target = opened().repository(NAME)
    _copied(samples, target)
    return opened().repository(NAME)


def _copied(source: Repository, target: Repository) -> None:
    for tag in source.manifests.tags():
        copy(source, target, tag, tags=[tag], options=WITH_REFERRERS)


@pytest.fixture(params=BACKENDS)
def repository(request: pytest.FixtureRequest, samples: Repository, tmp_path: Path) -> Iterator[Repository]:
    """The samples in each backend."""
    with _opened(request.param, tmp_path / "backend") as opened:
        yield _filled(samples, opened)


@pytest.mark.parametrize(("source", "target"), list(product(BACKENDS, BACKENDS)))
def test_everything_is_copied_between_any_two_backends(
    samples: Repository, source: str, target: str, tmp_path: Path
) -> None:
    """R-002, R-003, R-026: digests of each algorithm are kept, and their content is verified."""
    with _opened(source, tmp_path / "source") as first, _opened(target, tmp_path / "target") as second:
        origin = _filled(samples, first)

        _copied(origin, second().repository(NAME))

        found = second().repository(NAME)
        assert list(found.manifests.tags()) == list(samples.manifests.tags())
        for tag in samples.manifests.tags():
            wanted = samples.manifests.resolve(tag).digest
            assert found.manifests.resolve(wanted).digest == wanted
            assert found.manifests.get(tag).content == samples.manifests.get(tag).content
            assert _referrers(found, wanted) == _referrers(samples, wanted)
            report = validate(found, wanted, referrers=True)
            assert report.findings == (), str(report)


def _referrers(repository: Repository, subject: Digest) -> set[tuple[str, str]]:
    return {(entry.digest, entry.artifact_type) for entry in list_referrers(repository, subject)}


def test_an_image_is_extracted(repository: Repository, tmp_path: Path) -> None:
    image = Image(repository, repository.manifests.get(Tag("all-sha512")))

    image.extract_to(tmp_path / "tree")

    assert (tmp_path / "tree/etc/platform").read_text() == "linux/amd64"
    with image.open_file("srv/data") as file:
        assert file.read() == b"data" * 5000


def test_an_image_is_selected_by_platform_from_an_index_of_both_algorithms(repository: Repository) -> None:
    index = Index(repository, repository.manifests.get(Tag("index-sha512")))

    chosen = {index.image(f"linux/{each}").manifest().config.digest.algorithm for each in ("amd64", "s390x")}

    assert chosen == {"sha512", "sha256"}


def test_single_blobs_are_read_and_saved(repository: Repository, tmp_path: Path) -> None:
    layer = repository.manifests.get(Tag("all-sha512")).children[-1]

    save_blob(repository, layer.digest, tmp_path / "layer", size=layer.size)

    with open_blob(repository, layer.digest, layer.size) as reader:
        assert reader.read() == (tmp_path / "layer").read_bytes()
    assert Digest.of((tmp_path / "layer").read_bytes(), "sha512") == layer.digest


def test_an_edited_image_keeps_its_algorithm(repository: Repository) -> None:
    image = Image(repository, repository.manifests.get(Tag("all-sha512")))

    edited = ImageEditor(image).label("a", "b").build()

    assert edited.digest.algorithm == "sha512"
    assert {layer.digest for layer in edited.layers()} == {layer.digest for layer in image.layers()}
    assert edited.validate().findings == ()


def test_an_image_is_built_on_a_base_with_sha512(repository: Repository) -> None:
    base = Image(repository, repository.manifests.get(Tag("all-sha512")))

    image = ImageBuilder(base=base).add_files({"app": b"app"}).build()

    assert [layer.digest.algorithm for layer in image.layers()] == ["sha512", "sha512", "sha256"]
    assert image.validate().findings == ()


def test_a_mirror_copies_everything(samples: Repository, tmp_path: Path) -> None:
    target = LayoutCatalog(tmp_path / "mirror", fsync=False)
    with _opened("http", tmp_path) as opened:
        _filled(samples, opened)

        run_mirror([MirrorRule(source=opened(), target=target, repositories=("org/*",), options=WITH_REFERRERS)])

    report = target.check(NAME)
    assert report.findings == (), str(report)
    assert list(target.repository(NAME).manifests.tags()) == list(samples.manifests.tags())


def test_a_prune_removes_unreferenced_blobs_only(samples: Repository, tmp_path: Path) -> None:
    catalog = LayoutCatalog(tmp_path, fsync=False)
    repository = catalog.repository(NAME)
    _copied(samples, repository)
    orphans = {push_blob(repository, b"orphan", algorithm=each).digest for each in ("sha256", "sha512")}
    repository.manifests.untag(Tag("index-sha512"))
    index = samples.manifests.resolve(Tag("index-sha512")).digest
    about = {digest for digest, _ in _referrers(samples, index)}

    report = _collected(tmp_path)

    assert orphans | {index} | about <= set(report.blobs)
    assert set(report.untagged) == {index} | about
    assert catalog.check(NAME).findings == ()
    for tag in (Tag("all-sha512"), Tag("sha512-parts"), Tag("sha512-manifest"), Tag("index-sha256")):
        assert _referrers(repository, samples.manifests.resolve(tag).digest) == _referrers(
            samples, samples.manifests.resolve(tag).digest
        )


def _collected(root: Path) -> PruneReport:
    """Collect garbage with a clock that is ahead."""
    return prune_layout(Layout(Root(root, fsync=False), NAME), untagged=True, clock=lambda: time.time() + 7200)


@pytest.mark.parametrize("backend", BACKENDS)
def test_between_repositories_of_one_backend_blobs_are_mounted(
    samples: Repository, backend: str, tmp_path: Path
) -> None:
    seen: list[Event] = []

    class Events(Observer):
        def on(self, event: Event) -> None:
            seen.append(event)

    with _opened(backend, tmp_path) as opened:
        catalog = opened()
        first, second = catalog.repository(NAME), catalog.repository(RepositoryName("org/other"))
        copy(samples, first, Tag("all-sha512"), tags=[Tag("v1")])
        copy(first, second, Tag("v1"), tags=[Tag("v1")], observer=Events())

        found = second.manifests.get(Tag("v1"))
    assert {event.digest for event in seen if isinstance(event, BlobMounted)} == {
        part.digest for part in found.children
    }


def test_a_download_continues_where_it_was_cut(tmp_path: Path) -> None:
    """R-051: the hash continues, too."""
    content = blob("cut", 300_000)
    with faulty_registry() as registry:
        client = registry.client().with_segment("org", "app")
        digest = push_blob(client.repository, content, algorithm="sha512").digest
        registry.inject(cut(100_000).on("blob").times(1))

        save_blob(client.repository, digest, tmp_path / "blob", size=len(content))

        assert [entry.header("Range") for entry in registry.request_log if entry.header("Range")] == ["bytes=100000-"]
    assert (tmp_path / "blob").read_bytes() == content


def test_an_upload_in_chunks_continues_where_it_was_cut() -> None:
    """R-233, R-074."""
    content = blob("chunks", 300_000)
    with faulty_registry(cut_request(1_000).on("upload").times(1)) as registry:
        repository = registry.client(chunk_size=64 << 10).with_segment("org", "app").repository

        digest = push_blob(repository, content, algorithm="sha512").digest

        opened = [entry for entry in registry.request_log if entry.method == "POST"]
        assert [entry.parameter("digest-algorithm") for entry in opened] == ["sha512"] * len(opened)
        with open_blob(repository, digest, len(content)) as reader:
            assert reader.read() == content


def test_the_stored_part_of_a_blob_is_not_downloaded_again(tmp_path: Path) -> None:
    """R-006, R-309: the stored part is hashed again, by the algorithm of the digest."""
    content = blob("resumed", 3 << 20)
    digest = Digest.of(content, "sha512")
    repository = LayoutCatalog(tmp_path, fsync=False).repository(NAME)
    starts: list[int] = []

    def opened(start: int) -> ByteReader:
        starts.append(start)
        return BytesSource(content).open(start)

    with pytest.raises(Unavailable):
        repository.blobs.put(digest, len(content), raising(content, Unavailable("gone")))
    repository.blobs.put(digest, len(content), CallableSource(opened))

    assert starts == [len(content) // 2]
    assert (tmp_path / NAME / "blobs" / "sha512" / digest.encoded).read_bytes() == content
    with pytest.raises(DigestMismatch):
        repository.blobs.put(Digest.of(content + b"!", "sha512"), len(content), BytesSource(content))


class TestRegistryWithSha256Only:
    def test_refuses_sha512_manifests(self, docker_registry: str, samples: Repository) -> None:
        """Distribution 2.8 hashes a manifest by sha256, and finds a digest that differs from the requested one."""
        with open_client(docker_registry) as client:
            repository = client.with_segment("sha512", "manifests").repository

            with pytest.raises(Unsupported, match="does not store manifests under sha512 digests") as caught:
                copy(samples, repository, Tag("all-sha512"), tags=[Tag("v1")])

            assert caught.value.transport is not None
            assert caught.value.transport.status == 400
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(Tag("v1"))

    def test_accepts_sha512_layers_of_a_sha256_manifest(self, docker_registry: str, samples: Repository) -> None:
        with open_client(docker_registry) as client:
            repository = client.with_segment("sha512", "parts").repository

            copied = copy(samples, repository, Tag("sha512-parts"), tags=[Tag("v1")])

            report = validate(repository, "v1")
        assert copied.digest.algorithm == "sha256"
        assert report.findings == (), str(report)


UNKNOWN: Final = Digest("blake3:" + "a" * 64)


def _with_unknown_algorithm(known: RawManifest) -> dict[str, dict[str, Any]]:
    """Manifests that name content by an unknown algorithm."""
    unknown = {"mediaType": OCI_MANIFEST, "digest": str(UNKNOWN), "size": 5}
    layers = known.mapping["layers"]
    entries = [
        _entry(known.descriptor) | {"platform": {"os": "linux", "architecture": "arm64"}},
        unknown | {"platform": {"os": "linux", "architecture": "amd64"}},
    ]
    return {
        "layer": dict(known.mapping) | {"layers": [*layers, unknown | {"mediaType": OCI_LAYER}]},
        "foreign": dict(known.mapping) | {"layers": [*layers, unknown | {"mediaType": DOCKER_FOREIGN_LAYER_GZIP}]},
        "subject": dict(known.mapping) | {"subject": unknown},
        "index": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries},
    }


class TestUnknownAlgorithms:
    """R-002, R-311."""

    # Docker could not load the images, so that an archive for it is refused as a whole.
    @pytest.fixture(params=[backend for backend in BACKENDS if backend != "docker-archive"])
    def repository(self, request: pytest.FixtureRequest, samples: Repository, tmp_path: Path) -> Iterator[Repository]:
        """Manifests with an unknown algorithm, in each backend."""
        with _opened(request.param, tmp_path / "backend") as opened:
            target = opened().repository(NAME)
            copy(samples, target, Tag("sha512-parts"), tags=[Tag("known")])
            for tag, document in _with_unknown_algorithm(samples.manifests.get(Tag("sha512-parts"))).items():
                target.manifests.put(RawManifest(document["mediaType"], strict_json.encode(document)), tags=[Tag(tag)])
            yield opened().repository(NAME)

    @pytest.mark.parametrize(
        ("tag", "options"),
        [
            ("subject", WITH_REFERRERS),
            ("foreign", CopyOptions()),
            ("index", CopyOptions(platforms=(Platform.parse("linux/arm64"),), index_mode=IndexMode.SPARSE)),
        ],
    )
    def test_descriptors_that_need_no_reading_are_copied(
        self, repository: Repository, tag: str, options: CopyOptions
    ) -> None:
        target = MemoryCatalog().repository(NAME)

        copy(repository, target, Tag(tag), tags=[Tag(tag)], options=options)

        assert target.manifests.get(Tag(tag)).content == repository.manifests.get(Tag(tag)).content

    @pytest.mark.parametrize("tag", ["layer", "index"])
    def test_copying_their_content_is_refused(self, repository: Repository, tag: str) -> None:
        target = MemoryCatalog().repository(NAME)

        with pytest.raises(Unsupported, match="blake3"):
            copy(repository, target, Tag(tag), tags=[Tag(tag)])

        with pytest.raises(ImageNotFound):
            target.manifests.resolve(Tag(tag))

    @pytest.mark.parametrize("tag", ["layer", "foreign"])
    def test_an_archive_for_docker_is_refused(self, samples: Repository, tmp_path: Path, tag: str) -> None:
        catalog = ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.DOCKER, fsync=False)
        target = catalog.repository(NAME)
        known = samples.manifests.get(Tag("sha512-parts"))
        copy(samples, target, Tag("sha512-parts"))
        document = _with_unknown_algorithm(known)[tag]
        target.manifests.put(RawManifest(document["mediaType"], strict_json.encode(document)), tags=[Tag(tag)])

        with pytest.raises(Unsupported, match="blake3"):
            catalog.close()
        assert list(tmp_path.iterdir()) == []

    def test_reading_is_refused(self, repository: Repository) -> None:
        client = RegistryClient(_Only(repository), default_platform="linux/amd64")

        for ask in (
            lambda: open_blob(repository, UNKNOWN),
            lambda: client.get_image(f"@{UNKNOWN}"),
            lambda: client.get_image("index"),
        ):
            with pytest.raises(Unsupported, match="blake3"):
                ask()

    def test_storing_is_refused(self) -> None:
        repository = MemoryCatalog().repository(NAME)

        with pytest.raises(Unsupported, match="blake3"):
            push_blob(repository, b"content", algorithm="blake3")

    @pytest.mark.parametrize(
        ("tag", "expected"),
        [
            ("layer", "$.layers[2]: not read: digest algorithm 'blake3' is not supported"),
            ("subject", "$.subject: subject not checked: digest algorithm is not supported"),
            ("index", "$.manifests[1]: digest algorithm 'blake3' cannot be verified"),
        ],
    )
    def test_validation_reports_unverifiable_content(self, repository: Repository, tag: str, expected: str) -> None:
        report = validate(repository, tag)

        assert any(expected in str(found) for found in report.warnings)


class _Only(MemoryCatalog):
    """A catalog that returns one repository for every name."""

    def __init__(self, repository: Repository) -> None:
        super().__init__()
        self._only = repository

    def repository(self, name: str) -> Repository:
        return self._only


def test_a_layout_keeps_files_of_unknown_algorithms(samples: Repository, tmp_path: Path) -> None:
    """R-303, R-311: unknown files are not removed."""
    repository = LayoutCatalog(tmp_path, fsync=False).repository(NAME)
    _copied(samples, repository)
    path = tmp_path / NAME / "blobs" / "blake3" / UNKNOWN.encoded
    path.parent.mkdir()
    path.write_bytes(b"other")

    report = _collected(tmp_path)

    assert report.blobs == ()
    assert path.read_bytes() == b"other"
