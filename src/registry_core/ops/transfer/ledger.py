"""What is known of every node of a run: what it waits for, who waits for it, and how others ended.

Nothing here touches a repository, and nothing here waits.
"""

from __future__ import annotations

import threading

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import TooLarge
from registry_core.ops.graph import DEPTH_LIMIT, NODE_LIMIT
from registry_core.ops.transfer.nodes import NodeKind
from registry_core.ops.transfer.sides import Pair
from registry_core.ops.transfer.subset import Subset
from registry_core.ops.transfer.tasks import CopyTask
from registry_core.ports.repository import Repository

__all__ = ["Item", "Job", "Ledger", "Shelf"]


class Shelf:
    """Manifests that were read and will be needed again, as far as they fit.

    Args:
        room: How many bytes they may have together.
    """

    def __init__(self, room: int = 8 << 20) -> None:
        self._room = room
        self._held: dict[Digest, RawManifest] = {}
        self._lock = threading.Lock()

    def put(self, raw: RawManifest) -> None:
        """Keep one, if there is room."""
        with self._lock:
            if raw.digest not in self._held and len(raw.content) <= self._room:
                self._room -= len(raw.content)
                self._held[raw.digest] = raw

    def get(self, digest: Digest) -> RawManifest | None:
        """One that was kept."""
        return self._held.get(digest)


class Job:
    """A task that is under way.

    ``left`` counts what is not settled of it, ``manifests`` what it has come to in all, against endless lists of
    referrers. ``head`` is what its next follower waits for.
    """

    __slots__ = ("followers", "head", "left", "manifests", "pair", "subset", "task")

    def __init__(self, task: CopyTask) -> None:
        self.task = task
        self.pair = Pair(task.source, task.target)
        self.left = 1
        self.manifests = 0
        self.followers = list(reversed(task.followers))
        self.head: Item | None = None
        self.subset: Subset | None = None


class Item:
    """A node that is not settled yet.

    ``waits`` counts what it waits for; ``above`` is who waits for it, and whether they cannot do without it; ``loose``
    is a manifest that nothing describes but a list of referrers or a tag, ``odd`` a part of an index of which nobody
    knows whether it is one.
    """

    __slots__ = (
        "above", "depth", "descriptor", "job", "kind", "loose", "lost", "odd", "parts", "raw", "settled", "tags",
        "there", "waits",
    )  # fmt: skip

    def __init__(self, job: Job, kind: NodeKind, descriptor: Descriptor, depth: int) -> None:
        self.job = job
        self.kind = kind
        self.descriptor = descriptor
        self.depth = depth
        self.waits = 1
        self.above: list[tuple[Item, bool]] = []
        self.lost = self.settled = self.there = self.loose = self.odd = False
        self.raw: RawManifest | None = None
        self.parts: tuple[Descriptor, ...] = ()
        self.tags: tuple[Tag, ...] = ()

    @property
    def key(self) -> tuple[NodeKind, str]:
        """What it is in its place."""
        return self.kind, self.descriptor.digest


class _Place:
    """One repository of the target: nodes that are under way, and whether others ended well."""

    __slots__ = ("ended", "items")

    def __init__(self) -> None:
        self.items: dict[tuple[NodeKind, str], Item] = {}
        self.ended: dict[tuple[NodeKind, str], bool] = {}


class Ledger:
    """Each node once in its place; safe for many threads.

    An item begins with one thing that it waits for: whoever enters it releases it when all its parts are entered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Not by name: two backends in memory may be called the same.
        self._places: dict[Repository, _Place] = {}
        # By registry: blobs that are on their way to one of its repositories, and those that are in one.
        self._moving: dict[tuple[str, str], Item] = {}
        self._placed: dict[tuple[str, str], RepositoryName] = {}

    def enter_root(self, item: Item) -> None:
        """Enter a manifest that nothing in its graph stands above.

        Where somebody else sees to that manifest, what is left of the item are its tags.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            _count(item)
            place = self._place(item)
            ended, busy = place.ended.get(item.key), place.items.get(item.key)
            if ended is None and busy is None:
                place.items[item.key] = item
            else:
                item.lost = ended is False
                if busy is not None:
                    busy.above.append((item, True))
                    item.waits += 1
                item.kind = NodeKind.TAG
            item.job.left += 1
            item.job.head = item

    def enter_part(self, above: Item, item: Item) -> bool:
        """Enter a part of a manifest, which waits for it: whether nobody else sees to it, or did.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            place = self._place(item)
            ended, busy = place.ended.get(item.key), place.items.get(item.key)
            if ended is not None:
                above.lost = above.lost or not ended
                return False
            if busy is None and item.kind is NodeKind.MANIFEST:
                _count(item)
            above.waits += 1
            if busy is not None:
                busy.above.append((above, True))
                return False
            item.above.append((above, True))
            item.job.left += 1
            place.items[item.key] = item
            if item.kind is NodeKind.BLOB:
                self._wait_for_mover(item)
            return True

    def release(self, item: Item) -> bool:
        """One thing less that an item waits for: whether that was the last."""
        with self._lock:
            item.waits -= 1
            return not item.waits and not item.settled

    def settle(self, item: Item, *, ok: bool) -> list[Item] | None:
        """An item has come to its end: who waited for it, or ``None`` if that was known."""
        with self._lock:
            if item.settled:
                return None
            item.settled = True
            item.raw, item.parts = None, ()
            if item.kind is not NodeKind.TAG:
                place = self._place(item)
                place.items.pop(item.key, None)
                place.ended[item.key] = ok
            if item.kind is NodeKind.BLOB:
                self._settle_blob(item, ok=ok)
            above, item.above = item.above, []
            for each, needs in above:
                each.lost = each.lost or (needs and not ok)
            return [each for each, _ in above]

    def beside(self, pair: Pair, digest: Digest) -> RepositoryName | None:
        """A repository of the target's registry from which it may take over a blob, if one is known."""
        if pair.may_mount:
            return pair.source.name
        found = self._placed.get((pair.target.registry, digest))
        return None if found == pair.target.name else found

    def _wait_for_mover(self, item: Item) -> None:
        # A blob that is on its way to another repository of the same registry can be mounted from there.
        registry = item.job.pair.target.registry
        if not registry:
            return
        mover = self._moving.setdefault((registry, item.descriptor.digest), item)
        if mover is not item:
            mover.above.append((item, False))
            item.waits += 1

    def _settle_blob(self, item: Item, *, ok: bool) -> None:
        target = item.job.pair.target
        if not target.registry:
            return
        known = (target.registry, item.descriptor.digest)
        if self._moving.get(known) is item:
            del self._moving[known]
        if ok:
            self._placed.setdefault(known, target.name)

    def _place(self, item: Item) -> _Place:
        return self._places.setdefault(item.job.pair.target, _Place())


def _count(item: Item) -> None:
    """Refuse what is deeper, or has more manifests, than any honest graph (R-024, R-025)."""
    item.job.manifests += 1
    reference = item.job.pair.source.at(item.descriptor.digest)
    if item.job.manifests > NODE_LIMIT:
        raise TooLarge(f"more than {NODE_LIMIT} manifests", reference=reference)
    if item.depth > DEPTH_LIMIT:
        raise TooLarge(f"nested more than {DEPTH_LIMIT} deep", reference=reference)
