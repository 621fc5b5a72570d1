"""Push files as artifacts: image manifests with an ``artifactType``.

The manifests follow image-spec manifest.md, "Guidelines for Artifact Usage". Titles and packed directories are written
as by the ORAS tools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from registry_core.content.streams import ByteSource, BytesSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, OCI_MANIFEST, OCTET_STREAM, TITLE
from registry_core.domain.names import Tag
from registry_core.errors import InvalidValue, error_context, error_reference
from registry_core.ops.artifacts.directories import check_distinct_titles, clean_title, pack_directory
from registry_core.ops.blobs import describe, to_source
from registry_core.ops.builder.config import update_strings
from registry_core.ops.builder.layers import descriptor_json
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.references import describe_reference, parse_named_target, parse_reference, target_names
from registry_core.ops.transfer.copy import move_graph
from registry_core.ops.transfer.options import as_tuple
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

__all__ = ["EMPTY", "TAR_DIGEST", "UNPACK", "ArtifactFile", "build_artifact", "push_artifact"]

UNPACK: Final = "io.deis.oras.content.unpack"
TAR_DIGEST: Final = "io.deis.oras.content.digest"

# RFC 6838, section 4.2.
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_EMPTY_OBJECT: Final = b"{}"
# The config of an artifact without one, and the only layer of an artifact without files (image-spec manifest.md,
# "Guidance for an Empty Descriptor").
EMPTY: Final = Descriptor(
    media_type=EMPTY_JSON, digest=Digest.of(_EMPTY_OBJECT), size=len(_EMPTY_OBJECT), data=_EMPTY_OBJECT
)


class ArtifactFile(msgspec.Struct, frozen=True):
    """One file or directory of an artifact.

    Args:
        content: Path of a file or directory on disk, bytes, a ``ByteSource``, or an open stream of any length, which
            is read to its end and kept in a temporary file.
        title: Path of the file where the artifact is pulled; slashes make directories. By default the name on disk.
        media_type: Media type of a file, by default ``application/octet-stream``. A directory has that of its tar.
        annotations: Annotations of the layer.
    """

    content: os.PathLike[str] | bytes | ByteSource | Readable
    title: str = ""
    media_type: str = ""
    annotations: Mapping[str, str] = {}


def push_artifact(
    repository: Repository,
    files: Iterable[ArtifactFile | str | os.PathLike[str]],
    *,
    artifact_type: str = "",
    config: ArtifactFile | None = None,
    subject: Descriptor | Tag | Digest | str | None = None,
    annotations: Mapping[str, str] | None = None,
    tags: Iterable[str] = (),
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "push_artifact",
) -> Descriptor:
    """Push files as an artifact. Equal files give an equal digest, if the compressor is the same.

    An artifact with a subject is found among the referrers of the subject; it needs no tag.

    Args:
        repository: Repository to push to.
        files: Files in the order of the layers; may be empty. A path alone stores a file or directory under its own
            name.
        artifact_type: Media type that names the kind of artifact; optional if ``config`` has a media type.
        config: Config blob with its media type.
        subject: Manifest that the artifact refers to: a tag or digest in this repository, or a descriptor, whose
            manifest may be missing.
        annotations: Annotations of the manifest.
        tags: Tags of the artifact; without tags it is stored under its digest only. With a digest, as ``v1@sha256:…``,
            a tag is set only if the artifact has that digest.
        observer: Receives an event for each blob.
        jobs: Number of blobs to transfer at a time.
        operation: Name of the operation in errors.

    Returns:
        Descriptor of the manifest, with its artifact type.

    Raises:
        InvalidName: A title is not valid on every system.
        UnsafeArchive: Two titles name the same file.
        InvalidValue: A media type, an annotation or a tag is malformed, or a directory cannot be packed.
        ImageNotFound: The subject does not exist.
        Unsupported: The repository is read-only.
        OSError: A file cannot be read.
    """
    with error_context(operation, str(repository)):
        tags = as_tuple("tags", tags)
        for tag in tags:
            with error_reference(describe_reference(repository, tag)):
                parse_named_target(repository, tag)
        subject_descriptor = _resolve_subject(repository, subject)
        blobs, manifest = build_artifact(
            files, artifact_type=artifact_type, config=config, subject=subject_descriptor, annotations=annotations
        )
        staged = Repository(repository.name, blobs, StagedManifests())
        names = [name for tag in tags for name in target_names(repository, tag, manifest.digest)]
        pushed = move_graph(staged, repository, manifest, tags=names, observer=observer, jobs=jobs, operation=operation)
    return msgspec.structs.replace(pushed, artifact_type=artifact_type or manifest.image.config.media_type)


def build_artifact(
    files: Iterable[ArtifactFile | str | os.PathLike[str]],
    *,
    artifact_type: str = "",
    config: ArtifactFile | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> tuple[StagedBlobs, RawManifest]:
    """Build an artifact without storing it: its blobs, and its manifest. See ``push_artifact`` for the arguments.

    Raises:
        InvalidName: A title is not valid on every system.
        UnsafeArchive: Two titles name the same file.
        InvalidValue: A media type or an annotation is malformed, or a directory cannot be packed.
        OSError: A file cannot be read.
    """
    if artifact_type or config is None or config.media_type == EMPTY_JSON:
        if not artifact_type:
            raise InvalidValue("pass artifact_type, or a config with a media type that names the kind of artifact")
        _check_media_type(artifact_type)
    if isinstance(files, str | bytes | os.PathLike | ArtifactFile):
        raise InvalidValue(f"files must be a list of files, not a single one: {files!r:.200}")
    blobs = StagedBlobs()
    layers = [_layer(blobs, _with_title(file)) for file in files]
    check_distinct_titles([layer["annotations"][TITLE] for layer in layers if TITLE in layer.get("annotations", {})])
    if config is None or not layers:
        blobs.add(EMPTY.digest, EMPTY.size, BytesSource(_EMPTY_OBJECT))
    empty = descriptor_json(EMPTY) | {"data": "e30="}
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **({"artifactType": artifact_type} if artifact_type else {}),
        "config": empty if config is None else _config(blobs, config),
        "layers": layers or [empty],
    }
    if subject is not None:
        document["subject"] = descriptor_json(subject)
    if annotations:
        document["annotations"] = _annotations(annotations)
    return blobs, RawManifest.of(strict_json.encode(document), expected=OCI_MANIFEST)


def _with_title(file: ArtifactFile | str | os.PathLike[str]) -> ArtifactFile:
    if isinstance(file, str | os.PathLike):
        file = ArtifactFile(Path(file))
    if not isinstance(file, ArtifactFile):
        raise InvalidValue(f"each file must be an ArtifactFile or a path, not {type(file).__name__}")
    if file.title or not isinstance(file.content, os.PathLike):
        return file
    path = Path(file.content)
    # "." and ".." get the name of the directory that they refer to.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return msgspec.structs.replace(file, title=name)


def _layer(blobs: StagedBlobs, file: ArtifactFile) -> dict[str, Any]:
    annotations = dict(file.annotations)
    if file.title or isinstance(file.content, os.PathLike):
        annotations[TITLE] = clean_title(file.title)
    if isinstance(file.content, os.PathLike) and Path(file.content).is_dir():
        if file.media_type:
            raise InvalidValue(f"directory is packed to a tar, its media type cannot be chosen: {file.title!r:.200}")
        packed = pack_directory(file.content, annotations[TITLE])
        annotations |= {UNPACK: "true", TAR_DIGEST: str(packed.diff_id)}
        blobs.add(packed.descriptor.digest, packed.descriptor.size, packed.content)
        return descriptor_json(packed.descriptor) | {"annotations": _annotations(annotations)}
    return _blob(blobs, file, file.media_type or OCTET_STREAM, annotations)


def _config(blobs: StagedBlobs, config: ArtifactFile) -> dict[str, Any]:
    if isinstance(config.content, os.PathLike) and Path(config.content).is_dir():
        raise InvalidValue(f"config must be a file, not a directory: {os.fspath(config.content)!r:.200}")
    return _blob(blobs, config, config.media_type, config.annotations)


def _blob(blobs: StagedBlobs, file: ArtifactFile, media_type: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """Add the content of a file to the blobs; return its descriptor."""
    media_type = _check_media_type(media_type)
    source = to_source(file.content)
    descriptor = describe(source, media_type)
    blobs.add(descriptor.digest, descriptor.size, source)
    json = descriptor_json(descriptor)
    return json | {"annotations": _annotations(annotations)} if annotations else json


def _resolve_subject(repository: Repository, subject: Descriptor | Tag | Digest | str | None) -> Descriptor | None:
    if subject is None or isinstance(subject, Descriptor):
        return subject
    reference = parse_reference(repository, subject)
    with error_reference(repository.at(reference)):
        return fetch_manifest(repository, reference).descriptor


def _check_media_type(media_type: str) -> str:
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidValue(f"not a media type: {media_type!r:.200}")
    return media_type


def _annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(update_strings({}, annotations).items()))
