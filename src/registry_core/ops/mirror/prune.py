"""Removal of tags that a mirror no longer selects: only tags that were listed, and only while they have not moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain.names import Tag
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageNotFound,
    NotFound,
    ProtocolError,
    RegistryError,
    RepositoryNotFound,
    error_context,
    error_reference,
)
from registry_core.ops.listing import tags_of
from registry_core.ops.mirror.selection import TagSelection, is_of_digest
from registry_core.ops.transfer.report import Action, Node, NodeKind, Outcome, Result, Side
from registry_core.ports.catalog import Repository

__all__ = ["FailedRepositories", "PrunableTag", "check_absent", "prunable_tags", "prune", "repository_failure"]


class FailedRepositories:
    """Target repositories in which something failed; no tag is removed from them.

    Args:
        results: Results of the copies so far.
        unlisted: Target paths of rules whose source could not be listed; any repository below may be incomplete.
    """

    def __init__(self, results: Iterable[Result], unlisted: Iterable[str] = ()) -> None:
        self._failed = [result.node.target for result in results if result.is_failure]
        self._unlisted = list(unlisted)
        self._known: dict[str, bool] = {}

    def add(self, target: Repository) -> None:
        """Add a repository in which a removal failed."""
        self._known[str(target)] = True

    def __contains__(self, target: Repository) -> bool:
        """Return whether something failed in a repository, or may be missing there."""
        name = str(target)
        if name not in self._known:
            self._known[name] = self._is_unlisted(name) or any(
                failed == name or failed.startswith((f"{name}@", f"{name}:")) for failed in self._failed
            )
        return self._known[name]

    def _is_unlisted(self, name: str) -> bool:
        return any(not path or name == path or name.startswith(f"{path}/") for path in self._unlisted)


class PrunableTag(msgspec.Struct, frozen=True):
    """A tag of the target that no rule selects.

    Args:
        target: Repository of the tag.
        tag: The tag.
        node: Node of the removal, with the digest that the tag had when it was listed.
    """

    target: Repository
    tag: Tag
    node: Node

    @property
    def is_kept(self) -> bool:
        """Whether the tag stays although no rule selects it."""
        return self.node.action is Action.KEEP

    def kept(self) -> PrunableTag:
        """Return the tag as one that stays."""
        return PrunableTag(self.target, self.tag, msgspec.structs.replace(self.node, action=Action.KEEP))


def prunable_tags(
    source: Repository, target: Repository, selection: TagSelection, selected: Collection[str]
) -> Iterator[PrunableTag]:
    """Yield the tags of a target that a selection can judge, but that are not selected.

    Tags named after digests are left out: they are lists of referrers or signatures of manifests that may be there.
    If nothing is selected, the source or the selection is more likely broken than empty, and the tags are kept.

    Args:
        source: Repository that is mirrored.
        target: Repository that it is mirrored to.
        selection: Selection of tags.
        selected: Tags of the source that are selected.

    Raises:
        RegistryError: The target failed.
    """
    with error_reference(str(target)):
        try:
            found = list(tags_of(target, None, None, operation=""))
        except NotFound:
            # No image was ever copied there.
            return
        for name in sorted(selection.removable(found) - set(selected)):
            if is_of_digest(name):
                continue
            checkpoint()
            tag = Tag(name)
            try:
                digest = target.manifests.resolve(tag).digest
            except ImageNotFound:
                # Removed by another client since the list was read.
                continue
            node = Node(
                kind=NodeKind.TAG,
                action=Action.DELETE if selected else Action.KEEP,
                digest=digest,
                size=0,
                media_type="",
                source=source.at(tag),
                target=target.at(tag),
            )
            yield PrunableTag(target, tag, node)


def check_absent(source: Repository, tags: Iterable[Tag]) -> None:
    """Check that a source does not have tags that its list of tags lacks, so that a list cut short removes nothing.

    Raises:
        ProtocolError: The source has one of the tags.
        RegistryError: The source failed, or does not exist any more.
    """
    for tag in tags:
        with error_reference(source.at(tag)):
            checkpoint()
            try:
                source.manifests.resolve(tag)
            except RepositoryNotFound:
                raise
            except ImageNotFound:
                continue
            raise ProtocolError(
                "the source has this tag, but its list of tags lacks it: the list is incomplete, or the tag was pushed "
                "after it was read; no tag of the repository is removed from the target; run the mirror again"
            )


def prune(tags: Iterable[PrunableTag], failed: FailedRepositories, *, continue_on_error: bool) -> Iterator[Result]:
    """Remove tags, but none from a repository in which something failed; yield the result of each.

    Args:
        tags: Tags to remove, or to report as kept.
        failed: Repositories in which something failed; those in which a removal fails are added.
        continue_on_error: Whether errors become results; otherwise the first one is raised.

    Raises:
        RegistryError: The target failed; with ``continue_on_error`` only ``Cancelled`` and ``DeadlineExceeded``.
    """
    for each in tags:
        if each.is_kept:
            yield Result(node=each.node, outcome=Outcome.KEPT)
            continue
        if each.target in failed:
            yield Result(node=each.node, outcome=Outcome.NOT_DONE)
            continue
        try:
            with error_context("prune", each.target.at(each.tag)):
                checkpoint()
                outcome = _remove(each)
        except RegistryError as error:
            if not continue_on_error or isinstance(error, Cancelled | DeadlineExceeded):
                raise
            failed.add(each.target)
            yield Result(node=each.node, outcome=Outcome.FAILED, error=error, failed_side=Side.TARGET)
        else:
            yield Result(node=each.node, outcome=outcome)


def repository_failure(source: str, target: str, error: RegistryError, side: Side) -> Result:
    """Return the result of a repository, or of a path of repositories, that could not be listed or has nothing."""
    node = Node(
        kind=NodeKind.TAG,
        action=Action.MOVE,
        digest=None,
        size=0,
        media_type="",
        source=source,
        target=target,
    )
    return Result(node=node, outcome=Outcome.FAILED, error=error, failed_side=side)


def _remove(each: PrunableTag) -> Outcome:
    manifests = each.target.manifests
    try:
        if manifests.resolve(each.tag).digest != each.node.digest:
            return Outcome.KEPT
        # Never delete by digest instead: that would remove other tags of the manifest too.
        manifests.untag(each.tag)
    except ImageNotFound:
        return Outcome.SKIPPED
    return Outcome.DELETED
