"""Indexes in the making, assembled from images anywhere."""

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
from registry_core.errors import ImageNotFound, InvalidValue, PlatformNotFound, TooLarge
from registry_core.ops.builder.config import merged, ordered, platform_entry
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.layers import annotated, entry_of
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests, stage, staged_repository
from registry_core.ops.images import Image, Index
from registry_core.ops.manifests import DEPTH_LIMIT, fetch_child, fetch_manifest, is_child_manifest, is_image, walk
from registry_core.ports.catalog import Repository

__all__ = ["IndexBuilder"]

# What BuildKit calls the image that an attestation is about.
_ABOUT: Final = "vnd.docker.reference.digest"
# What an entry says of the bytes that it points at, and of nothing else.
_OF_THE_BYTES: Final = frozenset({"mediaType", "digest", "size", "data", "urls"})


class _Listed(msgspec.Struct, frozen=True):
    """An entry: its JSON as it will stand there, the same typed, and where what it points at is."""

    entry: dict[str, Any]
    descriptor: Descriptor
    origin: Repository


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
        self._annotated = self._converted = False
        if base is not None:
            self._mapping = copy.deepcopy(base.document.mapping)
            entries = self._mapping.get("manifests") or []
            self._listed = [
                _Listed(entry, descriptor, base.repository)
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
            InvalidValue: An annotation is no text.
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
        """Put an image in the place of what is listed under its platform; the attestations about that go.

        The entry is new; the image that is listed already keeps its own. ``edit`` keeps what entries say besides.

        Args:
            image: What to list; its blobs stay where they are.
            platform: Which one to replace; by default what the image says itself.
            annotations: Of its entry.

        Raises:
            InvalidName: The text is not a platform.
            InvalidValue: It has no platform, or an annotation is no text.
            PlatformNotFound: Nothing is listed under it.
            RegistryError: The image's configuration cannot be read, or a manifest of the index.
        """
        new = self._new(image, platform, annotations)
        if new.descriptor.platform is None:
            raise InvalidValue("an image without a platform replaces nothing")
        found = self._under(new.descriptor.platform)
        if annotations is None:
            new = next((listed for listed in found if listed.descriptor.digest == new.descriptor.digest), new)
        position = self._listed.index(found[0])
        self._listed[position] = new
        self._drop([listed for listed in found if listed.entry != new.entry])
        return self

    def edit(self, change: Callable[[ImageEditor], object], platform: Platform | str | None = None) -> Self:
        """Change the images that are listed, those of indexes within the index included.

        Entries keep whatever else they say. The attestations about an image that becomes another one go: they would
        be about nothing.

        Args:
            change: Given an editor of each image in turn, to call whatever is to be done; what it returns is no matter.
            platform: Only what is listed under it here.

        Raises:
            InvalidName: The text is not a platform.
            PlatformNotFound: Nothing is listed under it.
            RegistryError: A manifest or a configuration cannot be read.
        """
        wanted = Platform.parse(platform) if isinstance(platform, str) else platform
        self._edit(change, self._listed if wanted is None else self._under(wanted), depth=1)
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
        found = self._found(which)
        self._listed = [listed for listed in self._listed if listed not in found]
        self._drop(found)
        return self

    def annotate_entry(self, which: Platform | Digest | str, key: str, value: str | None) -> Self:
        """Set an annotation of what is listed under a platform, or by a digest; ``None`` removes it.

        The images stay as they are: their entries say more of them.

        Args:
            which: A platform, or a digest.
            key: Of the annotation.
            value: What it says.

        Raises:
            InvalidValue: The text is neither, or key or value is no text.
            PlatformNotFound: Nothing is listed under the platform.
            ImageNotFound: The digest is not listed.
        """
        for listed in self._found(which):
            entry = annotated(listed.entry, key, value)
            new = _Listed(entry, strict_json.convert(entry, Descriptor), listed.origin)
            self._listed[self._listed.index(listed)] = new
        return self

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the index; ``None`` removes it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        before = self._mapping.get("annotations") or {}
        after = merged(before, {key: value})
        if after != before:
            self._annotated = True
            self._mapping["annotations"] = after
        return self

    def to_oci(self) -> Self:
        """Make it an OCI index. The images stay as they are; ``edit(ImageEditor.to_oci)`` converts them."""
        return self._convert(OCI_INDEX)

    def to_docker(self) -> Self:
        """Make it a Docker manifest list. The images stay as they are; ``edit(ImageEditor.to_docker)`` converts them.

        ``build`` refuses it where it has what Docker has no place for.
        """
        return self._convert(DOCKER_INDEX)

    def build(self) -> Index:
        """The index, in a repository of its own; ``RegistryClient.push_index`` stores it and all it lists anywhere.

        Raises:
            InvalidValue: A Docker manifest list would have annotations, a subject or a type of artifact, which it has
                no place for; what was there before is carried.
            RegistryError: A manifest that is listed cannot be read.
        """
        media_type = self._media_type
        if media_type == DOCKER_INDEX:
            self._check_docker()
        document = dict(self._mapping)
        if self._listed or document.get("manifests") is not None or self._base is None:
            document["manifests"] = [listed.entry for listed in self._listed]
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = ordered(annotations, first=self._order)
        elif self._annotated:
            document.pop("annotations", None)
        raw = RawManifest(media_type, strict_json.encode(document))
        if self._base is not None:
            original = self._base.document
            unchanged = strict_json.encode(original.mapping) == raw.content
            raw = original if unchanged else RawManifest(media_type, raw.content, original.algorithm)
            self._take_inherited(self._base)
        self._manifests.put(raw)
        return Index(staged_repository(self._blobs, self._manifests), raw)

    @property
    def _media_type(self) -> str:
        stated: str | None = self._mapping.get("mediaType")
        return stated or (OCI_INDEX if self._base is None else self._base.media_type)

    def _convert(self, media_type: str) -> Self:
        self._converted = True
        # An OCI index need not name its type: one that does not stays as it is.
        if self._media_type != media_type:
            self._mapping["mediaType"] = media_type
        return self

    def _check_docker(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._mapping.get(field):
                raise InvalidValue(
                    f"a Docker manifest list has no place for {field}: make it an OCI index with to_oci()"
                )

    def _edit(self, change: Callable[[ImageEditor], object], chosen: list[_Listed], *, depth: int) -> None:
        if depth > DEPTH_LIMIT:
            raise TooLarge(f"nested more than {DEPTH_LIMIT} deep")
        gone = []
        for listed in list(chosen):
            new = self._edited(change, listed, depth)
            if new is not None and new.descriptor.digest != listed.descriptor.digest:
                self._listed[self._listed.index(listed)] = new
                gone.append(listed)
        self._drop(gone)

    def _edited(self, change: Callable[[ImageEditor], object], listed: _Listed, depth: int) -> _Listed | None:
        """An entry with what it points at changed; ``None`` for what is neither an image nor an index."""
        if is_index(listed.descriptor.media_type):
            inner = IndexBuilder(Index(listed.origin, fetch_child(listed.origin, listed.descriptor)))
            inner._edit(change, inner._listed, depth=depth + 1)
            return self._with(listed, inner.build(), None)
        if not is_image(listed.descriptor):
            return None
        image = Image(listed.origin, fetch_child(listed.origin, listed.descriptor))
        if not image.has_config:
            return None
        editor = ImageEditor(image)
        change(editor)
        edited = editor.build()
        platform = None
        if edited.manifest().config.digest != image.manifest().config.digest and edited.platform != image.platform:
            platform = edited.platform
        return self._with(listed, edited, platform)

    def _with(self, listed: _Listed, new: Image | Index, platform: Platform | None) -> _Listed:
        """An entry that says of another image or index what it said so far."""
        described = entry_of(new.document.descriptor)
        kept = {key: value for key, value in listed.entry.items() if key not in _OF_THE_BYTES}
        entry = {key: described[key] for key in listed.entry if key in described} | described | kept
        if platform is not None:
            entry["platform"] = platform_entry(platform)
        for manifest in walk(new.repository, new.document):
            self._take(new.repository, manifest)
        return _Listed(entry, strict_json.convert(entry, Descriptor), new.repository)

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
            entry["annotations"] = ordered(merged({}, annotations), first=())
        for manifest in walk(image.repository, image.document):
            self._take(image.repository, manifest)
        return _Listed(entry, strict_json.convert(entry, Descriptor), image.repository)

    def _found(self, which: Platform | Digest | str) -> list[_Listed]:
        if not isinstance(which, str) or ":" not in which:
            return self._under(Platform.parse(which) if isinstance(which, str) else which)
        digest = Digest(which)
        found = [listed for listed in self._listed if listed.descriptor.digest == digest]
        if not found:
            raise ImageNotFound(f"not in the index: {digest}")
        return found

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
            if listed.origin is not base.repository:
                continue
            if is_child_manifest(base.document, listed.descriptor):
                for manifest in walk(base.repository, fetch_child(base.repository, listed.descriptor)):
                    self._take(base.repository, manifest)
            else:
                self._take_unknown(base.repository, listed.descriptor)

    def _take(self, origin: Repository, manifest: RawManifest) -> None:
        for part in manifest.children:
            if is_child_manifest(manifest, part):
                continue
            if manifest.is_index:
                self._take_unknown(origin, part)
            else:
                stage(self._blobs, origin, part)
        self._manifests.put(manifest)

    def _take_unknown(self, origin: Repository, part: Descriptor) -> None:
        # An index may list what nobody knows; what its repository has no manifest of is a blob to us.
        try:
            found = fetch_manifest(origin, part.digest)
        except ImageNotFound:
            stage(self._blobs, origin, part)
        else:
            self._manifests.put(RawManifest(part.media_type, found.content, found.algorithm))
