"""Images unpacked to directories."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from registry_core.content.source import ByteReader
from registry_core.errors import Cancelled, DigestMismatch, IntegrityError, InvalidValue, TooLarge, UnsafeArchive
from registry_core.ops.extract.sinks import Keep
from registry_core.ops.extract.unpack import Extracted, extract_to
from registry_core.ops.tar.members import ExtractLimits
from registry_core.scope import CancelScope
from registry_core.testing.layers import TarLayer, member, tar

ROOT = os.geteuid() == 0


def unpack(
    directory: Path, *layers: TarLayer, keep: Keep | None = None, limits: ExtractLimits | None = None
) -> Extracted:
    return extract_to(layers, directory, keep=keep or Keep(), limits=limits or ExtractLimits(), reference="the image")


def folder(name: str, mode: int = 0o755, mtime: int = 0) -> bytes:
    return member(name, kind="5", mode=mode, mtime=mtime)


def test_everything_is_made(tmp_path: Path) -> None:
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


def test_a_directory_that_exists_keeps_its_inode(tmp_path: Path) -> None:
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


def test_a_directory_that_somebody_else_makes_meanwhile_is_theirs(tmp_path: Path) -> None:
    class Meddling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            (tmp_path / "new").mkdir()
            (tmp_path / "new/theirs").touch()
            return super().open_uncompressed()

    with pytest.raises(OSError, match="new"):
        unpack(tmp_path / "new", Meddling(tar(member("d/ours")).content))

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["new", "new/theirs"]


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    with pytest.raises(InvalidValue):
        unpack(tmp_path, tar(member("a")))

    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
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


def test_nothing_is_left_of_a_layer_that_proves_wrong_at_its_end(tmp_path: Path) -> None:
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


class TestWhatIsKept:
    """R-139."""

    def test_setuid_and_setgid_only_on_request(self, tmp_path: Path) -> None:
        layer = tar(member("su", mode=0o6755), folder("tmp", 0o3777))

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, keep=Keep(special_modes=True))

        assert stat.S_IMODE((tmp_path / "plain/su").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "plain/tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((tmp_path / "kept/su").stat().st_mode) == 0o6755
        assert stat.S_IMODE((tmp_path / "kept/tmp").stat().st_mode) == 0o3777

    def test_devices_and_fifos_are_left_out_and_named(self, tmp_path: Path) -> None:
        layer = tar(member("null", kind="3"), member("sda", kind="4"), member("pipe", kind="6"), member("a"))

        extracted = unpack(tmp_path / "new", layer)

        assert extracted == Extracted(1, ("null", "sda", "pipe"))
        assert os.listdir(tmp_path / "new") == ["a"]

    def test_fifos_are_made_on_request_and_never_opened(self, tmp_path: Path) -> None:
        """A fifo that were opened would wait for somebody for ever."""
        unpack(tmp_path / "new", tar(member("pipe", kind="6", mode=0o620, mtime=7)), keep=Keep(devices=True))

        status = (tmp_path / "new/pipe").lstat()
        assert stat.S_ISFIFO(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o620, 7)

    def test_owners_only_on_request(self, tmp_path: Path) -> None:
        uid, gid = (1234, 2345) if ROOT else (os.getuid(), os.getgid())
        layer = tar(
            member("f", uid=uid, gid=gid, mode=0o4755),
            member("d", kind="5", uid=uid, gid=gid),
            member("s", kind="2", link="f", uid=uid, gid=gid),
        )

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, keep=Keep(owners=True, special_modes=True))

        owners = {
            place: {(path.lstat().st_uid, path.lstat().st_gid) for path in (tmp_path / place).iterdir()}
            for place in ("plain", "kept")
        }
        assert owners == {"plain": {(os.getuid(), os.getgid())}, "kept": {(uid, gid)}}
        assert stat.S_IMODE((tmp_path / "kept/f").stat().st_mode) == 0o4755

    def test_attributes_only_on_request(self, tmp_path: Path) -> None:
        layer = tar(member("f", pax={b"SCHILY.xattr.user.key": b"\0value"}))

        unpack(tmp_path / "plain", layer)
        unpack(tmp_path / "kept", layer, keep=Keep(xattrs=True))

        assert os.listxattr(tmp_path / "plain/f") == []
        assert os.getxattr(tmp_path / "kept/f", "user.key") == b"\0value"


class TestOddMembers:
    def test_read_only_directories_can_be_filled(self, tmp_path: Path) -> None:
        """R-138."""
        unpack(tmp_path / "new", tar(folder("d", 0o555, 9), member("d/f", b"x", mode=0o400)))

        status = (tmp_path / "new/d").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o555, 9)

    @pytest.mark.parametrize("mtime", [b"99999999999999999", b"-99999999999999999", b"-1", b"253402300800"])
    def test_extreme_times_are_narrowed(self, tmp_path: Path, mtime: bytes) -> None:
        """R-138."""
        unpack(tmp_path / "new", tar(member("f", pax={b"mtime": mtime})))

        assert (tmp_path / "new/f").exists()

    @pytest.mark.parametrize("uid", [b"4294967295", b"4294967296", b"9223372036854775807"])
    def test_owners_that_no_system_has_are_refused(self, tmp_path: Path, uid: bytes) -> None:
        """R-138: the highest number would mean the present user."""
        with pytest.raises(UnsafeArchive):
            unpack(tmp_path / "new", tar(member("f", pax={b"uid": uid})), keep=Keep(owners=True))

    @pytest.mark.parametrize("pax", [{b"path": b"n" * 256}, {b"linkpath": b"t" * 5000}])
    def test_names_that_cannot_be_made_are_refused(self, tmp_path: Path, pax: dict[bytes, bytes]) -> None:
        """R-136."""
        with pytest.raises(UnsafeArchive, match="too long"):
            unpack(tmp_path / "new", tar(member("x", kind="2", link="y", pax=pax)))

        assert os.listdir(tmp_path) == []

    def test_odd_names_are_made(self, tmp_path: Path) -> None:
        """R-136."""
        names = {b"\xff\xfe", "é".encode(), "e\u0301".encode(), b"A", b"a", b"new\nline", b" ", b"-rf", b"\\..\\x"}

        unpack(tmp_path / "new", tar(*(member(name) for name in names)))

        assert set(os.listdir(os.fsencode(tmp_path / "new"))) == names

    def test_deep_directories_need_no_deep_stack_and_go_away_again(self, tmp_path: Path) -> None:
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

    def test_holes_stay_holes(self, tmp_path: Path) -> None:
        pax = {b"GNU.sparse.map": b"0,1,52428800,1", b"GNU.sparse.size": b"104857600"}

        unpack(tmp_path / "new", tar(member("s", b"ab", pax=pax)))

        status = (tmp_path / "new/s").stat()
        assert status.st_size == 104857600
        assert status.st_blocks * 512 < 1 << 20
        with (tmp_path / "new/s").open("rb") as file:
            assert file.read(1) == b"a"
            file.seek(52428800)
            assert file.read(2) == b"b\0"

    def test_limits_count_before_anything_is_written(self, tmp_path: Path) -> None:
        """R-140."""
        with pytest.raises(TooLarge):
            unpack(tmp_path / "new", TarLayer(member("a", size=1 << 30)), limits=ExtractLimits(file_bytes=1 << 20))
        with pytest.raises(TooLarge):
            unpack(tmp_path / "new", tar(*(member(str(n)) for n in range(11))), limits=ExtractLimits(entries=10))

        assert os.listdir(tmp_path) == []


def test_the_umask_is_no_matter(tmp_path: Path) -> None:
    """R-138."""
    before = os.umask(0o077)
    try:
        unpack(tmp_path / "new", tar(folder("d", 0o777), member("d/f", mode=0o666)))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new/d").stat().st_mode) == 0o777
    assert stat.S_IMODE((tmp_path / "new/d/f").stat().st_mode) == 0o666


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    unpack(tmp_path / "new", tar(*(member(f"d{number}/e/f", b"x") for number in range(200))))
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "bad", tar(member("a/b/c"), member("../x")))

    assert len(os.listdir("/proc/self/fd")) == before


def test_somebody_elses_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """R-131, R-132: even one that appears while the work is going on."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()

    class Meddling(TarLayer):
        def open_uncompressed(self) -> ByteReader:
            (target / "d").symlink_to(outside)
            return super().open_uncompressed()

    with pytest.raises(UnsafeArchive):
        unpack(target, Meddling(tar(member("d/f", b"x")).content))

    assert os.listdir(outside) == []
