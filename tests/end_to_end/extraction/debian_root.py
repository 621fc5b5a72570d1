"""Layers of a Debian root file system, packed by GNU tar from files of this machine."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry_core.testing.layers import member

__all__ = ["CAPABILITY", "debian_layers", "may_trust", "pack"]

# The value that setcap cap_net_raw+ep writes: revision 2, effective bit, thirteenth bit permitted.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

# Limits for each directory, in bytes and files.
_TAKEN = {
    "etc": (4 << 20, 1200),
    "usr/bin": (10 << 20, 400),
    "usr/sbin": (4 << 20, 200),
    "usr/lib/x86_64-linux-gnu": (8 << 20, 400),
    "usr/lib/aarch64-linux-gnu": (8 << 20, 400),
    "usr/share/doc": (3 << 20, 1000),
    "usr/share/perl5": (2 << 20, 300),
    "usr/share/zoneinfo": (3 << 20, 1300),
    "var/lib/dpkg": (4 << 20, 1000),
}
_LARGEST = 3 << 20
_WHEN = 1_650_000_000_123_456_789


def pack(directory: Path, format_: str, *names: str, options: Sequence[str] = ()) -> bytes:
    """A tar of parts of a directory, written by GNU tar."""
    command = ["tar", "--create", f"--format={format_}", "--sort=name", "--numeric-owner", *options]
    if format_ not in ("v7", "ustar"):
        command += ["--sparse"]
    if format_ == "pax":
        command += ["--xattrs", "--xattrs-include=*"]
    command += ["-C", str(directory), "--", *(names or (".",))]
    return subprocess.run(command, check=True, capture_output=True).stdout


def may_trust(place: Path) -> bool:
    """Return whether this root may set ``trusted.*`` attributes; in some containers it may not."""
    try:
        os.setxattr(place, "trusted.try", b"")
        os.removexattr(place, "trusted.try")
    except OSError:
        return False
    return True


def debian_layers(place: Path) -> list[bytes]:
    """Seven layers: three with files of the machine, four with changes of every kind."""
    base = place / "base"
    base.mkdir()
    _take(base)
    _add(base)
    layers = [
        pack(base, "pax", ".", options=["--exclude=./usr/*", "--exclude=./opt"]),
        pack(base, "gnu", "usr/bin", "usr/sbin", options=["--transform=s,^,./,S"]),
        pack(base, "pax", "opt", "usr/lib", "usr/share"),
    ]
    layers += [_upgrade(place, base), _rebuild(place), *_links(base)]
    subprocess.run(["rm", "-rf", "--", base], check=True)
    return layers


def _take(base: Path) -> None:
    names = b"".join(os.fsencode(path) + b"\0" for path in _chosen())
    command = ["tar", "-C", "/", "--create", "--no-recursion", "--null", "--files-from=-", "--xattrs", "--format=pax"]
    archive = subprocess.run(command, input=names, check=True, capture_output=True).stdout
    command = ["tar", "-C", str(base), "--extract", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(command, input=archive, check=True)


def _chosen() -> Iterator[str]:
    for top, (size, count) in _TAKEN.items():
        for folder, folders, files in os.walk(f"/{top}"):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                # Files that only root may read are left out.
                if stat.S_ISREG(status.st_mode) and (status.st_size > _LARGEST or not status.st_mode & 0o004):
                    continue
                if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                    continue
                size, count = size - status.st_size, count - 1
                if size < 0 or count < 0:
                    break
                yield path.removeprefix("/")
            else:
                yield folder.removeprefix("/")
                continue
            break


def _add(base: Path) -> None:
    """Add kinds of files that a root file system has and the copied files may lack."""
    for folder in ("dev/shm", "opt/app", "tmp", "root", "home/someone", "var/cache/old", "var/log", "usr/lib/app"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib"):
        (base / name).symlink_to(f"usr/{name}")
    (base / "etc/mtab").unlink(missing_ok=True)
    (base / "etc/mtab").symlink_to("/proc/mounts")
    (base / "tmp").chmod(0o1777)
    (base / "root").chmod(0o700)
    (base / "usr/bin/setuid").write_bytes(b"\x7fELF setuid")
    (base / "usr/bin/setuid").chmod(0o4755)
    (base / "usr/bin/setgid").write_bytes(b"\x7fELF setgid")
    os.chown(base / "usr/bin/setgid", 0, 42)
    (base / "usr/bin/setgid").chmod(0o2755)
    (base / "home/someone").chmod(0o2750)
    os.chown(base / "home/someone", 1000, 100)
    for folder in ("usr/bin", "usr/sbin", "opt/app"):
        os.link(base / "usr/bin/setuid", base / folder / "hard")
    (base / "opt/app/ping").write_bytes(b"\x7fELF ping")
    os.setxattr(base / "opt/app/ping", "security.capability", CAPABILITY)
    os.setxattr(base / "opt/app/ping", "user.origin", b"\0debian=\n")
    os.setxattr(base / "opt/app", "user.folder", b"yes")
    os.setxattr(base / "var/log", "user.note", b"gone with the next layer that has the directory")
    for name in ("a", "b", "c/d"):
        (base / "var/cache/old" / name).parent.mkdir(exist_ok=True)
        (base / "var/cache/old" / name).write_text(name)
    os.mknod(base / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(base / "dev/sda1", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    os.mknod(base / "dev/many", stat.S_IFCHR | 0o600, os.makedev(511, 70_000))
    os.chown(base / "dev/sda1", 0, 6)
    os.mkfifo(base / "dev/initctl", 0o600)
    with (base / "opt/app/sparse").open("wb") as file:
        for place in range(0, 8 << 20, 1 << 20):
            file.seek(place)
            file.write(b"data")
        file.truncate(9 << 20)
    for path in (base / "etc/mtab", base / "dev/null", base / "dev/initctl", base / "tmp", base / "opt/app"):
        os.utime(path, ns=(_WHEN, _WHEN), follow_symlinks=False)


def _upgrade(place: Path, base: Path) -> bytes:
    """A layer that removes, replaces and changes files, empties a directory, and changes kinds of files."""
    upper = place / "upgrade"
    for folder in ("etc", "usr/bin", "usr/share/new", "var/cache/old", "opt/app", "lib"):
        (upper / folder).mkdir(parents=True)
    gone = sorted(path.name for path in (base / "usr/bin").iterdir() if path.is_file() and not path.is_symlink())
    for name in gone[:40]:
        (upper / "usr/bin" / f".wh.{name}").touch()
    for name in gone[40:60]:
        (upper / "usr/bin" / name).write_text("newer")
        (upper / "usr/bin" / name).chmod(0o755)
    (upper / "usr/share/.wh.doc").touch()
    (upper / "usr/share/new/file").write_text("new")
    (upper / "var/cache/old/.wh..wh..opq").touch()
    (upper / "var/cache/old/c").write_text("a file where a directory was")
    (upper / "etc/.wh.mtab").touch()
    (upper / "etc/os-release").write_text("ID=debian\n")
    (upper / "opt/app/sparse").mkdir()
    (upper / "opt/app/sparse/no-more").write_text("a directory where a file was")
    (upper / "lib/own").write_text("a directory where a link was")
    (upper / "tmp").symlink_to("var/tmp")
    for path in (upper, *upper.rglob("*")):
        os.utime(path, ns=(_WHEN, _WHEN), follow_symlinks=False)
    return pack(upper, "pax")


def _rebuild(place: Path) -> bytes:
    """A layer that brings removed paths back as other kinds, and changes only attributes of a directory."""
    upper = place / "rebuild"
    for folder in ("usr/share/doc/again", "tmp", "var/log", "opt"):
        (upper / folder).mkdir(parents=True)
    (upper / "usr/share/doc/again/copyright").write_text("free")
    (upper / "tmp/kept").write_text("a directory where a link was")
    (upper / "opt/.wh.app").touch()
    (upper / "var/log").chmod(0o750)
    os.chown(upper / "var/log", 101, 4)
    for path in (upper, *upper.rglob("*")):
        os.utime(path, ns=(0, 1_660_000_000 * 10**9), follow_symlinks=False)
    return pack(upper, "gnu")


def _links(base: Path) -> list[bytes]:
    """A layer with hard links to files of lower layers, and a layer that removes the link targets."""
    kept = sorted(path.name for path in (base / "usr/bin").iterdir() if path.is_file() and not path.is_symlink())[-1]
    links = [
        member("usr/local", kind="5", mode=0o755, mtime=1_660_000_000),
        member("usr/local/first", kind="1", link=f"usr/bin/{kept}"),
        member("usr/local/second", kind="1", link="usr/local/first"),
        member("usr/local/third", kind="1", link="usr/sbin/hard"),
    ]
    removals = [member(f"usr/bin/.wh.{kept}"), member("./usr/local/.wh.second"), member("usr/sbin/.wh.hard")]
    return [b"".join((*parts, bytes(1024))) for parts in (links, removals)]
