"""Plans show the actions of a copy, and running them does exactly these."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import CancelScope, fail_after
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, Cancelled, ImageNotFound, InvalidName, InvalidValue, Unavailable
from registry_core.ops.transfer.copy import CopyPlan, copy, plan_copies, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import Action, Node, NodeKind, Outcome, Side
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Event, Observer

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Any

V1, V2 = Tag("v1"), Tag("v2")


def actions(plan: CopyPlan) -> dict[str, Action]:
    return {node.target.rpartition("/")[2]: node.action for node in plan.nodes}


def by_kind(nodes: tuple[Node, ...], kind: NodeKind) -> list[Node]:
    return [node for node in nodes if node.kind is kind]


def task(source: Repository, target: Repository, reference: Tag | Digest | RawManifest, *tags: Tag) -> CopyTask:
    return CopyTask(source=source, target=target, reference=reference, tags=tags)


class TestPlanning:
    def test_a_plan_shows_blobs_to_copy_and_existing_ones(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"new layer", b"old")
        source.manifests.put(root, tags=(V1,))
        target.blobs.put(Digest.of(b"old"), 3, BytesSource(b"old"))
        recorded_target = record_calls(target)

        plan = plan_copy(source, recorded_target.repository, "v1", tags=[V2])

        found = {node.digest: node.action for node in by_kind(plan.nodes, NodeKind.BLOB)}
        config = root.image.config
        assert found == {
            config.digest: Action.MOVE,
            Digest.of(b"new layer"): Action.MOVE,
            Digest.of(b"old"): Action.SKIP,
        }
        assert [(node.kind, node.action) for node in plan.nodes[-2:]] == [
            (NodeKind.MANIFEST, Action.MOVE),
            (NodeKind.TAG, Action.TAG),
        ]
        assert plan.bytes_to_move == len(root.content) + config.size + 9
        assert (plan.bytes_to_skip, plan.bytes_to_mount, plan.is_empty) == (3, 0, False)
        assert plan.nodes[-1].source == source.at(root.digest)
        assert plan.nodes[-1].target == target.at(V2)
        assert recorded_target.writes == []

    def test_a_plan_shows_mounts_of_blobs_of_other_repositories(self, graphs_of: Any) -> None:
        catalog = MemoryCatalog("one.test")
        source, target = (catalog.repository(RepositoryName(name)) for name in ("a", "b"))
        root = graphs_of(source).image(b"layer")

        plan = plan_copy(source, target, root.digest)

        assert {node.action for node in by_kind(plan.nodes, NodeKind.BLOB)} == {Action.MOUNT}
        assert plan.bytes_to_mount == sum(part.size for part in root.children)
        assert {result.outcome for result in plan.apply().results} == {Outcome.MOUNTED, Outcome.MOVED}

    def test_the_plan_of_an_up_to_date_tag_is_empty(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"layer")
        source.manifests.put(root, tags=(V1,))
        plan_copy(source, target, "v1", tags=[V1]).apply()
        recorded_source = record_calls(source)

        plan = plan_copy(recorded_source.repository, target, "v1", tags=[V1])

        assert plan.is_empty
        assert [(node.kind, node.action) for node in plan.nodes] == [(NodeKind.TAG, Action.SKIP)]
        assert recorded_source.calls == [("resolve", "v1")]

    def test_a_tag_of_another_image_is_kept_on_request(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Any, record_calls: RecordCalls
    ) -> None:
        source.manifests.put(graphs.image(b"new"), tags=(V1,))
        other_image = graphs_of(target).image(b"theirs")
        target.manifests.put(other_image, tags=(V1,))
        recorded_target = record_calls(target)

        plan = plan_copy(source, recorded_target.repository, "v1", tags=[V1], options=CopyOptions(overwrite=False))
        report = plan.apply()

        assert [node.action for node in plan.nodes] == [Action.KEEP]
        assert [result.outcome for result in report.results] == [Outcome.KEPT]
        assert target.manifests.resolve(V1).digest == other_image.digest
        assert recorded_target.writes == []

    def test_other_tags_are_set_when_one_is_kept(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Any
    ) -> None:
        root = graphs.image(b"new")
        source.manifests.put(root, tags=(V1,))
        other_image = graphs_of(target).image(b"theirs")
        target.manifests.put(other_image, tags=(V1,))

        run_copies([task(source, target, V1, V1, V2)], options=CopyOptions(overwrite=False))

        assert target.manifests.resolve(V1).digest == other_image.digest
        assert target.manifests.resolve(V2).digest == root.digest

    def test_planning_errors_are_raised_or_are_failures_of_the_plan(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"layer")
        tasks = [task(source, target, Tag("absent"), V1), task(source, target, root.digest)]

        with pytest.raises(ImageNotFound) as caught:
            plan_copies(tasks)
        plan = plan_copies(tasks, continue_on_error=True)

        assert (caught.value.operation, caught.value.reference) == ("plan_copy", source.at(Tag("absent")))
        (failure,) = plan.failures
        assert (failure.outcome, failure.failed_side, failure.node.digest) == (Outcome.FAILED, Side.SOURCE, None)
        assert plan.apply().ok
        assert target.manifests.resolve(root.digest).digest == root.digest

    @pytest.mark.parametrize("count", [{"jobs": 0}, {"images": 0}, {"jobs": "4"}])
    def test_a_job_count_below_one_is_refused(
        self, source: Repository, target: Repository, graphs: Graphs, count: Any
    ) -> None:
        tasks = [task(source, target, graphs.image(b"1").digest)]

        with pytest.raises(InvalidValue):
            plan_copies(tasks, **count)
        with pytest.raises(InvalidValue):
            run_copies(tasks, **count)

    @pytest.mark.parametrize(("tags", "error"), [("v1", InvalidValue), (["no tag!"], InvalidName)])
    def test_malformed_tags_are_refused(
        self, source: Repository, target: Repository, tags: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            plan_copy(source, target, "v1", tags=tags)

    def test_the_text_of_a_plan_lists_its_actions(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        plan = plan_copy(source, target, graphs.image(b"layer").digest)

        lines = str(plan).splitlines()

        assert lines[0] == f"{plan.bytes_to_move} bytes to move, 0 to mount, 0 are there; 0 failed"
        assert len(lines) == 1 + len(plan.nodes)
        assert lines[-1].split()[:2] == ["move", "manifest"]
        assert repr(plan) == f"CopyPlan(3 nodes, {plan.bytes_to_move} bytes to move)"


class TestApplying:
    def test_the_planned_image_is_copied_although_the_tag_has_moved(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        """R-012."""
        planned, later = graphs.image(b"planned"), graphs.image(b"later")
        source.manifests.put(planned, tags=(V1,))
        plan = plan_copy(source, target, "v1", tags=[V1])
        source.manifests.put(later, tags=(V1,))

        plan.apply()

        assert target.manifests.resolve(V1).digest == planned.digest
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(later.digest)

    def test_manifests_are_not_read_twice(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.index(graphs.image(b"1"), graphs.image(b"2"))
        recorded_source = record_calls(source)
        plan = plan_copy(recorded_source.repository, target, root.digest)
        recorded_source.calls.clear()

        plan.apply()

        assert recorded_source.count("get") == 0
        assert target.manifests.get(root.digest).content == root.content

    def test_blobs_stored_since_the_plan_are_skipped(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"layer")
        plan = plan_copy(source, target, root.digest)
        target.blobs.put(Digest.of(b"layer"), 5, BytesSource(b"layer"))

        report = plan.apply()

        outcomes = {result.node.digest: result.outcome for result in report.results}
        assert outcomes[Digest.of(b"layer")] is Outcome.SKIPPED
        assert outcomes[root.digest] is Outcome.MOVED

    def test_a_plan_can_be_applied_again(self, source: Repository, target: Repository, graphs: Graphs) -> None:
        plan = plan_copy(source, target, graphs.image(b"layer").digest, tags=[V1])

        first, second = plan.apply(), plan.apply()

        assert first.bytes_moved == plan.bytes_to_move
        assert second.ok
        assert second.bytes_moved == 0

    def test_a_report_has_the_outcome_of_each_node(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"layer")
        plan = plan_copy(source, target, root.digest, tags=[V1])
        seen: list[Outcome] = []

        report = plan.apply(on_result=lambda result: seen.append(result.outcome))

        assert [result.node for result in report.results] == list(plan.nodes)
        assert seen == [result.outcome for result in report.results]
        assert report.counts == {Outcome.MOVED: 3, Outcome.TAGGED: 1}
        assert str(report) == f"3 moved, 1 tagged; {plan.bytes_to_move} bytes moved"
        assert report.ok
        report.raise_first()

    def test_a_tag_that_the_plan_does_not_set_is_not_changed(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Any, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"layer")
        source.manifests.put(root, tags=(V1,))
        recorded_target = record_calls(target)
        tasks = [task(source, recorded_target.repository, V1, V1, V2)]
        run_copies(tasks)
        plan = plan_copies(tasks)
        other_image = graphs_of(target).image(b"theirs")
        target.manifests.put(other_image, tags=(V1,))
        recorded_target.calls.clear()

        report = plan.apply()

        assert recorded_target.calls == []
        assert [result.node for result in report.results] == list(plan.nodes)
        assert report.counts == {Outcome.SKIPPED: 2}
        assert target.manifests.resolve(V1).digest == other_image.digest

    def test_only_the_tags_that_the_plan_sets_are_set(
        self, source: Repository, target: Repository, graphs: Graphs, graphs_of: Any
    ) -> None:
        source.manifests.put(graphs.image(b"new"), tags=(V1,))
        other_image = graphs_of(target).image(b"theirs")
        target.manifests.put(other_image, tags=(V1,))
        plan = plan_copy(source, target, "v1", tags=[V1, V2], options=CopyOptions(overwrite=False))
        target.manifests.untag(V1)

        plan.apply()

        assert list(target.manifests.tags()) == [V2]


class TestRepair:
    def delete_blobs(self, target: Repository, *content: bytes) -> None:
        for each in content:
            target.blobs.delete(Digest.of(each))

    @pytest.mark.parametrize("nested", [False, True])
    def test_blobs_that_a_target_lost_are_copied_on_request(
        self, source: Repository, target: Repository, graphs: Graphs, nested: bool
    ) -> None:
        image = graphs.image(b"kept", b"lost")
        root = graphs.index(image) if nested else image
        source.manifests.put(root, tags=(V1,))
        run_copies([task(source, target, V1, V1)])
        self.delete_blobs(target, b"lost")

        without_repair = run_copies([task(source, target, V1, V1)])
        plan = plan_copies([task(source, target, V1, V1)], options=CopyOptions(repair=True))
        report = plan.apply()

        assert without_repair.bytes_moved == 0
        assert plan.bytes_to_move == report.bytes_moved == 4
        assert report.ok
        assert target.blobs.stat(Digest.of(b"lost")) == 4

    def test_blobs_that_a_target_reports_as_lost_are_copied(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-078: also if the target has the manifest and only another tag is to be set."""
        root = graphs.image(b"lost")
        copy(source, target, root.digest)
        self.delete_blobs(target, b"lost")
        recorded_target = record_calls(target)

        def refuse(call: str, argument: str) -> None:
            if call == "put manifest" and ("put blob", Digest.of(b"lost")) not in recorded_target.calls:
                raise BlobNotFound("blob unknown", code="MANIFEST_BLOB_UNKNOWN")

        recorded_target.before = refuse

        copy(source, recorded_target.repository, root.digest, tags=[V1])

        assert target.blobs.stat(Digest.of(b"lost")) == 4
        assert target.manifests.resolve(V1).digest == root.digest


class TestCallbacks:
    """Errors of callbacks are not errors of a repository."""

    @pytest.mark.parametrize("error", [Unavailable("no log"), ValueError("no log")])
    @pytest.mark.parametrize("jobs", [1, 4])
    def test_an_error_of_on_result_ends_a_run_that_continues_after_errors(
        self, source: Repository, target: Repository, graphs: Graphs, jobs: int, error: Exception
    ) -> None:
        roots = [graphs.image(b"%d" % number) for number in range(20)]
        seen: list[Any] = []

        def on_result(result: Any) -> None:
            seen.append(result)
            raise error

        with pytest.raises(type(error), match="no log"):
            run_copies(
                [task(source, target, root) for root in roots], jobs=jobs, continue_on_error=True, on_result=on_result
            )

        assert len(seen) <= jobs

    @pytest.mark.parametrize("error", [Unavailable("no log"), ValueError("no log")])
    def test_an_error_of_an_observer_ends_a_run_that_continues_after_errors(
        self, source: Repository, target: Repository, graphs: Graphs, error: Exception
    ) -> None:
        class Broken(Observer):
            def on(self, event: Event) -> None:
                raise error

        with pytest.raises(type(error), match="no log"):
            run_copies([task(source, target, graphs.image(b"1"))], continue_on_error=True, observer=Broken())

    @pytest.mark.parametrize("jobs", [1, 4])
    def test_a_cancellation_in_a_callback_ends_the_run(
        self, source: Repository, target: Repository, graphs: Graphs, jobs: int
    ) -> None:
        roots = [graphs.image(b"%d" % number) for number in range(50)]

        with CancelScope() as scope, pytest.raises(Cancelled):
            run_copies(
                [task(source, target, root) for root in roots],
                jobs=jobs,
                continue_on_error=True,
                on_result=lambda result: scope.cancel(),
            )


class TestManyImages:
    def test_shared_blobs_are_copied_once(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        roots = [graphs.image(b"base", b"%d" % number) for number in range(50)]
        recorded_target = record_calls(target)

        report = run_copies([task(source, recorded_target.repository, root.digest) for root in roots], jobs=8, images=8)

        assert report.ok
        assert recorded_target.count("put blob", Digest.of(b"base")) == 1
        assert recorded_target.count("stat", Digest.of(b"base")) == 1
        assert all(target.manifests.get(root.digest).content == root.content for root in roots)

    def test_two_tags_of_one_image_are_both_set(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"layer")
        recorded_target = record_calls(target)
        tasks = [task(source, recorded_target.repository, root, tag) for tag in (V1, V2, Tag("latest"))]

        report = run_copies(tasks)

        assert {target.manifests.resolve(tag).digest for tag in (V1, V2, Tag("latest"))} == {root.digest}
        assert recorded_target.count("put blob", Digest.of(b"layer")) == 1
        assert report.counts == {Outcome.MOVED: 3, Outcome.TAGGED: 3}

    def test_a_blob_just_copied_to_another_repository_is_mounted(
        self, source: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-077."""
        root = graphs.image(b"layer")
        catalog = MemoryCatalog("target.test")
        targets = [record_calls(catalog.repository(RepositoryName(name))) for name in ("a", "b", "c")]

        plan = plan_copies([task(source, recorded_target.repository, root.digest) for recorded_target in targets])
        report = plan.apply(jobs=8)

        stored = [
            sum(recorded_target.count("put blob", part.digest) for recorded_target in targets) for part in root.children
        ]
        assert stored == [1, 1]
        assert report.counts == {Outcome.MOVED: 5, Outcome.MOUNTED: 4}
        assert report.bytes_mounted == plan.bytes_to_mount == 2 * sum(part.size for part in root.children)

    def test_two_backends_with_the_same_name_are_separate_targets(self, source: Repository, graphs: Graphs) -> None:
        root = graphs.image(b"layer")
        targets = [MemoryCatalog().repository(RepositoryName("app")) for _ in range(2)]

        run_copies([task(source, target, root.digest) for target in targets])

        for target in targets:
            assert target.manifests.get(root.digest).content == root.content
            assert target.blobs.stat(Digest.of(b"layer")) == 5

    def test_tasks_are_requested_only_as_images_finish(
        self, source: Repository, target: Repository, graphs: Graphs
    ) -> None:
        root = graphs.image(b"layer")
        under_way = [0, 0]

        def tasks() -> Any:
            for number in range(40):
                under_way[0] += 1
                under_way[1] = max(under_way[1], under_way[0])
                yield task(source, target, root, Tag(f"v{number}"))

        def done(result: Any) -> None:
            under_way[0] -= result.node.kind is NodeKind.TAG

        run_copies(tasks(), jobs=3, images=2, on_result=done)

        assert under_way[1] <= 3
        assert len(list(target.manifests.tags())) == 40

    @pytest.mark.parametrize(("jobs", "images"), [(1, 1), (1, 8), (2, 1), (8, 8)])
    def test_no_number_of_jobs_deadlocks(self, source: Repository, graphs: Graphs, jobs: int, images: int) -> None:
        shared = graphs.image(b"shared")
        roots = [graphs.index(graphs.index(shared, graphs.image(b"%d" % number)), shared) for number in range(12)]
        catalog = MemoryCatalog("target.test")
        names = [RepositoryName("a"), RepositoryName("b")]
        targets = [catalog.repository(name) for name in names]

        with fail_after(60):
            run_copies(
                [task(source, target, root.digest) for root in roots for target in targets], jobs=jobs, images=images
            )

        for target in targets:
            assert all(target.manifests.get(root.digest).content == root.content for root in roots)

    def test_an_error_of_the_list_of_images_ends_the_run(self, source: Repository, target: Repository) -> None:
        def tasks() -> Any:
            raise Unavailable("no list")
            yield

        with pytest.raises(Unavailable, match="no list"):
            run_copies(tasks(), continue_on_error=True)

    def test_a_base_that_two_thousand_images_share_is_stored_once(
        self, source: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        catalog = MemoryCatalog("target.test")
        targets = [record_calls(catalog.repository(RepositoryName(f"app{number}"))) for number in range(20)]

        def tasks() -> Any:
            for number in range(2000):
                root = graphs.image(b"base", b"%d" % number)
                yield task(source, targets[number % 20].repository, root.digest)

        with fail_after(120):
            report = run_copies(tasks(), jobs=8, images=8)

        assert report.ok
        assert sum(recorded_target.count("put blob", Digest.of(b"base")) for recorded_target in targets) == 1
        assert [recorded_target.count("mount", Digest.of(b"base")) for recorded_target in targets].count(1) == 19
        # Each image has its own manifest and layer; base and configuration are shared.
        assert report.counts == {Outcome.MOVED: 4002, Outcome.MOUNTED: 38}

    def test_the_first_error_ends_the_run(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        roots = [graphs.image(b"%d" % number) for number in range(50)]
        recorded_source = record_calls(source)

        def fail(call: str, argument: str) -> None:
            if call == "open" and argument == Digest.of(b"3"):
                raise Unavailable("cut off")

        recorded_source.before = fail

        with pytest.raises(Unavailable) as caught:
            run_copies([task(recorded_source.repository, target, root.digest) for root in roots], jobs=1, images=1)

        assert caught.value.reference == source.at(Digest.of(b"3"))
        assert caught.value.operation == "run_copies"
        assert recorded_source.count("get", roots[5].digest) == 0

    @pytest.mark.parametrize("continues", [True, False])
    @pytest.mark.parametrize("jobs", [1, 4])
    def test_a_cancellation_ends_the_run_with_and_without_continue_on_error(
        self,
        source: Repository,
        target: Repository,
        graphs: Graphs,
        record_calls: RecordCalls,
        jobs: int,
        continues: bool,
    ) -> None:
        roots = [graphs.image(b"%d" % number) for number in range(50)]
        recorded_target = record_calls(target)

        with CancelScope() as scope, pytest.raises(Cancelled):
            recorded_target.before = lambda call, argument: scope.cancel() if call == "put blob" else None
            run_copies(
                [task(source, recorded_target.repository, root.digest) for root in roots],
                jobs=jobs,
                images=2,
                continue_on_error=continues,
            )

        assert len(recorded_target.writes) <= 2 * jobs + 2

    def test_a_cancellation_ends_the_wait_for_a_blocking_target(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"layer", b"other")
        recorded_target = record_calls(target)
        blocked, release = threading.Event(), threading.Event()

        def block(call: str, argument: str) -> None:
            if argument == Digest.of(b"layer"):
                blocked.set()
                release.wait(60)

        recorded_target.before = block
        with CancelScope() as scope:

            def cancel() -> None:
                blocked.wait(30)
                scope.cancel()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            began = time.monotonic()

            with pytest.raises(Cancelled):
                run_copies([task(source, recorded_target.repository, root.digest)], jobs=2)

            assert time.monotonic() - began < 10
            canceller.join(30)
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("registry-copy"):
                thread.join(30)


class TestContinueOnError:
    def test_an_error_ends_only_tasks_that_need_the_node(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        bad, good = graphs.image(b"bad"), graphs.image(b"good")
        root = graphs.index(bad, good)
        source.blobs.delete(Digest.of(b"bad"))

        report = run_copies([task(source, target, root, V1)], continue_on_error=True)

        outcomes = {(result.node.kind, result.node.digest): result.outcome for result in report.results}
        assert outcomes[NodeKind.BLOB, Digest.of(b"bad")] is Outcome.FAILED
        assert outcomes[NodeKind.MANIFEST, bad.digest] is Outcome.NOT_DONE
        assert outcomes[NodeKind.MANIFEST, good.digest] is Outcome.MOVED
        assert outcomes[NodeKind.MANIFEST, root.digest] is Outcome.NOT_DONE
        (failed,) = report.failed
        assert failed.failed_side is Side.SOURCE
        assert isinstance(failed.error, BlobNotFound)
        assert not report.ok
        assert str(target.at(Digest.of(b"bad"))) in str(report)
        assert outcomes[NodeKind.TAG, root.digest] is Outcome.NOT_DONE
        with pytest.raises(BlobNotFound):
            report.raise_first()
        with pytest.raises(ImageNotFound):
            target.manifests.resolve(V1)

    def test_each_tag_that_could_not_be_set_is_reported(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"layer")
        recorded_target = record_calls(target)

        def refuse(call: str, argument: str) -> None:
            if call == "put manifest":
                raise Unavailable("full")

        recorded_target.before = refuse

        report = run_copies(
            [
                task(source, recorded_target.repository, root, V1, V2),
                task(source, recorded_target.repository, root, Tag("v3")),
                task(source, recorded_target.repository, Tag("absent"), Tag("v4"), Tag("v5")),
            ],
            continue_on_error=True,
            jobs=1,
        )

        unsuccessful = {
            r.node.target: r.outcome for r in report.results if r.outcome in (Outcome.FAILED, Outcome.NOT_DONE)
        }
        assert unsuccessful == {
            target.at(root.digest): Outcome.FAILED,
            target.at(V1): Outcome.NOT_DONE,
            target.at(V2): Outcome.NOT_DONE,
            target.at(Tag("v3")): Outcome.NOT_DONE,
            target.at(Tag("v4")): Outcome.FAILED,
            target.at(Tag("v5")): Outcome.NOT_DONE,
        }

    def test_an_error_of_the_target_is_attributed_to_the_target(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        recorded_target = record_calls(target)

        def refuse(call: str, argument: str) -> None:
            if call == "put blob" and argument == Digest.of(b"layer"):
                raise Unavailable("full")

        recorded_target.before = refuse

        report = run_copies([task(source, recorded_target.repository, graphs.image(b"layer"))], continue_on_error=True)

        (failed,) = report.failed
        assert (failed.failed_side, failed.node.kind) == (Side.TARGET, NodeKind.BLOB)
        assert failed.error is not None
        assert (failed.error.operation, failed.error.reference) == ("run_copies", target.at(Digest.of(b"layer")))

    def test_a_failed_node_fails_for_all_tasks_that_need_it(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        roots = [graphs.image(b"gone", b"%d" % number) for number in range(3)]
        source.blobs.delete(Digest.of(b"gone"))
        recorded_source = record_calls(source)

        report = run_copies(
            [task(recorded_source.repository, target, root) for root in roots], continue_on_error=True, jobs=1
        )

        assert recorded_source.count("open", Digest.of(b"gone")) == 1
        assert [result.outcome for result in report.results].count(Outcome.NOT_DONE) == 3

    def test_an_interrupted_run_continues_with_the_missing_images(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        roots = [graphs.image(b"base", b"%d" % number) for number in range(10)]
        for number, root in enumerate(roots):
            source.manifests.put(root, tags=(Tag(f"v{number}"),))
        recorded_source = record_calls(source)

        def fail(call: str, argument: str) -> None:
            if argument == Digest.of(b"6"):
                raise Unavailable("cut off")

        recorded_source.before = fail
        tasks = [task(recorded_source.repository, target, Tag(f"v{number}"), Tag(f"v{number}")) for number in range(10)]
        with pytest.raises(Unavailable):
            run_copies(tasks, jobs=1, images=1)
        recorded_source.before = lambda call, argument: None
        recorded_source.calls.clear()

        report = run_copies(tasks, jobs=1, images=1)

        assert report.ok
        assert recorded_source.count("open", Digest.of(b"base")) == 0
        assert recorded_source.count("open") == 4
        assert len(list(target.manifests.tags())) == 10
