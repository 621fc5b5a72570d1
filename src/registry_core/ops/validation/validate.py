"""Everything about an image checked again, with a report of all that is wrong. Nothing is changed anywhere.

A check in progress: what was added to it so far, what is odd about it, and what is still to be read.

Graphs are walked first and read manifest by manifest; what they are made of is read afterwards, each blob once,
several at a time.

What is wrong with manifests and configurations by themselves: decisions without I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import compression_for
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_config import ImageConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, is_manifest
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.domain.referrers import referrer_descriptor
from registry_core.domain.reports import Finding, Report, Severity
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
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.validation.blobs import BlobContents
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    from registry_core.ops.images import StoredManifest

__all__ = [
    "Judgement",
    "Validation",
    "artifact_type_of",
    "of_config",
    "of_diff_id",
    "of_entry",
    "of_history",
    "of_listing",
    "of_platform",
    "of_type",
    "validate",
]


# How bad it is, and what it is.
Judgement: TypeAlias = tuple[Severity, str]


def of_type(manifest: RawManifest) -> Iterator[Judgement]:
    """Whether something tells what kind of artifact it is (image-spec manifest.md, "Guidelines for Artifact Usage")."""
    if manifest.is_index or not is_manifest(manifest.media_type):
        return
    if manifest.image.config.media_type == EMPTY_JSON and not manifest.image.artifact_type:
        yield Severity.WARNING, "an empty configuration, and no artifactType that says what it is"


def of_entry(listed: Descriptor, actual: str) -> Iterator[Judgement]:
    """The kind of artifact that a manifest is against what lists it; all else was compared when it was fetched."""
    if listed.artifact_type and listed.artifact_type != actual:
        yield Severity.WARNING, f"listed as {listed.artifact_type!r:.100} but is {actual!r:.100}"


def of_listing(listed: Descriptor, manifest: RawManifest) -> Iterator[Judgement]:
    """A manifest against a list of referrers, which tells more of it than an index does.

    Args:
        listed: As the registry lists it.
        manifest: What it lists.
    """
    actual = referrer_descriptor(manifest)
    if actual is None:
        return
    if not listed.artifact_type and actual.artifact_type:
        yield Severity.WARNING, f"listed without its artifact type, {actual.artifact_type!r:.100}"
    if listed.annotations != actual.annotations:
        yield Severity.WARNING, "listed with other annotations than it has"


def of_config(config: ImageConfig) -> Iterator[Judgement]:
    """A configuration by itself."""
    if config.rootfs.type != "layers":
        yield Severity.ERROR, f"a rootfs of type {config.rootfs.type!r:.100}"
    if config.platform is None:
        yield Severity.WARNING, "it does not say what it runs on"


def of_platform(listed: Platform | None, actual: Platform | None) -> Iterator[Judgement]:
    """What an image runs on against what an index says about it."""
    if actual is None or listed is None or listed.is_unknown:
        return
    wanted = listed.normalised()
    what = f"it runs on {actual}, and is listed for {wanted}"
    if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
        yield Severity.ERROR, what
    elif any(
        mine and mine != other
        for mine, other in ((wanted.variant, actual.variant), (wanted.os_version, actual.os_version))
    ):
        yield Severity.WARNING, what


def of_history(config: ImageConfig, layers: Sequence[Descriptor]) -> Iterator[Judgement]:
    """What a configuration tells of its layers' making against how many there are."""
    told = sum(1 for step in config.history if not step.empty_layer)
    if config.history and told != len(layers):
        yield Severity.WARNING, f"its history tells of {told} layers, and there are {len(layers)}"


def of_diff_id(layer: Descriptor, diff_id: Digest) -> Judgement | None:
    """Why a layer's diff_id cannot be checked; ``None`` where it can."""
    if not _is_layer(layer.media_type):
        return (
            Severity.WARNING,
            f"nobody knows layers of type {layer.media_type!r:.100}, so its diff_id was not checked",
        )
    if not diff_id.verifiable:
        return Severity.WARNING, f"its diff_id cannot be verified: {diff_id}"
    return None


def artifact_type_of(manifest: RawManifest) -> str:
    """What kind of artifact a manifest is, as a list of referrers would say; of unknown types, nothing is known."""
    if manifest.is_index:
        return manifest.index.artifact_type
    if not is_manifest(manifest.media_type):
        return ""
    return manifest.image.artifact_type or manifest.image.config.media_type


def _is_layer(media_type: str) -> bool:
    try:
        compression_for(media_type)
    except Unsupported:
        return False
    return True


# These say nothing about the content: whoever asked is told, and may ask again.
_OUTAGES: Final = (TransportError, AccessDenied, Cancelled, DeadlineExceeded)


class _Known(msgspec.Struct, frozen=True):
    """What of a manifest is compared with everything that lists it."""

    artifact_type: str
    platform: Platform | None


class Validation:
    """A check in progress: graphs are added, then their blobs are read for the report.

    Args:
        repository: Where everything is.
        limits: How much layers may become when they are unpacked.
        sparse: Whether what indexes list may be absent.
    """

    def __init__(self, repository: Repository, *, limits: ExtractLimits | None = None, sparse: bool = False) -> None:
        self.repository = repository
        self._absence = Severity.WARNING if sparse else Severity.ERROR
        self._findings: list[Finding] = []
        self._seen: dict[Digest, tuple[int, str]] = {}
        self._known: dict[Digest, _Known] = {}
        self._listed_again: list[tuple[str, Descriptor]] = []
        self._subjects: dict[Digest, Digest] = {}
        self._contents = BlobContents(repository, ExtractLimits() if limits is None else limits)
        self._limit = GraphLimits().count
        self._manifests = 0
        self._bytes = 0

    @property
    def named(self) -> set[Digest]:
        """The digests of all that was named so far, manifests and blobs alike."""
        return set(self._seen) | self._contents.digests

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
            manifest = fetch_manifest(self.repository, reference)
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
            found = self._child(where, descriptor, Severity.ERROR)
            if found is not None:
                self._walk([(found, descriptor, 1)])

    def referrers(self) -> None:
        """Add what refers to anything that was added so far, and what refers to that.

        Raises:
            AccessDenied: The registry refused.
            TransportError: The registry could not be asked.
        """
        waiting = deque(self._seen)
        # As many as there are in one graph, for each manifest that somebody asked about.
        self._limit = GraphLimits(graphs=len(self._seen)).count
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
        for where, listed in self._listed_again:
            known = self._known.get(listed.digest)
            if known is not None:
                self._judged(where, of_entry(listed, known.artifact_type))
                self._judged(where, of_platform(listed.platform, known.platform))
        self._findings += self._contents.read(jobs)
        return Report(tuple(self._findings), self._manifests, self._contents.count, self._bytes + self._contents.bytes)

    def _walk(self, waiting: list[tuple[RawManifest, Descriptor | None, int]]) -> None:
        limits = GraphLimits()
        while waiting:
            checkpoint()
            manifest, listed, depth = waiting.pop()
            self._manifests += 1
            self._bytes += len(manifest.content)
            where = self.repository.at(manifest.digest)
            self._judged(where, of_type(manifest))
            artifact_type = artifact_type_of(manifest)
            if listed is not None:
                self._judged(where, of_entry(listed, artifact_type))
            self._subject(where, manifest)
            below: list[tuple[RawManifest, Descriptor | None, int]] = []
            for place, part in _parts(manifest):
                if not is_child_manifest(manifest, part):
                    if not (manifest.is_index and self._is_strange(f"{where} {place}", part)):
                        self._blob(f"{where} {place}", part)
                elif self._is_new(f"{where} {place}", part):
                    try:
                        limits.add(depth + 1)
                    except TooLarge as error:
                        self.found(f"{where} {place}", f"not looked at: {error.message}")
                        continue
                    found = self._child(f"{where} {place}", part, self._absence)
                    if found is not None:
                        below.append((found, part, depth + 1))
            platform = None if manifest.is_index else self._image(where, manifest)
            if listed is not None:
                self._judged(f"{where} $.config", of_platform(listed.platform, platform))
            self._known[manifest.digest] = _Known(artifact_type, platform)
            waiting.extend(reversed(below))

    def _is_strange(self, where: str, part: Descriptor) -> bool:
        """Whether a part of an index is a manifest of a kind that nobody knows (R-027); otherwise it is a blob."""
        try:
            found = fetch_manifest(self.repository, part.digest)
        except _OUTAGES:
            raise
        except RegistryError:
            return False
        if len(found.content) != part.size:
            self.found(where, f"{len(found.content)} bytes instead of the promised {part.size}")
        return True

    def _referrer(self, where: str, entry: Descriptor, subject: Digest) -> None:
        if len(self._seen) >= self._limit:
            self.found(where, f"not looked at: more than {self._limit} manifests")
            return
        is_new = self._is_new(where, entry)
        found = self._child(where, entry, Severity.ERROR) if is_new else self._again(entry)
        if found is None:
            return
        if is_new:
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
                # Read, not looked up: being told that something is here has a layout keep it for longer.
                found = fetch_manifest(self.repository, subject.digest)
            except _OUTAGES:
                raise
            except NotFound:
                return f"what it refers to is not here: {subject.digest}"
            except RegistryError as error:
                return _reason(error)
            known = (len(found.content), found.media_type)
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
        self._listed_again.append((where, descriptor))
        return False

    def _again(self, entry: Descriptor) -> RawManifest | None:
        """A manifest that was looked at before; whatever is wrong with it has been said."""
        try:
            return fetch_manifest(self.repository, entry.digest)
        except _OUTAGES:
            raise
        except RegistryError:
            return None

    def _child(self, where: str, descriptor: Descriptor, absence: Severity) -> RawManifest | None:
        self._seen[descriptor.digest] = (descriptor.size, descriptor.media_type)
        try:
            found = fetch_child(self.repository, descriptor)
            if descriptor.data is not None and self._again(descriptor) is None:
                self.found(where, "it is not here", severity=Severity.WARNING)
            return found
        except _OUTAGES:
            raise
        except NotFound as error:
            self.found(where, _reason(error), severity=absence)
        except Unsupported as error:
            self.found(where, _reason(error), severity=Severity.WARNING)
        except RegistryError as error:
            self.found(where, _reason(error))
        return None

    def _blob(self, where: str, part: Descriptor) -> None:
        try:
            part.embedded()
        except Unsupported:
            pass  # said once it is to be read
        except RegistryError as error:
            self.found(where, _reason(error))
        self._contents.add(where, part)

    def _image(self, where: str, manifest: RawManifest) -> Platform | None:
        """Judge an image; tells what it runs on, where that is known."""
        try:
            if not has_config(manifest):
                return None
            config = read_config(self.repository, manifest)
        except _OUTAGES:
            raise
        except (InvalidValue, NotAnImage, TooLarge) as error:
            self.found(f"{where} $.config", _reason(error))
            return None
        except RegistryError:
            return None  # it is read again together with all other blobs, and judged then
        self._judged(f"{where} $.config", of_config(config))
        layers, diff_ids = manifest.image.layers, config.rootfs.diff_ids
        if len(diff_ids) != len(layers):
            self.found(f"{where} $.config", f"{len(diff_ids)} diff_ids for {len(layers)} layers")
            return config.platform
        for number, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
            self._layer(f"{where} $.layers[{number}]", layer, diff_id)
        self._judged(f"{where} $.config", of_history(config, layers))
        return config.platform

    def _layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        doubt = of_diff_id(layer, diff_id)
        if doubt is None:
            self._contents.add_layer(where, layer, diff_id)
        elif diff_id != layer.digest:
            # Attestations are filed as layers of other types, and never compressed: what they hash to is known.
            self._judged(where, (doubt,))

    def _judged(self, where: str, judgements: Iterable[Judgement]) -> None:
        for severity, what in judgements:
            self.found(where, what, severity=severity)


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


def validate(
    target: StoredManifest | Repository,
    reference: Tag | Digest | str | None = None,
    *,
    referrers: bool = False,
    sparse: bool = False,
    limits: ExtractLimits | None = None,
    jobs: int = 4,
) -> Report:
    """A report on all that an image or index consists of, down to the uncompressed layers; nothing is changed.

    Every digest, size and media type is checked, embedded data, each layer's diff_id, the configuration against the
    layers, the platforms against what indexes say, subjects against what refers to them, and that everything is there.

    Args:
        target: An ``Image``, an ``Index``, or a repository.
        reference: What to check in a repository: a tag or digest; all tags if not given.
        referrers: Whether what refers to any of it is checked as well, and what refers to that: signatures, bills of
            materials, attestations.
        sparse: Whether what an index lists may be absent, as after a copy of some of its platforms: that is only a
            warning then.
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
        if reference is not None:
            raise InvalidValue("a reference says what to check in a repository, and this is an image already")
        validation = Validation(target.repository, limits=limits, sparse=sparse)
        with error_context("validate", str(target.repository)):
            validation.manifest(target.document)
    else:
        validation = Validation(target, limits=limits, sparse=sparse)
        with error_context("validate", str(target)):
            wanted = target.manifests.tags() if reference is None else iter((reference,))
            for each in wanted:
                validation.reference(each if isinstance(each, Tag | Digest) else parse_tag_or_digest(each))
    with error_context("validate", str(validation.repository)):
        if referrers:
            validation.referrers()
        return validation.report(jobs=jobs)
