"""Mirrors of layouts and archives: every entry is copied, with its name as written where the target can have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry_adapters.archive import ArchiveCatalog, ArchiveForm
from registry_adapters.layout import LayoutCatalog
from registry_adapters.layout.names import LayoutNames
from registry_adapters.memory import MemoryCatalog
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ImageName
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidName, LayoutError
from registry_core.ops.mirror.mirror import MirrorRule, plan_mirror, run_mirror
from registry_core.ops.mirror.selection import TagPatterns, TagSelection
from registry_core.ops.transfer.copy import copy
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ops.transfer.report import CopyReport, Outcome
from registry_core.ports.catalog import Catalog, Repository
from registry_core.ports.image_names import NamedImage
from registry_core.testing.content import descriptor_field, image_manifest, index_manifest, push_image

REF = "org.opencontainers.image.ref.name"
ALPINE = "docker.io/library/alpine:3.18"
NAMES = [ALPINE, "localhost:5000/org/app:v1", "1.0+build", "v1/rc", "v1", ""]


def _layout(directory: Path, names: list[str]) -> list[Digest]:
    """Write a layout with an image under each name, as other tools do."""
    repository = LayoutCatalog(directory, fsync=False).repository("")
    images = [push_image(repository, f"image {number}") for number in range(len(names))]
    entries = [
        {"mediaType": image.media_type, "digest": str(image.digest), "size": len(image.content)}
        | ({"annotations": {REF: name}} if name else {})
        for image, name in zip(images, names, strict=True)
    ]
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return [image.digest for image in images]


def _mirror(source: Catalog, target: Catalog, *repositories: str, **settings: Any) -> CopyReport:
    rule = MirrorRule(source=source, target=target, repositories=repositories, **settings)
    return run_mirror([rule], continue_on_error=True)


def _listed(catalog: LayoutCatalog | ArchiveCatalog) -> dict[str, Digest]:
    return {image.name: image.descriptor.digest for image in catalog.images()}


@pytest.fixture
def source(tmp_path: Path) -> LayoutCatalog:
    _layout(tmp_path / "source", NAMES)
    return LayoutCatalog(tmp_path / "source", fsync=False)


@pytest.mark.parametrize("repositories", [(), ("*",)])
def test_a_layout_is_copied_into_a_layout_with_its_names(
    tmp_path: Path, source: LayoutCatalog, repositories: tuple[str, ...]
) -> None:
    """R-315."""
    target = LayoutCatalog(tmp_path / "target", fsync=False)

    for _ in range(2):
        report = _mirror(source, target, *repositories)

        assert report.ok, str(report)
        assert _listed(target) == _listed(source)
        assert {path.name for path in (tmp_path / "target").iterdir() if path.is_dir()} == {"blobs"}
    assert report.bytes_moved == 0


@pytest.mark.parametrize("repositories", [(), ("*",)])
def test_a_layout_is_copied_into_an_archive_and_back_with_its_names(
    tmp_path: Path, source: LayoutCatalog, repositories: tuple[str, ...]
) -> None:
    """R-315."""
    with ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.OCI, fsync=False) as archive:
        assert _mirror(source, archive, *repositories).ok
        assert _listed(archive) == _listed(source)
    back = LayoutCatalog(tmp_path / "back", fsync=False)

    report = _mirror(ArchiveCatalog(tmp_path / "images.tar"), back, *repositories)

    assert report.ok, str(report)
    assert _listed(ArchiveCatalog(tmp_path / "images.tar")) == _listed(source)
    assert _listed(back) == _listed(source)


@pytest.mark.parametrize("repositories", [(), ("*",)])
def test_a_target_with_tags_only_gets_the_tags_and_the_report_names_the_rest(
    source: LayoutCatalog, repositories: tuple[str, ...]
) -> None:
    """R-316: what has no tag goes by digest."""
    target = MemoryCatalog()

    report = _mirror(source, target, *repositories, target_path="copies")

    digests = _listed(source)
    assert report.ok
    alpine = target.repository("copies/library/alpine").manifests
    assert alpine.resolve(Tag("3.18")).digest == digests[ALPINE]
    assert target.repository("copies/localhost/org/app").manifests.resolve(Tag("v1")).digest
    root = target.repository("copies").manifests
    assert list(root.tags()) == ["v1"]
    assert all(root.resolve(digests[name]).digest == digests[name] for name in ("1.0+build", "v1/rc", "v1", ""))
    notes = [result.node.note for result in report.warnings]
    assert [name for name in NAMES if any(f"{name!r}" in note for note in notes)] == ["1.0+build", "v1/rc"]
    assert "copied by digest only: the target cannot have the name '1.0+build'" in str(report)


@pytest.mark.parametrize("repositories", [(), ("*",)])
def test_an_archive_for_docker_gets_what_it_can_name_and_the_report_names_the_rest(
    tmp_path: Path, source: LayoutCatalog, repositories: tuple[str, ...]
) -> None:
    """R-316: every image is copied."""
    archive = ArchiveCatalog(tmp_path / "images.tar", ArchiveForm.DOCKER, fsync=False)

    report = _mirror(source, archive, *repositories)
    archive.close()

    assert report.ok
    assert sorted(result.node.note.rpartition(" ")[2] for result in report.warnings) == [
        "'1.0+build'",
        "'v1'",
        "'v1/rc'",
    ]
    written = list(ArchiveCatalog(tmp_path / "images.tar").images())
    assert {image.descriptor.digest for image in written} == {image.descriptor.digest for image in source.images()}
    assert {image.name for image in written} == {ALPINE, "localhost/org/app:v1", ""}


@pytest.mark.parametrize("names", [["1.0+build", "1.0+build", "v1/rc"], ["x", "a/b", "a/b"]])
def test_a_name_of_several_images_is_not_given_to_one_of_them(tmp_path: Path, names: list[str]) -> None:
    """R-316."""
    digests = _layout(tmp_path / "source", names)
    target = LayoutCatalog(tmp_path / "target", fsync=False)

    report = _mirror(LayoutCatalog(tmp_path / "source"), target)

    assert report.ok
    assert [result.node.note for result in report.warnings] == 2 * [
        f"copied by digest only: several images of the source have the name {names[1]!r}"
    ]
    (single,) = set(names) - {names[1]}
    assert _listed(target)[single] == digests[names.index(single)]
    assert {image.descriptor.digest for image in target.images()} == set(digests)
    assert names[1] not in _listed(target)


def test_a_plan_says_so_too(source: LayoutCatalog) -> None:
    """R-316."""
    rule = MirrorRule(source=source, target=MemoryCatalog(), target_path="copies")

    plan = plan_mirror([rule])

    assert "cannot have the name '1.0+build'" in str(plan)
    assert len(plan.apply().warnings) == 2


class _Registry(MemoryCatalog):
    """A backend without a repository with an empty name."""

    def repository(self, name: str) -> Repository:
        found = super().repository(name)
        return found if name else _unusable(found)


def test_entries_that_a_target_has_no_repository_for_are_reported(source: LayoutCatalog) -> None:
    """R-316: a registry has no repository with an empty name."""
    target = _Registry()

    report = _mirror(source, target, "*")

    assert report.ok
    assert list(target.repositories()) == ["library/alpine", "localhost/org/app"]
    left_out = [result.node.source for result in report.results if result.outcome is Outcome.LEFT_OUT]
    digest = _listed(source)[""]
    assert left_out == [str(source.registry) + suffix for suffix in (":v1", ":1.0+build", ":v1/rc", f"@{digest}")]


def test_a_whole_layout_is_copied_into_a_registry(tmp_path: Path) -> None:
    """R-316."""
    names = [ALPINE, "localhost:5000/org/app:v1", "1.0+build", ""]
    _layout(tmp_path / "source", names)
    target = _Registry()

    report = _mirror(LayoutCatalog(tmp_path / "source"), target)

    assert report.ok, str(report)
    assert list(target.repositories()) == ["library/alpine", "localhost/org/app"]
    assert len(report.warnings) == 2
    assert "the target has no repository with an empty name" in str(report)


def _unusable(repository: Repository) -> Repository:
    class Manifests(type(repository.manifests)):  # type: ignore[misc]  # a subclass of the class at hand
        def tags(self, **_: Any) -> Any:
            raise InvalidName("the repository name is empty; a registry needs one")

    manifests = Manifests.__new__(Manifests)
    manifests.__dict__.update(repository.manifests.__dict__)
    return Repository(repository.name, repository.blobs, manifests, repository.registry)


def test_a_repository_that_has_its_directory_is_mirrored_into_it(tmp_path: Path, source: LayoutCatalog) -> None:
    target = LayoutCatalog(tmp_path / "target", fsync=False)
    push_image(target.repository("library/alpine"), "older", tags=["3.17"])

    assert _mirror(source, target, "*").ok

    assert list(target.repository("library/alpine").manifests.tags()) == ["3.17", "3.18"]
    assert ALPINE not in _listed(target)


def test_names_of_nested_layouts_stay_below_their_layout(tmp_path: Path) -> None:
    _layout(tmp_path / "source/team", [ALPINE, "1.0+build"])
    source, target = LayoutCatalog(tmp_path / "source"), LayoutCatalog(tmp_path / "target", fsync=False)

    assert _mirror(source, target, "*", target_path="copies").ok

    assert _listed(target) == _listed(source)
    assert (tmp_path / "target/copies/team/index.json").exists()
    assert list(target.repository("copies/team/library/alpine").manifests.tags()) == ["3.18"]


def test_parts_of_an_index_and_referrers_are_no_images_without_a_name(tmp_path: Path) -> None:
    source = LayoutCatalog(tmp_path / "source", fsync=False)
    repository = source.repository("org/app")
    child = push_image(repository, "child")
    repository.manifests.put(index_manifest([child.descriptor]), tags=[Tag("v1")])
    signature = image_manifest(b"{}", subject=descriptor_field(child.content, child.media_type))
    repository.manifests.put(signature)

    report = _mirror(source, MemoryCatalog(), "org/app")
    at_root = _mirror(LayoutCatalog(tmp_path / "source/org/app"), _Registry(), "*", allow_empty=True)

    assert report.ok
    assert not [result for result in report.results if result.node.digest == signature.digest]
    assert [result.node.source.rpartition(":")[2] for result in at_root.warnings] == ["v1"]


def test_a_selection_of_tags_takes_no_other_names(tmp_path: Path, source: LayoutCatalog) -> None:
    target = LayoutCatalog(tmp_path / "target", fsync=False)
    selection = TagSelection(include=TagPatterns(globs=("3.*",)))

    assert _mirror(source, target, "*", tags=selection).ok

    assert list(_listed(target)) == [ALPINE]


def test_tags_are_pruned_from_a_repository_of_names(tmp_path: Path, source: LayoutCatalog) -> None:
    target = LayoutCatalog(tmp_path / "target", fsync=False)
    assert _mirror(source, target, "*").ok
    old = push_image(target.repository("library/alpine"), "old", tags=["3.17"])

    report = _mirror(source, target, "library/*", prune=True)

    assert report.ok, str(report)
    assert list(target.repository("library/alpine").manifests.tags()) == ["3.18"]
    assert target.repository("library/alpine").manifests.get(old.digest) == old
    assert RepositoryName("library/alpine") in list(target.repositories())


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_nothing_is_pruned_where_unreadable_names_may_have_tags(
    tmp_path: Path, source: LayoutCatalog, planned: bool, is_lost: bool
) -> None:
    other, target = MemoryCatalog("other.test"), MemoryCatalog("target.test")
    push_image(other.repository("library/alpine"), "other", tags=["3.19"])
    rules = [
        MirrorRule(source=source, target=target, target_path="hub"),
        MirrorRule(source=other, target=target, target_path="hub", repositories=["library/*"], prune=True),
    ]
    assert run_mirror(rules).ok
    if is_lost:
        (tmp_path / "source").rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "source" / "index.json").write_text("{")

    if planned:
        report = plan_mirror(rules, continue_on_error=True).apply(continue_on_error=True)
    else:
        report = run_mirror(rules, continue_on_error=True)

    assert not report.ok
    assert list(target.repository("hub/library/alpine").manifests.tags()) == ["3.18", "3.19"]


def test_nothing_is_pruned_where_the_names_alone_are_unreadable(
    source: LayoutCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LayoutNames) -> Iterator[NamedImage]:
        raise LayoutError("an entry hides its name")

    other, target = MemoryCatalog("other.test"), MemoryCatalog("target.test")
    push_image(other.repository("library/alpine"), "other", tags=["3.19"])
    rules = [
        MirrorRule(source=source, target=target, target_path="hub"),
        MirrorRule(source=other, target=target, target_path="hub", repositories=["library/*"], prune=True),
    ]
    assert run_mirror(rules).ok
    monkeypatch.setattr(LayoutNames, "images", fail)

    report = run_mirror(rules, continue_on_error=True)

    assert ["an entry hides its name" in str(result.error) for result in report.failed] == [True]
    assert list(target.repository("hub/library/alpine").manifests.tags()) == ["3.18", "3.19"]


def test_nothing_is_pruned_where_a_malformed_layout_may_have_tags(tmp_path: Path) -> None:
    source, other, target = LayoutCatalog(tmp_path), MemoryCatalog("other.test"), MemoryCatalog("target.test")
    push_image(source.repository("broken"), "one", tags=["v1"])
    push_image(source.repository("sound"), "two", tags=["v1"])
    push_image(other.repository("broken/org/app"), "three", tags=["v2"])
    index = json.loads((tmp_path / "broken" / "index.json").read_bytes())
    index["manifests"][0]["annotations"] = {REF: "org/app:v1"}
    (tmp_path / "broken" / "index.json").write_text(json.dumps(index))
    rules = [
        MirrorRule(source=source, target=target, repositories=["*"]),
        MirrorRule(source=other, target=target, repositories=["*"], prune=True),
    ]
    assert run_mirror(rules, continue_on_error=True).ok
    (tmp_path / "broken" / "index.json").write_text("{")

    report = run_mirror(rules, continue_on_error=True)

    assert [result.node.target for result in report.failed] == ["target.test/broken"]
    assert list(target.repository("broken/org/app").manifests.tags()) == ["v1", "v2"]
    assert list(target.repository("sound").manifests.tags()) == ["v1"]


@pytest.mark.parametrize("repositories", [(), ("*",), ("library/alpine",)])
def test_a_source_that_does_not_exist_is_a_failure(tmp_path: Path, repositories: tuple[str, ...]) -> None:
    """R-314: it names the path."""
    for source in (LayoutCatalog(tmp_path / "absent"), ArchiveCatalog(tmp_path / "absent")):
        report = _mirror(source, LayoutCatalog(tmp_path / "target"), *repositories)

        assert not report.ok
        assert str(tmp_path / "absent") in str(report)
    assert not list(tmp_path.iterdir())


def test_signatures_keep_the_form_of_the_name(tmp_path: Path) -> None:
    """R-315."""
    (digest,) = _layout(tmp_path / "source", [ALPINE])
    source, target = LayoutCatalog(tmp_path / "source"), LayoutCatalog(tmp_path / "target", fsync=False)
    alpine = source.repository("library/alpine")
    signature = push_image(alpine, "signature", tags=[f"sha256-{digest.encoded}.sig"])
    options = CopyOptions(digest_tags=True)

    selection = TagSelection(include=TagPatterns(globs=("3.*",)))
    assert _mirror(source, target, "*", tags=selection, options=options).ok
    copied = LayoutCatalog(tmp_path / "copied", fsync=False)
    copy(source.repository(""), copied.repository(""), ALPINE, tags=[ALPINE], options=options)

    for catalog in (target, copied):
        assert _listed(catalog) == _listed(source)
        assert f"docker.io/library/alpine:sha256-{digest.encoded}.sig" in _listed(catalog)
        found = catalog.repository("library/alpine").manifests.get(Tag(f"sha256-{digest.encoded}.sig"))
        assert found == signature


@pytest.mark.parametrize("mode", IndexMode)
def test_a_name_with_a_digest_fits_the_copy(tmp_path: Path, mode: IndexMode) -> None:
    repository = LayoutCatalog(tmp_path / "source", fsync=False).repository("")
    images = [push_image(repository, platform) for platform in ("amd64", "arm64")]
    index = index_manifest(
        [
            msgspec.structs.replace(image.descriptor, platform=Platform(os="linux", architecture=platform))
            for image, platform in zip(images, ("amd64", "arm64"), strict=True)
        ]
    )
    repository.manifests.put(index)
    written = f"org/app:v1@{index.digest}"
    assert repository.names is not None
    repository.names.assign(ImageName(written), index.descriptor)
    target = LayoutCatalog(tmp_path / "target", fsync=False)
    options = CopyOptions(platforms=("linux/amd64",), index_mode=mode)

    report = _mirror(LayoutCatalog(tmp_path / "source"), target, "org/app", options=options)

    assert report.ok, str(report)
    assert list(target.repository("org/app").manifests.tags()) == ["v1"]
    assert (written if mode is IndexMode.SPARSE else "org/app:v1") in _listed(target)
