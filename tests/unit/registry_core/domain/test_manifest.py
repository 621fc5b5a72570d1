from __future__ import annotations

import base64
import hashlib
import json
import pickle
from typing import Any

import pytest

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from registry_core.errors import DigestMismatch, InvalidDocument, NotAnImage, NotAnIndex, SizeMismatch, Unsupported

SHA = "sha256:" + "a" * 64


def part(media_type: str = OCI_CONFIG, **more: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": SHA, "size": 7} | more


def image(**more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": part(), "layers": [part(OCI_LAYER)]} | more).encode()


def index(**more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": [part(OCI_MANIFEST)]} | more).encode()


@pytest.mark.parametrize("size", [True, False, -1, 2**63, 10**30, 1.0, 1.5, "1", None, [1]])
def test_a_size_must_be_below_two_to_the_63_and_not_negative(size: object) -> None:
    """R-008."""
    with pytest.raises(InvalidDocument):
        strict_json.convert(part(size=size), Descriptor)


@pytest.mark.parametrize("size", [0, 2**63 - 1])
def test_valid_sizes_are_accepted(size: int) -> None:
    """R-008."""
    assert strict_json.convert(part(size=size), Descriptor).size == size


@pytest.mark.parametrize(
    "more",
    [
        {"mediaType": 5},
        {"digest": "sha256:abc"},
        {"digest": 5},
        {"annotations": {"a": 1}},
        {"annotations": ["a"]},
        {"urls": [None]},
        {"urls": "https://a.example"},
        {"data": "not base64!"},
        {"data": 5},
    ],
)
def test_malformed_descriptors_are_refused(more: dict[str, object]) -> None:
    """R-008."""
    with pytest.raises(InvalidDocument):
        strict_json.convert(part() | more, Descriptor)


def test_null_counts_as_absent() -> None:
    document = part(annotations=None, urls=None, data=None, platform=None, artifactType=None)

    assert strict_json.convert(document, Descriptor) == strict_json.convert(part(), Descriptor)


def test_descriptors_do_not_share_their_annotations() -> None:
    one, other = strict_json.convert(part(), Descriptor), strict_json.convert(part(), Descriptor)

    one.annotations["a"] = "b"

    assert other.annotations == {}


def test_descriptors_can_be_hashed() -> None:
    assert len({strict_json.convert(part(), Descriptor), strict_json.convert(part(annotations={}), Descriptor)}) == 1


def test_embedded_data_is_returned_after_verification() -> None:
    """R-009."""
    data = b"{}"
    document = {
        "mediaType": "a/b",
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": 2,
        "data": base64.b64encode(data).decode(),
    }

    assert strict_json.convert(document, Descriptor).embedded() == data
    assert strict_json.convert(part(), Descriptor).embedded() is None


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [(b"lie", 3, DigestMismatch), (b"lie", 2, SizeMismatch), (b"", 3, SizeMismatch)],
)
def test_embedded_data_that_does_not_match_the_digest_is_not_returned(
    data: bytes, size: int, error: type[Exception]
) -> None:
    """R-009."""
    descriptor = Descriptor(media_type="a/b", digest=Digest(SHA), size=size, data=data)

    with pytest.raises(error):
        descriptor.embedded()


def test_embedded_data_with_an_unknown_algorithm_is_not_returned() -> None:
    """R-002, R-009."""
    descriptor = Descriptor(media_type="a/b", digest=Digest("md5:abc"), size=1, data=b"a")

    with pytest.raises(Unsupported):
        descriptor.embedded()


@pytest.mark.parametrize(
    ("content", "claimed", "expected"),
    [
        (image(mediaType=OCI_MANIFEST), OCI_MANIFEST, OCI_MANIFEST),
        (image(mediaType=OCI_MANIFEST), f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), "", DOCKER_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), "Application/JSON", DOCKER_MANIFEST),
        (image(), OCI_MANIFEST.upper(), OCI_MANIFEST),
        (image(), "", OCI_MANIFEST),
        (index(), "text/plain; charset=utf-8", OCI_INDEX),
        (index(mediaType=None), "", OCI_INDEX),
        (index(mediaType=DOCKER_INDEX), DOCKER_INDEX, DOCKER_INDEX),
        (b'{"schemaVersion":2,"manifests":null}', "", OCI_INDEX),
        (b'{"anything":1}', "application/vnd.acme.thing+json", "application/vnd.acme.thing+json"),
        (b'{"mediaType":"application/vnd.acme.thing"}', "", "application/vnd.acme.thing"),
    ],
)
def test_the_media_type_is_detected(content: bytes, claimed: str, expected: str) -> None:
    """R-020, R-027, R-029."""
    assert RawManifest.of(content, claimed=claimed).media_type == expected


@pytest.mark.parametrize(
    ("content", "claimed"),
    [
        (image(mediaType=OCI_MANIFEST), DOCKER_MANIFEST),
        (index(mediaType=OCI_INDEX), OCI_MANIFEST),
        (image(mediaType=5), ""),
        (index(), OCI_MANIFEST),
        (b'{"schemaVersion":2,"manifests":{}}', OCI_INDEX),
        (b"{}", ""),
        (b"{}", "application/json"),
        (b"[]", OCI_INDEX),
        (b'{"schemaVersion":true,"manifests":[]}', ""),
    ],
)
def test_a_contradicting_media_type_is_refused(content: bytes, claimed: str) -> None:
    """R-020, R-029."""
    with pytest.raises(InvalidDocument):
        RawManifest.of(content, claimed=claimed)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/octet-stream",
        "binary/octet-stream",
        "application/json; charset=utf-8",
        "application/xml",
        "application/x-tar",
        "application/x-gzip",
        "text/html; charset=utf-8",
        "Text/HTML",
        "text/plain, application/json",
        f"{OCI_INDEX}, {OCI_MANIFEST}",
        f"{DOCKER_MANIFEST}, text/plain",
        "garbage",
        ";",
        OCI_CONFIG,
        f"{OCI_LAYER}+gzip",
        DOCKER_LAYER_GZIP,
    ],
)
class TestContentTypesThatAreNoKindOfManifest:
    def test_the_media_type_of_the_document_decides(self, content_type: str) -> None:
        """R-029: buckets and plain web servers know no media types of manifests."""
        assert RawManifest.of(image(mediaType=DOCKER_MANIFEST), claimed=content_type).media_type == DOCKER_MANIFEST
        assert RawManifest.of(index(mediaType=DOCKER_INDEX), claimed=content_type).media_type == DOCKER_INDEX

    def test_a_document_that_states_none_is_decided_by_its_fields(self, content_type: str) -> None:
        """R-029."""
        assert RawManifest.of(image(), claimed=content_type).media_type == OCI_MANIFEST
        assert RawManifest.of(index(), claimed=content_type).media_type == OCI_INDEX

    def test_a_document_of_no_kind_is_refused(self, content_type: str) -> None:
        """R-029: a login page or an error document is no manifest of the type ``text/html``."""
        with pytest.raises(InvalidDocument):
            RawManifest.of(b'{"errors":[]}', claimed=content_type)


def test_a_vendor_type_without_the_word_manifest_counts_only_where_the_document_states_none() -> None:
    """R-027, R-029: it may be a kind of manifest that this library does not know."""
    thing = "application/vnd.acme.thing+json"

    assert RawManifest.of(image(mediaType=OCI_MANIFEST), claimed=thing).media_type == OCI_MANIFEST
    assert RawManifest.of(image(), claimed=thing).media_type == thing


def test_a_type_that_is_sent_twice_counts_once() -> None:
    """R-029."""
    assert RawManifest.of(image(), claimed=f"{DOCKER_MANIFEST}, {DOCKER_MANIFEST}").media_type == DOCKER_MANIFEST
    with pytest.raises(InvalidDocument):
        RawManifest.of(image(mediaType=OCI_MANIFEST), claimed=f"{DOCKER_MANIFEST}, {DOCKER_MANIFEST}")


@pytest.mark.parametrize(
    ("content", "claimed"),
    [
        (image(mediaType=OCI_MANIFEST), "application/vnd.oci.artifact.manifest.v1+json"),
        (image(mediaType=OCI_MANIFEST), "application/vnd.acme.index.v1+json"),
        (index(mediaType=DOCKER_INDEX), OCI_INDEX),
        (image(mediaType="text/html"), OCI_MANIFEST),
    ],
)
def test_a_kind_of_manifest_that_contradicts_the_document_is_refused(content: bytes, claimed: str) -> None:
    """R-020."""
    with pytest.raises(InvalidDocument):
        RawManifest.of(content, claimed=claimed)


@pytest.mark.parametrize(
    "expected", ["application/octet-stream", "binary/octet-stream", "text/html", "application/json"]
)
def test_a_generic_media_type_in_a_descriptor_gives_way_to_the_document(expected: str) -> None:
    """R-029."""
    assert RawManifest.of(image(mediaType=DOCKER_MANIFEST), expected=expected).media_type == DOCKER_MANIFEST
    assert RawManifest(expected, image(mediaType=DOCKER_MANIFEST)).checked().media_type == DOCKER_MANIFEST


@pytest.mark.parametrize("expected", [OCI_CONFIG, f"{OCI_LAYER}+gzip", "application/vnd.acme.thing+json", OCI_INDEX])
def test_a_media_type_in_a_descriptor_that_contradicts_the_document_is_refused(expected: str) -> None:
    """R-020."""
    with pytest.raises(InvalidDocument):
        RawManifest.of(image(mediaType=OCI_MANIFEST), expected=expected)


def test_the_media_type_of_the_descriptor_takes_precedence() -> None:
    """R-020."""
    assert RawManifest.of(image(), claimed=DOCKER_MANIFEST, expected=OCI_MANIFEST).media_type == OCI_MANIFEST
    with pytest.raises(InvalidDocument):
        RawManifest.of(image(mediaType=DOCKER_MANIFEST), claimed=DOCKER_MANIFEST, expected=OCI_MANIFEST)


@pytest.mark.parametrize("field", ["layers", "config", "fsLayers"])
@pytest.mark.parametrize("claimed", ["", OCI_INDEX, OCI_MANIFEST, "application/vnd.acme.thing"])
def test_a_document_that_is_an_image_and_an_index_is_refused(field: str, claimed: str) -> None:
    """R-021."""
    with pytest.raises(InvalidDocument):
        RawManifest.of(index(**{field: None}), claimed=claimed)


@pytest.mark.parametrize(
    ("content", "claimed"),
    [
        (b'{"schemaVersion":1,"fsLayers":[]}', ""),
        (b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (b'{"mediaType":"application/vnd.docker.distribution.manifest.v1+json"}', ""),
    ],
)
def test_schema_1_is_refused_as_unsupported(content: bytes, claimed: str) -> None:
    """R-028."""
    with pytest.raises(Unsupported):
        RawManifest.of(content, claimed=claimed)


def test_unknown_fields_are_kept() -> None:
    """R-027."""
    content = image(future={"a": [1]}, artifactType="acme", config=part("acme/config", future=1))

    manifest = RawManifest.of(content)

    assert manifest.content == content
    assert manifest.image.config.media_type == "acme/config"
    assert manifest.mapping["future"] == {"a": [1]}


def test_manifests_are_compared_by_their_bytes() -> None:
    """R-026."""
    content = image() + b"\n  "

    manifest = RawManifest.of(content)

    assert manifest.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert manifest.descriptor == Descriptor(media_type=OCI_MANIFEST, digest=manifest.digest, size=len(content))
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_children_begin_with_the_configuration() -> None:
    manifest = RawManifest.of(image(subject=part(OCI_MANIFEST)))

    assert [child.media_type for child in manifest.children] == [OCI_CONFIG, OCI_LAYER]
    assert manifest.subject is not None


def test_an_unknown_manifest_has_no_children() -> None:
    """R-027."""
    manifest = RawManifest.of(b'{"layers":"x"}', claimed="application/vnd.acme.x")

    assert manifest.children == ()
    assert manifest.subject is None


def test_the_wrong_view_is_refused() -> None:
    with pytest.raises(NotAnIndex):
        _ = RawManifest.of(image()).index
    with pytest.raises(NotAnImage):
        _ = RawManifest.of(index()).image


class TestChecked:
    def test_a_changed_mapping_does_not_affect_the_check(self) -> None:
        raw = RawManifest("", index())
        raw.mapping["config"] = {}

        assert len(raw.checked().index.manifests) == 1

    def test_the_views_are_shared_and_the_decoded_json_is_not_kept(self) -> None:
        raw = RawManifest.of(image())

        again = raw.checked(expected=OCI_MANIFEST)

        assert again is raw
        assert again.image is raw.image
        assert "mapping" not in vars(raw)

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (RawManifest.of(image(mediaType=OCI_MANIFEST)), OCI_INDEX),
            (RawManifest.of(image(mediaType=OCI_MANIFEST)), DOCKER_MANIFEST),
            (RawManifest(OCI_INDEX, image(mediaType=OCI_MANIFEST)), ""),
            (RawManifest(OCI_MANIFEST, b"[]"), ""),
        ],
    )
    def test_a_checked_manifest_is_refused_under_another_expected_type(self, raw: RawManifest, expected: str) -> None:
        """R-020."""
        with pytest.raises(InvalidDocument):
            raw.checked(expected=expected)

    def test_capital_letters_are_ignored_in_a_claimed_type_but_not_in_an_expected_one(self) -> None:
        """R-029."""
        raw = RawManifest.of(b'{"manifests":[]}', expected="Application/vnd.X")

        assert raw.media_type == "Application/vnd.X"
        assert raw.checked().media_type == "application/vnd.x"
        assert raw.checked(expected="Application/vnd.X").media_type == "Application/vnd.X"

    def test_views_change_neither_equality_nor_hash_nor_pickle(self) -> None:
        raw, viewed = RawManifest(OCI_MANIFEST, image()), RawManifest.of(image())

        assert raw == viewed
        assert hash(raw) == hash(viewed)
        assert pickle.dumps(raw) == pickle.dumps(viewed)

    def test_another_algorithm_gives_another_digest_of_the_same_views(self) -> None:
        raw = RawManifest.of(image())
        strong = raw.with_algorithm("sha512") if raw.digest else raw

        assert strong.digest == Digest.of(image(), "sha512")
        assert strong.image is raw.image
        assert raw.digest == Digest.of(image())
