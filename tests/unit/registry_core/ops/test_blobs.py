"""Reading, saving and pushing single blobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import CancelScope
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import BlobNotFound, Cancelled, DigestMismatch, InvalidDigest, SizeMismatch, Unsupported
from registry_core.ops.blobs import open_blob, push_blob, save_blob
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests
from registry_core.ports.catalog import Repository

TRUTH = b"truth" * 1000


@pytest.fixture
def repository() -> Repository:
    return MemoryCatalog().repository(RepositoryName("org/app"))


def lying(expected: Digest, content: bytes) -> Repository:
    blobs = StagedBlobs()
    blobs.add(expected, len(content), BytesSource(content))
    return Repository(RepositoryName("liar"), blobs, StagedManifests(), "test")


class TestOpen:
    def test_a_pushed_blob_is_read(self, repository: Repository) -> None:
        pushed = push_blob(repository, TRUTH, media_type="text/plain")

        with open_blob(repository, pushed.digest, pushed.size) as reader:
            content = reader.read()

        assert content == TRUTH
        assert pushed.media_type == "text/plain"

    def test_the_read_that_reaches_a_wrong_end_raises(self) -> None:
        """R-003, R-006, R-206."""
        expected = Digest.of(TRUTH)

        with open_blob(lying(expected, b"lies"), expected) as reader, pytest.raises(DigestMismatch) as caught:
            reader.read()

        assert caught.value.reference == f"test/liar@{expected}"

    def test_a_longer_stream_is_not_read_on(self) -> None:
        """R-004."""
        expected = Digest.of(TRUTH)

        with open_blob(lying(expected, TRUTH + b"!"), expected, len(TRUTH)) as reader, pytest.raises(SizeMismatch):
            reader.read()

    def test_an_absent_blob_fails_at_once(self, repository: Repository) -> None:
        absent = Digest.of(b"absent")

        with pytest.raises(BlobNotFound) as caught:
            open_blob(repository, absent)

        assert caught.value.operation
        assert str(absent) in caught.value.reference

    def test_text_that_is_no_digest_is_refused(self, repository: Repository) -> None:
        """R-001."""
        with pytest.raises(InvalidDigest):
            open_blob(repository, "sha256:../../etc/passwd")

    def test_content_that_cannot_be_verified_is_not_opened(self, repository: Repository) -> None:
        """R-002."""
        with pytest.raises(Unsupported):
            open_blob(repository, Digest("md5:d41d8cd98f00b204e9800998ecf8427e"))


class TestSave:
    def test_the_file_has_the_blob_and_no_temporary_file_remains(self, repository: Repository, tmp_path: Path) -> None:
        pushed = push_blob(repository, TRUTH)

        save_blob(repository, pushed.digest, tmp_path / "blob", size=pushed.size)

        assert (tmp_path / "blob").read_bytes() == TRUTH
        assert os.listdir(tmp_path) == ["blob"]
        assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("character", ["a", "ü", "界", "𝄞"])
    def test_a_name_may_be_as_long_as_the_system_takes(
        self, repository: Repository, tmp_path: Path, character: str
    ) -> None:
        digest = push_blob(repository, TRUTH).digest
        path = tmp_path / (character * (255 // len(character.encode())))

        save_blob(repository, digest, path)

        assert path.read_bytes() == TRUTH

    @pytest.mark.parametrize("wrong", [b"lies", TRUTH[:-1], b""])
    def test_a_wrong_blob_leaves_the_old_file_and_nothing_else(self, wrong: bytes, tmp_path: Path) -> None:
        """R-006."""
        expected = Digest.of(TRUTH)
        (tmp_path / "blob").write_bytes(b"old")

        with pytest.raises(DigestMismatch):
            save_blob(lying(expected, wrong), expected, tmp_path / "blob")

        assert (tmp_path / "blob").read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["blob"]

    def test_an_absent_blob_makes_no_file(self, repository: Repository, tmp_path: Path) -> None:
        with pytest.raises(BlobNotFound):
            save_blob(repository, Digest.of(b"absent"), tmp_path / "blob")

        assert os.listdir(tmp_path) == []

    def test_an_error_names_the_file_and_not_the_temporary_one(self, repository: Repository, tmp_path: Path) -> None:
        pushed = push_blob(repository, TRUTH)

        with pytest.raises(FileNotFoundError) as caught:
            save_blob(repository, pushed.digest, tmp_path / "absent" / "blob")

        assert caught.value.filename == str(tmp_path / "absent" / "blob")

    def test_an_error_of_the_rename_names_the_target_once(self, repository: Repository, tmp_path: Path) -> None:
        pushed = push_blob(repository, TRUTH)
        (tmp_path / "blob").mkdir()

        with pytest.raises(OSError, match="blob") as caught:
            save_blob(repository, pushed.digest, tmp_path / "blob")

        assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "blob"), None)
        assert str(caught.value).count(str(tmp_path)) == 1
        assert os.listdir(tmp_path) == ["blob"]

    def test_a_cancelled_save_leaves_nothing(self, repository: Repository, tmp_path: Path) -> None:
        pushed = push_blob(repository, TRUTH)

        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                save_blob(repository, pushed.digest, tmp_path / "blob")

        assert os.listdir(tmp_path) == []

    def test_a_symbolic_link_is_replaced_and_not_followed(self, repository: Repository, tmp_path: Path) -> None:
        """R-006."""
        pushed = push_blob(repository, TRUTH)
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / "blob").symlink_to("precious")

        save_blob(repository, pushed.digest, tmp_path / "blob")

        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert not (tmp_path / "blob").is_symlink()


class TestPush:
    def test_every_form_of_content_gives_the_same_descriptor(self, repository: Repository, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(TRUTH)

        pushed = {push_blob(repository, form) for form in (TRUTH, tmp_path / "file", BytesSource(TRUTH))}

        assert [(each.digest, each.size) for each in pushed] == [(Digest.of(TRUTH), len(TRUTH))]
        assert repository.blobs.stat(Digest.of(TRUTH)) == len(TRUTH)
