"""An archive that is read: ``index.json`` and ``manifest.json``, whichever it has, and where their parts are.

What the entries of an archive's ``index.json`` lead to: manifests, and what refers to them.

``manifest.json`` of ``docker save``: images without manifests, for which there is exactly one to be made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec

from registry_adapters.archive.contents import ArchivedImage, StoredManifest
from registry_adapters.archive.file_io import FileSlice, RandomAccessFile, compression_at
from registry_adapters.archive.names import ROOT, name_of, parse_name, spellings
from registry_adapters.archive.tar_index import index_members, inside
from registry_core.cancellation import CancellableLock, checkpoint
from registry_core.content.streams import CHUNK_SIZE, MANIFEST_LIMIT
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import ImageIndex, RawManifest
from registry_core.domain.media_types import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    is_manifest,
)
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import (
    DigestMismatch,
    IntegrityError,
    InvalidDigest,
    InvalidDocument,
    LayoutError,
    NotFound,
    TooLarge,
    UnsafeArchive,
    Unsupported,
)
from registry_core.ops.manifests import NODE_LIMIT, GraphLimits, ManifestQueue

__all__ = [
    "BROKEN",
    "ArchiveReader",
    "DockerManifestEntry",
    "ManifestSynthesizer",
    "blob_name",
    "digest_in",
    "parse_saved",
    "reachable_manifests",
]


# What one broken image must not keep others from.
BROKEN: Final = (IntegrityError, InvalidDocument, NotFound, Unsupported)


def reachable_manifests(
    entries: Iterable[Descriptor], held: Callable[[Descriptor], StoredManifest | None]
) -> tuple[dict[Digest, Descriptor], dict[Digest, list[Descriptor]]]:
    """All manifests by digest, however deep, and the referrers by their subjects.

    Args:
        entries: Where to begin.
        held: Gives the manifest that an entry describes; ``None`` if it is not in the archive.

    Raises:
        TooLarge: There are more manifests, or they are nested deeper, than the limits allow.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    known: dict[Digest, Descriptor] = {}
    referrers: dict[Digest, list[Descriptor]] = {}
    queue = ManifestQueue(entries, limits=GraphLimits(what="manifests in one archive"))
    for entry in queue:
        known[entry.digest] = entry
        try:
            found = held(entry)
            if found is None:
                continue
            manifest = found.read()
            stands = referrer_descriptor(manifest)
            children = manifest.children if manifest.is_index else ()
        except BROKEN:
            # Whoever asks for this one is told.
            continue
        if stands is not None and manifest.subject is not None:
            referrers.setdefault(manifest.subject.digest, []).append(stands)
        for child in children:
            if is_manifest(child.media_type):
                queue.add(child)
    return known, referrers


_IMAGE_LIMIT: Final = 10_000

_LAYER_LIMIT: Final = 100_000

_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

_BLOB: Final = re.compile(r"blobs/([a-z0-9+._-]+)/([a-zA-Z0-9=_-]+)").fullmatch

_CONFIG: Final = re.compile(r"([a-f0-9]{64})\.json").fullmatch


class DockerManifestEntry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An image as ``manifest.json`` has it: names of files in the archive.

    Args:
        config: Of the configuration.
        repo_tags: What the image is called.
        layers: Of the layers, lowest first.
    """

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def parse_saved(content: bytes) -> tuple[DockerManifestEntry, ...]:
    """The images of a ``manifest.json``.

    Raises:
        InvalidDocument: It is something else.
        TooLarge: It has more images, or more layers, than any honest one.
    """
    value = strict_json.decode_any(content)
    if not isinstance(value, list):
        raise InvalidDocument("not a list", path="$")
    if len(value) > _IMAGE_LIMIT:
        raise TooLarge(f"manifest.json has more than {_IMAGE_LIMIT} images")
    images = tuple(strict_json.convert(item, DockerManifestEntry) for item in value)
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


class ManifestSynthesizer:
    """Manifests for images that were saved without one.

    The same files always give the same manifest. A plain layer goes by the digest that the configuration has for it,
    a compressed one is hashed; either is verified like any other content when it is read.

    No file is read twice, however many names the archive has for it: links cost nothing to make.

    Args:
        files: The archive's, by name.
    """

    def __init__(self, files: Mapping[str, FileSlice]) -> None:
        self._files = files
        self._configs: dict[int, tuple[dict[str, Digest], tuple[Digest, ...]]] = {}
        self._hashes: dict[int, Digest] = {}

    def config_size(self, image: DockerManifestEntry) -> int:
        """How large an image's configuration is, which may be missing.

        Raises:
            UnsafeArchive: Its name leaves the archive.
        """
        try:
            return self._found(image.config).size
        except LayoutError:
            return 0

    def make(self, image: DockerManifestEntry) -> tuple[RawManifest, dict[Digest, FileSlice]]:
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
        return RawManifest(OCI_MANIFEST, strict_json.encode(mapping)), parts

    def _found(self, name: str) -> FileSlice:
        try:
            stretch = self._files.get(inside(name.encode()))
        except UnicodeEncodeError:
            raise UnsafeArchive("manifest.json with a name that is no text") from None
        if stretch is None:
            raise LayoutError(f"manifest.json names a file that is not in the archive: {name!r:.200}")
        return stretch

    def _config(self, name: str, stretch: FileSlice) -> tuple[Digest, tuple[Digest, ...]]:
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

    def _hashed(self, layer: FileSlice) -> Digest:
        if layer.offset not in self._hashes:
            hasher = Digest.of(b"").hasher()
            with layer.open() as reader:
                while data := reader.read(CHUNK_SIZE):
                    checkpoint()
                    hasher.update(data)
            self._hashes[layer.offset] = Digest(f"sha256:{hasher.hexdigest()}")
        return self._hashes[layer.offset]


_INDEX, _MARKER, _SAVED = "index.json", "oci-layout", "manifest.json"

_CONFIGS_LIMIT: Final = 256 << 20


class ArchiveReader:
    """The contents of an archive that is not changed any more.

    Tags are each repository's own; what is there by digest is there for all of them.

    Args:
        medium: The archive.

    Raises:
        LayoutError: It is no archive of images, or a broken one.
        UnsafeArchive: It reaches outside.
        TooLarge: It is larger than any honest one.
    """

    def __init__(self, medium: RandomAccessFile) -> None:
        self._files = index_members(medium)
        self._blobs = _blobs(self._files)
        self._tags: dict[RepositoryName, dict[Tag, list[Descriptor | DockerManifestEntry]]] = {}
        self._untagged: dict[RepositoryName, list[Descriptor | DockerManifestEntry]] = {}
        self._entries: tuple[Descriptor, ...] = ()
        self._saved: tuple[DockerManifestEntry, ...] = ()
        self._lock = CancellableLock()
        self._maker = ManifestSynthesizer(self._files)
        self._made: dict[tuple[str, tuple[str, ...]], RawManifest] = {}
        self._all_made = False
        self._made_by_digest: dict[Digest, RawManifest] = {}
        self._known: dict[Digest, Descriptor] | None = None
        self._referrers: dict[Digest, list[Descriptor]] = {}
        if not self._files.keys() & {_INDEX, _SAVED}:
            raise LayoutError("an archive with neither index.json nor manifest.json")
        if _INDEX in self._files:
            self._read_index()
        if _SAVED in self._files:
            self._read_saved()

    @property
    def description(self) -> str:
        """A file that was found."""
        return "this archive"

    def names(self) -> list[RepositoryName]:
        """The repositories that are named, and the empty name where something is without one."""
        return sorted(self._tags)

    def images(self) -> Iterator[ArchivedImage]:
        """What ``index.json`` and ``manifest.json`` list.

        Raises:
            LayoutError: A name is several images', or an image is broken.
        """
        for name, tags in sorted(self._tags.items()):
            called: dict[object, tuple[Descriptor | DockerManifestEntry, list[Tag]]] = {}
            for target in self._untagged.get(name, ()):
                called.setdefault(_identity(target), (target, []))
            for tag in sorted(tags):
                target = self._only(tag, tags[tag])
                called.setdefault(_identity(target), (target, []))[1].append(tag)
            for target, names in called.values():
                found = self._make(target).descriptor if isinstance(target, DockerManifestEntry) else target
                bare = Descriptor(media_type=found.media_type, digest=found.digest, size=found.size)
                yield ArchivedImage(name, tuple(names), bare)

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """A repository's name as the archive spells it; the one without a name is always there."""
        if not name:
            return name
        return next((spelling for spelling in spellings(name) if spelling in self._tags), None)

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Where a blob is, by its name in the archive, or as a part of an image that was saved without a manifest."""
        if digest not in self._blobs:
            self._make_all()
        return self._blobs.get(digest)

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """A manifest by tag or digest; the ones that are made, too.

        Raises:
            LayoutError: The tag is several manifests', or its image is broken.
        """
        if not isinstance(reference, Digest):
            targets = self._tags.get(name, {}).get(reference, [])
            return self._held(self._only(reference, targets)) if targets else None
        known = self._reachable().get(reference)
        if known is not None:
            return self._held(known)
        self._make_all()
        made = self._made_by_digest.get(reference)
        return None if made is None else StoredManifest(made.descriptor, made.content)

    def tags(self, name: RepositoryName) -> list[Tag]:
        """The tags of a repository."""
        return sorted(self._tags.get(name, {}))

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """What refers to a manifest, of all that ``index.json`` leads to."""
        self._reachable()
        return sorted(self._referrers.get(subject, ()), key=lambda entry: entry.digest)

    def _read_index(self) -> None:
        mapping = self._document(_INDEX)
        if _SAVED not in self._files:
            marker = self._files.get(_MARKER)
            if marker is None or self._document(_MARKER).get("imageLayoutVersion") != "1.0.0":
                raise LayoutError("not an image layout of version 1.0.0")
        if (
            "manifests" not in mapping
            or mapping.get("mediaType") not in (None, "", OCI_INDEX)
            or not mapping.keys().isdisjoint({"layers", "config", "fsLayers"})
        ):
            raise LayoutError("index.json is no image index")
        with _sound(_INDEX):
            self._entries = strict_json.convert(mapping, ImageIndex).manifests
        if len(self._entries) > NODE_LIMIT:
            raise TooLarge(f"index.json has more than {NODE_LIMIT} manifests")
        for entry in self._entries:
            self._name(name_of(entry.annotations), entry)

    def _read_saved(self) -> None:
        with _sound(_SAVED):
            self._saved = parse_saved(self._files[_SAVED].content(MANIFEST_LIMIT, _SAVED))
        # One file may be the configuration of many, and a broken one is read again for each.
        if sum(map(self._maker.config_size, self._saved)) > _CONFIGS_LIMIT:
            raise TooLarge(f"configurations of more than {_CONFIGS_LIMIT} bytes in all")
        # What index.json names, it has the manifest of; who saved it wrote the other for older readers.
        kept = {
            (name, tag)
            for name, tags in self._tags.items()
            for tag, targets in tags.items()
            if any(isinstance(each, Descriptor) and each.digest in self._blobs for each in targets)
        }
        for image in self._saved:
            names = [parse_name(text) for text in image.repo_tags]
            for name in names or [None] * (not self._entries):
                if name not in kept:
                    self._name(name, image)

    def _name(self, name: tuple[RepositoryName, Tag | None] | None, target: Descriptor | DockerManifestEntry) -> None:
        repository, tag = (ROOT, None) if name is None else name
        tags = self._tags.setdefault(repository, {})
        if tag is None:
            self._untagged.setdefault(repository, []).append(target)
            return
        targets = tags.setdefault(tag, [])
        if isinstance(target, DockerManifestEntry):
            # A name that index.json has for what is missing is better led to what is there.
            targets[:] = [each for each in targets if isinstance(each, DockerManifestEntry)]
        if all(_identity(each) != _identity(target) for each in targets):
            targets.append(target)

    @staticmethod
    def _only(tag: Tag, targets: list[Descriptor | DockerManifestEntry]) -> Descriptor | DockerManifestEntry:
        if len(targets) > 1:
            raise LayoutError(f"the archive has {len(targets)} images of the name {tag}")
        return targets[0]

    def _document(self, name: str) -> dict[str, object]:
        with _sound(name):
            return strict_json.decode(self._files[name].content(MANIFEST_LIMIT, name))

    def _held(self, target: Descriptor | DockerManifestEntry) -> StoredManifest | None:
        if isinstance(target, DockerManifestEntry):
            made = self._make(target)
            return StoredManifest(made.descriptor, made.content)
        stretch = self._blobs.get(target.digest)
        return None if stretch is None else StoredManifest(target, stretch)

    def _make(self, image: DockerManifestEntry) -> RawManifest:
        key = (image.config, image.layers)
        with self._lock:
            made = self._made.get(key)
            if made is None:
                made, parts = self._maker.make(image)
                for digest, stretch in parts.items():
                    self._blobs.setdefault(digest, stretch)
                self._made[key] = self._made_by_digest[made.digest] = made
        # A fresh value for each caller: the decoded views that it caches can be changed, and are not shared.
        return RawManifest(made.media_type, made.content)

    def _make_all(self) -> None:
        for image in () if self._all_made else self._saved:
            if (image.config, image.layers) not in self._made:
                checkpoint()
                try:
                    self._make(image)
                except BROKEN:
                    continue
        self._all_made = True

    def _reachable(self) -> Mapping[Digest, Descriptor]:
        with self._lock:
            if self._known is None:
                self._known, self._referrers = reachable_manifests(self._entries, self._held)
            return self._known


@contextmanager
def _sound(document: str) -> Iterator[None]:
    try:
        yield
    except InvalidDocument as error:
        raise LayoutError(f"{document}: {error.message}{f' at {error.path}' if error.path else ''}") from error


def _blobs(files: Mapping[str, FileSlice]) -> dict[Digest, FileSlice]:
    blobs: dict[Digest, FileSlice] = {}
    seen: set[tuple[int, str]] = set()
    for name, stretch in files.items():
        digest = digest_in(name)
        if digest is not None:
            # Links cost nothing to make, and each would have to be hashed.
            if (stretch.offset, digest.algorithm) in seen:
                raise LayoutError(f"an archive with several digests for one file, such as {digest}")
            seen.add((stretch.offset, digest.algorithm))
            blobs[digest] = stretch
    return blobs


def _identity(target: Descriptor | DockerManifestEntry) -> object:
    return target.digest if isinstance(target, Descriptor) else (target.config, target.layers)
