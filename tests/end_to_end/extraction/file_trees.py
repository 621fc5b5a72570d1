"""Trees on disk, read without the library: the attributes that must be equal for two extractions."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

__all__ = ["Seen", "differences", "links", "remove", "tree"]


class Seen(NamedTuple):
    """The attributes of one file, without its hard links."""

    kind: int
    mode: int
    size: int
    mtime: int
    uid: int
    gid: int
    device: int
    link: bytes
    content: str
    attributes: tuple[tuple[str, bytes], ...]


def tree(directory: Path, *, root: bool = False) -> dict[bytes, Seen]:
    """The files below a directory, by path.

    Args:
        directory: Root of the tree.
        root: Whether to include the directory itself, under the empty path.
    """
    top = os.fsencode(directory)
    found = {b"": _seen(top)} if root else {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = _seen(path)
    return found


def links(directory: Path) -> set[frozenset[bytes]]:
    """The groups of hard links."""
    groups: dict[int, set[bytes]] = {}
    top = os.fsencode(directory)
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            groups.setdefault(os.lstat(path).st_ino, set()).add(os.path.relpath(path, top))
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def differences(ours: Path, theirs: Path, *, root: bool = False, implied: Collection[bytes] = ()) -> list[str]:
    """The differences of two trees, one line each; empty if they are equal.

    Args:
        ours: One tree.
        theirs: The other.
        root: Whether to compare the directories themselves.
        implied: Directories without an entry in any layer, whose times are undefined.
    """
    left, right = tree(ours, root=root), tree(theirs, root=root)
    for path in implied:
        for side in (left, right):
            if path in side:
                side[path] = side[path]._replace(mtime=0)
    found = [f"only here: {path!r}" for path in sorted(left.keys() - right.keys())]
    found += [f"only there: {path!r}" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        pairs = zip(Seen._fields, left[path], right[path], strict=True)
        found += [f"{path!r}: {name} is {mine!r}, there {other!r}" for name, mine, other in pairs if mine != other]
    found += [f"one file here: {sorted(group)!r}" for group in links(ours) - links(theirs)]
    found += [f"one file there: {sorted(group)!r}" for group in links(theirs) - links(ours)]
    return found


def remove(directory: Path) -> None:
    """Remove a tree with any permissions and depth."""
    if directory.exists():
        subprocess.run(["chmod", "-R", "u+rwx", "--", directory], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--", directory], check=True)


def _seen(path: bytes) -> Seen:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content = ""
    if stat.S_ISREG(kind):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return Seen(
        kind,
        0 if stat.S_ISLNK(kind) else stat.S_IMODE(status.st_mode),
        0 if stat.S_ISDIR(kind) else status.st_size,
        status.st_mtime_ns,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        os.readlink(path) if stat.S_ISLNK(kind) else b"",
        content,
        tuple(
            (key, os.getxattr(path, key, follow_symlinks=False))
            for key in sorted(os.listxattr(path, follow_symlinks=False))
        ),
    )
