"""Directories and symbolic links of the layers below a new one.

A new layer has entries only for parent directories that no lower layer has: others would replace the mode and the owner
that a lower layer gives the directory. But if a lower layer has a symbolic link at the path of a parent, some tools
follow it and others replace it with a directory. Therefore the paths of a new layer are resolved before they are
written.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import compression_for, decompress
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.layer_paths import Whiteout, WhiteoutKind, ancestors, whiteout_of
from registry_core.domain.media_types import is_nondistributable
from registry_core.errors import InvalidName, Unsupported, error_reference
from registry_core.ops.builder.entries import Entry, image_path, whiteout_entry
from registry_core.ops.builder.layers import LayerPart
from registry_core.ops.tar.members import Budget, ExtractLimits, FileKind
from registry_core.ops.tar.reader import TarReader

__all__ = ["LowerPaths", "PathKind"]

# As many as Linux follows in one path.
_MAX_LINKS: Final = 40

# Stored size up to which a layer on this machine is read for every path: about 0.2 s. Larger ones would take as long as
# a push of the image.
_MAX_SIZE: Final = 16 << 20

# Directories that distributions replace with symbolic links.
_USUAL_LINKS: Final = frozenset(
    b"bin sbin lib lib32 lib64 libx32 usr/lib64 usr/sbin usr/tmp var/lock var/mail var/run var/spool/mail".split()
)


class PathKind(enum.Enum):
    """The state of a path in the layers below a new one."""

    MISSING = "missing"
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "symbolic link"
    UNKNOWN = "unknown"


class _LayerPaths(msgspec.Struct):
    """The paths of one layer.

    Args:
        directories: Directories, including those that the layer only implies.
        others: Everything else by path: the target of a symbolic link, or ``None``.
        hard_links: Targets of hard links to files that only lower layers have.
        hidden: Paths that the layer hides by whiteouts.
        opaque: Directories whose content the layer hides.
    """

    directories: set[bytes] = msgspec.field(default_factory=set)
    others: dict[bytes, bytes | None] = msgspec.field(default_factory=dict)
    hard_links: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    hidden: set[bytes] = msgspec.field(default_factory=set)
    opaque: set[bytes] = msgspec.field(default_factory=set)

    def add_whiteout(self, whiteout: Whiteout) -> None:
        """Add a whiteout; private files of union file systems hide nothing."""
        if whiteout.kind is not WhiteoutKind.PRIVATE:
            (self.opaque if whiteout.kind is WhiteoutKind.OPAQUE else self.hidden).add(whiteout.path)

    def add(self, path: bytes, kind: FileKind, link: bytes = b"") -> None:
        """Add an entry and the directories above it.

        Args:
            path: Clean path of the entry.
            kind: Type of the file.
            link: Target of a symbolic or hard link.
        """
        whiteout = whiteout_of(path, regular=kind is FileKind.FILE)
        if whiteout is not None:
            self.add_whiteout(whiteout)
            return
        if kind is FileKind.DIRECTORY:
            self.directories.add(path)
        elif kind is FileKind.HARDLINK:
            # It may be another name of a symbolic link.
            self.others[path] = self.others.get(link)
            if link not in self.others or link in self.hard_links:
                self.hard_links[path] = self.hard_links.get(link, link)
        else:
            self.others[path] = link if kind is FileKind.SYMLINK else None
        for directory in ancestors(path):
            if directory in self.directories:
                break
            self.directories.add(directory)

    def hides(self, path: bytes) -> bool:
        """Return whether the layer hides what lower layers have at a path."""
        return path in self.hidden or any(
            parent in self.hidden or parent in self.opaque or parent in self.others for parent in ancestors(path)
        )


class LowerPaths:
    """Resolves the paths of new layers. A layer is read when it is first needed, and its names are kept."""

    def __init__(self) -> None:
        self._layers: dict[Digest, _LayerPaths | None] = {}

    def add(self, digest: Digest, entries: Mapping[str, Entry]) -> None:
        """Add a layer that was written from entries, so that it is not read.

        Args:
            digest: Digest of the layer.
            entries: Entries of the layer by clean path.
        """
        paths = self._layers[digest] = _LayerPaths()
        for path, entry in entries.items():
            paths.add(path.encode(), entry.kind, entry.link.encode())

    def resolve(
        self, entries: Mapping[str, Entry], lower: Sequence[LayerPart], *, target: str = ""
    ) -> dict[str, Entry]:
        """Replace symbolic links of lower layers in the parent directories of entries by their targets.

        A directory over a symbolic link is omitted, and its content goes to the target of the link.

        A parent is added to the entries if it is new, or replaces a file of a lower layer.

        Layers in a registry, and large layers on this machine, are read only if a parent is one that distributions make
        a link, such as ``lib``, or if a layer below has a link; any other parent counts as an existing directory then.

        Args:
            entries: Entries by clean path.
            lower: Layers below, the lowest first.
            target: Directory whose entry is omitted if a lower layer has the directory, or may have it.

        Raises:
            InvalidName: A parent is a loop of links, or two entries get the same path.
            RegistryError: A layer cannot be read.
        """
        return _Resolution(self, entries, lower, target).entries()

    def find(self, path: bytes, lower: Sequence[LayerPart]) -> tuple[PathKind, bytes]:
        """Return the state of a path in the layers, and the target if it is a symbolic link."""
        found = self._find(path, lower, read_all=path in _USUAL_LINKS)
        if found[0] is PathKind.LINK:
            # A layer that was not read may have replaced the link.
            found = self._find(path, lower, read_all=True)
        return found

    def _find(self, path: bytes, lower: Sequence[LayerPart], *, read_all: bool) -> tuple[PathKind, bytes]:
        kind, is_unread = PathKind.MISSING, False
        for part in reversed(lower):
            paths = self._read(part, read_all=read_all)
            if paths is None:
                is_unread = True
                continue
            if path in paths.hard_links:
                path = paths.hard_links[path]
            elif path in paths.others:
                link = paths.others[path]
                if link is not None:
                    return PathKind.LINK, link
                kind = PathKind.FILE
                break
            if path in paths.directories:
                kind = PathKind.DIRECTORY
                break
            if paths.hides(path):
                break
        return PathKind.UNKNOWN if is_unread else kind, b""

    def _read(self, part: LayerPart, *, read_all: bool) -> _LayerPaths | None:
        """The paths of a layer; ``None`` if it is costly and not all are to be read, or if it cannot be unpacked."""
        digest = part.descriptor.digest
        if digest not in self._layers:
            is_costly = part.is_remote or part.descriptor.size > _MAX_SIZE
            if is_costly and not read_all:
                return None
            self._layers[digest] = _read_paths(part)
        return self._layers[digest]


class _Resolution:
    """The resolution of the paths of one layer."""

    def __init__(
        self, lower_paths: LowerPaths, entries: Mapping[str, Entry], lower: Sequence[LayerPart], target: str
    ) -> None:
        self._lower_paths = lower_paths
        self._lower = lower
        self._unresolved = entries
        self._target = target
        # By resolved path: the entry, and its path before.
        self._resolved: dict[str, tuple[Entry, str]] = {}
        self._parents: dict[str, Entry] = {}
        # Directories by their path before.
        self._directories: dict[str, str] = {"": ""}
        # Whiteouts of the new layer itself.
        self._whiteouts = _LayerPaths()

    def entries(self) -> dict[str, Entry]:
        whiteouts: list[str] = []
        others: list[str] = []
        for path in sorted(self._unresolved, key=lambda path: path.split("/")):
            (others if whiteout_entry(path, self._unresolved[path]) is None else whiteouts).append(path)
        # Whiteouts hide links of lower layers from the entries of this layer, but not from each other.
        hiding = [whiteout_entry(self._add(path, creates=False), self._unresolved[path]) for path in whiteouts]
        for whiteout in hiding:
            if whiteout is not None:
                self._whiteouts.add_whiteout(whiteout)
        self._directories = {"": ""}
        for path in others:
            self._add(path, creates=True)
        return self._parents | {path: entry for path, (entry, _) in self._resolved.items()}

    def _add(self, path: str, *, creates: bool) -> str:
        """Add an entry under its resolved path, which is returned.

        Args:
            path: Path of the entry.
            creates: Whether the entry creates its parents, as all but whiteouts do.
        """
        entry = self._unresolved[path]
        parent, _, name = path.rpartition("/")
        directory = self._directory(parent, creates=creates)
        resolved = f"{directory}/{name}" if directory else name
        if entry.kind is FileKind.DIRECTORY:
            kind, _ = self._find(resolved)
            if kind is PathKind.LINK:
                return self._directory(path, creates=creates)
            if path == self._target and self._is_target_known(kind):
                return resolved
        other, source = self._resolved.setdefault(resolved, (entry, path))
        if source != path and not (entry.kind is other.kind is FileKind.DIRECTORY):
            raise InvalidName(f"two files with the same path: {source!r:.200} and {path!r:.200}")
        return resolved

    def _is_target_known(self, kind: PathKind) -> bool:
        """Return whether the target needs no entry. In unread layers it exists, unless nothing else is added."""
        return kind is PathKind.DIRECTORY or (kind is PathKind.UNKNOWN and len(self._unresolved) > 1)

    def _directory(self, path: str, *, creates: bool) -> str:
        """The path of a directory without symbolic links of lower layers."""
        known = self._directories.get(path)
        if known is not None:
            return known
        pending = path.split("/")[::-1]
        current: list[str] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                del current[-1:]
                continue
            if name in ("", "."):
                continue
            current.append(name)
            here = "/".join(current)
            kind, link = self._find(here)
            if kind is PathKind.LINK:
                links += 1
                if links > _MAX_LINKS:
                    raise InvalidName(f"{path!r:.200} leads through more than {_MAX_LINKS} symbolic links of the image")
                current = [] if link.startswith(b"/") else current[:-1]
                pending += link.decode("utf-8", "surrogateescape").split("/")[::-1]
            # Some tools do not replace a file by a directory that is only implied.
            elif kind is PathKind.FILE or (kind is PathKind.MISSING and creates):
                self._parents[here] = Entry(FileKind.DIRECTORY, 0o755)
        resolved = self._directories[path] = image_path("/".join(current))
        return resolved

    def _find(self, path: str) -> tuple[PathKind, bytes]:
        encoded = path.encode("utf-8", "surrogateescape")
        if self._whiteouts.hides(encoded):
            return PathKind.MISSING, b""
        return self._lower_paths.find(encoded, self._lower)


def _read_paths(part: LayerPart) -> _LayerPaths | None:
    descriptor = part.descriptor
    if is_nondistributable(descriptor.media_type):
        return None
    try:
        compression_for(descriptor.media_type)
    except Unsupported:
        return None
    reference = str(descriptor.digest)
    paths = _LayerPaths()
    budget = Budget(ExtractLimits(), reference=reference)
    budget.begin_layer(descriptor.size)
    with error_reference(reference):
        stored = VerifyingReader(part.content.open(), descriptor.digest, descriptor.size, reference=reference)
        with decompress(stored, descriptor.media_type, reference=reference) as tar:
            reader = TarReader(tar, budget, reference=reference)
            for member in reader.members():
                checkpoint()
                budget.add_entry(member.path)
                paths.add(member.path, member.kind, member.link)
    return paths
