"""The two families of image documents, OCI and Docker schema 2: the same things under other names.

What a manifest says stays as it is until somebody asks for the other family (R-026). The configuration's bytes are the
same in both.
"""

from __future__ import annotations

from typing import Any, Final

from registry_core.domain.media_types import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from registry_core.errors import Unsupported

__all__ = ["DOCKER", "OCI", "in_family", "renamed"]

OCI: Final = "oci"
DOCKER: Final = "docker"

_NONDISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
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


def in_family(media_type: str, family: str) -> str:
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


def renamed(entry: dict[str, Any], family: str) -> dict[str, Any]:
    """A descriptor's JSON with its type as a family calls it, and everything else as it was.

    Raises:
        Unsupported: Docker has no name for its type.
    """
    return entry | {"mediaType": in_family(entry.get("mediaType", ""), family)}
