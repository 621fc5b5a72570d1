"""``index.json``: the entries of a layout, and edits that keep whatever else stands in it."""

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

__all__ = ["FRESH", "IndexFile"]

# What a layout begins with, to the byte.
FRESH: Final = strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})


class IndexFile:
    """An ``index.json`` in memory; edits give new ones.

    Args:
        mapping: The decoded document.

    Raises:
        InvalidDocument: It is no image index.
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
        """The index in a file's bytes.

        Raises:
            LayoutError: It is no image index.
        """
        try:
            return cls(strict_json.decode(content))
        except InvalidDocument as error:
            raise LayoutError(f"{where}: {error.message}{f' at {error.path}' if error.path else ''}") from error

    def encode(self) -> bytes:
        """The bytes to write."""
        return strict_json.encode(self._mapping)

    @property
    def tags(self) -> list[Tag]:
        """The tags, each once, in ASCII order. Names that are no tags are not among them."""
        found = set()
        for entry in self.entries:
            try:
                found.add(Tag(entry.annotations[REF_NAME]))
            except (KeyError, InvalidName):
                continue
        return sorted(found)

    def find(self, reference: Tag | Digest) -> Descriptor | None:
        """The entry of a tag or digest.

        Raises:
            LayoutError: Several entries claim the tag for different manifests.
        """
        if isinstance(reference, Digest):
            return next((entry for entry in self.entries if entry.digest == reference), None)
        found = [entry for entry in self.entries if entry.annotations.get(REF_NAME) == reference]
        if len({entry.digest for entry in found}) > 1:
            raise LayoutError(f"index.json has {len(found)} entries for the tag {reference}")
        return found[0] if found else None

    def with_manifest(self, manifest: Descriptor, tags: Collection[Tag]) -> Self:
        """This index with an entry for a manifest and tags on it; what the tags were on stays, without them.

        Args:
            manifest: Its type, digest and size.
            tags: Each becomes the name of one entry.
        """
        wanted = sorted(set(tags))
        entries = self._untagged(wanted, keeping=manifest.digest)
        own = [position for position, entry in enumerate(entries) if entry["digest"] == manifest.digest]
        for position in own:
            entries[position] = entries[position] | {"mediaType": manifest.media_type, "size": manifest.size}
        named = {_name(entries[position]) for position in own}
        nameless = [position for position in own if _name(entries[position]) is None]
        for tag in wanted:
            if tag in named:
                continue
            if nameless:
                position = nameless.pop(0)
                annotations = entries[position].get("annotations") or {}
                entries[position] = entries[position] | {"annotations": annotations | {REF_NAME: str(tag)}}
            else:
                entries.append(_entry(manifest) | {"annotations": {REF_NAME: str(tag)}})
                own.append(len(entries) - 1)
        if not own:
            entries.append(_entry(manifest))
        return self._with(entries)

    def without_tag(self, tag: Tag) -> Self:
        """This index without a tag; the manifest keeps an entry."""
        return self._with(self._untagged([tag]))

    def without_manifest(self, digest: Digest) -> Self:
        """This index without any entry of a manifest."""
        return self._with([entry for entry in self._entries if entry["digest"] != digest])

    def _with(self, entries: list[dict[str, Any]]) -> Self:
        return type(self)(self._mapping | {"manifests": entries})

    def _untagged(self, tags: Collection[Tag], *, keeping: Digest | None = None) -> list[dict[str, Any]]:
        entries = list(self._entries)
        for entry in self._entries:
            if _name(entry) not in tags or entry["digest"] == keeping:
                continue
            bare = _bare(entry)
            position = next(place for place, other in enumerate(entries) if other is entry)
            others = entries[:position] + entries[position + 1 :]
            # An entry that says nothing which another one does not say too has served its time.
            if any(other["digest"] == bare["digest"] and _bare(other) == bare for other in others):
                entries = others
            else:
                entries[position] = bare
        return entries


def _name(entry: dict[str, Any]) -> str | None:
    return (entry.get("annotations") or {}).get(REF_NAME)


def _bare(entry: dict[str, Any]) -> dict[str, Any]:
    annotations = {key: value for key, value in (entry.get("annotations") or {}).items() if key != REF_NAME}
    rest = {key: value for key, value in entry.items() if key != "annotations"}
    return rest | {"annotations": annotations} if annotations else rest


def _entry(manifest: Descriptor) -> dict[str, Any]:
    return {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": manifest.size}
