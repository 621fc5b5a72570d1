"""Manifests: their bytes, and typed views of the decoded document (image-spec manifest.md, image-index.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest, digests_in
from registry_core.domain.media_types import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    essence,
    is_about_manifests,
    is_artifact_manifest,
    is_generic,
    is_image_manifest,
    is_index,
    is_schema1,
    may_be_manifest,
)
from registry_core.errors import InvalidDocument, NotAnImage, NotAnIndex, Unsupported

__all__ = ["ArtifactManifest", "ImageIndex", "ImageManifest", "RawManifest", "layout_entries"]

# Fields with the parts of the other kinds.
_OTHER_PARTS = frozenset({"manifests", "layers", "config", "fsLayers"})


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """View of an image manifest: a configuration and layers, lowest first."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """View of an image index or a Docker manifest list: manifests, usually one for each platform."""

    schema_version: int
    manifests: tuple[Descriptor, ...] = ()
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


def layout_entries(index: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    """Return the entries of the ``index.json`` of an image layout, whose images may have nothing to do with each other.

    The digest and the size of each entry count. A media type, annotation or other field of the wrong type is as good as
    absent, so that it does not hide the other images; an entry without media type has the empty one, and its manifest
    states the type.

    Args:
        index: Decoded ``index.json``.

    Raises:
        InvalidDocument: The document is not an image index, or an entry has no valid digest and size.
    """
    try:
        return strict_json.convert(index, ImageIndex).manifests
    except InvalidDocument:
        entries = index.get("manifests")
        if not isinstance(entries, list):
            raise
        return strict_json.convert(
            {**index, "manifests": [_repaired(entry) for entry in entries]}, ImageIndex
        ).manifests


def _repaired(entry: object) -> object:
    try:
        strict_json.convert(entry, Descriptor)
    except InvalidDocument:
        if not isinstance(entry, dict):
            return entry
        media_type, annotations = entry.get("mediaType"), entry.get("annotations")
        named = annotations.items() if isinstance(annotations, dict) else ()
        return {
            **{name: entry[name] for name in ("digest", "size", "platform") if name in entry},
            "mediaType": media_type if isinstance(media_type, str) else "",
            "annotations": {name: value for name, value in named if isinstance(value, str)},
        }
    return entry


class ArtifactManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """View of an artifact manifest of OCI (image-spec 1.1.0-rc2, artifact.md) or ORAS: blobs, and no configuration."""

    artifact_type: str = ""
    blobs: tuple[Descriptor, ...] = ()
    media_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class RawManifest(msgspec.Struct, frozen=True, dict=True):
    """The exact bytes of a manifest, with its media type. Only the arguments are compared, hashed and pickled.

    The document is decoded at most once for the views ``image``, ``index`` and ``artifact`` and everything derived from
    them. The decoded JSON itself takes many times the memory of the bytes and is not kept, unless ``mapping`` was read.

    Args:
        media_type: Media type without parameters.
        content: Exact bytes.
        algorithm: Algorithm of the manifest's digest.
    """

    media_type: str
    content: bytes
    algorithm: str = "sha256"

    @classmethod
    def of(cls, content: bytes, *, claimed: str = "", expected: str = "", algorithm: str = "sha256") -> Self:
        """Return a manifest from bytes, after a check of its type.

        Args:
            content: Exact bytes.
            claimed: ``Content-Type`` that came with the bytes.
            expected: Media type of the descriptor that names the manifest; it takes precedence over ``claimed``.
            algorithm: Algorithm of the manifest's digest.

        Raises:
            InvalidDocument: The bytes are not a JSON object, are both a manifest and an index, or are of another type.
            Unsupported: The manifest is a Docker schema 1 manifest.
        """
        return cls(expected or claimed, content, algorithm).checked(expected=expected)

    def checked(self, *, expected: str = "") -> Self:
        """Return this manifest with the media type of its bytes, after the checks that ``of`` describes.

        The present media type counts as claimed. A manifest that was checked already is not decoded again.

        Args:
            expected: Media type of the descriptor that names the manifest.

        Raises:
            InvalidDocument: The bytes are not a JSON object, are both a manifest and an index, or are of another type.
            Unsupported: The manifest is a Docker schema 1 manifest.
        """
        if self._is_checked and expected in ("", self.media_type):
            return self
        with _manifest_errors():
            return self._check(expected)

    def _check(self, expected: str) -> Self:
        # From the bytes, even if `mapping` was read: a caller may have changed it.
        try:
            mapping = strict_json.decode(self.content)
        except InvalidDocument as error:
            error.message = f"manifest: {error.message}"
            raise
        media_type = _media_type(mapping, claimed=self.media_type, expected=expected)
        checked = self if media_type == self.media_type else type(self)(media_type, self.content, self.algorithm)
        cache = vars(checked)
        if is_index(media_type):
            cache["index"] = strict_json.convert(mapping, ImageIndex)
        elif is_image_manifest(media_type):
            cache["image"] = _image(mapping, media_type)
        elif is_artifact_manifest(media_type):
            cache["artifact"] = strict_json.convert(mapping, ArtifactManifest)
        # A type with parameters or capital letters is decided anew each time: as a claim it would be normalised.
        cache["_is_checked"] = essence(media_type) == media_type
        return checked

    def with_algorithm(self, algorithm: str) -> Self:
        """Return this manifest under the digest of another algorithm."""
        manifest = type(self)(self.media_type, self.content, algorithm)
        vars(manifest).update({name: view for name, view in vars(self).items() if name != "digest"})
        return manifest

    @cached_property
    def _is_checked(self) -> bool:
        return False

    @cached_property
    def digest(self) -> Digest:
        """Digest of the bytes."""
        return Digest.of(self.content, self.algorithm)

    @property
    def descriptor(self) -> Descriptor:
        """Descriptor with media type, digest and size only."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))

    @property
    def is_index(self) -> bool:
        """Whether the media type is that of an image index or a Docker manifest list."""
        return is_index(self.media_type)

    @cached_property
    def mapping(self) -> dict[str, Any]:
        """Decoded JSON, which is shared: copy it before changing it.

        Raises:
            InvalidDocument: The bytes are not a JSON object.
        """
        with _manifest_errors():
            return strict_json.decode(self.content)

    @cached_property
    def image(self) -> ImageManifest:
        """View as an image manifest.

        Raises:
            NotAnImage: The media type is another.
            InvalidDocument: The bytes do not match the media type.
        """
        if not is_image_manifest(self.media_type):
            raise NotAnImage(f"not an image manifest but {self.media_type}")
        with _manifest_errors():
            return _image(self._decode(), self.media_type)

    @cached_property
    def index(self) -> ImageIndex:
        """View as an image index.

        Raises:
            NotAnIndex: The media type is another.
            InvalidDocument: The bytes do not match the media type.
        """
        if not self.is_index:
            raise NotAnIndex(f"not an image index but {self.media_type}")
        with _manifest_errors():
            return strict_json.convert(self._decode(), ImageIndex)

    @cached_property
    def artifact(self) -> ArtifactManifest:
        """View as an artifact manifest.

        Raises:
            NotAnImage: The media type is another.
            InvalidDocument: The bytes do not match the media type.
        """
        if not is_artifact_manifest(self.media_type):
            raise NotAnImage(f"not an artifact manifest but {self.media_type}")
        with _manifest_errors():
            return strict_json.convert(self._decode(), ArtifactManifest)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """Configuration and layers of an image, manifests of an index, blobs of an artifact; empty for unknown types.

        The subject is not a child: it may be absent (distribution-spec, "Pushing Manifests with Subject").

        Raises:
            InvalidDocument: The bytes do not match the media type.
        """
        if self.is_index:
            return self.index.manifests
        if is_image_manifest(self.media_type):
            return (self.image.config, *self.image.layers)
        return self.artifact.blobs if is_artifact_manifest(self.media_type) else ()

    @property
    def subject(self) -> Descriptor | None:
        """Descriptor of the manifest that this one refers to, if any.

        Raises:
            InvalidDocument: The bytes do not match the media type.
        """
        view = self._view
        return None if view is None else view.subject

    @property
    def artifact_type(self) -> str:
        """Artifact type as in a list of referrers; empty for unknown media types.

        For an image manifest without one, it is the media type of the configuration
        (distribution-spec, "Listing Referrers").

        Raises:
            InvalidDocument: The bytes do not match the media type.
        """
        view = self._view
        if isinstance(view, ImageManifest):
            return view.artifact_type or view.config.media_type
        return "" if view is None else view.artifact_type

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations; empty for unknown media types.

        Raises:
            InvalidDocument: The bytes do not match the media type.
        """
        view = self._view
        return {} if view is None else dict(view.annotations)

    def check_parts_known(self) -> None:
        """Check that ``children`` holds all parts: the media type is known, or the document names no digest.

        Raises:
            Unsupported: The media type is unknown, and the document names digests besides that of its subject.
        """
        if self._view is not None:
            return
        mapping = {key: value for key, value in self._decode().items() if key != "subject"}
        if any(digests_in(mapping)):
            raise Unsupported(
                f"manifests of the type {self.media_type!r:.200} are not supported: it is unknown which of its digests "
                "are those of its parts"
            )

    @property
    def _view(self) -> ImageIndex | ImageManifest | ArtifactManifest | None:
        if self.is_index:
            return self.index
        if is_image_manifest(self.media_type):
            return self.image
        return self.artifact if is_artifact_manifest(self.media_type) else None

    def _decode(self) -> dict[str, Any]:
        mapping: dict[str, Any] | None = vars(self).get("mapping")
        return strict_json.decode(self.content) if mapping is None else mapping


@contextmanager
def _manifest_errors() -> Iterator[None]:
    """Give the code for manifests to errors of documents (distribution-spec, "Error Codes")."""
    try:
        yield
    except InvalidDocument as error:
        error.code = error.code or "MANIFEST_INVALID"
        raise


def _media_type(mapping: dict[str, Any], *, claimed: str, expected: str) -> str:
    """Return the media type of a document without parameters; unknown types are returned as they are.

    A type that names no kind of manifest does not count; the ``mediaType`` of the document does, or else its fields.
    """
    stated = mapping.get("mediaType")
    if stated is not None and not isinstance(stated, str):
        raise InvalidDocument("not a string", path="$.mediaType")
    claim = _single(claimed)
    # The program that wrote a descriptor knew the content; a server that sends a Content-Type often does not.
    declared = expected if not is_generic(expected) else claim if is_about_manifests(claim) else ""
    if (
        is_schema1(declared)
        or is_schema1(stated or "")
        or (mapping.get("schemaVersion") == 1 and "fsLayers" in mapping)
    ):
        raise Unsupported("Docker schema 1 manifests are not supported: push the image again with a current client")
    # two readers could see two different documents.
    has_image_parts = not mapping.keys().isdisjoint({"layers", "config", "fsLayers"})
    if "manifests" in mapping and has_image_parts:
        raise InvalidDocument("the document is both an image manifest and an index")
    is_artifact = is_artifact_manifest(declared) or is_artifact_manifest(stated or "")
    if is_artifact and not mapping.keys().isdisjoint(_OTHER_PARTS):
        raise InvalidDocument("the document is both an artifact manifest and an image manifest or index")
    if declared and stated and declared != stated:
        raise InvalidDocument(
            f"the document states {stated!r:.100}, but the descriptor or Content-Type {declared!r:.100}",
            path="$.mediaType",
        )
    known = declared or stated
    if known and is_index(known) and has_image_parts:
        raise InvalidDocument("the media type is that of an index, but the document has the parts of an image manifest")
    if known:
        return known
    # A vendor's type may be a kind of manifest that this library does not know.
    return claim if may_be_manifest(claim) else _by_shape(mapping)


def _single(content_type: str) -> str:
    """The media type in a ``Content-Type``; empty if the field has several values that differ."""
    types = {essence(value) for value in content_type.split(",")}
    return types.pop() if len(types) == 1 else ""


def _by_shape(mapping: dict[str, Any]) -> str:
    if "manifests" in mapping:
        return OCI_INDEX
    if "config" in mapping or "layers" in mapping:
        return OCI_MANIFEST
    raise InvalidDocument("the document is neither an image manifest nor an index")


def _image(mapping: dict[str, Any], media_type: str) -> ImageManifest:
    config = mapping.get("config")
    if media_type == DOCKER_MANIFEST and isinstance(config, dict) and config.get("mediaType") is None:
        # Old Docker images do not type their configuration.
        mapping = mapping | {"config": config | {"mediaType": ""}}
    return strict_json.convert(mapping, ImageManifest)
