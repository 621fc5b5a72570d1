"""One rule's copies, found as they are asked for, and afterwards what has to be removed."""

from __future__ import annotations

from collections.abc import Iterator

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import RegistryError, during
from registry_core.ops.listing import repositories_below, tags_of
from registry_core.ops.mirror.journal import Journal, whole
from registry_core.ops.mirror.prune import Doomed, Wanted, doomed_tags
from registry_core.ops.mirror.rules import MirrorRule
from registry_core.ops.mirror.selection import has_wildcard, matching_names
from registry_core.ops.transfer.nodes import Side
from registry_core.ops.transfer.tasks import CopyTask
from registry_core.ports.repository import Repository

__all__ = ["Survey"]


class Survey:
    """Finds what a rule is about.

    Args:
        rule: The rule.
        journal: Where errors go.
        wanted: Where to say what is selected.
    """

    def __init__(self, rule: MirrorRule, journal: Journal, wanted: Wanted) -> None:
        self._rule = rule
        self._journal = journal
        self._wanted = wanted
        self.doomed: list[Doomed] = []

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
                with during("", str(source)):
                    there, selected = self._tags(source)
            except RegistryError as error:
                self._journal.fail(whole(source, target), error, Side.SOURCE)
                continue
            self._wanted.add(target, selected)
            for tag in selected:
                yield CopyTask(source=source, target=target, reference=tag, tags=(tag,))
            if rule.prune and there is not None:
                try:
                    self.doomed += doomed_tags(source, target, rule.tags, there, selected)
                except RegistryError as error:
                    self._journal.fail(whole(source, target), error, Side.TARGET)

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
