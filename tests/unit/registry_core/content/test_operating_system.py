from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from registry_core.content import operating_system
from registry_core.content.operating_system import (
    change_mode,
    change_owner,
    effective_user_id,
    kill_process_group,
    lock_file,
    make_special_file,
    read_at,
    require_dir_fds,
    require_file_locks,
    require_pipe_polling,
    set_attribute,
    set_permissions,
    touch,
    unlock_file,
    user_id,
    write_at,
)
from registry_core.errors import Unsupported


@pytest.mark.parametrize("is_positional", [True, False])
def test_reads_and_writes_at_a_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_positional: bool) -> None:
    lock = threading.Lock()
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    if not is_positional:
        monkeypatch.delattr(os, "pread")
        monkeypatch.delattr(os, "pwrite")

    written = write_at(descriptor, b"0123456789", 5, lock)
    found = read_at(descriptor, 4, 7, lock)
    behind = read_at(descriptor, 4, 100, lock)
    os.close(descriptor)

    assert (written, found, behind) == (10, b"2345", b"")
    assert not lock.locked()


class TestFileLocks:
    def test_one_holder_at_a_time_unless_all_share(self, tmp_path: Path) -> None:
        first, second = (os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))

        taken = [lock_file(first), lock_file(second), lock_file(second, shared=True)]
        unlock_file(first)
        shared = [lock_file(first, shared=True), lock_file(second, shared=True)]
        os.close(first)
        os.close(second)

        assert taken == [True, False, False]
        assert shared == [True, True]

    def test_without_them_nothing_is_locked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(operating_system, "HAS_FILE_LOCKS", False)

        unlock_file(-1)
        with pytest.raises(Unsupported, match="has no flock"):
            lock_file(-1)


def test_a_name_changes_its_mode_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    directory = os.open(tmp_path, os.O_RDONLY)

    change_mode(b"fifo", 0o640, inside=directory)
    os.close(directory)

    assert stat.S_IMODE((tmp_path / "fifo").stat().st_mode) == 0o640


class TestMissingFunctions:
    def test_each_error_says_what_the_system_lacks_and_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "chown")
        monkeypatch.delattr(os, "setxattr")
        monkeypatch.delattr(os, "mknod")
        for name in ("HAS_DIR_FDS", "HAS_FILE_LOCKS", "HAS_PIPE_POLLING"):
            monkeypatch.setattr(operating_system, name, False)

        with pytest.raises(Unsupported, match=r"owner.* has no chown; extract without owners"):
            change_owner(-1, 0, 0)
        with pytest.raises(Unsupported, match=r"attribute.* has no setxattr; extract without extended attributes"):
            set_attribute(-1, b"user.x", b"")
        with pytest.raises(Unsupported, match=r"device or fifo.* has no mknod .*; extract without devices"):
            make_special_file(b"fifo", stat.S_IFIFO | 0o600, (0, 0), inside=-1)
        with pytest.raises(Unsupported, match=r"^extract to out: .*symbolic link.*; use Linux or macOS"):
            require_dir_fds("extract to out")
        with pytest.raises(Unsupported, match=r"^prune: .* has no flock, which counts; use Linux or macOS"):
            require_file_locks("prune", "which counts")
        with pytest.raises(Unsupported, match=r"^run a program: .* cannot poll pipes.*another way"):
            require_pipe_polling("run a program")

    def test_what_can_be_done_without_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch(mode=0o600)
        descriptor = os.open(tmp_path / "file", os.O_RDWR)
        os.utime(descriptor, (0, 0))
        before = os.fstat(descriptor)
        for name in ("getuid", "geteuid", "killpg"):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(operating_system, "HAS_FILE_MODES", False)
        monkeypatch.setattr(os, "supports_fd", set())

        touch(descriptor)
        set_permissions(descriptor, 0o644)
        kill_process_group(os.getpid())
        after = os.fstat(descriptor)
        os.close(descriptor)

        assert user_id() is None
        assert effective_user_id() is None
        assert (after.st_mtime, after.st_mode) == (before.st_mtime, before.st_mode)
