"""The documents at the end of a new archive: an image layout's, and beside them those of ``docker save``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from registry_adapters.archive.contents import Held
from registry_adapters.archive.names import ArchiveForm, annotations_of, short_name
from registry_adapters.archive.saved import blob_name
from registry_core.content.codecs import compression_of
from registry_core.domain import wire
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import Unsupported

__all__ = ["closing_documents", "roots_of"]

_Tagged = tuple[RepositoryName, Tag, Digest]

_IMAGES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
_CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG)


def closing_documents(
    form: ArchiveForm, manifests: Sequence[Held], tags: Sequence[_Tagged], blobs: Collection[Digest]
) -> Iterator[tuple[str, bytes]]:
    """The documents of an archive, by their names: the same content always gives the same bytes.

    Args:
        form: How the archive is written.
        manifests: Whatever was put, each once, in the order of the digests.
        tags: What points at them, in order.
        blobs: What the archive has.
    """
    roots = roots_of(manifests, {digest for _, _, digest in tags})
    yield "oci-layout", wire.encode({"imageLayoutVersion": "1.0.0"})
    yield "index.json", _index(form, manifests, tags, roots)
    if form is ArchiveForm.DOCKER:
        images = _images(manifests, tags, roots, blobs)
        yield "manifest.json", wire.encode([_saved(image, names) for image, names in images])
        yield "repositories", _repositories(images)


def roots_of(manifests: Sequence[Held], tagged: Collection[Digest]) -> list[Held]:
    """The manifests without a tag that no other one is made of."""
    led_to = set(tagged)
    for held in manifests:
        manifest = held.read()
        if manifest.is_index:
            led_to.update(child.digest for child in manifest.children)
    return [held for held in manifests if held.descriptor.digest not in led_to]


def _index(form: ArchiveForm, manifests: Sequence[Held], tags: Sequence[_Tagged], roots: Sequence[Held]) -> bytes:
    held = {each.descriptor.digest: each for each in manifests}
    entries = [
        _entry(held[digest]) | {"annotations": annotations_of(form, name, tag)} for name, tag, digest in tags
    ] + [_entry(each) for each in roots]
    return wire.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _entry(held: Held) -> dict[str, Any]:
    return {
        "mediaType": held.descriptor.media_type,
        "digest": str(held.descriptor.digest),
        "size": held.descriptor.size,
    }


def _images(
    manifests: Sequence[Held], tags: Sequence[_Tagged], roots: Sequence[Held], blobs: Collection[Digest]
) -> list[tuple[RawManifest, list[tuple[RepositoryName, Tag]]]]:
    """The whole images, each once, with the names that they have."""
    held = {each.descriptor.digest: each for each in manifests}
    wanted: dict[Digest, list[tuple[RepositoryName, Tag]]] = {}
    for name, tag, digest in tags:
        wanted.setdefault(digest, []).append((name, tag))
    for root in roots:
        wanted.setdefault(root.descriptor.digest, [])
    found: dict[Digest, tuple[RawManifest, list[tuple[RepositoryName, Tag]]]] = {}
    for digest, names in wanted.items():
        for image in _below(held[digest].read(), held, blobs):
            found.setdefault(image.digest, (image, []))[1].extend(names)
            # Older readers know no indexes: to them, the name is that of the first image.
            names = []
    return list(found.values())


def _below(manifest: RawManifest, held: Mapping[Digest, Held], blobs: Collection[Digest]) -> Iterator[RawManifest]:
    candidates = [manifest]
    if manifest.is_index:
        candidates = [held[child.digest].read() for child in manifest.children if child.digest in held]
    for each in candidates:
        if (
            each.media_type in _IMAGES
            and each.image.config.media_type in _CONFIGS
            and all(_is_layer(layer.media_type) for layer in each.image.layers)
            and all(part.digest in blobs for part in each.children)
        ):
            yield each


def _is_layer(media_type: str) -> bool:
    # Attestations have the configuration of an image, but nothing that could be unpacked.
    try:
        compression_of(media_type)
    except Unsupported:
        return False
    return True


def _saved(image: RawManifest, names: Sequence[tuple[RepositoryName, Tag]]) -> dict[str, Any]:
    return {
        "Config": blob_name(image.image.config.digest),
        "RepoTags": [short_name(name, tag) for name, tag in names] or None,
        "Layers": [blob_name(layer.digest) for layer in image.image.layers],
    }


def _repositories(images: Sequence[tuple[RawManifest, Sequence[tuple[RepositoryName, Tag]]]]) -> bytes:
    # What docker wanted an identifier of the top layer for is long gone; the document is still looked for.
    mapping: dict[str, dict[str, str]] = {}
    for image, names in images:
        top = image.children[-1].digest.encoded
        for name, tag in names:
            called = short_name(name, tag).removesuffix(f":{tag}")
            mapping.setdefault(called, {})[tag] = top
    return wire.encode(mapping)
