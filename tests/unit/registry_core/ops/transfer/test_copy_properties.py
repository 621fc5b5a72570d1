"""For any graph and number of jobs, the target has exactly the requested content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_adapters.memory import MemoryCatalog
from registry_core.cancellation import fail_after
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ImageNotFound
from registry_core.ops.transfer.copy import plan_copies, run_copies
from registry_core.ops.transfer.options import CopyTask
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any


@st.composite
def graph_shapes(draw: st.DrawFn) -> list[list[int]]:
    """The children of each manifest: layers of an image or, from the second on, earlier manifests of an index."""
    shape: list[list[int]] = []
    for number in range(draw(st.integers(1, 8))):
        earlier = draw(st.lists(st.integers(0, number - 1), max_size=4)) if number else []
        shape.append(earlier if earlier else [-1 - layer for layer in draw(st.lists(st.integers(0, 5), max_size=4))])
    return shape


def build_graph(graphs: Graphs, shape: list[list[int]]) -> list[RawManifest]:
    made: list[RawManifest] = []
    for number, parts in enumerate(shape):
        if parts and parts[0] >= 0:
            made.append(graphs.index(*(made[part] for part in parts), annotations={"n": str(number)}))
        else:
            made.append(graphs.image(*(b"layer %d" % part for part in parts), annotations={"n": str(number)}))
    return made


def reachable(shape: list[list[int]], roots: list[int]) -> set[int]:
    found: set[int] = set()
    queue = list(roots)
    while queue:
        number = queue.pop()
        if number not in found:
            found.add(number)
            queue += [part for part in shape[number] if part >= 0]
    return found


def is_stored(repository: Repository, manifest: RawManifest) -> bool:
    try:
        return repository.manifests.get(manifest.digest).content == manifest.content
    except ImageNotFound:
        return False


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=graph_shapes(),
    data=st.data(),
    jobs=st.integers(1, 8),
    images=st.integers(1, 4),
    planned=st.booleans(),
    target_count=st.integers(1, 3),
)
def test_the_target_has_exactly_the_requested_content(
    graphs_of: Any,
    shape: list[list[int]],
    data: st.DataObject,
    jobs: int,
    images: int,
    planned: bool,
    target_count: int,
) -> None:
    source = MemoryCatalog("source.test").repository(RepositoryName("app"))
    catalog = MemoryCatalog("target.test")
    targets = [catalog.repository(RepositoryName(f"copy{number}")) for number in range(target_count)]
    made = build_graph(graphs_of(source), shape)
    roots = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=5))
    tasks = [
        CopyTask(source=source, target=target, reference=made[root].digest, tags=(Tag(f"t{position}"),))
        for position, root in enumerate(roots)
        for target in targets
    ]

    with fail_after(60):
        if planned:
            report = plan_copies(tasks, jobs=jobs, images=images).apply(jobs=jobs, images=images)
        else:
            report = run_copies(tasks, jobs=jobs, images=images)

    expected = reachable(shape, roots)
    assert report.ok
    for target in targets:
        assert {number for number, manifest in enumerate(made) if is_stored(target, manifest)} >= expected
        for number in expected:
            for part in made[number].children:
                if not made[number].is_index:
                    assert target.blobs.stat(part.digest) == part.size
        for position, root in enumerate(roots):
            assert target.manifests.resolve(Tag(f"t{position}")).digest == made[root].digest
    unrequested = {made[number].digest for number in range(len(made)) if number not in expected} - {
        made[number].digest for number in expected
    }
    assert not any(
        is_stored(target, manifest) for target in targets for manifest in made if manifest.digest in unrequested
    )
    nodes = [(result.node.kind, result.node.target) for result in report.results]
    assert len(nodes) == len(set(nodes))
