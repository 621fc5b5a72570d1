"""Manifests: their bytes, and typed views of them (image-spec manifest.md, image-index.md)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    essence,
    is_index,
    is_manifest,
    is_schema1,
)
from registry_core.errors import InvalidDocument, NotAnImage, NotAnIndex, Unsupported

__all__ = ["ImageIndex", "ImageManifest", "RawManifest", "identify"]

# What servers say when they do not know better: no claim about the kind of manifest.
_VAGUE = frozenset({"", "application/json", "application/octet-stream", "text/plain", "text/json"})


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image manifest: a configuration and layers, lowest first."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image index, or a Docker manifest list: several manifests, mostly one a platform."""

    schema_version: int
    manifests: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class RawManifest(msgspec.Struct, frozen=True, dict=True):
    """A manifest as it travels: its bytes are its identity.

    Args:
        media_type: What it is, without parameters.
        content: The exact bytes.
        algorithm: Of the digest that it goes by.
    """

    media_type: str
    content: bytes
    algorithm: str = "sha256"

    @classmethod
    def of(cls, content: bytes, *, claimed: str = "", expected: str = "", algorithm: str = "sha256") -> Self:
        """A manifest from bytes that came from somewhere; see ``identify``.

        Raises:
            InvalidDocument: Not a manifest, or not the one it was said to be.
            Unsupported: A Docker schema 1 manifest.
        """
        return cls(identify(content, claimed=claimed, expected=expected), content, algorithm)

    @cached_property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return Digest.of(self.content, self.algorithm)

    @property
    def descriptor(self) -> Descriptor:
        """Type, digest and size, and nothing else."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))

    @property
    def is_index(self) -> bool:
        """Whether it is an image index or a Docker manifest list."""
        return is_index(self.media_type)

    @cached_property
    def mapping(self) -> dict[str, Any]:
        """The decoded JSON. It is shared: copy it before a change.

        Raises:
            InvalidDocument: Not a JSON object.
        """
        return strict_json.decode(self.content)

    @cached_property
    def image(self) -> ImageManifest:
        """The view as an image manifest.

        Raises:
            NotAnImage: It is something else.
            InvalidDocument: It says it is one, but is not.
        """
        if self.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
            raise NotAnImage(f"not an image manifest but {self.media_type}")
        return strict_json.convert(self.mapping, ImageManifest)

    @cached_property
    def index(self) -> ImageIndex:
        """The view as an image index.

        Raises:
            NotAnIndex: It is something else.
            InvalidDocument: It says it is one, but is not.
        """
        if not self.is_index:
            raise NotAnIndex(f"not an image index but {self.media_type}")
        return strict_json.convert(self.mapping, ImageIndex)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """What it is made of: configuration and layers, or the manifests of an index; of unknown types, nothing.

        The subject is not a part: it may be absent (distribution-spec, "Pushing Manifests with Subject").

        Raises:
            InvalidDocument: It is not what its media type says.
        """
        if self.is_index:
            return self.index.manifests
        if is_manifest(self.media_type):
            return (self.image.config, *self.image.layers)
        return ()

    @property
    def subject(self) -> Descriptor | None:
        """The manifest that this one refers to, if any.

        Raises:
            InvalidDocument: It is not what its media type says.
        """
        if self.is_index:
            return self.index.subject
        return self.image.subject if is_manifest(self.media_type) else None


def identify(content: bytes, *, claimed: str = "", expected: str = "") -> str:
    """What kind of manifest some bytes are, or why they are none.

    Args:
        content: The bytes.
        claimed: The ``Content-Type`` they came with, as it came.
        expected: The type that a descriptor promised; it wins over the claim.

    Returns:
        A media type without parameters; types that nobody knows are carried.

    Raises:
        InvalidDocument: No JSON object; its type is another; manifest and index at once.
        Unsupported: A Docker schema 1 manifest.
    """
    mapping = strict_json.decode(content)
    stated = mapping.get("mediaType")
    if stated is not None and not isinstance(stated, str):
        raise InvalidDocument("not a string", path="$.mediaType")
    said = expected or essence(claimed)
    if is_schema1(said) or is_schema1(stated or "") or (mapping.get("schemaVersion") == 1 and "fsLayers" in mapping):
        raise Unsupported("a Docker schema 1 manifest: that format is not supported")
    # two readers could see two different documents.
    if "manifests" in mapping and not mapping.keys().isdisjoint({"layers", "config", "fsLayers"}):
        raise InvalidDocument("both an image manifest and an index")
    if said in _VAGUE:
        said = ""
    if said and stated and said != stated:
        raise InvalidDocument(f"came as {said!r:.100} but calls itself {stated!r:.100}", path="$.mediaType")
    kind = said or stated or _by_shape(mapping)
    _check_shape(kind, mapping)
    return kind


def _by_shape(mapping: dict[str, Any]) -> str:
    if "manifests" in mapping:
        return OCI_INDEX
    if "config" in mapping or "layers" in mapping:
        return OCI_MANIFEST
    raise InvalidDocument("neither an image manifest nor an index")


def _check_shape(kind: str, mapping: dict[str, Any]) -> None:
    if kind in (OCI_INDEX, DOCKER_INDEX):
        strict_json.convert(mapping, ImageIndex)
    elif kind in (OCI_MANIFEST, DOCKER_MANIFEST):
        strict_json.convert(mapping, ImageManifest)
