"""Media types of OCI and of Docker schema 2 (image-spec media-types.md).

Keys of annotations (image-spec annotations.md, "Pre-Defined Annotation Keys").

The two families of image documents, OCI and Docker schema 2: the same things under other names.

What a manifest says stays as it is until somebody asks for the other family. The configuration's bytes are the
same in both.
"""

from __future__ import annotations

import re
from typing import Any, Final

from registry_core.errors import Unsupported

__all__ = [
    "BASE_DIGEST",
    "BASE_NAME",
    "CREATED",
    "DESCRIPTION",
    "DOCKER",
    "DOCKER_CONFIG",
    "DOCKER_FOREIGN_LAYER",
    "DOCKER_INDEX",
    "DOCKER_LAYER_GZIP",
    "DOCKER_MANIFEST",
    "EMPTY_JSON",
    "MANIFESTS",
    "OCI",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "OCTET_STREAM",
    "REF_NAME",
    "REVISION",
    "SOURCE",
    "TITLE",
    "VERSION",
    "convert_descriptor",
    "convert_media_type",
    "essence",
    "is_index",
    "is_manifest",
    "is_nondistributable",
    "is_schema1",
]


OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"

OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"

EMPTY_JSON: Final = "application/vnd.oci.empty.v1+json"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

OCTET_STREAM: Final = "application/octet-stream"

# In the order of preference in which they are offered.
MANIFESTS: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)

_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})

_SCHEMA1: Final = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)")

_NONDISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def essence(value: str) -> str:
    """A ``Content-Type`` without its parameters, trimmed and in lower case."""
    return value.partition(";")[0].strip().lower()


def is_index(media_type: str) -> bool:
    """Whether it is an OCI image index or a Docker manifest list."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it is a manifest or an index, of OCI or of Docker schema 2."""
    return media_type in MANIFESTS


def is_schema1(media_type: str) -> bool:
    """Whether it is a Docker schema 1 manifest, which is recognised and refused."""
    return _SCHEMA1.fullmatch(media_type) is not None


def is_nondistributable(media_type: str) -> bool:
    """Whether it is a layer that may not be pushed (image-spec layer.md, "Non-Distributable Layers")."""
    return media_type == DOCKER_FOREIGN_LAYER or media_type.startswith(_NONDISTRIBUTABLE)


CREATED: Final = "org.opencontainers.image.created"

DESCRIPTION: Final = "org.opencontainers.image.description"

REF_NAME: Final = "org.opencontainers.image.ref.name"

REVISION: Final = "org.opencontainers.image.revision"

SOURCE: Final = "org.opencontainers.image.source"

TITLE: Final = "org.opencontainers.image.title"

VERSION: Final = "org.opencontainers.image.version"

BASE_DIGEST: Final = "org.opencontainers.image.base.digest"

BASE_NAME: Final = "org.opencontainers.image.base.name"

OCI: Final = "oci"

DOCKER: Final = "docker"

_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

_TO_OCI: Final = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_INDEX: OCI_INDEX,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    _DOCKER_LAYER: OCI_LAYER,
    f"{_DOCKER_LAYER}.zstd": OCI_LAYER_ZSTD,
    DOCKER_FOREIGN_LAYER: f"{_NONDISTRIBUTABLE}+gzip",
    _DOCKER_FOREIGN: _NONDISTRIBUTABLE,
}

_TO_DOCKER: Final = {theirs: ours for ours, theirs in _TO_OCI.items()}


def convert_media_type(media_type: str, family: str) -> str:
    """A media type under the name that it has in a family.

    Types that neither family knows are carried in OCI documents, where anything may stand.

    Raises:
        Unsupported: Docker has no name for it.
    """
    if family == OCI:
        return _TO_OCI.get(media_type, media_type)
    name = _TO_DOCKER.get(media_type, media_type)
    if name not in _TO_OCI:
        raise Unsupported(f"Docker has no name for {media_type!r:.200}")
    return name


def convert_descriptor(entry: dict[str, Any], family: str) -> dict[str, Any]:
    """A descriptor's JSON with its type as a family calls it, and everything else as it was.

    Raises:
        Unsupported: Docker has no name for its type.
    """
    return entry | {"mediaType": convert_media_type(entry.get("mediaType", ""), family)}
