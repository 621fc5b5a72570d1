"""One copy for everything: pull, push, mirror, import and export move a graph from repository to repository.

Copies that are planned first, and copies of any number of images at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from registry_core.cancellation import CancelScope, checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import InvalidValue, error_context, error_reference
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.transfer.options import AttachedManifest, CopyOptions, CopyTask
from registry_core.ops.transfer.report import Action, CopyReport, ErrorAttribution, Node, NodeKind, Outcome, Result
from registry_core.ops.transfer.scheduler import CopyScheduler, OnResolved
from registry_core.ops.transfer.state import DONE, CallbackGuard, ManifestCache
from registry_core.ops.transfer.target import DryRunTarget, WritingTarget
from registry_core.ops.workers import WorkerPool
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

__all__ = ["CopyPlan", "build_plan", "copy", "execute", "move_graph", "plan_copies", "plan_copy", "run_copies"]


class CopyPlan:
    """What a copy would do, and the means to do just that.

    Args:
        nodes: Everything that was looked at, each once, parts before wholes.
        failures: What could not be planned, where the planning went on after errors.
        tasks: What there is to do, by digest: what moves a tag in the source meanwhile changes nothing.
        options: What of each graph is copied.
        shelf: Manifests that were read and need not be read again.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        failures: Sequence[Result],
        tasks: Sequence[CopyTask],
        options: CopyOptions,
        shelf: ManifestCache,
    ) -> None:
        self._nodes = tuple(nodes)
        self._failures = tuple(failures)
        self._tasks = tuple(tasks)
        self._options = options
        self._shelf = shelf

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything that was looked at, each once, parts before wholes."""
        return self._nodes

    @property
    def failures(self) -> tuple[Result, ...]:
        """What could not be planned, where the planning went on after errors."""
        return self._failures

    @property
    def bytes_to_move(self) -> int:
        """How many bytes would go through this program."""
        return self._bytes(Action.MOVE)

    @property
    def bytes_to_mount(self) -> int:
        """How many bytes the target would be asked to take over by itself."""
        return self._bytes(Action.MOUNT)

    @property
    def bytes_to_skip(self) -> int:
        """How many bytes the target has already; what lies below a manifest that it has is not counted."""
        return self._bytes(Action.SKIP)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return all(node.action in (Action.SKIP, Action.KEEP) for node in self._nodes)

    def apply(
        self,
        *,
        observer: Observer | None = None,
        jobs: int = 4,
        images: int = 4,
        continue_on_error: bool = False,
        on_result: Callable[[Result], None] | None = None,
    ) -> CopyReport:
        """Do it: what the plan shows, and nothing else. What has come to be there meanwhile is skipped.

        Tags that the plan does not set are not touched, whatever they stand for by now.
        A plan may be applied again, to go on after an error.

        Args:
            observer: Told of each blob.
            jobs: How many blobs move at a time.
            images: How many images are under way at a time.
            continue_on_error: Whether an error ends only what needs the node; otherwise the first one is raised.
            on_result: Told of each node when it is settled, by one thread at a time.

        Raises:
            InvalidValue: There are no jobs or images.
            RegistryError: One side failed; never, but for cancellation, where it goes on after errors.
        """
        # What refers to what was found while planning: nobody asks again.
        options = msgspec.structs.replace(self._options, referrers=False, digest_tags=False)
        left_alone = [
            Result(node=node, outcome=DONE[node.action])
            for node in self._nodes
            if node.kind is NodeKind.TAG and node.action in (Action.SKIP, Action.KEEP)
        ]
        with error_context("apply"):
            return execute(
                self._tasks,
                options,
                operation="apply",
                observer=observer,
                jobs=jobs,
                images=images,
                continue_on_error=continue_on_error,
                on_result=on_result,
                shelf=self._shelf,
                results=left_alone,
            )

    def __str__(self) -> str:
        """A summary, and a line for each node."""
        summary = (
            f"{self.bytes_to_move} bytes to move, {self.bytes_to_mount} to mount, {self.bytes_to_skip} are there; "
            f"{len(self._failures)} failed"
        )
        return "\n".join((summary, *map(str, self._nodes), *map(str, self._failures)))

    def __repr__(self) -> str:
        """How much there is to do."""
        return f"CopyPlan({len(self._nodes)} nodes, {self.bytes_to_move} bytes to move)"

    def _bytes(self, action: Action) -> int:
        return sum(node.size for node in self._nodes if node.action is action and node.kind is not NodeKind.TAG)


def plan_copy(
    source: Repository,
    target: Repository,
    reference: Tag | Digest | RawManifest | str,
    *,
    tags: Collection[Tag] = (),
    options: CopyOptions | None = None,
    jobs: int = 4,
) -> CopyPlan:
    """What ``copy`` would do, without doing it: nothing is written anywhere.

    Args:
        source: Where to read.
        target: Where to write.
        reference: The manifest by tag or digest, or the manifest itself if it is at hand.
        tags: Tags to point at it in the target.
        options: What of the graph is copied.
        jobs: How many nodes are asked for at a time.

    Raises:
        ImageNotFound: The source has no such manifest.
        PlatformNotFound: Nothing there is for any of the platforms.
        InvalidValue: The reference or a tag is malformed, or there are no jobs.
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
    """What copying many images would do: each node once, however many of them share it. Nothing is written anywhere.

    Args:
        tasks: What to copy. Those of one repository should share one ``Repository``: by that, what they share is known.
        options: What of each graph is copied.
        continue_on_error: Whether what cannot be planned becomes one of the plan's ``failures``, instead of an error.
        jobs: How many nodes are asked for at a time.
        images: How many images are looked at at a time.

    Raises:
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed.
    """
    return build_plan(
        tasks,
        options or CopyOptions(),
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
    """Copy many images without a plan: each node once, however many of them share it.

    A tag that stands for the same thing in the target costs one question to each side. What was interrupted is gone
    on with by doing it again.

    Args:
        tasks: What to copy, asked for one by one: there may be any number. Those of one repository should share one
            ``Repository``: by that, what they share is known.
        options: What of each graph is copied.
        continue_on_error: Whether an error ends only what needs the node; otherwise the first one is raised.
        observer: Told of each blob.
        jobs: How many blobs move at a time.
        images: How many images are under way at a time.
        on_result: Told of each node when it is settled, by one thread at a time.

    Raises:
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed; where it goes on after errors, only what the tasks themselves raise.
    """
    with error_context("run_copies"):
        return execute(
            tasks,
            options or CopyOptions(),
            operation="run_copies",
            observer=observer,
            jobs=jobs,
            images=images,
            continue_on_error=continue_on_error,
            on_result=on_result,
        )


def _check_jobs(jobs: int, images: int) -> None:
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"a copy needs at least one job, not {jobs!r:.50}")
    if not isinstance(images, int) or images < 1:
        raise InvalidValue(f"a copy needs at least one image at a time, not {images!r:.50}")


def build_plan(
    tasks: Iterable[CopyTask], options: CopyOptions, *, operation: str, continue_on_error: bool, jobs: int, images: int
) -> CopyPlan:
    """Plan, in the name of whichever operation that is for.

    Raises:
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed.
    """
    _check_jobs(jobs, images)
    shelf = ManifestCache()
    nodes: list[Node] = []
    failures: list[Result] = []
    roots: dict[int, tuple[CopyTask, list[AttachedManifest]]] = {}

    def record(result: Result) -> None:
        if result.outcome in (Outcome.FAILED, Outcome.NOT_DONE):
            failures.append(result)
        else:
            nodes.append(result.node)

    def found(task: CopyTask, follower: AttachedManifest, _: Descriptor, to_do: bool) -> None:
        if to_do:
            roots.setdefault(id(task), (task, []))[1].append(follower)

    blame = ErrorAttribution(operation)
    with CancelScope() as scope, error_context(operation):
        checkpoint()
        CopyScheduler(
            tasks,
            DryRunTarget(blame),
            blame,
            WorkerPool(jobs, scope),
            options=options,
            images=images,
            continue_on_error=continue_on_error,
            audience=CallbackGuard(record),
            shelf=shelf,
            found=found,
        ).run()
    return CopyPlan(nodes, failures, [_settled(*root) for root in roots.values()], options, shelf)


def execute(
    tasks: Iterable[CopyTask],
    options: CopyOptions,
    *,
    operation: str,
    observer: Observer | None,
    jobs: int,
    images: int = 1,
    continue_on_error: bool = False,
    on_result: Callable[[Result], None] | None = None,
    shelf: ManifestCache | None = None,
    found: OnResolved | None = None,
    results: Iterable[Result] = (),
) -> CopyReport:
    """Copy, in the name of whichever operation that is for; ``results`` are known beforehand.

    Raises:
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed.
    """
    _check_jobs(jobs, images)
    told: list[Result] = []

    def record(result: Result) -> None:
        told.append(result)
        if on_result is not None:
            on_result(result)

    for result in results:
        record(result)
    blame, audience = ErrorAttribution(operation), CallbackGuard(record, observer)
    listener = None if observer is None else audience
    with CancelScope() as scope:
        checkpoint()
        CopyScheduler(
            tasks,
            WritingTarget(blame, listener, foreign_layers=options.foreign_layers),
            blame,
            WorkerPool(jobs, scope),
            options=options,
            images=images,
            continue_on_error=continue_on_error,
            audience=audience,
            shelf=shelf,
            found=found,
        ).run()
    return CopyReport(results=tuple(told))


def _settled(task: CopyTask, found: list[AttachedManifest]) -> CopyTask:
    """A task as it was planned: by digest, with the tags that have to be set and what comes after it."""
    root, *followers = found
    return CopyTask(
        source=task.source,
        target=task.target,
        reference=task.reference if isinstance(task.reference, RawManifest) else root.descriptor.digest,
        tags=root.tags,
        followers=tuple(followers),
    )


def copy(
    source: Repository,
    target: Repository,
    reference: Tag | Digest | RawManifest | str,
    *,
    tags: Collection[Tag] = (),
    options: CopyOptions | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
) -> Descriptor:
    """Move a manifest and all it is made of from one repository to another, byte for byte.

    A tag is resolved once and never asked for again. What the target has is not moved, and what
    lies beside it in the same registry is mounted. Parts come before wholes and tags last, so that an
    interrupted copy is never visible as an image. The subject of a manifest and its referrers are not parts of it, and
    layers that may not be distributed are left out: ``options`` asks for them, or for some platforms only.

    Args:
        source: Where to read.
        target: Where to write.
        reference: The manifest by tag or digest, or the manifest itself if it is at hand.
        tags: Tags to point at it in the target; with none it is stored by its digest alone.
        options: What of the graph is copied; by default the whole, and nothing that merely refers to it.
        observer: Told of each blob that is moved, mounted or skipped, and how far it has come, from the threads that
            do it. What it raises ends the copy.
        jobs: How many blobs move at a time.

    Returns:
        The descriptor of what was copied: of the new index, if one was rewritten.

    Raises:
        ImageNotFound: The source has no such manifest.
        NotFound: A part of it is missing in the source.
        PlatformNotFound: Nothing there is for any of the platforms.
        IntegrityError: The source sent something else than what was asked for; the target keeps none of it.
        AccessDenied: One side refused.
        TransportError: One side failed.
        Unsupported: The target cannot be written.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    with error_context("copy", str(source)):
        if isinstance(reference, RawManifest):
            root = reference
        else:
            named = reference if isinstance(reference, Tag | Digest) else parse_tag_or_digest(reference)
            checkpoint()
            with error_reference(source.at(named)):
                root = fetch_manifest(source, named)
        return move_graph(source, target, root, tags=tags, options=options, observer=observer, jobs=jobs)


def move_graph(
    source: Repository,
    target: Repository,
    root: RawManifest,
    *,
    tags: Collection[Tag] = (),
    options: CopyOptions | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "copy",
) -> Descriptor:
    """As ``copy``, of a manifest at hand, for operations that have a name of their own.

    Raises:
        InvalidValue: There are no jobs to do it with, or a tag is malformed.
        RegistryError: One side failed.
    """
    task = CopyTask(source=source, target=target, reference=root, tags=tags)
    stored: list[Descriptor] = []
    execute(
        [task],
        options or CopyOptions(),
        operation=operation,
        observer=observer,
        jobs=jobs,
        found=lambda task, follower, root, to_do: stored.append(root),
    )
    return stored[0]
