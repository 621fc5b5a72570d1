"""Garbage collection of layouts: what goes, what stays, and what happens to those who write meanwhile."""

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
from registry_core.domain.media_types import OCI_INDEX
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
from registry_core.testing.content import blob, descriptor_field, image_manifest, index_manifest, push_image, put_blob
from registry_core.testing.faults import HookedSource

NAME = RepositoryName("org/app")
HOURS = 7200.0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path, fsync=False).repository(NAME)


def _prune(root: Path, *, ahead: float = HOURS, grace: float = 3600.0, **more: bool) -> PruneReport:
    """Collect as if it were later."""
    place = Layout(Root(root, fsync=False), NAME)
    return prune_layout(place, grace=grace, clock=lambda: time.time() + ahead, **more)


def _files(root: Path) -> set[str]:
    return {path.name for path in (root / NAME / "blobs" / "sha256").iterdir()}


def _put(repository: Repository, content: bytes) -> Digest:
    digest = Digest.of(content)
    repository.blobs.put(digest, len(content), BytesSource(content))
    return digest


def _forget_entry(root: Path, digest: Digest) -> None:
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


class TestWhatGoes:
    def test_what_nothing_refers_to(self, tmp_path: Path, repository: Repository) -> None:
        manifest = push_image(repository, "one", tags=["v1"])
        orphan = _put(repository, b"orphan")

        report = _prune(tmp_path)

        assert report.blobs == (orphan,)
        assert (report.bytes, report.kept, report.kept_young) == (6, 3, 0)
        assert _files(tmp_path) == {manifest.digest.encoded, *(part.digest.encoded for part in manifest.children)}

    def test_a_deleted_image_with_all_its_parts(self, tmp_path: Path, repository: Repository) -> None:
        kept = push_image(repository, "one", tags=["v1"])
        gone = push_image(repository, "two", tags=["v2"])
        repository.manifests.delete(gone.digest)

        report = _prune(tmp_path)

        assert set(report.blobs) == {part.digest for part in gone.children}
        assert _files(tmp_path) == {kept.digest.encoded, *(part.digest.encoded for part in kept.children)}

    def test_what_killed_writers_left(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        shelf = tmp_path / NAME / "blobs" / "sha256"
        (shelf / ".ociport-0123456789abcdef.tmp").write_bytes(b"1234")
        (shelf / f".ociport-{'a' * 64}.partial").write_bytes(b"12345678")

        first = _prune(tmp_path)
        second = _prune(tmp_path, ahead=8 * 24 * 3600.0)

        assert (first.stale_files, first.bytes) == (1, 4)
        assert (second.stale_files, second.bytes) == (1, 8)
        assert not [name for name in os.listdir(shelf) if name.startswith(".ociport-")]

    def test_blobs_that_have_another_name_elsewhere_free_nothing(self, tmp_path: Path, repository: Repository) -> None:
        orphan = _put(repository, b"orphan")
        os.link(tmp_path / NAME / "blobs" / "sha256" / orphan.encoded, tmp_path / "elsewhere")

        report = _prune(tmp_path)

        assert report.blobs == (orphan,)
        assert report.bytes == 0


class TestWhatStays:
    def test_what_looks_like_ours_but_is_not(self, tmp_path: Path, repository: Repository) -> None:
        """R-303."""
        push_image(repository, "one", tags=["v1"])
        shelf = tmp_path / NAME / "blobs" / "sha256"
        names = {"theirs.tmp", "theirs.partial", ".ociport-notes", "ingest"}
        for name in names:
            (shelf / name).touch()
        os.mkfifo(shelf / ("f" * 64))

        report = _prune(tmp_path, ahead=30 * 24 * 3600.0)

        assert (report.blobs, report.stale_files) == ((), 0)
        assert names | {"f" * 64} <= _files(tmp_path)

    def test_what_somebody_may_be_writing(self, tmp_path: Path, repository: Repository) -> None:
        """However short the grace period for blobs is."""
        push_image(repository, "one", tags=["v1"])
        shelf = tmp_path / NAME / "blobs" / "sha256"
        (shelf / ".ociport-0123456789abcdef.tmp").write_bytes(b"1234")
        (shelf / f".ociport-{'a' * 64}.partial").write_bytes(b"12345678")

        assert _prune(tmp_path, ahead=1800.0, grace=2.0).stale_files == 0
        assert _prune(tmp_path, ahead=6 * 24 * 3600.0, grace=2.0).stale_files == 1

    def test_a_partial_file_that_somebody_has_in_hand(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        path = tmp_path / NAME / "blobs" / "sha256" / f".ociport-{'a' * 64}.partial"
        path.write_bytes(b"12345678")

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            report = _prune(tmp_path, ahead=8 * 24 * 3600.0)

        assert report.stale_files == 0
        assert path.exists()

    def test_what_was_moved_here_lately_however_old_its_bytes_are(self, tmp_path: Path, repository: Repository) -> None:
        orphan = _put(repository, b"orphan")
        os.utime(tmp_path / NAME / "blobs" / "sha256" / orphan.encoded, (1, 1))

        assert _prune(tmp_path, ahead=0).blobs == ()

    def test_what_embedded_manifests_need_though_they_are_not_here(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        """R-009: data stands for the manifest, and its parts are here."""
        image = push_image(repository, "one")
        data = base64.b64encode(image.content).decode()
        listed = descriptor_field(image.content, image.media_type) | {"data": data}
        index = RawManifest(OCI_INDEX, strict_json.encode({"schemaVersion": 2, "manifests": [listed]}))
        repository.manifests.delete(image.digest)
        repository.manifests.put(index, tags=[Tag("v1")])

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert {part.digest.encoded for part in image.children} <= _files(tmp_path)

    def test_what_a_manifest_names_that_is_not_what_it_is_said_to_be(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        """R-020: nobody can use it like that; but it may be the entry that is wrong."""
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

    def test_what_an_index_below_an_index_needs(self, tmp_path: Path, repository: Repository) -> None:
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

    def test_what_documents_of_unknown_types_name(self, tmp_path: Path, repository: Repository) -> None:
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

    def test_what_is_young(self, tmp_path: Path, repository: Repository) -> None:
        orphan = _put(repository, b"orphan")

        report = _prune(tmp_path, ahead=0)

        assert (report.blobs, report.kept_young) == ((), 1)
        assert repository.blobs.stat(orphan) == 6

    def test_what_young_manifests_need_though_it_is_old_itself(self, tmp_path: Path, repository: Repository) -> None:
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

    def test_the_other_files_of_a_layout(self, tmp_path: Path, repository: Repository) -> None:
        """R-303, R-310: what is no blob is none of our business, and links are not followed."""
        push_image(repository, "one", tags=["v1"])
        outside = tmp_path / "outside"
        outside.write_bytes(b"precious")
        shelf = tmp_path / NAME / "blobs" / "sha256"
        (shelf / "README").write_text("hello")
        (shelf / ("b" * 64)).symlink_to(outside)
        (shelf / ("c" * 64)).mkdir()
        (tmp_path / NAME / "manifest.json").write_text("[]")

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert outside.read_bytes() == b"precious"
        assert {"README", "b" * 64, "c" * 64} <= _files(tmp_path)
        assert (tmp_path / NAME / "manifest.json").exists()

    def test_the_subject_of_a_manifest_is_not_needed_by_it(self, tmp_path: Path, repository: Repository) -> None:
        """Image-spec manifest.md, "subject": a weak association."""
        subject = push_image(repository, "one", tags=["v1"])
        about = image_manifest(b"{}", [], subject=descriptor_field(subject.content, subject.media_type))
        _put(repository, b"{}")
        repository.manifests.put(about)
        repository.manifests.delete(subject.digest)

        report = _prune(tmp_path)

        assert set(report.blobs) == {part.digest for part in subject.children} - {Digest.of(b"{}")}
        assert [found.digest for found in repository.manifests.referrers(subject.digest)] == [about.digest]

    def test_layers_and_configurations_name_nothing_whatever_they_hold(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        orphan = _put(repository, b"orphan")
        layer = strict_json.encode({"layers": [descriptor_field(b"orphan")]})
        for part in (b"{}", layer):
            _put(repository, part)
        repository.manifests.put(image_manifest(b"{}", [layer]), tags=[Tag("v1")])

        assert _prune(tmp_path).blobs == (orphan,)


class TestUntagged:
    def test_manifests_that_lost_their_tag_go_with_what_only_they_need(
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

    def test_what_tagged_indexes_list_stays(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one")
        repository.manifests.put(index_manifest([image.descriptor]), tags=[Tag("v1")])

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())

    def test_what_refers_to_something_that_stays_does_too_and_so_on(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        image = push_image(repository, "one", tags=["v1"])
        _put(repository, b"{}")
        above = image
        for number in range(3):
            above = image_manifest(
                b"{}", [], subject=descriptor_field(above.content, above.media_type), annotations={"n": str(number)}
            )
            repository.manifests.put(above)
        stray = image_manifest(b"{}", [], subject=descriptor_field(b"nobody", image.media_type))
        repository.manifests.put(stray)

        report = _prune(tmp_path, untagged=True)

        assert report.untagged == (stray.digest,)
        assert repository.manifests.get(above.digest) == above

    def test_what_nobody_knows_stays(self, tmp_path: Path, repository: Repository) -> None:
        """R-305: it is no manifest, as far as anybody can tell."""
        push_image(repository, "one", tags=["v1"])
        document = strict_json.encode({"things": []})
        strange = _put(repository, document)
        _add_entry(tmp_path, descriptor_field(document, "application/vnd.example+json"))

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert strange.encoded in _files(tmp_path)

    @pytest.mark.parametrize(
        "annotations",
        [
            {"org.opencontainers.image.ref.name": "no tag: a name/of:its-own"},
            {"io.containerd.image.name": "registry.example.com/org/app:v1"},
        ],
    )
    def test_what_has_another_kind_of_name_stays(
        self, tmp_path: Path, repository: Repository, annotations: dict[str, str]
    ) -> None:
        """R-307."""
        image = push_image(repository, "one")
        _forget_entry(tmp_path, image.digest)
        _add_entry(tmp_path, descriptor_field(image.content, image.media_type) | {"annotations": annotations})

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())

    def test_signatures_under_digest_tags_stay(self, tmp_path: Path, repository: Repository) -> None:
        """They have a tag, even if what they are about goes."""
        image = push_image(repository, "one")
        signature = push_image(repository, "signature", tags=[f"sha256-{image.digest.encoded}.sig"])

        report = _prune(tmp_path, untagged=True)

        assert report.untagged == (image.digest,)
        assert repository.manifests.get(signature.digest) == signature

    def test_what_refers_to_an_image_in_a_tagged_index_stays(self, tmp_path: Path, repository: Repository) -> None:
        image = push_image(repository, "one")
        repository.manifests.put(index_manifest([index_manifest([image.descriptor]).descriptor]), tags=[Tag("v1")])
        repository.manifests.put(index_manifest([image.descriptor]))
        about = push_image(repository, "about", subject=descriptor_field(image.content, image.media_type))

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert [found.digest for found in repository.manifests.referrers(image.digest)] == [about.digest]

    def test_what_a_sparse_index_does_not_have_is_missed_by_nobody(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        image = push_image(repository, "one")
        absent = image_manifest(b"{}")
        index = index_manifest([image.descriptor, absent.descriptor])
        repository.manifests.put(index, tags=[Tag("v1")])

        report = _prune(tmp_path, untagged=True)

        assert (report.blobs, report.untagged) == ((), ())
        assert repository.manifests.get(Tag("v1")) == index

    def test_a_corrupt_manifest_could_be_about_anything(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        manifest = push_image(repository, "two")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
        before = _snapshot(tmp_path)

        with pytest.raises(DigestMismatch):
            _prune(tmp_path, untagged=True)

        assert _snapshot(tmp_path) == before

    def test_young_ones_stay(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one")

        assert _prune(tmp_path, ahead=0, untagged=True).untagged == ()


class TestDryRun:
    def test_says_what_would_go_and_changes_nothing(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        push_image(repository, "two", tags=["v1"])
        _put(repository, b"orphan")
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


class TestWritersMeanwhile:
    @pytest.mark.parametrize("how", ["stat", "put", "mount"])
    def test_a_blob_that_somebody_was_told_of_is_left_alone(
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

    def test_a_manifest_that_somebody_was_told_of_is_left_alone(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
        manifest = push_image(repository, "one")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        os.utime(path, (1, 1))

        repository.manifests.resolve(manifest.digest)

        assert path.stat().st_mtime > time.time() - 60

    def test_a_blob_that_is_renewed_after_the_look_is_kept(self, tmp_path: Path, repository: Repository) -> None:
        digest = _put(repository, b"shared")
        shelf = Root(tmp_path / NAME / "blobs" / "sha256", fsync=False).open()
        assert shelf is not None

        with shelf:
            found = remove_expired(shelf, digest.encoded, time.time() - 60, is_dry_run=False)

        assert found is None
        assert repository.blobs.stat(digest) == 6

    def test_a_file_that_was_written_anew_meanwhile_is_kept(
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

        shelf = Root(path.parent, fsync=False).open()
        assert shelf is not None
        monkeypatch.setattr(os, "fstat", replaced)
        with shelf:
            found = remove_expired(shelf, digest.encoded, time.time() + HOURS, is_dry_run=False)
        monkeypatch.undo()

        assert found is None
        assert path.read_bytes() == b"shared"
        assert _files(tmp_path) == {digest.encoded}

    def test_a_put_whose_file_is_collected_meanwhile_writes_it_anew(
        self, tmp_path: Path, repository: Repository
    ) -> None:
        content = b"x" * 3_000_000
        digest = _put(repository, content)
        repository.blobs.put(digest, len(content), HookedSource(content, lambda: None))

        _prune(tmp_path)
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(digest)
        repository.blobs.put(digest, len(content), BytesSource(content))

        assert repository.blobs.stat(digest) == len(content)

    def test_a_tag_that_appears_between_marking_and_removing_keeps_its_image(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = image_manifest(b"{}", [b"layer"])
        _put(repository, b"{}")
        _put(repository, b"layer")
        orphan = _put(repository, b"orphan")
        original = Layout.locked
        tagged: list[bool] = []

        def locked(place: Layout, directory: object) -> object:
            if not tagged:
                tagged.append(True)
                repository.manifests.put(manifest, tags=[Tag("v1")])
            return original(place, directory)  # type: ignore[arg-type]

        monkeypatch.setattr(Layout, "locked", locked)
        report = _prune(tmp_path)

        assert report.blobs == (orphan,)
        assert repository.blobs.stat(Digest.of(b"layer")) == 5

    def test_a_manifest_that_somebody_counts_on_at_the_last_moment_keeps_its_parts(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = [push_image(repository, f"image {number}") for number in range(8)]
        index = index_manifest([image.descriptor for image in images[:4]])
        repository.manifests.put(index)
        inside = {part.digest for image in images[:4] for part in image.children}
        outside = {part.digest for image in images[4:] for part in image.children}
        for image in (*images, index):
            _forget_entry(tmp_path, image.digest)

        def renewed(directory: Directory, name: str, moment: float, *, is_dry_run: bool) -> os.stat_result | None:
            held = {index.digest.encoded, *(image.digest.encoded for image in images[:4])}
            return None if name in held else remove_expired(directory, name, moment, is_dry_run=is_dry_run)

        monkeypatch.setattr(garbage, "remove_expired", renewed)
        report = _prune(tmp_path)

        assert set(report.blobs) == outside | {image.digest for image in images[4:]}
        assert {digest.encoded for digest in inside} <= _files(tmp_path)

    def test_a_collection_that_has_a_blob_in_hand_is_waited_for(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
        digest = _put(repository, b"shared")

        with (tmp_path / NAME / "blobs" / "sha256" / digest.encoded).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(DeadlineExceeded), fail_after(0.05):
                repository.blobs.stat(digest)

        assert repository.blobs.stat(digest) == 6

    def test_a_blob_that_somebody_renews_just_now_is_kept(self, tmp_path: Path, repository: Repository) -> None:
        digest = _put(repository, b"shared")

        with (tmp_path / NAME / "blobs" / "sha256" / digest.encoded).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            report = _prune(tmp_path)

        assert (report.blobs, report.kept_young) == ((), 1)

    @pytest.mark.parametrize("written_anew", [True, False])
    def test_whoever_opened_what_is_removed_then_is_not_told_that_it_is_here(
        self, tmp_path: Path, repository: Repository, written_anew: bool
    ) -> None:
        digest = _put(repository, b"shared")
        shelf = Root(tmp_path / NAME / "blobs" / "sha256", fsync=False).open()
        assert shelf is not None
        with shelf:
            file = shelf.open(digest.encoded)
            assert file is not None
            with file:
                _prune(tmp_path)
                if written_anew:
                    _put(repository, b"shared")

                assert not blobs.renew_lease(shelf, digest.encoded, file)

    def test_a_time_to_come_is_renewed(self, tmp_path: Path, repository: Repository) -> None:
        """It is another clock's: by that one, the blob may be about to expire."""
        digest = _put(repository, b"shared")
        path = tmp_path / NAME / "blobs" / "sha256" / digest.encoded
        later = time.time() + HOURS
        os.utime(path, (later, later))

        repository.blobs.stat(digest)

        assert path.stat().st_mtime < later

    @pytest.mark.parametrize("seconds", [-HOURS, HOURS])
    def test_two_clocks_that_differ_harm_nothing(
        self, tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """Ours may be ahead of the file system's, or behind."""
        _put(repository, b"shared")
        original = time.time
        monkeypatch.setattr(time, "time", lambda: original() + seconds)

        report = LayoutCatalog(tmp_path, fsync=False).prune(NAME)

        assert (report.blobs, report.kept_young) == ((), 1)


class TestRefusals:
    def test_a_manifest_that_is_too_large_could_need_anything(self, tmp_path: Path, repository: Repository) -> None:
        """R-023."""
        push_image(repository, "one", tags=["v1"])
        orphan = _put(repository, b"orphan")
        content = b'{"x":"' + b"x" * MANIFEST_LIMIT + b'"}'
        _put(repository, content)
        _add_entry(tmp_path, descriptor_field(content, OCI_INDEX))

        with pytest.raises(TooLarge):
            _prune(tmp_path)

        assert repository.blobs.stat(orphan) == 6

    def test_no_layout(self, tmp_path: Path) -> None:
        with pytest.raises(RepositoryNotFound):
            LayoutCatalog(tmp_path).prune(NAME)

    @pytest.mark.parametrize("grace", [0.0, -1.0, 1.9, float("nan")])
    def test_a_grace_period_that_nobody_can_count_on(
        self, tmp_path: Path, repository: Repository, grace: float
    ) -> None:
        push_image(repository, "one", tags=["v1"])

        with pytest.raises(InvalidValue, match="grace"):
            LayoutCatalog(tmp_path).prune(NAME, grace=grace)

    def test_a_corrupt_manifest_could_need_anything(self, tmp_path: Path, repository: Repository) -> None:
        manifest = push_image(repository, "one", tags=["v1"])
        orphan = _put(repository, b"orphan")
        path = tmp_path / NAME / "blobs" / "sha256" / manifest.digest.encoded
        path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))

        with pytest.raises(DigestMismatch):
            _prune(tmp_path)

        assert repository.blobs.stat(orphan) == 6

    def test_a_manifest_that_is_missing_needs_nothing(self, tmp_path: Path, repository: Repository) -> None:
        push_image(repository, "one", tags=["v1"])
        absent = RawManifest(OCI_INDEX, strict_json.encode({"schemaVersion": 2, "manifests": []}))
        index = tmp_path / NAME / "index.json"
        document = json.loads(index.read_bytes())
        document["manifests"].append(descriptor_field(absent.content, OCI_INDEX))
        index.write_text(json.dumps(document))

        report = _prune(tmp_path)

        assert report.blobs == ()
        assert len(IndexFile.parse(index.read_bytes(), "index.json").entries) == 2


def test_many_orphans_go_in_one_run(tmp_path: Path, repository: Repository) -> None:
    kept = push_image(repository, "one", tags=["v1"])
    for number in range(150):
        _put(repository, blob(str(number)))

    report = _prune(tmp_path)

    assert len(report.blobs) == 150
    assert repository.manifests.get(Tag("v1")) == kept
