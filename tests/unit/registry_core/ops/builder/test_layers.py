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
from registry_core.ops.builder.entries import Entry, directory_entries, file_entries, image_path
from registry_core.ops.builder.layers import BuiltLayer, write_layer
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
        for name in ("one", "two"):
            directory = tmp_path / name
            directory.mkdir()
            (directory / "file").write_bytes(b"1")
            (directory / "file").chmod(0o640)
            os.utime(directory / "file", (len(layers), len(layers)))
            layers.append(write_layer(directory_entries(directory)))

        assert layers[0].descriptor == layers[1].descriptor
        member = members(layers[0])["file"]
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")

    def test_the_tar_is_the_same_on_every_machine(self) -> None:
        layer = write_layer(file_entries({"bin/run": b"#!/bin/sh\n", "etc/é": b"", "d/" + "x" * 120: b"1" * 513}))

        assert layer.diff_id == "sha256:430a12a90eff92b2f22d63e2bda307089fccc44a80eff41605bd946de0bdc51e"

    def test_the_gzip_header_names_neither_time_nor_system(self) -> None:
        stored = write_layer({}).content.open().read()

        assert stored[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class TestMembers:
    def test_a_parent_that_is_only_implied_is_no_member(self) -> None:
        """R-161: a member would replace the mode and owner that a lower layer gives the directory."""
        layer = write_layer(file_entries({"usr/local/bin/run": b"#!/bin/sh\n", "tmp/.wh.old": b""}))

        assert list(members(layer)) == ["tmp/.wh.old", "usr/local/bin/run"]

    def test_a_directory_that_is_an_entry_comes_before_its_content(self) -> None:
        entries = file_entries({"a/b/c": b"1", "a.b": b"2"})

        layer = write_layer(entries | {"a": Entry(FileKind.DIRECTORY, 0o700)})

        assert list(members(layer)) == ["a", "a/b/c", "a.b"]

    @pytest.mark.parametrize(("content", "mode"), [(b"#!/bin/sh", 0o755), (b"\x7fELF", 0o755), (b"text", 0o644)])
    def test_content_is_executable_where_it_is_a_program(self, content: bytes, mode: int) -> None:
        assert members(write_layer(file_entries({"a": content})))["a"].mode == mode

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

    @pytest.mark.parametrize("name", [".wh.", ".wh..", "a/.wh...", "a/.wh.b/c"])
    def test_a_malformed_whiteout_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidName, match="whiteout"):
            write_layer(file_entries({name: b""}))

    def test_a_whiteout_that_is_not_a_file_is_refused(self) -> None:
        with pytest.raises(InvalidName, match="whiteout"):
            write_layer({"a/.wh.b": Entry(FileKind.DIRECTORY, 0o755)})

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
