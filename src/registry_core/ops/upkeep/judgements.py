"""What is wrong with manifests and configurations by themselves: decisions without I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from registry_core.content.codecs import compression_of
from registry_core.domain.config import ImageConfig
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.findings import Severity
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import EMPTY_JSON, is_manifest
from registry_core.domain.platform import Platform
from registry_core.domain.referrers import referrer
from registry_core.errors import Unsupported

__all__ = [
    "Judgement",
    "artifact_type_of",
    "of_config",
    "of_diff_id",
    "of_entry",
    "of_history",
    "of_listing",
    "of_platform",
    "of_type",
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
    actual = referrer(manifest)
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
        compression_of(media_type)
    except Unsupported:
        return False
    return True
