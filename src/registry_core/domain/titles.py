"""Titles of an artifact's files: what other people call their files, taken as paths only after a look.

A title is good if it means one and the same file on every system, below the directory that it is taken to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from registry_core.errors import InvalidName, UnsafeArchive

__all__ = ["clean_title", "distinct_titles", "stays_inside"]

_LONGEST: Final = 4096
_LONGEST_PART: Final = 255
# Control characters, and a backslash, which separates names on some systems.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def clean_title(title: str) -> str:
    """A title as a relative path with single slashes.

    Raises:
        InvalidName: It is absolute, climbs with ``..``, names a drive, is no text, empty or too long, or has control
            characters or a backslash.
    """
    if not isinstance(title, str) or _FORBIDDEN.search(title):
        raise InvalidName(f"not a title of a file: {title!r:.200}")
    if title.startswith("/") or _DRIVE.match(title):
        raise InvalidName(f"a title from the root: {title!r:.200}")
    parts = [part for part in title.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"a title that leaves the directory: {title!r:.200}")
    try:
        lengths = [len(part.encode("utf-8")) for part in parts]
    except UnicodeEncodeError:
        raise InvalidName(f"a title that is no text: {title!r:.200}") from None
    if not parts:
        raise InvalidName(f"a title of nothing: {title!r:.200}")
    if max(lengths) > _LONGEST_PART or sum(lengths) + len(parts) > _LONGEST:
        raise InvalidName(f"a title that is too long: {title!r:.200}")
    return "/".join(parts)


def distinct_titles(titles: Iterable[str]) -> None:
    """Nothing, if clean titles can all be files beside each other, also where letter case is not told apart.

    Raises:
        UnsafeArchive: Two are the same file, or one is a file and the other's directory.
    """
    known: dict[str, str] = {}
    folders: dict[str, str] = {}
    for title in titles:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title).casefold())
        other = known.get(key, folders.get(key))
        if other is not None:
            raise UnsafeArchive(f"two titles for one path: {other!r:.200} and {title!r:.200}")
        known[key] = title
        above = key.rpartition("/")[0]
        while above:
            if above in known:
                raise UnsafeArchive(f"{title!r:.200} lies below {known[above]!r:.200}, which is a file's title")
            folders.setdefault(above, title)
            above = above.rpartition("/")[0]


def stays_inside(path: bytes, link: bytes) -> bool:
    """Whether a symbolic link points to somewhere below the root, whatever other such links there are.

    Steps upwards are counted where the link stands; one behind another name could start from anywhere.

    Args:
        path: Of the link, clean, from the root.
        link: Its text.
    """
    if not link or link.startswith(b"/") or b"\0" in link:
        return False
    depth = path.count(b"/")
    climbing = True
    for part in link.split(b"/"):
        if part == b"..":
            depth -= 1
            if not climbing or depth < 0:
                return False
        elif part not in (b"", b"."):
            climbing = False
    return True
