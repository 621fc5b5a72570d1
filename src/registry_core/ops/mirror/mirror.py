"""Mirrors: what the rules select is copied, and what they select no more is removed, if that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from registry_core.errors import during
from registry_core.ops.mirror.journal import Journal, Record
from registry_core.ops.mirror.prune import Doomed, Wanted, remove, spared
from registry_core.ops.mirror.rules import MirrorRule
from registry_core.ops.mirror.survey import Survey
from registry_core.ops.transfer.nodes import CopyReport, Node, Result
from registry_core.ops.transfer.plan import CopyPlan, ask, move
from registry_core.ports.observer import Observer

__all__ = ["MirrorPlan", "plan_mirror", "run_mirror"]


class MirrorPlan:
    """What a mirror would do, and the means to do just that.

    Args:
        plans: What is copied, rule by rule.
        doomed: What is removed then, and what is not although nothing selects it.
        failures: Repositories that could not be listed, where the planning went on after errors.
    """

    def __init__(self, plans: Sequence[CopyPlan], doomed: Sequence[Doomed], failures: Sequence[Result]) -> None:
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
        journal = Journal(on_result, goes_on=continue_on_error)
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
    journal, wanted = Journal(goes_on=continue_on_error), Wanted()
    plans: list[CopyPlan] = []
    surveys: list[Survey] = []
    with during("plan_mirror"):
        for rule in rules:
            survey = Survey(rule, journal, wanted)
            surveys.append(survey)
            plan = ask(
                survey.tasks(),
                rule.choices,
                operation="plan_mirror",
                goes_on=continue_on_error,
                jobs=jobs,
                images=images,
            )
            plans.append(plan)
    failures = journal.report().results
    for plan in plans:
        for failure in plan.failures:
            journal.record(failure)
    # What may have been missed, or cannot be planned, takes nothing along.
    doomed = [spared(each) if journal.is_spoilt(each.target) else each for each in _unwanted(surveys, wanted)]
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
    journal, wanted = Journal(on_result, goes_on=continue_on_error), Wanted()
    surveys: list[Survey] = []
    with during("run_mirror"):
        for rule in rules:
            survey = Survey(rule, journal, wanted)
            surveys.append(survey)
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
        remove(_unwanted(surveys, wanted), journal)
    return journal.report()


def _unwanted(surveys: Sequence[Survey], wanted: Wanted) -> list[Doomed]:
    """What rules would remove and no other selects, each once."""
    found = {
        each.node.target: each for survey in surveys for each in survey.doomed if not wanted.has(each.target, each.tag)
    }
    return list(found.values())
