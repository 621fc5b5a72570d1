"""Build and edit image indexes from images of any repository."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_INDEX, OCI_INDEX, is_index
from registry_core.domain.platform import Platform
from registry_core.errors import ImageNotFound, InvalidValue, PlatformNotFound
from registry_core.ops.builder.config import order_keys, platform_json, to_platform, update_strings
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.layers import descriptor_json, with_annotation
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests, stage_blob, staged_repository
from registry_core.ops.images import Image, Index, check_kind
from registry_core.ops.manifests import (
    REFERENCE_DIGEST,
    GraphLimits,
    configured_platform,
    fetch_child,
    fetch_manifest,
    is_child_manifest,
    is_image,
    is_listed_image,
    names_platform,
    walk,
)
from registry_core.ports.catalog import Repository

__all__ = ["IndexBuilder"]

# Fields of a descriptor that depend on the bytes it points to.
_CONTENT_FIELDS: Final = frozenset({"mediaType", "digest", "size", "data", "urls"})


class _Entry(msgspec.Struct, frozen=True):
    """An entry of the index: its JSON as it will be written, the same as a descriptor, and where its manifest is."""

    json: dict[str, Any]
    descriptor: Descriptor
    repository: Repository


class IndexBuilder:
    """Build an image index. Each method changes the builder and returns it.

    Args:
        base: Index to start from, with its entries, annotations and unknown fields. If nothing is changed, the result
            has the same bytes.
    """

    def __init__(self, base: Index | None = None) -> None:
        self._base = base
        self._blobs = StagedBlobs()
        self._manifests = StagedManifests()
        self._mapping: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        self._entries: list[_Entry] = []
        self._annotated = self._converted = False
        if base is not None:
            self._mapping = copy.deepcopy(base.document.mapping)
            entries = self._mapping.get("manifests") or []
            self._entries = [
                _Entry(json, descriptor, base.repository)
                for json, descriptor in zip(entries, base.manifests, strict=True)
            ]
        self._first_annotations = tuple(self._mapping.get("annotations") or {})

    def add(
        self,
        image: Image | Index,
        platform: Platform | str | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
    ) -> Self:
        """Add an image, or a nested index, from any repository or builder.

        Args:
            image: Image or index to add; its blobs stay where they are.
            platform: Platform of the entry; by default the one in the image configuration.
            annotations: Annotations of the entry.

        Raises:
            InvalidName: The text is not a platform.
            InvalidValue: An annotation is not a string.
            RegistryError: The image configuration, or a manifest of the nested index, cannot be read.
        """
        new = self._new_entry(image, platform, annotations)
        if all(new.json != entry.json for entry in self._entries):
            self._entries.append(new)
        return self

    def replace(
        self,
        image: Image | Index,
        platform: Platform | str | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
    ) -> Self:
        """Replace the entry for a platform, and remove the attestations of the image that it listed.

        The entry is new, unless it already lists this image; ``edit`` keeps the other fields of entries.

        Args:
            image: Image to list; its blobs stay where they are.
            platform: Platform of the entry; by default the one in the image configuration.
            annotations: Annotations of the entry.

        Raises:
            InvalidName: The text is not a platform.
            InvalidValue: No platform is known, or an annotation is not a string.
            PlatformNotFound: The index has no entry for the platform.
            RegistryError: The image configuration, or a manifest of the nested index, cannot be read.
        """
        new = self._new_entry(image, platform, annotations)
        if new.descriptor.platform is None:
            raise InvalidValue("replace: the image has no platform; pass one")
        old = self._entries_for(new.descriptor.platform)
        if annotations is None:
            new = next((entry for entry in old if entry.descriptor.digest == new.descriptor.digest), new)
        self._entries[self._entries.index(old[0])] = new
        self._remove([entry for entry in old if entry.json != new.json])
        return self

    def edit(self, change: Callable[[ImageEditor], object], platform: Platform | str | None = None) -> Self:
        """Edit the listed images, including those of nested indexes.

        Entries keep their other fields. If an image changes, its attestations are removed, because they would describe
        an image that is not listed.

        Args:
            change: Function that is called with an editor for each image; its return value is ignored.
            platform: Platform of the entries to edit; by default all entries.

        Raises:
            InvalidName: The text is not a platform.
            PlatformNotFound: The index has no entry for the platform.
            RegistryError: A manifest or a configuration cannot be read.
        """
        entries = self._entries if platform is None else self._entries_for(to_platform(platform))
        self._edit(change, entries, depth=1)
        return self

    def remove(self, entry: Platform | Digest | str) -> Self:
        """Remove entries by platform or digest, together with the attestations of their images.

        Args:
            entry: Platform, or digest of a manifest.

        Raises:
            InvalidValue: The text is neither.
            PlatformNotFound: The index has no entry for the platform.
            ImageNotFound: The index does not list the digest.
        """
        old = self._select(entry)
        self._entries = [each for each in self._entries if each not in old]
        self._remove(old)
        return self

    def annotate_entry(self, entry: Platform | Digest | str, key: str, value: str | None) -> Self:
        """Set an annotation of entries, selected by platform or digest; ``None`` removes it. No image is changed.

        Args:
            entry: Platform, or digest of a manifest.
            key: Key of the annotation.
            value: Value of the annotation.

        Raises:
            InvalidValue: The text is neither, or the key or the value is not a string.
            PlatformNotFound: The index has no entry for the platform.
            ImageNotFound: The index does not list the digest.
        """
        for old in self._select(entry):
            json = with_annotation(old.json, key, value)
            new = _Entry(json, strict_json.convert(json, Descriptor), old.repository)
            self._entries[self._entries.index(old)] = new
        return self

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the index; ``None`` removes it.

        Raises:
            InvalidValue: The key or the value is not a string, or the key is empty.
        """
        before = self._mapping.get("annotations") or {}
        after = update_strings(before, {key: value})
        if after != before:
            self._annotated = True
            self._mapping["annotations"] = after
        return self

    def to_oci(self) -> Self:
        """Convert the index to an OCI index. Its images are not changed; use ``edit(ImageEditor.to_oci)`` for that."""
        return self._convert(OCI_INDEX)

    def to_docker(self) -> Self:
        """Convert the index to a Docker manifest list. Use ``edit(ImageEditor.to_docker)`` to convert its images.

        ``build`` raises an error if the index has fields that Docker manifest lists do not have.
        """
        return self._convert(DOCKER_INDEX)

    def build(self) -> Index:
        """Build the index as a repository of its content; ``RegistryClient.push_index`` pushes all of it.

        Raises:
            InvalidValue: A Docker manifest list would get annotations, a subject or an artifact type, which the format
                does not have. Those that the base had are kept.
            RegistryError: A listed manifest cannot be read.
        """
        media_type = self._media_type
        if media_type == DOCKER_INDEX:
            self._check_docker_fields()
        document = dict(self._mapping)
        if self._entries or document.get("manifests") is not None or self._base is None:
            document["manifests"] = [entry.json for entry in self._entries]
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = order_keys(annotations, first=self._first_annotations)
        elif self._annotated:
            document.pop("annotations", None)
        raw = RawManifest(media_type, strict_json.encode(document))
        if self._base is not None:
            original = self._base.document
            unchanged = strict_json.encode(original.mapping) == raw.content
            raw = original if unchanged else RawManifest(media_type, raw.content, original.algorithm)
            self._stage_inherited(self._base)
        self._manifests.put(raw)
        return Index(staged_repository(self._blobs, self._manifests), raw)

    @property
    def _media_type(self) -> str:
        stated: str | None = self._mapping.get("mediaType")
        return stated or (OCI_INDEX if self._base is None else self._base.media_type)

    def _convert(self, media_type: str) -> Self:
        self._converted = True
        # ``mediaType`` is optional in OCI indexes: one that omits it is not changed.
        if self._media_type != media_type:
            self._mapping["mediaType"] = media_type
        return self

    def _check_docker_fields(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._mapping.get(field):
                raise InvalidValue(f"Docker manifest lists have no field {field}: convert the index with to_oci()")

    def _edit(self, change: Callable[[ImageEditor], object], entries: list[_Entry], *, depth: int) -> None:
        GraphLimits(what="indexes").add(depth)
        replaced = []
        for old in list(entries):
            new = self._edit_entry(change, old, depth)
            if new is not None and new.descriptor.digest != old.descriptor.digest:
                self._entries[self._entries.index(old)] = new
                replaced.append(old)
        self._remove(replaced)

    def _edit_entry(self, change: Callable[[ImageEditor], object], entry: _Entry, depth: int) -> _Entry | None:
        """Edit the image or index of an entry; ``None`` if the entry is neither."""
        if is_index(entry.descriptor.media_type):
            nested = IndexBuilder(Index(entry.repository, fetch_child(entry.repository, entry.descriptor)))
            nested._edit(change, nested._entries, depth=depth + 1)
            return self._updated_entry(entry, nested.build(), None)
        if not is_listed_image(entry.repository, entry.descriptor):
            return None
        image = Image(entry.repository, fetch_child(entry.repository, entry.descriptor))
        if not image.has_config:
            return None
        editor = ImageEditor(image)
        change(editor)
        edited = editor.build()
        platform = None
        if edited.manifest().config.digest != image.manifest().config.digest and edited.platform != image.platform:
            platform = edited.platform
        return self._updated_entry(entry, edited, platform)

    def _updated_entry(self, entry: _Entry, edited: Image | Index, platform: Platform | None) -> _Entry:
        """An entry for the edited image or index; fields that do not depend on its bytes are kept, in their order."""
        described = descriptor_json(edited.document.descriptor)
        kept = {key: value for key, value in entry.json.items() if key not in _CONTENT_FIELDS}
        json = {key: described[key] for key in entry.json if key in described} | described | kept
        if platform is not None:
            json["platform"] = platform_json(platform)
        for manifest in walk(edited.repository, edited.document):
            self._stage_manifest(edited.repository, manifest)
        return _Entry(json, strict_json.convert(json, Descriptor), edited.repository)

    def _new_entry(
        self, image: Image | Index, platform: Platform | str | None, annotations: Mapping[str, str] | None
    ) -> _Entry:
        check_kind(image, Image, Index)
        listed = None if platform is None else to_platform(platform)
        if listed is None and isinstance(image, Image) and image.has_config:
            listed = image.platform
        json = descriptor_json(image.document.descriptor)
        if listed is not None:
            json["platform"] = platform_json(listed)
        if isinstance(image, Image) and not image.has_config:
            json["artifactType"] = image.manifest().artifact_type or image.manifest().config.media_type
        if annotations:
            json["annotations"] = order_keys(update_strings({}, annotations), first=())
        for manifest in walk(image.repository, image.document):
            self._stage_manifest(image.repository, manifest)
        return _Entry(json, strict_json.convert(json, Descriptor), image.repository)

    def _select(self, entry: Platform | Digest | str) -> list[_Entry]:
        if not isinstance(entry, str) or ":" not in entry:
            return self._entries_for(to_platform(entry))
        digest = Digest(entry)
        entries = [each for each in self._entries if each.descriptor.digest == digest]
        if not entries:
            raise ImageNotFound(f"index does not list {digest}")
        return entries

    def _entries_for(self, platform: Platform) -> list[_Entry]:
        wanted = platform.normalised()
        platforms = [entry.descriptor.platform for entry in self._entries]
        entries = [
            entry
            for entry, listed in zip(self._entries, platforms, strict=True)
            if listed is not None and listed.normalised() == wanted
        ]
        if not entries:
            entries = [entry for entry in self._entries if _configured_platform(entry) == wanted]
        if not entries:
            available = tuple(str(listed) for listed in platforms if listed is not None)
            raise PlatformNotFound(f"index has no entry for {wanted}", available=available)
        return entries

    def _remove(self, entries: list[_Entry]) -> None:
        """Remove entries, and the attestations of images that are no longer listed."""
        digests = {str(entry.descriptor.digest) for entry in entries}
        digests -= {str(entry.descriptor.digest) for entry in self._entries if entry not in entries}
        self._entries = [
            entry
            for entry in self._entries
            if entry not in entries and entry.descriptor.annotations.get(REFERENCE_DIGEST) not in digests
        ]

    def _stage_inherited(self, base: Index) -> None:
        for entry in self._entries:
            if entry.repository is not base.repository:
                continue
            if is_child_manifest(base.document, entry.descriptor):
                for manifest in walk(base.repository, fetch_child(base.repository, entry.descriptor)):
                    self._stage_manifest(base.repository, manifest)
            else:
                self._stage_unknown(base.repository, entry.descriptor)

    def _stage_manifest(self, repository: Repository, manifest: RawManifest) -> None:
        """Make a manifest and its blobs readable from the index; its child manifests are staged separately."""
        for child in manifest.children:
            if is_child_manifest(manifest, child):
                continue
            if manifest.is_index:
                self._stage_unknown(repository, child)
            else:
                stage_blob(self._blobs, repository, child)
        self._manifests.put(manifest)

    def _stage_unknown(self, repository: Repository, descriptor: Descriptor) -> None:
        # an index may list media types that are unknown here. If there is no such manifest, it is a blob.
        try:
            manifest = fetch_manifest(repository, descriptor.digest)
        except ImageNotFound:
            stage_blob(self._blobs, repository, descriptor)
        else:
            self._manifests.put(RawManifest(descriptor.media_type, manifest.content, manifest.algorithm))


def _configured_platform(entry: _Entry) -> Platform | None:
    if names_platform(entry.descriptor) or not is_image(entry.descriptor):
        return None
    return configured_platform(entry.repository, entry.descriptor)
