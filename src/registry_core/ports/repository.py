"""One repository: a name and its stores."""

from __future__ import annotations

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.foreign_layers import ForeignLayers
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["Repository"]


class Repository(msgspec.Struct, frozen=True):
    """A repository of some backend, or anything that can be read or written like one.

    Args:
        name: Its path inside the backend.
        blobs: Its blobs.
        manifests: Its manifests, tags and referrers.
        registry: What the backend is called; repositories of one registry may mount each other's blobs.
        foreign: Who follows the URLs of its layers for those who ask for that; ``None`` for nobody.
    """

    name: RepositoryName
    blobs: BlobStore
    manifests: ManifestStore
    registry: str = ""
    foreign: ForeignLayers | None = None

    def __str__(self) -> str:
        """``registry/name``."""
        return "/".join(part for part in (self.registry, self.name) if part)

    def at(self, reference: str) -> str:
        """How a tag or digest of it is written: ``registry/name:tag`` or ``registry/name@digest``."""
        return f"{self}{'@' if isinstance(reference, Digest) else ':'}{reference}"
