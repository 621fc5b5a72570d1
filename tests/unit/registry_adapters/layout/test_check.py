"""Layouts checked as a whole: entries, images, and each file that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry_adapters.layout import LayoutCatalog, blobs
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reports import Report
from registry_core.errors import RepositoryNotFound
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository
from registry_core.testing.content import entry, image_manifest, index_manifest, push_image, put_blob

NAME = RepositoryName("org/app")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path, fsync=False).repository(NAME)


def _check(root: Path) -> Report:
    return LayoutCatalog(root, fsync=False).check(NAME)


def _shelf(root: Path) -> Path:
    return root / NAME / "blobs" / "sha256"


def _said(report: Report) -> list[str]:
    return [str(found) for found in report.findings]


def test_a_sound_layout_is_clean_and_stays_as_it_is(tmp_path: Path, repository: Repository) -> None:
    push_image(repository, "one", tags=["v1"])
    push_image(repository, "two")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    report = _check(tmp_path)

    assert report.findings == ()
    assert (report.manifests, report.blobs) == (2, 4)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_is_renewed_by_a_look(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """What a check has read, a garbage collection may take as before."""
    monkeypatch.setattr(blobs, "_FRESH", -1.0)
    subject = push_image(repository, "one")
    push_image(repository, "two", tags=["v1"], subject=entry(subject.content, subject.media_type))
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    report = _check(tmp_path) if whole else validate(repository, "v1", referrers=True)

    assert report.findings == ()
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_manifests_without_a_tag_are_checked_as_well(tmp_path: Path, repository: Repository) -> None:
    manifest = push_image(repository, "one")
    repository.blobs.delete(manifest.children[1].digest)

    (found,) = _check(tmp_path).findings

    assert (found.what, "$.layers[0]" in found.where) == ("it is missing", True)


def test_corrupt_blobs_are_found_by_their_names(tmp_path: Path, repository: Repository) -> None:
    """R-309."""
    push_image(repository, "one", tags=["v1"])
    digest = put_blob(repository, b"orphan")
    (_shelf(tmp_path) / digest.encoded).write_bytes(b"oRphan")

    said = _said(_check(tmp_path))

    where = f"org/app/blobs/sha256/{digest.encoded}"
    assert said[0] == f"warning: {where}: nothing refers to it"
    assert said[1].startswith(f"error: {where}: hashes to sha256:")


def test_what_is_no_blob_is_named(tmp_path: Path, repository: Repository) -> None:
    """R-303, R-310."""
    push_image(repository, "one", tags=["v1"])
    shelf = _shelf(tmp_path)
    (shelf / "README").touch()
    (shelf / ("A" * 64)).touch()
    (shelf / ("b" * 64)).symlink_to("/etc/hostname")
    (shelf / "c").mkdir()
    (shelf / ".ociport-0123456789abcdef.tmp").touch()
    (tmp_path / NAME / "manifest.json").touch()
    (tmp_path / NAME / "blobs" / "notes").touch()

    said = _said(_check(tmp_path))

    base = "org/app/blobs/sha256"
    assert sorted(said) == sorted(
        [
            "warning: org/app/blobs/notes: a file that is no part of a layout",
            "warning: org/app/manifest.json: a file that is no part of a layout",
            f"warning: {base}/c: a directory where blobs are",
            f"warning: {base}/README: not the name of a blob",
            f"warning: {base}/{'A' * 64}: not the name of a blob",
            f"error: {base}/{'b' * 64}: a link where a blob should be",
            f"warning: {base}/.ociport-0123456789abcdef.tmp: left behind by a writer, or being written",
        ]
    )


def test_what_sparse_indexes_do_not_have_may_be_excused(tmp_path: Path, repository: Repository) -> None:
    image = push_image(repository, "one")
    index = index_manifest([image.descriptor, image_manifest(b"{}").descriptor])
    repository.manifests.put(index, tags=[Tag("v1")])

    assert not _check(tmp_path).is_clean
    assert LayoutCatalog(tmp_path, fsync=False).check(NAME, sparse=True).is_clean


def test_entries_that_lead_nowhere_or_contradict_each_other(tmp_path: Path, repository: Repository) -> None:
    """R-304."""
    manifest = push_image(repository, "one", tags=["v1"])
    index = tmp_path / NAME / "index.json"
    document = json.loads(index.read_bytes())
    name = {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    absent = image_manifest(b"{}")
    document["manifests"] += [
        entry(absent.content, absent.media_type) | name,
        entry(manifest.content, manifest.media_type) | {"size": 1},
        entry(b"unknown", "application/vnd.unknown"),
    ]
    index.write_text(json.dumps(document))

    said = _said(_check(tmp_path))

    where = "org/app/index.json"
    assert len(said) == 4
    assert said[0].endswith("org/app:v1: index.json has 2 entries for the tag v1")
    assert said[1] == f"error: {where} $.manifests[1]: its blob is missing"
    assert said[2].startswith(f"error: {where} $.manifests[2]: said to have 1 bytes")
    assert said[3] == f"error: {where} $.manifests[3]: it is missing"


@pytest.mark.parametrize(
    ("file", "content"), [("index.json", b"{"), ("oci-layout", b"{}"), ("index.json", None), ("blobs", None)]
)
def test_broken_layouts_are_reported_as_such(
    tmp_path: Path, repository: Repository, file: str, content: bytes | None
) -> None:
    """R-300 to R-302."""
    push_image(repository, "one", tags=["v1"])
    path = tmp_path / NAME / file
    if content is not None:
        path.write_bytes(content)
    else:
        path.rename(tmp_path / "away")

    report = _check(tmp_path)

    assert not report.is_clean
    assert file.partition(".")[0] in str(report)


def test_no_layout_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound):
        _check(tmp_path)


def test_blobs_of_other_algorithms_are_checked_too(tmp_path: Path, repository: Repository) -> None:
    content = b"sha512"
    digest = Digest.of(content, "sha512")
    shelf = tmp_path / NAME / "blobs" / "sha512"
    push_image(repository, "one", tags=["v1"])
    shelf.mkdir()
    (shelf / digest.encoded).write_bytes(b"other")

    report = _check(tmp_path)

    assert [found.what.partition(" ")[0] for found in report.findings] == ["nothing", "hashes"]
