"""Order of a copy: shared blobs are copied once, and a manifest is stored after its children."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import CancelScope
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import Cancelled, DigestMismatch, TransportError, Unavailable
from registry_core.ops.transfer.copy import run_copies
from registry_core.ops.transfer.options import CopyTask
from registry_core.ops.transfer.report import NodeKind, Outcome, Result, Side
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Any

# The larger blob of an image is copied first: the copy of the base begins before that of any other layer.
BASE = b"the base of all of them" * 10
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
TIMEOUT = 30


class DelayedUpload:
    """Delays the first upload of the base until the other image has uploaded its own layer.

    Args:
        other_layer: Layer to wait for.
        error: Error with which the delayed upload ends.
    """

    def __init__(self, other_layer: bytes, error: Exception | None = None) -> None:
        self._other_layer = Digest.of(other_layer)
        self._error = error
        self._lock = threading.Lock()
        self._other_uploaded = threading.Event()
        self._is_first = True
        self.other_was_uploaded = False

    def __call__(self, call: str, argument: str) -> None:
        if call != "put blob":
            return
        if argument == self._other_layer:
            self._other_uploaded.set()
        if argument == Digest.of(BASE):
            with self._lock:
                first, self._is_first = self._is_first, False
            if first:
                self.other_was_uploaded = self._other_uploaded.wait(TIMEOUT)
                if self._error is not None:
                    raise self._error


def test_a_manifest_waits_for_a_layer_that_another_task_copies(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    """R-070."""
    one, two = graphs.image(BASE, b"1"), graphs.image(BASE, b"2")
    recorded_target, early_manifests, delayed_upload = record_calls(target), list[str](), DelayedUpload(b"2")

    def hook(call: str, argument: str) -> None:
        if call == "put manifest" and not base_uploaded.is_set():
            early_manifests.append(argument)
            stored_early.set()
        delayed_upload(call, argument)
        if call == "put blob" and argument == Digest.of(BASE):
            # A task that does not wait has time to finish.
            stored_early.wait(0.5)
            base_uploaded.set()

    base_uploaded, stored_early = threading.Event(), threading.Event()
    recorded_target.before = hook

    report = run_copies(
        [CopyTask(source=source, target=recorded_target.repository, reference=root) for root in (one, two)],
        jobs=4,
        images=2,
    )

    assert delayed_upload.other_was_uploaded
    assert early_manifests == []
    assert report.ok
    assert recorded_target.count("put blob", Digest.of(BASE)) == 1


def test_a_layer_with_two_media_types_is_not_copied_twice_at_once(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    one = graphs.image(BASE, b"1")
    layers = [graphs.entry(DOCKER_LAYER, BASE), graphs.entry(OCI_LAYER, b"2")]
    two = graphs.image(BASE, b"2", overrides={"layers": layers})
    recorded_target, delayed_upload = record_calls(target), DelayedUpload(b"2")
    recorded_target.before = delayed_upload

    run_copies(
        [CopyTask(source=source, target=recorded_target.repository, reference=root) for root in (one, two)],
        jobs=4,
        images=2,
    )

    assert delayed_upload.other_was_uploaded
    assert recorded_target.count("put blob", Digest.of(BASE)) == 1


@pytest.mark.parametrize("error", [None, Unavailable("full")])
def test_a_task_waits_for_a_layer_that_is_being_copied_to_another_repository(
    source: Repository, graphs: Graphs, record_calls: RecordCalls, error: Exception | None
) -> None:
    """R-077: if the blob does not arrive there, each task copies it."""
    one, two = graphs.image(BASE, b"1"), graphs.image(BASE, b"2")
    catalog = MemoryCatalog("target.test")
    targets = [record_calls(catalog.repository(RepositoryName(name))) for name in ("a", "b")]
    delayed_upload = DelayedUpload(b"2", error)
    for recorded_target in targets:
        recorded_target.before = delayed_upload

    report = run_copies(
        [
            CopyTask(source=source, target=recorded_target.repository, reference=root)
            for recorded_target, root in zip(targets, (one, two), strict=True)
        ],
        jobs=4,
        images=2,
        continue_on_error=True,
    )

    # Either image may be copied first.
    assert delayed_upload.other_was_uploaded
    assert sorted(recorded_target.count("put blob", Digest.of(BASE)) for recorded_target in targets) == (
        [0, 1] if error is None else [1, 1]
    )
    arrived = [
        recorded_target.count("put manifest", root.digest)
        for recorded_target, root in zip(targets, (one, two), strict=True)
    ]
    assert sorted(arrived) == ([1, 1] if error is None else [0, 1])
    assert report.ok is (error is None)


def test_no_more_images_are_copied_at_once_than_requested(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    roots = [graphs.image(b"%d" % number) for number in range(6)]
    recorded_target, third = record_calls(target), threading.Event()
    requested: list[int] = []
    requested_at_upload: list[int] = []

    def tasks() -> Any:
        for number, root in enumerate(roots):
            requested.append(number)
            if len(requested) > 2:
                third.set()
            yield CopyTask(source=source, target=recorded_target.repository, reference=root)

    def delay_upload(call: str, argument: str) -> None:
        if call == "put blob" and not requested_at_upload:
            third.wait(0.3)
            requested_at_upload.append(len(requested))

    recorded_target.before = delay_upload

    run_copies(tasks(), jobs=8, images=2)

    assert requested_at_upload[0] <= 2
    assert len(requested) == 6


def test_a_tag_is_resolved_once(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    """R-012: moving the tag during the copy changes nothing."""
    first, later, tag = graphs.image(b"first"), graphs.image(b"later"), Tag("v1")
    source.manifests.put(first, tags=(tag,))
    recorded_source = record_calls(source)

    def move(call: str, argument: str) -> None:
        if call == "get":
            source.manifests.put(later, tags=(tag,))

    recorded_source.before = move

    run_copies([CopyTask(source=recorded_source.repository, target=target, reference=tag, tags=(tag,))])

    assert target.manifests.resolve(tag).digest == first.digest
    assert [call for call in recorded_source.calls if call[1] == tag] == [("resolve", tag)]


def test_a_cancellation_after_the_last_blob_is_not_its_failure(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    recorded_target = record_calls(target)
    root = graphs.image(b"layer")
    task = CopyTask(source=source, target=recorded_target.repository, reference=root)
    results: list[Result] = []

    with CancelScope() as scope, pytest.raises(Cancelled):
        recorded_target.before = lambda call, argument: scope.cancel() if call == "put manifest" else None
        run_copies([task], jobs=1, continue_on_error=True, on_result=results.append)

    assert [result.outcome for result in results] == [Outcome.MOVED, Outcome.MOVED]


def test_a_refusal_of_content_is_attributed_to_the_target(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    """R-076: the source may have returned wrong bytes."""
    recorded_target = record_calls(target)

    def refuse(call: str, argument: str) -> None:
        if call == "put blob" and argument == Digest.of(b"layer"):
            raise DigestMismatch("refused", transport=TransportError("400", status=400))

    recorded_target.before = refuse

    report = run_copies(
        [CopyTask(source=source, target=recorded_target.repository, reference=graphs.image(b"layer"))],
        continue_on_error=True,
    )

    (failed,) = report.failed
    assert (failed.node.kind, failed.outcome, failed.failed_side) == (NodeKind.BLOB, Outcome.FAILED, Side.TARGET)
