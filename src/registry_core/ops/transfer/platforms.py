"""The part of an index that some platforms need."""

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

# Build tools file attestations beside the images that they are about, and name these here.
_ABOUT: Final = "vnd.docker.reference.digest"


class Subset(msgspec.Struct, frozen=True):
    """What a graph is reduced to.

    Args:
        root: The manifest to store, which is another than the source's where an index was rewritten.
        entries: Of each index, by its digest, what is copied of its entries; all, where it is not named.
        made: Indexes below the root that the source does not have, by their digests.
    """

    root: RawManifest
    entries: dict[str, tuple[Descriptor, ...]] = {}
    made: dict[str, RawManifest] = {}


def subset(repository: Repository, root: RawManifest, options: CopyOptions) -> Subset:
    """What is to be copied of a graph.

    Of each platform, the images that are exactly for it; where there are none, the one that a client on it would get.
    Of an image that stands alone, all of it, if it does not contradict.

    Raises:
        PlatformNotFound: Nothing there is for any of the platforms; the error lists what there is.
        TooLarge: Indexes nest deeper, or list more, than any honest graph.
        RegistryError: A manifest or configuration cannot be read.
    """
    if not options.platforms:
        return Subset(root)
    if not root.is_index:
        if is_manifest(root.media_type):
            _check_alone(repository, root, options.platforms)
        return Subset(root)
    survey = _PlatformIndex(repository, root)
    wanted = survey.chosen(options.platforms)
    if not wanted:
        raise survey.nothing(options.platforms)
    entries: dict[str, tuple[Descriptor, ...]] = {}
    made: dict[str, RawManifest] = {}
    replaced: dict[str, RawManifest] = {}
    # Lower indexes come first: those above them name what has become of them.
    for index in survey.indexes:
        rows = [
            (row, entry)
            for row, entry in enumerate(index.children)
            if entry.digest in wanted or entry.annotations.get(_ABOUT) in wanted or entry.digest in replaced
        ]
        if not rows:
            continue
        wanted.add(index.digest)
        replaced[index.digest] = index
        if options.index_mode is IndexMode.REWRITTEN:
            replaced[index.digest] = smaller = _rewritten(index, rows, replaced)
            if smaller is not index and index.digest != root.digest:
                made[smaller.digest] = smaller
        else:
            entries[index.digest] = tuple(entry for _, entry in rows)
    return Subset(replaced[root.digest], entries, made)


class _PlatformIndex:
    """What is in an index and the indexes below it."""

    def __init__(self, repository: Repository, root: RawManifest) -> None:
        self._repository = repository
        self._offers: dict[str, tuple[Platform, Digest]] = {}
        self.indexes: list[RawManifest] = []
        for found in walk_indexes(repository, root):
            if isinstance(found, RawManifest):
                self.indexes.append(found)
                continue
            platform = found.platform or self._told(found)
            if platform is not None:
                self._offers[found.digest] = (platform, found.digest)

    def chosen(self, platforms: Sequence[Platform]) -> set[str]:
        """The digests of the images that some platforms need."""
        found: set[str] = set()
        for platform in platforms:
            exact = {digest for offer, digest in self._offers.values() if _same(platform, offer)}
            if not exact:
                best = best_match(platform, self._offers.values())
                exact = set() if best is None else {best}
            found |= exact
        return found

    def nothing(self, platforms: Sequence[Platform]) -> PlatformNotFound:
        """The error that says what there is instead."""
        return platform_not_found(platforms, [offer for offer, _ in self._offers.values()])

    def _told(self, entry: Descriptor) -> Platform | None:
        manifest = fetch_child(self._repository, entry)
        return read_config(self._repository, manifest).platform if has_config(manifest) else None


def _same(wanted: Platform, offered: Platform) -> bool:
    one, other = wanted.normalised(), offered.normalised()
    if (one.os, one.architecture, one.variant) != (other.os, other.architecture, other.variant):
        return False
    return wanted.runs(offered)


def _check_alone(repository: Repository, root: RawManifest, platforms: Sequence[Platform]) -> None:
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


def _rewritten(index: RawManifest, rows: list[tuple[int, Descriptor]], replaced: dict[str, RawManifest]) -> RawManifest:
    """An index with some entries only; the very same where that is all and nothing below has changed."""
    listed: list[dict[str, Any]] = index.mapping["manifests"]
    kept = []
    for row, entry in rows:
        smaller = replaced.get(entry.digest)
        if smaller is None or smaller.digest == entry.digest:
            kept.append(listed[row])
        else:
            about = {key: value for key, value in listed[row].items() if key != "data"}
            kept.append(about | {"digest": str(smaller.digest), "size": len(smaller.content)})
    if kept == listed:
        return index
    return RawManifest(index.media_type, strict_json.encode(dict(index.mapping) | {"manifests": kept}), index.algorithm)
