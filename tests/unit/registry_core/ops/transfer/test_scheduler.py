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
    Watch = Any

# The larger blob of an image is copied first: the copy of the base begins before that of any other layer.
BASE = b"the base of all of them" * 10
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PATIENCE = 30


class Gate:
    """Delays the first upload of the base until the other image has uploaded its own layer.

    Args:
        theirs: Layer to wait for.
        error: Error with which the delayed upload ends.
    """

    def __init__(self, theirs: bytes, error: Exception | None = None) -> None:
        self._theirs = Digest.of(theirs)
        self._error = error
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._is_first = True
        self.was_opened = False

    def __call__(self, call: str, about: str) -> None:
        if call != "put blob":
            return
        if about == self._theirs:
            self._opened.set()
        if about == Digest.of(BASE):
            with self._lock:
                first, self._is_first = self._is_first, False
            if first:
                self.was_opened = self._opened.wait(PATIENCE)
                if self._error is not None:
                    raise self._error


def test_a_manifest_waits_for_a_layer_that_another_image_moves(
    source: Repository, target: Repository, graphs: Graphs, watch: Watch
) -> None:
    """R-070."""
    one, two = graphs.image(BASE, b"1"), graphs.image(BASE, b"2")
    there, early, gate = watch(target), list[str](), Gate(b"2")

    def look(call: str, about: str) -> None:
        if call == "put manifest" and not gate_passed.is_set():
            early.append(about)
            hasty.set()
        gate(call, about)
        if call == "put blob" and about == Digest.of(BASE):
            # A task that does not wait has time to finish.
            hasty.wait(0.5)
            gate_passed.set()

    gate_passed, hasty = threading.Event(), threading.Event()
    there.before = look

    report = run_copies(
        [CopyTask(source=source, target=there.repository, reference=root) for root in (one, two)], jobs=4, images=2
    )

    assert gate.was_opened
    assert early == []
    assert report.ok
    assert there.count("put blob", Digest.of(BASE)) == 1


def test_two_names_for_the_type_of_one_layer_do_not_move_it_at_once(
    source: Repository, target: Repository, graphs: Graphs, watch: Watch
) -> None:
    one = graphs.image(BASE, b"1")
    layers = [graphs.entry(DOCKER_LAYER, BASE), graphs.entry(OCI_LAYER, b"2")]
    two = graphs.image(BASE, b"2", overrides={"layers": layers})
    there, gate = watch(target), Gate(b"2")
    there.before = gate

    run_copies(
        [CopyTask(source=source, target=there.repository, reference=root) for root in (one, two)], jobs=4, images=2
    )

    assert gate.was_opened
    assert there.count("put blob", Digest.of(BASE)) == 1


@pytest.mark.parametrize("error", [None, Unavailable("full")])
def test_a_layer_on_its_way_to_another_repository_is_waited_for(
    source: Repository, graphs: Graphs, watch: Watch, error: Exception | None
) -> None:
    """R-077: if the blob does not arrive there, each task copies it."""
    one, two = graphs.image(BASE, b"1"), graphs.image(BASE, b"2")
    catalog = MemoryCatalog("target.test")
    places, gate = [watch(catalog.repository(RepositoryName(name))) for name in ("a", "b")], Gate(b"2", error)
    for place in places:
        place.before = gate

    report = run_copies(
        [
            CopyTask(source=source, target=place.repository, reference=root)
            for place, root in zip(places, (one, two), strict=True)
        ],
        jobs=4,
        images=2,
        continue_on_error=True,
    )

    # Either of them may come first.
    assert gate.was_opened
    assert sorted(place.count("put blob", Digest.of(BASE)) for place in places) == ([0, 1] if error is None else [1, 1])
    arrived = [place.count("put manifest", root.digest) for place, root in zip(places, (one, two), strict=True)]
    assert sorted(arrived) == ([1, 1] if error is None else [0, 1])
    assert report.ok is (error is None)


def test_no_more_images_are_under_way_than_were_asked_for(
    source: Repository, target: Repository, graphs: Graphs, watch: Watch
) -> None:
    roots = [graphs.image(b"%d" % number) for number in range(6)]
    there, third = watch(target), threading.Event()
    asked: list[int] = []
    seen: list[int] = []

    def tasks() -> Any:
        for number, root in enumerate(roots):
            asked.append(number)
            if len(asked) > 2:
                third.set()
            yield CopyTask(source=source, target=there.repository, reference=root)

    def hold(call: str, about: str) -> None:
        if call == "put blob" and not seen:
            third.wait(0.3)
            seen.append(len(asked))

    there.before = hold

    run_copies(tasks(), jobs=8, images=2)

    assert seen[0] <= 2
    assert len(asked) == 6


def test_a_tag_is_asked_for_once(source: Repository, target: Repository, graphs: Graphs, watch: Watch) -> None:
    """R-012: moving the tag during the copy changes nothing."""
    first, later, tag = graphs.image(b"first"), graphs.image(b"later"), Tag("v1")
    source.manifests.put(first, tags=(tag,))
    here = watch(source)

    def move(call: str, about: str) -> None:
        if call == "get":
            source.manifests.put(later, tags=(tag,))

    here.before = move

    run_copies([CopyTask(source=here.repository, target=target, reference=tag, tags=(tag,))])

    assert target.manifests.resolve(tag).digest == first.digest
    assert [call for call in here.calls if call[1] == tag] == [("resolve", tag)]


def test_a_cancel_in_the_last_blob_is_no_failure_of_it(
    source: Repository, target: Repository, graphs: Graphs, watch: Watch
) -> None:
    there = watch(target)
    root = graphs.image(b"layer")
    task = CopyTask(source=source, target=there.repository, reference=root)
    results: list[Result] = []

    with CancelScope() as scope, pytest.raises(Cancelled):
        there.before = lambda call, about: scope.cancel() if call == "put manifest" else None
        run_copies([task], jobs=1, continue_on_error=True, on_result=results.append)

    assert [result.outcome for result in results] == [Outcome.MOVED, Outcome.MOVED]


def test_a_server_that_refuses_content_is_blamed_itself(
    source: Repository, target: Repository, graphs: Graphs, watch: Watch
) -> None:
    """R-076: the source may have returned wrong bytes."""
    there = watch(target)

    def refuse(call: str, about: str) -> None:
        if call == "put blob" and about == Digest.of(b"layer"):
            raise DigestMismatch("refused", transport=TransportError("400", status=400))

    there.before = refuse

    report = run_copies(
        [CopyTask(source=source, target=there.repository, reference=graphs.image(b"layer"))], continue_on_error=True
    )

    (failed,) = report.failed
    assert (failed.node.kind, failed.outcome, failed.failed_side) == (NodeKind.BLOB, Outcome.FAILED, Side.TARGET)
