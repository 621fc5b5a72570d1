"""Images extracted to directories."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_core.cancellation import CancelScope
from registry_core.content.streams import ByteReader, FileObjectReader
from registry_core.errors import Cancelled, DigestMismatch, IntegrityError, InvalidValue, TooLarge, UnsafeArchive
from registry_core.ops.extract.unpack import Extracted, ExtractOptions, extract_to
from registry_core.ops.tar.members import ExtractLimits
from registry_core.testing.layers import TarLayer, member, tar

ROOT = os.geteuid() == 0


def unpack(
    directory: Path, *layers: TarLayer, options: ExtractOptions | None = None, limits: ExtractLimits | None = None
) -> Extracted:
    return extract_to(
        layers, directory, options=options or ExtractOptions(), limits=limits or ExtractLimits(), reference="the image"
    )


def folder(name: str, mode: int = 0o755, mtime: int = 0) -> bytes:
    return member(name, kind="5", mode=mode, mtime=mtime)


def test_every_kind_of_file_is_created(tmp_path: Path) -> None:
    layer = tar(
        folder("etc", 0o750, 11),
        member("etc/motd", b"hello", mode=0o640, mtime=22),
        member("etc/link", kind="2", link="/nowhere", mtime=33),
        member("etc/hard", kind="1", link="etc/motd"),
    )

    extracted = unpack(tmp_path / "new", layer)

    etc = tmp_path / "new" / "etc"
    assert extracted == Extracted(4, ())
    assert (stat.S_IMODE(etc.stat().st_mode), etc.stat().st_mtime) == (0o750, 11)
    assert (etc / "motd").read_bytes() == b"hello"
    assert (stat.S_IMODE((etc / "motd").stat().st_mode), (etc / "motd").stat().st_mtime) == (0o640, 22)
    assert (os.readlink(etc / "link"), (etc / "link").lstat().st_mtime) == ("/nowhere", 33)
    assert (etc / "hard").samefile(etc / "motd")


def test_an_existing_directory_keeps_its_inode(tmp_path: Path) -> None:
    """R-133."""
    before = tmp_path.stat().st_ino

    unpack(tmp_path, tar(folder(".", 0o711, 5), member("a")))

    assert tmp_path.stat().st_ino == before
    assert (stat.S_IMODE(tmp_path.stat().st_mode), tmp_path.stat().st_mtime) == (0o711, 5)


def test_a_new_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    """R-006."""
    seen: list[list[str]] = []

    class Watched(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            seen.append(sorted(name for name in os.listdir(tmp_path) if not name.startswith(".")))
            return super().open_uncompressed()

    unpack(tmp_path / "new", Watched(tar(member("a")).content))

    assert seen == [[]]
    assert os.listdir(tmp_path) == ["new"]
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o755


def test_a_directory_that_another_process_creates_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    class Meddling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            (tmp_path / "new").mkdir()
            (tmp_path / "new/theirs").touch()
            return super().open_uncompressed()

    with pytest.raises(OSError, match="new") as caught:
        unpack(tmp_path / "new", Meddling(tar(member("d/ours")).content))

    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "new"), None)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["new", "new/theirs"]


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    with pytest.raises(InvalidValue):
        unpack(tmp_path, tar(member("a")))

    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_anything_but_a_directory_is_refused(tmp_path: Path, kind: str) -> None:
    """R-131."""
    (tmp_path / "real").mkdir()
    if kind == "link":
        (tmp_path / "target").symlink_to("real")
    else:
        (tmp_path / "target").touch()

    with pytest.raises(InvalidValue, match="target"):
        unpack(tmp_path / "target", tar(member("a")))

    assert os.listdir(tmp_path / "real") == []


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"garbage!" * 64, id="corrupt"),
        pytest.param(member("../x"), id="unsafe"),
        pytest.param(member("d/d/" + "n" * 90, size=1 << 40), id="cut"),
    ],
)
def test_after_a_failure_nothing_is_left(tmp_path: Path, exists: bool, bad: bytes) -> None:
    """R-006, R-007."""
    target = tmp_path / "target"
    if exists:
        target.mkdir()
    good = tar(folder("d/d/d", 0o000), member("d/d/f", b"x"), member("d/l", kind="2", link="/"))

    with pytest.raises(IntegrityError) as caught:
        unpack(target, TarLayer(bad), good)

    assert caught.value.reference == "the image"
    assert os.listdir(tmp_path) == (["target"] if exists else [])
    assert not exists or os.listdir(target) == []


def test_nothing_is_left_of_a_layer_whose_digest_does_not_match(tmp_path: Path) -> None:
    """R-007."""

    class Wrong(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            from registry_core.content.verify import VerifyingReader
            from registry_core.domain.digest import Digest

            return VerifyingReader(super().open_uncompressed(), Digest.of(b"other"), None)

    with pytest.raises(DigestMismatch):
        unpack(tmp_path / "new", Wrong(tar(member("a")).content))

    assert os.listdir(tmp_path) == []


def test_a_cancelled_extraction_leaves_nothing(tmp_path: Path) -> None:
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            unpack(tmp_path / "new", tar(member("a")))

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exists", [True, False])
def test_an_extraction_that_is_cancelled_halfway_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    seen: list[int] = []

    class Cancelling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            seen.extend(len(os.listdir(path)) for path in tmp_path.iterdir())
            scope.cancel()
            return super().open_uncompressed()

    if exists:
        (tmp_path / "new").mkdir()
    with CancelScope() as scope:
        with pytest.raises(Cancelled):
            unpack(tmp_path / "new", Cancelling(tar(member("b")).content), tar(member("d/a"), member("c")))

    assert seen == [2]
    assert os.listdir(tmp_path) == (["new"] if exists else [])
    assert not exists or os.listdir(tmp_path / "new") == []


class TestOptions:
    """R-139."""

    def test_setuid_and_setgid_are_kept_only_on_request(self, tmp_path: Path) -> None:
        layer = tar(member("su", mode=0o6755), folder("tmp", 0o3777))

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, options=ExtractOptions(special_modes=True))

        assert stat.S_IMODE((tmp_path / "plain/su").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "plain/tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((tmp_path / "kept/su").stat().st_mode) == 0o6755
        assert stat.S_IMODE((tmp_path / "kept/tmp").stat().st_mode) == 0o3777

    def test_devices_and_fifos_are_skipped_and_reported(self, tmp_path: Path) -> None:
        layer = tar(member("null", kind="3"), member("sda", kind="4"), member("pipe", kind="6"), member("a"))

        extracted = unpack(tmp_path / "new", layer)

        assert extracted == Extracted(1, ("null", "sda", "pipe"))
        assert os.listdir(tmp_path / "new") == ["a"]

    def test_fifos_are_created_on_request_and_never_opened(self, tmp_path: Path) -> None:
        """Opening a fifo would block."""
        unpack(
            tmp_path / "new", tar(member("pipe", kind="6", mode=0o620, mtime=7)), options=ExtractOptions(devices=True)
        )

        status = (tmp_path / "new/pipe").lstat()
        assert stat.S_ISFIFO(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o620, 7)

    @pytest.mark.usefixtures("as_root")
    def test_devices_are_created_on_request_with_their_attributes(self, tmp_path: Path) -> None:
        numbers = {329: b"%07o\0%07o\0" % (259, 300_000)}
        layer = tar(member("sda", kind="4", mode=0o4660, uid=3, gid=6, mtime=9, patch=numbers))

        unpack(tmp_path / "new", layer, options=ExtractOptions(devices=True, owners=True, special_modes=True))

        status = (tmp_path / "new/sda").lstat()
        assert stat.S_ISBLK(status.st_mode)
        assert (status.st_rdev, stat.S_IMODE(status.st_mode)) == (os.makedev(259, 300_000), 0o4660)
        assert (status.st_uid, status.st_gid, status.st_mtime) == (3, 6, 9)

    def test_owners_are_set_only_on_request(self, tmp_path: Path) -> None:
        uid, gid = (1234, 2345) if ROOT else (os.getuid(), os.getgid())
        layer = tar(
            member("f", uid=uid, gid=gid, mode=0o4755),
            member("d", kind="5", uid=uid, gid=gid),
            member("s", kind="2", link="f", uid=uid, gid=gid),
        )

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, options=ExtractOptions(owners=True, special_modes=True))

        owners = {
            place: {(path.lstat().st_uid, path.lstat().st_gid) for path in (tmp_path / place).iterdir()}
            for place in ("plain", "kept")
        }
        assert owners == {"plain": {(os.getuid(), os.getgid())}, "kept": {(uid, gid)}}
        assert stat.S_IMODE((tmp_path / "kept/f").stat().st_mode) == 0o4755

    def test_extended_attributes_are_set_only_on_request(self, tmp_path: Path) -> None:
        layer = tar(member("f", pax={b"SCHILY.xattr.user.key": b"\0value"}))

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, options=ExtractOptions(xattrs=True))

        assert os.listxattr(tmp_path / "plain/f") == []
        assert os.getxattr(tmp_path / "kept/f", "user.key") == b"\0value"

    def test_default_acls_of_a_directory_are_not_inherited_by_its_content(self, tmp_path: Path) -> None:
        """Attributes of directories are set last, like their modes."""
        pax = {b"SCHILY.xattr.user.key": b"folder"}

        unpack(
            tmp_path / "new",
            tar(member("d", kind="5", mode=0o555, pax=pax), member("d/f")),
            options=ExtractOptions(xattrs=True),
        )

        assert os.getxattr(tmp_path / "new/d", "user.key") == b"folder"
        assert os.listxattr(tmp_path / "new/d/f") == []

    def test_system_errors_name_the_path_in_the_image(self, tmp_path: Path) -> None:
        class Full(TarLayer):
            """A layer that removes the target directory while it is read."""

            def open_uncompressed(self) -> ByteReader:
                os.rmdir(tmp_path / "target")
                return super().open_uncompressed()

        (tmp_path / "target").mkdir()

        with pytest.raises(FileNotFoundError, match="some/file"):
            unpack(tmp_path / "target", Full(tar(member("some/file")).content))


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user other than root, in a directory of that user; relative names need no access to the parent directories."""
    monkeypatch.chdir(tmp_path)
    if not ROOT:
        yield
        return
    os.chown(tmp_path, 65534, 65534)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.usefixtures("nobody")
class TestWithoutPrivileges:
    LAYER = tar(folder("d", 0), folder("d/e", 0o100), member("d/e/f", b"x", mode=0), member("su", mode=0o4755, uid=0))

    def test_directories_without_permissions_are_filled(self) -> None:
        """R-138."""
        extracted = unpack(Path("new"), self.LAYER)

        assert extracted.entries == 4
        assert stat.S_IMODE(os.stat("new/d").st_mode) == 0
        os.chmod("new/d", 0o700)
        assert stat.S_IMODE(os.stat("new/d/e").st_mode) == 0o100
        assert os.stat("new/d/e/f").st_size == 1

    @pytest.mark.parametrize("exists", [True, False])
    def test_after_a_failure_directories_without_permissions_are_removed(self, exists: bool) -> None:
        """R-006, R-138: the last directory is refused when all others have their attributes."""
        if exists:
            os.mkdir("target")
        bad = member("./", kind="5", pax={b"SCHILY.xattr.user.": b"v"})

        with pytest.raises(UnsafeArchive):
            unpack(Path("target"), self.LAYER, tar(bad), options=ExtractOptions(xattrs=True))

        assert os.listdir() == (["target"] if exists else [])
        assert not exists or os.listdir("target") == []

    @pytest.mark.parametrize("options", [ExtractOptions(owners=True), ExtractOptions(devices=True)])
    def test_an_option_that_needs_privileges_is_an_error_and_leaves_nothing(self, options: ExtractOptions) -> None:
        """R-139."""
        device = member("a/null", kind="3", patch={329: b"0000001\0" + b"0000003\0"})

        with pytest.raises(PermissionError, match="a/"):
            unpack(Path("new"), tar(member("a/f", uid=1), device), options=options)

        assert os.listdir() == []


class TestUnusualMembers:
    def test_read_only_directories_can_be_filled(self, tmp_path: Path) -> None:
        """R-138."""
        unpack(tmp_path / "new", tar(folder("d", 0o555, 9), member("d/f", b"x", mode=0o400)))

        status = (tmp_path / "new/d").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o555, 9)

    @pytest.mark.parametrize("mtime", [b"9" * 19, b"-" + b"9" * 19, b"9" * 17, b"-1", b"253402300800"])
    def test_extreme_times_are_clamped(self, tmp_path: Path, mtime: bytes) -> None:
        """R-138."""
        unpack(tmp_path / "new", tar(member("f", pax={b"mtime": mtime})))

        assert (tmp_path / "new/f").exists()

    @pytest.mark.parametrize("uid", [b"4294967295", b"4294967296", b"9223372036854775807"])
    def test_owners_out_of_range_are_refused(self, tmp_path: Path, uid: bytes) -> None:
        """R-138: for chown, the highest number means no change."""
        with pytest.raises(UnsafeArchive):
            unpack(tmp_path / "new", tar(member("f", pax={b"uid": uid})), options=ExtractOptions(owners=True))

    @pytest.mark.parametrize("pax", [{b"path": b"n" * 256}, {b"linkpath": b"t" * 5000}])
    def test_names_that_the_file_system_refuses_are_unsafe(self, tmp_path: Path, pax: dict[bytes, bytes]) -> None:
        """R-136."""
        with pytest.raises(UnsafeArchive, match="too long"):
            unpack(tmp_path / "new", tar(member("x", kind="2", link="y", pax=pax)))

        assert os.listdir(tmp_path) == []

    def test_unusual_names_are_created(self, tmp_path: Path) -> None:
        """R-136."""
        names = {b"\xff\xfe", "é".encode(), "e\u0301".encode(), b"A", b"a", b"new\nline", b" ", b"-rf", b"\\..\\x"}

        unpack(tmp_path / "new", tar(*(member(name) for name in names)))

        assert set(os.listdir(os.fsencode(tmp_path / "new"))) == names

    def test_deep_directories_need_no_recursion_and_are_removed_after_an_error(self, tmp_path: Path) -> None:
        """R-137."""
        deep = member("x", pax={b"path": b"/".join([b"d"] * 1500)})

        extracted = unpack(tmp_path / "new", tar(deep))
        with pytest.raises(IntegrityError):
            unpack(tmp_path / "other", TarLayer(b"garbage!" * 64), tar(deep))

        found = os.listdir(tmp_path)
        # What is deep is too much for the tools that clean up after tests.
        subprocess.run(["rm", "-rf", tmp_path / "new"], check=True)
        assert extracted.entries == 1500
        assert found == ["new"]

    def test_holes_are_not_filled(self, tmp_path: Path) -> None:
        pax = {b"GNU.sparse.map": b"0,1,52428800,1", b"GNU.sparse.size": b"104857600"}

        unpack(tmp_path / "new", tar(member("s", b"ab", pax=pax)))

        status = (tmp_path / "new/s").stat()
        assert status.st_size == 104857600
        assert status.st_blocks * 512 < 1 << 20
        with (tmp_path / "new/s").open("rb") as file:
            assert file.read(1) == b"a"
            file.seek(52428800)
            assert file.read(2) == b"b\0"

    def test_limits_apply_before_content_is_written(self, tmp_path: Path) -> None:
        """R-140."""
        with pytest.raises(TooLarge):
            unpack(tmp_path / "new", TarLayer(member("a", size=1 << 30)), limits=ExtractLimits(file_bytes=1 << 20))
        with pytest.raises(TooLarge):
            unpack(tmp_path / "new", tar(*(member(str(n)) for n in range(11))), limits=ExtractLimits(entries=10))

        assert os.listdir(tmp_path) == []


def test_the_umask_has_no_effect(tmp_path: Path) -> None:
    """R-138."""
    before = os.umask(0o077)
    try:
        unpack(tmp_path / "new", tar(folder("d", 0o777), member("d/f", mode=0o666)))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new/d").stat().st_mode) == 0o777
    assert stat.S_IMODE((tmp_path / "new/d/f").stat().st_mode) == 0o666


def test_all_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    unpack(tmp_path / "new", tar(*(member(f"d{number}/e/f", b"x") for number in range(200))))
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "bad", tar(member("a/b/c"), member("../x")))

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["d", "f"])
def test_a_link_that_another_process_creates_is_not_followed(name: str, tmp_path: Path) -> None:
    """R-131, R-132: also one that appears during the extraction, to a directory or to a file."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("theirs")
    target = tmp_path / "target"
    target.mkdir()

    class Meddling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            (target / name).symlink_to(outside if name == "d" else outside / "f")
            return super().open_uncompressed()

    with pytest.raises(UnsafeArchive):
        unpack(target, Meddling(tar(member("f", b"ours"), member("d/f", b"x")).content))

    assert os.listdir(outside) == ["f"]
    assert (outside / "f").read_text() == "theirs"


def test_a_file_that_another_process_creates_is_not_written_to(tmp_path: Path) -> None:
    """R-131: a hard link to a file outside looks like an ordinary file."""
    (tmp_path / "outside").write_text("theirs")
    target = tmp_path / "target"
    target.mkdir()

    class Meddling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            os.link(tmp_path / "outside", target / "f")
            return super().open_uncompressed()

    with pytest.raises(UnsafeArchive):
        unpack(target, Meddling(tar(member("f", b"ours")).content))

    assert (tmp_path / "outside").read_text() == "theirs"


def test_a_symbolic_link_that_another_process_creates_is_not_linked_to(tmp_path: Path) -> None:
    """R-134."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "outside").write_text("theirs")

    class Meddling(FileObjectReader):
        def read(self, size: int = -1, /) -> bytes:
            if (target / "t").exists():
                (target / "t").unlink()
                (target / "t").symlink_to(tmp_path / "outside")
            return super().read(min(size, 512))

    class Meddled(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            return Meddling(io.BytesIO(self.content))

    with pytest.raises(UnsafeArchive, match="not a file"):
        unpack(target, Meddled(tar(member("t"), member("l", kind="1", link="t")).content))

    assert (tmp_path / "outside").stat().st_nlink == 1


def test_directories_that_another_process_replaces_by_links_are_not_followed(tmp_path: Path) -> None:
    """R-131, R-132: another process of the same user does so continuously."""
    outside = tmp_path / "outside"
    outside.mkdir()
    script = """
import os, sys, time
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    for name in ("a", "b", "c"):
        try:
            os.rename(name, "aside")
            os.symlink(sys.argv[2], name)
            time.sleep(0.001)
            os.unlink(name)
            os.rename("aside", name)
        except OSError:
            pass
"""
    parts = [member(f"{name}/{number}/f", b"x") for number in range(60) for name in "abc"]
    parts += [
        member(f"{name}/l{number}", kind="1", link=f"{name}/{number}/f") for number in range(60) for name in "abc"
    ]
    layer = tar(*parts, folder("a", 0o700), folder("b", 0o711), folder("c"))

    for number in range(8):
        target = tmp_path / f"target {number}"
        target.mkdir()
        command = [sys.executable, "-c", script, str(target), str(outside)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            with contextlib.suppress(IntegrityError, OSError):
                unpack(target, layer)
            swapper.kill()

    assert os.listdir(outside) == []
    assert stat.S_IMODE(outside.stat().st_mode) & 0o700 == 0o700
