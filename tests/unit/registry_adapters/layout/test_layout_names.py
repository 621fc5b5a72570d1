"""Names in ``index.json``: whole references, other names, and none; read, listed, and kept by writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.content.streams import BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ImageName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    BlobNotFound,
    ImageNotFound,
    LayoutError,
    RepositoryNotFound,
    Unsupported,
)
from registry_core.ports.catalog import Repository
from registry_core.ports.image_names import ImageNames
from registry_core.testing.content import descriptor_field, index_manifest, push_image

CONTAINERD = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"
ALPINE = "docker.io/library/alpine:3.18"
EXTRA = {"org.example.note": "kept"}


@pytest.fixture
def catalog(tmp_path: Path) -> LayoutCatalog:
    return LayoutCatalog(tmp_path, fsync=False)


def _entries(directory: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((directory / "index.json").read_bytes())["manifests"]
    return entries


def _write(directory: Path, entries: list[dict[str, Any]]) -> None:
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def _named(directory: Path, catalog: LayoutCatalog, *annotations: dict[str, str], name: str = "") -> list[RawManifest]:
    """Write a layout that has an image with each of the annotations, as other tools write it."""
    repository = catalog.repository(name)
    images = [push_image(repository, f"image {number}") for number in range(len(annotations))]
    entries = [
        {"mediaType": image.media_type, "digest": str(image.digest), "size": len(image.content)}
        | ({"annotations": each} if each else {})
        for image, each in zip(images, annotations, strict=True)
    ]
    _write(directory, entries)
    return images


def _names(repository: Repository) -> ImageNames:
    assert repository.names is not None
    return repository.names


def _listed(catalog: LayoutCatalog) -> list[tuple[str, str, str | None, Digest]]:
    return [(image.name, image.repository, image.tag, image.descriptor.digest) for image in catalog.images()]


class TestReading:
    @pytest.mark.parametrize(
        ("annotations", "name", "tag"),
        [
            ({REF: ALPINE}, "library/alpine", "3.18"),
            ({REF: "localhost/org/app:v1"}, "localhost/org/app", "v1"),
            ({REF: "localhost:5000/org/app:v1"}, "localhost/org/app", "v1"),
            ({REF: "debian:12"}, "debian", "12"),
            ({CONTAINERD: ALPINE, REF: "3.18"}, "library/alpine", "3.18"),
            ({CONTAINERD: ALPINE}, "library/alpine", "3.18"),
        ],
    )
    def test_a_whole_reference_is_a_tag_of_its_repository(
        self, tmp_path: Path, catalog: LayoutCatalog, annotations: dict[str, str], name: str, tag: str
    ) -> None:
        """R-307."""
        (image,) = _named(tmp_path, catalog, annotations)

        repository = catalog.repository(name)
        assert list(catalog.repositories()) == ["", name]
        assert list(repository.manifests.tags()) == [tag]
        assert repository.manifests.get(Tag(tag)) == image
        assert repository.manifests.resolve(Tag(tag)) == image.descriptor
        assert repository.manifests.get(image.digest) == image
        layer = image.image.layers[0]
        assert repository.blobs.stat(layer.digest) == layer.size
        with repository.blobs.open(layer.digest) as reader:
            assert Digest.of(reader.read()) == layer.digest
        assert list(catalog.repository("").manifests.tags()) == []

    @pytest.mark.parametrize("alias", ["docker.io/library/alpine", "alpine"])
    def test_a_repository_is_found_by_its_aliases(self, tmp_path: Path, catalog: LayoutCatalog, alias: str) -> None:
        """R-307: as in an archive."""
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})

        assert catalog.repository(alias).manifests.get(Tag("3.18")) == image

    def test_every_entry_is_listed(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-304, R-307: also those without a name, and those below the root."""
        names = [ALPINE, "v1", "1.0+build", "v1/rc", "not a name", ""]
        images = _named(tmp_path, catalog, *[{REF: name} if name else {} for name in names])
        (nested,) = _named(tmp_path / "sub/app", catalog, {REF: "quay.io/org/tool:v2"}, name="sub/app")

        assert _listed(catalog) == [
            (ALPINE, "library/alpine", "3.18", images[0].digest),
            ("v1", "", "v1", images[1].digest),
            ("1.0+build", "", None, images[2].digest),
            ("v1/rc", "", None, images[3].digest),
            ("not a name", "", None, images[4].digest),
            ("", "", None, images[5].digest),
            ("quay.io/org/tool:v2", "sub/app/quay.io/org/tool", "v2", nested.digest),
        ]
        assert list(catalog.repositories()) == ["", "library/alpine", "sub/app", "sub/app/quay.io/org/tool"]
        assert catalog.repository("sub/app/quay.io/org/tool").manifests.get(Tag("v2")) == nested

    @pytest.mark.parametrize("name", [ALPINE, "1.0+build", "v1/rc", "debian:12", "a:b", f"x@sha256:{'0' * 64}"])
    def test_an_image_is_found_by_its_name_as_written(self, tmp_path: Path, catalog: LayoutCatalog, name: str) -> None:
        """R-307."""
        image, _ = _named(tmp_path, catalog, {REF: name}, {REF: "other"})

        assert _names(catalog.repository("")).resolve(ImageName(name)).digest == image.digest
        with pytest.raises(ImageNotFound):
            _names(catalog.repository("")).resolve(ImageName(f"{name}x"))

    def test_a_name_of_two_images_is_ambiguous(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-304: neither of them is chosen, and the check reports it."""
        _named(tmp_path, catalog, {REF: "1.0+build"}, {REF: "1.0+build"}, {REF: ALPINE}, {REF: ALPINE})

        with pytest.raises(LayoutError, match=r"ambiguous name: 2 entries of index\.json have the name 1\.0\+build"):
            _names(catalog.repository("")).resolve(ImageName("1.0+build"))
        with pytest.raises(LayoutError, match=r"ambiguous tag: 2 entries of index\.json have the tag 3\.18"):
            catalog.repository("library/alpine").manifests.get(Tag("3.18"))
        findings = [str(finding) for finding in catalog.check().errors]
        assert any("library/alpine:3.18: ambiguous tag" in finding for finding in findings)
        assert any("1.0+build: ambiguous name" in finding for finding in findings)

    def test_two_images_with_one_tag_beside_their_names_are_kept_apart(
        self, tmp_path: Path, catalog: LayoutCatalog
    ) -> None:
        """R-307: as docker save writes several images."""
        one, two = _named(
            tmp_path,
            catalog,
            {CONTAINERD: "docker.io/library/alpine:latest", REF: "latest"},
            {CONTAINERD: "docker.io/library/debian:latest", REF: "latest"},
        )

        assert catalog.repository("library/alpine").manifests.get(Tag("latest")) == one
        assert catalog.repository("library/debian").manifests.get(Tag("latest")) == two
        with pytest.raises(LayoutError, match="ambiguous"):
            catalog.repository("").manifests.get(Tag("latest"))

    def test_the_tag_beside_a_name_still_finds_the_image(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-304: as other tools find it."""
        (image,) = _named(tmp_path, catalog, {CONTAINERD: ALPINE, REF: "3.18"})

        assert catalog.repository("").manifests.get(Tag("3.18")) == image

    def test_the_directory_of_a_repository_comes_first(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-307: its tags are found there, and those of the names above only where it has none."""
        own = push_image(catalog.repository("library/alpine"), "own", tags=["3.18"])
        named, other = _named(tmp_path, catalog, {REF: ALPINE}, {REF: "docker.io/library/alpine:3.19"})
        repository = catalog.repository("library/alpine")

        assert list(repository.manifests.tags()) == ["3.18", "3.19"]
        assert repository.manifests.get(Tag("3.18")) == own
        assert repository.manifests.get(Tag("3.19")) == other
        assert repository.manifests.get(named.digest) == named
        assert list(catalog.repositories()) == ["", "library/alpine"]

    def test_a_malformed_layout_is_listed_among_others(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-302: its names are not known; an error says so where the layout is read, and for the root at once."""
        _named(tmp_path / "broken", catalog, {REF: ALPINE}, name="broken")
        _named(tmp_path / "org/app", catalog, {REF: "v1"}, name="org/app")
        (tmp_path / "broken/index.json").write_text("{")

        assert list(catalog.repositories()) == ["broken", "org/app"]
        for read in (catalog.repository("broken").manifests.tags, catalog.images):
            with pytest.raises(LayoutError, match=r"index\.json"):
                list(read())
        _named(tmp_path, catalog, {REF: ALPINE})
        (tmp_path / "index.json").write_text("{")
        with pytest.raises(LayoutError, match=r"index\.json: not JSON"):
            list(catalog.repositories())

    def test_a_malformed_layout_above_does_not_hide_a_repository(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        image = push_image(catalog.repository("org/app"), "one", tags=["v1"])
        (tmp_path / "index.json").write_text('{"something": "else"}')

        assert catalog.repository("org/app").manifests.get(Tag("v1")) == image
        with pytest.raises(ImageNotFound):
            catalog.repository("org/app").manifests.get(Tag("v2"))
        assert list(catalog.repositories()) == ["org/app"]

    def test_other_repositories_do_not_exist(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})

        repository = catalog.repository("library/debian")

        for read in (repository.manifests.get, repository.manifests.resolve):
            with pytest.raises(RepositoryNotFound):
                read(image.digest)
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(image.image.layers[0].digest)

    def test_referrers_are_found_beside_the_names(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})
        referrer = push_image(
            catalog.repository("library/alpine"), "signature", subject=descriptor_field(image.content, image.media_type)
        )

        found = list(catalog.repository("library/alpine").manifests.referrers(image.digest))

        assert [entry.digest for entry in found] == [referrer.digest]
        assert not (tmp_path / "library").exists()


class TestWriting:
    @pytest.mark.parametrize(
        ("annotations", "name", "written"),
        [
            ({REF: ALPINE}, "library/alpine", {REF: "docker.io/library/alpine:edge"}),
            ({REF: "localhost:5000/org/app:v1"}, "localhost/org/app", {REF: "localhost:5000/org/app:edge"}),
            ({REF: "debian:12"}, "debian", {REF: "debian:edge"}),
            ({REF: "quay.io/org/app"}, "quay.io/org/app", {REF: "quay.io/org/app:edge"}),
            (
                {CONTAINERD: ALPINE, REF: "3.18"},
                "library/alpine",
                {CONTAINERD: "docker.io/library/alpine:edge", REF: "edge"},
            ),
        ],
    )
    def test_another_tag_is_written_in_the_same_style(
        self, tmp_path: Path, catalog: LayoutCatalog, annotations: dict[str, str], name: str, written: dict[str, str]
    ) -> None:
        """R-315."""
        _named(tmp_path, catalog, annotations)
        repository = catalog.repository(name)

        push_image(repository, "edge", tags=["edge"])

        assert [entry["annotations"] for entry in _entries(tmp_path)] == [annotations, written]
        assert "edge" in list(repository.manifests.tags())
        assert not (tmp_path / name).exists()

    @pytest.mark.parametrize("annotations", [{REF: ALPINE}, {CONTAINERD: ALPINE, REF: "3.18"}])
    def test_a_tag_that_moves_keeps_its_name(
        self, tmp_path: Path, catalog: LayoutCatalog, annotations: dict[str, str]
    ) -> None:
        """R-315: the old image stays without a name, with its other annotations."""
        (old,) = _named(tmp_path, catalog, annotations | EXTRA)
        repository = catalog.repository("library/alpine")

        new = push_image(repository, "new", tags=["3.18"])

        assert repository.manifests.get(Tag("3.18")) == new
        assert [(entry["digest"], entry["annotations"]) for entry in _entries(tmp_path)] == [
            (old.digest, EXTRA),
            (new.digest, annotations),
        ]

    def test_a_name_with_a_digest_loses_the_digest_with_the_image(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        (old,) = _named(tmp_path, catalog, {})
        _write(tmp_path, [_entries(tmp_path)[0] | {"annotations": {REF: f"org/app:v1@{old.digest}"}}])
        repository = catalog.repository("org/app")
        assert repository.manifests.get(Tag("v1")) == old

        new = push_image(repository, "new", tags=["v1"])

        assert repository.manifests.get(Tag("v1")) == new
        assert _entries(tmp_path)[1]["annotations"] == {REF: "org/app:v1"}

    @pytest.mark.parametrize("annotations", [{REF: ALPINE}, {CONTAINERD: ALPINE, REF: "3.18"}])
    def test_a_deleted_tag_leaves_the_image(
        self, tmp_path: Path, catalog: LayoutCatalog, annotations: dict[str, str]
    ) -> None:
        """R-315."""
        image, _ = _named(tmp_path, catalog, annotations | EXTRA, {REF: "docker.io/library/alpine:3.19"})
        repository = catalog.repository("library/alpine")

        repository.manifests.untag(Tag("3.18"))

        assert _entries(tmp_path)[0]["annotations"] == EXTRA
        assert list(repository.manifests.tags()) == ["3.19"]
        assert catalog.repository("").manifests.get(image.digest) == image
        with pytest.raises(ImageNotFound):
            repository.manifests.untag(Tag("3.18"))

    def test_a_deleted_image_stays_in_the_other_repositories(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-315."""
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})
        entry = _entries(tmp_path)[0]
        _write(tmp_path, [entry, entry | {"annotations": {REF: "docker.io/org/copy:v1"}}])

        catalog.repository("library/alpine").manifests.delete(image.digest)

        assert list(catalog.repositories()) == ["", "org/copy"]
        assert catalog.repository("org/copy").manifests.get(Tag("v1")) == image
        catalog.repository("org/copy").manifests.delete(image.digest)
        with pytest.raises(ImageNotFound):
            catalog.repository("").manifests.get(image.digest)

    def test_a_referrer_is_deleted_beside_the_names(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})
        manifests = catalog.repository("library/alpine").manifests
        subject = descriptor_field(image.content, image.media_type)
        referrer = push_image(catalog.repository("library/alpine"), "signature", subject=subject)

        manifests.delete(referrer.digest)

        assert list(manifests.referrers(image.digest)) == []
        with pytest.raises(ImageNotFound):
            manifests.get(referrer.digest)
        assert [entry["digest"] for entry in _entries(tmp_path)] == [image.digest]

    def test_the_images_of_other_repositories_are_not_deleted(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        _, other, child, odd = _named(tmp_path, catalog, {REF: ALPINE}, {REF: "org/app:v1"}, {}, {REF: "v1/rc"})
        index = index_manifest([child.descriptor])
        catalog.repository("org/app").manifests.put(index, tags=[Tag("all")])
        entries = [entry for entry in _entries(tmp_path) if entry["digest"] != child.digest]
        _write(tmp_path, entries)

        for image in (other, child, odd):
            with pytest.raises(Unsupported, match=r"other repositories|prune"):
                catalog.repository("library/alpine").manifests.delete(image.digest)

        assert _entries(tmp_path) == entries
        for image in (other, child, odd):
            assert catalog.repository("").manifests.get(image.digest) == image

    def test_a_tag_is_deleted_from_the_directory_and_from_the_names(
        self, tmp_path: Path, catalog: LayoutCatalog
    ) -> None:
        _named(tmp_path / "org/app", catalog, {REF: "v1"}, name="org/app")
        _named(tmp_path, catalog, {REF: "org/app:v1"}, {REF: "org/app:v2"})
        manifests = catalog.repository("org/app").manifests

        manifests.untag(Tag("v1"))

        assert list(manifests.tags()) == ["v2"]
        for tag in ("v1", "v3"):
            with pytest.raises(ImageNotFound, match="no such tag"):
                manifests.untag(Tag(tag))
        with pytest.raises(RepositoryNotFound):
            catalog.repository("org/absent").manifests.untag(Tag("v1"))

    def test_a_blob_is_not_deleted_from_a_layout_that_others_share(
        self, tmp_path: Path, catalog: LayoutCatalog
    ) -> None:
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})
        layer = image.image.layers[0]

        with pytest.raises(Unsupported, match="prune"):
            catalog.repository("library/alpine").blobs.delete(layer.digest)
        with pytest.raises(BlobNotFound):
            catalog.repository("library/alpine").blobs.delete(Digest.of(b"absent"))

        assert catalog.repository("").blobs.stat(layer.digest) == layer.size

    def test_a_blob_is_stored_and_mounted_where_the_names_are(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        (image,) = _named(tmp_path, catalog, {REF: ALPINE})
        repository, content = catalog.repository("library/alpine"), b"a new blob"

        repository.blobs.put(Digest.of(content), len(content), BytesSource(content))

        assert (tmp_path / "blobs/sha256" / Digest.of(content).encoded).read_bytes() == content
        layer = image.image.layers[0].digest
        assert catalog.repository("org/other").blobs.mount(layer, RepositoryName("library/alpine"))
        assert not catalog.repository("org/other").blobs.mount(layer, RepositoryName("library/debian"))
        assert (tmp_path / "org/other/blobs/sha256" / layer.encoded).exists()

    def test_a_tag_of_the_root_takes_the_name_that_other_tools_read(
        self, tmp_path: Path, catalog: LayoutCatalog
    ) -> None:
        """R-315: two entries with the reference name v1 would be ambiguous for them."""
        (old,) = _named(tmp_path, catalog, {CONTAINERD: "docker.io/org/app:v1", REF: "v1"})

        new = push_image(catalog.repository(""), "new", tags=["v1"])

        assert [(entry["digest"], entry["annotations"]) for entry in _entries(tmp_path)] == [
            (old.digest, {CONTAINERD: "docker.io/org/app:v1"}),
            (new.digest, {REF: "v1"}),
        ]
        assert catalog.repository("").manifests.get(Tag("v1")) == new
        assert catalog.repository("org/app").manifests.get(Tag("v1")) == old

    @pytest.mark.parametrize("name", [ALPINE, "1.0+build", "v1/rc", "localhost:5000/org/app:v1"])
    def test_a_name_is_set_moved_and_removed_as_written(
        self, tmp_path: Path, catalog: LayoutCatalog, name: str
    ) -> None:
        """R-315."""
        repository = catalog.repository("")
        one, two = push_image(repository, "one"), push_image(repository, "two", tags=["v1"])
        names = _names(repository)

        names.assign(ImageName(name), one.descriptor)
        assert [entry.get("annotations") for entry in _entries(tmp_path)] == [{REF: name}, {REF: "v1"}]
        names.assign(ImageName(name), two.descriptor)
        assert [entry.get("annotations") for entry in _entries(tmp_path)] == [None, {REF: "v1"}, {REF: name}]
        assert names.resolve(ImageName(name)).digest == two.digest
        names.remove(ImageName(name))
        assert [entry.get("annotations") for entry in _entries(tmp_path)] == [None, {REF: "v1"}]
        with pytest.raises(ImageNotFound):
            names.remove(ImageName(name))

    def test_a_name_replaces_the_one_that_means_the_same(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """R-315: two of them would be ambiguous."""
        _named(tmp_path, catalog, {REF: "index.docker.io/library/alpine:3.18"})
        new = push_image(catalog.repository(""), "new")

        _names(catalog.repository("")).assign(ImageName(ALPINE), new.descriptor)

        assert catalog.repository("library/alpine").manifests.get(Tag("3.18")) == new
        assert [entry.get("annotations") for entry in _entries(tmp_path)] == [None, {REF: ALPINE}]

    def test_a_new_repository_gets_its_directory(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        _named(tmp_path, catalog, {REF: ALPINE})

        push_image(catalog.repository("library/debian"), "debian", tags=["12"])

        assert (tmp_path / "library/debian/index.json").exists()
        assert [entry["annotations"] for entry in _entries(tmp_path)] == [{REF: ALPINE}]

    @pytest.mark.parametrize("name", [ALPINE, "1.0+build", "not a name"])
    def test_prune_keeps_what_has_any_name(self, tmp_path: Path, catalog: LayoutCatalog, name: str) -> None:
        """R-307."""
        named, nameless = _named(tmp_path, catalog, {REF: name}, {})

        report = catalog.prune(untagged=True, grace=2, dry_run=True)

        assert named.digest not in (*report.untagged, *report.blobs)
        assert nameless.digest not in report.untagged  # too young
        assert [image.name for image in catalog.images()] == [name, ""]

    def test_a_layout_moved_below_another_keeps_its_images(self, tmp_path: Path, catalog: LayoutCatalog) -> None:
        """The names are relative to the layout."""
        _named(tmp_path, catalog, {REF: ALPINE})
        shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-outer/inner")
        outer = LayoutCatalog(tmp_path.parent / f"{tmp_path.name}-outer")

        assert list(outer.repositories()) == ["inner", "inner/library/alpine"]
        assert list(outer.repository("inner/library/alpine").manifests.tags()) == ["3.18"]
