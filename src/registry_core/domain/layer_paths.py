"""Paths of tar entries in layers: cleaning, whiteouts, opaque whiteouts (image-spec layer.md, "Whiteouts").

Paths are bytes, as in tar and in the kernel. The functions look at names only; they open no file.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from registry_core.errors import TooLarge, UnsafeArchive

__all__ = [
    "LONGEST_PATH",
    "Whiteout",
    "WhiteoutKind",
    "ancestors",
    "clean_path",
    "is_pseudo_link",
    "parent_of",
    "whiteout_of",
]

# Longer than any system opens in one call (4 KiB), short enough to keep all parents of a path in memory.
LONGEST_PATH: Final = 32 << 10

_PREFIX: Final = b".wh."
_PRIVATE: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_PSEUDO_LINKS: Final = b".wh..wh.plnk/"


class WhiteoutKind(enum.Enum):
    """The kind of a whiteout entry; ``PRIVATE`` entries belong to aufs and are ignored."""

    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    PRIVATE = "private"


class Whiteout(NamedTuple):
    """A whiteout: its kind, and the path that it hides or the directory that it makes opaque."""

    kind: WhiteoutKind
    path: bytes


def clean_path(name: bytes) -> bytes:
    """Return the path of an entry relative to the root, without outer or double slashes and ``.``; empty for the root.

    Absolute names are relative to the root of the image.

    Raises:
        UnsafeArchive: The name has a ``..`` component or a NUL.
        TooLarge: The name is longer than ``LONGEST_PATH``.
    """
    if len(name) > LONGEST_PATH:
        raise TooLarge(f"path of {len(name)} bytes; the limit is {LONGEST_PATH}")
    if b"\0" in name:
        raise UnsafeArchive(f"path contains a NUL byte: {name!r:.200}")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    # refused even if it stays inside: two readers may resolve it differently.
    if b".." in parts:
        raise UnsafeArchive(f"path contains '..': {name!r:.200}")
    return b"/".join(parts)


def parent_of(path: bytes) -> bytes:
    """Return the parent directory of a clean path; the parent of the root is the root."""
    return path.rpartition(b"/")[0]


def ancestors(path: bytes) -> Iterator[bytes]:
    """Iterate over the parent directories of a clean path, from the nearest to the root; none for the root."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def is_pseudo_link(path: bytes) -> bool:
    """Return whether a clean path is one of a pseudo-link of aufs: a file that hard links of the same layer refer to.

    aufs keeps the files that have several names in ``.wh..wh.plnk`` at the root. The directory is not part of the
    image; its files are, under the names of the links. Docker reads such layers so (moby, ``pkg/archive/diff.go``).
    """
    return path.startswith(_PSEUDO_LINKS)


def whiteout_of(path: bytes, *, regular: bool) -> Whiteout | None:
    """Return the whiteout that an entry is, or ``None`` for an ordinary entry.

    Names that begin with ``.wh..wh.`` are metadata of aufs; they hide nothing and are not part of the image.

    Args:
        path: Clean path of the entry.
        regular: Whether the entry is a regular file, as whiteouts must be.

    Raises:
        UnsafeArchive: The whiteout names nothing, ``.`` or ``..``, is not a regular file, or the entry is inside a
            directory with a whiteout name.
    """
    if not path.startswith(_PREFIX) and b"/" + _PREFIX not in path:
        return None
    folder, _, name = path.rpartition(b"/")
    for part in folder.split(b"/"):
        if part.startswith(_PRIVATE) and part != _OPAQUE:
            return Whiteout(WhiteoutKind.PRIVATE, path)
        if part.startswith(_PREFIX):
            raise UnsafeArchive(f"entry inside a whiteout: {path!r:.200}")
    if name.startswith(_PRIVATE) and name != _OPAQUE:
        return Whiteout(WhiteoutKind.PRIVATE, path)
    hidden = name.removeprefix(_PREFIX)
    # it would delete its own directory or the parent directory.
    if hidden in (b"", b".", b".."):
        raise UnsafeArchive(f"whiteout without a name: {path!r:.200}")
    if not regular:
        raise UnsafeArchive(f"whiteout is not a regular file: {path!r:.200}")
    if name == _OPAQUE:
        return Whiteout(WhiteoutKind.OPAQUE, folder)
    return Whiteout(WhiteoutKind.WHITEOUT, folder + b"/" + hidden if folder else hidden)
