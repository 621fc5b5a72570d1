"""Referrers: manifests that refer to a subject (distribution-spec, "Listing Referrers")."""

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
    """Return the tag of the referrers index in a registry without a referrers API.

    Algorithm and digest are cut to 32 and 64 characters and joined by ``-``
    (distribution-spec, "Referrers Tag Schema").

    Args:
        subject: Digest of the subject.
    """
    text = f"{subject.algorithm[:32]}-{subject.encoded[:64]}"
    return Tag(_NOT_IN_TAG.sub("-", text))


def digest_tags(subject: Digest) -> list[Tag]:
    """Return the tags of cosign's signatures, attestations and SBOMs: ``sha256-….sig``, ``.att``, ``.sbom``.

    A sha512 digest has none, because it is longer than a tag may be.

    Args:
        subject: Digest of the subject.
    """
    tags = []
    for suffix in _DIGEST_TAGS:
        with suppress(InvalidName):
            tags.append(Tag(f"{subject.algorithm}-{subject.encoded}.{suffix}"))
    return tags


def referrer_descriptor(manifest: RawManifest) -> Descriptor | None:
    """Return the entry of a manifest in the referrers index of its subject, with artifact type and annotations.

    Returns:
        The entry, or ``None`` if the manifest has no subject.

    Raises:
        InvalidDocument: The document does not match its media type.
    """
    if manifest.subject is None:
        return None
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=len(manifest.content),
        artifact_type=manifest.artifact_type,
        annotations=manifest.annotations,
    )


def filter_by_artifact_type(referrers: Iterable[Descriptor], artifact_type: str) -> Iterator[Descriptor]:
    """Iterate over the referrers of one artifact type; over all if the type is empty."""
    return (entry for entry in referrers if not artifact_type or entry.artifact_type == artifact_type)


def with_referrer(current: RawManifest | None, entry: Descriptor) -> RawManifest:
    """Return a referrers index with an entry added, or ``current`` itself if it has the entry already.

    Unknown fields and other entries are kept.

    Args:
        current: Current index; ``None`` if there is none.
        entry: Entry to add.

    Raises:
        NotAnIndex: The current manifest is not an index.
        InvalidDocument: The current index is malformed.
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
    """Return a referrers index without the entries of a manifest, or ``current`` itself if it has none.

    Raises:
        NotAnIndex: The current manifest is not an index.
        InvalidDocument: The current index is malformed.
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
        raise InvalidDocument("the referrer has no media type", code="MANIFEST_INVALID")
    return mapping
