"""Look-ups in the target before a write, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    Forbidden,
    ImageNotFound,
    InvalidDocument,
    NotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    RepositoryNotFound,
    ServerError,
    SizeMismatch,
    TLSError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from registry_core.ops.transfer.copy import copy, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import Action
from registry_core.ops.transfer.target import is_inconclusive
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Callable[..., Any]

V1 = Tag("v1")

FAILED = [
    ServerError("500", status=500),
    ServerError("501", status=501),
    Unavailable("502", status=502),
    Unavailable("503", status=503),
    Unavailable("504", status=504),
    Unavailable("408", status=408),
    RateLimited("the pull limit is reached", status=429),
]
REFUSED = [
    ProtocolError("412", status=412),
    ProtocolError("a success status that means nothing", status=204),
    ProtocolError("the response is not valid HTTP"),
    Forbidden("403", transport=ProtocolError("403", status=403)),
    Forbidden("refused by policy", transport=ProtocolError("412", status=412)),
    Unsupported("405", transport=ProtocolError("405", status=405)),
    RepositoryNotFound("404", transport=ProtocolError("404", status=404)),
    DigestMismatch("another digest"),
    InvalidDocument("a login page"),
    TooLarge("an endless login page"),
]
INCONCLUSIVE = [*FAILED, *REFUSED]
CONCLUSIVE = [
    Unavailable("connection refused"),
    TLSError("the certificate is not trusted"),
    Unauthorized("401", transport=ProtocolError("401", status=401)),
    Cancelled("stop"),
    DeadlineExceeded("late"),
]


@pytest.mark.parametrize("error", INCONCLUSIVE, ids=str)
def test_an_answer_that_says_nothing_about_the_content_is_inconclusive(error: RegistryError) -> None:
    """R-078."""
    assert is_inconclusive(error)


@pytest.mark.parametrize("error", CONCLUSIVE, ids=str)
def test_an_error_that_a_write_would_meet_as_well_is_not_inconclusive(error: RegistryError) -> None:
    """R-078."""
    assert not is_inconclusive(error)


def refusing(record_calls: RecordCalls, repository: Repository, error: RegistryError, *calls: str) -> Any:
    """A repository that raises an error from some calls."""
    recorded = record_calls(repository)

    def refuse(call: str, argument: str) -> None:
        if call in calls:
            raise error

    recorded.before = refuse
    return recorded


class TestLookUps:
    @pytest.mark.parametrize("error", INCONCLUSIVE, ids=str)
    @pytest.mark.parametrize("call", ["resolve", "stat"])
    @pytest.mark.parametrize("by_tag", [False, True])
    def test_content_is_stored_without_a_conclusive_look_up(
        self,
        source: Repository,
        target: Repository,
        graphs: Graphs,
        record_calls: RecordCalls,
        error: RegistryError,
        call: str,
        by_tag: bool,
    ) -> None:
        """R-078: a copy by tag looks up the tags of the target as well."""
        root = graphs.index(graphs.image(b"1"), graphs.image(b"2"))
        source.manifests.put(root, tags=[V1])
        recorded = refusing(record_calls, target, error, call)

        copy(source, recorded.repository, V1 if by_tag else root.digest, tags=[V1])

        assert target.manifests.resolve(V1).digest == root.digest
        assert target.blobs.stat(Digest.of(b"1")) == 1

    @pytest.mark.parametrize("error", CONCLUSIVE, ids=str)
    @pytest.mark.parametrize("call", ["resolve", "stat"])
    def test_other_errors_of_a_look_up_are_raised(
        self,
        source: Repository,
        target: Repository,
        graphs: Graphs,
        record_calls: RecordCalls,
        error: RegistryError,
        call: str,
    ) -> None:
        """R-078."""
        root = graphs.image(b"1")
        recorded = refusing(record_calls, target, error, call)

        with pytest.raises(type(error)):
            copy(source, recorded.repository, root.digest, tags=[V1])

        assert recorded.writes == []

    @pytest.mark.parametrize("error", FAILED, ids=str)
    @pytest.mark.parametrize("call", ["resolve", "stat"])
    def test_a_run_stops_looking_up_what_the_registry_fails_to_answer(
        self,
        source: Repository,
        target: Repository,
        graphs: Graphs,
        record_calls: RecordCalls,
        error: RegistryError,
        call: str,
    ) -> None:
        """R-078: the backend has waited between its attempts at each of them."""
        images = [graphs.image(b"%d" % number) for number in range(9)]
        recorded = refusing(record_calls, target, error, call)
        tasks = [CopyTask(source=source, target=recorded.repository, reference=each.digest) for each in images]

        report = run_copies(tasks, jobs=1)

        assert report.ok
        assert all(target.manifests.get(each.digest).content == each.content for each in images)
        assert recorded.count(call) == 3
        assert recorded.count("stat" if call == "resolve" else "resolve") >= len(images)

    @pytest.mark.parametrize("tags", [1, 9])
    def test_a_run_stops_looking_up_tags_as_well(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, tags: int
    ) -> None:
        """R-078."""
        root = graphs.image(b"1")
        source.manifests.put(root, tags=[V1])
        names = [f"v{number}" for number in range(tags)]
        recorded = refusing(record_calls, target, ServerError("500", status=500), "resolve")

        run_copies([CopyTask(source=source, target=recorded.repository, reference=V1, tags=names)])

        assert {target.manifests.resolve(Tag(name)).digest for name in names} == {root.digest}
        # One of them is the look-up of the manifest.
        assert recorded.count("resolve") == min(tags, 3) + 1

    @pytest.mark.parametrize("error", REFUSED, ids=str)
    def test_a_run_goes_on_looking_up_after_a_refusal(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, error: RegistryError
    ) -> None:
        """R-078: it costs no pauses, and may concern one image only."""
        images = [graphs.image(b"%d" % number) for number in range(5)]
        recorded = refusing(record_calls, target, error, "resolve")
        tasks = [CopyTask(source=source, target=recorded.repository, reference=each.digest) for each in images]

        run_copies(tasks, jobs=1)

        assert recorded.count("resolve") == len(images)

    @pytest.mark.parametrize("exists", [False, True])
    def test_a_look_up_that_is_answered_ends_a_row_of_failures(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, exists: bool
    ) -> None:
        """R-078: failures now and then do not end the look-ups of a long run."""
        images = [graphs.image(b"%d" % number) for number in range(9)]
        for each in images if exists else ():
            copy(source, target, each.digest)
        recorded = record_calls(target)

        def fail_twice_of_three(call: str, argument: str) -> None:
            if call == "resolve" and recorded.count("resolve") % 3:
                raise ServerError("500", status=500)

        recorded.before = fail_twice_of_three
        tasks = [CopyTask(source=source, target=recorded.repository, reference=each.digest) for each in images]

        run_copies(tasks, jobs=1)

        assert recorded.count("resolve") == len(images)

    def test_a_plan_moves_what_could_not_be_looked_up(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-078."""
        root = graphs.image(b"1")
        copy(source, target, root.digest, tags=[V1])
        recorded = refusing(record_calls, target, ServerError("500", status=500), "resolve", "stat")

        plan = plan_copy(source, recorded.repository, root.digest, tags=[V1])

        assert {node.action for node in plan.nodes} == {Action.MOVE, Action.TAG}

    @pytest.mark.parametrize("by_tag", [False, True])
    def test_a_tag_that_must_not_be_overwritten_has_to_be_looked_up(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, by_tag: bool
    ) -> None:
        """R-078: without the look-up, the tag of another image could be moved."""
        root = graphs.image(b"1")
        source.manifests.put(root, tags=[V1])
        recorded = refusing(record_calls, target, ServerError("500", status=500), "resolve")
        options = CopyOptions(overwrite=False)

        with pytest.raises(ServerError):
            copy(source, recorded.repository, V1 if by_tag else root.digest, tags=[V1], options=options)

        assert recorded.writes == []

    def test_a_refused_mount_candidate_is_uploaded_without_a_look_up(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-077, R-078."""
        root = graphs.image(b"1")
        recorded = refusing(record_calls, target, Forbidden("403"), "stat", "resolve")

        copy(source, recorded.repository, root.digest)

        assert recorded.count("put blob") == 2


class TestSourceLookUps:
    @pytest.mark.parametrize("error", [each for each in INCONCLUSIVE if not isinstance(each, NotFound)], ids=str)
    def test_a_tag_of_the_source_is_read_where_it_cannot_be_looked_up(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, error: RegistryError
    ) -> None:
        """R-078: a mirror looks tags up to save reading their manifests."""
        root = graphs.image(b"1")
        source.manifests.put(root, tags=[V1])
        recorded = refusing(record_calls, source, error, "resolve")

        report = run_copies([CopyTask(source=recorded.repository, target=target, reference=V1, tags=[V1])])

        assert report.ok
        assert target.manifests.resolve(V1).digest == root.digest

    @pytest.mark.parametrize("error", [*CONCLUSIVE, ImageNotFound("404")], ids=str)
    def test_other_errors_of_the_source_are_raised(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, error: RegistryError
    ) -> None:
        recorded = refusing(record_calls, source, error, "resolve")
        task = CopyTask(source=recorded.repository, target=target, reference=V1, tags=[V1])

        with pytest.raises(type(error)):
            run_copies([task])

        assert recorded.count("get") == 0


class TestSizes:
    def test_a_target_with_another_size_is_written_where_the_source_cannot_be_asked(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-078: the size of a login page, for example."""
        root = graphs.image(b"123")
        recorded_source = refusing(record_calls, source, ServerError("500", status=500), "stat")
        recorded = record_calls(target)
        inner = recorded.repository.blobs
        inner.stat = lambda digest: 54

        copy(recorded_source.repository, recorded.repository, root.digest)

        assert target.blobs.stat(Digest.of(b"123")) == 3

    def test_a_source_without_the_blob_is_an_error(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        root = graphs.image(b"123")
        recorded_source = refusing(record_calls, source, BlobNotFound("404"), "stat", "open")
        recorded = record_calls(target)
        recorded.repository.blobs.stat = lambda digest: 54

        with pytest.raises(BlobNotFound):
            copy(recorded_source.repository, recorded.repository, root.digest)

    def test_a_source_with_another_size_is_an_error(
        self, source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
    ) -> None:
        """R-004."""
        root = graphs.image(b"123")
        recorded_source, recorded = record_calls(source), record_calls(target)
        recorded_source.repository.blobs.stat = lambda digest: 54
        recorded.repository.blobs.stat = lambda digest: 54

        with pytest.raises(SizeMismatch):
            copy(recorded_source.repository, recorded.repository, root.digest)

        with pytest.raises(ImageNotFound):
            target.manifests.resolve(root.digest)
