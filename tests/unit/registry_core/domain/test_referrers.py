from __future__ import annotations

import json
from typing import Any

import pytest

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.referrers import (
    digest_tags,
    fallback_tag,
    filter_by_artifact_type,
    referrer_descriptor,
    with_referrer,
    without_referrer,
)
from registry_core.errors import NotAnIndex

A = "a" * 64
LONG_ALGORITHM = "test+algorithm+using+algorithm+separators+and+lots+of+characters+to+excercise+overall+truncation"
LONG_ENCODED = (
    "alsoSome=InTheEncodedSectionToShowHyphenReplacementAndLotsAndLotsOfCharactersToExcerciseEncodedTruncation"
)


def entry(letter: str, artifact_type: str = "") -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST, digest=Digest(f"sha256:{letter * 64}"), size=5, artifact_type=artifact_type
    )


def manifest(**fields: Any) -> RawManifest:
    return RawManifest.of(json.dumps({"schemaVersion": 2} | fields).encode())


def part(**more: object) -> dict[str, Any]:
    return {"mediaType": "acme/config", "digest": f"sha256:{A}", "size": 1} | more


@pytest.mark.parametrize(
    ("subject", "tag"),
    [
        (f"sha256:{A}", f"sha256-{A}"),
        (f"sha512:{A}{A}", f"sha512-{A}"),
        (
            f"{LONG_ALGORITHM}:{LONG_ENCODED}",
            "test-algorithm-using-algorithm-s-alsoSome-InTheEncodedSectionToShowHyphenReplacementAndLotsAndLot",
        ),
    ],
)
def test_the_fallback_tag_is_that_of_the_specification(subject: str, tag: str) -> None:
    """R-223: distribution-spec, "Referrers Tag Schema"."""
    assert fallback_tag(Digest(subject)) == tag


def test_tags_of_cosign_name_their_subject() -> None:
    assert digest_tags(Digest(f"sha256:{A}")) == [f"sha256-{A}.{suffix}" for suffix in ("sig", "att", "sbom")]


def test_a_digest_longer_than_a_tag_has_no_tags_of_cosign() -> None:
    assert digest_tags(Digest.of(b"", "sha512")) == []


def test_an_image_is_listed_with_its_artifact_type_and_annotations() -> None:
    """R-222."""
    image = manifest(config=part(), subject=part(), artifactType="acme/sbom", annotations={"a": "b"})

    found = referrer_descriptor(image)

    assert found is not None
    assert (found.digest, found.size, found.media_type) == (image.digest, len(image.content), OCI_MANIFEST)
    assert (found.artifact_type, found.annotations) == ("acme/sbom", {"a": "b"})


def test_the_artifact_type_defaults_to_the_media_type_of_the_configuration() -> None:
    """R-222."""
    found = referrer_descriptor(manifest(config=part(), subject=part()))

    assert found is not None
    assert found.artifact_type == "acme/config"


def test_an_index_without_artifact_type_has_none() -> None:
    """R-222."""
    found = referrer_descriptor(manifest(manifests=[], subject=part()))

    assert found is not None
    assert (found.media_type, found.artifact_type) == (OCI_INDEX, "")


def test_a_manifest_without_subject_has_no_referrer_descriptor() -> None:
    assert referrer_descriptor(manifest(config=part())) is None


def test_entries_are_selected_by_artifact_type() -> None:
    """R-220."""
    entries = [entry("a", "x"), entry("b", "y"), entry("c")]

    assert list(filter_by_artifact_type(entries, "y")) == [entries[1]]
    assert list(filter_by_artifact_type(entries, "")) == entries


def test_a_new_list_is_an_index_with_one_entry() -> None:
    """R-222."""
    made = with_referrer(None, entry("a", "x"))

    assert made.media_type == OCI_INDEX
    assert RawManifest.of(made.content).index.manifests == (entry("a", "x"),)
    assert made.mapping["mediaType"] == OCI_INDEX


def test_adding_an_existing_entry_changes_nothing() -> None:
    """R-222: no duplicates."""
    current = with_referrer(None, entry("a"))

    assert with_referrer(current, entry("a", "other")) is current


def test_unknown_fields_are_kept_on_addition_and_removal() -> None:
    """R-027, R-222, R-224."""
    current = manifest(manifests=[part(future=1)], future={"x": [None]})

    grown = with_referrer(current, entry("b"))
    back = without_referrer(grown, Digest(f"sha256:{'b' * 64}"))

    assert grown.mapping["manifests"][0] == part(future=1)
    assert back.mapping == current.mapping


def test_the_media_type_of_a_list_is_kept() -> None:
    current = manifest(mediaType=DOCKER_INDEX, manifests=None)

    grown = with_referrer(current, entry("a"))

    assert RawManifest.of(grown.content, claimed=grown.media_type).media_type == DOCKER_INDEX


def test_removing_an_absent_entry_changes_nothing() -> None:
    """R-224."""
    current = with_referrer(None, entry("a"))

    assert without_referrer(current, entry("b").digest) is current


def test_only_the_given_entry_is_removed() -> None:
    """R-224."""
    current = with_referrer(with_referrer(None, entry("a")), entry("b"))

    assert without_referrer(current, entry("a").digest).index.manifests == (entry("b"),)


def test_an_invalid_list_is_reported() -> None:
    """R-222."""
    image = manifest(config=part())

    with pytest.raises(NotAnIndex):
        with_referrer(image, entry("a"))
    with pytest.raises(NotAnIndex):
        without_referrer(image, entry("a").digest)
