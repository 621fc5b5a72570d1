"""Tags that a mirror removes: none but those that were shown, and only while they stand for what was seen.

What became of everything that a mirror looked at, and where something went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain.names import Tag
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageNotFound,
    NotFound,
    RegistryError,
    error_context,
    error_reference,
)
from registry_core.ops.listing import tags_of
from registry_core.ops.mirror.selection import TagSelection, is_of_digest
from registry_core.ops.transfer.report import Action, CopyReport, Node, NodeKind, Outcome, Result, Side
from registry_core.ports.catalog import Repository

__all__ = [
    "MirrorResults",
    "PrunableTag",
    "Record",
    "SelectedTags",
    "doomed_tags",
    "remove",
    "repository_node",
    "spared",
]


Record = Callable[[Result], None]


class MirrorResults:
    """Results, and the repositories of the target in which nothing may be removed since not all is well.

    Args:
        on_result: Told of each result.
        continue_on_error: Whether errors are taken in, rather than raised.
    """

    def __init__(self, on_result: Record | None = None, *, continue_on_error: bool) -> None:
        self._on_result = on_result
        self._continue_on_error = continue_on_error
        self._results: list[Result] = []
        self._spoilt: list[str] = []
        self._trees: list[str] = []
        self._judged: dict[str, bool] = {}

    def record(self, result: Result) -> None:
        """Take in what became of a node."""
        if result.outcome in (Outcome.FAILED, Outcome.NOT_DONE):
            self._spoilt.append(result.node.target)
            self._judged.clear()
        self._results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def fail(self, node: Node, error: RegistryError, failed_side: Side) -> None:
        """Take in an error, or raise it.

        Raises:
            RegistryError: Errors are not taken in, or somebody cancelled the run.
        """
        if not self._continue_on_error or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
        self.record(Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=failed_side))

    def fail_listing(self, source: Repository, target: Repository, error: RegistryError) -> None:
        """Take in, or raise, that nobody knows what there is below a path.

        Raises:
            RegistryError: Errors are not taken in, or somebody cancelled the run.
        """
        self._trees.append(str(target))
        self.fail(repository_node(source, target), error, Side.SOURCE)

    def has_failures(self, target: Repository) -> bool:
        """Whether something went wrong in a repository of the target, or may have been missed there."""
        name = str(target)
        if name not in self._judged:
            below = any(not tree or name == tree or name.startswith(f"{tree}/") for tree in self._trees)
            self._judged[name] = below or any(
                about == name or about.startswith((f"{name}@", f"{name}:")) for about in self._spoilt
            )
        return self._judged[name]

    def report(self) -> CopyReport:
        """All of it."""
        return CopyReport(results=tuple(self._results))


def repository_node(source: Repository, target: Repository) -> Node:
    """A repository that could not be looked at."""
    return Node(
        kind=NodeKind.TAG,
        action=Action.MOVE,
        digest=None,
        size=0,
        media_type="",
        source=str(source),
        target=str(target),
    )


class PrunableTag(msgspec.Struct, frozen=True):
    """A tag that is to be removed, as long as it stands for what it stood for; or one that is left alone after all."""

    target: Repository
    tag: Tag
    node: Node

    @property
    def is_spared(self) -> bool:
        """Whether it is left alone."""
        return self.node.action is Action.KEEP


class SelectedTags:
    """What all rules of a run select: none of it is for any other rule to remove."""

    def __init__(self) -> None:
        self._tags: dict[str, set[str]] = {}

    def add(self, target: Repository, tags: Iterable[str]) -> None:
        """Some rule selects these."""
        self._tags.setdefault(str(target), set()).update(tags)

    def has(self, target: Repository, tag: str) -> bool:
        """Whether any rule selects a tag."""
        return tag in self._tags.get(str(target), ())


def doomed_tags(
    source: Repository, target: Repository, selection: TagSelection, there: Collection[str], wanted: Collection[str]
) -> Iterator[PrunableTag]:
    """The tags of a target that a selection is about and that it does not select.

    Tags of digests belong to manifests that may be there, as lists of referrers or signatures, and are not among them.
    A source that has no tags at all is rather broken than empty: what it would doom is left alone.

    Args:
        source: The repository that is mirrored.
        target: Where to.
        selection: Which tags are meant.
        there: The tags that the source has.
        wanted: Those of them that are selected.

    Raises:
        RegistryError: The target failed.
    """
    with error_reference(str(target)):
        try:
            found = list(tags_of(target, None, None, operation=""))
        except NotFound:
            # Nothing was ever copied there.
            return
        for name in sorted(selection.in_scope(found) - set(wanted)):
            if is_of_digest(name):
                continue
            checkpoint()
            tag = Tag(name)
            try:
                digest = target.manifests.resolve(tag).digest
            except ImageNotFound:
                # Somebody else has just removed it.
                continue
            node = Node(
                kind=NodeKind.TAG,
                action=Action.DELETE if there else Action.KEEP,
                digest=digest,
                size=0,
                media_type="",
                source=source.at(tag),
                target=target.at(tag),
            )
            yield PrunableTag(target, tag, node)


def spared(each: PrunableTag) -> PrunableTag:
    """A tag that is left alone after all."""
    return PrunableTag(each.target, each.tag, msgspec.structs.replace(each.node, action=Action.KEEP))


def remove(doomed: Sequence[PrunableTag], journal: MirrorResults) -> None:
    """Remove tags, but from no repository where something went wrong.

    Raises:
        RegistryError: The target failed, and the journal does not take in errors.
    """
    for each in doomed:
        if each.is_spared:
            journal.record(Result(node=each.node, outcome=Outcome.KEPT))
            continue
        if journal.has_failures(each.target):
            journal.record(Result(node=each.node, outcome=Outcome.NOT_DONE))
            continue
        try:
            with error_context("prune", each.target.at(each.tag)):
                checkpoint()
                outcome = _removed(each)
        except RegistryError as error:
            journal.fail(each.node, error, Side.TARGET)
        else:
            journal.record(Result(node=each.node, outcome=outcome))


def _removed(each: PrunableTag) -> Outcome:
    manifests = each.target.manifests
    try:
        if manifests.resolve(each.tag).digest != each.node.digest:
            return Outcome.KEPT
        # Never by digest instead: that would take other tags along.
        manifests.untag(each.tag)
    except ImageNotFound:
        return Outcome.SKIPPED
    return Outcome.DELETED
