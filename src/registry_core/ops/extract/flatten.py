"""Flatten layers: merge them from the top down, each read once.

When a layer is read, the paths that the layers above have or hide are known already. Therefore only visible members are
yielded, and only names are kept in memory.

``hidden_by`` and ``opaque_in`` hold the lowest layer that hides a path, or the content of a directory, from the layers
below it. The target of a hard link is looked up in the layers below the link, even if a layer above hides it: the same
two tables answer that. For each directory of a layer, the lowest layer that hides its content is stored too, so that a
look-up costs the same at any depth.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final, Protocol

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import ByteReader
from registry_core.domain.layer_paths import Whiteout, WhiteoutKind, ancestors, is_pseudo_link, parent_of, whiteout_of
from registry_core.errors import IntegrityError, TooLarge, UnsafeArchive
from registry_core.ops.tar.members import Budget, FileKind, Member, fingerprint, printable
from registry_core.ops.tar.reader import TarReader

__all__ = ["LayerFlattener", "PathState", "StoredLayer"]


class StoredLayer(Protocol):
    """A layer that can be read more than once."""

    @property
    def size(self) -> int:
        """Size of the layer as stored."""
        ...

    def open_uncompressed(self) -> ByteReader:
        """Open the tar; the read that reaches its end has verified the layer."""
        ...


class PathState(enum.Enum):
    """State of a path after the layers read so far."""

    UNKNOWN = "unknown"
    HIDDEN = "hidden"
    LEAF = "leaf"
    DIRECTORY = "directory"
    IMPLIED = "implied"


# Flags of a path in one layer. The bits above them are the number of the lowest layer that hides the content of the
# directory, or the number of layers if none does.
_LEAF: Final = 1  # The layer has something other than a directory.
_EXPLICIT: Final = 2  # The layer has an entry for the directory.
_IMPLIED: Final = 4  # The layer has entries below the directory, but none for the directory itself so far.
_VISIBLE: Final = 8  # The path is visible in the image.
_CONTENT_VISIBLE: Final = 16  # The entries that this layer has in the directory are not hidden by a layer above.
_HIDING_LAYER_SHIFT: Final = 5


class _PendingHardlinks(msgspec.Struct):
    """Hard links whose target is in a lower layer.

    Args:
        layer: Layer of the links; the target is below it.
        names: Visible paths of the links.
    """

    layer: int
    names: list[bytes]


class LayerFlattener:
    """The members of the file system that the layers form together.

    Each path is yielded once. A directory may be yielded before or after its content, because a lower layer may have
    its attributes; directories without attributes in any layer are yielded last. Hard links are yielded after their
    targets.

    Args:
        layers: Layers, lowest first.
        budget: Limits, and what was read so far.
        reference: Reference of the image, for errors.
    """

    def __init__(self, layers: Sequence[StoredLayer], budget: Budget, *, reference: str = "") -> None:
        self._layers = layers
        self._budget = budget
        self._reference = reference
        self._states: dict[bytes, PathState] = {}
        self._hidden_by: dict[bytes, int] = {}
        self._opaque_in: dict[bytes, int] = {}
        self._pending_links: dict[bytes, list[_PendingHardlinks]] = {}
        self._tar: TarReader | None = None
        self._number = 0
        # Attributes of the root directory, and the path in its layer of the member that was yielded last.
        self.root: Member | None = None
        self.source_path = b""

    def members(self) -> Iterator[Member]:
        """All members, layer by layer from the top; the content of a file must be read before the next member.

        Afterwards ``root`` has the attributes of the root directory, if a layer has them.

        Raises:
            UnsafeArchive: Members of a layer contradict each other, or a path or link leaves the image.
            IntegrityError: A layer is corrupt, truncated, or does not match its digest.
            TooLarge: A limit is exceeded.
            RegistryError: A layer cannot be read.
        """
        for number in reversed(range(len(self._layers))):
            yield from self.layer_members(number)
        yield from self.implied_directories()

    def layer_members(self, number: int) -> Iterator[Member]:
        """The visible members of one layer; layers must be read from the highest to the lowest."""
        yield from _LayerPass(self, number).members()

    def implied_directories(self) -> Iterator[Member]:
        """The directories that have no entry in any layer; all layers must have been read.

        Raises:
            UnsafeArchive: The target of a hard link does not exist.
        """
        for target, links in self._pending_links.items():
            raise self._missing_target(target, links[0])
        for path, state in self._states.items():
            if state is PathState.IMPLIED and path:
                yield Member(path, FileKind.DIRECTORY, 0o755)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The content of the member that was yielded last, as offsets and data; holes are omitted."""
        if self._tar is None:
            return
        try:
            yield from self._tar.chunks()
        except IntegrityError as error:
            self._name_layer(error, self._number)
            raise

    def _name_layer(self, error: IntegrityError, number: int) -> None:
        """Name the layer in an error of its tar, by its number, from 1 for the lowest."""
        # Errors in the stored bytes name the blob; the limits are those of the image.
        if error.reference in ("", self._reference) and not isinstance(error, TooLarge):
            error.message = f"layer {number + 1} of {len(self._layers)}: {error.message}"

    def _missing_target(self, target: bytes, links: _PendingHardlinks) -> UnsafeArchive:
        """Return the error for hard links whose target does not exist; it names the layer of the links."""
        error = UnsafeArchive(f"hard link to a missing file: {printable(links.names[0])} to {printable(target)}")
        self._name_layer(error, links.layer)
        return error

    def path_state(self, path: bytes) -> PathState:
        """The state of a path; ``UNKNOWN`` if it depends on layers that were not read."""
        state = self._states.get(path)
        if state is not None:
            return state
        hidden = path in self._hidden_by or any(
            parent in self._hidden_by or parent in self._opaque_in for parent in ancestors(path)
        )
        return PathState.HIDDEN if hidden else PathState.UNKNOWN


class _LayerPass:
    """Read one layer and yield its visible members."""

    def __init__(self, flattener: LayerFlattener, number: int) -> None:
        self._flattener = flattener
        self._number = number
        self._layer = flattener._layers[number]
        self._budget = flattener._budget
        self._states = flattener._states
        self._hidden_by, self._opaque_in = flattener._hidden_by, flattener._opaque_in
        self._no_layer = len(flattener._layers)
        self._paths: dict[bytes, int] = {
            b"": _IMPLIED | _VISIBLE | self._content_flags(self._opaque_in.get(b"", self._no_layer))
        }
        self._whiteouts: list[Whiteout] = []
        self._attributes: dict[bytes, Member] = {}
        # Links of the layers above that this layer may resolve, and links of this layer that only lower ones can.
        self._pending_from_above = flattener._pending_links
        self._pending_here: dict[bytes, _PendingHardlinks] = {}
        # Hard links of this layer by the kind of their target: the path of a file in this layer, the member of another
        # kind in this layer, or a path in a lower layer.
        self._links_to_files: dict[bytes, bytes] = {}
        self._others: dict[bytes, Member] = {}
        self._links_to_lower: dict[bytes, bytes] = {}
        # By path of a file in this layer: the path it was yielded as, and names that need a second pass.
        self._yielded_as: dict[bytes, bytes] = {}
        self._unread: dict[bytes, list[bytes]] = {}
        # Paths that have several entries, directories excepted.
        self._repeated: set[bytes] = set()
        # The error that a hard link of a layer above has no target: it names that layer already.
        self._missing: UnsafeArchive | None = None

    def members(self) -> Iterator[Member]:
        """Yield the visible members; errors in the tar name the layer."""
        self._flattener._number = self._number
        try:
            yield from self._members()
        except IntegrityError as error:
            if error is not self._missing:
                self._flattener._name_layer(error, self._number)
            raise

    def _members(self) -> Iterator[Member]:
        with self._open_tar() as tar:
            for member in tar.members():
                checkpoint()
                yield from self._member(member)
        if self._repeated:
            self._check_repeated()
        self._hide_from_lower_layers()
        if self._unread:
            yield from self._second_pass()

    @contextmanager
    def _open_tar(self) -> Iterator[TarReader]:
        flattener = self._flattener
        self._budget.begin_layer(self._layer.size)
        with closing(self._layer.open_uncompressed()) as stream:
            flattener._tar = TarReader(stream, self._budget, reference=flattener._reference)
            try:
                yield flattener._tar
            finally:
                flattener._tar = None

    def _member(self, member: Member) -> Iterator[Member]:
        path, kind = member.path, member.kind
        if kind is not FileKind.FILE and (member.link or member.xattrs):
            self._budget.add_metadata(len(member.link) + sum(len(name) + len(value) for name, value in member.xattrs))
        if not path:
            self._check_repeated_directory(path, member)
            if self._flattener.root is None:
                self._flattener.root = member
            return
        whiteout = whiteout_of(path, regular=kind is FileKind.FILE)
        if whiteout is not None:
            self._budget.add_entry(path)
            if whiteout.kind is not WhiteoutKind.PRIVATE:
                self._whiteouts.append(whiteout)
            elif kind is FileKind.FILE and is_pseudo_link(path):
                self._add_pseudo_link(path)
            return
        parent = self._enter_directory(parent_of(path))
        self._flattener.source_path = path
        if kind is FileKind.DIRECTORY:
            if self._add_directory(member, parent):
                yield member
            return
        if self._paths.get(path, 0) & _LEAF:
            self._add_repeated(member)
            return
        visible = self._add_leaf(path, parent)
        names = [path] if visible else []
        for links in self._pending_from_above.pop(path, ()):
            self._check_target_visible(path, parent, links)
            names += links.names
        if kind is FileKind.HARDLINK:
            yield from self._hardlink(member, names)
        elif kind is FileKind.FILE:
            yield from self._file(member, names)
        else:
            self._others[path] = member
            yield from (_with_path(member, name) for name in names)

    def _enter_directory(self, path: bytes) -> int:
        """The flags of a directory in this layer; the layer implies it if it has no entry for it."""
        flags = self._paths.get(path)
        if flags is not None:
            if flags & _LEAF:
                raise UnsafeArchive(f"entry below a path that is not a directory in the same layer: {printable(path)}")
            return flags
        parent = path
        while flags is None:
            parent = parent_of(parent)
            flags = self._paths.get(parent)
        if flags & _LEAF:
            raise UnsafeArchive(f"entry below a path that is not a directory in the same layer: {printable(path)}")
        # One parent at a time: all parents of a deep path together are large, and the budget may not allow them.
        end = len(parent)
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            flags = self._imply_directory(path[:end], flags)
        return flags

    def _imply_directory(self, path: bytes, parent: int) -> int:
        self._budget.add_entry(path)
        for links in self._pending_from_above.get(path, ()):
            raise self._missing_target(path, links)
        none = self._no_layer
        hiding = min(parent >> _HIDING_LAYER_SHIFT, self._hidden_by.get(path, none))
        flags = _IMPLIED | self._content_flags(min(hiding, self._opaque_in.get(path, none)))
        if hiding == none:
            flags |= _VISIBLE
            self._states.setdefault(path, PathState.IMPLIED)
        self._paths[path] = flags
        return flags

    def _content_flags(self, hiding_layer: int) -> int:
        return hiding_layer << _HIDING_LAYER_SHIFT | (_CONTENT_VISIBLE if hiding_layer == self._no_layer else 0)

    def _add_directory(self, member: Member, parent: int) -> bool:
        """Add the entry of a directory; return whether its attributes are visible in the image."""
        path = member.path
        flags = self._paths.get(path)
        if flags is None:
            flags = self._imply_directory(path, parent)
        elif flags & _LEAF:
            raise UnsafeArchive(f"path that is a directory and something else in one layer: {printable(path)}")
        elif flags & _EXPLICIT:
            self._check_repeated_directory(path, member)
            return False
        self._check_repeated_directory(path, member)
        self._paths[path] = flags & ~_IMPLIED | _EXPLICIT
        if flags & _VISIBLE and self._states[path] is PathState.IMPLIED:
            self._states[path] = PathState.DIRECTORY
            return True
        return False

    def _check_repeated_directory(self, path: bytes, member: Member) -> None:
        """Refuse a repeated directory with other attributes: the first one has already been yielded."""
        if self._attributes.setdefault(path, member) != member:
            raise UnsafeArchive(f"directory repeated with other attributes in one layer: {printable(path)}")

    def _add_pseudo_link(self, path: bytes) -> None:
        """Add a file that has no name in the image except those of the hard links to it."""
        if path in self._paths:
            self._repeated.add(path)
        self._paths[path] = _LEAF

    def _add_repeated(self, member: Member) -> None:
        """Add another entry for a path that is not a directory; see ``_check_repeated``."""
        path, target = member.path, member.link
        self._budget.add_entry(path)
        self._repeated.add(path)
        lower = self._links_to_lower.get(path) if member.kind is FileKind.HARDLINK else None
        # Equal entries mean different files if this layer has got the target since the first one.
        if lower is not None and self._lower_target(target) != lower:
            raise UnsafeArchive(f"hard link repeated after its target was replaced: {printable(path)}")

    def _check_repeated(self) -> None:
        """Read the layer again, and refuse paths whose entries are not the same to the byte.

        The first entry has been yielded by then. The error comes before the members end, so no result is used.
        """
        found: dict[bytes, bytes] = {}
        with self._open_tar() as tar:
            for member in tar.members():
                checkpoint()
                path = member.path
                if path in self._repeated:
                    content = tar.chunks() if member.kind is FileKind.FILE else ()
                    value = fingerprint(member, content)
                    if found.setdefault(path, value) != value:
                        raise UnsafeArchive(f"duplicate path in a layer, with differences: {printable(path)}")

    def _add_leaf(self, path: bytes, parent: int) -> bool:
        """Add anything but a directory; return whether it is visible in the image under its own path."""
        if path in self._paths:
            raise UnsafeArchive(f"path that is a directory and something else in one layer: {printable(path)}")
        self._budget.add_entry(path)
        self._paths[path] = _LEAF
        if not parent & _CONTENT_VISIBLE or path in self._hidden_by or path in self._states:
            return False
        self._paths[path] = _LEAF | _VISIBLE
        self._states[path] = PathState.LEAF
        return True

    def _file(self, member: Member, names: list[bytes]) -> Iterator[Member]:
        if not names:
            return
        first = names[0]
        self._yielded_as[member.path] = first
        yield _with_path(member, first)
        yield from (_hardlink_member(member, name, first) for name in names[1:])

    def _hardlink(self, member: Member, names: list[bytes]) -> Iterator[Member]:
        path, target = member.path, member.link
        if not target or target == path:
            raise UnsafeArchive(f"hard link to itself or to the root: {printable(path)}")
        if is_pseudo_link(target):
            # The file is in this layer, before or after the link, and was not yielded under a name of its own.
            self._links_to_files[path] = target
            if names:
                self._unread.setdefault(target, []).extend(names)
            return
        if whiteout_of(target, regular=True) is not None:
            raise UnsafeArchive(f"hard link to a whiteout: {printable(path)}")
        flags = self._paths.get(target, 0)
        lower = self._lower_target(target)
        if lower:
            self._links_to_lower[path] = lower
            if names:
                self._pending_here.setdefault(lower, _PendingHardlinks(self._number, [])).names += names
        elif not flags & _LEAF:
            raise UnsafeArchive(f"hard link to a directory: {printable(path)}")
        elif target in self._others:
            # only files can be linked to safely. A copy of a symbolic link or device is equivalent.
            other = self._others[path] = self._others[target]
            yield from (_with_path(other, name) for name in names)
        else:
            file = self._links_to_files[path] = self._links_to_files.get(target, target)
            first = self._yielded_as.get(file)
            if first is not None:
                yield from (_hardlink_member(member, name, first) for name in names)
            elif names:
                self._unread.setdefault(file, []).extend(names)

    def _lower_target(self, target: bytes) -> bytes:
        """The file of a lower layer that a hard link is to; empty if this layer has the target."""
        if not self._paths.get(target, 0):
            # This layer does not have the target, or not yet.
            return target
        return self._links_to_lower.get(target, b"")

    def _check_target_visible(self, target: bytes, parent: int, links: _PendingHardlinks) -> None:
        """Check that no layer between the links and this one hides their target."""
        if min(parent >> _HIDING_LAYER_SHIFT, self._hidden_by.get(target, self._no_layer)) < links.layer:
            raise self._missing_target(target, links)

    def _missing_target(self, target: bytes, links: _PendingHardlinks) -> UnsafeArchive:
        # The links are in a layer above this one.
        self._missing = self._flattener._missing_target(target, links)
        return self._missing

    def _hide_from_lower_layers(self) -> None:
        """Apply whiteouts and replaced paths, regardless of their position in the layer (R-153, R-154)."""
        number = self._number
        for path, flags in self._paths.items():
            if flags & _LEAF:
                self._hidden_by[path] = number
        for whiteout in self._whiteouts:
            if whiteout.kind is WhiteoutKind.WHITEOUT:
                self._hidden_by[whiteout.path] = number
            else:
                self._opaque_in[whiteout.path] = number
        for target, links in self._pending_here.items():
            self._pending_from_above.setdefault(target, []).append(links)

    def _second_pass(self) -> Iterator[Member]:
        """Read the layer again for files that are hidden under their own path, but that a later member links to."""
        with self._open_tar() as tar:
            for member in tar.members():
                checkpoint()
                # Of entries that are the same, the first is taken.
                names = self._unread.pop(member.path, None) if member.kind is FileKind.FILE else None
                if names:
                    self._flattener.source_path = member.path
                    yield from self._file(member, names)
        for target, names in self._unread.items():
            raise UnsafeArchive(f"hard link to a missing file: {printable(names[0])} to {printable(target)}")


def _with_path(member: Member, path: bytes) -> Member:
    return member if member.path == path else msgspec.structs.replace(member, path=path)


def _hardlink_member(member: Member, path: bytes, target: bytes) -> Member:
    return msgspec.structs.replace(
        member, path=path, kind=FileKind.HARDLINK, link=target, size=0, sparse_map=None, xattrs=(), device=(0, 0)
    )
