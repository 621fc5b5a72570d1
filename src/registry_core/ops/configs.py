"""The configuration that an image's manifest points at."""

from __future__ import annotations

from registry_core.content.limits import MANIFEST_LIMIT, read_all
from registry_core.domain.config import ImageConfig
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_CONFIG, OCI_CONFIG
from registry_core.errors import NotAnImage, TooLarge
from registry_core.ops.read import verified
from registry_core.ports.repository import Repository

__all__ = ["has_config", "read_config"]

_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})


def has_config(manifest: RawManifest) -> bool:
    """Whether a manifest's configuration is one of images, and not of some other artifact.

    Raises:
        NotAnImage: It is not an image manifest at all.
    """
    return manifest.image.config.media_type in _CONFIGS


def read_config(repository: Repository, manifest: RawManifest) -> ImageConfig:
    """The configuration, verified: embedded in the manifest or fetched.

    Raises:
        NotAnImage: It is not an image's: the manifest belongs to some other artifact (R-027).
        BlobNotFound: It is missing.
        IntegrityError: It is not what the manifest says.
        TooLarge: It is larger than any honest one.
        InvalidDocument: It is malformed.
    """
    descriptor = manifest.image.config
    if not has_config(manifest):
        raise NotAnImage(f"an artifact: its configuration is {descriptor.media_type!r:.200}")
    content = descriptor.embedded()
    if content is None:
        if descriptor.size > MANIFEST_LIMIT:
            raise TooLarge(f"a configuration of {descriptor.size} bytes")
        with verified(repository, descriptor.digest, descriptor.size) as reader:
            content = read_all(reader, MANIFEST_LIMIT, what="the configuration")
    return ImageConfig.read(content)
