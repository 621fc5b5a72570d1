"""Titles of the files of an artifact as safe paths, and directories as tars.

The paths in the tar of a directory begin with its title, as the ORAS tools write and expect them.
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
from registry_core.ops.builder.entries import Attributes, directory_entries
from registry_core.ops.builder.layers import BuiltLayer, LayerStream, write_entry
from registry_core.ops.extract.unpack import DirectorySink, ExtractOptions
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, fingerprint, printable
from registry_core.ops.tar.reader import TarReader
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["check_distinct_titles", "clean_title", "pack_directory", "stays_inside", "unpack_directory"]


_MAX_TITLE_SIZE: Final = 4096

_MAX_PART_SIZE: Final = 255

# Control characters, and the backslash, which separates names on some systems.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")

_DRIVE: Final = re.compile(r"[A-Za-z]:")

_ALLOWED_KINDS: Final = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.HARDLINK)


def clean_title(title: str) -> str:
    """Clean a title to a relative path that names the same file below the directory on every system.

    Raises:
        InvalidName: The title is absolute, contains ``..``, a drive, control characters or a backslash, is empty, too
            long, or not a string.
    """
    if not isinstance(title, str) or _FORBIDDEN.search(title):
        raise InvalidName(f"not the title of a file: {title!r:.200}")
    if title.startswith("/") or _DRIVE.match(title):
        raise InvalidName(f"title is an absolute path: {title!r:.200}")
    parts = [part for part in title.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"title leaves the directory: {title!r:.200}")
    try:
        lengths = [len(part.encode("utf-8")) for part in parts]
    except UnicodeEncodeError:
        raise InvalidName(f"title is not UTF-8: {title!r:.200}") from None
    if not parts:
        raise InvalidName(f"title names no file: {title!r:.200}")
    if max(lengths) > _MAX_PART_SIZE or sum(lengths) + len(parts) > _MAX_TITLE_SIZE:
        raise InvalidName(f"title is too long: {title!r:.200}")
    return "/".join(parts)


def check_distinct_titles(titles: Iterable[str]) -> None:
    """Check that clean titles can be files of one directory, also on file systems that ignore case.

    Raises:
        UnsafeArchive: Two titles name the same file, or one names the directory of another.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for title in titles:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title).casefold())
        other = files.get(key, directories.get(key))
        if other is not None:
            raise UnsafeArchive(f"two titles name the same path: {other!r:.200} and {title!r:.200}")
        files[key] = title
        parent = key.rpartition("/")[0]
        while parent:
            if parent in files:
                raise UnsafeArchive(f"title {title!r:.200} is below {files[parent]!r:.200}, which is a file")
            directories.setdefault(parent, title)
            parent = parent.rpartition("/")[0]


def stays_inside(path: bytes, link: bytes) -> bool:
    """Return whether a symbolic link stays inside the root, regardless of other links.

    ``..`` is allowed only at the beginning: after another name, it could start from anywhere.

    Args:
        path: Clean path of the link from the root.
        link: Target of the link.
    """
    if not link or link.startswith(b"/") or b"\0" in link:
        return False
    depth = path.count(b"/")
    at_start = True
    for part in link.split(b"/"):
        if part == b"..":
            depth -= 1
            if not at_start or depth < 0:
                return False
        elif part not in (b"", b"."):
            at_start = False
    return True


def pack_directory(directory: str | os.PathLike[str], title: str) -> BuiltLayer:
    """Pack a directory to a tar, compressed with gzip; equal files give an equal tar on every machine.

    Args:
        directory: Directory on disk; symbolic links in it are stored as links.
        title: Clean title, with which the paths in the tar begin.

    Raises:
        InvalidName: The name of a file is not UTF-8.
        InvalidValue: The directory contains a device, fifo or socket, or a link that leaves it.
        SizeMismatch: A file changed while it was read.
        OSError: A file or directory cannot be read.
    """
    stream = LayerStream()
    stream.write(encode_header(Member(title.encode(), FileKind.DIRECTORY, 0o755)))
    # The files of an artifact belong to the user who pulls it, and the modes on disk differ between machines.
    entries = directory_entries(directory, attributes=Attributes(mode=0o644))
    for path, entry in sorted(entries.items(), key=lambda item: item[0].split("/")):
        if entry.kind is FileKind.SYMLINK and not stays_inside(path.encode(), entry.link.encode()):
            raise InvalidValue(f"symbolic link leaves the directory: {path!r:.200} to {entry.link!r:.200}")
        write_entry(stream, f"{title}/{path}", entry)
    stream.write(END_OF_ARCHIVE)
    return stream.finish()


def unpack_directory(
    stored: ByteReader, size: int, root: int, *, title: str, tar_digest: Digest | None, reference: str
) -> None:
    """Unpack the tar of a directory into an open, empty directory; after a failure, it is empty again.

    Devices are refused, and so are symbolic links that leave the directory, because users of the files follow them.

    Args:
        stored: Compressed tar as a verifying reader; it is read to its end.
        size: Size of the compressed tar.
        root: Descriptor of the directory.
        title: Clean title; the paths in the tar may begin with it.
        tar_digest: Digest of the uncompressed tar; ``None`` if it is not known.
        reference: Reference of the artifact, for errors.

    Raises:
        UnsafeArchive: A path or link leaves the directory, members contradict each other, or a member is a device.
        IntegrityError: The tar is corrupt, truncated, or does not match its digests.
        TooLarge: A limit is exceeded.
    """
    budget = Budget(ExtractLimits(), reference=reference)
    budget.begin_layer(size)
    tar = decompress(stored, OCI_LAYER_GZIP, reference=reference)
    if tar_digest is not None:
        tar = VerifyingReader(tar, tar_digest, None, reference=reference)
    reader = TarReader(tar, budget, reference=reference)
    prefix = _TitlePrefix(title.encode())
    seen = _SeenMembers()
    with contextlib.closing(DirectorySink(root, ExtractOptions())) as sink:
        try:
            root_member = Member(b"", FileKind.DIRECTORY, 0o755)
            for member in reader.members():
                stripped = prefix.strip(member)
                if not stripped.path:
                    root_member = stripped
                    continue
                budget.add_entry(stripped.path)
                if seen.is_new(stripped):
                    with _map_missing_target(stripped):
                        sink.add(stripped, reader.chunks())
                elif stripped.kind is FileKind.FILE and not sink.has_content(stripped.path, reader.chunks()):
                    raise _contradiction(stripped)
            while tar.read(CHUNK_SIZE):
                checkpoint()
            sink.finish(root_member)
        except BaseException:
            sink.clear()
            raise


class _SeenMembers:
    """The members so far, directories excepted, by path: only members that are the same may be repeated."""

    def __init__(self) -> None:
        self._fingerprints: dict[bytes, bytes] = {}

    def is_new(self, member: Member) -> bool:
        """Return whether a member is the first one with its path.

        Raises:
            UnsafeArchive: Another one with this path has other attributes.
        """
        if member.kind is FileKind.DIRECTORY:
            return True
        value = fingerprint(member)
        known = self._fingerprints.setdefault(member.path, value)
        if known != value:
            raise _contradiction(member)
        return known is value


def _contradiction(member: Member) -> UnsafeArchive:
    return UnsafeArchive(f"two members with the same path, with differences: {printable(member.path)}")


class _TitlePrefix:
    """Remove the title from the paths of members; the first member shows whether they begin with it."""

    def __init__(self, title: bytes) -> None:
        self._title = title
        self._prefix: bytes | None = None

    def strip(self, member: Member) -> Member:
        if member.kind not in _ALLOWED_KINDS:
            raise UnsafeArchive(f"packed directory contains a {member.kind.value}: {printable(member.path)}")
        path = self._strip_path(member.path)
        if not path and member.kind is not FileKind.DIRECTORY:
            raise UnsafeArchive(f"root of the packed directory is not a directory: {printable(member.path)}")
        link = member.link
        if member.kind is FileKind.SYMLINK and not stays_inside(path, link):
            raise UnsafeArchive(
                f"symbolic link leaves the packed directory: {printable(member.path)} to {printable(link)}"
            )
        if member.kind is FileKind.HARDLINK:
            link = self._strip_path(link)
        return Member(
            path, member.kind, member.mode, 0, 0, member.mtime, member.size, link, sparse_map=member.sparse_map
        )

    def _strip_path(self, path: bytes) -> bytes:
        if self._prefix is None:
            last = self._title.rpartition(b"/")[2]
            self._prefix = next((prefix for prefix in (self._title, last) if _is_inside(path, prefix)), b"")
        if not self._prefix:
            return path
        if not _is_inside(path, self._prefix):
            raise UnsafeArchive(f"member outside of the packed directory: {printable(path)}")
        return path[len(self._prefix) + 1 :]


@contextlib.contextmanager
def _map_missing_target(member: Member) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if member.kind is FileKind.HARDLINK:
            raise UnsafeArchive(
                f"hard link to a missing file: {printable(member.path)} to {printable(member.link)}"
            ) from error
        raise


def _is_inside(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")
