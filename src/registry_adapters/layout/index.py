"""``index.json`` of an image layout, edited without losing unknown fields."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set
from functools import cached_property
from typing import Any, Final, Self

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ROOT, EntryName, ImageName, entry_name
from registry_core.domain.manifest import ImageIndex, layout_entries
from registry_core.domain.media_types import CONTAINERD_NAME, OCI_INDEX, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidDocument, LayoutError

__all__ = ["EMPTY_INDEX", "IndexFile", "NewName"]

_NAMES: Final = frozenset({REF_NAME, CONTAINERD_NAME})

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
        self.entries = layout_entries(mapping)

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

    def check(self) -> None:
        """Raise the error of an entry with a field of the wrong type or without media type, which counts as absent.

        Raises:
            InvalidDocument: There is such an entry.
        """
        strict_json.convert(self._mapping, ImageIndex)

    def encode(self) -> bytes:
        """Return the bytes to write."""
        return strict_json.encode(self._mapping)

    @cached_property
    def names(self) -> tuple[EntryName, ...]:
        """The name of each entry."""
        return tuple(entry_name(entry.annotations, entry.digest) for entry in self.entries)

    @cached_property
    def repositories(self) -> frozenset[RepositoryName]:
        """The repositories in the names of the entries, without the empty one."""
        return frozenset(name.repository for name in self.names if name.repository)

    def tags(self, repository: RepositoryName = ROOT) -> list[Tag]:
        """Return the tags of a repository, each once, in ASCII order."""
        found = {name.tag for name in self.names if name.repository == repository}
        return sorted(tag for tag in found if tag is not None)

    def images(self, repository: RepositoryName = ROOT) -> Iterator[tuple[Descriptor, EntryName]]:
        """Iterate over the entries of a repository with their names; over all entries for the empty name."""
        for entry, name in zip(self.entries, self.names, strict=True):
            if not repository or name.repository == repository:
                yield entry, name

    def find(self, reference: Tag | Digest, repository: RepositoryName = ROOT) -> Descriptor | None:
        """Return the entry of a tag or digest; ``None`` if there is none.

        Raises:
            LayoutError: Several entries have the tag, with different digests.
        """
        if isinstance(reference, Digest):
            return next((entry for entry in self.entries if entry.digest == reference), None)
        return _only(self.tagged(reference, repository), "tag", reference)

    def find_name(self, name: ImageName, repository: RepositoryName = ROOT) -> Descriptor | None:
        """Return the entry that has a name; ``None`` if there is none.

        Raises:
            LayoutError: Several entries have the name, with different digests.
        """
        return _only(self.named(name, repository), "name", name)

    def tagged(self, tag: Tag, repository: RepositoryName = ROOT) -> list[Descriptor]:
        """Return the entries that have a tag.

        If there is none, the repository with the empty name finds a tag also beside the containerd name of an image.
        """
        found = [entry for entry, name in self.images(repository) if name[1:3] == (repository, tag)]
        if found or repository:
            return found
        return [entry for entry in self.entries if entry.annotations.get(REF_NAME) == tag]

    def named(self, name: ImageName, repository: RepositoryName = ROOT) -> list[Descriptor]:
        """Return the entries that have a name as written, or else those whose name means the same."""
        images = list(self.images(repository))
        meant = entry_name({REF_NAME: name})
        return [entry for entry, each in images if each.written == name] or [
            entry for entry, each in images if meant.means_same(each)
        ]

    def with_manifest(self, manifest: Descriptor, names: Collection[NewName]) -> Self:
        """Return this index with a manifest and names for it. Manifests that lose a name keep an entry.

        Args:
            manifest: Media type, digest and size of the manifest.
            names: Names to set; each of them has an entry.
        """
        entries = self._without_names(names, keeping=manifest.digest)
        positions = [position for position, entry in enumerate(entries) if entry["digest"] == manifest.digest]
        for position in positions:
            entries[position] = entries[position] | {"mediaType": manifest.media_type, "size": manifest.size}
        nameless = [position for position in positions if not _has_name(entries[position])]
        for name in names:
            if any(name.is_carried_by(entries[position]) for position in positions):
                continue
            if nameless:
                position = nameless.pop(0)
                annotations = _annotations(entries[position])
                entries[position] = entries[position] | {"annotations": annotations | name.annotations}
            else:
                entries.append(_new_entry(manifest) | {"annotations": dict(name.annotations)})
                positions.append(len(entries) - 1)
        if not positions:
            entries.append(_new_entry(manifest))
        return self._with_entries(entries)

    def without_name(self, name: NewName) -> Self:
        """Return this index without a name. The manifest keeps an entry."""
        return self._with_entries(self._without_names([name]))

    def without_manifest(self, digest: Digest, repository: RepositoryName = ROOT) -> Self:
        """Return this index without the entries of a manifest in a repository, and without those that have no name.

        For the empty name of a repository, all entries of the manifest are removed.
        """
        named = zip(self._entries, self.names, strict=True)
        return self._with_entries(
            [
                entry
                for entry, name in named
                if entry["digest"] != digest or (repository and name.written and name.repository != repository)
            ]
        )

    def new_name(self, name: Tag | ImageName, repository: RepositoryName = ROOT) -> NewName:
        """Return a name to set: a name as written, or a tag in the style of the names that its repository has."""
        if isinstance(name, ImageName) or not repository:
            return NewName({REF_NAME: str(name)}, is_tag=isinstance(name, Tag))
        siblings = [each for each in self.names if each.repository == repository]
        siblings.sort(key=lambda each: each.tag != name)
        style = siblings[0] if siblings else EntryName(repository)
        written = f"{style.path}:{name}"
        key = CONTAINERD_NAME if style.is_containerd else REF_NAME
        return NewName({REF_NAME: str(name)} | {key: written}, is_tag=True)

    def _with_entries(self, entries: list[dict[str, Any]]) -> Self:
        return type(self)(self._mapping | {"manifests": entries})

    def _without_names(self, names: Collection[NewName], *, keeping: Digest | None = None) -> list[dict[str, Any]]:
        entries = list(self._entries)
        for entry in self._entries:
            unnamed = entry
            for name in names:
                if entry["digest"] != keeping or not name.is_carried_by(entry):
                    unnamed = name.removed_from(unnamed)
            if unnamed is entry:
                continue
            position = next(index for index, other in enumerate(entries) if other is entry)
            others = entries[:position] + entries[position + 1 :]
            # Without its name, an entry is redundant if another one has the same digest and equal fields.
            if not _has_name(unnamed) and any(
                other["digest"] == unnamed["digest"] and _without_annotations(other, _NAMES) == unnamed
                for other in others
            ):
                entries = others
            else:
                entries[position] = unnamed
        return entries


class NewName:
    """A name to set in an index, or to remove.

    Args:
        annotations: Annotations that give an entry the name.
        is_tag: Whether an entry has the name if its own name means the same repository and tag; otherwise it has to
            have the name as written.
    """

    def __init__(self, annotations: dict[str, str], *, is_tag: bool) -> None:
        self.annotations = annotations
        self._is_tag = is_tag
        self._name = entry_name(annotations)

    def is_carried_by(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry has the name."""
        name = _name_of(entry)
        return self._is_same(name) if self._is_tag else name.written == self._name.written

    def removed_from(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return an entry without the name; the entry itself if it does not have it."""
        name = _name_of(entry)
        if self._is_same(name) or name.written == self._name.written:
            return _without_annotations(entry, _NAMES) if _has_name(entry) else entry
        if _annotations(entry).get(REF_NAME) == self._name.written:
            # A tag beside the containerd name of an image: other tools would find the entry by the tag.
            return _without_annotations(entry, {REF_NAME})
        return entry

    def _is_same(self, name: EntryName) -> bool:
        return name.tag is not None and (name.repository, name.tag) == (self._name.repository, self._name.tag)


def _only(found: list[Descriptor], kind: str, name: str) -> Descriptor | None:
    if len({entry.digest for entry in found}) > 1:
        raise LayoutError(f"ambiguous {kind}: {len(found)} entries of index.json have the {kind} {name}")
    return found[0] if found else None


def _annotations(entry: dict[str, Any]) -> dict[str, Any]:
    annotations = entry.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def _name_of(entry: dict[str, Any]) -> EntryName:
    annotations = {key: value for key, value in _annotations(entry).items() if isinstance(value, str)}
    return entry_name(annotations, entry["digest"])


def _has_name(entry: dict[str, Any]) -> bool:
    return any(isinstance(_annotations(entry).get(name), str) for name in _NAMES)


def _without_annotations(entry: dict[str, Any], names: Set[str]) -> dict[str, Any]:
    annotations = {key: value for key, value in _annotations(entry).items() if key not in names}
    others = {key: value for key, value in entry.items() if key != "annotations"}
    return others | {"annotations": annotations} if annotations else others


def _new_entry(manifest: Descriptor) -> dict[str, Any]:
    return {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": manifest.size}
