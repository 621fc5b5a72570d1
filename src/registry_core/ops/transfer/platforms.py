"""Copies of some entries of an index only: of some platforms, or without attestations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_image_manifest
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import Forbidden, PlatformNotFound, RegistryError
from registry_core.ops.manifests import (
    REFERENCE_DIGEST,
    configured_platform,
    fetch_child,
    is_attestation,
    is_image,
    is_listed_image,
    is_not_served,
    names_platform,
    platform_not_found,
    select,
    walk_indexes,
)
from registry_core.ops.transfer.options import CopyOptions, IndexMode
from registry_core.ops.transfer.target import is_inconclusive
from registry_core.ports.catalog import Repository

__all__ = ["Subset", "subset"]


class Subset(msgspec.Struct, frozen=True):
    """The part of a graph to copy.

    Args:
        root: Manifest to store; not the source's if an index was rewritten.
        entries: Entries to copy, by digest of their index. An index that is not in here is copied with all entries.
        rewritten: Rewritten indexes below the root, by digest; the source does not have them.
        absent: Attestations of the selected images that the source lists, but does not serve with all their blobs, and
            why.
    """

    root: RawManifest
    entries: dict[Digest, tuple[Descriptor, ...]] = {}
    rewritten: dict[Digest, RawManifest] = {}
    absent: tuple[tuple[Descriptor, str], ...] = ()


def subset(repository: Repository, root: RawManifest, options: CopyOptions) -> Subset:
    """Determine the part of a graph that the options need.

    For each platform, these are the images whose platform is equal to it; if there are none, the image that a client
    on the platform would get. A single image is copied if it runs on one of the platforms.

    Raises:
        PlatformNotFound: No image runs on any of the platforms; the error lists the available platforms.
        TooLarge: The indexes are deeper, or more, than the limits allow.
        RegistryError: A manifest or configuration cannot be read.
    """
    if not options.reduces_indexes:
        return Subset(root)
    if not root.is_index:
        if options.platforms and is_image_manifest(root.media_type):
            _check_single(repository, root, options.platforms)
        return Subset(root)
    images = _PlatformIndex(repository, root, reads_platforms=bool(options.platforms))
    selected: set[Digest] | None = None
    if options.platforms:
        selected = images.select(options.platforms)
        if not selected:
            raise platform_not_found(options.platforms, images.available)
    return _Reduction(repository, root, images.indexes, selected, options).run()


class _Reduction:
    """Reduces each index to its selected entries.

    Args:
        repository: Repository of the source.
        root: The outermost index.
        indexes: All indexes, nested ones before those that list them.
        selected: Digests of the selected images; ``None`` if all are selected.
        options: Options of the copy.
    """

    def __init__(
        self,
        repository: Repository,
        root: RawManifest,
        indexes: Sequence[RawManifest],
        selected: set[Digest] | None,
        options: CopyOptions,
    ) -> None:
        self._repository = repository
        self._root = root
        self._indexes = indexes
        self._selected = selected
        self._options = options
        # By the digest that the source has: what is stored of each index that has selected entries.
        self._stored: dict[Digest, RawManifest] = {}
        self._absent: dict[Digest, tuple[Descriptor, str]] = {}

    def run(self) -> Subset:
        entries: dict[Digest, tuple[Descriptor, ...]] = {}
        rewritten: dict[Digest, RawManifest] = {}
        for index in self._indexes:
            kept = [(position, entry) for position, entry in enumerate(index.children) if self._is_kept(entry)]
            if self._selected is not None and not kept:
                continue
            self._stored[index.digest] = index
            if self._options.index_mode is IndexMode.SPARSE:
                entries[index.digest] = tuple(entry for _, entry in kept)
                continue
            self._stored[index.digest] = smaller = _rewrite(index, kept, self._stored)
            if smaller is not index and index.digest != self._root.digest:
                rewritten[smaller.digest] = smaller
        return Subset(self._stored[self._root.digest], entries, rewritten, tuple(self._absent.values()))

    def _is_kept(self, entry: Descriptor) -> bool:
        if not is_attestation(entry):
            return self._selected is None or entry.digest in self._selected or entry.digest in self._stored
        if not self._options.attestations:
            if self._selected is None:
                return is_listed_image(self._repository, entry)
            # Its configuration states a platform that was selected, so that it is an image.
            return entry.digest in self._selected and is_image(entry)
        if self._selected is None or entry.digest in self._selected:
            return True
        subject = entry.annotations.get(REFERENCE_DIGEST)
        return (subject in self._selected or subject in self._stored) and self._is_present(entry)

    def _is_present(self, attestation: Descriptor) -> bool:
        """Return whether the source serves an attestation that it lists, and its blobs; some registries do not."""
        if attestation.digest in self._absent:
            return False
        try:
            for part in fetch_child(self._repository, attestation).children:
                if part.embedded() is None:
                    self._look_up(part)
        except RegistryError as error:
            if is_not_served(error):
                self._absent[attestation.digest] = attestation, error.message
                return False
            # Other errors are those of the copy, if it meets them too.
            if not is_inconclusive(error):
                raise
        return True

    def _look_up(self, blob: Descriptor) -> None:
        checkpoint()
        try:
            self._repository.blobs.stat(blob.digest)
        except Forbidden:
            # Storage to which a registry redirects may forbid HEAD only.
            self._repository.blobs.open(blob.digest).close()


class _PlatformIndex:
    """The images of an index, and of the indexes below it, by platform.

    Attributes:
        indexes: All indexes, nested ones before those that list them.
    """

    def __init__(self, repository: Repository, root: RawManifest, *, reads_platforms: bool) -> None:
        self._offers: dict[Digest, Platform] = {}
        self.indexes: list[RawManifest] = []
        seen: set[Digest] = set()
        for found in walk_indexes(repository, root):
            if isinstance(found, RawManifest):
                self.indexes.append(found)
            elif reads_platforms and (names_platform(found) or found.digest not in seen):
                seen.add(found.digest)
                platform = found.platform if names_platform(found) else configured_platform(repository, found)
                if platform is not None:
                    self._offers[found.digest] = platform

    @property
    def available(self) -> list[Platform]:
        """The platforms of all images."""
        return list(self._offers.values())

    def select(self, platforms: Sequence[Platform]) -> set[Digest]:
        """Return the digests of the images that some platforms need."""
        selected: set[Digest] = set()
        for platform in platforms:
            equal = {digest: offered for digest, offered in self._offers.items() if _is_equal(platform, offered)}
            # Images that demand features that were not requested are the last choice.
            found = {digest for digest, offered in equal.items() if set(offered.os_features) <= {*platform.os_features}}
            found = found or set(equal)
            if not found:
                best = best_match(platform, ((offered, digest) for digest, offered in self._offers.items()))
                found = set() if best is None else {best}
            selected |= found
        return selected


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
