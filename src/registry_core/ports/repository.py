"""One repository: a name and its stores."""

from __future__ import annotations

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.ports.blob_homes import BlobHomes, Home
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
        homes: Who knows where its blobs lie, if it was put together from other repositories; ``None`` where it holds
            them itself.
    """

    name: RepositoryName
    blobs: BlobStore
    manifests: ManifestStore
    registry: str = ""
    foreign: ForeignLayers | None = None
    homes: BlobHomes | None = None

    def __str__(self) -> str:
        """``registry/name``."""
        return "/".join(part for part in (self.registry, self.name) if part)

    def at(self, reference: str) -> str:
        """How a tag or digest of it is written: ``registry/name:tag`` or ``registry/name@digest``."""
        return f"{self}{'@' if isinstance(reference, Digest) else ':'}{reference}"

    def home(self, digest: Digest) -> Home | None:
        """In which repository of which registry a blob lies, for those who could mount it from there."""
        if self.homes is not None:
            return self.homes.home(digest)
        return Home(self.registry, self.name) if self.registry else None
