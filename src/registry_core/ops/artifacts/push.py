"""Artifacts: files with media types in a registry, as image manifests with an ``artifactType``.

Built by image-spec manifest.md, "Guidelines for Artifact Usage"; titles and packed directories are written as the
tools of the ORAS project write them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
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
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.errors import InvalidValue, error_context, error_reference
from registry_core.ops.artifacts.directories import check_distinct_titles, clean_title, pack
from registry_core.ops.blobs import describe, to_source
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests
from registry_core.ops.manifests import fetch_manifest
from registry_core.ops.transfer.copy import move_graph
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import Observer

__all__ = ["EMPTY", "TAR_DIGEST", "UNPACK", "ArtifactFile", "build_artifact", "push_artifact"]

UNPACK: Final = "io.deis.oras.content.unpack"
TAR_DIGEST: Final = "io.deis.oras.content.digest"

# RFC 6838, section 4.2.
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_NOTHING: Final = b"{}"
# What stands where an artifact has no configuration, or no files (image-spec, "Guidance for an Empty Descriptor").
EMPTY: Final = Descriptor(media_type=EMPTY_JSON, digest=Digest.of(_NOTHING), size=len(_NOTHING), data=_NOTHING)


class ArtifactFile(msgspec.Struct, frozen=True):
    """One file or directory of an artifact.

    Args:
        content: The path of a file or directory on disk, bytes, anything that can be opened again and again, or an open
            stream of any length, which is read to its end once and kept in a temporary file meanwhile.
        title: What it is called where it is pulled to; by default what it is called on disk. Slashes make directories.
        media_type: Of a file ``application/octet-stream`` if not given; of a directory always what it is packed to.
        annotations: More about it.
    """

    content: os.PathLike[str] | bytes | ByteSource | Readable
    title: str = ""
    media_type: str = ""
    annotations: Mapping[str, str] = {}


def push_artifact(
    repository: Repository,
    files: Iterable[ArtifactFile | os.PathLike[str]],
    *,
    artifact_type: str = "",
    config: ArtifactFile | None = None,
    subject: Descriptor | Tag | Digest | str | None = None,
    annotations: Mapping[str, str] | None = None,
    tags: Collection[Tag] = (),
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "push_artifact",
) -> Descriptor:
    """Store files as an artifact. The same files give the same digest, wherever zlib compresses alike.

    With a subject, the artifact is found among the subject's referrers; it needs no tag then.

    Args:
        repository: Where to.
        files: In their order; a path alone is a file or directory by its own name. There may be none at all.
        artifact_type: What kind of artifact it is, as a media type. It may only be left out where the type of a
            configuration says so, as in Helm charts and whatever else is older than this field.
        config: More about the whole, with a media type of its own.
        subject: The manifest that it is about: a tag or digest of this repository, or a descriptor, which need not
            be here.
        annotations: Of the manifest.
        tags: Tags to point at it; with none it is stored by its digest alone.
        observer: Told of each blob.
        jobs: How many blobs move at a time.
        operation: What errors call it.

    Returns:
        Type, digest, size and artifact type of the manifest.

    Raises:
        InvalidName: A title is none that every system takes.
        UnsafeArchive: Two titles are the same file.
        InvalidValue: A media type, an annotation or a tag is malformed, or a directory has something that is no file.
        ImageNotFound: The subject is not here.
        Unsupported: The repository cannot be written.
        OSError: A file cannot be read.
    """
    with error_context(operation, str(repository)):
        about = _subject(repository, subject)
        blobs, manifest = build_artifact(
            files, artifact_type=artifact_type, config=config, subject=about, annotations=annotations
        )
        staged = Repository(repository.name, blobs, StagedManifests())
        found = move_graph(staged, repository, manifest, tags=tags, observer=observer, jobs=jobs, operation=operation)
    return msgspec.structs.replace(found, artifact_type=artifact_type or manifest.image.config.media_type)


def build_artifact(
    files: Iterable[ArtifactFile | os.PathLike[str]],
    *,
    artifact_type: str = "",
    config: ArtifactFile | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> tuple[StagedBlobs, RawManifest]:
    """An artifact that is not stored anywhere yet: its blobs, and its manifest.

    Raises:
        InvalidName: A title is none that every system takes.
        UnsafeArchive: Two titles are the same file.
        InvalidValue: A media type or an annotation is malformed, or a directory has something that is no file.
        OSError: A file cannot be read.
    """
    if artifact_type or config is None or config.media_type == EMPTY_JSON:
        _check_type(artifact_type)
    if isinstance(files, str | bytes | os.PathLike):
        raise InvalidValue(f"files are a list of files, not one: {files!r:.200}")
    blobs = StagedBlobs()
    layers = [_layer(blobs, _named(file)) for file in files]
    check_distinct_titles([layer["annotations"][TITLE] for layer in layers if TITLE in layer.get("annotations", {})])
    if config is None or not layers:
        blobs.add(EMPTY.digest, EMPTY.size, BytesSource(_NOTHING))
    nothing = _entry(EMPTY) | {"data": "e30="}
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **({"artifactType": artifact_type} if artifact_type else {}),
        "config": nothing if config is None else _config(blobs, config),
        "layers": layers or [nothing],
    }
    if subject is not None:
        document["subject"] = _entry(subject)
    if annotations:
        document["annotations"] = _annotations(annotations)
    return blobs, RawManifest.of(strict_json.encode(document), expected=OCI_MANIFEST)


def _named(file: ArtifactFile | os.PathLike[str]) -> ArtifactFile:
    if isinstance(file, os.PathLike):
        file = ArtifactFile(file)
    if not isinstance(file, ArtifactFile):
        raise InvalidValue(f"neither an ArtifactFile nor a path: {type(file).__name__}")
    if file.title or not isinstance(file.content, os.PathLike):
        return file
    path = Path(file.content)
    # What stands for another name, "." and "..", is called by that one.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return msgspec.structs.replace(file, title=name)


def _layer(blobs: StagedBlobs, file: ArtifactFile) -> dict[str, Any]:
    annotations = dict(file.annotations)
    on_disk = isinstance(file.content, os.PathLike)
    if file.title or on_disk:
        annotations[TITLE] = clean_title(file.title)
    if isinstance(file.content, os.PathLike) and Path(file.content).is_dir():
        if file.media_type:
            raise InvalidValue(f"a directory has the media type of what it is packed to: {file.title!r:.200}")
        packed = pack(file.content, annotations[TITLE])
        annotations |= {UNPACK: "true", TAR_DIGEST: str(packed.diff_id)}
        descriptor, source = packed.descriptor, packed.content
    else:
        media_type = _check_type(file.media_type or OCTET_STREAM)
        source = to_source(file.content)
        descriptor = describe(source, media_type)
    blobs.add(descriptor.digest, descriptor.size, source)
    entry = _entry(descriptor)
    return entry | {"annotations": _annotations(annotations)} if annotations else entry


def _config(blobs: StagedBlobs, config: ArtifactFile) -> dict[str, Any]:
    if isinstance(config.content, os.PathLike) and Path(config.content).is_dir():
        raise InvalidValue(f"a configuration is a file: {os.fspath(config.content)!r:.200}")
    media_type = _check_type(config.media_type)
    source = to_source(config.content)
    descriptor = describe(source, media_type)
    blobs.add(descriptor.digest, descriptor.size, source)
    entry = _entry(descriptor)
    return entry | {"annotations": _annotations(config.annotations)} if config.annotations else entry


def _subject(repository: Repository, subject: Descriptor | Tag | Digest | str | None) -> Descriptor | None:
    if subject is None or isinstance(subject, Descriptor):
        return subject
    named = subject if isinstance(subject, Tag | Digest) else parse_tag_or_digest(subject)
    with error_reference(repository.at(named)):
        return fetch_manifest(repository, named).descriptor


def _check_type(media_type: str) -> str:
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidValue(f"not a media type: {media_type!r:.200}")
    return media_type


def _annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    for key, value in annotations.items():
        if not key or not isinstance(key, str) or not isinstance(value, str):
            raise InvalidValue(f"annotations are text by text: {key!r:.200}")
    return dict(sorted(annotations.items()))


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
