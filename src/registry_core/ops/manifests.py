"""Graphs of manifests: an index, what it lists, and so on down.

The configuration that an image's manifest points at.

The one image that fits a platform, out of an index and the indexes below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import MANIFEST_LIMIT, read_limited
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    is_index,
    is_manifest,
    is_schema1,
)
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import DigestMismatch, NotAnImage, PlatformNotFound, SizeMismatch, TooLarge, error_reference
from registry_core.ops.blobs import open_verified
from registry_core.ports.catalog import Repository

__all__ = [
    "DEPTH_LIMIT",
    "NODE_LIMIT",
    "Selection",
    "fetch_child",
    "fetch_manifest",
    "has_config",
    "is_child_manifest",
    "is_image",
    "read_config",
    "select",
    "walk",
]


DEPTH_LIMIT = 16

NODE_LIMIT = 10_000


def fetch_manifest(repository: Repository, reference: Tag | Digest) -> RawManifest:
    """A manifest by tag or digest; by digest, its bytes are checked whatever the backend did.

    Raises:
        ImageNotFound: No such manifest.
        DigestMismatch: The backend holds other bytes.
        InvalidDocument: What it holds is no manifest.
        Unsupported: Its digest cannot be verified.
    """
    checkpoint()
    if isinstance(reference, Digest) and not reference.verifiable:
        # Not even asked for: nobody could tell what comes.
        with error_reference(repository.at(reference)):
            reference.hasher()
    raw = repository.manifests.get(reference)
    if isinstance(reference, Digest):
        actual = Digest.of(raw.content, reference.algorithm)
        if actual != reference:
            raise DigestMismatch(
                f"hashes to {actual} instead of {reference}",
                expected=reference,
                actual=actual,
                reference=repository.at(reference),
            )
        if raw.algorithm != reference.algorithm:
            raw = RawManifest(raw.media_type, raw.content, reference.algorithm)
    return raw


def fetch_child(repository: Repository, descriptor: Descriptor) -> RawManifest:
    """The manifest that a descriptor points at: embedded or fetched, checked against it in either case.

    Raises:
        ImageNotFound: No such manifest.
        SizeMismatch: It is shorter or longer than the descriptor says.
        DigestMismatch: It hashes to something else.
        InvalidDocument: It is not of the type that the descriptor says.
        Unsupported: Its digest cannot be verified, or it is a Docker schema 1 manifest.
    """
    reference = repository.at(descriptor.digest)
    with error_reference(reference):
        content = descriptor.embedded()
        claimed = ""
        if content is None:
            raw = fetch_manifest(repository, descriptor.digest)
            content, claimed = raw.content, raw.media_type
        if len(content) != descriptor.size:
            raise SizeMismatch(
                f"{len(content)} bytes instead of the promised {descriptor.size}",
                expected=descriptor.size,
                actual=len(content),
            )
        return RawManifest.of(
            content, claimed=claimed, expected=descriptor.media_type, algorithm=descriptor.digest.algorithm
        )


def is_child_manifest(parent: RawManifest, descriptor: Descriptor) -> bool:
    """Whether a part of a manifest is a manifest of a known kind, rather than a blob."""
    return parent.is_index and (is_manifest(descriptor.media_type) or is_schema1(descriptor.media_type))


def walk(
    repository: Repository, root: RawManifest, *, skip: Callable[[Descriptor], bool] = lambda _: False
) -> Iterator[RawManifest]:
    """All manifests of a graph, each once, children before parents and the root last.

    Only the path from the root to where the walk stands is held in memory.

    Args:
        repository: Where the children are.
        root: Where to start.
        skip: Asked once for each child; one that is skipped is not fetched, and neither is what lies below it.

    Raises:
        TooLarge: It is deeper, or has more manifests, than any honest graph.
        NotFound: A child is missing.
        IntegrityError: A child is not what its parent says.
        InvalidDocument: A manifest is malformed.
    """
    seen: set[str] = {root.digest}
    path: list[tuple[RawManifest, Iterator[Descriptor]]] = [(root, _manifests(root))]
    while path:
        checkpoint()
        manifest, children = path[-1]
        descriptor = next(children, None)
        if descriptor is None:
            path.pop()
            yield manifest
            continue
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        if len(seen) > NODE_LIMIT:
            raise TooLarge(f"more than {NODE_LIMIT} manifests", reference=repository.at(root.digest))
        if len(path) >= DEPTH_LIMIT:
            raise TooLarge(f"nested more than {DEPTH_LIMIT} deep", reference=repository.at(root.digest))
        if skip(descriptor):
            continue
        found = fetch_child(repository, descriptor)
        path.append((found, _manifests(found)))


def _manifests(manifest: RawManifest) -> Iterator[Descriptor]:
    return (part for part in manifest.children if is_child_manifest(manifest, part))


_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})


def has_config(manifest: RawManifest) -> bool:
    """Whether a manifest's configuration is one of images, and not of some other artifact.

    Raises:
        NotAnImage: It is not an image manifest at all.
    """
    return manifest.image.config.media_type in _CONFIGS


def read_config(repository: Repository, manifest: RawManifest) -> ImageConfig:
    """The configuration, verified: embedded in the manifest or fetched.

    Raises:
        NotAnImage: It is not an image's: the manifest belongs to some other artifact.
        BlobNotFound: It is missing.
        IntegrityError: It is not what the manifest says.
        TooLarge: It is larger than any honest one.
        InvalidDocument: It is malformed.
    """
    descriptor = manifest.image.config
    if not has_config(manifest):
        raise NotAnImage(f"an artifact: its configuration is {descriptor.media_type!r:.200}")
    content = descriptor.embedded()
    if content is None:
        if descriptor.size > MANIFEST_LIMIT:
            raise TooLarge(f"a configuration of {descriptor.size} bytes")
        with open_verified(repository, descriptor.digest, descriptor.size) as reader:
            content = read_limited(reader, MANIFEST_LIMIT, what="the configuration")
    return ImageConfig.read(content)


# Build tools file attestations beside the images that they are about.
_REFERENCE_TYPE = "vnd.docker.reference.type"


class Selection(msgspec.Struct, frozen=True):
    """What was selected.

    Args:
        manifest: The image's manifest.
        platform: What it runs on, where an index or its configuration told.
    """

    manifest: RawManifest
    platform: Platform | None


def select(
    repository: Repository, manifest: RawManifest, platform: Platform | None, *, default: Platform | None = None
) -> Selection:
    """The image that fits a platform best, wherever below an index it stands.

    Of an index, the platform or else the default decides. An image that stands alone is what it is: only where a
    platform was asked for is its configuration read, and must not contradict.

    Args:
        repository: Where the manifests are.
        manifest: An index, or an image that stands alone.
        platform: What was asked for; ``None`` where nothing was.
        default: What an index decides by then; the host's own if not given.

    Raises:
        PlatformNotFound: Nothing fits; the error lists what there is.
        NotAnImage: It is neither an index nor an image.
        RegistryError: A manifest or configuration cannot be read.
    """
    if not manifest.is_index:
        return _alone(repository, manifest, platform)
    wanted = platform or default or Platform.host()
    entries = list(_entries(repository, manifest))
    offers: list[tuple[Platform | None, Descriptor]] = [(entry.platform, entry) for entry in entries]
    chosen = best_match(wanted, offers)
    if chosen is not None:
        return Selection(fetch_child(repository, chosen), chosen.platform)
    found: dict[str, RawManifest] = {}
    offers = [(_platform_from_config(repository, entry, found), entry) for entry in entries if entry.platform is None]
    chosen = best_match(wanted, offers)
    if chosen is not None:
        return Selection(found[chosen.digest], next(offer for offer, entry in offers if entry is chosen))
    known = [entry.platform for entry in entries] + [offer for offer, _ in offers]
    raise _not_found(wanted, [offer for offer in known if offer is not None])


def is_image(descriptor: Descriptor) -> bool:
    """Whether an entry of an index is an image, and not an attestation or another artifact."""
    if descriptor.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST) or _REFERENCE_TYPE in descriptor.annotations:
        return False
    return not descriptor.artifact_type and not (descriptor.platform is not None and descriptor.platform.is_unknown)


def _alone(repository: Repository, manifest: RawManifest, platform: Platform | None) -> Selection:
    if not has_config(manifest) or platform is None:
        return Selection(manifest, None)
    offered = read_config(repository, manifest).platform
    if offered is not None and not platform.runs(offered):
        raise _not_found(platform, [offered])
    return Selection(manifest, offered)


def _entries(repository: Repository, root: RawManifest) -> Iterator[Descriptor]:
    seen: set[str] = {root.digest}
    path: list[Iterator[Descriptor]] = [iter(root.children)]
    while path:
        checkpoint()
        entry = next(path[-1], None)
        if entry is None:
            path.pop()
            continue
        if is_image(entry):
            yield entry
        elif is_index(entry.media_type) and entry.digest not in seen:
            seen.add(entry.digest)
            if len(path) >= DEPTH_LIMIT or len(seen) > NODE_LIMIT:
                raise TooLarge("too many indexes within indexes", reference=repository.at(root.digest))
            path.append(iter(fetch_child(repository, entry).children))


def _platform_from_config(repository: Repository, entry: Descriptor, found: dict[str, RawManifest]) -> Platform | None:
    checkpoint()
    manifest = fetch_child(repository, entry)
    if not has_config(manifest):
        return None
    found[entry.digest] = manifest
    return read_config(repository, manifest).platform


def _not_found(wanted: Platform, known: list[Platform]) -> PlatformNotFound:
    available = tuple(dict.fromkeys(str(platform) for platform in known))
    return PlatformNotFound(
        f"nothing for {wanted}; there is {', '.join(available) or 'no image at all'}",
        available=available,
    )
