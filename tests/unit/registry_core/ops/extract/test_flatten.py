"""Flattened layers, compared by the resulting tar."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from registry_core.cancellation import CancelScope
from registry_core.content.streams import ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.errors import (
    Cancelled,
    DigestMismatch,
    IntegrityError,
    InvalidName,
    NotFound,
    TooLarge,
    UnsafeArchive,
)
from registry_core.ops.extract.files import list_files, open_file
from registry_core.ops.extract.unpack import flat_tar
from registry_core.ops.tar.members import ExtractLimits
from registry_core.testing.layers import TarLayer, member, tar

if TYPE_CHECKING:
    from tests.unit.registry_core.ops.extract.conftest import Steps

LIMITS = ExtractLimits()


def flat(*layers: TarLayer) -> bytes:
    with flat_tar(layers, LIMITS) as stream:
        return stream.read()


def shape(*layers: TarLayer) -> dict[str, str]:
    """The flattened files by path: ``/`` for directories, ``-> text``, ``= target`` for hard links, or the content."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(flat(*layers))) as archive:
        for info in archive:
            assert info.name not in found
            if info.isdir():
                found[info.name] = "/"
            elif info.issym():
                found[info.name] = f"-> {info.linkname}"
            elif info.islnk():
                found[info.name] = f"= {info.linkname}"
            elif info.isreg():
                content = archive.extractfile(info)
                assert content is not None
                found[info.name] = content.read().decode()
            else:
                found[info.name] = f"type {info.type.decode()}"
    return found


def folder(name: str, mode: int = 0o755, mtime: int = 0) -> bytes:
    return member(name, kind="5", mode=mode, mtime=mtime)


def link(name: str, target: str) -> bytes:
    return member(name, kind="1", link=target)


def symlink(name: str, text: str) -> bytes:
    return member(name, kind="2", link=text)


class TestWhiteouts:
    def test_a_whiteout_and_its_target_are_not_in_the_result(self) -> None:
        """R-150: the example of layer.md."""
        lower = tar(member("file1"), member("a/file2"), folder("b"), member("c/file3", b"3"))
        upper = tar(member(".wh.file1"), member("a/.wh.file2"), member(".wh.b"), member("file4", b"4"))

        assert shape(lower, upper) == {"a": "/", "c": "/", "c/file3": "3", "file4": "4"}

    @pytest.mark.parametrize("first", [True, False])
    def test_a_whiteout_does_not_apply_to_its_own_layer_in_any_order(self, first: bool) -> None:
        """R-150, R-153."""
        parts = [member("a/.wh.b"), folder("a"), folder("a/b"), member("a/b/new", b"n")]
        upper = tar(*(parts if first else reversed(parts[1:])), *([] if first else parts[:1]))

        assert shape(tar(folder("a"), folder("a/b"), member("a/b/old")), upper) == {
            "a": "/",
            "a/b": "/",
            "a/b/new": "n",
        }

    @pytest.mark.parametrize("first", [True, False])
    def test_an_opaque_whiteout_hides_only_lower_content_in_any_order(self, first: bool) -> None:
        """R-154: the example of layer.md."""
        lower = tar(folder("a"), folder("a/b"), folder("a/b/c"), member("a/b/c/bar"))
        parts = [folder("a"), folder("a/b"), folder("a/b/c"), member("a/b/c/foo", b"f")]
        marker = member("a/.wh..wh..opq")
        upper = tar(*([marker, *parts] if first else [*parts, marker]))

        assert shape(lower, upper) == {"a": "/", "a/b": "/", "a/b/c": "/", "a/b/c/foo": "f"}

    def test_an_opaque_root_hides_all_lower_layers(self) -> None:
        """R-154."""
        assert shape(tar(member("old")), tar(member(".wh..wh..opq"), member("new", b"n"))) == {"new": "n"}

    def test_an_opaque_directory_itself_is_kept(self) -> None:
        """R-154."""
        lower = tar(folder("a", 0o700), member("a/b"))

        assert shape(lower, tar(member("a/.wh..wh..opq"))) == {"a": "/"}

    def test_a_path_that_a_higher_layer_adds_again_is_kept(self) -> None:
        """R-150."""
        assert shape(tar(member("a", b"1")), tar(member(".wh.a")), tar(member("a", b"3"))) == {"a": "3"}

    def test_a_whiteout_applies_below_a_directory_that_a_higher_layer_adds_again(self) -> None:
        """R-153."""
        lower = tar(folder("d", 0o700), member("d/old"))

        found = shape(lower, tar(member(".wh.d")), tar(member("d/new", b"n")))

        assert found == {"d": "/", "d/new": "n"}

    def test_a_whiteout_of_a_symbolic_link_removes_only_the_link(self) -> None:
        """R-152."""
        lower = tar(folder("real"), member("real/file", b"r"), symlink("link", "real"))

        assert shape(lower, tar(member(".wh.link"))) == {"real": "/", "real/file": "r"}

    @pytest.mark.parametrize("marker", ["link/.wh.file", "link/.wh..wh..opq"])
    def test_a_whiteout_does_not_follow_a_symbolic_link(self, marker: str) -> None:
        """R-152."""
        lower = tar(folder("real"), member("real/file", b"r"), symlink("link", "real"))

        assert shape(lower, tar(member(marker))) == {"real": "/", "real/file": "r", "link": "-> real"}

    def test_a_whiteout_of_a_missing_path_has_no_effect(self) -> None:
        assert shape(tar(member("a")), tar(member("b/.wh.c"))) == {"a": ""}

    def test_private_files_of_aufs_are_omitted(self) -> None:
        """R-150."""
        layer = tar(member(".wh..wh.aufs"), folder(".wh..wh.plnk"), member(".wh..wh.plnk/1"), member("a"))

        assert shape(layer) == {"a": ""}


class TestReplacements:
    def test_a_file_replaces_a_directory_and_the_reverse(self) -> None:
        """R-153."""
        one = tar(folder("x"), member("x/deep/file"))
        two = tar(member("x", b"file"))
        three = tar(folder("x"), member("x/new", b"n"))

        assert shape(one, two) == {"x": "file"}
        assert shape(one, two, three) == {"x": "/", "x/new": "n"}

    def test_a_directory_over_a_directory_changes_attributes_only(self) -> None:
        """R-153."""
        content = flat(tar(folder("x", 0o700), member("x/a")), tar(folder("x", 0o750, 5)))

        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            info = archive.getmember("x")
            assert (info.mode, info.mtime) == (0o750, 5)
            assert "x/a" in archive.getnames()

    def test_attributes_of_a_removed_directory_are_not_restored(self) -> None:
        """R-153."""
        content = flat(tar(folder("x", 0o700)), tar(member("x")), tar(member("x/a")))

        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert archive.getmember("x").mode == 0o755

    @pytest.mark.parametrize("lower", [symlink("x", "/etc"), member("x", b"file")])
    @pytest.mark.parametrize("named", [True, False])
    def test_a_directory_replaces_any_lower_entry(self, lower: bytes, named: bool) -> None:
        """R-131, R-153, R-156: also an implied directory, so no entry is below a link."""
        upper = tar(*([folder("x")] if named else []), member("x/passwd", b"p"))

        assert shape(tar(lower), upper) == {"x": "/", "x/passwd": "p"}

    def test_implied_directories_are_in_the_result(self) -> None:
        assert shape(tar(member("a/b")), tar(member("a/.wh.b"))) == {"a": "/"}


class TestHardLinks:
    """R-134."""

    def test_a_link_follows_its_target_even_if_a_lower_layer_has_the_target(self) -> None:
        """R-156."""
        found = shape(tar(member("z/target", b"t")), tar(link("a", "z/target")))

        assert found == {"z": "/", "z/target": "t", "a": "= z/target"}
        assert list(found).index("z/target") < list(found).index("a")

    @pytest.mark.parametrize("removal", [member(".wh.t"), member("t", b"new"), folder("t"), symlink("t", "x")])
    def test_a_link_is_kept_if_its_target_is_removed(self, removal: bytes) -> None:
        found = shape(tar(member("t", b"old"), link("l", "t"), link("m", "l")), tar(removal))

        assert found["l"] == "old"
        assert found["m"] == "= l"
        assert found.get("t") != "old"

    def test_a_link_to_a_lower_file_is_kept_if_a_third_layer_removes_the_target(self) -> None:
        assert shape(tar(member("t", b"old")), tar(link("l", "t")), tar(member(".wh.t"))) == {"l": "old"}

    def test_a_link_is_kept_if_the_directory_of_its_target_is_removed(self) -> None:
        found = shape(tar(member("d/t", b"old")), tar(link("l", "d/t")), tar(member("d/.wh..wh..opq")))

        assert found == {"l": "old", "d": "/"}

    def test_a_link_refers_to_the_file_below_its_own_layer(self) -> None:
        layers = [tar(member("t", b"1")), tar(link("l", "t")), tar(member("t", b"3")), tar(link("m", "t"))]

        assert shape(*layers) == {"l": "1", "t": "3", "m": "= t"}

    def test_a_link_to_a_file_that_its_own_layer_hides_refers_to_the_lower_file(self) -> None:
        """R-153: in any order."""
        for parts in ([member(".wh.t"), link("l", "t")], [link("l", "t"), member(".wh.t")]):
            assert shape(tar(member("t", b"1")), tar(*parts)) == {"l": "1"}

    def test_links_to_links_of_several_layers_are_one_file(self) -> None:
        layers = [tar(member("t", b"1"), link("u", "t")), tar(link("v", "u")), tar(link("w", "v"), member(".wh.u"))]

        found = shape(*layers)

        assert found == {"t": "1", "v": "= t", "w": "= t"}

    def test_a_layer_is_read_twice_only_for_a_link_to_a_hidden_file(self) -> None:
        lower = tar(member("t", b"1"), link("l", "t"))

        flat(lower, tar(member("x")))
        once = lower.opened
        flat(lower, tar(member(".wh.t")))

        assert (once, lower.opened - once) == (1, 2)

    def test_an_error_in_a_tar_names_the_layer(self) -> None:
        with pytest.raises(UnsafeArchive, match=r"^layer 2 of 3: path contains '\.\.'"):
            shape(tar(member("a")), tar(member("../b")), tar(member("c")))

    def test_an_error_in_the_content_of_a_file_names_the_layer(self) -> None:
        truncated = TarLayer(tar(member("b", b"1234")).content[:515])

        with pytest.raises(IntegrityError, match=r"^layer 2 of 3: truncated tar"):
            flat(tar(member("a")), truncated, tar(member("c")))

    @pytest.mark.parametrize("lower", [tar(member("a")), tar(folder("t")), tar(member("t/x"))])
    def test_the_error_of_a_link_without_a_target_names_the_layer_of_the_link(self, lower: TarLayer) -> None:
        with pytest.raises(UnsafeArchive, match=r"^layer 2 of 3: hard link to a missing file: 'l' to 't'"):
            shape(lower, tar(link("l", "t")), tar(member("c")))

    def test_the_error_of_a_link_to_a_removed_file_names_the_layer_of_the_link(self) -> None:
        with pytest.raises(UnsafeArchive, match=r"^layer 3 of 3: hard link to a missing file: 'l' to 't'"):
            shape(tar(member("t")), tar(member(".wh.t")), tar(link("l", "t")))

    @pytest.mark.parametrize("target", ["missing", "", ".", "d", "l", ".wh.t", "../t", "d/t/x"])
    def test_a_link_to_anything_else_is_refused(self, target: str) -> None:
        with pytest.raises(UnsafeArchive):
            shape(tar(folder("d"), member("d/t"), link("l", target)))

    def test_the_target_of_a_link_does_not_lead_through_a_symbolic_link(self) -> None:
        with pytest.raises(UnsafeArchive):
            shape(tar(folder("d"), member("d/t"), symlink("s", "d")), tar(link("l", "s/t")))

    @pytest.mark.parametrize("hidden", [member(".wh.t"), member("t/x"), folder("t")])
    def test_a_link_to_a_removed_file_is_refused(self, hidden: bytes) -> None:
        with pytest.raises(UnsafeArchive):
            shape(tar(member("t")), tar(hidden), tar(link("l", "t")))

    @pytest.mark.parametrize("hidden", [member("d/.wh..wh..opq"), member(".wh.d"), member("d"), member("d/.wh.t")])
    def test_a_link_to_a_file_in_a_hidden_directory_is_refused(self, hidden: bytes) -> None:
        with pytest.raises(UnsafeArchive):
            shape(tar(member("d/t")), tar(hidden), tar(link("l", "d/t")))

    @pytest.mark.parametrize("other", [symlink("o", "/etc/passwd"), member("o", kind="6")])
    def test_a_link_to_anything_but_a_file_becomes_a_copy(self, other: bytes) -> None:
        """layer.md, "Hardlinks": all kinds except directories can be linked to. No tool can follow a copy."""
        for layers in ([tar(other, link("l", "o"))], [tar(other), tar(link("l", "o"))]):
            found = shape(*layers)

            assert found["l"] == found["o"]


class TestRepeatedMembers:
    """R-135."""

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ([member("a", b"1")], {"a": "1"}),
            ([member("a", b"x" * 100_000)], {"a": "x" * 100_000}),
            ([member("a", b"")], {"a": ""}),
            ([member("t", b"1"), symlink("a", "t")], {"t": "1", "a": "-> t"}),
            ([member("t", b"1"), link("a", "t")], {"t": "1", "a": "= t"}),
            ([member("a", kind="6")], {"a": "type 6"}),
            ([member("a", kind="3", patch={329: b"0000010\0"})], {"a": "type 3"}),
            ([member(".wh.lower")], {}),
        ],
    )
    @pytest.mark.parametrize("upper", [[], [tar(member("other"), member(".wh.other"))]])
    def test_members_that_are_the_same_to_the_byte_are_accepted(
        self, parts: list[bytes], expected: dict[str, str], upper: list[TarLayer]
    ) -> None:
        layer = tar(*parts, *parts, *parts)
        added = {"other": ""} if upper else {}

        assert shape(layer, *upper) == expected | added
        assert {entry.path for entry in list_files([layer], LIMITS)} == set(expected)

    def test_names_may_be_spelt_in_several_ways(self) -> None:
        assert shape(tar(member("a", b"1"), member("./a", b"1"), member("/a", b"1"))) == {"a": "1"}

    @pytest.mark.parametrize(
        "parts",
        [
            [member("a", b"1"), member("a", b"2")],
            [member("a", b"1" * 100_000 + b"1"), member("a", b"1" * 100_000 + b"2")],
            [member("a", b"1"), member("a", b"11")],
            [member("a", b"1"), member("a", b"1", mtime=1)],
            [member("a", b"1"), member("a", b"1", mode=0o755)],
            [member("a", b"1"), member("a", b"1", uid=1)],
            [member("a", b"1"), member("a", b"1", pax={b"SCHILY.xattr.user.x": b"1"})],
            [member("a", b"1"), member("a", b"1"), member("a", b"2")],
            [symlink("a", "x"), symlink("a", "y")],
            [member("a"), symlink("a", "x")],
            [member("x"), link("a", "x"), member("a")],
            [member("x"), member("y"), link("a", "x"), link("a", "y")],
            [member("a", kind="3"), member("a", kind="4")],
            [member("a", kind="6"), member("a")],
        ],
    )
    @pytest.mark.parametrize("upper", [[], [tar(member("a", b"hides it"))], [tar(member(".wh.a"))]])
    def test_members_that_differ_are_refused_even_if_they_are_hidden(
        self, parts: list[bytes], upper: list[TarLayer]
    ) -> None:
        layers = [tar(*parts), *upper]

        with pytest.raises(UnsafeArchive):
            shape(*layers)
        with pytest.raises(UnsafeArchive):
            list(list_files(layers, LIMITS))

    def test_a_file_that_differs_is_not_opened(self) -> None:
        with pytest.raises(UnsafeArchive, match="'a'"):
            open_file([tar(member("a", b"1"), member("a", b"2"))], "a", LIMITS)

    @pytest.mark.parametrize("size", [3, 3 << 20])
    def test_a_repeated_file_is_opened_once(self, size: int) -> None:
        with open_file([tar(*[member("a", b"x" * size)] * 3)], "a", LIMITS) as reader:
            assert reader.read() == b"x" * size

    def test_a_hidden_file_that_a_link_needs_may_be_repeated(self) -> None:
        layer = tar(member("t", b"1"), member("t", b"1"), link("l", "t"))

        assert shape(layer, tar(member(".wh.t"))) == {"l": "1"}

    @pytest.mark.parametrize("parts", [[member("t", b"2")], [symlink("t", "x")], [member("s"), link("t", "s")]])
    def test_a_link_whose_target_is_replaced_between_is_refused(self, parts: list[bytes]) -> None:
        """One reader gives it the lower file, another one the new file."""
        with pytest.raises(UnsafeArchive, match="repeated after its target was replaced"):
            shape(tar(member("t", b"1")), tar(link("l", "t"), *parts, link("l", "t")))

    def test_a_link_to_a_lower_file_may_be_repeated(self) -> None:
        assert shape(tar(member("t", b"1")), tar(link("l", "t"), link("l", "t"))) == {"t": "1", "l": "= t"}

    def test_a_layer_without_repeated_members_is_read_once(self) -> None:
        layer, repeated = tar(member("a", b"1"), folder("d"), folder("d")), tar(member("a", b"1"), member("a", b"1"))

        flat(layer)
        flat(repeated)

        assert (layer.opened, repeated.opened) == (1, 2)

    def test_repeated_members_count_as_entries(self) -> None:
        with pytest.raises(TooLarge):
            list(list_files([tar(*[member("a")] * 20)], ExtractLimits(entries=10)))

    def test_repeated_attributes_are_not_kept_in_memory(self) -> None:
        parts = [member(f"{number}", pax={b"SCHILY.xattr.user.x": b"x" * 50_000}) for number in range(100)]
        layer = tar(*parts, *parts)
        tracemalloc.start()
        try:
            flat(layer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        # The flattened tar has all the attributes once, 5 MB of them; a reader that kept them would need as much again.
        assert peak < 17 << 20


class TestPseudoLinksOfAufs:
    """R-157."""

    STORE = (folder(".wh..wh.plnk"), member(".wh..wh.plnk/12.34", b"x", mode=0o751, uid=7))
    TARGET = ".wh..wh.plnk/12.34"

    @pytest.mark.parametrize("first", [True, False])
    def test_a_link_is_the_file(self, first: bool) -> None:
        parts = [link("usr/bin/a", self.TARGET)]
        layer = tar(*((*self.STORE, *parts) if first else (*parts, *self.STORE)))

        assert shape(layer) == {"usr": "/", "usr/bin": "/", "usr/bin/a": "x"}
        [entry] = [entry for entry in list_files([layer], LIMITS) if entry.path == "usr/bin/a"]
        assert (entry.size, entry.mode, entry.uid) == (1, 0o751, 7)
        with open_file([layer], "usr/bin/a", LIMITS) as reader:
            assert reader.read() == b"x"

    def test_several_links_are_one_file(self) -> None:
        layer = tar(
            link("a", self.TARGET), *self.STORE, link("b", self.TARGET), link("c", "b"), link("d", "/" + self.TARGET)
        )

        assert shape(layer) == {"a": "x", "b": "= a", "c": "= a", "d": "= a"}
        for name in "abcd":
            with open_file([layer], name, LIMITS) as reader:
                assert reader.read() == b"x"

    def test_links_of_upper_layers_lead_to_the_file(self) -> None:
        lower = tar(*self.STORE, link("a", self.TARGET))

        assert shape(lower, tar(link("b", "a"))) == {"a": "x", "b": "= a"}
        assert shape(lower, tar(link("b", "a"), member(".wh.a"))) == {"b": "x"}

    def test_a_hidden_link_does_not_matter(self) -> None:
        assert shape(tar(*self.STORE, link("a", self.TARGET)), tar(member("a", b"new"))) == {"a": "new"}

    @pytest.mark.parametrize(
        "layers",
        [
            [tar(link("a", TARGET))],
            [tar(*STORE), tar(link("a", TARGET))],
            [tar(link("a", TARGET)), tar(*STORE)],
            [tar(symlink(TARGET, "/etc/passwd"), link("a", TARGET))],
            [tar(folder(TARGET), link("a", TARGET))],
            [tar(member(".wh..wh.orph/1", b"x"), link("a", ".wh..wh.orph/1"))],
            [tar(member("d/.wh..wh.plnk/1", b"x"), link("a", "d/.wh..wh.plnk/1"))],
            [tar(*STORE, member(TARGET, b"y"), link("a", TARGET))],
        ],
    )
    def test_only_files_of_the_same_layer_are_targets(self, layers: list[TarLayer]) -> None:
        with pytest.raises(UnsafeArchive):
            shape(*layers)
        with pytest.raises(UnsafeArchive):
            list(list_files(layers, LIMITS))

    def test_the_file_may_be_repeated(self) -> None:
        assert shape(tar(*self.STORE, *self.STORE, link("a", self.TARGET))) == {"a": "x"}

    @pytest.mark.parametrize("path", [TARGET, ".wh..wh.plnk"])
    def test_the_directory_is_not_part_of_the_image(self, path: str) -> None:
        with pytest.raises(NotFound):
            open_file([tar(*self.STORE, link("a", self.TARGET))], path, LIMITS)


class TestSafety:
    """R-156."""

    def test_directories_precede_their_content_with_attributes_of_lower_layers(self) -> None:
        content = flat(tar(folder("a", 0o700), folder("a/b", 0o711), member("a/b/x")), tar(member("a/b/y")))

        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert archive.getnames() == ["a", "a/b", "a/b/y", "a/b/x"]
            assert [archive.getmember(name).mode for name in ("a", "a/b")] == [0o700, 0o711]

    def test_names_are_clean(self) -> None:
        assert shape(tar(folder("./"), folder("/abs//dir/"), member("./abs/dir/./f"))) == {
            "abs": "/",
            "abs/dir": "/",
            "abs/dir/f": "",
        }

    @pytest.mark.parametrize(
        "parts",
        [
            [symlink("a", "/etc"), member("a/passwd")],
            [member("a/passwd"), symlink("a", "/etc")],
            [member("a"), folder("a")],
            [folder("a"), member("a")],
            [folder("a", 0o700), folder("a", 0o755)],
            [member("a"), member("a/b/c")],
        ],
    )
    def test_contradictory_members_of_a_layer_are_refused(self, parts: list[bytes]) -> None:
        """R-131, R-135: the first of two members with one path has already been yielded."""
        with pytest.raises(UnsafeArchive):
            shape(tar(*parts))

    def test_a_directory_may_be_repeated_with_equal_attributes(self) -> None:
        assert shape(tar(folder("a"), folder("a/"), member("a/b"))) == {"a": "/", "a/b": ""}

    def test_the_same_layers_give_the_same_bytes(self) -> None:
        layers = [tar(member("b"), member("a/x")), tar(member("c"), link("d", "b"))]

        assert flat(*layers) == flat(*layers)

    def test_values_that_ustar_cannot_hold_are_kept(self) -> None:
        """R-136."""
        pax = {
            b"path": b"long/" + b"n" * 200,
            b"mtime": b"1.5",
            b"uid": b"3000000",
            b"SCHILY.xattr.user.k": b"v",
        }
        layer = tar(member("x", pax=pax), member("s", kind="2", pax={b"linkpath": b"t" * 200}), member(b"\xff" * 90))

        with tarfile.open(fileobj=io.BytesIO(flat(layer)), errors="surrogateescape") as archive:
            first, second, third = (info for info in archive if not info.isdir())

        assert first.name == "long/" + "n" * 200
        assert (first.mtime, first.uid) == (1.5, 3000000)
        assert first.pax_headers["SCHILY.xattr.user.k"] == "v"
        assert second.linkname == "t" * 200
        assert third.name.encode("utf-8", "surrogateescape") == b"\xff" * 90

    @pytest.mark.parametrize("mtime", [b"1.5", b"-1.5", b"-1", b"0.000000001", b"99999999999"])
    def test_times_are_exact(self, mtime: bytes) -> None:
        layer = tar(member("x", pax={b"mtime": mtime}))

        [before] = list_files([layer], LIMITS)
        [after] = list_files([TarLayer(flat(layer))], LIMITS)

        assert after.mtime == before.mtime == float(mtime)

    def test_long_names_that_are_not_utf8_are_kept(self) -> None:
        """R-136."""
        name = b"d/" + b"\xff" * 150
        layer = tar(member("L", name + b"\0", kind="L"), member("x", b"1"))

        again = TarLayer(flat(layer))

        assert flat(again) == again.content

    def test_flattening_is_idempotent(self) -> None:
        once = flat(tar(folder("a", 0o700, 7), member("a/f", b"x", mode=0o4755, uid=9)), tar(link("a/g", "a/f")))

        assert flat(TarLayer(once)) == once

    def test_holes_are_written_as_zeros(self) -> None:
        pax = {b"GNU.sparse.map": b"1000000,1", b"GNU.sparse.size": b"2000000"}

        assert shape(tar(member("s", b"x", pax=pax)))["s"] == "\0" * 1_000_000 + "x" + "\0" * 999_999

    def test_no_layers_make_an_empty_tar(self) -> None:
        assert flat() == bytes(1024)


class TestStream:
    def test_it_can_be_read_in_chunks_of_any_size(self) -> None:
        layer = tar(member("a", b"x" * 3000), member("b"))

        with flat_tar([layer], LIMITS) as stream:
            pieces = list(iter(lambda: stream.read(7), b""))

        assert b"".join(pieces) == flat(layer)
        assert max(map(len, pieces)) == 7

    def test_it_fills_buffers(self) -> None:
        buffer = bytearray(512)

        with flat_tar([tar(member("a"))], LIMITS) as stream:
            count = stream.readinto(buffer)

        assert buffer[:count].startswith(b"a\0")

    def test_an_error_is_raised_again_by_the_next_read(self) -> None:
        """R-007: an error does not look like the end of the stream."""
        with flat_tar([TarLayer(b"garbage!" * 64)], LIMITS) as stream:
            for _ in range(2):
                with pytest.raises(IntegrityError):
                    stream.read()

    def test_an_error_of_another_library_is_not_the_end_of_the_stream(self) -> None:
        """R-007."""

        class Broken(TarLayer):
            def open_uncompressed(self) -> ByteReader:
                raise MemoryError

        with flat_tar([Broken(b"")], LIMITS) as stream:
            for _ in range(2):
                with pytest.raises(MemoryError):
                    stream.read()

    def test_a_closed_stream_cannot_be_read(self) -> None:
        stream = flat_tar([tar(member("a"))], LIMITS)
        stream.close()
        stream.close()

        with pytest.raises(ValueError, match="closed"):
            stream.read()

    def test_a_cancelled_read_raises(self) -> None:
        with CancelScope() as scope, flat_tar([tar(member("a"))], LIMITS) as stream:
            scope.cancel()
            with pytest.raises(Cancelled):
                stream.read()

    def test_memory_does_not_grow_with_content(self) -> None:
        """R-140."""
        layer = tar(member("a", bytes(40 << 20)))
        tracemalloc.start()
        try:
            with flat_tar([layer], LIMITS) as stream:
                while stream.read(1 << 16):
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 8 << 20


class TestCost:
    """Eight times the input takes little more than eight times the steps."""

    def test_many_whiteouts_over_many_entries(self, steps: Steps) -> None:
        """R-155."""

        def cost(count: int) -> int:
            lower = tar(*(member(f"d/{number}") for number in range(count)))
            upper = tar(*(member(f"d/.wh.{number}") for number in range(count)))
            return steps(lambda: list(list_files([lower, upper], LIMITS)))

        assert cost(1600) < 10 * cost(200)

    def test_many_opaque_directories(self, steps: Steps) -> None:
        """R-155."""

        def cost(count: int) -> int:
            lower = tar(*(member(f"d/{number}/file") for number in range(count)))
            upper = tar(*(member(f"d/{number}/.wh..wh..opq") for number in range(count)))
            return steps(lambda: list(list_files([lower, upper], LIMITS)))

        assert cost(1600) < 10 * cost(200)

    def test_many_links_to_one_hidden_file(self, steps: Steps) -> None:
        """R-155."""

        def cost(count: int) -> int:
            lower = tar(member("t", b"t"), *(link(f"l{number}", "t") for number in range(count)))
            return steps(lambda: list(list_files([lower, tar(member(".wh.t"))], LIMITS)))

        assert cost(1600) < 10 * cost(200)

    def test_links_to_lower_files_cost_the_same_at_any_depth(self, steps: Steps) -> None:
        """R-155: the parents of the target are not searched for each link."""

        def cost(depth: int) -> int:
            folders = "d/" * depth
            lower = tar(*(member("x", pax={b"path": f"{folders}{number}".encode()}) for number in range(300)))
            links = (
                member(f"l{number}", kind="1", pax={b"linkpath": f"{folders}{number}".encode()})
                for number in range(300)
            )
            upper = tar(*links)
            alone = steps(lambda: list(list_files([lower], LIMITS)))
            return steps(lambda: list(list_files([lower, upper], LIMITS))) - alone

        assert cost(300) < 3 * cost(2)

    def test_many_layers(self, steps: Steps) -> None:
        def cost(count: int) -> int:
            layers = [tar(member("a", b"%d" % number), member(f"d/{number}")) for number in range(count)]
            return steps(lambda: list(list_files(layers, LIMITS)))

        assert cost(400) < 10 * cost(50)

    def test_deep_names_need_no_recursion(self) -> None:
        """R-137."""
        deep = "/".join(["d"] * 3000)
        layer = tar(member("x", pax={b"path": deep.encode()}))

        assert len(list(list_files([layer], LIMITS))) == 3000
        assert flat(layer)

    def test_names_that_are_too_deep_are_refused(self) -> None:
        """R-137."""
        with pytest.raises(TooLarge):
            flat(tar(member("x", pax={b"path": b"d/" * 100_000})))

    def test_metadata_of_links_and_directories_is_limited(self) -> None:
        """R-140: targets of links, and attributes of directories."""
        limits = ExtractLimits(name_bytes=10_000)
        for bad in (
            member("s", kind="2", pax={b"linkpath": b"t" * 10_001}),
            member("d", kind="5", pax={b"SCHILY.xattr.user.a": b"t" * 10_001}),
        ):
            with pytest.raises(TooLarge):
                list(list_files([tar(bad)], limits))

        assert len(list(list_files([tar(member("f", pax={b"SCHILY.xattr.user.a": b"t" * 10_001}))], limits))) == 1


class TestListing:
    def test_every_path_is_listed_once(self) -> None:
        layers = [
            tar(folder("a", 0o700), member("a/b", b"12", uid=5, mtime=9)),
            tar(symlink("s", "a/b"), link("h", "a/b")),
        ]

        found = {entry.path: entry for entry in list_files(layers, LIMITS)}

        assert set(found) == {"a", "a/b", "s", "h"}
        assert (found["a/b"].size, found["a/b"].uid, found["a/b"].mtime) == (2, 5, 9.0)
        assert found["s"].link == "a/b"
        assert found["h"].link == "a/b"
        assert found["a"].kind.value == "directory"

    def test_names_that_are_not_utf8_are_listed_as_by_fsdecode(self) -> None:
        """R-136."""
        assert [entry.path for entry in list_files([tar(member(b"\xff"))], LIMITS)] == ["\udcff"]


class TestSingleFiles:
    LAYERS = (
        tar(
            folder("usr"),
            folder("usr/lib"),
            member("usr/lib/os-release", b"ID=debian\n"),
            symlink("lib", "usr/lib"),
            symlink("abs", "/usr/lib/../lib/os-release"),
            symlink("usr/abs", "/usr/lib/os-release"),
            symlink("loop", "loop"),
            symlink("out", "../../../../usr/lib/os-release"),
            symlink("gone", "nowhere"),
            member("fifo", kind="6"),
            member("secret", b"s"),
        ),
        tar(
            folder("etc"), symlink("etc/os-release", "../lib/os-release"), member(".wh.secret"), link("hard", "secret")
        ),
    )

    @pytest.mark.parametrize(
        "path",
        [
            "etc/os-release",
            "/etc/os-release",
            "./etc//os-release",
            "lib/os-release",
            "abs",
            "usr/abs",
            "out",
            "../../usr/lib/os-release",
        ],
    )
    def test_links_are_followed_inside_the_image(self, path: str) -> None:
        """R-131."""
        with open_file(self.LAYERS, path, LIMITS) as reader:
            assert reader.read() == b"ID=debian\n"

    @pytest.mark.parametrize(
        "path", ["secret", "nothing", "usr/nothing", "usr", "", "/", "loop", "gone", "fifo", "hard/x", "hard/"]
    )
    def test_anything_but_a_file_is_not_found(self, path: str) -> None:
        with pytest.raises(NotFound):
            open_file(self.LAYERS, path, LIMITS)

    @pytest.mark.parametrize("path", ["a\0b", "a" * 40_000, 3, None, b"hard"])
    def test_an_invalid_path_is_refused(self, path: Any) -> None:
        with pytest.raises(InvalidName, match="not a path"):
            open_file(self.LAYERS, path, LIMITS)

    def test_a_path_is_text_or_a_path_object(self) -> None:
        with open_file(self.LAYERS, PurePosixPath("hard"), LIMITS) as reader:
            assert reader.read() == b"s"

    def test_a_hard_link_opens_its_target(self) -> None:
        with open_file(self.LAYERS, "hard", LIMITS) as reader:
            assert reader.read() == b"s"

    def test_lower_layers_are_not_read_if_an_upper_layer_has_the_file(self) -> None:
        lower = tar(member("a", b"old"))

        with open_file([lower, tar(member("a", b"new"))], "a", LIMITS) as reader:
            content = reader.read()

        assert (content, lower.opened) == (b"new", 0)

    @pytest.mark.parametrize(("size", "times"), [(1000, 1), (2 << 20, 2)])
    def test_the_layer_of_a_small_file_is_read_once(self, size: int, times: int) -> None:
        layer = tar(symlink("etc/link", "../usr/file"), member("usr/file", b"x" * size))

        with open_file([layer], "etc/link", LIMITS) as reader:
            content = reader.read()

        assert content == b"x" * size
        assert layer.opened == times

    def test_the_last_byte_is_returned_only_when_the_layer_is_verified(self) -> None:
        """R-006, R-007."""

        class Turned(TarLayer):
            """A layer with other trailing data when it is read again."""

            def open_uncompressed(self) -> ByteReader:
                if self.opened:
                    self.content += b"x"
                return VerifyingReader(super().open_uncompressed(), digest, None)

        content = bytes(2 << 20)
        layer = Turned(tar(member("a", content)).content)
        digest = Digest.of(layer.content)

        with open_file([layer], "a", LIMITS) as reader, pytest.raises(DigestMismatch):
            count = 0
            while count < len(content):
                count += len(reader.read(1 << 16))
