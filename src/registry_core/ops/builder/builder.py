"""Images from parts: the same parts give the same digest, wherever zlib compresses alike.

Images in the making: what building a new one and editing one that exists have in common.

Documents are changed as decoded JSON, never through the typed views, so that fields nobody knew survive. What
is not changed keeps its bytes, and so its digest.

What containers of an image start with, and what its configuration says besides.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Self

from registry_core.content.compression import Compression, decompress
from registry_core.content.streams import BorrowedReader, ByteSource, BytesSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER,
    DOCKER_MANIFEST,
    OCI,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    convert_descriptor,
    convert_media_type,
)
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue
from registry_core.ops.blobs import to_source
from registry_core.ops.builder.config import EPOCH, ConfigEditor, merged, ordered, rfc3339, unix_seconds
from registry_core.ops.builder.layers import (
    BuiltLayer,
    LayerPart,
    directory_entries,
    draft_of,
    file_entries,
    inherited_parts,
    prebuilt_layer,
    write_layer,
)
from registry_core.ops.builder.repack import passthrough_layer, repack_layer
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests, stage, staged_repository
from registry_core.ops.images import Image

__all__ = ["BaseImageBuilder", "ConfigMethods", "ImageBuilder"]


_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")

_HIGHEST_PORT: Final = 65535


class ConfigMethods(ABC):
    """The methods that change a configuration. Each returns the object itself, so that calls can be chained.

    Args:
        inherited_cmd: Whether the configuration may have a command that came with somebody else's program.
    """

    def __init__(self, *, inherited_cmd: bool) -> None:
        self._inherited_cmd = inherited_cmd

    @property
    @abstractmethod
    def _config(self) -> ConfigEditor: ...

    def label(self, key: str, value: str | None) -> Self:
        """Set a label of the configuration; ``None`` removes it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        self._config.label(key, value)
        return self

    def env(self, name: str, value: str | None) -> Self:
        """Set a variable of the environment; ``None`` removes it.

        Raises:
            InvalidValue: The name is empty or has a ``=``, or the value is no text.
        """
        self._config.env(name, value)
        return self

    def entrypoint(self, *arguments: str) -> Self:
        """Set the program to run. A base's command goes, for it was meant for the base's program.

        Raises:
            InvalidValue: An argument is no text.
        """
        self.set_config("Entrypoint", list(arguments))
        if self._inherited_cmd:
            self.set_config("Cmd", None)
        return self

    def cmd(self, *arguments: str) -> Self:
        """Set the default arguments, or the program where there is no entrypoint.

        Raises:
            InvalidValue: An argument is no text.
        """
        return self.set_config("Cmd", list(arguments))

    def working_dir(self, path: str) -> Self:
        """Set the directory to start in.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("WorkingDir", path)

    def user(self, user: str) -> Self:
        """Set whom to run as: a user, by name or number, and perhaps a group behind a colon.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("User", user)

    def expose(self, *ports: int | str) -> Self:
        """Add ports that are listened on.

        Args:
            *ports: As ``8080`` or ``"53/udp"``; of TCP where nothing is said.

        Raises:
            InvalidValue: One is no port.
        """
        self._config.add_keys("ExposedPorts", [_port(port) for port in ports])
        return self

    def volume(self, *paths: str) -> Self:
        """Add directories whose content is not the image's.

        Raises:
            InvalidValue: One is no path.
        """
        for path in paths:
            if not isinstance(path, str) or not path:
                raise InvalidValue(f"not a path: {path!r:.200}")
        self._config.add_keys("Volumes", paths)
        return self

    def stop_signal(self, signal: str) -> Self:
        """Set what containers are stopped with, such as ``SIGINT``.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("StopSignal", signal)

    def healthcheck(
        self,
        *command: str,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set how to find out whether a container is well, as Docker does (image-spec config.md reserves the field).

        Args:
            *command: A program and its arguments, which ends with 0 if all is well; none at all switches off what the
                base checks.
            interval: How many seconds lie between two checks.
            timeout: How many seconds one may take.
            start_period: For how many seconds after the start nothing is held against it.
            retries: How many have to fail in a row.

        Raises:
            InvalidValue: Seconds or retries are negative.
        """
        check: dict[str, object] = {"Test": ["CMD", *command] if command else ["NONE"]}
        for key, seconds in (("Interval", interval), ("Timeout", timeout), ("StartPeriod", start_period)):
            if seconds is not None:
                if not 0 <= seconds < 1 << 31:
                    raise InvalidValue(f"not a time in seconds: {seconds!r:.50}")
                check[key] = round(seconds * 10**9)
        if retries is not None:
            if not isinstance(retries, int) or retries < 0:
                raise InvalidValue(f"not a number of retries: {retries!r:.50}")
            check["Retries"] = retries
        return self.set_config("Healthcheck", check)

    def set_config(self, key: str, value: object) -> Self:
        """Set any field of what containers start with, by its own name.

        Args:
            key: As image-spec config.md has it below ``config``.
            value: Whatever JSON it takes; ``None``, and what is empty, removes it.

        Raises:
            InvalidValue: The value is not JSON, or not of the kind that the field has.
        """
        self._config.set(key, value)
        if key == "Cmd":
            self._inherited_cmd = False
        return self

    def set_field(self, key: str, value: object) -> Self:
        """Set any other field of the configuration, such as ``author``.

        Args:
            key: As image-spec config.md has it.
            value: Whatever JSON it takes; ``None`` removes it.

        Raises:
            InvalidValue: It is one that has to agree with the layers, or has a method of its own, or the value is not
                JSON, or not of the kind that the field has.
        """
        self._config.set_top(key, value)
        return self

    def created(self, moment: str | int | datetime) -> Self:
        """Set when the image and its new layers were made.

        Args:
            moment: RFC 3339 text, which is kept as it is, a ``datetime`` with a time zone, or whole seconds since
                1970, as ``SOURCE_DATE_EPOCH`` has them.

        Raises:
            InvalidValue: It is none of these.
        """
        self._config.moment = rfc3339(moment)
        return self


def _port(port: int | str) -> str:
    found = _PORT.fullmatch(str(port))
    if found is None or not 0 < int(found[1]) <= _HIGHEST_PORT:
        raise InvalidValue(f"not a port: {port!r:.50}")
    return f"{int(found[1])}/{found[2] or 'tcp'}"


class BaseImageBuilder(ConfigMethods):
    """An image in the making. Each method changes it and returns it; layers are read and written when they are added.

    Args:
        manifest: The decoded manifest to begin with, without its layers.
        parts: Its layers, lowest first.
        config: Its configuration; ``None`` where it has to be read, if it is needed at all.
        original: The image that is changed.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        parts: list[LayerPart],
        config: ConfigEditor | None = None,
        original: Image | None = None,
    ) -> None:
        self._manifest = dict(manifest)
        self._annotations = tuple(self._manifest.get("annotations") or {})
        self._parts = parts
        self._known_config = config
        self._original = original
        self._converted = False
        self._annotated = False
        super().__init__(inherited_cmd=bool(parts) or original is not None)

    def add_files(
        self,
        files: Mapping[str, bytes | str | os.PathLike[str]],
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
    ) -> Self:
        """Add a layer of single files.

        Args:
            files: By their paths in the image; bytes, text, or the path of a file on disk. Files on disk stay
                executable; content given as such is executable where it begins with ``#!`` or as ELF.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            mtime: When all of them were changed: never what the disk says, so that it does not matter.

        Raises:
            InvalidName: A path leaves the image.
            InvalidValue: What stands on disk is not a file, or it is not a moment.
            OSError: A file cannot be read.
        """
        chosen, seconds = Compression.of(compression), unix_seconds(mtime)
        return self._add(write_layer(file_entries(files), chosen, seconds=seconds), "add files")

    def add_directory(
        self,
        directory: str | os.PathLike[str],
        target: str = "",
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
    ) -> Self:
        """Add a layer of everything below a directory on disk; symbolic links are kept as they are.

        Args:
            directory: On disk.
            target: Where its content goes in the image; the root if empty.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            mtime: When all of it was changed: never what the disk says, so that it does not matter.

        Raises:
            InvalidName: The target leaves the image, or a file's name is not UTF-8.
            InvalidValue: Something is neither a file, a directory nor a symbolic link, or it is not a moment.
            OSError: Something cannot be read.
        """
        chosen, seconds = Compression.of(compression), unix_seconds(mtime)
        return self._add(write_layer(directory_entries(directory, target), chosen, seconds=seconds), "add directory")

    def add_tar(
        self,
        tar: bytes | os.PathLike[str] | ByteSource | Readable,
        *,
        canonical: bool = False,
        compression: Compression | str = "gzip",
    ) -> Self:
        """Add a layer of a tar stream of any length, which is read once; its digests are taken as it passes.

        Args:
            tar: Plain, or compressed with gzip or zstd, which is undone. An open stream, such as a pipe, is read to
                its end, and closed by whoever opened it.
            canonical: Whether it is packed anew, in the order of names and under headers of one form, so that the
                same files give the same layer. Otherwise it stays as it is, byte for byte.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.

        Raises:
            UnsafeArchive: A name leaves the image, or it contradicts itself.
            IntegrityError: It is no tar, or corrupt or cut off.
            InvalidValue: It is text, which could be content or a path.
            OSError: It cannot be read.
        """
        chosen = Compression.of(compression)
        pack = repack_layer if canonical else passthrough_layer
        if isinstance(tar, Readable):
            return self._add(pack(decompress(BorrowedReader(tar), OCI_LAYER), chosen), "add tar")
        with to_source(tar).open() as reader:
            return self._add(pack(decompress(reader, OCI_LAYER), chosen), "add tar")

    def add_layer(
        self, content: bytes | os.PathLike[str] | ByteSource | Readable, *, media_type: str = OCI_LAYER
    ) -> Self:
        """Add a layer that is made already, as it is; it is read through once for its digests.

        Args:
            content: A tar, compressed as the media type says; of a stream, a copy is kept in a temporary file.
            media_type: Of the layer.

        Raises:
            Unsupported: Nobody knows layers of that type.
            IntegrityError: The compressed stream is corrupt.
            InvalidValue: It is text, which could be content or a path.
            OSError: The file cannot be read.
        """
        return self._add(prebuilt_layer(content, media_type), "add layer")

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the manifest; ``None`` removes it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        before = self._manifest.get("annotations") or {}
        after = merged(before, {key: value})
        if after != before:
            self._annotated = True
            self._manifest["annotations"] = after
        return self

    def build(self) -> Image:
        """The image, in a repository of its own; ``RegistryClient.push_image`` stores it anywhere.

        What comes from elsewhere is read from where it is when it is needed. An image that was not changed is the
        same to the byte.

        Raises:
            InvalidValue: A Docker manifest would have annotations, a subject or a type of artifact, which it has no
            place for; what was there before is carried.
            Unsupported: Docker has no name for the type of a layer.
        """
        if self._family == DOCKER:
            self._check_docker()
        return self._built()

    def _built(self) -> Image:
        blobs, manifests = StagedBlobs(), StagedManifests()
        for part in self._parts:
            part.stage(blobs)
        document = self._document(blobs)
        raw = RawManifest(document.get("mediaType") or self._media_type, strict_json.encode(document))
        if self._original is not None:
            original = self._original.document
            if strict_json.encode(original.mapping) == raw.content:
                raw = original
            else:
                raw = RawManifest(raw.media_type, raw.content, original.algorithm)
        manifests.put(raw)
        return Image(staged_repository(blobs, manifests), raw)

    @property
    def _config(self) -> ConfigEditor:
        if self._known_config is None:
            self._known_config = self._read_config()
        return self._known_config

    def _read_config(self) -> ConfigEditor:
        if self._original is None:
            raise InvalidValue("an image without a configuration")
        return draft_of(self._original)

    @property
    def _media_type(self) -> str:
        return str(self._manifest["mediaType"]) if self._original is None else self._original.media_type

    @property
    def _family(self) -> str:
        return DOCKER if (self._manifest.get("mediaType") or self._media_type) == DOCKER_MANIFEST else OCI

    def _check_docker(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._manifest.get(field):
                raise InvalidValue(f"a Docker manifest has no place for {field}: make it an OCI image with to_oci()")

    def _add(self, layer: BuiltLayer, created_by: str) -> Self:
        self._config.append(layer.diff_id, created_by)
        self._parts.append(LayerPart.of(layer))
        return self

    def _document(self, blobs: StagedBlobs) -> dict[str, Any]:
        family = self._family
        document = dict(self._manifest)
        document["config"] = self._config_entry(blobs)
        if self._converted:
            document["config"] = convert_descriptor(document["config"], family)
        layers = [
            convert_descriptor(part.entry, family) if part.ours or self._converted else part.entry
            for part in self._parts
        ]
        if layers or self._original is None or self._original.document.mapping.get("layers"):
            document["layers"] = layers
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = ordered(annotations, first=self._annotations)
        elif self._annotated:
            document.pop("annotations", None)
        return document

    def _config_entry(self, blobs: StagedBlobs) -> dict[str, Any]:
        if self._original is None:
            content = strict_json.encode(self._config.document())
            before: dict[str, Any] = {"mediaType": convert_media_type(OCI_CONFIG, self._family)}
        else:
            before = self._original.document.mapping["config"]
            descriptor = self._original.manifest().config
            known = self._known_config
            content = b"" if known is None else strict_json.encode(known.document())
            if known is None or content == strict_json.encode(strict_json.decode(self._original.config().raw)):
                stage(blobs, self._original.repository, descriptor)
                return before
        digest = Digest.of(content)
        blobs.add(digest, len(content), BytesSource(content))
        return _described(before) | {"digest": str(digest), "size": len(content)}


def _described(entry: dict[str, Any]) -> dict[str, Any]:
    """A descriptor's JSON without what belongs to the bytes that it pointed at."""
    return {key: value for key, value in entry.items() if key not in ("data", "urls")}


class ImageBuilder(BaseImageBuilder):
    """A new image in the making. Each method changes the builder and returns it.

    Layers are read and written when they are added. Times are those given by ``created``, else the beginning of
    1970, so that nothing depends on when the image is built.

    The same parts give the same tars, and so the same ``diff_id`` of each layer, on any machine. They give the same
    digest as well wherever Python was built with the same zlib: another one, such as zlib-ng, may compress the same
    tar to other bytes. Where digests must agree across such machines, make the layers once and use ``add_layer``, or
    do not compress them.

    What is built is an OCI image, with annotations of its own, whatever its base is: to change an image and keep the
    rest of it as it is, take an ``ImageEditor``.

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
        config = ConfigEditor({}, 0, complete=True) if base is None else draft_of(base, complete=True)
        offered = config.platform
        if wanted is not None and offered is not None and not _stands_on(wanted, offered):
            raise InvalidValue(f"a base for {offered} does not run on {wanted}")
        if wanted is not None or offered is None:
            config.set_platform(wanted or Platform(os="linux", architecture="amd64"))
        config.moment = EPOCH
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        super().__init__(manifest, [] if base is None else inherited_parts(base, ours=True), config)
        self._inherited_cmd = base is not None


def _stands_on(platform: Platform, base: Platform) -> bool:
    """Whether an image for a platform may have a base for another: Windows runs Linux images, but not as its own."""
    return platform.normalised().os == base.normalised().os and platform.runs(base)
