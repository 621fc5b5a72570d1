"""Contract of ``ManifestStore`` for manifests."""

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
from registry_core.testing.content import (
    blob,
    image_manifest,
    index_manifest,
    push_image,
    put_blob,
    put_config_and_layer,
)
from registry_core.testing.contract.base import Can, Contract

__all__ = ["ManifestContract", "essentials"]

_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


class ManifestContract(Contract):
    """A manifest is stored as its bytes, and found by digest and by tag."""

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_an_image_is_returned_unchanged(self, repository: Repository, docker: bool) -> None:
        """By digest and by tag (R-026)."""
        manifest = push_image(repository, "round trip", tags=["v1"], docker=docker)

        by_digest = repository.manifests.get(manifest.digest)
        by_tag = repository.manifests.get(Tag("v1"))

        assert by_digest == manifest
        assert by_tag == manifest

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_an_index_is_returned_unchanged(self, repository: Repository, docker: bool) -> None:
        """By digest and by tag, and its children too."""
        children = [push_image(repository, label, docker=docker) for label in ("amd64", "arm64")]
        index = index_manifest([child.descriptor for child in children], docker=docker)

        repository.manifests.put(index, tags=[Tag("all")])

        assert repository.manifests.get(index.digest) == index
        assert repository.manifests.get(Tag("all")) == index
        assert [repository.manifests.get(each.digest) for each in index.children] == children

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_put_returns_the_descriptor(self, repository: Repository, docker: bool) -> None:
        """Media type, digest and size, as an index needs them."""
        config, layer = put_config_and_layer(repository, "described")
        manifest = image_manifest(config, [layer], docker=docker)

        stored = repository.manifests.put(manifest)

        assert essentials(stored) == essentials(manifest.descriptor)

    @pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
    def test_resolve_agrees_with_get(self, repository: Repository, docker: bool) -> None:
        """``resolve`` returns the descriptor of the manifest that ``get`` returns."""
        manifest = push_image(repository, "resolved", tags=["v1"], docker=docker)

        by_digest = repository.manifests.resolve(manifest.digest)
        by_tag = repository.manifests.resolve(Tag("v1"))

        assert essentials(by_digest) == essentials(manifest.descriptor)
        assert essentials(by_tag) == essentials(manifest.descriptor)

    def test_resolve_of_an_index(self, repository: Repository) -> None:
        """Returns the index, never one of its children."""
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor])
        repository.manifests.put(index, tags=[Tag("all")])

        found = repository.manifests.resolve(Tag("all"))

        assert essentials(found) == essentials(index.descriptor)

    def test_putting_an_existing_manifest_changes_nothing(self, repository: Repository) -> None:
        """Neither its bytes nor its tags."""
        manifest = push_image(repository, "again", tags=["v1"])

        repository.manifests.put(manifest)

        assert repository.manifests.get(Tag("v1")) == manifest

    def test_absent_tag_and_digest(self, repository: Repository) -> None:
        """Also if the repository has other manifests."""
        push_image(repository, "other", tags=["v1"])

        for reference in (Tag("v2"), Digest.of(b"absent")):
            with pytest.raises(ImageNotFound):
                repository.manifests.resolve(reference)
            with pytest.raises(ImageNotFound):
                repository.manifests.get(reference)

    def test_an_absent_manifest_of_a_repository_that_exists(self, repository: Repository) -> None:
        """The error does not say that the repository is absent."""
        push_image(repository, "other", tags=["v1"])

        with pytest.raises(ImageNotFound) as caught:
            repository.manifests.get(Tag("v2"))

        assert not isinstance(caught.value, RepositoryNotFound)

    def test_an_absent_repository(self, repository: Repository) -> None:
        """Raises ``RepositoryNotFound`` if the backend distinguishes it."""
        error = RepositoryNotFound if self.can & Can.MISSING_REPOSITORY else ImageNotFound

        for reference in (Tag("v1"), Digest.of(b"absent")):
            with pytest.raises(error):
                repository.manifests.resolve(reference)
            with pytest.raises(error):
                repository.manifests.get(reference)

    def test_the_error_names_the_absent_manifest(self, repository: Repository) -> None:
        """It has the reference and the code of the distribution-spec."""
        push_image(repository, "other")

        with pytest.raises(ImageNotFound) as caught:
            repository.manifests.get(Tag("v1"))

        assert caught.value.reference == repository.at(Tag("v1"))
        assert caught.value.code == "MANIFEST_UNKNOWN"

    def test_manifests_are_in_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """Repositories may have different access rights."""
        manifest = push_image(repository, "private", tags=["v1"])
        push_image(neighbour, "other")

        for reference in (Tag("v1"), manifest.digest):
            with pytest.raises(ImageNotFound):
                neighbour.manifests.get(reference)

    def test_a_blob_is_not_a_manifest(self, repository: Repository) -> None:
        """Even if the backend stores both in one namespace."""
        push_image(repository, "other")
        layer = put_blob(repository, blob("layer"))

        with pytest.raises(self._not_a_manifest):
            repository.manifests.get(layer)
        with pytest.raises(self._not_a_manifest):
            repository.manifests.resolve(layer)

    def test_a_configuration_is_not_a_manifest(self, repository: Repository) -> None:
        """Although it is JSON."""
        manifest = push_image(repository, "configured")

        with pytest.raises(self._not_a_manifest):
            repository.manifests.get(manifest.image.config.digest)

    @property
    def _not_a_manifest(self) -> type[RegistryError]:
        return ImageNotFound if self.can & Can.DENIES_BLOBS_AS_MANIFESTS else RegistryError

    def test_a_deleted_manifest_is_gone_with_its_tags(self, repository: Repository) -> None:
        """Other manifests keep their tags (R-252)."""
        deleted = push_image(repository, "deleted", tags=["v1", "latest"])
        kept = push_image(repository, "kept", tags=["v2"])

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(deleted.digest)
            for reference in (deleted.digest, Tag("v1"), Tag("latest")):
                with pytest.raises(ImageNotFound):
                    repository.manifests.get(reference)
            assert list(repository.manifests.tags()) == ["v2"]
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(deleted.digest)
            assert repository.manifests.get(Tag("v1")) == deleted
        assert repository.manifests.get(Tag("v2")) == kept

    def test_deleting_a_manifest_leaves_its_blobs(self, repository: Repository) -> None:
        """Other manifests may reference them."""
        manifest = push_image(repository, "deleted")
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
        """Raises an error, so that a wrong digest is noticed."""
        push_image(repository, "other")
        error = ImageNotFound if self.can & Can.DELETE_MANIFESTS else Unsupported

        with pytest.raises(error):
            repository.manifests.delete(Digest.of(b"absent"))

    def test_a_deleted_manifest_can_be_put_again(self, repository: Repository) -> None:
        """Without deletion, the manifest just stays."""
        manifest = push_image(repository, "back again", tags=["v1"])
        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(manifest.digest)

        repository.manifests.put(manifest, tags=[Tag("v2")])

        assert repository.manifests.get(Tag("v2")) == manifest
        assert repository.manifests.get(manifest.digest) == manifest

    def test_sha512_manifests_are_stored_or_refused(self, repository: Repository) -> None:
        """Never stored under another digest only (R-001)."""
        config, layer = put_config_and_layer(repository, "sha512")
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
        """Accepted, or refused with nothing stored."""
        config, _ = put_config_and_layer(repository, "dangling")
        manifest = image_manifest(config, [blob("never put")])

        self._put_dangling(repository, manifest)

    def test_an_absent_config(self, repository: Repository) -> None:
        """Accepted, or refused with nothing stored."""
        _, layer = put_config_and_layer(repository, "dangling")
        manifest = image_manifest(b'{"never":"put"}', [layer])

        self._put_dangling(repository, manifest)

    def test_an_absent_child_of_an_index(self, repository: Repository) -> None:
        """Accepted, or refused with nothing stored."""
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

    def test_unknown_media_types(self, repository: Repository) -> None:
        """Stored (R-027), or refused with nothing stored."""
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
    def test_what_is_not_a_manifest_is_refused(self, repository: Repository, content: bytes) -> None:
        """Nothing is stored (R-020 to R-022)."""
        push_image(repository, "bystander", tags=["v0"])
        manifest = RawManifest(media_types.OCI_MANIFEST, content)

        with pytest.raises(InvalidDocument):
            repository.manifests.put(manifest, tags=[Tag("v1")])

        for reference in (Tag("v1"), manifest.digest):
            with pytest.raises(ImageNotFound):
                repository.manifests.get(reference)

    def test_an_index_with_layers_is_refused(self, repository: Repository) -> None:
        """A document must not be an index and an image manifest at once (R-021)."""
        child = push_image(repository, "child")
        index = index_manifest([child.descriptor], layers=[])

        with pytest.raises(InvalidDocument):
            repository.manifests.put(index)

        with pytest.raises(ImageNotFound):
            repository.manifests.get(index.digest)

    def test_schema_1_is_refused(self, repository: Repository) -> None:
        """Recognised, but not supported (R-028)."""
        content = strict_json.encode({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []})

        with pytest.raises(Unsupported):
            repository.manifests.put(RawManifest(_SCHEMA1, content))

    def test_manifests_under_digests_that_cannot_be_verified_are_refused(self, repository: Repository) -> None:
        """Such digests can be parsed, but not verified (R-002)."""
        config, layer = put_config_and_layer(repository, "md5")
        manifest = image_manifest(config, [layer], algorithm="md5")

        with pytest.raises(Unsupported):
            repository.manifests.put(manifest)


def essentials(descriptor: Descriptor) -> tuple[str, Digest, int]:
    """Media type, digest and size: the fields of a descriptor that every backend returns."""
    return descriptor.media_type, descriptor.digest, descriptor.size
