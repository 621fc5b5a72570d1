"""Keys of annotations (image-spec annotations.md, "Pre-Defined Annotation Keys")."""

from __future__ import annotations

from typing import Final

__all__ = ["BASE_DIGEST", "BASE_NAME", "CREATED", "DESCRIPTION", "REF_NAME", "REVISION", "SOURCE", "TITLE", "VERSION"]

CREATED: Final = "org.opencontainers.image.created"
DESCRIPTION: Final = "org.opencontainers.image.description"
REF_NAME: Final = "org.opencontainers.image.ref.name"
REVISION: Final = "org.opencontainers.image.revision"
SOURCE: Final = "org.opencontainers.image.source"
TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
BASE_NAME: Final = "org.opencontainers.image.base.name"
