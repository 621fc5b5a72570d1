"""Parent directories of added files keep what the layers below give them, and their symbolic links are followed."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER_GZIP, OCI_LAYER_GZIP
from registry_core.domain.names import RepositoryName
from registry_core.errors import IntegrityError, InvalidName
from registry_core.ops.builder import lower_paths
from registry_core.ops.builder.builder import BaseImageBuilder, ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.entries import directory_entries, file_entries
from registry_core.ops.builder.index_builder import IndexBuilder
from registry_core.ops.builder.layers import LayerPart, descriptor_json
from registry_core.ops.builder.lower_paths import LowerPaths
from registry_core.ops.images import Image
from registry_core.ops.tar.members import FileKind
from registry_core.ports.catalog import BlobLocation


def tar(*members: tuple[str, Any]) -> bytes:
    """A tar of members: content, a link as ``-> target``, a hard link as ``= target``, or the mode of a directory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, int):
                member.type, member.mode, member.uid, member.gid, member.mtime = tarfile.DIRTYPE, what, 7, 8, 9
            elif what.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, what[3:]
            elif what.startswith("= "):
                member.type, member.linkname = tarfile.LNKTYPE, what[2:]
            else:
                member.size = len(what)
            archive.addfile(member, io.BytesIO(what.encode() if member.isreg() else b""))
    return stream.getvalue()


def image(*layers: bytes) -> Image:
    builder = ImageBuilder(platform="linux/amd64")
    for layer in layers:
        builder.add_layer(layer)
    return builder.build()


def names(built: Image) -> list[str]:
    """The members of the highest layer."""
    with built.layers()[-1].open_uncompressed() as reader:
        return tarfile.open(fileobj=io.BytesIO(reader.read())).getnames()


def listed(built: Image) -> dict[str, tuple[FileKind, int, int, int, float]]:
    return {entry.path: (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime) for entry in built.list_files()}


KINDS: list[Callable[[Image], BaseImageBuilder]] = [lambda base: ImageBuilder(base=base), ImageEditor]

BASE = [
    ("tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("home/app", 0o750),
    ("home/app/old", "x"),
    ("var/lib", 0o711),
]


@pytest.mark.parametrize("kind", KINDS, ids=["builder", "editor"])
class TestParents:
    """R-161."""

    @pytest.mark.parametrize(
        ("files", "written"),
        [
            ({"tmp/x": "1"}, ["tmp/x"]),
            ({"root/.netrc": "1", "home/app/f": "2"}, ["home/app/f", "root/.netrc"]),
            ({"tmp/.wh.gone": "", "root/.wh.gone": "", "home/app/.wh.old": ""},
             ["home/app/.wh.old", "root/.wh.gone", "tmp/.wh.gone"]),
            ({"home/app/.wh..wh..opq": ""}, ["home/app/.wh..wh..opq"]),
            ({"var/x": "1"}, ["var/x"]),
            ({"var/lib/new/deep/x": "1"}, ["var/lib/new", "var/lib/new/deep", "var/lib/new/deep/x"]),
            ({"new/.wh.gone": ""}, ["new/.wh.gone"]),
        ],
    )  # fmt: skip
    def test_keep_their_attributes(
        self, kind: Callable[[Image], BaseImageBuilder], files: dict[str, str], written: list[str]
    ) -> None:
        base = image(tar(*BASE))

        built = kind(base).add_files(files).build()

        assert names(built) == written
        found, before = listed(built), listed(base)
        for path, attributes in before.items():
            assert found.get(path, attributes) == attributes
        new = [path for path in written if "new" in path and path in found and found[path][0] is FileKind.DIRECTORY]
        assert {found[path] for path in new} <= {(FileKind.DIRECTORY, 0o755, 0, 0, 0)}

    @pytest.mark.parametrize("target", ["tmp", "root", "home/app", "var/lib", "var"])
    def test_and_the_target_of_a_directory_keep_their_attributes(
        self, kind: Callable[[Image], BaseImageBuilder], target: str, tmp_path: Path
    ) -> None:
        base = image(tar(*BASE))
        (tmp_path / "sub").mkdir(mode=0o700)
        (tmp_path / "sub/file").write_bytes(b"1")

        built = kind(base).add_directory(tmp_path, target).build()

        assert names(built) == [f"{target}/sub", f"{target}/sub/file"]
        assert listed(built).items() >= listed(base).items()
        assert listed(built)[f"{target}/sub"][1] == 0o700

    def test_a_new_target_has_the_attributes_of_its_content(
        self, kind: Callable[[Image], BaseImageBuilder], tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"1")

        found = listed(
            kind(image(tar(*BASE))).add_directory(tmp_path, "var/lib/new", mode=0o600, owner=(33, 34)).build()
        )

        assert found["var/lib/new"][:4] == (FileKind.DIRECTORY, 0o700, 33, 34)
        assert found["var/lib"][1:4] == (0o711, 7, 8)

    def test_and_an_empty_target_keep_their_attributes(
        self, kind: Callable[[Image], BaseImageBuilder], tmp_path: Path
    ) -> None:
        base = image(tar(*BASE))

        assert listed(kind(base).add_directory(tmp_path, "tmp").build()) == listed(base)
        assert listed(kind(base).add_directory(tmp_path, "srv").build())["srv"][:2] == (FileKind.DIRECTORY, 0o755)

    def test_of_several_layers_keep_the_attributes_of_the_highest(
        self, kind: Callable[[Image], BaseImageBuilder]
    ) -> None:
        base = image(tar(("a", 0o700), ("a/b", 0o711)), tar(("a", 0o750)), tar(("a/b/c", "1")))

        built = kind(base).add_files({"a/b/d": "1"}).build()

        assert names(built) == ["a/b/d"]
        assert (listed(built)["a"][1], listed(built)["a/b"][1]) == (0o750, 0o711)

    @pytest.mark.parametrize(
        "removed",
        [tar((".wh.a", "")), tar(("a", "file"), ("b", "1")), tar(("a/.wh.b", "")), tar(("a/.wh..wh..opq", ""))],
    )
    def test_that_a_layer_removed_are_new(self, kind: Callable[[Image], BaseImageBuilder], removed: bytes) -> None:
        base = image(tar(("a", 0o700), ("a/b", 0o700)), removed)

        built = kind(base).add_files({"a/b/c": "1"}).build()

        assert "a/b" in names(built)
        assert listed(built)["a/b"][:2] == (FileKind.DIRECTORY, 0o755)

    def test_that_are_files_become_directories(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        built = kind(image(tar(("a", "file")))).add_files({"a/b": "1"}).build()

        assert names(built) == ["a", "a/b"]


class TestIndexes:
    def test_the_images_of_an_index_keep_the_attributes_of_parents(self) -> None:
        """R-161."""
        index = IndexBuilder().add(image(tar(*BASE))).build()

        edited = IndexBuilder(index).edit(lambda editor: editor.add_files({"tmp/x": "1"})).build()

        assert names(next(edited.images())) == ["tmp/x"]


LINKS = [
    ("usr/lib", 0o755),
    ("run", 0o755),
    ("lib", "-> usr/lib"),
    ("absolute", "-> /usr/lib"),
    ("dots", "-> ./usr/../usr/./lib/"),
    ("chain", "-> lib"),
    ("srv/absolute", "-> /usr/lib"),
    ("var/run", "-> ../run"),
    ("var/up", "-> ../../../../usr"),
    ("var/deep", "-> up/lib"),
    ("again", "= lib"),
    ("root", "-> /"),
    ("dangling", "-> nowhere/yet"),
    ("loop", "-> loop"),
    ("one", "-> two"),
    ("two", "-> one"),
]


@pytest.mark.parametrize("kind", KINDS, ids=["builder", "editor"])
class TestLinks:
    """R-162."""

    @pytest.mark.parametrize(
        ("path", "written"),
        [
            ("lib/x", "usr/lib/x"),
            ("lib/sub/x", "usr/lib/sub/x"),
            ("absolute/x", "usr/lib/x"),
            ("dots/x", "usr/lib/x"),
            ("chain/x", "usr/lib/x"),
            ("srv/absolute/x", "usr/lib/x"),
            ("var/run/x.pid", "run/x.pid"),
            ("var/up/x", "usr/x"),
            ("var/deep/x", "usr/lib/x"),
            ("again/x", "usr/lib/x"),
            ("root/x", "x"),
            ("root/lib/x", "usr/lib/x"),
            ("upper/x", "usr/lib/x"),
            ("upper2/x", "usr/lib/x"),
            ("dangling/x", "nowhere/yet/x"),
            ("lib/.wh.x", "usr/lib/.wh.x"),
            ("lib/.wh..wh..opq", "usr/lib/.wh..wh..opq"),
            ("var/run/.wh.x", "run/.wh.x"),
        ],
    )
    def test_among_the_parents_are_followed(
        self, kind: Callable[[Image], BaseImageBuilder], path: str, written: str
    ) -> None:
        base = image(tar(*LINKS), tar(("upper", "= lib"), ("upper2", "= upper"), (".wh.gone", "")))

        built = kind(base).add_files({path: "1" if ".wh." not in path else ""}).build()

        assert names(built)[-1] == written
        assert {path: state for path, state in listed(built).items() if state[0] is FileKind.SYMLINK} == {
            path: state for path, state in listed(base).items() if state[0] is FileKind.SYMLINK
        }
        assert ".wh." in path or written in listed(built)

    @pytest.mark.parametrize("path", ["loop/x", "one/x", "two/sub/x"])
    def test_that_lead_to_each_other_are_refused(self, kind: Callable[[Image], BaseImageBuilder], path: str) -> None:
        with pytest.raises(InvalidName, match="leads through more than 40 symbolic links"):
            kind(image(tar(*LINKS))).add_files({path: "1"})

    def test_at_the_path_of_a_file_are_replaced(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        built = kind(image(tar(*LINKS))).add_files({"lib": "1", ".wh.chain": ""}).build()

        assert names(built) == [".wh.chain", "lib"]
        assert listed(built)["lib"][0] is FileKind.FILE
        assert "chain" not in listed(built)

    def test_that_the_new_layer_removes_are_not_followed(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        built = kind(image(tar(*LINKS))).add_files({".wh.lib": "", "lib/x": "1"}).build()

        assert names(built) == [".wh.lib", "lib", "lib/x"]
        assert listed(built)["lib"][0] is FileKind.DIRECTORY

    @pytest.mark.parametrize(
        "layer", [tar((".wh.lib", "")), tar(("lib/y", "")), tar(("lib", 0o755)), tar((".wh..wh..opq", ""))]
    )
    def test_that_a_higher_layer_removes_are_not_followed(
        self, kind: Callable[[Image], BaseImageBuilder], layer: bytes
    ) -> None:
        built = kind(image(tar(*LINKS), layer)).add_files({"lib/x": "1"}).build()

        assert names(built)[-1] == "lib/x"

    def test_of_a_higher_layer_are_followed(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        base = image(
            tar(("lib", 0o755), ("lib/x", "1")), tar((".wh.lib", ""), ("other", 0o755)), tar(("lib", "-> other"))
        )

        assert names(kind(base).add_files({"lib/x": "2"}).build()) == ["other/x"]

    def test_that_the_builder_added_are_followed(
        self, kind: Callable[[Image], BaseImageBuilder], tmp_path: Path
    ) -> None:
        (tmp_path / "data").symlink_to("srv/data")

        built = kind(image(tar(("srv", 0o700)))).add_directory(tmp_path).add_files({"data/x": "1"}).build()

        assert names(built) == ["srv/data", "srv/data/x"]

    def test_under_a_directory_on_disk_are_followed(
        self, kind: Callable[[Image], BaseImageBuilder], tmp_path: Path
    ) -> None:
        """GNU tar calls it ``--keep-directory-symlink``."""
        (tmp_path / "lib/sub").mkdir(parents=True)
        (tmp_path / "lib/sub/x").write_bytes(b"1")
        base = image(tar(*LINKS))

        assert names(kind(base).add_directory(tmp_path).build()) == ["usr/lib/sub", "usr/lib/sub/x"]
        assert names(kind(base).add_directory(tmp_path / "lib", "lib").build()) == ["usr/lib/sub", "usr/lib/sub/x"]
        assert names(kind(base).add_directory(tmp_path / "lib/sub", "chain").build()) == ["usr/lib/x"]

    def test_under_an_empty_directory_lead_to_a_directory(
        self, kind: Callable[[Image], BaseImageBuilder], tmp_path: Path
    ) -> None:
        base = image(tar(*LINKS))

        assert names(kind(base).add_directory(tmp_path, "lib").build()) == []
        assert names(kind(base).add_directory(tmp_path, "dangling").build()) == ["nowhere", "nowhere/yet"]
        with pytest.raises(InvalidName, match="more than 40 symbolic links"):
            kind(base).add_directory(tmp_path, "loop")

    def test_must_not_lead_two_files_to_one_path(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        with pytest.raises(InvalidName, match="two files with the same path: 'lib/x' and 'usr/lib/x'"):
            kind(image(tar(*LINKS))).add_files({"lib/x": "1", "usr/lib/x": "2"})

    def test_to_a_name_that_is_not_utf_8_are_refused(self, kind: Callable[[Image], BaseImageBuilder]) -> None:
        with pytest.raises(InvalidName, match="not UTF-8"):
            kind(image(tar(("odd", "-> \udcff")))).add_files({"odd/x": "1"})


class TestReading:
    def part(self, content: bytes, media_type: str = OCI_LAYER_GZIP, registry: str = "") -> tuple[LayerPart, list[int]]:
        opened: list[int] = []

        class Watched(BytesSource):
            def open(self, start: int = 0) -> Any:
                opened.append(start)
                return super().open(start)

        descriptor = Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content))
        location = BlobLocation(registry, RepositoryName("a")) if registry else None
        return LayerPart(descriptor_json(descriptor), descriptor, Watched(content), location), opened

    def resolve(self, part: LayerPart, *paths: str) -> list[str]:
        return sorted(LowerPaths().resolve(file_entries(dict.fromkeys(paths, "1")), [part]))

    @pytest.mark.parametrize(
        "registry", ["", "oci:layout", "oci:/srv/layout", "memory:", "docker-archive:a.tar", "oci-archive:5.tar"]
    )
    def test_a_layer_on_this_machine_is_read_once(self, registry: str) -> None:
        part, opened = self.part(gzip.compress(tar(("data", "-> srv"))), registry=registry)

        assert self.resolve(part, "data/x", "data/y", "other/z") == ["other", "other/z", "srv", "srv/x", "srv/y"]
        assert opened == [0]

    @pytest.mark.parametrize("registry", ["ghcr.io", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "registry.test"])
    def test_a_layer_in_a_registry_is_read_only_for_usual_links(self, registry: str) -> None:
        part, opened = self.part(gzip.compress(tar(("lib", "-> usr/lib"), ("tmp", 0o1777))), registry=registry)

        assert self.resolve(part, "tmp/x", "app/y", "z") == ["app/y", "tmp/x", "z"]
        assert opened == []

        assert self.resolve(part, "lib/x")[-1] == "usr/lib/x"
        assert opened == [0]

    def test_a_large_layer_is_read_only_for_usual_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        part, opened = self.part(gzip.compress(tar(("lib", "-> usr/lib"), ("tmp", 0o1777))))
        monkeypatch.setattr(lower_paths, "_MAX_SIZE", part.descriptor.size - 1)

        assert self.resolve(part, "tmp/x", "app/y", "z") == ["app/y", "tmp/x", "z"]
        assert opened == []
        assert self.resolve(part, "lib/x")[-1] == "usr/lib/x"

        monkeypatch.setattr(lower_paths, "_MAX_SIZE", part.descriptor.size)
        assert self.resolve(part, "app/y") == ["app", "app/y"]

    def test_a_large_layer_above_a_link_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lower, _ = self.part(gzip.compress(tar(("data", "-> srv"), ("file", "x"))))
        monkeypatch.setattr(lower_paths, "_MAX_SIZE", lower.descriptor.size)
        large = ("large" * 100, "1")
        removing, _ = self.part(gzip.compress(tar(("data", 0o700), large)))
        other, opened = self.part(gzip.compress(tar(large)))

        for upper, expected in ((removing, ["data/x"]), (other, ["srv", "srv/x"])):
            assert upper.descriptor.size > lower.descriptor.size
            assert sorted(LowerPaths().resolve(file_entries({"data/x": "1"}), [lower, upper])) == expected
        assert opened == [0]
        # It may have replaced the file, or created the directory.
        for path in ("file/x", "new/x"):
            assert sorted(LowerPaths().resolve(file_entries({path: "1"}), [lower, other])) == [path]

    def test_a_layer_that_the_builder_wrote_is_not_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "data").symlink_to("srv/data")
        monkeypatch.setattr(lower_paths, "_read_paths", None)

        built = ImageBuilder().add_directory(tmp_path).add_files({"data/x": "1"}).add_files({"data/y": "1"}).build()

        assert names(built) == ["srv/data/y"]

    def test_an_unread_layer_may_have_the_target_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"1")
        part, _ = self.part(b"", registry="ghcr.io")

        filled = directory_entries(tmp_path, "tmp")
        (tmp_path / "x").unlink()
        empty = directory_entries(tmp_path, "tmp")

        assert sorted(LowerPaths().resolve(filled, [part], target="tmp")) == ["tmp/x"]
        assert sorted(LowerPaths().resolve(empty, [part], target="tmp")) == ["tmp"]

    def test_no_layer_is_read_for_a_file_in_the_root(self) -> None:
        part, opened = self.part(gzip.compress(tar(("data", "-> srv"))))

        assert self.resolve(part, "x", ".wh.data") == [".wh.data", "x"]
        assert opened == []

    def test_lower_layers_are_not_read_if_a_higher_one_has_the_directory(self) -> None:
        upper, _ = self.part(gzip.compress(tar(("app/x", "1"))))
        lower, opened = self.part(gzip.compress(tar(("app", 0o700))))

        assert sorted(LowerPaths().resolve(file_entries({"app/y": "1"}), [lower, upper])) == ["app/y"]
        assert opened == []

    @pytest.mark.parametrize("media_type", [DOCKER_FOREIGN_LAYER_GZIP, "application/vnd.example.encrypted"])
    def test_a_layer_that_cannot_be_unpacked_is_not_read(self, media_type: str) -> None:
        part, opened = self.part(b"secret", media_type)

        assert self.resolve(part, "app/x") == ["app/x"]
        assert opened == []

    def test_a_corrupt_layer_is_an_error_that_names_it(self) -> None:
        content = gzip.compress(tar(("app", 0o700)))
        part, _ = self.part(content[:-9])

        with pytest.raises(IntegrityError) as caught:
            self.resolve(part, "app/x")

        assert caught.value.reference == str(Digest.of(content[:-9]))
