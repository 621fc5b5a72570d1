"""The engine: which node can be done next, each once, children before parents.

Nothing here waits. A node that needs others is put aside with a count of them; whoever settles the last one makes it
ready. So one thread does everything that many do, and no number of threads can stop each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.referrers import digest_tags
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, RegistryError
from registry_core.ops.graph import child, fetch, is_child_manifest
from registry_core.ops.transfer.choices import CopyChoices, IndexForm
from registry_core.ops.transfer.hands import Hands
from registry_core.ops.transfer.ledger import Item, Job, Ledger, Shelf
from registry_core.ops.transfer.nodes import Action, Node, NodeKind, Outcome, Result
from registry_core.ops.transfer.sides import Blame, Pair
from registry_core.ops.transfer.subset import subset
from registry_core.ops.transfer.tasks import CopyTask, Follower
from registry_core.ops.workers import Crew
from registry_core.scope import checkpoint

__all__ = ["Engine", "Found"]

# What goes first of what is ready: manifests that wait for nothing more, for that lets go of memory; then what finds
# more work; then blobs, the largest first; and only when hands are free, another image.
_STORE: Final = (0, 0)
_READ: Final = (1, 0)
_BLOB: Final = 2
_NEXT: Final = (3, 0)

Found = Callable[[CopyTask, Follower, Descriptor], None]

_DONE: Final = {
    Action.MOVE: Outcome.MOVED,
    Action.MOUNT: Outcome.MOUNTED,
    Action.SKIP: Outcome.SKIPPED,
    Action.TAG: Outcome.TAGGED,
    Action.KEEP: Outcome.KEPT,
}


class Engine:
    """One run.

    Args:
        tasks: What to copy; asked for the next one when there is room for it.
        hands: What touches the target.
        blame: Who names errors.
        crew: Who does the work.
        choices: What of each graph is copied.
        images: How many tasks may be under way at a time.
        goes_on: Whether an error ends only what needs the node.
        shelf: Manifests that are at hand, and where to leave them for later.
        record: Told of each node when it is settled, by one thread at a time.
        found: Told what a task's reference stands for, and then of each of its followers, with what the target gets.
    """

    def __init__(
        self,
        tasks: Iterable[CopyTask],
        hands: Hands,
        blame: Blame,
        crew: Crew,
        *,
        choices: CopyChoices,
        images: int,
        goes_on: bool,
        record: Callable[[Result], None],
        shelf: Shelf | None = None,
        found: Found | None = None,
    ) -> None:
        self._tasks: Iterator[CopyTask] = iter(tasks)
        self._hands = hands
        self._blame = blame
        self._crew = crew
        self._choices = choices
        self._images = images
        self._goes_on = goes_on
        self._shelf = Shelf(0) if shelf is None else shelf
        self._record = record
        self._found: Found = found or (lambda task, follower, stored: None)
        self._lock = threading.Lock()
        self._open = 0
        self._drained = False
        self._asking = False
        self._ledger = Ledger()

    def run(self) -> None:
        """Do it all.

        Raises:
            RegistryError: The first error; if it goes on after errors, only one of the tasks themselves.
        """
        self._invite()
        self._crew.run()

    # Tasks are pulled one at a time, so that neither they nor what comes of them pile up.

    def _invite(self) -> None:
        with self._lock:
            if self._drained or self._asking or self._open >= self._images:
                return
            self._asking = True
        self._crew.add(self._next_task, _NEXT)

    def _next_task(self) -> None:
        checkpoint()
        task = next(self._tasks, None)
        with self._lock:
            self._asking = False
            if task is None:
                self._drained = True
                return
            self._open += 1
        self._crew.add(partial(self._begin, Job(task)), _READ)
        self._invite()

    def _leave(self, job: Job) -> None:
        with self._lock:
            job.left -= 1
            if job.left:
                return
            self._open -= 1
        self._invite()

    def _begin(self, job: Job) -> None:
        task = job.task
        try:
            self._open_task(job)
        except RegistryError as error:
            self._pass_on(error)
            named = task.reference.digest if isinstance(task.reference, RawManifest) else task.reference
            node = Node(
                kind=NodeKind.MANIFEST,
                action=Action.MOVE,
                digest=None if isinstance(named, Tag) else named,
                size=0,
                media_type="",
                source=task.source.at(named),
                target=task.target.at(task.tags[0] if task.tags else named),
            )
            self._tell(Result(node=node, outcome=Outcome.FAILED, error=error, blamed=self._blame.of(error)))
        self._leave(job)

    def _open_task(self, job: Job) -> None:
        task, reference = job.task, job.task.reference
        standing: dict[Tag, Digest | None] | None = None
        if isinstance(reference, Tag) and task.tags:
            # Most of what a mirror looks at is there: that is seen without reading anything.
            with self._blame.source(task.source.at(reference)):
                checkpoint()
                known = task.source.manifests.resolve(reference)
            reference, standing = known.digest, self._standing(job, task.tags)
            if self._is_known(job, known, standing):
                self._found(task, Follower(known), known)
                self._next_follower(job)
                return
        elif task.tags and (self._hands.asks_tags or not self._choices.overwrite):
            standing = self._standing(job, task.tags)
        named = reference.digest if isinstance(reference, RawManifest) else reference
        with self._blame.source(task.source.at(named)):
            raw = reference if isinstance(reference, RawManifest) else self._fetched(job, reference)
            job.subset = subset(task.source, raw, self._choices)
        self._shelf.put(raw)
        root = job.subset.root
        self._found(task, Follower(raw.descriptor), root.descriptor)
        tags = self._wanted_tags(job, root.descriptor, task.tags, standing)
        if task.tags and not tags and root.digest not in (standing or {}).values():
            # All of its tags are somebody else's there: it is not wanted.
            return
        self._root(job, root, tags)

    def _is_known(self, job: Job, known: Descriptor, standing: dict[Tag, Digest | None]) -> bool:
        """Whether nothing has to be read to see that nothing has to be done; says so of each tag then."""
        if self._choices.referrers or self._choices.digest_tags or self._choices.platforms:
            return False
        there = all(digest == known.digest for digest in standing.values())
        kept = not self._choices.overwrite and None not in standing.values()
        if there or kept:
            self._wanted_tags(job, known, tuple(standing), standing)
        return there or kept

    def _standing(self, job: Job, tags: tuple[Tag, ...]) -> dict[Tag, Digest | None]:
        """What some tags stand for in the target just now."""
        found: dict[Tag, Digest | None] = {}
        for tag in tags:
            try:
                with self._blame.target(job.pair.target.at(tag)):
                    checkpoint()
                    found[tag] = job.pair.target.manifests.resolve(tag).digest
            except ImageNotFound:
                found[tag] = None
        return found

    def _wanted_tags(
        self, job: Job, root: Descriptor, tags: tuple[Tag, ...], standing: dict[Tag, Digest | None] | None
    ) -> tuple[Tag, ...]:
        """The tags that have to be set; what becomes of the others is recorded."""
        if standing is None:
            return tags
        wanted = []
        for tag in tags:
            held = standing[tag]
            if held == root.digest:
                self._tell_tag(job, root, tag, Action.SKIP)
            elif held is not None and not self._choices.overwrite:
                self._tell_tag(job, root, tag, Action.KEEP)
            else:
                wanted.append(tag)
        return tuple(wanted)

    # Nodes: each once in its place.

    def _root(self, job: Job, raw: RawManifest, tags: tuple[Tag, ...], *, depth: int = 1) -> None:
        """Have a manifest copied that is at hand, and tags put at it."""
        item = Item(job, NodeKind.MANIFEST, raw.descriptor, depth)
        item.raw, item.tags = raw, tags
        self._add_root(item)

    def _add_root(self, item: Item) -> None:
        self._ledger.enter_root(item)
        if item.kind is NodeKind.TAG:
            self._release(item)
        else:
            self._crew.add(partial(self._step, self._read, item), _READ)

    def _need(self, item: Item, part: Descriptor, kind: NodeKind, *, odd: bool = False) -> None:
        """Have a part of a manifest copied, unless it is or was."""
        below = Item(item.job, kind, part, item.depth + 1)
        below.odd = odd
        if not self._ledger.enter_part(item, below):
            return
        if kind is NodeKind.MANIFEST:
            self._crew.add(partial(self._step, self._read, below), _READ)
        else:
            self._release(below)

    def _read(self, item: Item) -> None:
        """Find out what a manifest is made of."""
        job, descriptor = item.job, item.descriptor
        item.there = self._hands.has_manifest(job.pair, descriptor)
        follows = (self._choices.referrers or self._choices.digest_tags) and not item.loose
        # An index that stays as it is may have been put there with other platforms, or fewer.
        open_ended = is_index(descriptor.media_type) and (follows or self._is_sparse)
        if not item.there or item.tags or open_ended:
            item.raw = item.raw or self._read_raw(item)
            if item.raw is None:
                return
        if item.raw is not None and (not item.there or follows or open_ended):
            reduced = () if job.subset is None else job.subset.entries.get(item.raw.digest)
            item.parts = reduced or item.raw.children
            self._need_parts(item, item.raw)
        self._release(item)

    @property
    def _is_sparse(self) -> bool:
        return self._choices.index_form is IndexForm.SPARSE

    def _need_parts(self, item: Item, raw: RawManifest) -> None:
        complete = item.there and not self._is_sparse
        for part in item.parts:
            if is_child_manifest(raw, part):
                self._need(item, part, NodeKind.MANIFEST)
            elif not complete and (self._choices.foreign_layers or not is_nondistributable(part.media_type)):
                self._need(item, part, NodeKind.BLOB, odd=raw.is_index)

    def _read_raw(self, item: Item) -> RawManifest | None:
        """The manifest of an item; ``None`` where a list of referrers names what is not there."""
        pair, digest = item.job.pair, item.descriptor.digest
        made = None if item.job.subset is None else item.job.subset.made.get(digest)
        raw = made or self._shelf.get(digest)
        if raw is None:
            with self._blame.source(pair.source.at(digest)):
                if not item.loose:
                    raw = child(pair.source, item.descriptor)
                else:
                    try:
                        raw = fetch(pair.source, digest)
                    except ImageNotFound:
                        self._settle(item, ok=True)
                        return None
            self._shelf.put(raw)
        if item.loose:
            item.descriptor = raw.descriptor
        return raw

    def _fetched(self, job: Job, reference: Tag | Digest) -> RawManifest:
        held = None if isinstance(reference, Tag) else self._shelf.get(reference)
        return held or fetch(job.pair.source, reference)

    def _release(self, item: Item) -> None:
        """One thing less that an item waits for."""
        if not self._ledger.release(item):
            return
        if item.lost:
            self._tell(Result(node=_node(item, Action.MOVE), outcome=Outcome.NOT_DONE))
            self._settle(item, ok=False)
        elif item.kind is NodeKind.BLOB:
            self._crew.add(partial(self._step, self._move, item), (_BLOB, -item.descriptor.size))
        else:
            self._crew.add(partial(self._step, self._store, item), _STORE)

    def _move(self, item: Item) -> None:
        """See to a blob."""
        pair, part = item.job.pair, item.descriptor
        if item.odd and self._moved_as_manifest(pair, part):
            item.kind = NodeKind.MANIFEST
            self._tell_done(item, Action.MOVE)
            item.kind = NodeKind.BLOB
        else:
            self._tell_done(item, self._hands.blob(pair, part, self._ledger.beside(pair, part.digest)))
        self._settle(item, ok=True)

    def _moved_as_manifest(self, pair: Pair, part: Descriptor) -> bool:
        # An index may list what nobody knows; what the source has no manifest of is a blob to us.
        try:
            with self._blame.source(pair.source.at(part.digest)):
                found = fetch(pair.source, part.digest)
        except ImageNotFound:
            return False
        self._hands.manifest(pair, RawManifest(part.media_type, found.content, found.algorithm), (), ())
        return True

    def _store(self, item: Item) -> None:
        """See to a manifest whose parts are there, or to more tags of one."""
        pair = item.job.pair
        if item.raw is not None and (item.tags or (item.kind is NodeKind.MANIFEST and not item.there)):
            self._hands.manifest(pair, item.raw, item.parts, item.tags)
        if item.kind is NodeKind.MANIFEST:
            self._tell_done(item, Action.SKIP if item.there else Action.MOVE)
        for tag in item.tags:
            self._tell_tag(item.job, item.descriptor, tag, Action.TAG)
        if item.kind is NodeKind.MANIFEST:
            self._find_followers(item)
        self._settle(item, ok=True)

    # Followers: what refers to a manifest, found while planning or copying, or known from a plan.

    def _find_followers(self, item: Item) -> None:
        source, subject = item.job.pair.source, item.descriptor.digest
        if self._choices.referrers:
            with self._blame.source(source.at(subject)):
                for entry in source.manifests.referrers(subject):
                    checkpoint()
                    self._follow(item.job, entry, (), item.depth)
        if self._choices.digest_tags:
            for tag in digest_tags(subject):
                try:
                    with self._blame.source(source.at(tag)):
                        checkpoint()
                        entry = source.manifests.resolve(tag)
                except ImageNotFound:
                    continue
                self._follow(item.job, entry, (tag,), item.depth)

    def _follow(self, job: Job, entry: Descriptor, tags: tuple[Tag, ...], depth: int) -> None:
        ask = tags and (self._hands.asks_tags or not self._choices.overwrite)
        standing = self._standing(job, tags) if ask else None
        wanted = self._wanted_tags(job, entry, tags, standing)
        if tags and not wanted and entry.digest not in (standing or {}).values():
            return
        self._found(job.task, Follower(entry, wanted), entry)
        item = Item(job, NodeKind.MANIFEST, entry, depth + 1)
        item.tags, item.loose = wanted, True
        self._add_root(item)

    def _next_follower(self, job: Job) -> None:
        if not job.followers:
            return
        follower = job.followers.pop()
        self._follow(job, follower.descriptor, follower.tags, 0)

    # Ends.

    def _settle(self, item: Item, *, ok: bool) -> None:
        above = self._ledger.settle(item, ok=ok)
        if above is None:
            return
        for each in above:
            self._release(each)
        if item.job.head is item:
            self._next_follower(item.job)
        self._leave(item.job)

    def _step(self, work: Callable[[Item], None], item: Item) -> None:
        try:
            work(item)
        except RegistryError as error:
            self._pass_on(error)
            node = _node(item, Action.MOVE)
            self._tell(Result(node=node, outcome=Outcome.FAILED, error=error, blamed=self._blame.of(error)))
            self._settle(item, ok=False)

    def _pass_on(self, error: RegistryError) -> None:
        if not self._goes_on or isinstance(error, Cancelled | DeadlineExceeded):
            raise error

    def _tell_done(self, item: Item, action: Action) -> None:
        self._tell(Result(node=_node(item, action), outcome=_DONE[action]))

    def _tell_tag(self, job: Job, root: Descriptor, tag: Tag, action: Action) -> None:
        node = Node(
            kind=NodeKind.TAG,
            action=action,
            digest=root.digest,
            size=root.size,
            media_type=root.media_type,
            source=job.pair.source.at(root.digest),
            target=job.pair.target.at(tag),
        )
        self._tell(Result(node=node, outcome=_DONE[action]))

    def _tell(self, result: Result) -> None:
        with self._lock:
            self._record(result)


def _node(item: Item, action: Action) -> Node:
    pair, descriptor = item.job.pair, item.descriptor
    return Node(
        kind=item.kind,
        action=action,
        digest=descriptor.digest,
        size=descriptor.size,
        media_type=descriptor.media_type,
        source=pair.source.at(descriptor.digest),
        target=pair.target.at(item.tags[0] if item.kind is NodeKind.TAG and item.tags else descriptor.digest),
    )
