"""State of a run: its tasks and nodes, how they ended, and the manifests that were read.

This module does no I/O and does not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import TagOrName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_manifest
from registry_core.domain.names import RepositoryName
from registry_core.errors import RegistryError
from registry_core.ops.manifests import GraphLimits
from registry_core.ops.transfer.options import AttachedManifest, CopyTask
from registry_core.ops.transfer.platforms import Subset
from registry_core.ops.transfer.report import Action, Node, NodeKind, Outcome, Result, Side
from registry_core.ports.catalog import Repository

__all__ = ["ManifestCache", "NodeState", "NodeTable", "ResolvedTask", "TaskState", "Unblocked"]


class ResolvedTask(msgspec.Struct, frozen=True):
    """A task whose reference was looked up in the source.

    Args:
        task: The task.
        stored: Root manifest as the target gets it: of the new index, if one was rewritten.
        manifests: Manifests to copy, each with the tags to set: the root as the source has it, then those attached to
            it. Empty if nothing has to be done.
    """

    task: CopyTask
    stored: Descriptor
    manifests: list[AttachedManifest]


class TaskState:
    """A task in progress.

    Attributes:
        pending: Number of its nodes and lookups that have not ended.
        limits: Counts its manifests; a registry may list referrers without end.
        attached: Manifests of the plan that are still to be copied after the root, last first.
        last_root: Root whose end the next attached manifest waits for.
    """

    __slots__ = ("attached", "last_root", "limits", "pending", "resolved", "subset", "task")

    def __init__(self, task: CopyTask) -> None:
        self.task = task
        self.pending = 1
        self.limits = GraphLimits()
        self.attached = list(reversed(task.attached))
        self.last_root: NodeState | None = None
        self.resolved: ResolvedTask | None = None
        self.subset: Subset | None = None

    def node(
        self, kind: NodeKind, action: Action, descriptor: Descriptor, tag: TagOrName | None = None, *, note: str = ""
    ) -> Node:
        """Return the node of a blob, manifest or tag of this task, for plans and reports."""
        return Node(
            kind=kind,
            action=action,
            digest=descriptor.digest,
            size=descriptor.size,
            media_type=descriptor.media_type,
            source=self.task.source.at(descriptor.digest),
            target=self.task.target.at(descriptor.digest if tag is None else tag),
            note=note,
        )

    def left_out(self, attestation: Descriptor, reason: str) -> Result:
        """Return the result of an attestation that the source lists, but does not serve."""
        note = f"the source lists this attestation, but does not serve it: {reason}"
        node = self.node(NodeKind.MANIFEST, Action.LEAVE_OUT, attestation, note=note)
        return Result(node=node, outcome=node.action.outcome)

    def tag_result(self, manifest: Descriptor, tag: TagOrName, action: Action) -> Result:
        """Return the result of an action on a tag that succeeded."""
        return Result(node=self.node(NodeKind.TAG, action, manifest, tag), outcome=action.outcome)

    def tags_not_done(self, manifest: Descriptor, tags: tuple[TagOrName, ...]) -> list[Result]:
        """Return the results of tags whose manifest was not stored."""
        return [
            Result(node=self.node(NodeKind.TAG, Action.TAG, manifest, tag), outcome=Outcome.NOT_DONE) for tag in tags
        ]

    def unresolved(self, error: RegistryError, side: Side | None) -> list[Result]:
        """Return the results of a task whose reference could not be looked up."""
        task = self.task
        reference = task.reference.digest if isinstance(task.reference, RawManifest) else task.reference
        digest = reference if isinstance(reference, Digest) else None
        source = task.source.at(reference)
        root = _unknown_node(
            NodeKind.MANIFEST, digest, source, task.target.at(task.tags[0] if task.tags else reference)
        )
        tags = [_unknown_node(NodeKind.TAG, digest, source, task.target.at(tag)) for tag in task.tags[1:]]
        failed = Result(node=root, outcome=Outcome.FAILED, error=error, failed_side=side)
        return [failed, *(Result(node=tag, outcome=Outcome.NOT_DONE) for tag in tags)]

    def attached_failed(self, subject: Digest, error: RegistryError, side: Side | None) -> Result:
        """Return the result of a lookup of attached manifests that failed."""
        node = _unknown_node(NodeKind.MANIFEST, None, self.task.source.at(subject), self.task.target.at(subject))
        return Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=side)

    def attached_not_done(self) -> list[Result]:
        """Drop the attached manifests that are left, since the root was not stored, and return their results."""
        dropped, self.attached = reversed(self.attached), []
        return [
            Result(node=self.node(NodeKind.MANIFEST, Action.MOVE, each.descriptor), outcome=Outcome.NOT_DONE)
            for each in dropped
        ]


class NodeState:
    """A blob, manifest or tag in progress.

    Attributes:
        content: Key of the content in its repository: kind and digest.
        identity: Key that includes the size, type, URLs and data that the descriptor claims. Descriptors in different
            images may disagree, and one image's wrong descriptor must not affect the others.
        blockers: Number of nodes that this one waits for, plus one until all its children are added.
        waiting: Nodes that wait for this one, and whether they need it to succeed.
        conflicting: Nodes of the same content but other claims, which start after this one.

    Args:
        state: State of the task that needs the node.
        kind: Kind of the node. A root that another task copies becomes ``TAG``: only its tags are left to set.
        descriptor: Descriptor of the content.
        depth: Depth in the graph; roots have depth 1.
        unverified: Whether only a list of referrers or a tag describes the manifest.
        unknown_kind: Whether it is an index entry that may be a manifest or a blob.
        root: Whether it is the root of its graph.
    """

    __slots__ = (
        "blockers",
        "children",
        "conflicting",
        "content",
        "dependency_failed",
        "depth",
        "descriptor",
        "exists",
        "has_ended",
        "identity",
        "kind",
        "manifest",
        "root",
        "state",
        "tags",
        "unknown_kind",
        "unverified",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        state: TaskState,
        kind: NodeKind,
        descriptor: Descriptor,
        depth: int,
        *,
        unverified: bool = False,
        unknown_kind: bool = False,
        root: bool = False,
    ) -> None:
        self.state = state
        self.kind = kind
        self.descriptor = descriptor
        self.depth = depth
        self.unverified = unverified
        self.unknown_kind = unknown_kind
        self.root = root
        self.content: Hashable = (kind, unknown_kind, descriptor.digest)
        claims = None if unverified else (descriptor.size, descriptor.media_type, descriptor.urls, descriptor.data)
        self.identity: Hashable = (kind, unknown_kind, descriptor.digest, claims)
        self.blockers = 1
        self.waiting: list[tuple[NodeState, bool]] = []
        self.conflicting: list[NodeState] = []
        self.dependency_failed = self.has_ended = self.exists = False
        self.manifest: RawManifest | None = None
        self.children: tuple[Descriptor, ...] = ()
        self.tags: tuple[TagOrName, ...] = ()

    @property
    def expected_claims(self) -> Hashable:
        """The claims that another descriptor of this content must repeat for the content not to be checked again."""
        return (
            self.descriptor.size if self.kind is NodeKind.BLOB else (self.descriptor.size, self.descriptor.media_type)
        )

    def done(self, action: Action, kind: NodeKind | None = None) -> Result:
        """Return the result of an action on the blob or manifest that succeeded."""
        kind = kind or self.kind
        is_unknown = self.unknown_kind or (kind is NodeKind.MANIFEST and not is_manifest(self.descriptor.media_type))
        note = f"only these bytes: the media type {self.descriptor.media_type!r:.200} is unknown" if is_unknown else ""
        return Result(node=self.state.node(kind, action, self.descriptor, note=note), outcome=action.outcome)

    def failed(self, error: RegistryError, side: Side | None) -> list[Result]:
        """Return the results of the node, which failed, and of its tags, which were not set."""
        if self.kind is NodeKind.TAG:
            nodes = [self.state.node(NodeKind.TAG, Action.TAG, self.descriptor, tag) for tag in self.tags]
            return [Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=side) for node in nodes]
        node = self.state.node(self.kind, Action.MOVE, self.descriptor)
        failed = Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=side)
        return [failed, *self.state.tags_not_done(self.descriptor, self.tags)]

    def not_done(self) -> list[Result]:
        """Return the results of the node and its tags after a node that it needs has failed."""
        tags = self.state.tags_not_done(self.descriptor, self.tags)
        if self.kind is NodeKind.TAG:
            return tags
        node = self.state.node(self.kind, Action.MOVE, self.descriptor)
        return [Result(node=node, outcome=Outcome.NOT_DONE), *tags]


class Unblocked(NamedTuple):
    """The nodes that a node releases when it ends.

    Args:
        waiting: Nodes that waited for it.
        conflicting: Nodes of the same content whose turn has come.
    """

    waiting: list[NodeState]
    conflicting: list[NodeState]


class _RepositoryState:
    """Nodes of one target repository: those in progress, and how others ended."""

    __slots__ = ("active", "done", "failed", "first_active")

    def __init__(self) -> None:
        self.active: dict[Hashable, NodeState] = {}
        self.first_active: dict[Hashable, NodeState] = {}
        self.done: dict[Hashable, Hashable] = {}
        self.failed: set[Hashable] = set()


class NodeTable:
    """The nodes of a run, each once in each target repository. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Keyed by repository, not by its name: two backends in memory may have the same name.
        self._repositories: dict[Repository, _RepositoryState] = {}
        # By registry: blobs on their way to one of its repositories, and blobs that have arrived in one.
        self._moving: dict[tuple[str, str], NodeState] = {}
        self._arrived: dict[tuple[str, str, int], RepositoryName] = {}

    def add_pending(self, task: TaskState) -> None:
        """Count one more node or lookup of a task."""
        with self._lock:
            task.pending += 1

    def finish_pending(self, task: TaskState) -> bool:
        """Count one node or lookup of a task as ended; return whether it was the last."""
        with self._lock:
            task.pending -= 1
            return not task.pending

    def add_root(self, node: NodeState) -> bool:
        """Add the root of a graph; return whether it can start at once.

        If another task copies the same manifest, only the tags of this node are left to set.

        Raises:
            TooLarge: The task's graph exceeds the limits.
        """
        with self._lock:
            _count_manifest(node)
            node.state.pending += 1
            node.state.last_root = node
            repository = self._repository(node)
            active = repository.active.get(node.identity)
            if active is None and node.content not in repository.done and node.identity not in repository.failed:
                return self._enter(repository, node)
            if active is not None:
                active.waiting.append((node, True))
                node.blockers += 1
            else:
                node.dependency_failed = node.content not in repository.done
            node.kind = NodeKind.TAG
            return True

    def add_child(self, parent: NodeState, child: NodeState) -> bool:
        """Add a child of a manifest, which waits for it until it is stored; return whether the child can start at once.

        Raises:
            TooLarge: The task's graph exceeds the limits.
        """
        with self._lock:
            repository = self._repository(child)
            if repository.done.get(child.content) == child.expected_claims:
                return False
            if child.identity in repository.failed:
                parent.dependency_failed = True
                return False
            active = repository.active.get(child.identity)
            if active is not None:
                parent.blockers += 1
                active.waiting.append((parent, True))
                return False
            if child.kind is NodeKind.MANIFEST:
                _count_manifest(child)
            parent.blockers += 1
            child.waiting.append((parent, True))
            child.state.pending += 1
            return self._enter(repository, child)

    def is_done(self, node: NodeState) -> bool:
        """Return whether another node has stored the same content under the same claims."""
        with self._lock:
            claims = self._repository(node).done.get(node.content)
            return claims is not None and (node.root or claims == node.expected_claims)

    def release(self, node: NodeState) -> bool:
        """Count one blocker of a node as gone; return whether it was the last."""
        with self._lock:
            node.blockers -= 1
            return not node.blockers and not node.has_ended

    def complete(self, node: NodeState, *, ok: bool) -> Unblocked | None:
        """Record how a node ended; return the nodes that it releases, or ``None`` if it had ended before."""
        with self._lock:
            if node.has_ended:
                return None
            node.has_ended = True
            node.manifest, node.children = None, ()
            repository = self._repository(node)
            if repository.active.get(node.identity) is node:
                del repository.active[node.identity]
            if repository.first_active.get(node.content) is node:
                del repository.first_active[node.content]
            if node.kind is not NodeKind.TAG:
                if ok:
                    repository.done[node.content] = node.expected_claims
                else:
                    repository.failed.add(node.identity)
            if node.kind is NodeKind.BLOB:
                self._complete_blob(node, ok=ok)
            unblocked = Unblocked([each for each, _ in node.waiting], node.conflicting)
            for each, is_needed in node.waiting:
                each.dependency_failed = each.dependency_failed or (is_needed and not ok)
            node.waiting, node.conflicting = [], []
            return unblocked

    def mount_candidate(self, task: CopyTask, blob: Descriptor) -> RepositoryName | None:
        """Return a repository of the target's registry that has a blob; ``None`` if none is known."""
        location = task.source.blob_location(blob.digest)
        if location is not None and location.registry == task.target.registry and location.name != task.target.name:
            return location.name
        found = self._arrived.get((task.target.registry, blob.digest, blob.size))
        return None if found == task.target.name else found

    def _enter(self, repository: _RepositoryState, node: NodeState) -> bool:
        repository.active[node.identity] = node
        first = repository.first_active.setdefault(node.content, node)
        if first is not node:
            first.conflicting.append(node)
            return False
        if node.kind is NodeKind.BLOB:
            self._wait_for_upload(node)
        return True

    def _wait_for_upload(self, node: NodeState) -> None:
        # A blob that is being uploaded to another repository of the same registry can be mounted from there.
        registry = node.state.task.target.registry
        if not registry:
            return
        first = self._moving.setdefault((registry, node.descriptor.digest), node)
        if first is not node:
            first.waiting.append((node, False))
            node.blockers += 1

    def _complete_blob(self, node: NodeState, *, ok: bool) -> None:
        target, blob = node.state.task.target, node.descriptor
        if not target.registry:
            return
        if self._moving.get((target.registry, blob.digest)) is node:
            del self._moving[target.registry, blob.digest]
        if ok:
            self._arrived.setdefault((target.registry, blob.digest, blob.size), target.name)

    def _repository(self, node: NodeState) -> _RepositoryState:
        return self._repositories.setdefault(node.state.task.target, _RepositoryState())


class ManifestCache:
    """Manifests that were read while planning and are needed again, up to a total size.

    Args:
        room: Greatest total size in bytes.
    """

    def __init__(self, room: int = 8 << 20) -> None:
        self._room = room
        self._manifests: dict[Digest, RawManifest] = {}
        self._lock = threading.Lock()

    def put(self, manifest: RawManifest) -> None:
        """Keep a manifest if it fits."""
        with self._lock:
            if manifest.digest not in self._manifests and len(manifest.content) <= self._room:
                self._room -= len(manifest.content)
                self._manifests[manifest.digest] = manifest

    def get(self, digest: Digest) -> RawManifest | None:
        """Return a manifest that was kept."""
        return self._manifests.get(digest)


def _count_manifest(node: NodeState) -> None:
    node.state.limits.add(node.depth, reference=node.state.task.source.at(node.descriptor.digest))


def _unknown_node(kind: NodeKind, digest: Digest | None, source: str, target: str) -> Node:
    action = Action.TAG if kind is NodeKind.TAG else Action.MOVE
    return Node(kind=kind, action=action, digest=digest, size=0, media_type="", source=source, target=target)
