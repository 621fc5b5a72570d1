"""What is known of every node of a run: what it waits for, who waits for it, and how others ended.

Nothing here touches a repository, and nothing here waits.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import NamedTuple

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import TooLarge
from registry_core.ops.graph import DEPTH_LIMIT, NODE_LIMIT
from registry_core.ops.transfer.nodes import NodeKind
from registry_core.ops.transfer.sides import Pair
from registry_core.ops.transfer.subset import Subset
from registry_core.ops.transfer.tasks import CopyTask
from registry_core.ports.repository import Repository

__all__ = ["Ended", "Item", "Job", "Ledger"]


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

    ``content`` is what it is in its place, and ``identity`` that with all that was claimed about it: one image may lie
    about what another describes well. ``waits`` counts what it waits for; ``above`` is who waits for it, and whether
    they cannot do without it; ``twins`` are items of the same content, but with other claims, that have their turn when
    this one is settled.

    Args:
        job: The task that needs it.
        kind: What it is; a manifest that somebody else sees to becomes a tag, as its tags are what is left to do.
        descriptor: What is claimed about it.
        depth: How many manifests stand above it.
        loose: Whether it is a manifest that nothing describes but a list of referrers or a tag.
        odd: Whether it is a part of an index of which nobody knows if it is a manifest.
        root: Whether nothing in its graph stands above it.
    """

    __slots__ = (
        "above", "content", "depth", "descriptor", "identity", "job", "kind", "loose", "lost", "odd", "parts", "raw",
        "root", "settled", "tags", "there", "twins", "waits",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        kind: NodeKind,
        descriptor: Descriptor,
        depth: int,
        *,
        loose: bool = False,
        odd: bool = False,
        root: bool = False,
    ) -> None:
        self.job = job
        self.kind = kind
        self.descriptor = descriptor
        self.depth = depth
        self.loose = loose
        self.odd = odd
        self.root = root
        self.content: Hashable = (kind, odd, descriptor.digest)
        claims = None if loose else (descriptor.size, descriptor.media_type, descriptor.urls, descriptor.data)
        self.identity: Hashable = (kind, odd, descriptor.digest, claims)
        self.waits = 1
        self.above: list[tuple[Item, bool]] = []
        self.twins: list[Item] = []
        self.lost = self.settled = self.there = False
        self.raw: RawManifest | None = None
        self.parts: tuple[Descriptor, ...] = ()
        self.tags: tuple[Tag, ...] = ()

    @property
    def truth(self) -> Hashable:
        """What has to be claimed about something that is there, for nobody to look at it again."""
        return (
            self.descriptor.size if self.kind is NodeKind.BLOB else (self.descriptor.size, self.descriptor.media_type)
        )


class Ended(NamedTuple):
    """Who goes on after an item: those that waited for it, and those that have their turn."""

    above: list[Item]
    twins: list[Item]


class _Place:
    """One repository of the target: nodes that are under way, and how others ended."""

    __slots__ = ("done", "failed", "first", "items")

    def __init__(self) -> None:
        self.items: dict[Hashable, Item] = {}
        self.first: dict[Hashable, Item] = {}
        self.done: dict[Hashable, Hashable] = {}
        self.failed: set[Hashable] = set()


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
        self._placed: dict[tuple[str, str, int], RepositoryName] = {}

    def stay(self, job: Job) -> None:
        """There is something more to do for a task."""
        with self._lock:
            job.left += 1

    def leave(self, job: Job) -> bool:
        """There is something less to do for a task: whether that was all."""
        with self._lock:
            job.left -= 1
            return not job.left

    def enter_root(self, item: Item) -> bool:
        """Enter a manifest that nothing in its graph stands above: whether it has its turn at once.

        Where somebody else sees to that manifest, what is left of the item are its tags.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            _count(item)
            item.job.left += 1
            item.job.head = item
            place = self._place(item)
            busy = place.items.get(item.identity)
            if busy is None and item.content not in place.done and item.identity not in place.failed:
                return self._enter(place, item)
            if busy is not None:
                busy.above.append((item, True))
                item.waits += 1
            else:
                item.lost = item.content not in place.done
            item.kind = NodeKind.TAG
            return True

    def enter_part(self, above: Item, item: Item) -> bool:
        """Enter a part of a manifest, which waits for it unless it is there: whether it has its turn at once.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            place = self._place(item)
            if place.done.get(item.content) == item.truth:
                return False
            if item.identity in place.failed:
                above.lost = True
                return False
            busy = place.items.get(item.identity)
            if busy is not None:
                above.waits += 1
                busy.above.append((above, True))
                return False
            if item.kind is NodeKind.MANIFEST:
                _count(item)
            above.waits += 1
            item.above.append((above, True))
            item.job.left += 1
            return self._enter(place, item)

    def is_done(self, item: Item) -> bool:
        """Whether somebody else has seen to the very same."""
        with self._lock:
            done = self._place(item).done.get(item.content)
            return done is not None and (item.root or done == item.truth)

    def release(self, item: Item) -> bool:
        """One thing less that an item waits for: whether that was the last."""
        with self._lock:
            item.waits -= 1
            return not item.waits and not item.settled

    def settle(self, item: Item, *, ok: bool) -> Ended | None:
        """An item has come to its end: who goes on, or ``None`` if that was known."""
        with self._lock:
            if item.settled:
                return None
            item.settled = True
            item.raw, item.parts = None, ()
            place = self._place(item)
            if place.items.get(item.identity) is item:
                del place.items[item.identity]
            if place.first.get(item.content) is item:
                del place.first[item.content]
            if item.kind is not NodeKind.TAG:
                if ok:
                    place.done[item.content] = item.truth
                else:
                    place.failed.add(item.identity)
            if item.kind is NodeKind.BLOB:
                self._settle_blob(item, ok=ok)
            ended = Ended([each for each, _ in item.above], item.twins)
            for each, needs in item.above:
                each.lost = each.lost or (needs and not ok)
            item.above, item.twins = [], []
            return ended

    def beside(self, pair: Pair, part: Descriptor) -> RepositoryName | None:
        """A repository of the target's registry from which it may take over a blob, if one is known."""
        home = pair.source.home(part.digest)
        if home is not None and home.registry == pair.target.registry and home.name != pair.target.name:
            return home.name
        found = self._placed.get((pair.target.registry, part.digest, part.size))
        return None if found == pair.target.name else found

    def _enter(self, place: _Place, item: Item) -> bool:
        place.items[item.identity] = item
        first = place.first.setdefault(item.content, item)
        if first is not item:
            first.twins.append(item)
            return False
        if item.kind is NodeKind.BLOB:
            self._wait_for_mover(item)
        return True

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
        target, part = item.job.pair.target, item.descriptor
        if not target.registry:
            return
        if self._moving.get((target.registry, part.digest)) is item:
            del self._moving[target.registry, part.digest]
        if ok:
            self._placed.setdefault((target.registry, part.digest, part.size), target.name)

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
