"""Garbage collection of layouts: what is removed, what is kept, and what happens to concurrent writers."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from registry_adapters.layout import LayoutCatalog, blobs, garbage
from registry_adapters.layout.blobs import remove_expired
from registry_adapters.layout.directory import Directory, Root
from registry_adapters.layout.garbage import prune_layout
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.layout import Layout
from registry_core.cancellation import fail_after
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_ARTIFACT_MANIFEST, OCI_INDEX, ORAS_ARTIFACT_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reports import PruneReport
from registry_core.errors import (
    BlobNotFound,
    DeadlineExceeded,
    DigestMismatch,
    ImageNotFound,
    InvalidValue,
    RepositoryNotFound,
    TooLarge,
)
from registry_core.ports.catalog import Repository
from registry_core.testing.content import (
    artifact_manifest,
    blob,
    descriptor_field,
    image_manifest,
    index_manifest,
    push_image,
    put_blob,
)
from registry_core.testing.faults import HookedSource

NAME = RepositoryName("org/app")
HOURS = 7200.0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path, fsync=False).repository(NAME)


def _prune(root: Path, *, ahead: float = HOURS, grace: float = 3600.0, **more: bool) -> PruneReport:
    """Prune with a clock that is ahead."""
    layout = Layout(Root(root, fsync=False), NAME)
    return prune_layout(layout, grace=grace, clock=lambda: time.time() + ahead, **more)


def _files(root: Path) -> set[str]:
    return {path.name for path in (root / NAME / "blobs" / "sha256").iterdir()}


def _put(repository: Repository, content: bytes) -> Digest:
    digest = Digest.of(content)
    repository.blobs.put(digest, len(content), BytesSource(content))
    return digest


def _remove_entry(root: Path, digest: Digest) -> None:
    index = root / NAME / "index.json"
    document = json.loads(index.read_bytes())
    document["manifests"] = [each for each in document["manifests"] if each["digest"] != digest]
    index.write_text(json.dumps(document))


def _add_entry(root: Path, added: dict[str, Any]) -> None:
    index = root / NAME / "index.json"
    document = json.loads(index.read_bytes())
    document["manifests"].append(added)
    index.write_text(json.dumps(document))


def _snapshot(root: Path) -> dict[str, tuple[int, float]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_size, path.lstat().st_mtime)
        for path in root.rglob("*")
        if path.name != ".ociport.lock"
    }


class TestRemoved:
    def test_blobs_without_references(self, tmp_path: Path, repository: Repository) -> None:
        manifest = push_image(repository, "one", tags=["v1"])
        unused = _put(repository, b"unused")

        report = _prune(tmp_path)

        assert report.blobs == (unused,)
        assert (report.bytes, report.kept, report.kept_young) == (6, 3, 0)
        assert _files(tmp_path) == {manifest.digest.encoded, *(part.digest.encoded for part in manifest.children)}

    def test_the_blobs_of_a_deleted_image(self, tmp_path: Path, repository: Repository) -> None:
        kept = push_image(repository, "one", tags=["v1"])
        deleted = push_image(repository, "two", tags=["v2"])
        repository.manifests.delete(deleted.digest)

        report = _prune(tmp_path)

        assert set(report.blobs) == {part.digest for part in deleted.children}
        assert _files(tmp_path) == {kept.digest.encoded, *(part.digest.encoded for part in kept.children)}

    def test_temporary_files_of_killed_writers(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        blob_dir = tmp_path / NAME / "blobs" / "sha256"
        (blob_dir / ".ociport-0123456789abcdef.tmp").write_bytes(b"1234")
        (blob_dir / f".ociport-{'a' * 64}.partial").write_bytes(b"12345678")

        first = _prune(tmp_path)
        second = _prune(tmp_path, ahead=8 * 24 * 3600.0)

        assert (first.stale_files, first.bytes) == (1, 4)
        assert (second.stale_files, second.bytes) == (1, 8)
        assert not [name for name in os.listdir(blob_dir) if name.startswith(".ociport-")]

    def test_blobs_with_another_hard_link_free_no_bytes(self, tmp_path: Path, repository: Repository) -> None:
        unused = _put(repository, b"unused")
        os.link(tmp_path / NAME / "blobs" / "sha256" / unused.encoded, tmp_path / "elsewhere")

        report = _prune(tmp_path)

        assert report.blobs == (unused,)
        assert report.bytes == 0


class TestKept:
    def test_files_with_similar_names(self, tmp_path: Path, repository: Repository) -> None:
        """R-303."""
        push_image(repository, "one", tags=["v1"])
        blob_dir = tmp_path / NAME / "blobs" / "sha256"
        names = {"theirs.tmp", "theirs.partial", ".ociport-notes", "ingest"}
        for name in names:
            (blob_dir / name).touch()
        os.mkfifo(blob_dir / ("f" * 64))

        report = _prune(tmp_path, ahead=30 * 24 * 3600.0)

        assert (report.blobs, report.stale_files) == ((), 0)
        assert names | {"f" * 64} <= _files(tmp_path)

    def test_recent_temporary_files(self, tmp_path: Path, repository: Repository) -> None:
        """The grace period of the caller does not shorten theirs."""
        push_image(repository, "one", tags=["v1"])
        blob_dir = tmp_path / NAME / "blobs" / "sha256"
        (blob_dir / ".ociport-0123456789abcdef.tmp").write_bytes(b"1234")
        (blob_dir / f".ociport-{'a' * 64}.partial").write_bytes(b"12345678")

        assert _prune(tmp_path, ahead=1800.0, grace=2.0).stale_files == 0
        assert _prune(tmp_path, ahead=6 * 24 * 3600.0, grace=2.0).stale_files == 1

    def test_a_locked_partial_file(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        path = tmp_path / NAME / "blobs" / "sha256" / f".ociport-{'a' * 64}.partial"
        path.write_bytes(b"12345678")

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            report = _prune(tmp_path, ahead=8 * 24 * 3600.0)

        assert report.stale_files == 0
        assert path.exists()

    def test_blobs_that_were_renamed_recently(self, tmp_path: Path, repository: Repository) -> None:
        unused = _put(repository, b"unused")
        os.utime(tmp_path / NAME / "blobs" / "sha256" / unused.encoded, (1, 1))

        assert _prune(tmp_path, ahead=0).blobs == ()

    def test_the_blobs_of_an_embedded_manifest(self, tmp_path: Path, repository: Repository) -> None:
        """R-009: the manifest is only in the ``data`` of its descriptor, but its blobs are in the layout."""
        image = push_image(repository, "one")
        data = base64.b64encode(image.content).decode()
        listed = descriptor_field(image.content, image.media_type) | {"data": data}
        index = RawManifest(OCI_INDEX, strict_json.encode({"schemaVersion": 2, "manifests": [listed]}))
        repository.manifests.delete(image.digest)
        repository.manifests.put(index, tags=[Tag("v1")])

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert {part.digest.encoded for part in image.children} <= _files(tmp_path)

    def test_the_blobs_of_a_manifest_whose_entry_has_another_media_type(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        """R-020: it cannot be used with this media type, but the entry may be wrong."""
        image = push_image(repository, "one", tags=["v1"])
        index = tmp_path / NAME / "index.json"
        document = json.loads(index.read_bytes())
        document["manifests"][0]["mediaType"] = OCI_INDEX
        index.write_text(json.dumps(document))

        assert _prune(tmp_path).blobs == ()
        assert {part.digest.encoded for part in image.children} <= _files(tmp_path)

    def test_manifests_without_a_tag(self, tmp_path: Path, repository: Repository) -> None:
        manifest = push_image(repository, "one")

        assert _prune(tmp_path).blobs == ()
        assert repository.manifests.get(manifest.digest) == manifest

    def test_the_children_of_a_nested_index(self, tmp_path: Path, repository: Repository) -> None:
        """R-306."""
        image = push_image(repository, "one")
        inner = index_manifest([image.descriptor])
        outer = index_manifest([inner.descriptor])
        repository.manifests.put(inner)
        repository.manifests.put(outer, tags=[Tag("v1")])
        index = tmp_path / NAME / "index.json"
        document = json.loads(index.read_bytes())
        document["manifests"] = [each for each in document["manifests"] if each["digest"] == outer.digest]
        index.write_text(json.dumps(document))

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert report.kept == 5

    @pytest.mark.parametrize("media_type", [OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST])
    @pytest.mark.parametrize("is_listed", [True, False])
    def test_the_blobs_of_an_artifact_manifest(
        self, tmp_path: Path, repository: Repository, media_type: str, is_listed: bool
    ) -> None:
        """R-016: also where only an index lists it."""
        part = _put(repository, b'{"a":"blob"}')
        artifact = artifact_manifest([b'{"a":"blob"}'], media_type=media_type)
        if is_listed:
            repository.manifests.put(artifact, tags=[Tag("v1")])
        else:
            _put(repository, artifact.content)
            repository.manifests.put(index_manifest([artifact.descriptor]), tags=[Tag("v1")])

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert {part.encoded, artifact.digest.encoded} <= _files(tmp_path)

    def test_references_in_documents_of_unknown_types(self, tmp_path: Path, repository: Repository) -> None:
        """R-027, R-305."""
        part = _put(repository, b"part")
        document = strict_json.encode({"things": [{"inner": descriptor_field(b"part", "application/x")}]})
        named = _put(repository, document)
        push_image(repository, "one", tags=["v1"])
        index = tmp_path / NAME / "index.json"
        mapping = json.loads(index.read_bytes())
        mapping["manifests"].append(descriptor_field(document, "application/vnd.example+json"))
        index.write_text(json.dumps(mapping))

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert {part.encoded, named.encoded} <= _files(tmp_path)

    @pytest.mark.parametrize("form", ["{}", "registry.example.com/app@{}"])
    def test_digests_in_documents_of_unknown_types(self, tmp_path: Path, repository: Repository, form: str) -> None:
        """R-016: it is unknown which of them are parts."""
        parts = [_put(repository, content) for content in (b"one", b"two", b"three")]
        document = strict_json.encode(
            {"things": [form.format(parts[0])], form.format(parts[1]): 1, "deep": {"er": [[form.format(parts[2])]]}}
        )
        _put(repository, document)
        repository.manifests.put(index_manifest([]), tags=[Tag("v1")])
        _add_entry(tmp_path, descriptor_field(document, "application/vnd.example+json"))

        assert _prune(tmp_path).blobs == ()
        assert {part.encoded for part in parts} <= _files(tmp_path)

    def test_young_blobs(self, tmp_path: Path, repository: Repository) -> None:
        unused = _put(repository, b"unused")

        report = _prune(tmp_path, ahead=0)

        assert (report.blobs, report.kept_young) == ((), 1)
        assert repository.blobs.stat(unused) == 6

    def test_old_blobs_of_young_manifests(self, tmp_path: Path, repository: Repository) -> None:
        manifest = image_manifest(b"{}", [b"layer"])
        _put(repository, b"{}")
        _put(repository, b"layer")
        later = time.time() + 2 * HOURS
        _put(repository, manifest.content)
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        os.utime(path, (later, later))

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert report.kept_young == 3

    def test_files_that_are_not_blobs(self, tmp_path: Path, repository: Repository) -> None:
        """R-303, R-310: other files are left alone, and links are not followed."""
        push_image(repository, "one", tags=["v1"])
        outside = tmp_path / "outside"
        outside.write_bytes(b"precious")
        blob_dir = tmp_path / NAME / "blobs" / "sha256"
        (blob_dir / "README").write_text("hello")
        (blob_dir / ("b" * 64)).symlink_to(outside)
        (blob_dir / ("c" * 64)).mkdir()
        (tmp_path / NAME / "manifest.json").write_text("[]")

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert outside.read_bytes() == b"precious"
        assert {"README", "b" * 64, "c" * 64} <= _files(tmp_path)
        assert (tmp_path / NAME / "manifest.json").exists()

    def test_the_subject_of_a_manifest_is_not_needed_by_it(self, tmp_path: Path, repository: Repository) -> None:
        """Image-spec manifest.md, "subject": a weak association."""
        subject = push_image(repository, "one", tags=["v1"])
        referrer = image_manifest(b"{}", [], subject=descriptor_field(subject.content, subject.media_type))
        _put(repository, b"{}")
        repository.manifests.put(referrer)
        repository.manifests.delete(subject.digest)

        report = _prune(tmp_path)

        assert set(report.blobs) == {part.digest for part in subject.children} - {Digest.of(b"{}")}
        assert [found.digest for found in repository.manifests.referrers(subject.digest)] == [referrer.digest]

    def test_references_in_layers_do_not_count(self, tmp_path: Path, repository: Repository) -> None:
        unused = _put(repository, b"unused")
        layer = strict_json.encode({"layers": [descriptor_field(b"unused")]})
        for part in (b"{}", layer):
            _put(repository, part)
        repository.manifests.put(image_manifest(b"{}", [layer]), tags=[Tag("v1")])

        assert _prune(tmp_path).blobs == (unused,)


class TestUntagged:
    def test_a_manifest_that_lost_its_tag_is_removed_with_its_blobs(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        old = push_image(repository, "one", tags=["v1"])
        new = push_image(repository, "two", tags=["v1"])

        report = _prune(tmp_path, untagged=True)

        assert report.untagged == (old.digest,)
        assert old.digest in report.blobs
        assert repository.manifests.get(Tag("v1")) == new
        with pytest.raises(ImageNotFound):
            repository.manifests.get(old.digest)

    def test_children_of_tagged_indexes_are_kept(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one")
        repository.manifests.put(index_manifest([image.descriptor]), tags=[Tag("v1")])

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())

    def test_referrers_of_kept_manifests_are_kept_recursively(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one", tags=["v1"])
        _put(repository, b"{}")
        subject = image
        for number in range(3):
            subject = image_manifest(
                b"{}", [], subject=descriptor_field(subject.content, subject.media_type), annotations={"n": str(number)}
            )
            repository.manifests.put(subject)
        stray = image_manifest(b"{}", [], subject=descriptor_field(b"absent", image.media_type))
        repository.manifests.put(stray)

        report = _prune(tmp_path, untagged=True)

        assert report.untagged == (stray.digest,)
        assert repository.manifests.get(subject.digest) == subject

    def test_entries_of_unknown_types_are_kept(self, tmp_path: Path, repository: Repository) -> None:
        """R-305."""
        push_image(repository, "one", tags=["v1"])
        document = strict_json.encode({"things": []})
        unknown = _put(repository, document)
        _add_entry(tmp_path, descriptor_field(document, "application/vnd.example+json"))

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert unknown.encoded in _files(tmp_path)

    @pytest.mark.parametrize(
        "annotations",
        [
            {"org.opencontainers.image.ref.name": "not a tag: a name/with:text"},
            {"io.containerd.image.name": "registry.example.com/org/app:v1"},
        ],
    )
    def test_entries_with_other_names_are_kept(
        self, tmp_path: Path, repository: Repository, annotations: dict[str, str]
    ) -> None:
        """R-307."""
        image = push_image(repository, "one")
        _remove_entry(tmp_path, image.digest)
        _add_entry(tmp_path, descriptor_field(image.content, image.media_type) | {"annotations": annotations})

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())

    def test_signatures_under_digest_tags_are_kept(self, tmp_path: Path, repository: Repository) -> None:
        """They have a tag, even if the signed image is removed."""
        image = push_image(repository, "one")
        signature = push_image(repository, "signature", tags=[f"sha256-{image.digest.encoded}.sig"])

        report = _prune(tmp_path, untagged=True)

        assert report.untagged == (image.digest,)
        assert repository.manifests.get(signature.digest) == signature

    def test_referrers_of_an_image_in_a_tagged_index_are_kept(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one")
        repository.manifests.put(index_manifest([index_manifest([image.descriptor]).descriptor]), tags=[Tag("v1")])
        repository.manifests.put(index_manifest([image.descriptor]))
        referrer = push_image(repository, "referrer", subject=descriptor_field(image.content, image.media_type))

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert [found.digest for found in repository.manifests.referrers(image.digest)] == [referrer.digest]

    def test_absent_children_of_a_sparse_index_are_allowed(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one")
        absent = image_manifest(b"{}")
        index = index_manifest([image.descriptor, absent.descriptor])
        repository.manifests.put(index, tags=[Tag("v1")])

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert repository.manifests.get(Tag("v1")) == index

    def test_a_corrupt_manifest_may_have_any_subject(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        manifest = push_image(repository, "two")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
        before = _snapshot(tmp_path)

        with pytest.raises(DigestMismatch):
            _prune(tmp_path, untagged=True)

        assert _snapshot(tmp_path) == before

    def test_young_manifests_are_kept(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one")

        assert _prune(tmp_path, ahead=0, untagged=True).untagged == ()


class TestDryRun:
    def test_a_dry_run_reports_the_same_and_changes_nothing(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        push_image(repository, "two", tags=["v1"])
        _put(repository, b"unused")
        (tmp_path / NAME / ".ociport-0123456789abcdef.tmp").write_bytes(b"1234")
        before = _snapshot(tmp_path)

        dry = _prune(tmp_path, untagged=True, is_dry_run=True)
        between = _snapshot(tmp_path)
        real = _prune(tmp_path, untagged=True)

        assert between == before
        assert dry.is_dry_run
        assert not real.is_dry_run
        assert (dry.blobs, dry.untagged, dry.stale_files, dry.bytes) == (
            real.blobs, real.untagged, real.stale_files, real.bytes,
        )  # fmt: skip
        assert str(dry).startswith("would remove 4 blobs, 1 untagged manifests and 1 stale files")


class TestConcurrentWriters:
    @pytest.mark.parametrize("how", ["stat", "put", "mount"])
    def test_operations_renew_the_lease_of_a_blob(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
        digest = _put(repository, b"shared")
        path = tmp_path / NAME / "blobs" / "sha256" / digest.encoded
        os.utime(path, (1, 1))

        if how == "stat":
            repository.blobs.stat(digest)
        elif how == "put":
            _put(repository, b"shared")
        else:
            other = LayoutCatalog(tmp_path, fsync=False).repository(RepositoryName("other"))
            put_blob(other, b"shared")
            repository.blobs.mount(digest, RepositoryName("other"))

        assert path.stat().st_mtime > time.time() - 60

    def test_resolve_renews_the_lease_of_a_manifest(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
        manifest = push_image(repository, "one")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        os.utime(path, (1, 1))

        repository.manifests.resolve(manifest.digest)

        assert path.stat().st_mtime > time.time() - 60

    def test_a_blob_that_was_renewed_before_it_was_locked_is_kept(self, tmp_path: Path, repository: Repository) -> None:
        digest = _put(repository, b"shared")
        blob_dir = Root(tmp_path / NAME / "blobs" / "sha256", fsync=False).open()
        assert blob_dir is not None

        with blob_dir:
            found = remove_expired(blob_dir, digest.encoded, time.time() - 60, is_dry_run=False)

        assert found is None
        assert repository.blobs.stat(digest) == 6

    def test_a_file_that_replaced_the_locked_one_is_kept(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = _put(repository, b"shared")
        path = tmp_path / NAME / "blobs" / "sha256" / digest.encoded
        original = os.fstat

        def replaced(descriptor: int) -> os.stat_result:
            status = original(descriptor)
            path.with_name("new").write_bytes(b"shared")
            path.with_name("new").replace(path)
            return status

        blob_dir = Root(path.parent, fsync=False).open()
        assert blob_dir is not None
        monkeypatch.setattr(os, "fstat", replaced)
        with blob_dir:
            found = remove_expired(blob_dir, digest.encoded, time.time() + HOURS, is_dry_run=False)
        monkeypatch.undo()

        assert found is None
        assert path.read_bytes() == b"shared"
        assert _files(tmp_path) == {digest.encoded}

    def test_a_put_after_the_removal_writes_the_blob_again(self, tmp_path: Path, repository: Repository) -> None:
        content = b"x" * 3_000_000
        digest = _put(repository, content)
        repository.blobs.put(digest, len(content), HookedSource(content, lambda: None))

        _prune(tmp_path)
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)
        repository.blobs.put(digest, len(content), BytesSource(content))

        assert repository.blobs.stat(digest) == len(content)

    def test_a_tag_that_is_added_before_the_removal_keeps_its_image(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = image_manifest(b"{}", [b"layer"])
        _put(repository, b"{}")
        _put(repository, b"layer")
        unused = _put(repository, b"unused")
        original = Layout.locked
        tagged: list[bool] = []

        def locked(layout: Layout, directory: object) -> object:
            if not tagged:
                tagged.append(True)
                repository.manifests.put(manifest, tags=[Tag("v1")])
            return original(layout, directory)  # type: ignore[arg-type]

        monkeypatch.setattr(Layout, "locked", locked)
        report = _prune(tmp_path)

        assert report.blobs == (unused,)
        assert repository.blobs.stat(Digest.of(b"layer")) == 5

    def test_a_manifest_that_is_renewed_before_its_removal_keeps_its_blobs(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = [push_image(repository, f"image {number}") for number in range(8)]
        index = index_manifest([image.descriptor for image in images[:4]])
        repository.manifests.put(index)
        kept_blobs = {part.digest for image in images[:4] for part in image.children}
        other_blobs = {part.digest for image in images[4:] for part in image.children}
        for image in (*images, index):
            _remove_entry(tmp_path, image.digest)

        def renewed(directory: Directory, name: str, moment: float, *, is_dry_run: bool) -> os.stat_result | None:
            renewed_names = {index.digest.encoded, *(image.digest.encoded for image in images[:4])}
            return None if name in renewed_names else remove_expired(directory, name, moment, is_dry_run=is_dry_run)

        monkeypatch.setattr(garbage, "remove_expired", renewed)
        report = _prune(tmp_path)

        assert set(report.blobs) == other_blobs | {image.digest for image in images[4:]}
        assert {digest.encoded for digest in kept_blobs} <= _files(tmp_path)

    def test_a_renewal_waits_for_the_lock_of_a_removal(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
        digest = _put(repository, b"shared")

        with (tmp_path / NAME / "blobs" / "sha256" / digest.encoded).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(DeadlineExceeded), fail_after(0.05):
                repository.blobs.stat(digest)

        assert repository.blobs.stat(digest) == 6

    def test_a_blob_with_a_shared_lock_is_kept(self, tmp_path: Path, repository: Repository) -> None:
        digest = _put(repository, b"shared")

        with (tmp_path / NAME / "blobs" / "sha256" / digest.encoded).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            report = _prune(tmp_path)

        assert (report.blobs, report.kept_young) == ((), 1)

    @pytest.mark.parametrize("is_written_again", [True, False])
    def test_the_lease_of_a_removed_file_cannot_be_renewed(
        self, tmp_path: Path, repository: Repository, is_written_again: bool
    ) -> None:
        digest = _put(repository, b"shared")
        blob_dir = Root(tmp_path / NAME / "blobs" / "sha256", fsync=False).open()
        assert blob_dir is not None
        with blob_dir:
            file = blob_dir.open(digest.encoded)
            assert file is not None
            with file:
                _prune(tmp_path)
                if is_written_again:
                    _put(repository, b"shared")

                assert not blobs.renew_lease(blob_dir, digest.encoded, file)

    def test_a_time_in_the_future_is_renewed(self, tmp_path: Path, repository: Repository) -> None:
        """Another clock has set it, and by that clock the lease may be about to expire."""
        digest = _put(repository, b"shared")
        path = tmp_path / NAME / "blobs" / "sha256" / digest.encoded
        later = time.time() + HOURS
        os.utime(path, (later, later))

        repository.blobs.stat(digest)

        assert path.stat().st_mtime < later

    @pytest.mark.parametrize("seconds", [-HOURS, HOURS])
    def test_clocks_may_differ(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """The local clock may be ahead of the clock of the file system, or behind."""
        _put(repository, b"shared")
        original = time.time
        monkeypatch.setattr(time, "time", lambda: original() + seconds)

        report = LayoutCatalog(tmp_path, fsync=False).prune(NAME)

        assert (report.blobs, report.kept_young) == ((), 1)


class TestErrors:
    def test_a_manifest_that_is_too_large_may_have_any_references(self, tmp_path: Path, repository: Repository) -> None:
        """R-023."""
        push_image(repository, "one", tags=["v1"])
        unused = _put(repository, b"unused")
        content = b'{"x":"' + b"x" * MANIFEST_LIMIT + b'"}'
        _put(repository, content)
        _add_entry(tmp_path, descriptor_field(content, OCI_INDEX))

        with pytest.raises(TooLarge):
            _prune(tmp_path)

        assert repository.blobs.stat(unused) == 6

    def test_no_layout(self, tmp_path: Path) -> None:
        with pytest.raises(RepositoryNotFound):
            LayoutCatalog(tmp_path).prune(NAME)

    @pytest.mark.parametrize("grace", [0.0, -1.0, 1.9, float("nan")])
    def test_too_short_a_grace_period(self, tmp_path: Path, repository: Repository, grace: float) -> None:
        push_image(repository, "one", tags=["v1"])

        with pytest.raises(InvalidValue, match="grace"):
            LayoutCatalog(tmp_path).prune(NAME, grace=grace)

    def test_a_corrupt_manifest_may_have_any_references(self, tmp_path: Path, repository: Repository) -> None:
        manifest = push_image(repository, "one", tags=["v1"])
        unused = _put(repository, b"unused")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))

        with pytest.raises(DigestMismatch):
            _prune(tmp_path)

        assert repository.blobs.stat(unused) == 6

    def test_a_missing_manifest_has_no_references(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        absent = RawManifest(OCI_INDEX, strict_json.encode({"schemaVersion": 2, "manifests": []}))
        index = tmp_path / NAME / "index.json"
        document = json.loads(index.read_bytes())
        document["manifests"].append(descriptor_field(absent.content, OCI_INDEX))
        index.write_text(json.dumps(document))

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert len(IndexFile.parse(index.read_bytes(), "index.json").entries) == 2


def test_many_blobs_are_removed_in_one_run(tmp_path: Path, repository: Repository) -> None:
    kept = push_image(repository, "one", tags=["v1"])
    for number in range(150):
        _put(repository, blob(str(number)))

    report = _prune(tmp_path)

    assert len(report.blobs) == 150
    assert repository.manifests.get(Tag("v1")) == kept
