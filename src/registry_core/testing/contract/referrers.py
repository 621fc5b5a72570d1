"""Contract of ``ManifestStore`` for referrers."""

from __future__ import annotations

from typing import Any

import pytest

from registry_core.domain import media_types
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import RegistryError, Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import (
    artifact_manifest,
    blob,
    image_manifest,
    index_manifest,
    push_image,
    put_blob,
    put_config_and_layer,
)
from registry_core.testing.contract.base import Can, Contract
from registry_core.testing.contract.manifests import essentials

__all__ = ["ReferrerContract", "put_referrer", "referrer_digests"]

_SIGNATURE = "application/vnd.example.signature.v1+json"
_SBOM = "application/vnd.example.sbom.v1+json"


class ReferrerContract(Contract):
    """Referrers are listed by their subject, whether a server has the referrers API or not."""

    def test_a_referrer_is_listed(self, repository: Repository) -> None:
        """With media type, digest, size, artifact type and annotations (R-222)."""
        subject = push_image(repository, "subject")
        annotations = {"org.example.by": "someone", "org.opencontainers.image.created": "2001-02-03T04:05:06Z"}

        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE, annotations=annotations)
        (listed,) = repository.manifests.referrers(subject.digest)

        assert essentials(listed) == essentials(signature.descriptor)
        assert listed.artifact_type == _SIGNATURE
        assert listed.annotations == annotations

    def test_the_subject_may_be_absent(self, repository: Repository) -> None:
        """It may be pushed later, or never (distribution-spec, "Pushing Manifests with Subject")."""
        subject = image_manifest(b"{}", [blob("never put")])

        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE)

        assert referrer_digests(repository, subject.digest) == {signature.digest}
        assert repository.manifests.get(signature.digest) == signature

    def test_several_referrers_are_all_listed(self, repository: Repository) -> None:
        """Each once, in the same order each time."""
        subject = push_image(repository, "subject")
        put = {put_referrer(repository, subject.descriptor, f"number {number}", _SBOM).digest for number in range(5)}

        first = [each.digest for each in repository.manifests.referrers(subject.digest)]
        second = [each.digest for each in repository.manifests.referrers(subject.digest)]

        assert len(first) == 5
        assert set(first) == put
        assert first == second

    def test_referrers_are_filtered_by_artifact_type(self, repository: Repository) -> None:
        """Return whether the server filters or not (R-220)."""
        subject = push_image(repository, "subject")
        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE)
        sbom = put_referrer(repository, subject.descriptor, "sbom", _SBOM)

        assert referrer_digests(repository, subject.digest, _SIGNATURE) == {signature.digest}
        assert referrer_digests(repository, subject.digest, _SBOM) == {sbom.digest}
        assert referrer_digests(repository, subject.digest, "application/vnd.example.absent") == set()
        assert referrer_digests(repository, subject.digest) == {signature.digest, sbom.digest}

    def test_the_media_type_of_the_config_is_the_default_artifact_type(self, repository: Repository) -> None:
        """If the manifest has no ``artifactType`` (R-222)."""
        subject = push_image(repository, "subject")
        config, layer = put_config_and_layer(repository, "typed by its config")
        manifest = image_manifest(
            config,
            [layer],
            config_type="application/vnd.example.config.v1+json",
            subject=subject_field(subject.descriptor),
        )

        repository.manifests.put(manifest)
        (listed,) = repository.manifests.referrers(
            subject.digest, artifact_type="application/vnd.example.config.v1+json"
        )

        assert listed.digest == manifest.digest
        assert listed.artifact_type == "application/vnd.example.config.v1+json"

    def test_an_index_can_be_a_referrer(self, repository: Repository) -> None:
        """With its artifact type and annotations."""
        subject = push_image(repository, "subject")
        child = push_image(repository, "child")
        index = index_manifest(
            [child.descriptor],
            artifactType=_SBOM,
            subject=subject_field(subject.descriptor),
            annotations={"org.example.of": "an index"},
        )

        repository.manifests.put(index)
        (listed,) = repository.manifests.referrers(subject.digest)

        assert essentials(listed) == essentials(index.descriptor)
        assert listed.artifact_type == _SBOM
        assert listed.annotations == {"org.example.of": "an index"}

    @pytest.mark.parametrize("media_type", [media_types.OCI_ARTIFACT_MANIFEST, media_types.ORAS_ARTIFACT_MANIFEST])
    def test_an_artifact_manifest_can_be_a_referrer(self, repository: Repository, media_type: str) -> None:
        """With its artifact type and annotations (R-016), or it is refused with nothing stored."""
        subject = push_image(repository, "subject")
        put_blob(repository, b"signed")
        artifact = artifact_manifest(
            [b"signed"],
            media_type=media_type,
            artifactType=_SIGNATURE,
            subject=subject_field(subject.descriptor),
            annotations={"org.example.by": "someone"},
        )

        if not self.can & Can.ANY_MEDIA_TYPE:
            with pytest.raises(RegistryError):
                repository.manifests.put(artifact)
            return
        repository.manifests.put(artifact)
        (listed,) = repository.manifests.referrers(subject.digest, artifact_type=_SIGNATURE)

        assert essentials(listed) == essentials(artifact.descriptor)
        assert listed.annotations == {"org.example.by": "someone"}
        assert repository.manifests.get(artifact.digest) == artifact
        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(artifact.digest)
            assert referrer_digests(repository, subject.digest) == set()

    def test_a_referrer_can_have_referrers(self, repository: Repository) -> None:
        """Such as the signature of an SBOM; each list has only the direct referrers."""
        subject = push_image(repository, "subject")
        sbom = put_referrer(repository, subject.descriptor, "sbom", _SBOM)
        signature = put_referrer(repository, sbom.descriptor, "signature", _SIGNATURE)

        assert referrer_digests(repository, subject.digest) == {sbom.digest}
        assert referrer_digests(repository, sbom.digest) == {signature.digest}
        assert referrer_digests(repository, signature.digest) == set()

    def test_putting_a_referrer_again_lists_it_once(self, repository: Repository) -> None:
        """With or without a tag (R-222)."""
        subject = push_image(repository, "subject")
        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE)

        repository.manifests.put(signature)
        repository.manifests.put(signature, tags=[Tag("signed")])

        assert [each.digest for each in repository.manifests.referrers(subject.digest)] == [signature.digest]

    def test_a_deleted_referrer_is_not_listed(self, repository: Repository) -> None:
        """The others are (R-224)."""
        subject = push_image(repository, "subject")
        deleted = put_referrer(repository, subject.descriptor, "deleted", _SIGNATURE)
        kept = put_referrer(repository, subject.descriptor, "kept", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(deleted.digest)
            assert referrer_digests(repository, subject.digest) == {kept.digest}
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(deleted.digest)
            assert referrer_digests(repository, subject.digest) == {deleted.digest, kept.digest}

    def test_the_last_deleted_referrer_leaves_an_empty_list(self, repository: Repository) -> None:
        """The referrer can be put again."""
        subject = push_image(repository, "subject")
        deleted = put_referrer(repository, subject.descriptor, "deleted", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(deleted.digest)
            assert referrer_digests(repository, subject.digest) == set()
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(deleted.digest)
        repository.manifests.put(deleted)

        assert referrer_digests(repository, subject.digest) == {deleted.digest}

    def test_referrers_outlive_their_subject(self, repository: Repository) -> None:
        """They are deleted by their own digests only."""
        subject = push_image(repository, "subject", tags=["v1"])
        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(subject.digest)
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(subject.digest)

        assert referrer_digests(repository, subject.digest) == {signature.digest}

    def test_a_referrer_whose_tag_moved_is_listed(self, repository: Repository) -> None:
        """Tags do not matter to referrers."""
        subject = push_image(repository, "subject")
        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE, tags=["signed"])

        push_image(repository, "another", tags=["signed"])

        assert referrer_digests(repository, subject.digest) == {signature.digest}
        assert repository.manifests.get(signature.digest) == signature

    def test_a_referrer_whose_tag_is_gone_is_listed(self, repository: Repository) -> None:
        """Tags do not matter to referrers (R-251)."""
        subject = push_image(repository, "subject")
        signature = put_referrer(repository, subject.descriptor, "signature", _SIGNATURE, tags=["signed"])

        if self.can & Can.UNTAG:
            repository.manifests.untag(Tag("signed"))
        else:
            with pytest.raises(Unsupported):
                repository.manifests.untag(Tag("signed"))

        assert referrer_digests(repository, subject.digest) == {signature.digest}

    def test_an_absent_digest_has_no_referrers(self, repository: Repository) -> None:
        """The list is empty; this is not an error."""
        push_image(repository, "other")

        assert list(repository.manifests.referrers(Digest.of(b"absent"))) == []

    def test_an_absent_repository_has_no_referrers(self, repository: Repository) -> None:
        """This is not an error: a registry without the referrers API cannot distinguish it (R-221)."""
        assert list(repository.manifests.referrers(Digest.of(b"absent"))) == []

    def test_an_index_is_not_a_referrer_of_its_children(self, repository: Repository) -> None:
        """Only ``subject`` makes a referrer."""
        child = push_image(repository, "child")
        repository.manifests.put(index_manifest([child.descriptor]))

        assert referrer_digests(repository, child.digest) == set()

    def test_referrers_are_of_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """The same subject in another repository has no referrers."""
        subject = push_image(repository, "subject")
        push_image(neighbour, "subject")
        put_referrer(repository, subject.descriptor, "signature", _SIGNATURE)

        assert referrer_digests(neighbour, subject.digest) == set()


def put_referrer(
    repository: Repository,
    subject: Descriptor,
    label: str,
    artifact_type: str,
    *,
    tags: list[str] | None = None,
    annotations: dict[str, str] | None = None,
) -> RawManifest:
    """Put an artifact with a subject, and its blobs."""
    empty, layer = b"{}", blob(label)
    put_blob(repository, empty)
    put_blob(repository, layer)
    manifest = image_manifest(
        empty,
        [layer],
        config_type=media_types.EMPTY_JSON,
        artifactType=artifact_type,
        subject=subject_field(subject),
        annotations=annotations or {"org.example.label": label},
    )
    repository.manifests.put(manifest, tags=[Tag(tag) for tag in tags or []])
    return manifest


def subject_field(subject: Descriptor) -> dict[str, Any]:
    """The ``subject`` field of a manifest."""
    return {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size}


def referrer_digests(repository: Repository, subject: Digest, artifact_type: str = "") -> set[Digest]:
    """The digests of a subject's referrers."""
    return {each.digest for each in repository.manifests.referrers(subject, artifact_type=artifact_type)}
