"""``index.json`` of an image layout, edited without losing unknown fields."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Self

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import ImageIndex
from registry_core.domain.media_types import OCI_INDEX, REF_NAME
from registry_core.domain.names import Tag
from registry_core.errors import InvalidDocument, InvalidName, LayoutError

__all__ = ["EMPTY_INDEX", "IndexFile"]

# The bytes of index.json in a new layout.
EMPTY_INDEX: Final = strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})


class IndexFile:
    """The content of an ``index.json``. An edit returns a new object.

    Args:
        mapping: The decoded document.

    Raises:
        InvalidDocument: The document is not an image index.
    """

    def __init__(self, mapping: dict[str, Any]) -> None:
        if "manifests" not in mapping:
            raise InvalidDocument("no manifests", path="$.manifests")
        if not mapping.keys().isdisjoint({"layers", "config", "fsLayers"}):
            raise InvalidDocument("both an image manifest and an index")
        if mapping.get("mediaType") not in (None, "", OCI_INDEX):
            raise InvalidDocument("not an image index", path="$.mediaType")
        self._mapping = mapping
        self._entries: list[dict[str, Any]] = list(mapping["manifests"] or [])
        self.entries = strict_json.convert(mapping, ImageIndex).manifests

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Parse the bytes of an ``index.json``.

        Args:
            content: Bytes of the file.
            where: Path of the file, for errors.

        Raises:
            LayoutError: The document is not an image index.
        """
        try:
            return cls(strict_json.decode(content))
        except InvalidDocument as error:
            raise LayoutError(f"{where}: {error.message}{f' at {error.path}' if error.path else ''}") from error

    def encode(self) -> bytes:
        """Return the bytes to write."""
        return strict_json.encode(self._mapping)

    @property
    def tags(self) -> list[Tag]:
        """The tags, each once, in ASCII order. Names that are not valid tags are left out."""
        tags = set()
        for entry in self.entries:
            try:
                tags.add(Tag(entry.annotations[REF_NAME]))
            except (KeyError, InvalidName):
                continue
        return sorted(tags)

    def find(self, reference: Tag | Digest) -> Descriptor | None:
        """Return the entry of a tag or digest; ``None`` if there is none.

        Raises:
            LayoutError: Several entries have the tag, with different digests.
        """
        if isinstance(reference, Digest):
            return next((entry for entry in self.entries if entry.digest == reference), None)
        found = [entry for entry in self.entries if entry.annotations.get(REF_NAME) == reference]
        if len({entry.digest for entry in found}) > 1:
            raise LayoutError(f"ambiguous tag: {len(found)} entries of index.json have the tag {reference}")
        return found[0] if found else None

    def with_manifest(self, manifest: Descriptor, tags: Collection[Tag]) -> Self:
        """Return this index with a manifest and tags that point to it. Manifests that lose a tag keep an entry.

        Args:
            manifest: Media type, digest and size of the manifest.
            tags: Tags to set; each of them has an entry.
        """
        new_tags = sorted(set(tags))
        entries = self._without_tags(new_tags, keeping=manifest.digest)
        positions = [position for position, entry in enumerate(entries) if entry["digest"] == manifest.digest]
        for position in positions:
            entries[position] = entries[position] | {"mediaType": manifest.media_type, "size": manifest.size}
        current_tags = {_ref_name(entries[position]) for position in positions}
        untagged = [position for position in positions if _ref_name(entries[position]) is None]
        for tag in new_tags:
            if tag in current_tags:
                continue
            if untagged:
                position = untagged.pop(0)
                annotations = entries[position].get("annotations") or {}
                entries[position] = entries[position] | {"annotations": annotations | {REF_NAME: str(tag)}}
            else:
                entries.append(_new_entry(manifest) | {"annotations": {REF_NAME: str(tag)}})
                positions.append(len(entries) - 1)
        if not positions:
            entries.append(_new_entry(manifest))
        return self._with_entries(entries)

    def without_tag(self, tag: Tag) -> Self:
        """Return this index without a tag. The manifest keeps an entry."""
        return self._with_entries(self._without_tags([tag]))

    def without_manifest(self, digest: Digest) -> Self:
        """Return this index without the entries of a manifest."""
        return self._with_entries([entry for entry in self._entries if entry["digest"] != digest])

    def _with_entries(self, entries: list[dict[str, Any]]) -> Self:
        return type(self)(self._mapping | {"manifests": entries})

    def _without_tags(self, tags: Collection[Tag], *, keeping: Digest | None = None) -> list[dict[str, Any]]:
        entries = list(self._entries)
        for entry in self._entries:
            if _ref_name(entry) not in tags or entry["digest"] == keeping:
                continue
            untagged = _without_ref_name(entry)
            position = next(index for index, other in enumerate(entries) if other is entry)
            others = entries[:position] + entries[position + 1 :]
            # Without its tag, an entry is redundant if another one has the same digest and equal fields.
            if any(other["digest"] == untagged["digest"] and _without_ref_name(other) == untagged for other in others):
                entries = others
            else:
                entries[position] = untagged
        return entries


def _ref_name(entry: dict[str, Any]) -> str | None:
    return (entry.get("annotations") or {}).get(REF_NAME)


def _without_ref_name(entry: dict[str, Any]) -> dict[str, Any]:
    annotations = {key: value for key, value in (entry.get("annotations") or {}).items() if key != REF_NAME}
    others = {key: value for key, value in entry.items() if key != "annotations"}
    return others | {"annotations": annotations} if annotations else others


def _new_entry(manifest: Descriptor) -> dict[str, Any]:
    return {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": manifest.size}
