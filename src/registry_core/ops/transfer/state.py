"""What is known of every node of a run: what it waits for, who waits for it, and how others ended.

Nothing here touches a repository, and nothing here waits.

Manifests that are at hand.

Who is told what becomes of each node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import RegistryError
from registry_core.ops.manifests import GraphLimits
from registry_core.ops.transfer.options import CopyTask
from registry_core.ops.transfer.platforms import Subset
from registry_core.ops.transfer.report import Action, ErrorAttribution, Node, NodeKind, Outcome, Result, SourceAndTarget
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Event, Observer

__all__ = [
    "DONE",
    "CallbackGuard",
    "ManifestCache",
    "NodeState",
    "NodeTable",
    "ResultReporter",
    "TaskState",
    "Unblocked",
]


class TaskState:
    """A task that is under way.

    ``left`` counts what is not settled of it; ``limits`` count its manifests, against endless lists of referrers.
    ``head`` is what its next follower waits for.
    """

    __slots__ = ("followers", "head", "left", "limits", "pair", "subset", "task")

    def __init__(self, task: CopyTask) -> None:
        self.task = task
        self.pair = SourceAndTarget(task.source, task.target)
        self.left = 1
        self.limits = GraphLimits()
        self.followers = list(reversed(task.followers))
        self.head: NodeState | None = None
        self.subset: Subset | None = None


class NodeState:
    """A node that is not settled yet.

    ``content`` is what it is in its place, and ``identity`` that with all that was claimed about it: one image may lie
    about what another describes well. ``waits`` counts what it waits for; ``above`` is who waits for it, and whether
    they cannot do without it; ``conflicting`` are items of the same content, but with other claims, that
    have their turn when this one is settled.

    Args:
        job: The task that needs it.
        kind: What it is; a manifest that somebody else sees to becomes a tag, as its tags are what is left to do.
        descriptor: What is claimed about it.
        depth: How many manifests stand above it.
        unverified: Whether it is a manifest that nothing describes but a list of referrers or a tag.
        unknown_kind: Whether it is a part of an index of which nobody knows if it is a manifest.
        root: Whether nothing in its graph stands above it.
    """

    __slots__ = (
        "above",
        "conflicting",
        "content",
        "dependency_failed",
        "depth",
        "descriptor",
        "exists",
        "identity",
        "job",
        "kind",
        "parts",
        "raw",
        "root",
        "settled",
        "tags",
        "unknown_kind",
        "unverified",
        "waits",
    )  # fmt: skip

    def __init__(
        self,
        job: TaskState,
        kind: NodeKind,
        descriptor: Descriptor,
        depth: int,
        *,
        unverified: bool = False,
        unknown_kind: bool = False,
        root: bool = False,
    ) -> None:
        self.job = job
        self.kind = kind
        self.descriptor = descriptor
        self.depth = depth
        self.unverified = unverified
        self.unknown_kind = unknown_kind
        self.root = root
        self.content: Hashable = (kind, unknown_kind, descriptor.digest)
        claims = None if unverified else (descriptor.size, descriptor.media_type, descriptor.urls, descriptor.data)
        self.identity: Hashable = (kind, unknown_kind, descriptor.digest, claims)
        self.waits = 1
        self.above: list[tuple[NodeState, bool]] = []
        self.conflicting: list[NodeState] = []
        self.dependency_failed = self.settled = self.exists = False
        self.raw: RawManifest | None = None
        self.parts: tuple[Descriptor, ...] = ()
        self.tags: tuple[Tag, ...] = ()

    @property
    def expected_claims(self) -> Hashable:
        """What has to be claimed about something that is there, for nobody to look at it again."""
        return (
            self.descriptor.size if self.kind is NodeKind.BLOB else (self.descriptor.size, self.descriptor.media_type)
        )


class Unblocked(NamedTuple):
    """Who goes on after an item: those that waited for it, and those that have their turn."""

    above: list[NodeState]
    conflicting: list[NodeState]


class _RepositoryState:
    """One repository of the target: nodes that are under way, and how others ended."""

    __slots__ = ("done", "failed", "first", "items")

    def __init__(self) -> None:
        self.items: dict[Hashable, NodeState] = {}
        self.first: dict[Hashable, NodeState] = {}
        self.done: dict[Hashable, Hashable] = {}
        self.failed: set[Hashable] = set()


class NodeTable:
    """Each node once in its place; safe for many threads.

    An item begins with one thing that it waits for: whoever enters it releases it when all its parts are entered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Not by name: two backends in memory may be called the same.
        self._places: dict[Repository, _RepositoryState] = {}
        # By registry: blobs that are on their way to one of its repositories, and those that are in one.
        self._moving: dict[tuple[str, str], NodeState] = {}
        self._placed: dict[tuple[str, str, int], RepositoryName] = {}

    def add_pending(self, job: TaskState) -> None:
        """There is something more to do for a task."""
        with self._lock:
            job.left += 1

    def finish_pending(self, job: TaskState) -> bool:
        """There is something less to do for a task: whether that was all."""
        with self._lock:
            job.left -= 1
            return not job.left

    def add_root(self, item: NodeState) -> bool:
        """Enter a manifest that nothing in its graph stands above: whether it has its turn at once.

        Where somebody else sees to that manifest, what is left of the item are its tags.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            _count_manifest(item)
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
                item.dependency_failed = item.content not in place.done
            item.kind = NodeKind.TAG
            return True

    def add_child(self, above: NodeState, item: NodeState) -> bool:
        """Enter a part of a manifest, which waits for it unless it is there: whether it has its turn at once.

        Raises:
            TooLarge: There are more, or they are deeper, than any honest graph has.
        """
        with self._lock:
            place = self._place(item)
            if place.done.get(item.content) == item.expected_claims:
                return False
            if item.identity in place.failed:
                above.dependency_failed = True
                return False
            busy = place.items.get(item.identity)
            if busy is not None:
                above.waits += 1
                busy.above.append((above, True))
                return False
            if item.kind is NodeKind.MANIFEST:
                _count_manifest(item)
            above.waits += 1
            item.above.append((above, True))
            item.job.left += 1
            return self._enter(place, item)

    def is_done(self, item: NodeState) -> bool:
        """Whether somebody else has seen to the very same."""
        with self._lock:
            done = self._place(item).done.get(item.content)
            return done is not None and (item.root or done == item.expected_claims)

    def release(self, item: NodeState) -> bool:
        """One thing less that an item waits for: whether that was the last."""
        with self._lock:
            item.waits -= 1
            return not item.waits and not item.settled

    def complete(self, item: NodeState, *, ok: bool) -> Unblocked | None:
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
                    place.done[item.content] = item.expected_claims
                else:
                    place.failed.add(item.identity)
            if item.kind is NodeKind.BLOB:
                self._settle_blob(item, ok=ok)
            ended = Unblocked([each for each, _ in item.above], item.conflicting)
            for each, needs in item.above:
                each.dependency_failed = each.dependency_failed or (needs and not ok)
            item.above, item.conflicting = [], []
            return ended

    def mount_candidate(self, pair: SourceAndTarget, part: Descriptor) -> RepositoryName | None:
        """A repository of the target's registry from which it may take over a blob, if one is known."""
        home = pair.source.blob_location(part.digest)
        if home is not None and home.registry == pair.target.registry and home.name != pair.target.name:
            return home.name
        found = self._placed.get((pair.target.registry, part.digest, part.size))
        return None if found == pair.target.name else found

    def _enter(self, place: _RepositoryState, item: NodeState) -> bool:
        place.items[item.identity] = item
        first = place.first.setdefault(item.content, item)
        if first is not item:
            first.conflicting.append(item)
            return False
        if item.kind is NodeKind.BLOB:
            self._wait_for_mover(item)
        return True

    def _wait_for_mover(self, item: NodeState) -> None:
        # A blob that is on its way to another repository of the same registry can be mounted from there.
        registry = item.job.pair.target.registry
        if not registry:
            return
        mover = self._moving.setdefault((registry, item.descriptor.digest), item)
        if mover is not item:
            mover.above.append((item, False))
            item.waits += 1

    def _settle_blob(self, item: NodeState, *, ok: bool) -> None:
        target, part = item.job.pair.target, item.descriptor
        if not target.registry:
            return
        if self._moving.get((target.registry, part.digest)) is item:
            del self._moving[target.registry, part.digest]
        if ok:
            self._placed.setdefault((target.registry, part.digest, part.size), target.name)

    def _place(self, item: NodeState) -> _RepositoryState:
        return self._places.setdefault(item.job.pair.target, _RepositoryState())


def _count_manifest(item: NodeState) -> None:
    item.job.limits.add(item.depth, reference=item.job.pair.source.at(item.descriptor.digest))


class ManifestCache:
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


DONE: Final = {
    Action.MOVE: Outcome.MOVED,
    Action.MOUNT: Outcome.MOUNTED,
    Action.SKIP: Outcome.SKIPPED,
    Action.TAG: Outcome.TAGGED,
    Action.KEEP: Outcome.KEPT,
}


class CallbackGuard(Observer):
    """Somebody else's code: what it raises ends a run, even one that goes on after the errors of repositories.

    Args:
        results: Told of each node when it is settled, by one thread at a time.
        observer: Told of each blob.
    """

    def __init__(self, record: Callable[[Result], None], observer: Observer | None = None) -> None:
        self._record = record
        self._observer = observer
        self._lock = threading.Lock()
        self.has_left = False

    def results(self, result: Result) -> None:
        """Tell what became of a node."""
        with self._lock, self._watched():
            self._record(result)

    def on(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            with self._watched():
                self._observer.on(event)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.has_left = True
            raise


class ResultReporter:
    """Says what becomes of each node.

    Args:
        audience: To whom.
        blame: Who knows which side an error is of.
    """

    def __init__(self, audience: CallbackGuard, blame: ErrorAttribution) -> None:
        self._audience = audience
        self._blame = blame

    def done(self, item: NodeState, action: Action, kind: NodeKind | None = None) -> None:
        """A blob or manifest has been seen to."""
        self._tell(_node(item, action, kind or item.kind), DONE[action])

    def tag(self, job: TaskState, root: Descriptor, tag: Tag, action: Action) -> None:
        """A tag has been seen to."""
        self._tell(_tag_node(job, root, tag, action), DONE[action])

    def failed(self, item: NodeState, error: RegistryError) -> None:
        """A node failed, and so its tags are not set."""
        if item.kind is not NodeKind.TAG:
            self._fail(_node(item, Action.MOVE, item.kind), error)
            self._tags_not_done(item)
        for tag in item.tags if item.kind is NodeKind.TAG else ():
            self._fail(_tag_node(item.job, item.descriptor, tag, Action.TAG), error)

    def not_done(self, item: NodeState) -> None:
        """A node had to be left, and its tags with it, since something that it needs failed."""
        if item.kind is not NodeKind.TAG:
            self._tell(_node(item, Action.MOVE, item.kind), Outcome.NOT_DONE)
        self._tags_not_done(item)

    def not_opened(self, job: TaskState, error: RegistryError) -> None:
        """Nothing is known of what a task is about."""
        task = job.task
        named = task.reference.digest if isinstance(task.reference, RawManifest) else task.reference
        digest = None if isinstance(named, Tag) else named
        target = task.target.at(task.tags[0] if task.tags else named)
        self._fail(_blank(NodeKind.MANIFEST, Action.MOVE, digest, task.source.at(named), target), error)
        for tag in task.tags[1:]:
            node = _blank(NodeKind.TAG, Action.TAG, digest, task.source.at(named), task.target.at(tag))
            self._tell(node, Outcome.NOT_DONE)

    def not_followed(self, job: TaskState, subject: Digest, error: RegistryError) -> None:
        """Nobody knows what refers to a manifest."""
        pair = job.pair
        node = _blank(NodeKind.MANIFEST, Action.MOVE, None, pair.source.at(subject), pair.target.at(subject))
        self._fail(node, error)

    def follower_not_done(self, job: TaskState, entry: Descriptor) -> None:
        """What refers to a manifest is not copied, since that failed."""
        node = _descriptor_node(job, NodeKind.MANIFEST, entry, Action.MOVE)
        self._tell(node, Outcome.NOT_DONE)

    def _tags_not_done(self, item: NodeState) -> None:
        for tag in item.tags:
            self._tell(_tag_node(item.job, item.descriptor, tag, Action.TAG), Outcome.NOT_DONE)

    def _fail(self, node: Node, error: RegistryError) -> None:
        self._audience.results(
            Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=self._blame.of(error))
        )

    def _tell(self, node: Node, outcome: Outcome) -> None:
        self._audience.results(Result(node=node, outcome=outcome))


def _node(item: NodeState, action: Action, kind: NodeKind) -> Node:
    return _descriptor_node(item.job, kind, item.descriptor, action)


def _descriptor_node(
    job: TaskState, kind: NodeKind, descriptor: Descriptor, action: Action, tag: Tag | None = None
) -> Node:
    return Node(
        kind=kind,
        action=action,
        digest=descriptor.digest,
        size=descriptor.size,
        media_type=descriptor.media_type,
        source=job.pair.source.at(descriptor.digest),
        target=job.pair.target.at(descriptor.digest if tag is None else tag),
    )


def _tag_node(job: TaskState, root: Descriptor, tag: Tag, action: Action) -> Node:
    return _descriptor_node(job, NodeKind.TAG, root, action, tag)


def _blank(kind: NodeKind, action: Action, digest: Digest | None, source: str, target: str) -> Node:
    """A node of which little is known."""
    return Node(kind=kind, action=action, digest=digest, size=0, media_type="", source=source, target=target)
