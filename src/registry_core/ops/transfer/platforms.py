"""Copies of some platforms only: the part of an index that they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_manifest
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import PlatformNotFound
from registry_core.ops.manifests import (
    fetch_child,
    has_config,
    platform_not_found,
    read_config,
    select,
    walk_indexes,
)
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ports.catalog import Repository

__all__ = ["Subset", "subset"]

# Build tools list attestations in the index beside their image, whose digest is in this annotation.
_REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"


class Subset(msgspec.Struct, frozen=True):
    """The part of a graph to copy.

    Args:
        root: Manifest to store; not the source's if an index was rewritten.
        entries: Entries to copy, by digest of their index. An index that is not in here is copied with all entries.
        rewritten: Rewritten indexes below the root, by digest; the source does not have them.
    """

    root: RawManifest
    entries: dict[Digest, tuple[Descriptor, ...]] = {}
    rewritten: dict[Digest, RawManifest] = {}


def subset(repository: Repository, root: RawManifest, options: CopyOptions) -> Subset:
    """Determine the part of a graph that the platforms of the options need.

    For each platform, these are the images whose platform is equal to it; if there are none, the image that a client
    on the platform would get. A single image is copied if it runs on one of the platforms.

    Raises:
        PlatformNotFound: No image runs on any of the platforms; the error lists the available platforms.
        TooLarge: The indexes are deeper, or more, than the limits allow.
        RegistryError: A manifest or configuration cannot be read.
    """
    if not options.platforms:
        return Subset(root)
    if not root.is_index:
        if is_manifest(root.media_type):
            _check_single(repository, root, options.platforms)
        return Subset(root)
    images = _PlatformIndex(repository, root)
    selected = images.select(options.platforms)
    if not selected:
        raise platform_not_found(options.platforms, images.available)
    entries: dict[Digest, tuple[Descriptor, ...]] = {}
    rewritten: dict[Digest, RawManifest] = {}
    # By the digest that the source has: what is stored of each index that has selected entries.
    stored: dict[Digest, RawManifest] = {}
    # Nested indexes come first, since their parents list what they have become.
    for index in images.indexes:
        kept = [
            (position, entry)
            for position, entry in enumerate(index.children)
            if entry.digest in selected or entry.digest in stored or _subject(entry) in selected
        ]
        if not kept:
            continue
        selected.add(index.digest)
        stored[index.digest] = index
        if options.index_mode is IndexMode.REWRITTEN:
            stored[index.digest] = smaller = _rewrite(index, kept, stored)
            if smaller is not index and index.digest != root.digest:
                rewritten[smaller.digest] = smaller
        else:
            entries[index.digest] = tuple(entry for _, entry in kept)
    return Subset(stored[root.digest], entries, rewritten)


class _PlatformIndex:
    """The images of an index, and of the indexes below it, by platform.

    Attributes:
        indexes: All indexes, nested ones before those that list them.
    """

    def __init__(self, repository: Repository, root: RawManifest) -> None:
        self._repository = repository
        self._offers: dict[Digest, Platform] = {}
        self.indexes: list[RawManifest] = []
        for found in walk_indexes(repository, root):
            if isinstance(found, RawManifest):
                self.indexes.append(found)
                continue
            platform = found.platform or self._configured_platform(found)
            if platform is not None:
                self._offers[found.digest] = platform

    @property
    def available(self) -> list[Platform]:
        """The platforms of all images."""
        return list(self._offers.values())

    def select(self, platforms: Sequence[Platform]) -> set[str]:
        """Return the digests of the images that some platforms need."""
        selected: set[str] = set()
        for platform in platforms:
            found = {digest for digest, offered in self._offers.items() if _is_equal(platform, offered)}
            if not found:
                best = best_match(platform, ((offered, digest) for digest, offered in self._offers.items()))
                found = set() if best is None else {best}
            selected |= found
        return selected

    def _configured_platform(self, entry: Descriptor) -> Platform | None:
        manifest = fetch_child(self._repository, entry)
        return read_config(self._repository, manifest).platform if has_config(manifest) else None


def _subject(entry: Descriptor) -> str | None:
    return entry.annotations.get(_REFERENCE_DIGEST)


def _is_equal(wanted: Platform, offered: Platform) -> bool:
    one, other = wanted.normalised(), offered.normalised()
    if (one.os, one.architecture, one.variant) != (other.os, other.architecture, other.variant):
        return False
    return wanted.runs(offered)


def _check_single(repository: Repository, root: RawManifest, platforms: Sequence[Platform]) -> None:
    failure: PlatformNotFound | None = None
    for platform in platforms:
        try:
            select(repository, root, platform)
        except PlatformNotFound as error:
            failure = error
        else:
            return
    if failure is not None:
        raise failure


def _rewrite(index: RawManifest, kept: list[tuple[int, Descriptor]], stored: dict[Digest, RawManifest]) -> RawManifest:
    """Return an index of some entries only; the index itself if these are all and none of them has changed."""
    listed: list[dict[str, Any]] = index.mapping["manifests"]
    manifests = []
    for position, entry in kept:
        smaller = stored.get(entry.digest)
        if smaller is None or smaller.digest == entry.digest:
            manifests.append(listed[position])
        else:
            fields = {key: value for key, value in listed[position].items() if key != "data"}
            manifests.append(fields | {"digest": str(smaller.digest), "size": len(smaller.content)})
    if manifests == listed:
        return index
    return RawManifest(
        index.media_type, strict_json.encode(dict(index.mapping) | {"manifests": manifests}), index.algorithm
    )
