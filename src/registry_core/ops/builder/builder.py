"""Build images: the configuration methods and layer methods that builder and editor share, and the builder.

Documents are edited as decoded JSON and not through the typed views, so unknown fields are kept. An unchanged document
keeps its bytes, and so its digest.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, overload

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
from registry_core.ops.builder.config import (
    EPOCH_TEXT,
    ConfigEditor,
    order_keys,
    to_platform,
    to_rfc3339,
    unix_seconds,
    update_strings,
)
from registry_core.ops.builder.layers import (
    BuiltLayer,
    LayerPart,
    config_editor,
    directory_entries,
    file_entries,
    inherited_parts,
    prebuilt_layer,
    write_layer,
)
from registry_core.ops.builder.repack import passthrough_layer, repack_layer
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests, stage_blob, staged_repository
from registry_core.ops.images import Image, check_kind

__all__ = ["BaseImageBuilder", "ConfigMethods", "ImageBuilder"]


_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")

_MAX_PORT: Final = 65535


class ConfigMethods(ABC):
    """Methods that change the image configuration. Each returns the object itself, so calls can be chained.

    Args:
        inherited_cmd: Whether the configuration may have a ``Cmd`` that belongs to the entrypoint of a base image.
    """

    def __init__(self, *, inherited_cmd: bool) -> None:
        self._inherited_cmd = inherited_cmd

    @property
    @abstractmethod
    def _config(self) -> ConfigEditor: ...

    def label(self, key: str, value: str | None) -> Self:
        """Set a label; ``None`` removes it.

        Raises:
            InvalidValue: The key or the value is not a string, or the key is empty.
        """
        self._config.label(key, value)
        return self

    def env(self, name: str, value: str | None) -> Self:
        """Set an environment variable; ``None`` removes it. A variable that is set anew keeps its place in the list.

        Raises:
            InvalidValue: The name is empty or contains ``=``, or the value is not a string.
        """
        self._config.env(name, value)
        return self

    @overload
    def entrypoint(self, *arguments: str) -> Self: ...
    @overload
    def entrypoint(self, arguments: Sequence[str], /) -> Self: ...
    def entrypoint(self, *arguments: str | Sequence[str]) -> Self:
        """Set the program to run, and remove the inherited command, which belongs to the entrypoint of the base.

        Args:
            *arguments: Program and arguments, as strings or as one list of strings; none removes the entrypoint.

        Raises:
            InvalidValue: An argument is not a string, or a list is combined with more arguments.
        """
        self.set_config("Entrypoint", _arguments("entrypoint", arguments))
        if self._inherited_cmd:
            self.set_config("Cmd", None)
        return self

    @overload
    def cmd(self, *arguments: str) -> Self: ...
    @overload
    def cmd(self, arguments: Sequence[str], /) -> Self: ...
    def cmd(self, *arguments: str | Sequence[str]) -> Self:
        """Set the default arguments of the entrypoint, or the program to run if there is no entrypoint.

        Args:
            *arguments: Arguments, as strings or as one list of strings; none removes the command.

        Raises:
            InvalidValue: An argument is not a string, or a list is combined with more arguments.
        """
        return self.set_config("Cmd", _arguments("cmd", arguments))

    def working_dir(self, path: str | os.PathLike[str]) -> Self:
        """Set the working directory.

        Raises:
            InvalidValue: The path is not a string or path.
        """
        return self.set_config("WorkingDir", os.fspath(path) if isinstance(path, os.PathLike) else path)

    def user(self, user: str) -> Self:
        """Set the user to run as, as ``user``, ``uid``, ``user:group`` or ``uid:gid``.

        Raises:
            InvalidValue: The user is not a string.
        """
        return self.set_config("User", user)

    def expose(self, *ports: int | str) -> Self:
        """Add ports to ``ExposedPorts``.

        Args:
            *ports: Ports such as ``8080`` or ``"53/udp"``; the protocol is TCP if omitted.

        Raises:
            InvalidValue: A value is not a port.
        """
        self._config.add_keys("ExposedPorts", [_port(port) for port in ports])
        return self

    def volume(self, *paths: str | os.PathLike[str]) -> Self:
        """Add directories to ``Volumes``.

        Raises:
            InvalidValue: A value is not a path.
        """
        texts = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]
        for path in texts:
            if not isinstance(path, str) or not path:
                raise InvalidValue(f"volume: not a path: {path!r:.200}")
        self._config.add_keys("Volumes", texts)
        return self

    def stop_signal(self, signal: str) -> Self:
        """Set the signal that stops the container, such as ``SIGINT``.

        Raises:
            InvalidValue: The signal is not a string.
        """
        return self.set_config("StopSignal", signal)

    @overload
    def healthcheck(
        self,
        *command: str,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self: ...
    @overload
    def healthcheck(
        self,
        command: Sequence[str],
        /,
        *,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self: ...
    def healthcheck(
        self,
        *command: str | Sequence[str],
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set the health check, in the format of Docker (image-spec config.md reserves the field).

        Args:
            *command: Program and arguments, as strings or as one list of strings; exit code 0 means healthy. Without
                arguments, the health check of the base is disabled.
            interval: Seconds between checks.
            timeout: Seconds that one check may take.
            start_period: Seconds after the start during which failures do not count.
            retries: Number of consecutive failures that make the container unhealthy.

        Raises:
            InvalidValue: An argument is not a string, or a number is negative or too large.
        """
        arguments = _arguments("healthcheck", command)
        check: dict[str, object] = {"Test": ["CMD", *arguments] if arguments else ["NONE"]}
        for key, seconds in (("Interval", interval), ("Timeout", timeout), ("StartPeriod", start_period)):
            if seconds is not None:
                if not 0 <= seconds < 1 << 31:
                    raise InvalidValue(f"healthcheck: not a number of seconds: {seconds!r:.50}")
                check[key] = round(seconds * 10**9)
        if retries is not None:
            if not isinstance(retries, int) or retries < 0:
                raise InvalidValue(f"healthcheck: not a number of retries: {retries!r:.50}")
            check["Retries"] = retries
        return self.set_config("Healthcheck", check)

    def set_config(self, key: str, value: object) -> Self:
        """Set any field of the object ``config`` in the image configuration.

        Args:
            key: Name of the field in image-spec config.md, such as ``"StopSignal"``.
            value: JSON value; ``None`` and empty values remove the field.

        Raises:
            InvalidValue: The value is not JSON, or not of the type that the field has.
        """
        self._config.set_config(key, value)
        if key == "Cmd":
            self._inherited_cmd = False
        return self

    def set_field(self, key: str, value: object) -> Self:
        """Set any other field of the image configuration, such as ``author``.

        Args:
            key: Name of the field in image-spec config.md.
            value: JSON value; ``None`` removes the field.

        Raises:
            InvalidValue: The field must agree with the layers or has its own method, the value is not JSON, or it is
                not of the type that the field has.
        """
        self._config.set_field(key, value)
        return self

    def created(self, time: str | int | datetime) -> Self:
        """Set the creation time of the image and of its new layers.

        Args:
            time: A ``datetime`` with a time zone, RFC 3339 text, or whole seconds since 1970, such as the number in
                ``SOURCE_DATE_EPOCH``. It is written with ``T``, and with ``Z`` or an offset ``±hh:mm``, as all readers
                accept it; a text in this form is kept unchanged.

        Raises:
            InvalidValue: The time has none of these forms.
        """
        self._config.created = to_rfc3339(time)
        return self


def _arguments(method: str, arguments: tuple[str | Sequence[str], ...]) -> list[str]:
    """The arguments of a command, given as strings or as one list of strings."""
    given: Sequence[object] = arguments
    if len(arguments) == 1 and _is_list(arguments[0]):
        given = arguments[0]
    strings = [argument for argument in given if isinstance(argument, str)]
    if len(strings) != len(given):
        if any(_is_list(argument) for argument in given):
            raise InvalidValue(f"{method}: pass either strings or one list of strings, not a list among others")
        wrong = next(argument for argument in given if not isinstance(argument, str))
        raise InvalidValue(f"{method}: not a string: {wrong!r:.200}")
    return strings


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _port(port: int | str) -> str:
    match = _PORT.fullmatch(str(port))
    if match is None or not 0 < int(match[1]) <= _MAX_PORT:
        raise InvalidValue(f"expose: not a port: {port!r:.50}")
    return f"{int(match[1])}/{match[2] or 'tcp'}"


class BaseImageBuilder(ConfigMethods):
    """Methods that ``ImageBuilder`` and ``ImageEditor`` share. Layers are read and written when they are added.

    Args:
        manifest: Decoded manifest to start from; its layers are in ``parts``.
        parts: Layers, lowest first.
        config: Image configuration; ``None`` to read it from ``original`` when it is first needed.
        original: Image that is edited; ``None`` for a new one.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        parts: list[LayerPart],
        config: ConfigEditor | None = None,
        original: Image | None = None,
    ) -> None:
        self._manifest = dict(manifest)
        self._first_annotations = tuple(self._manifest.get("annotations") or {})
        self._parts = parts
        self._loaded_config = config
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
            files: Content by path in the image: bytes, text (encoded as UTF-8), or the path of a file on disk. A file
                on disk keeps its executable bit; bytes and text are executable if they begin with ``#!`` or an ELF
                header.
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            mtime: Modification time of all files; the times on disk are never used.

        Raises:
            InvalidName: A path leaves the image, or names its root.
            InvalidValue: A value is neither content nor a regular file on disk, or ``mtime`` is not a time.
            OSError: A file cannot be read.
        """
        parsed, seconds = Compression.of(compression), unix_seconds(mtime)
        return self._add(write_layer(file_entries(files), parsed, seconds=seconds), "add files")

    def add_directory(
        self,
        directory: str | os.PathLike[str],
        target: str | os.PathLike[str] = "",
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
    ) -> Self:
        """Add a layer with the content of a directory on disk. Symbolic links are stored as links.

        Args:
            directory: Directory on disk.
            target: Directory in the image that receives the content; the root by default.
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            mtime: Modification time of all files; the times on disk are never used.

        Raises:
            InvalidName: The target leaves the image, or the name of a file is not UTF-8.
            InvalidValue: The directory contains a device, fifo or socket, or ``mtime`` is not a time.
            OSError: A file or directory cannot be read.
        """
        parsed, seconds = Compression.of(compression), unix_seconds(mtime)
        return self._add(write_layer(directory_entries(directory, target), parsed, seconds=seconds), "add directory")

    def add_tar(
        self,
        tar: str | os.PathLike[str] | bytes | ByteSource | Readable,
        *,
        canonical: bool = False,
        compression: Compression | str = "gzip",
    ) -> Self:
        """Add a layer from a tar of any length, which is read once.

        Args:
            tar: Tar, uncompressed or compressed with gzip or zstd: the path of a file, bytes, or an open stream such as
                a pipe. A stream is read to its end and not closed.
            canonical: Whether to repack the tar with sorted names and uniform headers, so that equal files give equal
                layers. By default its bytes are kept.
            compression: Compression of the layer: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a
                level.

        Raises:
            UnsafeArchive: A path leaves the image, or members contradict each other.
            IntegrityError: The content is not a tar, corrupt, or truncated.
            InvalidValue: The value has another type, or is a text stream.
            OSError: The file or stream cannot be read.
        """
        parsed = Compression.of(compression)
        pack = repack_layer if canonical else passthrough_layer
        if isinstance(tar, Readable):
            return self._add(pack(decompress(BorrowedReader(tar), OCI_LAYER), parsed), "add tar")
        with to_source(Path(tar) if isinstance(tar, str) else tar).open() as reader:
            return self._add(pack(decompress(reader, OCI_LAYER), parsed), "add tar")

    def add_layer(
        self,
        content: str | os.PathLike[str] | bytes | ByteSource | Readable,
        *,
        media_type: str = OCI_LAYER,
    ) -> Self:
        """Add an existing layer unchanged. It is read once to compute its digests.

        Args:
            content: Tar, compressed as the media type says: the path of a file, bytes, or an open stream, which is
                copied to a temporary file.
            media_type: Media type of the layer.

        Raises:
            Unsupported: The media type is not one of a layer.
            IntegrityError: The compressed stream is corrupt.
            InvalidValue: The value has another type.
            OSError: The file cannot be read.
        """
        return self._add(prebuilt_layer(content, media_type), "add layer")

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the manifest; ``None`` removes it.

        Raises:
            InvalidValue: The key or the value is not a string, or the key is empty.
        """
        before = self._manifest.get("annotations") or {}
        after = update_strings(before, {key: value})
        if after != before:
            self._annotated = True
            self._manifest["annotations"] = after
        return self

    def build(self) -> Image:
        """Build the image as a repository that contains only this image; ``RegistryClient.push_image`` pushes it.

        Inherited blobs are read from their source when they are needed. An unchanged image keeps its exact bytes.

        Raises:
            InvalidValue: A Docker manifest would get annotations, a subject or an artifact type, which the format does
                not have. Those that the original had are kept.
            Unsupported: The media type of a layer has no equivalent in Docker manifests.
        """
        if self._format == DOCKER:
            self._check_docker_fields()
        return self._assemble()

    def _assemble(self) -> Image:
        blobs, manifests = StagedBlobs(), StagedManifests()
        for part in self._parts:
            part.stage(blobs)
        document = self._manifest_document(blobs)
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
        if self._loaded_config is None:
            self._loaded_config = self._load_config()
        return self._loaded_config

    def _load_config(self) -> ConfigEditor:
        if self._original is None:
            raise InvalidValue("image without a configuration")
        return config_editor(self._original)

    @property
    def _media_type(self) -> str:
        return str(self._manifest["mediaType"]) if self._original is None else self._original.media_type

    @property
    def _format(self) -> str:
        return DOCKER if (self._manifest.get("mediaType") or self._media_type) == DOCKER_MANIFEST else OCI

    def _check_docker_fields(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._manifest.get(field):
                raise InvalidValue(f"Docker manifests have no field {field}: convert the image with to_oci()")

    def _add(self, layer: BuiltLayer, created_by: str) -> Self:
        self._config.append(layer.diff_id, created_by)
        self._parts.append(LayerPart.from_built(layer))
        return self

    def _manifest_document(self, blobs: StagedBlobs) -> dict[str, Any]:
        document = dict(self._manifest)
        document["config"] = self._config_descriptor(blobs)
        if self._converted:
            document["config"] = convert_descriptor(document["config"], self._format)
        layers = [
            convert_descriptor(part.json, self._format) if part.convertible or self._converted else part.json
            for part in self._parts
        ]
        if layers or self._original is None or self._original.document.mapping.get("layers"):
            document["layers"] = layers
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = order_keys(annotations, first=self._first_annotations)
        elif self._annotated:
            document.pop("annotations", None)
        return document

    def _config_descriptor(self, blobs: StagedBlobs) -> dict[str, Any]:
        if self._original is None:
            content = strict_json.encode(self._config.document())
            before: dict[str, Any] = {"mediaType": convert_media_type(OCI_CONFIG, self._format)}
        else:
            before = self._original.document.mapping["config"]
            descriptor = self._original.manifest().config
            loaded = self._loaded_config
            content = b"" if loaded is None else strict_json.encode(loaded.document())
            if loaded is None or content == strict_json.encode(strict_json.decode(self._original.config().raw)):
                stage_blob(blobs, self._original.repository, descriptor)
                return before
        digest = Digest.of(content)
        blobs.add(digest, len(content), BytesSource(content))
        # Embedded data and URLs are those of the old bytes.
        kept = {key: value for key, value in before.items() if key not in ("data", "urls")}
        return kept | {"digest": str(digest), "size": len(content)}


class ImageBuilder(BaseImageBuilder):
    """Build a new image. Each method changes the builder and returns it.

    Layers are read and written when they are added. All times are 1970 unless ``created`` or ``mtime`` is given, so the
    result does not depend on the time of the build.

    Equal input gives equal tars, and so equal diff IDs, on every machine. Digests of compressed layers are equal only
    with the same compressor: another zlib, such as zlib-ng, may produce other bytes from the same tar. If digests must
    agree across such machines, build the layers once and use ``add_layer``, or do not compress them.

    The result is an OCI image without the annotations of the base. To change an existing image and keep the rest of
    it, use ``ImageEditor``.

    Args:
        platform: Platform of the image; by default that of the base, or ``linux/amd64`` without a base.
        base: Image to build on: its layers, its configuration with unknown fields, and its history.

    Raises:
        InvalidName: The text is not a platform.
        InvalidValue: The base does not run on the platform.
        RegistryError: The configuration of the base cannot be read.
    """

    def __init__(self, platform: Platform | str | None = None, base: Image | None = None) -> None:
        wanted = None if platform is None else to_platform(platform)
        if base is not None:
            check_kind(base, Image)
        config = ConfigEditor({}, 0, complete=True) if base is None else config_editor(base, complete=True)
        available = config.platform
        if wanted is not None and available is not None and not _accepts_base(wanted, available):
            raise InvalidValue(f"base image for {available} does not run on {wanted}")
        if wanted is not None or available is None:
            config.set_platform(wanted or Platform(os="linux", architecture="amd64"))
        config.created = EPOCH_TEXT
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        super().__init__(manifest, [] if base is None else inherited_parts(base, convertible=True), config)
        self._inherited_cmd = base is not None


def _accepts_base(platform: Platform, base: Platform) -> bool:
    # Windows hosts run Linux images as well, so the operating systems have to be equal.
    return platform.normalised().os == base.normalised().os and platform.runs(base)
