"""Writes are verified and atomic, and keep unknown fields (R-006, R-309, R-313)."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from registry_adapters.layout import LayoutCatalog
from registry_core.cancellation import CancelScope, fail_after
from registry_core.content.streams import ByteSource, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_MANIFEST, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    Forbidden,
    InvalidDocument,
    LayoutError,
    RegistryError,
    SizeMismatch,
    Unavailable,
    Unsupported,
)
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, index_manifest, push_image, put_blob
from registry_core.testing.faults import HookedSource, altered, longer, raising, shorter

NAME = RepositoryName("org/app")
CONTENT = b"some content"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def catalog(tmp_path: Path) -> LayoutCatalog:
    return LayoutCatalog(tmp_path)


@pytest.fixture
def repository(catalog: LayoutCatalog) -> Repository:
    return catalog.repository(NAME)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / NAME


def _index(directory: Path) -> dict[str, Any]:
    mapping: dict[str, Any] = json.loads((directory / "index.json").read_bytes())
    return mapping


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def _blob(directory: Path, digest: Digest = DIGEST) -> Path:
    return directory / "blobs" / digest.algorithm / digest.encoded


class TestBlobs:
    @pytest.mark.parametrize(
        ("source", "error"),
        [
            (altered(CONTENT), DigestMismatch),
            (shorter(CONTENT), SizeMismatch),
            (longer(CONTENT), SizeMismatch),
            (raising(CONTENT, KeyError("broken")), KeyError),
        ],
    )
    def test_a_failed_put_leaves_no_file(
        self, repository: Repository, directory: Path, source: ByteSource, error: type[Exception]
    ) -> None:
        """R-006."""
        with pytest.raises(error):
            repository.blobs.put(DIGEST, len(CONTENT), source)

        assert _files(directory) == set()

    def test_an_interrupted_put_leaves_no_file(self, repository: Repository, directory: Path) -> None:
        """R-006: also after a ``KeyboardInterrupt``."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            repository.blobs.put(DIGEST, len(CONTENT), HookedSource(CONTENT, interrupt))

        assert _files(directory) == set()

    def test_a_temporary_file_is_private_and_has_another_name(self, repository: Repository, directory: Path) -> None:
        """R-006."""
        seen: list[tuple[str, int]] = []

        def look() -> None:
            files = list((directory / "blobs" / "sha256").iterdir())
            seen.extend((file.name, stat.S_IMODE(file.stat().st_mode)) for file in files)

        repository.blobs.put(DIGEST, len(CONTENT), HookedSource(CONTENT, look))

        assert [mode for _, mode in seen] == [0o600]
        assert seen[0][0] != DIGEST.encoded
        assert os.listdir(directory / "blobs" / "sha256") == [DIGEST.encoded]

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
    def test_committed_files_obey_the_umask(
        self, repository: Repository, directory: Path, umask: int, mode: int
    ) -> None:
        before = os.umask(umask)
        try:
            put_blob(repository, CONTENT)
        finally:
            os.umask(before)

        assert stat.S_IMODE(_blob(directory).stat().st_mode) == mode
        assert stat.S_IMODE((directory / "index.json").stat().st_mode) == mode

    @pytest.mark.parametrize("wrong", [b"", b"other bytes!", b"longer than it should be"])
    def test_a_corrupt_file_is_written_again(self, repository: Repository, directory: Path, wrong: bytes) -> None:
        """R-309: also if it has the right size."""
        put_blob(repository, CONTENT)
        _blob(directory).write_bytes(wrong)

        put_blob(repository, CONTENT)

        assert _blob(directory).read_bytes() == CONTENT

    def test_an_existing_blob_is_not_written_again(self, repository: Repository, directory: Path) -> None:
        put_blob(repository, CONTENT)
        before = _blob(directory).stat()

        repository.blobs.put(DIGEST, len(CONTENT), raising(CONTENT, KeyError("not to be read")))

        assert os.path.samestat(before, _blob(directory).stat())

    def test_a_mount_shares_the_file(self, tmp_path: Path, catalog: LayoutCatalog, repository: Repository) -> None:
        put_blob(repository, CONTENT)

        mounted = catalog.repository(RepositoryName("other")).blobs.mount(DIGEST, NAME)

        assert mounted is True
        assert os.path.samestat(_blob(tmp_path / NAME).stat(), _blob(tmp_path / "other").stat())
        assert os.listdir(tmp_path / "other" / "blobs" / "sha256") == [DIGEST.encoded]

    def test_a_corrupt_blob_is_not_mounted(
        self, tmp_path: Path, catalog: LayoutCatalog, repository: Repository
    ) -> None:
        """R-309."""
        put_blob(repository, CONTENT)
        _blob(tmp_path / NAME).write_bytes(b"wrong bytes!")

        mounted = catalog.repository(RepositoryName("other")).blobs.mount(DIGEST, NAME)

        assert mounted is False
        assert not _blob(tmp_path / "other").exists()

    def test_a_mount_replaces_a_corrupt_blob(
        self, tmp_path: Path, catalog: LayoutCatalog, repository: Repository
    ) -> None:
        """R-309."""
        other = catalog.repository(RepositoryName("other"))
        put_blob(repository, CONTENT)
        put_blob(other, CONTENT)
        _blob(tmp_path / "other").write_bytes(b"wrong bytes!")

        assert other.blobs.mount(DIGEST, NAME) is True

        assert _blob(tmp_path / "other").read_bytes() == CONTENT

    def test_a_blob_that_is_replaced_before_it_is_linked_is_not_mounted(
        self, tmp_path: Path, catalog: LayoutCatalog, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-309: only the file that was verified is linked."""
        put_blob(repository, CONTENT)
        really_link = os.link

        def replacing(source: str, target: str, **where: Any) -> None:
            (tmp_path / "other bytes").write_bytes(b"wrong bytes!")
            os.replace(tmp_path / "other bytes", _blob(tmp_path / NAME))
            really_link(source, target, **where)

        monkeypatch.setattr(os, "link", replacing)

        assert catalog.repository(RepositoryName("other")).blobs.mount(DIGEST, NAME) is False

        assert os.listdir(tmp_path / "other" / "blobs" / "sha256") == []

    def test_a_mount_without_hard_links_returns_false(
        self, catalog: LayoutCatalog, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_blob(repository, CONTENT)

        def link(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr(os, "link", link)

        assert catalog.repository(RepositoryName("other")).blobs.mount(DIGEST, NAME) is False

    @pytest.mark.parametrize(
        ("code", "error"),
        [(errno.ENOSPC, Unavailable), (errno.EACCES, Forbidden), (errno.EROFS, Unsupported), (errno.EIO, Unavailable)],
    )
    def test_errors_of_the_operating_system_are_mapped(
        self,
        repository: Repository,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        code: int,
        error: type[RegistryError],
    ) -> None:
        def write(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "write", write)

        with pytest.raises(error, match=DIGEST):
            put_blob(repository, CONTENT)

        assert _files(directory) == set()

    def test_a_directory_that_is_replaced_by_a_link_is_refused(
        self, tmp_path: Path, repository: Repository, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-310: a check before opening is not enough."""
        put_blob(repository, CONTENT)
        really_open = os.open

        def replacing(name: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if name == "blobs":
                (directory / "blobs").rename(tmp_path / "outside")
                (directory / "blobs").symlink_to(tmp_path / "outside")
            return really_open(name, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", replacing)

        with pytest.raises(LayoutError):
            repository.blobs.open(DIGEST)


class TestIndex:
    def test_unknown_fields_survive_every_edit(self, repository: Repository, directory: Path) -> None:
        """R-313."""
        push_image(repository, "one", tags=["v1"])
        mapping = _index(directory)
        mapping |= {"x-field": {"deep": [1, 2.5, None, "ü"]}, "annotations": {"owner": "me"}}
        mapping["manifests"][0] |= {"x-entry": True, "platform": {"os": "linux", "architecture": "amd64"}}
        mapping["manifests"][0]["annotations"]["note"] = "kept"
        (directory / "index.json").write_text(json.dumps(mapping))

        two = push_image(repository, "two", tags=["v1", "v2"])
        repository.manifests.untag(Tag("v2"))
        repository.manifests.delete(two.digest)

        after = _index(directory)
        assert {key: after[key] for key in after if key != "manifests"} == {
            key: mapping[key] for key in mapping if key != "manifests"
        }
        assert after["manifests"] == [mapping["manifests"][0] | {"annotations": {"note": "kept"}}]

    def test_the_same_puts_give_the_same_bytes(self, tmp_path: Path) -> None:
        """R-313: the order of the tags does not matter."""
        written = set()
        for name, tags in (("a", ["x", "y", "z"]), ("b", ["z", "x", "y"])):
            repository = LayoutCatalog(tmp_path).repository(RepositoryName(name))
            push_image(repository, "one", tags=tags)
            push_image(repository, "two", tags=["y"])
            written.add((tmp_path / name / "index.json").read_bytes())

        assert len(written) == 1

    def test_a_manifest_that_loses_its_tag_keeps_an_entry(self, repository: Repository, directory: Path) -> None:
        first = push_image(repository, "one", tags=["v1"])
        second = push_image(repository, "two", tags=["v1"])

        entries = _index(directory)["manifests"]

        assert [(entry["digest"], entry.get("annotations")) for entry in entries] == [
            (first.digest, None),
            (second.digest, {REF_NAME: "v1"}),
        ]

    def test_tags_that_move_often_leave_one_entry_for_each_manifest(
        self, repository: Repository, directory: Path
    ) -> None:
        for _ in range(3):
            push_image(repository, "one", tags=["v1", "v2"])
            push_image(repository, "two", tags=["v1", "v2"])

        assert len(_index(directory)["manifests"]) == 3

    def test_several_tags_are_several_entries(self, repository: Repository, directory: Path) -> None:
        """R-304: other tools expect one name in each entry."""
        push_image(repository, "one", tags=["v1", "v2"])

        entries = _index(directory)["manifests"]

        assert [entry["annotations"] for entry in entries] == [{REF_NAME: "v1"}, {REF_NAME: "v2"}]
        assert len({entry["digest"] for entry in entries}) == 1

    def test_a_put_that_changes_nothing_writes_nothing(self, repository: Repository, directory: Path) -> None:
        push_image(repository, "one", tags=["v1"])

        # Held open, so that no new file can be given its number.
        with (directory / "index.json").open() as before:
            push_image(repository, "one", tags=["v1"])
            push_image(repository, "one")

            assert os.path.samestat(os.fstat(before.fileno()), (directory / "index.json").stat())

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schemaVersion":2,"config":{},"layers":[]}', b"\xff"])
    def test_content_that_is_not_a_manifest_leaves_no_file(
        self, repository: Repository, directory: Path, content: bytes
    ) -> None:
        with pytest.raises(InvalidDocument):
            repository.manifests.put(RawManifest(OCI_MANIFEST, content), tags=[Tag("v1")])

        assert not directory.exists()

    def test_a_corrupt_manifest_is_written_again(self, repository: Repository, directory: Path) -> None:
        """R-309."""
        manifest = push_image(repository, "one", tags=["v1"])
        _blob(directory, manifest.digest).write_bytes(manifest.content[:-1] + b"?")

        repository.manifests.put(manifest)

        assert repository.manifests.get(Tag("v1")) == manifest

    def test_a_failed_write_of_the_index_keeps_the_old_one(
        self, repository: Repository, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-313."""
        one = push_image(repository, "one", tags=["v1"])
        two = push_image(repository, "two")
        before = (directory / "index.json").read_bytes()
        replace = os.replace

        def failing(source: str, target: str, **where: Any) -> None:
            if target == "index.json":
                raise OSError(errno.ENOSPC, "full")
            replace(source, target, **where)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(Unavailable):
            repository.manifests.put(two, tags=[Tag("v1")])

        assert (directory / "index.json").read_bytes() == before
        assert repository.manifests.get(Tag("v1")) == one
        assert not [name for name in _files(directory) if name.endswith(".tmp")]

    def test_content_is_synced_before_its_name(self, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-006: otherwise a power failure leaves names without content."""
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def recorded_fsync(descriptor: int) -> None:
            steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        def recorded_replace(source: str, target: str, **where: Any) -> None:
            steps.append("rename")
            replace(source, target, **where)

        put_blob(repository, b"first, so that there is a layout")
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)
        put_blob(repository, CONTENT)

        assert steps == ["file", "rename", "directory"]

    def test_new_directories_are_synced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """R-006: also the parents of the root."""
        synced: set[str] = set()
        fsync = os.fsync

        def recorded(descriptor: int) -> None:
            synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", recorded)
        put_blob(LayoutCatalog(tmp_path / "new" / "root").repository(NAME), CONTENT)

        root = tmp_path / "new" / "root"
        assert {str(path) for path in (tmp_path, root.parent, root, root / "org", root / NAME)} <= synced

    def test_nothing_is_synced_without_fsync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fsync(_: int) -> None:
            raise AssertionError("fsync was called")

        monkeypatch.setattr(os, "fsync", fsync)

        manifest = push_image(LayoutCatalog(tmp_path, fsync=False).repository(NAME), "one", tags=["v1"])

        assert LayoutCatalog(tmp_path).repository(NAME).manifests.get(Tag("v1")) == manifest


class TestLock:
    def test_a_deadline_ends_the_wait(self, repository: Repository, directory: Path) -> None:
        """R-313."""
        manifest = push_image(repository, "one")

        with FileLock(directory / ".ociport.lock"), pytest.raises(DeadlineExceeded):
            _run_in_thread(lambda: _within(0.05, lambda: repository.manifests.put(manifest, tags=[Tag("late")])))

        assert list(repository.manifests.tags()) == []

    def test_a_cancelled_scope_ends_the_wait(self, repository: Repository, directory: Path) -> None:
        manifest = push_image(repository, "one")
        scope = CancelScope()

        def put() -> None:
            with scope:
                started.set()
                repository.manifests.put(manifest, tags=[Tag("late")])

        started = threading.Event()

        def cancel() -> None:
            started.wait(10)
            scope.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with FileLock(directory / ".ociport.lock"), pytest.raises(Cancelled):
            _run_in_thread(put)
        canceller.join()

        assert list(repository.manifests.tags()) == []

    def test_readers_do_not_wait(self, repository: Repository, directory: Path) -> None:
        """Writers of blobs do not wait, either."""
        manifest = push_image(repository, "one", tags=["v1"])

        with FileLock(directory / ".ociport.lock"), fail_after(5):
            assert repository.manifests.get(Tag("v1")) == manifest
            assert list(repository.manifests.tags()) == ["v1"]
            put_blob(repository, CONTENT)

    def test_a_put_waits_for_the_lock(self, repository: Repository, directory: Path) -> None:
        manifest = push_image(repository, "one")
        writer = threading.Thread(target=lambda: repository.manifests.put(manifest, tags=[Tag("v1")]))

        with FileLock(directory / ".ociport.lock"):
            writer.start()
            writer.join(0.05)
            during = list(repository.manifests.tags())
        writer.join(10)

        assert during == []
        assert list(repository.manifests.tags()) == ["v1"]


def _run_in_thread(work: Callable[[], object]) -> None:
    """Call a function in another thread and raise its error here: a thread cannot wait for a lock that it holds."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(30)
    for error in errors:
        raise error


def _within(seconds: float, work: Callable[[], object]) -> None:
    with fail_after(seconds):
        work()


class TestReferrers:
    def test_a_list_under_a_fallback_tag_is_followed(self, repository: Repository, directory: Path) -> None:
        """R-306: other tools list referrers there."""
        subject = push_image(repository, "subject", tags=["v1"])
        config = b"{}"
        put_blob(repository, config)
        referrer = image_manifest(
            config, artifactType="application/vnd.example", subject={
                "mediaType": OCI_MANIFEST, "digest": str(subject.digest), "size": len(subject.content),
            },
        )  # fmt: skip
        put_blob(repository, referrer.content)
        listing = index_manifest([referrer.descriptor])
        repository.manifests.put(listing, tags=[Tag(subject.digest.replace(":", "-"))])

        found = list(repository.manifests.referrers(subject.digest))

        assert [(entry.digest, entry.artifact_type) for entry in found] == [
            (referrer.digest, "application/vnd.example")
        ]

    def test_a_referrer_with_several_entries_is_listed_once(self, repository: Repository) -> None:
        """R-025."""
        subject = push_image(repository, "subject")
        pointer = {"mediaType": OCI_MANIFEST, "digest": str(subject.digest), "size": len(subject.content)}
        referrer = push_image(repository, "referrer", tags=["a", "b"], subject=pointer)
        repository.manifests.put(index_manifest([referrer.descriptor]), tags=[Tag("c")])

        assert [entry.digest for entry in repository.manifests.referrers(subject.digest)] == [referrer.digest]

    def test_a_wrong_fallback_list_is_not_believed(self, repository: Repository) -> None:
        """R-025: only the ``subject`` of a manifest counts."""
        subject = push_image(repository, "subject")
        other = push_image(repository, "other")
        listing = index_manifest([other.descriptor])
        repository.manifests.put(listing, tags=[Tag(subject.digest.replace(":", "-"))])

        assert list(repository.manifests.referrers(subject.digest)) == []


def test_an_unsupported_digest_is_refused_before_the_source_is_read(repository: Repository) -> None:
    """R-002."""
    with pytest.raises(Unsupported):
        repository.blobs.put(Digest("md5:abc"), 3, raising(b"abc", KeyError("read")))


def test_the_bytes_of_a_manifest_are_not_changed(repository: Repository, directory: Path) -> None:
    """R-026."""
    content = b' {"schemaVersion" : 2,\n"manifests":[ ], "x":1.50 }\n'
    manifest = RawManifest("application/vnd.oci.image.index.v1+json", content)

    descriptor = repository.manifests.put(manifest, tags=[Tag("v1")])

    assert _blob(directory, descriptor.digest).read_bytes() == content
    assert repository.manifests.get(Tag("v1")).content == content


def test_an_empty_blob_is_stored(repository: Repository) -> None:
    digest = Digest.of(b"")

    repository.blobs.put(digest, 0, BytesSource(b""))

    assert repository.blobs.stat(digest) == 0


class TestStaleFiles:
    PARTS = ("", "blobs/sha256", "blobs/sha512")

    @pytest.fixture
    def stale_files(self, repository: Repository, directory: Path) -> list[Path]:
        push_image(repository, "one", tags=["v1"])
        (directory / "blobs" / "sha512").mkdir()
        stale_files = [directory / part / f".ociport-{number}.tmp" for number, part in enumerate(self.PARTS)]
        for path in stale_files:
            path.write_bytes(CONTENT)
        return stale_files

    @pytest.mark.parametrize(("minutes", "kept"), [(59, True), (61, False)])
    def test_they_are_removed_after_an_hour(
        self,
        repository: Repository,
        stale_files: list[Path],
        monkeypatch: pytest.MonkeyPatch,
        minutes: int,
        kept: bool,
    ) -> None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 60 * minutes)

        push_image(repository, "two", tags=["v2"])

        assert [path.exists() for path in stale_files] == [kept] * 3
        assert list(repository.manifests.tags()) == ["v1", "v2"]

    def test_a_new_link_to_an_old_file_is_kept(self, repository: Repository, stale_files: list[Path]) -> None:
        """A mount creates such a link."""
        os.utime(stale_files[1], (0, 0))

        push_image(repository, "two", tags=["v2"])

        assert stale_files[1].exists()

    def test_other_files_are_kept(
        self, repository: Repository, directory: Path, stale_files: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-303."""
        others = [directory / "other.tmp", directory / ".ociport-notes", directory / "blobs" / ".ociport-linked.tmp"]
        for path in others[:2]:
            path.write_bytes(CONTENT)
        others[2].symlink_to(directory / "oci-layout")
        folder = directory / ".ociport-folder.tmp"
        folder.mkdir()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 7200)

        push_image(repository, "two", tags=["v2"])

        assert not any(path.exists() for path in stale_files)
        assert all(path.exists() for path in [*others, folder])


def test_a_new_root_whose_directory_entry_cannot_be_flushed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-006: a write is acknowledged only once the disk has it, the new root included."""
    repository = LayoutCatalog(tmp_path / "parent" / "root").repository(RepositoryName("org/app"))
    parent = os.stat(tmp_path)
    flush = os.fsync

    def fail_for_parent(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), parent):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_parent)

    with pytest.raises(Unavailable, match="nput/output error"):
        put_blob(repository, b"content")
