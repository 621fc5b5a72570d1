"""Mirrors: what the rules select is copied, and what they select no more is removed, if that is wanted.

One rule's copies, found as they are asked for, and afterwards what has to be removed.

What a mirror is to keep alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidValue, RegistryError, error_context, error_reference
from registry_core.ops.listing import repositories_below, tags_of
from registry_core.ops.mirror.prune import (
    MirrorResults,
    PrunableTag,
    Record,
    SelectedTags,
    doomed_tags,
    remove,
    repository_node,
    spared,
)
from registry_core.ops.mirror.selection import TagSelection, has_wildcard, matching_names
from registry_core.ops.transfer.copy import CopyPlan, build_plan, execute
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import CopyReport, Node, Result, Side
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.observer import Observer

__all__ = ["MirrorPlan", "MirrorRule", "RuleScan", "plan_mirror", "run_mirror"]


class MirrorRule(msgspec.Struct, frozen=True, kw_only=True):
    """Some repositories of one backend, kept in another under the same names, below a path of their own.

    Args:
        source: The backend to read.
        target: The backend to write.
        source_path: The names of the repositories are relative to this in the source,
        target_path: and to this in the target.
        repositories: Names, or shell patterns, for which the source is asked for a list; ``*`` goes across slashes.
            Without any, the repository at the path itself.
        tags: Which tags of each.
        options: What of each image.
        prune: Whether tags are removed from the target that the selection is about, but that the source does not have
            any more, or that are not among the latest any more.

    Raises:
        InvalidName: A name is malformed.
        InvalidValue: The repositories are one text, or repositories are to be pruned by what they have themselves.
    """

    source: Catalog
    target: Catalog
    source_path: RepositoryName = RepositoryName("")
    target_path: RepositoryName = RepositoryName("")
    repositories: Sequence[str] = ()
    tags: TagSelection = TagSelection()
    options: CopyOptions = CopyOptions()
    prune: bool = False

    if TYPE_CHECKING:
        # msgspec derives the constructor from the fields; `__post_init__` accepts more than their types.
        def __init__(
            self,
            *,
            source: Catalog,
            target: Catalog,
            source_path: str = "",
            target_path: str = "",
            repositories: Sequence[str] = (),
            tags: TagSelection = ...,
            options: CopyOptions = ...,
            prune: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Refuse malformed names before anything is asked for."""
        if isinstance(self.repositories, str):
            raise InvalidValue(f"repositories are a list, not one text: {self.repositories!r:.200}")
        msgspec.structs.force_setattr(self, "source_path", RepositoryName(self.source_path))
        msgspec.structs.force_setattr(self, "target_path", RepositoryName(self.target_path))
        if self.prune and self.source is self.target and self.source_path == self.target_path:
            raise InvalidValue("a mirror onto itself would remove what it does not select from its source")
        for name in self.repositories:
            if not has_wildcard(name):
                RepositoryName(name)


class RuleScan:
    """Finds what a rule is about.

    Args:
        rule: The rule.
        journal: Where errors go.
        wanted: Where to say what is selected.
    """

    def __init__(self, rule: MirrorRule, journal: MirrorResults, wanted: SelectedTags) -> None:
        self._rule = rule
        self._journal = journal
        self._wanted = wanted
        self.doomed: list[PrunableTag] = []

    def tasks(self) -> Iterator[CopyTask]:
        """One for each tag of each repository; ``doomed`` is complete when they have all been asked for.

        Raises:
            RegistryError: One side cannot be listed, and the journal does not take in errors.
        """
        rule = self._rule
        for name in self._names():
            source = rule.source.repository(rule.source_path / name)
            target = rule.target.repository(rule.target_path / name)
            try:
                with error_reference(str(source)):
                    there, selected = self._tags(source)
            except RegistryError as error:
                self._journal.fail(repository_node(source, target), error, Side.SOURCE)
                continue
            self._wanted.add(target, selected)
            for tag in selected:
                yield CopyTask(source=source, target=target, reference=tag, tags=(tag,))
            if rule.prune and there is not None:
                try:
                    self.doomed += doomed_tags(source, target, rule.tags, there, selected)
                except RegistryError as error:
                    self._journal.fail(repository_node(source, target), error, Side.TARGET)

    def _names(self) -> Iterator[str]:
        rule = self._rule
        if not rule.repositories:
            yield ""
            return
        exact = dict.fromkeys(name for name in rule.repositories if not has_wildcard(name))
        yield from exact
        patterns = [name for name in rule.repositories if has_wildcard(name)]
        if not patterns:
            return
        try:
            for found in repositories_below(rule.source, rule.source_path, None, None, operation=""):
                name = RepositoryName(found)
                if name not in exact and matching_names(patterns, [name]) and not self._is_own(name):
                    yield name
        except RegistryError as error:
            here, there = rule.source.repository(rule.source_path), rule.target.repository(rule.target_path)
            self._journal.fail_listing(here, there, error)

    def _is_own(self, name: RepositoryName) -> bool:
        """Whether a repository is one that a mirror into a path of its own source has made."""
        rule = self._rule
        full, target = rule.source_path / name, rule.target_path
        nested = target.below(rule.source_path) is not None
        return rule.source is rule.target and nested and (full == target or full.below(target) is not None)

    def _tags(self, source: Repository) -> tuple[list[str] | None, list[Tag]]:
        """The tags that there are, if somebody had to ask, and those that are selected."""
        selection = self._rule.tags
        if selection.is_exact:
            return None, selection.select(selection.include.names)
        there = list(tags_of(source, None, None, operation=""))
        return there, selection.select(there)


class MirrorPlan:
    """What a mirror would do, and the means to do just that.

    Args:
        plans: What is copied, rule by rule.
        doomed: What is removed then, and what is not although nothing selects it.
        failures: Repositories that could not be listed, where the planning went on after errors.
    """

    def __init__(self, plans: Sequence[CopyPlan], doomed: Sequence[PrunableTag], failures: Sequence[Result]) -> None:
        self._plans = tuple(plans)
        self._doomed = tuple(doomed)
        self._failures = tuple(failures)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything that would be looked at: copies first, then tags to be removed, or left alone on purpose."""
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
        return all(each.is_spared for each in self._doomed) and all(plan.is_empty for plan in self._plans)

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
        journal = MirrorResults(on_result, continue_on_error=continue_on_error)
        for plan in self._plans:
            plan.apply(
                observer=observer,
                jobs=jobs,
                images=images,
                continue_on_error=continue_on_error,
                on_result=journal.record,
            )
        remove(self._doomed, journal)
        return journal.report()

    def __str__(self) -> str:
        """A summary, and a line for each node."""
        summary = (
            f"{self.bytes_to_move} bytes to move, {self.bytes_to_mount} to mount, "
            f"{sum(not each.is_spared for each in self._doomed)} tags to remove; {len(self.failures)} failed"
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
    journal, wanted = MirrorResults(continue_on_error=continue_on_error), SelectedTags()
    plans: list[CopyPlan] = []
    surveys: list[RuleScan] = []
    with error_context("plan_mirror"):
        for rule in rules:
            survey = RuleScan(rule, journal, wanted)
            surveys.append(survey)
            plan = build_plan(
                survey.tasks(),
                rule.options,
                operation="plan_mirror",
                continue_on_error=continue_on_error,
                jobs=jobs,
                images=images,
            )
            plans.append(plan)
    failures = journal.report().results
    for plan in plans:
        for failure in plan.failures:
            journal.record(failure)
    # What may have been missed, or cannot be planned, takes nothing along.
    doomed = [spared(each) if journal.has_failures(each.target) else each for each in _unwanted(surveys, wanted)]
    return MirrorPlan(plans, doomed, failures)


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
    journal, wanted = MirrorResults(on_result, continue_on_error=continue_on_error), SelectedTags()
    surveys: list[RuleScan] = []
    with error_context("run_mirror"):
        for rule in rules:
            survey = RuleScan(rule, journal, wanted)
            surveys.append(survey)
            execute(
                survey.tasks(),
                rule.options,
                operation="run_mirror",
                continue_on_error=continue_on_error,
                observer=observer,
                jobs=jobs,
                images=images,
                on_result=journal.record,
            )
        remove(_unwanted(surveys, wanted), journal)
    return journal.report()


def _unwanted(surveys: Sequence[RuleScan], wanted: SelectedTags) -> list[PrunableTag]:
    """What rules would remove and no other selects, each once."""
    found = {
        each.node.target: each for survey in surveys for each in survey.doomed if not wanted.has(each.target, each.tag)
    }
    return list(found.values())
