"""What every ``ManifestStore`` promises about manifests."""

from __future__ import annotations

import pytest

from registry_core.domain import media_types, strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import (
    BlobNotFound,
    ImageNotFound,
    InvalidDocument,
    RegistryError,
    RepositoryNotFound,
    Unsupported,
)
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, image_manifest, index_manifest, push_image, put_blob, put_parts
from registry_core.testing.contract.base import Can, Contract

__all__ = ["ManifestContract", "essentials"]

_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


class ManifestContract(Contract):
    """A manifest is its bytes, found by its digest and by its tags."""

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_an_image_comes_back_as_it_went_in(self, repository: Repository, docker: bool) -> None:
        """By digest and by tag (R-026)."""
        manifest = push_image(repository, "round trip", tags=["v1"], docker=docker)

        by_digest = repository.manifests.get(manifest.digest)
        by_tag = repository.manifests.get(Tag("v1"))

        assert by_digest == manifest
        assert by_tag == manifest

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_an_index_comes_back_as_it_went_in(self, repository: Repository, docker: bool) -> None:
        """By digest and by tag, and its children with it."""
        children = [push_image(repository, label, docker=docker) for label in ("amd64", "arm64")]
        index = index_manifest([child.descriptor for child in children], docker=docker)

        repository.manifests.put(index, tags=[Tag("all")])

        assert repository.manifests.get(index.digest) == index
        assert repository.manifests.get(Tag("all")) == index
        assert [repository.manifests.get(each.digest) for each in index.children] == children

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_put_says_what_it_stored(self, repository: Repository, docker: bool) -> None:
        """Type, digest and size: what an index needs to point at it."""
        config, layer = put_parts(repository, "described")
        manifest = image_manifest(config, [layer], docker=docker)

        stored = repository.manifests.put(manifest)

        assert essentials(stored) == essentials(manifest.descriptor)

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_resolve_agrees_with_get(self, repository: Repository, docker: bool) -> None:
        """A look at the head tells as much as the whole."""
        manifest = push_image(repository, "resolved", tags=["v1"], docker=docker)

        by_digest = repository.manifests.resolve(manifest.digest)
        by_tag = repository.manifests.resolve(Tag("v1"))

        assert essentials(by_digest) == essentials(manifest.descriptor)
        assert essentials(by_tag) == essentials(manifest.descriptor)

    def test_resolve_of_an_index(self, repository: Repository) -> None:
        """It is an index that is found, never one of its children."""
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor])
        repository.manifests.put(index, tags=[Tag("all")])

        found = repository.manifests.resolve(Tag("all"))

        assert essentials(found) == essentials(index.descriptor)

    def test_putting_a_manifest_that_is_there_changes_nothing(self, repository: Repository) -> None:
        """Neither its bytes nor its tags."""
        manifest = push_image(repository, "again", tags=["v1"])

        repository.manifests.put(manifest)

        assert repository.manifests.get(Tag("v1")) == manifest

    def test_absent_tag_and_digest(self, repository: Repository) -> None:
        """Other manifests do not count."""
        push_image(repository, "other", tags=["v1"])

        for reference in (Tag("v2"), Digest.of(b"absent")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)
            with pytest.raises(ImageNotFound):
                repository.manifests.get(reference)

    def test_an_absent_manifest_of_a_repository_that_exists(self, repository: Repository) -> None:
        """The repository is not denied."""
        push_image(repository, "other", tags=["v1"])

        with pytest.raises(ImageNotFound) as caught:
            repository.manifests.get(Tag("v2"))

        assert not isinstance(caught.value, RepositoryNotFound)

    def test_an_absent_repository(self, repository: Repository) -> None:
        """Called so by those who can tell."""
        error = RepositoryNotFound if self.can & Can.MISSING_REPOSITORY else ImageNotFound

        for reference in (Tag("v1"), Digest.of(b"absent")):
            with pytest.raises(error):
                repository.manifests.resolve(reference)
            with pytest.raises(error):
                repository.manifests.get(reference)

    def test_the_error_says_what_is_absent(self, repository: Repository) -> None:
        """Repository and tag, and the specification's code."""
        push_image(repository, "other")

        with pytest.raises(ImageNotFound) as caught:
            repository.manifests.get(Tag("v1"))

        assert caught.value.reference == repository.at(Tag("v1"))
        assert caught.value.code == "MANIFEST_UNKNOWN"

    def test_manifests_are_in_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """Names of content are global, access to it is not."""
        manifest = push_image(repository, "private", tags=["v1"])
        push_image(neighbour, "other")

        for reference in (Tag("v1"), manifest.digest):
            with pytest.raises(ImageNotFound):
                neighbour.manifests.get(reference)

    def test_a_blob_is_no_manifest(self, repository: Repository) -> None:
        """Not even if both have one namespace underneath."""
        push_image(repository, "other")
        layer = put_blob(repository, blob("layer"))

        with pytest.raises(self._no_manifest):
            repository.manifests.get(layer)
        with pytest.raises(self._no_manifest):
            repository.manifests.resolve(layer)

    def test_a_configuration_is_no_manifest(self, repository: Repository) -> None:
        """Although it is JSON."""
        manifest = push_image(repository, "configured")

        with pytest.raises(self._no_manifest):
            repository.manifests.get(manifest.image.config.digest)

    @property
    def _no_manifest(self) -> type[RegistryError]:
        return ImageNotFound if self.can & Can.DENIES_BLOBS_AS_MANIFESTS else RegistryError

    def test_a_deleted_manifest_is_gone_with_its_tags(self, repository: Repository) -> None:
        """R-252; others keep theirs."""
        doomed = push_image(repository, "doomed", tags=["v1", "latest"])
        kept = push_image(repository, "kept", tags=["v2"])

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(doomed.digest)
            for reference in (doomed.digest, Tag("v1"), Tag("latest")):
                with pytest.raises(ImageNotFound):
                    repository.manifests.get(reference)
            assert list(repository.manifests.tags()) == ["v2"]
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(doomed.digest)
            assert repository.manifests.get(Tag("v1")) == doomed
        assert repository.manifests.get(Tag("v2")) == kept

    def test_deleting_a_manifest_leaves_its_parts(self, repository: Repository) -> None:
        """They may be parts of others."""
        manifest = push_image(repository, "doomed")
        push_image(repository, "kept")

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(manifest.digest)
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(manifest.digest)

        assert [repository.blobs.stat(part.digest) for part in manifest.children] == [
            part.size for part in manifest.children
        ]

    def test_deleting_an_index_leaves_its_children(self, repository: Repository) -> None:
        """They may be pulled by digest."""
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor])
        repository.manifests.put(index)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(index.digest)
            with pytest.raises(ImageNotFound):
                repository.manifests.get(index.digest)
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(index.digest)

        assert repository.manifests.get(child.digest) == child

    def test_deleting_an_absent_manifest(self, repository: Repository) -> None:
        """An error, so that a wrong digest does not pass for success."""
        push_image(repository, "other")
        error = ImageNotFound if self.can & Can.DELETE_MANIFESTS else Unsupported

        with pytest.raises(error):
            repository.manifests.delete(Digest.of(b"absent"))

    def test_a_deleted_manifest_can_be_put_again(self, repository: Repository) -> None:
        """Nothing remembers that it was gone; where it cannot be deleted, it just stays."""
        manifest = push_image(repository, "back again", tags=["v1"])
        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(manifest.digest)

        repository.manifests.put(manifest, tags=[Tag("v2")])

        assert repository.manifests.get(Tag("v2")) == manifest
        assert repository.manifests.get(manifest.digest) == manifest

    def test_sha512_manifests_are_kept_or_refused(self, repository: Repository) -> None:
        """Never taken under another name (R-001)."""
        config, layer = put_parts(repository, "sha512")
        manifest = image_manifest(config, [layer], algorithm="sha512")

        if self.can & Can.SHA512_MANIFESTS:
            stored = repository.manifests.put(manifest, tags=[Tag("v1")])
            assert stored.digest == manifest.digest
            assert repository.manifests.get(manifest.digest) == manifest
            assert repository.manifests.resolve(manifest.digest).digest == manifest.digest
            assert repository.manifests.get(Tag("v1")).content == manifest.content
        else:
            with pytest.raises(RegistryError):
                repository.manifests.put(manifest)
            with pytest.raises(RegistryError):
                repository.manifests.get(manifest.digest)

    def test_an_absent_layer(self, repository: Repository) -> None:
        """Fine, or refused with nothing stored."""
        config, _ = put_parts(repository, "dangling")
        manifest = image_manifest(config, [blob("never put")])

        self._put_dangling(repository, manifest)

    def test_an_absent_configuration(self, repository: Repository) -> None:
        """Fine, or refused with nothing stored."""
        _, layer = put_parts(repository, "dangling")
        manifest = image_manifest(b'{"never":"put"}', [layer])

        self._put_dangling(repository, manifest)

    def test_an_absent_child_of_an_index(self, repository: Repository) -> None:
        """Fine, or refused with nothing stored."""
        child = push_image(repository, "present")
        absent = image_manifest(b"{}", [blob("never put")])
        index = index_manifest([child.descriptor, absent.descriptor])

        self._put_dangling(repository, index)

    def _put_dangling(self, repository: Repository, manifest: RawManifest) -> None:
        push_image(repository, "bystander", tags=["v0"])
        if self.can & Can.KEEPS_DANGLING:
            repository.manifests.put(manifest, tags=[Tag("v1")])
            assert repository.manifests.get(Tag("v1")) == manifest
        else:
            with pytest.raises(BlobNotFound):
                repository.manifests.put(manifest, tags=[Tag("v1")])
            for reference in (Tag("v1"), manifest.digest):
                with pytest.raises(ImageNotFound):
                    repository.manifests.get(reference)

    def test_media_types_that_nobody_knows(self, repository: Repository) -> None:
        """Carried (R-027), or refused with nothing stored."""
        push_image(repository, "bystander", tags=["v0"])
        content = strict_json.encode({"mediaType": "application/vnd.example.thing.v1+json", "thing": [1, 2]})
        manifest = RawManifest("application/vnd.example.thing.v1+json", content)

        if self.can & Can.ANY_MEDIA_TYPE:
            repository.manifests.put(manifest, tags=[Tag("v1")])
            assert repository.manifests.get(Tag("v1")) == manifest
            assert repository.manifests.get(manifest.digest) == manifest
        else:
            with pytest.raises(RegistryError):
                repository.manifests.put(manifest, tags=[Tag("v1")])
            with pytest.raises(ImageNotFound):
                repository.manifests.get(Tag("v1"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no JSON",
            b"[]",
            b'"text"',
            b'{"schemaVersion":2',
            b'{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}',
            b'{"schemaVersion":2,"manifests":[],"layers":[]}',
            b'{"schemaVersion":2,"layers":[]}',
            b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:00","size":1},"layers":[]}',
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
        ],
        ids=["empty", "text", "list", "string", "cut", "mixed", "mixed index", "no config", "bad digest", "other type"],
    )
    def test_what_is_no_manifest_is_refused(self, repository: Repository, content: bytes) -> None:
        """R-020 to R-022; nothing is stored."""
        push_image(repository, "bystander", tags=["v0"])
        manifest = RawManifest(media_types.OCI_MANIFEST, content)

        with pytest.raises(InvalidDocument):
            repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (Tag("v1"), manifest.digest):
            with pytest.raises(ImageNotFound):
                repository.manifests.get(reference)

    def test_an_index_with_layers_is_refused(self, repository: Repository) -> None:
        """One document must not be read as two things (R-021)."""
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor], layers=[])

        with pytest.raises(InvalidDocument):
            repository.manifests.put(index)

        with pytest.raises(ImageNotFound):
            repository.manifests.get(index.digest)

    def test_schema_1_is_refused(self, repository: Repository) -> None:
        """Recognised, and not supported (R-028)."""
        content = strict_json.encode({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []})

        with pytest.raises(Unsupported):
            repository.manifests.put(RawManifest(_SCHEMA1, content))

    def test_manifests_under_digests_that_cannot_be_verified_are_refused(self, repository: Repository) -> None:
        """R-002."""
        config, layer = put_parts(repository, "md5")
        manifest = image_manifest(config, [layer], algorithm="md5")

        with pytest.raises(Unsupported):
            repository.manifests.put(manifest)


def essentials(descriptor: Descriptor) -> tuple[str, Digest, int]:
    """What a descriptor says in any backend: type, digest and size."""
    return descriptor.media_type, descriptor.digest, descriptor.size
