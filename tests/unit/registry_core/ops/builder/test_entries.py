"""Files and directories on disk as entries of new layers: modes, owners, sockets, patterns."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from registry_core.errors import InvalidName, InvalidValue
from registry_core.ops.builder import entries as entries_module
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.entries import Attributes, directory_entries, file_entries
from registry_core.ops.images import Image
from registry_core.ops.tar.members import FileKind

MODES = {"secret": 0o600, "run": 0o750, "shared": 0o664, "all": 0o777, "locked": 0o400, "setuid": 0o4755}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o711)
    for name, mode in MODES.items():
        (tree / name).write_bytes(b"1")
        (tree / name).chmod(mode)
    for name, mode in (("private", 0o700), ("spool", 0o1777), ("group", 0o2770)):
        (tree / name).mkdir()
        (tree / name).chmod(mode)
    (tree / "link").symlink_to("/absolute/" + "x" * 100)
    return tree


def modes(image: Image) -> dict[str, int]:
    return {entry.path: entry.mode for entry in image.list_files()}


class TestModes:
    """R-163."""

    def test_of_files_and_directories_on_disk_are_kept_except_setuid_and_setgid(self, tree: Path) -> None:
        found = modes(ImageBuilder().add_directory(tree).build())

        expected = {name: mode & 0o1777 for name, mode in MODES.items()}
        assert found == expected | {"private": 0o700, "spool": 0o1777, "group": 0o770, "link": 0o777}

    def test_setuid_and_setgid_are_kept_on_request(self, tree: Path) -> None:
        found = modes(ImageBuilder().add_directory(tree, special_modes=True).build())

        assert (found["setuid"], found["group"], found["spool"], found["run"]) == (0o4755, 0o2770, 0o1777, 0o750)

    def test_of_single_files_on_disk_are_kept(self, tree: Path) -> None:
        files = {name: tree / name for name in MODES}

        assert modes(ImageBuilder().add_files(files).build()) == {name: mode & 0o777 for name, mode in MODES.items()}
        assert modes(ImageBuilder().add_files(files, special_modes=True).build())["setuid"] == 0o4755

    @pytest.mark.parametrize(("mode", "executable"), [(0o644, 0o755), (0o640, 0o750), (0o600, 0o700), (0o755, 0o755)])
    def test_are_those_of_the_setting(self, tree: Path, mode: int, executable: int) -> None:
        found = modes(ImageBuilder().add_directory(tree, mode=mode).build())

        assert {found[name] for name in ("secret", "shared", "locked")} == {mode}
        assert {found[name] for name in ("run", "all", "setuid", "private", "spool", "group")} == {executable}

    def test_of_content_are_those_of_the_setting(self) -> None:
        files = {"text": b"1", "script": b"#!/bin/sh\n"}

        assert modes(ImageBuilder().add_files(files).build()) == {"text": 0o644, "script": 0o755}
        assert modes(ImageBuilder().add_files(files, mode=0o600).build()) == {"text": 0o600, "script": 0o700}

    def test_do_not_depend_on_the_machine_with_the_setting(self, tree: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        for name in ("a", "b"):
            for place, mode in ((tree, 0o600), (other, 0o664)):
                (place / name).write_bytes(b"1")
                (place / name).chmod(mode)

        built = [
            ImageBuilder().add_files({name: place / name for name in ("a", "b")}, mode=0o644).build()
            for place in (tree, other)
        ]

        assert built[0].digest == built[1].digest

    def test_are_uniform_on_a_system_without_permissions(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Windows reports 0666 for files and 0777 for directories."""
        monkeypatch.setattr(entries_module, "user_id", lambda: None)

        found = modes(ImageBuilder().add_directory(tree).build())

        assert {found[name] for name in ("secret", "shared", "locked")} == {0o644}
        assert {found[name] for name in ("run", "private", "spool")} == {0o755}

    @pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, "644", 6.0, True])
    def test_that_are_malformed_are_refused(self, mode: Any) -> None:
        with pytest.raises(InvalidValue, match="mode must be a number from 0 to 0o777"):
            ImageBuilder().add_files({"a": b"1"}, mode=mode)


class TestOwners:
    """R-163."""

    def test_are_root_by_default(self, tree: Path) -> None:
        found = ImageBuilder().add_directory(tree).add_files({"more": tree / "run"}).build().list_files()

        assert {(entry.uid, entry.gid) for entry in found} == {(0, 0)}

    def test_are_those_of_the_setting(self, tree: Path) -> None:
        builder = (
            ImageBuilder().add_directory(tree, owner=(1000, 1 << 30)).add_files({"more": b"1"}, owner=(1000, 1 << 30))
        )

        assert {(entry.uid, entry.gid) for entry in builder.build().list_files()} == {(1000, 1 << 30)}

    @pytest.mark.parametrize(
        "owner", [1000, (1000,), (1, 2, 3), (-1, 0), ("app", "app"), (0, (1 << 32) - 1), None, [1, 2]]
    )
    def test_that_are_malformed_are_refused(self, owner: Any) -> None:
        with pytest.raises(InvalidValue, match="owner must be the numbers of a user and a group"):
            ImageBuilder().add_files({"a": b"1"}, owner=owner)


class TestDirectories:
    def test_the_target_and_everything_below_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "empty").mkdir(parents=True)
        (tmp_path / "sub" / "file").write_bytes(b"1")
        (tmp_path / "link").symlink_to("/absolute/" + "x" * 100)

        found = directory_entries(tmp_path, "/srv/www/")

        assert set(found) == {"srv/www", "srv/www/link", "srv/www/sub", "srv/www/sub/empty", "srv/www/sub/file"}
        assert (found["srv/www/link"].kind, found["srv/www/link"].link) == (FileKind.SYMLINK, "/absolute/" + "x" * 100)

    @pytest.mark.parametrize(("target", "expected"), [("srv/www", {"srv/www": 0o755}), ("", {})])
    def test_an_empty_directory_is_the_target_itself(
        self, tmp_path: Path, target: str, expected: dict[str, int]
    ) -> None:
        found = directory_entries(tmp_path, target)

        assert {path: entry.mode for path, entry in found.items()} == expected

    def test_a_link_to_a_directory_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(".")

        assert set(directory_entries(tmp_path)) == {"loop"}

    def test_a_fifo_is_refused_without_opening_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")

        with pytest.raises(InvalidValue, match=r"must be left out: .*/fifo"):
            ImageBuilder().add_directory(tmp_path)
        with pytest.raises(InvalidValue):
            file_entries({"a": tmp_path / "fifo"})
        assert ImageBuilder().add_directory(tmp_path, exclude=["fifo"]).build().layers()

    def test_a_file_that_is_not_utf_8_is_refused(self, tmp_path: Path) -> None:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"1")

        with pytest.raises(InvalidName):
            directory_entries(tmp_path)

    def test_files_with_several_names_are_several_files(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_bytes(b"1")
        os.link(tmp_path / "one", tmp_path / "two")

        assert {entry.kind for entry in directory_entries(tmp_path).values()} == {FileKind.FILE}

    def test_a_file_that_is_deleted_meanwhile_is_named_by_the_error(self, tmp_path: Path) -> None:
        (tmp_path / "gone").write_bytes(b"1")
        entries = directory_entries(tmp_path)
        (tmp_path / "gone").unlink()

        content = entries["gone"].content
        assert content is not None
        with pytest.raises(FileNotFoundError, match="gone"):
            content.open()


class TestSockets:
    """R-163: as by GNU tar, sockets are left out and reported."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "run").mkdir()
        (tmp_path / "file").write_bytes(b"1")
        monkeypatch.chdir(tmp_path / "run")  # The path of a socket is limited to about 100 bytes.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("server.sock")
        assert stat.S_ISSOCK((tmp_path / "run/server.sock").stat().st_mode)
        return tmp_path

    def test_are_left_out_and_reported(self, path: Path) -> None:
        builder = ImageBuilder().add_directory(path)

        assert [entry.path for entry in builder.build().list_files()] == ["file", "run"]
        assert builder.skipped == (str(path / "run/server.sock"),)

    def test_that_are_excluded_are_not_reported(self, path: Path) -> None:
        assert ImageBuilder().add_directory(path, exclude=["*.sock"]).skipped == ()

    def test_are_refused_as_single_files(self, path: Path) -> None:
        with pytest.raises(InvalidValue, match="not a regular file"):
            ImageBuilder().add_files({"a": path / "run/server.sock"})

    def test_are_not_reported_by_a_call_that_fails(self, path: Path) -> None:
        builder = ImageBuilder()
        with pytest.raises(InvalidValue):
            builder.add_directory(path, mtime="yesterday")

        assert builder.skipped == ()


def test_the_defaults_of_attributes_are_documented() -> None:
    assert Attributes() == Attributes(mode=None, owner=(0, 0), special_modes=False)
