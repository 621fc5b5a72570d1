"""Wrong claims of one image do not affect another image with correct claims about the same content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters.memory import MemoryCatalog
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, OCI_LAYER
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ImageNotFound, IntegrityError, InvalidDocument, SizeMismatch
from registry_core.ops.transfer.copy import plan_copies, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask
from registry_core.ops.transfer.report import NodeKind, Side
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any
    RecordCalls = Any

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
BASE = b"the base of both"


def image_of(graphs: Graphs, layer: bytes, **claims: object) -> RawManifest:
    """An image of one layer and the base, with claims about the base that replace the correct ones."""
    layers = [graphs.entry(OCI_LAYER, layer), graphs.entry(OCI_LAYER, BASE) | claims]
    made: RawManifest = graphs.image(layer, BASE, overrides={"layers": layers})
    return made


def index_of(graphs: Graphs, child: RawManifest, **claims: object) -> RawManifest:
    entry = graphs.entry(child.media_type, child.content) | claims
    content = strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    made: RawManifest = graphs.store(RawManifest(OCI_INDEX, content))
    return made


def is_stored(repository: Repository, manifest: RawManifest) -> bool:
    try:
        repository.manifests.resolve(manifest.digest)
    except ImageNotFound:
        return False
    return True


@pytest.mark.parametrize("jobs", [1, 8])
@pytest.mark.parametrize("wrong_first", [True, False])
@pytest.mark.parametrize("claims", [{"size": 5}, {"size": 500}, {"data": "bm90IHRoZSBiYXNl", "size": 12}])
def test_a_wrong_claim_about_a_layer_fails_only_the_image_that_makes_it(
    source: Repository, target: Repository, graphs: Graphs, claims: dict[str, object], wrong_first: bool, jobs: int
) -> None:
    """R-004: a blob that was copied before is checked against the second claim, too."""
    wrong, correct = image_of(graphs, b"wrong", **claims), image_of(graphs, b"correct")
    roots = [wrong, correct] if wrong_first else [correct, wrong]

    report = run_copies(
        [CopyTask(source=source, target=target, reference=root) for root in roots], continue_on_error=True, jobs=jobs
    )

    assert (is_stored(target, correct), is_stored(target, wrong)) == (True, False)
    (failed,) = report.failed
    assert isinstance(failed.error, IntegrityError)
    assert (failed.node.digest, failed.node.size, failed.failed_side) == (Digest.of(BASE), claims["size"], Side.SOURCE)


@pytest.mark.parametrize("wrong_first", [True, False])
@pytest.mark.parametrize(
    ("claims", "error"), [({"size": 5}, SizeMismatch), ({"mediaType": OCI_INDEX}, InvalidDocument)]
)
def test_a_wrong_claim_about_a_manifest_fails_only_the_index_that_makes_it(
    source: Repository,
    target: Repository,
    graphs: Graphs,
    claims: dict[str, object],
    error: type[Exception],
    wrong_first: bool,
) -> None:
    child = graphs.image(b"layer")
    source.manifests.put(child)
    wrong, correct = index_of(graphs, child, **claims), index_of(graphs, child, annotations={"a": "b"})
    roots = [wrong, correct] if wrong_first else [correct, wrong]

    report = run_copies(
        [CopyTask(source=source, target=target, reference=root) for root in roots],
        continue_on_error=True,
        jobs=1,
        images=2,
    )

    assert is_stored(target, correct)
    assert is_stored(target, child)
    if wrong_first:
        assert isinstance(report.failed[0].error, error)
        assert not is_stored(target, wrong)


@pytest.mark.parametrize("jobs", [1, 8])
def test_a_layer_with_two_media_types_is_copied_once(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls, jobs: int
) -> None:
    """A conversion from Docker's media types to those of OCI keeps the layers."""
    roots = [image_of(graphs, b"1"), image_of(graphs, b"2", mediaType=DOCKER_LAYER), image_of(graphs, b"3")]
    recorded_target = record_calls(target)
    tasks = [CopyTask(source=source, target=recorded_target.repository, reference=root) for root in roots]

    plan = plan_copies(tasks)
    report = run_copies(tasks, jobs=jobs)

    assert recorded_target.count("put blob", Digest.of(BASE)) == 1
    assert [node.digest for node in plan.nodes].count(Digest.of(BASE)) == 1
    assert report.bytes_moved == plan.bytes_to_move


@pytest.mark.parametrize("jobs", [1, 8])
def test_a_tagged_image_does_not_depend_on_an_index_with_wrong_claims(
    source: Repository, target: Repository, graphs: Graphs, jobs: int
) -> None:
    child = graphs.image(b"layer")
    wrong = index_of(graphs, child, size=5)

    run_copies(
        [CopyTask(source=source, target=target, reference=root, tags=(Tag("v1"),)) for root in (wrong, child)],
        continue_on_error=True,
        jobs=jobs,
    )

    assert target.manifests.resolve(Tag("v1")).digest == child.digest


@pytest.mark.parametrize("wrong_first", [True, False])
def test_a_wrong_claim_in_one_repository_does_not_fail_another_that_waits_for_the_blob(
    source: Repository, graphs: Graphs, wrong_first: bool
) -> None:
    catalog = MemoryCatalog("target.test")
    targets = [catalog.repository(RepositoryName(name)) for name in ("a", "b")]
    wrong, correct = image_of(graphs, b"wrong", size=5), image_of(graphs, b"correct")
    pairs = [(targets[0], wrong), (targets[1], correct)]

    report = run_copies(
        [
            CopyTask(source=source, target=target, reference=root)
            for target, root in (pairs if wrong_first else reversed(pairs))
        ],
        continue_on_error=True,
        jobs=1,
    )

    assert is_stored(targets[1], correct)
    assert not is_stored(targets[0], wrong)
    assert [result.node.kind for result in report.failed] == [NodeKind.BLOB]


def test_a_plan_detects_a_wrong_claim_about_an_existing_blob(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    wrong, correct = image_of(graphs, b"wrong", size=5), image_of(graphs, b"correct")
    run_copies([CopyTask(source=source, target=target, reference=correct)])

    with pytest.raises(SizeMismatch) as caught:
        plan_copies([CopyTask(source=source, target=target, reference=wrong)])

    assert caught.value.reference == source.at(Digest.of(BASE))


def test_a_child_listed_as_an_absent_referrer_is_still_required(
    source: Repository, target: Repository, graphs: Graphs, record_calls: RecordCalls
) -> None:
    """R-224: entries of deleted manifests are skipped, and no index is stored without its children."""
    subject = graphs.image(b"subject")
    signature = graphs.image(b"lost", subject=graphs.entry(subject.media_type, subject.content))
    wrong = index_of(graphs, signature)
    recorded_source = record_calls(source)

    def raise_not_found(call: str, argument: str) -> None:
        if call == "get" and argument == signature.digest:
            raise ImageNotFound("deleted")

    recorded_source.before = raise_not_found

    report = run_copies(
        [CopyTask(source=recorded_source.repository, target=target, reference=root) for root in (subject, wrong)],
        options=CopyOptions(referrers=True),
        continue_on_error=True,
        jobs=1,
        images=1,
    )

    assert (is_stored(target, subject), is_stored(target, wrong)) == (True, False)
    assert [type(result.error) for result in report.failed] == [ImageNotFound]
