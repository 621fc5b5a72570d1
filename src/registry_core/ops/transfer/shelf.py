"""Manifests that are at hand."""

from __future__ import annotations

import threading

from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest

__all__ = ["Shelf"]


class Shelf:
    """Manifests that were read and will be needed again, as far as they fit.

    Args:
        room: How many bytes they may have together.
    """

    def __init__(self, room: int = 8 << 20) -> None:
        self._room = room
        self._held: dict[Digest, RawManifest] = {}
        self._lock = threading.Lock()

    def put(self, raw: RawManifest) -> None:
        """Keep one, if there is room."""
        with self._lock:
            if raw.digest not in self._held and len(raw.content) <= self._room:
                self._room -= len(raw.content)
                self._held[raw.digest] = raw

    def get(self, digest: Digest) -> RawManifest | None:
        """One that was kept."""
        return self._held.get(digest)
