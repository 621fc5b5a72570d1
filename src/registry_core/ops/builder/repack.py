"""Layers packed anew: the same files give the same tar, in whatever order and whenever they were packed before."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import GZIP, Compression
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader
from registry_core.domain.layer_paths import WhiteoutKind, ancestors, whiteout_of
from registry_core.errors import UnsafeArchive, error_reference
from registry_core.ops.builder.layers import BuiltLayer, LayerStream
from registry_core.ops.extract.tar_stream import fill_holes
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind, Member, printable
from registry_core.ops.tar.reader import TarReader
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["TRUSTED_SIZE", "MetadataOverride", "passthrough_layer", "repack_layer"]

# The stored size of a stream that nobody stored: no ratio of it is too large.
TRUSTED_SIZE: Final = 1 << 62


class MetadataOverride(msgspec.Struct, frozen=True):
    """What all members of a layer get alike.

    Args:
        seconds: When they were changed, since 1970; ``None`` leaves each its own time.
        owner: The numbers of their owner and group; ``None`` leaves each its own.
    """

    seconds: int | None = None
    owner: tuple[int, int] | None = None

    def of(self, member: Member) -> Member:
        """A member as it is packed."""
        mtime = member.mtime if self.seconds is None else self.seconds * 10**9
        uid, gid = (member.uid, member.gid) if self.owner is None else self.owner
        return msgspec.structs.replace(member, mtime=mtime, uid=uid, gid=gid)


def repack_layer(
    tar: ByteReader,
    compression: Compression = GZIP,
    uniform: MetadataOverride = MetadataOverride(),  # noqa: B008  # frozen
    *,
    stored: int = TRUSTED_SIZE,
    limits: ExtractLimits | None = None,
    reference: str = "",
) -> BuiltLayer:
    """A layer of the same members in the order of their names, under headers of one form.

    Names are clean and come once, links stand behind what they link to, and what union file systems kept for
    themselves is left out. Whiteouts stay: they are part of what a layer says. Content waits in a temporary file, so
    memory is taken by names alone.

    Args:
        tar: Read to its end; whoever opened it closes it.
        compression: How the layer is stored.
        uniform: What all members get alike.
        stored: How large the tar is where it comes from, for the limit of its ratio.
        limits: How much is accepted.
        reference: What is read, for errors.

    Raises:
        UnsafeArchive: The tar contradicts itself, or a name leaves the image.
        IntegrityError: It is corrupt or cut off.
        TooLarge: It is beyond a limit.
        Unsupported: The compression is zstd, which is not installed.
    """
    budget = Budget(limits or ExtractLimits(), reference=reference)
    budget.begin_layer(stored)
    stream = LayerStream(compression)
    with error_reference(reference):
        members = _Members(budget, uniform)
        members.take(TarReader(tar, budget, reference=reference))
        for member, content in members.in_order():
            checkpoint()
            stream.write(encode_header(member))
            if member.kind is FileKind.FILE:
                for piece in fill_holes(member.size, content):
                    stream.write(bytes(piece))
                stream.write(bytes(padding(member.size)))
        stream.write(END_OF_ARCHIVE)
    return stream.finish()


def passthrough_layer(tar: ByteReader, compression: Compression = GZIP, *, reference: str = "") -> BuiltLayer:
    """A layer of a tar that stays as it is, byte for byte, once it was read through and found to be one.

    Args:
        tar: Read to its end; whoever opened it closes it.
        compression: How the layer is stored.
        reference: What is read, for errors.

    Raises:
        UnsafeArchive: A name leaves the image, or a marker marks nothing.
        IntegrityError: It is no tar, or corrupt or cut off.
        TooLarge: It is beyond what any honest one has.
        Unsupported: The compression is zstd, which is not installed.
    """
    passing = _Passing(tar, LayerStream(compression))
    # Whoever builds an image decides how large it becomes; what is kept of a tar here is one member at a time.
    budget = Budget(ExtractLimits(total_bytes=TRUSTED_SIZE, file_bytes=TRUSTED_SIZE), reference=reference)
    budget.begin_layer(TRUSTED_SIZE)
    with error_reference(reference):
        for member in TarReader(passing, budget, reference=reference).members():
            whiteout_of(member.path, regular=member.kind is FileKind.FILE)
    return passing.layer.finish()


class _Passing(BaseReader):
    """A stream whose bytes go into a layer as they are read."""

    def __init__(self, inner: ByteReader, layer: LayerStream) -> None:
        self._inner = inner
        self.layer = layer

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(size)
        self.layer.write(data)
        return data

    def close(self) -> None:
        self._inner.close()


class _Members:
    def __init__(self, budget: Budget, uniform: MetadataOverride) -> None:
        self._budget = budget
        self._uniform = uniform
        self._held: dict[bytes, tuple[Member, int]] = {}
        self._near: dict[bytes, bytes] = {}
        self._distant: dict[bytes, bytes] = {}
        self._content = Spool()

    def take(self, tar: TarReader) -> None:
        for member in tar.members():
            checkpoint()
            mark = whiteout_of(member.path, regular=member.kind is FileKind.FILE)
            # A marker that comes twice says the same as one.
            if mark is None or (mark.kind is not WhiteoutKind.PRIVATE and member.path not in self._held):
                self._add(self._linked(self._uniform.of(member)), tar)

    def in_order(self) -> Iterator[tuple[Member, Iterator[tuple[int, memoryview]]]]:
        # A link to what a lower layer has comes before what takes that path in this one, or makes a directory of it.
        early: set[bytes] = set()
        names = sorted(self._held) if self._distant else []
        for path, target in self._distant.items():
            if target in self._held or _has_below(names, target):
                early.update((path, *ancestors(path)))
        order = sorted(self._held, key=lambda path: (path not in early, path in self._near, path.split(b"/")))
        for path in order:
            member, start = self._held[path]
            self._check_folder(path)
            named = member if path else msgspec.structs.replace(member, path=b".")
            yield named, self._pieces(member, start)

    def _check_folder(self, path: bytes) -> None:
        above = next((above for above in ancestors(path) if above in self._held), None)
        if above is None or self._held[above][0].kind is FileKind.DIRECTORY:
            return
        # A marker hides what lower layers have, whatever stands there in this one.
        if whiteout_of(path, regular=True) is None:
            raise UnsafeArchive(f"something below what is not a directory: {printable(path)}")

    def _add(self, member: Member, tar: TarReader) -> None:
        known = self._held.get(member.path)
        if known is not None:
            if member.kind is FileKind.DIRECTORY and member == known[0]:
                return
            raise UnsafeArchive(f"a path that comes twice in one layer: {printable(member.path)}")
        self._budget.add_entry(member.path)
        self._held[member.path] = (member, self._content.size)
        if member.kind is FileKind.FILE:
            for _, piece in tar.chunks():
                self._content.write(bytes(piece))

    def _linked(self, member: Member) -> Member:
        if member.kind is not FileKind.HARDLINK:
            return member
        target = member.link
        if not target or target == member.path or whiteout_of(target, regular=True) is not None:
            raise UnsafeArchive(f"a hard link to nothing that could be linked to: {printable(member.path)}")
        known = self._held.get(target)
        if known is None or target in self._distant:
            distant = self._distant.get(target, target)
            if distant == member.path:
                # What a lower layer has here gets its own name again, by way of another.
                self._near[member.path] = target
                return member
            self._distant[member.path] = distant
            return msgspec.structs.replace(member, link=distant)
        if known[0].kind is FileKind.DIRECTORY:
            raise UnsafeArchive(f"a hard link to a directory: {printable(member.path)}")
        home = self._near[member.path] = self._near.get(target, target)
        return msgspec.structs.replace(member, link=home)

    def _pieces(self, member: Member, start: int) -> Iterator[tuple[int, memoryview]]:
        for offset, length in ((0, member.size),) if member.sparse_map is None else member.sparse_map:
            position, end = offset, offset + length
            while position < end:
                checkpoint()
                piece = self._content.read_at(start, min(CHUNK_SIZE, end - position))
                yield position, memoryview(piece)
                position += len(piece)
                start += len(piece)


def _has_below(names: list[bytes], folder: bytes) -> bool:
    """Whether one of some sorted names lies below a path."""
    first = bisect.bisect_left(names, folder + b"/")
    return first < len(names) and names[first].startswith(folder + b"/")
