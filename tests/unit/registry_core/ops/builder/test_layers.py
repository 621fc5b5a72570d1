"""Layers built from files."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from registry_core.cancellation import CancelScope
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER_GZIP
from registry_core.errors import Cancelled, InvalidName, InvalidValue, SizeMismatch
from registry_core.ops.builder.layers import BuiltLayer, Entry, directory_entries, file_entries, image_path, write_layer
from registry_core.ops.tar.members import FileKind


def members(layer: BuiltLayer) -> dict[str, tarfile.TarInfo]:
    return {member.name: member for member in opened(layer).getmembers()}


def opened(layer: BuiltLayer) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.content.open().read())))


def text(layer: BuiltLayer, name: str) -> bytes:
    file = opened(layer).extractfile(name)
    assert file is not None
    return file.read()


class TestBytes:
    def test_digests_are_those_of_the_layer_and_of_its_tar(self) -> None:
        layer = write_layer(file_entries({"a": b"1"}))

        stored = layer.content.open().read()

        assert layer.descriptor.digest == Digest.of(stored)
        assert layer.descriptor.size == len(stored)
        assert layer.descriptor.media_type == OCI_LAYER_GZIP
        assert layer.diff_id == Digest.of(gzip.decompress(stored))

    def test_the_order_of_the_files_does_not_matter(self) -> None:
        one = write_layer(file_entries({"b": b"2", "a/c": b"1", "a.b": b"3"}))
        two = write_layer(file_entries({"a.b": b"3", "a/c": b"1", "b": b"2"}))

        assert one.descriptor == two.descriptor

    def test_properties_of_the_machine_are_left_out(self, tmp_path: Path) -> None:
        layers: list[BuiltLayer] = []
        for name, mode in (("one", 0o600), ("two", 0o664)):
            directory = tmp_path / name
            directory.mkdir(mode=0o700)
            (directory / "file").write_bytes(b"1")
            (directory / "file").chmod(mode)
            os.utime(directory / "file", (len(layers), len(layers)))
            layers.append(write_layer(directory_entries(directory)))

        assert layers[0].descriptor == layers[1].descriptor
        member = members(layers[0])["file"]
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")

    def test_the_tar_is_the_same_on_every_machine(self) -> None:
        layer = write_layer(file_entries({"bin/run": b"#!/bin/sh\n", "etc/é": b"", "d/" + "x" * 120: b"1" * 513}))

        assert layer.diff_id == "sha256:712cd1a1f39e5d8818c6865923e17ac608b0a969cfb7f72b6f7680252747d214"

    def test_the_gzip_header_names_neither_time_nor_system(self) -> None:
        stored = write_layer({}).content.open().read()

        assert stored[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class TestMembers:
    def test_parents_are_made_and_come_first(self) -> None:
        layer = write_layer(file_entries({"usr/local/bin/run": b"#!/bin/sh\n"}))

        found = members(layer)

        assert list(found) == ["usr", "usr/local", "usr/local/bin", "usr/local/bin/run"]
        assert [found[name].mode for name in list(found)] == [0o755] * 4
        assert found["usr"].isdir()

    @pytest.mark.parametrize(("content", "mode"), [(b"#!/bin/sh", 0o755), (b"\x7fELF", 0o755), (b"text", 0o644)])
    def test_content_is_executable_where_it_is_a_program(self, content: bytes, mode: int) -> None:
        assert members(write_layer(file_entries({"a": content})))["a"].mode == mode

    def test_files_on_disk_stay_executable(self, tmp_path: Path) -> None:
        for name, mode in (("run", 0o700), ("data", 0o600)):
            (tmp_path / name).write_bytes(b"1")
            (tmp_path / name).chmod(mode)

        found = members(write_layer(file_entries({"run": tmp_path / "run", "data": tmp_path / "data"})))

        assert (found["run"].mode, found["data"].mode) == (0o755, 0o644)

    def test_text_is_utf_8(self) -> None:
        assert text(write_layer(file_entries({"a": "é"})), "a") == "é".encode()

    @pytest.mark.parametrize("name", ["x" * 300, "d/" * 60 + "f", "é/ü", "x" * 100, "x" * 101])
    def test_long_and_foreign_names_survive(self, name: str) -> None:
        layer = write_layer(file_entries({name: b"1"}))

        assert text(layer, name) == b"1"

    def test_sizes_that_fill_a_block_or_not(self) -> None:
        files = {f"f{size}": bytes(size) for size in (0, 1, 511, 512, 513, 1 << 21)}

        layer = write_layer(file_entries(files))

        assert {name: len(text(layer, name)) for name in files} == {name: len(data) for name, data in files.items()}

    def test_a_whiteout_is_a_file_like_any_other(self) -> None:
        assert "etc/.wh.old" in members(write_layer(file_entries({"etc/.wh.old": b""})))


class TestDirectories:
    def test_everything_below_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "empty").mkdir(parents=True)
        (tmp_path / "sub" / "file").write_bytes(b"1")
        (tmp_path / "link").symlink_to("/absolute/" + "x" * 100)

        found = members(write_layer(directory_entries(tmp_path, "/srv/www/")))

        assert set(found) == {
            "srv",
            "srv/www",
            "srv/www/link",
            "srv/www/sub",
            "srv/www/sub/empty",
            "srv/www/sub/file",
        }
        assert found["srv/www/link"].issym()
        assert found["srv/www/link"].linkname == "/absolute/" + "x" * 100

    def test_a_link_to_a_directory_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(".")

        assert set(members(write_layer(directory_entries(tmp_path)))) == {"loop"}

    def test_a_special_file_is_refused_without_opening_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")

        with pytest.raises(InvalidValue):
            directory_entries(tmp_path)
        with pytest.raises(InvalidValue):
            file_entries({"a": tmp_path / "fifo"})

    def test_a_file_that_is_not_utf_8_is_refused(self, tmp_path: Path) -> None:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"1")

        with pytest.raises(InvalidName):
            directory_entries(tmp_path)


class TestRefusals:
    @pytest.mark.parametrize("name", ["../a", "a/../../b", "a/..", "..", "a\0b", "\ud800"])
    def test_a_name_that_leaves_the_image_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidName):
            file_entries({name: b"1"})

    @pytest.mark.parametrize("name", ["", "/", ".", "./"])
    def test_a_file_needs_a_name(self, name: str) -> None:
        with pytest.raises(InvalidName):
            file_entries({name: b"1"})

    @pytest.mark.parametrize("name", ["/a/b", "./a/b", "a//b", "a/./b", "a/b/"])
    def test_names_are_made_relative_and_clean(self, name: str) -> None:
        assert image_path(name) == "a/b"

    def test_two_files_for_one_path_are_refused(self) -> None:
        with pytest.raises(InvalidName):
            file_entries({"a": b"1", "/a": b"2"})

    def test_a_path_below_a_file_is_refused(self) -> None:
        with pytest.raises(InvalidName):
            write_layer(file_entries({"a": b"1", "a/b": b"2"}))

    @pytest.mark.parametrize("size", [0, 2])
    def test_a_file_that_changed_is_refused(self, size: int) -> None:
        with pytest.raises(SizeMismatch):
            write_layer({"a": Entry(FileKind.FILE, 0o644, size, BytesSource(b"1"))})

    def test_a_value_that_is_neither_content_nor_a_path_is_refused(self) -> None:
        with pytest.raises(InvalidValue):
            file_entries({"a": 1})  # type: ignore[dict-item]  # as untyped code may call it

    def test_a_cancelled_writer_raises(self) -> None:
        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                write_layer(file_entries({"a": b"1"}))
