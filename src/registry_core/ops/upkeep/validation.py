"""A check in progress: what was added to it so far, what is odd about it, and what is still to be read.

Graphs are walked first and read manifest by manifest; what they are made of is read afterwards, each blob once,
several at a time. Only digests and sizes are kept meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.findings import Finding, Report, Severity
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_manifest, is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    InvalidValue,
    NotAnImage,
    NotFound,
    RegistryError,
    TooLarge,
    TransportError,
    Unsupported,
)
from registry_core.ops.artifacts.referrers import list_referrers
from registry_core.ops.configs import has_config, read_config
from registry_core.ops.graph import DEPTH_LIMIT, NODE_LIMIT, child, fetch, is_child_manifest
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.upkeep.blob_check import BlobCheck, BlobFacts
from registry_core.ops.upkeep.judgements import (
    Judgement,
    of_config,
    of_diff_id,
    of_entry,
    of_history,
    of_listing,
    of_type,
)
from registry_core.ops.workers import Workers
from registry_core.ports.repository import Repository
from registry_core.scope import CancelScope, checkpoint

__all__ = ["Validation"]

# These say nothing about the content: whoever asked is told, and may ask again.
_OUTAGES: Final = (TransportError, AccessDenied, Cancelled, DeadlineExceeded)


class _Layer(msgspec.Struct, frozen=True):
    """A layer whose diff_id is to be compared once it has been read."""

    where: str
    digest: Digest
    size: int
    diff_id: Digest


class Validation:
    """A check in progress: graphs are added, then their blobs are read for the report.

    Args:
        repository: Where everything is.
        limits: How much layers may become when they are unpacked.
    """

    def __init__(self, repository: Repository, *, limits: ExtractLimits | None = None) -> None:
        self.repository = repository
        self._limits = ExtractLimits() if limits is None else limits
        self._findings: list[Finding] = []
        self._seen: dict[Digest, tuple[int, str]] = {}
        self._subjects: dict[Digest, Digest] = {}
        self._blobs: dict[tuple[Digest, int], tuple[str, Descriptor]] = {}
        self._layers: list[_Layer] = []
        self._manifests = 0
        self._bytes = 0

    @property
    def named(self) -> set[Digest]:
        """The digests of all that was named so far, manifests and blobs alike."""
        return set(self._seen) | {digest for digest, _ in self._blobs}

    def found(self, where: str, what: str, *, severity: Severity = Severity.ERROR) -> None:
        """Take a finding into the report."""
        self._findings.append(Finding(severity, where, what))

    def reference(self, reference: Tag | Digest) -> None:
        """Add what a tag or digest leads to.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        try:
            manifest = fetch(self.repository, reference)
        except _OUTAGES:
            raise
        except RegistryError as error:
            self.found(self.repository.at(reference), _reason(error))
            return
        self.manifest(manifest)

    def manifest(self, manifest: RawManifest) -> None:
        """Add a graph by its root.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        if manifest.digest not in self._seen:
            self._seen[manifest.digest] = (len(manifest.content), manifest.media_type)
            self._walk([(manifest, None, 1)])

    def entry(self, descriptor: Descriptor, where: str) -> None:
        """Add what a descriptor of nobody's manifest points at, such as an entry of a layout.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        if not is_manifest(descriptor.media_type):
            self._blob(where, descriptor)
        elif self._is_new(where, descriptor):
            found = self._child(where, descriptor)
            if found is not None:
                self._walk([(found, descriptor, 1)])

    def referrers(self) -> None:
        """Add what refers to anything that was added so far, and what refers to that.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        waiting = deque(self._seen)
        while waiting:
            checkpoint()
            subject = waiting.popleft()
            where = f"{self.repository.at(subject)} referrers"
            known = len(self._seen)
            try:
                for number, entry in enumerate(list_referrers(self.repository, subject)):
                    self._referrer(f"{where}[{number}]", entry, subject)
            except _OUTAGES:
                raise
            except RegistryError as error:
                self.found(where, _reason(error))
            waiting.extend(islice(self._seen, known, None))

    def report(self, *, jobs: int = 4) -> Report:
        """Read every blob that was named, and say what was found."""
        facts: dict[tuple[Digest, int], BlobFacts] = {}
        lock = threading.Lock()
        unpacked: dict[tuple[Digest, int], set[str]] = {}
        for layer in self._layers:
            unpacked.setdefault((layer.digest, layer.size), set()).add(layer.diff_id.algorithm)

        def read(key: tuple[Digest, int]) -> None:
            checkpoint()
            _, descriptor = self._blobs[key]
            check = BlobCheck(self.repository, descriptor, self._limits)
            found = check.read(unpacked.get(key, ()))
            with lock:
                facts[key] = found

        with CancelScope() as scope, Workers(jobs, scope) as workers:
            workers.each(read, sorted(self._blobs, key=lambda key: key[1], reverse=True))
        for key, (where, descriptor) in self._blobs.items():
            self._judge_blob(where, descriptor, facts[key])
        for layer in self._layers:
            actual = facts[layer.digest, layer.size].diff_ids
            if actual and layer.diff_id not in actual:
                self.found(layer.where, f"its tar hashes to {', '.join(sorted(actual))}, not to {layer.diff_id}")
        read_bytes = sum(found.bytes for found in facts.values())
        return Report(tuple(self._findings), self._manifests, len(facts), self._bytes + read_bytes)

    def _walk(self, waiting: list[tuple[RawManifest, Descriptor | None, int]]) -> None:
        while waiting:
            checkpoint()
            manifest, listed, depth = waiting.pop()
            self._manifests += 1
            self._bytes += len(manifest.content)
            where = self.repository.at(manifest.digest)
            self._judged(where, of_type(manifest))
            if listed is not None:
                self._judged(where, of_entry(listed, manifest))
            self._subject(where, manifest)
            below: list[tuple[RawManifest, Descriptor | None, int]] = []
            for place, part in _parts(manifest):
                if not is_child_manifest(manifest, part):
                    self._blob(f"{where} {place}", part)
                elif self._is_new(f"{where} {place}", part):
                    if depth >= DEPTH_LIMIT or len(self._seen) >= NODE_LIMIT:
                        self.found(f"{where} {place}", "not looked at: too many manifests, or too deep")
                        continue
                    found = self._child(f"{where} {place}", part)
                    if found is not None:
                        below.append((found, part, depth + 1))
            if not manifest.is_index:
                self._image(where, manifest, None if listed is None else listed.platform)
            waiting.extend(reversed(below))

    def _referrer(self, where: str, entry: Descriptor, subject: Digest) -> None:
        if len(self._seen) >= NODE_LIMIT:
            self.found(where, "not looked at: too many manifests")
            return
        if self._is_new(where, entry):
            found = self._child(where, entry)
            if found is None:
                return
            self._walk([(found, entry, 1)])
            self._judged(where, of_listing(entry, found))
        about = self._subjects.get(entry.digest)
        if about != subject:
            self.found(where, f"it refers to {about or 'nothing'}", severity=Severity.WARNING)

    def _subject(self, where: str, manifest: RawManifest) -> None:
        subject = manifest.subject
        if subject is None:
            return
        self._subjects[manifest.digest] = subject.digest
        doubt = self._subject_doubt(subject)
        if doubt:
            self.found(f"{where} $.subject", doubt, severity=Severity.WARNING)

    def _subject_doubt(self, subject: Descriptor) -> str:
        # A weak association: the subject may be absent, or be put there later.
        if not subject.digest.verifiable:
            return f"nobody can tell whether what it refers to is here: {subject.digest}"
        known = self._seen.get(subject.digest)
        if known is None:
            try:
                found = self.repository.manifests.resolve(subject.digest)
            except _OUTAGES:
                raise
            except NotFound:
                return f"what it refers to is not here: {subject.digest}"
            except RegistryError as error:
                return _reason(error)
            known = (found.size, found.media_type)
        if known == (subject.size, subject.media_type):
            return ""
        told = f"{subject.size} bytes of {subject.media_type!r:.100}"
        return f"it refers to {subject.digest} as {told}, and that is {known[0]} bytes of {known[1]!r:.100}"

    def _is_new(self, where: str, descriptor: Descriptor) -> bool:
        known = self._seen.get(descriptor.digest)
        if known is None:
            return True
        size, media_type = known
        if size != descriptor.size:
            self.found(where, f"said to have {descriptor.size} bytes here, and {size} elsewhere")
        if media_type != descriptor.media_type:
            self.found(where, f"said to be {descriptor.media_type!r:.100} here, and {media_type!r:.100} elsewhere")
        return False

    def _child(self, where: str, descriptor: Descriptor) -> RawManifest | None:
        self._seen[descriptor.digest] = (descriptor.size, descriptor.media_type)
        try:
            return child(self.repository, descriptor)
        except _OUTAGES:
            raise
        except Unsupported as error:
            self.found(where, _reason(error), severity=Severity.WARNING)
        except RegistryError as error:
            self.found(where, _reason(error))
        return None

    def _blob(self, where: str, part: Descriptor) -> None:
        try:
            part.embedded()
        except Unsupported:
            return
        except RegistryError as error:
            self.found(where, _reason(error))
        self._blobs.setdefault((part.digest, part.size), (where, part))

    def _image(self, where: str, manifest: RawManifest, listed: Platform | None) -> None:
        try:
            if not has_config(manifest):
                return
            config = read_config(self.repository, manifest)
        except _OUTAGES:
            raise
        except (InvalidValue, NotAnImage, TooLarge) as error:
            self.found(f"{where} $.config", _reason(error))
            return
        except RegistryError:
            return  # it is read again together with all other blobs, and judged then
        self._judged(f"{where} $.config", of_config(config, listed))
        layers, diff_ids = manifest.image.layers, config.rootfs.diff_ids
        if len(diff_ids) != len(layers):
            self.found(f"{where} $.config", f"{len(diff_ids)} diff_ids for {len(layers)} layers")
            return
        for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            self._layer(f"{where} $.layers[{number}]", layer, diff_id)
        self._judged(f"{where} $.config", of_history(config, layers))

    def _layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        doubt = of_diff_id(layer, diff_id)
        if doubt is None:
            self._layers.append(_Layer(where, layer.digest, layer.size, diff_id))
        elif diff_id != layer.digest:
            # Attestations are filed as layers of other types, and never compressed: what they hash to is known.
            self._judged(where, (doubt,))

    def _judged(self, where: str, judgements: Iterable[Judgement]) -> None:
        for severity, what in judgements:
            self.found(where, what, severity=severity)

    def _judge_blob(self, where: str, descriptor: Descriptor, facts: BlobFacts) -> None:
        if facts.is_missing and (is_nondistributable(descriptor.media_type) or descriptor.data is not None):
            self.found(where, "it is not here", severity=Severity.WARNING)
            return
        for problem in facts.problems:
            self.found(where, problem)
        for doubt in facts.doubts:
            self.found(where, doubt, severity=Severity.WARNING)


def _parts(manifest: RawManifest) -> Iterable[tuple[str, Descriptor]]:
    if manifest.is_index:
        return [(f"$.manifests[{number}]", part) for number, part in enumerate(manifest.index.manifests)]
    children = manifest.children
    if not children:
        return ()
    return [("$.config", children[0])] + [(f"$.layers[{number}]", part) for number, part in enumerate(children[1:])]


def _reason(error: RegistryError) -> str:
    path = getattr(error, "path", "")
    return f"{error.message} at {path}" if path else error.message
