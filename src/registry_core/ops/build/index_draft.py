"""Indexes in the making, assembled from images anywhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, OCI_INDEX
from registry_core.domain.names import RepositoryName
from registry_core.domain.platform import Platform
from registry_core.errors import ImageNotFound, InvalidValue, PlatformNotFound
from registry_core.ops.build.config_draft import merged, ordered, platform_entry
from registry_core.ops.build.draft import entry_of
from registry_core.ops.build.families import in_family
from registry_core.ops.build.staged import StagedBlobs, StagedManifests, stage
from registry_core.ops.graph import child, is_child_manifest, walk
from registry_core.ops.image import Image, Index
from registry_core.ports.repository import Repository

__all__ = ["IndexBuilder"]

_STAGED: Final = RepositoryName("staged")
# What BuildKit calls the image that an attestation is about.
_ABOUT: Final = "vnd.docker.reference.digest"


class _Listed(msgspec.Struct, frozen=True):
    """An entry: its JSON as it will stand there, and the same typed."""

    entry: dict[str, Any]
    descriptor: Descriptor
    inherited: bool = False


class IndexBuilder:
    """An image index in the making. Each method changes the builder and returns it.

    Args:
        base: An index to begin with, as it is: its entries, its annotations, and fields that nobody knows. What is not
            changed keeps its bytes.
    """

    def __init__(self, base: Index | None = None) -> None:
        self._base = base
        self._blobs = StagedBlobs()
        self._manifests = StagedManifests()
        self._mapping: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        self._listed: list[_Listed] = []
        self._annotated = False
        if base is not None:
            self._mapping = copy.deepcopy(base.document.mapping)
            entries = self._mapping.get("manifests") or []
            self._listed = [
                _Listed(entry, descriptor, inherited=True)
                for entry, descriptor in zip(entries, base.manifests, strict=True)
            ]
        self._order = tuple(self._mapping.get("annotations") or {})

    def add(
        self,
        image: Image | Index,
        platform: Platform | str | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
    ) -> Self:
        """Add an image, or an index within the index, from any backend or builder.

        Args:
            image: What to add; its blobs stay where they are.
            platform: What to list it under; by default what the image says itself.
            annotations: Of its entry.

        Raises:
            InvalidName: The text is not a platform.
            RegistryError: The image's configuration cannot be read, or a manifest of the index.
        """
        new = self._new(image, platform, annotations)
        if all(new.entry != listed.entry for listed in self._listed):
            self._listed.append(new)
        return self

    def replace(
        self,
        image: Image | Index,
        platform: Platform | str | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
    ) -> Self:
        """Put an image in the place of the one that is listed under its platform.

        Args:
            image: What to list; its blobs stay where they are.
            platform: Which one to replace; by default what the image says itself.
            annotations: Of its entry.

        Raises:
            InvalidName: The text is not a platform.
            InvalidValue: It has no platform.
            PlatformNotFound: Nothing is listed under it.
            RegistryError: The image's configuration cannot be read, or a manifest of the index.
        """
        new = self._new(image, platform, annotations)
        if new.descriptor.platform is None:
            raise InvalidValue("an image without a platform replaces nothing")
        found = self._under(new.descriptor.platform)
        position = self._listed.index(found[0])
        self._listed[position] = new
        self._drop([listed for listed in found if listed.entry != new.entry])
        return self

    def remove(self, which: Platform | Digest | str) -> Self:
        """Remove what is listed under a platform, or by a digest, and the attestations about it.

        Args:
            which: A platform, or a digest.

        Raises:
            InvalidValue: The text is neither.
            PlatformNotFound: Nothing is listed under the platform.
            ImageNotFound: The digest is not listed.
        """
        if isinstance(which, str) and ":" in which:
            digest = Digest(which)
            found = [listed for listed in self._listed if listed.descriptor.digest == digest]
            if not found:
                raise ImageNotFound(f"not in the index: {digest}")
        else:
            found = self._under(Platform.parse(which) if isinstance(which, str) else which)
        self._listed = [listed for listed in self._listed if listed not in found]
        self._drop(found)
        return self

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the index; ``None`` removes it."""
        before = self._mapping.get("annotations") or {}
        after = merged(before, {key: value})
        if after != before:
            self._annotated = True
            self._mapping["annotations"] = after
        return self

    def to_oci(self) -> Self:
        """Make it an OCI index. The images stay as they are: their digests are listed."""
        self._mapping["mediaType"] = OCI_INDEX
        return self

    def to_docker(self) -> Self:
        """Make it a Docker manifest list. The images stay as they are: their digests are listed."""
        self._mapping["mediaType"] = in_family(OCI_INDEX, "docker")
        return self

    def build(self) -> Index:
        """The index, in a repository of its own; ``RegistryClient.push_index`` stores it and all it lists anywhere.

        Raises:
            InvalidValue: A Docker manifest list was given annotations, which it has no place for.
            RegistryError: A manifest that is listed cannot be read.
        """
        media_type = self._mapping.get("mediaType") or OCI_INDEX
        if media_type == DOCKER_INDEX and self._annotated:
            raise InvalidValue("a Docker manifest list has no annotations: convert it with to_oci() first")
        document = dict(self._mapping)
        if self._listed or document.get("manifests") is not None or self._base is None:
            document["manifests"] = [listed.entry for listed in self._listed]
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = ordered(annotations, first=self._order)
        elif self._annotated:
            document.pop("annotations", None)
        raw = RawManifest(media_type, wire.encode(document))
        if self._base is not None:
            original = self._base.document
            unchanged = wire.encode(original.mapping) == raw.content
            raw = original if unchanged else RawManifest(media_type, raw.content, original.algorithm)
            self._take_inherited(self._base)
        self._manifests.put(raw)
        return Index(Repository(_STAGED, self._blobs, self._manifests), raw)

    def _new(
        self, image: Image | Index, platform: Platform | str | None, annotations: Mapping[str, str] | None
    ) -> _Listed:
        listed = Platform.parse(platform) if isinstance(platform, str) else platform
        if listed is None and isinstance(image, Image) and image.has_config:
            listed = image.platform
        entry = entry_of(image.document.descriptor)
        if listed is not None:
            entry["platform"] = platform_entry(listed)
        if isinstance(image, Image) and not image.has_config:
            entry["artifactType"] = image.manifest().artifact_type or image.manifest().config.media_type
        if annotations:
            entry["annotations"] = dict(sorted(annotations.items()))
        for manifest in walk(image.repository, image.document):
            self._take(image.repository, manifest)
        return _Listed(entry, wire.lift(entry, Descriptor))

    def _under(self, platform: Platform) -> list[_Listed]:
        wanted = platform.normalised()
        platforms = [listed.descriptor.platform for listed in self._listed]
        found = [
            listed
            for listed, offered in zip(self._listed, platforms, strict=True)
            if offered is not None and offered.normalised() == wanted
        ]
        if not found:
            available = tuple(str(offered) for offered in platforms if offered is not None)
            raise PlatformNotFound(f"nothing is listed under {wanted}", available=available)
        return found

    def _drop(self, gone: list[_Listed]) -> None:
        """Let go of what was replaced or removed, and of the attestations about it."""
        digests = {str(listed.descriptor.digest) for listed in gone}
        digests -= {str(listed.descriptor.digest) for listed in self._listed if listed not in gone}
        self._listed = [
            listed
            for listed in self._listed
            if listed not in gone and listed.descriptor.annotations.get(_ABOUT) not in digests
        ]

    def _take_inherited(self, base: Index) -> None:
        for listed in self._listed:
            if not listed.inherited:
                continue
            if is_child_manifest(base.document, listed.descriptor):
                for manifest in walk(base.repository, child(base.repository, listed.descriptor)):
                    self._take(base.repository, manifest)
            else:
                stage(self._blobs, base.repository, listed.descriptor)

    def _take(self, origin: Repository, manifest: RawManifest) -> None:
        for part in manifest.children:
            if not is_child_manifest(manifest, part):
                stage(self._blobs, origin, part)
        self._manifests.put(manifest)
