"""What a catalog in memory holds, behind one lock."""

from __future__ import annotations

import threading

from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import join_reference

__all__ = ["RepositoryContents", "State"]


class RepositoryContents:
    """One repository's content."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[Digest, RawManifest] = {}
        self.tags: dict[Tag, Digest] = {}
        self.referrers: dict[Digest, set[Digest]] = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it: such a repository does not exist."""
        return not (self.blobs or self.manifests)


class State:
    """All repositories of one catalog. Hold ``lock`` around every use, and never while a source is read.

    Args:
        registry: What the catalog is called.
    """

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.lock = threading.RLock()
        self._contents: dict[RepositoryName, RepositoryContents] = {}

    def names(self) -> list[RepositoryName]:
        """The repositories that hold something, in ASCII order."""
        return sorted(self._contents)

    def find(self, name: RepositoryName) -> RepositoryContents | None:
        """A repository's content, or ``None`` if it holds nothing."""
        return self._contents.get(name)

    def make(self, name: RepositoryName) -> RepositoryContents:
        """A repository's content, to put something into."""
        return self._contents.setdefault(name, RepositoryContents())

    def sweep(self, name: RepositoryName) -> None:
        """Forget a repository if nothing is left in it."""
        contents = self._contents.get(name)
        if contents is not None and contents.empty:
            del self._contents[name]

    def at(self, name: RepositoryName, reference: str = "") -> str:
        """How a repository, or a tag or digest in it, is written in errors."""
        where = "/".join(part for part in (self.registry, name) if part)
        return join_reference(where, reference) if reference else where
