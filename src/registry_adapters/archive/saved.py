"""``manifest.json`` of ``docker save``: images without manifests, for which there is exactly one to be made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from registry_adapters.archive.medium import Stretch, compression_at
from registry_adapters.archive.tar_index import inside
from registry_core.content.limits import MANIFEST_LIMIT
from registry_core.content.source import PIECE
from registry_core.domain import wire
from registry_core.domain.config import ImageConfig
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from registry_core.errors import DigestMismatch, InvalidDigest, InvalidDocument, LayoutError, TooLarge, UnsafeArchive
from registry_core.scope import checkpoint

__all__ = ["ManifestMaker", "SavedImage", "blob_name", "digest_in", "parse_saved"]

_IMAGE_LIMIT: Final = 10_000
_LAYER_LIMIT: Final = 100_000
_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_BLOB: Final = re.compile(r"blobs/([a-z0-9+._-]+)/([a-zA-Z0-9=_-]+)").fullmatch
_CONFIG: Final = re.compile(r"([a-f0-9]{64})\.json").fullmatch


class SavedImage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An image as ``manifest.json`` has it: names of files in the archive.

    Args:
        config: Of the configuration.
        repo_tags: What the image is called.
        layers: Of the layers, lowest first.
    """

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def parse_saved(content: bytes) -> tuple[SavedImage, ...]:
    """The images of a ``manifest.json``.

    Raises:
        InvalidDocument: It is something else.
        TooLarge: It has more images, or more layers, than any honest one.
    """
    value = wire.parse(content)
    if not isinstance(value, list):
        raise InvalidDocument("not a list", path="$")
    if len(value) > _IMAGE_LIMIT:
        raise TooLarge(f"manifest.json has more than {_IMAGE_LIMIT} images")
    images = tuple(wire.lift(item, SavedImage) for item in value)
    if sum(len(image.layers) for image in images) > _LAYER_LIMIT:
        raise TooLarge(f"manifest.json has more than {_LAYER_LIMIT} layers")
    return images


def digest_in(name: str) -> Digest | None:
    """The digest in a blob's name, as image layouts have it; ``None`` for other names."""
    match = _BLOB(name)
    if match is None:
        return None
    try:
        digest = Digest(f"{match[1]}:{match[2]}")
    except InvalidDigest:
        return None
    return digest if digest.verifiable else None


def blob_name(digest: Digest) -> str:
    """The name of a blob in an image layout."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


class ManifestMaker:
    """Manifests for images that were saved without one.

    The same files always give the same manifest. A plain layer goes by the digest that the configuration has for it,
    a compressed one is hashed; either is verified like any other content when it is read.

    No file is read twice, however many names the archive has for it: links cost nothing to make.

    Args:
        files: The archive's, by name.
    """

    def __init__(self, files: Mapping[str, Stretch]) -> None:
        self._files = files
        self._configs: dict[int, tuple[dict[str, Digest], tuple[Digest, ...]]] = {}
        self._hashes: dict[int, Digest] = {}

    def config_size(self, image: SavedImage) -> int:
        """How large an image's configuration is, which may be missing.

        Raises:
            UnsafeArchive: Its name leaves the archive.
        """
        try:
            return self._found(image.config).size
        except LayoutError:
            return 0

    def make(self, image: SavedImage) -> tuple[RawManifest, dict[Digest, Stretch]]:
        """The manifest of an image, and where its parts are.

        Raises:
            LayoutError: A file is missing, or there are more or fewer layers than the configuration says.
            UnsafeArchive: A name leaves the archive.
            InvalidDocument: The configuration is none.
            DigestMismatch: It is not the one that its name says.
            TooLarge: It is larger than 8 MiB.
        """
        stretch = self._found(image.config)
        config, diff_ids = self._config(image.config, stretch)
        if len(diff_ids) != len(image.layers):
            raise LayoutError(f"an image of {len(image.layers)} layers whose configuration has {len(diff_ids)}")
        parts = {config: stretch}
        layers = []
        for name, diff_id in zip(image.layers, diff_ids, strict=True):
            checkpoint()
            layer = self._found(name)
            compression = compression_at(layer.medium, layer.offset) if layer.size else ""
            digest = digest_in(inside(name.encode())) or (self._hashed(layer) if compression else diff_id)
            parts[digest] = layer
            layers.append({"mediaType": _TYPES[compression], "digest": str(digest), "size": layer.size})
        mapping = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(config), "size": stretch.size},
            "layers": layers,
        }
        return RawManifest(OCI_MANIFEST, wire.encode(mapping)), parts

    def _found(self, name: str) -> Stretch:
        try:
            stretch = self._files.get(inside(name.encode()))
        except UnicodeEncodeError:
            raise UnsafeArchive("manifest.json with a name that is no text") from None
        if stretch is None:
            raise LayoutError(f"manifest.json names a file that is not in the archive: {name!r:.200}")
        return stretch

    def _config(self, name: str, stretch: Stretch) -> tuple[Digest, tuple[Digest, ...]]:
        match = _CONFIG(name)
        claimed = Digest(f"sha256:{match[1]}") if match else digest_in(inside(name.encode()))
        algorithm = "sha256" if claimed is None else claimed.algorithm
        if stretch.offset not in self._configs:
            content = stretch.content(MANIFEST_LIMIT, "an image's configuration")
            digests = {each: Digest.of(content, each) for each in ("sha256", "sha512")}
            self._configs[stretch.offset] = digests, ImageConfig.read(content).rootfs.diff_ids
        digests, diff_ids = self._configs[stretch.offset]
        digest = digests[algorithm]
        if claimed not in (None, digest):
            raise DigestMismatch(f"{name} hashes to {digest}", expected=str(claimed), actual=str(digest))
        return digest, diff_ids

    def _hashed(self, layer: Stretch) -> Digest:
        if layer.offset not in self._hashes:
            hasher = Digest.of(b"").hasher()
            with layer.open() as reader:
                while data := reader.read(PIECE):
                    checkpoint()
                    hasher.update(data)
            self._hashes[layer.offset] = Digest(f"sha256:{hasher.hexdigest()}")
        return self._hashes[layer.offset]
