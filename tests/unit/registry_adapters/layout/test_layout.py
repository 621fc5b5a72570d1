"""Valid and malformed layouts (R-300 to R-308)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_adapters.layout import LayoutCatalog
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ImageName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, OCI_MANIFEST, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import (
    BlobNotFound,
    ConfigError,
    DigestMismatch,
    ImageNotFound,
    InvalidDocument,
    InvalidName,
    LayoutError,
    RepositoryNotFound,
    SizeMismatch,
    TooLarge,
    Unsupported,
)
from registry_core.ports.catalog import Repository
from registry_core.testing.content import (
    blob,
    image_manifest,
    index_manifest,
    push_image,
    put_blob,
    put_config_and_layer,
)

NAME = RepositoryName("org/app")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path, fsync=False).repository(NAME)


@pytest.fixture
def directory(tmp_path: Path, repository: Repository) -> Path:
    """A layout with one image in it."""
    push_image(repository, "one", tags=["v1"])
    return tmp_path / NAME


def _index(directory: Path) -> dict[str, Any]:
    mapping: dict[str, Any] = json.loads((directory / "index.json").read_bytes())
    return mapping


def _write_index(directory: Path, mapping: object) -> None:
    (directory / "index.json").write_text(json.dumps(mapping))


def _entry(manifest: RawManifest, **annotations: str) -> dict[str, Any]:
    descriptor = manifest.descriptor
    entry = {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
    return entry | ({"annotations": annotations} if annotations else {})


class TestMarker:
    def test_a_new_layout_has_a_marker(self, directory: Path) -> None:
        """R-300, R-301, R-308."""
        marker = json.loads((directory / "oci-layout").read_bytes())

        assert marker == {"imageLayoutVersion": "1.0.0"}
        assert (directory / "blobs").is_dir()

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"[]", b"null", b"\xff", b"{", b"{}", b'{"imageLayoutVersion":1}', b'{"imageLayoutVersion":"1.0.1"}',
            b'{"imageLayoutVersion":"2.0.0"}', b'{"imageLayoutVersion":null}', b" " * (1 << 20),
        ],
    )  # fmt: skip
    def test_a_malformed_marker_is_refused_and_not_changed(
        self, repository: Repository, directory: Path, content: bytes
    ) -> None:
        """R-300, R-301, R-023."""
        (directory / "oci-layout").write_bytes(content)

        with pytest.raises((LayoutError, TooLarge), match="org/app/oci-layout"):
            list(repository.manifests.tags())
        with pytest.raises((LayoutError, TooLarge), match="org/app/oci-layout"):
            put_blob(repository, b"more")

        assert (directory / "oci-layout").read_bytes() == content

    def test_unknown_fields_in_the_marker_are_allowed(self, repository: Repository, directory: Path) -> None:
        """R-301."""
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0", "x": [1]}')

        assert list(repository.manifests.tags()) == ["v1"]

    def test_an_index_without_a_marker_is_malformed(self, repository: Repository, directory: Path) -> None:
        """R-300, R-313: it is not repaired."""
        (directory / "oci-layout").unlink()

        with pytest.raises(LayoutError, match="org/app/oci-layout: missing"):
            repository.manifests.get(Tag("v1"))
        with pytest.raises(LayoutError):
            push_image(repository, "two", tags=["v2"])

        assert not (directory / "oci-layout").exists()

    def test_a_directory_without_a_layout_is_no_repository(self, tmp_path: Path, repository: Repository) -> None:
        """R-300."""
        (tmp_path / NAME).mkdir(parents=True)
        (tmp_path / NAME / "readme.txt").write_text("nothing here")

        with pytest.raises(RepositoryNotFound):
            list(repository.manifests.tags())
        with pytest.raises(BlobNotFound):
            repository.blobs.stat(Digest.of(b""))

    def test_a_layout_without_a_blobs_directory_is_malformed(self, repository: Repository, directory: Path) -> None:
        """R-308."""
        shutil.rmtree(directory / "blobs")

        with pytest.raises(LayoutError, match="org/app/blobs"):
            repository.manifests.get(Tag("v1"))


class TestIndexFile:
    @pytest.mark.parametrize(
        "content",
        [
            b"", b"[]", b"{", b'"x"', b"{}", b'{"schemaVersion":2}', b'{"schemaVersion":2,"manifests":{}}',
            b'{"schemaVersion":2,"manifests":[null]}', b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b"}]}',
            b'{"schemaVersion":2,"manifests":[],"layers":[]}', b'{"manifests":[]}',
            b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}',
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:../../x","size":1}]}',
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"md5:aa","size":-1}]}',
            b"[" * 100_000,
        ],
    )  # fmt: skip
    def test_a_malformed_index_is_refused_and_never_replaced(
        self, repository: Repository, directory: Path, content: bytes
    ) -> None:
        """R-302, R-313, R-001, R-008, R-022."""
        (directory / "index.json").write_bytes(content)

        with pytest.raises(LayoutError, match=r"org/app/index\.json"):
            list(repository.manifests.tags())
        with pytest.raises(LayoutError, match=r"org/app/index\.json"):
            push_image(repository, "two", tags=["v2"])

        assert (directory / "index.json").read_bytes() == content

    def test_a_missing_index_is_not_replaced(self, repository: Repository, directory: Path) -> None:
        """R-302, R-313: a new one would lose every tag."""
        (directory / "index.json").unlink()

        with pytest.raises(LayoutError, match=r"org/app/index\.json: missing"):
            push_image(repository, "two", tags=["v2"])

        assert not (directory / "index.json").exists()

    def test_null_for_manifests_is_an_empty_list(self, repository: Repository, directory: Path) -> None:
        """R-302: Go writes a nil slice like this."""
        (directory / "index.json").write_text('{"schemaVersion": 2, "manifests": null}')

        assert list(repository.manifests.tags()) == []
        push_image(repository, "two", tags=["v2"])

        assert list(repository.manifests.tags()) == ["v2"]

    def test_unknown_files_are_ignored(self, tmp_path: Path, repository: Repository, directory: Path) -> None:
        """R-303."""
        (directory / "manifest.json").write_text("[]")
        (directory / "ingest").mkdir()
        (directory / "blobs" / "sha256" / ".leftover.tmp").write_bytes(b"half")
        (directory / "blobs" / "readme").write_text("?")

        assert list(repository.manifests.tags()) == ["v1"]
        assert list(LayoutCatalog(tmp_path).repositories()) == [NAME]

    def test_an_absent_tag_is_not_found(self, repository: Repository, directory: Path) -> None:
        """R-304."""
        with pytest.raises(ImageNotFound, match="v2"):
            repository.manifests.resolve(Tag("v2"))

    def test_one_tag_on_two_manifests_is_an_error_until_it_is_set_again(
        self, repository: Repository, directory: Path
    ) -> None:
        """R-304: neither of them is chosen."""
        second = push_image(repository, "two")
        mapping = _index(directory)
        mapping["manifests"].append(_entry(second, **{REF_NAME: "v1"}))
        _write_index(directory, mapping)

        with pytest.raises(LayoutError, match="v1"):
            repository.manifests.resolve(Tag("v1"))
        assert list(repository.manifests.tags()) == ["v1"]
        repository.manifests.put(second, tags=[Tag("v1")])

        assert repository.manifests.resolve(Tag("v1")) == second.descriptor

    def test_one_tag_twice_on_one_manifest_is_one_tag(self, repository: Repository, directory: Path) -> None:
        """R-304."""
        mapping = _index(directory)
        mapping["manifests"] *= 2
        _write_index(directory, mapping)

        assert list(repository.manifests.tags()) == ["v1"]
        assert repository.manifests.get(Tag("v1")).is_index is False

    def test_entries_without_names_are_found_by_digest(self, repository: Repository, directory: Path) -> None:
        """R-304."""
        manifest = repository.manifests.get(Tag("v1"))
        mapping = _index(directory)
        del mapping["manifests"][0]["annotations"]
        _write_index(directory, mapping)

        assert list(repository.manifests.tags()) == []
        assert repository.manifests.get(manifest.digest) == manifest

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "registry.example.com/app:v1", "a@b", "", "v1\n", "\0", "x" * 129]
    )
    def test_names_that_are_not_tags_are_kept_but_not_listed(
        self, repository: Repository, directory: Path, name: str
    ) -> None:
        """R-307, R-010: they are never used as paths."""
        manifest = repository.manifests.get(Tag("v1"))
        mapping = _index(directory)
        mapping["manifests"][0]["annotations"] = {REF_NAME: name}
        _write_index(directory, mapping)

        assert list(repository.manifests.tags()) == []
        assert repository.manifests.get(manifest.digest) == manifest
        repository.manifests.put(manifest, tags=[Tag("v2")])

        assert [entry["annotations"][REF_NAME] for entry in _index(directory)["manifests"]] == [name, "v2"]

    def test_entries_of_unknown_media_types_are_kept(self, repository: Repository, directory: Path) -> None:
        """R-305."""
        other = {
            "mediaType": "application/xml", "size": 7143, "annotations": {"a": "b"}, "x": {"y": [1, None]},
            "digest": "sha256:b3d63d132d21c3ff4c35a061adf23cf43da8ae054247e32faa95494d904a007e",
        }  # fmt: skip
        mapping = _index(directory)
        mapping["manifests"].insert(0, other)
        _write_index(directory, mapping)

        push_image(repository, "two", tags=["v2"])

        assert list(repository.manifests.tags()) == ["v1", "v2"]
        assert _index(directory)["manifests"][0] == other

    @pytest.mark.parametrize("depth", [1, 2, 15])
    def test_children_of_nested_indexes_are_found_by_digest(
        self, repository: Repository, directory: Path, depth: int
    ) -> None:
        """R-306, R-024: also if only the parent states their media type."""
        child = _without_media_type(*put_config_and_layer(repository, "child"))
        put_blob(repository, child.content)
        top = _nest(repository, child, depth)
        _write_index(directory, {"schemaVersion": 2, "manifests": [_entry(top, **{REF_NAME: "top"})]})

        found = repository.manifests.get(child.digest)

        assert found == child
        assert repository.manifests.resolve(child.digest) == child.descriptor

    @pytest.mark.parametrize("stated", [{}, {"architecture": "arm64"}, {"os": 1}, "linux/arm64", ["linux"], None])
    def test_a_malformed_platform_makes_no_entry_unreadable(
        self, repository: Repository, directory: Path, stated: object
    ) -> None:
        """R-013: neither in ``index.json`` nor in an index that it lists, and writers keep it."""
        push_image(repository, "one", tags=["v1"])
        child = push_image(repository, "two")
        document = strict_json.decode(index_manifest([child.descriptor]).content)
        document["manifests"][0]["platform"] = stated
        index = RawManifest(OCI_INDEX, strict_json.encode(document))
        repository.manifests.put(index, tags=[Tag("all")])
        mapping = json.loads((directory / "index.json").read_bytes())
        for each in mapping["manifests"]:
            each["platform"] = stated
        (directory / "index.json").write_text(json.dumps(mapping))

        repository.manifests.put(child, tags=[Tag("v2")])

        assert list(repository.manifests.tags()) == ["all", "v1", "v2"]
        assert repository.manifests.get(Tag("all")) == index
        assert repository.manifests.get(Tag("v2")) == child
        written = json.loads((directory / "index.json").read_bytes())["manifests"]
        assert [each["platform"] for each in written if "platform" in each][:2] == [stated, stated]

    def test_a_child_whose_media_type_is_only_in_its_parent(self, repository: Repository, directory: Path) -> None:
        """R-306, R-027."""
        child = RawManifest("application/vnd.example.thing+json", b'{"thing":1}')
        put_blob(repository, child.content)
        _write_index(directory, {"schemaVersion": 2, "manifests": [_entry(_nest(repository, child, 1))]})

        assert repository.manifests.get(child.digest) == child

    def test_too_many_levels_of_indexes_are_refused(self, repository: Repository, directory: Path) -> None:
        """R-024."""
        child = _without_media_type(*put_config_and_layer(repository, "child"))
        put_blob(repository, child.content)
        _write_index(directory, {"schemaVersion": 2, "manifests": [_entry(_nest(repository, child, 17))]})

        with pytest.raises(TooLarge, match="16"):
            list(repository.manifests.referrers(Digest.of(b"anything")))


def _without_media_type(config: bytes, layer: bytes) -> RawManifest:
    mapping = dict(image_manifest(config, [layer]).mapping)
    del mapping["mediaType"]
    return RawManifest(OCI_MANIFEST, strict_json.encode(mapping))


def _nest(repository: Repository, child: RawManifest, depth: int) -> RawManifest:
    manifest = child
    for _ in range(depth):
        manifest = index_manifest([manifest.descriptor])
        put_blob(repository, manifest.content)
    return manifest


class TestContent:
    def test_a_corrupt_manifest_is_not_returned(self, repository: Repository, directory: Path) -> None:
        """R-309, R-003."""
        manifest = repository.manifests.get(Tag("v1"))
        file = directory / "blobs" / "sha256" / manifest.digest.encoded
        file.write_bytes(manifest.content.replace(b"amd64", b"arm64").replace(b"schemaVersion", b"schemaversioN"))

        with pytest.raises(DigestMismatch, match=manifest.digest):
            repository.manifests.get(Tag("v1"))
        with pytest.raises(DigestMismatch):
            repository.manifests.get(manifest.digest)
        with pytest.raises(DigestMismatch):
            list(repository.manifests.referrers(Digest.of(b"anything")))

    def test_a_truncated_manifest_is_found_by_its_size(self, repository: Repository, directory: Path) -> None:
        """R-004."""
        manifest = repository.manifests.get(Tag("v1"))
        (directory / "blobs" / "sha256" / manifest.digest.encoded).write_bytes(manifest.content[:-1])

        with pytest.raises(SizeMismatch):
            repository.manifests.resolve(Tag("v1"))
        with pytest.raises(SizeMismatch):
            repository.manifests.get(Tag("v1"))

    def test_a_missing_blob_is_not_found(self, repository: Repository, directory: Path) -> None:
        """R-312."""
        manifest = repository.manifests.get(Tag("v1"))
        (directory / "blobs" / "sha256" / manifest.digest.encoded).unlink()

        with pytest.raises(ImageNotFound):
            repository.manifests.resolve(Tag("v1"))
        with pytest.raises(ImageNotFound):
            repository.manifests.get(manifest.digest)
        assert list(repository.manifests.referrers(manifest.digest)) == []

    def test_blobs_without_references_are_allowed(self, repository: Repository, directory: Path) -> None:
        """R-312."""
        digest = put_blob(repository, b"alone")

        assert repository.blobs.stat(digest) == 5

    @pytest.mark.parametrize("content", [b"layer", b"{}", b'{"config":{}}', b'{"mediaType":1}', b"[]", b"\xff\xfe"])
    def test_a_blob_that_is_not_a_manifest_is_not_an_image(
        self, repository: Repository, directory: Path, content: bytes
    ) -> None:
        digest = put_blob(repository, content)

        with pytest.raises(ImageNotFound):
            repository.manifests.get(digest)
        with pytest.raises(ImageNotFound):
            repository.manifests.delete(digest)

        assert repository.blobs.stat(digest) == len(content)

    def test_a_large_layer_is_not_an_image(self, repository: Repository) -> None:
        """R-023: it is not read."""
        digest = put_blob(repository, bytes(MANIFEST_LIMIT + 1))

        with pytest.raises(ImageNotFound):
            repository.manifests.get(digest)

    def test_a_manifest_over_the_limit_is_refused(self, repository: Repository, directory: Path) -> None:
        """R-023."""
        large = RawManifest(OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}' + b" " * MANIFEST_LIMIT)
        put_blob(repository, large.content)
        mapping = _index(directory)
        mapping["manifests"].append(_entry(large, **{REF_NAME: "large"}))
        _write_index(directory, mapping)

        with pytest.raises(TooLarge):
            repository.manifests.put(large)
        with pytest.raises(TooLarge):
            repository.manifests.get(Tag("large"))

    def test_entries_with_unregistered_algorithms_are_kept_and_not_opened(
        self, repository: Repository, directory: Path
    ) -> None:
        """R-311, R-002."""
        mapping = _index(directory)
        entry = {"mediaType": OCI_MANIFEST, "digest": "md5:x", "size": 3}
        mapping["manifests"].append(entry | {"annotations": {REF_NAME: "odd"}})
        _write_index(directory, mapping)
        (directory / "blobs" / "md5").mkdir()
        (directory / "blobs" / "md5" / "x").write_bytes(b"{ }")

        push_image(repository, "two", tags=["v2"])

        assert list(repository.manifests.tags()) == ["odd", "v1", "v2"]
        with pytest.raises(Unsupported):
            repository.manifests.get(Tag("odd"))
        with pytest.raises(BlobNotFound):
            repository.blobs.open(Digest("md5:x"))
        with pytest.raises(Unsupported):
            repository.blobs.put(Digest("md5:x"), 3, BytesSource(b"{ }"))

    def test_sha512_blobs_have_another_directory(self, repository: Repository, directory: Path) -> None:
        """R-311."""
        digest = Digest.of(b"content", "sha512")

        repository.blobs.put(digest, 7, BytesSource(b"content"))

        assert (directory / "blobs" / "sha512" / digest.encoded).read_bytes() == b"content"

    def test_a_manifest_must_be_valid_for_the_media_type_of_its_entry(
        self, repository: Repository, directory: Path
    ) -> None:
        """R-020."""
        mapping = _index(directory)
        mapping["manifests"][0]["mediaType"] = OCI_INDEX
        _write_index(directory, mapping)

        with pytest.raises(InvalidDocument):
            repository.manifests.get(Tag("v1"))


class TestCatalog:
    def test_a_layout_at_the_root_is_the_repository_with_the_empty_name(self, tmp_path: Path, directory: Path) -> None:
        catalog = LayoutCatalog(directory)

        assert list(catalog.repositories()) == [""]
        assert list(catalog.repository(RepositoryName("")).manifests.tags()) == ["v1"]

    def test_layouts_inside_a_layout_are_listed_after_it(self, tmp_path: Path) -> None:
        catalog = LayoutCatalog(tmp_path, fsync=False)
        for name in ("", "a/b", "a", "a-b"):
            put_blob(catalog.repository(RepositoryName(name)), blob(name))

        assert list(catalog.repositories()) == ["", "a", "a-b", "a/b"]
        assert list(catalog.repositories(after=RepositoryName("a"))) == ["a-b", "a/b"]

    @pytest.mark.parametrize("name", ["blobs", "a/blobs/b", "index.json", "oci-layout/x"])
    def test_files_of_a_layout_are_not_repositories(self, tmp_path: Path, name: str) -> None:
        """R-010: a name never reaches into another layout's files."""
        repository = LayoutCatalog(tmp_path).repository(RepositoryName(name))

        with pytest.raises(Unsupported):
            put_blob(repository, b"x")
        with pytest.raises(RepositoryNotFound):
            repository.manifests.get(Tag("v1"))

        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../up", "a/../b", "/a", "a//b", "A", "a\n", "a\\b", ".hidden"])
    def test_names_that_leave_the_root_are_invalid(self, name: str) -> None:
        """R-010."""
        with pytest.raises(InvalidName):
            RepositoryName(name)

    def test_directories_whose_path_is_not_a_name_are_not_listed(self, tmp_path: Path, directory: Path) -> None:
        shutil.copytree(directory, tmp_path / "Upper")
        shutil.copytree(directory, tmp_path / ".hidden")

        assert list(LayoutCatalog(tmp_path).repositories()) == [NAME]

    @pytest.mark.parametrize("name", ["", "org/app"])
    @pytest.mark.parametrize(
        "read",
        [
            lambda catalog, name: list(catalog.repositories()),
            lambda catalog, name: list(catalog.images()),
            lambda catalog, name: list(catalog.repository(name).manifests.tags()),
            lambda catalog, name: catalog.repository(name).manifests.resolve(Tag("v1")),
            lambda catalog, name: catalog.repository(name).manifests.get(Tag("v1")),
            lambda catalog, name: list(catalog.repository(name).names.images()),
            lambda catalog, name: catalog.repository(name).names.resolve(ImageName("1.0+build")),
        ],
    )
    def test_an_absent_root_is_not_found(
        self, tmp_path: Path, read: Callable[[LayoutCatalog, str], object], name: str
    ) -> None:
        """R-314: a misspelled path is no empty layout."""
        with pytest.raises(RepositoryNotFound, match=r"/absent does not exist"):
            read(LayoutCatalog(tmp_path / "absent"), name)

        assert not (tmp_path / "absent").exists()

    def test_a_root_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        catalog = LayoutCatalog(tmp_path / "file")

        with pytest.raises(LayoutError):
            list(catalog.repositories())
        with pytest.raises(LayoutError):
            put_blob(catalog.repository(NAME), b"x")

    def test_a_name_that_is_too_long_for_the_file_system_is_absent(self, tmp_path: Path) -> None:
        repository = LayoutCatalog(tmp_path).repository(RepositoryName("a" * 300))

        with pytest.raises(RepositoryNotFound):
            repository.manifests.get(Tag("v1"))
        with pytest.raises(InvalidName):
            put_blob(repository, b"x")

    def test_its_name_has_the_path_unchanged(self) -> None:
        assert LayoutCatalog("some/dir").registry == "oci:some/dir"

    def test_it_does_not_depend_on_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        repository = LayoutCatalog("images").repository(NAME)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

        put_blob(repository, b"x")

        assert (tmp_path / "images" / NAME / "oci-layout").exists()

    @pytest.mark.parametrize("root", ["", "a\0b"])
    def test_a_root_that_is_not_a_path_is_refused(self, root: str) -> None:
        with pytest.raises(ConfigError):
            LayoutCatalog(root)
