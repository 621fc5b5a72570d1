"""Tags that a mirror removes: none but those that were shown, and only while they stand for what was seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from registry_core.domain.names import Tag
from registry_core.errors import ImageNotFound, NotFound, RegistryError, during
from registry_core.ops.listing import tags_of
from registry_core.ops.mirror.journal import Journal
from registry_core.ops.mirror.selection import TagSelection, is_of_digest
from registry_core.ops.transfer.nodes import Action, Node, NodeKind, Outcome, Result, Side
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["Doomed", "Wanted", "doomed_tags", "remove", "spared"]


class Doomed(msgspec.Struct, frozen=True):
    """A tag that is to be removed, as long as it stands for what it stood for; or one that is left alone after all."""

    target: Repository
    tag: Tag
    node: Node

    @property
    def is_spared(self) -> bool:
        """Whether it is left alone."""
        return self.node.action is Action.KEEP


class Wanted:
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
) -> Iterator[Doomed]:
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
    with during("", str(target)):
        try:
            found = list(tags_of(target, None, None, operation=""))
        except NotFound:
            # Nothing was ever copied there.
            return
        for name in sorted(selection.meant(found) - set(wanted)):
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
            yield Doomed(target, tag, node)


def spared(each: Doomed) -> Doomed:
    """A tag that is left alone after all."""
    return Doomed(each.target, each.tag, msgspec.structs.replace(each.node, action=Action.KEEP))


def remove(doomed: Sequence[Doomed], journal: Journal) -> None:
    """Remove tags, but from no repository where something went wrong.

    Raises:
        RegistryError: The target failed, and the journal does not take in errors.
    """
    for each in doomed:
        if each.is_spared:
            journal.record(Result(node=each.node, outcome=Outcome.KEPT))
            continue
        if journal.is_spoilt(each.target):
            journal.record(Result(node=each.node, outcome=Outcome.NOT_DONE))
            continue
        try:
            with during("prune", each.target.at(each.tag)):
                checkpoint()
                outcome = _removed(each)
        except RegistryError as error:
            journal.fail(each.node, error, Side.TARGET)
        else:
            journal.record(Result(node=each.node, outcome=outcome))


def _removed(each: Doomed) -> Outcome:
    manifests = each.target.manifests
    try:
        if manifests.resolve(each.tag).digest != each.node.digest:
            return Outcome.KEPT
        # Never by digest instead: that would take other tags along.
        manifests.untag(each.tag)
    except ImageNotFound:
        return Outcome.SKIPPED
    return Outcome.DELETED
