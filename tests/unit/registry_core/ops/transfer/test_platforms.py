"""Copying selected platforms of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import BlobNotFound, ImageNotFound, PlatformNotFound
from registry_core.ops.transfer.copy import copy, plan_copies, plan_copy, run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask, IndexMode
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}
S390X = {"os": "linux", "architecture": "s390x"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def options_for(*platforms: str, mode: IndexMode = IndexMode.REWRITTEN) -> CopyOptions:
    return CopyOptions(platforms=platforms, index_mode=mode)


def is_stored(repository: Repository, manifest: RawManifest) -> bool:
    try:
        repository.manifests.resolve(manifest.digest)
    except ImageNotFound:
        return False
    return True


def test_a_rewritten_index_lists_selected_platforms_and_keeps_unknown_fields(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    """R-027: fields of the index and of its entries."""
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64")
    entries = [
        graphs.entry(one.media_type, one.content, platform=AMD64, vendor={"a": 1}),
        graphs.entry(two.media_type, two.content, platform=ARM64),
    ]
    root = graphs.index(manifests=entries, annotations={"k": "v"}, vendor=[1])

    copied = copy(source, target, root.digest, tags=["v1"], options=options_for("linux/amd64"))

    found = target.manifests.get(copied.digest)
    assert copied.digest != root.digest
    assert found.mapping == {**root.mapping, "manifests": [entries[0]]}
    assert not is_stored(target, two)
    with pytest.raises(BlobNotFound):
        target.blobs.stat(Digest.of(b"arm64"))


def test_a_sparse_index_keeps_its_bytes(source: Repository, target: Repository, graphs: Graphs) -> None:
    """R-026."""
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64")
    root = graphs.index(one, two, platforms=[AMD64, ARM64])

    copied = copy(source, target, root.digest, options=options_for("linux/arm64", mode=IndexMode.SPARSE))

    assert copied == root.descriptor
    assert target.manifests.get(root.digest).content == root.content
    assert (is_stored(target, one), is_stored(target, two)) == (False, True)


def test_an_existing_sparse_index_gains_platforms(source: Repository, target: Repository, graphs: Graphs) -> None:
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64")
    root = graphs.index(one, two, platforms=[AMD64, ARM64])
    source.manifests.put(root, tags=(Tag("v1"),))
    tags = (Tag("v1"),)
    copy(source, target, Tag("v1"), tags=tags, options=options_for("linux/arm64", mode=IndexMode.SPARSE))

    copy(source, target, Tag("v1"), tags=tags, options=options_for("linux/amd64", mode=IndexMode.SPARSE))

    assert (is_stored(target, one), is_stored(target, two)) == (True, True)


def test_missing_images_of_a_tagged_sparse_index_are_copied(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64")
    root = graphs.index(one, two, platforms=[AMD64, ARM64])
    source.manifests.put(root, tags=(Tag("v1"),))
    tasks = [CopyTask(source=source, target=target, reference=Tag("v1"), tags=(Tag("v1"),))]
    run_copies(tasks, options=options_for("linux/arm64", mode=IndexMode.SPARSE))

    plan = plan_copies(tasks, options=options_for("linux/amd64", mode=IndexMode.SPARSE))
    report = plan.apply()

    assert Digest.of(b"amd64") in {node.digest for node in plan.nodes}
    assert report.ok
    assert (is_stored(target, one), is_stored(target, two)) == (True, True)


def test_selecting_all_platforms_leaves_the_index_unchanged(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    root = graphs.index(graphs.image(b"1"), graphs.image(b"2"), platforms=[AMD64, ARM64])

    copied = copy(source, target, root.digest, options=options_for("linux/arm64", "linux/amd64", "linux/riscv64"))

    assert copied.digest == root.digest


def test_attestations_are_copied_with_their_images(source: Repository, target: Repository, graphs: Graphs) -> None:
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64")
    attestations = [graphs.image(b"of amd64"), graphs.image(b"of arm64")]
    entries = [
        graphs.entry(image.media_type, image.content, platform=platform)
        for image, platform in ((one, AMD64), (two, ARM64))
    ] + [
        graphs.entry(
            each.media_type,
            each.content,
            platform=UNKNOWN,
            annotations={
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": str(image.digest),
            },
        )
        for each, image in zip(attestations, (one, two), strict=True)
    ]
    root = graphs.index(manifests=entries)

    copied = copy(source, target, root.digest, options=options_for("linux/arm64"))

    assert target.manifests.get(copied.digest).mapping["manifests"] == [entries[1], entries[3]]
    assert [is_stored(target, each) for each in (one, two, *attestations)] == [False, True, False, True]


@pytest.mark.parametrize("mode", IndexMode)
def test_nested_indexes_are_reduced_too(
    source: Repository, target: Repository, graphs: Graphs, mode: IndexMode
) -> None:
    """R-024."""
    one, two, three = graphs.image(b"1"), graphs.image(b"2"), graphs.image(b"3")
    inner = graphs.index(one, two, platforms=[AMD64, ARM64])
    other = graphs.index(three, platforms=[S390X])
    root = graphs.index(inner, other)

    copied = copy(source, target, root.digest, options=options_for("linux/arm64", mode=mode))

    top = target.manifests.get(copied.digest)
    below = target.manifests.get(top.children[0].digest)
    assert [is_stored(target, each) for each in (one, two, three, other)] == [False, True, False, False]
    if mode is IndexMode.SPARSE:
        assert (top.content, below.content) == (root.content, inner.content)
    else:
        assert len(top.children) == 1
        assert top.children[0].size == len(below.content)
        assert [entry.digest for entry in below.children] == [two.digest]


def test_the_platform_of_an_entry_without_one_is_read_from_its_configuration(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    one = graphs.image(b"1", config=b'{"os":"linux","architecture":"s390x"}')
    two = graphs.image(b"2", config=b'{"os":"linux","architecture":"arm64"}')
    root = graphs.index(one, two)

    copy(source, target, root.digest, options=options_for("linux/arm64"))

    assert (is_stored(target, one), is_stored(target, two)) == (False, True)


def test_without_an_exact_match_a_compatible_platform_is_selected(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    five, six = graphs.image(b"5"), graphs.image(b"6")
    arm = {"os": "linux", "architecture": "arm"}
    root = graphs.index(five, six, platforms=[{**arm, "variant": "v5"}, {**arm, "variant": "v6"}])

    copy(source, target, root.digest, options=options_for("linux/arm/v7"))

    assert (is_stored(target, five), is_stored(target, six)) == (False, True)


def test_every_version_of_windows_is_selected_unless_one_is_named(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    windows = {"os": "windows", "architecture": "amd64"}
    images = [graphs.image(b"2019"), graphs.image(b"2022")]
    platforms = [{**windows, "os.version": "10.0.17763.1"}, {**windows, "os.version": "10.0.20348.1"}]
    root = graphs.index(*images, platforms=platforms)

    whole_index = copy(source, target, root.digest, options=options_for("windows/amd64"))
    one = copy(source, target, root.digest, options=options_for("windows/amd64,osver=10.0.20348"))

    assert whole_index.digest == root.digest
    assert [entry.digest for entry in target.manifests.get(one.digest).children] == [images[1].digest]


def test_an_error_lists_the_available_platforms(source: Repository, target: Repository, graphs: Graphs) -> None:
    root = graphs.index(graphs.image(b"1"), graphs.image(b"2"), platforms=[AMD64, ARM64])

    with pytest.raises(PlatformNotFound) as caught:
        copy(source, target, root.digest, options=options_for("linux/s390x"))

    assert caught.value.available == ("linux/amd64", "linux/arm64")
    assert caught.value.reference == source.at(root.digest)
    assert not is_stored(target, root)


def test_a_single_image_of_another_platform_is_refused(source: Repository, target: Repository, graphs: Graphs) -> None:
    image = graphs.image(b"1", config=b'{"os":"linux","architecture":"arm64"}')

    assert copy(source, target, image.digest, options=options_for("linux/amd64", "linux/arm64")).digest == image.digest
    with pytest.raises(PlatformNotFound):
        copy(source, target, image.digest, options=options_for("linux/amd64"))


def test_an_artifact_has_no_platform(source: Repository, target: Repository, graphs: Graphs) -> None:
    graphs.blob(b"{}")
    config = graphs.entry("application/vnd.cncf.helm.config.v1+json", b"{}")
    chart = graphs.image(b"chart", overrides={"config": config})

    assert copy(source, target, chart.digest, options=options_for("linux/amd64")).digest == chart.digest


@pytest.mark.parametrize(
    "stated", [{}, {"architecture": "arm64"}, {"os": "linux", "architecture": 1}, UNKNOWN, "linux/arm64", None]
)
@pytest.mark.parametrize("mode", IndexMode)
def test_an_entry_without_a_usable_platform_is_selected_by_its_configuration(
    source: Repository, target: Repository, graphs: Graphs, stated: object, mode: IndexMode
) -> None:
    """R-013, R-026: and its bytes stay unchanged."""
    one, two = graphs.image(b"amd64"), graphs.image(b"arm64", config=b'{"os":"linux","architecture":"arm64"}')
    entries = [
        graphs.entry(one.media_type, one.content, platform=AMD64),
        graphs.entry(two.media_type, two.content, platform=stated),
    ]
    root = graphs.index(manifests=entries)

    whole = copy(source, target, root.digest)
    copied = copy(source, target, root.digest, options=options_for("linux/arm64", mode=mode))
    other = copy(source, target, root.digest, options=options_for("linux/amd64", mode=mode))

    assert target.manifests.get(whole.digest).content == root.content
    if mode is IndexMode.REWRITTEN:
        assert target.manifests.get(copied.digest).mapping["manifests"] == [entries[1]]
        assert target.manifests.get(other.digest).mapping["manifests"] == [entries[0]]
    assert is_stored(target, two)


@pytest.mark.parametrize("requested", ["windows/amd64", "darwin/amd64"])
@pytest.mark.parametrize("stated", [AMD64, {}, None])
def test_images_of_another_operating_system_are_not_copied(
    source: Repository, target: Repository, graphs: Graphs, requested: str, stated: object
) -> None:
    """R-014."""
    image = graphs.image(b"1")
    root = graphs.index(manifests=[graphs.entry(image.media_type, image.content, platform=stated)])

    for reference in (root.digest, image.digest):
        with pytest.raises(PlatformNotFound):
            copy(source, target, reference, options=options_for(requested))


def test_an_image_that_demands_features_is_copied_only_if_there_is_no_other(
    source: Repository, target: Repository, graphs: Graphs
) -> None:
    """R-014."""
    windows = {"os": "windows", "architecture": "amd64"}
    plain, demanding = graphs.image(b"plain"), graphs.image(b"demanding")
    both = graphs.index(plain, demanding, platforms=[windows, {**windows, "os.features": ["win32k"]}])
    only = graphs.index(demanding, platforms=[{**windows, "os.features": ["win32k"]}])
    options = options_for("windows/amd64")

    first = copy(source, target, both.digest, options=options)
    second = copy(source, target, only.digest, options=options)

    assert [entry.digest for entry in target.manifests.get(first.digest).children] == [plain.digest]
    assert [entry.digest for entry in target.manifests.get(second.digest).children] == [demanding.digest]


def test_a_plan_shows_the_index_that_will_be_written(source: Repository, target: Repository, graphs: Graphs) -> None:
    root = graphs.index(graphs.image(b"1"), graphs.image(b"2"), platforms=[AMD64, ARM64])
    plan = plan_copy(source, target, root.digest, options=options_for("linux/amd64"))

    report = plan.apply()

    assert plan.nodes[-1].digest == report.results[-1].node.digest != root.digest
    assert target.manifests.resolve(report.results[-1].node.digest or Digest.of(b"none")).digest != root.digest
