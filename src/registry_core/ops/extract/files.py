"""Single files of an image, found without unpacking the rest.

Layers are read from the top until one decides. Symbolic links are followed inside the image, as a process whose root
it is would follow them.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, ByteReader, BytesSource
from registry_core.domain.layer_paths import LONGEST_PATH
from registry_core.errors import InvalidName, NotFound, error_reference
from registry_core.ops.extract.flatten import LayerFlattener, PathState, StoredLayer
from registry_core.ops.extract.tar_stream import GeneratorReader, fill_holes
from registry_core.ops.tar.members import Budget, ExtractLimits, FileEntry, FileKind, Member, file_entry, printable
from registry_core.ops.tar.reader import TarReader

__all__ = ["list_files", "open_file"]

_HOPS: Final = 40
_KEPT: Final = 8


def list_files(layers: Sequence[StoredLayer], limits: ExtractLimits, *, reference: str = "") -> Iterator[FileEntry]:
    """Everything in the image, each once, as the layers come; the root itself is left out.

    Raises:
        UnsafeArchive: A layer contradicts itself, or tries to reach outside.
        IntegrityError: A layer is corrupt, cut off, or not what the image says.
        TooLarge: It is beyond a limit.
        RegistryError: A layer cannot be read.
    """
    with error_reference(reference):
        flat = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
        for member in flat.members():
            yield file_entry(member)


def open_file(
    layers: Sequence[StoredLayer], path: str | os.PathLike[str], limits: ExtractLimits, *, reference: str = ""
) -> ByteReader:
    """A reader over one file. The read that hands out its last byte has verified its layer.

    Args:
        layers: Lowest first.
        path: From the root, with or without a leading slash.
        limits: How much is accepted.
        reference: What is read, for errors.

    Raises:
        InvalidName: Not a path.
        NotFound: There is no such file: nothing, a directory or a device, or links that lead nowhere.
        IntegrityError: A layer is corrupt, cut off, or not what the image says.
        RegistryError: A layer cannot be read.
    """
    wanted = os.fsencode(path)
    if b"\0" in wanted or len(wanted) > LONGEST_PATH:
        raise InvalidName(f"not a path: {os.fspath(path)!r:.200}", reference=reference)
    with error_reference(reference):
        search = _Search(layers, limits, reference)
        number, source = search.find(wanted)
        kept = search.kept.get((number, source))
        if kept is not None:
            return BytesSource(kept).open()
        return GeneratorReader(_content(layers[number], source, Budget(limits, reference=reference), reference))


class _Undecided(Exception):
    """Only a lower layer can tell."""


class _Leaf(NamedTuple):
    """What is kept of a member that is no directory: the layer that has it, and its path there."""

    kind: FileKind
    link: bytes
    layer: int
    source: bytes


class _Search:
    def __init__(self, layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str) -> None:
        self._count = len(layers)
        self._flat = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
        self._leaves: dict[bytes, _Leaf] = {}
        self._likely: set[bytes] = set()
        self.kept: dict[tuple[int, bytes], bytes] = {}

    def find(self, wanted: bytes) -> tuple[int, bytes]:
        """The layer that has a file's content, and the path of its member there; ``kept`` may have it already."""
        self._likely.add(_normal(wanted))
        for number in reversed(range(self._count)):
            for member in self._flat.layer(number):
                if member.kind is not FileKind.DIRECTORY:
                    self._leaves[member.path] = _Leaf(member.kind, member.link, number, self._flat.source)
                    if member.path in self._likely and len(self.kept) < _KEPT:
                        self._keep(number, member)
            try:
                return self._resolve(wanted)
            except _Undecided:
                continue
        raise NotFound(f"no such file: {printable(wanted)}")

    def _keep(self, number: int, member: Member) -> None:
        """Small files that are probably wanted are kept as they come by, so that their layer is read but once."""
        if member.kind is FileKind.SYMLINK and len(self._likely) <= _HOPS:
            folder = b"" if member.link.startswith(b"/") else member.path.rpartition(b"/")[0]
            self._likely.add(_normal(folder + b"/" + member.link))
        elif member.kind is FileKind.FILE and member.size <= CHUNK_SIZE:
            self.kept[number, self._flat.source] = b"".join(fill_holes(member.size, self._flat.chunks()))

    def _resolve(self, wanted: bytes) -> tuple[int, bytes]:
        waiting = _parts(wanted)
        path = b""
        hops = 0
        while waiting:
            part = waiting.pop()
            if part == b"..":
                path = path.rpartition(b"/")[0]
                continue
            inside = path
            path = path + b"/" + part if path else part
            leaf = self._leaf(path)
            if leaf is None:
                continue
            if leaf.kind is FileKind.SYMLINK:
                hops += 1
                if hops > _HOPS or len(waiting) + len(leaf.link) > LONGEST_PATH:
                    raise NotFound(f"symbolic links that lead nowhere: {printable(wanted)}")
                waiting += _parts(leaf.link)
                path = b"" if leaf.link.startswith(b"/") else inside
            elif waiting or wanted.endswith(b"/"):
                raise NotFound(f"not a directory: {printable(path)}")
            elif leaf.kind in (FileKind.FILE, FileKind.HARDLINK):
                file = self._leaves[leaf.link] if leaf.kind is FileKind.HARDLINK else leaf
                return file.layer, file.source
            else:
                raise NotFound(f"a {leaf.kind.value}, not a file: {printable(path)}")
        raise NotFound(f"a directory, not a file: {printable(wanted)}")

    def _leaf(self, path: bytes) -> _Leaf | None:
        """What stands at a path, if it is no directory."""
        leaf = self._leaves.get(path)
        if leaf is not None:
            return leaf
        standing = self._flat.standing(path)
        if standing is PathState.HIDDEN:
            raise NotFound(f"no such file: {printable(path)}")
        if standing in (PathState.UNKNOWN, PathState.LEAF):
            # A leaf that has not been seen is a hard link whose target is further down.
            raise _Undecided
        return None


def _normal(path: bytes) -> bytes:
    """A path without dots, taken by its text alone: a guess, where symbolic links stand on the way."""
    parts: list[bytes] = []
    for part in reversed(_parts(path)):
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
    return b"/".join(parts)


def _parts(path: bytes) -> list[bytes]:
    """A path's parts, the first one last."""
    return [part for part in reversed(path.split(b"/")) if part and part != b"."]


def _content(layer: StoredLayer, source: bytes, budget: Budget, reference: str) -> Generator[bytes, None, None]:
    """A file's content, straight from its layer; the last of it only when the whole layer is verified (R-006)."""
    held = b""
    budget.begin_layer(layer.size)
    with error_reference(reference), closing(layer.open_uncompressed()) as stream:
        tar = TarReader(stream, budget, reference=reference)
        for member in tar.members():
            checkpoint()
            if member.path == source and member.kind is FileKind.FILE:
                for piece in fill_holes(member.size, tar.chunks()):
                    if held:
                        yield held
                    held = bytes(piece)
    if held:
        yield held
