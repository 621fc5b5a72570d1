"""Everything about an image checked again, with a report of all that is wrong. Nothing is changed anywhere.

Graphs are walked first and read manifest by manifest; what they are made of is read afterwards, each blob once,
several at a time. Only digests and sizes are kept meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from registry_core.content.codecs import compression_of
from registry_core.domain.config import ImageConfig
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.findings import Finding, Report, Severity
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_manifest, is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.domain.reference import locator
from registry_core.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    InvalidValue,
    NotAnImage,
    RegistryError,
    TooLarge,
    TransportError,
    Unsupported,
    during,
)
from registry_core.ops.configs import has_config, read_config
from registry_core.ops.graph import DEPTH_LIMIT, NODE_LIMIT, child, fetch, is_child_manifest
from registry_core.ops.image import Image, Index
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.upkeep.blob_check import BlobCheck, BlobFacts
from registry_core.ops.workers import Workers
from registry_core.ports.repository import Repository
from registry_core.scope import CancelScope, checkpoint

__all__ = ["Validation", "validate"]

# These say nothing about the content: whoever asked is told, and may ask again.
_OUTAGES: Final = (TransportError, AccessDenied, Cancelled, DeadlineExceeded)


def validate(
    target: Image | Index | Repository,
    reference: Tag | Digest | str | None = None,
    *,
    limits: ExtractLimits | None = None,
    jobs: int = 4,
) -> Report:
    """A report on all that an image or index consists of, down to the uncompressed layers; nothing is changed.

    Every digest, size and media type is checked, embedded data, each layer's diff_id, the configuration against the
    layers, the platforms against what indexes say, and that everything is there.

    Args:
        target: An image, an index, or a repository.
        reference: What to check in a repository: a tag or digest; all tags if not given.
        limits: How much layers may become when they are unpacked for their diff_id; nothing is kept of them.
        jobs: How many blobs are read at a time.

    Raises:
        RepositoryNotFound: No such repository.
        InvalidValue: The reference is malformed, or there are no jobs.
        AccessDenied: The registry refused.
        TransportError: The registry could not be asked.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"a check needs at least one job, not {jobs!r:.50}")
    if not isinstance(target, Repository):
        validation = Validation(target.repository, limits=limits)
        validation.manifest(target.document)
        return validation.report(jobs=jobs)
    validation = Validation(target, limits=limits)
    with during("validate", str(target)):
        wanted = target.manifests.tags() if reference is None else iter((reference,))
        for each in wanted:
            validation.reference(each if isinstance(each, Tag | Digest) else locator(each))
    return validation.report(jobs=jobs)


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
        self._repository = repository
        self._limits = ExtractLimits() if limits is None else limits
        self._findings: list[Finding] = []
        self._seen: dict[Digest, int] = {}
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
            manifest = fetch(self._repository, reference)
        except _OUTAGES:
            raise
        except RegistryError as error:
            self.found(self._repository.at(reference), _reason(error))
            return
        self.manifest(manifest)

    def manifest(self, manifest: RawManifest) -> None:
        """Add a graph by its root.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        if manifest.digest not in self._seen:
            self._seen[manifest.digest] = len(manifest.content)
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
            check = BlobCheck(self._repository, descriptor, self._limits)
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
            where = self._repository.at(manifest.digest)
            if listed is not None:
                self._compare_type(where, manifest, listed)
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

    def _is_new(self, where: str, descriptor: Descriptor) -> bool:
        known = self._seen.get(descriptor.digest)
        if known is not None and known != descriptor.size:
            self.found(where, f"said to have {descriptor.size} bytes here, and {known} elsewhere")
        return known is None

    def _child(self, where: str, descriptor: Descriptor) -> RawManifest | None:
        self._seen[descriptor.digest] = descriptor.size
        try:
            return child(self._repository, descriptor)
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

    def _compare_type(self, where: str, manifest: RawManifest, listed: Descriptor) -> None:
        if manifest.is_index:
            actual = manifest.index.artifact_type
        else:
            try:
                actual = manifest.image.artifact_type or manifest.image.config.media_type
            except RegistryError:
                return
        if listed.artifact_type and listed.artifact_type != actual:
            self.found(
                where, f"listed as {listed.artifact_type!r:.100} but is {actual!r:.100}", severity=Severity.WARNING
            )

    def _image(self, where: str, manifest: RawManifest, listed: Platform | None) -> None:
        try:
            if not has_config(manifest):
                return
            config = read_config(self._repository, manifest)
        except _OUTAGES:
            raise
        except (InvalidValue, NotAnImage, TooLarge) as error:
            self.found(f"{where} $.config", _reason(error))
            return
        except RegistryError:
            return  # it is read again together with all other blobs, and judged then
        self._judge_config(f"{where} $.config", config, listed)
        layers, diff_ids = manifest.image.layers, config.rootfs.diff_ids
        if len(diff_ids) != len(layers):
            self.found(f"{where} $.config", f"{len(diff_ids)} diff_ids for {len(layers)} layers")
            return
        for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            self._layer(f"{where} $.layers[{number}]", layer, diff_id)
        told = sum(1 for step in config.history if not step.empty_layer)
        if config.history and told != len(layers):
            what = f"its history tells of {told} layers, and there are {len(layers)}"
            self.found(f"{where} $.config", what, severity=Severity.WARNING)

    def _layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        if diff_id == layer.digest and not _is_layer(layer.media_type):
            return  # attestations: filed as layers, and never compressed
        if not _is_layer(layer.media_type):
            what = f"nobody knows layers of type {layer.media_type!r:.100}, so its diff_id was not checked"
        elif not diff_id.verifiable:
            what = f"its diff_id cannot be verified: {diff_id}"
        else:
            self._layers.append(_Layer(where, layer.digest, layer.size, diff_id))
            return
        self.found(where, what, severity=Severity.WARNING)

    def _judge_config(self, where: str, config: ImageConfig, listed: Platform | None) -> None:
        if config.rootfs.type != "layers":
            self.found(where, f"a rootfs of type {config.rootfs.type!r:.100}")
        actual = config.platform
        if actual is None:
            self.found(where, "it does not say what it runs on", severity=Severity.WARNING)
            return
        if listed is None or listed.is_unknown:
            return
        wanted = listed.normalised()
        if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
            self.found(where, f"it runs on {actual}, and is listed for {wanted}")
        elif wanted != actual and any(
            mine and mine != other
            for mine, other in ((wanted.variant, actual.variant), (wanted.os_version, actual.os_version))
        ):
            self.found(where, f"it runs on {actual}, and is listed for {wanted}", severity=Severity.WARNING)

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


def _is_layer(media_type: str) -> bool:
    try:
        compression_of(media_type)
    except Unsupported:
        return False
    return True


def _reason(error: RegistryError) -> str:
    path = getattr(error, "path", "")
    return f"{error.message} at {path}" if path else error.message
