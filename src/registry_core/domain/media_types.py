"""Media types of OCI and Docker schema 2, their conversion, and annotation keys.

See image-spec media-types.md and annotations.md, "Pre-Defined Annotation Keys". The two manifest formats differ in
media types only; the bytes of the configuration are the same in both.
"""

from __future__ import annotations

import re
from typing import Any, Final

from registry_core.errors import Unsupported

__all__ = [
    "BASE_DIGEST",
    "BASE_NAME",
    "CONTAINERD_NAME",
    "CREATED",
    "DESCRIPTION",
    "DOCKER",
    "DOCKER_CONFIG",
    "DOCKER_FOREIGN_LAYER",
    "DOCKER_FOREIGN_LAYER_GZIP",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_LAYER_ZSTD",
    "DOCKER_MANIFEST",
    "EMPTY_JSON",
    "MANIFESTS",
    "OCI",
    "OCI_ARTIFACT_MANIFEST",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "OCI_NONDISTRIBUTABLE_LAYER",
    "OCTET_STREAM",
    "ORAS_ARTIFACT_MANIFEST",
    "REF_NAME",
    "REVISION",
    "SOURCE",
    "TITLE",
    "VERSION",
    "convert_config",
    "convert_descriptor",
    "convert_media_type",
    "essence",
    "is_about_manifests",
    "is_artifact_manifest",
    "is_generic",
    "is_image_config",
    "is_image_manifest",
    "is_index",
    "is_listed_manifest",
    "is_manifest",
    "is_nondistributable",
    "is_schema1",
    "may_be_manifest",
]


OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"

# The manifest of artifacts in release candidates of image-spec 1.1, and its predecessor of the ORAS project. Both list
# ``blobs``, and refer to a ``subject``.
OCI_ARTIFACT_MANIFEST: Final = "application/vnd.oci.artifact.manifest.v1+json"

ORAS_ARTIFACT_MANIFEST: Final = "application/vnd.cncf.oras.artifact.manifest.v1+json"

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"

OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"

OCI_NONDISTRIBUTABLE_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"

EMPTY_JSON: Final = "application/vnd.oci.empty.v1+json"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"

DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

DOCKER_FOREIGN_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

OCTET_STREAM: Final = "application/octet-stream"

# the ``Accept`` list, in order of preference.
MANIFESTS: Final = (
    OCI_MANIFEST,
    OCI_INDEX,
    DOCKER_MANIFEST,
    DOCKER_INDEX,
    OCI_ARTIFACT_MANIFEST,
    ORAS_ARTIFACT_MANIFEST,
)

# Configurations and layers whose types do not say so.
_PARTS: Final = frozenset(
    {
        EMPTY_JSON,
        DOCKER_CONFIG,
        "application/vnd.docker.plugin.v1+json",
        "application/vnd.in-toto+json",
    }
)

_KIND_OF_PART: Final = re.compile(
    r"application/vnd\.[^,;\s]*[.+](?:config|layer|tar|gzip|zstd)(?:[.+][^,;\s]*)?",
)

_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})

_KIND_OF_MANIFEST: Final = re.compile(r"application/vnd\.(?=[^,;\s]*(?:manifest|index))[^,;\s]+")

_IMAGE_MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

_ARTIFACT_MANIFESTS: Final = frozenset({OCI_ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST})

_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# Types that servers and programs state for content whose type they do not know.
_GENERIC: Final = frozenset(
    {
        "",
        "application/json",
        "application/octet-stream",
        "application/xml",
        "binary/octet-stream",
        "text/html",
        "text/json",
        "text/plain",
    }
)

_VENDOR_TYPE: Final = re.compile(r"application/vnd\.[^,;\s]+")

_SCHEMA1: Final = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)")


def essence(value: str) -> str:
    """Return a ``Content-Type`` without parameters, trimmed and in lower case."""
    return value.partition(";")[0].strip().lower()


def is_generic(media_type: str) -> bool:
    """Return whether the type says nothing about the content: none, or one such as ``application/octet-stream``."""
    return essence(media_type) in _GENERIC


def is_index(media_type: str) -> bool:
    """Return whether the type is an OCI image index or a Docker manifest list."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Return whether the type is a manifest or index of OCI, Docker schema 2 or ORAS, whose parts are known."""
    return media_type in MANIFESTS


def is_listed_manifest(media_type: str) -> bool:
    """Return whether an entry of a layout may be a manifest: by its type, or because it has none."""
    return not media_type or is_manifest(media_type)


def is_image_manifest(media_type: str) -> bool:
    """Return whether the type is an image manifest of OCI or Docker schema 2."""
    return media_type in _IMAGE_MANIFESTS


def is_artifact_manifest(media_type: str) -> bool:
    """Return whether the type is an artifact manifest of OCI or ORAS, which lists blobs and has no configuration."""
    return media_type in _ARTIFACT_MANIFESTS


def is_image_config(media_type: str, *, manifest: str) -> bool:
    """Return whether the configuration of a manifest is that of an image, rather than of another artifact.

    Docker 1.10 and registries of its time gave configurations generic types, or none (distribution/distribution #1621).
    An OCI manifest with such a configuration is an artifact.

    Args:
        media_type: Media type of the configuration.
        manifest: Media type of the manifest.
    """
    return media_type in _CONFIGS or (manifest == DOCKER_MANIFEST and is_generic(media_type))


def is_schema1(media_type: str) -> bool:
    """Return whether the type is a Docker schema 1 manifest, which is not supported."""
    return _SCHEMA1.fullmatch(media_type) is not None


def is_about_manifests(media_type: str) -> bool:
    """Return whether the type names a kind of manifest or index, known or not.

    Servers send many other types with manifests: storage behind them knows no better. Such a type says nothing about
    the manifest.
    """
    return _KIND_OF_MANIFEST.fullmatch(media_type) is not None


def is_nondistributable(media_type: str) -> bool:
    """Return whether the type is a layer that must not be pushed (image-spec layer.md, "Non-Distributable Layers")."""
    return media_type == DOCKER_FOREIGN_LAYER_GZIP or media_type.startswith(OCI_NONDISTRIBUTABLE_LAYER)


def may_be_manifest(media_type: str) -> bool:
    """Return whether the type may be one of a manifest: a vendor's type, but not that of a configuration or layer."""
    is_part = media_type in _PARTS or _KIND_OF_PART.fullmatch(media_type) is not None
    return is_about_manifests(media_type) or (_VENDOR_TYPE.fullmatch(media_type) is not None and not is_part)


# The annotation in which containerd, and Docker with it, stores the full name of an image.
CONTAINERD_NAME: Final = "io.containerd.image.name"

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

_TO_OCI: Final = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_INDEX: OCI_INDEX,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_FOREIGN_LAYER_GZIP: f"{OCI_NONDISTRIBUTABLE_LAYER}+gzip",
    DOCKER_FOREIGN_LAYER: OCI_NONDISTRIBUTABLE_LAYER,
}

_TO_DOCKER: Final = {oci: docker for docker, oci in _TO_OCI.items()}


def convert_media_type(media_type: str, manifest_format: str) -> str:
    """Return the equivalent of a media type in a manifest format.

    Types that belong to neither format are kept in OCI documents, which allow any type.

    Args:
        media_type: Media type to convert.
        manifest_format: ``OCI`` or ``DOCKER``.

    Raises:
        Unsupported: Docker has no such media type.
    """
    if manifest_format == OCI:
        return _TO_OCI.get(media_type, media_type)
    name = _TO_DOCKER.get(media_type, media_type)
    if name not in _TO_OCI:
        raise Unsupported(f"Docker has no media type for {media_type!r:.200}; use OCI media types")
    return name


def convert_descriptor(entry: dict[str, Any], manifest_format: str) -> dict[str, Any]:
    """Return a descriptor's JSON with the media type converted to a manifest format. Other fields stay the same.

    Raises:
        Unsupported: Docker has no such media type.
    """
    return entry | {"mediaType": convert_media_type(entry.get("mediaType") or "", manifest_format)}


def convert_config(entry: dict[str, Any], manifest_format: str, *, manifest: str) -> dict[str, Any]:
    """Return the descriptor of a configuration for a manifest format. A generic type becomes that of an image.

    Args:
        entry: Descriptor as JSON.
        manifest_format: ``OCI`` or ``DOCKER``.
        manifest: Media type of the manifest that the descriptor comes from.

    Raises:
        Unsupported: Docker has no such media type.
    """
    if is_image_config(entry.get("mediaType") or "", manifest=manifest):
        return entry | {"mediaType": OCI_CONFIG if manifest_format == OCI else DOCKER_CONFIG}
    return convert_descriptor(entry, manifest_format)
