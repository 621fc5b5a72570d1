"""Validation of a layout: the entries of its index, its images, and every file in it."""

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
from registry_core.testing.content import descriptor_field, image_manifest, index_manifest, push_image, put_blob

NAME = RepositoryName("org/app")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path, fsync=False).repository(NAME)


def _check(root: Path) -> Report:
    return LayoutCatalog(root, fsync=False).check(NAME)


def _blob_dir(root: Path) -> Path:
    return root / NAME / "blobs" / "sha256"


def _lines(report: Report) -> list[str]:
    return [str(found) for found in report.findings]


def test_a_valid_layout_has_no_findings_and_is_not_changed(tmp_path: Path, repository: Repository) -> None:
    push_image(repository, "one", tags=["v1"])
    push_image(repository, "two")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    report = _check(tmp_path)

    assert report.findings == ()
    assert (report.manifests, report.blobs) == (2, 4)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("is_whole_layout", [True, False])
def test_a_check_renews_no_lease(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, is_whole_layout: bool
) -> None:
    """A check does not keep a blob from being pruned."""
    monkeypatch.setattr(blobs, "_FRESH_LEASE", -1.0)
    subject = push_image(repository, "one")
    push_image(repository, "two", tags=["v1"], subject=descriptor_field(subject.content, subject.media_type))
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    report = _check(tmp_path) if is_whole_layout else validate(repository, "v1", referrers=True)

    assert report.findings == ()
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_manifests_without_a_tag_are_checked_as_well(tmp_path: Path, repository: Repository) -> None:
    manifest = push_image(repository, "one")
    repository.blobs.delete(manifest.children[1].digest)

    (found,) = _check(tmp_path).findings

    assert (found.what, "$.layers[0]" in found.where) == ("blob is missing", True)


def test_corrupt_blobs_without_references_are_reported(tmp_path: Path, repository: Repository) -> None:
    """R-309."""
    push_image(repository, "one", tags=["v1"])
    digest = put_blob(repository, b"unused")
    (_blob_dir(tmp_path) / digest.encoded).write_bytes(b"uNused")

    lines = _lines(_check(tmp_path))

    where = f"org/app/blobs/sha256/{digest.encoded}"
    assert lines[0] == f"warning: {where}: nothing refers to this blob"
    assert lines[1].startswith(f"error: {where}: the content has the digest sha256:")


def test_files_that_are_not_blobs_are_reported(tmp_path: Path, repository: Repository) -> None:
    """R-303, R-310."""
    push_image(repository, "one", tags=["v1"])
    blob_dir = _blob_dir(tmp_path)
    (blob_dir / "README").touch()
    (blob_dir / ("A" * 64)).touch()
    (blob_dir / ("b" * 64)).symlink_to("/etc/hostname")
    (blob_dir / "c").mkdir()
    (blob_dir / ".ociport-0123456789abcdef.tmp").touch()
    (tmp_path / NAME / "manifest.json").touch()
    (tmp_path / NAME / "blobs" / "notes").touch()

    lines = _lines(_check(tmp_path))

    base = "org/app/blobs/sha256"
    assert sorted(lines) == sorted(
        [
            "warning: org/app/blobs/notes: a regular file that does not belong to the layout",
            "warning: org/app/manifest.json: a regular file that does not belong to the layout",
            f"warning: {base}/c: a directory among the blobs",
            f"warning: {base}/README: not a sha256 digest, so not a blob",
            f"warning: {base}/{'A' * 64}: not a sha256 digest, so not a blob",
            f"error: {base}/{'b' * 64}: expected a blob, found a symbolic link; open the layout with "
            "follow_symlinks=True to read through links that stay inside its directory",
            f"warning: {base}/.ociport-0123456789abcdef.tmp: temporary file of a running or killed writer",
        ]
    )


def test_absent_children_are_allowed_in_a_sparse_check(tmp_path: Path, repository: Repository) -> None:
    image = push_image(repository, "one")
    index = index_manifest([image.descriptor, image_manifest(b"{}").descriptor])
    repository.manifests.put(index, tags=[Tag("v1")])

    assert not _check(tmp_path).is_clean
    assert LayoutCatalog(tmp_path, fsync=False).check(NAME, sparse=True).is_clean


def test_entries_with_missing_blobs_wrong_sizes_or_the_same_tag_are_reported(
    tmp_path: Path, repository: Repository
) -> None:
    """R-304."""
    manifest = push_image(repository, "one", tags=["v1"])
    index = tmp_path / NAME / "index.json"
    document = json.loads(index.read_bytes())
    name = {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    absent = image_manifest(b"{}")
    document["manifests"] += [
        descriptor_field(absent.content, absent.media_type) | name,
        descriptor_field(manifest.content, manifest.media_type) | {"size": 1},
        descriptor_field(b"unknown", "application/vnd.unknown"),
    ]
    index.write_text(json.dumps(document))

    lines = _lines(_check(tmp_path))

    where = "org/app/index.json"
    assert len(lines) == 4
    assert lines[0].endswith("org/app:v1: ambiguous tag: 2 entries of index.json have the tag v1")
    assert lines[1] == f"error: {where} $.manifests[1]: the blob of the manifest is missing"
    assert lines[2].startswith(f"error: {where} $.manifests[2]: descriptor states 1 bytes, another one states")
    assert lines[3] == f"error: {where} $.manifests[3]: blob is missing"


@pytest.mark.parametrize(
    ("file", "content"), [("index.json", b"{"), ("oci-layout", b"{}"), ("index.json", None), ("blobs", None)]
)
def test_malformed_layouts_are_reported(
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


def test_a_missing_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound):
        _check(tmp_path)


def test_blobs_of_other_algorithms_are_checked_too(tmp_path: Path, repository: Repository) -> None:
    content = b"sha512"
    digest = Digest.of(content, "sha512")
    blob_dir = tmp_path / NAME / "blobs" / "sha512"
    push_image(repository, "one", tags=["v1"])
    blob_dir.mkdir()
    (blob_dir / digest.encoded).write_bytes(b"other")

    report = _check(tmp_path)

    assert [found.what.partition(" sha512:")[0] for found in report.findings] == [
        "nothing refers to this blob",
        "the content has the digest",
    ]
