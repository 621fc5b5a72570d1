"""Repack layers: equal files give an equal tar, independent of the order and time of the original packing."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import GZIP, Compression
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader
from registry_core.domain.layer_paths import WhiteoutKind, ancestors, is_pseudo_link, whiteout_of
from registry_core.errors import UnsafeArchive, error_reference
from registry_core.ops.builder.layers import BuiltLayer, LayerStream
from registry_core.ops.builder.windows import check_windows_member
from registry_core.ops.extract.tar_stream import fill_holes
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, printable
from registry_core.ops.tar.reader import TarReader
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["MetadataOverride", "check_layer", "passthrough_layer", "repack_layer"]

# A size that no layer reaches; as the stored size of a layer, it disables the limit on the compression ratio.
_UNLIMITED: Final = 1 << 62


class MetadataOverride(msgspec.Struct, frozen=True):
    """Attributes that all members of a layer get.

    Args:
        seconds: Modification time in seconds since 1970; ``None`` keeps the time of each member.
        owner: Numeric owner and group; ``None`` keeps those of each member.
    """

    seconds: int | None = None
    owner: tuple[int, int] | None = None

    def apply(self, member: Member) -> Member:
        """The member with these attributes."""
        mtime = member.mtime if self.seconds is None else self.seconds * 10**9
        uid, gid = (member.uid, member.gid) if self.owner is None else self.owner
        return msgspec.structs.replace(member, mtime=mtime, uid=uid, gid=gid)


def repack_layer(
    tar: ByteReader,
    compression: Compression = GZIP,
    override: MetadataOverride = MetadataOverride(),  # noqa: B008  # frozen
    *,
    stored_size: int = _UNLIMITED,
    limits: ExtractLimits | None = None,
    reference: str = "",
) -> BuiltLayer:
    """Repack a layer with sorted names and uniform headers.

    Paths are clean and unique, hard links follow their targets, and private files of union file systems are omitted.
    Whiteouts are kept. Content is spooled to a temporary file; memory is needed only for headers.

    Args:
        tar: Uncompressed tar; it is read to its end and not closed.
        compression: Compression of the new layer.
        override: Attributes that all members get.
        stored_size: Size of the original layer as stored, for the limit on the compression ratio.
        limits: Limits for reading the tar.
        reference: Reference of the image, for errors.

    Raises:
        UnsafeArchive: Members contradict each other, or a path leaves the image.
        IntegrityError: The tar is corrupt or truncated.
        TooLarge: A limit is exceeded.
        Unsupported: The compression is zstd, which is not installed.
    """
    budget = Budget(limits or ExtractLimits(), reference=reference)
    budget.begin_layer(stored_size)
    stream = LayerStream(compression)
    with error_reference(reference):
        members = _LayerMembers(budget, override)
        members.read(TarReader(tar, budget, reference=reference))
        for member, content in members.in_order():
            checkpoint()
            stream.write(encode_header(member))
            if member.kind is FileKind.FILE:
                for chunk in fill_holes(member.size, content):
                    stream.write(bytes(chunk))
                stream.write(bytes(padding(member.size)))
        stream.write(END_OF_ARCHIVE)
    return stream.finish()


def passthrough_layer(
    tar: ByteReader, compression: Compression = GZIP, *, windows: bool = False, reference: str = ""
) -> BuiltLayer:
    """Compress a tar without changing its bytes, and check that it is a valid layer.

    Args:
        tar: Uncompressed tar; it is read to its end and not closed.
        compression: Compression of the new layer.
        windows: Whether the layer is for Windows.
        reference: Reference of the image, for errors.

    Raises:
        UnsafeArchive: A path leaves the image, or a whiteout is malformed.
        IntegrityError: The content is not a tar, corrupt, or truncated.
        TooLarge: A header exceeds a limit.
        Unsupported: The compression is zstd, which is not installed, or a layer for Windows has files in other
            directories than Windows expects.
    """
    reader = _TeeReader(tar, LayerStream(compression))
    check_layer(reader, windows=windows, reference=reference)
    return reader.layer.finish()


def check_layer(tar: ByteReader, *, windows: bool = False, reference: str = "") -> None:
    """Check that a tar is a valid layer.

    Args:
        tar: Uncompressed tar; it is read to its end and not closed.
        windows: Whether the layer is for Windows.
        reference: Reference of the image, for errors.

    Raises:
        UnsafeArchive: A path leaves the image, or a whiteout is malformed.
        IntegrityError: The content is not a tar, corrupt, or truncated.
        TooLarge: A header exceeds a limit.
        Unsupported: A layer for Windows has files in other directories than Windows expects.
    """
    # The user who builds an image decides its size, and only one member at a time is kept in memory.
    budget = Budget(ExtractLimits(total_bytes=_UNLIMITED, file_bytes=_UNLIMITED), reference=reference)
    budget.begin_layer(_UNLIMITED)
    with error_reference(reference):
        for member in TarReader(tar, budget, reference=reference).members():
            whiteout_of(member.path, regular=member.kind is FileKind.FILE)
            if windows:
                check_windows_member(member)


class _TeeReader(BaseReader):
    """A reader that writes the bytes it returns to a layer."""

    def __init__(self, inner: ByteReader, layer: LayerStream) -> None:
        self._inner = inner
        self.layer = layer

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(size)
        self.layer.write(data)
        return data

    def close(self) -> None:
        self._inner.close()


class _LayerMembers:
    """The members of a layer, to be written in another order.

    A hard link to a path of this layer must follow its target. A hard link to a path that only lower layers have must
    precede any member of this layer that replaces that path.
    """

    def __init__(self, budget: Budget, override: MetadataOverride) -> None:
        self._budget = budget
        self._override = override
        # By path: the member, and where its content begins in the spool.
        self._members: dict[bytes, tuple[Member, int]] = {}
        # By path of a hard link: its target, once all links on the way are resolved.
        self._links_in_layer: dict[bytes, bytes] = {}
        self._links_to_lower: dict[bytes, bytes] = {}
        # Files of aufs that only hard links give a name to, by path.
        self._pseudo_links: dict[bytes, tuple[Member, int]] = {}
        self._content = Spool()

    def read(self, tar: TarReader) -> None:
        for member in tar.members():
            checkpoint()
            whiteout = whiteout_of(member.path, regular=member.kind is FileKind.FILE)
            if whiteout is not None and whiteout.kind is WhiteoutKind.PRIVATE:
                if member.kind is FileKind.FILE and is_pseudo_link(member.path):
                    self._add(self._pseudo_links, self._override.apply(member), tar)
            elif whiteout is None or member.path not in self._members:
                # A repeated whiteout has no further effect.
                self._add(self._members, self._override.apply(member), tar)
        self._name_pseudo_links()

    def in_order(self) -> Iterator[tuple[Member, Iterator[tuple[int, memoryview]]]]:
        # Links to a path of lower layers that this layer replaces, and the directories that contain the links.
        early: set[bytes] = set()
        paths = sorted(self._members) if self._links_to_lower else []
        for path, target in self._links_to_lower.items():
            if target in self._members or _has_below(paths, target):
                early.update((path, *ancestors(path)))
        order = sorted(
            self._members, key=lambda path: (path not in early, path in self._links_in_layer, path.split(b"/"))
        )
        for path in order:
            member, start = self._members[path]
            self._check_parent(path)
            named = member if path else msgspec.structs.replace(member, path=b".")
            yield named, self._chunks(member, start)

    def _check_parent(self, path: bytes) -> None:
        parent = next((parent for parent in ancestors(path) if parent in self._members), None)
        if parent is None or self._members[parent][0].kind is FileKind.DIRECTORY:
            return
        # A whiteout hides files of lower layers, regardless of what this layer has at the parent path.
        if whiteout_of(path, regular=True) is None:
            raise UnsafeArchive(f"entry below a path that is not a directory: {printable(path)}")

    def _add(self, members: dict[bytes, tuple[Member, int]], member: Member, tar: TarReader) -> None:
        path = member.path
        links = self._links_in_layer
        if member.kind is FileKind.HARDLINK:
            target, is_in_layer = self._resolve_hardlink(member)
            member = msgspec.structs.replace(member, link=target)
            links = self._links_in_layer if is_in_layer else self._links_to_lower
        known = members.get(path)
        if known is not None:
            # A hard link that had another target before this layer had one is not the same.
            is_same = member == known[0] and (member.kind is not FileKind.HARDLINK or path in links)
            if not is_same or (member.kind is FileKind.FILE and not self._has_content(known[1], tar)):
                raise UnsafeArchive(f"duplicate path in a layer, with differences: {printable(path)}")
            return
        self._budget.add_entry(path)
        members[path] = (member, self._content.size)
        if member.kind is FileKind.HARDLINK:
            links[path] = member.link
        elif member.kind is FileKind.FILE:
            for _, chunk in tar.chunks():
                self._content.write(bytes(chunk))

    def _has_content(self, start: int, tar: TarReader) -> bool:
        """Return whether the current member of the tar has the content that begins at a position of the spool."""
        for _, chunk in tar.chunks():
            position, end = 0, len(chunk)
            while position < end:
                checkpoint()
                known = self._content.read_at(start, end - position)
                if not known or known != chunk[position : position + len(known)]:
                    return False
                position, start = position + len(known), start + len(known)
        return True

    def _resolve_hardlink(self, member: Member) -> tuple[bytes, bool]:
        """The target of a hard link, once all links on the way are resolved, and whether this layer has it."""
        target = member.link
        if is_pseudo_link(target):
            return target, True
        if not target or target == member.path or whiteout_of(target, regular=True) is not None:
            raise UnsafeArchive(f"hard link to the root, to itself or to a whiteout: {printable(member.path)}")
        known = self._members.get(target)
        if known is None or target in self._links_to_lower:
            lower = self._links_to_lower.get(target, target)
            # A target that links to the lower file at this very path must precede this link to it.
            return (target, True) if lower == member.path else (lower, False)
        if known[0].kind is FileKind.DIRECTORY:
            raise UnsafeArchive(f"hard link to a directory: {printable(member.path)}")
        return self._links_in_layer.get(target, target), True

    def _name_pseudo_links(self) -> None:
        """Give each file that only hard links name the first of their names; the others link to that."""
        names: dict[bytes, bytes] = {}
        for path in sorted(path for path, target in self._links_in_layer.items() if is_pseudo_link(target)):
            target = self._links_in_layer[path]
            first = names.setdefault(target, path)
            if first != path:
                link, start = self._members[path]
                self._members[path] = (msgspec.structs.replace(link, link=first), start)
                self._links_in_layer[path] = first
            elif target in self._pseudo_links:
                file, start = self._pseudo_links[target]
                self._members[path] = (msgspec.structs.replace(file, path=path), start)
                del self._links_in_layer[path]
            else:
                raise UnsafeArchive(f"hard link to a missing file: {printable(path)} to {printable(target)}")

    def _chunks(self, member: Member, start: int) -> Iterator[tuple[int, memoryview]]:
        for offset, length in ((0, member.size),) if member.sparse_map is None else member.sparse_map:
            position, end = offset, offset + length
            while position < end:
                checkpoint()
                chunk = self._content.read_at(start, min(CHUNK_SIZE, end - position))
                yield position, memoryview(chunk)
                position += len(chunk)
                start += len(chunk)


def _has_below(paths: list[bytes], directory: bytes) -> bool:
    """Return whether one of the sorted paths is below the directory."""
    index = bisect.bisect_left(paths, directory + b"/")
    return index < len(paths) and paths[index].startswith(directory + b"/")
