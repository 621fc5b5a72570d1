"""Direct and indirect referrers, from untrusted registries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ImageNotFound, InvalidValue, TooLarge
from registry_core.ops.artifacts.push import push_artifact
from registry_core.ops.artifacts.referrers import list_referrers, walk_referrers
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests
from registry_core.ports.catalog import Repository

SBOM = "application/vnd.example.sbom"
SIGNATURE = "application/vnd.example.signature"


def _named(name: str, kind: str = SBOM) -> Descriptor:
    return Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(name.encode()), size=1, artifact_type=kind)


class _Claims(StagedManifests):
    """Manifests with any lists of referrers."""

    def __init__(self, claims: Mapping[str, Sequence[Descriptor]]) -> None:
        super().__init__()
        self.asked: list[Digest] = []
        self._claims = {Digest.of(name.encode()): entries for name, entries in claims.items()}

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        self.asked.append(subject)
        return iter(self._claims.get(subject, ()))


def _claiming(**claims: Sequence[Descriptor]) -> tuple[Repository, _Claims]:
    manifests = _Claims(claims)
    return Repository(RepositoryName("lying"), StagedBlobs(), manifests), manifests


def test_list_has_those_of_one_type(source: Repository) -> None:
    subject = push_artifact(source, [], artifact_type="a/b", tags=[Tag("v1")])
    sbom = push_artifact(source, [], artifact_type=SBOM, subject=subject)
    push_artifact(source, [], artifact_type=SIGNATURE, subject=subject)

    found = list(list_referrers(source, "v1", artifact_type=SBOM))

    assert [entry.digest for entry in found] == [sbom.digest]
    assert len(list(list_referrers(source, subject))) == 2


def test_a_list_is_filtered_and_free_of_duplicates() -> None:
    """R-220."""
    repository, _ = _claiming(root=[_named("a"), _named("b", SIGNATURE), _named("a")])

    found = list(list_referrers(repository, Digest.of(b"root"), artifact_type=SBOM))

    assert found == [_named("a")]


def test_list_of_an_unknown_digest_is_empty(source: Repository) -> None:
    """R-220."""
    assert list(list_referrers(source, Digest.of(b"nothing"))) == []


def test_unknown_tags_and_nonsense_are_errors(source: Repository) -> None:
    with pytest.raises(ImageNotFound):
        list(list_referrers(source, "absent"))
    with pytest.raises(InvalidValue):
        list(walk_referrers(source, "not a tag"))


def test_walk_reaches_the_signature_of_a_bill_of_materials(source: Repository) -> None:
    subject = push_artifact(source, [], artifact_type="a/b", tags=[Tag("v1")])
    sbom = push_artifact(source, [], artifact_type=SBOM, subject=subject)
    signature = push_artifact(source, [], artifact_type=SIGNATURE, subject=sbom)

    every = list(walk_referrers(source, "v1"))
    signatures = list(walk_referrers(source, "v1", artifact_type=SIGNATURE))

    assert [(each.descriptor.digest, each.subject, each.depth) for each in every] == [
        (sbom.digest, subject.digest, 1),
        (signature.digest, sbom.digest, 2),
    ]
    assert [each.descriptor.digest for each in signatures] == [signature.digest]


def test_walk_ends_where_a_registry_claims_a_circle() -> None:
    """R-025."""
    repository, manifests = _claiming(root=[_named("a")], a=[_named("b")], b=[_named("a"), _named("root"), _named("b")])

    found = list(walk_referrers(repository, Digest.of(b"root")))

    assert [each.descriptor.digest for each in found] == [Digest.of(b"a"), Digest.of(b"b")]
    assert manifests.asked == [Digest.of(b"root"), Digest.of(b"a"), Digest.of(b"b")]


def test_walk_of_a_chain_without_end_stops_at_the_depth() -> None:
    """R-025."""
    repository, manifests = _claiming(**{str(number): [_named(str(number + 1))] for number in range(50)})

    with pytest.raises(TooLarge, match="16 deep"):
        list(walk_referrers(repository, Digest.of(b"0")))

    assert len(manifests.asked) == 17


@pytest.mark.parametrize("count", [3, 4])
def test_walk_stops_at_the_count(count: int) -> None:
    """R-025."""
    repository, _ = _claiming(root=[_named(str(number)) for number in range(count)])

    if count == 3:
        assert len(list(walk_referrers(repository, Digest.of(b"root"), limit=3))) == 3
    else:
        with pytest.raises(TooLarge, match="3 referrers"):
            list(walk_referrers(repository, Digest.of(b"root"), limit=3))


def test_list_stops_at_the_count() -> None:
    """R-025."""
    repository, _ = _claiming(root=[_named(str(number)) for number in range(10_001)])

    with pytest.raises(TooLarge):
        list(list_referrers(repository, Digest.of(b"root")))
