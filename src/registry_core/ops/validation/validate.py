"""Validate images, indexes and repositories: check everything and report all problems. Changes nothing.

Graphs of manifests are read first; the blobs that they reference are read afterwards, each once, several at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import compression_for
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import RawConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, is_image_manifest, is_manifest
from registry_core.domain.platform import Platform
from registry_core.domain.referrers import referrer_descriptor
from registry_core.domain.reports import Finding, Report, Severity
from registry_core.domain.rfc3339 import is_rfc3339
from registry_core.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    IntegrityError,
    InvalidDocument,
    InvalidValue,
    NotFound,
    RegistryError,
    TooLarge,
    TransportError,
    Unsupported,
    error_context,
)
from registry_core.ops.artifacts.referrers import list_referrers
from registry_core.ops.manifests import (
    GraphLimits,
    fetch_child,
    fetch_manifest,
    has_config,
    is_child_manifest,
    read_config,
)
from registry_core.ops.references import ImageReference, parse_reference
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.validation.blobs import BlobChecker
from registry_core.ports.catalog import Repository
from registry_core.ports.image_names import ImageNames

__all__ = ["Validation", "validate"]

# These errors say nothing about the content: they end the validation and are no findings.
_OUTAGES: Final = (TransportError, AccessDenied, Cancelled, DeadlineExceeded)


class _ManifestInRepository(Protocol):
    """An image or index with the repository that holds its content."""

    @property
    def repository(self) -> Repository: ...

    @property
    def document(self) -> RawManifest: ...


def validate(
    target: _ManifestInRepository | Repository,
    reference: ImageReference | str | None = None,
    *,
    referrers: bool = False,
    sparse: bool = False,
    limits: ExtractLimits | None = None,
    jobs: int = 4,
) -> Report:
    """Check all content of images and indexes, including uncompressed layers. Changes nothing.

    This checks the existence, digest, size and media type of all content, embedded data, the diff ID of each layer, the
    configuration against the layers, its dates, index entries against their manifests, and subjects.

    Args:
        target: ``Image``, ``Index``, or repository.
        reference: Tag, digest or name to validate in a repository; by default all tags, and all
            names of a layout or archive.
        referrers: Whether to validate referrers as well, such as signatures, bills of materials and attestations, and
            their referrers.
        sparse: Whether manifests that an index lists may be missing, as after a copy of some platforms; they are
            warnings then.
        limits: Limits for decompressing layers; uncompressed data is not kept.
        jobs: Number of blobs to read at a time.

    Raises:
        RepositoryNotFound: The repository does not exist.
        InvalidValue: The reference is malformed, or ``jobs`` is not positive.
        AccessDenied: The registry denied access.
        TransportError: The registry cannot be reached.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"validate: jobs must be at least 1, not {jobs!r:.50}")
    if not isinstance(target, Repository):
        if not isinstance(getattr(target, "document", None), RawManifest):
            raise InvalidValue(f"validate: neither an Image, an Index nor a Repository: {type(target).__name__}")
        if reference is not None:
            raise InvalidValue("validate: a reference is allowed only with a repository, not with an image or index")
        validation = Validation(target.repository, limits=limits, sparse=sparse)
        with error_context("validate", str(target.repository)):
            validation.add_manifest(target.document)
    else:
        validation = Validation(target, limits=limits, sparse=sparse)
        with error_context("validate", str(target)):
            references = target.manifests.tags() if reference is None else [parse_reference(target, reference)]
            for each in references:
                validation.add_reference(each)
            if reference is None and target.names is not None:
                validation.add_entries(target.names)
    with error_context("validate", str(validation.repository)):
        if referrers:
            validation.add_referrers()
        return validation.report(jobs=jobs)


class _CheckedManifest(msgspec.Struct, frozen=True):
    """The facts with which other descriptors of the manifest are compared."""

    artifact_type: str
    platform: Platform | None


class Validation:
    """A validation in progress: manifests are added and checked, then their blobs are read for the report.

    Args:
        repository: Repository that holds the content.
        limits: Limits for decompressing layers.
        sparse: Whether manifests that an index lists may be missing.
    """

    def __init__(self, repository: Repository, *, limits: ExtractLimits | None = None, sparse: bool = False) -> None:
        self.repository = repository
        self._missing_severity = Severity.WARNING if sparse else Severity.ERROR
        self._findings: list[Finding] = []
        # Size and media type of each manifest, as in the first descriptor.
        self._seen: dict[Digest, tuple[int, str]] = {}
        self._checked: dict[Digest, _CheckedManifest] = {}
        self._repeated: list[tuple[str, Descriptor]] = []
        self._subjects: dict[Digest, Digest] = {}
        self._blobs = BlobChecker(repository, ExtractLimits() if limits is None else limits)
        self._max_manifests = GraphLimits().count
        self._manifests = 0
        self._bytes = 0

    @property
    def digests(self) -> set[Digest]:
        """The digests of all manifests and blobs that were referenced so far."""
        return set(self._seen) | self._blobs.digests

    def add_finding(self, where: str, what: str, *, severity: Severity = Severity.ERROR) -> None:
        """Add a finding to the report."""
        self._findings.append(Finding(severity, where, what))

    def add_reference(self, reference: ImageReference) -> None:
        """Check the graph of the manifest with a tag or digest.

        Raises:
            AccessDenied: The registry denied access.
            TransportError: The registry cannot be reached.
        """
        try:
            manifest = fetch_manifest(self.repository, reference)
        except _OUTAGES:
            raise
        except RegistryError as error:
            self.add_finding(self.repository.at(reference), _message(error))
            return
        self.add_manifest(manifest)

    def add_entries(self, names: ImageNames) -> None:
        """Check the graphs of the entries of a layout or archive that have a name, also if it means no tag."""
        try:
            for image in names.images():
                if image.name:
                    self.add_reference(image.descriptor.digest)
        except IntegrityError as error:
            self.add_finding(str(self.repository), _message(error))

    def add_manifest(self, manifest: RawManifest) -> None:
        """Check the graph of a manifest.

        Raises:
            AccessDenied: The registry denied access.
            TransportError: The registry cannot be reached.
        """
        if manifest.digest not in self._seen:
            self._seen[manifest.digest] = (len(manifest.content), manifest.media_type)
            self._walk([(manifest, None, 1)])

    def add_descriptor(self, where: str, descriptor: Descriptor) -> None:
        """Check the blob, or the graph of the manifest, of a descriptor that is not in a manifest.

        Args:
            where: Location of the descriptor, for findings; for example an entry of the index of a layout.
            descriptor: Descriptor of a manifest or blob.

        Raises:
            AccessDenied: The registry denied access.
            TransportError: The registry cannot be reached.
        """
        if not is_manifest(descriptor.media_type):
            self._add_blob(where, descriptor)
        elif self._is_new(where, descriptor):
            manifest = self._fetch_child(where, descriptor, Severity.ERROR)
            if manifest is not None:
                self._walk([(manifest, descriptor, 1)])

    def add_referrers(self) -> None:
        """Check the referrers of all manifests added so far, and their referrers.

        Raises:
            AccessDenied: The registry denied access.
            TransportError: The registry cannot be reached.
        """
        pending = deque(self._seen)
        # Each manifest added so far may have as many referrers as one graph may have manifests.
        self._max_manifests = GraphLimits(graphs=len(self._seen)).count
        while pending:
            checkpoint()
            subject = pending.popleft()
            where = f"{self.repository.at(subject)} referrers"
            known = len(self._seen)
            try:
                for number, descriptor in enumerate(list_referrers(self.repository, subject)):
                    self._add_referrer(f"{where}[{number}]", descriptor, subject)
            except _OUTAGES:
                raise
            except RegistryError as error:
                self.add_finding(where, _message(error))
            pending.extend(islice(self._seen, known, None))

    def report(self, *, jobs: int = 4) -> Report:
        """Read all referenced blobs, and return the report.

        Args:
            jobs: Number of blobs to read at a time.
        """
        for where, descriptor in self._repeated:
            checked = self._checked.get(descriptor.digest)
            if checked is not None:
                self._findings += _check_artifact_type(where, descriptor, checked.artifact_type)
                self._findings += _check_platform(where, descriptor.platform, checked.platform)
        self._findings += self._blobs.read(jobs)
        return Report(tuple(self._findings), self._manifests, self._blobs.count, self._bytes + self._blobs.bytes)

    def _walk(self, pending: list[tuple[RawManifest, Descriptor | None, int]]) -> None:
        """Check manifests and their graphs, depth first.

        Args:
            pending: Manifests, the descriptors that list them, and their depths.
        """
        limits = GraphLimits()
        while pending:
            checkpoint()
            manifest, descriptor, depth = pending.pop()
            self._manifests += 1
            self._bytes += len(manifest.content)
            where = self.repository.at(manifest.digest)
            self._findings += _check_kind(where, manifest)
            self._findings += _check_stated_platforms(where, manifest)
            artifact_type = manifest.artifact_type
            if descriptor is not None:
                self._findings += _check_artifact_type(where, descriptor, artifact_type)
            self._check_subject(where, manifest)
            children: list[tuple[RawManifest, Descriptor | None, int]] = []
            for path, child in _children(manifest):
                location = f"{where} {path}"
                if not is_child_manifest(manifest, child):
                    if not (manifest.is_index and self._is_unknown_manifest(location, child)):
                        self._add_blob(location, child)
                elif self._is_new(location, child):
                    try:
                        limits.add(depth + 1)
                    except TooLarge as error:
                        self.add_finding(location, f"not checked: {error.message}")
                        continue
                    found = self._fetch_child(location, child, self._missing_severity)
                    if found is not None:
                        children.append((found, child, depth + 1))
            platform = None if manifest.is_index else self._check_image(where, manifest)
            if descriptor is not None:
                self._findings += _check_platform(f"{where} $.config", descriptor.platform, platform)
            self._checked[manifest.digest] = _CheckedManifest(artifact_type, platform)
            pending.extend(reversed(children))

    def _is_unknown_manifest(self, where: str, descriptor: Descriptor) -> bool:
        """Return whether an index entry is a manifest of an unknown media type (R-027); otherwise a blob."""
        try:
            manifest = fetch_manifest(self.repository, descriptor.digest)
        except _OUTAGES:
            raise
        except RegistryError:
            return False
        if len(manifest.content) != descriptor.size:
            self.add_finding(
                where, f"manifest has {len(manifest.content)} bytes, but the descriptor states {descriptor.size}"
            )
        self._findings += _check_parts_known(where, manifest)
        return True

    def _add_referrer(self, where: str, descriptor: Descriptor, subject: Digest) -> None:
        if len(self._seen) >= self._max_manifests:
            self.add_finding(where, f"not checked: more than {self._max_manifests} manifests")
            return
        is_new = self._is_new(where, descriptor)
        manifest = self._fetch_child(where, descriptor, Severity.ERROR) if is_new else self._fetch_again(descriptor)
        if manifest is None:
            return
        if is_new:
            self._walk([(manifest, descriptor, 1)])
        self._findings += _check_referrer(where, descriptor, manifest)
        actual = self._subjects.get(descriptor.digest)
        if actual != subject:
            what = f"listed referrer has the subject {actual}" if actual else "listed referrer has no subject"
            self.add_finding(where, what, severity=Severity.WARNING)

    def _check_subject(self, where: str, manifest: RawManifest) -> None:
        subject = manifest.subject
        if subject is None:
            return
        self._subjects[manifest.digest] = subject.digest
        problem = self._subject_problem(subject)
        if problem:
            # Only a warning: a subject may be missing, or be pushed later.
            self.add_finding(f"{where} $.subject", problem, severity=Severity.WARNING)

    def _subject_problem(self, subject: Descriptor) -> str:
        if not subject.digest.verifiable:
            return f"subject not checked: digest algorithm is not supported: {subject.digest}"
        known = self._seen.get(subject.digest)
        if known is None:
            try:
                # Read instead of resolved: a layout keeps content longer that was looked up.
                manifest = fetch_manifest(self.repository, subject.digest)
            except _OUTAGES:
                raise
            except NotFound:
                return f"subject is missing: {subject.digest}"
            except RegistryError as error:
                return _message(error)
            known = (len(manifest.content), manifest.media_type)
        if known == (subject.size, subject.media_type):
            return ""
        stated = f"{subject.size} bytes of {subject.media_type!r:.100}"
        return f"subject {subject.digest} is stated as {stated}, but has {known[0]} bytes of {known[1]!r:.100}"

    def _is_new(self, where: str, descriptor: Descriptor) -> bool:
        """Return whether no descriptor of this manifest was seen before; otherwise compare the two."""
        known = self._seen.get(descriptor.digest)
        if known is None:
            return True
        size, media_type = known
        if size != descriptor.size:
            self.add_finding(where, f"descriptor states {descriptor.size} bytes, another one states {size}")
        if media_type != descriptor.media_type:
            self.add_finding(
                where, f"descriptor states {descriptor.media_type!r:.100}, another one states {media_type!r:.100}"
            )
        self._repeated.append((where, descriptor))
        return False

    def _fetch_again(self, descriptor: Descriptor) -> RawManifest | None:
        """Fetch a manifest whose problems were already reported; ``None`` if it cannot be fetched."""
        try:
            return fetch_manifest(self.repository, descriptor.digest)
        except _OUTAGES:
            raise
        except RegistryError:
            return None

    def _fetch_child(self, where: str, descriptor: Descriptor, missing_severity: Severity) -> RawManifest | None:
        self._seen[descriptor.digest] = (descriptor.size, descriptor.media_type)
        try:
            manifest = fetch_child(self.repository, descriptor)
            if descriptor.data is not None and self._fetch_again(descriptor) is None:
                what = "manifest is missing; its content is embedded in the descriptor"
                self.add_finding(where, what, severity=Severity.WARNING)
            return manifest
        except _OUTAGES:
            raise
        except NotFound as error:
            self.add_finding(where, _message(error), severity=missing_severity)
        except Unsupported as error:
            self.add_finding(where, _message(error), severity=Severity.WARNING)
        except RegistryError as error:
            self.add_finding(where, _message(error))
        return None

    def _add_blob(self, where: str, descriptor: Descriptor) -> None:
        try:
            descriptor.embedded()
        except Unsupported:
            pass  # reported when the blob is read
        except RegistryError as error:
            self.add_finding(where, _message(error))
        self._blobs.add(where, descriptor)

    def _check_image(self, where: str, manifest: RawManifest) -> Platform | None:
        """Check the configuration of an image against its layers; return its platform if it is known."""
        location = f"{where} $.config"
        if not has_config(manifest):
            return None
        try:
            config = read_config(self.repository, manifest)
            diff_ids = config.diff_ids
        except _OUTAGES:
            raise
        except (InvalidValue, TooLarge) as error:
            self.add_finding(location, _message(error))
            return None
        except RegistryError:
            return None  # reported when the blob is read
        layers = manifest.image.layers
        self._findings += _check_config(location, config, layers)
        if len(diff_ids) != len(layers):
            self.add_finding(location, f"{len(diff_ids)} diff_ids for {len(layers)} layers")
            return config.platform
        for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            self._check_layer(f"{where} $.layers[{number}]", layer, diff_id)
        return config.platform

    def _check_layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        reason = _unverifiable_diff_id(layer, diff_id)
        if not reason:
            self._blobs.add_diff_id(where, layer, diff_id)
        elif diff_id != layer.digest:
            # Attestations are stored as uncompressed layers of other types: their diff ID is their digest.
            self.add_finding(where, reason, severity=Severity.WARNING)


def _check_kind(where: str, manifest: RawManifest) -> Iterator[Finding]:
    """Check that the parts are known, and that an artifact states its type.

    See image-spec manifest.md, "Guidelines for Artifact Usage".
    """
    yield from _check_parts_known(where, manifest)
    if not is_image_manifest(manifest.media_type):
        return
    if manifest.image.config.media_type == EMPTY_JSON and not manifest.image.artifact_type:
        yield Finding(Severity.WARNING, where, "configuration is empty, and artifactType is missing")


def _check_parts_known(where: str, manifest: RawManifest) -> Iterator[Finding]:
    try:
        manifest.check_parts_known()
    except Unsupported as error:
        yield Finding(Severity.WARNING, where, f"parts not checked: {error.message}")


def _check_artifact_type(where: str, descriptor: Descriptor, actual: str) -> Iterator[Finding]:
    """Compare the artifact type in a descriptor with that of the manifest."""
    if descriptor.artifact_type and descriptor.artifact_type != actual:
        what = f"listed with the artifact type {descriptor.artifact_type!r:.100}, but has {actual!r:.100}"
        yield Finding(Severity.WARNING, where, what)


def _check_referrer(where: str, descriptor: Descriptor, manifest: RawManifest) -> Iterator[Finding]:
    """Compare an entry of a referrers list with the manifest; such an entry has artifact type and annotations.

    Args:
        where: Location of the entry.
        descriptor: Entry as listed by the registry.
        manifest: Manifest of the entry.
    """
    expected = referrer_descriptor(manifest)
    if expected is None:
        return
    if not descriptor.artifact_type and expected.artifact_type:
        yield Finding(Severity.WARNING, where, f"listed without its artifact type {expected.artifact_type!r:.100}")
    if descriptor.annotations != expected.annotations:
        yield Finding(Severity.WARNING, where, "listed with annotations other than those of the manifest")


def _check_config(where: str, raw: RawConfig, layers: Sequence[Descriptor]) -> Iterator[Finding]:
    """Check the fields of the configuration besides the diff IDs, and the dates. Files can be read without them."""
    for path, created in _dates(strict_json.decode(raw.content)):
        if not is_rfc3339(created):
            what = f"{path} is not a date that tools written in Go can read (RFC 3339, with T and Z or ±hh:mm)"
            yield Finding(Severity.ERROR, where, f"{what}: {created!r:.100}")
    try:
        config = raw.config
    except InvalidDocument as error:
        # Without these, the image cannot be selected by its platform.
        is_needed = error.path in ("$.os", "$.architecture")
        yield Finding(Severity.ERROR if is_needed else Severity.WARNING, where, _message(error))
        return
    if config.rootfs.type != "layers":
        yield Finding(Severity.ERROR, where, f"rootfs has the type {config.rootfs.type!r:.100}, not 'layers'")
    if config.platform is None:
        yield Finding(Severity.WARNING, where, "configuration states no platform")
    count = sum(1 for entry in config.history if not entry.empty_layer)
    has_diff_ids = len(layers) == len(config.rootfs.diff_ids)
    if config.history and count != len(layers) and has_diff_ids:
        yield Finding(Severity.WARNING, where, f"history has entries for {count} layers, but there are {len(layers)}")


def _dates(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The dates in a decoded configuration, with their paths; null stands for a date that is not stated."""
    history = config.get("history")
    entries = history if isinstance(history, list) else []
    objects = [("", config), *((f"history[{number}].", entry) for number, entry in enumerate(entries))]
    for path, entry in objects:
        created = entry.get("created") if isinstance(entry, Mapping) else None
        if created is not None:
            yield f"{path}created", created


def _check_stated_platforms(where: str, manifest: RawManifest) -> Iterator[Finding]:
    """Check that the platform of each index entry is complete."""
    if not manifest.is_index:
        return
    entries = strict_json.decode(manifest.content).get("manifests") or []
    for number, (entry, child) in enumerate(zip(entries, manifest.children, strict=True)):
        if entry.get("platform") is not None and child.platform is None:
            what = "incomplete or malformed platform, which counts as none"
            yield Finding(Severity.WARNING, f"{where} $.manifests[{number}].platform", what)


def _check_platform(where: str, listed: Platform | None, actual: Platform | None) -> Iterator[Finding]:
    """Compare the platform in an index entry with that of the configuration."""
    if actual is None or listed is None or listed.is_unknown:
        return
    wanted = listed.normalised()
    what = f"listed for {wanted}, but the configuration states {actual}"
    if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
        yield Finding(Severity.ERROR, where, what)
    elif any(
        stated and stated != other
        for stated, other in ((wanted.variant, actual.variant), (wanted.os_version, actual.os_version))
    ):
        yield Finding(Severity.WARNING, where, what)


def _unverifiable_diff_id(layer: Descriptor, diff_id: Digest) -> str:
    """Why the diff ID of a layer cannot be checked; empty if it can."""
    try:
        compression_for(layer.media_type)
    except Unsupported:
        return f"diff_id not checked: unknown media type of a layer: {layer.media_type!r:.100}"
    return "" if diff_id.verifiable else f"diff_id not checked: digest algorithm is not supported: {diff_id}"


def _children(manifest: RawManifest) -> Iterable[tuple[str, Descriptor]]:
    """The descriptors in a manifest, with their JSON paths."""
    if is_image_manifest(manifest.media_type):
        layers = [(f"$.layers[{number}]", child) for number, child in enumerate(manifest.image.layers)]
        return [("$.config", manifest.image.config), *layers]
    field = "manifests" if manifest.is_index else "blobs"
    return [(f"$.{field}[{number}]", child) for number, child in enumerate(manifest.children)]


def _message(error: RegistryError) -> str:
    path = getattr(error, "path", "")
    return f"{error.message} at {path}" if path else error.message
