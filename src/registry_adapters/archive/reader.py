"""Existing archives: ``index.json`` of image layouts, ``manifest.json`` of ``docker save``, or both.

``docker save`` before version 25 writes images without OCI manifests. Such an image gets the one manifest that follows
from its configuration and its layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from registry_adapters.archive.contents import StoredManifest
from registry_adapters.archive.file_io import FileSlice, RandomAccessFile
from registry_adapters.archive.tar_index import clean_member_name, index_members
from registry_core.cancellation import CancellableLock, checkpoint
from registry_core.content.streams import CHUNK_SIZE, MANIFEST_LIMIT
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import RawConfig
from registry_core.domain.image_names import ROOT, EntryName, ImageName, aliases, entry_name, parse_name
from registry_core.domain.manifest import RawManifest, layout_entries
from registry_core.domain.media_types import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    REF_NAME,
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
from registry_core.ports.image_names import NamedImage

__all__ = [
    "ArchiveReader",
    "DockerManifestEntry",
    "ManifestSynthesizer",
    "blob_name",
    "parse_blob_name",
    "parse_manifest_json",
    "reachable_manifests",
]

_INDEX_JSON, _LAYOUT_MARKER, _MANIFEST_JSON = "index.json", "oci-layout", "manifest.json"

_IMAGE_LIMIT: Final = 10_000
_LAYER_LIMIT: Final = 100_000
_CONFIGS_LIMIT: Final = 256 << 20

_LAYER_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

_BLOB_NAME: Final = re.compile(r"blobs/([a-z0-9+._-]+)/([a-zA-Z0-9=_-]+)").fullmatch
_CONFIG_NAME: Final = re.compile(r"([a-f0-9]{64})\.json").fullmatch

# Errors of one image that must not prevent others from being read.
_IMAGE_ERRORS: Final = (IntegrityError, InvalidDocument, NotFound, Unsupported)


class DockerManifestEntry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An image in ``manifest.json``.

    Args:
        config: Name of the configuration in the archive.
        repo_tags: Names of the image.
        layers: Names of the layers in the archive, lowest first.
    """

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


# An entry of index.json or of manifest.json: an image, an index or an artifact that a name refers to.
_Entry = Descriptor | DockerManifestEntry
_NamedEntry = tuple[EntryName, _Entry]


def parse_manifest_json(content: bytes) -> tuple[DockerManifestEntry, ...]:
    """Parse the ``manifest.json`` of an archive.

    Raises:
        InvalidDocument: It is malformed.
        TooLarge: It lists too many images or layers.
    """
    value = strict_json.decode_any(content)
    if not isinstance(value, list):
        raise InvalidDocument("not a JSON array", path="$")
    if len(value) > _IMAGE_LIMIT:
        raise TooLarge(f"manifest.json lists more than {_IMAGE_LIMIT} images")
    entries = tuple(strict_json.convert(item, DockerManifestEntry) for item in value)
    if sum(len(entry.layers) for entry in entries) > _LAYER_LIMIT:
        raise TooLarge(f"manifest.json lists more than {_LAYER_LIMIT} layers")
    return entries


def blob_name(digest: Digest) -> str:
    """Return the name of a blob in an image layout."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def parse_blob_name(name: str) -> Digest | None:
    """Return the digest in the name of a blob; ``None`` for other names and for digests that cannot be verified."""
    match = _BLOB_NAME(name)
    if match is None:
        return None
    try:
        digest = Digest(f"{match[1]}:{match[2]}")
    except InvalidDigest:
        return None
    return digest if digest.verifiable else None


def reachable_manifests(
    entries: Iterable[Descriptor], find: Callable[[Descriptor], StoredManifest | None]
) -> tuple[dict[Digest, Descriptor], dict[Digest, list[Descriptor]]]:
    """Return the manifests that entries lead to, and the descriptors of referrers by the digest of their subject.

    Malformed manifests have no children and no subject here. They raise when they are requested.

    Args:
        entries: Descriptors to start from.
        find: Function that returns the manifest of a descriptor; ``None`` if it is not in the archive.

    Raises:
        TooLarge: There are too many manifests, or they are nested too deeply.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    descriptors: dict[Digest, Descriptor] = {}
    referrers: dict[Digest, list[Descriptor]] = {}
    queue = ManifestQueue(entries, limits=GraphLimits(what="manifests in one archive"))
    for entry in queue:
        descriptors[entry.digest] = entry
        try:
            stored = find(entry)
            if stored is None:
                continue
            manifest = stored.read()
            referrer = referrer_descriptor(manifest)
            children = manifest.children if manifest.is_index else ()
        except _IMAGE_ERRORS:
            continue
        if referrer is not None and manifest.subject is not None:
            referrers.setdefault(manifest.subject.digest, []).append(referrer)
        for child in children:
            if is_manifest(child.media_type):
                queue.add(child)
    return descriptors, referrers


class ManifestSynthesizer:
    """Creates manifests for images that were saved without one.

    The same files always give the same manifest. The digest of an uncompressed layer is its ``diff_id`` in the
    configuration; a compressed layer is hashed. Both are verified when they are read, like any other content.

    Each file is read once, also if many links lead to it: links are free for the author of a hostile archive.

    Args:
        files: Files of the archive by name.
    """

    def __init__(self, files: Mapping[str, FileSlice]) -> None:
        self._files = files
        self._configs: dict[int, tuple[dict[str, Digest], tuple[Digest, ...]]] = {}
        self._layer_digests: dict[int, Digest] = {}

    def config_size(self, image: DockerManifestEntry) -> int:
        """Return the size of an image's configuration; 0 if it is missing.

        Raises:
            UnsafeArchive: The name of the configuration leaves the archive.
        """
        try:
            return self._file(image.config).size
        except LayoutError:
            return 0

    def synthesize(self, image: DockerManifestEntry) -> tuple[RawManifest, dict[Digest, FileSlice]]:
        """Return the manifest of an image, and the files of its blobs.

        Raises:
            LayoutError: A file is missing, or the configuration states another number of layers.
            UnsafeArchive: The name of a file leaves the archive.
            InvalidDocument: The configuration is malformed.
            DigestMismatch: The digest of the configuration is not the one in its name.
            TooLarge: The configuration is larger than 8 MiB.
        """
        config_file = self._file(image.config)
        config, diff_ids = self._config(image.config, config_file)
        if len(diff_ids) != len(image.layers):
            raise LayoutError(
                f"manifest.json lists {len(image.layers)} layers for an image, but its configuration has"
                f" {len(diff_ids)} diff_ids: {image.config!r:.200}"
            )
        blobs = {config: config_file}
        layers = []
        for name, diff_id in zip(image.layers, diff_ids, strict=True):
            checkpoint()
            layer = self._file(name)
            compression = layer.compression()
            digest = parse_blob_name(clean_member_name(name.encode())) or (
                self._layer_digest(layer) if compression else diff_id
            )
            blobs[digest] = layer
            layers.append({"mediaType": _LAYER_TYPES[compression], "digest": str(digest), "size": layer.size})
        mapping = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(config), "size": config_file.size},
            "layers": layers,
        }
        return RawManifest(OCI_MANIFEST, strict_json.encode(mapping)), blobs

    def _file(self, name: str) -> FileSlice:
        try:
            file = self._files.get(clean_member_name(name.encode()))
        except UnicodeEncodeError:
            raise UnsafeArchive("manifest.json names a file whose name is not valid Unicode") from None
        if file is None:
            raise LayoutError(f"manifest.json names a file that is not in the archive: {name!r:.200}")
        return file

    def _config(self, name: str, file: FileSlice) -> tuple[Digest, tuple[Digest, ...]]:
        match = _CONFIG_NAME(name)
        claimed = Digest(f"sha256:{match[1]}") if match else parse_blob_name(clean_member_name(name.encode()))
        algorithm = "sha256" if claimed is None else claimed.algorithm
        if file.offset not in self._configs:
            content = file.read(MANIFEST_LIMIT, "the configuration of an image")
            digests = {each: Digest.of(content, each) for each in ("sha256", "sha512")}
            self._configs[file.offset] = digests, RawConfig(content).diff_ids
        digests, diff_ids = self._configs[file.offset]
        digest = digests[algorithm]
        if claimed not in (None, digest):
            message = f"configuration {name}: the content has the digest {digest}, expected {claimed}"
            raise DigestMismatch(message, expected=str(claimed), actual=str(digest))
        return digest, diff_ids

    def _layer_digest(self, layer: FileSlice) -> Digest:
        if layer.offset not in self._layer_digests:
            hasher = Digest.of(b"").hasher()
            with layer.open() as reader:
                while data := reader.read(CHUNK_SIZE):
                    checkpoint()
                    hasher.update(data)
            self._layer_digests[layer.offset] = Digest(f"sha256:{hasher.hexdigest()}")
        return self._layer_digests[layer.offset]


class ArchiveReader:
    """The contents of an existing archive.

    Each repository has its own tags. A manifest or blob can be found by digest in every repository.

    Args:
        file: The archive, without compression.

    Raises:
        LayoutError: The file is not an archive of images, or is malformed.
        UnsafeArchive: A name or a link leaves the archive.
        TooLarge: The archive has too many members, images or layers.
    """

    def __init__(self, file: RandomAccessFile) -> None:
        self._files = index_members(file)
        self._blobs = _index_blobs(self._files)
        self._tags: dict[RepositoryName, dict[Tag, list[_NamedEntry]]] = {}
        self._untagged: dict[RepositoryName, list[_NamedEntry]] = {}
        self._index_entries: tuple[Descriptor, ...] = ()
        self._docker_entries: tuple[DockerManifestEntry, ...] = ()
        self._lock = CancellableLock()
        self._synthesizer = ManifestSynthesizer(self._files)
        self._synthesized: dict[tuple[str, tuple[str, ...]], RawManifest] = {}
        self._synthesized_by_digest: dict[Digest, RawManifest] = {}
        self._has_synthesized_all = False
        self._reachable: dict[Digest, Descriptor] | None = None
        self._referrers: dict[Digest, list[Descriptor]] = {}
        if not self._files.keys() & {_INDEX_JSON, _MANIFEST_JSON}:
            raise LayoutError("not an archive of images: it has neither index.json nor manifest.json")
        if _INDEX_JSON in self._files:
            self._read_index_json()
        if _MANIFEST_JSON in self._files:
            self._read_manifest_json()

    @property
    def description(self) -> str:
        """The archive in error messages."""
        return "this archive"

    def names(self) -> list[RepositoryName]:
        """Return the repositories, in ASCII order; the empty name is listed if an image has no name."""
        return sorted(self._tags)

    def images(self, repository: RepositoryName = ROOT) -> Iterator[NamedImage]:
        """Iterate over the entries of ``index.json`` and ``manifest.json``: of a repository, or all for the empty name.

        Raises:
            LayoutError: An image is malformed.
        """
        for name, entry in self._names():
            if repository and name.repository != repository:
                continue
            full = self._synthesize(entry).descriptor if isinstance(entry, DockerManifestEntry) else entry
            yield NamedImage.of(full, name)

    def named(self, name: ImageName, repository: RepositoryName = ROOT) -> StoredManifest | None:
        """Return the manifest that has a name as written, or else one whose name means the same; ``None`` without one.

        Raises:
            LayoutError: Several images have the name, or its image is malformed.
        """
        meant = entry_name({REF_NAME: name})
        images = [each for each in self._names() if not repository or each[0].repository == repository]
        found = [each for each in images if each[0].written == name] or [
            each for each in images if meant.means_same(each[0])
        ]
        return self._only_manifest("name", name, found)

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """Return the name under which the archive has a repository. The empty name always exists."""
        if not name:
            return name
        return next((alias for alias in aliases(name) if alias in self._tags), None)

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Return the position of a blob, which has its digest in its name or is part of a synthesized manifest."""
        if digest not in self._blobs:
            self._synthesize_all()
        return self._blobs.get(digest)

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """Return a manifest by tag or digest, also a synthesized one.

        Raises:
            LayoutError: Several images have the tag, or its image is malformed.
        """
        if not isinstance(reference, Digest):
            entries = self._tags.get(name, {}).get(reference, [])
            if not entries and not name:
                # A tag beside the containerd name of an image.
                entries = [each for each in self._names() if _has_ref_name(each[1], reference)]
            return self._only_manifest("tag", reference, entries)
        descriptor = self._find_reachable().get(reference)
        if descriptor is not None:
            return self._stored_manifest(descriptor)
        self._synthesize_all()
        manifest = self._synthesized_by_digest.get(reference)
        return None if manifest is None else StoredManifest(manifest.descriptor, manifest.content)

    def tags(self, name: RepositoryName) -> list[Tag]:
        """Return the tags of a repository, in ASCII order."""
        return sorted(self._tags.get(name, {}))

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """Return the referrers among the manifests that ``index.json`` leads to, ordered by digest."""
        self._find_reachable()
        return sorted(self._referrers.get(subject, ()), key=lambda referrer: referrer.digest)

    def _read_index_json(self) -> None:
        index = self._read_json(_INDEX_JSON)
        if _MANIFEST_JSON not in self._files:
            if _LAYOUT_MARKER not in self._files:
                raise LayoutError("not an image layout: oci-layout is missing")
            if self._read_json(_LAYOUT_MARKER).get("imageLayoutVersion") != "1.0.0":
                raise LayoutError("oci-layout: imageLayoutVersion is not 1.0.0")
        if (
            "manifests" not in index
            or index.get("mediaType") not in (None, "", OCI_INDEX)
            or not index.keys().isdisjoint({"layers", "config", "fsLayers"})
        ):
            raise LayoutError("index.json: not an image index")
        with _map_document_errors(_INDEX_JSON):
            self._index_entries = layout_entries(index)
        if len(self._index_entries) > NODE_LIMIT:
            raise TooLarge(f"index.json lists more than {NODE_LIMIT} manifests")
        for entry in self._index_entries:
            self._add_entry(entry_name(entry.annotations, entry.digest), entry)

    def _read_manifest_json(self) -> None:
        with _map_document_errors(_MANIFEST_JSON):
            self._docker_entries = parse_manifest_json(self._files[_MANIFEST_JSON].read(MANIFEST_LIMIT, _MANIFEST_JSON))
        # Many images may share one configuration, and a malformed one is read again for each of them.
        if sum(map(self._synthesizer.config_size, self._docker_entries)) > _CONFIGS_LIMIT:
            raise TooLarge(f"manifest.json: the configurations have more than {_CONFIGS_LIMIT} bytes in total")
        # For these names index.json has the original manifest. manifest.json repeats them for older readers.
        original = {
            (name, tag)
            for name, tags in self._tags.items()
            for tag, entries in tags.items()
            if any(isinstance(each, Descriptor) and each.digest in self._blobs for _, each in entries)
        }
        for image in self._docker_entries:
            names = [_docker_name(text) for text in image.repo_tags]
            for name in names or [EntryName("")] * (not self._index_entries):
                if (name.repository, name.tag) not in original:
                    self._add_entry(name, image)

    def _add_entry(self, name: EntryName, entry: _Entry) -> None:
        tags = self._tags.setdefault(name.repository, {})
        if name.tag is None:
            self._untagged.setdefault(name.repository, []).append((name, entry))
            return
        entries = tags.setdefault(name.tag, [])
        if isinstance(entry, DockerManifestEntry):
            # The manifest that index.json has for this name is missing from the archive.
            entries[:] = [each for each in entries if isinstance(each[1], DockerManifestEntry)]
        if (name, _identity(entry)) not in [(other, _identity(each)) for other, each in entries]:
            entries.append((name, entry))

    def _names(self) -> Iterator[_NamedEntry]:
        for name, tags in sorted(self._tags.items()):
            yield from self._untagged.get(name, ())
            for tag in sorted(tags):
                yield from tags[tag]

    def _only_manifest(self, kind: str, name: str, entries: Sequence[_NamedEntry]) -> StoredManifest | None:
        if len({_identity(entry) for _, entry in entries}) > 1:
            raise LayoutError(f"ambiguous {kind}: {len(entries)} images in the archive have the {kind} {name}")
        return self._stored_manifest(entries[0][1]) if entries else None

    def _read_json(self, name: str) -> dict[str, object]:
        with _map_document_errors(name):
            return strict_json.decode(self._files[name].read(MANIFEST_LIMIT, name))

    def _stored_manifest(self, entry: _Entry) -> StoredManifest | None:
        if isinstance(entry, DockerManifestEntry):
            manifest = self._synthesize(entry)
            return StoredManifest(manifest.descriptor, manifest.content)
        blob = self._blobs.get(entry.digest)
        if blob is None:
            # raises for an algorithm that cannot be verified, whose blobs are not opened.
            entry.digest.hasher()
        return None if blob is None else StoredManifest(entry, blob)

    def _synthesize(self, image: DockerManifestEntry) -> RawManifest:
        key = (image.config, image.layers)
        with self._lock:
            manifest = self._synthesized.get(key)
            if manifest is None:
                manifest, blobs = self._synthesizer.synthesize(image)
                for digest, file in blobs.items():
                    self._blobs.setdefault(digest, file)
                self._synthesized[key] = self._synthesized_by_digest[manifest.digest] = manifest
        # A new object for each caller: it caches decoded views, which the caller may change.
        return RawManifest(manifest.media_type, manifest.content)

    def _synthesize_all(self) -> None:
        for image in () if self._has_synthesized_all else self._docker_entries:
            checkpoint()
            try:
                self._synthesize(image)
            except _IMAGE_ERRORS:
                continue
        self._has_synthesized_all = True

    def _find_reachable(self) -> Mapping[Digest, Descriptor]:
        with self._lock:
            if self._reachable is None:
                self._reachable, self._referrers = reachable_manifests(self._index_entries, self._stored_manifest)
            return self._reachable


@contextmanager
def _map_document_errors(document: str) -> Iterator[None]:
    try:
        yield
    except InvalidDocument as error:
        raise LayoutError(f"{document}: {error.message}{f' at {error.path}' if error.path else ''}") from error


def _index_blobs(files: Mapping[str, FileSlice]) -> dict[Digest, FileSlice]:
    blobs: dict[Digest, FileSlice] = {}
    seen: set[tuple[int, str]] = set()
    for name, file in files.items():
        digest = parse_blob_name(name)
        if digest is not None:
            # Links are free, and each of them would cause the file to be hashed again.
            if (file.offset, digest.algorithm) in seen:
                raise LayoutError(f"several {digest.algorithm} blob names for one file, such as {digest}")
            seen.add((file.offset, digest.algorithm))
            blobs[digest] = file
    return blobs


def _identity(entry: _Entry) -> Hashable:
    return entry.digest if isinstance(entry, Descriptor) else (entry.config, entry.layers)


def _docker_name(text: str) -> EntryName:
    """Return the name of an image in ``manifest.json``."""
    parsed = parse_name(text)
    return EntryName(text) if parsed is None else EntryName(text, *parsed)


def _has_ref_name(entry: _Entry, tag: Tag) -> bool:
    return isinstance(entry, Descriptor) and entry.annotations.get(REF_NAME) == tag
