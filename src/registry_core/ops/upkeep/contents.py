"""What the manifests of a check are made of: blobs, each read once, several at a time, and compared with what is said.

Only digests and sizes are kept until then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.findings import Finding, Severity
from registry_core.domain.media_types import is_nondistributable
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.upkeep.blob_check import BlobCheck, BlobFacts
from registry_core.ops.workers import Workers
from registry_core.ports.repository import Repository
from registry_core.scope import CancelScope, checkpoint

__all__ = ["Contents"]

_Key = tuple[Digest, int]


class _Layer(msgspec.Struct, frozen=True):
    """A layer whose diff_id is to be compared once it has been read."""

    where: str
    key: _Key
    diff_id: Digest


class Contents:
    """Blobs that are to be read.

    Args:
        repository: Where they are.
        limits: How much layers may become when they are unpacked.
    """

    def __init__(self, repository: Repository, limits: ExtractLimits) -> None:
        self._repository = repository
        self._limits = limits
        self._blobs: dict[_Key, tuple[str, Descriptor]] = {}
        self._layers: list[_Layer] = []
        self._facts: dict[_Key, BlobFacts] = {}

    def add(self, where: str, part: Descriptor) -> None:
        """Have a blob read; where it is named in several places, the first of them is told."""
        self._blobs.setdefault((part.digest, part.size), (where, part))

    def add_layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        """Have a blob unpacked as well while it is read."""
        self._layers.append(_Layer(where, (layer.digest, layer.size), diff_id))

    @property
    def digests(self) -> set[Digest]:
        """Of all that was named."""
        return {digest for digest, _ in self._blobs}

    @property
    def count(self) -> int:
        """How many blobs there are."""
        return len(self._blobs)

    @property
    def bytes(self) -> int:
        """How many bytes were read."""
        return sum(facts.bytes for facts in self._facts.values())

    def read(self, jobs: int) -> Iterator[Finding]:
        """Read all of it, and tell what is wrong.

        Raises:
            RegistryError: The backend could not be asked.
        """
        lock = threading.Lock()
        unpacked: dict[_Key, set[str]] = {}
        for layer in self._layers:
            unpacked.setdefault(layer.key, set()).add(layer.diff_id.algorithm)

        def read(key: _Key) -> None:
            checkpoint()
            _, descriptor = self._blobs[key]
            found = BlobCheck(self._repository, descriptor, self._limits).read(unpacked.get(key, ()))
            with lock:
                self._facts[key] = found

        with CancelScope() as scope, Workers(jobs, scope) as workers:
            # The largest first: the last one to begin should not be the last one to end.
            workers.each(read, sorted(self._blobs, key=lambda key: key[1], reverse=True))
        return self._findings()

    def _findings(self) -> Iterator[Finding]:
        for key, (where, descriptor) in self._blobs.items():
            yield from _judged(where, descriptor, self._facts[key])
        for layer in self._layers:
            actual = self._facts[layer.key].diff_ids
            if actual and layer.diff_id not in actual:
                what = f"its tar hashes to {', '.join(sorted(actual))}, not to {layer.diff_id}"
                yield Finding(Severity.ERROR, layer.where, what)


def _judged(where: str, descriptor: Descriptor, facts: BlobFacts) -> Iterator[Finding]:
    if facts.is_missing and (is_nondistributable(descriptor.media_type) or descriptor.data is not None):
        yield Finding(Severity.WARNING, where, "it is not here")
        return
    for problem in facts.problems:
        yield Finding(Severity.ERROR, where, problem)
    for doubt in facts.doubts:
        yield Finding(Severity.WARNING, where, doubt)
