"""List the files of an image, and open single files without extracting the rest.

Layers are read from the top until one has the file. Symbolic links are followed with the image as the root directory.
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

_MAX_SYMLINKS: Final = 40
_MAX_CACHED_FILES: Final = 8


def list_files(layers: Sequence[StoredLayer], limits: ExtractLimits, *, reference: str = "") -> Iterator[FileEntry]:
    """List every file of the image once, in layer order; the root directory is omitted.

    Args:
        layers: Layers, lowest first.
        limits: Limits for reading the layers.
        reference: Reference of the image, for errors.

    Raises:
        UnsafeArchive: Members of a layer contradict each other, or a path or link leaves the image.
        IntegrityError: A layer is corrupt, truncated, or does not match its digest.
        TooLarge: A limit is exceeded.
        RegistryError: A layer cannot be read.
    """
    with error_reference(reference):
        flattener = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
        for member in flattener.members():
            yield file_entry(member)


def open_file(
    layers: Sequence[StoredLayer], path: str | os.PathLike[str], limits: ExtractLimits, *, reference: str = ""
) -> ByteReader:
    """Open one file. The read that returns its last byte has verified its layer.

    Args:
        layers: Layers, lowest first.
        path: Path from the root, with or without a leading slash.
        limits: Limits for reading the layers.
        reference: Reference of the image, for errors.

    Raises:
        InvalidName: The path contains a NUL byte or is too long, or is neither text nor a path.
        NotFound: The path does not exist, is a directory or a device, or its symbolic links form a cycle.
        IntegrityError: A layer is corrupt, truncated, or does not match its digest.
        RegistryError: A layer cannot be read.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidName(f"not a path: {path!r:.200}", reference=reference)
    wanted = os.fsencode(path)
    if b"\0" in wanted or len(wanted) > LONGEST_PATH:
        raise InvalidName(f"not a path: {os.fspath(path)!r:.200}", reference=reference)
    with error_reference(reference):
        search = _FileSearch(layers, limits, reference)
        number, source_path = search.find(wanted)
        content = search.cache.get((number, source_path))
        if content is not None:
            return BytesSource(content).open()
        budget = Budget(limits, reference=reference)
        return GeneratorReader(_file_chunks(layers[number], source_path, budget, reference))


class _Undecided(Exception):
    """A lower layer has to be read to resolve the path."""


class _Leaf(NamedTuple):
    """Anything but a directory: its kind and link target, its layer, and its path in that layer."""

    kind: FileKind
    link: bytes
    layer: int
    source_path: bytes


class _FileSearch:
    """Resolve a path, layer by layer from the top."""

    def __init__(self, layers: Sequence[StoredLayer], limits: ExtractLimits, reference: str) -> None:
        self._layer_count = len(layers)
        self._flattener = LayerFlattener(layers, Budget(limits, reference=reference), reference=reference)
        self._leaves: dict[bytes, _Leaf] = {}
        self._candidates: set[bytes] = set()
        self.cache: dict[tuple[int, bytes], bytes] = {}

    def find(self, path: bytes) -> tuple[int, bytes]:
        """The layer that has the content of a file, and its path there; ``cache`` may have the content already."""
        self._candidates.add(_normalise(path))
        for number in reversed(range(self._layer_count)):
            for member in self._flattener.layer_members(number):
                if member.kind is not FileKind.DIRECTORY:
                    leaf = _Leaf(member.kind, member.link, number, self._flattener.source_path)
                    self._leaves[member.path] = leaf
                    if member.path in self._candidates and len(self.cache) < _MAX_CACHED_FILES:
                        self._cache_candidate(leaf, member)
            try:
                return self._resolve(path)
            except _Undecided:
                continue
        raise NotFound(f"no such file: {printable(path)}")

    def _cache_candidate(self, leaf: _Leaf, member: Member) -> None:
        """Cache a small file that is probably the wanted one, so that its layer is read only once."""
        if member.kind is FileKind.SYMLINK and len(self._candidates) <= _MAX_SYMLINKS:
            directory = b"" if member.link.startswith(b"/") else member.path.rpartition(b"/")[0]
            self._candidates.add(_normalise(directory + b"/" + member.link))
        elif member.kind is FileKind.FILE and member.size <= CHUNK_SIZE:
            content = b"".join(fill_holes(member.size, self._flattener.chunks()))
            self.cache[leaf.layer, leaf.source_path] = content

    def _resolve(self, wanted: bytes) -> tuple[int, bytes]:
        pending = _reversed_parts(wanted)
        path = b""
        symlinks = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                path = path.rpartition(b"/")[0]
                continue
            directory = path
            path = path + b"/" + part if path else part
            leaf = self._leaf(path)
            if leaf is None:
                continue
            if leaf.kind is FileKind.SYMLINK:
                symlinks += 1
                if symlinks > _MAX_SYMLINKS or len(pending) + len(leaf.link) > LONGEST_PATH:
                    raise NotFound(f"too many symbolic links: {printable(wanted)}")
                pending += _reversed_parts(leaf.link)
                path = b"" if leaf.link.startswith(b"/") else directory
            elif pending or wanted.endswith(b"/"):
                raise NotFound(f"not a directory: {printable(path)}")
            elif leaf.kind in (FileKind.FILE, FileKind.HARDLINK):
                file = self._leaves[leaf.link] if leaf.kind is FileKind.HARDLINK else leaf
                return file.layer, file.source_path
            else:
                raise NotFound(f"not a file but a {leaf.kind.value}: {printable(path)}")
        raise NotFound(f"not a file but a directory: {printable(wanted)}")

    def _leaf(self, path: bytes) -> _Leaf | None:
        """Return the member at a path; ``None`` if it is a directory."""
        leaf = self._leaves.get(path)
        if leaf is not None:
            return leaf
        state = self._flattener.path_state(path)
        if state is PathState.HIDDEN:
            raise NotFound(f"no such file: {printable(path)}")
        if state in (PathState.UNKNOWN, PathState.LEAF):
            # A leaf that was not yielded is a hard link whose target is in a lower layer.
            raise _Undecided
        return None


def _normalise(path: bytes) -> bytes:
    """Remove dots from a path lexically; the result is a guess if a parent is a symbolic link."""
    parts: list[bytes] = []
    for part in reversed(_reversed_parts(path)):
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
    return b"/".join(parts)


def _reversed_parts(path: bytes) -> list[bytes]:
    return [part for part in reversed(path.split(b"/")) if part and part != b"."]


def _file_chunks(
    layer: StoredLayer, source_path: bytes, budget: Budget, reference: str
) -> Generator[bytes, None, None]:
    """The content of a file; its last chunk is yielded when the whole layer is verified (R-006)."""
    previous = b""
    budget.begin_layer(layer.size)
    with error_reference(reference), closing(layer.open_uncompressed()) as stream:
        tar = TarReader(stream, budget, reference=reference)
        is_found = False
        for member in tar.members():
            checkpoint()
            if not is_found and member.path == source_path and member.kind is FileKind.FILE:
                # A layer may have the same entry twice.
                is_found = True
                for chunk in fill_holes(member.size, tar.chunks()):
                    if previous:
                        yield previous
                    previous = bytes(chunk)
    if previous:
        yield previous
