"""What every ``ManifestStore`` promises about referrers."""

from __future__ import annotations

from typing import Any

import pytest

from registry_core.domain import media_types
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import Unsupported
from registry_core.ports.catalog import Repository
from registry_core.testing.content import blob, image_manifest, index_manifest, push_image, put_blob, put_parts
from registry_core.testing.contract.base import Can, Contract
from registry_core.testing.contract.manifests import essentials

__all__ = ["ReferrerContract", "pointing_at"]

_SIGNATURE = "application/vnd.example.signature.v1+json"
_BILL = "application/vnd.example.sbom.v1+json"


class ReferrerContract(Contract):
    """Whoever points at a subject is listed with it, with or without a server's help."""

    def test_a_referrer_is_listed(self, repository: Repository) -> None:
        """With type, digest, size, artifact type and annotations (R-222)."""
        subject = push_image(repository, "subject")
        annotations = {"org.example.by": "someone", "org.opencontainers.image.created": "2001-02-03T04:05:06Z"}

        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE, annotations=annotations)
        (listed,) = repository.manifests.referrers(subject.digest)

        assert essentials(listed) == essentials(signature.descriptor)
        assert listed.artifact_type == _SIGNATURE
        assert listed.annotations == annotations

    def test_the_subject_may_be_absent(self, repository: Repository) -> None:
        """It may come later, or never (distribution-spec, "Pushing Manifests with Subject")."""
        subject = image_manifest(b"{}", [blob("never put")])

        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE)

        assert digests(repository, subject.digest) == {signature.digest}
        assert repository.manifests.get(signature.digest) == signature

    def test_several_referrers_are_all_listed(self, repository: Repository) -> None:
        """Each once, in the same order each time."""
        subject = push_image(repository, "subject")
        put = {refer(repository, subject.descriptor, f"number {number}", _BILL).digest for number in range(5)}

        first = [each.digest for each in repository.manifests.referrers(subject.digest)]
        second = [each.digest for each in repository.manifests.referrers(subject.digest)]

        assert len(first) == 5
        assert set(first) == put
        assert first == second

    def test_referrers_are_filtered_by_artifact_type(self, repository: Repository) -> None:
        """Whether the server filters or not (R-220)."""
        subject = push_image(repository, "subject")
        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE)
        bill = refer(repository, subject.descriptor, "bill", _BILL)

        assert digests(repository, subject.digest, _SIGNATURE) == {signature.digest}
        assert digests(repository, subject.digest, _BILL) == {bill.digest}
        assert digests(repository, subject.digest, "application/vnd.example.absent") == set()
        assert digests(repository, subject.digest) == {signature.digest, bill.digest}

    def test_the_type_of_the_configuration_stands_in(self, repository: Repository) -> None:
        """Where a manifest names no artifact type (R-222)."""
        subject = push_image(repository, "subject")
        config, layer = put_parts(repository, "typed by its config")
        manifest = image_manifest(
            config,
            [layer],
            config_type="application/vnd.example.config.v1+json",
            subject=pointing_at(subject.descriptor),
        )

        repository.manifests.put(manifest)
        (listed,) = repository.manifests.referrers(
            subject.digest, artifact_type="application/vnd.example.config.v1+json"
        )

        assert listed.digest == manifest.digest
        assert listed.artifact_type == "application/vnd.example.config.v1+json"

    def test_an_index_can_refer(self, repository: Repository) -> None:
        """It has an artifact type of its own, or none."""
        subject = push_image(repository, "subject")
        child = push_image(repository, "child")
        index = index_manifest(
            [child.descriptor],
            artifactType=_BILL,
            subject=pointing_at(subject.descriptor),
            annotations={"org.example.of": "an index"},
        )

        repository.manifests.put(index)
        (listed,) = repository.manifests.referrers(subject.digest)

        assert essentials(listed) == essentials(index.descriptor)
        assert listed.artifact_type == _BILL
        assert listed.annotations == {"org.example.of": "an index"}

    def test_a_referrer_can_have_referrers(self, repository: Repository) -> None:
        """A signature of a bill of materials, say; each list holds only its own."""
        subject = push_image(repository, "subject")
        bill = refer(repository, subject.descriptor, "bill", _BILL)
        signature = refer(repository, bill.descriptor, "signature", _SIGNATURE)

        assert digests(repository, subject.digest) == {bill.digest}
        assert digests(repository, bill.digest) == {signature.digest}
        assert digests(repository, signature.digest) == set()

    def test_putting_a_referrer_again_lists_it_once(self, repository: Repository) -> None:
        """R-222."""
        subject = push_image(repository, "subject")
        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE)

        repository.manifests.put(signature)
        repository.manifests.put(signature, tags=[Tag("signed")])

        assert [each.digest for each in repository.manifests.referrers(subject.digest)] == [signature.digest]

    def test_a_deleted_referrer_is_not_listed(self, repository: Repository) -> None:
        """R-224; the others are."""
        subject = push_image(repository, "subject")
        doomed = refer(repository, subject.descriptor, "doomed", _SIGNATURE)
        kept = refer(repository, subject.descriptor, "kept", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(doomed.digest)
            assert digests(repository, subject.digest) == {kept.digest}
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(doomed.digest)
            assert digests(repository, subject.digest) == {doomed.digest, kept.digest}

    def test_the_last_deleted_referrer_leaves_an_empty_list(self, repository: Repository) -> None:
        """And the way open for new ones."""
        subject = push_image(repository, "subject")
        doomed = refer(repository, subject.descriptor, "doomed", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(doomed.digest)
            assert digests(repository, subject.digest) == set()
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(doomed.digest)
        repository.manifests.put(doomed)

        assert digests(repository, subject.digest) == {doomed.digest}

    def test_referrers_outlive_their_subject(self, repository: Repository) -> None:
        """They are removed by their own digests only."""
        subject = push_image(repository, "subject", tags=["v1"])
        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE)

        if self.can & Can.DELETE_MANIFESTS:
            repository.manifests.delete(subject.digest)
        else:
            with pytest.raises(Unsupported):
                repository.manifests.delete(subject.digest)

        assert digests(repository, subject.digest) == {signature.digest}

    def test_a_referrer_whose_tag_moved_is_listed(self, repository: Repository) -> None:
        """Tags do not matter to referrers."""
        subject = push_image(repository, "subject")
        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE, tags=["signed"])

        push_image(repository, "another", tags=["signed"])

        assert digests(repository, subject.digest) == {signature.digest}
        assert repository.manifests.get(signature.digest) == signature

    def test_a_referrer_whose_tag_is_gone_is_listed(self, repository: Repository) -> None:
        """R-251."""
        subject = push_image(repository, "subject")
        signature = refer(repository, subject.descriptor, "signature", _SIGNATURE, tags=["signed"])

        if self.can & Can.UNTAG:
            repository.manifests.untag(Tag("signed"))
        else:
            with pytest.raises(Unsupported):
                repository.manifests.untag(Tag("signed"))

        assert digests(repository, subject.digest) == {signature.digest}

    def test_nobody_refers_to_an_absent_digest(self, repository: Repository) -> None:
        """An empty list, no error."""
        push_image(repository, "other")

        assert list(repository.manifests.referrers(Digest.of(b"absent"))) == []

    def test_nobody_refers_in_an_absent_repository(self, repository: Repository) -> None:
        """An empty list, no error: a registry without the API cannot tell (R-221)."""
        assert list(repository.manifests.referrers(Digest.of(b"absent"))) == []

    def test_what_is_made_of_a_manifest_does_not_refer_to_it(self, repository: Repository) -> None:
        """An index points at its children, and is no referrer of theirs."""
        child = push_image(repository, "child")
        repository.manifests.put(index_manifest([child.descriptor]))

        assert digests(repository, child.digest) == set()

    def test_referrers_are_of_their_own_repository_only(self, repository: Repository, neighbour: Repository) -> None:
        """Signatures do not travel by themselves."""
        subject = push_image(repository, "subject")
        push_image(neighbour, "subject")
        refer(repository, subject.descriptor, "signature", _SIGNATURE)

        assert digests(neighbour, subject.digest) == set()


def refer(
    repository: Repository,
    subject: Descriptor,
    label: str,
    artifact_type: str,
    *,
    tags: list[str] | None = None,
    annotations: dict[str, str] | None = None,
) -> RawManifest:
    """Put an artifact that refers to a subject, and all its parts."""
    empty, layer = b"{}", blob(label)
    put_blob(repository, empty)
    put_blob(repository, layer)
    manifest = image_manifest(
        empty,
        [layer],
        config_type=media_types.EMPTY_JSON,
        artifactType=artifact_type,
        subject=pointing_at(subject),
        annotations=annotations or {"org.example.label": label},
    )
    repository.manifests.put(manifest, tags=[Tag(tag) for tag in tags or []])
    return manifest


def pointing_at(subject: Descriptor) -> dict[str, Any]:
    """A subject as it stands in JSON."""
    return {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size}


def digests(repository: Repository, subject: Digest, artifact_type: str = "") -> set[Digest]:
    """The digests of a subject's referrers."""
    return {each.digest for each in repository.manifests.referrers(subject, artifact_type=artifact_type)}
