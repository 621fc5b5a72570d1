"""Copies: pull, push, mirror, import and export all copy a graph of manifests from one repository to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final

import msgspec

from registry_core.cancellation import CancelScope, checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.manifest import RawManifest
from registry_core.errors import InvalidValue, error_context, error_reference
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.references import ImageReference, parse_reference
from registry_core.ops.transfer.options import CopyOptions, CopyTask, check_repositories, checked_options
from registry_core.ops.transfer.report import Action, CopyReport, ErrorAttribution, Node, NodeKind, Result
from registry_core.ops.transfer.scheduler import CallbackGuard, CopyRun, CopyScheduler
from registry_core.ops.transfer.state import ManifestCache, ResolvedTask
from registry_core.ops.transfer.target import CopyTarget, DryRunTarget, WritingTarget
from registry_core.ops.workers import WorkerPool
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

_NO_CHANGE: Final = (Action.SKIP, Action.KEEP, Action.LEAVE_OUT)

__all__ = ["CopyPlan", "build_plan", "copy", "execute", "move_graph", "plan_copies", "plan_copy", "run_copies"]


class CopyPlan:
    """The planned steps of a copy, for inspection; ``apply`` carries them out.

    Args:
        nodes: Nodes of the copy, each once, children before parents.
        failures: Nodes that could not be planned, if planning continued after errors.
        tasks: Tasks with digests in place of tags, so that a tag that moves in the source changes nothing.
        options: Parts of each graph to copy.
        cache: Manifests that were read while planning.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        failures: Sequence[Result],
        tasks: Sequence[CopyTask],
        options: CopyOptions,
        cache: ManifestCache,
    ) -> None:
        self._nodes = tuple(nodes)
        self._failures = tuple(failures)
        self._tasks = tuple(tasks)
        self._options = options
        self._cache = cache

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes of the copy, each once, children before parents."""
        return self._nodes

    @property
    def failures(self) -> tuple[Result, ...]:
        """Nodes that could not be planned, if planning continued after errors."""
        return self._failures

    @property
    def bytes_to_move(self) -> int:
        """Size of the content to read from the source and write to the target."""
        return self._bytes(Action.MOVE)

    @property
    def bytes_to_mount(self) -> int:
        """Size of the blobs to mount from other repositories of the target."""
        return self._bytes(Action.MOUNT)

    @property
    def bytes_to_skip(self) -> int:
        """Size of the content that the target has; the children of a manifest that it has are not counted."""
        return self._bytes(Action.SKIP)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return all(node.action in _NO_CHANGE for node in self._nodes)

    def apply(
        self,
        *,
        observer: Observer | None = None,
        jobs: int = 4,
        images: int = 4,
        continue_on_error: bool = False,
        on_result: Callable[[Result], None] | None = None,
    ) -> CopyReport:
        """Copy what the plan shows, and nothing else. Content that the target has by then is skipped.

        Tags that the plan does not set are left alone, even if they have moved since.
        A plan can be applied again to continue after an error.

        Args:
            observer: Receives the events of each blob.
            jobs: Greatest number of blobs copied at a time.
            images: Greatest number of images in progress at a time.
            continue_on_error: Whether an error only fails the nodes that need the failed one; otherwise the first error
                is raised.
            on_result: Called with the result of each node, by one thread at a time.

        Raises:
            InvalidValue: ``jobs`` or ``images`` is less than 1.
            RegistryError: One side failed; with ``continue_on_error`` only ``Cancelled`` and ``DeadlineExceeded``.
        """
        # The plan lists what refers to its manifests; the source is not asked again.
        options = msgspec.structs.replace(self._options, referrers=False, digest_tags=False)
        unchanged_tags = (
            Result(node=node, outcome=node.action.outcome)
            for node in self._nodes
            if node.kind is NodeKind.TAG and node.action in _NO_CHANGE
        )
        run = execute(
            chain(unchanged_tags, self._tasks),
            options,
            operation="apply",
            observer=observer,
            jobs=jobs,
            images=images,
            continue_on_error=continue_on_error,
            on_result=on_result,
            cache=self._cache,
        )
        return CopyReport(results=run.results)

    def __str__(self) -> str:
        """Format a summary, and one line for each node."""
        summary = (
            f"{self.bytes_to_move} bytes to move, {self.bytes_to_mount} to mount, {self.bytes_to_skip} are there; "
            f"{len(self._failures)} failed"
        )
        return "\n".join((summary, *map(str, self._nodes), *map(str, self._failures)))

    def __repr__(self) -> str:
        """Return the number of nodes and bytes."""
        return f"CopyPlan({len(self._nodes)} nodes, {self.bytes_to_move} bytes to move)"

    def _bytes(self, action: Action) -> int:
        return sum(node.size for node in self._nodes if node.action is action and node.kind is not NodeKind.TAG)


def plan_copy(
    source: Repository,
    target: Repository,
    reference: ImageReference | RawManifest | str,
    *,
    tags: Iterable[str] = (),
    options: CopyOptions | None = None,
    jobs: int = 4,
) -> CopyPlan:
    """Determine what ``copy`` would do, without writing anything.

    Args:
        source: Repository to read from.
        target: Repository to write to.
        reference: Tag or digest of the manifest, or the manifest itself; in a layout or archive, also its name.
        tags: Tags to point at it in the target.
        options: Parts of the graph to copy.
        jobs: Greatest number of nodes looked up at a time.

    Raises:
        ImageNotFound: The source has no such manifest.
        PlatformNotFound: No image runs on any of the platforms.
        InvalidValue: The reference or a tag is malformed, or ``jobs`` is less than 1.
        RegistryError: One side failed.
    """
    with error_context("plan_copy", str(source)):
        task = CopyTask(source=source, target=target, reference=reference, tags=tags)
    return plan_copies([task], options=options, jobs=jobs)


def plan_copies(
    tasks: Iterable[CopyTask],
    *,
    options: CopyOptions | None = None,
    continue_on_error: bool = False,
    jobs: int = 4,
    images: int = 4,
) -> CopyPlan:
    """Determine what copying many images would do, without writing anything. Nodes that images share appear once.

    Args:
        tasks: Images to copy. Tasks of one repository should have the same ``Repository`` object: nodes are only known
            to be shared within one.
        options: Parts of each graph to copy.
        continue_on_error: Whether nodes that cannot be planned become ``failures`` of the plan; otherwise the first
            error is raised.
        jobs: Greatest number of nodes looked up at a time.
        images: Greatest number of images in progress at a time.

    Raises:
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed.
    """
    return build_plan(
        tasks,
        checked_options(options),
        operation="plan_copy",
        continue_on_error=continue_on_error,
        jobs=jobs,
        images=images,
    )


def run_copies(
    tasks: Iterable[CopyTask],
    *,
    options: CopyOptions | None = None,
    continue_on_error: bool = False,
    observer: Observer | None = None,
    jobs: int = 4,
    images: int = 4,
    on_result: Callable[[Result], None] | None = None,
) -> CopyReport:
    """Copy many images without a plan. Nodes that images share are copied once.

    A tag that names the same manifest on both sides costs one lookup on each. To continue after an interruption, run
    the same tasks again.

    Args:
        tasks: Images to copy, from any iterable, which is read as capacity becomes available. Tasks of one repository
            should have the same ``Repository`` object: nodes are only known to be shared within one.
        options: Parts of each graph to copy.
        continue_on_error: Whether an error only fails the nodes that need the failed one; otherwise the first error is
            raised.
        observer: Receives the events of each blob.
        jobs: Greatest number of blobs copied at a time.
        images: Greatest number of images in progress at a time.
        on_result: Called with the result of each node, by one thread at a time.

    Raises:
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed; with ``continue_on_error`` only what ``tasks`` itself raises.
    """
    run = execute(
        tasks,
        checked_options(options),
        operation="run_copies",
        observer=observer,
        jobs=jobs,
        images=images,
        continue_on_error=continue_on_error,
        on_result=on_result,
    )
    return CopyReport(results=run.results)


def copy(
    source: Repository,
    target: Repository,
    reference: ImageReference | RawManifest | str,
    *,
    tags: Iterable[str] = (),
    options: CopyOptions | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
) -> Descriptor:
    """Copy a manifest and everything it consists of from one repository to another, byte for byte.

    A tag is resolved once. Content that the target has is skipped, and blobs of other repositories of the same registry
    are mounted. Children are written before parents and tags last, so that an interrupted copy is never visible as an
    image. The subject of a manifest and its referrers are not copied, and neither are nondistributable layers;
    ``options`` includes them, or selects platforms.

    Args:
        source: Repository to read from.
        target: Repository to write to.
        reference: Tag or digest of the manifest, or the manifest itself; in a layout or archive, also its name.
        tags: Tags to point at it in the target; without tags it is stored under its digest only.
        options: Parts of the graph to copy.
        observer: Receives an event for each blob that is moved, mounted or skipped, and its progress, from the threads
            that copy. An exception that it raises ends the copy.
        jobs: Greatest number of blobs copied at a time.

    Returns:
        The descriptor of the copied manifest: of the new index, if one was rewritten.

    Raises:
        ImageNotFound: The source has no such manifest.
        NotFound: The source lacks a part of it.
        PlatformNotFound: No image runs on any of the platforms.
        IntegrityError: The source sent other content than was requested; the target keeps none of it.
        AccessDenied: One side refused access.
        TransportError: One side could not be reached or failed.
        Unsupported: The target is read-only.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    check_repositories(source, target)
    with error_context("copy", str(source)):
        if isinstance(reference, RawManifest):
            root = reference
        else:
            named = parse_reference(source, reference)
            checkpoint()
            with error_reference(source.at(named)):
                root = fetch_manifest(source, named)
        return move_graph(source, target, root, tags=tags, options=options, observer=observer, jobs=jobs)


def move_graph(
    source: Repository,
    target: Repository,
    root: RawManifest,
    *,
    tags: Iterable[str] = (),
    options: CopyOptions | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "copy",
) -> Descriptor:
    """Copy a manifest that was read before; like ``copy``, for operations with other names.

    Raises:
        InvalidValue: ``jobs`` is less than 1, or a tag is malformed.
        RegistryError: One side failed.
    """
    task = CopyTask(source=source, target=target, reference=root, tags=tags)
    run = execute([task], checked_options(options), operation=operation, observer=observer, jobs=jobs, keep_tasks=True)
    return run.tasks[0].stored


def build_plan(
    tasks: Iterable[CopyTask | Result],
    options: CopyOptions,
    *,
    operation: str,
    continue_on_error: bool,
    jobs: int,
    images: int,
) -> CopyPlan:
    """Plan all tasks under the name of an operation.

    Args:
        tasks: Tasks; a result among them becomes a failure of the plan.
        options: Parts of each graph to copy.
        operation: Public name of the operation.
        continue_on_error: Whether nodes that cannot be planned become ``failures`` of the plan.
        jobs: Greatest number of nodes looked up at a time.
        images: Greatest number of images in progress at a time.

    Raises:
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed.
    """
    cache = ManifestCache()
    run = _run(
        tasks,
        options,
        DryRunTarget(ErrorAttribution(operation)),
        CallbackGuard(),
        cache,
        operation=operation,
        jobs=jobs,
        images=images,
        continue_on_error=continue_on_error,
        keep_tasks=True,
    )
    return CopyPlan(
        [result.node for result in run.results if not result.is_failure],
        [result for result in run.results if result.is_failure],
        [_with_digests(resolved) for resolved in run.tasks if resolved.manifests],
        options,
        cache,
    )


def execute(
    tasks: Iterable[CopyTask | Result],
    options: CopyOptions,
    *,
    operation: str,
    observer: Observer | None,
    jobs: int,
    images: int = 1,
    continue_on_error: bool = False,
    on_result: Callable[[Result], None] | None = None,
    cache: ManifestCache | None = None,
    keep_tasks: bool = False,
) -> CopyRun:
    """Copy all tasks under the name of an operation.

    Args:
        tasks: Tasks; a result among them is recorded as it is reached.
        options: Parts of each graph to copy.
        operation: Public name of the operation.
        observer: Receives the events of each blob.
        jobs: Greatest number of blobs copied at a time.
        images: Greatest number of images in progress at a time.
        continue_on_error: Whether an error only fails the nodes that need the failed one.
        on_result: Called with the result of each node, by one thread at a time.
        cache: Manifests that were read while planning.
        keep_tasks: Whether the run returns its resolved tasks.

    Raises:
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed.
    """
    callbacks = CallbackGuard(observer, on_result)
    target = WritingTarget(
        ErrorAttribution(operation),
        None if observer is None else callbacks,
        foreign_layers=options.foreign_layers,
    )
    return _run(
        tasks,
        options,
        target,
        callbacks,
        ManifestCache(0) if cache is None else cache,
        operation=operation,
        jobs=jobs,
        images=images,
        continue_on_error=continue_on_error,
        keep_tasks=keep_tasks,
    )


def _run(
    tasks: Iterable[CopyTask | Result],
    options: CopyOptions,
    target: CopyTarget,
    callbacks: CallbackGuard,
    cache: ManifestCache,
    *,
    operation: str,
    jobs: int,
    images: int,
    continue_on_error: bool,
    keep_tasks: bool,
) -> CopyRun:
    with error_context(operation):
        for name, value in (("jobs", jobs), ("images", images)):
            if not isinstance(value, int) or value < 1:
                raise InvalidValue(f"{name} must be at least 1, not {value!r:.50}")
        with CancelScope() as scope:
            checkpoint()
            return CopyScheduler(
                tasks,
                target,
                WorkerPool(jobs, scope),
                callbacks,
                cache,
                options=options,
                images=images,
                continue_on_error=continue_on_error,
                keep_tasks=keep_tasks,
            ).run()


def _with_digests(resolved: ResolvedTask) -> CopyTask:
    """Return a planned task: by digest, with the tags to set and the manifests attached to it."""
    task, (root, *attached) = resolved.task, resolved.manifests
    return CopyTask(
        source=task.source,
        target=task.target,
        reference=task.reference if isinstance(task.reference, RawManifest) else root.descriptor.digest,
        tags=root.tags,
        attached=tuple(attached),
    )
