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
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_nondistributable
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, RegistryError
from registry_core.ops.graph import child, fetch, is_child_manifest
from registry_core.ops.transfer.choices import CopyChoices, IndexForm
from registry_core.ops.transfer.hands import Hands
from registry_core.ops.transfer.ledger import Item, Job, Ledger
from registry_core.ops.transfer.nodes import Action, NodeKind
from registry_core.ops.transfer.roots import Found, Roots
from registry_core.ops.transfer.shelf import Shelf
from registry_core.ops.transfer.sides import Blame, Pair
from registry_core.ops.transfer.tasks import CopyTask, Follower
from registry_core.ops.transfer.telling import Audience, Teller
from registry_core.ops.workers import Crew
from registry_core.scope import checkpoint

__all__ = ["Engine"]

# What goes first of what is ready: manifests that wait for nothing more, for that lets go of memory; then what finds
# more work; then blobs, the largest first; and only when hands are free, another image.
_STORE: Final = (0, 0)
_READ: Final = (1, 0)
_BLOB: Final = 2
_NEXT: Final = (3, 0)


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
        audience: Told of each node when it is settled.
        shelf: Manifests that are at hand, and where to leave them for later.
        found: Told what there is to do for each task; see ``Roots``.
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
        audience: Audience,
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
        self._audience = audience
        self._shelf = Shelf(0) if shelf is None else shelf
        self._teller = Teller(audience, blame)
        self._roots = Roots(
            hands, blame, choices, self._shelf, self._teller, found or (lambda task, follower, stored, to_do: None)
        )
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

    def _begin(self, job: Job) -> None:
        try:
            root = self._roots.open(job)
            if root is not None:
                item = Item(job, NodeKind.MANIFEST, root.raw.descriptor, 1, root=True)
                item.raw, item.tags = root.raw, root.tags
                self._enter_root(item)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.not_opened(job, error)
            self._drop_followers(job)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        if self._ledger.leave(job):
            with self._lock:
                self._open -= 1
            self._invite()

    # Nodes: each once in its place.

    def _enter_root(self, item: Item) -> None:
        if self._ledger.enter_root(item):
            self._start(item)

    def _enter_part(self, above: Item, part: Descriptor, kind: NodeKind, *, odd: bool = False) -> None:
        item = Item(above.job, kind, part, above.depth + 1, odd=odd)
        if self._ledger.enter_part(above, item):
            self._start(item)

    def _start(self, item: Item) -> None:
        if item.kind is NodeKind.MANIFEST:
            self._crew.add(partial(self._step, self._read, item), _READ)
        else:
            self._release(item)

    def _resume(self, item: Item) -> None:
        """An item whose content somebody else has seen to, with other claims about it, has its turn."""
        if not self._ledger.is_done(item):
            self._start(item)
        elif item.root:
            item.kind = NodeKind.TAG
            self._release(item)
        else:
            self._settle(item, ok=True)

    def _read(self, item: Item) -> None:
        """Find out what a manifest is made of."""
        job, descriptor = item.job, item.descriptor
        item.there = self._hands.has_manifest(job.pair, descriptor)
        # What is there is complete; but an index that stays as it is may have come with other platforms, or fewer, and
        # what refers to the images in an index is found by way of them.
        follows = (self._choices.referrers or self._choices.digest_tags) and not item.loose
        deeper = self._choices.repair or (is_index(descriptor.media_type) and (follows or self._is_sparse))
        if (not item.there or item.tags or deeper) and not self._has_raw(item):
            return
        if item.raw is not None:
            reduced = None if job.subset is None else job.subset.entries.get(item.raw.digest)
            item.parts = reduced or item.raw.children
            if deeper or not item.there:
                self._enter_parts(item, item.raw)
        self._release(item)

    def _has_raw(self, item: Item) -> bool:
        """Whether the manifest of an item is at hand now: lists of referrers may name what is not there."""
        try:
            item.raw = item.raw or self._read_raw(item)
        except ImageNotFound:
            if not item.loose:
                raise
            item.kind = NodeKind.TAG
            self._settle(item, ok=True)
            return False
        if item.loose:
            item.descriptor = item.raw.descriptor
        return True

    def _read_raw(self, item: Item) -> RawManifest:
        pair, digest = item.job.pair, item.descriptor.digest
        made = None if item.job.subset is None else item.job.subset.made.get(digest)
        raw = made or self._shelf.get(digest)
        if raw is None:
            with self._blame.source(pair.source.at(digest)):
                raw = fetch(pair.source, digest) if item.loose else child(pair.source, item.descriptor)
            self._shelf.put(raw)
        return raw

    @property
    def _is_sparse(self) -> bool:
        return self._choices.index_form is IndexForm.SPARSE

    def _enter_parts(self, item: Item, raw: RawManifest) -> None:
        wants_blobs = not item.there or self._is_sparse or self._choices.repair
        for part in item.parts:
            if is_child_manifest(raw, part):
                self._enter_part(item, part, NodeKind.MANIFEST)
            elif wants_blobs and (self._choices.foreign_layers or not is_nondistributable(part.media_type)):
                self._enter_part(item, part, NodeKind.BLOB, odd=raw.is_index)

    def _release(self, item: Item) -> None:
        """One thing less that an item waits for."""
        if not self._ledger.release(item):
            return
        if item.lost:
            self._teller.not_done(item)
            self._settle(item, ok=False)
        elif item.kind is NodeKind.BLOB:
            self._crew.add(partial(self._step, self._move, item), (_BLOB, -item.descriptor.size))
        else:
            self._crew.add(partial(self._step, self._store, item), _STORE)

    def _move(self, item: Item) -> None:
        """See to a blob."""
        pair, part = item.job.pair, item.descriptor
        if item.odd and self._moved_as_manifest(pair, part):
            self._teller.done(item, Action.MOVE, NodeKind.MANIFEST)
        else:
            self._teller.done(item, self._hands.blob(pair, part, self._ledger.beside(pair, part)))
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
        is_tag = item.kind is NodeKind.TAG
        if item.tags or not (is_tag or item.there):
            if not self._has_raw(item) or item.raw is None:
                return
            self._hands.manifest(item.job.pair, item.raw, item.parts, item.tags)
        if not is_tag:
            self._teller.done(item, Action.SKIP if item.there else Action.MOVE)
        for tag in item.tags:
            self._teller.tag(item.job, item.descriptor, tag, Action.TAG)
        if not is_tag and (self._choices.referrers or self._choices.digest_tags):
            self._ledger.stay(item.job)
            self._crew.add(partial(self._find_followers, item), _READ)
        self._settle(item, ok=True)

    # Followers: what refers to a manifest, found while planning or copying, or known from a plan.

    def _find_followers(self, item: Item) -> None:
        job, subject = item.job, item.descriptor.digest
        try:
            for follower in self._roots.following(job, subject):
                self._follow(job, follower, item.depth)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.not_followed(job, subject, error)
        self._leave(job)

    def _follow(self, job: Job, follower: Follower, depth: int) -> bool:
        wanted = self._roots.wanted(job, follower)
        if wanted is None:
            return False
        item = Item(job, NodeKind.MANIFEST, wanted.descriptor, depth + 1, loose=True, root=True)
        item.tags = wanted.tags
        self._enter_root(item)
        return True

    def _next_follower(self, job: Job) -> None:
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

    def _go_on_behind(self, item: Item, *, ok: bool) -> None:
        job = item.job
        if job.head is not item or not job.followers:
            return
        if ok or item.loose:
            self._ledger.stay(job)
            self._crew.add(partial(self._next_follower, job), _READ)
        else:
            self._drop_followers(job)

    def _drop_followers(self, job: Job) -> None:
        """They refer to what is not there."""
        while job.followers:
            self._teller.follower_not_done(job, job.followers.pop().descriptor)

    # Ends.

    def _settle(self, item: Item, *, ok: bool) -> None:
        ended = self._ledger.settle(item, ok=ok)
        if ended is None:
            return
        for each in ended.above:
            self._release(each)
        for each in ended.twins:
            self._resume(each)
        self._go_on_behind(item, ok=ok)
        self._leave(item.job)

    def _step(self, work: Callable[[Item], None], item: Item) -> None:
        try:
            work(item)
        except RegistryError as error:
            self._pass_on(error)
            self._teller.failed(item, error)
            self._settle(item, ok=False)

    def _pass_on(self, error: RegistryError) -> None:
        if not self._goes_on or self._audience.has_left or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
