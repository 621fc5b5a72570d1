"""What names in layers mean: members, whiteouts and opaque markers (image-spec layer.md, "Whiteouts").

Names are bytes, as tar and the systems below have them. Everything here is a decision about text; nothing is opened.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from registry_core.errors import TooLarge, UnsafeArchive

__all__ = ["LONGEST_PATH", "Whiteout", "WhiteoutKind", "ancestors", "clean_path", "parent_of", "whiteout_of"]

# Far beyond what systems open at once (4 KiB), and short enough that all of a path's parents can be held.
LONGEST_PATH: Final = 32 << 10

_PREFIX: Final = b".wh."
_PRIVATE: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"


class WhiteoutKind(enum.Enum):
    """What a member with a marker's name stands for."""

    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    PRIVATE = "private"


class Whiteout(NamedTuple):
    """What a marker says, and about which path: hidden by a whiteout, or the directory that hides what was in it."""

    kind: WhiteoutKind
    path: bytes


def clean_path(name: bytes) -> bytes:
    """A member's path from the root: no outer or double slashes, no dots; empty for the root itself.

    Absolute names count from the root of the image.

    Raises:
        UnsafeArchive: It climbs with ``..`` or has a NUL.
        TooLarge: It is longer than any honest one.
    """
    if len(name) > LONGEST_PATH:
        raise TooLarge(f"a path of {len(name)} bytes")
    if b"\0" in name:
        raise UnsafeArchive(f"a path with a NUL: {name!r:.200}")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    # refused even where it stays inside; two readers may shorten it differently.
    if b".." in parts:
        raise UnsafeArchive(f"a path that leaves the image: {name!r:.200}")
    return b"/".join(parts)


def parent_of(path: bytes) -> bytes:
    """The directory that a clean path is in; the root is its own."""
    return path.rpartition(b"/")[0]


def ancestors(path: bytes) -> Iterator[bytes]:
    """The directories above a clean path, nearest first, the root last; none for the root."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def whiteout_of(path: bytes, *, regular: bool) -> Whiteout | None:
    """What a clean path marks; ``None`` for an ordinary one.

    Names that begin with ``.wh..wh.`` are what a union file system kept for itself: they mark nothing and are no part
    of the image.

    Args:
        path: Of the member.
        regular: Whether the member is a regular file, as markers are.

    Raises:
        UnsafeArchive: A marker that would delete nothing, ``.`` or ``..``, one that is no regular file, or
            something inside of a marker.
    """
    if not path.startswith(_PREFIX) and b"/" + _PREFIX not in path:
        return None
    folder, _, name = path.rpartition(b"/")
    for part in folder.split(b"/"):
        if part.startswith(_PRIVATE) and part != _OPAQUE:
            return Whiteout(WhiteoutKind.PRIVATE, path)
        if part.startswith(_PREFIX):
            raise UnsafeArchive(f"something inside of a whiteout: {path!r:.200}")
    if name.startswith(_PRIVATE) and name != _OPAQUE:
        return Whiteout(WhiteoutKind.PRIVATE, path)
    hidden = name.removeprefix(_PREFIX)
    # applied, it would delete its own directory or the one above.
    if hidden in (b"", b".", b".."):
        raise UnsafeArchive(f"a whiteout of nothing: {path!r:.200}")
    if not regular:
        raise UnsafeArchive(f"a whiteout that is not a regular file: {path!r:.200}")
    if name == _OPAQUE:
        return Whiteout(WhiteoutKind.OPAQUE, folder)
    return Whiteout(WhiteoutKind.WHITEOUT, folder + b"/" + hidden if folder else hidden)
