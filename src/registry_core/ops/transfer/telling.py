"""Who is told what becomes of each node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import RegistryError
from registry_core.ops.transfer.ledger import Item, Job
from registry_core.ops.transfer.nodes import Action, Node, NodeKind, Outcome, Result
from registry_core.ops.transfer.sides import Blame
from registry_core.ports.observer import Event, Observer

__all__ = ["DONE", "Audience", "Teller"]

DONE: Final = {
    Action.MOVE: Outcome.MOVED,
    Action.MOUNT: Outcome.MOUNTED,
    Action.SKIP: Outcome.SKIPPED,
    Action.TAG: Outcome.TAGGED,
    Action.KEEP: Outcome.KEPT,
}


class Audience(Observer):
    """Somebody else's code: what it raises ends a run, even one that goes on after the errors of repositories.

    Args:
        record: Told of each node when it is settled, by one thread at a time.
        observer: Told of each blob.
    """

    def __init__(self, record: Callable[[Result], None], observer: Observer | None = None) -> None:
        self._record = record
        self._observer = observer
        self._lock = threading.Lock()
        self.has_left = False

    def record(self, result: Result) -> None:
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


class Teller:
    """Says what becomes of each node.

    Args:
        audience: To whom.
        blame: Who knows which side an error is of.
    """

    def __init__(self, audience: Audience, blame: Blame) -> None:
        self._audience = audience
        self._blame = blame

    def done(self, item: Item, action: Action, kind: NodeKind | None = None) -> None:
        """A blob or manifest has been seen to."""
        self._tell(_node(item, action, kind or item.kind), DONE[action])

    def tag(self, job: Job, root: Descriptor, tag: Tag, action: Action) -> None:
        """A tag has been seen to."""
        self._tell(_tag_node(job, root, tag, action), DONE[action])

    def failed(self, item: Item, error: RegistryError) -> None:
        """A node failed, and so its tags are not set."""
        if item.kind is not NodeKind.TAG:
            self._fail(_node(item, Action.MOVE, item.kind), error)
            self._tags_not_done(item)
        for tag in item.tags if item.kind is NodeKind.TAG else ():
            self._fail(_tag_node(item.job, item.descriptor, tag, Action.TAG), error)

    def not_done(self, item: Item) -> None:
        """A node had to be left, and its tags with it, since something that it needs failed."""
        if item.kind is not NodeKind.TAG:
            self._tell(_node(item, Action.MOVE, item.kind), Outcome.NOT_DONE)
        self._tags_not_done(item)

    def not_opened(self, job: Job, error: RegistryError) -> None:
        """Nothing is known of what a task is about."""
        task = job.task
        named = task.reference.digest if isinstance(task.reference, RawManifest) else task.reference
        digest = None if isinstance(named, Tag) else named
        target = task.target.at(task.tags[0] if task.tags else named)
        self._fail(_blank(NodeKind.MANIFEST, Action.MOVE, digest, task.source.at(named), target), error)
        for tag in task.tags[1:]:
            node = _blank(NodeKind.TAG, Action.TAG, digest, task.source.at(named), task.target.at(tag))
            self._tell(node, Outcome.NOT_DONE)

    def not_followed(self, job: Job, subject: Digest, error: RegistryError) -> None:
        """Nobody knows what refers to a manifest."""
        pair = job.pair
        node = _blank(NodeKind.MANIFEST, Action.MOVE, None, pair.source.at(subject), pair.target.at(subject))
        self._fail(node, error)

    def follower_not_done(self, job: Job, entry: Descriptor) -> None:
        """What refers to a manifest is not copied, since that failed."""
        node = _descriptor_node(job, NodeKind.MANIFEST, entry, Action.MOVE)
        self._tell(node, Outcome.NOT_DONE)

    def _tags_not_done(self, item: Item) -> None:
        for tag in item.tags:
            self._tell(_tag_node(item.job, item.descriptor, tag, Action.TAG), Outcome.NOT_DONE)

    def _fail(self, node: Node, error: RegistryError) -> None:
        self._audience.record(Result(node=node, outcome=Outcome.FAILED, error=error, blamed=self._blame.of(error)))

    def _tell(self, node: Node, outcome: Outcome) -> None:
        self._audience.record(Result(node=node, outcome=outcome))


def _node(item: Item, action: Action, kind: NodeKind) -> Node:
    return _descriptor_node(item.job, kind, item.descriptor, action)


def _descriptor_node(job: Job, kind: NodeKind, descriptor: Descriptor, action: Action, tag: Tag | None = None) -> Node:
    return Node(
        kind=kind,
        action=action,
        digest=descriptor.digest,
        size=descriptor.size,
        media_type=descriptor.media_type,
        source=job.pair.source.at(descriptor.digest),
        target=job.pair.target.at(descriptor.digest if tag is None else tag),
    )


def _tag_node(job: Job, root: Descriptor, tag: Tag, action: Action) -> Node:
    return _descriptor_node(job, NodeKind.TAG, root, action, tag)


def _blank(kind: NodeKind, action: Action, digest: Digest | None, source: str, target: str) -> Node:
    """A node of which little is known."""
    return Node(kind=kind, action=action, digest=digest, size=0, media_type="", source=source, target=target)
