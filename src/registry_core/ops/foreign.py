"""Content that a repository may leave to others: layers that may not be distributed (R-032)."""

from __future__ import annotations

from registry_core.content.source import ByteReader
from registry_core.domain.descriptor import Descriptor
from registry_core.errors import BlobNotFound
from registry_core.ports.repository import Repository

__all__ = ["open_here_or_elsewhere"]


def open_here_or_elsewhere(repository: Repository, layer: Descriptor, *, start: int = 0) -> ByteReader:
    """A reader over a layer: of the repository, or of the layer's URLs once the repository said that it is not here.

    Only for whoever was asked to follow URLs. What comes is unverified, as from any blob store.

    Args:
        repository: Where to look first; it knows who follows URLs on its behalf.
        layer: With its URLs.
        start: The first byte.

    Raises:
        BlobNotFound: It is neither here nor there, or nobody follows URLs for this backend.
        RegistryError: The repository, or every URL, fails in another way.
    """
    try:
        return repository.blobs.open(layer.digest, start=start)
    except BlobNotFound:
        if not layer.urls or repository.foreign is None:
            raise
        return repository.foreign.open(layer, start=start)
