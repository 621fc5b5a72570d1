"""Layers for Windows: files below ``Files``, with the PAX records that Windows needs, or a refusal."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_core.errors import InvalidName, InvalidValue, Unsupported
from registry_core.ops.builder.builder import BaseImageBuilder, ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.index_builder import IndexBuilder
from registry_core.ops.builder.windows import _security_descriptor
from registry_core.ops.images import Image

# The descriptor that BuildKit writes for files, for O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU).
OF_FILES = (
    "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAAABQA/wEf"
    "AAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)


def tar(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name in ("Files", "Hives") else tarfile.REGTYPE
            member.pax_headers = {"MSWINDOWS.fileattr": "33"}
            archive.addfile(member)
    return stream.getvalue()


LAYER = tar("Files", "Files/Windows/a.dll", "Hives")


def base(platform: str = "windows/amd64") -> Image:
    return ImageBuilder(platform=platform).add_layer(LAYER).build()


def members(image: Image) -> dict[str, tarfile.TarInfo]:
    with (
        image.layers()[-1].open_uncompressed() as reader,
        tarfile.open(fileobj=io.BytesIO(reader.read())) as archive,
    ):
        return {member.name: member for member in archive}


KINDS: dict[str, Callable[[], BaseImageBuilder]] = {
    "new": lambda: ImageBuilder(platform="windows/amd64"),
    "based": lambda: ImageBuilder(base=base()),
    "edited": lambda: ImageEditor(base()),
    "made windows": lambda: ImageEditor(ImageBuilder("linux/amd64").build()).platform("windows/amd64"),
    "made windows by its field": lambda: ImageEditor(ImageBuilder("linux/amd64").build()).set_field("os", "windows"),
}


@pytest.fixture(params=KINDS)
def builder(request: pytest.FixtureRequest) -> BaseImageBuilder:
    return KINDS[request.param]()


class TestAddedFiles:
    """R-164."""

    def test_are_below_files_with_all_parents(self, builder: BaseImageBuilder) -> None:
        found = members(builder.add_files({"app/bin/x.exe": b"MZ", "y.txt": b"1"}).build())

        assert list(found) == ["Files", "Files/app", "Files/app/bin", "Files/app/bin/x.exe", "Files/y.txt", "Hives"]

    def test_have_the_attributes_that_windows_needs(self, builder: BaseImageBuilder) -> None:
        found = members(builder.add_files({"app/x.exe": b"MZ"}, mtime=1_700_000_000).build())

        assert {name: member.pax_headers["MSWINDOWS.fileattr"] for name, member in found.items()} == {
            "Files": "16", "Files/app": "16", "Files/app/x.exe": "32", "Hives": "16",
        }  # fmt: skip
        descriptors = {name: member.pax_headers.get("MSWINDOWS.rawsd") for name, member in found.items()}
        assert (descriptors["Files"], descriptors["Hives"]) == (None, None)
        assert descriptors["Files/app/x.exe"] == OF_FILES
        assert descriptors["Files/app"] == base64.b64encode(_security_descriptor(inherited=True)).decode()
        assert {member.mtime for member in found.values()} == {1_700_000_000}

    def test_of_a_directory_are_below_files(self, builder: BaseImageBuilder, tmp_path: Path) -> None:
        (tmp_path / "sub/empty").mkdir(parents=True)
        (tmp_path / "sub/é.txt").write_bytes(b"1")

        found = members(builder.add_directory(tmp_path, "app").build())

        assert set(found) == {
            "Files", "Files/app", "Files/app/sub", "Files/app/sub/empty", "Files/app/sub/é.txt", "Hives",
        }  # fmt: skip

    def test_may_be_an_empty_directory(self, builder: BaseImageBuilder, tmp_path: Path) -> None:
        assert set(members(builder.add_directory(tmp_path, "app").build())) == {"Files", "Files/app", "Hives"}

    def test_may_be_whiteouts(self, builder: BaseImageBuilder) -> None:
        found = members(builder.add_files({"app/.wh.old.txt": b"", ".wh.gone": b""}).build())

        assert set(found) == {"Files", "Files/.wh.gone", "Files/app", "Files/app/.wh.old.txt", "Hives"}

    @pytest.mark.parametrize(
        "path", ["Files/app/x", "files/x", "Hives/System_Delta", "UtilityVM/Files/x", "app/.wh..wh..opq"]
    )
    def test_that_windows_reads_otherwise_are_refused(self, builder: BaseImageBuilder, path: str) -> None:
        with pytest.raises(Unsupported, match="layer for Windows"):
            builder.add_files({path: b""})

    @pytest.mark.parametrize(
        "path", ["C:/app/x", "app\\x", "a/x:stream", "a?", "a*", "a/b.", "a /b", "tab\t", "<a>", 'a"']
    )
    def test_with_names_that_windows_lacks_are_refused(self, builder: BaseImageBuilder, path: str) -> None:
        with pytest.raises(InvalidName, match="not a name on Windows"):
            builder.add_files({path: b"1"})

    def test_with_names_that_differ_in_case_are_refused(self, builder: BaseImageBuilder) -> None:
        with pytest.raises(InvalidName, match="the same on Windows: 'Files/App' and 'Files/app'"):
            builder.add_files({"App/x": b"1", "app/y": b"1"})

    @pytest.mark.parametrize("more", [{"mode": 0o644}, {"owner": (1000, 1000)}, {"special_modes": True}])
    def test_with_attributes_of_linux_are_refused(self, builder: BaseImageBuilder, more: dict[str, Any]) -> None:
        with pytest.raises(Unsupported, match="neither modes nor numeric owners"):
            builder.add_files({"a": b"1"}, **more)

    def test_that_are_symbolic_links_are_refused(self, builder: BaseImageBuilder, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("target")

        with pytest.raises(Unsupported, match="'link' is a symlink"):
            builder.add_directory(tmp_path)


class TestExistingLayers:
    """R-164."""

    @pytest.mark.parametrize("add", ["add_tar", "add_layer"])
    def test_for_windows_are_kept_unchanged(self, builder: BaseImageBuilder, add: str) -> None:
        found = members(getattr(builder, add)(LAYER).build())

        assert list(found) == ["Files", "Files/Windows/a.dll", "Hives"]
        assert found["Files/Windows/a.dll"].pax_headers["MSWINDOWS.fileattr"] == "33"

    @pytest.mark.parametrize("add", ["add_tar", "add_layer"])
    @pytest.mark.parametrize("names", [("app/x",), ("Files", "Filesystem/x"), ("Files", "Hives", "etc/x"), (".wh.x",)])
    def test_for_another_system_are_refused(self, builder: BaseImageBuilder, add: str, names: tuple[str, ...]) -> None:
        with pytest.raises(Unsupported, match="files must be below Files/"):
            getattr(builder, add)(tar(*names))

    def test_for_another_system_are_no_replacement(self) -> None:
        with pytest.raises(Unsupported, match="files must be below Files/"):
            ImageEditor(base()).replace_layer(0, tar("app/x"))

    def test_are_not_repacked(self, builder: BaseImageBuilder) -> None:
        with pytest.raises(Unsupported, match="attributes that Windows needs would be lost"):
            builder.add_tar(LAYER, canonical=True)

    @pytest.mark.parametrize("repack", [ImageEditor.squash, ImageEditor.canonicalise])
    def test_of_an_image_are_not_repacked(self, repack: Callable[[ImageEditor], object]) -> None:
        with pytest.raises(Unsupported, match="attributes that Windows needs would be lost"):
            repack(ImageEditor(base()))
        with pytest.raises(Unsupported):
            IndexBuilder(IndexBuilder().add(base()).build()).edit(repack)

    def test_can_be_recompressed(self) -> None:
        edited = ImageEditor(base()).recompress("zstd").build()

        assert members(edited)["Files/Windows/a.dll"].pax_headers["MSWINDOWS.fileattr"] == "33"


class TestOrderOfCalls:
    @pytest.mark.parametrize(("before", "after"), [("linux/amd64", "windows/amd64"), ("windows/amd64", "linux/amd64")])
    @pytest.mark.parametrize(
        "change",
        [lambda editor, to: editor.platform(to), lambda editor, to: editor.set_field("os", to.partition("/")[0])],
    )
    def test_a_system_that_is_set_after_layers_were_added_is_refused(
        self, before: str, after: str, change: Callable[[ImageEditor, str], object]
    ) -> None:
        """R-164."""
        editor = ImageEditor(ImageBuilder(before).build()).add_files({"a": b"1"})

        change(editor, after)

        with pytest.raises(InvalidValue, match=r"layer 1 was added for .*: set the platform before adding layers"):
            editor.build()
        change(editor, before)
        assert editor.build().platform == ImageBuilder(before).build().platform

    def test_layers_for_linux_stay_as_they_were(self) -> None:
        found = members(ImageBuilder("linux/amd64").add_files({"Files/x": b"1", "a:b": b""}).build())

        assert list(found) == ["Files", "Files/x", "a:b"]
        assert found["Files/x"].pax_headers == {}
