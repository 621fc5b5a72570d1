"""Layers laid over each other, from the top down, each read once.

What upper layers have or hide is known before a lower one is read, so that only what wins is ever handed out, and no
content is kept. What it takes is in the names alone.

``gone`` and ``cleared`` remember the lowest layer that hid a path, or what is in it, from those below. A hard link's
target is looked up in what lay below the link at the time, whatever became of it later: that is asked of the same two.
Each directory that a layer has knows the lowest layer that hides what is in it, so that the question costs the same at
any depth.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, Protocol

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import ByteReader
from registry_core.domain.layer_paths import Whiteout, WhiteoutKind, ancestors, parent_of, whiteout_of
from registry_core.errors import UnsafeArchive
from registry_core.ops.tar.members import Budget, FileKind, Member, printable
from registry_core.ops.tar.reader import TarReader

__all__ = ["LayerFlattener", "PathState", "StoredLayer"]


class StoredLayer(Protocol):
    """A layer that can be read, more than once if need be."""

    @property
    def size(self) -> int:
        """Its size as it is stored."""
        ...

    def open_uncompressed(self) -> ByteReader:
        """Its tar; the read that reaches the end has verified it."""
        ...


class PathState(enum.Enum):
    """What is known of a path from the layers that were read."""

    UNKNOWN = "unknown"
    HIDDEN = "gone"
    LEAF = "leaf"
    DIRECTORY = "directory"
    IMPLIED = "implied"


# What a layer itself has at a path, in bits: a directory that it names or only implies, or something else; whether the
# path is visible from the top; whether what this layer has in it is; and above these, the lowest layer that hides that.
_LEAF: Final = 1
_NAMED: Final = 2
_IMPLIED: Final = 4
_THERE: Final = 8
_OPEN: Final = 16
_FLOOR: Final = 5


class _PendingHardlink(msgspec.Struct):
    """Hard links that wait for their target: their names, and the layer below which it must be."""

    view: int
    names: list[bytes]


class LayerFlattener:
    """The members of what layers make together.

    Directories come before or after what is in them: their attributes may stand in a lower layer than that. Each comes
    at most once; one that no layer describes comes last. Links come behind what they are links to.

    Args:
        layers: Lowest first.
        budget: What the limits leave.
        reference: What is read, for errors.
    """

    def __init__(self, layers: Sequence[StoredLayer], budget: Budget, *, reference: str = "") -> None:
        self._layers = layers
        self._budget = budget
        self._reference = reference
        self._decided: dict[bytes, PathState] = {}
        self._gone: dict[bytes, int] = {}
        self._cleared: dict[bytes, int] = {}
        self._wishes: dict[bytes, list[_PendingHardlink]] = {}
        self._tar: TarReader | None = None
        self.root: Member | None = None
        self.source = b""

    def members(self) -> Iterator[Member]:
        """Everything, layer by layer from the top; a file's content must be read before the next is asked for.

        The root's own attributes are in ``root`` afterwards, where a layer has them.

        Raises:
            UnsafeArchive: A layer contradicts itself, or tries to reach outside.
            IntegrityError: A layer is corrupt or cut off, or not what the image says.
            TooLarge: It is beyond a limit.
            RegistryError: A layer cannot be read.
        """
        for number in reversed(range(len(self._layers))):
            yield from self.layer(number)
        yield from self.rest()

    def layer(self, number: int) -> Iterator[Member]:
        """What one layer adds; layers are asked for from the highest to the lowest."""
        yield from _LayerPass(self, number).members()

    def rest(self) -> Iterator[Member]:
        """What no layer describes, once all were read: directories that are only implied.

        Raises:
            UnsafeArchive: A hard link's target is nowhere.
        """
        for target, wishes in self._wishes.items():
            raise _dangling(wishes[0].names[0], target)
        for path, standing in self._decided.items():
            if standing is PathState.IMPLIED and path:
                yield Member(path, FileKind.DIRECTORY, 0o755)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The content of the member that came last, each piece with its offset; holes are left out."""
        return iter(()) if self._tar is None else self._tar.chunks()

    def standing(self, path: bytes) -> PathState:
        """What is known of a path: ``UNKNOWN`` where only lower layers can tell."""
        decided = self._decided.get(path)
        if decided is not None:
            return decided
        hidden = path in self._gone or any(above in self._gone or above in self._cleared for above in ancestors(path))
        return PathState.HIDDEN if hidden else PathState.UNKNOWN


class _LayerPass:
    """One layer's pass."""

    def __init__(self, whole: LayerFlattener, number: int) -> None:
        self._whole = whole
        self._number = number
        self._layer = whole._layers[number]
        self._budget = whole._budget
        self._decided, self._gone, self._cleared = whole._decided, whole._gone, whole._cleared
        # What upper layers wait for. What this one waits for is not to be found in itself.
        self._wanted = whole._wishes
        self._wishes: dict[bytes, _PendingHardlink] = {}
        self._top = len(whole._layers)
        floor = self._cleared.get(b"", self._top)
        self._here: dict[bytes, int] = {b"": _IMPLIED | _THERE | self._open(floor)}
        self._marks: list[Whiteout] = []
        self._attributes: dict[bytes, Member] = {}
        # Links to files, to anything else, and to what is in lower layers; and the files that came under another name,
        # or not at all.
        self._files: dict[bytes, bytes] = {}
        self._others: dict[bytes, Member] = {}
        self._distant: dict[bytes, bytes] = {}
        self._homes: dict[bytes, bytes] = {}
        self._missed: dict[bytes, list[bytes]] = {}

    def members(self) -> Iterator[Member]:
        whole = self._whole
        self._budget.begin_layer(self._layer.size)
        with closing(self._layer.open_uncompressed()) as stream:
            whole._tar = tar = TarReader(stream, self._budget, reference=whole._reference)
            try:
                for member in tar.members():
                    checkpoint()
                    yield from self._member(member)
            finally:
                whole._tar = None
        self._settle()
        if self._missed:
            yield from self._second_pass()

    def _member(self, member: Member) -> Iterator[Member]:
        path, kind = member.path, member.kind
        if kind is not FileKind.FILE and (member.link or member.xattrs):
            self._budget.add_metadata(len(member.link) + sum(len(name) + len(value) for name, value in member.xattrs))
        if not path:
            self._describe(path, member)
            if self._whole.root is None:
                self._whole.root = member
            return
        mark = whiteout_of(path, regular=kind is FileKind.FILE)
        if mark is not None:
            self._budget.add_entry(path)
            if mark.kind is not WhiteoutKind.PRIVATE:
                self._marks.append(mark)
            return
        folder = self._enter(parent_of(path))
        self._whole.source = path
        if kind is FileKind.DIRECTORY:
            if self._directory(member, folder):
                yield member
            return
        visible = self._leaf(path, folder)
        names = [path] if visible else []
        for wish in self._wanted.pop(path, ()):
            self._check_wish(path, folder, wish)
            names += wish.names
        if kind is FileKind.HARDLINK:
            yield from self._link(member, names)
        elif kind is FileKind.FILE:
            yield from self._file(member, names)
        else:
            self._others[path] = member
            yield from (_renamed(member, name) for name in names)

    def _enter(self, path: bytes) -> int:
        """What this layer has at a directory, which it implies if it does not name it."""
        found = self._here.get(path)
        if found is not None:
            if found & _LEAF:
                raise UnsafeArchive(f"something below {printable(path)}, which is not a directory in the same layer")
            return found
        above = path
        while found is None:
            above = parent_of(above)
            found = self._here.get(above)
        if found & _LEAF:
            raise UnsafeArchive(f"something below a file or link of the same layer: {printable(path)}")
        # One name after the other: all of a deep path's parents together are large, and the budget may not have them.
        end = len(above)
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            found = self._imply(path[:end], found)
        return found

    def _imply(self, path: bytes, above: int) -> int:
        self._budget.add_entry(path)
        self._refuse_wish(path)
        top = self._top
        hidden = min(above >> _FLOOR, self._gone.get(path, top))
        state = _IMPLIED | self._open(min(hidden, self._cleared.get(path, top)))
        if hidden == top:
            state |= _THERE
            self._decided.setdefault(path, PathState.IMPLIED)
        self._here[path] = state
        return state

    def _open(self, floor: int) -> int:
        return floor << _FLOOR | (_OPEN if floor == self._top else 0)

    def _directory(self, member: Member, above: int) -> bool:
        """Take in a directory that the layer names: whether its attributes are those of the result."""
        path = member.path
        known = self._here.get(path)
        if known is None:
            known = self._imply(path, above)
        elif known & _LEAF:
            raise UnsafeArchive(f"both a directory and something else in one layer: {printable(path)}")
        elif known & _NAMED:
            self._describe(path, member)
            return False
        self._describe(path, member)
        self._here[path] = known & ~_IMPLIED | _NAMED
        if known & _THERE and self._decided[path] is PathState.IMPLIED:
            self._decided[path] = PathState.DIRECTORY
            return True
        return False

    def _describe(self, path: bytes, member: Member) -> None:
        """Refuse a directory that comes twice and is not the same: one of them has been handed out already."""
        if self._attributes.setdefault(path, member) != member:
            raise UnsafeArchive(f"a directory that comes twice in one layer and differs: {printable(path)}")

    def _leaf(self, path: bytes, above: int) -> bool:
        """Take in anything else: whether it is part of the result under its own name."""
        if path in self._here:
            raise UnsafeArchive(f"a path that comes twice in one layer: {printable(path)}")
        self._budget.add_entry(path)
        self._here[path] = _LEAF
        if not above & _OPEN or path in self._gone or path in self._decided:
            return False
        self._here[path] = _LEAF | _THERE
        self._decided[path] = PathState.LEAF
        return True

    def _file(self, member: Member, names: list[bytes]) -> Iterator[Member]:
        if not names:
            return
        home = names[0]
        self._homes[member.path] = home
        yield _renamed(member, home)
        yield from (_another(member, name, home) for name in names[1:])

    def _link(self, member: Member, names: list[bytes]) -> Iterator[Member]:
        path, target = member.path, member.link
        if not target or target == path:
            raise UnsafeArchive(f"a hard link to itself or to the root: {printable(path)}")
        if whiteout_of(target, regular=True) is not None:
            raise UnsafeArchive(f"a hard link to a whiteout: {printable(path)}")
        known = self._here.get(target, 0)
        if not known or (known & _LEAF and target in self._distant):
            # Not in this layer, or not yet: what lower ones have there.
            distant = self._distant.get(target, target)
            self._distant[path] = distant
            if names:
                self._wishes.setdefault(distant, _PendingHardlink(self._number, [])).names += names
        elif not known & _LEAF:
            raise UnsafeArchive(f"a hard link to a directory: {printable(path)}")
        elif target in self._others:
            # Only files can safely be linked to; another symbolic link or device is as good.
            other = self._others[path] = self._others[target]
            yield from (_renamed(other, name) for name in names)
        else:
            first = self._files[path] = self._files.get(target, target)
            home = self._homes.get(first)
            if home is not None:
                yield from (_another(member, name, home) for name in names)
            elif names:
                self._missed.setdefault(first, []).extend(names)

    def _check_wish(self, target: bytes, folder: int, wish: _PendingHardlink) -> None:
        if min(folder >> _FLOOR, self._gone.get(target, self._top)) < wish.view:
            raise _dangling(wish.names[0], target)

    def _refuse_wish(self, path: bytes) -> None:
        for wish in self._wanted.get(path, ()):
            raise _dangling(wish.names[0], path)

    def _settle(self) -> None:
        """Let what this layer has hide what lower ones have, wherever in the layer it stood (R-153, R-154)."""
        number = self._number
        for path, state in self._here.items():
            if state & _LEAF:
                self._gone[path] = number
        for mark in self._marks:
            if mark.kind is WhiteoutKind.WHITEOUT:
                self._gone[mark.path] = number
            else:
                self._cleared[mark.path] = number
        for target, wish in self._wishes.items():
            self._wanted.setdefault(target, []).append(wish)

    def _second_pass(self) -> Iterator[Member]:
        """Files that upper layers hide, but to which a later member was a link: only then is a layer read again."""
        whole = self._whole
        self._budget.begin_layer(self._layer.size)
        with closing(self._layer.open_uncompressed()) as stream:
            whole._tar = tar = TarReader(stream, self._budget, reference=whole._reference)
            try:
                for member in tar.members():
                    checkpoint()
                    names = self._missed.get(member.path)
                    if names:
                        whole.source = member.path
                        yield from self._file(member, names)
            finally:
                whole._tar = None


def _renamed(member: Member, name: bytes) -> Member:
    return member if member.path == name else msgspec.structs.replace(member, path=name)


def _another(member: Member, name: bytes, home: bytes) -> Member:
    return msgspec.structs.replace(
        member, path=name, kind=FileKind.HARDLINK, link=home, size=0, sparse_map=None, xattrs=(), device=(0, 0)
    )


def _dangling(name: bytes, target: bytes) -> UnsafeArchive:
    return UnsafeArchive(f"a hard link to a file that is not there: {printable(name)} to {printable(target)}")
