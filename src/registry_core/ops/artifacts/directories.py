"""Directories as single files: packed to a deterministic tar, and unpacked again without trust.

The members' names begin with the directory's title, as the tools of the ORAS project write and expect them.

Titles of an artifact's files: what other people call their files, taken as paths only after a look.

A title is good if it means one and the same file on every system, below the directory that it is taken to.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from registry_core.cancellation import checkpoint
from registry_core.content.compression import decompress
from registry_core.content.streams import CHUNK_SIZE, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER_GZIP
from registry_core.errors import InvalidName, InvalidValue, UnsafeArchive
from registry_core.ops.builder.layers import BuiltLayer, LayerStream, directory_entries, write_entry
from registry_core.ops.extract.unpack import DirectorySink, ExtractOptions
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, printable
from registry_core.ops.tar.reader import TarReader
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["check_distinct_titles", "clean_title", "pack", "stays_inside", "unpack"]


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


def check_distinct_titles(titles: Iterable[str]) -> None:
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


_UNPACKED: Final = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.HARDLINK)


def pack(directory: str | os.PathLike[str], title: str) -> BuiltLayer:
    """A directory as a gzip-compressed tar: the same files give the same tar on any machine.

    Args:
        directory: On disk; links in it are kept as they are.
        title: Clean; the members' names begin with it.

    Raises:
        InvalidName: A file's name is not UTF-8.
        InvalidValue: Something is neither a file, a directory nor a symbolic link, or a link leaves the directory.
        SizeMismatch: A file changed while it was read.
        OSError: Something cannot be read.
    """
    stream = LayerStream()
    stream.write(encode_header(Member(title.encode(), FileKind.DIRECTORY, 0o755)))
    entries = directory_entries(directory)
    for name, entry in sorted(entries.items(), key=lambda item: item[0].split("/")):
        if entry.kind is FileKind.SYMLINK and not stays_inside(name.encode(), entry.link.encode()):
            raise InvalidValue(f"a link that leaves the directory: {name!r:.200}")
        write_entry(stream, f"{title}/{name}", entry)
    stream.write(END_OF_ARCHIVE)
    return stream.finish()


def unpack(stored: ByteReader, size: int, root: int, *, title: str, tar_digest: Digest | None, reference: str) -> None:
    """Make what such a tar holds in an open, empty directory; on failure, it is empty again.

    Devices are refused, and so are symbolic links that leave the directory: whoever uses the files follows them.

    Args:
        stored: The compressed tar, verifying; it is read to its end.
        size: Of the compressed tar.
        root: A descriptor of the directory.
        title: Clean; what the members' names may begin with.
        tar_digest: Of the uncompressed tar, where that is known.
        reference: What is read, for errors.

    Raises:
        UnsafeArchive: It tries to reach outside, contradicts itself, or has something else than files and links.
        IntegrityError: It is corrupt, cut off, or not what its digests say.
        TooLarge: It becomes larger than any honest one.
    """
    limits = ExtractLimits()
    budget = Budget(limits, reference=reference)
    budget.begin_layer(size)
    tar = decompress(stored, OCI_LAYER_GZIP, reference=reference)
    if tar_digest is not None:
        tar = VerifyingReader(tar, tar_digest, None, reference=reference)
    reader = TarReader(tar, budget, reference=reference)
    names = _Names(title.encode())
    with contextlib.closing(DirectorySink(root, ExtractOptions())) as sink:
        try:
            own: Member | None = None
            for member in reader.members():
                placed = names.below(member)
                if placed.path:
                    budget.add_entry(placed.path)
                    with _linked(placed):
                        sink.add(placed, reader.chunks())
                else:
                    own = placed
            while tar.read(CHUNK_SIZE):
                checkpoint()
            sink.finish(own or Member(b"", FileKind.DIRECTORY, 0o755))
        except BaseException:
            sink.clear()
            raise


class _Names:
    """Where members belong: the first one tells what all names begin with."""

    def __init__(self, title: bytes) -> None:
        self._title = title
        self._prefix: bytes | None = None

    def below(self, member: Member) -> Member:
        if member.kind not in _UNPACKED:
            raise UnsafeArchive(f"a {member.kind.value} where files belong: {printable(member.path)}")
        path = self._stripped(member.path)
        if not path and member.kind is not FileKind.DIRECTORY:
            raise UnsafeArchive(f"something else than a directory for the whole: {printable(member.path)}")
        link = member.link
        if member.kind is FileKind.SYMLINK and not stays_inside(path, link):
            raise UnsafeArchive(f"a link that leaves the directory: {printable(member.path)}")
        if member.kind is FileKind.HARDLINK:
            link = self._stripped(link)
        return Member(
            path, member.kind, member.mode, 0, 0, member.mtime, member.size, link, sparse_map=member.sparse_map
        )

    def _stripped(self, path: bytes) -> bytes:
        if self._prefix is None:
            last = self._title.rpartition(b"/")[2]
            self._prefix = next((each for each in (self._title, last) if _is_below(path, each)), b"")
        if not self._prefix:
            return path
        if not _is_below(path, self._prefix):
            raise UnsafeArchive(f"a member beside the directory: {printable(path)}")
        return path[len(self._prefix) + 1 :]


@contextlib.contextmanager
def _linked(member: Member) -> Iterator[None]:
    """Blame the archive for hard links to what it did not have before."""
    try:
        yield
    except FileNotFoundError as error:
        if member.kind is FileKind.HARDLINK:
            raise UnsafeArchive(f"a hard link to what is not there: {printable(member.path)}") from error
        raise


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")
