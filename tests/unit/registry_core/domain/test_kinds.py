"""Kinds of manifests and configurations: what their media types and fields say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.image_config import RawConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MANIFESTS,
    OCI_ARTIFACT_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    ORAS_ARTIFACT_MANIFEST,
    convert_config,
    is_image_config,
)
from registry_core.domain.platform import Platform
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import InvalidDocument, NotAnImage, NotAnIndex, Unsupported

ARTIFACTS = [OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST]
UNKNOWN = "application/vnd.example.thing.v1+json"


def part(content: bytes, media_type: str = "text/plain") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def document(media_type: str, **fields: object) -> bytes:
    return json.dumps({"mediaType": media_type, **fields}).encode()


@pytest.mark.parametrize("media_type", ARTIFACTS)
class TestArtifactManifests:
    """R-016."""

    def test_the_parts_are_the_blobs(self, media_type: str) -> None:
        content = document(media_type, blobs=[part(b"1"), part(b"2")], subject=part(b"3", OCI_MANIFEST))

        manifest = RawManifest.of(content)

        assert manifest.media_type == media_type
        assert [child.digest for child in manifest.children] == [Digest.of(b"1"), Digest.of(b"2")]
        assert manifest.subject is not None
        assert manifest.subject.digest == Digest.of(b"3")
        manifest.check_parts_known()

    def test_as_a_referrer(self, media_type: str) -> None:
        content = document(
            media_type, artifactType="a/b", annotations={"k": "v"}, subject=part(b"1", OCI_MANIFEST), blobs=None
        )

        entry = referrer_descriptor(RawManifest.of(content))

        assert entry is not None
        assert (entry.media_type, entry.artifact_type, entry.annotations) == (media_type, "a/b", {"k": "v"})

    def test_it_is_no_image_and_no_index(self, media_type: str) -> None:
        manifest = RawManifest.of(document(media_type, blobs=[]))

        with pytest.raises(NotAnImage):
            _ = manifest.image
        with pytest.raises(NotAnIndex):
            _ = manifest.index
        with pytest.raises(NotAnImage):
            _ = RawManifest(OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}').artifact

    @pytest.mark.parametrize("field", ["manifests", "layers", "config", "fsLayers"])
    @pytest.mark.parametrize("claimed", ["", "application/json"])
    def test_one_with_the_parts_of_another_kind_is_refused(self, media_type: str, field: str, claimed: str) -> None:
        """R-021."""
        content = document(media_type, blobs=[part(b"1")], **{field: []})

        with pytest.raises(InvalidDocument):
            RawManifest.of(content, claimed=claimed)

    @pytest.mark.parametrize("blobs", [{}, "sha256:abc", [None], [{"digest": "sha256:abc"}]])
    def test_malformed_blobs_are_refused(self, media_type: str, blobs: object) -> None:
        with pytest.raises(InvalidDocument):
            RawManifest.of(document(media_type, blobs=blobs))

    def test_registries_are_asked_for_it(self, media_type: str) -> None:
        """R-204."""
        assert MANIFESTS.index(media_type) > MANIFESTS.index(DOCKER_INDEX)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
@pytest.mark.parametrize("is_stated", [True, False])
@pytest.mark.parametrize("field", ["layers", "config", "fsLayers"])
def test_the_parts_of_an_image_under_the_type_of_an_index_are_refused(
    media_type: str, is_stated: bool, field: str
) -> None:
    """R-021: a reader that goes by the type would see an index of nothing."""
    stated = {"mediaType": media_type} if is_stated else {}
    content = json.dumps({"schemaVersion": 2, **stated, field: []}).encode()

    with pytest.raises(InvalidDocument, match="parts of an image"):
        RawManifest.of(content, claimed=media_type)


class TestUnknownKinds:
    """R-016."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"things": [part(b"1")]},
            {"a": {"b": ["c", f"x {Digest.of(b'1')} y"]}},
            {"a": {str(Digest.of(b"1", "sha512")): None}},
            {"manifest": {"subject": part(b"1")}},
        ],
    )
    def test_parts_are_unknown_where_digests_are_named(self, fields: dict[str, object]) -> None:
        with pytest.raises(Unsupported, match="vnd"):
            RawManifest.of(document(UNKNOWN, **fields)).check_parts_known()

    @pytest.mark.parametrize(
        "fields", [{}, {"thing": [1, 2]}, {"name": "sha256:abc"}, {"subject": part(b"1")}, {"deep": [[[["x"]]]]}]
    )
    def test_without_digests_there_are_none(self, fields: dict[str, object]) -> None:
        manifest = RawManifest.of(document(UNKNOWN, **fields))

        manifest.check_parts_known()
        assert manifest.children == ()


@pytest.mark.parametrize(
    ("media_type", "in_docker", "in_oci"),
    [
        (OCI_CONFIG, True, True),
        (DOCKER_CONFIG, True, True),
        ("", True, False),
        ("application/octet-stream", True, False),
        ("application/json", True, False),
        ("Application/JSON; charset=utf-8", True, False),
        ("text/html", True, False),
        ("text/plain", True, False),
        ("application/vnd.docker.plugin.v1+json", False, False),
        ("application/vnd.cncf.helm.config.v1+json", False, False),
        ("application/vnd.oci.empty.v1+json", False, False),
        ("application/vnd.unknown.config.v1+json", False, False),
    ],
)
def test_configurations_of_images(media_type: str, in_docker: bool, in_oci: bool) -> None:
    """R-015."""
    assert is_image_config(media_type, manifest=DOCKER_MANIFEST) is in_docker
    assert is_image_config(media_type, manifest=OCI_MANIFEST) is in_oci


@pytest.mark.parametrize("config", [part(b"1", ""), part(b"1") | {"mediaType": None}, {**part(b"1")}])
def test_a_docker_configuration_may_have_no_type(config: dict[str, Any]) -> None:
    """R-015."""
    if config.get("mediaType") == "text/plain":
        del config["mediaType"]
    content = document(DOCKER_MANIFEST, schemaVersion=2, config=config, layers=[])

    assert RawManifest.of(content).image.config.media_type == ""
    assert convert_config(config, "oci", manifest=DOCKER_MANIFEST)["mediaType"] == OCI_CONFIG


@pytest.mark.parametrize("field", ["layers", "subject"])
def test_other_descriptors_need_a_type(field: str) -> None:
    """R-008."""
    untyped = {"digest": str(Digest.of(b"1")), "size": 1}
    fields: dict[str, object] = {"layers": [], field: [untyped] if field == "layers" else untyped}
    content = document(DOCKER_MANIFEST, schemaVersion=2, config=part(b"1"), **fields)

    with pytest.raises(InvalidDocument):
        RawManifest.of(content)


def test_the_platform_of_a_configuration_needs_two_fields() -> None:
    """R-017."""
    assert RawConfig(b'{"os":"linux","architecture":"arm64","variant":8}').platform == Platform.parse("linux/arm64")
