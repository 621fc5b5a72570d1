"""Layers built from tar streams of unknown length and untrusted content."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from registry_core.content.compression import Compression
from registry_core.content.streams import BaseReader, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import IntegrityError, InvalidValue, UnsafeArchive
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.images import Image
from registry_core.ops.tar.members import FileKind
from registry_core.testing.layers import member, tar

TAR = tar(member("b", b"B"), member("a/", kind="5", mode=0o755), member("a/c", b"C" * 1000)).content


def content(image: Image) -> bytes:
    with image.layers()[-1].open_uncompressed() as reader:
        return reader.read()


class Trickle(BaseReader):
    """A stream of unknown length that returns a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        count = 700 if size < 0 else min(size, 700)
        data, self._content = self._content[:count], self._content[count:]
        return data

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pipe() -> Iterator[BinaryIO]:
    """The reading end of a pipe that the tar comes out of; it cannot be sought in."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as stream:
            stream.write(TAR)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as stream:
        yield stream
    thread.join()


class TestForms:
    @pytest.mark.parametrize(
        "form",
        [
            lambda path: TAR,
            lambda path: path,
            str,
            lambda path: BytesSource(TAR),
            lambda path: io.BytesIO(TAR),
            lambda path: Trickle(TAR),
            lambda path: gzip.compress(TAR),
            lambda path: Trickle(gzip.compress(TAR)),
        ],
    )
    def test_all_give_the_same_layer(self, tmp_path: Path, form: Callable[[Path], Any]) -> None:
        (tmp_path / "tar").write_bytes(TAR)

        image = ImageBuilder().add_tar(form(tmp_path / "tar")).build()

        assert content(image) == TAR
        assert image.config().rootfs.diff_ids == (Digest.of(TAR),)

    def test_a_pipe_is_read_once(self, pipe: BinaryIO) -> None:
        assert content(ImageBuilder().add_tar(pipe).build()) == TAR

    def test_a_stream_of_text_is_refused(self) -> None:
        with pytest.raises(InvalidValue, match="str"):
            ImageBuilder().add_tar(io.StringIO("text"))  # type: ignore[arg-type]

    def test_a_stream_stays_open(self) -> None:
        stream = Trickle(TAR)

        ImageBuilder().add_tar(stream)

        assert not stream.closed

    @pytest.mark.parametrize(
        ("compression", "media_type"), [("", OCI_LAYER), ("gzip", OCI_LAYER_GZIP), ("zstd", OCI_LAYER_ZSTD)]
    )
    def test_compression_is_chosen(self, compression: str, media_type: str) -> None:
        layer = ImageBuilder().add_tar(TAR, compression=compression).build().layers()[0]

        assert layer.media_type == media_type

    def test_a_higher_level_makes_less_of_it(self) -> None:
        big = tar(member("a", b"".join(b"%d" % (number * number) for number in range(30_000)))).content

        for name, low, high in (("gzip", 1, 9), ("zstd", 1, 19)):
            sizes = [
                ImageBuilder().add_tar(big, compression=Compression(name, level)).build().layers()[0].size
                for level in (low, high)
            ]
            assert sizes[1] < sizes[0]

    def test_a_layer_that_is_made_already_may_be_a_stream_too(self) -> None:
        image = ImageBuilder().add_layer(Trickle(gzip.compress(TAR)), media_type=OCI_LAYER_GZIP).build()
        replaced = ImageEditor(image).replace_layer(0, Trickle(TAR)).build()

        assert content(image) == content(replaced) == TAR

    def test_repacking_gives_equal_layers_for_equal_content(self) -> None:
        other = tar(
            member("a/c", b"C" * 1000, pax={b"comment": b"hello"}),
            member("./a", kind="5", mode=0o755),
            member("b", b"B"),
            end=bytes(4096),
        ).content

        one, two = (ImageBuilder().add_tar(each, canonical=True).build() for each in (TAR, other))

        assert one.digest == two.digest

    def test_a_sparse_file_without_data_is_repacked(self) -> None:
        hole = member("hole", pax={b"GNU.sparse.map": b"", b"GNU.sparse.numblocks": b"0", b"GNU.sparse.size": b"5000"})

        image = ImageBuilder().add_tar(tar(hole).content, canonical=True).build()

        with image.open_file("hole") as reader:
            assert reader.read() == bytes(5000)


HOSTILE = {
    "garbage": b"garbage" * 1000,
    "too short for a header": b"garbage",
    "cut off in a header": TAR[:1100],
    "cut off in a file": TAR[: 512 + 512 + 512 + 512 + 100],
    "a header that was changed": TAR[:10] + b"X" + TAR[11:],
    "half an end in the middle": member("a", b"1") + bytes(512) + member("b", b"2") + bytes(1024),
    "a name that climbs": tar(member("../x", b"1")).content,
    "a name that climbs further down": tar(member("a/../../x", b"1")).content,
    "a marker of nothing": tar(member("a/.wh.")).content,
    "a marker of the parent": tar(member("a/.wh...")).content,
    "a marker that is a link": tar(member("a/.wh.b", kind="2", link="x")).content,
    "a root that is a file": tar(member("./", b"1")).content,
    "gzip that is cut off": gzip.compress(TAR)[:-9],
    "gzip with a wrong checksum": gzip.compress(TAR)[:-8] + bytes(8),
    "an unknown kind of member": tar(member("a", kind="Z")).content,
    "a size beyond the end": tar(member("a", b"", size=10**12)).content,
}


class TestHostileTars:
    @pytest.mark.parametrize("canonical", [False, True])
    @pytest.mark.parametrize("case", HOSTILE)
    def test_are_refused_and_nothing_is_added(self, case: str, canonical: bool) -> None:
        builder = ImageBuilder(platform="linux/amd64").add_files({"kept": b"1"})
        before = builder.build().digest

        with pytest.raises(IntegrityError):
            builder.add_tar(io.BytesIO(HOSTILE[case]), canonical=canonical)

        assert builder.build().digest == before

    @pytest.mark.parametrize(
        "members",
        [
            [member("a", b"1"), member("a", b"2")],
            [member("a", b"1" * 100_000), member("a", b"1" * 99_999 + b"2")],
            [member("a", b"1"), member("a", b"1", mode=0o755)],
            [member("a", kind="2", link="x"), member("a", kind="2", link="y")],
            [member("z", kind="1", link="a"), member("a", b"1"), member("z", kind="1", link="a")],
            [member("z", kind="1", link=".wh..wh.plnk/1")],
            [member(".wh..wh.plnk/1", kind="2", link="x"), member("z", kind="1", link=".wh..wh.plnk/1")],
            [member(".wh..wh.plnk/1", b"1"), member(".wh..wh.plnk/1", b"2")],
            [member("a", b"1"), member("a/b", b"2")],
            [member("a", b"1"), member("a/b/c", b"2")],
            [member("a", kind="1", link="a")],
            [member("d", kind="5"), member("a", kind="1", link="d")],
            [member("a", kind="1", link=".wh.b")],
        ],
    )
    def test_that_are_contradictory_are_not_repacked(self, members: list[bytes]) -> None:
        with pytest.raises(UnsafeArchive):
            ImageBuilder().add_tar(tar(*members).content, canonical=True)

    @pytest.mark.parametrize("value", [3, None, object()])
    @pytest.mark.parametrize("method", ["add_tar", "add_layer"])
    def test_a_value_that_is_not_content_is_refused(self, method: str, value: Any) -> None:
        with pytest.raises(InvalidValue):
            getattr(ImageBuilder(), method)(value)

    @pytest.mark.parametrize("method", ["add_tar", "add_layer"])
    def test_text_is_the_path_of_a_file(self, method: str) -> None:
        """A tar is never text, so there is no doubt."""
        with pytest.raises(FileNotFoundError, match=r"missing\.tar"):
            getattr(ImageBuilder(), method)("missing.tar")


class TestHardLinks:
    """Hard links to files of a lower layer that this layer replaces."""

    def repacked(self, *members: bytes) -> Image:
        image = ImageBuilder().add_tar(tar(member("a", b"A"), member("b", b"B")).content)
        return ImageEditor(image.add_tar(tar(*members).content).build()).canonicalise().build()

    def files(self, image: Image) -> dict[str, bytes]:
        found = {}
        for entry in image.list_files():
            if entry.kind is not FileKind.DIRECTORY:
                with image.open_file(entry.path) as reader:
                    found[entry.path] = reader.read()
        return found

    def test_a_file_takes_the_name(self) -> None:
        image = self.repacked(member("z", kind="1", link="a"), member("a", b"new"))

        assert self.files(image) == {"a": b"new", "b": b"B", "z": b"A"}

    def test_a_directory_takes_the_name(self) -> None:
        image = self.repacked(member("z", kind="1", link="a"), member("a/x", b"new"))

        assert self.files(image) == {"a/x": b"new", "b": b"B", "z": b"A"}

    def test_two_names_become_one_file(self) -> None:
        image = self.repacked(member("a", kind="1", link="b"), member("b", kind="1", link="a"))

        assert self.files(image) == {"a": b"B", "b": b"B"}

    def test_names_that_aufs_kept_become_one_file(self) -> None:
        """R-157."""
        target = ".wh..wh.plnk/1.2"
        link = member("y", kind="1", link=target)
        image = self.repacked(link, member(target, b"1", mode=0o750), member("x", kind="1", link="y"), link)

        assert self.files(image) == {"a": b"A", "b": b"B", "x": b"1", "y": b"1"}
        entries = {entry.path: entry for entry in image.list_files()}
        assert (entries["x"].mode, entries["y"].link) == (0o750, "x")

    @pytest.mark.parametrize(
        "twice", [member("c", b"1" * 70_000), member("c", kind="2", link="a"), member("c", kind="1", link="a")]
    )
    def test_members_that_are_the_same_may_come_twice(self, twice: bytes) -> None:
        """R-135."""
        assert [entry.path for entry in self.repacked(twice, twice).list_files() if entry.path == "c"] == ["c"]

    def test_markers_may_come_twice_and_below_a_file(self) -> None:
        image = self.repacked(member("a", b"new"), member("a/.wh.x"), member(".wh.b"), member(".wh.b"))

        assert self.files(image) == {"a": b"new"}
