"""Mirrors: rules that keep repositories of one backend the same as those of another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    IntegrityError,
    InvalidValue,
    NotFound,
    RegistryError,
    error_context,
    error_reference,
)
from registry_core.ops.listing import repositories_below, tags_of
from registry_core.ops.mirror.names import NamedEntries, can_be_nameless
from registry_core.ops.mirror.prune import (
    FailedRepositories,
    PrunableTag,
    check_absent,
    prunable_tags,
    prune,
    repository_failure,
)
from registry_core.ops.mirror.selection import TagSelection, has_wildcard, matching_names
from registry_core.ops.transfer.copy import CopyPlan, build_plan, execute
from registry_core.ops.transfer.options import CopyOptions, CopyTask, IndexMode, as_tuple
from registry_core.ops.transfer.report import CopyReport, Node, Result, Side
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.observer import Observer

__all__ = ["MirrorPlan", "MirrorRule", "RuleScan", "plan_mirror", "run_mirror"]


class MirrorRule(msgspec.Struct, frozen=True, kw_only=True):
    """Repositories of one backend to keep in another under the same names, each below a path.

    The constructor accepts text for the paths; the attributes hold repository names.

    Args:
        source: Backend to read from.
        target: Backend to write to.
        source_path: Path in the source that the repository names are relative to.
        target_path: Path in the target that the repository names are relative to.
        repositories: Names, or shell patterns, for which the source is asked for a list; ``*`` also matches slashes.
            Without any, the rule is about the repository at the path itself.
        tags: Tags to mirror.
        options: Parts of each image to copy.
        prune: Whether to remove tags from the target that the selection can judge, but that the source no longer has,
            or that are no longer among the latest. Tags that are not versions stay if ``latest`` is set; floating
            names, such as ``latest`` and ``stable``, stay unless a name or pattern of ``tags`` other than ``*`` matches
            them.
        allow_empty: Whether patterns of ``repositories``, and ``tags``, may match nothing. Otherwise that is a failed
            result. Nothing is pruned in a repository without selected tags in either case.

    Raises:
        InvalidName: A name is malformed.
        InvalidValue: ``source`` or ``target`` is no catalog, ``repositories`` is a plain string, ``tags`` is not a
            ``TagSelection``, a switch is not a boolean, or ``prune`` is set for a path that is mirrored onto itself.
    """

    source: Catalog
    target: Catalog
    source_path: RepositoryName = RepositoryName("")
    target_path: RepositoryName = RepositoryName("")
    repositories: tuple[str, ...] = ()
    tags: TagSelection = TagSelection()
    options: CopyOptions = CopyOptions()
    prune: bool = False
    allow_empty: bool = False

    if TYPE_CHECKING:
        # msgspec derives the constructor from the fields; `__post_init__` accepts more than their types.
        def __init__(
            self,
            *,
            source: Catalog,
            target: Catalog,
            source_path: str = "",
            target_path: str = "",
            repositories: Iterable[str] = (),
            tags: TagSelection = ...,
            options: CopyOptions = ...,
            prune: bool = False,
            allow_empty: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Parse the paths, and check all names before anything is requested."""
        for name in ("source", "target"):
            if not isinstance(getattr(self, name), Catalog):
                raise InvalidValue(
                    f"{name} must be a Catalog, not {type(getattr(self, name)).__name__}; "
                    "of a client, pass its attribute catalog"
                )
        for name in ("prune", "allow_empty"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"{name} must be True or False, not {getattr(self, name)!r:.200}")
        msgspec.structs.force_setattr(self, "repositories", as_tuple("repositories", self.repositories))
        if not isinstance(self.tags, TagSelection):
            raise InvalidValue(f"tags must be a TagSelection, not {self.tags!r:.200}")
        msgspec.structs.force_setattr(self, "source_path", RepositoryName(self.source_path))
        msgspec.structs.force_setattr(self, "target_path", RepositoryName(self.target_path))
        if self.prune and self.source is self.target and self.source_path == self.target_path:
            raise InvalidValue("a mirror of a path onto itself cannot prune: it would remove tags from its own source")
        for name in self.repositories:
            if not isinstance(name, str) or not has_wildcard(name):
                RepositoryName(name)


class RuleScan:
    """Lists the repositories and tags of one rule.

    Args:
        rule: The rule.
        continue_on_error: Whether a repository that cannot be listed becomes a failed result; otherwise its error is
            raised.

    Attributes:
        selected: Selected tags by target repository. Complete, like the others, after all tasks were taken.
        prunable: Tags of the target that the rule does not select.
        unlisted: Target path if the source could not list its repositories or the names that mean some, else ``None``.
    """

    def __init__(self, rule: MirrorRule, *, continue_on_error: bool) -> None:
        self._rule = rule
        self._continue_on_error = continue_on_error
        self.selected: dict[str, set[str]] = {}
        self.prunable: list[PrunableTag] = []
        self.unlisted: str | None = None

    def tasks(self) -> Iterator[CopyTask | Result]:
        """Yield a task for each selected tag, and a result for each repository that could not be listed.

        A pattern of repositories, and a selection of tags, that matches nothing yields a failed result too, unless the
        rule allows that.

        Raises:
            RegistryError: One side could not be listed.
        """
        rule = self._rule
        patterns = [name for name in rule.repositories if has_wildcard(name)]
        named = dict.fromkeys(name for name in rule.repositories or [""] if not has_wildcard(name))
        for name in (*named, *self._meant_repositories()):
            if not (yield from self._repository_tasks(name)):
                yield from self._unmatched(name, f"no tag matches {rule.tags}")
        if not patterns:
            return
        # Of the repositories that patterns find, some may have no such tag, but not all.
        count, has_selected = 0, False
        for found in self._found(patterns):
            if isinstance(found, Result):
                has_selected = True
                yield found
            elif found not in named:
                count += 1
                has_selected = (yield from self._repository_tasks(found)) or has_selected
        if count and not has_selected:
            yield from self._unmatched("", f"no tag in any of {count} repositories matches {rule.tags}")

    def _repository_tasks(self, name: str) -> Generator[CopyTask | Result, None, bool]:
        """Yield the tasks of one repository; return ``False`` if its tags are known and none of them is selected."""
        rule = self._rule
        source = rule.source.repository(rule.source_path / name)
        target = rule.target.repository(rule.target_path / name)
        try:
            with error_reference(str(source)):
                listed, selected = self._tags(source)
                keeps_digests = rule.options.index_mode is not IndexMode.REWRITTEN
                entries = NamedEntries(source, target, rule.target, rule.target_path, name, keeps_digests=keeps_digests)
        except RegistryError as error:
            if source.names is not None and isinstance(error, IntegrityError):
                # The repositories in the names of a malformed layout are not known.
                self.unlisted = str(rule.target.repository(rule.target_path))
            yield self._failure(source, target, error, Side.SOURCE)
            return True
        digests = rule.tags.include.digests
        self.selected.setdefault(str(target), set()).update(selected, (tag for _, tag in digests if tag is not None))
        yield from entries.tag_tasks(selected)
        if rule.tags.is_everything:
            yield from entries.other_tasks()
            if entries.error is not None:
                yield self._failure(source, target, entries.error, Side.SOURCE)
        for digest, tag in digests:
            yield CopyTask(source=source, target=target, reference=digest, tags=() if tag is None else (tag,))
        if rule.prune and listed is not None:
            yield from self._scan_target(source, target, listed, selected)
        return bool(selected or digests) or rule.tags.is_everything

    def _scan_target(
        self, source: Repository, target: Repository, listed: Sequence[str], selected: Sequence[Tag]
    ) -> Iterator[Result]:
        side = Side.TARGET
        try:
            found = list(prunable_tags(source, target, self._rule.tags, selected))
            side, present = Side.SOURCE, set(listed)
            check_absent(source, [each.tag for each in found if not each.is_kept and each.tag not in present])
        except RegistryError as error:
            yield self._failure(source, target, error, side)
        else:
            self.prunable += found

    def _found(self, patterns: Sequence[str]) -> Iterator[RepositoryName | Result]:
        """Yield the repositories that patterns match, and a result for each pattern that matches none."""
        rule = self._rule
        unmatched = dict.fromkeys(patterns)
        try:
            unnamed = [each for each in patterns if matching_names([each], [RepositoryName("")])]
            if unnamed and (yield from self._found_nameless()):
                unmatched = {pattern: None for pattern in unmatched if pattern not in unnamed}
            for found in repositories_below(rule.source, rule.source_path, None, None, operation=""):
                name = RepositoryName(found)
                matching = (
                    [] if self._is_own_target(name) else [each for each in patterns if matching_names([each], [name])]
                )
                for pattern in matching:
                    unmatched.pop(pattern, None)
                if matching:
                    yield name
        except RegistryError as error:
            source, target = rule.source.repository(rule.source_path), rule.target.repository(rule.target_path)
            self.unlisted = str(target)
            yield self._failure(source, target, error, Side.SOURCE)
        else:
            for pattern in unmatched:
                yield from self._unmatched(pattern, "no repository matches this pattern")

    def _meant_repositories(self) -> list[RepositoryName]:
        """Return the repositories in the names of a whole layout or archive, which a rule without any mirrors, too."""
        rule = self._rule
        if rule.repositories or not rule.tags.is_everything:
            return []
        source, target = rule.source.repository(rule.source_path), rule.target.repository(rule.target_path)
        if source.names is None:
            return []
        try:
            entries = NamedEntries(source, target, rule.target, rule.target_path, "")
        except RegistryError:
            # The repository itself reports it.
            self.unlisted = str(target)
            return []
        if entries.error is not None:
            self.unlisted = str(target)
        return entries.repositories

    def _found_nameless(self) -> Generator[RepositoryName | Result, None, bool]:
        """Yield the repository at the path of the source itself, if it is that of a layout or archive with entries."""
        rule, name = self._rule, RepositoryName("")
        source, target = rule.source.repository(rule.source_path), rule.target.repository(rule.target_path)
        if source.names is None or self._is_own_target(name):
            return False
        try:
            entries = NamedEntries(source, target, rule.target, rule.target_path, "")
        except NotFound:
            return False
        if entries.is_empty:
            return False
        if can_be_nameless(target):
            yield name
        else:
            yield from entries.left_out()
        return True

    def _unmatched(self, name: str, message: str) -> Iterator[Result]:
        """Yield the failure of a repository, or of a pattern, for which there is nothing to mirror."""
        rule = self._rule
        if rule.allow_empty:
            return
        source, target = (
            "/".join(part for part in (catalog.registry, path, name) if part)
            for catalog, path in ((rule.source, rule.source_path), (rule.target, rule.target_path))
        )
        error = NotFound(f"{message}; if that is right, set allow_empty", reference=source)
        yield repository_failure(source, target, error, Side.SOURCE)

    def _is_own_target(self, name: RepositoryName) -> bool:
        """Return whether a repository was written by this rule, which mirrors a backend into a path of itself."""
        rule = self._rule
        full, target = rule.source_path / name, rule.target_path
        is_nested = target.below(rule.source_path) is not None
        return rule.source is rule.target and is_nested and (full == target or full.below(target) is not None)

    def _tags(self, source: Repository) -> tuple[list[str] | None, list[Tag]]:
        """Return all tags of a repository, or ``None`` if the selection needs no list, and the selected ones."""
        selection = self._rule.tags
        if selection.is_exact:
            return None, selection.select(selection.include.tags)
        listed = list(tags_of(source, None, None, operation=""))
        return listed, selection.select(listed)

    def _failure(self, source: Repository, target: Repository, error: RegistryError, side: Side) -> Result:
        if not self._continue_on_error or isinstance(error, Cancelled | DeadlineExceeded):
            raise error
        return repository_failure(str(source), str(target), error, side)


class MirrorPlan:
    """The planned changes of a mirror, for inspection; ``apply`` carries them out.

    Args:
        plans: Plan of the copies of each rule.
        prunable: Tags to remove after the copies, and tags that stay although no rule selects them.
    """

    def __init__(self, plans: Sequence[CopyPlan], prunable: Sequence[PrunableTag]) -> None:
        self._plans = tuple(plans)
        self._prunable = tuple(prunable)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes of all copies, then the tags to remove or to keep."""
        copied = (node for plan in self._plans for node in plan.nodes)
        return (*copied, *(each.node for each in self._prunable))

    @property
    def failures(self) -> tuple[Result, ...]:
        """Nodes and repositories that could not be planned, if planning continued after errors."""
        return tuple(failure for plan in self._plans for failure in plan.failures)

    @property
    def bytes_to_move(self) -> int:
        """Size of the content to read from the source and write to the target."""
        return sum(plan.bytes_to_move for plan in self._plans)

    @property
    def bytes_to_mount(self) -> int:
        """Size of the blobs to mount from other repositories of the target."""
        return sum(plan.bytes_to_mount for plan in self._plans)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return all(each.is_kept for each in self._prunable) and all(plan.is_empty for plan in self._plans)

    def apply(
        self,
        *,
        observer: Observer | None = None,
        jobs: int = 4,
        images: int = 4,
        continue_on_error: bool = False,
        on_result: Callable[[Result], None] | None = None,
    ) -> CopyReport:
        """Copy and remove what the plan shows, and nothing else. The report begins with the failures of the plan.

        Tags are removed last, from repositories in which nothing failed, and only if they point at the same manifest as
        when the plan was made.

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
        results: list[Result] = []
        for failure in self.failures:
            results.append(failure)
            if on_result is not None:
                on_result(failure)
        for plan in self._plans:
            report = plan.apply(
                observer=observer,
                jobs=jobs,
                images=images,
                continue_on_error=continue_on_error,
                on_result=on_result,
            )
            results += report.results
        failed = FailedRepositories(results)
        for result in prune(self._prunable, failed, continue_on_error=continue_on_error):
            results.append(result)
            if on_result is not None:
                on_result(result)
        return CopyReport(results=tuple(results))

    def __str__(self) -> str:
        """Format a summary, and one line for each node."""
        summary = (
            f"{self.bytes_to_move} bytes to move, {self.bytes_to_mount} to mount, "
            f"{sum(not each.is_kept for each in self._prunable)} tags to remove; {len(self.failures)} failed"
        )
        return "\n".join((summary, *map(str, self.nodes), *map(str, self.failures)))

    def __repr__(self) -> str:
        """Return the number of nodes and bytes."""
        return f"MirrorPlan({len(self.nodes)} nodes, {self.bytes_to_move} bytes to move)"


def plan_mirror(
    rules: Sequence[MirrorRule], *, continue_on_error: bool = False, jobs: int = 4, images: int = 4
) -> MirrorPlan:
    """Determine what a mirror would do, without writing anything.

    Args:
        rules: Rules, planned one after the other.
        continue_on_error: Whether nodes that cannot be planned become ``failures`` of the plan; otherwise the first
            error is raised.
        jobs: Greatest number of nodes looked up at a time.
        images: Greatest number of images in progress at a time.

    Raises:
        CatalogUnsupported: A rule needs a list of repositories, and the source cannot list them.
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed.
    """
    scans = [RuleScan(rule, continue_on_error=continue_on_error) for rule in rules]
    plans = [
        build_plan(
            scan.tasks(),
            rule.options,
            operation="plan_mirror",
            continue_on_error=continue_on_error,
            jobs=jobs,
            images=images,
        )
        for rule, scan in zip(rules, scans, strict=True)
    ]
    # Where a copy cannot be planned, or may have been missed, nothing is removed.
    failed = _failed_repositories([failure for plan in plans for failure in plan.failures], scans)
    return MirrorPlan(plans, [each.kept() if each.target in failed else each for each in _prunable(scans)])


def run_mirror(
    rules: Sequence[MirrorRule],
    *,
    continue_on_error: bool = False,
    observer: Observer | None = None,
    jobs: int = 4,
    images: int = 4,
    on_result: Callable[[Result], None] | None = None,
) -> CopyReport:
    """Mirror without a plan; lists are read while images are copied, so that memory does not grow with the images.

    A tag that names the same manifest on both sides costs one lookup on each. To continue after an interruption, run
    the same rules again. Tags are removed last, from repositories in which nothing failed.

    Args:
        rules: Rules, run one after the other.
        continue_on_error: Whether an error only fails the nodes that need the failed one; otherwise the first error is
            raised.
        observer: Receives the events of each blob.
        jobs: Greatest number of blobs copied at a time.
        images: Greatest number of images in progress at a time.
        on_result: Called with the result of each node, by one thread at a time.

    Raises:
        CatalogUnsupported: A rule needs a list of repositories, and the source cannot list them.
        InvalidValue: ``jobs`` or ``images`` is less than 1.
        RegistryError: One side failed; with ``continue_on_error`` only ``Cancelled`` and ``DeadlineExceeded``.
    """
    scans = [RuleScan(rule, continue_on_error=continue_on_error) for rule in rules]
    results: list[Result] = []
    for rule, scan in zip(rules, scans, strict=True):
        run = execute(
            scan.tasks(),
            rule.options,
            operation="run_mirror",
            continue_on_error=continue_on_error,
            observer=observer,
            jobs=jobs,
            images=images,
            on_result=on_result,
        )
        results += run.results
    with error_context("run_mirror"):
        for result in prune(
            _prunable(scans), _failed_repositories(results, scans), continue_on_error=continue_on_error
        ):
            results.append(result)
            if on_result is not None:
                on_result(result)
    return CopyReport(results=tuple(results))


def _failed_repositories(results: Sequence[Result], scans: Sequence[RuleScan]) -> FailedRepositories:
    return FailedRepositories(results, [scan.unlisted for scan in scans if scan.unlisted is not None])


def _prunable(scans: Sequence[RuleScan]) -> list[PrunableTag]:
    """Return the tags that some rule would remove and no rule selects, each once."""
    selected: dict[str, list[set[str]]] = {}
    for scan in scans:
        for target, tags in scan.selected.items():
            selected.setdefault(target, []).append(tags)
    found = {
        each.node.target: each
        for scan in scans
        for each in scan.prunable
        if not any(each.tag in tags for tags in selected.get(str(each.target), ()))
    }
    return list(found.values())
