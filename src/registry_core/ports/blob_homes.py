"""Where blobs lie that are read through a repository put together from others."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName

__all__ = ["BlobHomes", "Home"]


class Home(msgspec.Struct, frozen=True):
    """A repository of a registry.

    Args:
        registry: What the backend is called.
        name: Of the repository.
    """

    registry: str
    name: RepositoryName


@runtime_checkable
class BlobHomes(Protocol):
    """Knows where each blob lies. May be called from many threads at once."""

    @abstractmethod
    def home(self, digest: Digest) -> Home | None:
        """Where a blob lies; ``None`` where it lies in no registry, or nobody knows."""
