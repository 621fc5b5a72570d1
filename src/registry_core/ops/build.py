"""Images and indexes from parts: the same parts give the same digest, wherever zlib compresses alike."""

from __future__ import annotations

import copy as _copying
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self

import msgspec

from registry_core.content.codecs import decoded
from registry_core.content.source import PIECE, ByteSource, BytesSource
from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from registry_core.domain.names import RepositoryName
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument, InvalidValue
from registry_core.ops.graph import is_child_manifest, walk
from registry_core.ops.image import Image, Index
from registry_core.ops.layer_writer import NewLayer, directory_entries, file_entries, write_layer
from registry_core.ops.read import identify, source_of
from registry_core.ops.staged import StagedBlobs, StagedManifests, stage
from registry_core.ports.repository import Repository

__all__ = ["ImageBuilder", "IndexBuilder"]

_STAGED: Final = RepositoryName("staged")
_EPOCH: Final = "1970-01-01T00:00:00Z"
# The same layers under the names that an OCI manifest has for them.
_OCI_NAMES: Final = {
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    DOCKER_FOREIGN_LAYER: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}


class ImageBuilder:
    """An image in the making. Each method changes the builder and returns it.

    Layers are read and written when they are added. Times are those given by ``created``, else the beginning of
    1970, so that nothing depends on when the image is built.

    The same parts give the same tars, and so the same ``diff_id`` of each layer, on any machine. They give the same
    digest as well wherever Python was built with the same zlib: another one, such as zlib-ng, may compress the same
    tar to other bytes. Where digests must agree across such machines, make the layers once and use ``add_layer``.

    Args:
        platform: What the image will run on; by default what its base runs on, or ``linux/amd64`` without one.
        base: An image to stand on: its layers, its configuration, unknown fields included, and its history.

    Raises:
        InvalidName: The text is not a platform.
        InvalidValue: The base does not run on the platform.
        RegistryError: The base's configuration cannot be read.
    """

    def __init__(self, platform: Platform | str | None = None, base: Image | None = None) -> None:
        wanted = Platform.parse(platform) if isinstance(platform, str) else platform
        self._base = base
        self._layers: list[tuple[NewLayer, str]] = []
        self._annotations: dict[str, str] = {}
        self._created = _EPOCH
        self._inherited_cmd = base is not None
        self._mapping: dict[str, Any] = {"architecture": "", "os": ""} if base is None else _base_mapping(base)
        offered = None if base is None else base.config().platform
        if wanted is not None and offered is not None and not wanted.runs(offered):
            raise InvalidValue(f"a base for {offered} does not run on {wanted}")
        if wanted is not None or offered is None:
            self._set_platform(wanted or Platform(os="linux", architecture="amd64"))
        if not isinstance(self._mapping.get("config"), dict):
            self._mapping["config"] = {}

    def add_files(self, files: Mapping[str, bytes | str | os.PathLike[str]]) -> Self:
        """Add a layer of single files.

        Args:
            files: By their paths in the image; bytes, text, or the path of a file on disk. Files on disk stay
                executable; content given as such is executable where it begins with ``#!`` or as ELF.

        Raises:
            InvalidName: A path leaves the image.
            InvalidValue: What stands on disk is not a file.
            OSError: A file cannot be read.
        """
        return self._add(write_layer(file_entries(files)), "add files")

    def add_directory(self, directory: str | os.PathLike[str], target: str = "") -> Self:
        """Add a layer of everything below a directory on disk; symbolic links are kept as they are.

        Args:
            directory: On disk.
            target: Where its content goes in the image; the root if empty.

        Raises:
            InvalidName: The target leaves the image.
            InvalidValue: Something is neither a file, a directory nor a symbolic link.
            OSError: Something cannot be read.
        """
        return self._add(write_layer(directory_entries(directory, target)), "add directory")

    def add_layer(self, content: bytes | os.PathLike[str] | ByteSource, *, media_type: str = OCI_LAYER) -> Self:
        """Add a layer that is made already, as it is; it is read through once for its digests.

        Args:
            content: A tar, compressed as the media type says.
            media_type: Of the layer.

        Raises:
            Unsupported: Nobody knows layers of that type.
            IntegrityError: The compressed stream is corrupt.
            OSError: The file cannot be read.
        """
        source = source_of(content)
        descriptor = identify(source, media_type)
        hasher = Digest.of(b"").hasher()
        with source.open() as stored, decoded(stored, media_type) as tar:
            while data := tar.read(PIECE):
                hasher.update(data)
        return self._add(NewLayer(descriptor, Digest(f"sha256:{hasher.hexdigest()}"), source), "add layer")

    def label(self, key: str, value: str) -> Self:
        """Set a label of the configuration."""
        self._config["Labels"] = {**(self._config.get("Labels") or {}), key: value}
        return self

    def env(self, name: str, value: str) -> Self:
        """Set a variable of the environment.

        Raises:
            InvalidValue: The name is empty or has a ``=``.
        """
        if not name or "=" in name:
            raise InvalidValue(f"not a variable's name: {name!r:.200}")
        variables = list(self._config.get("Env") or [])
        kept = [item for item in variables if item.partition("=")[0] != name]
        self._config["Env"] = [*kept, f"{name}={value}"]
        return self

    def entrypoint(self, *arguments: str) -> Self:
        """Set the program to run. A base's command goes, for it was meant for the base's program."""
        if self._inherited_cmd:
            self._config.pop("Cmd", None)
            self._inherited_cmd = False
        return self._set("Entrypoint", list(arguments))

    def cmd(self, *arguments: str) -> Self:
        """Set the default arguments, or the program where there is no entrypoint."""
        self._inherited_cmd = False
        return self._set("Cmd", list(arguments))

    def working_dir(self, path: str) -> Self:
        """Set the directory to start in."""
        return self._set("WorkingDir", path)

    def user(self, user: str) -> Self:
        """Set whom to run as: a user, by name or number, and perhaps a group behind a colon."""
        return self._set("User", user)

    def created(self, moment: str | datetime) -> Self:
        """Set when the image and its new layers were made.

        Args:
            moment: RFC 3339 text, which is kept as it is, or a ``datetime`` with a time zone.

        Raises:
            InvalidValue: It is neither.
        """
        self._created = _moment(moment)
        return self

    def annotate(self, key: str, value: str) -> Self:
        """Set an annotation of the manifest."""
        self._annotations[key] = value
        return self

    def build(self) -> Image:
        """The image, in a repository of its own; ``RegistryClient.push_image`` stores it anywhere.

        What comes from the base is read from where the base is when it is needed.
        """
        blobs, manifests = StagedBlobs(), StagedManifests()
        for layer, _ in self._layers:
            blobs.add(layer.descriptor.digest, layer.descriptor.size, layer.content)
        inherited: list[dict[str, Any]] = []
        if self._base is not None:
            for part in self._base.manifest().layers:
                stage(blobs, self._base.repository, part)
            inherited = [_oci_layer(entry) for entry in self._base.document.mapping.get("layers") or []]
        content = wire.encode(self._config_document())
        config = Descriptor(media_type=OCI_CONFIG, digest=Digest.of(content), size=len(content))
        blobs.add(config.digest, config.size, BytesSource(content))
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _entry(config),
            "layers": [*inherited, *(_entry(layer.descriptor) for layer, _ in self._layers)],
        }
        raw = _document(document, self._annotations)
        manifests.put(raw)
        return Image(Repository(_STAGED, blobs, manifests), raw)

    @property
    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = self._mapping["config"]
        return config

    def _add(self, layer: NewLayer, how: str) -> Self:
        self._layers.append((layer, how))
        return self

    def _set(self, key: str, value: str | list[str]) -> Self:
        if value:
            self._config[key] = value
        else:
            self._config.pop(key, None)
        return self

    def _set_platform(self, platform: Platform) -> None:
        for key in ("architecture", "os", "variant", "os.version", "os.features"):
            self._mapping.pop(key, None)
        self._mapping |= _platform_entry(platform)

    def _config_document(self) -> dict[str, Any]:
        document = _copying.deepcopy(self._mapping)
        labels = document["config"].get("Labels")
        if labels:
            document["config"]["Labels"] = dict(sorted(labels.items()))
        base_layers = 0 if self._base is None else len(self._base.manifest().layers)
        rootfs = dict(document.get("rootfs") or {}) | {"type": "layers"}
        rootfs["diff_ids"] = [*(rootfs.get("diff_ids") or []), *(str(layer.diff_id) for layer, _ in self._layers)]
        history = list(document.get("history") or [])
        told = sum(1 for step in history if not step.get("empty_layer"))
        if told == base_layers:
            # A history that does not tell of every layer tells nothing by one entry more.
            history += [{"created": self._created, "created_by": how} for _, how in self._layers]
        return document | {"created": self._created, "rootfs": rootfs, "history": history}


class IndexBuilder:
    """An image index in the making. Each method changes the builder and returns it."""

    def __init__(self) -> None:
        self._blobs = StagedBlobs()
        self._manifests = StagedManifests()
        self._entries: list[dict[str, Any]] = []
        self._annotations: dict[str, str] = {}

    def add(self, image: Image | Index, platform: Platform | str | None = None) -> Self:
        """Add an image, or an index within the index, from any backend or builder.

        Args:
            image: What to add; its blobs stay where they are.
            platform: What to list it under; by default what the image says itself.

        Raises:
            InvalidName: The text is not a platform.
            RegistryError: The image's configuration cannot be read, or a manifest of the index.
        """
        listed = Platform.parse(platform) if isinstance(platform, str) else platform
        if listed is None and isinstance(image, Image) and image.has_config:
            listed = image.platform
        entry = _entry(image.document.descriptor)
        if listed is not None:
            entry["platform"] = _platform_entry(listed)
        if isinstance(image, Image) and not image.has_config:
            kind = image.manifest().artifact_type or image.manifest().config.media_type
            entry["artifactType"] = kind
        self._take(image)
        if entry not in self._entries:
            self._entries.append(entry)
        return self

    def annotate(self, key: str, value: str) -> Self:
        """Set an annotation of the index."""
        self._annotations[key] = value
        return self

    def build(self) -> Index:
        """The index, in a repository of its own; ``RegistryClient.push_index`` stores it and all it lists anywhere."""
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(self._entries)}
        raw = _document(document, self._annotations)
        self._manifests.put(raw)
        return Index(Repository(_STAGED, self._blobs, self._manifests), raw)

    def _take(self, image: Image | Index) -> None:
        for manifest in walk(image.repository, image.document):
            for part in manifest.children:
                if not is_child_manifest(manifest, part):
                    stage(self._blobs, image.repository, part)
            self._manifests.put(manifest)


def _document(mapping: dict[str, Any], annotations: dict[str, str]) -> RawManifest:
    if annotations:
        mapping["annotations"] = dict(sorted(annotations.items()))
    return RawManifest(mapping["mediaType"], wire.encode(mapping))


def _base_mapping(base: Image) -> dict[str, Any]:
    config = base.config()
    if len(config.rootfs.diff_ids) != len(base.manifest().layers):
        raise InvalidDocument("the base does not have a diff_id for each layer", reference=base.reference)
    return wire.decode(config.raw)


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def _oci_layer(entry: dict[str, Any]) -> dict[str, Any]:
    media_type = entry.get("mediaType", "")
    return entry | {"mediaType": _OCI_NAMES.get(media_type, media_type)}


def _platform_entry(platform: Platform) -> dict[str, Any]:
    entry: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        entry["variant"] = platform.variant
    if platform.os_version:
        entry["os.version"] = platform.os_version
    if platform.os_features:
        entry["os.features"] = list(platform.os_features)
    return entry


def _moment(moment: str | datetime) -> str:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidValue("a moment without a time zone means another one on each machine")
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    try:
        parsed = msgspec.convert(moment, datetime)
    except msgspec.ValidationError:
        raise InvalidValue(f"not a date of RFC 3339: {moment!r:.100}") from None
    if parsed.tzinfo is None:
        raise InvalidValue(f"a date without a time zone: {moment!r:.100}")
    return moment
