"""The content of a memory catalog.

Catalog and stores share it. It has a module because the catalog imports its stores: they cannot import it from there.
"""

from __future__ import annotations

import threading

from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import join_reference

__all__ = ["RepositoryContents", "State"]


class RepositoryContents:
    """Blobs, manifests, tags and referrers of one repository."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[Digest, RawManifest] = {}
        self.tags: dict[Tag, Digest] = {}
        self.referrers: dict[Digest, set[Digest]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it has neither blobs nor manifests. An empty repository does not exist."""
        return not (self.blobs or self.manifests)


class State:
    """All repositories of one catalog.

    Hold ``lock`` during every use, but not while a ``ByteSource`` is read.

    Args:
        registry: Name of the catalog.
    """

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.lock = threading.RLock()
        self._contents: dict[RepositoryName, RepositoryContents] = {}

    def names(self) -> list[RepositoryName]:
        """Return the names of the repositories that exist, in ASCII order."""
        return sorted(self._contents)

    def find(self, name: RepositoryName) -> RepositoryContents | None:
        """Return the content of a repository; ``None`` if the repository does not exist."""
        return self._contents.get(name)

    def get_or_create(self, name: RepositoryName) -> RepositoryContents:
        """Return the content of a repository, which is created if it does not exist."""
        return self._contents.setdefault(name, RepositoryContents())

    def remove_if_empty(self, name: RepositoryName) -> None:
        """Remove a repository that holds nothing."""
        contents = self._contents.get(name)
        if contents is not None and contents.is_empty:
            del self._contents[name]

    def at(self, name: RepositoryName, reference: str = "") -> str:
        """Return the reference of a repository, or of a tag or digest in it, for errors."""
        label = "/".join(part for part in (self.registry, name) if part)
        return join_reference(label, reference) if reference else label
