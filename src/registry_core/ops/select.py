"""The one image that fits a platform, out of an index and the indexes below it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_MANIFEST, OCI_MANIFEST, is_index
from registry_core.domain.platform import Platform, best_match
from registry_core.errors import PlatformNotFound, TooLarge
from registry_core.ops.configs import has_config, read_config
from registry_core.ops.graph import DEPTH_LIMIT, NODE_LIMIT, child
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["Choice", "is_image", "select"]

# Build tools file attestations beside the images that they are about.
_REFERENCE_TYPE = "vnd.docker.reference.type"


class Choice(msgspec.Struct, frozen=True):
    """What was selected.

    Args:
        manifest: The image's manifest.
        platform: What it runs on, where an index or its configuration told.
    """

    manifest: RawManifest
    platform: Platform | None


def select(
    repository: Repository, manifest: RawManifest, platform: Platform | None, *, default: Platform | None = None
) -> Choice:
    """The image that fits a platform best, wherever below an index it stands (R-024).

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
        return Choice(child(repository, chosen), chosen.platform)
    found: dict[str, RawManifest] = {}
    offers = [(_told(repository, entry, found), entry) for entry in entries if entry.platform is None]
    chosen = best_match(wanted, offers)
    if chosen is not None:
        return Choice(found[chosen.digest], next(offer for offer, entry in offers if entry is chosen))
    known = [entry.platform for entry in entries] + [offer for offer, _ in offers]
    raise _not_found(wanted, [offer for offer in known if offer is not None])


def is_image(descriptor: Descriptor) -> bool:
    """Whether an entry of an index is an image, and not an attestation or another artifact."""
    if descriptor.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST) or _REFERENCE_TYPE in descriptor.annotations:
        return False
    return not descriptor.artifact_type and not (descriptor.platform is not None and descriptor.platform.is_unknown)


def _alone(repository: Repository, manifest: RawManifest, platform: Platform | None) -> Choice:
    if not has_config(manifest) or platform is None:
        return Choice(manifest, None)
    offered = read_config(repository, manifest).platform
    if offered is not None and not platform.runs(offered):
        raise _not_found(platform, [offered])
    return Choice(manifest, offered)


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
            path.append(iter(child(repository, entry).children))


def _told(repository: Repository, entry: Descriptor, found: dict[str, RawManifest]) -> Platform | None:
    checkpoint()
    manifest = child(repository, entry)
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
