from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from registry_core.content.safe_files import (
    OS_ERRORS,
    AtomicFile,
    create_file,
    map_os_errors,
    open_directory,
    sync_directory,
    temporary_name,
    write_all,
)
from registry_core.errors import (
    ConfigError,
    DeadlineExceeded,
    Forbidden,
    InvalidName,
    LayoutError,
    RegistryError,
    Unavailable,
    Unsupported,
)


class TestMapOsErrors:
    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (errno.EACCES, Forbidden),
            (errno.EPERM, Forbidden),
            (errno.EROFS, Unsupported),
            (errno.ENAMETOOLONG, InvalidName),
            (errno.ENOSPC, Unavailable),
            (errno.ENOENT, Unavailable),
        ],
    )
    def test_each_error_names_the_path_and_the_cause(self, number: int, expected: type[RegistryError]) -> None:
        with pytest.raises(expected) as caught, map_os_errors("blobs/sha256"):
            raise OSError(number, os.strerror(number))

        assert type(caught.value) is expected
        assert caught.value.message == f"blobs/sha256: {os.strerror(number)}"
        assert isinstance(caught.value.__cause__, OSError)

    def test_a_caller_may_expect_other_errors(self) -> None:
        errors = {**OS_ERRORS, errno.EISDIR: LayoutError}

        with pytest.raises(LayoutError), map_os_errors("index.json", errors):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        with pytest.raises(ConfigError), map_os_errors("config.json", {}, otherwise=ConfigError):
            raise PermissionError(errno.EACCES, "Permission denied")

    def test_an_error_without_a_number_is_named(self) -> None:
        with pytest.raises(Unavailable, match="archive: OSError"), map_os_errors("archive"):
            raise OSError

    def test_the_librarys_own_errors_pass(self) -> None:
        error = DeadlineExceeded("too late")

        with pytest.raises(DeadlineExceeded) as caught, map_os_errors("archive"):
            raise error

        assert caught.value is error


class TestCreateFile:
    def test_a_file_that_exists_is_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")

        with pytest.raises(FileExistsError):
            create_file(tmp_path / "file")

        assert (tmp_path / "file").read_bytes() == b"content"

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "target")

        with pytest.raises(FileExistsError):
            create_file(tmp_path / "link")

        assert not (tmp_path / "target").exists()

    def test_a_name_in_an_open_directory(self, tmp_path: Path) -> None:
        directory = open_directory(tmp_path)
        try:
            os.close(create_file("file", inside=directory))
        finally:
            os.close(directory)

        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_link_to_a_directory_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    with pytest.raises(OSError, match="link"):
        open_directory(tmp_path / "link")


def test_bytes_are_written_in_as_many_writes_as_it_takes() -> None:
    class Slow:
        def __init__(self) -> None:
            self.content = b""

        def write(self, data: memoryview, /) -> int:
            self.content += bytes(data[:3])
            return min(3, len(data))

    file = Slow()

    write_all(file, b"0123456789")

    assert file.content == b"0123456789"


def test_temporary_names_are_hidden_and_differ() -> None:
    names = {temporary_name() for _ in range(100)}

    assert len(names) == 100
    assert all(name.startswith(".ociport-") and name.endswith(".tmp") for name in names)


def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    sync_directory(tmp_path / "absent")


class TestStagedFile:
    def test_a_commit_replaces_the_target(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_bytes(b"old")
        staged = AtomicFile(target)
        write_all(staged.descriptor, b"new")
        os.close(staged.descriptor)
        before = target.read_bytes()

        staged.commit()
        staged.discard()

        assert before == b"old"
        assert target.read_bytes() == b"new"
        assert os.listdir(tmp_path) == ["file"]

    def test_a_discarded_or_abandoned_file_leaves_nothing(self, tmp_path: Path) -> None:
        for forgets in (False, True):
            staged = AtomicFile(tmp_path / "file")
            os.close(staged.descriptor)
            if not forgets:
                staged.discard()
                staged.discard()
            del staged

            assert os.listdir(tmp_path) == []

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_bytes(b"theirs")
        (tmp_path / "link").symlink_to("target")
        staged = AtomicFile(tmp_path / "link")
        os.close(staged.descriptor)

        staged.commit(fsync=False)

        assert not (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == b"theirs"

    def test_a_forked_child_leaves_its_parents_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        staged = AtomicFile(tmp_path / "file")
        os.close(staged.descriptor)
        process = os.getpid()

        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process + 1)
            staged.discard()

        assert os.listdir(tmp_path) == [os.path.basename(staged.path)]

    def test_a_directory_and_a_name_may_be_chosen(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()

        staged = AtomicFile(tmp_path / "file", directory=tmp_path / "other", name="staged", mode=0o640)

        os.close(staged.descriptor)
        assert (tmp_path / "other" / "staged").exists()
