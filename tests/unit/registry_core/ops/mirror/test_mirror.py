"""Mirrors copy the source to the target, and prune only what they may."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_adapters.memory.manifests import MemoryManifests
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    CatalogUnsupported,
    Forbidden,
    ImageNotFound,
    InvalidName,
    InvalidValue,
    NotFound,
    ProtocolError,
    RegistryError,
    RepositoryNotFound,
    Unavailable,
    Unsupported,
)
from registry_core.ops.mirror.mirror import MirrorRule, plan_mirror, run_mirror
from registry_core.ops.mirror.selection import TagPatterns, TagSelection
from registry_core.ops.transfer.options import CopyOptions
from registry_core.ops.transfer.report import Action, Outcome, Result, Side
from registry_core.ports.catalog import Catalog, Repository

if TYPE_CHECKING:
    Graphs = Any


class RecordedCatalog(Catalog):
    """A catalog that records the calls on its repositories, and runs a hook before each."""

    def __init__(self, inner: Catalog, record_calls: Any) -> None:
        self._inner = inner
        self._record_calls = record_calls
        self.before: Any = lambda call, argument: None
        self.can_list = True
        self.listed: dict[str, list[str]] = {}
        self.calls: list[tuple[str, str]] = []

    @property
    def registry(self) -> str:
        return self._inner.registry

    def repository(self, name: str) -> Repository:
        recorded = self._record_calls(self._inner.repository(name))

        def before(call: str, argument: str) -> None:
            self.calls.append((call, argument))
            self.before(call, argument)

        recorded.before = before
        found: Repository = recorded.repository
        if name in self.listed:
            found.manifests.tags = lambda **_: map(Tag, self.listed[name])  # type: ignore[method-assign]  # a short list
        return found

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        if not self.can_list:
            raise CatalogUnsupported("no list of repositories")
        return self._inner.repositories(after=after, page_size=page_size)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def source_catalog(record_calls: Any) -> RecordedCatalog:
    return RecordedCatalog(MemoryCatalog("source.test"), record_calls)


@pytest.fixture
def target_catalog(record_calls: Any) -> RecordedCatalog:
    return RecordedCatalog(MemoryCatalog("target.test"), record_calls)


def push(graphs_of: Any, catalog: Catalog, name: str, *tags: str, content: bytes = b"layer") -> RawManifest:
    repository = catalog.repository(RepositoryName(name))
    made: RawManifest = graphs_of(repository).image(content)
    repository.manifests.put(made, tags=[Tag(tag) for tag in tags])
    return made


def tags(catalog: Catalog, name: str) -> list[str]:
    try:
        return [str(tag) for tag in catalog.repository(RepositoryName(name)).manifests.tags()]
    except RepositoryNotFound:
        return []


def rule(source_catalog: Catalog, target_catalog: Catalog, **more: Any) -> MirrorRule:
    return MirrorRule(source=source_catalog, target=target_catalog, **more)


class TestCopies:
    def test_repositories_are_found_by_pattern_below_a_path_and_kept_below_another(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        for name in ("org/app", "org/lib/a", "org/lib/b", "org/other", "lib/c"):
            push(graphs_of, source_catalog, name, "v1", content=name.encode())

        run_mirror([
            rule(source_catalog, target_catalog, source_path="org", target_path="mirror", repositories=("app", "lib/*"))
        ])  # fmt: skip

        assert list(target_catalog.repositories()) == ["mirror/app", "mirror/lib/a", "mirror/lib/b"]
        assert tags(target_catalog, "mirror/lib/b") == ["v1"]

    def test_names_without_patterns_need_no_list_of_repositories_or_tags(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "org/app", "v1", "v2")
        source_catalog.can_list = False

        run_mirror(
            [
                rule(
                    source_catalog,
                    target_catalog,
                    repositories=("org/app",),
                    tags=TagSelection(include=TagPatterns(names=("v2",))),
                )
            ]
        )

        assert tags(target_catalog, "org/app") == ["v2"]
        assert ("tags", "") not in source_catalog.calls

    @pytest.mark.parametrize("planned", [False, True])
    def test_digests_are_mirrored_with_the_tag_that_is_listed_with_them_and_without_a_list(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        pinned = push(graphs_of, source_catalog, "app", "v1", content=b"old")
        untagged = push(graphs_of, source_catalog, "app", content=b"untagged")
        push(graphs_of, source_catalog, "app", "v1", "v2", content=b"new")
        push(graphs_of, target_catalog, "app", "v1", content=b"other")
        names = (f"v1@{pinned.digest}", str(untagged.digest), f"v3@{untagged.digest}", "v2")
        rules = [
            rule(
                source_catalog,
                target_catalog,
                repositories=("app",),
                tags=TagSelection(include=TagPatterns(names=names)),
                prune=True,
            )
        ]

        for _ in range(2):
            report = plan_mirror(rules).apply() if planned else run_mirror(rules)

        copied = target_catalog.repository(RepositoryName("app")).manifests
        assert report.ok
        assert report.bytes_moved == 0
        assert tags(target_catalog, "app") == ["v1", "v2", "v3"]
        assert copied.resolve(Tag("v1")).digest == pinned.digest
        assert copied.resolve(Tag("v3")).digest == copied.resolve(untagged.digest).digest
        assert ("tags", "") not in source_catalog.calls

    def test_a_tag_listed_with_a_digest_is_neither_moved_nor_pruned_by_patterns(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        pinned = push(graphs_of, source_catalog, "app", "old", content=b"old")
        push(graphs_of, source_catalog, "app", "v1", "v2", content=b"new")
        push(graphs_of, target_catalog, "app", "v0", content=b"other")
        push(graphs_of, target_catalog, "app", "v9", content=b"gone")
        names = (f"v1@{pinned.digest}", f"v9@{pinned.digest}")
        selection = TagSelection(include=TagPatterns(names=names, globs=("v*",)), latest=1)
        rules = [rule(source_catalog, target_catalog, repositories=("app",), tags=selection, prune=True)]

        run_mirror(rules)
        report = run_mirror(rules)

        copied = target_catalog.repository(RepositoryName("app")).manifests
        assert report.ok
        assert tags(target_catalog, "app") == ["v1", "v2", "v9"]
        assert copied.resolve(Tag("v1")).digest == copied.resolve(Tag("v9")).digest == pinned.digest

    def test_a_listed_digest_that_the_source_lacks_is_an_error(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        absent = Digest.of(b"absent")
        rules = [
            rule(
                source_catalog,
                target_catalog,
                repositories=("app",),
                tags=TagSelection(include=TagPatterns(names=(f"v1@{absent}", absent))),
            )
        ]

        report = run_mirror(rules, continue_on_error=True)

        assert {type(failed.error) for failed in report.failed} == {ImageNotFound}
        assert {failed.node.source for failed in report.failed} == {f"source.test/app@{absent}"}
        assert tags(target_catalog, "app") == []

    def test_a_rule_without_names_selects_the_repository_at_the_path(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "org/app", "v1")
        push(graphs_of, source_catalog, "org/app/below", "v1")

        run_mirror([rule(source_catalog, target_catalog, source_path="org/app", target_path="copy")])

        assert list(target_catalog.repositories()) == ["copy"]

    def test_a_mirror_into_a_path_of_its_source_does_not_mirror_itself(
        self, source_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        rules = [rule(source_catalog, source_catalog, target_path="mirror", repositories=("*",))]

        run_mirror(rules)
        run_mirror(rules)

        assert list(source_catalog.repositories()) == ["app", "mirror/app"]

    def test_referrers_tags_are_not_copied(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        """R-223: a copied referrers tag would replace the list that the target maintains."""
        referrers_tag, signature = f"sha256-{'a' * 64}", f"sha256-{'a' * 64}.sig"
        push(graphs_of, source_catalog, "app", "v1", referrers_tag, signature)
        target_image = push(graphs_of, target_catalog, "app", referrers_tag, content=b"theirs")

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",))])

        assert tags(target_catalog, "app") == [referrers_tag, signature, "v1"]
        assert (
            target_catalog.repository(RepositoryName("app")).manifests.resolve(Tag(referrers_tag)).digest
            == target_image.digest
        )

    def test_a_second_run_resolves_each_tag_once_per_catalog(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        rules = [rule(source_catalog, target_catalog, repositories=("app",))]
        run_mirror(rules)
        source_catalog.calls.clear()
        target_catalog.calls.clear()

        report = run_mirror(rules)

        assert report.counts == {Outcome.SKIPPED: 1}
        assert source_catalog.calls == [("tags", ""), ("resolve", "v1")]
        assert target_catalog.calls == [("resolve", "v1")]

    def test_a_plan_writes_nothing_and_is_then_executed_as_shown(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "old", content=b"old")
        target_catalog.calls.clear()
        plan = plan_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])
        plan_calls = {call for call, _ in target_catalog.calls}

        report = plan.apply()

        assert plan_calls == {"resolve", "stat", "tags"}
        assert [(node.action, node.target) for node in plan.nodes[-2:]] == [
            (Action.TAG, "target.test/app:v1"), (Action.DELETE, "target.test/app:old"),
        ]  # fmt: skip
        assert [result.node for result in report.results] == list(plan.nodes)
        assert report.ok
        assert not plan.is_empty
        assert "1 tags to remove" in str(plan)
        assert "delete" in str(plan)
        assert tags(target_catalog, "app") == ["v1"]
        assert plan_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)]).is_empty

    @pytest.mark.parametrize(
        ("more", "error", "message"),
        [
            ({"repositories": "app"}, InvalidValue, "repositories must be a list, not 'app'"),
            ({"repositories": ("NOT OK",)}, InvalidName, "not a repository name: 'NOT OK'"),
            ({"repositories": [1]}, InvalidName, "not a repository name: 1"),
            ({"source_path": "NOT OK"}, InvalidName, "not a repository name: 'NOT OK'"),
            ({"tags": ["v1"]}, InvalidValue, "tags must be a TagSelection"),
            ({"prune": "yes"}, InvalidValue, "prune must be True or False, not 'yes'"),
            ({"allow_empty": 1}, InvalidValue, "allow_empty must be True or False, not 1"),
        ],
    )
    def test_malformed_rules_are_refused(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        more: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            rule(source_catalog, target_catalog, **more)

    def test_source_and_target_of_a_rule_must_be_catalogs(self, source_catalog: RecordedCatalog) -> None:
        with pytest.raises(InvalidValue, match="target must be a Catalog, not str; of a client, pass its attribute"):
            rule(source_catalog, cast("Any", "app"))


class TestPrune:
    def test_tags_that_the_source_lost_are_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", content=b"old")

        report = run_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])

        assert tags(target_catalog, "app") == ["v1"]
        assert report.counts[Outcome.DELETED] == 1

    def test_nothing_is_pruned_unless_requested(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", content=b"old")

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",))])

        assert tags(target_catalog, "app") == ["v0", "v1"]

    def test_tags_that_are_no_longer_among_the_latest_are_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "1.0.0", "1.1.0", "1.2.0")
        push(graphs_of, target_catalog, "app", "1.0.0", "local")
        selection = TagSelection(include=TagPatterns(semver="1.x"), latest=2)

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), tags=selection, prune=True)])

        assert tags(target_catalog, "app") == ["1.1.0", "1.2.0", "local"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_the_latest_of_versions_with_leading_zeros_stay_with_all_tags_that_are_no_versions(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, source_catalog, "ubuntu", "18.04", "20.04", "22.04", "24.04", "24.10", "latest", "noble")
        push(graphs_of, target_catalog, "ubuntu", "18.04", "22.04", "24.04", "latest", "stable", "noble", "18.04-slim")
        rules = [
            rule(
                source_catalog, target_catalog, repositories=("ubuntu",), tags=TagSelection(latest=2), prune=True
            )
        ]  # fmt: skip

        report = plan_mirror(rules).apply() if planned else run_mirror(rules)

        assert report.ok
        assert report.counts[Outcome.DELETED] == 2
        assert tags(target_catalog, "ubuntu") == ["18.04-slim", "24.04", "24.10", "latest", "noble", "stable"]

    @pytest.mark.parametrize(
        ("selection", "left"),
        [
            (TagSelection(), ["latest", "stable", "v1"]),
            (TagSelection(latest=3), ["latest", "old", "stable", "v1"]),
            (TagSelection(include=TagPatterns(semver="*")), ["latest", "old", "stable", "v1"]),
            (TagSelection(include=TagPatterns(semver="*", names=["stable"])), ["latest", "old", "v1"]),
            (TagSelection(include=TagPatterns(globs=["*"])), ["latest", "stable", "v1"]),
            (TagSelection(include=TagPatterns(globs=["*", "l*"])), ["stable", "v1"]),
            (TagSelection(include=TagPatterns(globs=["*"], names=["latest", "stable"])), ["v1"]),
            (TagSelection(include=TagPatterns(regexes=["v.*|s.*"])), ["latest", "old", "v1"]),
        ],
    )
    def test_floating_names_are_pruned_only_if_the_rule_names_them(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        graphs_of: Any,
        selection: TagSelection,
        left: list[str],
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", "latest", "stable", "old")

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), tags=selection, prune=True)])

        assert tags(target_catalog, "app") == left

    def test_a_tag_that_ends_in_a_commit_hash_is_pruned_like_others(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        commit = f"main-{'0a' * 20}"
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", commit)

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])

        assert tags(target_catalog, "app") == ["v1"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_source_without_tags_prunes_nothing(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, source_catalog, "app")
        push(graphs_of, target_catalog, "app", "v0", "v1", content=b"old")
        rules = [rule(source_catalog, target_catalog, repositories=("app",), prune=True)]

        if planned:
            plan = plan_mirror(rules)
            assert plan.is_empty
            assert {node.action for node in plan.nodes} == {Action.KEEP}
            report = plan.apply()
        else:
            report = run_mirror(rules)

        assert tags(target_catalog, "app") == ["v0", "v1"]
        assert report.ok
        assert report.counts == {Outcome.KEPT: 2}

    @pytest.mark.parametrize("planned", [False, True])
    def test_tags_that_another_rule_selects_are_kept(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, source_catalog, "one", "1.0", "1.1")
        push(graphs_of, source_catalog, "two", "edge", content=b"edge")
        push(graphs_of, target_catalog, "both", "old", content=b"old")
        rules = [
            rule(source_catalog, target_catalog, source_path="one", target_path="both", prune=True),
            rule(source_catalog, target_catalog, source_path="two", target_path="both", prune=True),
        ]

        for _ in range(2):
            report = plan_mirror(rules).apply() if planned else run_mirror(rules)
            assert tags(target_catalog, "both") == ["1.0", "1.1", "edge"]

        assert Outcome.DELETED not in report.counts

    def test_tags_that_a_failed_rule_might_select_are_kept(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "one/app", "v1")
        push(graphs_of, target_catalog, "both/app", "1.1", content=b"1.1")
        failing_catalog = RecordedCatalog(source_catalog, target_catalog._record_calls)
        failing_catalog.can_list = False
        rules = [
            rule(failing_catalog, target_catalog, target_path="both", repositories=("*",)),
            rule(
                source_catalog, target_catalog, source_path="one", target_path="both", repositories=("app",), prune=True
            ),
        ]

        plan = plan_mirror(rules, continue_on_error=True)
        applied = plan.apply(continue_on_error=True)
        report = run_mirror(rules, continue_on_error=True)

        assert tags(target_catalog, "both/app") == ["1.1", "v1"]
        assert [node.action for node in plan.nodes][-1] is Action.KEEP
        assert applied.counts[Outcome.KEPT] == 1
        assert report.results[-1].outcome is Outcome.NOT_DONE

    def test_nothing_is_pruned_after_a_failure_in_a_target_with_special_characters(
        self, record_calls: Any, source_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        target_catalog = RecordedCatalog(MemoryCatalog("oci:/data/me@work:1"), record_calls)
        push(graphs_of, source_catalog, "app", "v1", content=b"bad")
        push(graphs_of, target_catalog, "app", "v0", content=b"old")

        def refuse(call: str, argument: str) -> None:
            if call == "put blob" and argument == Digest.of(b"bad"):
                raise Unavailable("full")

        target_catalog.before = refuse

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)], continue_on_error=True)

        assert tags(target_catalog, "app") == ["v0"]

    def test_a_tag_removed_during_the_run_does_not_prevent_the_pruning_of_others(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "a", "b", content=b"old")

        def raise_not_found(call: str, argument: str) -> None:
            if (call, argument) == ("resolve", "a"):
                raise ImageNotFound("gone")

        target_catalog.before = raise_not_found

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])

        assert tags(target_catalog, "app") == ["a", "v1"]

    def test_a_rule_that_prunes_its_own_source_is_refused(self, source_catalog: RecordedCatalog) -> None:
        with pytest.raises(InvalidValue, match="itself"):
            rule(
                source_catalog,
                source_catalog,
                source_path="org",
                target_path="org",
                prune=True,
                tags=TagSelection(latest=1),
            )

    def test_repositories_absent_from_the_source_are_not_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "other", "v0", content=b"old")

        run_mirror([rule(source_catalog, target_catalog, repositories=("*",), prune=True)])

        assert tags(target_catalog, "other") == ["v0"]

    def test_a_tag_added_after_the_plan_is_not_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        plan = plan_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])
        push(graphs_of, target_catalog, "app", "new", content=b"new")

        plan.apply()

        assert tags(target_catalog, "app") == ["new", "v1"]

    def test_an_incomplete_list_of_tags_prunes_nothing(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        graphs_of: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """R-092: a list is complete or an error."""
        push(graphs_of, source_catalog, "app", "v1", "v2")
        push(graphs_of, target_catalog, "app", "v0", "v2", content=b"old")
        original_tags = MemoryManifests.tags

        def failing_catalog(store: MemoryManifests, **more: Any) -> Iterator[Tag]:
            found = original_tags(store, **more)
            yield next(found)
            raise Unavailable("cut off")

        monkeypatch.setattr(MemoryManifests, "tags", failing_catalog)

        report = run_mirror(
            [rule(source_catalog, target_catalog, repositories=("app",), prune=True)], continue_on_error=True
        )
        monkeypatch.undo()

        assert not report.ok
        assert tags(target_catalog, "app") == ["v0", "v2"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_list_cut_short_without_an_error_prunes_nothing(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        """R-096: before a tag is removed because the source's list lacks it, the source is asked for it."""
        push(graphs_of, source_catalog, "app", "a", "b", "c")
        push(graphs_of, source_catalog, "other", "a")
        push(graphs_of, target_catalog, "app", "a", "b", "c", "gone")
        push(graphs_of, target_catalog, "other", "gone")
        source_catalog.listed = {"app": ["a", "b"]}
        rules = [rule(source_catalog, target_catalog, repositories=("app", "other"), prune=True)]

        with pytest.raises(ProtocolError, match="list is incomplete") as caught:
            run_mirror(rules)
        if planned:
            plan = plan_mirror(rules, continue_on_error=True)
            assert [node.target for node in plan.nodes if node.action is Action.DELETE] == ["target.test/other:gone"]
            report = plan.apply(continue_on_error=True)
        else:
            report = run_mirror(rules, continue_on_error=True)

        (failed,) = report.failed
        assert caught.value.reference == "source.test/app:c"
        assert (failed.failed_side, failed.node.target) == (Side.SOURCE, "target.test/app")
        assert isinstance(failed.error, ProtocolError)
        assert tags(target_catalog, "app") == ["a", "b", "c", "gone"]
        assert tags(target_catalog, "other") == ["a"]

    @pytest.mark.parametrize(
        "error", [Unavailable("down"), Forbidden("quota"), RepositoryNotFound("gone"), Unsupported("schema 1")]
    )
    def test_a_source_that_cannot_confirm_that_a_tag_is_gone_prunes_nothing(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, error: RegistryError
    ) -> None:
        """R-096."""
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", "v1")

        def fail(call: str, argument: str) -> None:
            if (call, argument) == ("resolve", "v0"):
                raise error

        source_catalog.before = fail

        report = run_mirror(
            [rule(source_catalog, target_catalog, repositories=("app",), prune=True)], continue_on_error=True
        )

        assert [failed.error for failed in report.failed] == [error]
        assert tags(target_catalog, "app") == ["v0", "v1"]

    def test_only_a_tag_that_the_list_lacks_is_looked_up_before_its_removal(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        """R-096."""
        push(graphs_of, source_catalog, "app", "1.0", "1.1", "1.2")
        push(graphs_of, target_catalog, "app", "0.9", "1.0", "1.2", "local")

        run_mirror(
            [rule(source_catalog, target_catalog, repositories=("app",), tags=TagSelection(latest=2), prune=True)]
        )

        assert sorted(tag for call, tag in source_catalog.calls if call == "resolve") == ["0.9", "1.1", "1.2"]
        assert tags(target_catalog, "app") == ["1.1", "1.2", "local"]

    @pytest.mark.parametrize("allow_empty", [False, True])
    @pytest.mark.parametrize("planned", [False, True])
    def test_a_selection_that_matches_nothing_in_the_source_prunes_nothing(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        graphs_of: Any,
        planned: bool,
        allow_empty: bool,
    ) -> None:
        push(graphs_of, source_catalog, "app", "latest")
        push(graphs_of, target_catalog, "app", "1.0", "1.1", "latest")
        rules = [
            rule(
                source_catalog,
                target_catalog,
                repositories=(name,),
                tags=selection,
                prune=True,
                allow_empty=allow_empty,
            )
            for name in ("app", "a*")
            for selection in (TagSelection(include=TagPatterns(semver=">=1")), TagSelection(latest=1))
        ]

        report = plan_mirror(rules).apply() if planned else run_mirror(rules)

        assert report.ok is allow_empty
        assert Outcome.DELETED not in report.counts
        assert tags(target_catalog, "app") == ["1.0", "1.1", "latest"]

    def test_tags_that_name_digests_are_not_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        signature, referrers_tag = f"sha256-{'a' * 64}.sig", f"sha256-{'b' * 64}"
        push(graphs_of, target_catalog, "app", signature, referrers_tag)

        run_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])

        assert tags(target_catalog, "app") == [signature, referrers_tag, "v1"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_nothing_is_pruned_after_a_failure(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        for name in ("bad", "good"):
            push(graphs_of, source_catalog, name, "v1", content=name.encode())
            push(graphs_of, target_catalog, name, "v0", content=b"old")

        def refuse(call: str, argument: str) -> None:
            if call == "put blob" and argument == failing_digest:
                raise Unavailable("full")

        failing_digest = Digest.of(b"bad")
        target_catalog.before = refuse
        rules = [rule(source_catalog, target_catalog, repositories=("*",), prune=True)]

        if planned:
            report = plan_mirror(rules, continue_on_error=True).apply(continue_on_error=True)
        else:
            report = run_mirror(rules, continue_on_error=True)

        assert tags(target_catalog, "bad") == ["v0"]
        assert tags(target_catalog, "good") == ["v1"]
        assert [result.outcome for result in report.results if result.node.action is Action.DELETE] == [
            Outcome.NOT_DONE, Outcome.DELETED,
        ]  # fmt: skip

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_source_that_cannot_be_listed_prunes_nothing(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", content=b"old")
        push(graphs_of, target_catalog, "gone", "v0", content=b"old")

        def refuse(call: str, argument: str) -> None:
            if call == "tags":
                raise Unavailable("no list")

        source_catalog.before = refuse
        rules = [rule(source_catalog, target_catalog, repositories=("app", "gone"), prune=True)]

        with pytest.raises(Unavailable):
            run_mirror(rules)
        if planned:
            plan = plan_mirror(rules, continue_on_error=True)
            report, failed = plan.apply(continue_on_error=True), plan.failures
        else:
            report = run_mirror(rules, continue_on_error=True)
            failed = report.failed

        assert tags(target_catalog, "app") == tags(target_catalog, "gone") == ["v0"]
        assert [(failure.failed_side, failure.node.target) for failure in failed] == [
            (Side.SOURCE, "target.test/app"), (Side.SOURCE, "target.test/gone"),
        ]  # fmt: skip
        assert all(result.outcome is not Outcome.DELETED for result in report.results)

    def test_a_tag_moved_after_the_plan_is_not_pruned(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "mine", "gone", content=b"old")
        plan = plan_mirror([rule(source_catalog, target_catalog, repositories=("app",), prune=True)])
        push(graphs_of, target_catalog, "app", "mine", content=b"new")
        target_catalog.repository(RepositoryName("app")).manifests.untag(Tag("gone"))

        report = plan.apply()

        outcomes = {result.node.target: result.outcome for result in report.results}
        assert tags(target_catalog, "app") == ["mine", "v1"]
        assert outcomes["target.test/app:mine"] is Outcome.KEPT
        assert outcomes["target.test/app:gone"] is Outcome.SKIPPED

    def test_a_failed_removal_ends_the_pruning_of_its_repository(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "a", "b", content=b"old")

        def refuse(call: str, argument: str) -> None:
            if (call, argument) == ("untag", "a"):
                raise Unavailable("no")

        target_catalog.before = refuse

        report = run_mirror(
            [rule(source_catalog, target_catalog, repositories=("app",), prune=True)], continue_on_error=True
        )

        assert [result.outcome for result in report.results][-2:] == [Outcome.FAILED, Outcome.NOT_DONE]
        assert tags(target_catalog, "app") == ["a", "b", "v1"]

    def test_a_target_that_cannot_remove_tags_is_reported(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        push(graphs_of, target_catalog, "app", "v0", content=b"old")

        def refuse(call: str, argument: str) -> None:
            if call == "untag":
                raise Unsupported("no")

        target_catalog.before = refuse
        rules = [rule(source_catalog, target_catalog, repositories=("app",), prune=True)]

        report = run_mirror(rules, continue_on_error=True)

        (failed,) = report.failed
        assert (failed.failed_side, failed.node.target) == (Side.TARGET, "target.test/app:v0")
        assert failed.error is not None
        assert (failed.error.operation, failed.error.reference) == ("prune", "target.test/app:v0")
        with pytest.raises(Unsupported):
            run_mirror(rules)


class TestNothingToMirror:
    """Rules that match nothing are reported, unless they may."""

    @pytest.mark.parametrize(
        ("more", "source", "message"),
        [
            ({"repositories": ("lib/*",)}, "source.test/org/lib/*", "no repository matches this pattern"),
            ({"repositories": ("app", "lib/*")}, "source.test/org/lib/*", "no repository matches this pattern"),
            ({"repositories": ("a*", "lib/*")}, "source.test/org/lib/*", "no repository matches this pattern"),
            (
                {"repositories": ("app",), "tags": TagSelection(include=TagPatterns(semver=">=9"))},
                "source.test/org/app",
                "no tag matches semver '>=9'",
            ),
            (
                {"repositories": ("app", "tool"), "tags": TagSelection(include=TagPatterns(globs=["v*"]))},
                "source.test/org/app",
                "no tag matches globs 'v*'",
            ),
            (
                {"repositories": ("a*",), "tags": TagSelection(include=TagPatterns(regexes=["v.*"], names=["no"]))},
                "source.test/org",
                "no tag in any of 1 repositories matches names 'no' or regexes 'v.*'",
            ),
            (
                {"repositories": ("app",), "tags": TagSelection(exclude=TagPatterns(globs=["*"]))},
                "source.test/org/app",
                "no tag matches all except globs '*'",
            ),
            (
                {"repositories": ("text",), "tags": TagSelection(latest=2)},
                "source.test/org/text",
                "no tag matches all (latest 2)",
            ),
            (
                {"repositories": ("bare",), "tags": TagSelection(include=TagPatterns(globs=["*"]))},
                "source.test/org/bare",
                "no tag matches globs '*'",
            ),
        ],
    )
    @pytest.mark.parametrize("planned", [False, True])
    def test_patterns_and_ranges_that_match_nothing_are_reported(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        graphs_of: Any,
        more: dict[str, Any],
        source: str,
        message: str,
        planned: bool,
    ) -> None:
        push(graphs_of, source_catalog, "org/app", "1.0", "1.1")
        push(graphs_of, source_catalog, "org/tool", "v1")
        push(graphs_of, source_catalog, "org/text", "latest")
        push(graphs_of, source_catalog, "org/bare")
        rules = [rule(source_catalog, target_catalog, source_path="org", **more)]
        allowed = [rule(source_catalog, target_catalog, source_path="org", allow_empty=True, **more)]
        results = list[Result]()

        if planned:
            plan = plan_mirror(rules)
            assert message in str(plan)
            report = plan.apply(on_result=results.append)
            allowed_report = plan_mirror(allowed).apply()
        else:
            report = run_mirror(rules, on_result=results.append)
            allowed_report = run_mirror(allowed)

        (failed,) = report.failed
        assert not report.ok
        assert list(report.results) == results
        assert (failed.node.source, failed.failed_side) == (source, Side.SOURCE)
        assert isinstance(failed.error, NotFound)
        assert message in str(failed.error)
        assert "allow_empty" in str(failed.error)
        assert message in str(report)
        assert allowed_report.ok

    def test_other_rules_and_repositories_are_mirrored(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "1.0")
        push(graphs_of, source_catalog, "text", "latest")
        selection = TagSelection(include=TagPatterns(semver="*"))

        report = run_mirror([
            rule(source_catalog, target_catalog, repositories=("lost/*",)),
            rule(source_catalog, target_catalog, repositories=("text", "app"), tags=selection),
        ])  # fmt: skip

        assert [failed.node.source for failed in report.failed] == ["source.test/lost/*", "source.test/text"]
        assert list(target_catalog.repositories()) == ["app"]

    def test_some_repositories_that_a_pattern_finds_may_have_no_such_tag(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "1.0")
        push(graphs_of, source_catalog, "text", "latest")

        report = run_mirror([
            rule(source_catalog, target_catalog, repositories=("*",), tags=TagSelection(latest=1))
        ])  # fmt: skip

        assert report.ok
        assert list(target_catalog.repositories()) == ["app"]

    def test_a_repository_without_tags_is_mirrored_by_a_rule_for_all_tags(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app")

        assert run_mirror([rule(source_catalog, target_catalog, repositories=("app", "*"))]).ok

    @pytest.mark.parametrize("allow_empty", [False, True])
    @pytest.mark.parametrize("selection", [TagSelection(), TagSelection(include=TagPatterns(names=["v1"]))])
    def test_a_named_repository_that_does_not_exist_is_an_error_in_any_case(
        self,
        source_catalog: RecordedCatalog,
        target_catalog: RecordedCatalog,
        selection: TagSelection,
        allow_empty: bool,
    ) -> None:
        rules = [
            rule(source_catalog, target_catalog, repositories=("lost",), tags=selection, allow_empty=allow_empty)
        ]  # fmt: skip

        report = run_mirror(rules, continue_on_error=True)

        assert not report.ok
        assert "source.test/lost" in str(report.failed[0].error)
        with pytest.raises(RepositoryNotFound):
            run_mirror(rules)
        with pytest.raises(RepositoryNotFound):
            plan_mirror(rules)


class TestFailures:
    def test_results_of_copies_and_lists_are_reported_by_one_thread_at_a_time_in_order(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        names = [f"app{number}" for number in range(20)]
        for name in names[::2]:
            push(graphs_of, source_catalog, name, "v1", content=name.encode())
        lock, overlaps, results = threading.Lock(), list[Result](), list[Result]()

        def on_result(result: Result) -> None:
            if not lock.acquire(blocking=False):
                overlaps.append(result)
                return
            results.append(result)
            time.sleep(0.001)
            lock.release()

        report = run_mirror(
            [rule(source_catalog, target_catalog, repositories=names)],
            continue_on_error=True,
            jobs=8,
            images=8,
            on_result=on_result,
        )

        assert overlaps == []
        assert list(report.results) == results
        assert len(report.failed) == len(names[1::2])

    def test_a_backend_that_cannot_list_repositories_is_reported(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog
    ) -> None:
        source_catalog.can_list = False
        rules = [rule(source_catalog, target_catalog, repositories=("*",))]

        with pytest.raises(CatalogUnsupported) as caught:
            run_mirror(rules)

        assert caught.value.operation == "run_mirror"
        assert len(run_mirror(rules, continue_on_error=True).failed) == 1
        assert len(plan_mirror(rules, continue_on_error=True).failures) == 1

    def test_an_absent_tag_fails_and_the_others_are_copied(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        push(graphs_of, source_catalog, "app", "v1")
        selection = TagSelection(include=TagPatterns(names=("absent", "v1")))

        report = run_mirror(
            [rule(source_catalog, target_catalog, repositories=("app",), tags=selection)], continue_on_error=True
        )

        (failed,) = report.failed
        assert isinstance(failed.error, ImageNotFound)
        assert failed.error.reference == "source.test/app:absent"
        assert tags(target_catalog, "app") == ["v1"]

    def test_an_interrupted_mirror_continues_with_the_missing_images(
        self, source_catalog: RecordedCatalog, target_catalog: RecordedCatalog, graphs_of: Any
    ) -> None:
        for number in range(6):
            push(graphs_of, source_catalog, f"app{number}", "v1", content=b"%d" % number)
        rules = [rule(source_catalog, target_catalog, repositories=("*",), options=CopyOptions())]

        def fail(call: str, argument: str) -> None:
            if call == "put manifest" and len(list(target_catalog.repositories())) > 3:
                raise Unavailable("cut off")

        target_catalog.before = fail
        with pytest.raises(Unavailable):
            run_mirror(rules, jobs=1, images=1)
        target_catalog.before = lambda call, argument: None
        before = len(list(target_catalog.repositories()))

        report = run_mirror(rules, jobs=1, images=1)

        assert 3 <= before < 6
        assert report.ok
        assert report.counts[Outcome.TAGGED] == 6 - before + 1
        assert len(list(target_catalog.repositories())) == 6
