"""Referrers: lists of manifests that point at a subject (distribution-spec, "Listing Referrers")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX
from registry_core.domain.names import Tag
from registry_core.errors import InvalidDocument, InvalidName

__all__ = [
    "digest_tags",
    "fallback_tag",
    "filter_by_artifact_type",
    "referrer_descriptor",
    "with_referrer",
    "without_referrer",
]

_NOT_IN_TAG = re.compile(r"[^a-zA-Z0-9._-]")
_DIGEST_TAGS: Final = ("sig", "att", "sbom")


def fallback_tag(subject: Digest) -> Tag:
    """The tag under which a registry without a referrers API keeps its list.

    Algorithm and digest are cut to 32 and 64 characters and joined by ``-``
    (distribution-spec, "Referrers Tag Schema").

    Args:
        subject: The manifest the others point at.
    """
    text = f"{subject.algorithm[:32]}-{subject.encoded[:64]}"
    return Tag(_NOT_IN_TAG.sub("-", text))


def digest_tags(subject: Digest) -> list[Tag]:
    """The tags by which cosign says what a manifest is about: ``sha256-….sig``, ``.att`` and ``.sbom``.

    A sha512 digest is longer than a tag may be, so there are none for it.

    Args:
        subject: The manifest they are about.
    """
    tags = []
    for suffix in _DIGEST_TAGS:
        with suppress(InvalidName):
            tags.append(Tag(f"{subject.algorithm}-{subject.encoded}.{suffix}"))
    return tags


def referrer_descriptor(manifest: RawManifest) -> Descriptor | None:
    """How a manifest stands in its subject's list: with its artifact type and all its annotations.

    Returns:
        ``None`` for a manifest without a subject.

    Raises:
        InvalidDocument: It is not what its media type says.
    """
    if manifest.subject is None:
        return None
    if manifest.is_index:
        artifact_type, annotations = manifest.index.artifact_type, manifest.index.annotations
    else:
        image = manifest.image
        artifact_type, annotations = image.artifact_type or image.config.media_type, image.annotations
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=len(manifest.content),
        artifact_type=artifact_type,
        annotations=annotations,
    )


def filter_by_artifact_type(referrers: Iterable[Descriptor], artifact_type: str) -> Iterator[Descriptor]:
    """Those of one artifact type; all where it is empty."""
    return (entry for entry in referrers if not artifact_type or entry.artifact_type == artifact_type)


def with_referrer(current: RawManifest | None, entry: Descriptor) -> RawManifest:
    """A list with one more entry; the very same list if the entry is in it. What else stands in it is kept.

    Args:
        current: The list so far; ``None`` for none.
        entry: The new entry.

    Raises:
        NotAnIndex: What stands there is no list.
        InvalidDocument: It is a broken one.
    """
    media_type = OCI_INDEX if current is None else current.media_type
    if current is None:
        mapping: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        entries: list[Any] = []
    else:
        if any(known.digest == entry.digest for known in current.index.manifests):
            return current
        mapping = dict(current.mapping)
        entries = list(mapping.get("manifests") or [])
    entries.append(_entry(entry))
    return RawManifest(media_type, strict_json.encode(mapping | {"manifests": entries}))


def without_referrer(current: RawManifest, digest: Digest) -> RawManifest:
    """A list without the entries of one manifest; the very same list if it has none.

    Raises:
        NotAnIndex: What stands there is no list.
        InvalidDocument: It is a broken one.
    """
    if all(known.digest != digest for known in current.index.manifests):
        return current
    entries = [entry for entry in current.mapping["manifests"] if entry.get("digest") != digest]
    return RawManifest(current.media_type, strict_json.encode(dict(current.mapping) | {"manifests": entries}))


def _entry(entry: Descriptor) -> dict[str, Any]:
    mapping: dict[str, Any] = {"mediaType": entry.media_type, "digest": str(entry.digest), "size": entry.size}
    if entry.artifact_type:
        mapping["artifactType"] = entry.artifact_type
    if entry.annotations:
        mapping["annotations"] = dict(entry.annotations)
    if not mapping["mediaType"]:
        raise InvalidDocument("a referrer without a media type")
    return mapping
