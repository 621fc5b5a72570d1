"""Manifests and the graphs they form: fetch one, walk a graph within limits, select the image for a platform."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import MANIFEST_LIMIT, read_limited
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import RawConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    is_image_config,
    is_image_manifest,
    is_index,
    is_manifest,
    is_schema1,
)
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import (
    DigestMismatch,
    Forbidden,
    InvalidDocument,
    NotAnImage,
    NotFound,
    PlatformNotFound,
    RegistryError,
    SizeMismatch,
    TooLarge,
    Unsupported,
    error_reference,
)
from registry_core.ops.blobs import open_verified
from registry_core.ops.references import ImageReference, locate
from registry_core.ports.catalog import Repository

__all__ = [
    "DEPTH_LIMIT",
    "NODE_LIMIT",
    "REFERENCE_DIGEST",
    "GraphLimits",
    "ManifestQueue",
    "Selection",
    "configured_platform",
    "fetch_child",
    "fetch_manifest",
    "has_config",
    "is_attestation",
    "is_child_manifest",
    "is_image",
    "is_listed_image",
    "is_not_served",
    "names_platform",
    "platform_not_found",
    "read_config",
    "select",
    "walk",
    "walk_indexes",
]


def fetch_manifest(repository: Repository, reference: ImageReference) -> RawManifest:
    """Fetch a manifest by tag, digest or name. Its bytes are verified by a digest, for every backend.

    Raises:
        ImageNotFound: The repository has no such manifest.
        DigestMismatch: The backend sent other bytes.
        InvalidDocument: The bytes are not a manifest.
        Unsupported: The digest's algorithm cannot be verified.
    """
    checkpoint()
    reference = locate(repository, reference)
    if isinstance(reference, Digest) and not reference.verifiable:
        # Raises before any request: the response could not be verified.
        with error_reference(repository.at(reference)):
            reference.hasher()
    raw = repository.manifests.get(reference)
    if isinstance(reference, Digest):
        actual = Digest.of(raw.content, reference.algorithm)
        if actual != reference:
            raise DigestMismatch(
                f"the content has the digest {actual}, expected {reference}",
                expected=reference,
                actual=actual,
                reference=repository.at(reference),
            )
        if raw.algorithm != reference.algorithm:
            raw = raw.with_algorithm(reference.algorithm)
    with error_reference(repository.at(reference)):
        return raw.checked()


def fetch_child(repository: Repository, descriptor: Descriptor) -> RawManifest:
    """Fetch the manifest that a descriptor names, or take its embedded data; verify it against the descriptor.

    Raises:
        ImageNotFound: The repository has no such manifest.
        SizeMismatch: Its size is not the descriptor's.
        DigestMismatch: Its digest is not the descriptor's.
        InvalidDocument: Its type is not the descriptor's.
        Unsupported: The digest's algorithm cannot be verified, or it is a Docker schema 1 manifest.
    """
    with error_reference(repository.at(descriptor.digest)):
        embedded = descriptor.embedded()
        if embedded is None:
            manifest = fetch_manifest(repository, descriptor.digest)
        else:
            manifest = RawManifest(descriptor.media_type, embedded, descriptor.digest.algorithm)
        if len(manifest.content) != descriptor.size:
            raise SizeMismatch(
                f"{len(manifest.content)} bytes, expected {descriptor.size}",
                expected=descriptor.size,
                actual=len(manifest.content),
            )
        return manifest.checked(expected=descriptor.media_type)


def is_child_manifest(parent: RawManifest, descriptor: Descriptor) -> bool:
    """Return whether a descriptor in a manifest names a manifest of a known type, rather than a blob."""
    return parent.is_index and (is_manifest(descriptor.media_type) or is_schema1(descriptor.media_type))


DEPTH_LIMIT = 16
NODE_LIMIT = 10_000


class GraphLimits:
    """Limits on the number and the nesting depth of the manifests in a graph.

    A registry or an index can describe a graph of any size, so every walk counts its manifests with this class.

    Args:
        depth: Greatest depth; 16 by default.
        count: Greatest number of manifests; 10 000 for each graph by default.
        graphs: Number of graphs that are counted together.
        what: Plural noun for messages.
    """

    def __init__(
        self, *, depth: int | None = None, count: int | None = None, graphs: int = 1, what: str = "manifests"
    ) -> None:
        self.depth = DEPTH_LIMIT if depth is None else depth
        self.count = NODE_LIMIT * graphs if count is None else count
        self._what = what
        self._added = 0

    def add(self, depth: int, *, reference: str = "") -> None:
        """Count one manifest.

        Args:
            depth: Depth of the manifest; roots have depth 1.
            reference: Manifest or graph to name in errors.

        Raises:
            TooLarge: The graph has more manifests, or is deeper, than the limits allow.
        """
        self._added += 1
        if self._added > self.count:
            raise TooLarge(f"more than {self.count} {self._what}", reference=reference)
        if depth > self.depth:
            raise TooLarge(f"{self._what} nested more than {self.depth} deep", reference=reference)


class ManifestQueue:
    """A breadth-first walk: iterate over the queue, and add the children of each descriptor that it yields.

    Each digest is yielded once, at its smallest depth.

    Args:
        roots: Descriptors to start from, at depth 1.
        limits: Limits of the walk; those of one graph by default.
    """

    def __init__(self, roots: Iterable[Descriptor] = (), *, limits: GraphLimits | None = None) -> None:
        self._limits = GraphLimits() if limits is None else limits
        self._seen: set[Digest] = set()
        self._queue: deque[tuple[Descriptor, int]] = deque()
        self._depth = 0
        for root in roots:
            self.add(root)

    @property
    def depth(self) -> int:
        """Depth of the descriptor that was yielded last; 0 before the first."""
        return self._depth

    def add(self, child: Descriptor) -> bool:
        """Add a child of the descriptor that was yielded last; return whether its digest is new to this walk.

        Raises:
            TooLarge: The graph exceeds the limits.
        """
        if child.digest in self._seen:
            return False
        self._limits.add(self._depth + 1)
        self._seen.add(child.digest)
        self._queue.append((child, self._depth + 1))
        return True

    def __iter__(self) -> Iterator[Descriptor]:
        """Yield one descriptor after the other until none is left."""
        while self._queue:
            checkpoint()
            descriptor, self._depth = self._queue.popleft()
            yield descriptor


def walk(repository: Repository, root: RawManifest) -> Iterator[RawManifest]:
    """Yield all manifests of a graph, each once, children before parents and the root last.

    Only the path from the root to the current manifest is held in memory.

    Args:
        repository: Repository that holds the children.
        root: Manifest to start from.

    Raises:
        TooLarge: The graph is deeper, or has more manifests, than the limits allow.
        NotFound: A child is missing.
        IntegrityError: A child does not match its descriptor.
        InvalidDocument: A manifest is malformed.
    """
    for found in _depth_first(repository, root, lambda part: True):
        if isinstance(found, RawManifest):
            yield found


def walk_indexes(repository: Repository, root: RawManifest) -> Iterator[RawManifest | Descriptor]:
    """Yield the descriptors of all images below an index, in document order, and each index after its entries.

    Images are not fetched.

    Args:
        repository: Repository that holds the nested indexes.
        root: Index to start from.

    Raises:
        TooLarge: The indexes are deeper, or more, than the limits allow.
        RegistryError: A nested index cannot be read.
    """
    return _depth_first(repository, root, lambda part: is_index(part.media_type))


def _depth_first(
    repository: Repository, root: RawManifest, is_fetched: Callable[[Descriptor], bool]
) -> Iterator[RawManifest | Descriptor]:
    """Yield each fetched manifest after its children, and in between the descriptors of images that are not fetched."""
    limits = GraphLimits()
    reference = repository.at(root.digest)
    limits.add(1, reference=reference)
    seen: set[Digest] = {root.digest}
    path: list[tuple[RawManifest, Iterator[Descriptor]]] = [(root, iter(root.children))]
    while path:
        checkpoint()
        manifest, parts = path[-1]
        part = next(parts, None)
        if part is None:
            path.pop()
            yield manifest
        elif not is_child_manifest(manifest, part):
            continue
        elif not is_fetched(part):
            if is_image(part):
                yield part
        elif part.digest not in seen:
            seen.add(part.digest)
            limits.add(len(path) + 1, reference=reference)
            child = fetch_child(repository, part)
            path.append((child, iter(child.children)))


def has_config(manifest: RawManifest) -> bool:
    """Return whether a manifest has the configuration of an image, rather than that of another artifact or none."""
    if not is_image_manifest(manifest.media_type):
        return False
    return is_image_config(manifest.image.config.media_type, manifest=manifest.media_type)


def read_config(repository: Repository, manifest: RawManifest) -> RawConfig:
    """Read and verify an image's configuration, from the descriptor's embedded data or from the repository.

    Raises:
        NotAnImage: The manifest is not an image's but another artifact's.
        BlobNotFound: The configuration is missing.
        IntegrityError: It does not match its descriptor.
        TooLarge: It is larger than 8 MiB.
    """
    descriptor = manifest.image.config
    if not has_config(manifest):
        raise NotAnImage(f"not an image but an artifact with a configuration of type {descriptor.media_type!r:.200}")
    content = descriptor.embedded()
    if content is None:
        if descriptor.size > MANIFEST_LIMIT:
            raise TooLarge(f"configuration of {descriptor.size} bytes; at most {MANIFEST_LIMIT} are read")
        with open_verified(repository, descriptor.digest, descriptor.size) as reader:
            content = read_limited(reader, MANIFEST_LIMIT, what="the configuration")
    return RawConfig(content)


class Selection(msgspec.Struct, frozen=True):
    """The image selected for a platform.

    Args:
        manifest: The image's manifest.
        platform: The image's platform, from its index or its configuration; ``None`` where neither was read.
    """

    manifest: RawManifest
    platform: Platform | None


def select(
    repository: Repository, manifest: RawManifest, platform: Platform | None, *, default: Platform | None = None
) -> Selection:
    """Select the image that fits a platform best, from an index and all indexes below it.

    A manifest that is not an index is itself the selection. If a platform is given, its configuration is read, and its
    platform must fit.

    Args:
        repository: Repository that holds the manifests.
        manifest: Index or image manifest.
        platform: Platform to select; ``None`` for the default.
        default: Platform to select from an index if ``platform`` is ``None``; this machine's by default.

    Raises:
        PlatformNotFound: No image fits; the error lists the available platforms.
        NotAnImage: The manifest is neither an index nor an image.
        RegistryError: A manifest or configuration cannot be read.
    """
    if not manifest.is_index:
        return _select_single(repository, manifest, platform)
    wanted = platform or default or Platform.host()
    entries = [entry for entry in walk_indexes(repository, manifest) if isinstance(entry, Descriptor)]
    chosen = best_match(wanted, [(entry.platform, entry) for entry in entries])
    if chosen is not None and not _demands_more(chosen.platform, wanted):
        return Selection(fetch_child(repository, chosen), chosen.platform)
    offers: list[tuple[Platform | None, Descriptor]] = []
    failure: RegistryError | None = None
    read: set[Digest] = set()
    for entry in entries:
        if names_platform(entry):
            offers.append((entry.platform, entry))
            continue
        if entry.digest in read:
            continue
        read.add(entry.digest)
        try:
            offers.append((_read_platform(repository, entry), entry))
        except RegistryError as error:
            if not _is_unreadable(error):
                raise
            failure = failure or error
            continue
        if offers[-1][0] == wanted.normalised():
            # No other entry fits better.
            break
    chosen = best_match(wanted, offers)
    if chosen is not None:
        return Selection(fetch_child(repository, chosen), next(offer for offer, entry in offers if entry is chosen))
    raise platform_not_found([wanted], [offer for offer, _ in offers if offer is not None]) from failure


# Build tools list attestations in the index, beside the images that they describe.
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"

# The annotation of an attestation with the digest of its image.
REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"

_GONE: Final = 410


def is_not_served(error: RegistryError) -> bool:
    """Return whether an error means that a registry lists content that it does not serve: absent, withheld or gone."""
    is_gone = error.transport is not None and error.transport.status == _GONE
    return is_gone or isinstance(error, NotFound | Forbidden)


def _is_unreadable(error: RegistryError) -> bool:
    # An entry whose manifest or configuration is not served, or is no document of an image, has no platform.
    return is_not_served(error) or isinstance(error, InvalidDocument | NotAnImage | TooLarge | Unsupported)


def _demands_more(offered: Platform | None, wanted: Platform) -> bool:
    return offered is not None and not set(offered.os_features) <= set(wanted.os_features)


def is_image(descriptor: Descriptor) -> bool:
    """Return whether an index entry may be an image, rather than an attestation or another artifact.

    The artifact type of an image is the media type of its configuration (image-spec descriptor.md, "Properties").
    """
    if not is_image_manifest(descriptor.media_type) or _REFERENCE_TYPE in descriptor.annotations:
        return False
    return not descriptor.artifact_type or is_image_config(descriptor.artifact_type, manifest=descriptor.media_type)


def is_attestation(descriptor: Descriptor) -> bool:
    """Return whether an index entry looks like an attestation: it says so, or its platform is ``unknown/unknown``."""
    if not is_manifest(descriptor.media_type) or is_index(descriptor.media_type):
        return False
    platform = descriptor.platform
    return _REFERENCE_TYPE in descriptor.annotations or (platform is not None and platform.is_unknown)


def names_platform(entry: Descriptor) -> bool:
    """Return whether an index entry states a platform; otherwise the configuration of the image decides."""
    return entry.platform is not None and not entry.platform.normalised().is_unknown


def configured_platform(repository: Repository, entry: Descriptor) -> Platform | None:
    """Return the platform in the configuration of an index entry.

    Returns:
        The platform, or ``None`` if the configuration names none, is no image's, is malformed or is not served: one
        broken entry must not hide the others.

    Raises:
        RegistryError: The repository cannot be read, or sent other content than was requested.
    """
    try:
        return _read_platform(repository, entry)
    except RegistryError as error:
        if _is_unreadable(error):
            return None
        raise


def is_listed_image(repository: Repository, entry: Descriptor) -> bool:
    """Return whether an index entry is an image; if its platform is unknown, its configuration decides.

    Raises:
        RegistryError: The repository cannot be read, or sent other content than was requested.
    """
    if not is_image(entry):
        return False
    return not is_attestation(entry) or configured_platform(repository, entry) is not None


def _read_platform(repository: Repository, entry: Descriptor) -> Platform | None:
    checkpoint()
    image = fetch_child(repository, entry)
    platform = read_config(repository, image).platform if has_config(image) else None
    return None if platform is None or platform.is_unknown else platform


def platform_not_found(wanted: Iterable[Platform], available: Iterable[Platform]) -> PlatformNotFound:
    """The error for platforms that no image fits."""
    names = tuple(dict.fromkeys(map(str, available)))
    return PlatformNotFound(
        f"no image for {', '.join(map(str, wanted))}; available: {', '.join(names) or 'none'}", available=names
    )


def _select_single(repository: Repository, manifest: RawManifest, platform: Platform | None) -> Selection:
    # Raises for a manifest of another kind.
    image = manifest.image
    if platform is None or not is_image_config(image.config.media_type, manifest=manifest.media_type):
        return Selection(manifest, None)
    config = read_config(repository, manifest)
    if not config.allows(platform):
        raise platform_not_found([platform], [] if config.platform is None else [config.platform])
    return Selection(manifest, config.platform)
