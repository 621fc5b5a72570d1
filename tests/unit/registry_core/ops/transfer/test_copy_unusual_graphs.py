"""Unusual and malicious graphs of manifests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.cancellation import fail_after
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import TooLarge, Unsupported
from registry_core.ops.manifests import DEPTH_LIMIT
from registry_core.ops.transfer.copy import plan_copies, run_copies
from registry_core.ops.transfer.options import CopyTask
from registry_core.ops.transfer.report import NodeKind, Side
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Any

SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
V1 = Tag("v1")


def index_of(repository: Repository, entries: list[dict[str, object]]) -> RawManifest:
    raw = RawManifest(OCI_INDEX, strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    repository.manifests.put(raw)
    return raw


def test_each_image_of_an_index_with_thousands_of_entries_is_copied_once(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    """R-024: 6,000 entries of 2,000 different images."""
    images = [graphs.image(b"base", annotations={"n": str(number)}) for number in range(2000)]
    entries = [graphs.entry(image.media_type, image.content) for image in images for _ in range(3)]
    root = index_of(source, entries)
    recorded_target = record_calls(target)

    with fail_after(120):
        report = run_copies(
            [CopyTask(source=source, target=recorded_target.repository, reference=root, tags=(V1,))], jobs=2
        )

    assert report.ok
    assert recorded_target.count("put manifest") == 2001
    assert recorded_target.count("put blob") == 2
    assert target.manifests.resolve(V1).digest == root.digest


def test_an_index_with_too_many_entries_is_refused(source: Repository, target: Repository) -> None:
    """R-024."""
    entries: list[dict[str, object]] = [
        {"mediaType": OCI_MANIFEST, "digest": Digest.of(b"%d" % number), "size": 1} for number in range(10_001)
    ]
    root = index_of(source, entries)

    with pytest.raises(TooLarge):
        plan_copies([CopyTask(source=source, target=target, reference=root)], continue_on_error=False, jobs=1)


@pytest.mark.parametrize("jobs", [1, 4])
def test_nested_indexes_are_followed_up_to_a_limit(
    source: Repository, target: Repository, graphs: Graphs, jobs: int
) -> None:
    """R-024."""
    at_limit = graphs.image(b"deep")
    for _ in range(DEPTH_LIMIT - 1):
        at_limit = graphs.index(at_limit)
    beyond_limit = graphs.index(at_limit)

    report = run_copies(
        [CopyTask(source=source, target=target, reference=root, tags=(V1,)) for root in (at_limit, beyond_limit)],
        continue_on_error=True,
        jobs=jobs,
    )

    assert target.manifests.get(at_limit.digest).content == at_limit.content
    assert [type(result.error) for result in report.failed] in ([], [TooLarge])


def test_a_schema_1_manifest_is_refused_and_the_others_are_copied(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    """R-028."""
    entry = {"mediaType": SCHEMA1, "digest": Digest.of(b"old"), "size": 3}
    old, good = index_of(source, [entry]), graphs.image(b"good")
    roots = [(old, Tag("old")), (good, Tag("good"))]

    report = run_copies(
        [CopyTask(source=source, target=target, reference=root, tags=(tag,)) for root, tag in roots],
        continue_on_error=True,
    )

    assert list(target.manifests.tags()) == ["good"]
    assert {result.failed_side for result in report.failed} == {Side.SOURCE}
    assert any(isinstance(result.error, Unsupported | LookupError) for result in report.failed)


def test_tags_that_differ_only_by_case_are_separate_in_a_layout(
    source: Repository, graphs: Graphs, tmp_path: Path
) -> None:
    tags = [Tag("Release"), Tag("release"), Tag("RELEASE")]
    for tag in tags:
        source.manifests.put(graphs.image(tag.encode()), tags=(tag,))
    target = LayoutCatalog(tmp_path).repository(RepositoryName("app"))

    run_copies([CopyTask(source=source, target=target, reference=tag, tags=(tag,)) for tag in tags])

    assert {target.manifests.resolve(tag).digest for tag in tags} == {
        source.manifests.resolve(tag).digest for tag in tags
    }


def test_a_repository_copied_onto_itself_copies_no_blob(
    source: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    root = graphs.index(graphs.image(b"1"), graphs.image(b"2"))
    source.manifests.put(root, tags=(V1,))
    recorded_source = record_calls(source)

    report = run_copies(
        [
            CopyTask(
                source=recorded_source.repository, target=recorded_source.repository, reference=V1, tags=(V1, Tag("v2"))
            )
        ]
    )

    assert recorded_source.count("put blob") == 0
    assert report.bytes_moved == 0
    assert source.manifests.resolve(Tag("v2")).digest == root.digest


def test_a_slow_iterator_of_tasks_does_not_delay_earlier_tasks(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    roots = [graphs.image(b"%d" % number) for number in range(4)]
    copied = [threading.Event() for _ in roots]
    in_time = []

    def tasks() -> Any:
        for number, root in enumerate(roots):
            if number:
                in_time.append(copied[number - 1].wait(30))
            yield CopyTask(source=source, target=target, reference=root, tags=(Tag(f"v{number}"),))

    def results(result: Any) -> None:
        if result.node.kind is NodeKind.TAG:
            copied[int(result.node.target[-1])].set()

    report = run_copies(tasks(), jobs=2, on_result=results)

    assert report.ok
    assert in_time == [True, True, True]


def test_a_manifest_of_unknown_type_in_the_source_is_a_manifest_in_the_target(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    """R-027."""
    unknown = RawManifest("application/vnd.example.thing+json", b'{"schemaVersion":2,"thing":true}')
    source.manifests.put(unknown)
    root = index_of(source, [graphs.entry(unknown.media_type, unknown.content)])

    report = run_copies([CopyTask(source=source, target=target, reference=root)])

    assert target.manifests.get(unknown.digest).content == unknown.content
    assert [result.node.kind for result in report.results] == [NodeKind.MANIFEST, NodeKind.MANIFEST]
