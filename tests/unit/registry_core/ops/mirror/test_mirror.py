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
    ImageNotFound,
    InvalidName,
    InvalidValue,
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


class Steered(Catalog):
    """A catalog that lets a test step in before each call on a manifest store."""

    def __init__(self, inner: Catalog, watch: Any) -> None:
        self._inner = inner
        self._watch = watch
        self.before: Any = lambda call, about: None
        self.lists = True
        self.calls: list[tuple[str, str]] = []

    @property
    def registry(self) -> str:
        return self._inner.registry

    def repository(self, name: str) -> Repository:
        watched = self._watch(self._inner.repository(name))

        def before(call: str, about: str) -> None:
            self.calls.append((call, about))
            self.before(call, about)

        watched.before = before
        found: Repository = watched.repository
        return found

    def repositories(
        self, *, after: RepositoryName | None = None, page_size: int | None = None
    ) -> Iterator[RepositoryName]:
        if not self.lists:
            raise CatalogUnsupported("no list of repositories")
        return self._inner.repositories(after=after, page_size=page_size)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def here(watch: Any) -> Steered:
    return Steered(MemoryCatalog("source.test"), watch)


@pytest.fixture
def there(watch: Any) -> Steered:
    return Steered(MemoryCatalog("target.test"), watch)


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


def rule(here: Catalog, there: Catalog, **more: Any) -> MirrorRule:
    return MirrorRule(source=here, target=there, **more)


class TestWhatIsCopied:
    def test_repositories_are_found_by_pattern_below_a_path_and_kept_below_another(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        for name in ("org/app", "org/lib/a", "org/lib/b", "org/other", "lib/c"):
            push(graphs_of, here, name, "v1", content=name.encode())

        run_mirror([
            rule(here, there, source_path="org", target_path="mirror", repositories=("app", "lib/*"))
        ])  # fmt: skip

        assert list(there.repositories()) == ["mirror/app", "mirror/lib/a", "mirror/lib/b"]
        assert tags(there, "mirror/lib/b") == ["v1"]

    def test_names_alone_need_no_list(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "org/app", "v1", "v2")
        here.lists = False

        run_mirror(
            [rule(here, there, repositories=("org/app",), tags=TagSelection(include=TagPatterns(names=("v2",))))]
        )

        assert tags(there, "org/app") == ["v2"]
        assert ("tags", "") not in here.calls

    def test_without_names_it_is_the_repository_at_the_path(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "org/app", "v1")
        push(graphs_of, here, "org/app/below", "v1")

        run_mirror([rule(here, there, source_path="org/app", target_path="copy")])

        assert list(there.repositories()) == ["copy"]

    def test_a_mirror_into_a_path_of_its_source_does_not_mirror_itself(self, here: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        rules = [rule(here, here, target_path="mirror", repositories=("*",))]

        run_mirror(rules)
        run_mirror(rules)

        assert list(here.repositories()) == ["app", "mirror/app"]

    def test_lists_of_referrers_are_no_images(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        """R-223: a copied referrers tag would replace the list that the target maintains."""
        lists, signature = f"sha256-{'a' * 64}", f"sha256-{'a' * 64}.sig"
        push(graphs_of, here, "app", "v1", lists, signature)
        theirs = push(graphs_of, there, "app", lists, content=b"theirs")

        run_mirror([rule(here, there, repositories=("app",))])

        assert tags(there, "app") == [lists, signature, "v1"]
        assert there.repository(RepositoryName("app")).manifests.resolve(Tag(lists)).digest == theirs.digest

    def test_a_second_run_asks_one_question_of_each_side_for_a_tag(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        rules = [rule(here, there, repositories=("app",))]
        run_mirror(rules)
        here.calls.clear()
        there.calls.clear()

        report = run_mirror(rules)

        assert report.counts == {Outcome.SKIPPED: 1}
        assert here.calls == [("tags", ""), ("resolve", "v1")]
        assert there.calls == [("resolve", "v1")]

    def test_a_plan_writes_nothing_and_is_then_executed_as_shown(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "old", content=b"old")
        there.calls.clear()
        plan = plan_mirror([rule(here, there, repositories=("app",), prune=True)])
        asked = {call for call, _ in there.calls}

        report = plan.apply()

        assert asked == {"resolve", "stat", "tags"}
        assert [(node.action, node.target) for node in plan.nodes[-2:]] == [
            (Action.TAG, "target.test/app:v1"), (Action.DELETE, "target.test/app:old"),
        ]  # fmt: skip
        assert [result.node for result in report.results] == list(plan.nodes)
        assert report.ok
        assert not plan.is_empty
        assert "1 tags to remove" in str(plan)
        assert "delete" in str(plan)
        assert tags(there, "app") == ["v1"]
        assert plan_mirror([rule(here, there, repositories=("app",), prune=True)]).is_empty

    @pytest.mark.parametrize(
        ("more", "error", "message"),
        [
            ({"repositories": "app"}, InvalidValue, "repositories must be a list, not 'app'"),
            ({"repositories": ("NOT OK",)}, InvalidName, "not a repository name: 'NOT OK'"),
            ({"repositories": [1]}, InvalidName, "not a repository name: 1"),
            ({"source_path": "NOT OK"}, InvalidName, "not a repository name: 'NOT OK'"),
            ({"tags": ["v1"]}, InvalidValue, "tags must be a TagSelection"),
        ],
    )
    def test_malformed_rules_are_refused(
        self, here: Steered, there: Steered, more: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            rule(here, there, **more)

    def test_the_sides_of_a_rule_are_catalogs(self, here: Steered) -> None:
        with pytest.raises(InvalidValue, match="target must be a Catalog, not str; of a client, pass its attribute"):
            rule(here, cast("Any", "app"))


class TestPrune:
    def test_tags_that_the_source_lost_are_pruned(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "v0", content=b"old")

        report = run_mirror([rule(here, there, repositories=("app",), prune=True)])

        assert tags(there, "app") == ["v1"]
        assert report.counts[Outcome.DELETED] == 1

    def test_nothing_is_pruned_unless_requested(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "v0", content=b"old")

        run_mirror([rule(here, there, repositories=("app",))])

        assert tags(there, "app") == ["v0", "v1"]

    def test_tags_that_are_no_longer_among_the_latest_are_pruned(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "1.0.0", "1.1.0", "1.2.0")
        push(graphs_of, there, "app", "1.0.0", "local")
        selection = TagSelection(include=TagPatterns(semver="1.x"), latest=2)

        run_mirror([rule(here, there, repositories=("app",), tags=selection, prune=True)])

        assert tags(there, "app") == ["1.1.0", "1.2.0", "local"]

    def test_a_tag_that_merely_ends_in_a_hash_is_a_tag_like_others(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        commit = f"main-{'0a' * 20}"
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", commit)

        run_mirror([rule(here, there, repositories=("app",), prune=True)])

        assert tags(there, "app") == ["v1"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_source_without_any_tags_empties_nothing(
        self, here: Steered, there: Steered, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, here, "app")
        push(graphs_of, there, "app", "v0", "v1", content=b"old")
        rules = [rule(here, there, repositories=("app",), prune=True)]

        if planned:
            plan = plan_mirror(rules)
            assert plan.is_empty
            assert {node.action for node in plan.nodes} == {Action.KEEP}
            report = plan.apply()
        else:
            report = run_mirror(rules)

        assert tags(there, "app") == ["v0", "v1"]
        assert report.ok
        assert report.counts == {Outcome.KEPT: 2}

    @pytest.mark.parametrize("planned", [False, True])
    def test_tags_that_another_rule_selects_are_kept(
        self, here: Steered, there: Steered, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, here, "one", "1.0", "1.1")
        push(graphs_of, here, "two", "edge", content=b"edge")
        push(graphs_of, there, "both", "old", content=b"old")
        rules = [
            rule(here, there, source_path="one", target_path="both", prune=True),
            rule(here, there, source_path="two", target_path="both", prune=True),
        ]

        for _ in range(2):
            report = plan_mirror(rules).apply() if planned else run_mirror(rules)
            assert tags(there, "both") == ["1.0", "1.1", "edge"]

        assert Outcome.DELETED not in report.counts

    def test_tags_that_a_failed_rule_might_select_are_kept(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "one/app", "v1")
        push(graphs_of, there, "both/app", "edge", content=b"edge")
        broken = Steered(here, there._watch)
        broken.lists = False
        rules = [
            rule(broken, there, target_path="both", repositories=("*",)),
            rule(here, there, source_path="one", target_path="both", repositories=("app",), prune=True),
        ]

        plan = plan_mirror(rules, continue_on_error=True)
        applied = plan.apply(continue_on_error=True)
        report = run_mirror(rules, continue_on_error=True)

        assert tags(there, "both/app") == ["edge", "v1"]
        assert [node.action for node in plan.nodes][-1] is Action.KEEP
        assert applied.counts[Outcome.KEPT] == 1
        assert report.results[-1].outcome is Outcome.NOT_DONE

    def test_nothing_is_pruned_after_a_failure_under_any_name_of_the_target(
        self, watch: Any, here: Steered, graphs_of: Any
    ) -> None:
        there = Steered(MemoryCatalog("oci:/data/me@work:1"), watch)
        push(graphs_of, here, "app", "v1", content=b"bad")
        push(graphs_of, there, "app", "v0", content=b"old")

        def refuse(call: str, about: str) -> None:
            if call == "put blob" and about == Digest.of(b"bad"):
                raise Unavailable("full")

        there.before = refuse

        run_mirror([rule(here, there, repositories=("app",), prune=True)], continue_on_error=True)

        assert tags(there, "app") == ["v0"]

    def test_one_that_was_removed_meanwhile_does_not_keep_the_others(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "a", "b", content=b"old")

        def vanish(call: str, about: str) -> None:
            if (call, about) == ("resolve", "a"):
                raise ImageNotFound("gone")

        there.before = vanish

        run_mirror([rule(here, there, repositories=("app",), prune=True)])

        assert tags(there, "app") == ["a", "v1"]

    def test_a_repository_is_not_pruned_by_its_own_tags(self, here: Steered) -> None:
        with pytest.raises(InvalidValue, match="itself"):
            rule(here, here, source_path="org", target_path="org", prune=True, tags=TagSelection(latest=1))

    def test_repositories_that_the_source_does_not_have_stay(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "other", "v0", content=b"old")

        run_mirror([rule(here, there, repositories=("*",), prune=True)])

        assert tags(there, "other") == ["v0"]

    def test_a_tag_that_came_since_the_plan_was_made_stays(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        plan = plan_mirror([rule(here, there, repositories=("app",), prune=True)])
        push(graphs_of, there, "app", "new", content=b"new")

        plan.apply()

        assert tags(there, "app") == ["new", "v1"]

    def test_a_list_that_breaks_off_empties_nothing(
        self, here: Steered, there: Steered, graphs_of: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """R-092: a list is complete or an error."""
        push(graphs_of, here, "app", "v1", "v2")
        push(graphs_of, there, "app", "v0", "v2", content=b"old")
        whole = MemoryManifests.tags

        def broken(store: MemoryManifests, **more: Any) -> Iterator[Tag]:
            found = whole(store, **more)
            yield next(found)
            raise Unavailable("cut off")

        monkeypatch.setattr(MemoryManifests, "tags", broken)

        report = run_mirror([rule(here, there, repositories=("app",), prune=True)], continue_on_error=True)
        monkeypatch.undo()

        assert not report.ok
        assert tags(there, "app") == ["v0", "v2"]

    def test_tags_of_digests_stay(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        signature, lists = f"sha256-{'a' * 64}.sig", f"sha256-{'b' * 64}"
        push(graphs_of, there, "app", signature, lists)

        run_mirror([rule(here, there, repositories=("app",), prune=True)])

        assert tags(there, "app") == [signature, lists, "v1"]

    @pytest.mark.parametrize("planned", [False, True])
    def test_nothing_is_pruned_after_a_failure(
        self, here: Steered, there: Steered, graphs_of: Any, planned: bool
    ) -> None:
        for name in ("bad", "good"):
            push(graphs_of, here, name, "v1", content=name.encode())
            push(graphs_of, there, name, "v0", content=b"old")

        def refuse(call: str, about: str) -> None:
            if call == "put blob" and about == wrong:
                raise Unavailable("full")

        wrong = Digest.of(b"bad")
        there.before = refuse
        rules = [rule(here, there, repositories=("*",), prune=True)]

        if planned:
            report = plan_mirror(rules, continue_on_error=True).apply(continue_on_error=True)
        else:
            report = run_mirror(rules, continue_on_error=True)

        assert tags(there, "bad") == ["v0"]
        assert tags(there, "good") == ["v1"]
        assert [result.outcome for result in report.results if result.node.action is Action.DELETE] == [
            Outcome.NOT_DONE, Outcome.DELETED,
        ]  # fmt: skip

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_source_that_cannot_be_listed_empties_nothing(
        self, here: Steered, there: Steered, graphs_of: Any, planned: bool
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "v0", content=b"old")
        push(graphs_of, there, "gone", "v0", content=b"old")

        def refuse(call: str, about: str) -> None:
            if call == "tags":
                raise Unavailable("no list")

        here.before = refuse
        rules = [rule(here, there, repositories=("app", "gone"), prune=True)]

        with pytest.raises(Unavailable):
            run_mirror(rules)
        if planned:
            plan = plan_mirror(rules, continue_on_error=True)
            report, failed = plan.apply(continue_on_error=True), plan.failures
        else:
            report = run_mirror(rules, continue_on_error=True)
            failed = report.failed

        assert tags(there, "app") == tags(there, "gone") == ["v0"]
        assert [(failure.failed_side, failure.node.target) for failure in failed] == [
            (Side.SOURCE, "target.test/app"), (Side.SOURCE, "target.test/gone"),
        ]  # fmt: skip
        assert all(result.outcome is not Outcome.DELETED for result in report.results)

    def test_a_tag_that_was_moved_since_the_plan_was_made_stays(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "mine", "gone", content=b"old")
        plan = plan_mirror([rule(here, there, repositories=("app",), prune=True)])
        push(graphs_of, there, "app", "mine", content=b"new")
        there.repository(RepositoryName("app")).manifests.untag(Tag("gone"))

        report = plan.apply()

        outcomes = {result.node.target: result.outcome for result in report.results}
        assert tags(there, "app") == ["mine", "v1"]
        assert outcomes["target.test/app:mine"] is Outcome.KEPT
        assert outcomes["target.test/app:gone"] is Outcome.SKIPPED

    def test_after_a_removal_that_failed_no_other_is_tried_in_that_repository(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "a", "b", content=b"old")

        def refuse(call: str, about: str) -> None:
            if (call, about) == ("untag", "a"):
                raise Unavailable("no")

        there.before = refuse

        report = run_mirror([rule(here, there, repositories=("app",), prune=True)], continue_on_error=True)

        assert [result.outcome for result in report.results][-2:] == [Outcome.FAILED, Outcome.NOT_DONE]
        assert tags(there, "app") == ["a", "b", "v1"]

    def test_a_target_that_cannot_remove_tags_is_reported(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        push(graphs_of, there, "app", "v0", content=b"old")

        def refuse(call: str, about: str) -> None:
            if call == "untag":
                raise Unsupported("no")

        there.before = refuse
        rules = [rule(here, there, repositories=("app",), prune=True)]

        report = run_mirror(rules, continue_on_error=True)

        (failed,) = report.failed
        assert (failed.failed_side, failed.node.target) == (Side.TARGET, "target.test/app:v0")
        assert failed.error is not None
        assert (failed.error.operation, failed.error.reference) == ("prune", "target.test/app:v0")
        with pytest.raises(Unsupported):
            run_mirror(rules)


class TestFailures:
    def test_results_of_copies_and_lists_are_reported_by_one_thread_at_a_time_in_order(
        self, here: Steered, there: Steered, graphs_of: Any
    ) -> None:
        names = [f"app{number}" for number in range(20)]
        for name in names[::2]:
            push(graphs_of, here, name, "v1", content=name.encode())
        lock, overlaps, results = threading.Lock(), list[Result](), list[Result]()

        def on_result(result: Result) -> None:
            if not lock.acquire(blocking=False):
                overlaps.append(result)
                return
            results.append(result)
            time.sleep(0.001)
            lock.release()

        report = run_mirror(
            [rule(here, there, repositories=names)], continue_on_error=True, jobs=8, images=8, on_result=on_result
        )

        assert overlaps == []
        assert list(report.results) == results
        assert len(report.failed) == len(names[1::2])

    def test_a_backend_that_cannot_list_repositories_is_reported(self, here: Steered, there: Steered) -> None:
        here.lists = False
        rules = [rule(here, there, repositories=("*",))]

        with pytest.raises(CatalogUnsupported) as caught:
            run_mirror(rules)

        assert caught.value.operation == "run_mirror"
        assert len(run_mirror(rules, continue_on_error=True).failed) == 1
        assert len(plan_mirror(rules, continue_on_error=True).failures) == 1

    def test_an_absent_tag_fails_and_the_others_are_copied(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        push(graphs_of, here, "app", "v1")
        selection = TagSelection(include=TagPatterns(names=("absent", "v1")))

        report = run_mirror([rule(here, there, repositories=("app",), tags=selection)], continue_on_error=True)

        (failed,) = report.failed
        assert isinstance(failed.error, ImageNotFound)
        assert failed.error.reference == "source.test/app:absent"
        assert tags(there, "app") == ["v1"]

    def test_an_interrupted_mirror_is_gone_on_with(self, here: Steered, there: Steered, graphs_of: Any) -> None:
        for number in range(6):
            push(graphs_of, here, f"app{number}", "v1", content=b"%d" % number)
        rules = [rule(here, there, repositories=("*",), options=CopyOptions())]

        def cut(call: str, about: str) -> None:
            if call == "put manifest" and len(list(there.repositories())) > 3:
                raise Unavailable("cut off")

        there.before = cut
        with pytest.raises(Unavailable):
            run_mirror(rules, jobs=1, images=1)
        there.before = lambda call, about: None
        before = len(list(there.repositories()))

        report = run_mirror(rules, jobs=1, images=1)

        assert 3 <= before < 6
        assert report.ok
        assert report.counts[Outcome.TAGGED] == 6 - before + 1
        assert len(list(there.repositories())) == 6
