"""Runs of a copy: which node can start next, each node once, children before parents.

No step of the scheduler waits. A node that needs others is set aside with a count of them, and the step that completes
the last of them starts it. Therefore one thread can do all the work, and threads cannot block each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import starmap
from typing import Final, NamedTuple

from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ImageName, TagOrName, name_beside
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.referrers import digest_tags
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, InvalidValue, NotFound, RegistryError
from registry_core.ops.manifests import (
    fetch_child,
    fetch_manifest,
    is_attestation,
    is_child_manifest,
    is_not_served,
)
from registry_core.ops.references import ImageReference, find_tag, resolve
from registry_core.ops.transfer.options import AttachedManifest, CopyOptions, CopyTask, IndexMode
from registry_core.ops.transfer.platforms import Subset, subset
from registry_core.ops.transfer.report import Action, NodeKind, Result
from registry_core.ops.transfer.state import ManifestCache, NodeState, NodeTable, ResolvedTask, TaskState
from registry_core.ops.transfer.target import CopyTarget, is_inconclusive
from registry_core.ops.workers import WorkerPool
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import CopyWarning, Event, Observer

__all__ = ["CallbackGuard", "CopyRun", "CopyScheduler", "TaskResolver"]

_CurrentTags = dict[TagOrName, Digest | None]


class CopyRun(NamedTuple):
    """Outcome of a run.

    Args:
        results: One result for each node, in the order in which they ended.
        tasks: The tasks that were looked up in the source, if they were to be kept.
    """

    results: tuple[Result, ...]
    tasks: tuple[ResolvedTask, ...]


class CallbackGuard(Observer):
    """Wrap user callbacks: an exception from one aborts the run, even with ``continue_on_error``.

    Args:
        observer: Receives the events of each blob.
        on_result: Called with each result, by one thread at a time.
    """

    def __init__(self, observer: Observer | None = None, on_result: Callable[[Result], None] | None = None) -> None:
        self._observer = observer
        self._on_result = on_result
        self.has_raised = False

    def on(self, event: Event) -> None:
        """Pass an event to the observer."""
        if self._observer is not None:
            with self._guarded():
                self._observer.on(event)

    def on_result(self, result: Result) -> None:
        """Pass a result to its callback."""
        if self._on_result is not None:
            with self._guarded():
                self._on_result(result)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.has_raised = True
            raise


class _Resolution(NamedTuple):
    """The manifest that a task's reference names, and the work left to do for it.

    Args:
        resolved: The task with its root.
        manifest: The manifest to copy; ``None`` if nothing has to be done.
        subset: The part of its graph to copy.
        results: Results of the tags that need not be set, and of attestations that are left out.
    """

    resolved: ResolvedTask
    manifest: RawManifest | None
    subset: Subset | None
    results: list[Result]


class TaskResolver:
    """Looks up tasks and attached manifests with as few requests as possible.

    Args:
        target: Target of the run.
        options: Parts of each graph to copy.
        cache: Manifests that were read before.
    """

    def __init__(self, target: CopyTarget, options: CopyOptions, cache: ManifestCache) -> None:
        self._target = target
        self._attribution = target.attribution
        self._options = options
        self._cache = cache
        self._asks_tags = target.asks_tags or not options.overwrite

    def resolve(self, state: TaskState) -> _Resolution:
        """Look up the reference of a task, and its tags in the target where that decides whether they are set.

        Raises:
            RegistryError: One side failed.
        """
        task, reference = state.task, state.task.reference
        current: _CurrentTags | None = None
        if isinstance(reference, Tag | ImageName) and task.tags:
            # Most tags of a mirror are unchanged: one lookup on each side shows it, and no manifest is read.
            with self._attribution.source(task.source.at(reference)):
                checkpoint()
                found = self._look_up(task.source, reference)
            reference, current = found.digest, self._current_tags(task, task.tags)
            if self._is_unchanged(found, current):
                _, results = self._split_tags(state, found, task.tags, current)
                return _Resolution(ResolvedTask(task, found, []), None, None, results)
        elif task.tags and self._asks_tags:
            current = self._current_tags(task, task.tags)
        named = reference.digest if isinstance(reference, RawManifest) else reference
        with self._attribution.source(task.source.at(named)):
            manifest = reference if isinstance(reference, RawManifest) else self._read(task.source, reference)
            selected = subset(task.source, manifest, self._options)
        self._cache.put(manifest)
        root = selected.root
        tags, results = self._split_tags(state, root.descriptor, task.tags, current)
        # If every tag points at another manifest in the target and may not be moved, nothing would name this one.
        is_needed = bool(tags) or not task.tags or root.digest in (current or {}).values()
        manifests = [AttachedManifest(manifest.descriptor, tags)] if is_needed else []
        if is_needed:
            results += starmap(state.left_out, selected.absent)
        resolved = ResolvedTask(task, root.descriptor, manifests)
        return _Resolution(resolved, root if is_needed else None, selected, results)

    def attached_manifests(self, task: CopyTask, subject: Digest) -> Iterator[AttachedManifest]:
        """Yield the manifests of the source that refer to a subject, as far as the options ask for them.

        Raises:
            RegistryError: The source failed.
        """
        source = task.source
        if self._options.referrers:
            with self._attribution.source(source.at(subject)):
                for entry in source.manifests.referrers(subject):
                    checkpoint()
                    yield AttachedManifest(entry)
        if self._options.digest_tags:
            for tag in digest_tags(subject):
                try:
                    with self._attribution.source(source.at(tag)):
                        checkpoint()
                        entry = self._look_up(source, find_tag(source, tag))
                except ImageNotFound:
                    continue
                # In a layout or archive, the name gets the form of the name of the image.
                yield AttachedManifest(entry, (name_beside(next(iter(task.tags), tag), tag),))

    def select_tags(self, state: TaskState, attached: AttachedManifest) -> tuple[AttachedManifest | None, list[Result]]:
        """Reduce an attached manifest to the tags that have to be set.

        Returns:
            The manifest, or ``None`` if it has tags and all of them must stay as they are in the target; and the
            results of the tags that are not set.

        Raises:
            RegistryError: The target failed.
        """
        descriptor, tags = attached.descriptor, attached.tags
        current = self._current_tags(state.task, tags) if tags and self._asks_tags else None
        selected, results = self._split_tags(state, descriptor, tags, current)
        if tags and not selected and descriptor.digest not in (current or {}).values():
            return None, results
        return AttachedManifest(descriptor, selected), results

    def _is_unchanged(self, found: Descriptor, current: _CurrentTags) -> bool:
        """Return whether the tags alone show that nothing has to be done."""
        options = self._options
        if options.referrers or options.digest_tags or options.reduces_indexes or options.repair:
            return False
        if all(digest == found.digest for digest in current.values()):
            return True
        return not options.overwrite and None not in current.values()

    def _current_tags(self, task: CopyTask, tags: tuple[TagOrName, ...]) -> _CurrentTags:
        """Look up tags in the target; ``None`` for a tag that it does not have, or that may be overwritten unseen."""
        found: _CurrentTags = {}
        for tag in tags:
            ask = partial(resolve, task.target, tag)
            if self._options.overwrite:
                current = self._target.look_up(task, NodeKind.TAG, tag, ask)
            else:
                # A tag that must not be overwritten is only set where the target is known not to have it.
                current = self._existing(task, tag, ask)
            found[tag] = None if current is None else current.digest
        return found

    def _existing(self, task: CopyTask, tag: TagOrName, ask: Callable[[], Descriptor]) -> Descriptor | None:
        checkpoint()
        try:
            with self._attribution.target(task.target.at(tag)):
                return ask()
        except ImageNotFound:
            return None

    def _split_tags(
        self, state: TaskState, manifest: Descriptor, tags: tuple[TagOrName, ...], current: _CurrentTags | None
    ) -> tuple[tuple[TagOrName, ...], list[Result]]:
        """Return the tags to set, and the results of those that are right already or must not be moved."""
        if current is None:
            return tags, []
        to_set: list[TagOrName] = []
        results: list[Result] = []
        for tag in tags:
            digest = current[tag]
            if digest == manifest.digest:
                results.append(state.tag_result(manifest, tag, Action.SKIP))
            elif digest is not None and not self._options.overwrite:
                results.append(state.tag_result(manifest, tag, Action.KEEP))
            else:
                to_set.append(tag)
        return tuple(to_set), results

    def _look_up(self, source: Repository, reference: ImageReference) -> Descriptor:
        """Look up a manifest of the source; read it where the look-up, which is cheaper, is refused or fails."""
        try:
            return resolve(source, reference)
        except RegistryError as error:
            if isinstance(error, NotFound) or not is_inconclusive(error):
                raise
        manifest = fetch_manifest(source, reference)
        self._cache.put(manifest)
        return manifest.descriptor

    def _read(self, source: Repository, reference: ImageReference) -> RawManifest:
        cached = self._cache.get(reference) if isinstance(reference, Digest) else None
        return cached or fetch_manifest(source, reference)


# Order of the steps that are ready: manifests whose children are stored, which frees memory; then manifests to read,
# which finds more work; then blobs, the largest first; and another task only if nothing else is ready.
_STORE: Final = (0, 0)
_READ: Final = (1, 0)
_BLOB: Final = 2
_TASK: Final = (3, 0)


class CopyScheduler:
    """One run: plan or copy all tasks.

    Args:
        tasks: Tasks, taken one by one as capacity becomes available. A result among them is recorded as it is reached.
        target: Target operations, real or dry-run.
        pool: Threads that do the work.
        callbacks: Callbacks of the caller.
        cache: Manifests that were read before; those that are read are added.
        options: Parts of each graph to copy.
        images: Greatest number of tasks in progress at a time.
        continue_on_error: Whether an error only fails the nodes that need the failed one.
        keep_tasks: Whether the resolved tasks are returned, which takes memory for each task.
    """

    def __init__(
        self,
        tasks: Iterable[CopyTask | Result],
        target: CopyTarget,
        pool: WorkerPool,
        callbacks: CallbackGuard,
        cache: ManifestCache,
        *,
        options: CopyOptions,
        images: int,
        continue_on_error: bool,
        keep_tasks: bool,
    ) -> None:
        self._tasks = iter(tasks)
        self._target = target
        self._attribution = target.attribution
        self._pool = pool
        self._callbacks = callbacks
        self._cache = cache
        self._options = options
        self._images = images
        self._continue_on_error = continue_on_error
        self._keep_tasks = keep_tasks
        self._resolver = TaskResolver(target, options, cache)
        self._nodes = NodeTable()
        self._results: list[Result] = []
        self._results_lock = threading.Lock()
        self._resolved: list[ResolvedTask] = []
        self._lock = threading.Lock()
        self._in_progress = 0
        self._is_exhausted = False
        self._is_taking = False

    def run(self) -> CopyRun:
        """Do all the work.

        Raises:
            RegistryError: The first error; with ``continue_on_error`` only one that the tasks themselves raise.
        """
        self._take_next()
        self._pool.run()
        return CopyRun(tuple(self._results), tuple(self._resolved))

    def _record(self, *results: Result) -> None:
        for result in results:
            if result.node.note and not result.is_failure:
                self._callbacks.on(CopyWarning(reference=result.node.source, text=result.node.note))
            with self._results_lock:
                self._results.append(result)
                self._callbacks.on_result(result)

    # Tasks are taken one at a time, so that neither they nor their nodes accumulate.

    def _take_next(self) -> None:
        with self._lock:
            if self._is_exhausted or self._is_taking or self._in_progress >= self._images:
                return
            self._is_taking = True
        self._pool.add(self._start_task, _TASK)

    def _start_task(self) -> None:
        checkpoint()
        task = next(self._tasks, None)
        if isinstance(task, Result):
            self._record(task)
        elif task is not None and not isinstance(task, CopyTask):
            raise InvalidValue(f"each task must be a CopyTask, not {type(task).__name__}")
        with self._lock:
            self._is_taking = False
            if task is None:
                self._is_exhausted = True
                return
            if isinstance(task, CopyTask):
                self._in_progress += 1
        if isinstance(task, CopyTask):
            self._pool.add(partial(self._resolve, TaskState(task)), _READ)
        self._take_next()

    def _resolve(self, state: TaskState) -> None:
        try:
            resolved, manifest, state.subset, results = self._resolver.resolve(state)
            self._record(*results)
            if self._keep_tasks:
                state.resolved = resolved
                self._resolved.append(resolved)
            if manifest is not None:
                node = NodeState(state, NodeKind.MANIFEST, manifest.descriptor, 1, root=True)
                node.manifest, node.tags = manifest, resolved.manifests[0].tags
                self._add_root(node)
        except RegistryError as error:
            self._raise_unless_continuing(error)
            self._record(*state.unresolved(error, self._attribution.side_of(error)), *state.attached_not_done())
        self._finish_pending(state)

    def _finish_pending(self, state: TaskState) -> None:
        if self._nodes.finish_pending(state):
            with self._lock:
                self._in_progress -= 1
            self._take_next()

    # Nodes: each once in its repository.

    def _add_root(self, node: NodeState) -> None:
        if self._nodes.add_root(node):
            self._start(node)

    def _add_child(self, parent: NodeState, child: Descriptor, kind: NodeKind, *, unknown_kind: bool = False) -> None:
        node = NodeState(parent.state, kind, child, parent.depth + 1, unknown_kind=unknown_kind)
        if self._nodes.add_child(parent, node):
            self._start(node)

    def _start(self, node: NodeState) -> None:
        if node.kind is NodeKind.MANIFEST:
            self._pool.add(partial(self._step, self._inspect, node), _READ)
        else:
            self._release(node)

    def _resume(self, node: NodeState) -> None:
        """Start a node after another of the same content, but other claims, has ended."""
        if not self._nodes.is_done(node):
            self._start(node)
        elif node.root:
            node.kind = NodeKind.TAG
            self._release(node)
        else:
            self._complete(node, ok=True)

    def _inspect(self, node: NodeState) -> None:
        """Look for a manifest in the target, read it if need be, and add its children."""
        descriptor = node.descriptor
        node.exists = self._target.has_manifest(node.state.task, descriptor)
        # A manifest in the target is complete. But a sparse index may have been copied for other platforms, and what
        # refers to the images of an index is only found by going through the index.
        finds_attached = self._finds_attached and not node.unverified
        descends = self._options.repair or (is_index(descriptor.media_type) and (finds_attached or self._is_sparse))
        if (not node.exists or node.tags or descends) and not self._has_manifest(node):
            return
        if node.manifest is not None:
            selected = None if node.state.subset is None else node.state.subset.entries.get(node.manifest.digest)
            node.children = node.manifest.children if selected is None else selected
            if descends or not node.exists:
                self._add_children(node, node.manifest)
        self._release(node)

    def _has_manifest(self, node: NodeState) -> bool:
        """Read the manifest of a node; complete the node if the source lists the manifest but does not have it."""
        try:
            node.manifest = node.manifest or self._read(node)
        except RegistryError as error:
            if is_attestation(node.descriptor) and is_not_served(error):
                error.message += (
                    "; the source lists this attestation, but does not serve it: attestations=False leaves it out"
                )
            if not (node.unverified and isinstance(error, ImageNotFound)):
                raise
            node.kind = NodeKind.TAG
            self._complete(node, ok=True)
            return False
        self._check_parts_known(node.state.task, node.manifest)
        if node.unverified:
            node.descriptor = node.manifest.descriptor
        return True

    def _check_parts_known(self, task: CopyTask, manifest: RawManifest) -> None:
        # A copy of only its bytes would lack the parts, and the report could not name them.
        with self._attribution.source(task.source.at(manifest.digest)):
            manifest.check_parts_known()

    def _read(self, node: NodeState) -> RawManifest:
        source, digest = node.state.task.source, node.descriptor.digest
        rewritten = None if node.state.subset is None else node.state.subset.rewritten.get(digest)
        manifest = rewritten or self._cache.get(digest)
        if manifest is None:
            with self._attribution.source(source.at(digest)):
                manifest = fetch_manifest(source, digest) if node.unverified else fetch_child(source, node.descriptor)
            self._cache.put(manifest)
        return manifest

    @property
    def _is_sparse(self) -> bool:
        return self._options.index_mode is IndexMode.SPARSE

    @property
    def _finds_attached(self) -> bool:
        return self._options.referrers or self._options.digest_tags

    def _add_children(self, node: NodeState, manifest: RawManifest) -> None:
        needs_blobs = not node.exists or self._is_sparse or self._options.repair
        for child in node.children:
            if is_child_manifest(manifest, child):
                self._add_child(node, child, NodeKind.MANIFEST)
            elif needs_blobs and (self._options.foreign_layers or not is_nondistributable(child.media_type)):
                self._add_child(node, child, NodeKind.BLOB, unknown_kind=manifest.is_index)

    def _release(self, node: NodeState) -> None:
        """Remove one blocker of a node; start its last step if none is left."""
        if not self._nodes.release(node):
            return
        if node.dependency_failed:
            self._record(*node.not_done())
            self._complete(node, ok=False)
        elif node.kind is NodeKind.BLOB:
            self._pool.add(partial(self._step, self._copy_blob, node), (_BLOB, -node.descriptor.size))
        else:
            self._pool.add(partial(self._step, self._store, node), _STORE)

    def _copy_blob(self, node: NodeState) -> None:
        task, blob = node.state.task, node.descriptor
        if node.unknown_kind and self._copied_as_manifest(task, blob):
            self._record(node.done(Action.MOVE, NodeKind.MANIFEST))
        else:
            action = self._target.copy_blob(task, blob, self._nodes.mount_candidate(task, blob))
            self._record(node.done(action))
        self._complete(node, ok=True)

    def _copied_as_manifest(self, task: CopyTask, entry: Descriptor) -> bool:
        # An index may list manifests of unknown types; an entry that the source has no manifest of is a blob.
        try:
            with self._attribution.source(task.source.at(entry.digest)):
                found = fetch_manifest(task.source, entry.digest)
        except ImageNotFound:
            return False
        manifest = RawManifest(entry.media_type, found.content, found.algorithm)
        self._check_parts_known(task, manifest)
        self._target.put_manifest(task, manifest, (), ())
        return True

    def _store(self, node: NodeState) -> None:
        """Store a manifest whose children are in the target, or set more tags of one that is stored."""
        state, is_tag = node.state, node.kind is NodeKind.TAG
        if node.tags or not (is_tag or node.exists):
            if not self._has_manifest(node) or node.manifest is None:
                return
            self._target.put_manifest(state.task, node.manifest, node.children, node.tags)
        if not is_tag:
            self._record(node.done(Action.SKIP if node.exists else Action.MOVE))
        self._record(*(state.tag_result(node.descriptor, tag, Action.TAG) for tag in node.tags))
        if not is_tag and self._finds_attached:
            self._nodes.add_pending(state)
            self._pool.add(partial(self._find_attached, node), _READ)
        self._complete(node, ok=True)

    # Attached manifests: found during this run, or listed by a plan.

    def _find_attached(self, node: NodeState) -> None:
        state, subject = node.state, node.descriptor.digest
        try:
            for attached in self._resolver.attached_manifests(state.task, subject):
                self._add_attached(state, attached, node.depth)
        except RegistryError as error:
            self._raise_unless_continuing(error)
            self._record(state.attached_failed(subject, error, self._attribution.side_of(error)))
        self._finish_pending(state)

    def _add_attached(self, state: TaskState, attached: AttachedManifest, depth: int) -> bool:
        selected, results = self._resolver.select_tags(state, attached)
        self._record(*results)
        if selected is None:
            return False
        if state.resolved is not None:
            state.resolved.manifests.append(selected)
        node = NodeState(state, NodeKind.MANIFEST, selected.descriptor, depth + 1, unverified=True, root=True)
        node.tags = selected.tags
        self._add_root(node)
        return True

    def _add_next_attached(self, state: TaskState) -> None:
        """Start the next attached manifest of a plan; one after the other, since they may refer to each other."""
        while state.attached:
            attached = state.attached.pop()
            try:
                if self._add_attached(state, attached, 0):
                    break
            except RegistryError as error:
                self._raise_unless_continuing(error)
                side = self._attribution.side_of(error)
                self._record(state.attached_failed(attached.descriptor.digest, error, side))
        self._finish_pending(state)

    def _after_root(self, node: NodeState, *, ok: bool) -> None:
        state = node.state
        if state.last_root is not node or not state.attached:
            return
        if ok or node.unverified:
            self._nodes.add_pending(state)
            self._pool.add(partial(self._add_next_attached, state), _READ)
        else:
            self._record(*state.attached_not_done())

    # Ends and errors.

    def _complete(self, node: NodeState, *, ok: bool) -> None:
        unblocked = self._nodes.complete(node, ok=ok)
        if unblocked is None:
            return
        for each in unblocked.waiting:
            self._release(each)
        for each in unblocked.conflicting:
            self._resume(each)
        self._after_root(node, ok=ok)
        self._finish_pending(node.state)

    def _step(self, work: Callable[[NodeState], None], node: NodeState) -> None:
        try:
            work(node)
        except RegistryError as error:
            self._raise_unless_continuing(error)
            self._record(*node.failed(error, self._attribution.side_of(error)))
            self._complete(node, ok=False)

    def _raise_unless_continuing(self, error: RegistryError) -> None:
        if not self._continue_on_error or self._callbacks.has_raised or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
