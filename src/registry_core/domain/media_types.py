"""Media types of OCI and of Docker schema 2 (image-spec media-types.md)."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "DOCKER_CONFIG",
    "DOCKER_FOREIGN_LAYER",
    "DOCKER_INDEX",
    "DOCKER_LAYER_GZIP",
    "DOCKER_MANIFEST",
    "EMPTY_JSON",
    "MANIFESTS",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "OCTET_STREAM",
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
    """A ``Content-Type`` without its parameters, trimmed and in lower case (R-029)."""
    return value.partition(";")[0].strip().lower()


def is_index(media_type: str) -> bool:
    """Whether it is an OCI image index or a Docker manifest list."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it is a manifest or an index, of OCI or of Docker schema 2."""
    return media_type in MANIFESTS


def is_schema1(media_type: str) -> bool:
    """Whether it is a Docker schema 1 manifest, which is recognised and refused (R-028)."""
    return _SCHEMA1.fullmatch(media_type) is not None


def is_nondistributable(media_type: str) -> bool:
    """Whether it is a layer that may not be pushed (image-spec layer.md, "Non-Distributable Layers"; R-032)."""
    return media_type == DOCKER_FOREIGN_LAYER or media_type.startswith(_NONDISTRIBUTABLE)
