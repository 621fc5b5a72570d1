"""Mirrors: what the rules select is copied, and what they select no more is removed, if that is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import Cancelled, DeadlineExceeded, ImageNotFound, NotFound, RegistryError, during
from registry_core.ops.mirror.rules import MirrorRule
from registry_core.ops.mirror.selection import has_wildcard, matching_names
from registry_core.ops.transfer.nodes import Action, CopyReport, Node, NodeKind, Outcome, Result, Side
from registry_core.ops.transfer.plan import CopyPlan, ask, move
from registry_core.ops.transfer.tasks import CopyTask
from registry_core.ports.catalog import Catalog
from registry_core.ports.observer import Observer
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["MirrorPlan", "plan_mirror", "run_mirror"]

# Tags whose names are digests belong to manifests that are here: lists of referrers, signatures.
_OF_DIGEST: Final = re.compile(r"[a-z0-9]+-[0-9a-f]{32,}(\..*)?")

Record = Callable[[Result], None]


class _Doomed(msgspec.Struct, frozen=True):
    """A tag that is to be removed, as long as it stands for what it stood for."""

    target: Repository
    tag: Tag
    node: Node


class MirrorPlan:
    """What a mirror would do, and the means to do just that.

    Args:
        plans: What is copied, rule by rule.
        doomed: What is removed then.
        failures: Repositories that could not be listed, where the planning went on after errors.
    """

    def __init__(self, plans: Sequence[CopyPlan], doomed: Sequence[_Doomed], failures: Sequence[Result]) -> None:
        self._plans = tuple(plans)
        self._doomed = tuple(doomed)
        self._failures = tuple(failures)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything that would be looked at, copies first, then the tags to be removed."""
        copied = (node for plan in self._plans for node in plan.nodes)
        return (*copied, *(each.node for each in self._doomed))

    @property
    def failures(self) -> tuple[Result, ...]:
        """What could not be planned, where the planning went on after errors."""
        return (*self._failures, *(failure for plan in self._plans for failure in plan.failures))

    @property
    def bytes_to_move(self) -> int:
        """How many bytes would go through this program."""
        return sum(plan.bytes_to_move for plan in self._plans)

    @property
    def bytes_to_mount(self) -> int:
        """How many bytes the target would be asked to take over by itself."""
        return sum(plan.bytes_to_mount for plan in self._plans)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not self._doomed and all(plan.is_empty for plan in self._plans)

    def apply(
        self,
        *,
        observer: Observer | None = None,
        jobs: int = 4,
        images: int = 4,
        continue_on_error: bool = False,
        on_result: Record | None = None,
    ) -> CopyReport:
        """Do it: what the plan shows, and nothing else.

        Tags are removed last, from repositories where nothing failed, and only if they still stand for what they stood
        for when the plan was made.

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
        journal = _Journal(on_result, goes_on=continue_on_error)
        for failure in self.failures:
            journal.spoil(failure)
        for plan in self._plans:
            plan.apply(
                observer=observer,
                jobs=jobs,
                images=images,
                continue_on_error=continue_on_error,
                on_result=journal.record,
            )
        _remove(self._doomed, journal)
        return journal.report()

    def __str__(self) -> str:
        """A summary, and a line for each node."""
        summary = (
            f"{self.bytes_to_move} bytes to move, {self.bytes_to_mount} to mount, {len(self._doomed)} tags to remove; "
            f"{len(self.failures)} failed"
        )
        return "\n".join((summary, *map(str, self.nodes), *map(str, self.failures)))

    def __repr__(self) -> str:
        """How much there is to do."""
        return f"MirrorPlan({len(self.nodes)} nodes, {self.bytes_to_move} bytes to move)"


def plan_mirror(
    rules: Sequence[MirrorRule], *, continue_on_error: bool = False, jobs: int = 4, images: int = 4
) -> MirrorPlan:
    """What a mirror would do, without doing it: nothing is written anywhere.

    Args:
        rules: What to keep alike; one after the other.
        continue_on_error: Whether what cannot be planned becomes one of the plan's ``failures``, instead of an error.
        jobs: How many nodes are asked for at a time.
        images: How many images are looked at at a time.

    Raises:
        CatalogUnsupported: A rule needs a list of repositories, and the source has none.
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed.
    """
    journal = _Journal(None, goes_on=continue_on_error)
    plans: list[CopyPlan] = []
    doomed: list[_Doomed] = []
    with during("plan_mirror"):
        for rule in rules:
            survey = _Survey(rule, journal)
            tasks = survey.tasks()
            plans.append(
                ask(tasks, rule.choices, operation="plan_mirror", goes_on=continue_on_error, jobs=jobs, images=images)
            )
            doomed += survey.doomed
    return MirrorPlan(plans, doomed, journal.report().results)


def run_mirror(
    rules: Sequence[MirrorRule],
    *,
    continue_on_error: bool = False,
    observer: Observer | None = None,
    jobs: int = 4,
    images: int = 4,
    on_result: Record | None = None,
) -> CopyReport:
    """Mirror without a plan: lists are read and images copied as one goes on, in flat memory.

    What was interrupted is gone on with by doing it again: an image that is there under its tag costs one question to
    each side. Tags are removed last, from repositories where nothing failed.

    Args:
        rules: What to keep alike; one after the other.
        continue_on_error: Whether an error ends only what needs the node; otherwise the first one is raised.
        observer: Told of each blob.
        jobs: How many blobs move at a time.
        images: How many images are under way at a time.
        on_result: Told of each node when it is settled, by one thread at a time.

    Raises:
        CatalogUnsupported: A rule needs a list of repositories, and the source has none.
        InvalidValue: There are no jobs or images.
        RegistryError: One side failed; never, but for cancellation, where it goes on after errors.
    """
    journal = _Journal(on_result, goes_on=continue_on_error)
    with during("run_mirror"):
        for rule in rules:
            survey = _Survey(rule, journal)
            move(
                survey.tasks(),
                rule.choices,
                operation="run_mirror",
                goes_on=continue_on_error,
                observer=observer,
                jobs=jobs,
                images=images,
                on_result=journal.record,
            )
            _remove(survey.doomed, journal)
    return journal.report()


class _Journal:
    """What became of everything, and where something went wrong."""

    def __init__(self, on_result: Record | None, *, goes_on: bool) -> None:
        self._on_result = on_result
        self._results: list[Result] = []
        self._spoilt: set[str] = set()
        self.goes_on = goes_on

    def record(self, result: Result) -> None:
        """Take in what became of a node."""
        if result.outcome in (Outcome.FAILED, Outcome.NOT_DONE):
            self.spoil(result)
        self._results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def spoil(self, result: Result) -> None:
        """Remember that not all is well in a repository of the target."""
        self._spoilt.add(_repository_of(result.node.target))

    def is_spoilt(self, target: Repository) -> bool:
        """Whether something went wrong in a repository of the target."""
        return str(target) in self._spoilt

    def fail(self, node: Node, error: RegistryError, blamed: Side) -> None:
        """Take in an error, or raise it."""
        if not self.goes_on or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
        self.record(Result(node=node, outcome=Outcome.FAILED, error=error, blamed=blamed))

    def report(self) -> CopyReport:
        """All of it."""
        return CopyReport(results=tuple(self._results))


class _Survey:
    """One rule's copies, found as they are asked for, and afterwards what has to be removed."""

    def __init__(self, rule: MirrorRule, journal: _Journal) -> None:
        self._rule = rule
        self._journal = journal
        self.doomed: list[_Doomed] = []

    def tasks(self) -> Iterator[CopyTask]:
        """One for each tag of each repository."""
        rule = self._rule
        for name in self._names():
            source = rule.source.repository(rule.source_path / name)
            target = rule.target.repository(rule.target_path / name)
            try:
                with during("", str(source)):
                    wanted, there = self._tags(source)
            except RegistryError as error:
                self._journal.fail(_whole(source, target), error, Side.SOURCE)
                continue
            for tag in wanted:
                yield CopyTask(source=source, target=target, reference=tag, tags=(tag,))
            if rule.prune and there is not None:
                self._doom(source, target, frozenset(wanted))

    def _names(self) -> Iterator[str]:
        rule = self._rule
        if not rule.repositories:
            yield ""
            return
        exact = [name for name in rule.repositories if not has_wildcard(name)]
        yield from dict.fromkeys(exact)
        patterns = [name for name in rule.repositories if has_wildcard(name)]
        if not patterns:
            return
        try:
            for found in self._below():
                checkpoint()
                if found not in exact and matching_names(patterns, [found]):
                    yield found
        except RegistryError as error:
            here = rule.source.repository(rule.source_path), rule.target.repository(rule.target_path)
            self._journal.fail(_whole(*here), error, Side.SOURCE)

    def _below(self) -> Iterator[RepositoryName]:
        base = self._rule.source_path
        with during("", _called(self._rule.source, base)):
            # What lies below a name sorts behind it.
            for full in self._rule.source.repositories(after=base or None):
                name = full.below(base)
                if name is not None:
                    yield name

    def _tags(self, source: Repository) -> tuple[list[Tag], list[str] | None]:
        """The tags that are wanted, and those that there are, if somebody had to ask."""
        selection = self._rule.tags
        if selection.is_exact:
            return selection.select(selection.include.names), None
        checkpoint()
        there = [str(tag) for tag in source.manifests.tags()]
        return selection.select(there), there

    def _doom(self, source: Repository, target: Repository, wanted: frozenset[Tag]) -> None:
        node = _whole(source, target)
        try:
            with during("", str(target)):
                there = [str(tag) for tag in target.manifests.tags()]
                for tag in sorted(self._rule.tags.meant(there) - wanted):
                    checkpoint()
                    if _OF_DIGEST.fullmatch(tag):
                        continue
                    found = target.manifests.resolve(Tag(tag))
                    node = _doomed_node(source, target, Tag(tag), found.digest)
                    self.doomed.append(_Doomed(target, Tag(tag), node))
        except NotFound:
            # Nothing was ever copied there, or somebody else has just removed it.
            return
        except RegistryError as error:
            self._journal.fail(node, error, Side.TARGET)


def _remove(doomed: Sequence[_Doomed], journal: _Journal) -> None:
    for each in doomed:
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


def _removed(each: _Doomed) -> Outcome:
    manifests = each.target.manifests
    try:
        if manifests.resolve(each.tag).digest != each.node.digest:
            return Outcome.KEPT
        manifests.untag(each.tag)
    except ImageNotFound:
        return Outcome.SKIPPED
    return Outcome.DELETED


def _doomed_node(source: Repository, target: Repository, tag: Tag, digest: Digest) -> Node:
    return Node(
        kind=NodeKind.TAG,
        action=Action.DELETE,
        digest=digest,
        size=0,
        media_type="",
        source=source.at(tag),
        target=target.at(tag),
    )


def _whole(source: Repository, target: Repository) -> Node:
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


def _repository_of(reference: str) -> str:
    """The repository in a reference as errors have it."""
    name, found, _ = reference.rpartition("@")
    if found:
        return name
    name, found, tag = reference.rpartition(":")
    return name if found and "/" not in tag else reference


def _called(catalog: Catalog, base: RepositoryName) -> str:
    return "/".join(part for part in (catalog.registry, base) if part)
