"""The engine: which node can be done next, each once, children before parents.

Nothing here waits. A node that needs others is put aside with a count of them; whoever settles the last one makes it
ready. So one thread does everything that many do, and no number of threads can stop each other.

What a run begins with: what references stand for, and what becomes of their tags.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.referrers import digest_tags
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, RegistryError
from registry_core.ops.manifests import fetch_child, fetch_manifest, is_child_manifest
from registry_core.ops.transfer.options import AttachedManifest, CopyOptions, CopyTask, IndexMode
from registry_core.ops.transfer.platforms import subset
from registry_core.ops.transfer.report import Action, ErrorAttribution, NodeKind, SourceAndTarget
from registry_core.ops.transfer.state import (
    CallbackGuard,
    ManifestCache,
    NodeState,
    NodeTable,
    ResultReporter,
    TaskState,
)
from registry_core.ops.transfer.target import CopyTarget
from registry_core.ops.workers import WorkerPool

__all__ = ["CopyScheduler", "OnResolved", "Root", "TaskResolver"]


OnResolved = Callable[[CopyTask, AttachedManifest, Descriptor, bool], None]


class Root(msgspec.Struct, frozen=True):
    """A manifest with nothing above it, and the tags that have to be pointed at it."""

    raw: RawManifest
    tags: tuple[Tag, ...]


class TaskResolver:
    """Finds what there is to do, by asking both sides as little as possible.

    Args:
        hands: What touches the target.
        blame: Who names errors.
        options: What of each graph is copied.
        shelf: Manifests that are at hand, and where to leave them for later.
        teller: Told what becomes of tags that need not be set.
        found: Told what a task's reference stands for and which tags will be set, and then the same of each of its
            followers; with what the target gets, and whether there is anything to do.
    """

    def __init__(
        self,
        hands: CopyTarget,
        blame: ErrorAttribution,
        options: CopyOptions,
        shelf: ManifestCache,
        teller: ResultReporter,
        found: OnResolved,
    ) -> None:
        self._hands = hands
        self._blame = blame
        self._options = options
        self._shelf = shelf
        self._teller = teller
        self._found = found

    def open(self, job: TaskState) -> Root | None:
        """The manifest that a task is about; ``None`` if nothing has to be done about it.

        Raises:
            RegistryError: One side failed.
        """
        task, reference = job.task, job.task.reference
        standing: dict[Tag, Digest | None] | None = None
        if isinstance(reference, Tag) and task.tags:
            # Most of what a mirror looks at is there: that is seen without reading anything.
            with self._blame.source(task.source.at(reference)):
                checkpoint()
                known = task.source.manifests.resolve(reference)
            reference, standing = known.digest, self._standing(job, task.tags)
            if self._is_known(known, standing):
                self._wanted(job, known, task.tags, standing)
                self._found(task, AttachedManifest(known), known, False)
                return None
        elif task.tags and self._asks:
            standing = self._standing(job, task.tags)
        named = reference.digest if isinstance(reference, RawManifest) else reference
        with self._blame.source(task.source.at(named)):
            raw = reference if isinstance(reference, RawManifest) else self._fetched(job, reference)
            job.subset = subset(task.source, raw, self._options)
        self._shelf.put(raw)
        root = job.subset.root
        tags = self._wanted(job, root.descriptor, task.tags, standing)
        # If all of its tags are somebody else's there, it is not wanted.
        is_wanted = bool(tags) or not task.tags or root.digest in (standing or {}).values()
        self._found(task, AttachedManifest(raw.descriptor, tags), root.descriptor, is_wanted)
        return Root(root, tags) if is_wanted else None

    def attached_manifests(self, job: TaskState, subject: Digest) -> Iterator[AttachedManifest]:
        """What the source has that refers to a manifest, as far as it is asked for.

        Raises:
            RegistryError: The source failed.
        """
        source = job.pair.source
        if self._options.referrers:
            with self._blame.source(source.at(subject)):
                for entry in source.manifests.referrers(subject):
                    checkpoint()
                    yield AttachedManifest(entry)
        if self._options.digest_tags:
            for tag in digest_tags(subject):
                try:
                    with self._blame.source(source.at(tag)):
                        checkpoint()
                        entry = source.manifests.resolve(tag)
                except ImageNotFound:
                    continue
                yield AttachedManifest(entry, (tag,))

    def wanted(self, job: TaskState, follower: AttachedManifest) -> AttachedManifest | None:
        """A follower with the tags that have to be set; ``None`` if all of its tags are somebody else's there.

        Raises:
            RegistryError: The target failed.
        """
        entry, tags = follower.descriptor, follower.tags
        standing = self._standing(job, tags) if tags and self._asks else None
        wanted = self._wanted(job, entry, tags, standing)
        if tags and not wanted and entry.digest not in (standing or {}).values():
            return None
        left = AttachedManifest(entry, wanted)
        self._found(job.task, left, entry, True)
        return left

    @property
    def _asks(self) -> bool:
        return self._hands.asks_tags or not self._options.overwrite

    def _is_known(self, known: Descriptor, standing: dict[Tag, Digest | None]) -> bool:
        """Whether nothing has to be read to see that nothing has to be done."""
        options = self._options
        if options.referrers or options.digest_tags or options.platforms or options.repair:
            return False
        there = all(digest == known.digest for digest in standing.values())
        return there or (not options.overwrite and None not in standing.values())

    def _standing(self, job: TaskState, tags: tuple[Tag, ...]) -> dict[Tag, Digest | None]:
        """What some tags stand for in the target just now."""
        target = job.pair.target
        found: dict[Tag, Digest | None] = {}
        for tag in tags:
            try:
                with self._blame.target(target.at(tag)):
                    checkpoint()
                    found[tag] = target.manifests.resolve(tag).digest
            except ImageNotFound:
                found[tag] = None
        return found

    def _wanted(
        self, job: TaskState, root: Descriptor, tags: tuple[Tag, ...], standing: dict[Tag, Digest | None] | None
    ) -> tuple[Tag, ...]:
        """The tags that have to be set; what becomes of the others is told."""
        if standing is None:
            return tags
        wanted = []
        for tag in tags:
            held = standing[tag]
            if held == root.digest:
                self._teller.tag(job, root, tag, Action.SKIP)
            elif held is not None and not self._options.overwrite:
                self._teller.tag(job, root, tag, Action.KEEP)
            else:
                wanted.append(tag)
        return tuple(wanted)

    def _fetched(self, job: TaskState, reference: Tag | Digest) -> RawManifest:
        held = None if isinstance(reference, Tag) else self._shelf.get(reference)
        return held or fetch_manifest(job.pair.source, reference)


# What goes first of what is ready: manifests that wait for nothing more, for that lets go of memory; then what finds
# more work; then blobs, the largest first; and only when hands are free, another image.
_STORE: Final = (0, 0)

_READ: Final = (1, 0)

_BLOB: Final = 2

_NEXT: Final = (3, 0)


class CopyScheduler:
    """One run.

    Args:
        tasks: What to copy; asked for the next one when there is room for it.
        hands: What touches the target.
        blame: Who names errors.
        crew: Who does the work.
        options: What of each graph is copied.
        images: How many tasks may be under way at a time.
        continue_on_error: Whether an error ends only what needs the node.
        audience: Told of each node when it is settled.
        shelf: Manifests that are at hand, and where to leave them for later.
        found: Told what there is to do for each task; see ``TaskResolver``.
    """

    def __init__(
        self,
        tasks: Iterable[CopyTask],
        hands: CopyTarget,
        blame: ErrorAttribution,
        crew: WorkerPool,
        *,
        options: CopyOptions,
        images: int,
        continue_on_error: bool,
        audience: CallbackGuard,
        shelf: ManifestCache | None = None,
        found: OnResolved | None = None,
    ) -> None:
        self._tasks: Iterator[CopyTask] = iter(tasks)
        self._hands = hands
        self._blame = blame
        self._crew = crew
        self._options = options
        self._images = images
        self._continue_on_error = continue_on_error
        self._audience = audience
        self._shelf = ManifestCache(0) if shelf is None else shelf
        self._teller = ResultReporter(audience, blame)
        self._roots = TaskResolver(
            hands, blame, options, self._shelf, self._teller, found or (lambda task, follower, stored, to_do: None)
        )
        self._lock = threading.Lock()
        self._open = 0
        self._drained = False
        self._asking = False
        self._ledger = NodeTable()

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
        self._crew.add(partial(self._begin, TaskState(task)), _READ)
        self._invite()

    def _begin(self, job: TaskState) -> None:
        try:
            root = self._roots.open(job)
            if root is not None:
                item = NodeState(job, NodeKind.MANIFEST, root.raw.descriptor, 1, root=True)
                item.raw, item.tags = root.raw, root.tags
                self._enter_root(item)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.not_opened(job, error)
            self._drop_followers(job)
        self._leave(job)

    def _leave(self, job: TaskState) -> None:
        if self._ledger.finish_pending(job):
            with self._lock:
                self._open -= 1
            self._invite()

    # Nodes: each once in its place.

    def _enter_root(self, item: NodeState) -> None:
        if self._ledger.add_root(item):
            self._start(item)

    def _enter_part(self, above: NodeState, part: Descriptor, kind: NodeKind, *, unknown_kind: bool = False) -> None:
        item = NodeState(above.job, kind, part, above.depth + 1, unknown_kind=unknown_kind)
        if self._ledger.add_child(above, item):
            self._start(item)

    def _start(self, item: NodeState) -> None:
        if item.kind is NodeKind.MANIFEST:
            self._crew.add(partial(self._step, self._read, item), _READ)
        else:
            self._release(item)

    def _resume(self, item: NodeState) -> None:
        """An item whose content somebody else has seen to, with other claims about it, has its turn."""
        if not self._ledger.is_done(item):
            self._start(item)
        elif item.root:
            item.kind = NodeKind.TAG
            self._release(item)
        else:
            self._settle(item, ok=True)

    def _read(self, item: NodeState) -> None:
        """Find out what a manifest is made of."""
        job, descriptor = item.job, item.descriptor
        item.exists = self._hands.has_manifest(job.pair, descriptor)
        # What is there is complete; but an index that stays as it is may have come with other platforms, or fewer, and
        # what refers to the images in an index is found by way of them.
        follows = (self._options.referrers or self._options.digest_tags) and not item.unverified
        deeper = self._options.repair or (is_index(descriptor.media_type) and (follows or self._is_sparse))
        if (not item.exists or item.tags or deeper) and not self._has_raw(item):
            return
        if item.raw is not None:
            reduced = None if job.subset is None else job.subset.entries.get(item.raw.digest)
            item.parts = reduced or item.raw.children
            if deeper or not item.exists:
                self._enter_parts(item, item.raw)
        self._release(item)

    def _has_raw(self, item: NodeState) -> bool:
        """Whether the manifest of an item is at hand now: lists of referrers may name what is not there."""
        try:
            item.raw = item.raw or self._read_raw(item)
        except ImageNotFound:
            if not item.unverified:
                raise
            item.kind = NodeKind.TAG
            self._settle(item, ok=True)
            return False
        if item.unverified:
            item.descriptor = item.raw.descriptor
        return True

    def _read_raw(self, item: NodeState) -> RawManifest:
        pair, digest = item.job.pair, item.descriptor.digest
        made = None if item.job.subset is None else item.job.subset.made.get(digest)
        raw = made or self._shelf.get(digest)
        if raw is None:
            with self._blame.source(pair.source.at(digest)):
                raw = (
                    fetch_manifest(pair.source, digest)
                    if item.unverified
                    else fetch_child(pair.source, item.descriptor)
                )
            self._shelf.put(raw)
        return raw

    @property
    def _is_sparse(self) -> bool:
        return self._options.index_mode is IndexMode.SPARSE

    def _enter_parts(self, item: NodeState, raw: RawManifest) -> None:
        wants_blobs = not item.exists or self._is_sparse or self._options.repair
        for part in item.parts:
            if is_child_manifest(raw, part):
                self._enter_part(item, part, NodeKind.MANIFEST)
            elif wants_blobs and (self._options.foreign_layers or not is_nondistributable(part.media_type)):
                self._enter_part(item, part, NodeKind.BLOB, unknown_kind=raw.is_index)

    def _release(self, item: NodeState) -> None:
        """One thing less that an item waits for."""
        if not self._ledger.release(item):
            return
        if item.dependency_failed:
            self._teller.not_done(item)
            self._settle(item, ok=False)
        elif item.kind is NodeKind.BLOB:
            self._crew.add(partial(self._step, self._move, item), (_BLOB, -item.descriptor.size))
        else:
            self._crew.add(partial(self._step, self._store, item), _STORE)

    def _move(self, item: NodeState) -> None:
        """See to a blob."""
        pair, part = item.job.pair, item.descriptor
        if item.unknown_kind and self._moved_as_manifest(pair, part):
            self._teller.done(item, Action.MOVE, NodeKind.MANIFEST)
        else:
            self._teller.done(item, self._hands.blob(pair, part, self._ledger.mount_candidate(pair, part)))
        self._settle(item, ok=True)

    def _moved_as_manifest(self, pair: SourceAndTarget, part: Descriptor) -> bool:
        # An index may list what nobody knows; what the source has no manifest of is a blob to us.
        try:
            with self._blame.source(pair.source.at(part.digest)):
                found = fetch_manifest(pair.source, part.digest)
        except ImageNotFound:
            return False
        self._hands.manifest(pair, RawManifest(part.media_type, found.content, found.algorithm), (), ())
        return True

    def _store(self, item: NodeState) -> None:
        """See to a manifest whose parts are there, or to more tags of one."""
        is_tag = item.kind is NodeKind.TAG
        if item.tags or not (is_tag or item.exists):
            if not self._has_raw(item) or item.raw is None:
                return
            self._hands.manifest(item.job.pair, item.raw, item.parts, item.tags)
        if not is_tag:
            self._teller.done(item, Action.SKIP if item.exists else Action.MOVE)
        for tag in item.tags:
            self._teller.tag(item.job, item.descriptor, tag, Action.TAG)
        if not is_tag and (self._options.referrers or self._options.digest_tags):
            self._ledger.add_pending(item.job)
            self._crew.add(partial(self._find_followers, item), _READ)
        self._settle(item, ok=True)

    # Followers: what refers to a manifest, found while planning or copying, or known from a plan.

    def _find_followers(self, item: NodeState) -> None:
        job, subject = item.job, item.descriptor.digest
        try:
            for follower in self._roots.attached_manifests(job, subject):
                self._follow(job, follower, item.depth)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.not_followed(job, subject, error)
        self._leave(job)

    def _follow(self, job: TaskState, follower: AttachedManifest, depth: int) -> bool:
        wanted = self._roots.wanted(job, follower)
        if wanted is None:
            return False
        item = NodeState(job, NodeKind.MANIFEST, wanted.descriptor, depth + 1, unverified=True, root=True)
        item.tags = wanted.tags
        self._enter_root(item)
        return True

    def _next_follower(self, job: TaskState) -> None:
        """The next of those that a plan has found; one after the other, as they may refer to each other."""
        while job.followers:
            follower = job.followers.pop()
            try:
                if self._follow(job, follower, 0):
                    break
            except RegistryError as error:
                self._pass_on(error)
                self._teller.not_followed(job, follower.descriptor.digest, error)
        self._leave(job)

    def _go_on_behind(self, item: NodeState, *, ok: bool) -> None:
        job = item.job
        if job.head is not item or not job.followers:
            return
        if ok or item.unverified:
            self._ledger.add_pending(job)
            self._crew.add(partial(self._next_follower, job), _READ)
        else:
            self._drop_followers(job)

    def _drop_followers(self, job: TaskState) -> None:
        """They refer to what is not there."""
        while job.followers:
            self._teller.follower_not_done(job, job.followers.pop().descriptor)

    # Ends.

    def _settle(self, item: NodeState, *, ok: bool) -> None:
        ended = self._ledger.complete(item, ok=ok)
        if ended is None:
            return
        for each in ended.above:
            self._release(each)
        for each in ended.conflicting:
            self._resume(each)
        self._go_on_behind(item, ok=ok)
        self._leave(item.job)

    def _step(self, work: Callable[[NodeState], None], item: NodeState) -> None:
        try:
            work(item)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.failed(item, error)
            self._settle(item, ok=False)

    def _pass_on(self, error: RegistryError) -> None:
        if not self._continue_on_error or self._audience.has_left or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
